//! Signatures over what members state: making them with the key of the own certificate, and judging those of others.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flagship_node::{Proof, Statement};
use flagship_types::{Callsign, MemberName, TrustDomain};
use flagship_wire::{MAX_LEAF_BYTES, StatementKind, signed_at_ms, signing_input, statement_bytes};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::SigningKey;
use sha2::{Digest, Sha256};
use tracing::debug;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::Leaf;
use super::trust::{SCHEMES, Trust, Usage};

/// Statements remembered as verified, in each of two generations: as many as a fleet may have members.
const MAX_SEEN: usize = 16_384;

/// The most certificates between a leaf and its authority.
const MAX_CHAIN: usize = 4;

/// How far ahead of the own clock a statement may be dated; epochs have the same limit.
const MAX_AHEAD: Duration = Duration::from_secs(86_400);

/// Signs what a member states.
pub(crate) struct StatementKey {
    key: Arc<dyn SigningKey>,
    /// The own certificate and those between it and the authority; `None` if they are too large to be sent.
    leaf: Option<Arc<[u8]>>,
    callsign: Callsign,
    not_before: SystemTime,
    /// Until when others believe it, their clocks and grace being as ours.
    believed_until: SystemTime,
}

impl StatementKey {
    pub(crate) fn new(
        key: Arc<dyn SigningKey>,
        chain: &[CertificateDer<'_>],
        leaf: &Leaf,
        callsign: &Callsign,
        grace: Duration,
    ) -> Self {
        let bytes = chain.iter().take(MAX_CHAIN).map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat();
        Self {
            key,
            leaf: (bytes.len() <= MAX_LEAF_BYTES).then(|| bytes.into()),
            callsign: callsign.clone(),
            not_before: leaf.not_before,
            believed_until: leaf.not_after.checked_add(grace).unwrap_or(leaf.not_after),
        }
    }

    /// `None` if nobody would believe it: the certificate expired too long ago, or is too large to go along.
    pub(crate) fn sign(&self, statement: &Statement, now: SystemTime) -> Option<Proof> {
        let leaf = self.leaf.clone()?;
        if now > self.believed_until {
            return None;
        }
        // A clock that is behind would date it before its certificate.
        let at = now.max(self.not_before).duration_since(UNIX_EPOCH).unwrap_or_default();
        let (kind, bytes) = statement_bytes(statement, at.as_millis().try_into().unwrap_or(u64::MAX));
        let signer = self.key.choose_scheme(&SCHEMES)?;
        match signer.sign(&signing_input(kind, &self.callsign, &bytes)) {
            Ok(signature) => Some(Proof { bytes: bytes.into(), signature: signature.into(), leaf }),
            Err(error) => {
                debug!(%error, "a statement cannot be signed");
                None
            }
        }
    }
}

/// Whether a statement was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was found good earlier.
    Before,
    /// It was checked just now.
    Now,
}

/// Judges what others state. Each statement is checked once, at first sight.
pub(crate) struct StatementVerifier {
    trust: Arc<Trust>,
    trust_domain: TrustDomain,
    callsign: Callsign,
    seen: Mutex<Seen>,
}

impl StatementVerifier {
    pub(crate) fn new(trust: Arc<Trust>, trust_domain: TrustDomain, callsign: Callsign) -> Self {
        Self { trust, trust_domain, callsign, seen: Mutex::default() }
    }

    /// Whether `owner` signed this as a member of the fleet, whose certificate was valid then and is not revoked now.
    /// The error says why not.
    pub(crate) fn verify(
        &self,
        kind: StatementKind,
        owner: &MemberName,
        proof: &Proof,
        now: SystemTime,
    ) -> Result<Known, String> {
        let digest = digest(kind, proof);
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).has(&digest) {
            return Ok(Known::Before);
        }
        self.judge(kind, owner, proof, now)?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).add(digest);
        Ok(Known::Now)
    }

    fn judge(
        &self,
        kind: StatementKind,
        owner: &MemberName,
        proof: &Proof,
        now: SystemTime,
    ) -> Result<(), String> {
        let at = Duration::from_millis(signed_at_ms(kind, &proof.bytes).map_err(|e| e.to_string())?);
        if at.is_zero() {
            return Err("it does not say when it was signed".into());
        }
        if at > now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(MAX_AHEAD) {
            return Err("it was signed more than a day ahead of this member's clock".into());
        }
        let chain = chain(&proof.leaf).ok_or("its certificate cannot be read")?;
        let (leaf, intermediates) = chain.split_first().ok_or("it carries no certificate")?;
        let facts = Leaf::read(leaf).map_err(|e| e.to_string())?;
        if facts.trust_domain_for(&self.callsign, owner) != Some(&self.trust_domain) {
            let names: Vec<_> = facts.identities.iter().take(4).map(ToString::to_string).collect();
            return Err(format!("it was signed with the certificate of {}", names.join(", ")));
        }
        if !self.trust.is_signed_by(
            leaf,
            &signing_input(kind, &self.callsign, &proof.bytes),
            &proof.signature,
        ) {
            return Err("its signature is not that of its certificate".into());
        }
        let at = UnixTime::since_unix_epoch(at);
        let chained = self.trust.verify_leaf(leaf, &facts, intermediates, Usage::Client, at);
        chained.map_err(|e| format!("its certificate is not believed as of then: {e}"))
    }
}

/// Certificates one after the other.
fn chain(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut chain = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = X509Certificate::from_der(bytes).ok().filter(|_| chain.len() < MAX_CHAIN)?;
        let (certificate, rest) = bytes.split_at(bytes.len() - rest.len());
        chain.push(CertificateDer::from(certificate));
        bytes = rest;
    }
    Some(chain)
}

fn digest(kind: StatementKind, proof: &Proof) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(kind.as_str());
    for part in [&proof.bytes[..], &proof.signature[..], &proof.leaf[..]] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Two generations: when the newer is full, the older is forgotten.
#[derive(Default)]
struct Seen {
    newer: HashSet<[u8; 32]>,
    older: HashSet<[u8; 32]>,
}

impl Seen {
    fn has(&self, digest: &[u8; 32]) -> bool {
        self.newer.contains(digest) || self.older.contains(digest)
    }

    fn add(&mut self, digest: [u8; 32]) {
        if self.newer.len() >= MAX_SEEN {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_bounded_and_the_newest_stay() {
        let mut seen = Seen::default();
        let digest = |i: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&i.to_le_bytes());
            digest
        };
        for i in 0..3 * MAX_SEEN {
            seen.add(digest(i));
            assert!(seen.has(&digest(i)));
        }
        assert!(!seen.has(&digest(0)) && seen.has(&digest(2 * MAX_SEEN)));
        assert!(seen.newer.len() + seen.older.len() <= 2 * MAX_SEEN);
    }
}
