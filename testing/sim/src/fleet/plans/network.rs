//! What happens to the network.

use std::time::Duration;

use rand::RngExt;

use super::draft::Draft;
use super::process::silence;
use crate::fleet::fault::Fault;

/// Two sides that do not see each other, healed again.
pub(super) fn partition(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..3) {
        let side = draft.some();
        let lasts = draft.ms(3_000, 60_000);
        draft.add(at, lasts, Fault::Split { side });
        at += lasts + draft.ms(500, 20_000);
    }
}

/// Two sides that stay apart, while members come and go.
pub(super) fn parts(draft: &mut Draft) {
    let side = draft.some();
    draft.now(Duration::ZERO, Fault::Split { side });
    if draft.chance(2) {
        let (host, at, lasts) = (draft.host(), draft.ms(0, 20_000), draft.while_());
        draft.restart(at, lasts, host);
    }
}

/// One direction only.
pub(super) fn one_way(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..3) {
        let from = draft.some();
        let to: Vec<_> = (0..draft.n()).filter(|host| !from.contains(host)).collect();
        let lasts = draft.ms(2_000, 40_000);
        draft.add(at, lasts, Fault::Cut { from, to });
        at += lasts + draft.ms(500, 10_000);
    }
}

/// Each is heard by the next one only.
pub(super) fn ring(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let lasts = draft.ms(5_000, 40_000);
    for (i, host) in hosts.iter().enumerate() {
        let next = hosts[(i + 1) % hosts.len()];
        let to: Vec<_> = hosts.iter().copied().filter(|h| h != host && *h != next).collect();
        draft.add(Duration::ZERO, lasts, Fault::Cut { from: vec![*host], to });
    }
}

/// Two that do not see each other, and others between them.
pub(super) fn bridge(draft: &mut Draft) {
    let leader = draft.leader();
    let (a, b) = if draft.chance(3) {
        let a = draft.other(leader);
        (a, draft.other(a))
    } else {
        (leader, draft.other(leader))
    };
    let lasts = draft.ms(5_000, 60_000);
    draft.add(Duration::ZERO, lasts, Fault::Apart { a, b });
    if draft.chance(2) {
        let (host, at, lasts) = (draft.host(), draft.ms(1_000, 12_000), draft.while_());
        draft.restart(at, lasts, host);
    }
}

/// A link, or a site, that comes and goes.
pub(super) fn flap(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    let side = draft.some();
    let (down, up) = (draft.ms(800, 9_000), draft.ms(800, 9_000));
    for _ in 0..draft.rng.random_range(3..8) {
        draft.add(at, down, Fault::Split { side: side.clone() });
        at += down + up;
    }
}

/// Segments are lost, and a member restarts meanwhile.
pub(super) fn loss(draft: &mut Draft) {
    let (percent, lasts) = (draft.rng.random_range(5..30), draft.ms(30_000, 60_000));
    draft.add(Duration::ZERO, lasts, Fault::Loss { percent });
    let (host, at, lasts) = (draft.host(), draft.ms(1_000, 15_000), draft.while_());
    draft.restart(at, lasts, host);
}

/// The leader is gone; of those left two do not see each other, and both ask those between them.
pub(super) fn claims(draft: &mut Draft) {
    let leader = draft.leader();
    let mut left = draft.shuffled();
    left.retain(|host| *host != leader && !draft.plan.hosts[*host].witness);
    let (Some(a), Some(b)) = (left.first().copied(), left.get(1).copied()) else { return silence(draft) };
    // Both are as good, so that neither waits for the other.
    let rank = draft.plan.hosts[a].rank.min(draft.plan.hosts[leader].rank);
    draft.plan.hosts[a].rank = rank;
    draft.plan.hosts[b].rank = rank;
    let (at, lasts) = (draft.ms(0, 1_000), draft.ms(15_000, 40_000));
    draft.add(Duration::ZERO, lasts, Fault::Apart { a, b });
    draft.now(at, Fault::Crash { host: leader, reset: true, back: None });
}
