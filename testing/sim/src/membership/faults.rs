//! Carries out the faults of a plan, and notes which of them struck.

use std::time::Duration;

use flagship_membership::Input;
use rand::{Rng, RngExt};

use super::fault::{Back, Block, Fault, Host, Plan};
use super::happening::Happening;
use super::lies::Liar;
use super::names::metadata;
use super::process::Process;
use super::trace::What;
use super::world::{WALL_MS, World};
use crate::clock::{Nanos, ms, nanos};
use crate::paths::{Effect, Hosts};

/// Between good-bye and the end of a process.
const LINGER: Nanos = ms(300);
/// Between two rounds of lies.
const LIE_EVERY: Nanos = ms(150);

impl World {
    /// Another plan for the same fleet, before it begins.
    pub fn replace_plan(&mut self, plan: &Plan) {
        self.plan = plan.clone();
        self.paths.fired = vec![0; plan.faults.len()];
        self.steps = vec![false; plan.faults.len()];
    }

    /// The plan begins now.
    pub fn begin_plan(&mut self) {
        self.plan_began = self.now;
        for (i, timed) in self.plan.faults.iter().enumerate() {
            self.queue.push(self.now + nanos(timed.at), Happening::Begin(i as u32));
            if !timed.lasts.is_zero() {
                self.queue.push(self.now + nanos(timed.at + timed.lasts), Happening::End(i as u32));
            }
        }
    }

    /// How often each fault of the plan struck.
    pub fn fired(&self) -> &[u64] {
        &self.paths.fired
    }

    fn struck(&mut self, fault: usize, times: u64) {
        self.paths.fired[fault] += times;
    }

    fn effect(&mut self, fault: usize, effect: Effect) {
        self.paths.begin(fault as u32, effect);
    }

    pub(super) fn begin(&mut self, i: usize) {
        let timed = self.plan.faults[i].clone();
        let members = self.plan.members;
        if let Some(trace) = &mut self.trace {
            trace.fault(self.now, &timed.fault, true);
        }
        match timed.fault {
            Fault::Crash { host, reset, .. } => {
                let lived = u64::from(self.lives(host));
                self.struck(i, lived);
                self.kill(host, reset);
            }
            Fault::Freeze { host } => self.hold_up(host, Block::Process),
            Fault::Slow { .. } | Fault::Flap { .. } | Fault::ColdLinks { .. } => self.step(i),
            Fault::Cut { from, to } => {
                self.effect(i, Effect::Cut { from: Hosts::of(&from, members), to: Hosts::of(&to, members) });
            }
            Fault::Split { side } => self.effect(i, Effect::Split(Hosts::of(&side, members))),
            Fault::SlowLink { a, b, extra } => self.effect(i, Effect::Slow(a, b, nanos(extra))),
            Fault::HoldBack { from, to } => {
                self.effect(
                    i,
                    Effect::Cut { from: Hosts::of(&[from], members), to: Hosts::of(&[to], members) },
                );
            }
            Fault::Loss { percent } => self.effect(i, Effect::Loss(percent)),
            Fault::Reset { a, b } => {
                let reset = self.reset_between(a, b) as u64;
                self.struck(i, reset);
            }
            Fault::Liar { host, lies } => {
                if self.lives(host) {
                    self.members[host].liar = Some(Box::new(Liar::new(lies)));
                    self.queue.push(self.now, Happening::Lie(host as u32));
                    if let Some(checks) = &mut self.checks {
                        checks.lies(host);
                    }
                }
            }
            Fault::Drift { host, permille } => {
                let now = self.now;
                self.members[host].clock.set_rate(permille, now);
                self.rearm(host);
                self.struck(i, u64::from(self.lives(host)));
            }
            Fault::WallJump { host, ms } => self.members[host].wall_jump_ms = ms,
            Fault::Leave { host } => self.say_good_bye(i, host, Input::Leave),
            Fault::Away { host, grace } => self.say_good_bye(i, host, Input::Away { grace }),
            Fault::Metadata { host } => self.change_metadata(i, host),
            Fault::Required { host, peers } => self.require(i, host, &peers),
            Fault::Join { host } => {
                self.start(host, None);
                self.struck(i, u64::from(self.lives(host)));
            }
        }
    }

    pub(super) fn end(&mut self, i: usize) {
        let timed = self.plan.faults[i].clone();
        if let Some(trace) = &mut self.trace {
            trace.fault(self.now, &timed.fault, false);
        }
        self.paths.end(i as u32, self.now);
        match timed.fault {
            Fault::Crash { host, back: Some(back), .. } => self.come_back(host, back),
            Fault::Freeze { host } => {
                let missed = self.go_on(host);
                self.struck(i, u64::from(missed));
            }
            Fault::Slow { host, .. } => {
                self.go_on(host);
                self.steps[i] = false;
            }
            Fault::HoldBack { from, to } => self.release(from, to),
            Fault::Liar { host, .. } => {
                if let Some(liar) = self.members[host].liar.take() {
                    self.tally.lies += liar.told;
                    self.struck(i, liar.told);
                }
            }
            Fault::Drift { host, .. } => {
                let now = self.now;
                self.members[host].clock.set_rate(0, now);
                self.rearm(host);
            }
            Fault::Away { host, .. } => self.come_back(host, Back::Higher),
            Fault::Required { host, .. } => self.require(i, host, &[]),
            Fault::Crash { .. }
            | Fault::Cut { .. }
            | Fault::Split { .. }
            | Fault::Flap { .. }
            | Fault::SlowLink { .. }
            | Fault::Loss { .. }
            | Fault::Reset { .. }
            | Fault::ColdLinks { .. }
            | Fault::WallJump { .. }
            | Fault::Leave { .. }
            | Fault::Metadata { .. }
            | Fault::Join { .. } => {}
        }
    }

    /// The next step of a fault that comes and goes, as long as it lasts.
    pub(super) fn step(&mut self, i: usize) {
        let timed = self.plan.faults[i].clone();
        let ends = self.plan_began.saturating_add(nanos(timed.at + timed.lasts));
        if self.now >= ends && !timed.lasts.is_zero() {
            return;
        }
        let wait = match timed.fault {
            Fault::Slow { host, block, blocked, period } => self.step_slow(i, host, block, (blocked, period)),
            Fault::Flap { a, b, down, period } => {
                self.steps[i] = !self.steps[i];
                if self.steps[i] {
                    self.effect(i, Effect::Pair(a, b));
                    nanos(down)
                } else {
                    self.paths.end(i as u32, self.now);
                    nanos(period.saturating_sub(down))
                }
            }
            Fault::ColdLinks { every } => {
                self.reset_any(i);
                let open = self.streams.iter().filter(|stream| stream.ends.iter().all(|end| end.open));
                let mean = nanos(every) / (open.count() as u64).max(1);
                1 + self.rng.next_u64() % (2 * mean).max(1)
            }
            _ => return,
        };
        let at = self.now + wait;
        if at < ends || timed.lasts.is_zero() {
            self.queue.push(at, Happening::Step(i as u32));
        }
    }

    fn step_slow(
        &mut self,
        i: usize,
        host: Host,
        block: Block,
        (blocked, period): (Duration, Duration),
    ) -> Nanos {
        if !self.lives(host) {
            return nanos(period);
        }
        self.steps[i] = !self.steps[i];
        if self.steps[i] {
            self.hold_up(host, block);
            nanos(blocked)
        } else {
            let missed = self.go_on(host);
            self.struck(i, u64::from(missed));
            nanos(period.saturating_sub(blocked))
        }
    }

    fn reset_any(&mut self, i: usize) {
        if self.streams.is_empty() {
            return;
        }
        // A few tries to hit one that is open: more would only be needed in a fleet that is mostly dead.
        for _ in 0..8 {
            let slot = self.rng.random_range(0..self.streams.len());
            let ends = self.streams[slot].ends;
            if ends.iter().all(|end| end.open && end.up) {
                let reset = self.reset_between(ends[0].host, ends[1].host);
                return self.struck(i, reset as u64);
            }
        }
    }

    fn come_back(&mut self, host: Host, back: Back) {
        if self.lives(host) {
            return;
        }
        let jumped = self.members[host].wall_jump_ms != 0;
        let number = self.members[host].number;
        match back {
            Back::Higher => self.start(host, None),
            Back::Lower => {
                let behind = 1 + self.rng.next_u64() % 5_000_000;
                self.start(host, Some(WALL_MS - behind));
            }
        }
        if self.members[host].number > number && jumped {
            let jumps = self.plan.faults.iter().enumerate().filter(
                |(_, timed)| matches!(timed.fault, Fault::WallJump { host: jumped, .. } if jumped == host),
            );
            for i in jumps.map(|(i, _)| i).collect::<Vec<_>>() {
                self.struck(i, 1);
            }
        }
    }

    fn say_good_bye(&mut self, i: usize, host: Host, input: Input) {
        if self.members[host].process != Process::Running {
            return;
        }
        self.struck(i, 1);
        if let Some(checks) = &mut self.checks {
            checks.said_good_bye(host, &input, self.now);
        }
        self.note(host, || What::Said(format!("{input:?}")));
        self.input(host, input);
        let number = self.members[host].number;
        self.queue.push(self.now + LINGER, Happening::Exit(host as u32, number));
    }

    fn change_metadata(&mut self, i: usize, host: Host) {
        if !self.lives(host) {
            return;
        }
        self.struck(i, 1);
        self.members[host].term += 1;
        let term = self.members[host].term;
        let metadata = metadata(self.names.address(host), term);
        if let Some(checks) = &mut self.checks {
            checks.said_term(host, term);
        }
        self.note(host, || What::Said(format!("term {term}")));
        self.input(host, Input::SetMetadata(metadata));
    }

    fn require(&mut self, i: usize, host: Host, peers: &[Host]) {
        let names = peers.iter().map(|peer| self.names.name(*peer).clone()).collect();
        self.input(host, Input::SetRequired(names));
        self.struck(i, u64::from(self.lives(host)));
    }

    /// A liar tells its next lies.
    pub(super) fn lie(&mut self, host: Host) {
        if !self.lives(host) {
            return;
        }
        let Some(mut liar) = self.members[host].liar.take() else { return };
        if self.members[host].process == Process::Running {
            let Self { members, names, rng, .. } = self;
            let lies = members[host].core.as_ref().map(|core| liar.invent(core, names, rng));
            for (link, message) in lies.unwrap_or_default() {
                self.post(host, link, message);
            }
        }
        self.members[host].liar = Some(liar);
        let wait = LIE_EVERY / 2 + self.rng.next_u64() % LIE_EVERY;
        self.queue.push(self.now + wait, Happening::Lie(host as u32));
    }
}
