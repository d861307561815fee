//! What a segment meets on its way: delay, loss, cuts. Counts for each fault how often it struck.

use std::time::Duration;

use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::clock::{Nanos, ms, nanos};

/// A member, by its place in the fleet: 0 is the one the others know as their seed.
pub type Host = usize;

/// The network before faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// One way.
    pub one_way: Duration,
    /// Added, evenly from zero.
    pub jitter: Duration,
    /// Segments that are lost, in a thousand.
    pub lost_per_mille: u32,
}

impl Default for Network {
    /// 20 ms and up to a quarter more, as in DESIGN section 11.
    fn default() -> Self {
        Self { one_way: Duration::from_millis(20), jitter: Duration::from_millis(5), lost_per_mille: 0 }
    }
}

/// A set of hosts.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Vec<bool>);

impl Hosts {
    pub(crate) fn of(hosts: &[Host], members: usize) -> Self {
        let mut set = vec![false; members];
        for host in hosts {
            set[*host] = true;
        }
        Self(set)
    }

    fn has(&self, host: Host) -> bool {
        self.0[host]
    }
}

/// What a fault does to paths.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Cut { from: Hosts, to: Hosts },
    Split(Hosts),
    Pair(Host, Host),
    Slow(Host, Host, Nanos),
    Loss(u32),
}

impl Effect {
    fn blocks(&self, from: Host, to: Host) -> bool {
        match self {
            Self::Cut { from: a, to: b } => a.has(from) && b.has(to),
            Self::Split(side) => side.has(from) != side.has(to),
            Self::Pair(a, b) => (from, to) == (*a, *b) || (from, to) == (*b, *a),
            Self::Slow(..) | Self::Loss(_) => false,
        }
    }

    /// Whether it disturbs this pair in any way, one direction or both.
    fn disturbs(&self, a: Host, b: Host) -> bool {
        match self {
            Self::Slow(x, y, _) => (a, b) == (*x, *y) || (b, a) == (*x, *y),
            Self::Loss(percent) => *percent > 5,
            Self::Cut { .. } | Self::Split(_) | Self::Pair(..) => self.blocks(a, b) || self.blocks(b, a),
        }
    }
}

/// An effect that is over: its fault's effect, and when it ended.
#[derive(Debug)]
struct Past {
    effect: Effect,
    ended: Nanos,
}

/// The network as it is now.
#[derive(Debug)]
pub(crate) struct Paths {
    network: Network,
    one_way: Nanos,
    jitter: Nanos,
    active: Vec<(u32, Effect)>,
    past: Vec<Past>,
    /// How often each fault struck.
    pub(crate) fired: Vec<u64>,
}

impl Paths {
    pub(crate) fn new(network: Network, faults: usize) -> Self {
        Self {
            network,
            one_way: nanos(network.one_way),
            jitter: nanos(network.jitter).max(1),
            active: Vec::new(),
            past: Vec::new(),
            fired: vec![0; faults],
        }
    }

    pub(crate) fn begin(&mut self, fault: u32, effect: Effect) {
        self.active.push((fault, effect));
    }

    pub(crate) fn end(&mut self, fault: u32, now: Nanos) {
        while let Some(i) = self.active.iter().position(|(f, _)| *f == fault) {
            let (_, effect) = self.active.swap_remove(i);
            self.past.push(Past { effect, ended: now });
        }
        // A flapping link would fill it: what is long over disturbs nobody any more.
        if self.past.len() > 64 {
            self.past.retain(|past| past.ended + ms(60_000) > now);
        }
    }

    /// Whether nothing gets from one to the other now. Counts for the faults that do it.
    pub(crate) fn blocked(&mut self, from: Host, to: Host) -> bool {
        let mut blocked = false;
        for (fault, effect) in &self.active {
            if effect.blocks(from, to) {
                self.fired[*fault as usize] += 1;
                blocked = true;
            }
        }
        blocked
    }

    /// Whether something gets from one to the other now.
    pub(crate) fn open(&self, from: Host, to: Host) -> bool {
        !self.active.iter().any(|(_, effect)| effect.blocks(from, to))
    }

    /// Whether this segment is lost by chance.
    pub(crate) fn lost(&mut self, rng: &mut Pcg64Mcg) -> bool {
        let base = self.network.lost_per_mille;
        let mut lost = base > 0 && rng.next_u64() % 1000 < u64::from(base);
        for (fault, effect) in &self.active {
            if let Effect::Loss(percent) = effect
                && rng.next_u64() % 100 < u64::from(*percent)
            {
                self.fired[*fault as usize] += 1;
                lost = true;
            }
        }
        lost
    }

    /// How long a segment takes.
    pub(crate) fn delay(&mut self, from: Host, to: Host, rng: &mut Pcg64Mcg) -> Nanos {
        let mut delay = self.one_way + rng.next_u64() % self.jitter;
        for (fault, effect) in &self.active {
            if let Effect::Slow(a, b, extra) = effect
                && ((from, to) == (*a, *b) || (to, from) == (*a, *b))
            {
                self.fired[*fault as usize] += 1;
                delay += extra;
            }
        }
        delay
    }

    /// The round trip without jitter, now.
    pub(crate) fn round_trip(&self, a: Host, b: Host) -> Nanos {
        let slow = self.active.iter().map(|(_, effect)| match effect {
            Effect::Slow(x, y, extra) if (a, b) == (*x, *y) || (b, a) == (*x, *y) => *extra,
            _ => 0,
        });
        2 * (self.one_way + slow.sum::<Nanos>())
    }

    /// TCP's first retransmission timeout.
    pub(crate) fn first_retry(&self, a: Host, b: Host) -> Nanos {
        ms(200).max(2 * self.round_trip(a, b))
    }

    /// The largest share of segments that is lost now.
    pub(crate) fn loss_percent(&self) -> u32 {
        let most = self.active.iter().map(|(_, effect)| match effect {
            Effect::Loss(percent) => *percent,
            _ => 0,
        });
        self.network.lost_per_mille / 10 + most.max().unwrap_or(0)
    }

    /// Whether nothing disturbed the way between the two, in both directions, since then.
    pub(crate) fn clear_since(&self, a: Host, b: Host, since: Nanos) -> bool {
        !self.active.iter().any(|(_, effect)| effect.disturbs(a, b))
            && !self.past.iter().any(|past| past.ended > since && past.effect.disturbs(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_blocks_one_way_and_is_counted() {
        let mut paths = Paths::new(Network::default(), 2);
        paths.begin(1, Effect::Cut { from: Hosts::of(&[0], 4), to: Hosts::of(&[1, 2], 4) });
        assert!(paths.blocked(0, 1) && !paths.blocked(1, 0) && !paths.blocked(0, 3));
        assert_eq!(paths.fired, [0, 1]);
        assert!(!paths.clear_since(1, 0, 0) && paths.clear_since(0, 3, 0));
        paths.end(1, ms(10));
        assert!(!paths.blocked(0, 1));
        assert!(!paths.clear_since(0, 1, ms(9)) && paths.clear_since(0, 1, ms(10)));
    }

    #[test]
    fn a_split_blocks_both_ways() {
        let mut paths = Paths::new(Network::default(), 1);
        paths.begin(0, Effect::Split(Hosts::of(&[2, 3], 4)));
        assert!(paths.blocked(0, 2) && paths.blocked(3, 1) && !paths.blocked(2, 3) && !paths.blocked(0, 1));
    }
}
