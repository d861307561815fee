//! The bounded model check of the election core. The depths are what fits into CI's two minutes; `EXPLORE_DEPTH` adds
//! steps to each.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "says how much was looked at, and how long that took"
)]

use sim::explore::{Budget, Fleet, Found, Search, State, explore};

const MOST_STATES: usize = 4_000_000;

const CALM: Budget = Budget { crashes: 0, losses: 0, mistakes: 0 };
const CRASH: Budget = Budget { crashes: 1, losses: 0, mistakes: 0 };
const CRASH_AND_LOSS: Budget = Budget { crashes: 1, losses: 1, mistakes: 0 };
const ALL: Budget = Budget { crashes: 1, losses: 1, mistakes: 1 };

fn search(depth: u32) -> Search {
    let more = std::env::var("EXPLORE_DEPTH").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    Search { depth: depth + more, states: MOST_STATES }
}

/// All undisturbed, one leads.
fn settled(fleet: Fleet, budget: Budget) -> State {
    let mut state = State::start(fleet, budget);
    let one_leads = |state: &State| state.leaders().len() == 1;
    assert!(state.settle(600, one_leads), "one leads: {state:?}");
    // Nothing is on its way any more.
    assert!(state.settle(60, |_| true) && state.violation().is_none());
    state
}

/// The leader is gone, and the others are about to elect another.
fn orphaned(fleet: Fleet, budget: Budget) -> State {
    let mut state = settled(fleet, budget);
    assert!(state.lose_leader(600), "somebody asks for the lead: {state:?}");
    assert_eq!(state.violation(), None);
    state
}

fn clean(what: &str, start: &State, depth: u32) -> Found {
    let began = std::time::Instant::now();
    let found = explore(start, search(depth));
    println!(
        "{what}: depth {}, {} states, {} steps, {:.1} s",
        search(depth).depth,
        found.states,
        found.steps,
        began.elapsed().as_secs_f64()
    );
    assert_eq!(found.violation, None, "{what}");
    assert!(found.complete, "{what}: more than {MOST_STATES} states");
    found
}

#[test]
fn two_found_a_fleet() {
    clean("two start", &State::start(Fleet::new(&[2, 1]), CALM), 13);
}

#[test]
fn two_with_everything() {
    clean("two, all", &settled(Fleet::new(&[2, 1]), ALL), 10);
    clean("two, crash", &settled(Fleet::new(&[2, 1]), CRASH), 13);
}

#[test]
fn three_with_a_crash_and_a_loss() {
    clean("three, crash and loss", &settled(Fleet::new(&[3, 2, 1]), CRASH_AND_LOSS), 8);
}

#[test]
fn three_without_their_leader() {
    clean("three, leader gone, crash", &orphaned(Fleet::new(&[3, 2, 2]), CRASH), 8);
}

#[test]
fn quorum_of_two_and_a_witness() {
    let fleet = || Fleet::new(&[2, 1, 0]).in_quorum(true);
    clean("Quorum, two and a witness, crash and loss", &settled(fleet(), CRASH_AND_LOSS), 9);
    clean("Quorum, two and a witness, leader gone, crash and loss", &orphaned(fleet(), CRASH_AND_LOSS), 8);
}

#[test]
fn quorum_of_three() {
    let fleet = || Fleet::new(&[2, 1, 1]).in_quorum(false);
    clean("Quorum, three, crash", &settled(fleet(), CRASH), 9);
    clean("Quorum, three, leader gone, crash", &orphaned(fleet(), CRASH), 8);
}

/// A model check that cannot fail proves nothing: with a bug in the core it finds the way to what the bug breaks.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_found() {
    use flagship_election::PlantedBug;

    let with = |fleet: Fleet, bug| Fleet { planted: Some(bug), ..fleet };
    let two = || Fleet::new(&[2, 1]);
    let quorum = || Fleet::new(&[2, 1, 1]).in_quorum(false);
    for (bug, start, depth) in [
        (PlantedBug::RunsUnrecorded, State::start(with(two(), PlantedBug::RunsUnrecorded), CALM), 16),
        (PlantedBug::GrantsUnrecorded, orphaned(with(quorum(), PlantedBug::GrantsUnrecorded), CRASH), 14),
        (PlantedBug::GrantsTwice, orphaned(with(quorum(), PlantedBug::GrantsTwice), CALM), 14),
    ] {
        let found = explore(&start, Search { depth, states: MOST_STATES });
        println!("{bug:?}: {} states, {:?}", found.states, found.violation);
        assert!(found.violation.is_some(), "{bug:?}");
    }
}
