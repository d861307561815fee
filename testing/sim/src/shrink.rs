//! Makes a plan that violates an invariant smaller, as long as it still does.

use crate::model::Violation;

/// Runs that a shrink may take.
const MAX_RUNS: u32 = 300;

/// A plan that is as small as was found, and what it violates.
#[derive(Debug, Clone)]
pub struct Shrunk<P> {
    /// The plan.
    pub plan: P,
    /// The first violation of it.
    pub violation: Violation,
    /// Runs that it took.
    pub runs: u32,
}

/// Shrinks a plan. `smaller` names smaller ones, the boldest first; `judge` runs one and names its first violation; only
/// one of the same invariant counts.
pub fn shrink<P: Clone>(
    plan: &P,
    violation: Violation,
    smaller: impl Fn(&P) -> Vec<P>,
    mut judge: impl FnMut(&P) -> Option<Violation>,
) -> Shrunk<P> {
    let mut best = Shrunk { plan: plan.clone(), violation, runs: 0 };
    loop {
        let mut better = false;
        for candidate in smaller(&best.plan) {
            if best.runs >= MAX_RUNS {
                return best;
            }
            best.runs += 1;
            if let Some(found) = judge(&candidate).filter(|found| found.invariant == best.violation.invariant)
            {
                best.plan = candidate;
                best.violation = found;
                better = true;
                break;
            }
        }
        if !better {
            return best;
        }
    }
}
