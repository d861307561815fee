//! Deadlines of members and links, earliest first.
//!
//! A deadline that moves back, as a beat makes it do, costs nothing: the old entry stays, and whoever is woken by it
//! looks at its real deadline and is entered again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flagship_types::Instant;

use crate::LinkId;
use crate::rings::Slot;

/// Whose deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Member(Slot),
    Link(LinkId),
}

/// The entries that will wake somebody; kept with it, so that others are known to be void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Armed {
    at: Option<Instant>,
    /// An entry that was overtaken by an earlier one. It serves again after that, so that a deadline that comes forward
    /// and goes back does not leave one behind each time.
    later: Option<Instant>,
}

/// The queue: two entries a member or link that has a deadline, rarely more, and those go when their time comes.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Who)>>,
}

impl Timers {
    /// Sees to it that `who` is woken at `deadline` or before.
    pub(crate) fn arm(&mut self, who: Who, armed: &mut Armed, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if armed.at.is_none_or(|at| deadline < at) {
            armed.later = armed.at.or(armed.later);
            armed.at = Some(deadline);
            self.heap.push(Reverse((deadline, who)));
        }
    }

    /// When somebody is to be woken.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next entry whose time has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, Who)> {
        let due = self.next().is_some_and(|at| at <= now);
        if due { self.heap.pop().map(|Reverse(entry)| entry) } else { None }
    }
}

impl Armed {
    /// Whether the entry in force comes after that time, or there is none.
    pub(crate) fn is_after(self, deadline: Instant) -> bool {
        self.at.is_none_or(|at| at > deadline)
    }

    /// Whether the entry of that time is the one in force; it is used up by that.
    pub(crate) fn fires(&mut self, at: Instant) -> bool {
        let fires = self.at == Some(at);
        if fires {
            self.at = self.later.take();
        }
        fires
    }
}
