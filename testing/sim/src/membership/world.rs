//! A fleet of membership cores in virtual time. A run is a pure function of its plan and seed.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::Hasher as _;

use flagship_membership::{
    Config, Event, Input, KnownMember, LinkId, Membership, Message, Output, State, Statement, Verdict,
};
use flagship_types::{Epoch, Instant, PeerAddress};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use siphasher::sip::SipHasher24;

use super::checks::{Checks, Seen, Violation};
use super::clock::{Clock, Nanos, ms};
use super::dials::Dial;
use super::fault::{Host, Plan};
use super::lies::Liar;
use super::names::{Names, metadata};
use super::paths::Paths;
use super::queue::{Happening, Queue};
use super::rings::{MESH, Rings};
use super::signing::sign;
use super::streams::{Stream, Wire};
use super::tally::Tally;
use super::trace::{Trace, What};

/// The wall clock at the start of virtual time, in milliseconds.
pub(super) const WALL_MS: u64 = 1_800_000_000_000;

/// A process that finds its name in use is ended and started anew by whoever runs it.
const STALLED_FOR: Nanos = ms(8_000);

/// So many views of a large fleet are looked at one by one.
const SAMPLE: usize = 300;

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// Not started yet.
    Off,
    /// Runs.
    Running,
    /// Does not get to run; its host acknowledges.
    Frozen,
    /// Gone; its host resets streams and refuses connections.
    Killed,
    /// Gone with its host.
    Silent,
}

impl Process {
    pub(super) fn lives(self) -> bool {
        matches!(self, Self::Running | Self::Frozen)
    }
}

/// One host and its process.
pub(super) struct Member {
    pub(super) core: Option<Membership>,
    pub(super) process: Process,
    /// Counts its processes.
    pub(super) number: u32,
    /// When its next deadline is looked at; `Nanos::MAX`: no such event is under way.
    timer: Nanos,
    /// What waits for a frozen process, and whose frame it is.
    pub(super) waiting: VecDeque<(Option<Host>, Input)>,
    /// Slots of streams of which it holds an end.
    pub(super) streams: Vec<u32>,
    pub(super) clock: Clock,
    pub(super) wall_jump_ms: i64,
    /// The newest epoch it stored.
    pub(super) stored_epoch: u64,
    pub(super) term: u64,
    pub(super) liar: Option<Box<Liar>>,
    /// When it froze.
    pub(super) frozen_at: Nanos,
}

/// What a run is asked to record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// A readable timeline.
    pub trace: bool,
    /// A digest of the full text of every output of every core.
    pub digest: bool,
    /// Bytes sent.
    pub bytes: bool,
    /// Whether the checkers run.
    pub checks: bool,
    /// A bug in every core.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<flagship_membership::PlantedBug>,
}

/// The fleet, the network between its members, and time.
pub struct World {
    pub(super) now: Nanos,
    pub(super) rng: Pcg64Mcg,
    pub(super) plan: Plan,
    pub(super) queue: Queue,
    pub(super) names: Names,
    pub(super) rings: Rings,
    pub(super) members: Vec<Member>,
    pub(super) paths: Paths,
    pub(super) streams: Vec<Stream>,
    pub(super) free_streams: Vec<u32>,
    pub(super) dials: Vec<Dial>,
    pub(super) free_dials: Vec<u32>,
    /// When the plan began.
    pub(super) plan_began: Nanos,
    /// State of faults with steps: whether it is in its bad part.
    pub(super) steps: Vec<bool>,
    /// Processes that will be started anew.
    pub(super) coming_back: u32,
    pub(super) tally: Tally,
    pub(super) checks: Option<Checks>,
    pub(super) trace: Option<Trace>,
    digest: Option<(SipHasher24, String)>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<flagship_membership::PlantedBug>,
}

impl World {
    /// The fleet before its first event: all members start within the first second.
    pub fn new(plan: &Plan, seed: u64, record: Record) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let names = Names::of_run(plan.members, seed);
        let rings = Rings::new(&names);
        let members = (0..plan.members).map(|_| Member::new(rng.next_u64() % ms(1_000_000))).collect();
        let faults = plan.faults.len();
        let mut world = Self {
            now: 0,
            plan: plan.clone(),
            queue: Queue::default(),
            names,
            rings,
            members,
            paths: Paths::new(plan.network, faults),
            streams: Vec::new(),
            free_streams: Vec::new(),
            dials: Vec::new(),
            free_dials: Vec::new(),
            plan_began: Nanos::MAX,
            steps: vec![false; faults],
            coming_back: 0,
            tally: Tally::new(record.bytes),
            checks: record.checks.then(|| Checks::new(plan)),
            trace: record.trace.then(Trace::default),
            digest: record.digest.then(|| (SipHasher24::new(), String::new())),
            #[cfg(feature = "planted-bugs")]
            planted: record.planted,
            rng,
        };
        for host in 0..plan.members {
            if !plan.joins_later(host) {
                let at = world.rng.next_u64() % ms(1000);
                world.queue.push(at, Happening::Start(host as u32));
            }
        }
        world
    }

    // What others read.

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

    /// Another plan for the same fleet, before it begins.
    pub fn replace_plan(&mut self, plan: &Plan) {
        self.plan = plan.clone();
        self.paths.fired = vec![0; plan.faults.len()];
        self.steps = vec![false; plan.faults.len()];
    }

    /// A time drawn evenly from zero.
    pub fn draw(&mut self, bound: Nanos) -> Nanos {
        self.rng.next_u64() % bound.max(1)
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

    // Time.

    /// Runs up to that instant.
    pub fn run_until(&mut self, end: Nanos) {
        while let Some((at, happening)) = self.queue.pop(end) {
            self.now = at;
            self.tally.happenings += 1;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Runs until it holds, looking every `step`; `None` if it does not within `limit`.
    pub fn run_until_holds(
        &mut self,
        step: Nanos,
        limit: Nanos,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Option<Nanos> {
        let began = self.now;
        while !holds(self) {
            if self.now - began >= limit {
                return None;
            }
            self.run_until(self.now + step);
        }
        Some(self.now - began)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer(host) => self.timer(host as usize),
            Happening::Arrive(end) => self.arrive(end),
            Happening::Retry(end) => self.retry(end),
            Happening::Reset(end) => self.reset_arrives(end),
            Happening::Syn(dial) => self.syn(dial),
            Happening::Hello(dial) => self.hello(dial),
            Happening::DialOver(dial) => self.dial_over(dial),
            Happening::Refused(dial) => self.dial_refused(dial),
            Happening::Begin(fault) => self.begin(fault as usize),
            Happening::End(fault) => self.end(fault as usize),
            Happening::Step(fault) => self.step(fault as usize),
            Happening::Start(host) => {
                self.coming_back = self.coming_back.saturating_sub(1);
                self.start(host as usize, None);
            }
            Happening::Exit(host, number) => {
                if self.members[host as usize].number == number {
                    self.kill(host as usize, true);
                }
            }
            Happening::Lie(host) => self.lie(host as usize),
        }
    }

    // Processes.

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
        member.liar = None;
        self.abandon_streams(host, reset);
        let now = self.now;
        if let Some(checks) = &mut self.checks {
            checks.stopped(host, now);
        }
        self.note(host, || What::Died { reset });
    }

    pub(super) fn freeze(&mut self, host: Host) {
        if self.members[host].process != Process::Running {
            return;
        }
        self.members[host].process = Process::Frozen;
        self.members[host].frozen_at = self.now;
        let now = self.now;
        if let Some(checks) = &mut self.checks {
            checks.stopped(host, now);
        }
        self.note(host, || What::Froze);
    }

    /// Continues a frozen process; whether anything had waited for it.
    pub(super) fn thaw(&mut self, host: Host) -> bool {
        if self.members[host].process != Process::Frozen {
            return false;
        }
        let (now, timers_first) = (self.now, self.rng.random::<bool>());
        self.members[host].process = Process::Running;
        if let Some(checks) = &mut self.checks {
            checks.resumed(host, now);
        }
        self.note(host, || What::Thawed);
        let waiting = std::mem::take(&mut self.members[host].waiting);
        let mut missed = !waiting.is_empty();
        // Whether its timers or its sockets come first is anybody's guess.
        if timers_first {
            missed |= self.run_timeouts(host);
        }
        for (sender, input) in waiting {
            self.give(host, sender, input);
        }
        self.drain(host);
        missed
    }

    fn run_timeouts(&mut self, host: Host) -> bool {
        let member = &mut self.members[host];
        let local = member.clock.read(self.now);
        let Some(core) =
            member.core.as_mut().filter(|core| core.next_timeout().is_some_and(|at| at <= local))
        else {
            return false;
        };
        core.handle_timeout(local);
        self.drain(host);
        true
    }

    // A core's inputs and outputs.

    fn timer(&mut self, host: Host) {
        if self.members[host].timer != self.now {
            return;
        }
        self.members[host].timer = Nanos::MAX;
        if self.members[host].process == Process::Running && !self.run_timeouts(host) {
            self.arm(host);
        }
    }

    /// Gives an input to a process, or keeps it for a frozen one.
    pub(super) fn input(&mut self, host: Host, input: Input) {
        self.give(host, None, input);
    }

    /// The same, for a frame of that sender's.
    pub(super) fn give(&mut self, host: Host, sender: Option<Host>, input: Input) {
        let member = &mut self.members[host];
        match member.process {
            Process::Running => {}
            Process::Frozen => return member.waiting.push_back((sender, input)),
            Process::Off | Process::Killed | Process::Silent => return,
        }
        let local = member.clock.read(self.now);
        let Some(core) = &mut member.core else { return };
        if let (Some(sender), Input::Message { link, message }, Some(checks)) =
            (sender, &input, &mut self.checks)
        {
            let in_use = core.peer_of(*link).is_some();
            checks.delivered(&self.names, (sender, host), in_use, message.get(), self.now);
        }
        core.handle(input, local);
        self.drain(host);
        if sender.is_some()
            && let Some(mut checks) = self.checks.take()
        {
            checks.handled(self, host);
            self.checks = Some(checks);
        }
    }

    /// Carries out what a core wants.
    pub(super) fn drain(&mut self, host: Host) {
        if let (Some(checks), Some(core)) = (&mut self.checks, &self.members[host].core) {
            checks.owner_is_at(host, core.epoch().0, core.incarnation().0);
        }
        while let Some(output) = self.members[host].core.as_mut().and_then(Membership::poll_output) {
            self.tally.outputs += 1;
            if let Some((hasher, text)) = &mut self.digest {
                text.clear();
                write!(text, "{} {host} {output:?}", self.now).expect("writing to a string");
                hasher.write(text.as_bytes());
            }
            match output {
                Output::Connect { address } => self.connect(host, address),
                Output::Send { link, message } => self.send(host, link, message),
                Output::Disconnect { link, code } => self.disconnect(host, link, code),
                Output::Event(event) => self.event(host, event),
                Output::Sign(statement) => self.sign(host, *statement),
            }
        }
        self.arm(host);
    }

    /// Signs, and gives it back before anything else happens to that core.
    fn sign(&mut self, host: Host, statement: Statement) {
        if let Statement::Accusation(accusation) = &statement
            && let Some(mut checks) = self.checks.take()
        {
            checks.finding(self, host, accusation);
            self.checks = Some(checks);
        }
        let member = &mut self.members[host];
        let local = member.clock.read(self.now);
        if let Some(core) = &mut member.core {
            core.handle(Input::Signed(sign(host, statement)), local);
        }
    }

    /// Sees to it that the core's next deadline is met. An event for an earlier one stays and looks again.
    fn arm(&mut self, host: Host) {
        let member = &mut self.members[host];
        if member.process != Process::Running {
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

    fn send(&mut self, host: Host, link: LinkId, message: Message) {
        self.tally.count(&message);
        let message = match &mut self.members[host].liar {
            Some(liar) => liar.tamper(message, &mut self.rng),
            None => Some(message),
        };
        let Some(message) = message else { return };
        self.post(host, link, message);
    }

    /// Puts a message of that host's on a stream.
    pub(super) fn post(&mut self, host: Host, link: LinkId, message: Message) {
        let Some((slot, end)) = self.end_of(host, link) else { return };
        let to = self.streams[slot as usize].ends[1 - usize::from(end)].host;
        if let Some(checks) = &mut self.checks {
            let honest = self.members[host].liar.is_none() && !checks.is_liar(host);
            if let Message::Answer { subject, verdict: Verdict::Mute(_), .. } = &message
                && honest
                && self.plan.members <= MESH
                && let Some(about) = self.names.host(subject)
            {
                let view = self.members[host].core.as_ref().and_then(|core| core.member(subject));
                checks.answers_mute(host, about, view.map(|view| view.state), self.now);
            }
            checks.sent(&self.names, (host, to), honest, &message, self.now);
        }
        self.note(host, || What::Sent { to, message: message.clone() });
        self.transmit(slot, 1 - end, Wire::Frame(message));
    }

    /// A member of the fleet put something into its view, or learnt something of itself.
    fn event(&mut self, host: Host, event: Event) {
        match event {
            Event::Changed(name) => self.changed(host, &name),
            Event::Heard { member, at } => self.heard(host, &member, at),
            Event::EpochRaised(epoch) => {
                self.members[host].stored_epoch = self.members[host].stored_epoch.max(epoch.0);
                self.note(host, || What::Event(Event::EpochRaised(epoch)));
            }
            Event::NameInUse { .. } => {
                self.tally.stalled += 1;
                let number = self.members[host].number;
                self.queue.push(self.now + STALLED_FOR / 8, Happening::Exit(host as u32, number));
                self.queue.push(self.now + STALLED_FOR, Happening::Start(host as u32));
                self.coming_back += 1;
                self.note(host, || What::Event(event.clone()));
            }
            Event::Querying(_) | Event::Refuted(_) => self.note(host, || What::Event(event.clone())),
        }
    }

    fn changed(&mut self, host: Host, name: &flagship_types::MemberName) {
        let subject = self.names.host(name);
        if let (Some(checks), None) = (&mut self.checks, subject) {
            checks.ghost(host, self.members[host].core.as_ref(), name);
        }
        let Some(subject) = subject else { return };
        let Some(view) = self.members[host].core.as_ref().and_then(|core| core.member(name)) else { return };
        let seen = Seen {
            at: self.now,
            viewer: host,
            subject,
            epoch: view.epoch.0,
            incarnation: view.incarnation.0,
            state: view.state,
            term: view.metadata.map(|metadata| metadata.term.0),
            evidence: view.evidence,
        };
        self.tally.seen(&seen);
        if let Some(mut checks) = self.checks.take() {
            checks.seen(self, seen);
            self.checks = Some(checks);
        }
        self.note(host, || What::Seen(seen));
    }

    fn heard(&mut self, host: Host, name: &flagship_types::MemberName, at: Instant) {
        let Some(checks) = &mut self.checks else { return };
        let Some(subject) = self.names.host(name) else { return };
        let when = self.members[host].clock.when(at);
        checks.heard(host, subject, when, self.now);
    }

    /// Adds to the timeline, if one is kept.
    pub(super) fn note(&mut self, host: Host, what: impl FnOnce() -> What) {
        if let Some(trace) = &mut self.trace {
            trace.add(self.now, host, what());
        }
    }

    pub(super) fn connect(&mut self, host: Host, address: PeerAddress) {
        self.tally.dials += 1;
        self.dial(host, address);
    }
}

impl Member {
    fn new(clock: Nanos) -> Self {
        Self {
            core: None,
            process: Process::Off,
            number: 0,
            timer: Nanos::MAX,
            waiting: VecDeque::new(),
            streams: Vec::new(),
            clock: Clock::new(clock),
            wall_jump_ms: 0,
            stored_epoch: WALL_MS - 1,
            term: 1,
            liar: None,
            frozen_at: 0,
        }
    }
}
