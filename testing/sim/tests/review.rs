//! The schedules of a protocol review, each by its name: whole members under all checkers of the fleet simulator. What a
//! schedule is about is asserted beside them, so that none of them passes because nothing happened; and with the feature
//! `planted-bugs` each of them is shown to fail over a core with the error that it is there for.

use std::time::Duration;

use flagship_types::{Failback, FleetConfig, MemberName, Mode};
use sim::HostSpec;
use sim::fleet::Record;
use sim::fleet::fault::{Back, Fault, Network, Plan, Timed};
use sim::fleet::run::run;
use sim::model::Outcome;

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

/// One way that a schedule may go: on which fleet, what happens, and what has to show in every run, in this order:
/// lines of the timeline with these words, where `..` stands for others.
struct Case {
    hosts: Vec<HostSpec>,
    faults: Vec<Timed>,
    shows: Vec<&'static str>,
}

fn case(hosts: Vec<HostSpec>, faults: Vec<Timed>, shows: &[&'static str]) -> Case {
    Case { hosts, faults, shows: shows.to_vec() }
}

impl Case {
    fn run(&self, seed: u64, record: Record) -> Outcome {
        let (hosts, faults) = (self.hosts.clone(), self.faults.clone());
        let plan = Plan { name: "review", hosts, network: Network::default(), faults };
        run(&plan, seed, Record { timeline: true, ..record })
    }

    /// What a run should have shown, and did not.
    fn misses(&self, outcome: &Outcome) -> Option<&'static str> {
        missing(&self.shows, outcome)
    }
}

/// The first of these that did not happen after the one before.
fn missing(wanted: &[&'static str], outcome: &Outcome) -> Option<&'static str> {
    let says = |line: &String, wanted: &str| wanted.split(" .. ").all(|part| line.contains(part));
    let mut lines = outcome.timeline.iter();
    wanted.iter().copied().find(|wanted| !lines.any(|line| says(line, wanted)))
}

/// With several seeds: no checker objects, every fault struck, and every run shows what the schedule is about.
fn holds(cases: &[Case]) {
    for (i, case) in cases.iter().enumerate() {
        for seed in 0..SEEDS {
            let outcome = case.run(seed, Record::default());
            let text = || outcome.timeline.join("\n");
            assert_eq!(outcome.violations, [], "case {i}, seed {seed}\n{}", text());
            assert_eq!(case.misses(&outcome), None, "case {i}, seed {seed}: it did not happen\n{}", text());
        }
    }
}

/// From {a, b, c} to {a, d, e}, with the old and the new voters cut off from each other half way.
fn half_changed_voters() -> Vec<Case> {
    let hosts = quorum_of(fleet(&[5, 4, 3, 2, 1]), &["a", "b", "c"]);
    let wanted = voters(&["a", "d", "e"]);
    let config = |host: usize| edited(&hosts[host], |config| config.voters.clone_from(&wanted));
    let cut = |cut_at| {
        let mut faults: Vec<_> =
            (0..5).map(|host| at(1_000, Fault::Propose { host, config: config(host) })).collect();
        faults.push(during(cut_at, 30_000, Fault::Split { side: vec![B, C] }));
        case(hosts.clone(), faults, &["voters: [a, b, c, d]", "ends   b, c cut off"])
    };
    [1_020, 1_300, 2_500, 4_000].map(cut).into()
}

#[test]
fn two_majorities_through_half_changed_voter_sets() {
    holds(&half_changed_voters());
}

/// The witness gives b a term and restarts, with its vote on disk or without anything; then it sees only a, which knows
/// nothing of that term and asks for it.
fn restarted_witness() -> Vec<Case> {
    let back = |(back, shows): (Back, [&'static str; 2])| {
        let faults = vec![
            during(0, 30_000, Fault::Apart { a: A, b: B }),
            during(0, 9_000, Fault::Apart { a: A, b: C }),
            during(6_500, 1_000, Fault::Crash { host: C, reset: true, back: Some(back) }),
            during(6_500, 23_500, Fault::Apart { a: B, b: C }),
        ];
        case(two_and_a_witness(), faults, &shows)
    };
    let granted = "b Election(RoleChanged { from: Candidate, to: Leader";
    let next = "a Election(RoleChanged { from: Candidate, to: Leader, term: Term(3)";
    [(Back::Whole, [granted, next]), (Back::Blank, [granted, "c loses its status"])].map(back).into()
}

#[test]
fn a_term_reused_after_a_witness_restart() {
    holds(&restarted_witness());
}

/// a hands over to b and is killed while it stops, or when it has released, and starts again.
fn resuming_leader() -> Vec<Case> {
    let killed = |killed_at| {
        let faults = vec![
            at(0, Fault::Switchover { to: Some(B) }),
            at(0, Fault::Rank { host: B, rank: 9 }),
            during(killed_at, 2_000, Fault::Crash { host: A, reset: true, back: Some(Back::Whole) }),
        ];
        let moved = "b object 0 of the payload created";
        let both = ["reason: Switchover", moved];
        [case(three_in_quorum(), faults.clone(), &both), case(fleet(&[3, 2, 1]), faults, &both)]
    };
    [150, 300, 450, 700, 1_150, 1_700, 2_500].into_iter().flat_map(killed).collect()
}

#[test]
fn a_released_leader_that_resumes() {
    holds(&resuming_leader());
}

/// The leader is cut off around the edit: wholly, or so that the voters hear of the shorter lease and it never hears that
/// they did.
fn shorter_lease() -> Vec<Case> {
    let mut hosts = three_in_quorum();
    for host in &mut hosts {
        host.config.lease = ms(30_000);
    }
    let edits = || {
        let config = |host: usize| edited(&hosts[host], |config| config.lease = ms(3_000));
        (0..3).map(move |host| at(1_000, Fault::Propose { host, config: config(host) }))
    };
    let cut = |cut_at, cut| {
        let faults = edits().chain([during(cut_at, 60_000, cut)]).collect();
        case(hosts.clone(), faults, &["lease: 3s", "b object 0 of the payload created"])
    };
    let mut cases: Vec<_> =
        [1_010, 1_100, 1_600, 3_000].map(|at| cut(at, Fault::Split { side: vec![A] })).into();
    cases.push(cut(1_000, Fault::Cut { from: vec![B, C], to: vec![A] }));
    cases
}

#[test]
fn d_edited_from_30_s_to_3_s_under_a_running_lease() {
    holds(&shorter_lease());
}

/// To Quorum: at a standby it changes nothing, at the leader it is taken up, with the leader cut off in between. And from
/// Quorum, at a leader that its voters cannot hear: it is bound until they know.
fn mode_on_one_object() -> Vec<Case> {
    let hosts = fleet(&[3, 2, 1]);
    let quorum = |host: usize| {
        let config = edited(&hosts[host], |config| {
            config.mode = Mode::Quorum;
            config.voters = voters(&["a", "b", "c"]);
        });
        Fault::Propose { host, config }
    };
    let to_quorum = vec![
        at(0, quorum(C)),
        at(3_000, quorum(A)),
        during(3_500, 30_000, Fault::Split { side: vec![A] }),
        at(20_000, quorum(B)),
    ];
    let bound = three_in_quorum();
    let config = edited(&bound[A], |config| {
        config.mode = Mode::Availability;
        config.voters.clear();
    });
    let split = during(0, 60_000, Fault::Split { side: vec![A] });
    let from_quorum = vec![split.clone(), at(100, Fault::Propose { host: A, config: config.clone() })];
    // It restarts when it has stopped, and knows its lead no more; with d, which has no vote, on its side of the cut.
    let restart = during(30_000, 2_000, Fault::Crash { host: A, reset: true, back: Some(Back::Whole) });
    let restarted = from_quorum.iter().cloned().chain([restart]).collect();
    let four = quorum_of(fleet(&[3, 2, 1, 1]), &["a", "b", "c"]);
    let propose = at(100, Fault::Propose { host: A, config });
    let with_d = vec![during(0, 60_000, Fault::Split { side: vec![A, 3] }), propose];
    let shows = &["a directive Stop .. LeaseLost", "b object 0 of the payload created", "ends   a"];
    vec![
        case(hosts.clone(), to_quorum, &["mode: Quorum", "ends   a cut off"]),
        case(bound.clone(), from_quorum, shows),
        case(bound, restarted, shows),
        case(four, with_d, shows),
    ]
}

#[test]
fn mode_changed_on_one_object_first() {
    holds(&mode_on_one_object());
}

/// The leader d is gone; a and b do not see each other and both ask c, which a reaches later.
fn two_claims() -> Vec<Case> {
    let late = |extra| {
        let faults = vec![
            during(0, 40_000, Fault::Apart { a: A, b: B }),
            during(0, 40_000, Fault::SlowLink { a: A, b: C, extra: ms(extra) }),
            at(100, Fault::Crash { host: 3, reset: true, back: None }),
        ];
        let shows = &["a Election(RoleChanged { from: Standby, to: Candidate"];
        let hosts = || fleet(&[3, 3, 1, 9]);
        [case(hosts(), faults.clone(), shows), case(quorum_of(hosts(), &["a", "b", "c"]), faults, shows)]
    };
    [1, 300, 400, 450, 500].into_iter().flat_map(late).collect()
}

#[test]
fn two_claims_for_one_term_with_a_and_b_cut_and_c_between() {
    holds(&two_claims());
}

/// Both sides have a leader, one says Manual and the other Automatic. The edit makes the configuration with Manual the newer
/// one, so that the newer term stays, wherever the edit was made: that of a, which took over.
fn different_heal_rules() -> Vec<Case> {
    let manual = |hosts, side, host, shows| {
        let faults = vec![
            during(0, 20_000, Fault::Split { side }),
            at(5_000, Fault::Failback { host, failback: Failback::Manual }),
        ];
        case(hosts, faults, shows)
    };
    let two_stop = &["failback: Manual", "SplitSeen", "b directive Stop .. Superseded"];
    let two = |host| manual(fleet(&[4, 5]), vec![A], host, two_stop);
    // With others between, each hears of the other's term and settings before it meets the other.
    let four_stop = &["failback: Manual", "SplitSeen", "c directive Stop .. Superseded"];
    let four = |host| manual(fleet(&[4, 3, 5, 2]), vec![A, B], host, four_stop);
    vec![two(A), two(B), four(A), four(C)]
}

#[test]
fn heal_rules_configured_differently_on_the_two_sides() {
    holds(&different_heal_rules());
}

/// The link breaks while the payload is being deleted: the successor hears the release late, or never.
fn lost_release() -> Vec<Case> {
    let lost = |cut: Timed| {
        let faults = vec![at(0, Fault::Switchover { to: Some(B) }), cut];
        let shows = &["reason: Switchover"];
        [case(fleet(&[3, 2]), faults.clone(), shows), case(three_in_quorum(), faults, shows)]
    };
    let late = [(300, 2_000), (400, 6_000), (500, 30_000)];
    let late = late.map(|(at, lasts)| during(at, lasts, Fault::Apart { a: A, b: B }));
    let never = [300, 400, 500].map(|cut_at| at(cut_at, Fault::Split { side: vec![B] }));
    late.into_iter().chain(never).flat_map(lost).collect()
}

#[test]
fn the_release_is_lost() {
    holds(&lost_release());
}

fn dead_successor() -> Vec<Case> {
    let dies = |died_at| {
        let faults = vec![
            at(0, Fault::Switchover { to: Some(B) }),
            at(died_at, Fault::Crash { host: B, reset: false, back: None }),
        ];
        let shows = &["reason: Switchover", "b ends"];
        [case(fleet(&[3, 2]), faults.clone(), shows), case(three_in_quorum(), faults, shows)]
    };
    [600, 650, 700].into_iter().flat_map(dies).collect()
}

#[test]
fn the_successor_is_dead_after_the_release() {
    let cases = dead_successor();
    holds(&cases);
    // The release waits for a write of the status, which now and then takes longer than b has to live.
    let in_order = ["reason: Switchover", "a Election(LeaderChanged { leader: None", "b ends"];
    let runs = cases.iter().flat_map(|c| (0..SEEDS).map(move |seed| (c, seed)));
    let released = runs.filter(|(case, seed)| {
        let outcome = case.run(*seed, Record::default());
        missing(&in_order, &outcome).is_none()
    });
    assert!(released.count() * 2 > cases.len() * usize::try_from(SEEDS).expect("few"));
}

/// It announces 10 s, and comes back after a minute, when somebody else leads, or not at all.
fn endless_away() -> Vec<Case> {
    let away = |hosts| {
        let fault = Fault::Away { host: A, grace: ms(10_000) };
        let shows = &["to: Away", "b object 0 of the payload created"];
        [case(hosts, vec![during(0, 60_000, fault.clone())], shows), {
            case(fleet(&[3, 2]), vec![at(0, fault)], shows)
        }]
    };
    [fleet(&[3, 2]), three_in_quorum()].into_iter().flat_map(away).collect()
}

#[test]
fn away_by_a_leader_that_never_returns() {
    holds(&endless_away());
}

fn twin() -> Vec<Case> {
    let mut hosts = fleet(&[3, 2]);
    let twin = HostSpec { name: "g", rank: 9, ready: false, seeds: vec!["a", "b"], ..hosts[B].clone() };
    hosts.push(twin);
    let faults = vec![at(0, Fault::Join { host: C }), during(5_000, 8_000, Fault::Apart { a: A, b: B })];
    vec![case(hosts, faults, &["g NameInUse"])]
}

#[test]
fn a_name_used_twice() {
    holds(&twin());
}

fn older_epoch() -> Vec<Case> {
    let back = |host| {
        let crash = Fault::Crash { host, reset: true, back: Some(Back::Behind) };
        case(fleet(&[3, 2, 1]), vec![during(0, 2_000, crash)], &["loses its status", "to: Alive"])
    };
    [A, B].map(back).into()
}

#[test]
fn an_epoch_going_backwards() {
    holds(&older_epoch());
}

/// A renewal is sent about every second: the pause begins shortly after one, wherever that is.
fn long_pause() -> Vec<Case> {
    let pause = |begin| {
        let faults = vec![during(begin, 60_000, Fault::Freeze { host: A })];
        let shows = &["b object 0 of the payload created", "a Paused"];
        [case(three_in_quorum(), faults.clone(), shows), case(two_and_a_witness(), faults, shows)]
    };
    [0, 250, 500, 750].into_iter().flat_map(pause).collect()
}

#[test]
fn a_machine_paused_60_s_right_after_a_renewal() {
    holds(&long_pause());
}

/// It looks as if only the process had ended: the restart grace passes, then the lead moves.
fn resetting_balancer() -> Vec<Case> {
    let on = |hosts| {
        let faults = vec![at(0, Fault::Crash { host: A, reset: true, back: None })];
        case(hosts, faults, &["evidence: Some(Exit)", "b object 0 of the payload created"])
    };
    [fleet(&[3, 2]), fleet(&[3, 2, 1]), three_in_quorum(), two_and_a_witness()].map(on).into()
}

#[test]
fn a_load_balancer_that_resets_for_dead_nodes() {
    holds(&resetting_balancer());
}

/// A schedule that cannot fail proves nothing: over a core with the error it is there for, a checker objects or what it
/// has to show does not happen.
#[cfg(feature = "planted-bugs")]
mod planted {
    use flagship_election::PlantedBug as Of;
    use flagship_membership::PlantedBug as Below;

    use super::*;

    /// What says so.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum By {
        Invariant(u8),
        Missing(&'static str),
    }

    const NOTHING: Record =
        Record { timeline: false, digest: false, planted: None, planted_in_membership: None };

    fn of(bug: Of) -> Record {
        Record { planted: Some(bug), ..NOTHING }
    }

    fn below(bug: Below) -> Record {
        Record { planted_in_membership: Some(bug), ..NOTHING }
    }

    fn is_caught(cases: &[Case], bug: Record, by: By) -> bool {
        cases.iter().any(|case| {
            (0..SEEDS).any(|seed| {
                let outcome = case.run(seed, bug);
                match by {
                    By::Invariant(invariant) => outcome.violations.iter().any(|v| v.invariant == invariant),
                    By::Missing(what) => case.misses(&outcome) == Some(what),
                }
            })
        })
    }

    #[test]
    fn every_schedule_catches_what_it_is_there_for() {
        use By::{Invariant, Missing};
        type Schedule = fn() -> Vec<Case>;
        let table: [(&str, Schedule, Record, By); 20] = [
            ("voters", half_changed_voters, of(Of::VotersAllAtOnce), Invariant(10)),
            ("voters", half_changed_voters, of(Of::VotersAllAtOnce), Invariant(3)),
            ("witness", restarted_witness, of(Of::GrantsForgotten), Invariant(1)),
            ("witness", restarted_witness, of(Of::RecordNotAwaited), Invariant(1)),
            ("resumes", resuming_leader, of(Of::ResumesStopping), Invariant(6)),
            ("D", shorter_lease, of(Of::PromiseShortened), Invariant(3)),
            ("mode", mode_on_one_object, of(Of::ModeAtOnce), Missing("b object 0 of the payload created")),
            ("claims", two_claims, of(Of::GrantsTwice), Invariant(1)),
            ("claims", two_claims, of(Of::GrantsTwice), Invariant(2)),
            ("heal", different_heal_rules, of(Of::OwnHealRule), Missing("b directive Stop .. Superseded")),
            ("release", lost_release, of(Of::ReservedForEver), Invariant(7)),
            ("successor", dead_successor, of(Of::ReservedForEver), Invariant(9)),
            ("away", endless_away, below(Below::AwayNeverEnds), Invariant(9)),
            ("away", endless_away, below(Below::AwayNeverEnds), Missing("b object 0 of the payload created")),
            ("twin", twin, below(Below::NewcomerTakesName), Invariant(9)),
            ("epoch", older_epoch, below(Below::EpochNotRaised), Invariant(9)),
            ("pause", long_pause, of(Of::GraceNotWaited), Invariant(4)),
            ("pause", long_pause, of(Of::LeaseOverstayed), Invariant(3)),
            ("balancer", resetting_balancer, of(Of::GraceNeverEnds), Invariant(9)),
            ("balancer", resetting_balancer, of(Of::GraceNotWaited), Invariant(4)),
        ];
        let missed: Vec<_> = table
            .iter()
            .filter(|(_, schedule, bug, by)| !is_caught(&schedule(), *bug, *by))
            .map(|(name, _, bug, by)| (name, bug.planted, bug.planted_in_membership, by))
            .collect();
        assert!(missed.is_empty(), "{missed:#?}");
    }
}
