//! Whose grants a candidate needs, and whether it has them. Arithmetic only.

use std::time::Duration;

use flagship_types::{Instant, MemberName, Rank};

/// Electors besides the leader: enough that some of them survive anything, few enough to ask at once.
pub const MAX_OTHER_ELECTORS: usize = 7;

/// A standby that is alive and does not answer for this long abstains: its API server is away, so it cannot make
/// a grant durable.
pub const ABSTAIN_AFTER: Duration = Duration::from_secs(1);

/// Picks the electors: the (former) leader, and the best others by rank, then name. All given are present.
pub(crate) fn select<'a>(
    present: impl IntoIterator<Item = (&'a MemberName, Rank)>,
    leader: Option<&MemberName>,
) -> Vec<MemberName> {
    let (lead, mut others): (Vec<_>, Vec<_>) =
        present.into_iter().partition(|(name, _)| Some(*name) == leader);
    others.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    others.truncate(MAX_OTHER_ELECTORS);
    lead.into_iter().chain(others).map(|(name, _)| name.clone()).collect()
}

/// One elector in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elector {
    pub(crate) granted: bool,
    /// Alive and known as a standby in the candidate's term: may abstain by silence.
    pub(crate) may_abstain: bool,
    pub(crate) asked: Option<Instant>,
}

/// How a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tally {
    /// Nobody is waited for.
    Won,
    /// Somebody is; at this time one of them abstains by silence.
    Open(Option<Instant>),
}

pub(crate) fn tally(electors: &[Elector], now: Instant) -> Tally {
    let mut next: Option<Instant> = None;
    let mut open = false;
    for elector in electors.iter().filter(|e| !e.granted) {
        let until = elector.asked.filter(|_| elector.may_abstain).map(|asked| asked + ABSTAIN_AFTER);
        match until {
            Some(until) if until <= now => {}
            Some(until) => {
                open = true;
                next = Some(next.map_or(until, |n| n.min(until)));
            }
            None => open = true,
        }
    }
    if open { Tally::Open(next) } else { Tally::Won }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> MemberName {
        MemberName::new(&format!("m{n}")).unwrap()
    }

    /// Naive: sorts everybody by repeatedly taking the best.
    fn naive(members: &[(MemberName, Rank)], leader: Option<&MemberName>) -> Vec<MemberName> {
        let mut left: Vec<_> = members.iter().filter(|(n, _)| Some(n) != leader).collect();
        let mut chosen: Vec<MemberName> =
            members.iter().map(|(n, _)| n).filter(|n| Some(*n) == leader).cloned().collect();
        for _ in 0..MAX_OTHER_ELECTORS {
            let Some(best) = (0..left.len()).reduce(|a, b| {
                let better = left[b].1 > left[a].1 || (left[b].1 == left[a].1 && left[b].0 < left[a].0);
                if better { b } else { a }
            }) else {
                break;
            };
            chosen.push(left.remove(best).0.clone());
        }
        chosen
    }

    #[test]
    fn selection_agrees_with_a_naive_one() {
        for seed in 0..2000usize {
            let count = seed % 13;
            let members: Vec<_> =
                (0..count).map(|i| (name((i * 7 + seed) % 17), Rank((seed * (i + 3) % 4) as i64))).collect();
            let leader = (seed % 3 > 0).then(|| name(seed % 17));
            let got = select(members.iter().map(|(n, r)| (n, *r)), leader.as_ref());
            assert_eq!(got, naive(&members, leader.as_ref()), "seed {seed}");
        }
    }

    #[test]
    fn tally_agrees_with_a_naive_one() {
        let now = Instant::ZERO + Duration::from_secs(10);
        let ages = [None, Some(0u64), Some(999), Some(1000), Some(5000)];
        for code in 0..20u32.pow(3) {
            let electors: Vec<_> = (0..3)
                .map(|i| {
                    let digit = code / 20u32.pow(i) % 20;
                    let asked = ages[(digit / 4) as usize].map(|ms| now - Duration::from_millis(ms));
                    Elector { granted: digit % 2 == 1, may_abstain: digit / 2 % 2 == 1, asked }
                })
                .collect();
            let all = electors.iter().all(|e| {
                e.granted || (e.may_abstain && e.asked.is_some_and(|a| now.since(a) >= ABSTAIN_AFTER))
            });
            assert_eq!(tally(&electors, now) == Tally::Won, all, "{electors:?}");
            if let Tally::Open(Some(at)) = tally(&electors, now) {
                assert!(at > now);
            }
        }
        assert_eq!(tally(&[], now), Tally::Won);
    }
}
