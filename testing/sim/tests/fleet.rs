//! The simulator of whole fleets: a bounded hunt, determinism, a shrinker that shrinks, and checkers that catch what is
//! planted in the election core.

use sim::fleet::fault::Plan;
use sim::fleet::run::{run, run_twice};
use sim::fleet::{Fleet, Record, plans};
use sim::hunt::{Hunt, hunt};

#[test]
fn a_bounded_hunt_finds_nothing() {
    let job = Hunt { seeds: 0..1500, members: None, plan: None, threads: 2, stop_at_first: false };
    let bag = hunt(&Fleet, &job, |_| true);
    let found: Vec<_> = bag.catches.values().map(|c| (c.seed, c.plan.name, &c.violation)).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(bag.runs(), 1500);
    assert_eq!(bag.plans.len(), plans::KINDS.len(), "all plans were drawn: {:?}", bag.plans.keys());
    assert!(bag.plans.values().all(|sum| sum.struck >= sum.seeds), "faults struck: {:#?}", bag.plans);
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_does_not() {
    for name in ["mix", "operator", "freeze", "loss"] {
        let plan = plans::draw(7, plans::by_name(name), Some(4));
        assert_eq!(run_twice(&plan, 7, Record::default()), None, "{name}");
        let record = Record { digest: true, ..Record::default() };
        assert_ne!(run(&plan, 7, record).digest, run(&plan, 8, record).digest, "{name}");
    }
}

#[test]
fn a_plan_without_faults_and_one_whose_faults_do_not_strike_fail() {
    let plan = plans::draw(1, plans::by_name("silence"), Some(3));
    let empty = Plan { faults: Vec::new(), ..plan.clone() };
    assert_eq!(run(&empty, 1, Record::default()).violations[0].invariant, 0);
    let mut dead_twice = plan;
    dead_twice.faults.push(dead_twice.faults[0].clone());
    let outcome = run(&dead_twice, 1, Record::default());
    assert_eq!((outcome.violations[0].invariant, outcome.missed), (0, vec!["crash"]));
}

/// Seeds on which the hunt found something once.
#[test]
fn what_was_found_stays_fixed() {
    for seed in [2588, 5602, 5903, 19822] {
        let plan = plans::draw(seed, None, None);
        assert_eq!(run(&plan, seed, Record::default()).violations, [], "seed {seed}");
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_caught() {
    use sim::bugs::{Buggy, catch};
    use sim::fleet::Fleet;

    let missed: Vec<_> =
        Fleet::PLANTED.iter().filter(|planted| catch(&Fleet, planted, 0..600).is_none()).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
