//! Several plans at once, as far as they can strike together.

use std::time::Duration;

use rand::RngExt;

use super::draft::Draft;
use super::{Generator, network, operator, process};
use crate::fleet::fault::Fault;

/// Several at a time.
pub(super) fn mix(draft: &mut Draft) {
    let parts: [Generator; 14] = [
        process::restart,
        process::rolling,
        process::all_at_once,
        process::freeze,
        process::drift,
        process::jump,
        process::api,
        network::partition,
        network::one_way,
        network::flap,
        network::loss,
        operator::slow_delete,
        operator::rank,
        operator::edits,
    ];
    for _ in 0..draft.rng.random_range(2..=4) {
        let part = parts[draft.rng.random_range(0..parts.len())];
        let before = draft.plan.faults.len();
        part(draft);
        let shift = draft.ms(0, 20_000);
        for timed in &mut draft.plan.faults[before..] {
            timed.at += shift;
        }
    }
    untangle(draft);
}

/// A process that is gone or stopped cannot be hit again meanwhile.
fn untangle(draft: &mut Draft) {
    draft.plan.faults.sort_by_key(|timed| timed.at);
    let settle = Duration::from_millis(300);
    let mut taken: Vec<(usize, Duration, Duration)> = Vec::new();
    draft.plan.faults.retain(|timed| {
        let (Fault::Crash { host, .. }
        | Fault::Freeze { host }
        | Fault::Handover { host }
        | Fault::Away { host, .. }) = timed.fault
        else {
            return true;
        };
        let until = timed.at + timed.lasts + settle;
        let free = taken.iter().all(|(h, from, to)| *h != host || *to <= timed.at || *from >= until);
        if free {
            taken.push((host, timed.at, until));
        }
        free
    });
    // One API server, clock and delete at a time too: the end of one would end the other.
    let mut seen: Vec<(usize, &'static str)> = Vec::new();
    draft.plan.faults.retain(|timed| {
        let (Fault::ApiDown { host } | Fault::Drift { host, .. } | Fault::SlowDelete { host, .. }) =
            timed.fault
        else {
            return true;
        };
        let key = (host, timed.fault.kind());
        let free = !seen.contains(&key);
        seen.push(key);
        free
    });
}
