//! foca 2, SWIM with infection-style spreading and suspicion: sans-IO, so that a queue of events drives it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::Duration;

use foca::{Config, Identity, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::{
    Block, Blocks, Datagrams, Detection, DownLog, FalseDowns, Peer, Scenario, Setting, draw_start,
    draw_victims,
};

type Node = foca::Foca<Id, PostcardCodec, Pcg64, NoCustomBroadcast>;

/// The port of all members: 7946, as that of its model memberlist.
const PORT: u16 = 7946;
/// Addresses are 10.0.0.0 and up.
const FIRST_ADDRESS: u32 = 0x0a00_0000;
/// A fleet that starts warm is left alone for so long before anything is measured.
const SETTLE: Duration = Duration::from_secs(10);

/// How often a member that does not take part announces itself.
const JOIN_RETRY: Duration = Duration::from_secs(1);

/// A member's identity as its documentation recommends: the address, and a small number that rejoining raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    address: SocketAddrV4,
    bump: u16,
}

impl Id {
    fn of(member: usize) -> Self {
        let number = u32::try_from(member).expect("a fleet has fewer than 2^24 members");
        Self { address: SocketAddrV4::new(Ipv4Addr::from(FIRST_ADDRESS + number), PORT), bump: 0 }
    }

    fn member(self) -> usize {
        (u32::from(*self.address.ip()) - FIRST_ADDRESS) as usize
    }
}

impl Identity for Id {
    type Addr = SocketAddrV4;

    fn renew(&self) -> Option<Self> {
        Some(Self { bump: self.bump.wrapping_add(1), ..*self })
    }

    fn addr(&self) -> SocketAddrV4 {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.bump > adversary.bump
    }
}

/// What happens to a member.
enum Event {
    Timer(Timer<Id>),
    Datagram(Vec<u8>),
    /// If it does not take part, it announces itself to the one address that it was given.
    Join,
}

/// An event in the queue: by when it can be handled; then, after a block, the kind that comes first; then by when it
/// was due, and timers as foca orders them.
struct Entry {
    at: Duration,
    second: bool,
    due: Duration,
    rank: u8,
    number: u64,
    member: usize,
    event: Event,
}

impl Entry {
    fn key(&self) -> (Duration, bool, Duration, u8, u64) {
        (self.at, self.second, self.due, self.rank, self.number)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Everything of a fleet but its members: what foca calls its runtime.
struct Outside {
    now: Duration,
    /// Whose call is being handled.
    member: usize,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
    datagrams: Datagrams,
    blocks: Blocks,
    block: Block,
    coin: Pcg64,
    /// By slow member: the end of its latest block, and whether timers come first then.
    timers_first: Vec<(Duration, bool)>,
    /// Which members take part.
    active: Vec<bool>,
    /// For which members a [`Event::Join`] is in the queue.
    joining: Vec<bool>,
    log: DownLog,
}

impl Outside {
    /// Whether a member looks at its timers first when this block of it ends.
    fn timers_first(&mut self, member: usize, until: Duration) -> bool {
        let (block, first) = &mut self.timers_first[member];
        if *block != until {
            (*block, *first) = (until, self.coin.random());
        }
        *first
    }

    /// Until when a member cannot handle an event; `None` if it can now.
    fn blocked(&self, member: usize, event: &Event) -> Option<Duration> {
        if self.block == Block::Messages && matches!(event, Event::Timer(_)) {
            return None;
        }
        self.blocks.until(member, self.now)
    }

    fn push(&mut self, delay: Duration, member: usize, event: Event) {
        self.number += 1;
        let due = self.now + delay;
        // Of timers due at the same time foca wants the end of a probe last.
        let rank = match &event {
            Event::Timer(Timer::SendIndirectProbe { .. }) => 0,
            Event::Timer(Timer::ProbeRandomMember(_)) => 1,
            Event::Timer(_) | Event::Datagram(_) | Event::Join => 2,
        };
        self.queue.push(Reverse(Entry {
            at: due,
            second: false,
            due,
            rank,
            number: self.number,
            member,
            event,
        }));
    }
}

impl Runtime<Id> for Outside {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberDown(id) => self.log.record(self.now, self.member, id.member()),
            Notification::Active => self.active[self.member] = true,
            // It does nothing by itself until somebody talks to it: its documentation leaves what to do to the
            // application, and tells it to wait for `Active`.
            Notification::Idle | Notification::Rejoin(_) | Notification::Defunct => {
                self.active[self.member] = false;
                if !self.joining[self.member] {
                    self.joining[self.member] = true;
                    self.push(JOIN_RETRY, self.member, Event::Join);
                }
            }
            _ => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        if let Some(delay) = self.datagrams.carry(data.len()) {
            // Only a blocked member whose timers run gets here before its block ends.
            let held = self.blocks.until(self.member, self.now).map_or(Duration::ZERO, |end| end - self.now);
            self.push(held + delay, to.member(), Event::Datagram(data.to_vec()));
        }
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.push(after, self.member, Event::Timer(event));
    }
}

/// A fleet in virtual time.
struct Fleet {
    nodes: Vec<Option<Node>>,
    /// Which members know all others.
    complete: Vec<bool>,
    outside: Outside,
    rng: Pcg64,
}

impl Fleet {
    /// Members that do not know each other yet.
    fn new(setting: &Setting) -> Self {
        let mut rng = Pcg64::seed_from_u64(setting.seed ^ 0xf0ca);
        let config = config(setting.members);
        let nodes = (0..setting.members).map(|member| {
            let rng = Pcg64::seed_from_u64(rng.random());
            Some(Node::new(Id::of(member), config.clone(), rng, PostcardCodec))
        });
        let nodes = nodes.collect();
        let outside = Outside {
            now: Duration::ZERO,
            member: 0,
            queue: BinaryHeap::new(),
            number: 0,
            datagrams: Datagrams::new(setting),
            blocks: Blocks::new(setting.slow, &mut rng),
            block: setting.block,
            coin: Pcg64::seed_from_u64(rng.random()),
            timers_first: vec![(Duration::ZERO, false); setting.slow],
            active: vec![false; setting.members],
            joining: vec![false; setting.members],
            log: DownLog::default(),
        };
        Self { nodes, complete: vec![false; setting.members], outside, rng }
    }

    /// Members that were handed the whole fleet when they started, as after a restart with a saved state.
    fn warm(setting: &Setting) -> Self {
        let mut fleet = Self::new(setting);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let per_thread = setting.members.div_ceil(threads);
        // Each member's start depends on its own seed only, so threads do not change the result.
        let timers: Vec<Vec<(Duration, Timer<Id>)>> = std::thread::scope(|scope| {
            let jobs: Vec<_> = fleet
                .nodes
                .chunks_mut(per_thread)
                .map(|nodes| {
                    scope.spawn(|| {
                        nodes.iter_mut().flatten().map(|n| introduce(n, setting.members)).collect::<Vec<_>>()
                    })
                })
                .collect();
            jobs.into_iter().flat_map(|job| job.join().expect("foca does not panic")).collect()
        });
        for (member, timers) in timers.into_iter().enumerate() {
            let start = draw_start(&mut fleet.rng);
            for (after, timer) in timers {
                fleet.outside.push(start + after, member, Event::Timer(timer));
            }
        }
        fleet.complete.fill(true);
        fleet.outside.active.fill(true);
        fleet
    }

    fn run_until(&mut self, end: Duration, mut done: impl FnMut(&Self) -> bool) {
        while self.outside.queue.peek().is_some_and(|Reverse(entry)| entry.at <= end) {
            let Some(Reverse(mut entry)) = self.outside.queue.pop() else { break };
            self.outside.now = entry.at;
            if let Some(until) = self.outside.blocked(entry.member, &entry.event) {
                entry.at = until;
                let timer = matches!(entry.event, Event::Timer(_));
                entry.second = timer != self.outside.timers_first(entry.member, until);
                self.outside.queue.push(Reverse(entry));
                continue;
            }
            self.happen(entry.member, entry.event);
            if done(self) {
                return;
            }
        }
        self.outside.now = end;
    }

    fn happen(&mut self, member: usize, event: Event) {
        let others = self.nodes.len() - 1;
        let Some(node) = &mut self.nodes[member] else { return };
        let outside = &mut self.outside;
        outside.member = member;
        let result = match event {
            Event::Timer(timer) => node.handle_timer(timer, &mut *outside),
            Event::Datagram(bytes) => node.handle_data(&bytes, &mut *outside),
            Event::Join => {
                outside.joining[member] = !outside.active[member];
                if outside.active[member] {
                    return;
                }
                outside.push(JOIN_RETRY, member, Event::Join);
                node.announce(Id::of(usize::from(member == 0)), &mut *outside)
            }
        };
        // Its errors are logged and passed over, as in its own agent: late timers and datagrams for an identity that
        // has been renewed are ordinary.
        drop(result);
        self.complete[member] = node.num_members() == others;
    }

    fn run(&mut self, duration: Duration) {
        self.run_until(self.outside.now + duration, |_| false);
    }
}

/// Tells a member of all others; the timers that it starts.
fn introduce(node: &mut Node, members: usize) -> Vec<(Duration, Timer<Id>)> {
    let own = node.identity().member();
    let others = (0..members).filter(|member| *member != own).map(|member| Member::alive(Id::of(member)));
    let mut runtime = foca::AccumulatingRuntime::new();
    node.apply_many(others, false, &mut runtime).expect("an alive member is a valid update");
    std::iter::from_fn(|| runtime.to_schedule()).collect()
}

/// The faster one of its two documented configurations that scale with the fleet.
fn config(members: usize) -> Config {
    let size =
        u32::try_from(members).ok().and_then(NonZeroU32::new).expect("a fleet has members, below 2^32");
    Config::new_lan(size)
}

/// foca 2 with its configuration for local networks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Foca;

impl Peer for Foca {
    fn name(&self) -> &'static str {
        "foca"
    }

    fn configuration(&self, members: usize) -> String {
        let config = config(members);
        format!(
            "foca 2 Config::new_lan({members}): probe every {:?}, suspect to down after {:?}, {} transmissions, postcard",
            config.probe_period, config.suspect_to_down_after, config.max_transmissions
        )
    }

    fn crash(&self, setting: &Setting, victims: usize) -> Detection {
        let mut fleet = Fleet::warm(setting);
        let wait = SETTLE + draw_start(&mut fleet.rng);
        fleet.run(wait);
        let victims = draw_victims(setting.members, victims, &mut fleet.rng);
        for &victim in &victims {
            fleet.nodes[victim] = None;
        }
        fleet.outside.log.clear();
        let crashed = fleet.outside.now;
        let wanted = victims.len() * (setting.members - victims.len());
        let mut seen = 0;
        let mut found = std::collections::BTreeSet::new();
        fleet.run_until(crashed + Detection::LIMIT, |fleet| {
            for down in &fleet.outside.log.downs[seen..] {
                if victims.contains(&down.subject) && !victims.contains(&down.observer) {
                    found.insert((down.observer, down.subject));
                }
            }
            seen = fleet.outside.log.downs.len();
            found.len() == wanted
        });
        Detection::from_log(&fleet.outside.log, &victims, setting.members, crashed)
    }

    fn false_downs(&self, setting: &Setting, duration: Duration) -> FalseDowns {
        let mut fleet = Fleet::warm(setting);
        fleet.run(duration);
        fleet.outside.log.false_downs(setting.slow)
    }

    fn steady_bytes(&self, setting: &Setting, duration: Duration) -> f64 {
        let mut fleet = Fleet::warm(setting);
        fleet.run(SETTLE);
        fleet.outside.datagrams.reset_counters();
        fleet.run(duration);
        fleet.outside.datagrams.rate(setting.members, duration)
    }

    fn boot(&self, setting: &Setting, limit: Duration) -> Option<Duration> {
        let mut fleet = Fleet::new(setting);
        for member in 1..setting.members {
            let start = draw_start(&mut fleet.rng);
            fleet.outside.joining[member] = true;
            fleet.outside.push(start, member, Event::Join);
        }
        let mut first = 0;
        fleet.run_until(limit, |fleet| {
            // Looked at from where the last look stopped, as a member seldom forgets another.
            while first < fleet.complete.len() && fleet.complete[first] {
                first += 1;
            }
            if first == fleet.complete.len() && !fleet.complete.iter().all(|complete| *complete) {
                first = 0;
            }
            first == fleet.complete.len()
        });
        fleet.complete.iter().all(|complete| *complete).then_some(fleet.outside.now)
    }

    /// A fleet of 10,000 takes minutes and 2 GiB, almost all of it for its warm start: every member looks for each of
    /// the others among those that it knows.
    fn is_quick(&self, scenario: Scenario, members: usize) -> bool {
        members <= 1000 || scenario == Scenario::SilentCrash
    }
}
