//! What must hold in every run.

use std::collections::{BTreeMap, BTreeSet};

use flagship_membership::{Evidence, State};
use flagship_types::{Epoch, Incarnation, Instant};

/// A change in somebody's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) observer: usize,
    pub(crate) subject: usize,
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: State,
    pub(crate) evidence: Option<Evidence>,
}

/// Downs of members that were alive and reachable all the time.
pub(crate) fn false_downs(changes: &[Change], dead: &BTreeSet<usize>) -> Vec<Change> {
    changes.iter().filter(|c| c.state == State::Down && !dead.contains(&c.subject)).cloned().collect()
}

/// A member's record only grows in everyone's view; a beat may end an announced pause.
pub(crate) fn shrinking_records(changes: &[Change]) -> Vec<(Change, Change)> {
    let mut last: BTreeMap<(usize, usize), &Change> = BTreeMap::new();
    let mut found = Vec::new();
    for change in changes {
        if let Some(old) = last.insert((change.observer, change.subject), change) {
            let key = |c: &Change| (c.epoch, c.incarnation, c.state);
            let back = old.state == State::Away && change.state == State::Alive && old.epoch == change.epoch;
            if key(change) < key(old) && !back {
                found.push((old.clone(), change.clone()));
            }
        }
    }
    found
}
