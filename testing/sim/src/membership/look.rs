//! What can be read of a fleet from outside, while it runs.

use std::hash::Hasher as _;

use flagship_membership::{Membership, State};

use super::checks::Violation;
use super::fault::Host;
use super::names::Names;
use super::process::Process;
use super::tally::Tally;
use super::world::World;
use crate::clock::Nanos;

/// So many views of a large fleet are looked at one by one.
const SAMPLE: usize = 300;

impl World {
    /// Virtual time since the start.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The core of a host that has one.
    pub fn core(&self, host: Host) -> Option<&Membership> {
        self.members[host].core.as_ref()
    }

    /// Whether its process exists, frozen or not.
    pub fn lives(&self, host: Host) -> bool {
        self.members[host].process.lives()
    }

    /// Counters and verdicts.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What one believes of another.
    pub fn state(&self, viewer: Host, subject: Host) -> Option<State> {
        let view = self.core(viewer)?.member(self.names.name(subject))?;
        Some(view.state)
    }

    /// Hosts whose process exists.
    pub fn living(&self) -> Vec<Host> {
        (0..self.members.len()).filter(|host| self.lives(*host)).collect()
    }

    /// Living members that run and never lied: those whose views must be right.
    pub fn healthy(&self) -> Vec<Host> {
        let liar = |host: Host| self.checks.as_ref().is_some_and(|checks| checks.is_liar(host));
        let runs = |host: &Host| self.members[*host].process == Process::Running;
        (0..self.members.len()).filter(runs).filter(|host| !liar(*host)).collect()
    }

    /// Who lies, or did.
    pub fn liars(&self) -> Vec<Host> {
        let liar = |host: &Host| self.checks.as_ref().is_some_and(|checks| checks.is_liar(*host));
        (0..self.members.len()).filter(liar).collect()
    }

    /// How many streams a process holds.
    pub fn open_links(&self, host: Host) -> usize {
        self.members[host].streams.len()
    }

    /// The members at the other ends of its streams.
    pub fn peers(&self, host: Host) -> Vec<Host> {
        let other = |slot: &u32| {
            let ends = &self.streams[*slot as usize].ends;
            if ends[0].host == host { ends[1].host } else { ends[0].host }
        };
        let mut peers: Vec<Host> = self.members[host].streams.iter().map(other).collect();
        peers.sort_unstable();
        peers
    }

    /// Names of the members.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What the checkers found so far.
    pub fn found(&self) -> Vec<Violation> {
        self.checks.as_ref().map(|checks| checks.found().to_vec()).unwrap_or_default()
    }

    /// Whether the checkers found anything.
    pub fn has_found(&self) -> bool {
        self.checks.as_ref().is_some_and(|checks| !checks.found().is_empty())
    }

    /// Whether it was ever started.
    pub fn was_started(&self, host: Host) -> bool {
        self.members[host].number > 0
    }

    /// The timeline since the plan began.
    pub fn timeline(&self) -> Vec<String> {
        self.trace.as_ref().map(|trace| trace.lines(&self.names, self.plan_began)).unwrap_or_default()
    }

    /// When the plan began.
    pub fn plan_began(&self) -> Nanos {
        self.plan_began
    }

    /// Whether all living members hold all living members Alive and have their records.
    pub fn complete(&self) -> bool {
        let living = self.living();
        // What they show is in the view hash, but for the records that are not there yet.
        let hash = |host: &Host| self.core(*host).map(|core| (core.size(), core.view_hash()));
        if living.windows(2).any(|two| hash(&two[0]) != hash(&two[1])) {
            return false;
        }
        let viewers = living.iter().step_by(living.len().div_ceil(SAMPLE).max(1));
        let knows = |core: &Membership, subject: Host| {
            let view = core.member(self.names.name(subject));
            view.is_some_and(|view| view.state == State::Alive && view.metadata.is_some())
        };
        viewers.into_iter().all(|viewer| {
            self.core(*viewer).is_some_and(|core| living.iter().all(|subject| knows(core, *subject)))
        })
    }

    /// The digest of everything every core put out so far.
    pub fn digest(&self) -> Option<u64> {
        self.digest.as_ref().map(|(hasher, _)| hasher.finish())
    }
}
