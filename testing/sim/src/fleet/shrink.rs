//! Smaller plans: fewer faults, shorter ones, fewer members.

use std::time::Duration;

use super::fault::{Fault, Plan};

/// Smaller plans, the boldest first.
pub(super) fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut out = Vec::new();
    let faults = plan.faults.len();
    let with = |keep: &dyn Fn(usize) -> bool| {
        let faults = plan.faults.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, f)| f.clone());
        Plan { faults: faults.collect(), ..plan.clone() }
    };
    if faults > 2 {
        out.push(with(&|i| i < faults / 2));
        out.push(with(&|i| i >= faults / 2));
    }
    if faults > 1 {
        out.extend((0..faults).map(|dropped| with(&|i| i != dropped)));
    }
    let named = plan.faults.iter().flat_map(|timed| timed.fault.hosts()).max();
    let needed = named.map_or(2, |host| host + 1).max(2);
    // Members that joined later stay: their faults name them.
    if plan.hosts.len() > needed {
        let mut fewer = plan.clone();
        fewer.hosts.pop();
        out.push(fewer);
    }
    for (i, timed) in plan.faults.iter().enumerate() {
        if timed.lasts > Duration::from_secs(2) && !matches!(timed.fault, Fault::Handover { .. }) {
            let mut shorter = plan.clone();
            shorter.faults[i].lasts /= 2;
            out.push(shorter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::plans;
    use crate::model::Violation;
    use crate::shrink::shrink;

    #[test]
    fn what_is_not_needed_goes() {
        let found = Violation { invariant: 4, at: 0, text: String::new() };
        let freezes =
            |plan: &Plan| plan.faults.iter().any(|timed| matches!(timed.fault, Fault::Freeze { .. }));
        let draw = |seed| plans::draw(seed, plans::by_name("mix"), Some(5));
        let seed = (0..).find(|seed| draw(*seed).faults.len() > 3 && freezes(&draw(*seed)));
        let judge = |plan: &Plan| freezes(plan).then(|| found.clone());
        let shrunk = shrink(&draw(seed.unwrap()), found.clone(), candidates, judge);
        assert_eq!(shrunk.plan.faults.len(), 1, "{:?}", shrunk.plan);
    }
}
