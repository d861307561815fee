//! The record of a host on its way to the API server.

use flagship_node::DurableRecord;
use rand::RngExt;

use super::world::{Event, World};
use crate::clock::ms;
use crate::paths::Host;

impl World {
    /// Writes the newest record, one write after the other.
    pub(crate) fn save(&mut self, id: Host) {
        // Now and then it takes longer: a conflict, a busy server.
        let most = if self.rng.random_range(0..8) == 0 { 600 } else { 18 };
        let takes = ms(2) + self.rng.random_range(0..ms(most));
        let host = &mut self.hosts[id];
        let Some(process) = &mut host.process else { return };
        if process.saving || process.unsaved.is_none() {
            return;
        }
        process.saving = true;
        let number = host.number;
        self.push(self.now + takes, Event::Stored { host: id, process: number });
    }

    /// A write of the record reaches the API server.
    pub(super) fn stored(&mut self, id: Host, number: u64) {
        if self.hosts[id].number != number {
            return;
        }
        let api_up = self.hosts[id].reaches_api();
        let Some(process) = &mut self.hosts[id].process else { return };
        process.saving = false;
        if !api_up {
            self.refused_write(id);
            return self.push(self.now + ms(500), Event::StoreAgain { host: id, process: number });
        }
        if !self.may_store(id) {
            return self.deposed(id);
        }
        let Some(process) = &mut self.hosts[id].process else { return };
        let Some(record) = process.unsaved.take() else { return };
        let version = record.election.version;
        self.make_durable(id, record);
        if let Some(fault) = self.freeze_after_write[id].take() {
            self.hold(id, fault);
        }
        self.answered(id, number, version);
    }

    /// The process learns that it is stored; a stopped one when it goes on.
    pub(super) fn answered(&mut self, id: Host, number: u64, version: u64) {
        if self.hosts[id].number != number || self.hosts[id].process.is_none() {
            return;
        }
        if self.hosts[id].frozen {
            self.hosts[id].waiting.push_back(Event::Answered { host: id, process: number, version });
            return self.missed(id);
        }
        self.wake(id);
        self.with_machine(id, |machine, now| machine.persisted(version, now));
        self.save(id);
    }

    pub(super) fn make_durable(&mut self, id: Host, record: DurableRecord) {
        let now = self.now;
        self.checks.stored(id, &record, now);
        self.hosts[id].durable = Some(record);
        self.check_stored();
    }
}
