//! Random fleets under random faults: whatever happened, after quiet there is one leader with one payload.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use sim::{HostSpec, PayloadState, Plan, World, secs};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Enough for every backoff between handovers (a minute after an aborted one) and doubled waits (60 s).
const QUIET: Duration = Duration::from_secs(240);

fn run(seed: u64) {
    let mut rng = Pcg64::seed_from_u64(seed);
    let size = rng.random_range(2..=NAMES.len());
    let hosts: Vec<_> = (0..size)
        .map(|i| HostSpec::new(NAMES[i], rng.random_range(1..4), i == 0, if i == 0 { &[] } else { &["a"] }))
        .collect();
    let mut world = World::new(seed, Duration::from_millis(rng.random_range(1..60)), hosts);
    for host in 0..size {
        world.fault(&sim::Fault::Start(host));
        world.run(secs(rng.random_range(0.0..9.0)));
    }
    world.run_until("a first leader", secs(90.0), |w| w.leaders().len() == 1 && w.holders().len() == 1);
    let episodes = rng.random_range(1..8);
    let plan = Plan::random(size, episodes, &mut rng);
    let mut at = Duration::ZERO;
    for (when, fault) in &plan.faults {
        world.run(*when - at);
        at = *when;
        world.fault(fault);
    }
    assert_eq!(world.faults_fired(), size + plan.faults.len(), "every fault that was asked for fired");
    for host in 0..size {
        world.fault(&sim::Fault::Thaw(host));
        world.fault(&sim::Fault::ApiUp(host));
        world.fault(&sim::Fault::Start(host));
    }
    for a in 0..size {
        for b in 0..size {
            world.fault(&sim::Fault::Heal(a, b));
        }
    }
    world.run(QUIET);
    let leaders = world.leaders();
    assert_eq!(leaders.len(), 1, "leaders after quiet, plan {plan:?}\n{}", world.report());
    assert_eq!(
        world.holders(),
        leaders,
        "the payload is where the leader is, plan {plan:?}\n{}",
        world.report()
    );
    assert!(matches!(world.payload(leaders[0]), PayloadState::Ready { .. }), "{}", world.report());
    assert_eq!(world.violations.found(), [], "plan {plan:?}\n{}", world.report());
}

#[test]
fn one_leader_with_one_payload_after_quiet() {
    let first = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok());
    let count: u64 = std::env::var("SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(150);
    match first {
        Some(seed) => run(seed),
        None => (0..count).for_each(run),
    }
}
