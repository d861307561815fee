//! What happens to processes, clocks and API servers.

use std::time::Duration;

use flagship_types::Failback;
use rand::RngExt;

use super::draft::Draft;
use crate::fleet::fault::{Back, Fault};

/// A machine is gone for good, silently: of three and more maybe several, one after the other.
pub(super) fn silence(draft: &mut Draft) {
    let hosts = draft.some();
    for host in hosts {
        let at = draft.ms(0, 15_000);
        draft.now(at, Fault::Crash { host, reset: false, back: None });
    }
}

/// A process is gone for good, its address refuses: also what a load balancer does for a dead node.
pub(super) fn exit(draft: &mut Draft) {
    let hosts = draft.some();
    for host in hosts {
        let at = draft.ms(0, 15_000);
        draft.now(at, Fault::Crash { host, reset: true, back: None });
    }
}

/// Processes come back, sooner or later than the restart grace.
pub(super) fn restart(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..4) {
        let (host, lasts) = (draft.host(), draft.while_());
        draft.restart(at, lasts, host);
        at += lasts + draft.ms(100, 8_000);
    }
}

/// One after the other, as a rolling update does.
pub(super) fn rolling(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let (announced, mut at) = (draft.chance(2), Duration::ZERO);
    for host in hosts {
        let lasts = draft.ms(1_000, 5_000);
        match announced {
            true => draft.add(at, lasts, Fault::Away { host, grace: Duration::from_secs(30) }),
            false => draft.restart(at, lasts, host),
        }
        at += lasts + draft.ms(500, 6_000);
    }
}

/// All at once; they come back in any order.
pub(super) fn all_at_once(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let (apart, reset) = (draft.ms(1, 3_000), !draft.chance(3));
    for host in hosts {
        let at = if draft.chance(2) { Duration::ZERO } else { draft.ms(0, 400) };
        let lasts = draft.ms(500, 4_000) + draft.rng.random_range(0..4) * apart;
        draft.add(at, lasts, Fault::Crash { host, reset, back: Some(Back::Whole) });
    }
}

/// Comes back without its status, maybe with a clock that is behind: under an epoch below the known one.
pub(super) fn lost(draft: &mut Draft) {
    let (host, at, lasts) = (draft.host(), draft.ms(0, 2_000), draft.while_());
    let back = if draft.chance(2) { Back::Blank } else { Back::Behind };
    let reset = !draft.chance(3);
    draft.add(at, lasts, Fault::Crash { host, reset, back: Some(back) });
    if draft.chance(3) {
        let other = draft.other(host);
        let (at, lasts) = (at + draft.ms(0, 10_000), draft.ms(500, 6_000));
        draft.restart(at, lasts, other);
    }
}

/// SIGSTOP, 60 s included.
pub(super) fn freeze(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..3) {
        let host = draft.host();
        let lasts = match draft.rng.random_range(0..4) {
            0 => Duration::from_secs(60),
            1 => draft.ms(1_000, 3_000),
            _ => draft.ms(1_000, 15_000),
        };
        draft.add(at, lasts, Fault::Freeze { host });
        at += lasts + draft.ms(200, 8_000);
    }
}

/// Stopped right after something became durable, for as long as it takes others to go on: a leader that begins to stop, or
/// a successor that granted, or took, the lead.
pub(super) fn freeze_after_write(draft: &mut Draft) {
    // Who leads has to be certain: by a manual failback, or with equal ranks, it is whoever came first.
    for spec in &mut draft.plan.hosts {
        spec.config.failback = Failback::Automatic;
        spec.config.failback_delay = spec.config.failback_delay.min(Duration::from_secs(1));
    }
    let leader = draft.leader();
    draft.plan.hosts[leader].rank = 6;
    let other = draft.other_cluster(leader);
    let host = if draft.chance(2) { leader } else { other };
    // Who neither votes nor is elected writes only when it hears of the next leader, which may wait for S.
    let (lasts, at) = (draft.ms(20_000, 62_000), draft.ms(200, 1_500));
    draft.add(Duration::ZERO, lasts, Fault::FreezeAfterWrite { host });
    // Something has to be written: a rank that is far better moves the lead, an end of the leader as well.
    if host == leader || draft.chance(2) {
        draft.now(at, Fault::Rank { host: other, rank: 9 });
    } else {
        draft.now(at, Fault::Crash { host: leader, reset: false, back: None });
    }
}

/// Clocks up to 5 % fast or slow, while something else happens.
pub(super) fn drift(draft: &mut Draft) {
    let lasts = draft.ms(30_000, 90_000);
    let hosts = draft.some();
    for host in hosts {
        let permille = draft.rng.random_range(-50..=50);
        draft.add(
            Duration::ZERO,
            lasts,
            Fault::Drift { host, permille: if permille == 0 { 50 } else { permille } },
        );
    }
    let (host, at, lasts) = (draft.host(), draft.ms(1_000, 20_000), draft.while_());
    draft.restart(at, lasts, host);
}

/// Wall clocks jump, both ways; a restart takes the time from them.
pub(super) fn jump(draft: &mut Draft) {
    for _ in 0..draft.rng.random_range(1..4) {
        let (host, at) = (draft.host(), draft.ms(0, 20_000));
        let ms = [-3_600_000, -5_000, 2_000, 5_000, 600_000][draft.rng.random_range(0..5)];
        draft.now(at, Fault::WallJump { host, ms });
    }
    let (host, at, lasts) = (draft.host(), draft.ms(21_000, 30_000), draft.while_());
    draft.restart(at, lasts, host);
}

/// API servers do not answer, of one or several, while the lead moves or not.
pub(super) fn api(draft: &mut Draft) {
    let mut hosts = if draft.chance(3) { draft.some() } else { vec![draft.cluster()] };
    hosts.retain(|host| !draft.plan.hosts[*host].witness);
    if hosts.is_empty() {
        hosts.push(draft.leader());
    }
    let leader = draft.leader();
    for host in &hosts {
        let (at, lasts) = (draft.ms(0, 1_200), draft.ms(9_000, 60_000));
        draft.add(at, lasts, Fault::ApiDown { host: *host });
    }
    // So that there is something to write: the leader ends, and later, so that the other has to.
    let lasts = draft.ms(500, 20_000);
    let at = draft.ms(3_000, 5_500);
    draft.restart(at, lasts, leader);
    for host in hosts {
        if host != leader {
            let (at, lasts) = (at + lasts + draft.ms(1_000, 6_000), draft.ms(500, 8_000));
            draft.restart(at, lasts, host);
        }
    }
}

/// The leader is cut off or stopped, and before its lease is over the voters restart: what they had promised still holds.
pub(super) fn promise(draft: &mut Draft) {
    let leader = draft.leader();
    let lasts = draft.ms(15_000, 40_000);
    match draft.chance(2) {
        true => draft.add(Duration::ZERO, lasts, Fault::Split { side: vec![leader] }),
        false => draft.add(Duration::ZERO, lasts, Fault::Freeze { host: leader }),
    }
    for host in 0..draft.n() {
        if host != leader {
            let (at, lasts) = (draft.ms(0, 900), draft.ms(100, 600));
            draft.add(at, lasts, Fault::Crash { host, reset: true, back: Some(Back::Whole) });
        }
    }
}
