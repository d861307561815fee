//! One run: boot, faults, quiet; what was violated, and whether the faults struck.

use std::time::Duration;

use flagship_types::{MemberName, Mode, Role};

use super::fault::Plan;
use super::plans;
use super::world::{Record, World};
use crate::clock::{Nanos, ms, nanos};
use crate::model::{Outcome, Violation};
use crate::paths::Host;

/// How long a fleet may take to come up: listening, joining, and a first handover to the best rank.
const BOOT: Nanos = ms(90_000);
/// How long it is left alone at the end: nothing but a handover to a better rank may happen in it.
const STILL: Nanos = ms(20_000);

/// Runs a plan under the eyes of all checkers.
pub fn run(plan: &Plan, seed: u64, record: Record) -> Outcome {
    let mut world = World::of(plan, seed, record);
    let mut found = Vec::new();
    if plan.faults.is_empty() {
        found.push(harness(&world, "the plan has no faults".into()));
    }
    if boot(&mut world) {
        world.begin_plan();
        let ends = world.now + nanos(plan.length()) + ms(1);
        // What a planted bug breaks first may not be what is looked for.
        while world.now < ends && goes_on(&world, record) {
            let next = ends.min(world.now + ms(500));
            world.run_until_nanos(next);
        }
        if world.violations().is_empty() {
            quiet(&mut world);
        }
    } else if world.violations().is_empty() {
        found.push(harness(&world, format!("the fleet did not come up: {}", world.standing().join("; "))));
    }
    found.extend(world.violations().iter().cloned());
    let missed = world.missed_faults();
    let struck = plan.faults.len() - missed.len();
    // Of many cuts shorter than a beat one may fall into silence.
    let may_miss = plans::TANGLED.contains(&plan.name) || plan.name == "flap";
    let asserted = if may_miss { struck > 0 } else { missed.is_empty() };
    if found.is_empty() && !asserted {
        found.push(harness(&world, format!("faults that never struck: {}", missed.join(", "))));
    }
    found.sort_by_key(|violation| violation.at);
    Outcome {
        violations: found,
        virtual_time: world.now(),
        struck: world.paths.fired.iter().sum(),
        missed,
        happenings: world.happenings,
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

/// A storm of traffic ends every run.
fn goes_on(world: &World, record: Record) -> bool {
    !world.traffic.is_exceeded() && (world.violations().is_empty() || record.goes_on())
}

fn harness(world: &World, text: String) -> Violation {
    Violation { invariant: 0, at: world.now, text }
}

/// Everybody starts; whether one leads in time and all follow it.
fn boot(world: &mut World) -> bool {
    let members: Vec<Host> = (0..world.hosts.len()).filter(|h| !world.plan.joins_later(*h)).collect();
    for host in members {
        let wait = world.draw(ms(9_000));
        world.start(host);
        world.run_until_nanos(world.now + wait);
    }
    let until = world.now + BOOT;
    while !is_settled(world) {
        if world.now >= until || !world.violations().is_empty() {
            return false;
        }
        world.run_until_nanos(world.now + ms(250));
    }
    // Links learn their delays, and faults do not always meet the same phase of the beats.
    let more = ms(4_000) + world.draw(ms(3_000));
    world.run_until_nanos(world.now + more);
    true
}

/// One leads, its payload is ready, nobody else has any, everybody who runs follows it.
fn is_settled(world: &World) -> bool {
    let parts = parts(world);
    parts.iter().all(|part| part_is_settled(world, part)) && strays(world).is_empty()
}

/// Members that run and see each other, in parts that do not.
fn parts(world: &World) -> Vec<Vec<Host>> {
    let mut left: Vec<Host> = (0..world.hosts.len()).filter(|h| world.hosts[*h].runs()).collect();
    let mut parts = Vec::new();
    while let Some(first) = left.pop() {
        let mut part = vec![first];
        let mut next = 0;
        while next < part.len() {
            let from = part[next];
            let (near, far): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|to| world.paths.open(from, *to) && world.paths.open(*to, from));
            part.extend(near);
            left = far;
            next += 1;
        }
        part.sort_unstable();
        parts.push(part);
    }
    parts.sort();
    parts
}

/// May lead: its object says so and its API server answers. The name of another is refused.
fn can_lead(world: &World, host: Host) -> bool {
    let h = &world.hosts[host];
    h.runs()
        && h.spec.candidate
        && !h.spec.witness
        && h.reaches_api()
        && !h.invalid
        && h.spec.name == h.spec.member
}

/// By what is stored and what runs: it leads, and its payload is ready.
fn leads(world: &World, host: Host) -> bool {
    let h = &world.hosts[host];
    let record = h.durable.as_ref().map(|record| &record.election);
    let holds = record.is_some_and(|record| record.held.is_some() && record.stopping.is_none());
    holds && h.runs() && h.payload.is_ready(world.now) && world.role(host) == Some(Role::Leader)
}

/// In Quorum: of the voters of the newest configuration a majority is in this part.
fn has_majority(world: &World, part: &[Host]) -> bool {
    let configs = world.hosts.iter().filter_map(|host| Some(&host.durable.as_ref()?.election.config));
    let Some(newest) = configs.max_by_key(|config| config.version) else { return true };
    let is_here = |voter: &&MemberName| {
        part.iter().any(|host| {
            let spec = &world.hosts[*host].spec;
            spec.name == spec.member && spec.member() == **voter
        })
    };
    newest.mode == Mode::Availability
        || newest.voters.iter().filter(is_here).count() > newest.voters.len() / 2
}

fn part_is_settled(world: &World, part: &[Host]) -> bool {
    if !has_majority(world, part) {
        return !part.iter().any(|host| leads(world, *host));
    }
    if !part.iter().any(|host| can_lead(world, *host)) {
        return true;
    }
    let leaders: Vec<_> = part.iter().filter(|host| leads(world, **host)).collect();
    let [leader] = leaders[..] else { return false };
    let name = world.hosts[*leader].spec.member();
    part.iter().all(|host| {
        let follows = world.machine(*host).and_then(|machine| machine.election().leader());
        let is_twin = world.hosts[*host].spec.name != world.hosts[*host].spec.member;
        is_twin || follows.is_some_and(|(leader, _)| leader == name)
    })
}

/// Payloads where nobody leads, though the daemon runs and its API server answers.
fn strays(world: &World) -> Vec<Host> {
    let is_stray = |host: &Host| {
        let h = &world.hosts[*host];
        h.runs() && h.reaches_api() && !h.stuck && h.payload.exists(world.now) && !leads(world, *host)
    };
    (0..world.hosts.len()).filter(is_stray).collect()
}

/// The printed worst case: `worstCaseFailoverSeconds.crash`, with the silence floor and the restart grace stretched as
/// the elections did.
fn worst_case(world: &World) -> Nanos {
    let specs = || world.hosts.iter().map(|host| &host.spec.config);
    let grace = specs().map(|config| nanos(config.restart_grace)).max().unwrap_or_default();
    let caution = u64::from(world.caution);
    let cap = ms(60_000);
    let floor = (ms(3_000) * caution).min(cap);
    let query = 2 * nanos(2 * world.plan.network.one_way) + ms(50);
    let crash = ms(1_000) + floor + query + ms(2_000) + (grace * caution).min(cap.max(grace)) + ms(1_000);
    let quorum = specs().filter(|config| config.mode == Mode::Quorum);
    let leased = quorum.map(|config| crash.max(nanos(config.lease)) + nanos(config.stop_grace.mul_f64(1.05)));
    leased.max().unwrap_or(crash)
}

/// Beside the worst case of a failover: members dial each other at least every 5 s, a pause settles for 6 s, what does
/// not answer is asked for and given up one after the other, a stop and a start of the payload.
const MEETING: Nanos = ms(20_000);

/// All faults are over: within the bound one leads in each part, and then it stays so.
fn quiet(world: &mut World) {
    let began = world.now;
    let until = began + worst_case(world) + MEETING + deleting(world);
    // What began before the faults' end may still be acted upon: a suspicion ends, a grace is over.
    world.run_until_nanos(began + worst_case(world));
    while !is_settled(world) {
        if !world.violations().is_empty() {
            return;
        }
        if world.now >= until {
            let invariant = if parts(world).len() > 1 { 7 } else { 9 };
            let took = Duration::from_nanos(world.now - began);
            let text = format!("not settled after {took:?}: {}", world.standing().join("; "));
            return world.checks.add(invariant, world.now, text);
        }
        world.run_until_nanos(world.now + ms(250));
    }
    stay(world);
}

/// Pods may take this long to end, twice: a loser's, and those of a handover to a better rank.
fn deleting(world: &World) -> Nanos {
    let slowest = world.hosts.iter().map(|host| nanos(host.spec.payload[1] + host.spec.payload[2])).max();
    2 * slowest.unwrap_or_default()
}

/// Only a better rank moves the lead now, once, and never are there two.
fn stay(world: &mut World) {
    let until = world.now + STILL;
    let (mut moves, mut leader) = (0, leaders(world));
    while world.now < until && world.violations().is_empty() {
        world.run_until_nanos(world.now + ms(100));
        for part in parts(world) {
            let holders = part.iter().filter(|host| world.hosts[**host].payload.exists(world.now)).count();
            if holders > 1 {
                let text = format!("two payloads after quiet: {}", world.standing().join("; "));
                return world.checks.add(9, world.now, text);
            }
        }
        let now = leaders(world);
        if now != leader && is_settled(world) {
            (moves, leader) = (moves + 1, now);
        }
    }
    if moves > 1 && world.violations().is_empty() {
        world.checks.add(9, world.now, format!("the lead moved {moves} times after quiet"));
    }
    // A handover under way may end.
    let last = world.now + MEETING + deleting(world);
    while !is_settled(world) && world.now < last && world.violations().is_empty() {
        world.run_until_nanos(world.now + ms(250));
    }
    if !is_settled(world) && world.violations().is_empty() {
        let text = format!("not settled after all: {}", world.standing().join("; "));
        world.checks.add(9, world.now, text);
    }
}

fn leaders(world: &World) -> Vec<Host> {
    (0..world.hosts.len()).filter(|host| leads(world, *host)).collect()
}
