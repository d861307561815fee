//! The roles with what each of them has to remember, and the only ways from one to another.

use flagship_types::{ConfigVersion, Instant, MemberName, Role, Term};

use crate::core::Election;
use crate::io::{Event, ResignReason};

#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Joining(Joining),
    Standby,
    Candidate(Campaign),
    Leader(Lead),
    Stopping(Stopping),
}

/// Starting. `held`: an earlier process of this member led, and its payload is still here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joining {
    pub(crate) held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) term: Term,
    /// The record says so. Else only the payload was found, and a fresh term is needed: the record was lost, or
    /// the process ended before it was whole again.
    pub(crate) recorded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asks who would grant.
    Pre,
    /// Asks for grants, once the own vote is durable.
    Claim {
        /// The record version with the own vote.
        after: u64,
    },
    /// Was refused and waits until the refusals lapse.
    Refused,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Campaign {
    /// The configuration under which it asks.
    pub(crate) config: ConfigVersion,
    pub(crate) term: Term,
    pub(crate) phase: Phase,
    pub(crate) phase_since: Instant,
    /// Which answers belong to the present phase.
    pub(crate) round: u64,
    /// Since when the lead was known to be free.
    pub(crate) vacant_since: Instant,
    pub(crate) failover: bool,
    /// The release it rests on.
    pub(crate) released: Option<Term>,
    /// The payload that was found here without a recorded lead.
    pub(crate) found: Option<Term>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Lead {
    pub(crate) term: Term,
    /// The record version that holds this term: until it is durable nothing may run.
    pub(crate) after: u64,
    pub(crate) resumed: bool,
    pub(crate) since: Instant,
    /// Since when nothing is written because the process paused.
    pub(crate) hold: Option<Instant>,
    /// A higher term that is being taken without disturbing the payload: the term, and its record version.
    pub(crate) raise: Option<(Term, u64)>,
    pub(crate) raised_at: Option<Instant>,
    /// The higher term whose leader is waited for, as this one has not met him, and since when.
    pub(crate) unmet: Option<(Term, Instant)>,
    /// The lead was announced and the payload directed.
    pub(crate) begun: bool,
    /// Quorum: won, and the payload of those before may run until then. Only after that the lead is held.
    pub(crate) waits_until: Option<Instant>,
}

impl Lead {
    /// A lead whose record has this version, from now on: nothing of it was announced yet.
    pub(crate) fn new(term: Term, after: u64, now: Instant) -> Self {
        Self {
            term,
            after,
            resumed: false,
            since: now,
            hold: None,
            raise: None,
            raised_at: None,
            unmet: None,
            begun: false,
            waits_until: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Stopping {
    pub(crate) term: Term,
    pub(crate) reason: ResignReason,
    pub(crate) successor: Option<MemberName>,
    pub(crate) since: Instant,
    /// The record version that has to be durable for the next step.
    pub(crate) after: u64,
    /// The worker was told to stop.
    pub(crate) directed: bool,
    /// The first object was deleted, or is about to be: no way back by abort.
    pub(crate) began: bool,
    /// The payload is gone.
    pub(crate) stopped: bool,
    /// The object that does not go.
    pub(crate) stuck: Option<String>,
}

impl Stage {
    /// The payload may be here: led, found, or being deleted.
    pub(crate) fn has_payload(&self) -> bool {
        match self {
            Self::Joining(joining) => joining.held.is_some(),
            Self::Standby => false,
            Self::Candidate(campaign) => campaign.found.is_some(),
            Self::Leader(_) | Self::Stopping(_) => true,
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self {
            Self::Joining(_) => Role::Joining,
            Self::Standby => Role::Standby,
            Self::Candidate(_) => Role::Candidate,
            Self::Leader(_) => Role::Leader,
            Self::Stopping(_) => Role::Stopping,
        }
    }
}

impl Election {
    /// Knows who leads or waits for it; nothing runs here. A leader comes here only if it never began.
    pub(crate) fn become_standby(&mut self) {
        let is_idle = !matches!(&self.stage, Stage::Leader(lead) if lead.begun);
        let legal: &[Role] = match is_idle {
            true => &[Role::Joining, Role::Candidate, Role::Stopping, Role::Leader],
            false => &[],
        };
        self.become_stage(Stage::Standby, legal);
    }

    /// Asks for the lead.
    pub(crate) fn become_candidate(&mut self, campaign: Campaign) {
        self.become_stage(Stage::Candidate(campaign), &[Role::Standby, Role::Joining]);
    }

    /// Leads: granted, resumed after a restart, or after a stop that was called off.
    pub(crate) fn become_leader(&mut self, lead: Lead) {
        self.gate.restart();
        self.become_stage(Stage::Leader(lead), &[Role::Candidate, Role::Joining, Role::Stopping]);
    }

    /// Gives the payload up.
    pub(crate) fn become_stopping(&mut self, stopping: Stopping) {
        self.become_stage(Stage::Stopping(stopping), &[Role::Leader, Role::Joining, Role::Candidate]);
    }

    fn become_stage(&mut self, next: Stage, legal: &[Role]) {
        let (from, to) = (self.stage.role(), next.role());
        let is_legal = legal.contains(&from);
        debug_assert!(is_legal, "{from:?} -> {to:?}");
        if !is_legal {
            // Our own bug: staying is always safe, as the payload stays as it is.
            self.stats.illegal_moves += 1;
            return;
        }
        let before = std::mem::replace(&mut self.stage, next);
        self.moves += 1;
        let term = match (before, to) {
            // The lead that ended here; the own term is the successor's already, if that is known.
            (Stage::Stopping(stopping), Role::Standby) => stopping.term,
            _ => self.term(),
        };
        self.event(Event::RoleChanged { from, to, term });
    }
}
