//! What a member makes durable.

use std::time::Duration;

use flagship_types::{FleetConfig, MemberName, Term};

/// What a member makes durable: to its object's status. One record, replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts up within this process; says which `Persisted` belongs to it.
    pub version: u64,
    /// The highest term granted, and to whom; `None`: never voted.
    pub vote: Option<Vote>,
    /// Quorum: what came with that vote, and with those before it whose payload may still run. A voter that restarts
    /// votes for nobody else for as long as it had promised.
    pub promise: Option<Promise>,
    /// The term under which this member leads or was leading when it last wrote.
    pub held: Option<Term>,
    /// The term whose payload is being deleted: a process that finds it only completes the stop.
    pub stopping: Option<Term>,
    /// The own lead that was released, until a newer one is known: a process that restarts meanwhile says so again. What
    /// nobody heard would else be waited for as if the payload still ran.
    pub released: Option<Term>,
    /// The highest term this member has seen.
    pub term: Term,
    /// The leader it follows, for the status.
    pub leader: Option<MemberName>,
    /// The fleet configuration in force here.
    pub config: FleetConfig,
    /// As a leader: the configuration before that one, until majorities of both have stored the new one. It binds as long,
    /// also a process that restarts meanwhile.
    pub replaced: Option<Box<FleetConfig>>,
    /// An operator's switchover gave this member the lead that it holds: rank does not move it.
    pub chosen: bool,
    /// Members an operator declared gone.
    pub forgotten: Vec<MemberName>,
}

impl Record {
    /// Of a member that never voted, led or met anybody.
    pub fn new(config: FleetConfig) -> Self {
        Self {
            version: 0,
            vote: None,
            promise: None,
            held: None,
            stopping: None,
            released: None,
            term: Term::NONE,
            leader: None,
            config,
            replaced: None,
            chosen: false,
            forgotten: Vec::new(),
        }
    }
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// In which term.
    pub term: Term,
    /// To whom.
    pub candidate: MemberName,
}

/// What a voter promised whom it granted the lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Promise {
    /// D: nobody else is granted the lead for so long after each renewal.
    pub lease: Duration,
    /// S: and nobody else may run the payload for 1.05 times as long after that.
    pub stop_grace: Duration,
}

impl Promise {
    /// No D and no S is longer. What a person may have written into a status is cut to this, so that no number there
    /// overflows.
    pub const LONGEST: Duration = FleetConfig::LONGEST;
}
