//! Two processes with one name: the one that is linked and answers stays (docs/decisions/0010).

use std::time::Duration;

use flagship_membership::{Event, State};
use flagship_types::Epoch;

use crate::network::{Net, Process, WALL_MS, address, ms, name};

/// Newer and older than the process that runs.
const EPOCHS: [u64; 2] = [WALL_MS + 1_000, WALL_MS - 1_000];

/// The nodes that were told that another process has their name.
fn stalled(net: &Net) -> Vec<usize> {
    let told = net.events.iter().filter(|(_, _, event)| matches!(event, Event::NameInUse { .. }));
    told.map(|(_, node, _)| *node).collect()
}

/// The node that an observer takes for this member.
fn found_at(net: &Net, observer: usize, member: usize) -> usize {
    let view = net.core(observer).member(&name(member)).unwrap();
    assert!(view.link.is_some(), "{observer} has no link to {member}");
    (0..10).find(|i| view.address == Some(&address(*i))).unwrap()
}

#[test]
fn who_is_linked_and_answers_keeps_its_name() {
    for (n, lost) in [(2, 0), (3, 0), (2, 50), (3, 50)] {
        for (seed, epoch) in (0..10).flat_map(|seed| EPOCHS.map(|epoch| (seed, epoch))) {
            let mut net = Net::settled(n, seed);
            net.lost_per_mille = lost;
            net.start_twin(n - 1, epoch, 0);
            net.run_for(ms(30_000));
            let case = format!("N={n} lost {lost} seed {seed} epoch {epoch}");
            assert_eq!(stalled(&net), [n], "{case}");
            // The others noticed nothing of it.
            let of_it = |c: &&crate::checks::Change| c.subject == n - 1 && c.observer < n - 1;
            let bad = |c: &&crate::checks::Change| c.state == State::Down || c.epoch != Epoch(WALL_MS);
            assert_eq!(net.changes.iter().filter(of_it).filter(bad).count(), 0, "{case}: {:#?}", net.changes);
            assert_eq!(found_at(&net, 0, n - 1), n - 1, "{case}");
        }
    }
}

#[test]
fn first_come_first_served_also_for_the_process_that_was_there_before() {
    for n in [2, 3] {
        for seed in 0..10 {
            let mut net = Net::settled(n, seed);
            net.kill(n - 1, Process::Killed);
            net.start_twin(n - 1, WALL_MS + 10_000, 0);
            net.run_for(ms(2_000));
            net.restart(n - 1, WALL_MS + 20_000, &[0]);
            net.run_for(ms(20_000));
            assert_eq!(stalled(&net), [n - 1], "N={n} seed {seed}");
            assert_eq!(found_at(&net, 0, n - 1), n, "N={n} seed {seed}");
        }
    }
}

#[test]
fn a_restart_whose_old_stream_ends_after_the_new_hello_is_let_in() {
    for n in [2, 3] {
        for seed in 0..10 {
            let mut net = Net::settled(n, seed);
            // The kernel ends the old streams only when something arrives for them: after the Hello.
            net.kill(n - 1, Process::Silent);
            net.run_for(ms(5));
            net.restart(n - 1, WALL_MS + 100_000, &[0]);
            let took = net.run_while(ms(9_000), |net| !net.complete());
            assert_eq!(stalled(&net), [], "N={n} seed {seed}");
            assert!(took < ms(1_000), "N={n} seed {seed}: {took:?}");
        }
    }
}

#[test]
fn a_stopped_process_is_replaced_by_its_restart_and_stalls_when_it_goes_on() {
    for n in [2, 3] {
        for (seed, after) in (0..10).flat_map(|seed| [(seed, 200), (seed, 2_000)]) {
            let mut net = Net::settled(n, seed);
            net.freeze(n - 1, ms(10_000));
            net.run_for(ms(after));
            net.start_twin(n - 1, WALL_MS + 100_000, 0);
            let newer = |net: &Net| {
                let view = net.core(0).member(&name(n - 1)).unwrap();
                view.epoch == Epoch(WALL_MS + 100_000) && view.metadata.is_some()
            };
            let took = net.run_while(ms(9_000), |net| !newer(net));
            assert!(took < Duration::from_secs(2), "N={n} seed {seed} after {after}: {took:?}");
            net.run_for(ms(20_000));
            assert_eq!(stalled(&net), [n - 1], "N={n} seed {seed} after {after}");
            assert_eq!(found_at(&net, 0, n - 1), n);
        }
    }
}

#[test]
fn of_two_that_each_hold_a_part_of_the_fleet_the_earlier_stays() {
    for (seed, epoch) in (0..10).flat_map(|seed| EPOCHS.map(|epoch| (seed, epoch))) {
        let mut net = Net::settled(3, seed);
        net.cut_both(2, 1);
        net.cut_both(3, 0);
        net.run_for(ms(8_000));
        net.start_twin(2, epoch, 1);
        net.run_for(ms(8_000));
        assert_eq!((found_at(&net, 0, 2), found_at(&net, 1, 2)), (2, 3), "seed {seed}");
        assert_eq!(stalled(&net), []);
        net.heal();
        net.run_for(ms(60_000));
        assert_eq!(stalled(&net), [3], "seed {seed} epoch {epoch}");
        assert_eq!((found_at(&net, 0, 2), found_at(&net, 1, 2)), (2, 2), "seed {seed}");
    }
}
