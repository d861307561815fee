//! Several plans at once, as far as they can strike together.

use std::time::Duration;

use rand::RngExt;

use super::draft::Draft;
use super::{Generator, members, network};
use crate::membership::fault::{Back, Fault, Host, Plan};

/// Several at a time.
pub(super) fn mix(draft: &mut Draft) {
    let parts: [Generator; 14] = [
        members::silence,
        members::exit,
        members::restart,
        network::one_way,
        network::bridge,
        network::partition,
        members::freeze,
        members::still,
        members::drift,
        network::loss,
        network::flap,
        network::slow_link,
        network::cold,
        members::metadata,
    ];
    for _ in 0..draft.rng.random_range(2..=4) {
        let part = parts[draft.rng.random_range(0..parts.len())];
        let before = draft.plan.faults.len();
        if draft.n() > 2 || !std::ptr::fn_addr_eq(part, network::bridge as Generator) {
            part(draft);
        }
        let shift = draft.ms(0, 20_000);
        for timed in &mut draft.plan.faults[before..] {
            timed.at += shift;
        }
    }
    untangle(&mut draft.plan);
    if draft.plan.faults.is_empty() {
        members::silence(draft);
    }
}

/// A member that is gone or blocked cannot be hit again meanwhile: such faults would never strike.
fn untangle(plan: &mut Plan) {
    plan.faults.sort_by_key(|timed| timed.at);
    let settle = Duration::from_secs(12);
    let mut taken: Vec<(Host, Duration, Duration)> = Vec::new();
    plan.faults.retain(|timed| {
        let host = match timed.fault {
            Fault::Crash { host, .. }
            | Fault::Freeze { host }
            | Fault::Slow { host, .. }
            | Fault::Drift { host, .. }
            | Fault::WallJump { host, .. }
            | Fault::Metadata { host } => Some(host),
            _ => None,
        };
        let Some(host) = host else { return true };
        let until = match (&timed.fault, timed.lasts) {
            (Fault::Crash { back: None, .. }, _) => Duration::MAX,
            (_, lasts) => timed.at + lasts + settle,
        };
        let jump = matches!(timed.fault, Fault::WallJump { .. });
        let free = taken.iter().all(|(h, from, to)| *h != host || *to <= timed.at || *from >= until);
        if free && !jump {
            taken.push((host, timed.at, until));
        }
        free
    });
    // A jump shows at a restart only.
    let restarts = plan.faults.clone();
    plan.faults.retain(|timed| match timed.fault {
        Fault::WallJump { host, .. } => restarts.iter().any(|other| {
            other.at >= timed.at
                && matches!(other.fault, Fault::Crash { host: h, back: Some(Back::Higher), .. } if h == host)
        }),
        _ => true,
    });
}
