//! The arithmetic of mode Quorum, once for all who reckon with it: majorities, and the times that follow from the lease D
//! and the stop grace S.
//!
//! Both sides of a fleet have to agree on these: a leader is gone because it stops by its share of the lease, and its
//! successor starts because it waits by the same numbers.

use std::time::Duration;

use crate::MemberName;

/// Of the D that a voter promises, what the holder takes for its own lease: so clocks 5 % apart do no harm. In percent.
const HELD_PERCENT: u32 = 90;
/// Of D, after how much a leader that is not renewed stops for good. In percent.
pub const SELF_STOP_PERCENT: u32 = 80;
/// Of S, how long a successor waits after the lease: clocks may run 5 % apart. In percent.
pub const SUCCESSOR_WAIT_PERCENT: u32 = 105;
/// Of S, what is not the pods' own time to end: for noticing, asking and the kubelet's word.
pub const STOP_MARGIN: Duration = Duration::from_secs(2);

/// 0.9 D, from when a renewal was sent: until then its holder may write.
pub fn held_for(lease: Duration) -> Duration {
    percent(HELD_PERCENT, lease)
}

/// 0.8 D, from when a renewal was sent: without a newer one its holder stops then. A process that found its payload
/// running has as long to be told that it leads.
pub fn self_stop_after(lease: Duration) -> Duration {
    percent(SELF_STOP_PERCENT, lease)
}

/// 1.05 S, from the end of a voter's promise: until then the payload of whoever it was given to may run.
pub fn successor_wait(stop_grace: Duration) -> Duration {
    percent(SUCCESSOR_WAIT_PERCENT, stop_grace)
}

/// S − 2 s: how long pods may take to end after the lease is lost.
pub fn pods_time(stop_grace: Duration) -> Duration {
    stop_grace.saturating_sub(STOP_MARGIN)
}

/// Never overflows, whatever somebody wrote into a status; exact for whole microseconds.
fn percent(percent: u32, time: Duration) -> Duration {
    (time / 100).saturating_mul(percent)
}

/// How many of so many voters are a majority.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many of so many voters may be lost while the others are a majority.
pub const fn tolerated(voters: usize) -> usize {
    voters.saturating_sub(majority(voters))
}

/// Whether those that `says` picks are a majority of the voters. Nobody is no majority of nobody.
pub fn has_majority(voters: &[MemberName], says: impl Fn(&MemberName) -> bool) -> bool {
    voters.iter().filter(|voter| says(voter)).count() >= majority(voters.len())
}

/// The latest value that a majority of the voters has reached: with each voter's own value, the one that so many as a
/// majority have at least. `None`: fewer have any.
pub fn reached<T: Ord + Copy>(values: &[Option<T>]) -> Option<T> {
    let mut given: Vec<T> = values.iter().copied().flatten().collect();
    given.sort_by(|a, b| b.cmp(a));
    given.get(majority(values.len()) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(bits: usize) -> Vec<MemberName> {
        (0..9).filter(|n| bits >> n & 1 == 1).map(|n| MemberName::new(&format!("v{n}")).unwrap()).collect()
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for voters in 0..512usize {
            for yes in [0, 1, 3, 5, 21, 170, 341, 511, voters] {
                let count = (voters & yes).count_ones();
                let naive = 2 * count > voters.count_ones();
                let picked = set(yes);
                assert_eq!(has_majority(&set(voters), |v| picked.contains(v)), naive, "{voters:b} {yes:b}");
            }
        }
    }

    #[test]
    fn a_value_is_reached_if_a_majority_has_at_least_that() {
        for code in 0..5u32.pow(5) {
            for length in 1..=5u32 {
                let values: Vec<Option<u32>> =
                    (0..length).map(|i| (code / 5u32.pow(i) % 5).checked_sub(1)).collect();
                let at_least = |wanted: u32| values.iter().flatten().filter(|v| **v >= wanted).count();
                let naive = (0..4).rev().find(|wanted| 2 * at_least(*wanted) > values.len());
                assert_eq!(reached(&values), naive, "{values:?}");
            }
        }
    }

    #[test]
    fn so_many_may_be_lost_and_no_more() {
        for voters in 0..20 {
            let naive = (0..voters).rev().find(|lost| 2 * (voters - lost) > voters).unwrap_or(0);
            assert_eq!(tolerated(voters), naive, "{voters}");
        }
    }

    #[test]
    fn times_are_those_of_the_design() {
        let ms = Duration::from_millis;
        for (lease, held, stop) in
            [(3_000, 2_700, 2_400), (1_000, 900, 800), (1_750, 1_575, 1_400), (0, 0, 0)]
        {
            assert_eq!((held_for(ms(lease)), self_stop_after(ms(lease))), (ms(held), ms(stop)));
        }
        for (grace, waits, pods) in [(10_000, 10_500, 8_000), (3_000, 3_150, 1_000), (500, 525, 0)] {
            assert_eq!((successor_wait(ms(grace)), pods_time(ms(grace))), (ms(waits), ms(pods)));
        }
        assert_eq!(successor_wait(Duration::MAX), Duration::MAX, "nonsense does not overflow");
    }

    /// Of two clocks one may run 5 % faster than the other: who holds a lease has stopped writing when a voter takes its
    /// promise for over, and is gone when the wait for it is.
    #[test]
    fn clocks_five_percent_apart_do_no_harm() {
        for ms in [500, 1_000, 3_000, 60_000] {
            let time = Duration::from_millis(ms);
            assert!(self_stop_after(time) < held_for(time));
            assert!(held_for(time).mul_f64(1.05) < time, "by the clock of a slow holder");
            assert!(successor_wait(time) >= time.mul_f64(1.05));
        }
    }
}
