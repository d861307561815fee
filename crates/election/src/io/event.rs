//! What others want to know.

use std::time::Duration;

use flagship_types::{FleetConfig, MemberName, Role, Term};

use super::{Refusal, ResignReason};

/// What others want to know: history, Events, metrics, logs.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The role changed.
    RoleChanged {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The term; of a stop that is over, the one whose payload is gone.
        term: Term,
    },
    /// Another member leads now, as far as this one knows.
    LeaderChanged {
        /// Who.
        leader: Option<MemberName>,
        /// Under which term.
        term: Term,
    },
    /// This member took the lead.
    Elected {
        /// Under which term.
        term: Term,
        /// Since the lead was known to be free.
        took: Duration,
        /// Whether the predecessor failed (else: founding, handover).
        failover: bool,
        /// Who released the lead, and still lives.
        handed_over_by: Option<MemberName>,
        /// How it came to lead.
        ascent: Ascent,
    },
    /// A restarted leader goes on.
    Resumed {
        /// Its term.
        term: Term,
    },
    /// A claim did not succeed.
    ClaimFailed {
        /// Which term.
        term: Term,
        /// By whom it was refused or not answered, and why.
        by: MemberName,
        /// `None`: no answer.
        refusal: Option<Refusal>,
    },
    /// [`Input::HandOver`] is being carried out: the payload stops, then `to` gets the lead.
    HandOverAccepted {
        /// The term that ends.
        term: Term,
        /// The successor.
        to: MemberName,
        /// Why the lead moves.
        reason: ResignReason,
    },
    /// [`Input::HandOver`] changed nothing.
    HandOverRefused {
        /// To whom the lead was to go; `None`: nobody was named.
        to: Option<MemberName>,
        /// Why the lead was to move.
        reason: ResignReason,
        /// What speaks against it: a sentence for people.
        because: String,
    },
    /// A handover ended without moving the lead.
    HandoverFailed {
        /// The term that stays.
        term: Term,
        /// A sentence for people.
        reason: String,
    },
    /// Another leader exists at the same time (after a partition).
    SplitSeen {
        /// The other one.
        other: MemberName,
        /// Its term.
        term: Term,
    },
    /// The configuration in force changed.
    ConfigAdopted(FleetConfig),
    /// The fleet was paused, or goes on.
    PauseChanged {
        /// The pause in force; `None`: none.
        pause: Option<flagship_types::Pause>,
    },
    /// [`Input::Pause`] changed nothing.
    PauseRefused {
        /// It was a pause; else the end of one.
        pause: bool,
        /// What speaks against it: a sentence for people.
        because: String,
    },
    /// [`Input::ForceLead`] is being carried out.
    Forcing {
        /// The term that is taken.
        term: Term,
        /// Whom the operator says to have stopped.
        stopped: Vec<MemberName>,
    },
    /// [`Input::ForceLead`] changed nothing.
    ForceRefused {
        /// What speaks against it: a sentence for people.
        because: String,
    },
}

/// How this member came to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ascent {
    /// Under which term it was elected. A term that was raised since has the same ascent.
    pub term: Term,
    /// Who led before, as far as was known.
    pub predecessor: Option<MemberName>,
    /// Why that one does not lead any more.
    pub reason: AscentReason,
    /// How long it took.
    pub phases: Phases,
}

/// How long the steps of a change of the lead took. Each counts from the cause: the last sign of life of a leader that
/// failed, or the moment at which it was seen to stop; without either, from when the lead was known to be free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// The failure was known.
    pub detected: Option<Duration>,
    /// The old leader said that its payload is gone.
    pub predecessor_stopped: Option<Duration>,
    /// The lead was won.
    pub elected: Duration,
}

/// Why the lead was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AscentReason {
    /// There was no leader before, or none that is known.
    Founding,
    /// This member led before, lost the lead, and nobody else is known to have led since.
    Regained,
    /// The leader's process ended while its host lives.
    Crash,
    /// Nothing was heard of the leader any more.
    Silence,
    /// The leader gave way to a higher rank.
    Rank,
    /// An operator moved the lead.
    Switchover,
    /// The leader's payload was not ready in time.
    Unhealthy,
    /// The leader's object was deleted, or it left the fleet.
    Removal,
    /// The leader gave it up for another reason.
    Handover,
    /// The payload was found running here.
    Found,
    /// An operator took the lead by force.
    Forced,
}

impl AscentReason {
    /// The word shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Founding => "Founded",
            Self::Regained => "Regained",
            Self::Crash => "Crash",
            Self::Silence => "Silence",
            Self::Rank => "Rank",
            Self::Switchover => "Switchover",
            Self::Unhealthy => "Unhealthy",
            Self::Removal => "Removal",
            Self::Handover => "Handover",
            Self::Found => "Found",
            Self::Forced => "Forced",
        }
    }
}
