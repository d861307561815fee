//! One core among honest peers, played by a small model, and a hostile one, in virtual time. What the core must never do
//! panics here, so that a property test and a fuzzer find the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flagship_membership::{
    Accusation, Config, ConnectFailure, Event, Input, KnownMember, LinkEnd, LinkId, Membership, Message,
    Output, PeerHello, Proof, Record, SelfState, Signed, SignedStatement, State, Statement,
};
use flagship_types::{
    CloseCode, ConfigVersion, Epoch, Health, Incarnation, Instant, MemberName, Metadata, PeerAddress, Rank,
    Role, Term, Verified,
};

use crate::honest::{Peer, archive};
use crate::steps::Setup;

pub(crate) const WALL_MS: u64 = 1_800_000_000_000;
pub(crate) const START: Instant = Instant::from_nanos(1_000_000_000_000);
pub(crate) const CORE: &str = "m-core";
pub(crate) const H: Duration = Duration::from_secs(1);
/// One way.
pub(crate) const WAY: Duration = Duration::from_millis(10);
/// With no frame lost and a way of 10 ms a proof comes every second.
const PROOF_AGE: Duration = Duration::from_millis(1_300);
/// Dials that may be under way at once: of members, of all seeds and of all hints.
const MAX_DIALS: usize = 16 + 16 + 16;
/// Calls of `handle_timeout` at one moment.
const MAX_STANDSTILL: usize = 8;
/// Outputs of one input: a batch of 64 statements, an event for each, all of it sent on each of 20 links.
const MAX_OUTPUTS: usize = 4_000;

pub(crate) fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

pub(crate) fn address(text: &str) -> PeerAddress {
    PeerAddress::parse(text, 9990).unwrap()
}

pub(crate) fn metadata(rank: i64, address: Option<PeerAddress>) -> Metadata {
    Metadata {
        address,
        rank: Rank(rank),
        candidate: true,
        health: Health { api: true, payload_valid: true, payload_ready: true, gates: true, failed: false },
        role: Role::Standby,
        term: Term(1),
        leader: None,
        config: ConfigVersion(1),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    }
}

/// Signatures are the transport's affair: here a proof only says that there is one.
pub(crate) fn signed<T>(content: T) -> Signed<T> {
    Signed::new(content, Proof { signature: [1].into(), ..Proof::default() })
}

/// The newest few numbers that were sent to a peer, and when they arrive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals(VecDeque<(u64, Instant)>);

impl Arrivals {
    pub(crate) fn add(&mut self, number: u64, at: Instant) {
        self.0.push_front((number, at));
        // More than can be under way in the fastest of the floods.
        self.0.truncate(256);
    }

    /// The newest that is there.
    pub(crate) fn newest(&self, now: Instant) -> Option<(u64, Instant)> {
        self.0.iter().find(|(_, at)| *at <= now).copied()
    }
}

/// One end of a stream, as a peer sees it.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) id: LinkId,
    pub(crate) up_at: Instant,
    pub(crate) seq: u64,
    /// The core's numbers, and when they came or will come.
    pub(crate) received: Arrivals,
    /// Echoes from the core.
    pub(crate) acked: Arrivals,
}

impl Stream {
    pub(crate) fn new(id: LinkId, now: Instant) -> Self {
        Self { id, up_at: now, seq: 0, received: Arrivals::default(), acked: Arrivals::default() }
    }
}

/// The hostile peer.
#[derive(Debug)]
pub(crate) struct Hostile {
    pub(crate) name: MemberName,
    pub(crate) record: Record,
    pub(crate) streams: Vec<Stream>,
    pub(crate) query: (u64, Option<MemberName>),
    /// Digests from the core that were not answered yet.
    pub(crate) digests: usize,
    /// Deltas that the core sent it.
    pub(crate) deltas: usize,
}

#[derive(Debug)]
pub(crate) enum Happening {
    ToCore(LinkId, Message),
    Beat(usize),
    Accuse(usize),
    Dialled(PeerAddress),
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) core: Membership,
    pub(crate) now: Instant,
    pub(crate) setup: Setup,
    pub(crate) peers: Vec<Peer>,
    pub(crate) hostile: Hostile,
    pub(crate) records: Vec<Signed<Record>>,
    pub(crate) accusations: Vec<Signed<Accusation>>,
    pub(crate) queue: BTreeMap<(Instant, u64), Happening>,
    pub(crate) order: u64,
    next_link: u64,
    dials: usize,
    own_name: BTreeSet<LinkId>,
    /// Neither left, nor away, nor stalled.
    pub(crate) active: bool,
    /// When beats began to flow without a break.
    pub(crate) quiet_since: Instant,
    /// What hostile frames may make the core send at once is counted from here.
    pub(crate) outputs_of_input: usize,
    /// Hash of all outputs.
    pub(crate) trace: u64,
    pub(crate) most_outputs: usize,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let peers: Vec<Peer> = (0..4 + usize::from(setup.more % 9)).map(|i| Peer::new(i, setup)).collect();
        let hostile = Hostile::new(setup);
        let (records, accusations) = archive(&peers);
        let warm = setup.warm || peers.len() > 6;
        let known = |record: &Record| KnownMember {
            name: record.member.clone(),
            epoch: record.epoch,
            address: record.metadata.address.clone(),
            record: warm.then(|| signed(record.clone())),
        };
        let known = peers.iter().map(|p| &p.record).chain([&hostile.record]).map(known).collect();
        let own = metadata(0, Some(address("10.0.0.1:1")));
        let core =
            Membership::new(Config::new(name(CORE), Epoch(WALL_MS), WALL_MS), own, known, setup.seed, START);
        let mut world = Self {
            core,
            now: START,
            setup,
            peers,
            hostile,
            records,
            accusations,
            queue: BTreeMap::new(),
            order: 0,
            next_link: 0,
            dials: 0,
            own_name: BTreeSet::new(),
            active: true,
            quiet_since: START,
            outputs_of_input: 0,
            trace: 0,
            most_outputs: 0,
        };
        for i in 0..world.peers.len() {
            world.after(H * u32::try_from(i).unwrap() / 16, Happening::Beat(i));
        }
        world.drain();
        world.run(Duration::from_millis(2_500));
        world
    }

    pub(crate) fn after(&mut self, wait: Duration, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + wait, self.order), happening);
    }

    pub(crate) fn new_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// Time passes as it should.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut calls = 0;
        loop {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= end);
            let timeout = self.core.next_timeout().filter(|at| *at <= end);
            match (timeout, event) {
                (Some(timeout), event) if event.is_none_or(|event| timeout <= event) => {
                    calls = if timeout <= self.now { calls + 1 } else { 0 };
                    self.now = self.now.max(timeout);
                    assert!(calls < MAX_STANDSTILL, "busy: handle_timeout leads nowhere at {:?}", self.now);
                    self.core.handle_timeout(self.now);
                    self.drain();
                }
                (_, Some(_)) => {
                    let Some(((at, _), happening)) = self.queue.pop_first() else { return };
                    self.now = self.now.max(at);
                    calls = 0;
                    self.happen(happening);
                    self.check_freshness();
                }
                (_, None) => break,
            }
        }
        self.now = end;
    }

    /// The core's process does not run, while the others do.
    pub(crate) fn pause(&mut self, time: Duration, frames_first: bool) {
        let end = self.now + time;
        let mut waiting = Vec::new();
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let (at, _) = *entry.key();
            let happening = entry.remove();
            self.now = self.now.max(at);
            match happening {
                // The peers go on.
                Happening::Beat(_) => self.happen(happening),
                other => waiting.push(other),
            }
        }
        self.now = end;
        self.quiet_since = end;
        if !frames_first {
            self.core.handle_timeout(end);
            self.drain();
        }
        for happening in waiting {
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToCore(link, message) => self.deliver(link, message),
            Happening::Beat(i) => self.peer_beats(i),
            Happening::Accuse(i) => self.observers_accuse(i),
            Happening::Dialled(address) => self.dialled(address),
        }
    }

    /// A frame arrives, if its stream is still there.
    pub(crate) fn deliver(&mut self, link: LinkId, message: Message) {
        let streams = self.peers.iter().flat_map(|p| &p.streams).chain(&self.hostile.streams);
        if streams.into_iter().any(|stream| stream.id == link) {
            self.handle(Input::Message { link, message: Verified::checked(message) });
        }
    }

    /// The core takes an input; its outputs are carried out and everything is checked.
    pub(crate) fn handle(&mut self, input: Input) {
        self.core.handle(input, self.now);
        self.drain();
        self.check();
    }

    fn drain(&mut self) {
        self.outputs_of_input = 0;
        while let Some(output) = self.core.poll_output() {
            self.outputs_of_input += 1;
            self.note(&output);
            match output {
                Output::Sign(statement) => {
                    let statement = match *statement {
                        Statement::Record(record) => SignedStatement::Record(signed(record)),
                        Statement::Accusation(a) => SignedStatement::Accusation(signed(a)),
                    };
                    self.core.handle(Input::Signed(statement), self.now);
                }
                Output::Connect { address } => {
                    self.dials += 1;
                    assert!(self.dials <= MAX_DIALS, "{} dials under way", self.dials);
                    let there = self.peers.iter().any(|p| p.address == address && p.crashed.is_none());
                    let wait = if there { WAY * 2 } else { Duration::from_secs(2) };
                    self.after(wait, Happening::Dialled(address));
                }
                Output::Disconnect { link, code } => self.disconnected(link, code),
                Output::Send { link, message } => self.sent(link, message),
                Output::Event(event) => self.event(&event),
            }
        }
        self.most_outputs = self.most_outputs.max(self.outputs_of_input);
        assert!(self.outputs_of_input <= MAX_OUTPUTS, "{} outputs of one input", self.outputs_of_input);
        assert_eq!(self.core.stats().queue_full, 0, "outputs were dropped");
    }

    fn note(&mut self, output: &Output) {
        // FNV-1a over the readable form, which names every field.
        let text = format!("{:?} {output:?}", self.now);
        for byte in text.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Heard { member, at } => {
                assert!(*at <= self.now, "{member} heard in the future");
                let peer = self.peers.iter().find(|p| p.record.member == *member);
                if let Some(crashed) = peer.and_then(|p| p.crashed) {
                    assert!(*at <= crashed, "{member} died at {crashed:?} and was heard at {at:?}");
                }
            }
            Event::NameInUse { .. } => {
                let linked = self.honest_linked();
                assert_eq!(linked, 0, "stalled while {linked} honest peers hear it");
                self.active = false;
            }
            Event::EpochRaised(epoch) => {
                let run = u64::try_from(self.now.since(START).as_millis()).unwrap();
                assert!(epoch.0 <= WALL_MS + run + 86_400_000, "own epoch {epoch} from the far future");
            }
            // Peers here may lie about each other.
            Event::Changed(_) | Event::Querying(_) | Event::Refuted(_) | Event::Vouched { .. } => {}
        }
    }

    /// Honest peers that live and that the core has a link to.
    pub(crate) fn honest_linked(&self) -> usize {
        let linked = |p: &&Peer| p.crashed.is_none() && self.core.link_to(&p.record.member).is_some();
        self.peers.iter().filter(linked).count()
    }

    fn disconnected(&mut self, link: LinkId, code: CloseCode) {
        let quiet = self.beats_flow();
        self.own_name.remove(&link);
        self.hostile.streams.retain(|stream| stream.id != link);
        for peer in &mut self.peers {
            let before = peer.streams.len();
            peer.streams.retain(|stream| stream.id != link);
            let stale = code == CloseCode::Stale && peer.crashed.is_none() && before > peer.streams.len();
            assert!(!(stale && quiet), "{}'s link was closed as stale", peer.record.member);
        }
    }

    /// Whether nothing but the hostile peer stands between the honest ones and the core.
    pub(crate) fn beats_flow(&self) -> bool {
        self.active && self.now >= self.quiet_since + H * 5
    }

    fn dialled(&mut self, address: PeerAddress) {
        self.dials -= 1;
        let there = self.peers.iter().position(|p| p.address == address && p.crashed.is_none());
        let Some(i) = there else {
            let failure = match address.port() % 4 {
                0 => ConnectFailure::Refused,
                1 => ConnectFailure::Rejected(CloseCode::Standby),
                _ => ConnectFailure::Unanswered,
            };
            return self.handle(Input::ConnectFailed { address, failure });
        };
        let id = self.new_link();
        let view_hash = self.view_hash();
        let peer = &mut self.peers[i];
        peer.streams.push(Stream::new(id, self.now));
        let hello = PeerHello {
            member: peer.record.member.clone(),
            epoch: peer.record.epoch,
            address: Some(peer.address.clone()),
            view_hash,
            protocol: peer.protocol,
        };
        let record = signed(peer.record.clone());
        self.handle(Input::LinkUp { link: id, hello: Verified::checked(hello), dialled: Some(address) });
        self.after(WAY, Happening::ToCore(id, Message::Record(record)));
    }

    pub(crate) fn view_hash(&self) -> u32 {
        if self.setup.same_view { self.core.view_hash() } else { 1 }
    }

    /// Somebody with the core's name comes.
    pub(crate) fn own_name(&mut self, hello: PeerHello, dialled: Option<PeerAddress>) {
        let link = self.new_link();
        self.own_name.insert(link);
        self.handle(Input::LinkUp { link, hello: Verified::checked(hello), dialled });
        assert!(!self.own_name.contains(&link), "a stream under the own name was kept");
    }

    /// An honest peer dies: nothing of it was sent after this.
    pub(crate) fn crash(&mut self, i: usize) {
        self.peers[i].crashed = Some(self.now);
        self.after(H * 13 / 10, Happening::Accuse(i));
    }

    /// The stream of an honest peer ends by itself.
    pub(crate) fn link_ends(&mut self, i: usize, end: LinkEnd) {
        if let Some(stream) = self.peers[i].streams.pop() {
            self.quiet_since = self.now;
            self.handle(Input::LinkDown { link: stream.id, end });
        }
    }
}

/// What must hold at any time.
impl World {
    fn check(&mut self) {
        let others = self.peers.len() + 2;
        assert!(self.core.size() <= others, "{} members", self.core.size());
        assert!(self.core.members().count() <= others);
        assert!(self.core.links().count() < others);
        assert!(self.hostile.streams.len() <= 2, "{} streams to one peer", self.hostile.streams.len());
        let own = self.core.incarnation();
        assert!(
            u64::from(own.0) <= self.core.stats().refutations,
            "incarnation {own} was not raised by the owner"
        );
        let now = self.now;
        for peer in self.peers.iter_mut().filter(|p| !p.forgotten) {
            let record = &peer.record;
            let view = self.core.member(&record.member).expect("a member that did not leave is known");
            let verdict = matches!(view.state, State::Away | State::Left)
                || (view.state == State::Down && peer.crashed.is_none());
            assert!(!verdict, "{} is {:?} at {now:?}", record.member, view.state);
            assert_eq!(view.epoch, record.epoch, "{}", record.member);
            assert!(view.incarnation <= record.incarnation, "{}", record.member);
            assert!(view.metadata.is_none_or(|m| *m == record.metadata), "{}", record.member);
            let believed = (view.epoch, view.incarnation);
            assert!(believed >= peer.believed, "{}'s record went back", record.member);
            // Where there is nothing to do with a member any more, nothing is kept of it.
            let older = view.heard_at.is_some_and(|at| Some(at) < peer.heard_at);
            assert!(!older, "{}'s proof of life went back", record.member);
            (peer.believed, peer.heard_at) = (believed, view.heard_at.max(peer.heard_at));
        }
    }

    /// While beats flow the core knows that their senders live.
    fn check_freshness(&self) {
        if !self.beats_flow() {
            return;
        }
        for peer in self.peers.iter().filter(|p| p.crashed.is_none() && !p.forgotten) {
            let settled = peer.streams.last().is_some_and(|s| self.now >= s.up_at + H * 5 / 2);
            if settled && self.core.link_to(&peer.record.member).is_some() {
                let heard = self.core.member(&peer.record.member).and_then(|m| m.heard_at);
                let age = heard.map(|at| self.now.since(at));
                let who = &peer.record.member;
                assert!(
                    age.is_some_and(|age| age <= PROOF_AGE),
                    "{who} beats and was last heard {age:?} ago"
                );
            }
        }
    }
}

impl Hostile {
    fn new(setup: Setup) -> Self {
        let name = name(if setup.hostile_first { "a-mallory" } else { "z-mallory" });
        let record = Record {
            member: name.clone(),
            epoch: Epoch(WALL_MS - 5_000),
            incarnation: Incarnation(0),
            version: 1,
            status: SelfState::Alive,
            metadata: metadata(99, Some(address("10.2.0.1:2"))),
        };
        Self { name, record, streams: Vec::new(), query: (0, None), digests: 0, deltas: 0 }
    }
}
