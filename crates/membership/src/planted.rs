//! Errors that a simulator plants to see that its checkers find them. Without the feature `planted-bugs` none can be
//! planted, and the compiler removes the questions.

/// One wrong line of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "only planted with the feature")
)]
pub enum PlantedBug {
    /// Who begins a suspicion raises the subject's incarnation in its own view.
    AccuserRaisesIncarnation,
    /// An older record replaces a newer one.
    OldRecordAccepted,
    /// A late beat is Suspect at once, whatever the co-observers say.
    OwnWordSuffices,
    /// Who never heard a subject answers Mute instead of abstaining.
    OthersAnswerMute,
    /// Observers that are Down are not replaced.
    DeadObserversCount,
    /// A view that differs is not looked into, and records are not passed on.
    DigestIgnored,
    /// A refutation does not end a suspicion.
    LateRefutationLoses,
    /// A Down member is not dialled any more.
    DownIsNotDialled,
    /// A second stream to the same peer is kept, and one that nobody needs as well.
    LinksPileUp,
    /// A beat proves life at its receipt, whatever it echoes.
    ReceiptProvesLife,
    /// Own timers that fire late change nothing.
    PauseForgotten,
    /// What goes to several goes out in an order of chance.
    HashOrder,
    /// An unsigned record of another member is believed.
    ForeignRecordBelieved,
    /// One accusation makes a member Down.
    LoneWordBelieved,
    /// A lone observer does not wait for the silence floor.
    SilenceFloorIgnored,
    /// An accusation of an incarnation that was refuted counts against the new one.
    WindowNotRestarted,
    /// An announced pause has no end.
    AwayNeverEnds,
    /// The age of a beat is taken from our last frame, not from the one it echoes.
    EchoDelayIgnored,
    /// A second process takes a name from one that answers.
    NewcomerTakesName,
    /// Who is told of a later epoch of itself does not go on from there.
    EpochNotRaised,
}

#[cfg(feature = "planted-bugs")]
impl crate::Membership {
    /// Plants a bug. For the simulator's tests of its own checkers.
    pub fn plant(&mut self, bug: PlantedBug) {
        self.table.planted = Some(bug);
    }
}

impl crate::Membership {
    pub(crate) fn has(&self, bug: PlantedBug) -> bool {
        self.table.has(bug)
    }
}

impl crate::table::Table {
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
