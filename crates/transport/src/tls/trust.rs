//! Whose certificates are believed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use rustls::{OtherError, SignatureScheme};
use sha2::{Digest, Sha256};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::certificate::Leaf;

/// How statements are signed: what the keys that links take can do.
pub(crate) const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP384_SHA384,
];

/// Certificates remembered as issued by our authorities: each member's for both ends, and the next ones of all.
const MAX_ISSUED: usize = 65_536;

/// Which end of a connection a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Of who dialled.
    Client,
    /// Of who was dialled.
    Server,
}

/// The authorities of one fleet (two during a change), and what they revoked.
#[derive(Debug)]
pub(crate) struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    grace: Duration,
    /// Leaves that an authority itself has issued, by digest and usage. With nothing but the clock left to judge they
    /// need no second look at their signatures: links and statements show the same leaf again and again.
    issued: Mutex<HashSet<[u8; 32]>>,
}

impl Trust {
    /// `Err` says what is wrong with which file.
    pub(crate) fn new(
        authorities: &[CertificateDer<'_>],
        lists: &[CertificateRevocationListDer<'_>],
        algorithms: WebPkiSupportedAlgorithms,
        grace: Duration,
    ) -> Result<Self, (&'static str, String)> {
        let anchors = authorities
            .iter()
            .map(|der| anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|e| ("ca.crt", format!("holds a certificate that cannot be an authority: {e}")))?;
        let revoked = lists
            .iter()
            .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
            .collect::<Result<_, _>>()
            .map_err(|e| ("crl.pem", format!("holds a revocation list that cannot be read: {e}")))?;
        Ok(Self { anchors, revoked, algorithms, grace, issued: Mutex::default() })
    }

    /// Judges a peer's chain. A certificate that expired less than the grace ago still passes.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let facts = Leaf::read(leaf).map_err(|e| CertificateError::Other(OtherError(Arc::new(e))))?;
        self.verify_leaf(leaf, &facts, intermediates, usage, now)
    }

    /// The same with the leaf's facts read already.
    pub(crate) fn verify_leaf(
        &self,
        leaf: &CertificateDer<'_>,
        facts: &Leaf,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let last = last_valid_moment(facts);
        let grace_ends = last.as_secs().saturating_add(self.grace.as_secs());
        let at = if now.as_secs() > last.as_secs() && now.as_secs() <= grace_ends { last } else { now };
        self.judge(leaf, facts, intermediates, usage, at)
    }

    /// [`Self::verify_at`], remembered where the leaf's own validity is all that the time decides.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        facts: &Leaf,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        at: UnixTime,
    ) -> Result<(), CertificateError> {
        let valid = seconds(facts.not_before)..=seconds(facts.not_after);
        let key = (intermediates.is_empty() && valid.contains(&at.as_secs())).then(|| digest(leaf, usage));
        let issued = || self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if key.is_some_and(|key| issued().contains(&key)) {
            return Ok(());
        }
        self.verify_at(leaf, intermediates, usage, at)?;
        if let Some(key) = key {
            let mut issued = issued();
            if issued.len() >= MAX_ISSUED {
                issued.clear();
            }
            issued.insert(key);
        }
        Ok(())
    }

    /// Whether the key of this certificate made that signature.
    pub(crate) fn is_signed_by(&self, leaf: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return false };
        let fitting = self.algorithms.mapping.iter().filter(|(scheme, _)| SCHEMES.contains(scheme));
        let mut algorithms = fitting.flat_map(|(_, algorithms)| *algorithms);
        algorithms.any(|algorithm| leaf.verify_signature(*algorithm, message, signature).is_ok())
    }

    /// Judges a chain whatever its age: expiry never closes a link, the loss of its authority does.
    pub(crate) fn still_trusts(&self, chain: &[CertificateDer<'_>], usage: Usage, now: UnixTime) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let Ok(facts) = Leaf::read(leaf) else { return false };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(
            now.as_secs().min(last_valid_moment(&facts).as_secs()),
        ));
        self.judge(leaf, &facts, intermediates, usage, at).is_ok()
    }

    /// Judges a chain as if it were that time.
    pub(crate) fn verify_at(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        at: UnixTime,
    ) -> Result<(), CertificateError> {
        let leaf = EndEntityCert::try_from(leaf).map_err(to_rustls)?;
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<_> = self.revoked.iter().collect();
        // An authority without a list has revoked nothing: during a change only one of two may have one.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .build()
        });
        leaf.verify_for_usage(self.algorithms.all, &self.anchors, intermediates, at, usage, revocation, None)
            .map(|_| ())
            .map_err(to_rustls)
    }
}

fn last_valid_moment(leaf: &Leaf) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds(leaf.not_after)))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn digest(leaf: &CertificateDer<'_>, usage: Usage) -> [u8; 32] {
    let end: &[u8] = match usage {
        Usage::Client => b"client",
        Usage::Server => b"server",
    };
    Sha256::new().chain_update(end).chain_update(leaf).finalize().into()
}

/// The error decides which TLS alert the peer gets, and so what it can say.
fn to_rustls(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertRevoked => CertificateError::Revoked,
        // An authority of the same name with another key is another authority: `pki init` run twice.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            CertificateError::UnknownIssuer
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}
