//! What operators do, at bad moments, and deletes that do not end.

use std::time::Duration;

use flagship_types::{Failback, FleetConfig, Mode};
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
    let host = draft.other_cluster(leader);
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
            draft.add(at, lasts + Duration::from_secs(2), Fault::Apart { a: leader, b: other });
        }
        _ => {}
    }
}

/// Ranks are edited, and edited again before the first move is over; members end meanwhile.
pub(super) fn rank(draft: &mut Draft) {
    let mut at = draft.ms(0, 1_000);
    for _ in 0..draft.rng.random_range(2..6) {
        let (host, rank) = (draft.cluster(), draft.rng.random_range(0..9));
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
        3 if !draft.plan.hosts[other].witness => draft.now(at, Fault::Rank { host: other, rank: 0 }),
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
        let host = draft.cluster();
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
    let (of, at) = (draft.cluster(), draft.ms(0, 3_000));
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

/// Switchovers, named or to the best, one after the other and while something else happens.
pub(super) fn switchover(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..4) {
        let leader = draft.leader();
        let to = if draft.chance(2) { Some(draft.other_cluster(leader)) } else { None };
        draft.now(at, Fault::Switchover { to });
        at += draft.ms(15_000, 40_000);
    }
    disturb(draft);
}

/// The fleet is paused, and meanwhile something happens that would move the lead.
pub(super) fn pause(draft: &mut Draft) {
    let lasts = draft.ms(10_000, 60_000);
    draft.add(Duration::ZERO, lasts, Fault::Pause);
    match draft.rng.random_range(0..4) {
        0 => {
            let leader = draft.leader();
            let host = draft.other_cluster(leader);
            draft.now(Duration::from_secs(2), Fault::Rank { host, rank: 9 });
        }
        1 => super::process::all_at_once(draft),
        2 => super::network::partition(draft),
        _ => super::process::restart(draft),
    }
}

/// Voters are changed, at the leader first or at others first, under a partition or not: added, removed, replaced.
pub(super) fn voters(draft: &mut Draft) {
    let all: Vec<_> = draft.plan.hosts.iter().map(HostSpec::member).collect();
    let mut now = all.clone();
    // Begins with some of them.
    if draft.chance(2) {
        now.truncate(3);
        for spec in &mut draft.plan.hosts {
            spec.config.voters.clone_from(&now);
        }
    }
    if draft.chance(2) {
        let (side, at, lasts) = (draft.some(), draft.ms(0, 4_000), draft.ms(5_000, 40_000));
        draft.add(at, lasts, Fault::Split { side });
    }
    let mut at = draft.ms(0, 3_000);
    for _ in 0..draft.rng.random_range(1..4) {
        let mut wanted = all.clone();
        for _ in 0..draft.rng.random_range(0..=wanted.len() - 1) {
            wanted.remove(draft.rng.random_range(0..wanted.len()));
        }
        wanted.sort();
        let hosts = draft.shuffled();
        for host in hosts {
            if !draft.plan.hosts[host].witness {
                let config = FleetConfig { voters: wanted.clone(), ..draft.plan.hosts[host].config.clone() };
                draft.now(at, Fault::Propose { host, config });
                at += draft.ms(1, 3_000);
            }
        }
        at += draft.ms(100, 12_000);
    }
    if draft.chance(2) {
        let (host, at, lasts) = (draft.host(), draft.ms(0, 15_000), draft.while_());
        draft.restart(at, lasts, host);
    }
}

/// D and S are edited under a running lease, on one object after the other, and the leader ends or is cut off.
pub(super) fn lease(draft: &mut Draft) {
    let (long, short) = ((30_000, 20_000), (3_000, 10_000));
    let (before, after) = if draft.chance(3) { (short, long) } else { (long, short) };
    for spec in &mut draft.plan.hosts {
        spec.config.lease = Duration::from_millis(before.0);
        spec.config.stop_grace = Duration::from_millis(before.1);
    }
    let mut at = draft.ms(0, 2_000);
    let hosts = draft.shuffled();
    for host in hosts {
        if !draft.plan.hosts[host].witness {
            let config = FleetConfig {
                lease: Duration::from_millis(after.0),
                stop_grace: Duration::from_millis(after.1),
                ..draft.plan.hosts[host].config.clone()
            };
            draft.now(at, Fault::Propose { host, config });
            at += draft.ms(1, 2_000);
        }
    }
    let (leader, at, lasts) = (draft.leader(), draft.ms(0, 6_000), draft.ms(3_000, 60_000));
    match draft.rng.random_range(0..3) {
        0 => draft.add(at, lasts, Fault::Split { side: vec![leader] }),
        1 => draft.add(at, lasts, Fault::Freeze { host: leader }),
        _ => draft.restart(at, lasts, leader),
    }
}

/// The mode is changed, on one object first, to Quorum or from it.
pub(super) fn mode(draft: &mut Draft) {
    let voters: Vec<_> = draft.plan.hosts.iter().map(HostSpec::member).collect();
    let quorum =
        |config: &FleetConfig| FleetConfig { mode: Mode::Quorum, voters: voters.clone(), ..config.clone() };
    let plain =
        |config: &FleetConfig| FleetConfig { mode: Mode::Availability, voters: Vec::new(), ..config.clone() };
    let to_quorum = draft.chance(2);
    for spec in &mut draft.plan.hosts {
        spec.config = if to_quorum { plain(&spec.config) } else { quorum(&spec.config) };
    }
    let mut at = draft.ms(0, 3_000);
    let hosts = draft.shuffled();
    for host in hosts {
        if !draft.plan.hosts[host].witness {
            let config = &draft.plan.hosts[host].config;
            let config = if to_quorum { quorum(config) } else { plain(config) };
            draft.now(at, Fault::Propose { host, config });
            at += draft.ms(1, 9_000);
        }
    }
    match draft.rng.random_range(0..3) {
        0 => super::network::partition(draft),
        1 => super::process::restart(draft),
        _ => {}
    }
}
