//! Protobuf messages, their limits, and conversions to and from the types of the cores. It refuses what does
//! not fit before a core sees it; it opens no sockets.

mod beats;
mod codec;
mod election;
mod error;
mod fields;
mod frame;
mod membership;
mod statement;

pub use codec::{Frame, FrameCodec, FrameKind};
pub use error::DecodeError;
pub use frame::{
    Close, Hello, Incoming, MAX_FRAME_BYTES, MAX_SENTENCE_BYTES, PROTOCOL_MAX, PROTOCOL_MIN, close_frame,
    decode, decode_from, hello_frame, message_frame,
};
pub use membership::{MAX_DIGEST_BITS, MAX_METADATA_BYTES};
pub use statement::{
    MAX_LEAF_BYTES, MAX_SIGNATURE_BYTES, MAX_STATEMENT_BYTES, MAX_STATEMENTS, StatementKind, signed_at_ms,
    signing_input, statement_bytes,
};

use flagship_membership::{Proof, Record, Signed};
use flagship_types::MemberName;

/// The generated messages and the gRPC client and server of the service `flagship.v1.Fleet`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
pub mod pb {
    include!("generated/flagship.v1.rs");
}

/// A message between two members, in the words of the cores.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// For the membership core.
    Membership(flagship_membership::Message),
    /// For the election core.
    Election(flagship_election::Message),
}

impl PeerMessage {
    /// Leaves out the statements that `keep` refuses, by kind, owner (who signs: the member of a record, the accuser)
    /// and proof. `None` if nothing is left to tell.
    pub fn keep_statements(
        self,
        mut keep: impl FnMut(StatementKind, &MemberName, Option<&Proof>) -> bool,
    ) -> Option<Self> {
        use flagship_membership::Message;
        let mut record =
            |record: &Signed<Record>| keep(StatementKind::Record, &record.member, record.proof());
        match self {
            Self::Membership(Message::Record(content)) => {
                record(&content).then_some(Self::Membership(Message::Record(content)))
            }
            Self::Membership(Message::Delta { mut records, mut accusations }) => {
                records.retain(record);
                accusations.retain(|a| keep(StatementKind::Accusation, &a.accuser, a.proof()));
                let is_empty = records.is_empty() && accusations.is_empty();
                (!is_empty).then_some(Self::Membership(Message::Delta { records, accusations }))
            }
            Self::Membership(Message::Accuse(a)) => {
                let kept = keep(StatementKind::Accusation, &a.accuser, a.proof());
                kept.then_some(Self::Membership(Message::Accuse(a)))
            }
            other => Some(other),
        }
    }

    /// The oldest protocol whose speakers understand this from `sender`. Protocol 1 takes statements from their owner
    /// only and closes the link over anything that it does not know.
    pub fn protocol(&self, sender: &MemberName) -> u32 {
        use flagship_membership::Message;
        let own = match self {
            Self::Membership(Message::Record(record)) => record.member == *sender,
            Self::Membership(Message::Accuse(accusation)) => accusation.accuser == *sender,
            Self::Membership(Message::Delta { .. } | Message::Digest { .. } | Message::Unobserve) => false,
            Self::Membership(_) | Self::Election(_) => true,
        };
        if own { 1 } else { 2 }
    }
}
