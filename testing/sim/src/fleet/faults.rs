//! Carries out the faults of a plan, and notes which of them struck.

use flagship_node::{Order, ResignReason};
use flagship_types::Pause;

use super::fault::{Back, Fault};
use super::world::{Event, World};
use crate::clock::{ms, nanos};
use crate::paths::{Effect, Host, Hosts};

/// The wall clock of a host whose clock was set back, in milliseconds: far less than the day within which epochs are believed.
const BEHIND_MS: i64 = -3_600_000;

/// How long a daemon that announced a pause takes to end.
pub(super) const LEAVING: u64 = ms(300);

/// Something that a scenario does at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The process ends; its host lives and refuses connections.
    Kill(Host),
    /// The process starts (again).
    Start(Host),
    /// SIGSTOP.
    Freeze(Host),
    /// SIGCONT.
    Thaw(Host),
    /// Drops everything from the first to the second, without a sound.
    Cut(Host, Host),
    /// Ends that.
    Heal(Host, Host),
    /// All replicas get a SIGTERM at once, in mode Quorum.
    EndReplicas(Host),
    /// The API server stops answering.
    ApiDown(Host),
    /// It answers again.
    ApiUp(Host),
}

impl World {
    /// Does something now.
    pub fn act(&mut self, act: &Act) {
        self.log(format_args!("ACT    {act:?}"));
        let cut =
            |world: &Self, from: Host, to: Host| world.plan.faults.len() + from * world.hosts.len() + to;
        match *act {
            Act::Kill(host) => self.kill(host, true),
            Act::Start(host) => self.start(host),
            Act::Freeze(host) => self.freeze(host),
            Act::Thaw(host) => self.thaw(host),
            Act::Cut(from, to) => {
                let effect = Effect::Cut { from: self.set(&[from]), to: self.set(&[to]) };
                let fault = u32::try_from(cut(self, from, to)).unwrap_or(u32::MAX);
                self.paths.begin(fault, effect);
            }
            Act::Heal(from, to) => {
                let fault = u32::try_from(cut(self, from, to)).unwrap_or(u32::MAX);
                self.paths.end(fault, self.now);
            }
            Act::EndReplicas(host) => self.end_replicas(host),
            Act::ApiDown(host) => self.set_api(host, false),
            Act::ApiUp(host) => self.set_api(host, true),
        }
    }

    fn set(&self, hosts: &[Host]) -> Hosts {
        Hosts::of(hosts, self.hosts.len())
    }

    /// The plan begins now.
    pub(crate) fn begin_plan(&mut self) {
        self.plan_began = self.now;
        for (i, timed) in self.plan.faults.iter().enumerate() {
            self.queue.push(self.now + nanos(timed.at), Event::Begin(i));
            if !timed.lasts.is_zero() {
                self.queue.push(self.now + nanos(timed.at + timed.lasts), Event::End(i));
            }
        }
    }

    /// Something is done to hosts; cuts are done to paths, which know it.
    fn disturb(&mut self, fault: &Fault) {
        if matches!(
            fault,
            Fault::Cut { .. } | Fault::Split { .. } | Fault::Apart { .. } | Fault::SlowLink { .. }
        ) {
            return;
        }
        for host in fault.hosts() {
            self.hosts[host].disturbed = self.now;
        }
    }

    fn struck(&mut self, fault: usize, did: bool) {
        self.paths.fired[fault] += u64::from(did);
    }

    /// What lasts and is of this kind has struck once more.
    fn strikes(&mut self, is_it: impl Fn(&Fault) -> bool) {
        for i in self.active.clone() {
            if is_it(&self.plan.faults[i].fault) {
                self.struck(i, true);
            }
        }
    }

    /// Something could not happen at a host that is stopped.
    pub(crate) fn missed(&mut self, id: Host) {
        let stops = |fault: &Fault| matches!(fault, Fault::Freeze { host } | Fault::FreezeAfterWrite { host } if *host == id);
        self.strikes(stops);
    }

    /// A write met an API server that does not answer.
    pub(crate) fn refused_write(&mut self, id: Host) {
        self.strikes(|fault| matches!(fault, Fault::ApiDown { host } if *host == id));
    }

    /// A delete was held or slow.
    pub(crate) fn held_delete(&mut self, id: Host) {
        self.strikes(|fault| {
            matches!(fault, Fault::StuckDelete { host } | Fault::SlowDelete { host, .. } if *host == id)
        });
    }

    /// Stops a host because of a fault of the plan.
    pub(crate) fn hold(&mut self, id: Host, fault: usize) {
        let name = self.hosts[id].spec.name;
        self.log(format_args!("{name} is stopped"));
        self.active.push(fault);
        self.freeze(id);
    }

    pub(crate) fn begin(&mut self, i: usize) {
        let timed = self.plan.faults[i].clone();
        let text = timed.fault.describe(&self.plan.hosts);
        self.log(format_args!("FAULT  {text}"));
        let fault = u32::try_from(i).unwrap_or(u32::MAX);
        self.disturb(&timed.fault);
        let lasts = !timed.lasts.is_zero();
        if lasts && !matches!(timed.fault, Fault::Freeze { .. } | Fault::FreezeAfterWrite { .. }) {
            self.active.push(i);
        }
        match timed.fault {
            Fault::Crash { host, reset, .. } => {
                self.struck(i, self.hosts[host].process.is_some());
                self.kill(host, reset);
            }
            Fault::Replica { host, acting, what } => {
                let slot = self.begin_replica(host, acting, what);
                self.struck(i, slot.is_some());
                self.struck_slots.extend(slot.map(|slot| (i, slot)));
            }
            Fault::Freeze { host } => {
                if self.hosts[host].runs() {
                    self.hold(host, i);
                }
            }
            Fault::FreezeAfterWrite { host } => self.freeze_after_write[host] = Some(i),
            Fault::Cut { from, to } => {
                let effect = Effect::Cut { from: self.set(&from), to: self.set(&to) };
                self.paths.begin(fault, effect);
            }
            Fault::Split { side } => {
                let effect = Effect::Split(self.set(&side));
                self.paths.begin(fault, effect);
            }
            Fault::Apart { a, b } => self.paths.begin(fault, Effect::Pair(a, b)),
            Fault::Loss { percent } => self.paths.begin(fault, Effect::Loss(percent)),
            Fault::SlowLink { a, b, extra } => self.paths.begin(fault, Effect::Slow(a, b, nanos(extra))),
            Fault::Drift { host, permille } => self.drift(i, host, permille),
            Fault::WallJump { host, ms } => {
                self.hosts[host].wall_ahead_ms += ms;
                self.struck(i, self.hosts[host].runs());
            }
            Fault::ApiDown { host } => self.set_api(host, false),
            Fault::SlowDelete { host, extra } => self.hosts[host].slow = extra,
            Fault::StuckDelete { host } => self.hosts[host].stuck = true,
            Fault::Invalid { host } => {
                self.hosts[host].invalid = true;
                self.struck(i, self.hosts[host].runs());
                self.report_health(host);
            }
            Fault::Rank { host, rank } => self.operator(i, host, |spec| spec.rank = rank),
            Fault::NoCandidate { host } => self.operator(i, host, |spec| spec.candidate = false),
            Fault::Failback { host, failback } => {
                self.operator(i, host, |spec| spec.config.failback = failback);
            }
            Fault::Propose { host, config } => self.operator(i, host, |spec| spec.config = config),
            Fault::Forget { at, member } => {
                self.struck(i, self.hosts[at].runs());
                if self.hosts[at].runs() {
                    let member = self.hosts[member].spec.member();
                    self.with_machine(at, |machine, now| machine.forget(member, now));
                }
            }
            Fault::Handover { host } => {
                self.struck(i, self.hosts[host].runs());
                if self.hosts[host].runs() {
                    self.with_machine(host, |machine, now| machine.retire(ResignReason::Operator, now));
                    self.leave_soon(host, ms(500));
                }
            }
            Fault::Away { host, grace } => {
                self.struck(i, self.hosts[host].runs());
                if !self.hosts[host].runs() {
                    return;
                }
                self.with_machine(host, |machine, now| machine.away(grace, now));
                let (at, process) = (self.now + LEAVING, self.hosts[host].number);
                self.push(at, Event::Exit { host, process });
            }
            Fault::Pause => {
                let pause = Pause { since_ms: 0, reason: "maintenance".into() };
                self.order(i, Order::Pause(Some(pause)));
            }
            Fault::Switchover { to } => {
                let to = to.map(|host| self.hosts[host].spec.member());
                self.order(i, Order::Switchover { to, try_only: false });
            }
            Fault::Join { host } => {
                self.start(host);
                self.struck(i, self.hosts[host].process.is_some());
            }
        }
    }

    /// An operator's order, given to whoever says that it leads.
    fn order(&mut self, i: usize, order: Order) {
        let leader = (0..self.hosts.len())
            .find(|host| self.hosts[*host].runs() && self.role(*host) == Some(flagship_types::Role::Leader));
        // With nobody leading there is nobody to tell: the operator is told so.
        self.struck(i, true);
        let Some(leader) = leader else { return };
        let mut answer = None;
        self.with_machine(leader, |machine, now| answer = Some(machine.order(order, now)));
        let name = self.hosts[leader].spec.name;
        self.log(format_args!("{name} answers {answer:?}"));
    }

    /// The process ends as soon as it has no lead.
    pub(super) fn leave_soon(&mut self, host: Host, after: u64) {
        let process = self.hosts[host].number;
        if let Some(process) = &mut self.hosts[host].process {
            process.leaving = true;
        }
        self.push(self.now + after, Event::Exit { host, process });
    }

    fn operator(&mut self, i: usize, host: Host, change: impl FnOnce(&mut super::host::HostSpec)) {
        // A daemon that does not run reads it when it starts.
        self.struck(i, true);
        self.edit(host, change);
    }

    fn drift(&mut self, i: usize, host: Host, permille: i32) {
        let now = self.now;
        self.hosts[host].clock.set_rate(permille, now);
        self.struck(i, self.hosts[host].runs());
        // Its timers come at other times now.
        if let Some(process) = &self.hosts[host].process {
            let at = self.hosts[host].clock.when(process.due).max(now);
            let process = self.hosts[host].number;
            self.push(at, Event::Wake { host, process });
        }
    }

    pub(crate) fn end(&mut self, i: usize) {
        let timed = self.plan.faults[i].clone();
        let text = timed.fault.describe(&self.plan.hosts);
        self.log(format_args!("ends   {text}"));
        let fault = u32::try_from(i).unwrap_or(u32::MAX);
        self.paths.end(fault, self.now);
        self.disturb(&timed.fault);
        match timed.fault {
            Fault::Crash { host, back: Some(back), .. } => self.come_back(host, back),
            Fault::Replica { host, what, .. } => {
                if let Some(slot) = self.struck_slots.remove(&i) {
                    self.end_replica_fault(host, slot, what);
                }
            }
            Fault::Freeze { host } | Fault::FreezeAfterWrite { host } => {
                if self.freeze_after_write[host] == Some(i) {
                    self.freeze_after_write[host] = None;
                }
                if self.active.contains(&i) {
                    self.thaw(host);
                }
            }
            Fault::Drift { host, .. } => self.drift(i, host, 0),
            Fault::ApiDown { host } => self.set_api(host, true),
            Fault::SlowDelete { host, .. } => self.hosts[host].slow = std::time::Duration::ZERO,
            Fault::StuckDelete { host } => self.unstick(host),
            Fault::Invalid { host } => {
                self.hosts[host].invalid = false;
                self.report_health(host);
            }
            Fault::NoCandidate { host } => self.edit(host, |spec| spec.candidate = true),
            Fault::Forget { at, member } => {
                if self.hosts[at].runs() {
                    let member = self.hosts[member].spec.member();
                    self.with_machine(at, |machine, now| machine.admit(member, now));
                }
            }
            Fault::Handover { host } => {
                // Whatever became of the handover: an orchestrator kills what does not end.
                if self.hosts[host].process.as_ref().is_some_and(|process| process.leaving) {
                    self.kill(host, true);
                }
                self.start(host);
            }
            Fault::Away { host, .. } => self.start(host),
            Fault::Pause => {
                // Asked of everybody: whoever leads resumes, or asks for the lead to do it.
                for host in 0..self.hosts.len() {
                    if self.hosts[host].runs() {
                        self.with_machine(host, |machine, now| {
                            let _ = machine.order(Order::Pause(None), now);
                        });
                    }
                }
            }
            Fault::Crash { back: None, .. }
            | Fault::Cut { .. }
            | Fault::Split { .. }
            | Fault::Apart { .. }
            | Fault::Loss { .. }
            | Fault::SlowLink { .. }
            | Fault::WallJump { .. }
            | Fault::Rank { .. }
            | Fault::Failback { .. }
            | Fault::Propose { .. }
            | Fault::Switchover { .. }
            | Fault::Join { .. } => {}
        }
        self.active.retain(|active| *active != i);
    }

    fn come_back(&mut self, host: Host, back: Back) {
        if self.hosts[host].process.is_none() {
            match back {
                Back::Whole => {}
                Back::Blank => self.lose_status(host),
                Back::Behind => {
                    self.lose_status(host);
                    self.hosts[host].wall_ahead_ms += BEHIND_MS;
                }
            }
        }
        self.start(host);
    }

    /// Faults of the plan that have not struck.
    pub(crate) fn missed_faults(&self) -> Vec<&'static str> {
        let faults = self.plan.faults.iter().zip(&self.paths.fired);
        faults.filter(|(_, fired)| **fired == 0).map(|(timed, _)| timed.fault.kind()).collect()
    }
}
