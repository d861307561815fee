//! What goes into the core and what comes out of it.

mod event;
mod message;
mod record;

use std::time::Duration;

use flagship_types::{ConfigVersion, FleetConfig, Health, Instant, MemberName, Metadata, Rank, Role, Term};

pub use event::{Ascent, AscentReason, Event, Phases};
pub use message::{Claim, Message, Refusal};
pub use record::{Promise, Record, Vote};

/// What the core is told.
#[derive(Debug, Clone)]
pub enum Input {
    /// What membership believes of a peer; told at every change.
    Peer(PeerView),
    /// Proof that a peer was alive at that time.
    Heard {
        /// Who.
        member: MemberName,
        /// When at the earliest its newest proven beat was sent.
        at: Instant,
    },
    /// Somebody else says that it heard a peer at that time. Only how long a failure took is counted from it.
    Vouched {
        /// Who was heard.
        member: MemberName,
        /// When.
        at: Instant,
    },
    /// A message from a peer, authenticated by its link.
    Message {
        /// Who sent it.
        from: MemberName,
        /// What it says.
        message: Message,
    },
    /// The record with this version is durable; so are all before it.
    Persisted(u64),
    /// The member's object changed.
    Spec(Spec),
    /// This member's fitness to lead changed.
    Health(Health),
    /// This process or its machine paused (clocks diverged, or a timer fired far too late).
    Paused,
    /// The promotion under this term went through: what fences has succeeded, or the payload ran. Nothing of older terms
    /// needs a fence any more.
    Promoted(Term),
    /// The payload worker is about to delete the first object for the stop of this term: no way back by abort.
    DeletionBegan(Term),
    /// The payload of this term is gone, pods included.
    PayloadStopped(Term),
    /// Deleting is stuck past its timeout; the worker has been told nothing yet.
    StopStuck {
        /// Of which term.
        term: Term,
        /// The object that does not go.
        object: String,
    },
    /// Nothing was deleted for the stop of this term yet, and a hook of this side objects to it.
    StopRefused {
        /// Of which term.
        term: Term,
        /// A sentence for people.
        because: String,
    },
    /// An operator vouches for a member that has no record, so that it may vote.
    Admit(MemberName),
    /// An operator says that a member will not come back: nobody waits for it.
    Forget(MemberName),
    /// An operator pauses the fleet, or resumes it. For the leader; with nobody leading, whoever is told to resume asks
    /// for the lead. Answered by [`Event::PauseChanged`] or [`Event::PauseRefused`].
    Pause(Option<flagship_types::Pause>),
    /// An operator has this member lead without the grants of those that cannot be asked. Answered by
    /// [`Event::Forcing`] or [`Event::ForceRefused`].
    ForceLead {
        /// The highest term that the operator knows.
        above: Term,
        /// Whom the operator stopped: everybody that is not reachable and might lead.
        stopped: Vec<MemberName>,
    },
    /// Give the lead away and do not take it again: the object is being deleted, or the daemon was asked to.
    Retire(ResignReason),
    /// As the leader: move the lead to another member and stay in the fleet. Answered by [`Event::HandOverAccepted`]
    /// or [`Event::HandOverRefused`] before the next output that depends on it.
    HandOver {
        /// To whom; `None`: the best healthy candidate.
        to: Option<MemberName>,
        /// Why: [`ResignReason::Switchover`] or [`ResignReason::Unhealthy`].
        reason: ResignReason,
    },
}

/// A peer as membership sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerView {
    /// Who.
    pub name: MemberName,
    /// How it is.
    pub presence: Presence,
    /// Its metadata; `None` if it was never heard in this process's life.
    pub metadata: Option<Metadata>,
    /// Whether the newest sign about it was that its process ended while its host lives.
    pub exited: bool,
    /// Whether there is a link to it right now.
    pub linked: bool,
}

/// How a peer is, in the words that matter to an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Alive or Suspect: it has to be reckoned with.
    Present,
    /// Announced a pause.
    Away,
    /// Down: nobody waits for it, but it may come back.
    Down,
    /// Left or forgotten: it is no member any more.
    Left,
}

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Higher leads.
    pub rank: Rank,
    /// May found the fleet alone.
    pub ready: bool,
    /// May lead.
    pub candidate: bool,
    /// What runs is left alone: this member takes no lead, and keeps the one that it has as long as it may.
    pub suspended: bool,
    /// Votes and never leads; it has no object and proposes nothing.
    pub witness: bool,
    /// What is called before a promotion makes sure that the predecessor's payload does not run: it needs no word of
    /// the predecessor that it can stop.
    pub fences: bool,
    /// The fleet settings this object proposes (its version is ignored).
    pub proposal: FleetConfig,
    /// How long the payload may be not ready here before the lead goes to a healthy standby; `None`: for ever.
    pub promote_timeout: Option<Duration>,
}

impl Spec {
    /// May take a lead that it does not hold. A witness never does, whatever else is said of it.
    pub fn may_lead(&self) -> bool {
        self.candidate && !self.suspended && !self.witness
    }
}

/// What the core wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Make this durable, then say `Persisted(version)`. What depends on it follows only after that.
    Persist(Record),
    /// Send this to a peer; lost if there is no link.
    Send {
        /// To whom.
        to: MemberName,
        /// What.
        message: Message,
    },
    /// What the payload worker has to do from now on changed.
    Direct(Directive),
    /// The election's part of the own metadata changed.
    Publish(Standing),
    /// Something others want to know.
    Event(Event),
}

/// What the payload worker has to do: a state to converge to, not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// Touch nothing: it is not known yet whether this member leads.
    Hold,
    /// The payload must not be here. Nothing was applied under a lead that is being given up.
    Absent,
    /// Apply the payload and keep it.
    Run {
        /// Under which term.
        term: Term,
        /// Whether the payload already ran here under this term or an earlier one, and must not be disturbed.
        resumed: bool,
    },
    /// Delete the payload and wait until it is gone, then say `PayloadStopped`.
    Stop {
        /// Of which term.
        term: Term,
        /// Why.
        reason: ResignReason,
    },
}

/// Why a leader gives up its payload. Demotion happens for one of these only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResignReason {
    /// A newer leader exists and this one was interrupted, or lost the comparison after a partition.
    Superseded,
    /// A better candidate asked for the lead.
    Handover,
    /// An operator moved the lead to another member.
    Switchover,
    /// The payload did not get or stay ready here, and another member is healthy.
    Unhealthy,
    /// The object says that this member may not lead any more.
    NotCandidate,
    /// The object is being deleted, or the member leaves.
    Removal,
    /// An operator, or SIGTERM with `--on-shutdown handover`.
    Operator,
    /// The process found a stop that an earlier process of this member had begun.
    Unfinished,
    /// Quorum: a majority of the voters did not renew the lease in time. The payload has to be gone within the stop
    /// grace: workloads at once, then their pods.
    LeaseLost,
}

impl ResignReason {
    /// Whether the lead goes to a named member, and stays here if that one cannot take it.
    pub fn is_handover(self) -> bool {
        matches!(self, Self::Handover | Self::Switchover | Self::Unhealthy | Self::NotCandidate)
    }

    /// The word shown to users and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "Superseded",
            Self::Handover => "Handover",
            Self::Switchover => "Switchover",
            Self::Unhealthy => "Unhealthy",
            Self::NotCandidate => "NotCandidate",
            Self::Removal => "Removal",
            Self::Operator => "Operator",
            Self::Unfinished => "Unfinished",
            Self::LeaseLost => "LeaseLost",
        }
    }
}

/// The election's part of a member's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Role.
    pub role: Role,
    /// Term of the followed leader, or the own.
    pub term: Term,
    /// The followed leader, or this member.
    pub leader: Option<MemberName>,
    /// Stored configuration.
    pub config: ConfigVersion,
    /// Whether that is of mode Quorum.
    pub quorum: bool,
    /// Whether any higher term supersedes this leader.
    pub interrupted: bool,
    /// For [`Health::failed`].
    pub failed: bool,
    /// The newest term whose promotion went through, if this member tells of it.
    pub promoted: Term,
}

/// What the core is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This member.
    pub name: MemberName,
}

/// What a process finds when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The record that an earlier process of this member made durable; `None`: none was found.
    pub record: Option<Record>,
    /// Payload objects with this member's label are in the cluster, and the highest term they are annotated
    /// with (`Term(0)`: not annotated). Unless the record says that this member led or was stopping, everybody is
    /// asked who leads before it is touched; if nobody does, it is kept and led under a fresh term.
    pub found_running: Option<Term>,
    /// The members known from before. Each is reckoned with until membership says what became of it.
    pub known_peers: Vec<MemberName>,
    /// What an earlier process knew of its failures as a leader.
    pub lapse: Option<Lapse>,
}

/// A member that gave the lead away because its payload did not get or stay ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lapse {
    /// How often in a row.
    pub times: u32,
    /// How much longer it counts as failed; zero: it does not any more, but the next time it will for longer.
    pub left: Duration,
}

/// Which payload writes the election allows now. The driver adds its own checks and limits the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permit {
    /// Create and change.
    Apply {
        /// Under which term.
        term: Term,
    },
    /// Delete.
    Delete {
        /// Under which term.
        term: Term,
    },
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Campaigns begun.
    pub campaigns: u64,
    /// Campaigns won.
    pub elected: u64,
    /// Claims (not pre-claims) that were refused.
    pub claims_refused: u64,
    /// Grants given to others.
    pub grants: u64,
    /// Claims and pre-claims of others refused.
    pub refusals: u64,
    /// Handovers that moved the lead away from here.
    pub handovers: u64,
    /// Handovers that did not.
    pub handovers_failed: u64,
    /// Meetings with another leader after a partition.
    pub heals: u64,
    /// Messages ignored: the sender is no member, or what it says cannot be true.
    pub messages_ignored: u64,
    /// Peers not taken up because there are too many.
    pub peers_refused: u64,
    /// Role changes that the code asked for and that are not legal. Always zero, or there is a bug.
    pub illegal_moves: u64,
}
