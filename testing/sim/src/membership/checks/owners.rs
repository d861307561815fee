//! Invariants 1, 2 and 13: what is believed of a member is what it said of itself, and only grows.

use std::collections::BTreeMap;

use flagship_membership::State;

use super::{Seen, Violation};
use crate::membership::fault::Host;

/// What a member truly said of itself.
#[derive(Debug, Default, Clone)]
struct Owner {
    /// Its epochs, and the highest incarnation in each.
    epochs: BTreeMap<u64, u32>,
    term: u64,
    left: bool,
    away: bool,
    liar: bool,
}

/// What all said of themselves, and what was seen of them last.
#[derive(Debug)]
pub struct Owners {
    owners: Vec<Owner>,
    /// Last seen, by viewer and subject.
    last: Vec<BTreeMap<Host, Seen>>,
}

impl Owners {
    /// Of so many members.
    pub fn new(members: usize) -> Self {
        let owners = vec![Owner { term: 1, ..Owner::default() }; members];
        Self { owners, last: vec![BTreeMap::new(); members] }
    }

    /// A process starts, knowing nothing of the others.
    pub fn started(&mut self, host: Host, epoch: u64) {
        self.owners[host].epochs.entry(epoch).or_insert(0);
        self.last[host].clear();
    }

    /// Its core goes under this epoch and incarnation.
    pub fn is_at(&mut self, host: Host, epoch: u64, incarnation: u32) {
        let highest = self.owners[host].epochs.entry(epoch).or_insert(0);
        *highest = (*highest).max(incarnation);
    }

    /// It says so of itself from now on.
    pub fn said_term(&mut self, host: Host, term: u64) {
        self.owners[host].term = self.owners[host].term.max(term);
    }

    /// It said good-bye.
    pub fn said_left(&mut self, host: Host) {
        self.owners[host].left = true;
    }

    /// It announced a pause.
    pub fn said_away(&mut self, host: Host) {
        self.owners[host].away = true;
    }

    /// It lies: what others believe of it is its own doing.
    pub fn lies(&mut self, host: Host) {
        self.owners[host].liar = true;
    }

    /// Whether it lies or did.
    pub fn is_liar(&self, host: Host) -> bool {
        self.owners[host].liar
    }

    /// What a viewer showed of a subject last.
    pub fn last(&self, viewer: Host, subject: Host) -> Option<&Seen> {
        self.last[viewer].get(&subject)
    }

    /// Checks a view.
    pub fn seen(&mut self, seen: Seen) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut add = |invariant, text: &str| {
            let Seen { at, viewer, subject, epoch, incarnation, state, .. } = seen;
            let shown = format!("{} at epoch {epoch}, incarnation {incarnation}", state.as_str());
            found.push(Violation {
                invariant,
                at,
                text: format!("m{viewer} holds m{subject} {shown}: {text}"),
            });
        };
        let owner = &self.owners[seen.subject];
        if !owner.liar {
            match owner.epochs.get(&seen.epoch) {
                None => add(13, "it never had that epoch"),
                Some(highest) if seen.incarnation > *highest => {
                    add(1, &format!("it only went up to incarnation {highest}"));
                }
                Some(_) => {}
            }
            if seen.term.is_some_and(|term| term > owner.term) {
                add(13, "it never said what is shown of it");
            }
            let unsaid = match seen.state {
                State::Left => !owner.left,
                State::Away => !owner.away,
                State::Alive | State::Suspect | State::Down => false,
            };
            if unsaid {
                add(13, "it never said so");
            }
        }
        if let Some(last) = self.last[seen.viewer].insert(seen.subject, seen) {
            let key = |seen: &Seen| (seen.epoch, seen.incarnation, seen.state);
            let returned = last.state == State::Away && seen.state == State::Alive;
            if key(&seen) < key(&last) && !(returned && seen.epoch == last.epoch) {
                let (epoch, incarnation, state) = key(&last);
                add(2, &format!("it was {} at epoch {epoch}, incarnation {incarnation}", state.as_str()));
            } else if seen.epoch == last.epoch && seen.term.is_some() && seen.term < last.term {
                add(2, &format!("term {:?} after {:?}", seen.term, last.term));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u8; 0] = [];

    fn seen(epoch: u64, incarnation: u32, state: State) -> Seen {
        Seen { at: 0, viewer: 0, subject: 1, epoch, incarnation, state, term: Some(1), evidence: None }
    }

    fn owners() -> Owners {
        let mut owners = Owners::new(2);
        owners.started(1, 7);
        owners.is_at(1, 7, 2);
        owners
    }

    fn invariants(owners: &mut Owners, seen: Seen) -> Vec<u8> {
        owners.seen(seen).iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn incarnations_that_the_owner_did_not_raise_are_found() {
        let mut owners = owners();
        assert_eq!(invariants(&mut owners, seen(7, 2, State::Suspect)), NONE);
        assert_eq!(invariants(&mut owners, seen(7, 3, State::Alive)), [1]);
    }

    #[test]
    fn records_that_shrink_are_found() {
        for after in [seen(7, 1, State::Down), seen(7, 2, State::Alive)] {
            let mut owners = owners();
            assert_eq!(invariants(&mut owners, seen(7, 2, State::Suspect)), NONE);
            assert_eq!(invariants(&mut owners, after), [2]);
        }
        let mut owners = owners();
        owners.said_term(1, 5);
        assert_eq!(invariants(&mut owners, Seen { term: Some(5), ..seen(7, 2, State::Alive) }), NONE);
        assert_eq!(invariants(&mut owners, Seen { term: Some(4), ..seen(7, 2, State::Alive) }), [2]);
    }

    #[test]
    fn a_pause_that_ends_and_a_viewer_that_starts_anew_are_no_shrinking() {
        let mut owners = owners();
        owners.said_away(1);
        assert_eq!(invariants(&mut owners, seen(7, 2, State::Away)), NONE);
        assert_eq!(invariants(&mut owners, seen(7, 2, State::Alive)), NONE);
        owners.started(0, 1);
        assert_eq!(invariants(&mut owners, seen(7, 0, State::Alive)), NONE);
    }

    #[test]
    fn what_a_member_never_said_is_found() {
        for wrong in [
            seen(8, 0, State::Alive),
            seen(7, 0, State::Left),
            seen(7, 0, State::Away),
            Seen { term: Some(2), ..seen(7, 0, State::Alive) },
        ] {
            assert_eq!(invariants(&mut owners(), wrong), [13], "{wrong:?}");
        }
        let mut owners = owners();
        owners.lies(1);
        assert_eq!(invariants(&mut owners, seen(8, 9, State::Left)), NONE);
    }
}
