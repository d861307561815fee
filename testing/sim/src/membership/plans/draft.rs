//! A plan in the making: who can be hit, and what is added.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use crate::membership::fault::{Fault, Host, Plan, Timed};
use crate::membership::rings::Rings;

/// A plan in the making.
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// Of the members' names in that run: faults of links hit links that are there.
    pub(super) rings: Rings,
    pub(super) rng: Pcg64Mcg,
}

impl Draft {
    pub(super) fn n(&self) -> usize {
        self.plan.members
    }

    pub(super) fn host(&mut self) -> Host {
        self.rng.random_range(0..self.n())
    }

    pub(super) fn other(&mut self, than: Host) -> Host {
        (than + self.rng.random_range(1..self.n())) % self.n()
    }

    /// Who is linked with this one because one observes the other.
    pub(super) fn linked(&self, host: Host) -> Vec<Host> {
        let members = |h: Host| h < self.n() && !self.plan.joins_later(h);
        let mut linked = self.rings.observers(host, members);
        let subjects =
            (0..self.n()).filter(|s| *s != host && self.rings.observers(*s, members).contains(&host));
        linked.extend(subjects);
        linked.sort_unstable();
        linked.dedup();
        linked
    }

    pub(super) fn peer(&mut self, of: Host) -> Host {
        let linked = self.linked(of);
        linked[self.rng.random_range(0..linked.len())]
    }

    /// Hosts in a random order.
    pub(super) fn shuffled(&mut self) -> Vec<Host> {
        let mut hosts: Vec<Host> = (0..self.n()).collect();
        hosts.shuffle(&mut self.rng);
        hosts
    }

    pub(super) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..to))
    }

    pub(super) fn add(&mut self, at: Duration, lasts: Duration, fault: Fault) {
        self.plan.faults.push(Timed { at, lasts, fault });
    }

    pub(super) fn crash(&mut self, at: Duration, host: Host, reset: bool) {
        self.add(at, Duration::ZERO, Fault::Crash { host, reset, back: None });
    }
}
