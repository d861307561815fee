//! What may happen next in a state.

use flagship_election::{Directive, Election};

use super::state::{Item, State};

/// Something that may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The next of what the first sent to the second arrives.
    Deliver(usize, usize),
    /// It does not.
    Lose(usize, usize),
    /// The member's earliest timeout fires.
    Timeout(usize),
    /// Its record becomes durable, and it learns so.
    Stored(usize),
    /// Its payload is gone, as it was told to see to.
    Deleted(usize),
    /// Its process ends; a write under way has landed (`true`) or not.
    Crash(usize, bool),
    /// It starts again.
    Restart(usize),
    /// The first takes the second for Down.
    Notice(usize, usize),
    /// The two have a link (again) and see each other.
    Meet(usize, usize),
}

impl State {
    /// All that may happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut out = Vec::new();
        for ((from, to), wire) in &self.wires {
            if let Some(first) = wire.front() {
                out.push(Action::Deliver(*from, *to));
                if self.left.losses > 0 && matches!(first, Item::Message(_)) {
                    out.push(Action::Lose(*from, *to));
                }
            }
        }
        let nodes = || (0..self.count()).map(|node| self.node(node));
        // Where clocks are one, a write takes no time, though anything else may come before it.
        let writing = nodes().any(|node| node.core.is_some() && node.pending.is_some());
        let earliest = nodes().filter_map(|node| node.core.as_ref()?.next_timeout()).min();
        for (i, node) in nodes().enumerate() {
            let Some(core) = &node.core else {
                out.push(Action::Restart(i));
                continue;
            };
            if node.pending.is_some() {
                out.push(Action::Stored(i));
            }
            let due = core.next_timeout();
            if due.is_some() && (self.clocks_differ() || (due == earliest && !writing)) {
                out.push(Action::Timeout(i));
            }
            if is_to_delete(core, node.payload.is_some()) {
                out.push(Action::Deleted(i));
            }
            if self.left.crashes > 0 {
                out.push(Action::Crash(i, false));
                if node.pending.is_some() {
                    out.push(Action::Crash(i, true));
                }
            }
        }
        self.pairs(&mut out);
        out
    }

    fn pairs(&self, out: &mut Vec<Action>) {
        let lives = |node: usize| self.node(node).core.is_some();
        for a in 0..self.count() {
            for b in 0..self.count() {
                if a == b || !lives(a) {
                    continue;
                }
                if !self.down[a][b] && (!lives(b) || !self.linked[b][a] || self.left.mistakes > 0) {
                    out.push(Action::Notice(a, b));
                }
                if a < b && lives(b) && !(self.linked[a][b] && self.linked[b][a]) {
                    out.push(Action::Meet(a, b));
                }
            }
        }
    }
}

/// Told to see that no payload is there. A stop is answered even where there is none.
pub(super) fn is_to_delete(core: &Election, has_payload: bool) -> bool {
    match core.directive() {
        Directive::Stop { .. } => true,
        Directive::Absent => has_payload,
        Directive::Hold | Directive::Run { .. } => false,
    }
}
