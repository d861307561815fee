//! Records and accusations with their proofs: what is signed, how it is carried, and what is refused unread.

use std::sync::Arc;

use flagship_membership::{Accusation, Message, Proof, Record, Signed, Statement};
use flagship_types::{Callsign, Epoch, Incarnation, MemberName};
use prost::Message as _;

use crate::fields::member;
use crate::membership::from_evidence;
use crate::{DecodeError, pb};

/// The most records and accusations in one message together. With leaves of usual size they fill most of a frame.
pub const MAX_STATEMENTS: usize = 64;

/// The longest encoded statement: metadata of 1 KiB, names, and room for fields of newer builds.
pub const MAX_STATEMENT_BYTES: usize = 4 * 1024;

/// The longest signature: an ECDSA one of P-384 has 104 bytes.
pub const MAX_SIGNATURE_BYTES: usize = 256;

/// The longest certificate, with those between it and the authority. Usual ones have 500 to 700 bytes.
pub const MAX_LEAF_BYTES: usize = 4 * 1024;

/// What kind of statement a signature covers. One kind's signature is worth nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// What a member says of itself.
    Record,
    /// That it does not hear another.
    Accusation,
}

impl StatementKind {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Accusation => "accusation",
        }
    }

    /// Part of the protocol: never changed.
    fn context(self) -> &'static [u8] {
        match self {
            Self::Record => b"flagship/v1 record\0",
            Self::Accusation => b"flagship/v1 accusation\0",
        }
    }
}

/// A statement as it is signed and forwarded. `signed_at_ms` is the signer's wall clock.
pub fn statement_bytes(statement: &Statement, signed_at_ms: u64) -> (StatementKind, Vec<u8>) {
    match statement {
        Statement::Record(record) => {
            let record = pb::Record { signed_at_ms, ..record.into() };
            (StatementKind::Record, record.encode_to_vec())
        }
        Statement::Accusation(accusation) => {
            let accuser = accusation.accuser.to_string();
            let accusation = pb::Accusation { accuser, signed_at_ms, ..accusation.into() };
            (StatementKind::Accusation, accusation.encode_to_vec())
        }
    }
}

/// The bytes that a signature covers: kind and fleet are part of them, so that no statement passes for another.
pub fn signing_input(kind: StatementKind, callsign: &Callsign, statement: &[u8]) -> Vec<u8> {
    [kind.context(), callsign.as_str().as_bytes(), b"\0", statement].concat()
}

/// When a statement says that it was signed, in milliseconds since the Unix epoch; 0 if it does not say.
pub fn signed_at_ms(kind: StatementKind, statement: &[u8]) -> Result<u64, DecodeError> {
    Ok(match kind {
        StatementKind::Record => read_record(statement)?.signed_at_ms,
        StatementKind::Accusation => read_accusation(statement)?.signed_at_ms,
    })
}

fn read_record(bytes: &[u8]) -> Result<pb::Record, DecodeError> {
    pb::Record::decode(bytes).map_err(|e| DecodeError::new("record.record", e.to_string()))
}

fn read_accusation(bytes: &[u8]) -> Result<pb::Accusation, DecodeError> {
    pb::Accusation::decode(bytes).map_err(|e| DecodeError::new("accusation.statement", e.to_string()))
}

fn at_most(field: &'static str, bytes: &[u8], most: usize) -> Result<(), DecodeError> {
    match bytes.len() {
        len if len > most => Err(DecodeError::new(field, format!("has {len} bytes, at most {most}"))),
        _ => Ok(()),
    }
}

pub(crate) fn from_record(record: &Signed<Record>) -> pb::SignedRecord {
    match record.proof() {
        Some(Proof { bytes, signature, leaf }) => {
            pb::SignedRecord { record: bytes.to_vec(), signature: signature.to_vec(), leaf: leaf.to_vec() }
        }
        None => {
            let record = pb::Record::from(&**record).encode_to_vec();
            pb::SignedRecord { record, signature: Vec::new(), leaf: Vec::new() }
        }
    }
}

pub(crate) fn to_record(signed: pb::SignedRecord) -> Result<Signed<Record>, DecodeError> {
    at_most("record.record", &signed.record, MAX_STATEMENT_BYTES)?;
    at_most("record.signature", &signed.signature, MAX_SIGNATURE_BYTES)?;
    at_most("record.leaf", &signed.leaf, MAX_LEAF_BYTES)?;
    let record = read_record(&signed.record)?.try_into()?;
    Ok(with_proof(record, signed.record, signed.signature, signed.leaf))
}

/// Without a signature there is no proof, whatever the leaf.
fn with_proof<T>(content: T, bytes: Vec<u8>, signature: Vec<u8>, leaf: Vec<u8>) -> Signed<T> {
    if signature.is_empty() {
        return Signed::unsigned(content);
    }
    Signed::new(content, Proof { bytes: bytes.into(), signature: signature.into(), leaf: Arc::from(leaf) })
}

/// Without a proof an accusation is the sender's own, so that its accuser need not be named. `plain`: with the fields
/// that protocol 1 reads, also beside a proof.
pub(crate) fn from_accusation(accusation: &Signed<Accusation>, plain: bool) -> pb::Accusation {
    let fields = || pb::Accusation::from(&**accusation);
    match accusation.proof() {
        None => fields(),
        Some(Proof { bytes, signature, leaf }) => pb::Accusation {
            signature: signature.to_vec(),
            leaf: leaf.to_vec(),
            statement: bytes.to_vec(),
            ..if plain { fields() } else { pb::Accusation::default() }
        },
    }
}

/// `sender`: who accuses if the accusation does not say.
pub(crate) fn to_accusation(
    accusation: pb::Accusation,
    sender: Option<&MemberName>,
) -> Result<Signed<Accusation>, DecodeError> {
    at_most("accusation.statement", &accusation.statement, MAX_STATEMENT_BYTES)?;
    at_most("accusation.signature", &accusation.signature, MAX_SIGNATURE_BYTES)?;
    at_most("accusation.leaf", &accusation.leaf, MAX_LEAF_BYTES)?;
    if accusation.statement.is_empty() || accusation.signature.is_empty() {
        return Ok(Signed::unsigned(accusation_of(&accusation, sender)?));
    }
    let content = accusation_of(&read_accusation(&accusation.statement)?, None)?;
    Ok(with_proof(content, accusation.statement, accusation.signature, accusation.leaf))
}

fn accusation_of(
    accusation: &pb::Accusation,
    sender: Option<&MemberName>,
) -> Result<Accusation, DecodeError> {
    let accuser = match (accusation.accuser.as_str(), sender) {
        ("", Some(sender)) => sender.clone(),
        ("", None) => return Err(DecodeError::missing("accusation.accuser")),
        (accuser, _) => member("accusation.accuser", accuser)?,
    };
    Ok(Accusation {
        accuser,
        subject: member("accusation.subject", &accusation.subject)?,
        epoch: Epoch(accusation.epoch),
        incarnation: Incarnation(accusation.incarnation),
        evidence: from_evidence("accusation.evidence", accusation.evidence)?,
    })
}

impl From<&Accusation> for pb::Accusation {
    fn from(accusation: &Accusation) -> Self {
        Self {
            subject: accusation.subject.to_string(),
            epoch: accusation.epoch.0,
            incarnation: accusation.incarnation.0,
            evidence: pb::Evidence::from(accusation.evidence).into(),
            ..Self::default()
        }
    }
}

pub(crate) fn from_delta(records: &[Signed<Record>], accusations: &[Signed<Accusation>]) -> pb::Delta {
    pb::Delta {
        records: records.iter().map(from_record).collect(),
        accusations: accusations.iter().map(|accusation| from_accusation(accusation, false)).collect(),
    }
}

pub(crate) fn to_delta(delta: pb::Delta, sender: Option<&MemberName>) -> Result<Message, DecodeError> {
    let count = delta.records.len() + delta.accusations.len();
    if count > MAX_STATEMENTS {
        let field = if delta.records.len() > MAX_STATEMENTS { "delta.records" } else { "delta.accusations" };
        let problem = format!("brings the statements to {count}, at most {MAX_STATEMENTS}");
        return Err(DecodeError::new(field, problem));
    }
    let accusation = |accusation| to_accusation(accusation, sender);
    Ok(Message::Delta {
        records: delta.records.into_iter().map(to_record).collect::<Result<_, _>>()?,
        accusations: delta.accusations.into_iter().map(accusation).collect::<Result<_, _>>()?,
    })
}
