//! Who observes whom, computed anew and naively from DESIGN section 4: K = 3 rings, SipHash-2-4 under fixed keys, on
//! each ring the next one that was not chosen yet.

use std::collections::BTreeSet;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::fault::Host;
use super::names::Names;

const RINGS: u64 = 3;
/// Part of the protocol: "flagship" and "rings--1", the ring's number added.
const KEYS: (u64, u64) = (0x666c_6167_7368_6970, 0x7269_6e67_732d_2d31);
/// Full mesh up to here.
pub(super) const MESH: usize = 8;

/// The rings of all names of a fleet, whether they live or not.
#[derive(Debug)]
pub(super) struct Rings {
    /// Hosts in their order.
    orders: Vec<Vec<Host>>,
    /// The place of each host.
    places: Vec<Vec<usize>>,
}

impl Rings {
    /// Of these names.
    pub(super) fn new(names: &Names) -> Self {
        let mut rings = Self { orders: Vec::new(), places: Vec::new() };
        for ring in 0..RINGS {
            let hash = |host: &Host| {
                let mut hasher = SipHasher24::new_with_keys(KEYS.0, KEYS.1 + ring);
                hasher.write(names.name(*host).as_str().as_bytes());
                (hasher.finish(), names.name(*host).clone())
            };
            let mut order: Vec<Host> = (0..names.len()).collect();
            order.sort_by_cached_key(hash);
            let mut places = vec![0; names.len()];
            for (place, host) in order.iter().enumerate() {
                places[*host] = place;
            }
            rings.orders.push(order);
            rings.places.push(places);
        }
        rings
    }

    /// Everybody after a host on a ring, nearest first.
    fn after(&self, ring: usize, host: Host) -> impl Iterator<Item = Host> {
        let (order, place) = (&self.orders[ring], self.places[ring][host]);
        order[place + 1..].iter().chain(&order[..place]).copied()
    }

    /// The observers of a subject among those that qualify.
    pub(super) fn observers(&self, subject: Host, qualifies: impl Fn(Host) -> bool) -> Vec<Host> {
        let mut chosen = Vec::new();
        for ring in 0..self.orders.len() {
            let next = self.after(ring, subject).find(|host| qualifies(*host) && !chosen.contains(host));
            chosen.extend(next);
        }
        chosen
    }

    /// Whether one is among the first `reach` that qualify after a subject on some ring.
    pub(super) fn is_near(
        &self,
        who: Host,
        subject: Host,
        reach: usize,
        qualifies: impl Fn(Host) -> bool,
    ) -> bool {
        (0..self.orders.len()).any(|ring| {
            self.after(ring, subject).filter(|host| qualifies(*host)).take(reach).any(|host| host == who)
        })
    }

    /// To whom each member needs a link: to its observers, its subjects, and those it observes together with.
    pub(super) fn wanted_links(
        &self,
        counts: impl Fn(Host) -> bool,
        lives: impl Fn(Host) -> bool,
    ) -> Vec<BTreeSet<Host>> {
        let n = self.orders[0].len();
        let counted = (0..n).filter(|host| counts(*host)).count();
        if counted <= MESH {
            let all = |host: Host| (0..n).filter(|other| *other != host && counts(*other)).collect();
            return (0..n).map(all).collect();
        }
        let mut links: Vec<BTreeSet<Host>> = vec![BTreeSet::new(); n];
        for subject in (0..n).filter(|host| counts(*host)) {
            let mut group = self.observers(subject, &lives);
            group.push(subject);
            for a in &group {
                links[*a].extend(group.iter().filter(|b| *b != a));
            }
        }
        links
    }
}

#[cfg(test)]
mod tests {
    use flagship_membership::observers_of;

    use super::*;

    #[test]
    fn the_core_computes_the_same() {
        let names = Names::new(40, 0x1234);
        let rings = Rings::new(&names);
        for dead in [0, 1, 20] {
            let live: Vec<_> = (dead..40).map(|host| names.name(host).clone()).collect();
            for subject in 0..40 {
                let own: Vec<_> = rings.observers(subject, |host| host >= dead);
                let own: Vec<_> = own.into_iter().map(|host| names.name(host).clone()).collect();
                assert_eq!(own, observers_of(names.name(subject), &live));
            }
        }
    }
}
