//! A plan in the making: who can be hit, and what is added.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use crate::fleet::fault::{Back, Fault, Host, Plan, Timed};

/// A plan in the making.
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// Members, without those that a plan adds.
    pub(super) members: usize,
    pub(super) rng: Pcg64Mcg,
}

impl Draft {
    pub(super) fn n(&self) -> usize {
        self.members
    }

    pub(super) fn host(&mut self) -> Host {
        // The leader is where most of it happens.
        if self.rng.random_range(0..2) == 0 { self.leader() } else { self.rng.random_range(0..self.n()) }
    }

    /// A host with a cluster: a witness has none.
    pub(super) fn cluster(&mut self) -> Host {
        let host = self.host();
        if self.plan.hosts[host].witness { self.leader() } else { host }
    }

    /// Another one with a cluster.
    pub(super) fn other_cluster(&mut self, than: Host) -> Host {
        let other = self.other(than);
        match self.plan.hosts[other].witness {
            true => (0..self.n()).find(|h| *h != than && !self.plan.hosts[*h].witness).unwrap_or(other),
            false => other,
        }
    }

    pub(super) fn other(&mut self, than: Host) -> Host {
        (than + self.rng.random_range(1..self.n())) % self.n()
    }

    /// Who probably leads when the plan begins: the best by rank, then name. With a manual failback whoever came first.
    pub(super) fn leader(&self) -> Host {
        let order = |host: &Host| {
            let spec = &self.plan.hosts[*host];
            (spec.witness, -spec.rank, *host)
        };
        let by_rank = (0..self.n()).min_by_key(order).unwrap_or(0);
        match self.plan.hosts[0].config.failback {
            flagship_types::Failback::Automatic => by_rank,
            flagship_types::Failback::Manual => 0,
        }
    }

    /// Hosts in a random order.
    pub(super) fn shuffled(&mut self) -> Vec<Host> {
        let mut hosts: Vec<Host> = (0..self.n()).collect();
        hosts.shuffle(&mut self.rng);
        hosts
    }

    /// Some of them, not all.
    pub(super) fn some(&mut self) -> Vec<Host> {
        let mut hosts = self.shuffled();
        let most = self.n().saturating_sub(1).max(1);
        hosts.truncate(self.rng.random_range(1..=most));
        hosts.sort_unstable();
        hosts
    }

    pub(super) fn chance(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    pub(super) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..to))
    }

    /// How long faults last: shorter than any timer here, about as long as one, and much longer.
    pub(super) fn while_(&mut self) -> Duration {
        let (from, to) = [(100, 900), (900, 3_500), (3_000, 9_000), (8_000, 20_000), (20_000, 65_000)]
            [self.rng.random_range(0..5)];
        self.ms(from, to)
    }

    pub(super) fn add(&mut self, at: Duration, lasts: Duration, fault: Fault) {
        self.plan.faults.push(Timed { at, lasts, fault });
    }

    pub(super) fn now(&mut self, at: Duration, fault: Fault) {
        self.add(at, Duration::ZERO, fault);
    }

    pub(super) fn restart(&mut self, at: Duration, lasts: Duration, host: Host) {
        let reset = !self.chance(3);
        self.add(at, lasts, Fault::Crash { host, reset, back: Some(Back::Whole) });
    }
}
