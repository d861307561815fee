//! Processes: how they start, stand still, go on and end, and their deadlines.

use std::collections::VecDeque;

use flagship_membership::{Config, Input, KnownMember, Membership, Output, State};
use flagship_types::Epoch;
use rand::{Rng, RngExt};

use super::fault::{Block, Host};
use super::happening::Happening;
use super::lies::Liar;
use super::names::metadata;
use super::trace::What;
use super::world::{WALL_MS, World};
use crate::clock::{Clock, Nanos, ms};

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// Not started yet.
    Off,
    /// Runs.
    Running,
    /// Does not get to run; its host acknowledges.
    Frozen,
    /// Its timers run, but it neither reads nor sends; its host acknowledges.
    Blocked,
    /// Gone; its host resets streams and refuses connections.
    Killed,
    /// Gone with its host.
    Silent,
}

impl Process {
    pub(super) fn lives(self) -> bool {
        matches!(self, Self::Running | Self::Frozen | Self::Blocked)
    }

    /// Whether it meets its deadlines.
    fn keeps_time(self) -> bool {
        matches!(self, Self::Running | Self::Blocked)
    }

    /// Whether what reaches it waits.
    pub(super) fn is_held_up(self) -> bool {
        matches!(self, Self::Frozen | Self::Blocked)
    }
}

/// One host and its process.
pub(super) struct Member {
    pub(super) core: Option<Membership>,
    pub(super) process: Process,
    /// Counts its processes.
    pub(super) number: u32,
    /// When its next deadline is looked at; `Nanos::MAX`: no such event is under way.
    pub(super) timer: Nanos,
    /// What waits for a process that is held up, and whose frame it is.
    pub(super) waiting: VecDeque<(Option<Host>, Input)>,
    /// What a blocked process wants to be done.
    pub(super) unsaid: VecDeque<Output>,
    /// Slots of streams of which it holds an end.
    pub(super) streams: Vec<u32>,
    pub(super) clock: Clock,
    pub(super) wall_jump_ms: i64,
    /// The newest epoch it stored.
    pub(super) stored_epoch: u64,
    pub(super) term: u64,
    pub(super) liar: Option<Box<Liar>>,
}

impl World {
    /// Starts a process. `epoch`: what a lost storage and a clock that is behind lead to, else as it should be.
    pub(super) fn start(&mut self, host: Host, epoch: Option<u64>) {
        if self.lives(host) {
            return;
        }
        let now = self.now;
        let seed = self.rng.next_u64();
        let wall = WALL_MS.saturating_add_signed(self.members[host].wall_jump_ms) + now / ms(1);
        let first = self.members[host].number == 0 && !self.plan.joins_later(host);
        let storage_lost = epoch.is_some();
        let usual = if first { WALL_MS } else { wall.max(self.members[host].stored_epoch + 1) };
        let epoch = epoch.unwrap_or(usual);
        let config = Config::new(self.names.name(host).clone(), Epoch(epoch), wall);
        let known = if storage_lost { Vec::new() } else { self.known_at_start(host) };
        let member = &self.members[host];
        let local = member.clock.read(now);
        let metadata = metadata(self.names.address(host), member.term);
        let mut core = Membership::new(config, metadata, known, seed, local);
        // Member 0 is everybody's seed; it itself founds the fleet, and finds it again by member 1.
        let by = match host {
            0 => (self.members[0].number > 0 && self.plan.members > 1).then_some(1),
            _ => Some(0),
        };
        let seeds = by.map(|by: Host| self.names.address(by).clone()).into_iter().collect();
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.planted {
            core.plant(bug);
        }
        core.handle(Input::SetSeeds(seeds), local);
        let member = &mut self.members[host];
        member.stored_epoch = if storage_lost { epoch } else { member.stored_epoch.max(epoch) };
        member.core = Some(core);
        member.process = Process::Running;
        member.number += 1;
        member.timer = Nanos::MAX;
        if let Some(checks) = &mut self.checks {
            checks.started(host, epoch, now);
        }
        self.note(host, || What::Started { epoch });
        self.drain(host);
    }

    /// What a process finds in its storage: a first one of a warm fleet all that start with it, a later one those
    /// that it last saw.
    fn known_at_start(&self, host: Host) -> Vec<KnownMember> {
        let known = |other: Host, epoch: Epoch| KnownMember {
            name: self.names.name(other).clone(),
            epoch,
            address: Some(self.names.address(other).clone()),
            record: None,
        };
        let warm = |other: Host| KnownMember {
            name: self.names.name(other).clone(),
            epoch: Epoch(WALL_MS),
            address: None,
            record: Some(self.names.first_record(other).clone()),
        };
        let others = (0..self.plan.members).filter(|other| *other != host);
        if let Some(core) = &self.members[host].core {
            let seen = others.filter_map(|other| {
                let view = core.member(self.names.name(other))?;
                (view.state != State::Left).then(|| known(other, view.epoch))
            });
            return seen.collect();
        }
        if !self.plan.warm || self.plan.joins_later(host) {
            return Vec::new();
        }
        others.filter(|o| !self.plan.joins_later(*o)).map(warm).collect()
    }

    /// Ends a process.
    pub fn kill(&mut self, host: Host, reset: bool) {
        if !self.lives(host) {
            return;
        }
        let process = if reset { Process::Killed } else { Process::Silent };
        let member = &mut self.members[host];
        member.process = process;
        member.timer = Nanos::MAX;
        member.waiting.clear();
        member.unsaid.clear();
        member.liar = None;
        self.abandon_streams(host, reset);
        let now = self.now;
        if let Some(checks) = &mut self.checks {
            checks.stopped(host, now);
        }
        self.note(host, || What::Died { reset });
    }

    pub(super) fn hold_up(&mut self, host: Host, block: Block) {
        if self.members[host].process != Process::Running {
            return;
        }
        self.members[host].process = match block {
            Block::Process => Process::Frozen,
            Block::Messages => Process::Blocked,
        };
        let now = self.now;
        if let Some(checks) = &mut self.checks {
            checks.stopped(host, now);
        }
        self.note(host, || What::HeldUp(block));
    }

    /// Continues a process that was held up; whether anything had waited for it: a frame, a deadline, or something that
    /// it wanted to say.
    pub(super) fn go_on(&mut self, host: Host) -> bool {
        let stood_still = match self.members[host].process {
            Process::Frozen => true,
            Process::Blocked => false,
            _ => return false,
        };
        let (now, own_first) = (self.now, self.rng.random::<bool>());
        self.members[host].process = Process::Running;
        if let Some(checks) = &mut self.checks {
            checks.resumed(host, stood_still, now);
        }
        self.note(host, || What::GoesOn);
        let waiting = std::mem::take(&mut self.members[host].waiting);
        let unsaid = std::mem::take(&mut self.members[host].unsaid);
        let missed = !waiting.is_empty() || !unsaid.is_empty() || self.is_due(host);
        // Whether its timers and what it has to say, or its sockets come first is anybody's guess.
        let (first, last) = if own_first { (unsaid, VecDeque::new()) } else { (VecDeque::new(), unsaid) };
        for output in first {
            self.carry_out(host, output);
        }
        if own_first {
            self.run_timeouts(host);
        }
        for (sender, input) in waiting {
            self.give(host, sender, input);
        }
        for output in last {
            self.carry_out(host, output);
        }
        self.drain(host);
        missed
    }

    /// Whether a deadline of its core has come.
    fn is_due(&self, host: Host) -> bool {
        let local = self.members[host].clock.read(self.now);
        self.core(host).and_then(Membership::next_timeout).is_some_and(|at| at <= local)
    }

    fn run_timeouts(&mut self, host: Host) -> bool {
        if !self.is_due(host) {
            return false;
        }
        let member = &mut self.members[host];
        let local = member.clock.read(self.now);
        if let Some(core) = &mut member.core {
            core.handle_timeout(local);
        }
        self.drain(host);
        true
    }

    pub(super) fn timer(&mut self, host: Host) {
        if self.members[host].timer != self.now {
            return;
        }
        self.members[host].timer = Nanos::MAX;
        if self.members[host].process.keeps_time() && !self.run_timeouts(host) {
            self.arm(host);
        }
    }

    /// Sees to it that the core's next deadline is met. An event for an earlier one stays and looks again.
    pub(super) fn arm(&mut self, host: Host) {
        let member = &mut self.members[host];
        if !member.process.keeps_time() {
            return;
        }
        let Some(next) = member.core.as_ref().and_then(Membership::next_timeout) else { return };
        let at = member.clock.when(next).max(self.now);
        if at < member.timer {
            member.timer = at;
            self.queue.push(at, Happening::Timer(host as u32));
        }
    }

    /// Forgets the armed deadline: a clock's rate changed.
    pub(super) fn rearm(&mut self, host: Host) {
        self.members[host].timer = Nanos::MAX;
        self.arm(host);
    }
}

impl Member {
    pub(super) fn new(clock: Nanos) -> Self {
        Self {
            core: None,
            process: Process::Off,
            number: 0,
            timer: Nanos::MAX,
            waiting: VecDeque::new(),
            unsaid: VecDeque::new(),
            streams: Vec::new(),
            clock: Clock::new(clock),
            wall_jump_ms: 0,
            stored_epoch: WALL_MS - 1,
            term: 1,
            liar: None,
        }
    }
}
