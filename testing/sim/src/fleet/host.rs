//! A simulated host: one cluster with its API, its payload and, while it runs, its daemon.

use std::collections::BTreeSet;
use std::time::Duration;

use flagship_node::{DurableRecord, Machine, PauseDetector, Restored};
use flagship_types::{Epoch, Instant, MemberName, PeerAddress, Rank, Term};

/// What a host is made of.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// The member's name, which is also its host name.
    pub name: &'static str,
    /// Its rank.
    pub rank: i64,
    /// May found alone.
    pub ready: bool,
    /// Whom it knows at first.
    pub seeds: Vec<&'static str>,
    /// How long its payload takes to be created, to become ready, and to be deleted.
    pub payload: [Duration; 3],
}

impl HostSpec {
    /// A host with a quick payload.
    pub fn new(name: &'static str, rank: i64, ready: bool, seeds: &[&'static str]) -> Self {
        let payload = [Duration::from_millis(50), Duration::from_millis(500), Duration::from_millis(300)];
        Self { name, rank, ready, seeds: seeds.to_vec(), payload }
    }

    /// Its member name.
    pub fn member(&self) -> MemberName {
        MemberName::new(self.name).expect("test names are valid")
    }

    /// Its address.
    pub fn address(&self) -> PeerAddress {
        PeerAddress::parse(self.name, 9990).expect("test names are valid")
    }

    pub(crate) fn rank(&self) -> Rank {
        Rank(self.rank)
    }
}

/// What runs of the payload in a cluster. It outlives the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadState {
    /// Nothing is there.
    Absent,
    /// Created, not ready yet.
    Starting {
        /// When it was created.
        created: Instant,
        /// Under which term.
        term: Term,
    },
    /// Runs.
    Ready {
        /// When it was created.
        created: Instant,
        /// Under which term.
        term: Term,
    },
}

impl PayloadState {
    /// Whether anything of it exists.
    pub fn exists(self) -> bool {
        self != Self::Absent
    }

    pub(crate) fn created(self) -> Option<(Instant, Term)> {
        match self {
            Self::Absent => None,
            Self::Starting { created, term } | Self::Ready { created, term } => Some((created, term)),
        }
    }
}

/// What the payload worker is busy with; its steps are events, and a step of an old job is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Idle,
    Apply(Term),
    Delete(Option<Term>),
}

pub(crate) struct Host {
    pub spec: HostSpec,
    pub machine: Option<Machine>,
    pub pauses: PauseDetector,
    /// When the loop had meant to run.
    pub due: Option<Instant>,
    /// Counts starts: streams and events of an earlier process are ignored.
    pub process: u64,
    /// When the process started.
    pub started: Instant,
    /// While set, nothing of the process runs; what arrives waits.
    pub frozen: bool,
    pub api_up: bool,
    pub durable: Option<DurableRecord>,
    pub known: BTreeSet<MemberName>,
    pub payload: PayloadState,
    pub job: Job,
    pub job_number: u64,
    /// The newest record that waits for storage.
    pub unsaved: Option<DurableRecord>,
    pub saving: bool,
}

impl Host {
    pub(crate) fn new(spec: HostSpec) -> Self {
        Self {
            spec,
            machine: None,
            pauses: PauseDetector::new(Instant::ZERO, 0),
            due: None,
            process: 0,
            started: Instant::ZERO,
            frozen: false,
            api_up: true,
            durable: None,
            known: BTreeSet::new(),
            payload: PayloadState::Absent,
            job: Job::Idle,
            job_number: 0,
            unsaved: None,
            saving: false,
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.machine.is_some() && !self.frozen
    }

    pub(crate) fn next_epoch(&self, wall_ms: u64) -> Epoch {
        let stored = self.durable.as_ref().map_or(0, |record| record.epoch.0);
        Epoch(wall_ms.max(stored + 1))
    }

    pub(crate) fn restored(&self) -> Restored {
        Restored {
            record: self.durable.as_ref().map(|record| record.election.clone()),
            found_running: self.payload.created().map(|(_, term)| term),
            known_peers: self.known.iter().cloned().collect(),
            lapse: None,
        }
    }
}
