//! Invariants 4, 10, 11 and 13 against what truly happened: who ran, who could reach whom.

use std::collections::BTreeMap;

use super::{Checks, Seen, Violation};
use crate::clock::{Nanos, ms};
use crate::membership::fault::{Fault, Host};
use crate::membership::world::World;

/// Nobody who, and nothing that, was disturbed within this time counts as timely. A verdict takes less: a beat
/// (1 s), slack or silence floor (3 s), query and its repetition (1.5 s), window (2 s); streams that were stalled
/// are given up after 5 s and dialled within 4 s.
pub const UNDISTURBED: Nanos = ms(20_000);

/// Bounds of a beat's age are measured with two clocks: a tenth of the longest bound at 5 % drift each, and rounding.
const CLOCKS: Nanos = ms(1);

/// A new stream counts as a proof of life at the time it comes up: its peer lived during the handshake, which takes as
/// long as this at most.
const HANDSHAKE: Nanos = ms(5_000);

/// The beat interval.
const BEAT: Nanos = ms(1_000);

/// Who runs, and since when without a break.
#[derive(Debug)]
pub struct Truth {
    /// `Ok(since)`: runs; `Err(at)`: stopped at.
    hosts: Vec<Result<Nanos, Nanos>>,
    /// The newest stream: at whom, from whom, when.
    streams: BTreeMap<(Host, Host), Nanos>,
    drift_permille: u64,
    /// When each stopped last.
    stops: Vec<Nanos>,
    /// How long the last pause of each was.
    pauses: Vec<Nanos>,
}

impl Truth {
    /// Nobody runs yet. Clocks are off by at most so many thousandths.
    pub fn new(members: usize, drift_permille: u64) -> Self {
        let (hosts, none) = (vec![Err(0); members], vec![0; members]);
        Self { hosts, streams: BTreeMap::new(), drift_permille, stops: none.clone(), pauses: none }
    }

    /// It runs from now on, as a new process.
    pub fn started(&mut self, host: Host, now: Nanos) {
        self.hosts[host] = Ok(now);
        self.pauses[host] = 0;
    }

    /// It goes on after a pause, in which it stood still, or was kept from reading and sending.
    pub fn resumed(&mut self, host: Host, stood_still: bool, now: Nanos) {
        let pause = self.hosts[host].err().filter(|_| stood_still).map_or(0, |stopped| now - stopped);
        self.pauses[host] = pause;
        self.hosts[host] = Ok(now);
    }

    /// Checks an accusation for silence: who did not run for over a beat interval has to listen for one first, as what
    /// was sent to it meanwhile waits in its sockets (rule 8).
    pub fn woke_long_ago(&self, accuser: Host, subject: Host, now: Nanos) -> Option<Violation> {
        let awake = now - self.hosts[accuser].ok()?;
        let slow = 1_000 + self.drift_permille;
        let hasty = self.pauses[accuser] > BEAT * slow / 1_000 + CLOCKS && awake < BEAT * 1_000 / slow;
        hasty.then(|| Violation {
            invariant: 11,
            at: now,
            text: format!(
                "m{accuser} accuses m{subject} {} ms after it had not run for seconds",
                awake / ms(1)
            ),
        })
    }

    /// It does not run any more.
    pub fn stopped(&mut self, host: Host, now: Nanos) {
        if self.hosts[host].is_ok() {
            self.hosts[host] = Err(now);
            self.stops[host] = now;
        }
    }

    /// A stream between the two comes up at the viewer.
    pub fn linked(&mut self, viewer: Host, peer: Host, now: Nanos) {
        self.streams.insert((viewer, peer), now);
    }

    /// Whether it ran all the time since then.
    pub fn ran_since(&self, host: Host, since: Nanos) -> bool {
        self.hosts[host].is_ok_and(|started| started <= since)
    }

    /// Checks a proof of life that says that the subject still lived at `when`.
    pub fn proves_life(&self, viewer: Host, subject: Host, when: Nanos, now: Nanos) -> Option<Violation> {
        let lived_until = match self.hosts[subject] {
            Ok(_) => now,
            Err(stopped) => stopped,
        };
        // The bound is at most three beat intervals of waiting, each measured by a clock that may be off.
        let tolerance = CLOCKS + ms(6_000) * self.drift_permille / 1_000;
        let late = |more| when > lived_until + tolerance + more;
        (late(0) && late(self.by_stream(viewer, subject, now))).then(|| Violation {
            invariant: 10,
            at: now,
            text: format!(
                "m{viewer} takes it as proven that m{subject} lived at {:.3} s, but it stopped at {:.3} s",
                when as f64 / 1e9,
                lived_until as f64 / 1e9
            ),
        })
    }
}

impl Truth {
    /// How long ago a peer may have lived last whose stream is taken as a proof of life now: during its handshake, which
    /// was over before now only if the viewer was held up since.
    fn by_stream(&self, viewer: Host, subject: Host, now: Nanos) -> Nanos {
        let Some(up) = self.streams.get(&(viewer, subject)) else { return 0 };
        let waited = self.hosts[viewer] == Ok(now) && *up >= self.stops[viewer];
        if *up == now || waited { now - up + HANDSHAKE } else { 0 }
    }
}

/// Whether a Down of a living member is one that must not be.
pub(super) fn wrongly_down(checks: &Checks, world: &World, seen: Seen) -> Option<Violation> {
    let since = seen.at.checked_sub(UNDISTURBED)?;
    let healthy = |host: Host| checks.truth.ran_since(host, since) && !checks.is_liar(host);
    let (v, s) = (seen.viewer, seen.subject);
    if world.paths.loss_percent() > 5 || !healthy(v) || !healthy(s) {
        return None;
    }
    let clear = |a: Host, b: Host| a == b || world.paths.clear_since(a, b, since);
    let all_healthy_are_clear =
        (0..world.plan.members).filter(|o| healthy(*o)).all(|o| clear(s, o) && clear(v, o));
    let text = |why: &str| format!("m{v} holds m{s} Down, which lives: {why}");
    if all_healthy_are_clear {
        let has = |what: fn(&Fault) -> bool| world.plan.faults.iter().any(|timed| what(&timed.fault));
        let liar = has(|fault| matches!(fault, Fault::Liar { .. }));
        let slow = has(|fault| matches!(fault, Fault::Slow { .. } | Fault::Freeze { .. }));
        let invariant = if liar {
            13
        } else if slow {
            11
        } else {
            4
        };
        let text = text("neither they nor the ways between healthy members were disturbed");
        return Some(Violation { invariant, at: seen.at, text });
    }
    let observers = world.rings.observers(s, |host| checks.truth.ran_since(host, since));
    let timely = observers.iter().filter(|o| healthy(**o) && clear(s, **o) && clear(v, **o));
    let timely = timely.count();
    (timely * 2 > observers.len()).then(|| Violation {
        invariant: 4,
        at: seen.at,
        text: text(&format!("{timely} of its {} observers hear it in time", observers.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_after_death_is_found() {
        let mut truth = Truth::new(2, 0);
        truth.started(1, 0);
        assert_eq!(truth.proves_life(0, 1, ms(900), ms(1_000)), None);
        truth.stopped(1, ms(1_000));
        assert_eq!(truth.proves_life(0, 1, ms(1_000), ms(5_000)), None);
        let found = truth.proves_life(0, 1, ms(1_200), ms(5_000)).unwrap();
        assert_eq!(found.invariant, 10);
        truth.linked(0, 1, ms(5_000));
        assert_eq!(truth.proves_life(0, 1, ms(5_000), ms(5_000)), None);
        assert!(truth.proves_life(0, 1, ms(7_000), ms(7_000)).is_some());
        truth.started(0, 0);
        truth.stopped(0, ms(4_900));
        truth.resumed(0, false, ms(12_000));
        assert_eq!(truth.proves_life(0, 1, ms(12_000), ms(12_000)), None, "its Hello had waited");
        assert!(truth.proves_life(0, 1, ms(12_001), ms(12_001)).is_some());
    }

    #[test]
    fn who_accuses_as_soon_as_it_wakes_is_found() {
        let mut truth = Truth::new(1, 0);
        truth.started(0, 0);
        truth.stopped(0, ms(10_000));
        truth.resumed(0, true, ms(15_000));
        assert_eq!(truth.woke_long_ago(0, 1, ms(15_200)).map(|found| found.invariant), Some(11));
        assert_eq!(truth.woke_long_ago(0, 1, ms(16_200)), None);
        truth.stopped(0, ms(20_000));
        truth.resumed(0, true, ms(20_500));
        assert_eq!(truth.woke_long_ago(0, 1, ms(20_600)), None, "a short pause");
        truth.stopped(0, ms(30_000));
        truth.resumed(0, false, ms(35_000));
        assert_eq!(truth.woke_long_ago(0, 1, ms(35_200)), None, "its timers ran on");
        truth.stopped(0, ms(40_000));
        truth.resumed(0, true, ms(45_000));
        truth.stopped(0, ms(46_000));
        truth.started(0, ms(50_000));
        assert_eq!(truth.woke_long_ago(0, 1, ms(50_200)), None, "another process");
    }

    #[test]
    fn only_who_ran_without_a_break_is_timely() {
        let mut truth = Truth::new(1, 0);
        truth.started(0, ms(10));
        assert!(truth.ran_since(0, ms(10)) && !truth.ran_since(0, ms(9)));
        truth.stopped(0, ms(20));
        assert!(!truth.ran_since(0, ms(15)));
    }
}
