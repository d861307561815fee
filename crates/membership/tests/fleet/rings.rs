//! Fleets too large for a mesh: observers on rings.

use std::collections::BTreeSet;

use flagship_membership::State;

use crate::checks::{false_downs, shrinking_records};
use crate::detection::{quantiles, time_to_down};
use crate::network::{Net, Process, WALL_MS, ms, name};

#[test]
fn a_silent_crash_is_down_everywhere_within_one_and_a_half_seconds() {
    for (n, runs) in [(9, 30), (16, 20), (32, 10)] {
        let (p50, p99, _) = quantiles(n, 1, Process::Silent, runs);
        assert!(p50 <= ms(1_000) && p99 <= ms(1_500), "N={n}: {p50:?} {p99:?}");
    }
}

#[test]
fn an_exit_is_down_everywhere_within_half_a_second() {
    for n in [9, 16] {
        let (p50, p99, _) = quantiles(n, 1, Process::Killed, 20);
        assert!(p50 <= ms(400) && p99 <= ms(500), "N={n}: {p50:?} {p99:?}");
    }
}

#[test]
fn half_of_a_fleet_at_once_is_down_at_every_survivor() {
    let (_, _, max) = quantiles(32, 16, Process::Silent, 10);
    assert!(max <= ms(3_500), "{max:?}");
}

#[test]
fn links_are_few() {
    let mut net = Net::settled(32, 3);
    net.run_for(ms(20_000));
    for i in 0..32 {
        let links = net.core(i).links().count();
        assert!((3..=24).contains(&links), "m{i}: {links}");
    }
    assert_eq!(false_downs(&net.changes, &BTreeSet::new()), []);
}

#[test]
fn a_fleet_grows_and_shrinks_across_the_mesh_limit_without_a_false_down() {
    for seed in 0..10 {
        let mut net = Net::settled(7, seed);
        for i in 7..12 {
            net.join(i);
            let pause = net.draw(ms(2_000));
            net.run_for(pause);
        }
        net.run_for(ms(15_000));
        assert!(net.complete(), "seed {seed}");
        for i in 4..12 {
            net.tell(i, flagship_membership::Input::Leave);
            net.run_for(ms(30));
            net.kill(i, Process::Killed);
            let pause = net.draw(ms(2_000));
            net.run_for(pause);
        }
        net.run_for(ms(8_000));
        assert!(
            (0..4).all(|a| (0..4).all(|b| a == b || net.core(a).link_to(&name(b)).is_some())),
            "seed {seed}"
        );
        let suspected = net.changes.iter().filter(|c| c.state == State::Suspect).count();
        assert_eq!((false_downs(&net.changes, &BTreeSet::new()), suspected), (vec![], 0), "seed {seed}");
        assert_eq!(shrinking_records(&net.changes), []);
    }
}

#[test]
fn a_partition_of_a_large_fleet_heals_by_itself() {
    for seed in 0..4 {
        let mut net = Net::settled(14, seed);
        for a in 0..6 {
            for b in 6..14 {
                net.cut_both(a, b);
            }
        }
        net.run_for(ms(12_000));
        assert!((0..6).all(|a| (6..14).all(|b| net.state(a, b) == Some(State::Down))), "seed {seed}");
        assert!((0..6).all(|a| (0..6).all(|b| a == b || net.state(a, b) == Some(State::Alive))));
        net.heal();
        net.run_for(ms(14_000));
        assert!(net.complete(), "seed {seed}");
        assert_eq!(shrinking_records(&net.changes), []);
    }
}

#[test]
fn one_who_returns_is_known_everywhere() {
    let mut net = Net::settled(12, 5);
    net.kill(9, Process::Killed);
    net.run_for(ms(5_000));
    assert!((0..9).all(|o| net.state(o, 9) == Some(State::Down)));
    net.restart(9, WALL_MS + 20_000, &[0, 1]);
    net.run_for(ms(6_000));
    assert!(net.complete());
    let hashes: BTreeSet<u32> = (0..12).map(|i| net.core(i).view_hash()).collect();
    assert_eq!(hashes.len(), 1, "views are equal");
    assert!(time_to_down(12, 1, Process::Silent, 3) < ms(1_600));
}

#[test]
fn links_of_a_partition_are_given_up_once_it_healed() {
    for seed in 0..4 {
        let mut net = Net::settled(13, seed);
        net.run_for(ms(15_000));
        let before: Vec<usize> = (0..13).map(|i| net.core(i).links().count()).collect();
        for b in (0..13).filter(|b| *b != 7) {
            net.cut_both(7, b);
        }
        net.run_for(ms(60_000));
        net.heal();
        net.run_for(ms(30_000));
        assert!(net.complete(), "seed {seed}");
        let after: Vec<usize> = (0..13).map(|i| net.core(i).links().count()).collect();
        assert_eq!(before, after, "seed {seed}");
    }
}
