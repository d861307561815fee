//! What will happen, in order of time and, within an instant, of asking.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Nanos;

#[derive(Debug)]
pub(crate) struct Queue<H> {
    heap: BinaryHeap<Reverse<(Nanos, u64, H)>>,
    order: u64,
}

impl<H: Ord> Default for Queue<H> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), order: 0 }
    }
}

impl<H: Ord> Queue<H> {
    pub(crate) fn push(&mut self, at: Nanos, happening: H) {
        self.order += 1;
        self.heap.push(Reverse((at, self.order, happening)));
    }

    /// The next that happens not after `end`.
    pub(crate) fn pop(&mut self, end: Nanos) -> Option<(Nanos, H)> {
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
            queue.push(at, host);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(8)).collect();
        assert_eq!(order, [(3, 9), (5, 1), (5, 0)]);
    }
}
