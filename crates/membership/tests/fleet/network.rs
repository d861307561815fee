//! A fleet in virtual time: cores joined by streams that behave as TCP does (order, retransmission, a timeout for
//! unacknowledged data), with cuts in either direction, crashes with and without a living host, and frozen
//! processes. A run is a pure function of its seed.

mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::checks::Change;
use flagship_membership::{
    Config, ConnectFailure, Event, Input, KnownMember, LinkEnd, LinkId, MemberView, Membership, Message,
    Output, PeerHello, Proof, Signed, SignedStatement, State, Statement,
};
use flagship_types::{
    CloseCode, ConfigVersion, Epoch, Health, Instant, MemberName, Metadata, PeerAddress, Rank, Role, Term,
    Verified,
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub(crate) const WALL_MS: u64 = 1_800_000_000_000;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

pub(crate) fn name(i: usize) -> MemberName {
    MemberName::new(&format!("m{i}")).unwrap()
}

pub(crate) fn address(i: usize) -> PeerAddress {
    PeerAddress::parse(&format!("10.0.0.{}", i + 1), 9990).unwrap()
}

pub(crate) fn metadata(i: usize) -> Metadata {
    Metadata {
        address: Some(address(i)),
        rank: Rank(0),
        candidate: true,
        health: Health::default(),
        role: Role::Joining,
        term: Term::NONE,
        leader: None,
        config: ConfigVersion(0),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    }
}

/// What a host does with a process that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    Running,
    /// Killed; its host resets streams and refuses connections.
    Killed,
    /// The host is gone with it.
    Silent,
    /// Stopped until then: the host acknowledges, the process does nothing.
    Frozen(Instant),
}

struct Node {
    core: Membership,
    /// Whose name it has; its own number, but for a twin.
    of: usize,
    process: Process,
    epoch: u64,
    /// What waits for a frozen process.
    waiting: VecDeque<Input>,
    timer: Option<Instant>,
}

struct Stream {
    ends: [(usize, LinkId); 2],
    /// Whether each end still holds it.
    open: [bool; 2],
    last_arrival: [Instant; 2],
    held: [VecDeque<Wire>; 2],
}

#[derive(Debug, Clone)]
enum Wire {
    Frame(Message),
    Close(CloseCode),
    Reset,
}

enum Happening {
    Timer(usize),
    Thaw(usize),
    Deliver { stream: usize, to: usize, wire: Wire },
    Dial { from: usize, address: PeerAddress, answer: Result<usize, ConnectFailure> },
    Accepted { stream: usize, epochs: [u64; 2] },
    Dialled { stream: usize, address: PeerAddress, epochs: [u64; 2] },
    UserTimeout { stream: usize, end: usize, cut_at: Instant },
}

type Tamper = Box<dyn FnMut(usize, usize, &mut Message)>;
/// Who answers a dial to a member in its place.
type InFront = Box<dyn FnMut(usize) -> Option<ConnectFailure>>;

pub(crate) struct Net {
    pub(crate) now: Instant,
    nodes: Vec<Node>,
    streams: Vec<Stream>,
    queue: BTreeMap<(Instant, u64), Happening>,
    order: u64,
    next_link: u64,
    rng: Pcg64Mcg,
    pub(crate) one_way: Duration,
    pub(crate) jitter: Duration,
    /// Share of frames that are lost and sent again, in a thousand.
    pub(crate) lost_per_mille: u64,
    /// Directions that deliver nothing, and since when.
    cuts: BTreeMap<(usize, usize), Instant>,
    pub(crate) changes: Vec<Change>,
    pub(crate) events: Vec<(Instant, usize, Event)>,
    /// Every output, if asked for.
    pub(crate) trace: Option<String>,
    pub(crate) tamper: Option<Tamper>,
    /// Other processes behind the members' addresses.
    pub(crate) in_front: Option<InFront>,
    /// Faults that really happened, to be asserted.
    pub(crate) retransmitted: u64,
}

impl Net {
    /// `n` members that know member 0 as their seed.
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(seed);
        let mut net = Self {
            now: at(0),
            nodes: Vec::new(),
            streams: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            next_link: 0,
            rng,
            one_way: ms(20),
            jitter: ms(2),
            lost_per_mille: 0,
            cuts: BTreeMap::new(),
            changes: Vec::new(),
            events: Vec::new(),
            trace: None,
            tamper: None,
            in_front: None,
            retransmitted: 0,
        };
        for i in 0..n {
            net.add(i, WALL_MS, Vec::new());
        }
        net
    }

    /// Runs until everybody sees everybody.
    pub(crate) fn settled(n: usize, seed: u64) -> Self {
        let mut net = Self::new(n, seed);
        let extra = net.draw(ms(1000));
        net.run_for(ms(8_000) + extra);
        assert!(net.complete(), "boot: {:?}", net.changes);
        net.changes.clear();
        net
    }

    /// One more member starts.
    pub(crate) fn join(&mut self, i: usize) {
        let epoch = WALL_MS + self.now.as_nanos() / 1_000_000;
        self.add(i, epoch, Vec::new());
    }

    fn add(&mut self, i: usize, epoch: u64, known: Vec<KnownMember>) {
        let seed = self.rng.next_u64();
        let config = Config::new(name(i), Epoch(epoch), WALL_MS + self.now.as_nanos() / 1_000_000);
        let mut core = Membership::new(config, metadata(i), known, seed, self.now);
        let seeds = if i == 0 { Vec::new() } else { vec![address(0)] };
        core.handle(Input::SetSeeds(seeds), self.now);
        let node =
            Node { core, of: i, process: Process::Running, epoch, waiting: VecDeque::new(), timer: None };
        if i == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[i] = node;
        }
        self.drain(i);
    }

    pub(crate) fn draw(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap().max(1);
        Duration::from_nanos(self.rng.next_u64() % nanos)
    }

    pub(crate) fn core(&self, i: usize) -> &Membership {
        &self.nodes[i].core
    }

    pub(crate) fn state(&self, observer: usize, subject: usize) -> Option<State> {
        self.core(observer).member(&name(subject)).map(|view| view.state)
    }

    /// Whether all running members see all running members Alive, with metadata and a link.
    pub(crate) fn complete(&self) -> bool {
        let running: Vec<_> = self.running().collect();
        let sees = |a: usize, b: usize| {
            let view = self.core(a).member(&name(b));
            let linked = |v: &MemberView<'_>| v.link.is_some() || running.len() > 8;
            view.is_some_and(|v| v.state == State::Alive && v.metadata.is_some() && linked(&v))
        };
        running.iter().all(|a| running.iter().all(|b| a == b || sees(*a, *b)))
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len())
            .filter(|i| matches!(self.nodes[*i].process, Process::Running | Process::Frozen(_)))
    }

    pub(crate) fn is_running(&self, i: usize) -> bool {
        self.running().any(|running| running == i)
    }

    pub(crate) fn tell(&mut self, i: usize, input: Input) {
        self.nodes[i].core.handle(input, self.now);
        self.drain(i);
    }

    /// Sends a message on the link from one to another as if its core had.
    pub(crate) fn inject(&mut self, from: usize, to: usize, message: Message) {
        if let Some(link) = self.core(from).link_to(&name(to)) {
            self.send(from, link, Wire::Frame(message));
        }
    }

    // Faults.

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.entry((from, to)).or_insert(self.now);
    }

    pub(crate) fn cut_both(&mut self, a: usize, b: usize) {
        self.cut(a, b);
        self.cut(b, a);
    }

    pub(crate) fn heal(&mut self) {
        let cuts = std::mem::take(&mut self.cuts);
        for s in 0..self.streams.len() {
            for to in 0..2 {
                let (sender, receiver) = (self.streams[s].ends[1 - to].0, self.streams[s].ends[to].0);
                let Some(since) = cuts.get(&(sender, receiver)) else { continue };
                // TCP's retransmissions back off: up to as long again as the cut was.
                let wait = self.draw(self.now.since(*since));
                let held = std::mem::take(&mut self.streams[s].held[to]);
                for wire in held {
                    self.deliver(s, to, wire, self.now + wait);
                }
            }
        }
    }

    pub(crate) fn kill(&mut self, i: usize, process: Process) {
        self.nodes[i].process = process;
        self.nodes[i].timer = None;
        for s in 0..self.streams.len() {
            for end in 0..2 {
                if self.streams[s].ends[end].0 == i && self.streams[s].open[end] {
                    self.streams[s].open[end] = false;
                    if process == Process::Killed {
                        self.transmit(s, 1 - end, Wire::Reset);
                    }
                }
            }
        }
    }

    /// Something in the path resets all streams between two members.
    pub(crate) fn reset(&mut self, a: usize, b: usize) {
        for s in 0..self.streams.len() {
            let ends = self.streams[s].ends;
            if self.streams[s].open == [true; 2] && [(a, b), (b, a)].contains(&(ends[0].0, ends[1].0)) {
                self.streams[s].open = [false; 2];
                for (host, link) in ends {
                    self.input(host, Input::LinkDown { link, end: LinkEnd::Lost });
                }
            }
        }
    }

    pub(crate) fn freeze(&mut self, i: usize, time: Duration) {
        let until = self.now + time;
        self.nodes[i].process = Process::Frozen(until);
        self.schedule(until, Happening::Thaw(i));
    }

    /// Continues a frozen process before its time.
    pub(crate) fn thaw_now(&mut self, i: usize) {
        self.thaw(i);
    }

    /// Closes the link from one to another with a code, as if its core had.
    pub(crate) fn close_from(&mut self, from: usize, to: usize, code: CloseCode) {
        let link = self.core(from).link_to(&name(to)).unwrap();
        self.send(from, link, Wire::Close(code));
    }

    /// Starts a second process with the name and the certificate of member `of`, on a host of its own and with
    /// member `by` as its seed.
    pub(crate) fn start_twin(&mut self, of: usize, epoch: u64, by: usize) {
        let seed = self.rng.next_u64();
        let i = self.nodes.len();
        let config = Config::new(name(of), Epoch(epoch), WALL_MS + self.now.as_nanos() / 1_000_000);
        let mut core = Membership::new(config, metadata(i), Vec::new(), seed, self.now);
        core.handle(Input::SetSeeds(vec![address(by)]), self.now);
        let node = Node { core, of, process: Process::Running, epoch, waiting: VecDeque::new(), timer: None };
        self.nodes.push(node);
        self.drain(i);
    }

    /// Starts a process again, with what its object's status knew.
    pub(crate) fn restart(&mut self, i: usize, epoch: u64, known: &[usize]) {
        let known = known
            .iter()
            .map(|k| KnownMember {
                name: name(*k),
                epoch: Epoch(self.nodes[*k].epoch),
                address: Some(address(*k)),
                record: None,
            })
            .collect();
        self.add(i, epoch, known);
    }

    // Time.

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    pub(crate) fn run_until(&mut self, end: Instant) {
        while let Some((&key, _)) = self.queue.first_key_value() {
            if key.0 > end {
                break;
            }
            self.now = key.0;
            let happening = self.queue.remove(&key).unwrap();
            self.happen(happening);
        }
        self.now = end;
    }

    /// Runs until it holds; the time it took.
    pub(crate) fn run_while(&mut self, limit: Duration, mut going_on: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        while going_on(self) {
            assert!(self.now.since(start) < limit, "not within {limit:?}: {:#?}", self.changes);
            self.run_for(ms(5));
        }
        self.now.since(start)
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.queue.insert((at, self.order), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer(i) => {
                if self.nodes[i].process == Process::Running && self.nodes[i].timer == Some(self.now) {
                    self.nodes[i].timer = None;
                    self.nodes[i].core.handle_timeout(self.now);
                    self.drain(i);
                }
            }
            Happening::Thaw(i) => self.thaw(i),
            Happening::Deliver { stream, to, wire } => self.arrive(stream, to, wire),
            Happening::Dial { from, address, answer } => self.dialled(from, address, answer),
            Happening::Accepted { stream, epochs } => {
                let (acceptor, link) = self.streams[stream].ends[1];
                let dialler = self.streams[stream].ends[0].0;
                let input = link_up(link, self.nodes[dialler].of, dialler, epochs[0], None);
                self.input(acceptor, input);
            }
            Happening::Dialled { stream, address, epochs } => {
                let (dialler, link) = self.streams[stream].ends[0];
                let acceptor = self.streams[stream].ends[1].0;
                let input = link_up(link, self.nodes[acceptor].of, acceptor, epochs[1], Some(address));
                self.input(dialler, input);
            }
            Happening::UserTimeout { stream, end, cut_at } => {
                let (me, link) = self.streams[stream].ends[end];
                let peer = self.streams[stream].ends[1 - end].0;
                let dead = self.nodes[peer].process == Process::Silent;
                let cut = [(me, peer), (peer, me)].iter().any(|way| self.cuts.get(way) == Some(&cut_at));
                if (dead || cut) && self.streams[stream].open[end] {
                    self.streams[stream].open[end] = false;
                    self.input(me, Input::LinkDown { link, end: LinkEnd::Lost });
                }
            }
        }
    }

    fn thaw(&mut self, i: usize) {
        if !matches!(self.nodes[i].process, Process::Frozen(_)) {
            return;
        }
        self.nodes[i].process = Process::Running;
        // Whether its timers or its sockets come first is anybody's guess.
        if self.draw(ms(2)) < ms(1) {
            self.nodes[i].core.handle_timeout(self.now);
        }
        while let Some(input) = self.nodes[i].waiting.pop_front() {
            self.nodes[i].core.handle(input, self.now);
        }
        self.drain(i);
    }

    fn input(&mut self, i: usize, input: Input) {
        match self.nodes[i].process {
            Process::Running => {
                self.nodes[i].core.handle(input, self.now);
                self.drain(i);
            }
            Process::Frozen(_) => self.nodes[i].waiting.push_back(input),
            Process::Killed | Process::Silent => {}
        }
    }

    /// Carries out what a core wants.
    fn drain(&mut self, i: usize) {
        while let Some(output) = self.nodes[i].core.poll_output() {
            if let Some(trace) = &mut self.trace {
                trace.push_str(&format!("{:?} m{i} {output:?}\n", self.now));
            }
            match output {
                Output::Connect { address } => self.dial(i, address),
                Output::Send { link, message } => self.send(i, link, Wire::Frame(message)),
                Output::Disconnect { link, code } => {
                    self.send(i, link, Wire::Close(code));
                    if let Some((stream, end)) = self.find(i, link) {
                        self.streams[stream].open[end] = false;
                    }
                }
                Output::Sign(statement) => {
                    let now = self.now;
                    self.nodes[i].core.handle(Input::Signed(signed(*statement)), now);
                }
                Output::Event(event) => self.note(i, event),
            }
        }
        let next = self.nodes[i].core.next_timeout().map(|next| next.max(self.now));
        if next != self.nodes[i].timer {
            self.nodes[i].timer = next;
            if let Some(next) = next {
                self.schedule(next, Happening::Timer(i));
            }
        }
    }

    fn note(&mut self, i: usize, event: Event) {
        if let Event::Changed(subject) = &event {
            let view = self.nodes[i].core.member(subject).map(|view| Change {
                at: self.now,
                observer: i,
                subject: subject.as_str()[1..].parse().unwrap(),
                epoch: view.epoch,
                incarnation: view.incarnation,
                state: view.state,
                evidence: view.evidence,
            });
            self.changes.extend(view);
        } else if !matches!(event, Event::Heard { .. }) {
            self.events.push((self.now, i, event));
        }
    }
}

/// A signature as good as any here: nobody forges.
pub(crate) fn signed(statement: Statement) -> SignedStatement {
    match statement {
        Statement::Record(record) => SignedStatement::Record(Signed::new(record, Proof::default())),
        Statement::Accusation(accusation) => {
            SignedStatement::Accusation(Signed::new(accusation, Proof::default()))
        }
    }
}

fn link_up(link: LinkId, peer: usize, host: usize, epoch: u64, dialled: Option<PeerAddress>) -> Input {
    let hello = PeerHello {
        member: name(peer),
        epoch: Epoch(epoch),
        address: Some(address(host)),
        view_hash: 0,
        protocol: 2,
    };
    Input::LinkUp { link, hello: Verified::first_hand(hello), dialled }
}
