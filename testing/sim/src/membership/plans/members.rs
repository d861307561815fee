//! Plans of what members do or suffer themselves.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::draft::Draft;
use crate::membership::fault::{Back, Block, Fault, Host, Lie};

pub(super) fn silence(draft: &mut Draft) {
    let (at, host) = (draft.ms(0, 1_000), draft.host());
    draft.crash(at, host, false);
}

pub(super) fn exit(draft: &mut Draft) {
    let (at, host) = (draft.ms(0, 1_000), draft.host());
    draft.crash(at, host, true);
}

/// Many at once: from two of three to half of all, and down to one survivor.
pub(super) fn many(draft: &mut Draft) {
    let n = draft.n();
    let dead = match draft.rng.random_range(0..4) {
        0 => n - 1,
        1 => n / 2,
        2 => (n / 10).max(1),
        _ => draft.rng.random_range(1..n),
    };
    let (at, reset) = (draft.ms(0, 500), draft.rng.random_range(0..3) == 0);
    for host in draft.shuffled().into_iter().take(dead) {
        let late = draft.ms(0, 3);
        draft.crash(at + late, host, reset);
    }
}

/// A subject's whole neighbourhood at once: its observers, and then or with them the subject.
pub(super) fn ring(draft: &mut Draft) {
    let subject = draft.host();
    let mut dead = draft.rings.observers(subject, |_| true);
    if draft.rng.random() {
        // Their observers too: whoever would take their places.
        let more: Vec<Host> = dead.iter().flat_map(|host| draft.rings.observers(*host, |_| true)).collect();
        dead.extend(more);
    }
    dead.push(subject);
    dead.sort_unstable();
    dead.dedup();
    dead.shuffle(&mut draft.rng);
    dead.truncate(draft.n() - 1);
    let at = draft.ms(0, 500);
    let gap = [0, 300, 1_000][draft.rng.random_range(0..3)];
    for (i, host) in dead.into_iter().enumerate() {
        draft.crash(at + Duration::from_millis(gap * i as u64 / 2), host, false);
    }
}

pub(super) fn restart(draft: &mut Draft) {
    for i in 0..draft.rng.random_range(1..=2.min(draft.n() as u64 - 1)) {
        let host = draft.host();
        let at = Duration::from_secs(40 * i) + draft.ms(0, 1_000);
        let reset = draft.rng.random();
        let back = if draft.rng.random_range(0..3) == 0 { Back::Lower } else { Back::Higher };
        let lasts = [30, 300, 1_000, 3_000, 9_000][draft.rng.random_range(0..5)];
        let lasts = Duration::from_millis(lasts) + draft.ms(0, 200);
        if draft.rng.random_range(0..3) == 0 {
            let ms = [-3_600_000, 3_600_000, 60_000][draft.rng.random_range(0..3)];
            draft.add(at / 2, Duration::ZERO, Fault::WallJump { host, ms });
        }
        draft.add(at, lasts, Fault::Crash { host, reset, back: Some(back) });
    }
}

pub(super) fn freeze(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..=3) {
        let (host, lasts) = (draft.host(), draft.ms(1_200, 14_000));
        at += draft.ms(0, 1_000);
        draft.add(at, lasts, Fault::Freeze { host });
        at += lasts + draft.ms(0, 1_000);
    }
}

/// Up to an eighth blocked 8.2 s of every 9.2 s, all in the same way.
pub(super) fn slow(draft: &mut Draft) {
    still(draft);
    if draft.rng.random() {
        for timed in &mut draft.plan.faults {
            if let Fault::Slow { block, .. } = &mut timed.fault {
                *block = Block::Messages;
            }
        }
    }
}

/// Up to an eighth stand still for 8.2 s of every 9.2 s.
pub(super) fn still(draft: &mut Draft) {
    let slow = (draft.n() / 8).max(1);
    for host in draft.shuffled().into_iter().take(slow) {
        let at = draft.ms(0, 9_200);
        let (blocked, period) = (Duration::from_millis(8_200), Duration::from_millis(9_200));
        let block = Block::Process;
        draft.add(at, Duration::from_secs(45), Fault::Slow { host, block, blocked, period });
    }
}

pub(super) fn drift(draft: &mut Draft) {
    for host in draft.shuffled().into_iter().take(3) {
        let permille = [-50, -20, 20, 50][draft.rng.random_range(0..4)];
        draft.add(Duration::ZERO, Duration::from_secs(40), Fault::Drift { host, permille });
    }
    if draft.rng.random() {
        let (at, host) = (draft.ms(30_000, 31_000), draft.host());
        draft.add(at, Duration::from_secs(5), Fault::Crash { host, reset: false, back: Some(Back::Higher) });
    }
}

pub(super) fn churn(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for host in draft.shuffled().into_iter().cycle().take(10) {
        at += draft.ms(200, 5_000);
        let lasts = draft.ms(100, 4_000);
        let taken = draft.plan.faults.iter().any(|timed| {
            matches!(timed.fault, Fault::Crash { host: h, .. } if h == host)
                && timed.at + timed.lasts + Duration::from_secs(6) > at
        });
        if !taken {
            let reset = draft.rng.random();
            draft.add(at, lasts, Fault::Crash { host, reset, back: Some(Back::Higher) });
        }
        let host = draft.host();
        if draft
            .plan
            .faults
            .iter()
            .all(|timed| !matches!(timed.fault, Fault::Crash { host: h, .. } if h == host))
        {
            draft.add(at, Duration::ZERO, Fault::Metadata { host });
        }
    }
}

pub(super) fn metadata(draft: &mut Draft) {
    for _ in 0..3 {
        let (at, host) = (draft.ms(0, 8_000), draft.host());
        draft.add(at, Duration::ZERO, Fault::Metadata { host });
    }
}

pub(super) fn away(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let (at, grace) = (draft.ms(0, 1_000), draft.ms(2_000, 20_000));
    // It comes back, or not: then its pause ends nobody knows how.
    let lasts = if draft.rng.random_range(0..3) == 0 { Duration::ZERO } else { draft.ms(1_000, 28_000) };
    draft.add(at, lasts, Fault::Away { host: hosts[0], grace });
    if draft.rng.random() && hosts.len() > 2 {
        let at = draft.ms(0, 5_000);
        draft.add(at, Duration::ZERO, Fault::Leave { host: hosts[1] });
    }
}

/// Across the limit between mesh and rings, in both directions.
pub(super) fn resize(draft: &mut Draft) {
    let n = draft.n();
    let later = draft.rng.random_range(1..=(n - 2).min(6));
    let mut at = Duration::ZERO;
    for host in n - later..n {
        at += draft.ms(0, 2_000);
        draft.add(at, Duration::ZERO, Fault::Join { host });
    }
    at += Duration::from_secs(8);
    let leaving = draft.rng.random_range(1..=n - 2);
    for host in (1..n).rev().take(leaving) {
        at += draft.ms(0, 1_000);
        draft.add(at, Duration::ZERO, Fault::Leave { host });
    }
}

pub(super) fn liar(draft: &mut Draft) {
    let host = draft.host();
    let mut lies = Lie::ALL.to_vec();
    lies.shuffle(&mut draft.rng);
    let some = draft.rng.random_range(1..4);
    lies.truncate(some);
    // Not every fleet has somebody who asks; forging, accusing and holding strike always.
    let sure = [Lie::Accuse, Lie::Forge, Lie::Hold][draft.rng.random_range(0..3)];
    if !lies.contains(&sure) {
        lies.push(sure);
    }
    draft.add(Duration::ZERO, Duration::from_secs(40), Fault::Liar { host, lies });
    if draft.rng.random_range(0..2) == 0 && draft.n() > 4 {
        let victim = draft.other(host);
        let at = draft.ms(25_000, 30_000);
        let lasts = draft.ms(3_000, 8_000);
        draft.add(at, lasts, Fault::Crash { host: victim, reset: false, back: Some(Back::Higher) });
    }
}
