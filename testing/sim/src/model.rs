//! What a hunt needs to know of a simulated fleet: how plans are drawn, run, made smaller and told.

use std::time::Duration;

use crate::clock::Nanos;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the model's list; 0: the run itself is wrong (a fault did not strike, no boot).
    pub invariant: u8,
    /// When.
    pub at: Nanos,
    /// What was seen.
    pub text: String,
}

/// What a run showed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What did not hold, in order of time.
    pub violations: Vec<Violation>,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Times that faults struck.
    pub struck: u64,
    /// Kinds of the plan's faults that never struck.
    pub missed: Vec<&'static str>,
    /// Events of the simulation.
    pub happenings: u64,
    /// Digest of everything every core put out, if asked for.
    pub digest: Option<u64>,
    /// The timeline from the start of the plan, if asked for.
    pub timeline: Vec<String>,
}

/// A kind of simulated fleet. A run is a pure function of plan and seed.
pub trait Model: Sync {
    /// All that goes wrong in one run, as data.
    type Plan: Clone + PartialEq + Send + std::fmt::Debug;

    /// The names of its plans.
    fn plans(&self) -> Vec<&'static str>;
    /// The plan of a seed: by name or any, of a given size or any that suits.
    fn draw(&self, seed: u64, plan: Option<&str>, members: Option<usize>) -> Self::Plan;
    /// Runs it under the eyes of all checkers; with the timeline if asked for.
    fn run(&self, plan: &Self::Plan, seed: u64, timeline: bool) -> Outcome;
    /// The number of the invariant "same seed, same trace", which takes two runs to see.
    fn repeats(&self) -> u8;
    /// Runs it twice and compares.
    fn run_twice(&self, plan: &Self::Plan, seed: u64) -> Option<Violation>;
    /// Smaller plans, the boldest first.
    fn smaller(&self, plan: &Self::Plan) -> Vec<Self::Plan>;
    /// The plan's name and its members.
    fn label(&self, plan: &Self::Plan) -> (&'static str, usize);
    /// The plan for people: what kind of fleet and network, then a line for each fault.
    fn tell(&self, plan: &Self::Plan) -> Vec<String>;
}

/// A fault in time, for people.
pub(crate) fn fault_line(at: Duration, lasts: Duration, what: &str) -> String {
    let lasts = if lasts.is_zero() { String::new() } else { format!(", for {lasts:?}") };
    format!("at {at:?}{lasts}: {what}")
}
