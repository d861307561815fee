//! Refutation, healed cuts, and restarts.

use std::collections::BTreeSet;

use flagship_membership::{Accusation, Event, Evidence, Input, LinkId, Message, Proof, Signed, State};
use flagship_types::{Epoch, Incarnation, Metadata};

use crate::checks::{false_downs, shrinking_records};
use crate::network::{Net, Process, WALL_MS, address, metadata, ms, name};

#[test]
fn a_refutation_inside_the_window_wins() {
    let mut refuted = 0;
    for seed in 0..20 {
        let mut net = Net::settled(3, seed);
        // Stopped for just longer than it takes to be Suspect: what waits in its socket is the accusation.
        net.freeze(2, ms(4_000));
        net.run_while(ms(4_000), |net| net.state(0, 2) != Some(State::Suspect));
        net.thaw_now(2);
        net.run_for(ms(5_000));
        assert!(net.complete(), "seed {seed}: {:#?}", net.changes);
        assert_eq!(false_downs(&net.changes, &BTreeSet::new()), [], "seed {seed}");
        let by_0 = net.events.iter().any(|(_, i, e)| *i == 0 && *e == Event::Refuted(name(2)));
        refuted += usize::from(by_0);
        assert!(net.core(2).incarnation() > Incarnation(0));
    }
    assert_eq!(refuted, 20);
}

#[test]
fn a_healed_cut_brings_all_back() {
    for n in [2, 3, 5] {
        for (seed, cut) in [(1, 10_000), (2, 30_000), (3, 60_000)] {
            let mut net = Net::settled(n, seed);
            for i in 0..n - 1 {
                net.cut_both(i, n - 1);
            }
            net.run_for(ms(cut));
            assert!((0..n - 1).all(|i| net.state(i, n - 1) == Some(State::Down)));
            assert!((0..n - 1).all(|i| net.state(n - 1, i) == Some(State::Down)));
            net.heal();
            let took = net.run_while(ms(10_000), |net| !net.complete());
            // A dial that began just before the heal still waits for its timeout, then the longest backoff.
            assert!(took <= ms(4_500), "N={n} cut {cut}: {took:?}");
            assert_eq!(shrinking_records(&net.changes), []);
        }
    }
}

#[test]
fn a_cut_of_one_direction_is_no_flap() {
    for n in [2, 3] {
        for seed in 0..10 {
            let mut net = Net::settled(n, seed);
            for i in 0..n - 1 {
                net.cut(n - 1, i);
            }
            net.run_for(ms(60_000));
            // Each of them goes Down once in the other's view, and stays.
            for observer in 0..n {
                let subjects = if observer == n - 1 { 0..n - 1 } else { n - 1..n };
                for subject in subjects {
                    let about = net.changes.iter().filter(|c| (c.observer, c.subject) == (observer, subject));
                    let states: Vec<_> = about.map(|c| c.state).collect();
                    let mut turns = states.clone();
                    turns.dedup();
                    let expected = [State::Suspect, State::Down];
                    assert!(
                        turns.ends_with(&expected) && turns.len() <= 3,
                        "{observer} {subject}: {turns:?}"
                    );
                }
            }
            assert!(net.core(0).stats().links_stale + net.core(n - 1).stats().links_stale > 0);
            net.heal();
            let took = net.run_while(ms(10_000), |net| !net.complete());
            assert!(took <= ms(4_500), "{took:?}");
        }
    }
}

#[test]
fn one_cut_pair_of_three_keeps_everybody_alive() {
    for seed in 0..10 {
        let mut net = Net::settled(3, seed);
        net.cut_both(0, 1);
        net.run_for(ms(60_000));
        assert_eq!(false_downs(&net.changes, &BTreeSet::new()), [], "seed {seed}");
        net.heal();
        net.run_while(ms(10_000), |net| !net.complete());
    }
}

#[test]
fn a_flapping_link_finds_back_each_time() {
    let mut net = Net::settled(2, 3);
    for _ in 0..10 {
        net.cut_both(0, 1);
        net.run_for(ms(6_000));
        net.heal();
        net.run_for(ms(6_000));
    }
    net.run_while(ms(8_000), |net| !net.complete());
    assert_eq!(shrinking_records(&net.changes), []);
}

#[test]
fn a_killed_process_that_starts_again_is_alive_under_its_newer_epoch() {
    for (n, after) in [(2, 50), (2, 300), (2, 10_000), (3, 100), (3, 10_000)] {
        for seed in 0..10 {
            let mut net = Net::settled(n, seed);
            net.kill(n - 1, Process::Killed);
            net.run_for(ms(after));
            net.restart(n - 1, WALL_MS + 100_000, &[0]);
            net.run_while(ms(9_000), |net| !net.complete());
            assert_eq!(net.core(0).member(&name(n - 1)).unwrap().epoch, Epoch(WALL_MS + 100_000));
            assert_eq!(false_downs(&net.changes, &BTreeSet::from([n - 1])), []);
        }
    }
}

#[test]
fn a_clock_that_jumped_back_is_answered_with_the_known_epoch() {
    for n in [2, 3] {
        for after in [20, 10_000] {
            let mut net = Net::settled(n, 5);
            net.kill(n - 1, Process::Killed);
            net.run_for(ms(after));
            net.restart(n - 1, WALL_MS - 5_000_000, &[]);
            net.run_while(ms(9_000), |net| !net.complete());
            net.run_for(ms(2_000));
            assert!(net.complete());
            assert_eq!(net.core(n - 1).epoch(), Epoch(WALL_MS + 1));
            let raised = |(_, i, e): &&(_, usize, Event)| *i == n - 1 && matches!(e, Event::EpochRaised(_));
            assert_eq!(net.events.iter().filter(raised).count(), 1);
            assert!(net.events.iter().all(|(_, _, e)| !matches!(e, Event::NameInUse { .. })));
        }
    }
}

#[test]
fn a_forgotten_member_is_left_and_seldom_dialled() {
    let mut net = Net::settled(3, 2);
    net.kill(2, Process::Silent);
    net.run_for(ms(5_000));
    net.tell(0, Input::Forget(name(2)));
    net.tell(1, Input::Forget(name(2)));
    net.run_for(ms(10_000));
    let before = dials(&net, 2);
    net.run_for(ms(60_000));
    // Every 5 to 10 s, and 2 s until one is given up.
    let each = (dials(&net, 2) - before) / 2;
    assert!((5..=12).contains(&each), "{each}");
    assert_eq!(net.state(0, 2), Some(State::Left));
    net.restart(2, WALL_MS + 200_000, &[]);
    net.run_while(ms(9_000), |net| !net.complete());
}

#[test]
fn two_sides_that_forgot_each_other_across_a_cut_meet_after_it() {
    // In a mesh, and with two sides that are on rings of their own. Each side is told, or one member of it.
    for (n, all, pace) in [(2, true, 10), (4, true, 10), (4, false, 10), (16, true, 60), (16, false, 60)] {
        for seed in 0..5 {
            let mut net = Net::settled(n, seed);
            let (left, right) = (0..n / 2, n / 2..n);
            let across: Vec<(usize, usize)> =
                left.clone().flat_map(|a| right.clone().map(move |b| (a, b))).collect();
            across.iter().for_each(|(a, b)| net.cut_both(*a, *b));
            net.run_for(ms(10_000));
            for (a, b) in across.iter().filter(|pair| all || **pair == (0, n / 2)) {
                net.tell(*a, Input::Forget(name(*b)));
                net.tell(*b, Input::Forget(name(*a)));
            }
            net.run_for(ms(20_000));
            net.heal();
            let took = net.run_while(ms(pace * 1_000 + 10_000), |net| !net.complete());
            assert!(took <= ms(pace * 1_000 + 5_000), "N={n} {all} seed {seed}: {took:?}");
            assert_eq!(shrinking_records(&net.changes), [], "N={n} {all} seed {seed}");
        }
    }
}

#[test]
fn two_of_a_fleet_that_forgot_each_other_meet_although_others_are_linked_with_both() {
    for n in [3, 4, 7] {
        for seed in 0..5 {
            let mut net = Net::settled(n, seed);
            net.cut_both(1, 2);
            net.run_for(ms(10_000));
            net.tell(1, Input::Forget(name(2)));
            net.tell(2, Input::Forget(name(1)));
            net.run_for(ms(20_000));
            net.heal();
            let took = net.run_while(ms(20_000), |net| !net.complete());
            assert!(took <= ms(15_000), "N={n} seed {seed}: {took:?}");
        }
    }
}

#[test]
fn who_can_dial_is_back_at_once_when_it_is_forgotten_while_it_lives() {
    let mut net = Net::settled(3, 2);
    net.tell(0, Input::Forget(name(2)));
    assert_eq!(net.state(0, 2), Some(State::Left));
    let took = net.run_while(ms(5_000), |net| !net.complete());
    assert!(took <= ms(1_000), "{took:?}");
    assert!(net.core(0).member(&name(2)).unwrap().epoch > Epoch(WALL_MS));
}

#[test]
fn who_left_by_its_own_word_is_not_dialled_when_it_is_forgotten() {
    let mut net = Net::settled(3, 2);
    net.tell(2, Input::Leave);
    net.run_for(ms(1_000));
    net.kill(2, Process::Silent);
    for i in 0..2 {
        net.tell(i, Input::Forget(name(2)));
    }
    net.run_for(ms(1_000));
    let before = dials(&net, 2);
    net.run_for(ms(60_000));
    assert_eq!(dials(&net, 2), before);
}

#[test]
fn nobody_is_looked_for_where_another_member_lives_now() {
    let mut net = Net::settled(3, 2);
    net.kill(2, Process::Silent);
    net.run_for(ms(5_000));
    for i in 0..2 {
        net.tell(i, Input::Forget(name(2)));
    }
    let heir = Metadata { address: Some(address(2)), ..metadata(1) };
    net.tell(1, Input::SetMetadata(heir));
    net.run_for(ms(12_000));
    let before = dials(&net, 2);
    net.run_for(ms(60_000));
    assert_eq!(dials(&net, 2), before);
}

/// What the first so many dialled.
fn dials(net: &Net, members: usize) -> u64 {
    (0..members).map(|i| net.core(i).stats().dials).sum()
}

#[test]
fn members_from_the_status_that_do_not_show_up_are_down() {
    let mut net = Net::settled(3, 2);
    net.kill(1, Process::Silent);
    net.kill(2, Process::Silent);
    net.kill(0, Process::Killed);
    net.restart(0, WALL_MS + 100_000, &[1, 2]);
    assert_eq!(net.state(0, 1), Some(State::Alive));
    net.run_for(ms(5_500));
    assert_eq!((net.state(0, 1), net.state(0, 2)), (Some(State::Down), Some(State::Down)));
}

#[test]
fn stray_links_and_late_accusations_do_nothing() {
    let mut net = Net::settled(3, 2);
    net.tell(0, Input::LinkDown { link: LinkId(9_999), end: flagship_membership::LinkEnd::Lost });
    let accusation = |epoch| Accusation {
        accuser: name(2),
        subject: name(1),
        epoch: Epoch(epoch),
        incarnation: Incarnation(0),
        evidence: Evidence::Exit,
    };
    for epoch in [0, WALL_MS - 1, WALL_MS + 1, u64::MAX] {
        net.inject(2, 0, Message::Accuse(Signed::new(accusation(epoch), Proof::default())));
    }
    net.run_for(ms(5_000));
    assert!(net.changes.is_empty(), "{:#?}", net.changes);
}
