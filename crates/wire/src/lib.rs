//! Protobuf messages, their limits, and conversions to and from the types of the cores. It refuses what does
//! not fit before a core sees it; it opens no sockets.

mod election;
mod error;
mod fields;
mod frame;
mod membership;

pub use error::DecodeError;
pub use frame::{
    Close, Hello, Incoming, MAX_FRAME_BYTES, MAX_SENTENCE_BYTES, PROTOCOL_MAX, PROTOCOL_MIN, close_frame,
    decode, hello_frame, message_frame,
};
pub use membership::MAX_METADATA_BYTES;

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
    /// Whose record this is, if it is one: it must be the sender's own.
    pub fn record_owner(&self) -> Option<&flagship_types::MemberName> {
        match self {
            Self::Membership(flagship_membership::Message::Record(record)) => Some(&record.member),
            Self::Membership(_) | Self::Election(_) => None,
        }
    }
}
