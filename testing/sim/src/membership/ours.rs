//! This project's core, measured by the same cases as its peers.

use std::time::Duration;

use super::fault::{Block, Fault, Host, Network, Plan, Timed};
use super::rows::{Case, PeerModel, Scenario};
use super::world::{Record, World};
use crate::clock::{Nanos, ms, nanos};

/// A fleet runs so long before anything is measured, so that links have learnt their delays.
const SETTLE: Nanos = ms(12_000);
/// And so long between two crashes in one fleet.
const BETWEEN: Nanos = ms(5_000);
/// Nothing is waited for longer.
const LIMIT: Nanos = ms(600_000);

/// The core of `flagship-membership`, over streams that are sent again when lost.
#[derive(Debug, Clone, Copy)]
pub struct Flagship;

impl PeerModel for Flagship {
    fn name(&self) -> &'static str {
        "flagship"
    }

    fn supports(&self, _scenario: Scenario, _members: usize) -> bool {
        true
    }

    fn measure_often(&self, case: &Case, times: u64) -> Vec<Option<f64>> {
        match case.scenario {
            // A large fleet takes minutes of real time to start, and goes on without one of its members.
            Scenario::SilentCrash => crashes(case, 1, false, times),
            _ => (0..times).map(|more| self.measure(&Case { seed: case.seed + more, ..*case })).collect(),
        }
    }

    fn measure(&self, case: &Case) -> Option<f64> {
        match case.scenario {
            Scenario::SilentCrash => crash(case, 1, false),
            Scenario::CrashBesideWitness => crash(case, 1, false),
            Scenario::ProcessExit => crash(case, 1, true),
            Scenario::SeveralAtOnce { dead } => crash(case, dead, false),
            Scenario::FalseDowns { loss_percent, cold } => Some(false_downs(case, loss_percent, cold)),
            Scenario::SlowMembers { block } => Some(slow_members(case, block)),
            Scenario::SteadyPayload => Some(steady_payload(case)),
            Scenario::Boot => boot(case),
        }
    }
}

fn plan(case: &Case, warm: bool, loss_percent: u32, faults: Vec<Fault>) -> Plan {
    let network = Network { one_way: case.one_way, jitter: case.jitter, lost_per_mille: loss_percent * 10 };
    let lasts = case.duration + Duration::from_secs(60);
    let timed = |fault| Timed { at: Duration::ZERO, lasts, fault };
    let faults = faults.into_iter().map(timed).collect();
    // A fleet that knows itself starts as one: what it would say of those that come later is not what is measured.
    let starts_within = Duration::from_secs(u64::from(!warm));
    Plan { name: "report", members: case.members, network, warm, starts_within, faults }
}

/// A fleet that has been left alone for a while, at a random phase of its beats.
fn settled(case: &Case, plan: &Plan, record: Record) -> World {
    let mut world = World::new(plan, case.seed, record);
    let phase = world.draw(ms(1_000));
    world.run_until(SETTLE + phase);
    world
}

fn crash(case: &Case, dead: usize, reset: bool) -> Option<f64> {
    crashes(case, dead, reset, 1).pop().flatten()
}

/// One crash after the other in the same fleet, which settles in between.
fn crashes(case: &Case, dead: usize, reset: bool, times: u64) -> Vec<Option<f64>> {
    let mut world = settled(case, &plan(case, true, 0, Vec::new()), Record::default());
    let witnesses = usize::from(case.scenario == Scenario::CrashBesideWitness);
    let mut hosts: Vec<Host> = (0..case.members).collect();
    let mut took = Vec::new();
    for time in 0..times {
        if time > 0 {
            let phase = world.draw(ms(1_000));
            world.run_until(world.now() + BETWEEN + phase);
        }
        if !world.complete() {
            took.push(None);
            continue;
        }
        let mut dying = Vec::new();
        for _ in 0..dead {
            let place = world.draw((hosts.len() - witnesses) as u64) as usize;
            dying.push(hosts.swap_remove(place));
        }
        took.push(detection(&mut world, &hosts, &dying, reset));
    }
    took
}

/// Kills these, and waits until the last of the others holds the last of them Down.
fn detection(world: &mut World, survivors: &[Host], dying: &[Host], reset: bool) -> Option<f64> {
    let at = world.now();
    for host in dying {
        world.kill(*host, reset);
    }
    // The dead said something of each other before they died, maybe.
    let by_all = |world: &World, dead: Host| {
        world.tally().viewers_holding_down(dead) >= survivors.len()
            && survivors.iter().all(|viewer| world.tally().holds_down(*viewer, dead))
    };
    world.run_until_holds(ms(10), LIMIT, |world| dying.iter().all(|dead| by_all(world, *dead)))?;
    let downs = world.tally().downs.iter();
    let last = downs.filter(|v| dying.contains(&v.subject) && survivors.contains(&v.viewer));
    let last = last.map(|verdict| verdict.at).max()?;
    Some((last - at) as f64 / 1e9)
}

fn false_downs(case: &Case, loss_percent: u32, cold: bool) -> f64 {
    let faults = if cold { vec![Fault::ColdLinks { every: Duration::from_secs(10) }] } else { Vec::new() };
    let mut world = settled(case, &plan(case, true, loss_percent, faults), Record::default());
    let before = world.tally().downs.len();
    world.begin_plan();
    world.run_until(world.now() + nanos(case.duration));
    (world.tally().downs.len() - before) as f64
}

/// The first eighth is slow.
fn slow_members(case: &Case, block: Block) -> f64 {
    let slow = case.members / 8;
    let mut plan = plan(case, true, 0, Vec::new());
    let (blocked, period) = (Duration::from_millis(8_200), Duration::from_millis(9_200));
    let mut world = settled(case, &plan, Record::default());
    for host in 0..slow {
        // Each in a phase of its own.
        let at = Duration::from_nanos(world.draw(nanos(period)));
        let lasts = case.duration + Duration::from_secs(60);
        plan.faults.push(Timed { at, lasts, fault: Fault::Slow { host, block, blocked, period } });
    }
    world.replace_plan(&plan);
    world.begin_plan();
    world.run_until(world.now() + nanos(case.duration));
    let healthy = world.tally().downs.iter().filter(|v| v.viewer >= slow && v.subject >= slow);
    healthy.count() as f64
}

fn steady_payload(case: &Case) -> f64 {
    let record = Record { bytes: true, ..Record::default() };
    let mut world = settled(case, &plan(case, true, 0, Vec::new()), record);
    // Links that the start had opened and nobody needs are closed after ten seconds.
    world.run_until(world.now() + SETTLE);
    let bytes = |world: &World| world.tally().bytes.unwrap_or(0);
    let before = bytes(&world);
    world.run_until(world.now() + nanos(case.duration));
    (bytes(&world) - before) as f64 / case.members as f64 / case.duration.as_secs_f64()
}

/// From the first start, within a second of which all others follow.
fn boot(case: &Case) -> Option<f64> {
    let mut world = World::new(&plan(case, false, 0, Vec::new()), case.seed, Record::default());
    world.run_until(ms(1_000));
    let complete = |world: &World| world.living().len() == case.members && world.complete();
    let more = world.run_until_holds(ms(20), LIMIT, complete)?;
    Some((ms(1_000) + more) as f64 / 1e9)
}
