//! Errors that a simulator plants to see that its checkers find them. Without the feature `planted-bugs` none can be
//! planted, and the compiler removes the questions.

/// One wrong line of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "only planted with the feature")
)]
pub enum PlantedBug {
    /// A voter grants whatever it is asked for, a term again to another candidate, too.
    GrantsTwice,
    /// A grant is told before it is durable.
    GrantsUnrecorded,
    /// The payload runs before the lead is durable.
    RunsUnrecorded,
    /// A process that finds an unfinished stop leads on.
    ResumesStopping,
    /// The lead is taken for free though its holder is there.
    LeaderIgnored,
    /// The loser of two leaders that meet goes on.
    LoserGoesOn,
    /// Of two leaders that meet the worse payload wins.
    WorseCopyWins,
    /// A candidacy that came to nothing, or is not even durable, supersedes a leader that asks.
    CandidacySupersedes,
    /// Who is Down has to grant as well.
    DownMustGrant,
    /// The terms in the record are forgotten by a restart.
    TermForgotten,
    /// Peers are gone through in an order of chance.
    HashOrder,
    /// Quorum: a leader takes its lease for longer than the voters promised.
    LeaseOverstayed,
    /// Quorum: a leader that lost its lease does not stop.
    SelfStopForgotten,
    /// Quorum: a successor does not wait until its predecessor has stopped.
    GraceNotWaited,
    /// Quorum: a voter that restarts votes for another at once.
    PromiseForgotten,
    /// Quorum: all voters are changed at once.
    VotersAllAtOnce,
    /// Quorum: a voter that restarts knows no more which terms it gave away.
    GrantsForgotten,
    /// A voter without its record votes before the other voters told it theirs.
    RecordNotAwaited,
    /// Quorum: a shorter lease ends a longer one that was promised before.
    PromiseShortened,
    /// Quorum: a leader that leaves Quorum is not bound by it any more, though its voters do not know.
    ModeAtOnce,
    /// Of two leaders that meet each goes by its own settings.
    OwnHealRule,
    /// A released lead waits for its successor for ever.
    ReservedForEver,
    /// A leader whose process ended is waited for for ever.
    GraceNeverEnds,
    /// Quorum: a leader that restarted asks for a renewal at every step.
    RenewsAtEveryStep,
    /// Quorum: a process that found its payload running, and was not told in time that it leads, does not stop it.
    UnconfirmedRunsOn,
}

impl crate::Election {
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[inline]
    #[allow(clippy::unused_self, reason = "the feature's twin asks")]
    pub(crate) fn has(&self, _bug: PlantedBug) -> bool {
        false
    }
}
