//! A simulated host: one cluster with its API, its payload and, while it runs, its daemon.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use flagship_node::{Directive, DurableRecord, ElectionSpec, Machine, NodeSpec, PauseDetector, Restored};
use flagship_types::{Epoch, FleetConfig, MemberName, PeerAddress, Rank, Term};

use super::local_lease::{Daemon, LocalLease};
use super::payload::Payload;
use super::world::Event;
use crate::clock::{Clock, Nanos};

/// What a host is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The host's name, which is its address.
    pub name: &'static str,
    /// The member's name: another one's if two clusters were given the same.
    pub member: &'static str,
    /// Its rank.
    pub rank: i64,
    /// May found alone.
    pub ready: bool,
    /// May lead.
    pub candidate: bool,
    /// Votes and never leads; it has no cluster.
    pub witness: bool,
    /// A second replica of its daemon waits for the local Lease.
    pub second: bool,
    /// Whom it knows at first.
    pub seeds: Vec<&'static str>,
    /// The fleet settings its object proposes.
    pub config: FleetConfig,
    /// How long its payload takes: the first write after the directive, until pods are ready, until they are gone.
    pub payload: [Duration; 3],
}

impl HostSpec {
    /// A host with a quick payload.
    pub fn new(name: &'static str, rank: i64, ready: bool, seeds: &[&'static str]) -> Self {
        let payload = [Duration::from_millis(20), Duration::from_millis(500), Duration::from_millis(300)];
        let (seeds, config) = (seeds.to_vec(), FleetConfig::default());
        Self {
            name,
            member: name,
            rank,
            ready,
            candidate: true,
            witness: false,
            second: false,
            seeds,
            config,
            payload,
        }
    }

    /// Its member name.
    pub fn member(&self) -> MemberName {
        MemberName::new(self.member).expect("test names are valid")
    }

    /// Its address.
    pub fn address(&self) -> PeerAddress {
        PeerAddress::parse(self.name, 9990).expect("test names are valid")
    }

    /// What its daemon reads of the object.
    pub(crate) fn node_spec(&self) -> NodeSpec {
        let election = ElectionSpec {
            rank: Rank(self.rank),
            ready: self.ready,
            candidate: self.candidate,
            witness: self.witness,
            suspended: false,
            fences: false,
            promote_timeout: None,
            proposal: self.config.clone(),
        };
        let seeds = self.seeds.iter().map(|s| PeerAddress::parse(s, 9990).expect("test names are valid"));
        NodeSpec { election, address: Some(self.address()), seeds: seeds.collect() }
    }
}

/// A daemon.
pub(crate) struct Process {
    pub(crate) machine: Machine,
    pub(crate) pauses: PauseDetector,
    /// When, on its own clock, the loop had meant to run.
    pub(crate) due: flagship_types::Instant,
    /// The newest directive that the payload worker was told.
    pub(crate) directive: Directive,
    /// Counts the worker's steps: a step that was overtaken is ignored.
    pub(crate) step: u64,
    /// The worker said that it begins to delete for this stop.
    pub(crate) began: bool,
    /// Since when it deletes.
    pub(crate) deleting_since: Option<Nanos>,
    /// When the write that was sent last is answered.
    pub(crate) writing_until: Nanos,
    /// The newest record that waits for storage, and whether one is being written.
    pub(crate) unsaved: Option<DurableRecord>,
    pub(crate) saving: bool,
    pub(crate) started: Nanos,
    /// The stop that its record had under way when it started: it may only complete that.
    pub(crate) found_stopping: Option<Term>,
    /// Ends when its lead is gone.
    pub(crate) leaving: bool,
    /// It saw its payload whole under its own lead.
    pub(crate) ran: bool,
    /// Since when the payload of that term has to end at once.
    pub(crate) hurried: Option<(Term, Nanos)>,
}

/// One of two replicas, while the other one's process is the one that the host's own fields are about.
pub(crate) struct Replica {
    pub(crate) daemon: Daemon,
    pub(crate) process: Option<Process>,
    pub(crate) number: u64,
    pub(crate) frozen: bool,
    pub(crate) waiting: VecDeque<Event>,
}

pub(crate) struct Host {
    pub(crate) spec: HostSpec,
    pub(crate) clock: Clock,
    /// The wall clock ahead of where the boot clock would have it, in milliseconds.
    pub(crate) wall_ahead_ms: i64,
    pub(crate) process: Option<Process>,
    /// Counts processes: streams and events of an earlier one are ignored.
    pub(crate) number: u64,
    /// The daemon around that process, and the other replica's, if there are two.
    pub(crate) daemon: Daemon,
    pub(crate) other: Option<Box<Replica>>,
    /// The local Lease of the two.
    pub(crate) lease: LocalLease,
    /// While set, nothing of the process runs; what arrives waits.
    pub(crate) frozen: bool,
    pub(crate) waiting: VecDeque<Event>,
    /// Nothing answers at its address.
    pub(crate) silent: bool,
    pub(crate) api_up: bool,
    pub(crate) api_changed: Nanos,
    /// Faults that hold deletes or make them slow, or the payload invalid, each counted.
    pub(crate) stuck: bool,
    pub(crate) slow: Duration,
    pub(crate) invalid: bool,
    pub(crate) durable: Option<DurableRecord>,
    pub(crate) known: BTreeSet<MemberName>,
    pub(crate) payload: Payload,
    /// The last time anything was done to it.
    pub(crate) disturbed: Nanos,
}

impl Host {
    pub(crate) fn new(spec: HostSpec, clock: Clock) -> Self {
        let other = spec.second.then(|| {
            let (process, number, frozen, waiting) = (None, 0, false, VecDeque::new());
            Box::new(Replica { daemon: Daemon::new(1), process, number, frozen, waiting })
        });
        Self {
            spec,
            clock,
            wall_ahead_ms: 0,
            process: None,
            number: 0,
            daemon: Daemon::new(0),
            other,
            lease: LocalLease::default(),
            frozen: false,
            waiting: VecDeque::new(),
            silent: false,
            api_up: true,
            api_changed: 0,
            stuck: false,
            slow: Duration::ZERO,
            invalid: false,
            durable: None,
            known: BTreeSet::new(),
            payload: Payload::default(),
            disturbed: 0,
        }
    }

    /// Its process exists and is not stopped.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some() && !self.frozen
    }

    /// Its API server answers, and the process's node reaches it.
    pub(crate) fn reaches_api(&self) -> bool {
        self.api_up && self.daemon.reaches_api
    }

    /// The machines of all its processes: of two replicas a second one may not know yet that it is not the one any more.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Machine> {
        let other = self.other.iter().filter_map(|other| other.process.as_ref());
        self.process.iter().chain(other).map(|process| &process.machine)
    }

    pub(crate) fn machine(&self) -> Option<&Machine> {
        self.process.as_ref().map(|process| &process.machine)
    }

    pub(crate) fn next_epoch(&self, wall_ms: u64) -> Epoch {
        let stored = self.durable.as_ref().map_or(0, |record| record.epoch.0);
        Epoch(wall_ms.max(stored + 1))
    }

    pub(crate) fn restored(&self) -> Restored {
        Restored {
            record: self.durable.as_ref().map(|record| record.election.clone()),
            found_running: self.payload.annotated(),
            known_peers: self.known.iter().cloned().collect(),
            lapse: None,
        }
    }
}
