//! The payload worker of every host: follows the directive, asks before each write.

use std::time::Duration;

use flagship_node::{Directive, Purpose};
use flagship_types::{MemberName, Term};

use super::host::{Host, Job, PayloadState};
use super::network::HostId;
use super::world::{Event, World, secs};

impl World {
    /// The payload worker takes up what the directive asks for, unless it is at it already.
    pub(crate) fn follow_directive(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let Some(machine) = &host.machine else { return };
        let wanted = match machine.directive() {
            Directive::Hold => Job::Idle,
            Directive::Absent if host.payload.exists() => Job::Delete(None),
            Directive::Absent => Job::Idle,
            Directive::Run { term, .. } => Job::Apply(*term),
            Directive::Stop { term, .. } => Job::Delete(Some(*term)),
        };
        if wanted != host.job {
            let host = &mut self.hosts[id];
            host.job = wanted;
            host.job_number += 1;
            let (number, delay) = (host.job_number, host.spec.payload[0]);
            self.at(delay, Event::Job { host: id, number, step: 0 });
        }
    }

    pub(crate) fn job_step(&mut self, id: HostId, number: u64, step: u8) {
        let host = &self.hosts[id];
        if host.job_number != number || host.machine.is_none() {
            return;
        }
        if host.frozen || !host.api_up {
            return self.at(Duration::from_millis(200), Event::Job { host: id, number, step });
        }
        self.wake(id);
        if self.hosts[id].job_number != number {
            return;
        }
        match self.hosts[id].job {
            Job::Idle => {}
            Job::Apply(term) => self.apply_step(id, number, step, term),
            Job::Delete(term) => self.delete_step(id, number, step, term),
        }
    }

    pub(crate) fn permitted(&self, id: HostId, purpose: Purpose) -> Option<Term> {
        let permit = self.hosts[id].machine.as_ref()?.permit(purpose, self.now).ok()?;
        Some(permit.term)
    }

    pub(crate) fn apply_step(&mut self, id: HostId, number: u64, step: u8, term: Term) {
        if step == 0 {
            if self.permitted(id, Purpose::Apply) != Some(term) {
                return self.at(Duration::from_millis(100), Event::Job { host: id, number, step });
            }
            let member = self.hosts[id].spec.member();
            self.violations.applied(&member, term, self.hosts[id].durable.as_ref());
            if !self.hosts[id].payload.exists() {
                self.create_payload(id, &member, term);
            }
            let delay = self.hosts[id].spec.payload[1];
            return self.at(delay, Event::Job { host: id, number, step: 1 });
        }
        if let Some((created, made_under)) = self.hosts[id].payload.created() {
            self.hosts[id].payload = PayloadState::Ready { created, term: made_under };
            self.report_health(id);
        }
    }

    pub(crate) fn create_payload(&mut self, id: HostId, member: &MemberName, term: Term) {
        let quiet = !self.disturbed && self.network.is_whole();
        // A daemon that has just come back may not have been met yet; until then its cluster counts as dead.
        let met = |host: &Host| host.runs() && self.now.since(host.started) > secs(5.0);
        let others: Vec<_> = (0..self.hosts.len())
            .filter(|o| *o != id && quiet && met(&self.hosts[*o]) && self.hosts[*o].payload.exists())
            .map(|o| self.hosts[o].spec.member())
            .collect();
        if quiet {
            self.violations.created(member, term, &others, self.now);
        }
        self.log(format_args!("{member} payload created under term {term}"));
        self.hosts[id].payload = PayloadState::Starting { created: self.now, term };
    }

    pub(crate) fn delete_step(&mut self, id: HostId, number: u64, step: u8, term: Option<Term>) {
        if self.permitted(id, Purpose::Delete).is_none() {
            return self.at(Duration::from_millis(100), Event::Job { host: id, number, step });
        }
        if step == 0 {
            if let Some(term) = term {
                self.with_machine(id, |machine, now| machine.deletion_began(term, now));
            }
            let delay = self.hosts[id].spec.payload[2];
            return self.at(delay, Event::Job { host: id, number, step: 1 });
        }
        let name = self.hosts[id].spec.name;
        self.log(format_args!("{name} payload deleted"));
        self.hosts[id].payload = PayloadState::Absent;
        self.hosts[id].job = Job::Idle;
        self.report_health(id);
        if let Some(term) = term {
            self.with_machine(id, |machine, now| machine.payload_stopped(term, now));
        }
    }
}
