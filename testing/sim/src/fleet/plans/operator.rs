//! What operators do, at bad moments, and deletes that do not end.

use std::time::Duration;

use flagship_types::{Failback, FleetConfig};
use rand::RngExt;

use super::super::host::HostSpec;
use super::draft::Draft;
use crate::fleet::fault::{Fault, Host};

/// Makes the leader hand over, wherever it is: everybody's failback is automatic, and another one's rank the best.
fn move_lead(draft: &mut Draft, at: Duration) -> Host {
    for spec in &mut draft.plan.hosts {
        spec.config.failback = Failback::Automatic;
        spec.config.failback_delay = spec.config.failback_delay.min(Duration::from_secs(1));
    }
    let leader = draft.leader();
    let host = draft.other(leader);
    let rank = draft.rng.random_range(6..9);
    draft.now(at, Fault::Rank { host, rank });
    host
}

/// Pods that take long to end, while the lead moves.
pub(super) fn slow_delete(draft: &mut Draft) {
    move_lead(draft, Duration::from_secs(1));
    let (leader, extra, lasts) = (draft.leader(), draft.ms(2_000, 12_000), draft.ms(20_000, 40_000));
    draft.add(Duration::ZERO, lasts, Fault::SlowDelete { host: leader, extra });
    disturb(draft);
}

/// A finalizer holds a delete, while the lead moves.
pub(super) fn stuck_delete(draft: &mut Draft) {
    move_lead(draft, Duration::from_secs(1));
    let (leader, lasts) = (draft.leader(), draft.ms(8_000, 50_000));
    draft.add(Duration::ZERO, lasts, Fault::StuckDelete { host: leader });
    disturb(draft);
}

/// Once the move is under way: somebody ends, or does not see the other.
fn disturb(draft: &mut Draft) {
    let at = Duration::from_millis(2_600) + draft.ms(0, 8_000);
    let (leader, lasts) = (draft.leader(), draft.while_());
    let other = draft.other(leader);
    match draft.rng.random_range(0..5) {
        0 => draft.restart(at, lasts, leader),
        1 => draft.restart(at, lasts, other),
        2 if draft.n() == 2 => {
            draft.add(at, lasts + Duration::from_secs(2), Fault::Apart { a: leader, b: other })
        }
        _ => {}
    }
}

/// Ranks are edited, and edited again before the first move is over; members end meanwhile.
pub(super) fn rank(draft: &mut Draft) {
    let mut at = draft.ms(0, 1_000);
    for _ in 0..draft.rng.random_range(2..6) {
        let (host, rank) = (draft.host(), draft.rng.random_range(0..9));
        draft.now(at, Fault::Rank { host, rank });
        at += draft.ms(20, 6_000);
    }
    if draft.chance(2) {
        let (host, at, lasts) = (draft.host(), draft.ms(100, 6_000), draft.while_());
        draft.restart(at, lasts, host);
    }
}

/// SIGTERM with `--on-shutdown handover`, and something that goes wrong at any step of it.
pub(super) fn handover(draft: &mut Draft) {
    let leader = draft.leader();
    let lasts = draft.ms(2_000, 40_000);
    draft.add(Duration::ZERO, lasts, Fault::Handover { host: leader });
    let (at, short) = (draft.ms(1, 4_000), draft.while_());
    let other = draft.other(leader);
    match draft.rng.random_range(0..5) {
        // The successor dies, before or after the release.
        0 => draft.restart(at, short, other),
        // The release is lost.
        1 => draft.add(at, short + Duration::from_millis(2_500), Fault::Apart { a: leader, b: other }),
        2 => draft.add(at, short + Duration::from_secs(2), Fault::Freeze { host: other }),
        3 => draft.now(at, Fault::Rank { host: other, rank: 0 }),
        _ => {}
    }
}

/// Anything an operator can edit, one object first, during a partition or not.
pub(super) fn edits(draft: &mut Draft) {
    let mut at = draft.ms(100, 3_000);
    if draft.chance(2) {
        let (side, lasts) = (draft.some(), draft.ms(4_000, 40_000));
        draft.add(Duration::ZERO, lasts, Fault::Split { side });
    }
    for _ in 0..draft.rng.random_range(1..5) {
        let host = draft.host();
        let fault = match draft.rng.random_range(0..6) {
            0 => Fault::Rank { host, rank: draft.rng.random_range(0..9) },
            1 => Fault::Failback { host, failback: Failback::Manual },
            2 => Fault::Failback { host, failback: Failback::Automatic },
            3 => Fault::NoCandidate { host },
            4 => {
                let restart_grace = Duration::from_millis([0, 1_000, 10_000][draft.rng.random_range(0..3)]);
                let config = FleetConfig { restart_grace, ..draft.plan.hosts[host].config.clone() };
                Fault::Propose { host, config }
            }
            _ => {
                let member = draft.other(host);
                Fault::Forget { at: host, member }
            }
        };
        let lasts = match fault {
            Fault::NoCandidate { .. } => draft.ms(1_000, 30_000),
            Fault::Forget { .. } => draft.ms(1_000, 10_000),
            _ => Duration::ZERO,
        };
        draft.add(at, lasts, fault);
        at += draft.ms(50, 8_000);
    }
}

/// A second cluster is given the name of another.
pub(super) fn twin(draft: &mut Draft) {
    let (of, at) = (draft.host(), draft.ms(0, 3_000));
    let spec = draft.plan.hosts[of].clone();
    let seeds: Vec<_> = draft.plan.hosts.iter().map(|host| host.name).collect();
    draft.plan.hosts.push(HostSpec { name: "g", ready: false, rank: spec.rank + 1, seeds, ..spec });
    let host = draft.members;
    draft.now(at, Fault::Join { host });
    if draft.chance(2) {
        let (other, at, lasts) = (draft.other(of), at + draft.ms(1_000, 10_000), draft.ms(500, 10_000));
        draft.restart(at, lasts, other);
    }
}
