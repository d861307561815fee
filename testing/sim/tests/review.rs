//! The schedules of a protocol review, each by its name: whole members under all checkers of the fleet simulator. What a
//! schedule is about is asserted beside them, so that none of them passes because nothing happened.

use std::time::Duration;

use flagship_types::{Failback, FleetConfig, MemberName, Mode};
use sim::HostSpec;
use sim::fleet::Record;
use sim::fleet::fault::{Back, Fault, Network, Plan, Timed};
use sim::fleet::run::run;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const SEEDS: u64 = 25;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(at_ms: u64, fault: Fault) -> Timed {
    during(at_ms, 0, fault)
}

fn during(at_ms: u64, lasts_ms: u64, fault: Fault) -> Timed {
    Timed { at: ms(at_ms), lasts: ms(lasts_ms), fault }
}

/// The first leads by rank; in Availability.
fn fleet(ranks: &[i64]) -> Vec<HostSpec> {
    let names = ["a", "b", "c", "d", "e"];
    let spec = |(i, rank): (usize, &i64)| {
        let seeds: Vec<_> = names[..ranks.len()].iter().copied().filter(|seed| *seed != names[i]).collect();
        HostSpec::new(names[i], *rank, i == 0, &seeds)
    };
    ranks.iter().enumerate().map(spec).collect()
}

fn voters(names: &[&str]) -> Vec<MemberName> {
    names.iter().map(|name| MemberName::new(name).expect("valid")).collect()
}

fn quorum_of(hosts: Vec<HostSpec>, names: &[&str]) -> Vec<HostSpec> {
    let config = FleetConfig { mode: Mode::Quorum, voters: voters(names), ..FleetConfig::default() };
    hosts.into_iter().map(|host| HostSpec { config: config.clone(), ..host }).collect()
}

fn three_in_quorum() -> Vec<HostSpec> {
    quorum_of(fleet(&[3, 2, 1]), &["a", "b", "c"])
}

/// Two clusters and a witness.
fn two_and_a_witness() -> Vec<HostSpec> {
    let mut hosts = quorum_of(fleet(&[3, 2, 1]), &["a", "b", "c"]);
    hosts[C].witness = true;
    hosts
}

fn edited(host: &HostSpec, edit: impl FnOnce(&mut FleetConfig)) -> FleetConfig {
    let mut config = host.config.clone();
    edit(&mut config);
    config
}

/// Runs the schedule with several seeds: no checker objects, every fault struck, and every run shows all of `shows`.
fn holds(hosts: Vec<HostSpec>, faults: Vec<Timed>, shows: &[&str]) {
    let plan = Plan { name: "review", hosts, network: Network::default(), faults };
    for seed in 0..SEEDS {
        let outcome = run(&plan, seed, Record { timeline: true, ..Record::default() });
        let text = outcome.timeline.join("\n");
        assert_eq!(outcome.violations, [], "seed {seed}\n{text}");
        for wanted in shows {
            assert!(text.contains(wanted), "seed {seed}: {wanted:?} did not happen\n{text}");
        }
    }
}

#[test]
fn two_majorities_through_half_changed_voter_sets() {
    // From {a, b, c} to {a, d, e}, with the old and the new voters cut off from each other half way.
    let hosts = quorum_of(fleet(&[5, 4, 3, 2, 1]), &["a", "b", "c"]);
    let wanted = voters(&["a", "d", "e"]);
    let config = |host: usize| edited(&hosts[host], |config| config.voters.clone_from(&wanted));
    for cut_at in [1_020, 1_300, 2_500, 4_000] {
        let mut faults: Vec<_> =
            (0..5).map(|host| at(1_000, Fault::Propose { host, config: config(host) })).collect();
        faults.push(during(cut_at, 30_000, Fault::Split { side: vec![B, C] }));
        holds(hosts.clone(), faults, &["voters: [a, b, c, d]", "ends   b, c cut off"]);
    }
}

#[test]
fn a_term_reused_after_a_witness_restart() {
    // The witness grants b its term and restarts at once, once with its vote on disk and once without anything.
    for back in [Back::Whole, Back::Blank] {
        let faults = vec![
            at(0, Fault::Crash { host: A, reset: false, back: None }),
            during(4_800, 1_000, Fault::Crash { host: C, reset: true, back: Some(back) }),
            during(7_000, 1_500, Fault::Crash { host: C, reset: true, back: Some(Back::Whole) }),
        ];
        let plan = Plan { name: "review", hosts: two_and_a_witness(), network: Network::default(), faults };
        for seed in 0..SEEDS {
            let outcome = run(&plan, seed, Record { timeline: true, ..Record::default() });
            // Without its record it has no vote before every other voter told it theirs: a, which is gone, cannot. So a
            // fleet of two and a witness has no leader then, which is right, and never two.
            let unsafe_ones: Vec<_> =
                outcome.violations.iter().filter(|found| found.invariant != 9).collect();
            assert!(unsafe_ones.is_empty(), "seed {seed}: {unsafe_ones:?}");
            if back == Back::Whole {
                assert_eq!(outcome.violations, [], "seed {seed}\n{}", outcome.timeline.join("\n"));
            }
        }
    }
}

#[test]
fn a_released_leader_that_resumes() {
    // a hands over to b and is killed when it has released, and starts again.
    for killed_at in [1_150, 1_400, 1_700, 2_500] {
        let faults = vec![
            at(0, Fault::Switchover { to: Some(B) }),
            at(0, Fault::Rank { host: B, rank: 9 }),
            during(killed_at, 2_000, Fault::Crash { host: A, reset: true, back: Some(Back::Whole) }),
        ];
        holds(
            three_in_quorum(),
            faults.clone(),
            &["reason: Switchover", "b object 0 of the payload created"],
        );
        holds(fleet(&[3, 2, 1]), faults, &["b object 0 of the payload created"]);
    }
}

#[test]
fn d_edited_from_30_s_to_3_s_under_a_running_lease() {
    let mut hosts = three_in_quorum();
    for host in &mut hosts {
        host.config.lease = ms(30_000);
    }
    for cut_at in [1_010, 1_100, 1_600, 3_000] {
        let config = |host: usize| edited(&hosts[host], |config| config.lease = ms(3_000));
        let mut faults: Vec<_> =
            (0..3).map(|host| at(1_000, Fault::Propose { host, config: config(host) })).collect();
        faults.push(during(cut_at, 60_000, Fault::Split { side: vec![A] }));
        holds(hosts.clone(), faults, &["lease: 3s"]);
    }
}

#[test]
fn mode_changed_on_one_object_first() {
    let hosts = fleet(&[3, 2, 1]);
    let quorum = |host: usize| {
        edited(&hosts[host], |config| {
            config.mode = Mode::Quorum;
            config.voters = voters(&["a", "b", "c"]);
        })
    };
    let propose = |host| Fault::Propose { host, config: quorum(host) };
    // At a standby it changes nothing; at the leader it is taken up; with the leader cut off in between.
    let faults = vec![
        at(0, propose(C)),
        at(3_000, propose(A)),
        during(3_500, 30_000, Fault::Split { side: vec![A] }),
        at(20_000, propose(B)),
    ];
    holds(hosts.clone(), faults, &["mode: Quorum", "ends   a cut off"]);
}

#[test]
fn two_claims_for_one_term_with_a_and_b_cut_and_c_between() {
    // The leader d is gone; a and b do not see each other and both ask c.
    for hosts in [fleet(&[3, 3, 1, 9]), quorum_of(fleet(&[3, 3, 1, 9]), &["a", "b", "c"])] {
        let faults = vec![
            during(0, 40_000, Fault::Apart { a: A, b: B }),
            at(100, Fault::Crash { host: 3, reset: true, back: None }),
        ];
        holds(hosts, faults, &["a and b cut off"]);
    }
}

#[test]
fn heal_rules_configured_differently_on_the_two_sides() {
    // Both sides have a leader, one says Manual and the other Automatic: exactly one of them stays.
    for manual in [A, C] {
        let hosts = fleet(&[4, 3, 5, 2]);
        let faults = vec![
            during(0, 20_000, Fault::Split { side: vec![A, B] }),
            at(5_000, Fault::Failback { host: manual, failback: Failback::Manual }),
        ];
        holds(hosts, faults, &["SplitSeen"]);
    }
}

#[test]
fn the_release_is_lost() {
    // The link breaks while the payload is being deleted: the successor never hears the release, or late.
    for (cut_at, lasts) in [(300, 2_000), (400, 6_000), (500, 30_000)] {
        let faults = vec![
            at(0, Fault::Switchover { to: Some(B) }),
            during(cut_at, lasts, Fault::Apart { a: A, b: B }),
        ];
        holds(fleet(&[3, 2]), faults.clone(), &["reason: Switchover"]);
        holds(three_in_quorum(), faults, &["reason: Switchover"]);
    }
}

#[test]
fn the_successor_is_dead_after_the_release() {
    for hosts in [fleet(&[3, 2]), three_in_quorum()] {
        let faults = vec![
            at(0, Fault::Switchover { to: Some(B) }),
            at(520, Fault::Crash { host: B, reset: false, back: None }),
        ];
        holds(hosts, faults, &["reason: Switchover", "b ends"]);
    }
}

#[test]
fn away_by_a_leader_that_never_returns() {
    // It comes back long after the pause that it had announced: somebody else leads by then.
    for hosts in [fleet(&[3, 2]), three_in_quorum()] {
        let faults = vec![during(0, 60_000, Fault::Away { host: A, grace: ms(10_000) })];
        holds(hosts, faults, &["to: Away", "b object 0 of the payload created"]);
    }
}

#[test]
fn a_name_used_twice() {
    let mut hosts = fleet(&[3, 2]);
    let twin = HostSpec { name: "g", rank: 9, ready: false, seeds: vec!["a", "b"], ..hosts[B].clone() };
    hosts.push(twin);
    let faults = vec![at(0, Fault::Join { host: C }), during(5_000, 8_000, Fault::Apart { a: A, b: B })];
    holds(hosts, faults, &["NameInUse"]);
}

#[test]
fn an_epoch_going_backwards() {
    for who in [A, B] {
        let crash = Fault::Crash { host: who, reset: true, back: Some(Back::Behind) };
        holds(fleet(&[3, 2, 1]), vec![during(0, 2_000, crash)], &["loses its status"]);
    }
}

#[test]
fn a_machine_paused_60_s_right_after_a_renewal() {
    // A renewal is sent about every second: the pause begins shortly after one, wherever that is.
    for begin in [0, 250, 500, 750] {
        let faults = vec![during(begin, 60_000, Fault::Freeze { host: A })];
        holds(three_in_quorum(), faults.clone(), &["b object 0 of the payload created", "a Paused"]);
        holds(two_and_a_witness(), faults, &["b object 0 of the payload created", "a Paused"]);
    }
}

#[test]
fn a_load_balancer_that_resets_for_dead_nodes() {
    // It looks as if only the process had ended: the restart grace passes, then the lead moves.
    for hosts in [fleet(&[3, 2]), fleet(&[3, 2, 1]), three_in_quorum(), two_and_a_witness()] {
        let faults = vec![at(0, Fault::Crash { host: A, reset: true, back: None })];
        holds(hosts, faults, &["evidence: Some(Exit)", "b object 0 of the payload created"]);
    }
}
