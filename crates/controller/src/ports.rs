//! What the controller needs from the daemon that holds it: somebody who joins members to their fleets, and
//! somebody who counts. Both are implemented at the root.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flagship_node::{MachineConfig, NodeEvent, NodeHandle, Store};
use flagship_types::{Callsign, MemberName, PeerAddress};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// Everything that is needed to join one member to its fleet.
pub struct MemberStart {
    /// What the member starts with. Its epoch is stored already.
    pub machine: MachineConfig,
    /// The address to listen on; `None`: all addresses, at [`Self::port`].
    pub listen: Option<PeerAddress>,
    /// The port to listen on if `listen` is `None`.
    pub port: u16,
    /// Where the node stores what must be durable.
    pub store: Arc<dyn Store>,
}

/// Where and as whom a member would join: one that takes part already, or one that waits for its local Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its fleet.
    pub callsign: Callsign,
    /// Itself.
    pub member: MemberName,
    /// As in [`MemberStart`].
    pub listen: Option<PeerAddress>,
    /// As in [`MemberStart`].
    pub port: u16,
}

/// Answers whoever dials a member that waits for its local Lease, until it is dropped.
pub struct Waiting(#[expect(dead_code, reason = "held for its end")] Box<dyn Any + Send + Sync>);

impl Waiting {
    /// Of whatever stops answering when it is dropped.
    pub fn new(answer: impl Any + Send + Sync) -> Self {
        Self(Box::new(answer))
    }
}

/// A member that takes part in its fleet.
pub struct Joined {
    /// The running node.
    pub node: NodeHandle,
    /// All that it tells, from its first event on.
    pub events: broadcast::Receiver<NodeEvent>,
    /// Ends when the node has ended, its links are closed and its listener is free again.
    pub ended: JoinHandle<()>,
}

/// Why a member cannot take part. Nothing was started.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JoinError {
    /// There are no certificates. The sentence names the command that makes them.
    #[error("{0}")]
    NoCertificate(String),
    /// There are certificates, but not ones that this member can use: another identity, another fleet, expired,
    /// unreadable. The sentence says which and what to do.
    #[error("{0}")]
    BadCertificate(String),
    /// The address cannot be listened on: taken, or not one of this machine's.
    #[error("{0}")]
    Listen(String),
    /// Another MultiCluster with this callsign is served by this daemon already.
    #[error("{0}")]
    CallsignTaken(String),
}

impl JoinError {
    /// Whether another Secret would help.
    pub(crate) fn is_about_certificates(&self) -> bool {
        matches!(self, Self::NoCertificate(_) | Self::BadCertificate(_))
    }

    /// The reason of the condition and of the Event.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate(_) => "NoCertificate",
            Self::BadCertificate(_) => "BadCertificate",
            Self::Listen(_) => "CannotListen",
            Self::CallsignTaken(_) => "CallsignTaken",
        }
    }
}

/// Joins members to their fleets.
#[async_trait]
pub trait Joiner: Send + Sync {
    /// Starts a node and its links. Returns once it listens; it need not have met anybody.
    async fn join(&self, start: MemberStart) -> Result<Joined, JoinError>;
    /// Answers for a member that another replica of this cluster serves: dial again. A join at the same place takes
    /// over without a gap; only then is the answer to be dropped. Waits for nothing that is taken.
    async fn wait_at(&self, place: Probe) -> Result<Waiting, JoinError>;
    /// Finds out whether a join would fail, without disturbing the member that runs. Changes nothing.
    async fn probe(&self, probe: Probe) -> Result<(), JoinError>;
}

/// How a payload operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadResult {
    /// All of it was done.
    Success,
    /// It failed and is tried again.
    Failure,
    /// The lead was given up meanwhile.
    Superseded,
}

impl PayloadResult {
    /// A metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Superseded => "superseded",
        }
    }
}

/// What a lead that began here has reached after its election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeadPhase {
    /// All objects of the payload are written.
    PayloadCreated,
    /// All of them are ready.
    PayloadReady,
}

/// Counts what the controller does. Calls must not block.
pub trait Observer: Send + Sync {
    /// A call to the API server was made. `code` is the HTTP status, 0 without an answer.
    fn api_request(&self, verb: &'static str, code: u16);
    /// An apply of the payload ended.
    fn payload_applied(
        &self,
        callsign: &Callsign,
        member: &MemberName,
        result: PayloadResult,
        took: Duration,
    );
    /// A lead that began here reached this phase, so long after the cause of the change.
    fn lead_phase(&self, callsign: &Callsign, member: &MemberName, phase: LeadPhase, after: Duration);
    /// A delete of the payload ended.
    fn payload_deleted(
        &self,
        callsign: &Callsign,
        member: &MemberName,
        result: PayloadResult,
        took: Duration,
    );
    /// How many objects of the payload exist here, as far as is known.
    fn payload_objects(&self, callsign: &Callsign, member: &MemberName, objects: usize);
    /// Something of this member's work failed and is tried again.
    fn reconcile_error(&self, callsign: &Callsign, member: &MemberName);
    /// This daemon does not serve the member any more: forget its numbers.
    fn member_gone(&self, callsign: &Callsign, member: &MemberName);
    /// A node runs for this member; told anew after every rejoin.
    fn member_joined(&self, callsign: &Callsign, member: &MemberName, node: &NodeHandle);
}

/// Counts nothing.
#[cfg(test)]
pub(crate) struct NoObserver;

#[cfg(test)]
impl Observer for NoObserver {
    fn api_request(&self, _: &'static str, _: u16) {}
    fn payload_applied(&self, _: &Callsign, _: &MemberName, _: PayloadResult, _: Duration) {}
    fn payload_deleted(&self, _: &Callsign, _: &MemberName, _: PayloadResult, _: Duration) {}
    fn lead_phase(&self, _: &Callsign, _: &MemberName, _: LeadPhase, _: Duration) {}
    fn payload_objects(&self, _: &Callsign, _: &MemberName, _: usize) {}
    fn reconcile_error(&self, _: &Callsign, _: &MemberName) {}
    fn member_gone(&self, _: &Callsign, _: &MemberName) {}
    fn member_joined(&self, _: &Callsign, _: &MemberName, _: &NodeHandle) {}
}
