//! The small fleets that are looked at.

use std::time::Duration;

use flagship_election::Spec;
use flagship_types::{ConfigVersion, FleetConfig, Health, MemberName, Metadata, Mode, Rank, Role, Term};

/// A small fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Members with their ranks. The first one may found alone.
    pub ranks: Vec<i64>,
    /// Which of them votes and never leads.
    pub witness: Option<usize>,
    /// What all objects propose.
    pub config: FleetConfig,
    /// A bug in every core.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<flagship_election::PlantedBug>,
}

/// How often what is not bounded by itself may happen on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Crashes.
    pub crashes: u8,
    /// Messages lost.
    pub losses: u8,
    /// Members taken for Down although they live.
    pub mistakes: u8,
}

pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(super) fn name(node: usize) -> MemberName {
    MemberName::new(NAMES[node]).expect("valid")
}

pub(super) fn health(payload_ready: bool) -> Health {
    Health { api: true, payload_valid: true, payload_ready, gates: true, failed: false }
}

impl Fleet {
    /// Members of these ranks, in Availability.
    pub fn new(ranks: &[i64]) -> Self {
        // A handover to a better rank, and a restart, take no time of their own.
        let config = FleetConfig {
            failback_delay: Duration::ZERO,
            restart_grace: Duration::from_secs(3),
            ..FleetConfig::default()
        };
        Self {
            ranks: ranks.to_vec(),
            witness: None,
            config,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// The same in Quorum: all vote, the last one may be a witness.
    pub fn in_quorum(self, witness: bool) -> Self {
        let count = self.ranks.len();
        let voters = (0..count).map(name).collect();
        let config = FleetConfig { mode: Mode::Quorum, voters, ..self.config };
        Self { config, witness: witness.then_some(count - 1), ..self }
    }

    pub(super) fn spec(&self, node: usize) -> Spec {
        Spec {
            rank: Rank(self.ranks[node]),
            ready: node == 0,
            candidate: self.witness != Some(node),
            witness: self.witness == Some(node),
            suspended: false,
            fences: false,
            promote_timeout: None,
            proposal: self.config.clone(),
        }
    }

    pub(super) fn metadata(&self, node: usize) -> Metadata {
        Metadata {
            address: None,
            rank: Rank(self.ranks[node]),
            candidate: self.witness != Some(node),
            health: health(false),
            role: Role::Joining,
            term: Term::NONE,
            leader: None,
            config: ConfigVersion(0),
            interrupted: false,
            fences: false,
            quorum: false,
            promoted: Term::NONE,
        }
    }
}
