//! Protobuf messages, their limits, and conversions to and from the types of the cores. It refuses what does
//! not fit before a core sees it; it opens no sockets.

/// A message between two members, in the words of the cores.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// For the membership core.
    Membership(flagship_membership::Message),
    /// For the election core.
    Election(flagship_election::Message),
}
