//! What the core is built with, and the numbers of the protocol.

use std::time::Duration;

use flagship_types::{Epoch, MemberName, PeerAddress};

use crate::{Record, Signed};

/// What the core is built with.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member's name, the one in its certificate.
    pub name: MemberName,
    /// This start: max(wall clock in ms, stored + 1). Peers take a higher one for a newer process.
    pub epoch: Epoch,
    /// The wall clock in ms at the `now` given to `Membership::new`. Only used to refuse epochs from the far
    /// future; a wrong clock makes this member refuse peers, never believe too much.
    pub wall_ms: u64,
    /// Time between two beats on a link (h). Shorter detects sooner and costs traffic and wake-ups; all members
    /// of a fleet must have the same.
    pub beat_interval: Duration,
    /// How long a lone observer waits after a missed beat before it suspects (with two members nobody can
    /// confirm silence). Shorter fails over sooner and takes more short network troubles for a crash.
    pub silence_floor: Duration,
}

impl Config {
    /// The defaults: a beat each second, a silence floor of 3 s.
    pub fn new(name: MemberName, epoch: Epoch, wall_ms: u64) -> Self {
        let beat_interval = Duration::from_secs(1);
        Self { name, epoch, wall_ms, beat_interval, silence_floor: Duration::from_secs(3) }
    }
}

/// A member known from before the start (from the object's status): it is dialled, and it is Down if it does
/// not show up, as if it had last been heard at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownMember {
    /// Its name.
    pub name: MemberName,
    /// The newest epoch seen of it.
    pub epoch: Epoch,
    /// Where it was found last.
    pub address: Option<PeerAddress>,
    /// What it said of itself last.
    pub record: Option<Signed<Record>>,
}

/// Members of one fleet, this one included. A Down member keeps its place until it is forgotten.
pub const MAX_MEMBERS: usize = 16_384;
/// Up to so many members, this one included, everybody is linked with everybody.
pub(crate) const MESH_MAX: usize = 8;
/// A fleet on rings goes back to a mesh with fewer members than this: apart from [`MESH_MAX`], so that one member that
/// comes and goes does not turn all links over.
pub(crate) const MESH_MIN: usize = 6;
/// Links that election may ask for.
pub(crate) const MAX_REQUIRED: usize = 32;
/// Left members that are remembered, so that an old epoch of theirs is recognised. The longest gone goes first.
pub(crate) const MAX_LEFT: usize = 64;
/// Streams to one peer: the one in use and one that is about to be closed as a duplicate or is contested.
pub(crate) const MAX_LINKS_PER_PEER: usize = 2;
/// As many as `spec.fleet` may hold.
pub(crate) const MAX_SEEDS: usize = 64;
/// Entries of one `Addresses` that are read. Only told in a mesh.
pub(crate) const MAX_ADDRESSES: usize = 16;
/// Hints that are kept.
pub(crate) const MAX_HINTS: usize = 16;
/// Queries about one subject that wait for an answer: its co-observers, and those that take their places.
pub(crate) const MAX_PENDING_ANSWERS: usize = 16;
/// Whom a query asks at most: the co-observers, and the next ones on the rings for those that cannot tell.
pub(crate) const MAX_ASKED: usize = 12;
/// Accusations of one member that are kept.
pub(crate) const MAX_ACCUSERS: usize = 16;
/// An accuser's word counts if it is among the first so many live members after the subject on some ring: its
/// observers, and those who may have taken their places, as many as a query asks.
pub(crate) const ACCUSER_REACH: usize = MAX_ASKED;
/// Independent accusations that make a Suspect Down: a majority of three observers, and never one member's word alone.
pub(crate) const QUORUM: usize = 2;
/// Members without a sign of life that are dialled for healing, where this one is responsible for more.
pub(crate) const MAX_DEAD_LINKS: usize = 32;
/// Members that are watched at a time in place of observers that are Suspect: somebody who accuses everybody does not
/// make everybody dial everybody.
pub(crate) const MAX_STAND_INS: usize = 16;
/// Outputs that wait to be taken. A member that everybody joins by speaks to all of them at once; a driver that does
/// not take its outputs is broken, and its beats are the first to be dropped.
pub(crate) const MAX_OUTPUTS: usize = 1 << 17;

/// Room for outputs that is kept once a burst is over: a dozen links can be pinged at once.
pub(crate) const KEPT_OUTPUTS: usize = 12;

/// What is new about others is passed on in batches, from half of this to one and a half times it: a hundred members
/// that join at once cost ten messages a link.
pub(crate) const BATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Statements of one message, so that it fits a frame.
pub(crate) const MAX_DELTA: usize = 64;
/// Bytes of one message's statements: under the frame's 64 KiB with room for their envelopes.
pub(crate) const MAX_DELTA_BYTES: usize = 48 * 1024;
/// Buckets of a digest are 2^4 to 2^12, a few members each.
pub(crate) const DIGEST_BITS: std::ops::RangeInclusive<u8> = 4..=12;
/// Between the first two digests on one link while views differ, doubled each time: what one member alone believes, an
/// operator's word for example, is not compared for ever.
pub(crate) const DIGEST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest such pause.
pub(crate) const DIGEST_INTERVAL_CAP: Duration = Duration::from_secs(60);
/// How long a link that nobody needs is kept: topology changes come in bursts.
pub(crate) const UNNEEDED_AFTER: Duration = Duration::from_secs(10);
/// How many beat intervals a subject that says it has other observers is not watched: our view follows long before.
pub(crate) const RELEASE_BEATS: u32 = 2;
/// A link without beats is pinged by the side that dialled it every so many beat intervals.
pub(crate) const QUIET_BEATS: u32 = 10;
/// How long a new observer tries to reach a subject before it takes it for mute, at least.
pub(crate) const PROBE_FLOOR: Duration = Duration::from_millis(300);
/// The protocol that knows signed statements, rings and digests.
pub(crate) const PROTOCOL_RINGS: u32 = 2;

/// A beat proves nothing if its echo is older than this many beat intervals.
pub(crate) const PROOF_BEATS: u32 = 3;
/// Upper bound of slack and of the suspicion window.
pub(crate) const SLACK_CAP: Duration = Duration::from_secs(2);
/// Lower bound of slack and of the strong suspicion window.
pub(crate) const SLACK_FLOOR: Duration = Duration::from_millis(100);
/// What one lost segment costs besides the round trip: TCP sends it again after 200 ms at the earliest (RTO_MIN of Linux;
/// RFC 6298 says one second), and then it has its own way.
pub(crate) const RETRANSMISSION: Duration = Duration::from_millis(210);
/// Round trip that is assumed before the first one is measured, and the most that is believed.
pub(crate) const RTT_PRIOR: Duration = Duration::from_millis(100);
/// See [`RTT_PRIOR`].
pub(crate) const RTT_CAP: Duration = Duration::from_secs(2);
/// Added to two round trips as the deadline of a query: time to work for the one who is asked.
pub(crate) const QUERY_EXTRA: Duration = Duration::from_millis(50);
/// How long before the deadline an answer is sent.
pub(crate) const ANSWER_MARGIN: Duration = Duration::from_millis(10);
/// The longest a peer can make us keep its query.
pub(crate) const QUERY_DEADLINE_CAP: Duration = Duration::from_secs(5);
/// A link without a fresh frame for this long (or h + slack) is closed and redialled.
pub(crate) const STALE_FLOOR: Duration = Duration::from_secs(3);
/// The longest announced pause.
pub(crate) const AWAY_CAP: Duration = Duration::from_secs(60);
/// Refused dials of a lost peer that confirm its exit where nobody else can be asked (docs/decisions/0001).
pub(crate) const EXIT_DIALS: u32 = 2;
/// Between two refutations of this member: a peer that accuses without end costs at most 20 records a second.
pub(crate) const REFUTE_INTERVAL: Duration = Duration::from_millis(50);
/// Between the first two times that this member goes on under a newer epoch because a peer knows one; doubled each time.
pub(crate) const RAISE_PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause; after ten of them without a raise it begins anew.
pub(crate) const RAISE_PAUSE_CAP: Duration = Duration::from_secs(60);
/// By so much (an hour) a raised epoch stays below what peers take for plausible.
pub(crate) const RAISE_MARGIN_MS: u64 = 60 * 60 * 1000;
/// Incarnations further ahead than this are refused.
pub(crate) const MAX_INCARNATION_JUMP: u32 = 1 << 16;
/// Epochs further ahead of the wall clock than this are refused: a day in ms.
pub(crate) const MAX_EPOCH_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;
/// The first wait between two dials; the next are drawn between this and three times the last.
pub(crate) const DIAL_BASE: Duration = Duration::from_millis(100);
/// A view that is told of many members at once is taken for complete when so long nobody new was told: a few batches. Like
/// the next two this is for machines on which a link comes up at once, and grows with the time that one takes.
pub(crate) const GROWTH_PAUSE: Duration = Duration::from_millis(500);
/// The longest that links wait for a view that goes on growing.
pub(crate) const GROWTH_CAP: Duration = Duration::from_secs(3);
/// How long the larger name of two that are new to each other leaves the first dial to the smaller one: as long as an
/// attempt may take to connect.
pub(crate) const FIRST_DIAL_WAIT: Duration = Duration::from_secs(2);
/// How long after a view has grown by much its new links are given before their silence counts: hundreds of handshakes
/// may be under way at once on one machine.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(5);
/// The longest such time, where this process itself does not keep up.
pub(crate) const SETTLE_CAP: Duration = Duration::from_secs(30);
/// What a link takes to come up on an idle machine, at most: where it takes longer all these times are as much longer.
pub(crate) const SWIFT_DIAL: Duration = Duration::from_millis(200);
/// But not more often than this as long.
pub(crate) const MAX_STRETCH: u32 = 4;
/// First contacts that are made at a time while a view grows: a fleet that starts on a few cores gets each handshake
/// done in its time, instead of all of them too late.
pub(crate) const PATIENT_DIALS: usize = 2;
/// Between the first dials of two seeds, while none has led to anybody or failed: as long as one may take to connect.
pub(crate) const SEED_STEP: Duration = Duration::from_secs(2);
/// By then all seeds have been dialled.
pub(crate) const SEED_STEPS_CAP: Duration = Duration::from_secs(6);
/// The longest wait between two dials that nobody answered. With the connect timeout of 2 s an address is tried
/// at least every 4 s, so that a healed cut is found in under 5 s even by one side alone.
pub(crate) const DIAL_CAP: Duration = Duration::from_secs(2);
/// Refusals of a process by one peer after which it takes the name from a process with a newer epoch that lives. A
/// process that is refused stops unless other peers hear it, so who comes back this often (every 5 s) has some:
/// each of two processes holds a part of the fleet, and the order of their epochs decides.
pub(crate) const STUBBORN_REFUSALS: u32 = 3;
/// Answers of waiting replicas at one address that are followed by a short wait only: with two replicas behind one
/// load balancer 1 dial in 256 is still unlucky then. After them it is like any other failed dial.
pub(crate) const STANDBY_DIALS: u32 = 8;
/// That wait, drawn between this and twice as long.
pub(crate) const STANDBY_WAIT: Duration = Duration::from_millis(50);
/// The wait after a peer refused us: it will not change its mind soon.
pub(crate) const REJECTED_RETRY: Duration = Duration::from_secs(5);
/// Wait before an address that turned out to be our own is tried again: DNS may lead elsewhere by then.
pub(crate) const OWN_ADDRESS_RETRY: Duration = Duration::from_secs(60);
/// Between two dials of a member that was declared gone, at most: if it lives after all and the other side declared us gone
/// too, nobody else begins. Seldom, as it mostly is gone: 64 of them cost at most 13 dials a second.
pub(crate) const FORGOTTEN_PACE: Duration = Duration::from_secs(10);
/// The same on rings, where a thousand may have been told.
pub(crate) const FORGOTTEN_PACE_ON_RINGS: Duration = Duration::from_secs(60);
/// Failed dials after which an address told by a peer is dropped; it is told again if it is of use.
pub(crate) const HINT_DIALS: u32 = 10;
