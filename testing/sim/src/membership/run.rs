//! One run: boot, faults, quiet; what was violated, and whether the faults struck.

use std::time::Duration;

pub use crate::model::Outcome;
use crate::model::Violation;

use super::checks::settling::{self, Bounds};
use super::fault::{Fault, Plan};
use super::plans;
use super::world::{Record, World};
use crate::clock::{Nanos, ms, nanos};

/// How long a fleet is left alone at the end: nothing may change in it any more. What the last fault stirred up ends in
/// time: a suspicion after 2 s, a question on behalf of a stand-in 3 s later, and 10 s after that the link it asked for.
const STILL: Nanos = ms(17_000);
/// Where many more died than live, the living take over those that they did not observe in turns of two or three each; a
/// turn takes a probe, queries that nobody answers and a window.
const TURN: Nanos = ms(1_500);

/// Runs a plan under the eyes of all checkers.
pub fn run(plan: &Plan, seed: u64, record: Record) -> Outcome {
    let mut world = World::new(plan, seed, Record { checks: true, ..record });
    let mut found = Vec::new();
    if plan.faults.is_empty() {
        found.push(harness(&world, "the plan has no faults"));
    }
    if boot(&mut world) {
        world.begin_plan();
        found.extend(through_the_plan(&mut world));
        if found.is_empty() {
            found.extend(quiet(&mut world));
        }
    } else {
        found.push(harness(&world, "the fleet did not come up"));
    }
    let missed: Vec<&'static str> = missed(&world);
    found.extend(world.found());
    // Faults of a run that ends badly may be cut short. In a mix one may keep another from striking; not all of them.
    let struck = plan.faults.len() - missed.len();
    let asserted = if plan.name == plans::MIX { struck > 0 } else { missed.is_empty() };
    if found.is_empty() && !asserted {
        found.push(harness(&world, &format!("faults that never struck: {}", missed.join(", "))));
    }
    found.sort_by_key(|violation| violation.at);
    Outcome {
        violations: found,
        virtual_time: Duration::from_nanos(world.now()),
        struck: world.fired().iter().sum(),
        missed,
        happenings: world.tally().happenings,
        digest: world.digest(),
        timeline: world.timeline(),
    }
}

/// Invariant 12: the same plan and seed give the same trace, to the byte.
pub fn run_twice(plan: &Plan, seed: u64, record: Record) -> Option<Violation> {
    let record = Record { digest: true, ..record };
    let (first, second) = (run(plan, seed, record), run(plan, seed, record));
    (first.digest != second.digest || first.happenings != second.happenings).then(|| Violation {
        invariant: 12,
        at: 0,
        text: format!(
            "two runs differ: digest {:016x?} after {} events, {:016x?} after {}",
            first.digest, first.happenings, second.digest, second.happenings
        ),
    })
}

fn harness(world: &World, text: &str) -> Violation {
    Violation { invariant: 0, at: world.now(), text: text.into() }
}

/// Everybody starts; whether all know all in time.
fn boot(world: &mut World) -> bool {
    let limit = Bounds::new(world.plan.members, world.plan.network.one_way).recovery + ms(10_000);
    world.run_until(ms(1_500));
    if world.run_until_holds(ms(250), limit, World::complete).is_none() {
        return false;
    }
    // Links learn their delays, and the faults do not always meet the same phase of the beats.
    let more = world.draw(ms(3_000));
    world.run_until(world.now() + ms(4_000) + more);
    true
}

/// Runs the faults. Crashes for good, in plans where nothing else is wrong, must be known within the bound.
fn through_the_plan(world: &mut World) -> Vec<Violation> {
    let mut found = Vec::new();
    let began = world.now();
    let bounds = Bounds::new(world.plan.members, world.plan.network.one_way);
    let ends = began + nanos(world.plan.length()) + ms(1);
    let only_crashes =
        world.plan.faults.iter().all(|timed| matches!(timed.fault, Fault::Crash { back: None, .. }));
    let mut due = ends;
    if only_crashes {
        let last = world.plan.faults.iter().map(|timed| timed.at).max().unwrap_or_default();
        due = began + nanos(last) + bounds.detection;
        let survivors = world.plan.members.saturating_sub(world.plan.faults.len());
        due += TURN * (world.plan.faults.len() / survivors.max(1) / 2) as u64;
    }
    while world.now() < ends {
        world.run_until(ends.min(world.now() + ms(500)));
        found.extend(settling::bounded(world, false));
        if !found.is_empty() || world.has_found() {
            return found;
        }
    }
    if only_crashes {
        world.run_until(due);
        found.extend(
            dead_for_good(world).into_iter().filter_map(|dead| settling::crash_is_known(world, dead)),
        );
    }
    found
}

/// All faults are over: within the bound views are full and equal, the dead are Down, and then nothing changes.
fn quiet(world: &mut World) -> Vec<Violation> {
    if world.has_found() {
        return Vec::new();
    }
    let bounds = Bounds::new(world.plan.members, world.plan.network.one_way);
    let lossy = world.plan.network.lost_per_mille > 0;
    let until = world.now() + bounds.recovery;
    let settled = |world: &World| {
        world.coming_back == 0
            && settling::views(world).is_empty()
            && dead_for_good(world).iter().all(|dead| settling::crash_is_known(world, *dead).is_none())
            && settling::bounded(world, true).is_none()
    };
    while world.now() < until && !world.has_found() && !settled(world) {
        world.run_until(until.min(world.now() + ms(500)));
    }
    if world.has_found() {
        return Vec::new();
    }
    let mut found = still_wrong(world);
    if found.is_empty() && !lossy {
        world.run_until(world.now() + STILL);
        found = still_wrong(world);
    }
    found
}

fn still_wrong(world: &World) -> Vec<Violation> {
    let mut found = settling::views(world);
    found.extend(dead_for_good(world).into_iter().filter_map(|dead| settling::crash_is_known(world, dead)));
    found.extend(settling::bounded(world, true));
    found
}

fn dead_for_good(world: &World) -> Vec<usize> {
    (0..world.plan.members).filter(|host| world.was_started(*host) && !world.lives(*host)).collect()
}

fn missed(world: &World) -> Vec<&'static str> {
    let faults = world.plan.faults.iter().zip(world.fired());
    faults.filter(|(_, fired)| **fired == 0).map(|(timed, _)| timed.fault.kind()).collect()
}
