//! The world: hosts, network and time, moved on event by event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use flagship_membership::KnownMember;
use flagship_node::{
    DurableRecord, ElectionSpec, Machine, MachineConfig, MachineOutput, NodeEvent, NodeSpec, PauseDetector,
    Proof, Statement,
};
use flagship_types::{
    Callsign, CloseCode, Epoch, FleetConfig, Health, Instant, MemberName, PeerAddress, Role,
};
use flagship_wire::PeerMessage;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::check::Violations;
use super::host::{Host, HostSpec, Job, PayloadState};
use super::network::{HostId, Network};
use super::plan::Fault;

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
pub(crate) enum Event {
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
    pub(crate) now: Instant,
    pub(crate) rng: Pcg64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    pub(crate) sequence: u64,
    pub(crate) in_flight:
        std::collections::BTreeMap<(u64, usize), std::collections::VecDeque<(Instant, PeerMessage)>>,
    pub(crate) latency: Duration,
    /// What was found.
    pub violations: Violations,
    pub(crate) faults_fired: usize,
    pub(crate) disturbed: bool,
    pub(crate) trace: String,
    pub(crate) seed: u64,
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

    pub(crate) fn log(&mut self, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.trace, "{:?} {what}", self.now);
    }

    pub(crate) fn at(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now.as_nanos() / 1_000_000
    }

    pub(crate) fn host_named(&self, name: &str) -> Option<HostId> {
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
        host.machine = Some(Machine::new(config, Arc::new(|_: &Statement| Some(Proof::default())), now));
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
        KnownMember {
            name: name.clone(),
            epoch,
            address: host.map(|h| self.hosts[h].spec.address()),
            record: None,
        }
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

    pub(crate) fn delay(&mut self) -> Duration {
        self.latency.mul_f64(1.0 + self.rng.random_range(0.0..0.25))
    }

    pub(crate) fn report_health(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let ready = matches!(host.payload, PayloadState::Ready { .. });
        let health = Health {
            api: host.api_up,
            payload_valid: true,
            payload_ready: ready,
            gates: true,
            failed: false,
        };
        self.with_machine(id, |machine, now| machine.health(health, now));
    }

    pub(crate) fn wake(&mut self, id: HostId) {
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

    pub(crate) fn perform(&mut self, id: HostId) {
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
}

fn node_spec(spec: &HostSpec) -> NodeSpec {
    let election = ElectionSpec {
        witness: false,
        rank: spec.rank(),
        ready: spec.ready,
        candidate: true,
        suspended: false,
        proposal: FleetConfig::default(),
        promote_timeout: None,
    };
    let seeds =
        spec.seeds.iter().map(|s| PeerAddress::parse(s, 9990).expect("test names are valid")).collect();
    NodeSpec { election, address: Some(spec.address()), seeds }
}
