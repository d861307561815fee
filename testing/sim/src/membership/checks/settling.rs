//! Invariants 5, 6, 8 and 9: what must hold once nothing goes wrong any more.

use std::collections::BTreeMap;
use std::hash::Hasher;

use flagship_membership::State;
use siphasher::sip::SipHasher24;

use super::Violation;
use crate::clock::{Nanos, ms, nanos};
use crate::membership::fault::Host;
use crate::membership::world::World;

/// Bounds that follow from the settings: generous, and written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From a crash, on paths without other faults, to Down at every survivor.
    pub detection: Nanos,
    /// From the end of all faults to full and equal views.
    pub recovery: Nanos,
}

impl Bounds {
    /// For so many members and that one-way delay.
    ///
    /// Detection: the beat that did not come (h = 1 s), the silence floor in case that one observer is left (3 s), a
    /// query (2 RTT + 50 ms) and its repetition after at most h, the longest window (2 s), and the flood of the
    /// accusations. If observers died with their subject, they must be Down first, which takes the same without
    /// floor, and the accusation's way may be broken until the rings have closed again: once more.
    ///
    /// Recovery: a stream stalled by a cut is given up after 5 s, dialled again after at most 2 s (5 s after a
    /// refusal), connect timeout 2 s, 3 RTT for the handshake; then detection of whoever died meanwhile, and digests
    /// over the diameter.
    pub fn new(members: usize, one_way: std::time::Duration) -> Self {
        let rtt = 2 * nanos(one_way) + ms(10);
        let diameter = u64::from(members.max(2).ilog2()) + 1;
        let flood = diameter * (rtt + ms(100));
        let once = ms(1_000) + (2 * rtt + ms(50)) * 2 + ms(1_000) + ms(2_000) + flood;
        let detection = once + ms(3_000) + 2 * once;
        let recovery =
            ms(5_000) + ms(5_000) + ms(2_000) + 3 * rtt + detection + diameter * (ms(1_000) + 2 * rtt);
        Self { detection, recovery }
    }
}

/// Survivors that do not hold a dead member Down (or Left) though its time is over.
pub fn undetected(world: &World, dead: Host) -> Vec<Host> {
    let believes = |viewer: &Host| {
        matches!(world.state(*viewer, dead), Some(State::Alive | State::Suspect | State::Away))
    };
    world.healthy().into_iter().filter(believes).collect()
}

/// Invariant 5 for one member that is gone for good.
pub fn crash_is_known(world: &World, dead: Host) -> Option<Violation> {
    let undetected = undetected(world, dead);
    let first = undetected.first()?;
    Some(Violation {
        invariant: 5,
        at: world.now(),
        text: format!(
            "m{dead} is gone, and {} survivors do not hold it Down, m{first} among them",
            undetected.len()
        ),
    })
}

/// Invariants 6 and 8 at the end of the quiet.
pub fn views(world: &World) -> Vec<Violation> {
    let mut found = Vec::new();
    let at = world.now();
    let healthy = world.healthy();
    let wanting = healthy.iter().find_map(|viewer| {
        let missing = healthy.iter().find(|subject| world.state(*viewer, **subject) != Some(State::Alive))?;
        Some((*viewer, *missing))
    });
    if let Some((viewer, missing)) = wanting {
        let state = world.state(viewer, missing).map_or("not at all", State::as_str);
        let text =
            format!("after quiet m{viewer} holds m{missing} {state}, though it lives and is reachable");
        found.push(Violation { invariant: 8, at, text });
    }
    let mut views: BTreeMap<u64, Host> = BTreeMap::new();
    let liars = world.liars();
    for host in healthy {
        views.entry(view_of(world, host, &liars)).or_insert(host);
    }
    if views.len() > 1 {
        let hosts: Vec<String> = views.values().map(|host| format!("m{host}")).collect();
        let text = format!("after quiet there are {} different views: {}", views.len(), hosts.join(", "));
        found.push(Violation { invariant: 6, at, text });
    }
    found
}

/// What stands for a view: its hash, as the protocol computes it. What a liar says of itself may differ from listener
/// to listener, so that with one in the fleet all others are looked at one by one.
fn view_of(world: &World, host: Host, liars: &[Host]) -> u64 {
    let Some(core) = world.core(host) else { return 0 };
    if liars.is_empty() {
        return u64::from(core.view_hash());
    }
    let mut hasher = SipHasher24::new();
    for subject in (0..world.plan.members).filter(|subject| !liars.contains(subject)) {
        if let Some(view) = core.member(world.names().name(subject)) {
            hasher.write_usize(subject);
            hasher.write_u64(view.epoch.0);
            hasher.write_u32(view.incarnation.0);
            hasher.write_u8(view.state as u8);
        }
    }
    hasher.finish()
}

/// Invariant 9: streams per member and everything queued.
///
/// Below the ring limit a link to every other member; above it one to each subject, observer and co-observer as a
/// naive walk over the rings finds them, once all is quiet. Before that never more than two per peer: one more may be
/// about to be closed as a duplicate, and a member that everybody joins by has a link to everybody for a while.
pub fn bounded(world: &World, quiet: bool) -> Option<Violation> {
    let at = world.now();
    let healthy = world.healthy();
    let first = *healthy.first()?;
    let left = |host: Host| world.state(first, host) == Some(State::Left);
    let known = |host: Host| world.was_started(host) && !left(host);
    let wanted = world.rings.wanted_links(known, |host| world.lives(host));
    for host in healthy {
        let Some(core) = world.core(host) else { continue };
        let full = core.stats().queue_full;
        if full > 0 {
            let text = format!("m{host} dropped {full} outputs");
            return Some(Violation { invariant: 9, at, text });
        }
        let needed = &wanted[host];
        let wanted = needed.len();
        let bound = if quiet { wanted + 2 } else { 2 * world.plan.members };
        let open = world.open_links(host);
        if open > bound {
            let peers = world.peers(host);
            let extra: Vec<Host> = peers.iter().copied().filter(|peer| !needed.contains(peer)).collect();
            let text =
                format!("m{host} has {open} streams to {peers:?} and needs {wanted}; not needed: {extra:?}");
            return Some(Violation { invariant: 9, at, text });
        }
        let known = core.members().count();
        if known > world.plan.members {
            let text = format!("m{host} knows {known} members of {}", world.plan.members);
            return Some(Violation { invariant: 9, at, text });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_slowly_with_the_fleet() {
        let bounds = |n| Bounds::new(n, std::time::Duration::from_millis(20));
        assert!(bounds(2).detection < ms(20_000));
        assert!(bounds(10_000).detection < ms(30_000));
        assert!(bounds(10_000).recovery > bounds(8).recovery);
    }
}
