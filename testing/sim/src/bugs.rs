//! Bugs planted in the cores (feature `planted-bugs`), and how many seeds the checkers take to catch each. A checker that
//! cannot fail proves nothing.

use std::fmt::Debug;
use std::ops::Range;

use crate::model::{Model, Violation};

/// A bug, and what is to catch it.
#[derive(Debug, Clone, Copy)]
pub struct Planted<B> {
    /// Which.
    pub bug: B,
    /// The invariants that it breaks, the one that it is there for first.
    pub invariants: &'static [u8],
    /// The plan that brings it out.
    pub plan: &'static str,
}

impl<B> Planted<B> {
    pub(crate) const fn new(bug: B, invariants: &'static [u8], plan: &'static str) -> Self {
        Self { bug, invariants, plan }
    }
}

/// How a bug was caught.
#[derive(Debug, Clone)]
pub struct Caught {
    /// Seeds that it took.
    pub seeds: u64,
    /// The seed.
    pub seed: u64,
    /// The invariant that was violated.
    pub invariant: u8,
    /// How.
    pub text: String,
}

/// A model in whose cores bugs can be planted.
pub trait Buggy: Model {
    /// Which bugs there are.
    type Bug: Copy + Debug + 'static;
    /// Those that a plan brings out.
    const PLANTED: &'static [Planted<Self::Bug>];

    /// Runs a plan with a bug in every core.
    fn run_with(&self, bug: Self::Bug, plan: &Self::Plan, seed: u64) -> Vec<Violation>;
    /// Runs it twice and compares.
    fn run_twice_with(&self, bug: Self::Bug, plan: &Self::Plan, seed: u64) -> Option<Violation>;
}

/// Runs seeds until the bug is caught by one of its invariants, in a run that is clean without it.
pub fn catch<M: Buggy>(model: &M, planted: &Planted<M::Bug>, seeds: Range<u64>) -> Option<Caught> {
    let is_its_own = |found: &Violation| planted.invariants.contains(&found.invariant);
    let repeats = planted.invariants.first() == Some(&model.repeats());
    seek(model, planted.plan, seeds, |plan, seed| match repeats {
        true => model.run_twice_with(planted.bug, plan, seed),
        false => model.run_with(planted.bug, plan, seed).into_iter().find(is_its_own),
    })
}

/// Which plans bring a bug out within so many seeds: plan, invariant, seeds it took.
pub fn survey<M: Buggy>(model: &M, bug: M::Bug, seeds: u64) -> Vec<String> {
    let of_plan = |plan: &'static str| {
        // A wrong run (0) says nothing of the bug.
        let any = |plan: &M::Plan, seed| {
            model.run_with(bug, plan, seed).into_iter().find(|found| found.invariant != 0)
        };
        let caught = seek(model, plan, 0..seeds, any)?;
        Some(format!("{plan} ({}) {}", caught.invariant, caught.seeds))
    };
    model.plans().into_iter().filter_map(of_plan).collect()
}

fn seek<M: Buggy>(
    model: &M,
    plan: &str,
    seeds: Range<u64>,
    violation: impl Fn(&M::Plan, u64) -> Option<Violation>,
) -> Option<Caught> {
    let first = seeds.start;
    for seed in seeds {
        let plan = model.draw(seed, Some(plan), None);
        let Some(Violation { invariant, text, .. }) = violation(&plan, seed) else { continue };
        if model.run(&plan, seed, false).violations.is_empty() {
            return Some(Caught { seeds: seed - first + 1, seed, invariant, text });
        }
    }
    None
}
