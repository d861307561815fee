//! What goes into the core and what comes out of it.

use std::collections::BTreeSet;
use std::time::Duration;

use flagship_types::{CloseCode, Epoch, Incarnation, Instant, MemberName, Metadata, PeerAddress, Verified};

use crate::{Signed, SignedStatement, Statement};

/// One stream to a peer, numbered by the transport; never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What the core is told.
#[derive(Debug, Clone)]
pub enum Input {
    /// A stream is up, its peer authenticated and its Hello checked. The core decides which of two streams stays.
    LinkUp {
        /// The new stream.
        link: LinkId,
        /// What the peer said in its Hello.
        hello: Verified<PeerHello>,
        /// The address that was dialled; `None` if the peer dialled.
        dialled: Option<PeerAddress>,
    },
    /// A stream ended.
    LinkDown {
        /// Which.
        link: LinkId,
        /// How.
        end: LinkEnd,
    },
    /// An attempt asked for with [`Output::Connect`] failed. (A success is a `LinkUp`.)
    ConnectFailed {
        /// What was dialled.
        address: PeerAddress,
        /// How it failed.
        failure: ConnectFailure,
    },
    /// A message from the peer of that stream.
    Message {
        /// On which stream it came.
        link: LinkId,
        /// The message; what it says of its sender is vouched for by the stream's identity.
        message: Verified<Message>,
    },
    /// What this member says of itself from now on.
    SetMetadata(Metadata),
    /// Addresses to join by (`spec.fleet`). Replaces the earlier ones.
    SetSeeds(Vec<PeerAddress>),
    /// Members to keep a link to whatever the rings say: voters and electors. Replaces the earlier ones; at most
    /// `MAX_REQUIRED` are kept.
    SetRequired(BTreeSet<MemberName>),
    /// The answer to [`Output::Sign`].
    Signed(SignedStatement),
    /// This member signs with another certificate from now on: what it says of itself is said anew, so that no record
    /// rests on a certificate, or on an authority, that is about to go.
    Renewed,
    /// Tells everyone that this member leaves for good.
    Leave,
    /// Tells everyone that this member will be gone for up to `grace`.
    Away {
        /// Counts from receipt, at most 60 s.
        grace: Duration,
    },
    /// An operator says that this member will not come back: it counts as Left and is not dialled any more.
    Forget(MemberName),
    /// From now on a lone observer waits this long; replaces [`Config::silence_floor`](crate::Config).
    SetSilenceFloor(Duration),
}

/// A peer's Hello, as far as membership reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHello {
    /// Its name, checked against its certificate.
    pub member: MemberName,
    /// Its start.
    pub epoch: Epoch,
    /// Where it says it can be dialled.
    pub address: Option<PeerAddress>,
    /// Its view hash.
    pub view_hash: u32,
    /// The newest protocol that both speak: 1 before there were signed records and rings, 2 with them.
    pub protocol: u32,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEnd {
    /// The peer said why. Never evidence against it.
    Closed(CloseCode),
    /// End of stream, reset or timeout without a word.
    Lost,
}

/// How an attempt to dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Connection refused: the host lives, nothing listens.
    Refused,
    /// No answer, no route, no such name, or TLS did not complete.
    Unanswered,
    /// The peer answered and refused the Hello.
    Rejected(CloseCode),
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Dial this address once. The core asks again, after a backoff, if it fails.
    Connect {
        /// Where.
        address: PeerAddress,
    },
    /// Close this stream, telling the peer why.
    Disconnect {
        /// Which.
        link: LinkId,
        /// Why.
        code: CloseCode,
    },
    /// Send this to the peer of that stream.
    Send {
        /// On which stream.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Sign this and give it back with [`Input::Signed`], before any other input. If it cannot be signed it is
    /// given back unsigned.
    Sign(Box<Statement>),
    /// Something others want to know.
    Event(Event),
}

/// What others want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A member's state, epoch or metadata in this view changed; read it with `Membership::member`.
    Changed(MemberName),
    /// Proof of life: `member` was alive at `at`, a bound that replayed or delayed frames cannot extend.
    Heard {
        /// Who.
        member: MemberName,
        /// When at the earliest its newest proven beat was sent, on the local clock.
        at: Instant,
    },
    /// A co-observer says that it heard `member` at `at`. It may be mistaken or lie: nothing is decided by it alone.
    Vouched {
        /// Who.
        member: MemberName,
        /// When, on the local clock.
        at: Instant,
    },
    /// A beat is late and the observers are being asked.
    Querying(MemberName),
    /// A suspicion ended because the subject refuted it.
    Refuted(MemberName),
    /// This member goes on under a newer epoch (a peer knew one that was newer than ours): store it.
    EpochRaised(Epoch),
    /// Another process with this name is alive: stop writing and say so.
    NameInUse {
        /// Its epoch; our own if only a peer said so, as a refusal does not carry it.
        epoch: Epoch,
    },
}

/// What a member is believed to be. The order is the order inside one (epoch, incarnation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Beats arrive.
    Alive,
    /// A majority of its observers does not hear it; it may still refute.
    Suspect,
    /// Announced a pause.
    Away,
    /// Did not refute in time.
    Down,
    /// Said good-bye, or an operator did for it.
    Left,
}

impl State {
    /// All states, in order.
    pub const ALL: [Self; 5] = [Self::Alive, Self::Suspect, Self::Away, Self::Down, Self::Left];

    /// The word shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "Alive",
            Self::Suspect => "Suspect",
            Self::Away => "Away",
            Self::Down => "Down",
            Self::Left => "Left",
        }
    }
}

/// What an accusation rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Its host lives and refuses connections: the process ended. Strong.
    Exit,
    /// Nothing is heard.
    Silence,
}

/// One frame's worth of membership.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Every beat interval, from a subject to each of its observers; both ways where both need it.
    Beat {
        /// Counts up per link, shared with pings.
        seq: u64,
        /// The newest beat or ping received from the receiver, and how long ago.
        echo: Option<Echo>,
        /// Where the receiver only echoes: its newest echo, named by the sender's own number that it carried, and how
        /// long ago it came. The receiver knows when it sent that.
        acked: Option<Echo>,
        /// Hash of the sender's view.
        view_hash: u32,
    },
    /// Wants an `Echo` at once.
    Ping {
        /// Counts up per link, shared with beats.
        seq: u64,
    },
    /// Answers a `Ping`, and a `Beat` where the receiver sends none itself.
    Echo(Echo),
    /// Do you hear the subject? Wants an `Answer` within the deadline.
    Query {
        /// Returned in the answer.
        id: u64,
        /// Of whom.
        subject: MemberName,
        /// The subject's epoch as the asker knows it.
        epoch: Epoch,
        /// How long the asker waits.
        deadline: Duration,
    },
    /// Answers a `Query`.
    Answer {
        /// Of the query.
        id: u64,
        /// Of whom.
        subject: MemberName,
        /// What the answerer knows first-hand.
        verdict: Verdict,
    },
    /// An observer does not hear a member, and a majority of those that answered agreed.
    Accuse(Signed<Accusation>),
    /// What a member says of itself: the sender, or, signed, anybody.
    Record(Signed<Record>),
    /// Several statements at once: a snapshot for who joins, what is new in batches, what a digest showed to differ.
    Delta {
        /// Records.
        records: Vec<Signed<Record>>,
        /// Accusations that are in force.
        accusations: Vec<Signed<Accusation>>,
    },
    /// Hashes of parts of the view, to find where two views differ.
    Digest {
        /// The view is cut into 2^bits buckets by the hash of the name.
        bits: u8,
        /// An answer names the buckets that differ and wants no digest back.
        answer: bool,
        /// Number and hash of buckets.
        buckets: Vec<(u16, u32)>,
    },
    /// The sender does not take the receiver for its observer any more and will stop its beats.
    Unobserve,
    /// What the receiver is believed to be, told so that it can refute or go on from there.
    Known {
        /// The receiver's epoch in the sender's view.
        epoch: Epoch,
        /// The receiver's incarnation in the sender's view.
        incarnation: Incarnation,
        /// The receiver's state in the sender's view.
        state: State,
    },
    /// Where other members may be found. A hint to dial, nothing more.
    Addresses(Vec<(MemberName, PeerAddress)>),
}

/// Proof that something was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The sequence number that is echoed.
    pub seq: u64,
    /// How long ago it was received.
    pub delay: Duration,
}

/// What an observer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Heard, and this long ago at most.
    Heard(Duration),
    /// Not heard in time, though it should have been.
    Mute(Evidence),
    /// Cannot tell: never heard it, or not an observer.
    Abstain,
}

/// An observer's word that it does not hear a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accusation {
    /// Who does not hear it.
    pub accuser: MemberName,
    /// Who is not heard.
    pub subject: MemberName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its incarnation: a higher one refutes.
    pub incarnation: Incarnation,
    /// What it rests on.
    pub evidence: Evidence,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Whose.
    pub member: MemberName,
    /// Its start.
    pub epoch: Epoch,
    /// Its refutation.
    pub incarnation: Incarnation,
    /// Counts up with every change of the metadata within an epoch.
    pub version: u64,
    /// Alive, Away or Left.
    pub status: SelfState,
    /// What it says of itself.
    pub metadata: Metadata,
}

/// What a member may say about its own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfState {
    /// Here.
    Alive,
    /// Gone for a while; the verdict is held for this long from receipt.
    Away {
        /// At most 60 s.
        grace: Duration,
    },
    /// Gone for good.
    Left,
}
