//! Faults as data: what goes wrong, when, and for how long.

use std::time::Duration;

pub use crate::paths::{Host, Network};

/// How a process comes back after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// Under max(wall clock, stored + 1), as it should.
    Higher,
    /// Its storage is lost and its wall clock is behind: under an epoch below the one the others know.
    Lower,
}

/// Something a lying member does. Its certificate is its own, so that it cannot sign for others, and what it forges
/// in their names the transport drops; all else arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// Accuses everybody it has a link to, and says so to everybody it has a link to.
    Accuse,
    /// Answers every query with Mute(Exit).
    AnswerMute,
    /// Answers every query with Heard(0).
    AnswerHeard,
    /// Sends records of others: with a signature of its own, and without any.
    Forge,
    /// Sends again what it sent or was sent before: records, accusations, beats, echoes, answers.
    Replay,
    /// Tells its peers that it holds them Down or Left, at their epoch and far above, and at huge incarnations.
    Hold,
    /// Says of itself ever higher incarnations, and epochs up to and beyond a day ahead.
    Huge,
    /// Tells of members and addresses that do not exist.
    Ghosts,
    /// Answers digests with wrong ones and sends such unasked; hides what it knows.
    StaleDigest,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Accuse,
        Self::AnswerMute,
        Self::AnswerHeard,
        Self::Forge,
        Self::Replay,
        Self::Hold,
        Self::Huge,
        Self::Ghosts,
        Self::StaleDigest,
    ];
}

/// What a blocked process does not do. Afterwards it goes on with everything that has piled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// Anything: it stands still. Whether it then looks at its timers or at its sockets first is drawn anew each time.
    Process,
    /// It neither reads nor sends, but its timers run: as in the experiments of the Lifeguard paper, where everything
    /// that a member sends or reads waits on a lock. It cannot know that it is itself that is blocked.
    Messages,
}

/// Something that goes wrong. It ends by itself after [`Timed::lasts`], if it can end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies. With `reset` its host lives on: streams are reset, connections refused. It comes back at
    /// the end of its time if `back` says how.
    Crash {
        /// Who.
        host: Host,
        /// Whether the host lives.
        reset: bool,
        /// How it comes back.
        back: Option<Back>,
    },
    /// The process does not run; its host acknowledges and keeps what arrives.
    Freeze {
        /// Who.
        host: Host,
    },
    /// It is blocked this long of every so long.
    Slow {
        /// Who.
        host: Host,
        /// What does not go on.
        block: Block,
        /// Blocked for.
        blocked: Duration,
        /// Out of.
        period: Duration,
    },
    /// Nothing gets from one of these to one of those. One direction only.
    Cut {
        /// Who is not heard.
        from: Vec<Host>,
        /// By whom.
        to: Vec<Host>,
    },
    /// Nothing gets from these to the others, nor back.
    Split {
        /// One side.
        side: Vec<Host>,
    },
    /// The two are cut off from each other for `down` of every `period`.
    Flap {
        /// One.
        a: Host,
        /// The other.
        b: Host,
        /// Cut for.
        down: Duration,
        /// Out of.
        period: Duration,
    },
    /// Every segment between the two takes this much longer.
    SlowLink {
        /// One.
        a: Host,
        /// The other.
        b: Host,
        /// Added to the one-way delay.
        extra: Duration,
    },
    /// What the first sends to the second waits, and arrives at the end of the fault, in order: old beats, late.
    HoldBack {
        /// Sender.
        from: Host,
        /// Receiver.
        to: Host,
    },
    /// Segments are lost on every link.
    Loss {
        /// How many.
        percent: u32,
    },
    /// Something in the path resets the streams between the two.
    Reset {
        /// One.
        a: Host,
        /// The other.
        b: Host,
    },
    /// Resets a random stream so often that each link meets it once per `every` on average.
    ColdLinks {
        /// Life of a link.
        every: Duration,
    },
    /// It lies.
    Liar {
        /// Who.
        host: Host,
        /// What about.
        lies: Vec<Lie>,
    },
    /// Its clock runs faster (or slower) by so many thousandths.
    Drift {
        /// Whose.
        host: Host,
        /// Faster by.
        permille: i32,
    },
    /// Its wall clock jumps. Seen at its next start only, as the core reads no wall clock.
    WallJump {
        /// Whose.
        host: Host,
        /// By how many milliseconds.
        ms: i64,
    },
    /// It says good-bye, and its process ends a moment later.
    Leave {
        /// Who.
        host: Host,
    },
    /// It announces a pause; its process ends, and comes back at the end of the fault.
    Away {
        /// Who.
        host: Host,
        /// For how long it asks.
        grace: Duration,
    },
    /// It says something new of itself.
    Metadata {
        /// Who.
        host: Host,
    },
    /// It needs links to these in any case; at the end of the fault no more.
    Required {
        /// Who.
        host: Host,
        /// To whom.
        peers: Vec<Host>,
    },
    /// Not part of the fleet at first: starts now, and knows member 0 only.
    Join {
        /// Who.
        host: Host,
    },
}

/// A fault in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// From the start of the plan.
    pub at: Duration,
    /// `Duration::ZERO`: does not end, or is over at once.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// All that goes wrong in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which generator made it.
    pub name: &'static str,
    /// Size of the fleet, those that join later included.
    pub members: usize,
    /// The network it runs on.
    pub network: Network,
    /// Whether members start knowing each other (with records), or only member 0's address.
    pub warm: bool,
    /// All start within this time. A dial to one that has not started yet is refused: to those that know each other
    /// that is an exit, which they tell everybody.
    pub starts_within: Duration,
    /// What goes wrong.
    pub faults: Vec<Timed>,
}

impl Plan {
    /// When the last fault begins or ends.
    pub fn length(&self) -> Duration {
        self.faults.iter().map(|f| f.at + f.lasts).max().unwrap_or_default()
    }

    /// Who is not part of the fleet at first.
    pub fn joins_later(&self, host: Host) -> bool {
        self.faults.iter().any(|f| f.fault == Fault::Join { host })
    }
}

impl Fault {
    /// One word for tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Freeze { .. } => "freeze",
            Self::Slow { .. } => "slow member",
            Self::Cut { .. } => "one-way cut",
            Self::Split { .. } => "partition",
            Self::Flap { .. } => "flap",
            Self::SlowLink { .. } => "slow link",
            Self::HoldBack { .. } => "late frames",
            Self::Loss { .. } => "loss",
            Self::Reset { .. } => "reset",
            Self::ColdLinks { .. } => "cold links",
            Self::Liar { .. } => "liar",
            Self::Drift { .. } => "drift",
            Self::WallJump { .. } => "wall jump",
            Self::Leave { .. } => "leave",
            Self::Away { .. } => "away",
            Self::Metadata { .. } => "metadata",
            Self::Required { .. } => "required",
            Self::Join { .. } => "join",
        }
    }
}
