//! The world: hosts, network and time, moved on event by event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::time::Duration;

use flagship_membership::KnownMember;
use flagship_node::{
    ConnectFailure, Directive, DurableRecord, ElectionSpec, LinkEnd, LinkEvent, LinkId, Machine,
    MachineConfig, MachineOutput, NodeEvent, NodeSpec, PauseDetector, PeerHello, Purpose,
};
use flagship_types::{
    Callsign, CloseCode, Epoch, FleetConfig, Health, Instant, MemberName, PeerAddress, Role, Term, Verified,
};
use flagship_wire::PeerMessage;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::check::Violations;
use crate::host::{Host, HostSpec, Job, PayloadState};
use crate::network::{CONNECT_TIMEOUT, HostId, Network, USER_TIMEOUT};
use crate::plan::Fault;

/// The wall clock when virtual time begins, in milliseconds.
const WALL_START_MS: u64 = 1_800_000_000_000;
/// The loop of a real node turns at least this often.
const TICK: Duration = Duration::from_millis(250);

/// Seconds as a duration.
pub fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Something that will happen.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(HostId, u64),
    Deliver { stream: u64, end: usize },
    ConnectDone { from: HostId, process: u64, to: HostId, address: String },
    CloseSeen { stream: u64, end: usize, code: Option<CloseCode> },
    Unacked { stream: u64, end: usize },
    Stored { host: HostId, process: u64 },
    Job { host: HostId, number: u64, step: u8 },
}

/// A fleet in virtual time.
pub struct World {
    now: Instant,
    rng: Pcg64,
    hosts: Vec<Host>,
    network: Network,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    sequence: u64,
    in_flight: std::collections::BTreeMap<(u64, usize), std::collections::VecDeque<(Instant, PeerMessage)>>,
    latency: Duration,
    /// What was found.
    pub violations: Violations,
    faults_fired: usize,
    disturbed: bool,
    trace: String,
    seed: u64,
}

impl World {
    /// A world with these hosts, none of which runs yet, and this one-way delay.
    pub fn new(seed: u64, latency: Duration, hosts: Vec<HostSpec>) -> Self {
        Self {
            now: Instant::ZERO + Duration::from_secs(1000),
            rng: Pcg64::seed_from_u64(seed),
            hosts: hosts.into_iter().map(Host::new).collect(),
            network: Network::default(),
            queue: BinaryHeap::new(),
            sequence: 0,
            in_flight: std::collections::BTreeMap::new(),
            latency,
            violations: Violations::default(),
            faults_fired: 0,
            disturbed: false,
            trace: String::new(),
            seed,
        }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What happened so far, a line each.
    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// How many faults were carried out.
    pub fn faults_fired(&self) -> usize {
        self.faults_fired
    }

    /// What runs of the payload there.
    pub fn payload(&self, host: HostId) -> PayloadState {
        self.hosts[host].payload
    }

    /// The role of a running process.
    pub fn role(&self, host: HostId) -> Option<Role> {
        self.hosts[host].machine.as_ref().map(|m| m.election().role())
    }

    /// The machine of a running process.
    pub fn machine(&self, host: HostId) -> Option<&Machine> {
        self.hosts[host].machine.as_ref()
    }

    /// The stored record.
    pub fn durable(&self, host: HostId) -> Option<&DurableRecord> {
        self.hosts[host].durable.as_ref()
    }

    /// Who leads, by the processes' own word.
    pub fn leaders(&self) -> Vec<HostId> {
        (0..self.hosts.len()).filter(|h| self.role(*h) == Some(Role::Leader)).collect()
    }

    /// Which clusters have anything of the payload.
    pub fn holders(&self) -> Vec<HostId> {
        (0..self.hosts.len()).filter(|h| self.hosts[*h].payload.exists()).collect()
    }

    /// Deletes a host's status, as if its object had been deleted and created again.
    pub fn lose_status(&mut self, host: HostId) {
        self.hosts[host].durable = None;
        self.hosts[host].known.clear();
    }

    /// Changes a rank.
    pub fn set_rank(&mut self, host: HostId, rank: i64) {
        self.hosts[host].spec.rank = rank;
        let spec = node_spec(&self.hosts[host].spec);
        self.with_machine(host, |machine, now| machine.spec(spec, now));
    }

    /// Hands a command to a running machine.
    pub fn with_machine(&mut self, host: HostId, act: impl FnOnce(&mut Machine, Instant)) {
        let now = self.now;
        if let Some(machine) = &mut self.hosts[host].machine {
            act(machine, now);
        }
        self.perform(host);
    }

    /// Carries out a fault now.
    pub fn fault(&mut self, fault: &Fault) {
        self.log(format_args!("FAULT {fault:?}"));
        self.faults_fired += 1;
        match *fault {
            Fault::Kill(host) => self.kill(host),
            Fault::Start(host) => self.start(host),
            Fault::Freeze(host) => {
                self.disturbed = true;
                self.hosts[host].frozen = true;
            }
            Fault::Thaw(host) => {
                self.hosts[host].frozen = false;
                self.wake(host);
            }
            Fault::Cut(from, to) => {
                self.disturbed = true;
                self.network.cut(from, to);
            }
            Fault::Heal(from, to) => {
                self.network.heal(from, to);
                self.resume_streams();
            }
            Fault::ApiDown(host) => {
                self.hosts[host].api_up = false;
                self.report_health(host);
            }
            Fault::ApiUp(host) => {
                self.hosts[host].api_up = true;
                self.report_health(host);
                self.save(host);
                self.follow_directive(host);
            }
        }
    }

    /// Runs for so long.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(Reverse((at, _, _))) = self.queue.peek() {
            if *at > end {
                break;
            }
            let Some(Reverse((at, _, event))) = self.queue.pop() else { break };
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    /// Runs until the condition holds; panics with the trace if it does not within `limit`.
    pub fn run_until(&mut self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            assert!(self.now.since(start) < limit, "not within {limit:?}: {what}\n{}", self.report());
            self.run(Duration::from_millis(10));
        }
        self.now.since(start)
    }

    /// The seed, the end of the trace and where everybody stands.
    pub fn report(&self) -> String {
        let lines: Vec<_> = self.trace.lines().collect();
        let tail = lines[lines.len().saturating_sub(120)..].join("\n");
        let mut out = format!("seed {}\n{tail}\n", self.seed);
        for host in &self.hosts {
            let role = host
                .machine
                .as_ref()
                .map(|m| (m.election().role(), m.election().term(), m.election().waiting_for(self.now)));
            let _ = writeln!(
                out,
                "{}: {role:?} payload {:?} frozen {} api {}",
                host.spec.name, host.payload, host.frozen, host.api_up
            );
        }
        out
    }

    fn log(&mut self, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.trace, "{:?} {what}", self.now);
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now.as_nanos() / 1_000_000
    }

    fn host_named(&self, name: &str) -> Option<HostId> {
        self.hosts.iter().position(|host| host.spec.name == name)
    }

    fn start(&mut self, id: HostId) {
        if self.hosts[id].machine.is_some() {
            return;
        }
        let (now, wall_ms) = (self.now, self.wall_ms());
        let seed = self.rng.random();
        let known: Vec<_> = self.hosts[id].known.iter().map(|name| self.known_member(name)).collect();
        let host = &mut self.hosts[id];
        host.process += 1;
        host.started = now;
        host.frozen = false;
        let epoch = host.next_epoch(wall_ms);
        if let Some(record) = &mut host.durable {
            record.epoch = epoch;
        }
        let config = MachineConfig {
            callsign: Callsign::new("federation").expect("valid"),
            member: host.spec.member(),
            epoch,
            wall_ms,
            spec: node_spec(&host.spec),
            restored: host.restored(),
            known,
            beat_interval: Duration::from_secs(1),
            silence_floor: Duration::from_secs(3),
            seed,
        };
        host.machine = Some(Machine::new(config, now));
        host.pauses = PauseDetector::new(now, wall_ms);
        host.due = None;
        host.job = Job::Idle;
        host.saving = false;
        host.unsaved = None;
        self.report_health(id);
        self.perform(id);
        self.follow_directive(id);
    }

    fn known_member(&self, name: &MemberName) -> KnownMember {
        let host = self.host_named(name.as_str());
        let epoch = host.and_then(|h| self.hosts[h].durable.as_ref()).map_or(Epoch(0), |record| record.epoch);
        KnownMember { name: name.clone(), epoch, address: host.map(|h| self.hosts[h].spec.address()) }
    }

    fn kill(&mut self, id: HostId) {
        let process = self.hosts[id].process;
        self.hosts[id].machine = None;
        self.hosts[id].job = Job::Idle;
        self.hosts[id].job_number += 1;
        let streams: Vec<_> =
            self.network.streams.iter().filter_map(|(n, s)| Some((*n, s.end_of(id, process)?))).collect();
        for (stream, end) in streams {
            self.close_end(stream, end, None);
        }
    }

    /// Closes one end; the other learns of it if the path is open.
    fn close_end(&mut self, stream: u64, end: usize, code: Option<CloseCode>) {
        let Some(s) = self.network.streams.get_mut(&stream) else { return };
        if !std::mem::replace(&mut s.ends[end].open, false) {
            return;
        }
        let (from, to) = (s.ends[end].host, s.ends[1 - end].host);
        let arrival = s.ends[1 - end].last_arrival;
        if self.network.open(from, to) {
            let delay = self.delay().max(arrival.since(self.now));
            self.at(delay, Event::CloseSeen { stream, end: 1 - end, code });
        }
    }

    fn delay(&mut self) -> Duration {
        self.latency.mul_f64(1.0 + self.rng.random_range(0.0..0.25))
    }

    fn report_health(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let ready = matches!(host.payload, PayloadState::Ready { .. });
        let health = Health { api: host.api_up, payload_valid: true, payload_ready: ready };
        self.with_machine(id, |machine, now| machine.health(health, now));
    }

    fn wake(&mut self, id: HostId) {
        let (now, wall_ms) = (self.now, self.wall_ms());
        let host = &mut self.hosts[id];
        if !host.runs() {
            return;
        }
        let due = host.due.unwrap_or(now);
        let missed = host.pauses.observe(now, wall_ms, due.max(Instant::ZERO));
        let Some(machine) = host.machine.as_mut() else { return };
        if let Some(missed) = missed {
            machine.paused(missed, now);
        }
        if machine.next_timeout().is_some_and(|at| at <= now) {
            machine.handle_timeout(now);
        }
        self.perform(id);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(host, process) => {
                if self.hosts[host].process == process
                    && self.hosts[host].due.is_some_and(|due| due <= self.now)
                {
                    self.wake(host);
                }
            }
            Event::Deliver { stream, end } => self.deliver(stream, end),
            Event::ConnectDone { from, process, to, address } => self.connected(from, process, to, &address),
            Event::CloseSeen { stream, end, code } => self.close_seen(stream, end, code),
            Event::Unacked { stream, end } => self.user_timeout(stream, end),
            Event::Stored { host, process } => self.stored(host, process),
            Event::Job { host, number, step } => self.job_step(host, number, step),
        }
    }

    /// Hands an event to the process of that end, later if it is frozen.
    fn to_end(&mut self, stream: u64, end: usize, again: Event) -> Option<HostId> {
        let s = self.network.streams.get(&stream)?;
        let (host, process, open) = (s.ends[end].host, s.ends[end].process, s.ends[end].open);
        if !open || self.hosts[host].process != process || self.hosts[host].machine.is_none() {
            return None;
        }
        if self.hosts[host].frozen {
            self.at(Duration::from_millis(50), again);
            return None;
        }
        Some(host)
    }

    fn deliver(&mut self, stream: u64, end: usize) {
        let Some(host) = self.to_end(stream, end, Event::Deliver { stream, end }) else { return };
        self.wake(host);
        let Some(waiting) = self.in_flight.get_mut(&(stream, end)) else { return };
        while waiting.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, message)) = waiting.pop_front() else { break };
            let event = LinkEvent::Message { link: LinkId(stream), message: Verified::first_hand(message) };
            if let Some(machine) = self.hosts[host].machine.as_mut() {
                machine.link_event(event, self.now);
            }
        }
        self.perform(host);
    }

    fn close_seen(&mut self, stream: u64, end: usize, code: Option<CloseCode>) {
        let Some(host) = self.to_end(stream, end, Event::CloseSeen { stream, end, code }) else { return };
        if let Some(s) = self.network.streams.get_mut(&stream) {
            s.ends[end].open = false;
        }
        let end = code.map_or(LinkEnd::Lost, LinkEnd::Closed);
        self.link_event(host, LinkEvent::Down { link: LinkId(stream), end });
    }

    fn user_timeout(&mut self, stream: u64, end: usize) {
        let now = self.now;
        let Some(s) = self.network.streams.get_mut(&stream) else { return };
        let e = &mut s.ends[end];
        if !e.open || !e.unacked_since.is_some_and(|since| now.since(since) >= USER_TIMEOUT) {
            return;
        }
        let (host, process) = (e.host, e.process);
        self.close_end(stream, end, None);
        if self.hosts[host].process == process {
            self.link_event(host, LinkEvent::Down { link: LinkId(stream), end: LinkEnd::Lost });
        }
    }

    fn link_event(&mut self, host: HostId, event: LinkEvent) {
        self.wake(host);
        let now = self.now;
        if let Some(machine) = self.hosts[host].machine.as_mut() {
            machine.link_event(event, now);
        }
        self.perform(host);
    }

    fn connected(&mut self, from: HostId, process: u64, to: HostId, address: &str) {
        if self.hosts[from].process != process || self.hosts[from].machine.is_none() {
            return;
        }
        if self.hosts[from].frozen {
            // The kernel's answer waits until the process goes on.
            let address = address.to_owned();
            return self.at(Duration::from_millis(50), Event::ConnectDone { from, process, to, address });
        }
        let address = PeerAddress::parse(address, 9990).expect("came from a PeerAddress");
        let failure = if !self.network.both_open(from, to) || self.hosts[to].frozen {
            Some(ConnectFailure::Unanswered)
        } else if self.hosts[to].machine.is_none() {
            Some(ConnectFailure::Refused)
        } else {
            None
        };
        if let Some(failure) = failure {
            let reason = String::new();
            return self.link_event(from, LinkEvent::ConnectFailed { address, failure, reason });
        }
        let processes = [(from, process), (to, self.hosts[to].process)];
        let stream = self.network.connect(processes);
        for (host, peer, dialled) in [(from, to, Some(address)), (to, from, None)] {
            let Some(hello) = self.hosts[peer].machine.as_ref().map(Machine::hello) else { continue };
            let hello = PeerHello {
                member: hello.member,
                epoch: hello.epoch,
                address: hello.address,
                view_hash: hello.view_hash,
            };
            let event = LinkEvent::Up { link: LinkId(stream), hello: Verified::first_hand(hello), dialled };
            self.link_event(host, event);
        }
    }

    fn connect(&mut self, from: HostId, address: &PeerAddress) {
        let process = self.hosts[from].process;
        let target = self.host_named(address.host()).unwrap_or(from);
        let answered = self.network.both_open(from, target) && !self.hosts[target].frozen;
        let delay = if answered { self.delay() * 2 } else { CONNECT_TIMEOUT };
        self.at(delay, Event::ConnectDone { from, process, to: target, address: address.to_string() });
    }

    fn send(&mut self, from: HostId, link: LinkId, message: PeerMessage) {
        let process = self.hosts[from].process;
        let delay = self.delay();
        let now = self.now;
        let Some(stream) = self.network.streams.get(&link.0) else { return };
        let Some(end) = stream.end_of(from, process).filter(|end| stream.ends[*end].open) else { return };
        let to = stream.ends[1 - end].host;
        let (forward, both) = (self.network.open(from, to), self.network.both_open(from, to));
        let Some(stream) = self.network.streams.get_mut(&link.0) else { return };
        let own = &mut stream.ends[end];
        let begins = !both && own.unacked_since.is_none();
        if begins {
            own.unacked_since = Some(now);
        }
        if !forward || !own.stalled.is_empty() {
            own.stalled.push_back(message);
        } else {
            self.fly(link.0, 1 - end, delay, message);
        }
        if begins {
            self.at(USER_TIMEOUT, Event::Unacked { stream: link.0, end });
        }
    }

    fn fly(&mut self, stream: u64, end: usize, delay: Duration, message: PeerMessage) {
        let Some(s) = self.network.streams.get_mut(&stream) else { return };
        let arrival = (self.now + delay).max(s.ends[end].last_arrival);
        s.ends[end].last_arrival = arrival;
        self.in_flight.entry((stream, end)).or_default().push_back((arrival, message));
        self.at(arrival.since(self.now), Event::Deliver { stream, end });
    }

    /// After a heal: what still waits is retransmitted.
    fn resume_streams(&mut self) {
        let numbers: Vec<_> = self.network.streams.keys().copied().collect();
        for stream in numbers {
            for end in 0..2 {
                let Some(s) = self.network.streams.get_mut(&stream) else { continue };
                let (from, to) = (s.ends[end].host, s.ends[1 - end].host);
                if !self.network.both_open(from, to) {
                    continue;
                }
                let Some(s) = self.network.streams.get_mut(&stream) else { continue };
                s.ends[end].unacked_since = None;
                let stalled = std::mem::take(&mut s.ends[end].stalled);
                let fraction = self.rng.random_range(0.0..1.0);
                let wait = self.network.retransmission(fraction);
                for message in stalled {
                    self.fly(stream, 1 - end, wait, message);
                }
            }
        }
    }

    fn perform(&mut self, id: HostId) {
        let name = self.hosts[id].spec.name;
        while let Some(output) = self.hosts[id].machine.as_mut().and_then(Machine::poll_output) {
            match output {
                MachineOutput::Connect(address) => self.connect(id, &address),
                MachineOutput::Send(link, message) => self.send(id, link, message),
                MachineOutput::Close(link, code) => {
                    let process = self.hosts[id].process;
                    if let Some(end) = self.network.streams.get(&link.0).and_then(|s| s.end_of(id, process)) {
                        self.close_end(link.0, end, Some(code));
                    }
                }
                MachineOutput::Persist(record) => {
                    self.hosts[id].unsaved = Some(record);
                    self.save(id);
                }
                MachineOutput::Direct(directive) => {
                    self.log(format_args!("{name} directive {directive:?}"));
                    self.follow_directive(id);
                }
                MachineOutput::Event(event) => {
                    if let NodeEvent::Member { member, .. } = &event {
                        self.hosts[id].known.insert(member.clone());
                    }
                    self.log(format_args!("{name} {event:?}"));
                }
                MachineOutput::Hello(_) => {}
            }
        }
        self.schedule_wake(id);
    }

    fn schedule_wake(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id];
        let Some(machine) = &host.machine else { return };
        let due = machine.next_timeout().map_or(now + TICK, |at| at.min(now + TICK)).max(now);
        host.due = Some(due);
        let process = host.process;
        self.at(due.since(now), Event::Wake(id, process));
    }

    fn save(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        if host.saving || host.unsaved.is_none() || !host.api_up {
            return;
        }
        host.saving = true;
        let process = host.process;
        let delay = Duration::from_millis(self.rng.random_range(2..20));
        self.at(delay, Event::Stored { host: id, process });
    }

    fn stored(&mut self, id: HostId, process: u64) {
        if self.hosts[id].process != process || self.hosts[id].machine.is_none() {
            return;
        }
        self.hosts[id].saving = false;
        if !self.hosts[id].api_up {
            return;
        }
        let Some(record) = self.hosts[id].unsaved.take() else { return };
        let version = record.election.version;
        self.violations.stored(&self.hosts[id].spec.member(), &record);
        self.hosts[id].durable = Some(record);
        // A frozen process learns of it when it goes on; the write itself happened.
        if self.hosts[id].frozen {
            self.at(Duration::from_millis(50), Event::Stored { host: id, process });
            self.hosts[id].unsaved = self.hosts[id].durable.clone();
            self.hosts[id].saving = true;
            return;
        }
        self.wake(id);
        self.with_machine(id, |machine, now| machine.persisted(version, now));
    }

    /// The payload worker takes up what the directive asks for, unless it is at it already.
    fn follow_directive(&mut self, id: HostId) {
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

    fn job_step(&mut self, id: HostId, number: u64, step: u8) {
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

    fn permitted(&self, id: HostId, purpose: Purpose) -> Option<Term> {
        let permit = self.hosts[id].machine.as_ref()?.permit(purpose, self.now).ok()?;
        Some(permit.term)
    }

    fn apply_step(&mut self, id: HostId, number: u64, step: u8, term: Term) {
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

    fn create_payload(&mut self, id: HostId, member: &MemberName, term: Term) {
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

    fn delete_step(&mut self, id: HostId, number: u64, step: u8, term: Option<Term>) {
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

fn node_spec(spec: &HostSpec) -> NodeSpec {
    let election = ElectionSpec {
        rank: spec.rank(),
        ready: spec.ready,
        candidate: true,
        has_seeds: !spec.seeds.is_empty(),
        proposal: FleetConfig::default(),
    };
    let seeds =
        spec.seeds.iter().map(|s| PeerAddress::parse(s, 9990).expect("test names are valid")).collect();
    NodeSpec { election, address: Some(spec.address()), seeds }
}
