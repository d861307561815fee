//! Certificates: reading our own, judging a peer's, and saying in a sentence what is wrong.

mod certificate;
mod directory;
mod explain;
mod material;
mod statement;
mod trust;
mod verifier;

pub use directory::TlsError;
pub use material::CertificateInfo;

pub(crate) use certificate::PeerCertificate;
pub(crate) use directory::{TlsDirectory, TlsFiles, renewal};
pub(crate) use explain::{Explanation, explain, is_anonymous, is_broken};
pub(crate) use material::TlsMaterial;
pub(crate) use statement::Known;
pub(crate) use trust::Usage;

use sha2::{Digest, Sha256};

/// The server name that stands for a fleet: a callsign may hold what a host name cannot.
pub(crate) fn server_name(callsign: &flagship_types::Callsign) -> String {
    let hash = Sha256::digest(callsign.as_str().as_bytes());
    let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("f-{hex}.flagship")
}

/// Whether a name is one that [`server_name`] makes, of whatever fleet: only members ask for such names.
pub(crate) fn is_server_name(name: &str) -> bool {
    let hex = name.strip_prefix("f-").and_then(|rest| rest.strip_suffix(".flagship"));
    hex.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
