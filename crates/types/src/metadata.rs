//! What a member says of itself, and what the fleet agreed on.

use std::time::Duration;

use crate::{ConfigVersion, MemberName, PeerAddress, Rank, Term};

/// The role a member has in its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Role {
    /// Starting: does not know yet who leads.
    #[default]
    Joining,
    /// Knows a leader, or waits for one; its payload does not run here.
    Standby,
    /// Asks for grants.
    Candidate,
    /// Its payload runs here.
    Leader,
    /// Was the leader and is deleting its payload.
    Stopping,
    /// Votes and never leads; it needs no cluster.
    Witness,
}

impl Role {
    /// The word shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "Joining",
            Self::Standby => "Standby",
            Self::Candidate => "Candidate",
            Self::Leader => "Leader",
            Self::Stopping => "Stopping",
            Self::Witness => "Witness",
        }
    }
}

/// What a member knows of its own fitness to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Health {
    /// Its API server answered lately.
    pub api: bool,
    /// A server-side dry run of its payload passed (or the payload runs).
    pub payload_valid: bool,
    /// Its payload runs and is ready.
    pub payload_ready: bool,
    /// Every object that its `spec.health.gates` names is there and ready.
    pub gates: bool,
    /// As a leader it gave the lead away lately because its payload did not get or stay ready: for a while it is
    /// neither a successor nor asks for the lead back. Set by the election, not by who measures health.
    pub failed: bool,
}

impl Health {
    /// Could run the payload, as far as can be known without trying.
    pub fn is_able(self) -> bool {
        self.api && self.payload_valid && self.gates
    }

    /// Is able, and did not fail lately.
    pub fn is_fit(self) -> bool {
        self.is_able() && !self.failed
    }
}

/// A member's metadata: written by its owner only, spread by membership, read by election. At most 1 KiB encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where the member can be dialled; `None` if only it can dial.
    pub address: Option<PeerAddress>,
    /// Its rank.
    pub rank: Rank,
    /// Whether it may lead.
    pub candidate: bool,
    /// Its fitness to lead.
    pub health: Health,
    /// Its role.
    pub role: Role,
    /// The term of that role: the own term of a leader, the followed leader's of a standby.
    pub term: Term,
    /// The leader it follows (itself, if it leads).
    pub leader: Option<MemberName>,
    /// The version of the fleet configuration it has stored.
    pub config: ConfigVersion,
    /// Whether it paused or restarted since it took the lead: then any higher term supersedes it.
    pub interrupted: bool,
    /// Whether it is promoted only after something outside the fleet has fenced an earlier leader's payload off.
    pub fences: bool,
    /// Whether it has stored that the fleet is in mode Quorum: before that it may lead without being granted it.
    pub quorum: bool,
    /// The newest term whose promotion went through, as far as it knows and tells: what fences had succeeded, or the
    /// payload ran. Payloads of older terms need no fence any more.
    pub promoted: Term,
}

/// How the fleet trades availability against safety in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// In each connected part one leader.
    #[default]
    Availability,
    /// Only who is granted the lead by a majority of the voters leads, and only as long as they renew its lease.
    Quorum,
}

impl Mode {
    /// The word shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Availability => "Availability",
            Self::Quorum => "Quorum",
        }
    }
}

/// Whether a better-ranked member takes the lead back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Failback {
    /// Rank decides, after the failback delay of steady health.
    #[default]
    Automatic,
    /// Only an operator or a failure moves the lead.
    Manual,
}

/// An operator stopped everything that moves the lead by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pause {
    /// Since when, in milliseconds of the wall clock of who set it.
    pub since_ms: u64,
    /// Why, for people; at most [`Pause::MAX_REASON`] bytes.
    pub reason: String,
}

impl Pause {
    /// The longest reason, in bytes.
    pub const MAX_REASON: usize = 256;
}

/// What all members must agree on. The record with the higher version is in force; the leader writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FleetConfig {
    /// Which of two records is newer.
    pub version: ConfigVersion,
    /// Availability or Quorum.
    pub mode: Mode,
    /// Who votes in Quorum: sorted, each once, at most [`FleetConfig::MAX_VOTERS`]. Empty in Availability.
    pub voters: Vec<MemberName>,
    /// D: for so long a voter promises not to elect another. Quorum only.
    pub lease: Duration,
    /// S: within this time after it lost its lease a leader's cluster has stopped the payload. Quorum only.
    pub stop_grace: Duration,
    /// Nothing moves the lead by itself.
    pub pause: Option<Pause>,
    /// Whether rank moves a running payload.
    pub failback: Failback,
    /// How long a better candidate must have been healthy before it asks for the lead.
    pub failback_delay: Duration,
    /// How long claims are refused after the leader's process, not its cluster, went away.
    pub restart_grace: Duration,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            version: ConfigVersion(0),
            mode: Mode::Availability,
            voters: Vec::new(),
            lease: Duration::from_secs(3),
            stop_grace: Duration::from_secs(10),
            pause: None,
            failback: Failback::Automatic,
            failback_delay: Duration::from_secs(1),
            restart_grace: Duration::from_secs(3),
        }
    }
}

impl FleetConfig {
    /// The most voters: more make every renewal slower and no fleet safer.
    pub const MAX_VOTERS: usize = 9;
    /// No time in it is longer: so no number that a person wrote into a status makes a sum overflow.
    pub const LONGEST: Duration = Duration::from_secs(7 * 86_400);

    /// Whether both say the same, versions and pauses aside: a pause is an operator's word, not an object's.
    pub fn same_settings(&self, other: &Self) -> bool {
        Self { version: other.version, pause: other.pause.clone(), ..self.clone() } == *other
    }
}
