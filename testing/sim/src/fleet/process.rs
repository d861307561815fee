//! The daemon's process of a host: it starts, ends, is stopped and goes on.

use std::sync::Arc;
use std::time::Duration;

use flagship_membership::KnownMember;
use flagship_node::{Machine, MachineConfig, PauseDetector, Proof, Statement};
use flagship_types::{Callsign, Epoch, MemberName, Role};
use rand::RngExt;

use super::host::Process;
use super::world::{Event, World};
use crate::clock::ms;
use crate::paths::Host;

impl World {
    /// Starts the process of a host that has none.
    pub fn start(&mut self, id: Host) {
        self.hosts[id].silent = false;
        if self.hosts[id].process.is_some() {
            return;
        }
        match self.hosts[id].other {
            Some(_) => self.start_replicas(id),
            None => self.serve(id),
        }
    }

    /// A process that holds the member's local Lease, if there is one, joins the fleet.
    pub(super) fn serve(&mut self, id: Host) {
        let (now, wall_ms, seed) = (self.now, self.wall_ms(id), self.rng.random());
        let known: Vec<_> = self.hosts[id].known.iter().map(|name| self.known_member(name)).collect();
        let host = &mut self.hosts[id];
        let local = host.clock.read(now);
        // No other process of the host ever had that number.
        host.number = host.number.max(host.other.as_ref().map_or(0, |other| other.number)) + 1;
        host.frozen = false;
        host.disturbed = now;
        let epoch = host.next_epoch(wall_ms);
        if let Some(record) = &mut host.durable {
            record.epoch = epoch;
        }
        let config = MachineConfig {
            callsign: Callsign::new("federation").expect("valid"),
            member: host.spec.member(),
            epoch,
            wall_ms,
            spec: host.spec.node_spec(),
            restored: host.restored(),
            known,
            beat_interval: Duration::from_secs(1),
            silence_floor: Duration::from_secs(3),
            seed,
            votes_until: host.votes_until(),
        };
        let found_stopping = host.durable.as_ref().and_then(|record| record.election.stopping);
        let signer = Arc::new(|_: &Statement| Some(Proof::default()));
        #[cfg(not(feature = "planted-bugs"))]
        let machine = Machine::new(config, signer, local);
        #[cfg(feature = "planted-bugs")]
        let mut machine = Machine::with_bug(config, signer, local, self.record.planted);
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.record.planted_in_membership {
            machine.plant(bug);
        }
        let directive = machine.directive().clone();
        host.process = Some(Process {
            machine,
            pauses: PauseDetector::new(local, wall_ms),
            due: local,
            directive,
            step: 0,
            began: false,
            deleting_since: None,
            writing_until: 0,
            unsaved: None,
            saving: false,
            started: now,
            found_stopping,
            leaving: false,
            ran: false,
            hurried: None,
        });
        let name = host.spec.name;
        self.log(format_args!("{name} starts, epoch {}", epoch.0));
        self.checks.started(id);
        self.report_health(id);
        self.perform(id);
        self.follow_directive(id);
    }

    fn known_member(&self, name: &MemberName) -> KnownMember {
        let host = self.hosts.iter().find(|host| host.spec.member() == *name);
        let epoch = host.and_then(|host| host.durable.as_ref()).map_or(Epoch(0), |record| record.epoch);
        KnownMember { name: name.clone(), epoch, address: host.map(|host| host.spec.address()), record: None }
    }

    /// Ends the process. With `reset` its address refuses from now on, else nothing answers there.
    pub fn kill(&mut self, id: Host, reset: bool) {
        let Some(process) = &self.hosts[id].process else {
            self.hosts[id].silent |= !reset;
            return;
        };
        let lands = process.saving && self.may_store(id) && self.rng.random_range(0..2) == 0;
        if lands && let Some(record) = process.unsaved.clone() {
            // What was on its way to the API server may arrive.
            self.make_durable(id, record);
        }
        let host = &mut self.hosts[id];
        host.silent = !reset;
        host.disturbed = self.now;
        host.frozen = false;
        host.waiting.clear();
        let name = host.spec.name;
        self.log(format_args!("{name} ends"));
        if reset {
            self.reset_streams(id);
        }
        self.hosts[id].process = None;
        self.daemon_died(id);
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, id: Host) {
        self.hosts[id].frozen = true;
        self.hosts[id].disturbed = self.now;
        self.note_cover(id, true);
    }

    /// SIGCONT: what waited comes at once, in order.
    pub fn thaw(&mut self, id: Host) {
        self.hosts[id].frozen = false;
        self.hosts[id].disturbed = self.now;
        self.note_cover(id, false);
        if let Some(process) = &self.hosts[id].process
            && self.hosts[id].clock.read(self.now) > process.due
        {
            self.missed(id);
        }
        let waiting = std::mem::take(&mut self.hosts[id].waiting);
        self.wake(id);
        for event in waiting {
            self.push(self.now, event);
        }
    }

    /// A process ends; one that gives its lead away once it has none.
    pub(super) fn exit(&mut self, id: Host, number: u64) {
        if self.hosts[id].number != number {
            return;
        }
        let Some(process) = &self.hosts[id].process else { return };
        let leads =
            process.leaving && matches!(self.role(id), Some(Role::Leader | Role::Stopping | Role::Candidate));
        if leads || self.hosts[id].frozen {
            return self.push(self.now + ms(200), Event::Exit { host: id, process: number });
        }
        self.kill(id, true);
        self.release_local_lease(id);
    }
}
