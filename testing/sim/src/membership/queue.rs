//! What will happen, in order of time and, within an instant, of asking.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::clock::Nanos;

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

#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Nanos, u64, Happening)>>,
    order: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Nanos, happening: Happening) {
        self.order += 1;
        self.heap.push(Reverse((at, self.order, happening)));
    }

    /// The next that happens not after `end`.
    pub(super) fn pop(&mut self, end: Nanos) -> Option<(Nanos, Happening)> {
        if self.heap.peek()?.0.0 > end {
            return None;
        }
        self.heap.pop().map(|Reverse((at, _, happening))| (at, happening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_of_time_then_of_asking() {
        let mut queue = Queue::default();
        for (at, host) in [(5, 1), (3, 9), (5, 0), (9, 2)] {
            queue.push(at, Happening::Timer(host));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(8)).collect();
        assert_eq!(order, [(3, Happening::Timer(9)), (5, Happening::Timer(1)), (5, Happening::Timer(0))]);
    }
}
