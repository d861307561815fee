//! What can happen to a core: what a hostile peer says and does, faults of honest ones, and orders of the operator.

use arbitrary::Arbitrary;

/// A whole run.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) struct Plan {
    /// How the fleet begins.
    pub(crate) setup: Setup,
    /// What happens, in order.
    pub(crate) steps: Vec<Step>,
}

/// How the fleet begins.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) struct Setup {
    /// Honest peers beyond the first four.
    pub(crate) more: u8,
    /// Of the core's random numbers.
    pub(crate) seed: u64,
    /// The records of all are known at the start. Fleets on rings always begin like that.
    pub(crate) warm: bool,
    /// One honest peer speaks protocol 1.
    pub(crate) old_peer: bool,
    /// The hostile peer's name is the smallest, else the greatest.
    pub(crate) hostile_first: bool,
    /// What the hostile peer answers to queries: nothing, Mute, Heard or Abstain.
    pub(crate) answers: u8,
    /// It echoes pings and beats as it should.
    pub(crate) echoes: bool,
    /// Peers' view hashes are equal to the core's.
    pub(crate) same_view: bool,
}

/// One thing that happens.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) enum Step {
    /// Time passes.
    Wait(u16),
    /// The process does not run for so many milliseconds, while the peers' frames wait in its sockets.
    Pause { ms: u16, frames_first: bool },
    /// An honest peer dies without a word.
    Crash { peer: u8 },
    /// The link of an honest peer ends: with a code or without.
    LinkEnds { peer: u8, code: Option<u8> },
    /// A frame of an honest peer comes once more, late.
    Late { peer: u8, frame: u8 },
    /// The hostile peer comes on a new stream.
    Join { epoch: Number, address: u8, dialled: bool, protocol: bool },
    /// Somebody comes who has the core's own name.
    OwnName { epoch: Number, dialled: bool },
    /// A stream of the hostile peer ends.
    HangUp { code: Option<u8> },
    /// The hostile peer says something.
    Say(Frame),
    /// It says it again and again.
    Flood { frame: Frame, times: u8, every_us: u16 },
    /// An order of the operator.
    Order(Order),
}

/// What the operator or the node orders.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) enum Order {
    /// See `Input::Away`.
    Away,
    /// See `Input::Leave`.
    Leave,
    /// See `Input::Forget`.
    Forget(u8),
    /// See `Input::SetRequired`.
    Required(Vec<u8>),
    /// See `Input::SetSeeds`.
    Seeds(Vec<u8>),
    /// See `Input::SetMetadata`.
    Rank(i8),
}

/// A number near a true one, or far from it.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) struct Number(pub u8);

impl Number {
    /// The number, given the true one.
    pub(crate) fn near(self, truth: u64) -> u64 {
        match self.0 % 12 {
            0..=3 => truth,
            4 => truth.saturating_add(1),
            5 => truth.saturating_sub(1),
            6 => 0,
            7 => u64::MAX,
            8 => truth.saturating_add(1 << 16),
            9 => truth.saturating_add((1 << 16) + 1),
            10 => truth.saturating_add(86_300_000),
            _ => truth.saturating_add(40),
        }
    }

    /// The same for incarnations.
    pub(crate) fn near32(self, truth: u32) -> u32 {
        u32::try_from(self.near(truth.into())).unwrap_or(u32::MAX)
    }
}

/// A message with fields of the hostile peer's choice.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) enum Frame {
    Beat { seq: Number, echo: Option<(Number, u8)>, acked: Option<(Number, u8)>, same_view: bool },
    Ping { seq: Number },
    Echo { seq: Number, delay: u8 },
    Query { subject: u8, epoch: Number, deadline: u8 },
    Answer { id: Number, subject: u8, verdict: u8 },
    Accuse(AccusationClaim),
    Record(RecordClaim),
    Delta { records: Vec<RecordClaim>, accusations: Vec<AccusationClaim> },
    Digest { bits: u8, answer: bool, wrong: u16 },
    Unobserve,
    Known { epoch: Number, incarnation: Number, state: u8 },
    Addresses(Vec<(u8, u8)>),
}

/// A record that the transport lets pass: the hostile peer's own, or one that an honest peer did sign.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) enum RecordClaim {
    Own { epoch: Number, incarnation: Number, version: Number, status: u8, address: u8, signed: bool },
    Replayed(u8),
}

/// An accusation that the transport lets pass.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) enum AccusationClaim {
    Own { subject: u8, epoch: Number, incarnation: Number, exit: bool, signed: bool },
    Replayed(u8),
}
