//! All members this one knows of, itself included: a few bytes for each, and details for those it has to do with.

use std::hash::Hasher;

use flagship_types::{Instant, MemberName};
use litemap::LiteMap;
use siphasher::sip::SipHasher24;

use crate::PlantedBug;
use crate::members::Member;
use crate::rings::{Chosen, Rings, Slot};
use crate::{Record, SelfState, Signed, State};

/// This member's own place.
pub(crate) const SELF: Slot = 0;

/// Keys of the view hash: part of the protocol.
const VIEW_KEYS: (u64, u64) = (0x666c_6167_7368_6970, 0x7669_6577_2d68_6173);
/// Keys of the hash that puts names into buckets: part of the protocol.
const BUCKET_KEYS: (u64, u64) = (0x666c_6167_7368_6970, 0x6275_636b_6574_732d);

/// The members. A record is shared by all who hold it, so that a member costs a pointer and its places on the
/// rings; [`Member`] exists for those that are linked, observed or not plainly Alive.
#[derive(Debug)]
pub(crate) struct Table {
    /// By slot. A slot that is free keeps its last record until it is used again.
    records: Vec<Signed<Record>>,
    /// Of those that are not Alive: few, as a rule.
    states: LiteMap<Slot, State>,
    free: Vec<Slot>,
    rings: Rings,
    /// A sorted array: a dozen entries are found in it faster than in a tree.
    details: LiteMap<Slot, Box<Member>>,
    /// Sum of all members' hashes: does not depend on the order, and follows each change in one step.
    view_sum: u64,
    /// Members that did not leave.
    counted: usize,
    /// Details that were looked at to be changed: their deadlines are to be entered anew.
    pub(crate) touched: Vec<Slot>,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<PlantedBug>,
}

impl Table {
    pub(crate) fn new(own: Signed<Record>) -> Self {
        let mut table = Self {
            records: Vec::new(),
            states: LiteMap::new(),
            free: Vec::new(),
            rings: Rings::default(),
            details: LiteMap::new(),
            view_sum: 0,
            counted: 0,
            touched: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        };
        table.insert(own, State::Alive);
        table
    }

    /// Takes in many at once, all Alive. None of them may be there already.
    pub(crate) fn extend(&mut self, records: Vec<Signed<Record>>) {
        let first = self.records.len();
        for record in records {
            self.view_sum = self.view_sum.wrapping_add(view_part(&record, State::Alive));
            self.records.push(record);
            self.counted += 1;
        }
        self.records.shrink_to_fit();
        let slots = (first..self.records.len()).map(to_slot);
        let records = &self.records;
        self.rings.extend(slots, |slot| &records[usize::from(slot)].member);
    }

    pub(crate) fn insert(&mut self, record: Signed<Record>, state: State) -> Slot {
        self.view_sum = self.view_sum.wrapping_add(view_part(&record, state));
        self.counted += usize::from(state != State::Left);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.records[usize::from(slot)] = record;
                slot
            }
            None => {
                if self.records.len() == self.records.capacity() {
                    self.records.reserve_exact((self.records.len() / 8).max(4));
                }
                self.records.push(record);
                to_slot(self.records.len() - 1)
            }
        };
        self.note_state(slot, state);
        let records = &self.records;
        let name = &records[usize::from(slot)].member;
        self.rings.insert(slot, name, |slot| &records[usize::from(slot)].member);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        self.set_state(slot, State::Left);
        let records = &self.records;
        self.rings.remove(&records[usize::from(slot)].member, |slot| &records[usize::from(slot)].member);
        self.details.remove(&slot);
        self.free.push(slot);
    }

    pub(crate) fn slot(&self, name: &MemberName) -> Option<Slot> {
        self.rings.find(name, |slot| self.name(slot))
    }

    pub(crate) fn name(&self, slot: Slot) -> &MemberName {
        &self.records[usize::from(slot)].member
    }

    pub(crate) fn record(&self, slot: Slot) -> &Signed<Record> {
        &self.records[usize::from(slot)]
    }

    pub(crate) fn state(&self, slot: Slot) -> State {
        self.states.get(&slot).copied().unwrap_or(State::Alive)
    }

    fn note_state(&mut self, slot: Slot, state: State) {
        match state {
            State::Alive => self.states.remove(&slot),
            _ => self.states.insert(slot, state),
        };
    }

    /// Whether it can observe others: here, as far as is known.
    pub(crate) fn is_live(&self, slot: Slot) -> bool {
        let live = matches!(self.state(slot), State::Alive | State::Suspect);
        live || (self.has(PlantedBug::DeadObserversCount) && self.state(slot) == State::Down)
    }

    pub(crate) fn set_record(&mut self, slot: Slot, record: Signed<Record>) {
        let state = self.state(slot);
        let before = view_part(self.record(slot), state);
        self.view_sum = self.view_sum.wrapping_sub(before).wrapping_add(view_part(&record, state));
        if let Some(member) = self.get_later(slot) {
            member.epoch = record.epoch;
        }
        self.records[usize::from(slot)] = record;
    }

    pub(crate) fn set_state(&mut self, slot: Slot, state: State) {
        let was = self.state(slot);
        let record = self.record(slot);
        let (before, after) = (view_part(record, was), view_part(record, state));
        self.view_sum = self.view_sum.wrapping_sub(before).wrapping_add(after);
        self.counted += usize::from(state != State::Left);
        self.counted -= usize::from(was != State::Left);
        self.note_state(slot, state);
    }

    /// All members, this one included, in the order of the first ring.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.rings.first().iter().copied()
    }

    /// Members that did not leave, this one included.
    pub(crate) fn counted(&self) -> usize {
        self.counted
    }

    /// Hash of the view: equal in members that believe the same. Suspicions pass, so they do not count.
    pub(crate) fn view_hash(&self) -> u32 {
        fold(self.view_sum)
    }

    /// Hashes of the view's 2^`bits` buckets.
    pub(crate) fn buckets(&self, bits: u8) -> Vec<u32> {
        let mut sums = vec![0_u64; 1 << bits];
        for slot in self.slots() {
            let sum = &mut sums[usize::from(bucket(self.name(slot), bits))];
            *sum = sum.wrapping_add(view_part(self.record(slot), self.state(slot)));
        }
        sums.into_iter().map(fold).collect()
    }

    /// The observers of a member in this view.
    pub(crate) fn observers(&self, subject: Slot) -> Chosen {
        self.rings.observers(subject, |slot| self.name(slot), |slot| self.is_live(slot))
    }

    /// The observers of a member if nobody counts that is Suspect.
    pub(crate) fn stand_ins(&self, subject: Slot) -> Chosen {
        self.rings.observers(subject, |slot| self.name(slot), |slot| self.is_sound(slot))
    }

    /// The members that may be observed by this one, be it as a stand-in.
    pub(crate) fn candidates(&self) -> Vec<Slot> {
        let (live, sound) = (|slot| self.is_live(slot), |slot| self.is_sound(slot));
        self.rings.candidates(SELF, |slot| self.name(slot), live, sound)
    }

    fn is_sound(&self, slot: Slot) -> bool {
        self.is_live(slot) && self.state(slot) != State::Suspect
    }

    /// The live members after a subject on one ring, nearest first, and one that is taken for live.
    pub(crate) fn live_after(
        &self,
        ring: usize,
        subject: Slot,
        also: Option<Slot>,
    ) -> impl Iterator<Item = Slot> + '_ {
        let live = move |slot: &Slot| self.is_live(*slot) || also == Some(*slot);
        self.rings.after(ring, subject, |slot| self.name(slot)).filter(live)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Member> {
        self.details.get(&slot).map(Box::as_ref)
    }

    /// The details, to be changed.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        let member = self.details.get_mut(&slot)?;
        if !member.touched {
            member.touched = true;
            self.touched.push(slot);
        }
        Some(member)
    }

    /// The details, to be changed in a way that brings no deadline forward: what happens at every beat.
    pub(crate) fn get_later(&mut self, slot: Slot) -> Option<&mut Member> {
        self.details.get_mut(&slot).map(Box::as_mut)
    }

    /// The details, begun if there were none.
    pub(crate) fn attend(&mut self, slot: Slot, now: Instant) -> &mut Member {
        if !self.details.contains_key(&slot) {
            let member = Member::new(&self.records[usize::from(slot)], now);
            self.details.insert(slot, Box::new(member));
        }
        let member = self.details.get_mut(&slot).expect("it was inserted if it was not there");
        if !member.touched {
            member.touched = true;
            self.touched.push(slot);
        }
        member
    }

    /// The details, once their deadline is about to be entered.
    pub(crate) fn untouch(&mut self, slot: Slot) -> Option<&mut Member> {
        let member = self.details.get_mut(&slot)?;
        member.touched = false;
        Some(member)
    }

    /// Drops the details of a member that needs none any more.
    pub(crate) fn disregard(&mut self, slot: Slot) {
        self.details.remove(&slot);
    }

    /// Everybody with details, in the order of slots.
    pub(crate) fn details(&self) -> impl Iterator<Item = (Slot, &Member)> {
        self.details.iter().map(|(slot, member)| (*slot, member.as_ref()))
    }

    /// Everybody with details, to be changed.
    pub(crate) fn details_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Member)> {
        let touched = &mut self.touched;
        self.details.iter_mut().map(|(slot, member)| {
            if !member.touched {
                member.touched = true;
                touched.push(*slot);
            }
            (*slot, member.as_mut())
        })
    }
}

/// In which of 2^`bits` buckets a name lies.
pub(crate) fn bucket(name: &MemberName, bits: u8) -> u16 {
    let mut hasher = SipHasher24::new_with_keys(BUCKET_KEYS.0, BUCKET_KEYS.1);
    hasher.write(name.as_str().as_bytes());
    // Fewer bits are a prefix of more.
    let [low, high, ..] = hasher.finish().to_le_bytes();
    u16::from_le_bytes([low, high]) & ((1 << bits) - 1)
}

/// What a member adds to the hash of a view. Nothing once it left, as those are forgotten sooner or later.
fn view_part(record: &Record, state: State) -> u64 {
    if state == State::Left {
        return 0;
    }
    let mut hasher = SipHasher24::new_with_keys(VIEW_KEYS.0, VIEW_KEYS.1);
    // Written piece by piece in a fixed byte order, so that machines agree. Names hold no zero byte.
    hasher.write(record.member.as_str().as_bytes());
    hasher.write(&[0]);
    hasher.write(&record.epoch.0.to_le_bytes());
    hasher.write(&record.incarnation.0.to_le_bytes());
    hasher.write(&record.version.to_le_bytes());
    let status = match record.status {
        SelfState::Alive => 0,
        SelfState::Away { .. } => 1,
        SelfState::Left => 2,
    };
    hasher.write(&[status, u8::from(state == State::Down)]);
    hasher.finish()
}

fn fold(sum: u64) -> u32 {
    let [a, b, c, d, e, f, g, h] = sum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])
}

fn to_slot(index: usize) -> Slot {
    Slot::try_from(index).expect("the table is bounded by MAX_MEMBERS, which fits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::placeholder;
    use flagship_types::{Epoch, Incarnation};

    fn record(i: usize) -> Signed<Record> {
        placeholder(MemberName::new(&format!("m{i}")).unwrap(), Epoch(1), None)
    }

    fn table(order: &[usize]) -> Table {
        let mut table = Table::new(record(order[0]));
        for i in &order[1..] {
            table.insert(record(*i), State::Alive);
        }
        table
    }

    #[test]
    fn views_are_equal_in_any_order_and_differ_by_what_is_believed() {
        let (one, mut other) = (table(&[0, 1, 2, 3]), table(&[3, 1, 0, 2]));
        assert_eq!(one.view_hash(), other.view_hash());
        assert_eq!(one.buckets(4), other.buckets(4));
        let two = other.slot(&record(2).member).unwrap();
        other.set_state(two, State::Suspect);
        assert_eq!(one.view_hash(), other.view_hash(), "suspicions pass");
        other.set_state(two, State::Down);
        assert_ne!(one.view_hash(), other.view_hash());
        let differ = one.buckets(6).into_iter().zip(other.buckets(6)).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 1);
        other.set_state(two, State::Alive);
        let mut newer = (*record(2)).clone();
        newer.incarnation = Incarnation(1);
        other.set_record(two, Signed::unsigned(newer));
        assert_ne!(one.view_hash(), other.view_hash());
    }

    #[test]
    fn slots_are_used_again() {
        let mut table = table(&[0, 1, 2]);
        let (before, slot) = (table.view_hash(), table.insert(record(9), State::Alive));
        table.remove(slot);
        assert_eq!((table.view_hash(), table.counted(), table.slots().count()), (before, 3, 3));
        assert_eq!(table.slot(&record(9).member), None);
        assert_eq!(table.insert(record(8), State::Alive), slot);
    }

    #[test]
    fn the_view_hash_is_fixed() {
        // Other releases compute it too: a change here is a change of the protocol.
        let table = table(&[0, 1]);
        assert_eq!((table.view_hash(), bucket(&record(0).member, 12)), (1_948_523_167, 1_556));
    }
}
