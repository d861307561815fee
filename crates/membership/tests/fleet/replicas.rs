//! Two replicas of one member's daemon behind one address: what the one that waits answers is never evidence against
//! the one that acts (docs/decisions/0013).

use flagship_membership::{ConnectFailure, Evidence, State};
use flagship_types::CloseCode;

use crate::checks::{Change, false_downs, shrinking_records};
use crate::network::{Net, Process, at, ms, name};

const STANDBY: ConnectFailure = ConnectFailure::Rejected(CloseCode::Standby);

/// Lets these answer who dials a member, in turn and for ever; `None` is the process that acts, if it is there.
fn behind(net: &mut Net, member: usize, mut answers: Vec<Option<ConnectFailure>>) {
    net.in_front = Some(Box::new(move |to| {
        answers.rotate_left(usize::from(to == member));
        (to == member).then(|| answers.last().copied().flatten()).flatten()
    }));
}

fn exits(changes: &[Change]) -> Vec<&Change> {
    changes.iter().filter(|change| change.evidence == Some(Evidence::Exit)).collect()
}

/// The last of `n` is killed, and only `answer` is behind its address from then on; what the others made of it.
fn killed(n: usize, seed: u64, answer: ConnectFailure) -> Net {
    let mut net = Net::settled(n, seed);
    let offset = net.draw(ms(1000));
    net.run_for(offset);
    net.changes.clear();
    behind(&mut net, n - 1, vec![Some(answer)]);
    net.kill(n - 1, Process::Killed);
    net.run_for(ms(10_000));
    net
}

#[test]
fn a_waiting_replica_is_never_evidence_of_an_exit() {
    for n in [2, 3, 8] {
        for seed in 0..20 {
            let net = killed(n, seed, STANDBY);
            assert_eq!(exits(&net.changes), Vec::<&Change>::new(), "N={n} seed {seed}");
            // Silence is what it is: the member is Down in the end, and who cares can see that its cluster lives.
            for observer in 0..n - 1 {
                let view = net.core(observer).member(&name(n - 1)).unwrap();
                assert_eq!((view.state, view.evidence), (State::Down, Some(Evidence::Silence)));
                assert!(view.replica_waits, "N={n} seed {seed} observer {observer}");
            }
        }
    }
}

#[test]
fn the_check_bites_when_it_is_taken_for_a_refusal() {
    for n in [2, 3, 8] {
        assert!((0..20).all(|seed| !exits(&killed(n, seed, ConnectFailure::Refused).changes).is_empty()));
    }
}

#[test]
fn refusals_before_and_after_it_do_not_add_up() {
    let refused = Some(ConnectFailure::Refused);
    for seed in 0..20 {
        let mut net = Net::settled(2, seed);
        net.changes.clear();
        // One refusal, as from the address of a pod that ended; then the replica; then refusals only, as from a load
        // balancer that has taken it out for a moment.
        let mut answers = vec![refused, Some(STANDBY)];
        answers.extend([refused; 200]);
        behind(&mut net, 1, answers);
        net.kill(1, Process::Killed);
        net.run_for(ms(10_000));
        assert_eq!(exits(&net.changes), Vec::<&Change>::new(), "seed {seed}");
        assert_eq!(net.state(0, 1), Some(State::Down), "by silence");
    }
}

#[test]
fn a_replica_that_takes_over_is_not_even_suspected_by_a_lone_observer() {
    for seed in 0..20 {
        let mut net = Net::settled(2, seed);
        net.changes.clear();
        behind(&mut net, 1, vec![Some(STANDBY)]);
        net.kill(1, Process::Killed);
        net.run_for(ms(2_500));
        net.in_front = None;
        net.restart(1, crate::network::WALL_MS + 60_000, &[0]);
        net.run_for(ms(3_000));
        assert!(net.complete(), "seed {seed}: {:?}", net.changes);
        let held = |change: &&Change| change.subject == 1 && change.state != State::Alive;
        assert_eq!(net.changes.iter().find(held), None, "seed {seed}");
    }
}

#[test]
fn the_replica_that_acts_is_found_behind_the_same_address() {
    for n in [2, 3] {
        for seed in 0..40 {
            let mut net = Net::settled(n, seed);
            net.changes.clear();
            // Two dials of three lead to a replica that waits.
            behind(&mut net, n - 1, vec![Some(STANDBY), Some(STANDBY), None]);
            // It can only be dialled: else it would be quicker.
            let since = net.now;
            net.reset(0, n - 1);
            net.run_while(ms(1_000), |net| !net.complete());
            assert!(net.now.since(since) < ms(1_000));
            net.run_for(ms(5_000));
            assert_eq!(false_downs(&net.changes, &Default::default()), [], "N={n} seed {seed}");
            assert_eq!(shrinking_records(&net.changes), [], "N={n} seed {seed}");
            assert_eq!(exits(&net.changes), Vec::<&Change>::new());
            assert!(net.now > at(0));
        }
    }
}
