//! Certificates: reading our own, judging a peer's, and saying in a sentence what is wrong.

mod certificate;
mod directory;
mod explain;
mod material;
mod trust;
mod verifier;

pub use directory::TlsError;
pub use material::CertificateInfo;

pub(crate) use certificate::PeerCertificate;
pub(crate) use directory::{TlsDirectory, TlsFiles};
pub(crate) use explain::{Explanation, explain};
pub(crate) use material::TlsMaterial;
pub(crate) use trust::Usage;

use sha2::{Digest, Sha256};

/// The server name that stands for a fleet: a callsign may hold what a host name cannot.
pub(crate) fn server_name(callsign: &flagship_types::Callsign) -> String {
    let hash = Sha256::digest(callsign.as_str().as_bytes());
    let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("f-{hex}.flagship")
}
