//! How the rest of the daemon talks to a running node.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use flagship_election::{Directive, ResignReason, Spec};
use flagship_types::{Health, Instant, MemberName, Pause, PeerAddress, Term};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::ports::{Denied, Leadership, LinkRefusal, LinkWarning, Purpose, WritePermit};
use crate::snapshot::Snapshot;

/// What the object says, as far as the node reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// Rank, ready, candidate, proposal.
    pub election: Spec,
    /// Where this member can be dialled.
    pub address: Option<PeerAddress>,
    /// `spec.fleet`.
    pub seeds: Vec<PeerAddress>,
}

/// What a node can be told while it runs.
#[derive(Debug)]
pub enum Command {
    /// The object changed.
    Spec(NodeSpec),
    /// The fitness to lead changed.
    Health(Health),
    /// The promotion under this term went through: what fences has succeeded, or the payload runs.
    Promoted(Term),
    /// The first object of this term's stop is about to be deleted.
    DeletionBegan(Term),
    /// The payload of this term is gone, pods included.
    PayloadStopped(Term),
    /// Deleting is stuck.
    StopStuck {
        /// Of which term.
        term: Term,
        /// What does not go.
        object: String,
    },
    /// A hook objects to the stop of this term, of which nothing is deleted yet.
    StopRefused {
        /// Of which term.
        term: Term,
        /// Why, as a sentence.
        because: String,
    },
    /// An operator vouches for a member without a voter record.
    Admit(MemberName),
    /// An operator says that a member will not come back.
    Forget(MemberName),
    /// Give the lead away for good.
    Retire(ResignReason),
    /// Hand the lead over and stay in the fleet; answered by an event of the election.
    HandOver {
        /// To whom; `None`: the best healthy candidate.
        to: Option<MemberName>,
        /// `Switchover` or `Unhealthy`.
        reason: ResignReason,
    },
    /// An operator's order, answered at once.
    Order {
        /// What.
        order: Order,
        /// Whether it is carried out; if not, a sentence that says why.
        reply: oneshot::Sender<Result<Accepted, String>>,
    },
    /// The local Lease is held until then, of [`crate::boot_now`].
    HeldUntil(Instant),
    /// Announce a pause to everyone; the payload runs on.
    Away(Duration),
    /// Leave the fleet for good.
    Leave,
    /// Asks for a permit; answered by the loop itself, which is what makes the answer fresh.
    Permit {
        /// For what.
        purpose: Purpose,
        /// The answer.
        reply: oneshot::Sender<Result<WritePermit, Denied>>,
    },
    /// Flush what is queued, close the links with a code and end.
    Shutdown,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Nothing moves the lead by itself any more; `None`: it does again.
    Pause(Option<Pause>),
    /// Move the lead.
    Switchover {
        /// To whom; `None`: the best healthy candidate.
        to: Option<MemberName>,
        /// Only find out who would get it.
        try_only: bool,
    },
    /// Take the lead without the grants of those that cannot be asked.
    ForceLead {
        /// The highest term that the operator knows.
        above: Term,
        /// Whom he stopped.
        stopped: Vec<MemberName>,
    },
}

/// An order that is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The fleet configuration changes, or will once this member leads.
    Config,
    /// The lead goes, or would go, to this member.
    Target(MemberName),
    /// This member leads under that term as soon as it is stored.
    Term(Term),
}

/// What happened, for history, Events, metrics and logs.
#[derive(Debug, Clone)]
pub enum NodeEvent {
    /// From the membership core: only state changes, no beats.
    Member {
        /// Who.
        member: MemberName,
        /// Before.
        from: Option<flagship_membership::State>,
        /// After.
        to: flagship_membership::State,
        /// What it rests on.
        evidence: Option<flagship_membership::Evidence>,
    },
    /// From the election core.
    Election(flagship_election::Event),
    /// A link came up; the core may still close it as a duplicate.
    LinkUp(MemberName),
    /// A link or handshake was refused.
    LinkRefused(LinkRefusal),
    /// Certificates need a person soon, though links work.
    LinkWarning(LinkWarning),
    /// Another process with this member's name is alive.
    NameInUse,
    /// This process was not running for so long.
    Paused(Duration),
    /// The durable record could not be written; tried again.
    StoreFailed(String),
}

/// A running node. Cheap to clone; the node ends when told to, not when handles are dropped.
#[derive(Clone)]
pub struct NodeHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) directive: watch::Receiver<Directive>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
}

impl NodeHandle {
    /// Gives an operator's order and waits for the answer. An error is a sentence for people.
    pub async fn order(&self, order: Order) -> Result<Accepted, String> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Order { order, reply }).await;
        answer.await.unwrap_or_else(|_| Err("this member's node ended meanwhile; try again".to_owned()))
    }

    /// Tells the node. Lost only if the node has ended.
    pub async fn tell(&self, command: Command) {
        // A node that has ended has nothing to be told; its end is seen on its task.
        let _ = self.commands.send(command).await;
    }

    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Wakes at every change of the picture worth showing (not for ages and round trip times).
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What the payload worker has to do, always the newest.
    pub fn directive(&self) -> watch::Receiver<Directive> {
        self.directive.clone()
    }

    /// What happens from now on. A reader that lags loses the oldest and is told how many.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }
}

#[async_trait::async_trait]
impl Leadership for NodeHandle {
    async fn permit(&self, purpose: Purpose) -> Result<WritePermit, Denied> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Permit { purpose, reply }).await.map_err(|_| Denied::NodeGone)?;
        answer.await.map_err(|_| Denied::NodeGone)?
    }
}
