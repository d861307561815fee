//! Which voters may be changed. Nothing else; the arithmetic of majorities is [`flagship_types::quorum`]'s.
//!
//! Two sets that differ by one voter have no disjoint majorities (Ongaro, "Consensus: Bridging Theory and Practice",
//! 2014, section 4.1); hence voters are changed one at a time, and a change is built on one that is stored by majorities
//! of both sets.

use flagship_types::MemberName;
use flagship_types::quorum::has_majority;

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
    use flagship_types::quorum::majority;

    use super::*;

    fn set(bits: usize) -> Vec<MemberName> {
        (0..9).filter(|n| bits >> n & 1 == 1).map(|n| MemberName::new(&format!("v{n}")).unwrap()).collect()
    }

    fn contains(bits: usize, name: &MemberName) -> bool {
        set(bits).contains(name)
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
