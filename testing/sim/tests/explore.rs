//! The bounded model check of the election core. Depths are what fits into CI's two minutes; `EXPLORE_DEPTH` adds steps.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "says how much was looked at, and how long that took"
)]

use sim::explore::{Budget, Fleet, Found, Search, State, explore};

const MOST_STATES: usize = 4_000_000;

fn search(depth: u32) -> Search {
    let more = std::env::var("EXPLORE_DEPTH").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    Search { depth: depth + more, states: MOST_STATES }
}

/// All undisturbed, one leads.
fn settled(fleet: Fleet, budget: Budget) -> State {
    let mut state = State::start(fleet, budget);
    let one_leads = |state: &State| state.leaders().len() == 1;
    assert!(state.settle(400, one_leads), "one leads: {state:?}");
    // Nothing is on its way any more.
    assert!(state.settle(60, |_| true) && state.violation().is_none());
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

const CALM: Budget = Budget { crashes: 0, losses: 0, mistakes: 0 };
const CRASH: Budget = Budget { crashes: 1, losses: 0, mistakes: 0 };
const CRASH_AND_LOSS: Budget = Budget { crashes: 1, losses: 1, mistakes: 0 };
const ALL: Budget = Budget { crashes: 1, losses: 1, mistakes: 1 };

#[test]
fn two_found_a_fleet() {
    clean("two start", &State::start(Fleet::new(&[2, 1]), CALM), 12);
}

#[test]
fn two_with_a_crash() {
    clean("two, crash", &settled(Fleet::new(&[2, 1]), CRASH), 10);
}

#[test]
fn two_with_everything() {
    clean("two, all", &settled(Fleet::new(&[2, 1]), ALL), 8);
}

#[test]
fn three_with_a_crash() {
    clean("three, crash", &settled(Fleet::new(&[3, 2, 1]), CRASH), 7);
}

#[test]
fn three_with_a_crash_and_a_loss() {
    clean("three, crash and loss", &settled(Fleet::new(&[3, 2, 1]), CRASH_AND_LOSS), 6);
}
