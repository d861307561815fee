//! Mode Quorum: leases, the self-stop, what a successor waits for, and changes of voters.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use std::time::Duration;

use flagship_election::{AscentReason, Directive, Input, ResignReason, Spec};
use flagship_types::{FleetConfig, Mode, Rank, Role};
use fleet::quorum::{self, config, run_alone};
use fleet::{Bug, Fleet, ms, name, secs};

/// Wait of a successor: what is left of D = 3 s, and 1.05 x S = 10.5 s.
const WORST: Duration = Duration::from_secs(16);

fn spec(rank: i64, voters: &[&str]) -> Spec {
    Spec { proposal: config(voters), ..Fleet::spec(rank, true) }
}

fn witness() -> Spec {
    Spec { candidate: false, witness: true, ready: false, ..Fleet::spec(0, false) }
}

const WITH_WITNESS: [&str; 3] = ["newyork", "sheffield", "witness"];

/// Two members and a witness; sheffield leads.
fn with_witness(seed: u64) -> Fleet {
    let mut f = Fleet::new(seed, Bug::None);
    f.detect = ms(3200);
    f.add("newyork", spec(5, &WITH_WITNESS));
    f.add("sheffield", spec(10, &WITH_WITNESS));
    f.add("witness", witness());
    f.until(secs(12), "sheffield leads", |f| f.running() == ["sheffield"]);
    f.run(secs(5));
    assert_eq!(f.running(), ["sheffield"], "{:?}", f.violations);
    f
}

fn until_alone(f: &mut Fleet, most: Duration, what: &str, is_so: impl Fn(&Fleet) -> bool) -> Duration {
    let start = f.now;
    while !is_so(f) {
        if f.now.since(start) >= most {
            f.fail(&format!("not within {most:?}: {what}"));
        }
        run_alone(f, ms(10));
    }
    f.now.since(start)
}

/// Three members; a leads.
fn three(seed: u64) -> Fleet {
    quorum::three(seed, &config(&["a", "b", "c"]))
}

#[test]
fn a_leader_cut_off_stops_before_the_other_begins() {
    for seed in 0..20 {
        let mut f = with_witness(seed);
        f.isolate("sheffield");
        let stopped = until_alone(&mut f, secs(4), "sheffield stops", |f| f.running().is_empty());
        assert!(stopped <= ms(3300), "0.8 D and the deletion: {stopped:?}");
        assert!(f.log.iter().any(|l| l.contains("sheffield Stop {") && l.contains("LeaseLost")));
        let began = until_alone(&mut f, WORST, "newyork begins", |f| f.running() == ["newyork"]);
        assert!(stopped + began >= ms(12_000), "it waited for S: {:?}", stopped + began);
        f.heal_all();
        run_alone(&mut f, secs(30));
        assert_eq!(f.running(), ["sheffield"], "failback by rank");
    }
}

/// Its payload runs, though the lead that goes on is not on record yet.
#[test]
fn a_lease_lost_after_a_stop_that_was_called_off_stops_the_payload_at_once() {
    let mut f = three(3);
    f.change_spec("b", |spec| spec.rank = Rank(20));
    let is = |f: &Fleet, role| f.nodes[&name("a")].role() == Some(role);
    f.until(secs(9), "a gives the lead to b", |f| is(f, Role::Stopping));
    f.api("a", false);
    f.crash("b");
    f.crash("c");
    f.until(secs(1), "the stop is called off", |f| is(f, Role::Candidate) || is(f, Role::Leader));
    assert_eq!(f.running(), ["a"], "nothing was deleted");
    f.until(secs(4), "the lease is lost", |f| !is(f, Role::Candidate) && !is(f, Role::Leader));
    let lost = Directive::Stop {
        term: f.nodes[&name("a")].core.as_ref().unwrap().term(),
        reason: ResignReason::LeaseLost,
    };
    f.until(secs(2), "it has to go", |f| f.directive("a") == Some(&lost));
}

#[test]
fn a_standby_or_the_witness_lost_changes_nothing() {
    for lost in ["newyork", "witness"] {
        let mut f = with_witness(7);
        f.isolate(lost);
        run_alone(&mut f, secs(30));
        assert_eq!(f.running(), ["sheffield"]);
        f.heal_all();
        run_alone(&mut f, secs(10));
        assert_eq!(f.running(), ["sheffield"]);
        assert_eq!(f.nodes[&name("sheffield")].payload.created, 1);
    }
}

#[test]
fn without_a_majority_nobody_leads_and_the_same_one_goes_on_once_there_is_one() {
    let mut f = three(3);
    f.crash("b");
    f.crash("c");
    until_alone(&mut f, secs(4), "a stops", |f| f.running().is_empty());
    run_alone(&mut f, secs(30));
    assert!(f.running().is_empty());
    f.start("c");
    until_alone(&mut f, secs(20), "a majority elects again", |f| f.running().len() == 1);
    f.start("b");
    run_alone(&mut f, secs(20));
    assert_eq!(f.running(), ["a"]);
}

#[test]
fn a_killed_leader_is_replaced_within_the_worst_case() {
    for seed in 0..20 {
        let mut f = three(seed);
        f.crash("a");
        // Its payload runs on without a daemon: nobody can stop it.
        let took = f.until(secs(20), "b begins", |f| f.running().contains(&"b"));
        // Exit: 0.3 s and 3 s of grace; the lease; and S.
        assert!(took >= ms(12_000) && took <= ms(16_000), "{took:?}");
    }
}

#[test]
fn a_leader_that_restarts_in_time_goes_on_under_its_term() {
    for seed in 0..20 {
        let mut f = three(seed);
        let term = f.leaders()[0].core.as_ref().unwrap().term();
        f.crash("a");
        run_alone(&mut f, ms(1500));
        f.start("a");
        run_alone(&mut f, secs(10));
        assert_eq!(f.running(), ["a"]);
        assert_eq!(f.leaders()[0].core.as_ref().unwrap().term(), term);
        assert_eq!(f.nodes[&name("a")].payload.created, 1, "its payload was not touched");
    }
}

#[test]
fn all_restart_at_once_and_the_leader_goes_on() {
    for seed in 0..20 {
        let mut f = with_witness(seed);
        for n in WITH_WITNESS {
            f.crash(n);
        }
        f.run(ms(500));
        for n in WITH_WITNESS {
            f.start(n);
        }
        run_alone(&mut f, secs(20));
        assert_eq!(f.running(), ["sheffield"]);
        assert_eq!(f.nodes[&name("sheffield")].payload.created, 1, "its payload was not touched");
    }
}

#[test]
fn a_leader_that_restarts_alone_stops() {
    let mut f = three(5);
    for n in ["a", "b", "c"] {
        f.crash(n);
    }
    f.run(secs(1));
    f.start("a");
    until_alone(&mut f, secs(4), "a stops what it cannot have a lease for", |f| f.running().is_empty());
}

#[test]
fn a_leader_that_stood_still_writes_nothing_before_it_is_renewed() {
    for seed in 0..20 {
        let mut f = three(seed);
        f.freeze("a");
        f.until(secs(20), "b begins", |f| f.running().contains(&"b"));
        f.thaw("a");
        let a = name("a");
        f.input(&a, Input::Paused);
        let core = f.nodes[&a].core.as_ref().unwrap();
        let permit = core.permit(f.now);
        assert!(!matches!(permit, Some(flagship_election::Permit::Apply { .. })), "{permit:?}");
        f.until(secs(3), "a stops", |f| f.running() == ["b"]);
        f.run(secs(30));
        assert_eq!(f.running(), ["a"], "failback");
    }
}

#[test]
fn a_short_pause_costs_no_payload() {
    let mut f = three(2);
    let a = name("a");
    f.input(&a, Input::Paused);
    assert!(f.nodes[&a].core.as_ref().unwrap().permit(f.now).is_none());
    run_alone(&mut f, secs(5));
    assert_eq!((f.running(), f.nodes[&a].payload.created), (vec!["a"], 1));
}

#[test]
fn a_handover_needs_no_waiting_for_what_is_released() {
    for seed in 0..20 {
        let mut f = with_witness(seed);
        f.crash("sheffield");
        f.until(WORST + secs(4), "newyork leads", |f| f.running().contains(&"newyork"));
        f.start("sheffield");
        f.until(secs(10), "sheffield clears away what it left", |f| f.running() == ["newyork"]);
        until_alone(&mut f, secs(10), "newyork hands over", |f| f.running().is_empty());
        let gap = until_alone(&mut f, secs(3), "sheffield begins", |f| f.running() == ["sheffield"]);
        assert!(gap <= secs(1), "no S to wait for: {gap:?}");
    }
}

#[test]
fn a_handover_that_takes_longer_than_the_lease_keeps_it() {
    let mut f = with_witness(4);
    f.crash("sheffield");
    f.until(WORST + secs(4), "newyork leads", |f| f.running().contains(&"newyork"));
    f.nodes.get_mut(&name("newyork")).unwrap().delete_ms = 20_000;
    f.start("sheffield");
    f.until(secs(10), "sheffield clears away what it left", |f| f.running() == ["newyork"]);
    until_alone(&mut f, secs(40), "sheffield leads", |f| f.running() == ["sheffield"]);
    assert!(!f.log.iter().any(|l| l.contains("newyork Stop {") && l.contains("LeaseLost")));
}

#[test]
fn a_handover_that_is_cut_off_becomes_a_self_stop() {
    let mut f = with_witness(4);
    f.crash("sheffield");
    f.until(WORST + secs(4), "newyork leads", |f| f.running().contains(&"newyork"));
    f.nodes.get_mut(&name("newyork")).unwrap().delete_ms = 8_000;
    f.start("sheffield");
    f.until(secs(10), "sheffield clears away what it left", |f| f.running() == ["newyork"]);
    f.until(secs(10), "newyork hands over", |f| {
        f.nodes[&name("newyork")].core.as_ref().unwrap().role() == Role::Stopping
    });
    f.isolate("newyork");
    run_alone(&mut f, secs(25));
    assert_eq!(f.running(), ["sheffield"]);
    assert!(f.log.iter().any(|l| l.contains("newyork Stop {") && l.contains("LeaseLost")));
}

#[test]
fn one_way_cuts_never_make_two() {
    for seed in 0..10 {
        for (from, to) in [
            ("sheffield", "newyork"),
            ("newyork", "sheffield"),
            ("sheffield", "witness"),
            ("witness", "sheffield"),
        ] {
            let mut f = with_witness(seed);
            f.cut_one_way(from, to);
            run_alone(&mut f, secs(25));
            f.heal_all();
            run_alone(&mut f, secs(30));
            assert_eq!(f.running(), ["sheffield"], "{from} -> {to}");
        }
    }
}

#[test]
fn a_witness_that_restarts_is_silent_for_what_it_had_promised() {
    let mut f = with_witness(9);
    f.isolate("sheffield");
    f.crash("witness");
    f.start("witness");
    let until = f.now + ms(2900);
    while f.now < until {
        run_alone(&mut f, ms(10));
        let vote = f.nodes[&name("witness")].durable.as_ref().and_then(|d| d.vote.clone());
        assert_eq!(vote.unwrap().candidate, name("sheffield"), "it had promised");
    }
    run_alone(&mut f, WORST);
    assert_eq!(f.running(), ["newyork"]);
}

#[test]
fn a_voter_without_its_record_waits_for_all_others() {
    let mut f = with_witness(1);
    f.crash("witness");
    f.nodes.get_mut(&name("witness")).unwrap().durable = None;
    f.crash("newyork");
    f.start("witness");
    // Sheffield cannot be renewed by somebody who may have granted another the lead.
    until_alone(&mut f, secs(5), "sheffield stops", |f| f.running().is_empty());
    run_alone(&mut f, secs(20));
    assert!(f.running().is_empty());
    f.start("newyork");
    until_alone(&mut f, WORST + secs(5), "all have told", |f| f.running().len() == 1);
}

#[test]
fn who_could_not_stop_is_not_replaced_without_a_fence() {
    for fences in [false, true] {
        let mut f = three(6);
        f.change_spec("b", |spec| spec.fences = fences);
        f.api("a", false);
        run_alone(&mut f, secs(5));
        assert_eq!(f.running(), ["a"]);
        f.crash("a");
        f.run(secs(40));
        assert_eq!(f.running().contains(&"b"), fences, "fences: {fences}");
        if !fences {
            let b = f.nodes[&name("b")].core.as_ref().unwrap();
            let waits = b.waiting_for(f.now).unwrap();
            assert!(waits.contains("could not stop") && waits.contains('a'), "{waits}");
        }
    }
}

#[test]
fn voters_change_one_at_a_time_and_the_lead_stays() {
    let mut f = three(1);
    for n in ["d", "e"] {
        f.add(n, spec(0, &["a", "b", "c"]));
    }
    run_alone(&mut f, secs(5));
    let wanted = ["a", "b", "c", "d", "e"];
    let a = name("a");
    f.change_spec(a.as_str(), |spec| spec.proposal = config(&wanted));
    let mut sizes = Vec::new();
    for _ in 0..300 {
        run_alone(&mut f, ms(10));
        let size = f.nodes[&a].core.as_ref().unwrap().config().voters.len();
        if sizes.last() != Some(&size) {
            sizes.push(size);
        }
    }
    assert_eq!(sizes.last(), Some(&5), "{sizes:?}");
    assert!(sizes.windows(2).all(|w| w[0].abs_diff(w[1]) == 1), "{sizes:?}");
    for node in f.nodes.values() {
        assert_eq!(node.core.as_ref().unwrap().config().voters, config(&wanted).voters, "{}", node.name);
    }
    assert_eq!(f.running(), ["a"]);
}

#[test]
fn voters_that_do_not_answer_are_not_added_beyond_the_majority() {
    let mut f = with_witness(1);
    f.crash("newyork");
    run_alone(&mut f, secs(4));
    let wanted = ["ghost", "newyork", "sheffield", "witness"];
    let sheffield = name("sheffield");
    f.change_spec(sheffield.as_str(), |spec| spec.proposal = config(&wanted));
    run_alone(&mut f, secs(10));
    let core = f.nodes[&sheffield].core.as_ref().unwrap();
    assert_eq!(core.config().voters, config(&WITH_WITNESS).voters);
    assert!(core.voters_refused().unwrap().contains("ghost"), "{:?}", core.voters_refused());
    assert_eq!(f.running(), ["sheffield"]);
}

#[test]
fn who_lost_its_lease_and_leads_again_has_founded_nothing() {
    let mut f = with_witness(1);
    f.crash("newyork");
    f.crash("witness");
    f.until(secs(20), "without a majority sheffield stops", |f| f.running().is_empty());
    f.start("newyork");
    f.start("witness");
    f.until(secs(30), "sheffield leads again", |f| f.running() == ["sheffield"]);
    let ascent = f.nodes[&name("sheffield")].core.as_ref().unwrap().ascent().unwrap().clone();
    assert_eq!((ascent.reason, ascent.predecessor), (AscentReason::Regained, None));
}

#[test]
fn after_a_lead_by_force_the_other_voters_become_some_again() {
    let mut f = with_witness(1);
    let sheffield = name("sheffield");
    f.crash("newyork");
    f.crash("witness");
    f.until(secs(20), "without a majority sheffield stops", |f| f.running().is_empty());
    f.run(secs(5));
    let above = f.nodes[&sheffield].core.as_ref().unwrap().record().term;
    f.input(&sheffield, Input::ForceLead { above, stopped: vec![name("newyork")] });
    f.until(secs(20), "sheffield leads by force", |f| f.running() == ["sheffield"]);
    let voters = |f: &Fleet| f.nodes[&sheffield].core.as_ref().unwrap().config().voters.clone();
    assert_eq!(voters(&f), std::slice::from_ref(&sheffield));
    run_alone(&mut f, secs(5));
    assert_eq!(voters(&f), std::slice::from_ref(&sheffield), "the others do not answer");
    f.start("newyork");
    f.start("witness");
    run_alone(&mut f, secs(20));
    assert_eq!(voters(&f), config(&WITH_WITNESS).voters);
    for node in f.nodes.values() {
        assert_eq!(node.core.as_ref().unwrap().config().voters, voters(&f), "{}", node.name);
    }
    assert_eq!(f.running(), ["sheffield"], "its payload ran on");
    // And they count: any two of the three are a majority.
    f.crash("newyork");
    run_alone(&mut f, secs(10));
    assert_eq!(f.running(), ["sheffield"]);
}

#[test]
fn voters_that_have_not_stored_the_configuration_are_named_wherever_they_are() {
    let mut f = with_witness(1);
    let sheffield = name("sheffield");
    let missing = |f: &Fleet| f.nodes[&sheffield].core.as_ref().unwrap().config_missing();
    assert_eq!(missing(&f), []);
    f.crash("witness");
    run_alone(&mut f, secs(6));
    assert_eq!(missing(&f), [], "it has stored what is in force");
    let slower = FleetConfig { failback_delay: secs(9), ..config(&WITH_WITNESS) };
    f.change_spec("sheffield", |spec| spec.proposal = slower.clone());
    run_alone(&mut f, secs(5));
    assert_eq!(missing(&f), [name("witness")], "though it is Down, and no candidate");
    f.start("witness");
    run_alone(&mut f, secs(10));
    assert_eq!(missing(&f), []);
    // A mode that begins with a voter that nobody ever met.
    let mut f = Fleet::new(8, Bug::None);
    f.detect = ms(3200);
    for (n, rank) in [("newyork", 5), ("sheffield", 10)] {
        f.add(n, Fleet::spec(rank, true));
    }
    f.until(secs(12), "sheffield leads", |f| f.running() == ["sheffield"]);
    for n in ["newyork", "sheffield"] {
        f.change_spec(n, |spec| spec.proposal = config(&WITH_WITNESS));
    }
    run_alone(&mut f, secs(5));
    assert_eq!(missing(&f), [name("witness")]);
}

#[test]
fn a_fleet_goes_to_quorum_and_back_without_touching_the_payload() {
    let mut f = Fleet::new(8, Bug::None);
    f.detect = ms(3200);
    f.add("newyork", Fleet::spec(5, true));
    f.add("sheffield", Fleet::spec(10, true));
    f.add("witness", witness());
    f.until(secs(12), "sheffield leads", |f| f.running() == ["sheffield"]);
    f.run(secs(3));
    let created = f.nodes[&name("sheffield")].payload.created;
    for (proposal, mode) in
        [(config(&WITH_WITNESS), Mode::Quorum), (FleetConfig::default(), Mode::Availability)]
    {
        for n in ["newyork", "sheffield"] {
            f.change_spec(n, |spec| spec.proposal = proposal.clone());
            run_alone(&mut f, secs(1));
        }
        run_alone(&mut f, secs(10));
        for node in f.nodes.values() {
            assert_eq!(node.core.as_ref().unwrap().config().mode, mode, "{}", node.name);
        }
        assert_eq!((f.running(), f.nodes[&name("sheffield")].payload.created), (vec!["sheffield"], created));
        if mode == Mode::Quorum {
            assert!(f.nodes[&name("sheffield")].core.as_ref().unwrap().lease_until().is_some());
        }
    }
}

#[test]
fn a_longer_lease_is_kept_though_the_object_asks_for_a_shorter_one() {
    let mut f = Fleet::new(8, Bug::None);
    f.detect = ms(3200);
    let long = FleetConfig { lease: secs(30), ..config(&["a", "b", "c"]) };
    for (n, rank) in [("a", 9), ("b", 5), ("c", 1)] {
        f.add(n, Spec { proposal: long.clone(), ..Fleet::spec(rank, true) });
    }
    f.until(secs(12), "a leads", |f| f.running() == ["a"]);
    f.run(secs(5));
    let a = name("a");
    f.change_spec(a.as_str(), |spec| spec.proposal = config(&["a", "b", "c"]));
    run_alone(&mut f, secs(4));
    // Voters that restart know that they had promised 30 s.
    for n in ["b", "c"] {
        let promise = f.nodes[&name(n)].durable.as_ref().unwrap().promise.unwrap();
        assert_eq!(promise.lease, secs(30), "{n}");
    }
    run_alone(&mut f, secs(40));
    for n in ["b", "c"] {
        let promise = f.nodes[&name(n)].durable.as_ref().unwrap().promise.unwrap();
        assert_eq!(promise.lease, secs(3), "{n}");
    }
}

#[test]
fn random_faults_never_make_two_while_the_daemons_live() {
    for seed in 0..150 {
        let mut f = if seed % 2 == 0 { with_witness(seed) } else { three(seed) };
        let names: Vec<String> = f.nodes.keys().map(ToString::to_string).collect();
        f.loss = 30;
        for _ in 0..8 {
            let n = usize::try_from(f.below(3)).unwrap();
            let m = (n + 1 + usize::try_from(f.below(2)).unwrap()) % 3;
            match f.below(5) {
                0 => f.isolate(&names[n]),
                1 => f.cut(&names[n], &names[m]),
                2 => f.cut_one_way(&names[n], &names[m]),
                3 => f.heal_all(),
                _ => {
                    f.crash(&names[n]);
                    let pause = f.below(1500);
                    run_alone(&mut f, ms(pause));
                    f.start(&names[n]);
                }
            }
            let pause = f.below(9000);
            run_alone(&mut f, ms(pause));
        }
        f.heal_all();
        f.loss = 0;
        run_alone(&mut f, secs(60));
        assert_eq!(f.running().len(), 1, "seed {seed}");
        let directive = f.leaders()[0].core.as_ref().unwrap().directive().clone();
        assert!(matches!(directive, Directive::Run { .. }), "{directive:?}");
    }
}
