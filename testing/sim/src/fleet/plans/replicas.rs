//! Two replicas of the daemon in one cluster: what becomes of them, and of the network and the API servers meanwhile.

use std::time::Duration;

use flagship_types::Mode;
use rand::RngExt;

use super::draft::Draft;
use crate::fleet::fault::{Fault, Host, ReplicaFault};

/// Pods that take their time: only what the stop grace leaves of it is in time.
const SLOW_PODS: Duration = Duration::from_secs(20);

/// Replicas are killed, stopped, ended in turn, cut off from their API server, one or both, beside cuts and outages.
pub(super) fn replicas(draft: &mut Draft) {
    let leader = draft.leader();
    for host in 0..draft.n() {
        let some = draft.chance(2);
        let spec = &mut draft.plan.hosts[host];
        spec.second = !spec.witness && (host == leader || some);
    }
    let slow = draft.chance(3);
    for spec in draft.plan.hosts.iter_mut().filter(|spec| slow && spec.config.mode == Mode::Quorum) {
        spec.payload[2] = SLOW_PODS;
    }
    let mut at = draft.ms(0, 1_000);
    for _ in 0..draft.rng.random_range(1..4) {
        let doubled: Vec<Host> = (0..draft.n()).filter(|host| draft.plan.hosts[*host].second).collect();
        let host = match draft.chance(4) {
            true => doubled[draft.rng.random_range(0..doubled.len())],
            false => leader,
        };
        let before = draft.plan.faults.len();
        let over = one(draft, at, host);
        // With both gone nobody would notice that the API server is, too.
        let both = draft.plan.faults[before..].iter().filter(|timed| timed.at == at).count() > 1;
        beside(draft, at, host, both);
        at = over + draft.ms(4_000, 12_000);
    }
}

fn add(draft: &mut Draft, at: Duration, lasts: Duration, host: Host, acting: bool, what: ReplicaFault) {
    draft.add(at, lasts, Fault::Replica { host, acting, what });
}

/// Something happens to the replicas of a member. When it is over.
fn one(draft: &mut Draft, at: Duration, host: Host) -> Duration {
    use ReplicaFault::{CutOff, Ended, Killed, Stopped};
    let lasts = draft.ms(600, 30_000);
    match draft.rng.random_range(0..7) {
        0 => add(draft, at, lasts, host, true, Killed),
        1 => add(draft, at, lasts, host, true, Stopped),
        2 => add(draft, at, lasts, host, true, CutOff),
        // A rolling update, with or without a pod more than there has to be.
        3 => {
            let lasts = draft.ms(600, 4_000);
            let pause = draft.ms(200, 6_000);
            add(draft, at, lasts, host, true, Ended);
            add(draft, at + lasts + pause, lasts, host, true, Ended);
            return at + lasts + pause + lasts;
        }
        // Both, at once or nearly.
        4 => {
            let what = [Killed, Killed, Stopped, Ended][draft.rng.random_range(0..4)];
            let other = draft.ms(600, 20_000);
            add(draft, at, lasts, host, true, what);
            add(draft, at, other, host, false, what);
            return at + lasts.max(other);
        }
        // The one that waits, and then the other one, before that is noticed or after.
        5 => {
            let what = [Killed, Stopped, Ended][draft.rng.random_range(0..3)];
            let later = draft.ms(100, 9_000);
            add(draft, at, later + lasts, host, false, what);
            add(draft, at + later, lasts, host, true, Ended);
            return at + later + lasts;
        }
        // One after the other: who took over, too, if it did already.
        _ => {
            let later = draft.ms(3_000, 12_000);
            let (first, then) = (
                [Stopped, CutOff][draft.rng.random_range(0..2)],
                [Stopped, Killed, Ended][draft.rng.random_range(0..3)],
            );
            add(draft, at, later + lasts, host, true, first);
            add(draft, at + later, lasts, host, true, then);
            return at + later + lasts;
        }
    }
    at + lasts
}

/// Meanwhile the member is cut off, hears nobody or is not heard, or its API server does not answer; or nothing.
fn beside(draft: &mut Draft, at: Duration, host: Host, both: bool) {
    let others: Vec<Host> = (0..draft.n()).filter(|other| *other != host).collect();
    let (at, lasts) = (at + draft.ms(0, 4_000), draft.ms(6_000, 40_000));
    match draft.rng.random_range(0..8) {
        0..3 => draft.add(at, lasts, Fault::Split { side: vec![host] }),
        3 => draft.add(at, lasts, Fault::Cut { from: vec![host], to: others }),
        4 => draft.add(at, lasts, Fault::Cut { from: others, to: vec![host] }),
        5 if !both => draft.add(at, lasts, Fault::ApiDown { host }),
        _ => {}
    }
}
