//! The membership simulator: a bounded hunt, determinism, a shrinker that shrinks, and checkers that catch what is
//! planted in the core.

use std::collections::BTreeSet;

use sim::hunt::{Hunt, hunt};
use sim::membership::fault::{Fault, Plan};
use sim::membership::rows::{Case, PeerModel, Scenario};
use sim::membership::run::{run, run_twice};
use sim::membership::{Cores, Record, ours, plans};

#[test]
fn a_bounded_hunt_finds_nothing() {
    let job = Hunt { seeds: 0..300, members: None, plan: None, threads: 2, stop_at_first: false };
    let bag = hunt(&Cores, &job, |_| true);
    let found: Vec<_> = bag.catches.values().map(|c| (c.seed, c.plan.name, &c.violation)).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(bag.runs(), 300);
    assert!(bag.plans.len() >= 20, "nearly all plans were drawn: {:?}", bag.plans.keys());
    assert!(bag.plans.values().all(|sum| sum.struck >= sum.seeds), "faults struck: {:#?}", bag.plans);
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_does_not() {
    for name in ["mix", "liar", "churn", "loss"] {
        let plan = plans::draw(7, plans::by_name(name), Some(9));
        assert_eq!(run_twice(&plan, 7, Record::default()), None, "{name}");
        let record = Record { digest: true, ..Record::default() };
        assert_ne!(run(&plan, 7, record).digest, run(&plan, 8, record).digest, "{name}");
    }
}

#[test]
fn a_plan_without_faults_and_one_whose_faults_do_not_strike_fail() {
    let empty = Plan { faults: Vec::new(), ..plans::draw(1, plans::by_name("silence"), Some(3)) };
    assert_eq!(run(&empty, 1, Record::default()).violations[0].invariant, 0);
    let mut dead_twice = plans::draw(1, plans::by_name("silence"), Some(3));
    dead_twice.faults.push(dead_twice.faults[0].clone());
    let outcome = run(&dead_twice, 1, Record::default());
    assert_eq!((outcome.violations[0].invariant, outcome.missed), (0, vec!["crash"]));
}

#[test]
fn a_crash_is_found_and_told_as_a_story() {
    let plan = plans::draw(3, plans::by_name("silence"), Some(4));
    let Fault::Crash { host, .. } = plan.faults[0].fault else { panic!("{plan:?}") };
    let outcome = run(&plan, 3, Record { trace: true, ..Record::default() });
    assert_eq!(outcome.violations, []);
    let holds = format!("holds m{host} Down");
    let who = |line: &String| line.split_whitespace().nth(1).map(str::to_owned);
    let tell = outcome.timeline.iter().filter(|line| line.contains(&holds)).filter_map(who);
    assert_eq!(tell.collect::<BTreeSet<_>>().len(), 3, "{:#?}", outcome.timeline);
    assert!(outcome.timeline.iter().any(|line| line.contains("FAULT")));
}

#[test]
fn ours_detects_within_the_targets() {
    for (members, most) in [(3, 1.5), (8, 1.5), (2, 4.6)] {
        for seed in 0..5 {
            let took = ours::Flagship.measure(&Case::new(Scenario::SilentCrash, members, seed)).unwrap();
            assert!((0.3..=most).contains(&took), "{members} members, seed {seed}: {took} s");
        }
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_caught() {
    use sim::bugs::{Buggy, catch};
    use sim::membership::Cores;

    let missed: Vec<_> =
        Cores::PLANTED.iter().filter(|planted| catch(&Cores, planted, 0..100).is_none()).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
