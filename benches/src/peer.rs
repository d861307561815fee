//! foca 2, the peer beside which the core is measured: one node that knows a whole fleet and is probed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::Duration;

use foca::{
    AccumulatingRuntime, Codec, Config, Foca, Header, Identity, Member, Message, NoCustomBroadcast,
    Notification, PostcardCodec, Runtime, Timer,
};
use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

/// Members that probe in turn, spread over the fleet: a member is found by a search, and where it ends depends on it.
const SENDERS: usize = 256;

/// An address, and a number that rejoining raises: what its documentation recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    address: SocketAddrV4,
    bump: u16,
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

/// Counts what is sent, so that only foca's own work is measured.
#[derive(Debug, Default)]
struct Sink {
    bytes: usize,
}

impl Runtime<Id> for Sink {
    fn notify(&mut self, _: Notification<'_, Id>) {}

    fn send_to(&mut self, _: Id, data: &[u8]) {
        self.bytes += data.len();
    }

    fn submit_after(&mut self, _: Timer<Id>, _: Duration) {}
}

/// A foca node with its recommended codec and its configuration for local networks.
pub struct FocaNode {
    node: Foca<Id, PostcardCodec, Pcg64, NoCustomBroadcast>,
    probes: Vec<Vec<u8>>,
    next: usize,
    sink: Sink,
}

impl FocaNode {
    /// The node of one of that many members, which knows all others.
    pub fn new(members: usize) -> Self {
        let size = u32::try_from(members).ok().and_then(NonZeroU32::new);
        let config = Config::new_lan(size.expect("a fleet has members, below 2^32"));
        let mut node = Foca::new(id(0), config, Pcg64::seed_from_u64(1), PostcardCodec);
        let others = (1..members).map(|member| Member::alive(id(member)));
        let mut runtime = AccumulatingRuntime::new();
        node.apply_many(others, false, &mut runtime).expect("an alive member is a valid update");
        while runtime.to_notify().is_some() {}
        let senders = (0..SENDERS).map(|i| 1 + i * 7_919 % (members - 1));
        let mut node = Self { node, probes: senders.map(probe).collect(), next: 0, sink: Sink::default() };
        // Its first gossip about the members that it was told of goes with the first answers.
        (0..SENDERS * 40).for_each(|_| node.probe());
        node
    }

    /// How many others it knows.
    pub fn known(&self) -> usize {
        self.node.num_members()
    }

    /// Takes a probe's bytes and makes those of its answer.
    pub fn probe(&mut self) {
        self.next = (self.next + 1) % self.probes.len();
        self.node.handle_data(&self.probes[self.next], &mut self.sink).expect("a ping of a known member");
    }

    /// The node alone: what it holds is freed when it is dropped.
    pub fn into_node(self) -> impl Sized {
        self.node
    }

    /// Bytes of answers so far.
    pub fn answered_bytes(&self) -> usize {
        self.sink.bytes
    }
}

impl std::fmt::Debug for FocaNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FocaNode").field("known", &self.known()).finish_non_exhaustive()
    }
}

fn id(member: usize) -> Id {
    let number = u32::try_from(member).expect("a fleet has fewer than 2^24 members");
    Id { address: SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + number), 7_946), bump: 0 }
}

fn probe(member: usize) -> Vec<u8> {
    let header = Header { src: id(member), src_incarnation: 0, dst: id(0), message: Message::Ping(0) };
    let mut bytes = Vec::new();
    PostcardCodec.encode_header(&header, &mut bytes).expect("a vector takes any header");
    bytes
}
