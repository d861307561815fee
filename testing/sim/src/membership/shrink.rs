//! Smaller plans: fewer faults, shorter ones, fewer members.

use std::time::Duration;

use super::fault::{Fault, Host, Plan};

/// Smaller plans, the boldest first.
pub(super) fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut out = Vec::new();
    let faults = plan.faults.len();
    let with = |keep: &dyn Fn(usize) -> bool| {
        let faults =
            plan.faults.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, f)| f.clone()).collect();
        Plan { faults, ..plan.clone() }
    };
    if faults > 2 {
        out.push(with(&|i| i < faults / 2));
        out.push(with(&|i| i >= faults / 2));
    }
    if faults > 1 {
        out.extend((0..faults).map(|dropped| with(&|i| i != dropped)));
    }
    let needed =
        plan.faults.iter().flat_map(|timed| hosts(&timed.fault)).max().map_or(2, |host| (host + 1).max(2));
    for fewer in [plan.members / 2, plan.members - 1] {
        if fewer >= needed && fewer < plan.members {
            out.push(Plan { members: fewer, ..plan.clone() });
        }
    }
    for fewer in [plan.members / 2, plan.members - 1] {
        if fewer >= 2 && fewer < needed {
            out.extend(renamed(plan, fewer));
        }
    }
    for (i, timed) in plan.faults.iter().enumerate() {
        if timed.lasts > Duration::from_secs(2) {
            let mut shorter = plan.clone();
            shorter.faults[i].lasts /= 2;
            out.push(shorter);
        }
    }
    out
}

/// The same plan on fewer members: whoever is too many is taken for another.
fn renamed(plan: &Plan, members: usize) -> Option<Plan> {
    let mut plan = plan.clone();
    plan.members = members;
    let place = |host: &mut Host| *host %= members;
    for timed in &mut plan.faults {
        match &mut timed.fault {
            Fault::Crash { host, .. }
            | Fault::Freeze { host }
            | Fault::Slow { host, .. }
            | Fault::Liar { host, .. }
            | Fault::Drift { host, .. }
            | Fault::WallJump { host, .. }
            | Fault::Leave { host }
            | Fault::Away { host, .. }
            | Fault::Metadata { host } => place(host),
            Fault::Cut { from, to } => {
                from.iter_mut().chain(to.iter_mut()).for_each(place);
                to.retain(|host| !from.contains(host));
                if from.is_empty() || to.is_empty() {
                    return None;
                }
            }
            Fault::Split { side } => {
                side.iter_mut().for_each(place);
                side.sort_unstable();
                side.dedup();
                if side.len() == members {
                    return None;
                }
            }
            Fault::Flap { a, b, .. }
            | Fault::SlowLink { a, b, .. }
            | Fault::Reset { a, b }
            | Fault::HoldBack { from: a, to: b } => {
                place(a);
                place(b);
                if a == b {
                    return None;
                }
            }
            Fault::Required { .. } | Fault::Join { .. } => return None,
            Fault::Loss { .. } | Fault::ColdLinks { .. } => {}
        }
    }
    Some(plan)
}

/// The members that a fault names.
fn hosts(fault: &Fault) -> Vec<Host> {
    match fault {
        Fault::Crash { host, .. }
        | Fault::Freeze { host }
        | Fault::Slow { host, .. }
        | Fault::Liar { host, .. }
        | Fault::Drift { host, .. }
        | Fault::WallJump { host, .. }
        | Fault::Leave { host }
        | Fault::Away { host, .. }
        | Fault::Metadata { host }
        | Fault::Join { host } => vec![*host],
        Fault::Cut { from, to } => from.iter().chain(to).copied().collect(),
        Fault::Split { side } => side.clone(),
        Fault::Flap { a, b, .. }
        | Fault::SlowLink { a, b, .. }
        | Fault::Reset { a, b }
        | Fault::HoldBack { from: a, to: b } => vec![*a, *b],
        Fault::Required { host, peers } => peers.iter().chain([host]).copied().collect(),
        Fault::Loss { .. } | Fault::ColdLinks { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::plans;
    use crate::model::Violation;
    use crate::shrink::shrink;

    #[test]
    fn what_is_not_needed_goes() {
        let found = Violation { invariant: 4, at: 0, text: String::new() };
        let freezes =
            |plan: &Plan| plan.faults.iter().any(|timed| matches!(timed.fault, Fault::Freeze { .. }));
        let seed = (0..).find(|seed| {
            let plan = plans::draw(*seed, plans::by_name("mix"), Some(12));
            plan.faults.len() > 4 && freezes(&plan)
        });
        let plan = plans::draw(seed.unwrap(), plans::by_name("mix"), Some(12));
        let judge = |plan: &Plan| (freezes(plan) && plan.members >= 3).then(|| found.clone());
        let shrunk = shrink(&plan, found.clone(), candidates, judge);
        assert_eq!((shrunk.plan.faults.len(), shrunk.plan.members), (1, 3), "{:?}", shrunk.plan);
    }

    #[test]
    fn another_violation_does_not_count() {
        let plan = plans::draw(3, plans::by_name("churn"), Some(8));
        let found = Violation { invariant: 4, at: 0, text: String::new() };
        let shrunk =
            shrink(&plan, found.clone(), candidates, |_| Some(Violation { invariant: 5, ..found.clone() }));
        assert_eq!(shrunk.plan, plan);
    }
}
