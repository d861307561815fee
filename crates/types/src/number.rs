//! Numbers that must not be mixed up.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Preference for the lead: higher leads. Any integer.
    Rank(i64)
}
number! {
    /// Fencing token: grows by at least one at every change of leader, never reused. Zero: no term yet.
    Term(u64)
}
number! {
    /// One start of a member: max(wall clock in ms, stored + 1). Only its owner raises it.
    Epoch(u64)
}
number! {
    /// One refutation within an epoch. Only its owner raises it.
    Incarnation(u32)
}
number! {
    /// Version of the fleet configuration; the higher one is in force. It begins with the term of the leader that wrote
    /// it, so that no two leaders write the same one.
    ConfigVersion(u64)
}

impl Term {
    /// No term was ever given.
    pub const NONE: Self = Self(0);
    /// The largest step that is believed: beyond it a peer is mistaken or hostile.
    pub const MAX_JUMP: u64 = 1 << 20;

    /// The next term.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether somebody who knows `self` may believe in `other`.
    pub fn may_jump_to(self, other: Self) -> bool {
        other.0.saturating_sub(self.0) <= Self::MAX_JUMP
    }
}

impl Incarnation {
    /// The next incarnation.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl ConfigVersion {
    /// How many versions there are in each term.
    const PER_TERM: u64 = 1 << 8;

    /// The next version that the leader of this term may write; `None` if it has written all that there are.
    pub fn next_in(self, term: Term) -> Option<Self> {
        let first = term.0.checked_mul(Self::PER_TERM)?;
        let next = self.0.checked_add(1)?.max(first);
        (next - first < Self::PER_TERM).then_some(Self(next))
    }

    /// The term of the leader that wrote it; none if it is older than leaders, as a proposal is.
    pub fn term(self) -> Term {
        Term(self.0 / Self::PER_TERM)
    }
}
