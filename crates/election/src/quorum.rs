//! The arithmetic of majorities: who has one, since when a lease runs, and which voters may be changed. Nothing else.
//!
//! Two sets that differ by one voter have no disjoint majorities (Ongaro, "Consensus: Bridging Theory and Practice",
//! 2014, section 4.1); hence voters are changed one at a time, and a change is built on one that is stored by majorities
//! of both sets.

use flagship_types::MemberName;

/// How many of so many voters are a majority.
pub(crate) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether those that `says` picks are a majority of the voters. Nobody is no majority of nobody.
pub(crate) fn has_majority(voters: &[MemberName], says: impl Fn(&MemberName) -> bool) -> bool {
    voters.iter().filter(|voter| says(voter)).count() >= majority(voters.len())
}

/// The latest value that a majority of the voters has reached: with each voter's own value, the one that so many as a
/// majority have at least. `None`: fewer have any.
pub(crate) fn reached<T: Ord + Copy>(values: &[Option<T>]) -> Option<T> {
    let mut given: Vec<T> = values.iter().copied().flatten().collect();
    given.sort_by(|a, b| b.cmp(a));
    given.get(majority(values.len()) - 1).copied()
}

/// One step from a set of voters to another: who is added, or who is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Add(&'a MemberName),
    Remove(&'a MemberName),
}

impl Change<'_> {
    /// The voters after it, sorted.
    pub(crate) fn apply(self, voters: &[MemberName]) -> Vec<MemberName> {
        let mut after = voters.to_vec();
        match self {
            Self::Add(name) => after.push(name.clone()),
            Self::Remove(name) => after.retain(|voter| voter != name),
        }
        after.sort();
        after
    }
}

/// The next step towards the wanted voters, of those after which a majority of the voters still `answers`: better one
/// that adds. `Err`: steps are left, and each of them would lose the majority; with the first of them.
pub(crate) fn next_change<'a>(
    voters: &'a [MemberName],
    wanted: &'a [MemberName],
    answers: impl Fn(&MemberName) -> bool,
) -> Result<Option<Change<'a>>, Change<'a>> {
    let added = wanted.iter().filter(|name| !voters.contains(name)).map(Change::Add);
    let removed = voters.iter().filter(|name| !wanted.contains(name)).map(Change::Remove);
    let steps: Vec<Change<'_>> = added.chain(removed).collect();
    let keeps = |step: &&Change<'_>| has_majority(&step.apply(voters), &answers);
    match (steps.iter().find(keeps), steps.first()) {
        (Some(step), _) => Ok(Some(*step)),
        (None, Some(first)) => Err(*first),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(bits: usize) -> Vec<MemberName> {
        (0..9).filter(|n| bits >> n & 1 == 1).map(|n| MemberName::new(&format!("v{n}")).unwrap()).collect()
    }

    fn contains(bits: usize, name: &MemberName) -> bool {
        set(bits).contains(name)
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for voters in 0..512usize {
            for yes in [0, 1, 3, 5, 21, 170, 341, 511, voters] {
                let count = (voters & yes).count_ones();
                let naive = 2 * count > voters.count_ones();
                assert_eq!(has_majority(&set(voters), |v| contains(yes, v)), naive, "{voters:b} {yes:b}");
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
    fn neighbouring_sets_have_no_disjoint_majorities() {
        for voters in 1..512usize {
            for bit in 0..9 {
                let neighbour = voters ^ 1 << bit;
                if neighbour == 0 {
                    continue;
                }
                // The worst case by counting: as many as possible of one majority outside of the other set.
                let (a, b) = (voters.count_ones() as usize, neighbour.count_ones() as usize);
                let both = (voters & neighbour).count_ones() as usize;
                let needed = |own: usize| majority(own).saturating_sub(own - both);
                assert!(needed(a) + needed(b) > both, "{voters:b} {neighbour:b}");
            }
        }
    }

    #[test]
    fn steps_end_at_the_wanted_voters_and_never_lose_the_majority() {
        for (from, to, answering) in
            [(0b111, 0b111_000, 0b111_111), (0b111, 0b1, 0b111), (0b1, 0b11111, 0b11111)]
        {
            let (mut voters, wanted) = (set(from), set(to));
            let mut steps = 0;
            while let Some(step) = next_change(&voters, &wanted, |v| contains(answering, v)).unwrap() {
                let after = step.apply(&voters);
                assert_eq!(after.len().abs_diff(voters.len()), 1);
                assert!(has_majority(&after, |v| contains(answering, v)));
                voters = after;
                steps += 1;
                assert!(steps < 20);
            }
            assert_eq!(voters, wanted);
        }
    }

    #[test]
    fn a_step_that_loses_the_majority_is_refused() {
        let (voters, wanted) = (set(0b111), set(0b1111));
        let refused = next_change(&voters, &wanted, |v| contains(0b11, v)).unwrap_err();
        assert_eq!(refused, Change::Add(&wanted[3]), "two of four answer");
        let (two, one) = (set(0b11), set(0b10));
        assert!(next_change(&two, &one, |v| contains(0b01, v)).is_err(), "who would be left does not answer");
    }
}
