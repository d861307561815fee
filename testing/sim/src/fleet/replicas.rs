//! All replicas of a member end at once, in mode Quorum: each took the other for the one that takes over. What
//! `Worker::leave` of the controller does then: the payload is stopped without a node, and a node joins once more to
//! release the lead.

use std::time::Duration;

use flagship_node::ResignReason;

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
        let Some(held) = self.hosts[id].durable.as_ref().and_then(|record| record.election.held) else {
            return;
        };
        if !self.hosts[id].api_up {
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
        self.start(id);
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
