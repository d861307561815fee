//! The payload of a cluster, which outlives the daemon, and the worker of each daemon: it follows the directive and asks
//! before each write.

use std::time::Duration;

use flagship_node::{Directive, Purpose, ResignReason};
use flagship_types::{Instant, Mode, Term};
use rand::RngExt;

use super::world::{Event, World};
use crate::clock::{Nanos, ms, nanos};
use crate::paths::Host;

/// Objects of a payload. The last one is a workload with pods.
pub(crate) const OBJECTS: usize = 3;
/// How long a delete may take before the worker says that it is stuck.
const STUCK_AFTER: Nanos = ms(15_000);
/// A step that could not be made is tried again.
const AGAIN: Nanos = ms(200);

/// What runs of the payload in a cluster. It outlives the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadState {
    /// Nothing is there, no pod either.
    Absent,
    /// Part of it is there: being created, not ready yet, or being deleted.
    Partial,
    /// Runs.
    Ready {
        /// When its pods were created.
        created: Instant,
        /// Under which term.
        term: Term,
    },
}

impl PayloadState {
    /// Whether anything of it exists.
    pub fn exists(self) -> bool {
        self != Self::Absent
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) term: Term,
    /// Was asked to go, and is held by a finalizer.
    pub(crate) deleting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pods {
    pub(crate) created: Nanos,
    pub(crate) term: Term,
    pub(crate) ready: Nanos,
    pub(crate) gone: Option<Nanos>,
}

/// What is in the cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    pub(crate) objects: [Option<Object>; OBJECTS],
    /// Of the present workload, and of deleted ones that still end.
    pub(crate) pods: Vec<Pods>,
}

impl Payload {
    fn tidy(&mut self, now: Nanos) {
        self.pods.retain(|pods| pods.gone.is_none_or(|gone| gone > now));
    }

    /// An object or a pod.
    pub(crate) fn exists(&self, now: Nanos) -> bool {
        self.objects.iter().any(Option::is_some)
            || self.pods.iter().any(|pods| pods.gone.is_none_or(|gone| gone > now))
    }

    /// The highest term that an object is annotated with.
    pub(crate) fn annotated(&self) -> Option<Term> {
        self.objects.iter().flatten().map(|object| object.term).max()
    }

    pub(crate) fn is_ready(&self, now: Nanos) -> bool {
        let whole = self.objects.iter().all(|object| object.is_some_and(|object| !object.deleting));
        whole && self.pods.iter().any(|pods| pods.gone.is_none() && pods.ready <= now)
    }

    pub(crate) fn state(&self, now: Nanos) -> PayloadState {
        match self.pods.iter().find(|pods| pods.gone.is_none()).filter(|_| self.is_ready(now)) {
            Some(pods) => PayloadState::Ready { created: Instant::from_nanos(pods.created), term: pods.term },
            None if self.exists(now) => PayloadState::Partial,
            None => PayloadState::Absent,
        }
    }
}

/// A write that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Write {
    Apply(usize, Term),
    Delete(usize),
}

impl World {
    /// The worker takes up what changed.
    pub(crate) fn follow_directive(&mut self, id: Host) {
        let after = nanos(self.hosts[id].spec.payload[0]);
        let now = self.now;
        let Some(process) = &mut self.hosts[id].process else { return };
        process.began = false;
        process.deleting_since = None;
        // A write under way is waited for.
        let after = after.max((process.writing_until + ms(1)).saturating_sub(now));
        self.step_after(id, after);
    }

    /// The worker's next step comes then, whatever was planned before.
    fn step_after(&mut self, id: Host, after: Nanos) {
        let number = self.hosts[id].number;
        let at = self.now + after;
        if let Some(process) = &mut self.hosts[id].process {
            process.step += 1;
            let step = process.step;
            self.push(at, Event::Work { host: id, process: number, step });
        }
    }

    pub(crate) fn work(&mut self, id: Host, number: u64, step: u64) {
        let is_current =
            |world: &Self| world.hosts[id].process.as_ref().is_some_and(|process| process.step == step);
        if self.hosts[id].number != number || !is_current(self) {
            return;
        }
        if self.hosts[id].frozen {
            self.hosts[id].waiting.push_back(Event::Work { host: id, process: number, step });
            return self.missed(id);
        }
        self.wake(id);
        if !is_current(self) {
            return;
        }
        if !self.hosts[id].reaches_api() {
            self.refused_write(id);
            return self.step_after(id, 2 * AGAIN);
        }
        let now = self.now;
        self.hosts[id].payload.tidy(now);
        let Some(directive) = self.hosts[id].process.as_ref().map(|process| process.directive.clone()) else {
            return;
        };
        match directive {
            Directive::Hold => {}
            Directive::Run { term, .. } => self.bring_in(id, term),
            Directive::Stop { term, reason } => {
                if self.ends_at_once(id, reason) {
                    self.hurry(id, term);
                }
                self.take_away(id, Some(term));
            }
            Directive::Absent => self.take_away(id, None),
        }
    }

    fn permitted(&self, id: Host, purpose: Purpose) -> Option<Term> {
        let host = &self.hosts[id];
        let now = host.clock.read(self.now);
        // What may not be sent any more is not sent.
        let permit = host.machine()?.permit(purpose, now).ok().filter(|permit| permit.not_after > now)?;
        // Another replica may have the local Lease by now.
        if host.votes_until().is_some_and(|until| until <= now) {
            return None;
        }
        Some(permit.term)
    }

    /// Sends one write, if it is permitted. The next step comes after its answer.
    fn write(&mut self, id: Host, purpose: Purpose, write: impl FnOnce(Term) -> Write) {
        let Some(term) = self.permitted(id, purpose) else { return self.step_after(id, AGAIN) };
        let takes = ms(5) + self.rng.random_range(0..ms(35));
        let number = self.hosts[id].number;
        let at = self.now + takes;
        if let Some(process) = &mut self.hosts[id].process {
            process.writing_until = at;
        }
        self.push(at, Event::Written { host: id, process: number, write: write(term), permitted: self.now });
        self.step_after(id, takes + ms(2));
    }

    fn bring_in(&mut self, id: Host, term: Term) {
        if self.hosts[id].invalid && !self.hosts[id].payload.exists(self.now) {
            return self.step_after(id, 5 * AGAIN);
        }
        let payload = &self.hosts[id].payload;
        if let Some(missing) = payload.objects.iter().position(Option::is_none) {
            if self.permitted(id, Purpose::Apply) != Some(term) {
                return self.step_after(id, AGAIN);
            }
            return self.write(id, Purpose::Apply, |term| Write::Apply(missing, term));
        }
        let now = self.now;
        if self.hosts[id].payload.is_ready(now) {
            if let Some(process) = &mut self.hosts[id].process {
                process.ran = true;
            }
            return self.report_health(id);
        }
        self.step_after(id, AGAIN / 2);
    }

    /// As `ends_at_once` of the controller: in Quorum an unfinished stop may have been for a lost lease, and who was
    /// superseded lost it without having noticed.
    fn ends_at_once(&self, id: Host, reason: ResignReason) -> bool {
        let mode = self.hosts[id].machine().map(|machine| machine.election().config().mode);
        match reason {
            ResignReason::LeaseLost => true,
            ResignReason::Unfinished | ResignReason::Superseded => mode == Some(Mode::Quorum),
            _ => false,
        }
    }

    /// Pods are deleted directly, with a grace that ends in time.
    fn hurry(&mut self, id: Host, term: Term) {
        let now = self.now;
        if let Some(process) = &mut self.hosts[id].process
            && process.hurried.is_none_or(|(of, _)| of != term)
        {
            process.hurried = Some((term, now));
        }
        let latest = self.pods_end_by(id);
        for pods in &mut self.hosts[id].payload.pods {
            pods.gone = pods.gone.map(|gone| gone.min(latest));
        }
    }

    /// S - 2 s after the payload first had to end at once. A process that never had its lead confirmed does not know when
    /// the one before it lost the lease: pods that it asks have 1 s.
    fn pods_end_by(&self, id: Host) -> Nanos {
        let host = &self.hosts[id];
        let grace = host.machine().map_or(host.spec.config.stop_grace, |m| m.election().stop_grace());
        match &host.process {
            Some(process) if process.ran => {
                let since = process.hurried.map_or(self.now, |(_, since)| since);
                since + nanos(grace).saturating_sub(ms(2_000))
            }
            _ => self.now + ms(1_000),
        }
    }

    /// Deletes from the last to the first, then waits until pods are gone.
    fn take_away(&mut self, id: Host, stop: Option<Term>) {
        let now = self.now;
        if !self.hosts[id].payload.exists(now) {
            self.report_health(id);
            if let Some(term) = stop {
                self.with_machine(id, |machine, now| machine.payload_stopped(term, now));
            }
            return;
        }
        let Some(process) = &mut self.hosts[id].process else { return };
        let since = *process.deleting_since.get_or_insert(now);
        if let Some(term) = stop
            && !std::mem::replace(&mut process.began, true)
        {
            self.with_machine(id, |machine, now| machine.deletion_began(term, now));
        }
        if now >= since + STUCK_AFTER {
            if let Some(process) = &mut self.hosts[id].process {
                process.deleting_since = None;
            }
            if let Some(term) = stop {
                let object = "Service default/web".to_owned();
                self.step_after(id, AGAIN);
                return self.with_machine(id, |machine, now| machine.stop_stuck(term, object, now));
            }
        }
        let left = self.hosts[id].payload.objects.iter().rposition(|o| o.is_some_and(|o| !o.deleting));
        match left {
            // What is to be deleted is recorded first.
            Some(_) if self.is_deposed(id) => self.deposed(id),
            Some(object) => self.write(id, Purpose::Delete, |_| Write::Delete(object)),
            None => self.step_after(id, AGAIN / 2),
        }
    }

    /// A write reaches the API server, whatever became of the process that sent it.
    pub(crate) fn written(&mut self, id: Host, number: u64, write: Write, permitted: Nanos) {
        let now = self.now;
        if !self.hosts[id].reaches_api() {
            return self.refused_write(id);
        }
        match write {
            Write::Apply(object, term) => self.applied(id, number, object, term, permitted),
            Write::Delete(object) => self.deleted(id, number, object),
        }
        self.hosts[id].payload.tidy(now);
    }

    fn applied(&mut self, id: Host, number: u64, object: usize, term: Term, permitted: Nanos) {
        let now = self.now;
        self.check_apply(id, number, object, term, permitted);
        let ready = now + nanos(self.hosts[id].spec.payload[1]);
        let payload = &mut self.hosts[id].payload;
        let is_new = payload.objects[object].is_none();
        match &mut payload.objects[object] {
            Some(present) if present.deleting => return,
            Some(present) => present.term = term,
            None => payload.objects[object] = Some(Object { term, deleting: false }),
        }
        if is_new && object == OBJECTS - 1 {
            payload.pods.push(Pods { created: now, term, ready, gone: None });
        }
        if is_new {
            let name = self.hosts[id].spec.name;
            self.log(format_args!("{name} object {object} of the payload created under term {term}"));
        }
    }

    fn deleted(&mut self, id: Host, number: u64, object: usize) {
        let now = self.now;
        self.check_delete(id, number, object);
        let latest = self.pods_end_by(id);
        let reason = match self.hosts[id].process.as_ref().map(|process| &process.directive) {
            Some(Directive::Stop { reason, .. }) => Some(*reason),
            _ => None,
        };
        let at_once = reason.is_some_and(|reason| self.ends_at_once(id, reason));
        let host = &mut self.hosts[id];
        let takes = nanos(host.spec.payload[2] + host.slow);
        let ends = if at_once { (now + takes).min(latest.max(now)) } else { now + takes };
        let (stuck, slow) = (host.stuck, host.slow > Duration::ZERO);
        if object == OBJECTS - 1 {
            for pods in host.payload.pods.iter_mut().filter(|pods| pods.gone.is_none()) {
                pods.gone = Some(ends);
            }
        }
        match (&mut host.payload.objects[object], stuck) {
            (Some(present), true) => present.deleting = true,
            (present, _) => *present = None,
        }
        if stuck || slow {
            self.held_delete(id);
        }
        let name = self.hosts[id].spec.name;
        let held = if stuck { ", held by a finalizer" } else { "" };
        self.log(format_args!("{name} object {object} of the payload deleted{held}"));
        self.report_health(id);
    }

    /// The finalizers are gone.
    pub(crate) fn unstick(&mut self, id: Host) {
        self.hosts[id].stuck = false;
        for object in &mut self.hosts[id].payload.objects {
            if object.is_some_and(|object| object.deleting) {
                *object = None;
            }
        }
    }
}

/// Seconds as a duration.
pub fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
