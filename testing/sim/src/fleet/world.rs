//! The world: hosts, network and time, moved on event by event. A run is a pure function of its plan and seed.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::time::Duration;

use flagship_node::{Directive, DurableRecord, Machine, MachineOutput, NodeEvent};
use flagship_types::{Health, Instant, Role};
use flagship_wire::PeerMessage;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use siphasher::sip::SipHasher24;

use super::checks::Checks;
use super::fault::Plan;
use super::host::{Host as Cluster, HostSpec};
use super::local_lease::LeaseEvent;
use super::payload::{PayloadState, Write};
use super::streams::Streams;
use super::traffic::{Load, Traffic};
use crate::clock::{Clock, Nanos, ms, nanos};
use crate::paths::{Host, Network, Paths};
use crate::queue::Queue;

/// The wall clock when virtual time begins, in milliseconds.
pub(crate) const WALL_START_MS: u64 = 1_800_000_000_000;
/// The loop of a real node turns at least this often.
const TICK: Duration = Duration::from_millis(250);
/// How long an API outage lasts before the daemon reports it.
const API_NOTICED: Nanos = ms(1_500);

/// What a run is asked to record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// A readable timeline.
    pub timeline: bool,
    /// A digest of all that would be in it.
    pub digest: bool,
    /// A bug in every election core.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<flagship_election::PlantedBug>,
    /// A bug in every membership core.
    #[cfg(feature = "planted-bugs")]
    pub planted_in_membership: Option<flagship_membership::PlantedBug>,
}

impl Record {
    /// A run goes on after a violation.
    pub(crate) fn goes_on(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self.planted.is_some() || self.planted_in_membership.is_some();
        #[cfg(not(feature = "planted-bugs"))]
        false
    }
}

/// Something that will happen.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Wake { host: Host, process: u64 },
    Arrive { link: u64, end: usize },
    Retry { link: u64, end: usize },
    Connected { from: Host, process: u64, to: Option<Host>, address: String },
    Stored { host: Host, process: u64 },
    StoreAgain { host: Host, process: u64 },
    Answered { host: Host, process: u64, version: u64 },
    Work { host: Host, process: u64, step: u64 },
    Written { host: Host, process: u64, write: Write, permitted: Nanos },
    Look { host: Host },
    Exit { host: Host, process: u64 },
    Edited { host: Host, process: u64 },
    Unleased { host: Host, process: u64 },
    Lease { host: Host, slot: usize, life: u64, what: LeaseEvent },
    Begin(usize),
    End(usize),
}

/// A fleet in virtual time.
pub struct World {
    pub(crate) now: Nanos,
    pub(crate) rng: Pcg64Mcg,
    pub(crate) plan: Plan,
    pub(crate) plan_began: Nanos,
    pub(crate) queue: Queue<Event>,
    pub(crate) hosts: Vec<Cluster>,
    pub(crate) paths: Paths,
    pub(crate) streams: Streams,
    pub(crate) checks: Checks,
    pub(crate) traffic: Traffic,
    /// A fault that stops this host waits for its next write.
    pub(crate) freeze_after_write: Vec<Option<usize>>,
    /// Which of two replicas a fault that lasts has struck.
    pub(crate) struck_slots: BTreeMap<usize, usize>,
    /// Faults of the plan that last.
    pub(crate) active: Vec<usize>,
    /// The fleet is in Quorum from the start to the end.
    pub(crate) quorum: bool,
    /// The greatest caution that any election showed.
    pub(crate) caution: u32,
    pub(crate) happenings: u64,
    timeline: Option<Vec<(Nanos, String)>>,
    digest: Option<SipHasher24>,
    seed: u64,
    #[cfg(feature = "planted-bugs")]
    pub(super) record: Record,
}

impl World {
    /// A world with these hosts, none of which runs yet, and this one-way delay.
    pub fn new(seed: u64, latency: Duration, hosts: Vec<HostSpec>) -> Self {
        let network = Network { one_way: latency, jitter: latency / 4, lost_per_mille: 0 };
        let plan = Plan { name: "scenario", hosts, network, faults: Vec::new() };
        Self::of(&plan, seed, Record { timeline: true, ..Record::default() })
    }

    /// The world of a plan.
    pub fn of(plan: &Plan, seed: u64, record: Record) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let count = plan.hosts.len();
        let host = |spec: &HostSpec| {
            let boot = ms(1_000_000) + rng.next_u64() % ms(1_000_000);
            Cluster::new(spec.clone(), Clock::new(boot))
        };
        let hosts = plan.hosts.iter().map(host).collect();
        // Acts of scenarios come after the plan's faults: a cut for each direction.
        let paths = Paths::new(plan.network, plan.faults.len() + count * count);
        Self {
            now: 0,
            plan: plan.clone(),
            plan_began: Nanos::MAX,
            queue: Queue::default(),
            hosts,
            paths,
            streams: Streams::default(),
            checks: Checks::new(&plan.hosts),
            traffic: Traffic::of(count),
            freeze_after_write: vec![None; count],
            struck_slots: BTreeMap::new(),
            active: Vec::new(),
            quorum: plan.is_quorum(),
            caution: 1,
            happenings: 0,
            timeline: record.timeline.then(Vec::new),
            digest: record.digest.then(SipHasher24::new),
            seed,
            #[cfg(feature = "planted-bugs")]
            record,
            rng,
        }
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// What runs of the payload there.
    pub fn payload(&self, host: Host) -> PayloadState {
        self.hosts[host].payload.state(self.now)
    }

    /// The role of a running process.
    pub fn role(&self, host: Host) -> Option<Role> {
        self.machine(host).map(|machine| machine.election().role())
    }

    /// The machine of a running process.
    pub fn machine(&self, host: Host) -> Option<&Machine> {
        self.hosts[host].machine()
    }

    /// The stored record.
    pub fn durable(&self, host: Host) -> Option<&DurableRecord> {
        self.hosts[host].durable.as_ref()
    }

    /// Who leads, by the processes' own word.
    pub fn leaders(&self) -> Vec<Host> {
        (0..self.hosts.len()).filter(|h| self.role(*h) == Some(Role::Leader)).collect()
    }

    /// Which clusters have anything of the payload.
    pub fn holders(&self) -> Vec<Host> {
        (0..self.hosts.len()).filter(|h| self.hosts[*h].payload.exists(self.now)).collect()
    }

    /// What did not hold so far.
    pub fn violations(&self) -> &[crate::model::Violation] {
        self.checks.found()
    }

    /// Hands a command to a running machine.
    pub fn with_machine(&mut self, host: Host, act: impl FnOnce(&mut Machine, Instant)) {
        let now = self.hosts[host].clock.read(self.now);
        if let Some(process) = &mut self.hosts[host].process {
            act(&mut process.machine, now);
        }
        self.perform(host);
    }

    /// Runs for so long.
    pub fn run(&mut self, duration: Duration) {
        self.run_until_nanos(self.now + nanos(duration));
    }

    /// Ends early, and for good, at a storm of traffic.
    pub(crate) fn run_until_nanos(&mut self, end: Nanos) {
        while !self.traffic.is_exceeded() {
            let Some((at, event)) = self.queue.pop(end) else { break };
            self.now = at;
            self.happenings += 1;
            self.happen(event);
        }
        if !self.traffic.is_exceeded() {
            self.now = end;
        }
    }

    /// Runs until the condition holds; panics with the timeline if it does not within `limit`.
    pub fn run_until(&mut self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            let took = Duration::from_nanos(self.now - start);
            let goes_on = took < limit && !self.traffic.is_exceeded();
            assert!(goes_on, "not within {limit:?}: {what}\n{}", self.report());
            self.run(Duration::from_millis(10));
        }
        Duration::from_nanos(self.now - start)
    }

    /// The timeline, a line each.
    pub fn timeline(&self) -> Vec<String> {
        let from = if self.plan_began == Nanos::MAX { 0 } else { self.plan_began };
        let lines = self.timeline.iter().flatten();
        lines.map(|(at, line)| format!("{:>9.3}  {line}", (*at as f64 - from as f64) / 1e9)).collect()
    }

    /// Digest of the timeline.
    pub fn digest(&self) -> Option<u64> {
        self.digest.map(|digest| digest.finish())
    }

    /// The seed, the end of the timeline and where everybody stands.
    pub fn report(&self) -> String {
        let lines = self.timeline();
        let tail = lines[lines.len().saturating_sub(120)..].join("\n");
        format!("seed {}\n{tail}\n{}", self.seed, self.standing().join("\n"))
    }

    /// Where everybody stands, a line each.
    pub fn standing(&self) -> Vec<String> {
        let line = |host: &Cluster| {
            let process = host.machine().map(|machine| {
                let election = machine.election();
                let waits = election.waiting_for(host.clock.read(self.now));
                (election.role(), election.term(), election.leader(), waits)
            });
            let (name, payload) = (host.spec.name, host.payload.state(self.now));
            let (frozen, api, silent) = (host.frozen, host.api_up, host.silent);
            format!("{name}: {process:?} payload {payload:?} stopped {frozen} api {api} silent {silent}")
        };
        self.hosts.iter().map(line).collect()
    }

    pub(crate) fn log(&mut self, what: std::fmt::Arguments<'_>) {
        if self.timeline.is_none() && self.digest.is_none() {
            return;
        }
        let line = what.to_string();
        if let Some(digest) = &mut self.digest {
            digest.write_u64(self.now);
            digest.write(line.as_bytes());
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.push((self.now, line));
        }
    }

    fn log_name(&mut self, id: Host, what: &str) {
        let name = self.hosts[id].spec.name;
        self.log(format_args!("{name} {what}"));
    }

    pub(crate) fn push(&mut self, at: Nanos, event: Event) {
        self.queue.push(at, event);
    }

    /// A time drawn evenly from zero.
    pub(crate) fn draw(&mut self, bound: Nanos) -> Nanos {
        self.rng.next_u64() % bound.max(1)
    }

    pub(crate) fn host_at(&self, address: &str) -> Option<Host> {
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        self.hosts.iter().position(|host| host.spec.name == name)
    }

    pub(super) fn wall_ms(&self, id: Host) -> u64 {
        let host = &self.hosts[id];
        let boot_ms = host.clock.read(self.now).as_nanos() / 1_000_000;
        (WALL_START_MS + boot_ms).saturating_add_signed(host.wall_ahead_ms)
    }

    /// The API server stops answering, or answers again.
    pub fn set_api(&mut self, id: Host, up: bool) {
        let host = &mut self.hosts[id];
        host.api_up = up;
        host.api_changed = self.now;
        host.disturbed = self.now;
        let at = self.now + if up { ms(300) } else { API_NOTICED };
        self.push(at, Event::Look { host: id });
        if up {
            self.save(id);
        }
    }

    /// Deletes a host's status, as if its object had been deleted and created again.
    pub fn lose_status(&mut self, id: Host) {
        self.hosts[id].durable = None;
        self.hosts[id].known.clear();
        self.checks.lost(id);
        self.log_name(id, "loses its status");
    }

    /// Changes what a host's object says.
    pub fn edit(&mut self, id: Host, change: impl FnOnce(&mut HostSpec)) {
        change(&mut self.hosts[id].spec);
        if self.hosts[id].frozen {
            // It reads its object when it goes on.
            let process = self.hosts[id].number;
            return self.hosts[id].waiting.push_back(Event::Edited { host: id, process });
        }
        let spec = self.hosts[id].spec.node_spec();
        self.with_machine(id, |machine, now| machine.spec(spec, now));
    }

    /// What the controller finds out about its cluster.
    pub(crate) fn report_health(&mut self, id: Host) {
        let now = self.now;
        let host = &self.hosts[id];
        if host.process.is_none() || host.frozen {
            return;
        }
        let cut = !host.daemon.reaches_api && now >= host.daemon.reach_changed + API_NOTICED;
        let down = cut || (!host.api_up && now >= host.api_changed + API_NOTICED);
        if down {
            self.refused_write(id);
        }
        let host = &self.hosts[id];
        let health = Health {
            api: !down,
            payload_valid: !host.invalid,
            payload_ready: host.payload.is_ready(now),
            gates: true,
            failed: false,
        };
        self.with_machine(id, |machine, now| {
            machine.health(health, now);
            // No plan has a hook that fences.
            if let (true, Directive::Run { term, .. }) = (health.payload_ready, machine.directive().clone()) {
                machine.promoted(term, now);
            }
        });
    }

    pub(crate) fn wake(&mut self, id: Host) {
        if !self.hosts[id].runs() {
            return;
        }
        self.check_traffic(id, Load::Turn);
        let wall_ms = self.wall_ms(id);
        let host = &mut self.hosts[id];
        let now = host.clock.read(self.now);
        let Some(process) = &mut host.process else { return };
        let tolerated = process.machine.election().pause_tolerance();
        if let Some(missed) = process.pauses.observe((now, wall_ms), process.due, tolerated) {
            process.machine.paused(missed, now);
        }
        // As the driver: whatever woke it, what is due is done.
        if process.machine.next_timeout().is_some_and(|at| at <= now) {
            process.machine.handle_timeout(now);
        }
        self.perform(id);
    }

    /// Whatever happens to a process of a host that has two happens to that one, while the host's own fields are about it.
    fn happen(&mut self, event: Event) {
        let Some(host) = self.replicated_host(&event) else { return self.happen_there(event) };
        self.turn_to(host, &event);
        self.happen_there(event);
        self.turn_to_acting(host);
    }

    fn happen_there(&mut self, event: Event) {
        match event {
            Event::Wake { host, process } => {
                let due = self.hosts[host].process.as_ref().map(|process| process.due);
                if self.hosts[host].number == process
                    && due.is_some_and(|due| due <= self.hosts[host].clock.read(self.now))
                {
                    self.wake(host);
                }
            }
            Event::Arrive { link, end } => self.arrive(link, end),
            Event::Retry { link, end } => self.retry(link, end),
            Event::Connected { from, process, to, address } => self.connected(from, process, to, address),
            Event::Stored { host, process } => self.stored(host, process),
            Event::StoreAgain { host, process } => {
                if self.hosts[host].number == process {
                    self.save(host);
                }
            }
            Event::Answered { host, process, version } => self.answered(host, process, version),
            Event::Work { host, process, step } => self.work(host, process, step),
            Event::Written { host, process, write, permitted } => {
                self.written(host, process, write, permitted);
            }
            Event::Look { host } => self.report_health(host),
            Event::Exit { host, process } => self.exit(host, process),
            Event::Unleased { host, process } => self.unleased(host, process),
            Event::Lease { host, life, what, .. } => self.lease_event(host, life, what),
            Event::Edited { host, process } => {
                if self.hosts[host].number == process {
                    self.edit(host, |_| {});
                }
            }
            Event::Begin(fault) => self.begin(fault),
            Event::End(fault) => self.end(fault),
        }
    }

    pub(crate) fn perform(&mut self, id: Host) {
        let name = self.hosts[id].spec.name;
        while let Some(output) = self.hosts[id].process.as_mut().and_then(|p| p.machine.poll_output()) {
            match output {
                MachineOutput::Connect(address) => self.connect(id, &address),
                MachineOutput::Send(link, message) => {
                    if matches!(message, PeerMessage::Election(_)) {
                        self.check_traffic(id, Load::Message);
                    }
                    self.send(id, link, message);
                }
                MachineOutput::Close(link, code) => {
                    self.log(format_args!("{name} closes link {}: {}", link.0, code.as_str()));
                    self.close(id, link, code);
                }
                MachineOutput::Persist(record) => {
                    self.check_traffic(id, Load::Record);
                    if let Some(process) = &mut self.hosts[id].process {
                        process.unsaved = Some(record);
                    }
                    self.save(id);
                }
                MachineOutput::Direct(directive) => {
                    self.log(format_args!("{name} directive {directive:?}"));
                    if let Some(process) = &mut self.hosts[id].process {
                        process.directive = directive;
                    }
                    self.follow_directive(id);
                }
                MachineOutput::Event(event) => {
                    if let NodeEvent::Member { member, .. } = &event {
                        self.hosts[id].known.insert(member.clone());
                    }
                    self.log(format_args!("{name} {event:?}"));
                    if matches!(event, NodeEvent::NameInUse) {
                        self.name_in_use(id);
                    }
                }
                MachineOutput::Hello(_) => {}
            }
        }
        self.check_lease(id);
        self.schedule_wake(id);
    }

    fn schedule_wake(&mut self, id: Host) {
        let host = &mut self.hosts[id];
        let now = host.clock.read(self.now);
        let Some(process) = &mut host.process else { return };
        let due = process.machine.next_timeout().map_or(now + TICK, |at| at.min(now + TICK)).max(now);
        if due == process.due && due > now {
            return;
        }
        process.due = due;
        let (number, at) = (host.number, host.clock.when(due).max(self.now));
        self.push(at, Event::Wake { host: id, process: number });
    }
}
