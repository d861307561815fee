//! Both replicas of the leader's cluster end at once and stay away, as with a namespace that is scaled to 0.

use std::time::Duration;

use flagship_types::{FleetConfig, MemberName, Mode};
use sim::{Act, HostSpec, PayloadState, World, secs};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// a leads: three clusters, or two and a witness.
fn settled(seed: u64, witness: bool) -> World {
    let names = ["a", "b", "c"];
    let voters = names.map(|name| MemberName::new(name).expect("valid")).to_vec();
    let config = FleetConfig { mode: Mode::Quorum, voters, ..FleetConfig::default() };
    let spec = |(i, name): (usize, &'static str)| {
        let seeds: Vec<_> = names.into_iter().filter(|seed| *seed != name).collect();
        let spec = HostSpec::new(name, [3, 2, 1][i], i == A, &seeds);
        HostSpec { config: config.clone(), witness: witness && i == C, ..spec }
    };
    let hosts = names.into_iter().enumerate().map(spec).collect();
    let mut world = World::new(seed, Duration::from_millis(20), hosts);
    for host in [A, B, C] {
        world.act(&Act::Start(host));
    }
    world.run_until("a leads", secs(60.0), |w| ready(w, A) && w.leaders() == [A]);
    world.run(secs(5.0));
    world
}

fn ready(world: &World, host: usize) -> bool {
    matches!(world.payload(host), PayloadState::Ready { .. })
}

#[test]
fn the_lead_is_released_once_the_payload_is_gone() {
    for (seed, witness) in (0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut world = settled(seed, witness);
        world.act(&Act::EndReplicas(A));
        world.run_until("a's payload is gone", secs(15.0), |w| !w.payload(A).exists());
        // It says so within a second or two, and nobody waits for the 30 s that it announced.
        let took = world.run_until("b takes over", secs(60.0), |w| ready(w, B));
        assert!(took <= secs(5.0), "{took:?}\n{}", world.report());
        world.run(secs(40.0));
        assert_eq!((world.holders(), world.leaders()), (vec![B], vec![B]), "{}", world.report());
        assert_eq!(world.violations(), [], "{}", world.report());
    }
}

#[test]
fn whatever_becomes_of_the_release_there_is_one_payload() {
    for (seed, after) in (0..40).map(|seed| (seed, secs(0.2 * seed as f64))) {
        // The farewell is not heard, or a comes back before or after it.
        for back in [None, Some(secs(1.0)), Some(secs(20.0))] {
            let mut world = settled(seed, seed % 2 == 0);
            world.act(&Act::EndReplicas(A));
            world.run(after);
            for (from, to) in [(A, B), (B, A), (A, C), (C, A)] {
                world.act(&Act::Cut(from, to));
            }
            world.run_until("b takes over", secs(60.0), |w| ready(w, B));
            world.run(back.unwrap_or(secs(5.0)));
            for (from, to) in [(A, B), (B, A), (A, C), (C, A)] {
                world.act(&Act::Heal(from, to));
            }
            if back.is_some() {
                world.run(secs(10.0));
                world.act(&Act::Start(A));
            }
            world.run(secs(90.0));
            assert_eq!(world.leaders().len(), 1, "{}", world.report());
            assert_eq!(world.holders(), world.leaders(), "{}", world.report());
            assert_eq!(world.violations(), [], "{}", world.report());
        }
    }
}

#[test]
fn an_api_server_that_is_away_meanwhile_only_delays_it() {
    for seed in 0..20 {
        let mut world = settled(seed, false);
        world.act(&Act::EndReplicas(A));
        world.run(secs(1.0));
        world.act(&Act::ApiDown(A));
        world.run(secs(6.0));
        world.act(&Act::ApiUp(A));
        world.run_until("b takes over", secs(60.0), |w| ready(w, B));
        world.run(secs(40.0));
        assert_eq!((world.holders(), world.leaders()), (vec![B], vec![B]), "{}", world.report());
        assert_eq!(world.violations(), [], "{}", world.report());
    }
}
