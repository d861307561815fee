//! What will happen to a fleet of membership cores.

/// A stream's slot, its use, and one of its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndOf {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) end: u8,
}

/// A dial's place and its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DialId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Something that will happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    /// A host's earliest deadline may have come.
    Timer(u32),
    /// The next frame reaches this end.
    Arrive(EndOf),
    /// What was sent towards this end and is not acknowledged is sent again.
    Retry(EndOf),
    /// A reset reaches this end.
    Reset(EndOf),
    /// A dial sends its SYN.
    Syn(DialId),
    /// A dial's Hello reaches the acceptor.
    Hello(DialId),
    /// A dial has had its time.
    DialOver(DialId),
    /// A dial learns its result: refused.
    Refused(DialId),
    /// A fault begins.
    Begin(u32),
    /// A fault ends.
    End(u32),
    /// The next step of a fault with steps.
    Step(u32),
    /// A host's first start.
    Start(u32),
    /// A process that said good-bye ends: host, process.
    Exit(u32, u32),
    /// A liar lies: host.
    Lie(u32),
}
