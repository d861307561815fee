//! What a certificate says of its holder.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use flagship_types::{Callsign, MemberIdentity, MemberName, TrustDomain};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// The most identities read from one certificate: it serves several members of one daemon.
const MAX_IDENTITIES: usize = 64;

/// Why a certificate whose chain is good is of no use here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeafError {
    /// Not readable.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// An RSA key.
    #[error(
        "the certificate has an RSA key, only ECDSA P-256 and Ed25519 are taken: issue it again with: flagship pki add-member --fleet CALLSIGN --member NAME --out DIR --force; with cert-manager: privateKey: {{algorithm: ECDSA, size: 256}}"
    )]
    Rsa,
    /// No member's name in it.
    #[error(
        "the certificate carries no URI spiffe://<trust-domain>/fleet/<callsign>/member/<name>: issue one with: flagship pki add-member --fleet CALLSIGN --member NAME --out DIR"
    )]
    NoIdentity,
}

/// The facts of a leaf certificate.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) identities: Vec<MemberIdentity>,
    pub(crate) subject: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) fingerprint: String,
}

impl Leaf {
    /// Reads a leaf and refuses keys and names that are of no use. The chain is not looked at.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Unreadable)?;
        if matches!(certificate.public_key().parsed(), Ok(PublicKey::RSA(_))) {
            return Err(LeafError::Rsa);
        }
        let identities = identities(&certificate);
        if identities.is_empty() {
            return Err(LeafError::NoIdentity);
        }
        let validity = certificate.validity();
        Ok(Self {
            identities,
            subject: certificate.subject().to_string(),
            not_before: system_time(validity.not_before.timestamp()),
            not_after: system_time(validity.not_after.timestamp()),
            fingerprint: fingerprint(der),
        })
    }

    /// The trust domain under which it serves this member.
    pub(crate) fn trust_domain_for(&self, callsign: &Callsign, member: &MemberName) -> Option<&TrustDomain> {
        let serves = |id: &&MemberIdentity| id.callsign == *callsign && id.member == *member;
        self.identities.iter().find(serves).map(|id| &id.trust_domain)
    }
}

fn identities(certificate: &X509Certificate<'_>) -> Vec<MemberIdentity> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let identity = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => uri.parse().ok(),
        _ => None,
    };
    names.iter().filter_map(identity).take(MAX_IDENTITIES).collect()
}

fn system_time(unix_seconds: i64) -> SystemTime {
    let seconds = Duration::from_secs(unix_seconds.unsigned_abs());
    let time = match unix_seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn fingerprint(der: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(der) {
        if !text.is_empty() {
            text.push(':');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// A peer's certificate, verified when its link was opened. The chain is kept: it is judged again whenever our
/// authorities change.
#[derive(Debug, Clone)]
pub(crate) struct PeerCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) leaf: Leaf,
}

impl PeerCertificate {
    /// Takes what the TLS session verified.
    pub(crate) fn new(chain: Option<&[CertificateDer<'_>]>) -> Result<Self, LeafError> {
        let chain: Vec<_> =
            chain.unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned()).collect();
        let leaf = Leaf::read(chain.first().ok_or(LeafError::Unreadable)?)?;
        Ok(Self { chain, leaf })
    }

    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.leaf.not_after < now
    }

    /// The names it carries, for a sentence.
    pub(crate) fn names(&self) -> String {
        let names: Vec<_> = self.leaf.identities.iter().take(4).map(ToString::to_string).collect();
        names.join(", ")
    }
}
