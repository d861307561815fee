//! Where members stand on the K rings, and who observes whom by that.
//!
//! Every ring orders the members by a hash of their own. The observers of a subject are, ring by ring, the first live
//! member after it that was not chosen on an earlier ring: K distinct members that everybody computes alike, and that
//! move only where somebody came or went. (Observers on rings: Suresh et al., "Stable and Consistent Membership at
//! Scale with Rapid", USENIX ATC 2018; successors on a hash ring: Karger et al., "Consistent Hashing and Random
//! Trees", STOC 1997.)

use std::cmp::Ordering;
use std::hash::Hasher;

use flagship_types::MemberName;
use siphasher::sip::SipHasher24;

/// Observers of each subject.
pub const OBSERVERS: usize = 3;

/// Keys of the ring hashes: part of the protocol. The ring's number is added to the second.
const RING_KEYS: (u64, u64) = (0x666c_6167_7368_6970, 0x7269_6e67_732d_2d31);

/// Where a name stands on a ring: SipHash-2-4 under fixed keys.
pub fn ring_hash(ring: usize, name: &MemberName) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(RING_KEYS.0, RING_KEYS.1.wrapping_add(ring as u64));
    hasher.write(name.as_str().as_bytes());
    hasher.finish()
}

/// A member's number in this process's table.
pub(crate) type Slot = u16;

/// Up to [`OBSERVERS`] members, in the order of rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Chosen {
    slots: [Slot; OBSERVERS],
    len: usize,
}

impl Chosen {
    pub(crate) fn as_slice(&self) -> &[Slot] {
        &self.slots[..self.len]
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.as_slice().contains(&slot)
    }

    fn push(&mut self, slot: Slot) {
        self.slots[self.len] = slot;
        self.len += 1;
    }
}

/// The rings: members in the order of their hashes. Two bytes a member and ring.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    rings: [Vec<Slot>; OBSERVERS],
}

/// How many members before one on a ring can have it as an observer on that ring at most, live ones counted: as many as
/// can have been chosen on earlier rings stand between, at most.
const REACH: usize = OBSERVERS;
/// Members in a row that are not live and that are looked at all the same, to be dialled for healing.
const MAX_LOOK_BACK: usize = 64;

impl Rings {
    /// Takes in a member. `name_of` gives the names of those that are there.
    pub(crate) fn insert<'a>(
        &mut self,
        slot: Slot,
        name: &MemberName,
        name_of: impl Fn(Slot) -> &'a MemberName,
    ) {
        for (ring, order) in self.rings.iter_mut().enumerate() {
            let place = search(order, ring, name, &name_of).unwrap_or_else(|place| place);
            reserve_some(order);
            order.insert(place, slot);
        }
    }

    /// Takes in many, sorting once.
    pub(crate) fn extend<'a>(
        &mut self,
        slots: impl Iterator<Item = Slot>,
        name_of: impl Fn(Slot) -> &'a MemberName,
    ) {
        let slots: Vec<Slot> = slots.collect();
        for (ring, order) in self.rings.iter_mut().enumerate() {
            order.reserve_exact(slots.len());
            order.extend_from_slice(&slots);
            order.sort_by_cached_key(|slot| {
                let name = name_of(*slot);
                (ring_hash(ring, name), name)
            });
        }
    }

    pub(crate) fn remove<'a>(&mut self, name: &MemberName, name_of: impl Fn(Slot) -> &'a MemberName) {
        for (ring, order) in self.rings.iter_mut().enumerate() {
            if let Ok(place) = search(order, ring, name, &name_of) {
                order.remove(place);
            }
        }
    }

    /// The first ring.
    pub(crate) fn first(&self) -> &[Slot] {
        &self.rings[0]
    }

    /// The number of a name: the first ring serves as the index of names too.
    pub(crate) fn find<'a>(
        &self,
        name: &MemberName,
        name_of: impl Fn(Slot) -> &'a MemberName,
    ) -> Option<Slot> {
        search(&self.rings[0], 0, name, &name_of).ok().map(|place| self.rings[0][place])
    }

    /// The observers of a subject. `live` says who can observe.
    pub(crate) fn observers<'a>(
        &self,
        subject: Slot,
        name_of: impl Fn(Slot) -> &'a MemberName,
        live: impl Fn(Slot) -> bool,
    ) -> Chosen {
        let mut chosen = Chosen::default();
        for ring in 0..OBSERVERS {
            let mut after = self.after(ring, subject, &name_of);
            if let Some(next) = after.find(|slot| live(*slot) && !chosen.contains(*slot)) {
                chosen.push(next);
            }
        }
        chosen
    }

    /// Everybody after a subject on one ring, nearest first, without it.
    pub(crate) fn after<'a>(
        &self,
        ring: usize,
        subject: Slot,
        name_of: impl Fn(Slot) -> &'a MemberName,
    ) -> impl Iterator<Item = Slot> {
        let order = &self.rings[ring];
        let place = search(order, ring, name_of(subject), &name_of).unwrap_or_else(|place| place);
        let next = (place + 1).min(order.len());
        order[next..].iter().chain(&order[..place.min(order.len())]).copied()
    }

    /// Who may have `me` as an observer, or as a stand-in for one: on each ring those before it, as far as its place can
    /// be reached from there over members that are not `sound`.
    pub(crate) fn candidates<'a>(
        &self,
        me: Slot,
        name_of: impl Fn(Slot) -> &'a MemberName,
        live: impl Fn(Slot) -> bool,
        sound: impl Fn(Slot) -> bool,
    ) -> Vec<Slot> {
        let mut found = Vec::new();
        for (ring, order) in self.rings.iter().enumerate() {
            let place = search(order, ring, name_of(me), &name_of).unwrap_or_else(|place| place);
            let place = place.min(order.len());
            let before =
                order[..place].iter().rev().chain(order[(place + 1).min(order.len())..].iter().rev());
            // However many in a row are dead: the last survivor of many observes them all in the end. But no more of
            // those that are only said to be: somebody may say so of everybody.
            let (mut passed, mut doubted) = (0, 0);
            for (distance, slot) in before.enumerate() {
                let (is_live, is_sound) = (live(*slot), sound(*slot));
                passed += usize::from(is_sound);
                doubted += usize::from(is_live && !is_sound);
                if is_live || distance < MAX_LOOK_BACK {
                    found.push(*slot);
                }
                if passed >= REACH || doubted >= MAX_LOOK_BACK {
                    break;
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Grows by an eighth: at thousands of members doubling would waste what the two bytes save.
fn reserve_some(order: &mut Vec<Slot>) {
    if order.len() == order.capacity() {
        order.reserve_exact((order.len() / 8).max(4));
    }
}

fn search<'a>(
    order: &[Slot],
    ring: usize,
    name: &MemberName,
    name_of: &impl Fn(Slot) -> &'a MemberName,
) -> Result<usize, usize> {
    let hash = ring_hash(ring, name);
    order.binary_search_by(|slot| {
        let other = name_of(*slot);
        match ring_hash(ring, other).cmp(&hash) {
            Ordering::Equal => other.cmp(name),
            different => different,
        }
    })
}

/// The observers of a subject among the live members, computed from scratch: for tests and tools. `live` must not
/// hold the subject's name twice; the subject itself may be among them.
pub fn observers_of(subject: &MemberName, live: &[MemberName]) -> Vec<MemberName> {
    let mut chosen: Vec<MemberName> = Vec::new();
    for ring in 0..OBSERVERS {
        let key = |name: &MemberName| (ring_hash(ring, name), name.clone());
        let own = key(subject);
        let free = live.iter().filter(|name| *name != subject && !chosen.contains(name));
        // The next one, or from the start of the ring.
        let next = free.min_by_key(|name| {
            let place = key(name);
            (place < own, place)
        });
        chosen.extend(next.cloned());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<MemberName> {
        (0..n).map(|i| MemberName::new(&format!("m{i}")).unwrap()).collect()
    }

    fn rings(names: &[MemberName]) -> Rings {
        let mut rings = Rings::default();
        for (slot, name) in names.iter().enumerate() {
            rings.insert(Slot::try_from(slot).unwrap(), name, |slot| &names[usize::from(slot)]);
        }
        rings
    }

    #[test]
    fn places_are_fixed() {
        // Other releases compute them too: a change here is a change of the protocol.
        let name = MemberName::new("newyork").unwrap();
        let places: Vec<u64> = (0..OBSERVERS).map(|ring| ring_hash(ring, &name)).collect();
        assert_eq!(
            places,
            [12_695_208_988_511_152_666, 10_060_766_800_753_911_631, 5_182_798_444_415_929_239]
        );
    }

    #[test]
    fn observers_are_those_of_a_naive_walk_and_candidates_miss_none() {
        for n in [1, 2, 3, 4, 9, 60] {
            let names = names(n);
            let rings = rings(&names);
            let name_of = |slot: Slot| &names[usize::from(slot)];
            for dead in [0, 1, n / 3, n / 2] {
                let live = |slot: Slot| usize::from(slot) >= dead;
                let living: Vec<_> = names[dead..].to_vec();
                for (subject, name) in names.iter().enumerate() {
                    let slot = Slot::try_from(subject).unwrap();
                    let chosen = rings.observers(slot, name_of, live);
                    let found: Vec<_> = chosen.as_slice().iter().map(|s| name_of(*s).clone()).collect();
                    assert_eq!(found, observers_of(name, &living));
                    for observer in chosen.as_slice() {
                        let candidates = rings.candidates(*observer, name_of, live, live);
                        assert!(
                            candidates.contains(&slot),
                            "n {n} dead {dead}: {observer} observes {subject}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn extended_at_once_or_one_by_one_is_the_same() {
        let names = names(50);
        let one_by_one = rings(&names);
        let mut at_once = Rings::default();
        at_once.extend(0..50, |slot| &names[usize::from(slot)]);
        assert_eq!(one_by_one.rings, at_once.rings);
        let mut without = at_once;
        without.remove(&names[7], |slot| &names[usize::from(slot)]);
        assert_eq!(without.find(&names[7], |slot| &names[usize::from(slot)]), None);
        assert_eq!(without.find(&names[8], |slot| &names[usize::from(slot)]), Some(8));
    }

    #[test]
    fn duties_are_spread_evenly() {
        let names = names(1_000);
        let rings = rings(&names);
        let mut duties = vec![0_usize; names.len()];
        for slot in 0..1_000 {
            for observer in rings.observers(slot, |slot| &names[usize::from(slot)], |_| true).as_slice() {
                duties[usize::from(*observer)] += 1;
            }
        }
        assert!(duties.iter().all(|duties| (1..=8).contains(duties)), "{:?}", duties.iter().max());
    }
}
