//! What the node needs from outside, and what it offers: traits and the values that cross them.

use std::net::SocketAddr;
use std::time::Duration;

use flagship_election::Record;
use flagship_membership::{ConnectFailure, LinkEnd, LinkId, PeerHello, Proof, Statement};
use flagship_types::{Callsign, CloseCode, Epoch, Instant, MemberName, PeerAddress, Term, Verified};
use flagship_wire::PeerMessage;

/// What this member says in its Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalHello {
    /// The fleet.
    pub callsign: Callsign,
    /// This member.
    pub member: MemberName,
    /// This start.
    pub epoch: Epoch,
    /// Where it can be dialled.
    pub address: Option<PeerAddress>,
    /// Hash of its view.
    pub view_hash: u32,
}

/// Streams to peers. Implemented by the transport and by the simulator. Calls never block: what cannot be
/// queued is dropped and counted, and a stream that stays full is closed and reported as down.
pub trait Links: Send + Sync {
    /// Dials once; answered by [`LinkEvent::Up`] or [`LinkEvent::ConnectFailed`] with the same address.
    fn connect(&self, address: &PeerAddress);
    /// Queues a message. A beat replaces a beat that still waits.
    fn send(&self, link: LinkId, message: PeerMessage);
    /// Tells the peer why, then closes. No [`LinkEvent::Down`] follows.
    fn close(&self, link: LinkId, code: CloseCode);
    /// What new streams say from now on.
    fn set_hello(&self, hello: LocalHello);
}

/// Vouches for what this member states, so that others can pass it on. Implemented by the transport with the key of
/// the member's certificate, and by simulators with any closure.
pub trait Signer: Send + Sync {
    /// The proof for a statement of this member, made now; `None` if there is no key that others would believe. Then
    /// the statement is believed on this member's own links only.
    fn sign(&self, statement: &Statement) -> Option<Proof>;
}

impl<F: Fn(&Statement) -> Option<Proof> + Send + Sync> Signer for F {
    fn sign(&self, statement: &Statement) -> Option<Proof> {
        self(statement)
    }
}

/// What happens on the streams of one member.
#[derive(Debug)]
pub enum LinkEvent {
    /// A stream is up: identity verified against the certificate, Hello checked, callsign equal.
    Up {
        /// The stream.
        link: LinkId,
        /// The peer's Hello.
        hello: Verified<PeerHello>,
        /// The address that was dialled; `None` if the peer dialled.
        dialled: Option<PeerAddress>,
    },
    /// A stream ended.
    Down {
        /// The stream.
        link: LinkId,
        /// How.
        end: LinkEnd,
    },
    /// An attempt failed.
    ConnectFailed {
        /// What was dialled.
        address: PeerAddress,
        /// How it failed, for the core.
        failure: ConnectFailure,
        /// A sentence for people.
        reason: String,
    },
    /// A message arrived, all statements in it checked.
    Message {
        /// On this stream.
        link: LinkId,
        /// The message.
        message: Verified<PeerMessage>,
    },
    /// Somebody was refused, by us or by them, and people should know: logs, a metric and, unless it is
    /// [`RefusalReason::Anonymous`], an Event.
    Refused(LinkRefusal),
    /// This member's own certificate was replaced: what it signs from now on is signed with the new one.
    Renewed,
    /// Something about certificates needs a person soon, though links work: logs, a metric and an Event.
    Warning(LinkWarning),
}

/// A refusal, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRefusal {
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// Its name, if a certificate proved it.
    pub peer: Option<MemberName>,
    /// Whether we dialled.
    pub dialled: bool,
    /// A bounded reason, for metrics.
    pub reason: RefusalReason,
    /// What happened and what to do.
    pub sentence: String,
}

/// A warning, for people. Repeated at most once an hour while it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkWarning {
    /// The peer it is about; `None`: this member itself.
    pub peer: Option<MemberName>,
    /// What is wrong and what to do.
    pub sentence: String,
}

/// Why a stream or handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalReason {
    /// Somebody who dialled us showed no certificate before the handshake ended: a probe, a scan, plain text. For logs
    /// and a metric, not worth an Event.
    Anonymous,
    /// TLS did not complete: an unknown authority, a certificate that cannot be used; or no TLS where we dialled.
    Tls,
    /// The certificate expired or is not valid yet.
    Expired,
    /// The handshake took too long or too many were under way.
    Handshake,
    /// One of the coded reasons.
    Code(CloseCode),
}

impl RefusalReason {
    /// A metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Tls => "tls",
            Self::Expired => "expired",
            Self::Handshake => "handshake",
            Self::Code(code) => code.as_str(),
        }
    }
}

/// Everything a member must remember across a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurableRecord {
    /// This start.
    pub epoch: Epoch,
    /// The election's record.
    pub election: Record,
}

/// Why a record could not be stored. It may or may not have been stored; the node tries again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Durable memory of one member. Implemented by the controller on the object's status.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// Returns only when the record would survive the loss of this process and machine.
    async fn persist(&self, record: &DurableRecord) -> Result<(), StoreError>;
}

/// What a payload write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Create or change payload objects.
    Apply,
    /// Delete what left the payload: the leader's own tidying.
    Prune,
    /// Delete payload objects because they must not be here: in a stop, or what a former lead left behind. Never
    /// while this member leads.
    Delete,
}

/// Leave to make one write, taken anew for every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritePermit {
    /// Under which term.
    pub term: Term,
    /// No write may be sent after this time of [`crate::boot_now`].
    pub not_after: Instant,
}

impl WritePermit {
    /// How long a permit is valid.
    pub const VALIDITY: Duration = Duration::from_millis(500);
}

/// Why a write is not allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// This member does not hold the lead that the write needs.
    #[error("this member does not hold the lead")]
    NotLeading,
    /// This member leads, so its payload stays: the stop that asks was called off.
    #[error("this member leads: its payload stays")]
    Leading,
    /// It is not known yet whether this member leads.
    #[error("it is not settled yet who leads")]
    Unsettled,
    /// The node does not answer: shutting down, or its machine was paused.
    #[error("the node does not answer")]
    NodeGone,
}

/// The question every payload write asks first.
#[async_trait::async_trait]
pub trait Leadership: Send + Sync {
    /// A fresh permit, or why not.
    async fn permit(&self, purpose: Purpose) -> Result<WritePermit, Denied>;
}
