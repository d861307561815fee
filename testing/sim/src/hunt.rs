//! Runs over seeds, on all cores, and what they found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::model::{Model, Outcome, Violation};
use crate::shrink::{Shrunk, shrink};

/// Every so many seeds a run is made twice, to compare the traces.
const TWICE_EVERY: u64 = 32;

/// What to hunt for.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// Seeds.
    pub seeds: Range<u64>,
    /// Size of all fleets; none: mixed.
    pub members: Option<usize>,
    /// One plan by name; none: mixed.
    pub plan: Option<&'static str>,
    /// Threads.
    pub threads: usize,
    /// Stops at the first violation.
    pub stop_at_first: bool,
}

/// What all runs of one plan came to.
#[derive(Debug, Clone, Default)]
pub struct PlanSum {
    /// Runs.
    pub seeds: u64,
    /// Runs with violations.
    pub violations: u64,
    /// Times that faults struck.
    pub struck: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Events.
    pub happenings: u64,
    /// Members, summed over the runs.
    pub members: u64,
}

/// A seed that violates something.
#[derive(Debug, Clone)]
pub struct Catch<P> {
    /// The seed.
    pub seed: u64,
    /// Its plan.
    pub plan: P,
    /// The first violation.
    pub violation: Violation,
}

/// All that a hunt found.
#[derive(Debug)]
pub struct Bag<P> {
    /// By plan.
    pub plans: BTreeMap<&'static str, PlanSum>,
    /// By seed.
    pub catches: BTreeMap<u64, Catch<P>>,
}

impl<P> Default for Bag<P> {
    fn default() -> Self {
        Self { plans: BTreeMap::new(), catches: BTreeMap::new() }
    }
}

impl<P> Bag<P> {
    /// Runs made.
    pub fn runs(&self) -> u64 {
        self.plans.values().map(|sum| sum.seeds).sum()
    }

    /// The table at the end of a hunt.
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<10} {:>7} {:>8} {:>10} {:>12} {:>13} {:>12}",
            "plan", "seeds", "members", "violations", "faults fired", "virtual hours", "events"
        )];
        let mut total = PlanSum::default();
        let line = |name: &str, sum: &PlanSum| {
            format!(
                "{:<10} {:>7} {:>8.1} {:>10} {:>12} {:>13.2} {:>12}",
                name,
                sum.seeds,
                sum.members as f64 / sum.seeds.max(1) as f64,
                sum.violations,
                sum.struck,
                sum.virtual_time.as_secs_f64() / 3600.0,
                sum.happenings
            )
        };
        for (name, sum) in &self.plans {
            lines.push(line(name, sum));
            total.add(sum);
        }
        lines.push(line("all", &total));
        lines.join("\n")
    }

    fn put(&mut self, seed: u64, (name, members): (&'static str, usize), plan: P, outcome: &Outcome) {
        let sum = PlanSum {
            seeds: 1,
            violations: u64::from(!outcome.violations.is_empty()),
            struck: outcome.struck,
            virtual_time: outcome.virtual_time,
            happenings: outcome.happenings,
            members: members as u64,
        };
        self.plans.entry(name).or_default().add(&sum);
        if let Some(violation) = outcome.violations.first().cloned() {
            self.catches.insert(seed, Catch { seed, plan, violation });
        }
    }
}

impl PlanSum {
    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.violations += other.violations;
        self.struck += other.struck;
        self.virtual_time += other.virtual_time;
        self.happenings += other.happenings;
        self.members += other.members;
    }
}

/// Hunts. `tick` is called after every run with the number of runs so far and says whether to go on.
pub fn hunt<M: Model>(model: &M, hunt: &Hunt, tick: impl Fn(u64) -> bool + Sync) -> Bag<M::Plan> {
    let (next, done, over) = (AtomicU64::new(hunt.seeds.start), AtomicU64::new(0), AtomicBool::new(false));
    let bag = Mutex::new(Bag::default());
    std::thread::scope(|scope| {
        for _ in 0..hunt.threads.max(1) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= hunt.seeds.end {
                        return;
                    }
                    let (plan, outcome) = one(model, seed, hunt.plan, hunt.members);
                    let found = !outcome.violations.is_empty();
                    if let Ok(mut bag) = bag.lock() {
                        bag.put(seed, model.label(&plan), plan, &outcome);
                    }
                    let go_on = tick(done.fetch_add(1, Ordering::Relaxed) + 1);
                    if !go_on || (found && hunt.stop_at_first) {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bag.into_inner().unwrap_or_default()
}

/// The run of one seed: some are made twice, to compare their traces.
pub fn one<M: Model>(model: &M, seed: u64, plan: Option<&str>, members: Option<usize>) -> (M::Plan, Outcome) {
    let plan = model.draw(seed, plan, members);
    let mut outcome = model.run(&plan, seed, false);
    if seed.is_multiple_of(TWICE_EVERY) && outcome.violations.is_empty() {
        outcome.violations.extend(model.run_twice(&plan, seed));
    }
    (plan, outcome)
}

/// Shrinks what was caught.
pub fn shrink_catch<M: Model>(model: &M, caught: &Catch<M::Plan>) -> Shrunk<M::Plan> {
    let repeats = caught.violation.invariant == model.repeats();
    let judge = |plan: &M::Plan| match repeats {
        true => model.run_twice(plan, caught.seed),
        false => model.run(plan, caught.seed, false).violations.into_iter().next(),
    };
    shrink(&caught.plan, caught.violation.clone(), |plan| model.smaller(plan), judge)
}

/// A caught seed for people: the shrunk plan and its timeline, at most so many lines of it before the violation.
pub fn explain<M: Model>(
    model: &M,
    caught: &Catch<M::Plan>,
    shrunk: &Shrunk<M::Plan>,
    lines: usize,
) -> String {
    let mut out = vec![
        format!("seed {} violates invariant {}", caught.seed, caught.violation.invariant),
        format!("  {}", caught.violation.text),
        format!("shrunk in {} runs to:", shrunk.runs),
    ];
    out.extend(model.tell(&shrunk.plan).into_iter().map(|line| format!("  {line}")));
    out.push(format!("  {}", shrunk.violation.text));
    let traced = model.run(&shrunk.plan, caught.seed, true);
    let skipped = traced.timeline.len().saturating_sub(lines);
    if skipped > 0 {
        out.push(format!("  ({skipped} earlier lines are not shown)"));
    }
    out.extend(traced.timeline.into_iter().skip(skipped).map(|line| format!("  {line}")));
    out.join("\n")
}
