//! Plans of what goes wrong on the way between members.

use std::time::Duration;

use rand::RngExt;

use super::draft::Draft;
use crate::membership::fault::{Back, Fault, Host};

/// What one sends reaches nobody; or nothing reaches one.
pub(super) fn one_way(draft: &mut Draft) {
    let (host, at, lasts) = (draft.host(), draft.ms(0, 1_000), draft.ms(2_500, 20_000));
    let others: Vec<Host> = (0..draft.n()).filter(|other| *other != host).collect();
    let (from, to) = match draft.rng.random() {
        true => (vec![host], others),
        false => (others, vec![host]),
    };
    draft.add(at, lasts, Fault::Cut { from, to });
}

/// Two do not reach each other, in one direction or both; everybody else reaches both.
pub(super) fn bridge(draft: &mut Draft) {
    for _ in 0..draft.rng.random_range(1..=2) {
        let a = draft.host();
        let b = draft.peer(a);
        let (at, lasts) = (draft.ms(0, 4_000), draft.ms(8_000, 25_000));
        // In a large fleet two are seldom linked: one is cut off from a few.
        let few: Vec<Host> = match draft.n() {
            0..=8 => vec![b],
            n => draft.shuffled().into_iter().filter(|host| *host != a).take(n * 2 / 3).collect(),
        };
        draft.add(at, lasts, Fault::Cut { from: vec![a], to: few.clone() });
        if draft.rng.random() {
            draft.add(at, lasts, Fault::Cut { from: few, to: vec![a] });
        }
    }
}

pub(super) fn partition(draft: &mut Draft) {
    let mut at = draft.ms(0, 1_000);
    for _ in 0..draft.rng.random_range(1..=2) {
        let size = draft.rng.random_range(1..draft.n());
        let side = draft.shuffled().into_iter().take(size).collect();
        let lasts = [3_000, 8_000, 20_000, 60_000][draft.rng.random_range(0..4)];
        let lasts = Duration::from_millis(lasts) + draft.ms(0, 2_000);
        draft.add(at, lasts, Fault::Split { side });
        at += lasts + draft.ms(100, 15_000);
    }
}

/// Two members: everything rests on one observer.
pub(super) fn pair(draft: &mut Draft) {
    let (host, at) = (draft.host(), draft.ms(0, 1_000));
    match draft.rng.random_range(0..5) {
        0 => draft.crash(at, host, false),
        1 => {
            let lasts = draft.ms(1_500, 30_000);
            draft.add(at, lasts, Fault::Split { side: vec![host] });
        }
        2 => {
            let lasts = draft.ms(1_500, 10_000);
            draft.add(at, lasts, Fault::Freeze { host });
        }
        3 => {
            let lasts = draft.ms(1_500, 10_000);
            draft.add(at, lasts, Fault::Cut { from: vec![host], to: vec![1 - host] });
        }
        _ => {
            let lasts = draft.ms(15_000, 30_000);
            draft.add(at, lasts, Fault::Loss { percent: 15 });
        }
    }
}

pub(super) fn loss(draft: &mut Draft) {
    let percent = [2, 5, 5, 20][draft.rng.random_range(0..4)];
    // Two members send two segments a second: 2 % of them need some time to be any.
    let lasts = draft.ms(20_000, 60_000) + Duration::from_secs(if draft.n() < 4 { 180 } else { 0 });
    draft.add(Duration::ZERO, lasts, Fault::Loss { percent });
}

pub(super) fn flap(draft: &mut Draft) {
    let a = draft.host();
    let b = draft.peer(a);
    let down = draft.ms(300, 4_000);
    let mut period = down + draft.ms(300, 4_000);
    // Beats go out every second: in step with them a short cut might miss them all.
    if !(150..850).contains(&(period.as_millis() % 1_000)) {
        period += Duration::from_millis(300);
    }
    let lasts = Duration::from_secs(40);
    if draft.rng.random() {
        return draft.add(Duration::ZERO, lasts, Fault::Flap { a, b, down, period });
    }
    // Or all links of a host.
    for b in draft.linked(a) {
        draft.add(Duration::ZERO, lasts, Fault::Flap { a, b, down, period });
    }
}

pub(super) fn slow_link(draft: &mut Draft) {
    let a = draft.host();
    let extra = draft.ms(50, 1_200);
    let b = draft.peer(a);
    draft.add(Duration::ZERO, Duration::from_secs(40), Fault::SlowLink { a, b, extra });
    if draft.rng.random() {
        let (at, host) = (draft.ms(25_000, 26_000), draft.host());
        draft.add(at, Duration::from_secs(6), Fault::Crash { host, reset: false, back: Some(Back::Higher) });
    }
}

/// Beats wait on their way, and arrive when their sender is gone or blocked.
pub(super) fn late(draft: &mut Draft) {
    let host = draft.host();
    let at = draft.ms(0, 1_000);
    let hold = draft.ms(2_500, 4_500);
    for to in draft.linked(host) {
        draft.add(at, hold, Fault::HoldBack { from: host, to });
    }
    let dies = at + draft.ms(1_200, 2_400);
    match draft.rng.random() {
        true => draft.crash(dies, host, false),
        false => {
            let lasts = draft.ms(3_000, 9_000);
            draft.add(dies, lasts, Fault::Freeze { host });
        }
    }
}

pub(super) fn cold(draft: &mut Draft) {
    let every = draft.ms(3_000, 10_000);
    draft.add(Duration::ZERO, Duration::from_secs(40), Fault::ColdLinks { every });
}

/// One starts anew while it cannot reach another, of whom it is asked: it cannot tell.
pub(super) fn newcomer(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let (newcomer, subject) = (hosts[0], hosts[1]);
    let cut = Duration::from_secs(40);
    draft.add(Duration::ZERO, cut, Fault::Cut { from: vec![newcomer], to: vec![subject] });
    draft.add(Duration::ZERO, cut, Fault::Cut { from: vec![subject], to: vec![newcomer] });
    let (at, lasts) = (draft.ms(2_000, 4_000), draft.ms(300, 3_000));
    draft.add(at, lasts, Fault::Crash { host: newcomer, reset: true, back: Some(Back::Higher) });
    // Of those that it sends beats or echoes to: to others it may say nothing for seconds.
    for asker in draft.linked(subject).into_iter().filter(|asker| *asker != newcomer) {
        let (at, hold) = (draft.ms(15_000, 16_000), draft.ms(1_600, 2_500));
        draft.add(at, hold, Fault::HoldBack { from: subject, to: asker });
    }
}
