//! How soon a crash is Down, and that nothing else is.

use std::collections::BTreeSet;
use std::time::Duration;

use flagship_membership::{Event, Evidence, Input, State};
use flagship_types::{Epoch, Incarnation};

use crate::checks::{Change, false_downs, shrinking_records};
use crate::network::{Net, Process, at, ms, name};

/// Crashes the last `crashed` members and measures until every survivor holds all of them Down.
pub(crate) fn time_to_down(n: usize, crashed: usize, process: Process, seed: u64) -> Duration {
    let mut net = Net::settled(n, seed);
    let offset = net.draw(ms(1000));
    net.run_for(offset);
    net.changes.clear();
    let survivors = n - crashed;
    for victim in survivors..n {
        net.kill(victim, process);
    }
    let down =
        |net: &Net| (0..survivors).all(|o| (survivors..n).all(|v| net.state(o, v) == Some(State::Down)));
    let took = net.run_while(ms(20_000), |net| !down(net));
    assert_eq!(false_downs(&net.changes, &(survivors..n).collect()), [], "seed {seed}");
    assert_eq!(shrinking_records(&net.changes), [], "seed {seed}");
    took
}

pub(crate) fn quantiles(
    n: usize,
    crashed: usize,
    process: Process,
    runs: u64,
) -> (Duration, Duration, Duration) {
    let mut times: Vec<_> = (0..runs).map(|seed| time_to_down(n, crashed, process, seed)).collect();
    times.sort();
    let last = times.len() - 1;
    let found = (times[last / 2], times[last * 99 / 100], times[last]);
    println!("N={n} crashed={crashed} {process:?}: p50 {:?} p99 {:?} max {:?}", found.0, found.1, found.2);
    found
}

#[test]
fn a_silent_crash_is_down_within_one_and_a_half_seconds() {
    for n in [3, 4, 5, 8] {
        let (p50, p99, _) = quantiles(n, 1, Process::Silent, 60);
        assert!(p50 <= ms(1_000) && p99 <= ms(1_500), "N={n}: {p50:?} {p99:?}");
    }
}

#[test]
fn a_lone_observer_waits_for_the_silence_floor() {
    let (_, p99, max) = quantiles(2, 1, Process::Silent, 60);
    assert!(p99 <= ms(4_600) && max <= ms(4_700), "{p99:?} {max:?}");
    // Not earlier than the floor either.
    assert!((0..20).all(|seed| time_to_down(2, 1, Process::Silent, seed) > ms(3_000)));
}

#[test]
fn an_exit_is_down_within_half_a_second() {
    for n in [2, 3, 8] {
        let (p50, p99, _) = quantiles(n, 1, Process::Killed, 60);
        assert!(p50 <= ms(400) && p99 <= ms(500), "N={n}: {p50:?} {p99:?}");
    }
}

#[test]
fn the_evidence_of_an_exit_reaches_every_observer() {
    for n in [2, 3, 5] {
        let mut net = Net::settled(n, 4);
        net.kill(n - 1, Process::Killed);
        net.run_for(ms(2_000));
        for observer in 0..n - 1 {
            let view = net.core(observer).member(&name(n - 1)).unwrap();
            assert_eq!((view.state, view.evidence), (State::Down, Some(Evidence::Exit)), "N={n} m{observer}");
        }
    }
}

#[test]
fn several_at_once_are_down_at_every_survivor() {
    for (n, crashed) in [(3, 2), (5, 4), (8, 7)] {
        let (_, _, max) = quantiles(n, crashed, Process::Silent, 20);
        // A last survivor waits for the floor once, and takes over those it did not observe in turns.
        assert!(max <= if n <= 5 { ms(5_000) } else { ms(7_000) }, "{max:?}");
        let (_, _, max) = quantiles(n, crashed, Process::Killed, 20);
        // Who observed nobody of those that ended takes over from observers that ended too.
        assert!(max <= ms(1_500), "{max:?}");
    }
    for (n, crashed) in [(5, 2), (8, 4)] {
        let (_, _, max) = quantiles(n, crashed, Process::Silent, 20);
        assert!(max <= ms(3_000), "{max:?}");
    }
}

const LOSSY_MS: u64 = 400_000;

#[test]
fn healthy_members_on_a_lossy_network_are_never_down() {
    for seed in 0..6 {
        let mut net = Net::settled(4, seed);
        net.lost_per_mille = 50;
        net.run_for(ms(LOSSY_MS));
        assert!(net.retransmitted > 150, "the loss that was asked for did not happen");
        assert_eq!(false_downs(&net.changes, &BTreeSet::new()), [], "seed {seed}");
        assert_eq!(shrinking_records(&net.changes), []);
    }
}

#[test]
fn a_slow_observer_takes_nobody_down() {
    for seed in 0..6 {
        let mut net = Net::settled(4, seed);
        for _ in 0..20 {
            net.freeze(3, ms(8_200));
            net.run_for(ms(9_200));
        }
        // Others may hold the slow one Down; nobody healthy is Down, not even in the slow one's view.
        assert_eq!(false_downs(&net.changes, &BTreeSet::from([3])), [], "seed {seed}");
        assert!(net.core(3).stats().pauses >= 19, "{:?}", net.core(3).stats());
        net.run_for(ms(10_000));
        assert!(net.complete());
    }
}

#[test]
fn a_process_that_was_stopped_is_down_and_finds_back() {
    for n in [2, 3] {
        for seed in 0..20 {
            let mut net = Net::settled(n, seed);
            net.freeze(n - 1, ms(10_000));
            net.run_for(ms(9_900));
            assert!((0..n - 1).all(|o| net.state(o, n - 1) == Some(State::Down)), "N={n} seed {seed}");
            net.run_for(ms(8_000));
            assert!(net.complete(), "N={n} seed {seed}: {:#?}", net.changes);
            assert_eq!(false_downs(&net.changes, &BTreeSet::from([n - 1])), [], "N={n} seed {seed}");
            assert_eq!(shrinking_records(&net.changes), []);
        }
    }
}

#[test]
fn a_crash_beside_a_slow_member_is_still_detected() {
    let mut net = Net::settled(4, 1);
    net.freeze(3, ms(60_000));
    net.run_for(ms(10_000));
    net.kill(2, Process::Silent);
    let took = net.run_while(ms(5_000), |net| (0..2).any(|o| net.state(o, 2) != Some(State::Down)));
    assert!(took < ms(2_000), "{took:?}");
}

#[test]
fn who_does_not_hear_a_member_itself_is_told_when_others_heard_it() {
    let mut net = Net::settled(3, 1);
    net.cut_both(0, 2);
    net.run_for(ms(20_000));
    assert_eq!(net.state(0, 2), Some(State::Alive), "m1 hears it");
    net.kill(2, Process::Silent);
    let died = net.now;
    net.run_for(ms(10_000));
    assert_eq!(net.state(0, 2), Some(State::Down));
    let vouched: Vec<_> = (net.events.iter())
        .filter_map(|(_, observer, event)| match event {
            Event::Vouched { member, at } if *member == name(2) => Some((*observer, *at)),
            _ => None,
        })
        .collect();
    let newest = vouched.iter().filter(|(observer, _)| *observer == 0).map(|(_, at)| *at).max().unwrap();
    // The word of another takes one way: 20 ms.
    assert!(newest <= died + ms(20), "{newest:?} {died:?}");
    assert!(died.since(newest) < ms(3_000), "the newest word is of {newest:?}, it died at {died:?}");
}

#[test]
fn an_announced_pause_holds_the_verdict_until_it_expires() {
    for n in [2, 3] {
        let mut net = Net::settled(n, 9);
        net.tell(n - 1, Input::Away { grace: ms(10_000) });
        net.run_for(ms(100));
        net.kill(n - 1, Process::Killed);
        net.run_for(ms(9_800));
        assert!((0..n - 1).all(|o| net.state(o, n - 1) == Some(State::Away)), "{:#?}", net.changes);
        net.run_for(ms(400));
        assert!((0..n - 1).all(|o| net.state(o, n - 1) == Some(State::Down)));
        let evidence = net.core(0).member(&name(n - 1)).unwrap().evidence;
        assert_eq!(evidence, Some(Evidence::Exit));
    }
}

#[test]
fn one_who_comes_back_within_its_pause_was_never_down() {
    let mut net = Net::settled(3, 9);
    net.tell(2, Input::Away { grace: ms(30_000) });
    net.run_for(ms(100));
    net.kill(2, Process::Killed);
    net.run_for(ms(5_000));
    net.restart(2, crate::network::WALL_MS + 15_000, &[0, 1]);
    net.run_for(ms(7_000));
    assert!(net.complete(), "{:#?}", net.changes);
    assert!(
        net.changes.iter().all(|c| !matches!(c.state, State::Down | State::Suspect)),
        "{:#?}",
        net.changes
    );
}

#[test]
fn leaving_is_immediate() {
    let mut net = Net::settled(3, 9);
    net.tell(1, Input::Leave);
    net.run_for(ms(30));
    assert_eq!((net.state(0, 1), net.state(2, 1)), (Some(State::Left), Some(State::Left)));
    net.run_for(ms(5_000));
    assert_eq!((net.state(0, 1), net.state(2, 1)), (Some(State::Left), Some(State::Left)));
    net.kill(1, Process::Killed);
    net.restart(1, crate::network::WALL_MS + 60_000, &[]);
    net.run_for(ms(8_000));
    assert!(net.complete(), "{:#?}", net.changes);
}

#[test]
fn same_seed_same_trace() {
    let run = |seed| {
        let mut net = Net::new(4, seed);
        net.trace = Some(String::new());
        net.lost_per_mille = 20;
        net.run_for(ms(12_000));
        net.kill(3, Process::Killed);
        net.cut_both(0, 1);
        net.run_for(ms(9_000));
        net.heal();
        net.run_for(ms(9_000));
        net.trace.unwrap()
    };
    let first = run(5);
    assert!(first.len() > 10_000);
    assert_eq!(first, run(5));
    assert_ne!(first, run(6));
}

#[test]
fn the_checkers_bite() {
    let change = |epoch, incarnation, state| Change {
        at: at(1),
        observer: 0,
        subject: 1,
        epoch: Epoch(epoch),
        incarnation: Incarnation(incarnation),
        state,
        evidence: None,
    };
    let down = change(1, 0, State::Down);
    assert_eq!(false_downs(std::slice::from_ref(&down), &BTreeSet::new()).len(), 1);
    assert_eq!(false_downs(std::slice::from_ref(&down), &BTreeSet::from([1])).len(), 0);
    for bad in [change(1, 0, State::Alive), change(1, 0, State::Suspect), change(0, 9, State::Left)] {
        assert_eq!(shrinking_records(&[down.clone(), bad]).len(), 1);
    }
    for good in [change(1, 0, State::Left), change(1, 1, State::Alive), change(2, 0, State::Alive)] {
        assert_eq!(shrinking_records(&[down.clone(), good]).len(), 0);
    }
}
