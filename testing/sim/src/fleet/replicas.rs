//! What is done to the replicas of a member. And all of them end at once, in mode Quorum: each took the other for the one that takes over. What
//! `Worker::leave` of the controller does then: the payload is stopped without a node, and a node joins once more to
//! release the lead.

use std::time::Duration;

use flagship_node::{Directive, ResignReason};
use flagship_types::Mode;

use super::fault::ReplicaFault;
use super::faults::LEAVING;
use super::world::{Event, World};
use crate::clock::{ms, nanos};
use crate::paths::Host;

/// What a daemon announces that ends (`AWAY_GRACE` of the controller).
const AWAY: Duration = Duration::from_secs(30);
/// Until it is clear that no other replica takes the local Lease, and that it is this process's again.
const RELIEF: u64 = ms(2_000);
/// What could not be done is tried again.
const AGAIN: u64 = ms(500);
/// How long the release is waited for to be heard.
const HEARD: u64 = ms(3_000);

impl World {
    /// Something is done to the replica that acts, or to the other one. Which place of the two that was, if it could be.
    pub(super) fn begin_replica(&mut self, id: Host, acting: bool, what: ReplicaFault) -> Option<usize> {
        if !acting {
            self.turn_over(id);
        }
        let (slot, did) = (self.hosts[id].daemon.slot, self.hosts[id].daemon.up);
        if did {
            match what {
                ReplicaFault::Killed => self.kill_replica(id),
                ReplicaFault::Stopped => self.freeze(id),
                ReplicaFault::Ended => self.end_replica(id),
                ReplicaFault::CutOff => self.reach_api(id, false),
            }
        }
        self.turn_to_acting(id);
        did.then_some(slot)
    }

    /// That is over.
    pub(super) fn end_replica_fault(&mut self, id: Host, slot: usize, what: ReplicaFault) {
        self.turn_to_slot(id, slot);
        match what {
            // The kubelet starts the container again.
            ReplicaFault::Killed if !self.hosts[id].daemon.up => self.daemon_starts(id, false),
            ReplicaFault::Stopped if self.hosts[id].frozen => {
                self.thaw(id);
                self.shows_soon(id);
            }
            ReplicaFault::Ended => {
                // A pod that does not end is killed; there is a new one in its place.
                if self.hosts[id].daemon.up {
                    self.kill_replica(id);
                }
                self.daemon_starts(id, true);
            }
            ReplicaFault::CutOff => self.reach_api(id, true),
            ReplicaFault::Killed | ReplicaFault::Stopped => {}
        }
        self.turn_to_acting(id);
    }

    fn kill_replica(&mut self, id: Host) {
        match self.hosts[id].process {
            Some(_) => self.kill(id, true),
            None => self.daemon_died(id),
        }
    }

    /// The replica's node does not reach the API server, or does again.
    fn reach_api(&mut self, id: Host, reaches: bool) {
        let now = self.now;
        let daemon = &mut self.hosts[id].daemon;
        (daemon.reaches_api, daemon.reach_changed) = (reaches, now);
        self.hosts[id].disturbed = now;
        self.note_cover(id, !reaches);
        self.report_health(id);
        if reaches {
            self.save(id);
            self.shows_soon(id);
        } else {
            self.push(now + ms(1_500), Event::Look { host: id });
        }
    }

    /// SIGTERM, after `Tenure::interrupted` of the controller: who has no second replica in Quorum gives the lead away.
    fn end_replica(&mut self, id: Host) {
        let host = &self.hosts[id];
        let Some(machine) = host.machine() else {
            self.daemon_died(id);
            return self.release_local_lease(id);
        };
        let is_quorum = machine.election().config().mode == Mode::Quorum;
        let must_not_run_on =
            is_quorum && *machine.directive() != Directive::Absent && !host.sees_second(self.now);
        if must_not_run_on {
            self.with_machine(id, |machine, now| machine.retire(ResignReason::Operator, now));
            return self.leave_soon(id, ms(500));
        }
        let process = host.number;
        self.with_machine(id, |machine, now| machine.away(AWAY, now));
        self.push(self.now + LEAVING, Event::Exit { host: id, process });
        if is_quorum {
            self.push(self.now + LEAVING + RELIEF, Event::Unleased { host: id, process });
        }
    }

    /// SIGTERM to all daemons of a host.
    pub fn end_replicas(&mut self, id: Host) {
        self.hosts[id].disturbed = self.now;
        self.with_machine(id, |machine, now| machine.away(AWAY, now));
        let process = self.hosts[id].number;
        self.push(self.now + LEAVING, Event::Exit { host: id, process });
        self.push(self.now + LEAVING + RELIEF, Event::Unleased { host: id, process });
    }

    /// Nobody took over: records the stop and deletes the payload; then says so.
    pub(super) fn unleased(&mut self, id: Host, number: u64) {
        if self.hosts[id].number != number || self.hosts[id].process.is_some() {
            // Somebody was started meanwhile, and goes on.
            return;
        }
        if !self.takes_lease_back(id) {
            return;
        }
        let Some(held) = self.hosts[id].durable.as_ref().and_then(|record| record.election.held) else {
            return;
        };
        if !self.hosts[id].reaches_api() {
            self.refused_write(id);
            return self.push(self.now + AGAIN, Event::Unleased { host: id, process: number });
        }
        if self.hosts[id].payload.exists(self.now) {
            if let Some(record) = &mut self.hosts[id].durable {
                record.election.stopping = record.election.stopping.or(Some(held));
            }
            self.halt(id);
            return self.push(self.now + AGAIN, Event::Unleased { host: id, process: number });
        }
        match self.hosts[id].other {
            Some(_) => self.join_as_holder(id),
            None => self.start(id),
        }
        self.with_machine(id, |machine, now| machine.retire(ResignReason::Operator, now));
        self.leave_soon(id, HEARD);
    }

    /// Deletes all objects without a node; pods have S - 2 s.
    fn halt(&mut self, id: Host) {
        let host = &mut self.hosts[id];
        let longest = nanos(host.spec.config.stop_grace).saturating_sub(ms(2_000));
        let gone = self.now + nanos(host.spec.payload[2] + host.slow).min(longest);
        for object in host.payload.objects.iter_mut().flatten() {
            object.deleting = true;
        }
        if !host.stuck {
            host.payload.objects = Default::default();
        }
        for pods in host.payload.pods.iter_mut().filter(|pods| pods.gone.is_none()) {
            pods.gone = Some(gone);
        }
        let name = host.spec.name;
        self.log(format_args!("{name} payload deleted without a node"));
    }
}
