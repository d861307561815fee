//! chitchat, Scuttlebutt gossip with a phi accrual failure detector: whole servers on tokio with its clock paused, over a
//! transport of ours. Whom it gossips with comes from a random generator that it does not let us seed, so that two
//! runs with one seed differ in detail.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatEnvelope, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState,
    ProtocolVersion, spawn_chitchat,
};
use rand::SeedableRng;
use rand_pcg::Pcg64;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    BLOCK_PERIOD, BLOCKED, Blocks, Datagrams, Detection, DownLog, FalseDowns, Peer, Scenario, Setting,
    draw_start, draw_victims,
};

const PORT: u16 = 7280;
const FIRST_ADDRESS: u32 = 0x0a00_0000;
/// How often a server gossips: what its own default for tests and its best-known user take.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(1);
/// UDP carries no more; a larger datagram fails to send.
const MAX_DATAGRAM: usize = 65_507;
/// How long a fleet may take to know itself before a run begins.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// From then on it is left alone for so long: its detector starts from a guess of 5 s between heartbeats, and
/// detects the later the less it has seen.
const SETTLE: Duration = Duration::from_secs(120);
/// How often a run looks whether it is over. Times are taken when things happen.
const LOOK: Duration = Duration::from_millis(50);

fn address(member: usize) -> SocketAddr {
    let number = u32::try_from(member).expect("a fleet has fewer than 2^24 members");
    SocketAddrV4::new(Ipv4Addr::from(FIRST_ADDRESS + number), PORT).into()
}

fn member(id: &ChitchatId) -> usize {
    match id.gossip_advertise_addr {
        SocketAddr::V4(address) => (u32::from(*address.ip()) - FIRST_ADDRESS) as usize,
        SocketAddr::V6(_) => unreachable!("all addresses are ours, and IPv4"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A datagram under way, ordered by arrival.
struct Arriving {
    at: Instant,
    number: u64,
    outcome: RecvOutcome,
}

impl PartialEq for Arriving {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Arriving {}

impl PartialOrd for Arriving {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Arriving {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The network between all servers.
struct Wires {
    datagrams: Datagrams,
    inboxes: BTreeMap<SocketAddr, UnboundedSender<Arriving>>,
}

/// The transport that servers open their sockets on.
#[derive(Clone)]
struct Network(Arc<Mutex<Wires>>);

#[async_trait]
impl Transport for Network {
    async fn open(&self, address: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, inbox) = unbounded_channel();
        lock(&self.0).inboxes.insert(address, sender);
        let codec = ChannelTransport::default().open(address).await?;
        Ok(Box::new(Endpoint { address, network: self.clone(), codec, inbox, arriving: BinaryHeap::new() }))
    }
}

struct Endpoint {
    address: SocketAddr,
    network: Network,
    /// A socket of the crate's own that only sends to itself: its way to the bytes of a message is private, and this
    /// one encodes, counts and decodes.
    codec: Box<dyn Socket>,
    inbox: UnboundedReceiver<Arriving>,
    arriving: BinaryHeap<Reverse<Arriving>>,
}

#[async_trait]
impl Socket for Endpoint {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.address)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let sent = self.codec.send(self.address, envelope).await?;
        let outcome = self.codec.recv().await?;
        anyhow::ensure!(sent.num_bytes_sent <= MAX_DATAGRAM, "a datagram of {} bytes", sent.num_bytes_sent);
        let mut wires = lock(&self.network.0);
        if let Some(delay) = wires.datagrams.carry(sent.num_bytes_sent)
            && let Some(inbox) = wires.inboxes.get(&to)
        {
            let arriving = Arriving { at: Instant::now() + delay, number: wires.datagrams.sent, outcome };
            // A socket that was closed meanwhile loses it, as on any host.
            let _ = inbox.send(arriving);
        }
        Ok(sent)
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let next = self.arriving.peek().map(|Reverse(arriving)| arriving.at);
            if next.is_some_and(|at| at <= Instant::now())
                && let Some(Reverse(arriving)) = self.arriving.pop()
            {
                return Ok(arriving.outcome);
            }
            tokio::select! {
                biased;
                arriving = self.inbox.recv() => match arriving {
                    Some(arriving) => self.arriving.push(Reverse(arriving)),
                    None => anyhow::bail!("the socket was closed"),
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }
}

/// What the watchers of all members saw.
#[derive(Default)]
struct Seen {
    log: DownLog,
    alive: Vec<usize>,
}

/// A running fleet.
struct Fleet {
    started: Instant,
    network: Network,
    seen: Arc<Mutex<Seen>>,
    servers: Vec<Option<ChitchatHandle>>,
    /// Tasks that watch a member or block it.
    tasks: Vec<Vec<JoinHandle<()>>>,
    rng: Pcg64,
}

impl Fleet {
    /// Starts all members, which know the address of the first.
    async fn start(setting: &Setting) -> Self {
        let mut rng = Pcg64::seed_from_u64(setting.seed ^ 0xc417);
        let wires = Wires { datagrams: Datagrams::new(setting), inboxes: BTreeMap::new() };
        let seen = Seen { log: DownLog::default(), alive: vec![0; setting.members] };
        let blocks = Blocks::new(setting.slow, &mut rng);
        let mut fleet = Self {
            started: Instant::now(),
            network: Network(Arc::new(Mutex::new(wires))),
            seen: Arc::new(Mutex::new(seen)),
            servers: (0..setting.members).map(|_| None).collect(),
            tasks: (0..setting.members).map(|_| Vec::new()).collect(),
            rng,
        };
        let mut starts: Vec<_> = (0..setting.members).map(|m| (draw_start(&mut fleet.rng), m)).collect();
        starts.sort_unstable();
        for (at, member) in starts {
            sleep_until(fleet.started + at).await;
            fleet.start_member(member, &blocks).await;
        }
        fleet
    }

    async fn start_member(&mut self, member: usize, blocks: &Blocks) {
        let server = spawn_chitchat(config(member), Vec::new(), &self.network)
            .await
            .expect("our transport opens any address");
        let chitchat = server.chitchat();
        let watcher = chitchat.lock().await.live_nodes_watcher();
        let watch = watch_member(member, self.started, watcher, Arc::clone(&self.seen));
        self.tasks[member].push(tokio::spawn(watch));
        if let Some(first) = blocks.first(member) {
            let started = self.started;
            self.tasks[member].push(tokio::spawn(async move {
                let mut begin = started + first;
                loop {
                    sleep_until(begin).await;
                    // The server needs this lock for everything it handles, sends or does on time, all in one
                    // loop: so the two kinds of blocks are one to it.
                    let guard = Arc::clone(&chitchat).lock_owned().await;
                    sleep_until(begin + BLOCKED).await;
                    drop(guard);
                    begin += BLOCK_PERIOD;
                }
            }));
        }
        self.servers[member] = Some(server);
    }

    fn crash(&mut self, member: usize) {
        if let Some(server) = self.servers[member].take() {
            server.abort();
        }
        for task in self.tasks[member].drain(..) {
            task.abort();
        }
        lock(&self.network.0).inboxes.remove(&address(member));
    }

    /// Waits until every member knows all; how long after the start that was.
    async fn complete(&self, limit: Duration) -> Option<Duration> {
        loop {
            let members = self.servers.len();
            if lock(&self.seen).alive.iter().all(|alive| *alive == members) {
                return Some(self.started.elapsed());
            }
            if self.started.elapsed() > limit {
                return None;
            }
            sleep(LOOK).await;
        }
    }

    /// A fleet that has known itself for a while.
    async fn settled(setting: &Setting) -> Self {
        let fleet = Self::start(setting).await;
        // With loss or slow members there may be no moment at which all know all; then the time must do.
        fleet.complete(BOOT_LIMIT).await;
        sleep(SETTLE).await;
        fleet
    }
}

/// Records whom a member takes off its list of live nodes.
async fn watch_member(
    observer: usize,
    started: Instant,
    mut watcher: watch::Receiver<BTreeMap<ChitchatId, NodeState>>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut alive = BTreeSet::new();
    while watcher.changed().await.is_ok() {
        let now: BTreeSet<usize> = watcher.borrow_and_update().keys().map(member).collect();
        let mut seen = lock(&seen);
        for lost in alive.difference(&now) {
            seen.log.record(started.elapsed(), observer, *lost);
        }
        seen.alive[observer] = now.len();
        alive = now;
    }
}

/// The documented defaults, and the newest wire format, which compresses the digest.
fn config(member: usize) -> ChitchatConfig {
    let address = address(member);
    ChitchatConfig {
        chitchat_id: ChitchatId::new(format!("m{member}"), 0, address),
        cluster_id: "fleet".to_owned(),
        gossip_interval: GOSSIP_INTERVAL,
        listen_addr: address,
        seed_nodes: vec![self::address(0).to_string()],
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(15 * 60),
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}

/// Runs a future in a runtime of its own whose clock moves only when nothing is left to do.
fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing from the system")
        .block_on(future)
}

/// chitchat with its default failure detector.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chitchat;

impl Peer for Chitchat {
    fn name(&self) -> &'static str {
        "chitchat"
    }

    fn configuration(&self, _members: usize) -> String {
        let detector = FailureDetectorConfig::default();
        format!(
            "chitchat 0.13 defaults: gossip every {GOSSIP_INTERVAL:?}, phi {}, {} samples, wire format V1",
            detector.phi_threshold, detector.sampling_window_size
        )
    }

    fn crash(&self, setting: &Setting, victims: usize) -> Detection {
        in_virtual_time(async {
            let mut fleet = Fleet::settled(setting).await;
            sleep(draw_start(&mut fleet.rng)).await;
            let victims = draw_victims(setting.members, victims, &mut fleet.rng);
            lock(&fleet.seen).log.clear();
            for &victim in &victims {
                fleet.crash(victim);
            }
            let crashed = fleet.started.elapsed();
            loop {
                let detection =
                    Detection::from_log(&lock(&fleet.seen).log, &victims, setting.members, crashed);
                let late = fleet.started.elapsed() > crashed + Detection::LIMIT;
                if late || detection.everywhere().is_some() {
                    return detection;
                }
                sleep(LOOK).await;
            }
        })
    }

    fn false_downs(&self, setting: &Setting, duration: Duration) -> FalseDowns {
        in_virtual_time(async {
            let fleet = Fleet::settled(setting).await;
            lock(&fleet.seen).log.clear();
            sleep(duration).await;
            lock(&fleet.seen).log.false_downs(setting.slow)
        })
    }

    fn steady_bytes(&self, setting: &Setting, duration: Duration) -> f64 {
        in_virtual_time(async {
            let fleet = Fleet::settled(setting).await;
            lock(&fleet.network.0).datagrams.reset_counters();
            sleep(duration).await;
            lock(&fleet.network.0).datagrams.rate(setting.members, duration)
        })
    }

    fn boot(&self, setting: &Setting, limit: Duration) -> Option<Duration> {
        in_virtual_time(async { Fleet::start(setting).await.complete(limit).await })
    }

    /// Every message names every member, so that a second of a fleet costs the square of its size.
    fn is_quick(&self, scenario: Scenario, members: usize) -> bool {
        match scenario {
            Scenario::Boot => members <= 1000,
            Scenario::FalseDowns { .. } | Scenario::SlowMembers { .. } => members <= 32,
            _ => members <= 128,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Block;

    /// While both of two are blocked nothing is sent, and in between they talk.
    #[test]
    fn a_blocked_server_sends_nothing() {
        in_virtual_time(async {
            let fleet = Fleet::start(&Setting::new(1, 2).with_slow(2, Block::Process)).await;
            sleep(BLOCK_PERIOD * 2).await;
            let blocked = || {
                let servers = fleet.servers.iter().flatten();
                servers.filter(|server| server.chitchat().try_lock().is_err()).count() == 2
            };
            let sent = || lock(&fleet.network.0).datagrams.sent;
            let (before, mut both_blocked) = (sent(), 0);
            for _ in 0..(BLOCK_PERIOD * 10).as_millis() / 10 {
                let (was_blocked, was_sent) = (blocked(), sent());
                sleep(Duration::from_millis(10)).await;
                if was_blocked && blocked() {
                    both_blocked += 1;
                    assert_eq!(sent(), was_sent, "after {:?}", fleet.started.elapsed());
                }
            }
            assert!(both_blocked > 6_000, "blocked together for {both_blocked} of 9,200 looks");
            assert!(sent() - before > 100, "they sent {} datagrams in 92 s", sent() - before);
        });
    }
}
