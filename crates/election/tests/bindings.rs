//! Mode Quorum: what binds a leader and its voters through changes of the mode and of the voters, restarts, and records
//! that were lost. Each test is a schedule that a review found.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{Input, ResignReason, Spec};
use flagship_types::{FleetConfig, Mode, Term};
use fleet::quorum::{config, run_alone, three};
use fleet::{Fleet, ms, name, secs};

#[test]
fn a_cut_at_any_moment_of_the_way_to_quorum_makes_no_two() {
    // In Availability both sides of a cut lead; whoever goes by the new mode does not.
    for after in (0..2000).step_by(20) {
        let mut f = three(after, &FleetConfig::default());
        f.change_spec("a", |spec| spec.proposal = config(&["a", "b", "c"]));
        f.run(ms(after));
        f.isolate("a");
        f.run(ms(200));
        let mode = |n: &str| f.nodes[&name(n)].core.as_ref().unwrap().config().mode;
        if mode("b") == Mode::Quorum && mode("c") == Mode::Quorum {
            run_alone(&mut f, secs(40));
            assert_eq!(f.running(), ["b"], "cut after {after} ms");
        }
    }
}

#[test]
fn a_leader_that_restarts_on_the_way_to_availability_is_still_bound() {
    let mut f = three(3, &config(&["a", "b", "c"]));
    f.isolate("a");
    f.change_spec("a", |spec| spec.proposal = FleetConfig::default());
    f.run(ms(300));
    let stored = f.nodes[&name("a")].durable.clone().unwrap();
    assert_eq!(stored.config.mode, Mode::Availability, "it went on record before the cut was noticed");
    assert_eq!(stored.replaced.unwrap().mode, Mode::Quorum);
    f.crash("a");
    f.run(ms(500));
    f.start("a");
    run_alone(&mut f, secs(60));
    assert_eq!(f.running(), ["b"], "a stopped, as the others know nothing of the new mode");
}

#[test]
fn a_leader_that_restarts_builds_no_change_of_voters_on_one_that_nobody_stored() {
    let mut f = three(4, &config(&["a", "b", "c"]));
    for n in ["d", "e"] {
        f.add(n, Spec { proposal: config(&["a", "b", "c"]), ..Fleet::spec(0, true) });
    }
    run_alone(&mut f, secs(5));
    for n in ["b", "c", "d", "e"] {
        // What a says is lost, and it hears the others.
        f.cut_one_way("a", n);
    }
    f.change_spec("a", |spec| spec.proposal = config(&["a", "d", "e"]));
    f.run(ms(200));
    let a = name("a");
    let first = f.nodes[&a].durable.clone().unwrap().config;
    assert_eq!(first.voters.len(), 4, "the first step is on record");
    f.crash("a");
    f.heal_all();
    // They renew from memory, and cannot store a new configuration.
    f.api("b", false);
    f.api("c", false);
    f.start("a");
    let stored = |f: &Fleet, n: &str| {
        f.nodes[&name(n)].durable.as_ref().is_some_and(|record| record.config.version >= first.version)
    };
    let config_of = |f: &Fleet| f.nodes[&name("a")].core.as_ref().unwrap().config().clone();
    run_alone(&mut f, secs(20));
    assert_eq!(f.running(), ["a"]);
    assert!(config_of(&f).same_settings(&first), "{:?}", config_of(&f).voters);
    f.api("b", true);
    f.api("c", true);
    f.until(secs(20), "a majority of the old voters knows of the first step, and it goes on", |f| {
        (stored(f, "b") || stored(f, "c")) && config_of(f).voters == config(&["a", "d", "e"]).voters
    });
}

#[test]
fn after_a_lead_by_force_the_voters_come_back() {
    let mut f = three(5, &config(&["a", "b", "c"]));
    f.crash("a");
    f.crash("c");
    f.run(secs(10));
    let b = name("b");
    let above = f.nodes[&b].core.as_ref().unwrap().term();
    f.input(&b, Input::ForceLead { above, stopped: vec![name("a"), name("c")] });
    f.until(secs(10), "b leads", |f| f.nodes[&name("b")].role() == Some(flagship_types::Role::Leader));
    let voters = |f: &Fleet| f.nodes[&name("b")].core.as_ref().unwrap().config().voters.len();
    assert_eq!(voters(&f), 1);
    // Its old payload was stopped by the operator.
    f.nodes.get_mut(&name("a")).unwrap().payload = fleet::cluster::Payload::default();
    f.start("c");
    f.until(secs(20), "c votes again", |f| voters(f) >= 2);
    f.start("a");
    f.until(secs(20), "all vote again", |f| voters(f) == 3);
    assert!(above > Term::NONE);
}

#[test]
fn a_voter_that_lost_its_record_is_silent_for_what_it_may_have_promised() {
    for seed in 0..20 {
        let mut f = three(seed, &config(&["a", "b", "c"]));
        // Within S, but longer than it takes to elect another.
        f.nodes.get_mut(&name("a")).unwrap().delete_ms = 7_000;
        f.cut("a", "b");
        // b's own promise to a is long over; only c's counts, and nobody else knows of that.
        f.run(secs(30));
        f.crash("c");
        f.lose_status("c");
        f.start("c");
        f.until(secs(5), "c was told everything", |f| f.nodes[&name("c")].durable.is_some());
        f.cut("a", "c");
        run_alone(&mut f, secs(60));
        assert_eq!(f.running(), ["b"]);
    }
}

#[test]
fn a_pause_during_a_pause_counts() {
    for answered_after in 0..60 {
        let mut f = three(6, &config(&["a", "b", "c"]));
        let a = name("a");
        f.input(&a, Input::Paused);
        // What is asked from now on is lost; what was asked at the first pause may be answered at any moment.
        f.run(ms(answered_after));
        for n in ["b", "c"] {
            f.cut_one_way("a", n);
        }
        f.input(&a, Input::Paused);
        f.run(ms(100));
        let core = f.nodes[&a].core.as_ref().unwrap();
        assert_eq!(
            core.lease_until(),
            None,
            "asked before the second pause, answered {answered_after} ms later"
        );
        run_alone(&mut f, secs(30));
        assert_eq!(f.running(), ["b"]);
    }
}

#[test]
fn a_leader_that_restarts_and_is_not_answered_asks_once_a_second() {
    use flagship_election::{Config, Election, Message, Output, PeerView, Presence, Record, Restored};
    use flagship_types::{ConfigVersion, Health, Instant};

    let config = FleetConfig { version: ConfigVersion(257), ..config(&["a", "b", "c"]) };
    let record =
        Record { held: Some(Term(1)), term: Term(1), leader: Some(name("a")), ..Record::new(config.clone()) };
    let restored = Restored { record: Some(record), ..Restored::default() };
    let spec = Spec { proposal: config, ..Fleet::spec(9, true) };
    let mut a = Election::new(Config { name: name("a") }, spec, restored, 1, Instant::ZERO);
    let mut renewals = 0;
    for step in 0..100 {
        let now = Instant::ZERO + ms(10 * step);
        let peer = PeerView {
            name: name("b"),
            presence: Presence::Present,
            metadata: None,
            exited: false,
            linked: true,
        };
        let input = if step == 0 { Input::Peer(peer) } else { Input::Health(Health::default()) };
        a.handle(input, now);
        while let Some(output) = a.poll_output() {
            renewals += u32::from(matches!(output, Output::Send { message: Message::Renew { .. }, .. }));
        }
    }
    assert!((1..=3).contains(&renewals), "{renewals} renewals within a second");
}

#[test]
fn a_release_that_nobody_heard_is_said_again_after_a_restart() {
    for seed in 0..20 {
        let mut f = three(seed, &config(&["a", "b", "c"]));
        // All are asked to end at once, and who leads ends last.
        f.crash("b");
        f.crash("c");
        f.input(&name("a"), Input::Retire(ResignReason::Operator));
        f.until(secs(2), "a stops", |f| f.running().is_empty());
        f.until(secs(2), "that is on record", |f| {
            f.nodes[&name("a")].durable.as_ref().is_some_and(|record| record.held.is_none())
        });
        let stored = f.nodes[&name("a")].durable.clone().unwrap();
        assert_eq!(stored.released.map(|term| term >= Term(1)), Some(true), "{stored:?}");
        f.crash("a");
        for n in ["a", "b", "c"] {
            f.start(n);
        }
        // The voters had promised D and 1.05 S: 13.5 s. They are silent for D after their start.
        f.until(secs(9), "somebody leads", |f| f.running().len() == 1);
        run_alone(&mut f, secs(20));
        let leader = name(f.running()[0]);
        let stored = f.nodes[&leader].durable.clone().unwrap();
        assert_eq!(stored.released, None, "a newer lead is known");
    }
}

/// {A, B, W}: a is cut off right when its object asks for Availability, writes that, and stops.
fn half_left(seed: u64) -> Fleet {
    let mut f = three(seed, &config(&["a", "b", "c"]));
    f.isolate("a");
    f.change_spec("a", |spec| spec.proposal = FleetConfig::default());
    f.until(secs(20), "a stopped", |f| !f.running().contains(&"a"));
    f.run(secs(1));
    let stored = f.nodes[&name("a")].durable.clone().unwrap();
    assert_eq!((stored.config.mode, stored.held), (Mode::Availability, None));
    assert_eq!(stored.replaced.unwrap().mode, Mode::Quorum);
    f
}

#[test]
fn a_member_that_left_quorum_alone_is_bound_whenever_it_restarts() {
    for seed in 0..10 {
        let mut f = half_left(seed);
        f.crash("a");
        f.run(ms(500));
        f.start("a");
        run_alone(&mut f, secs(60));
        assert_eq!(f.running(), ["b"], "a needs the voters of the Quorum that they know");
        f.heal_all();
        // What b has written since is not what a has: it says nothing of Quorum being left.
        run_alone(&mut f, secs(60));
        assert_eq!(f.nodes[&name("a")].durable.as_ref().unwrap().replaced, None);
    }
}

#[test]
fn a_member_that_left_quorum_alone_is_elected_by_those_who_know_the_old_one() {
    for seed in 0..10 {
        for restarts in [false, true] {
            let mut f = three(seed, &config(&["a", "b", "c"]));
            f.nodes.get_mut(&name("c")).unwrap().spec.witness = true;
            f.change_spec("c", |spec| spec.witness = true);
            f.crash("b");
            f.run(secs(5));
            f.isolate("a");
            f.change_spec("a", |spec| spec.proposal = FleetConfig::default());
            f.until(secs(20), "a stopped", |f| f.running().is_empty());
            f.run(secs(1));
            let stored = f.nodes[&name("a")].durable.clone().unwrap();
            assert_eq!((stored.config.mode, stored.held), (Mode::Availability, None));
            if restarts {
                f.crash("a");
                f.start("a");
            }
            run_alone(&mut f, secs(20));
            assert!(f.running().is_empty(), "nobody granted it");
            f.heal_all();
            f.until(secs(40), "a leads by c's grant, and c learns of the new mode", |f| {
                f.running() == ["a"] && !f.nodes[&name("a")].core.as_ref().unwrap().is_bound_by_quorum()
            });
            let stored = f.nodes[&name("c")].durable.clone().unwrap();
            assert_eq!((stored.config.mode, stored.replaced), (Mode::Availability, None));
        }
    }
}

#[test]
fn whoever_hears_that_quorum_is_left_goes_by_it_only_once_a_majority_does() {
    // d has no vote; e has one of five.
    for (voters, with) in [(&["a", "b", "c"][..], "d"), (&["a", "b", "c", "d", "e"][..], "e")] {
        for after in (0..1500).step_by(50) {
            let mut f = three(after, &config(&["a", "b", "c"]));
            for n in ["d", "e"] {
                f.add(n, Spec { proposal: config(voters), ..Fleet::spec(0, true) });
            }
            f.change_spec("a", |spec| spec.proposal = config(voters));
            f.run(secs(10));
            let in_force = f.nodes[&name("b")].durable.clone().unwrap().config;
            assert_eq!(in_force.voters, config(voters).voters);
            for n in ["b", "c", "d", "e"].iter().filter(|n| **n != with) {
                f.cut("a", n);
                f.cut(with, n);
            }
            f.run(ms(after));
            f.change_spec("a", |spec| spec.proposal = FleetConfig::default());
            run_alone(&mut f, secs(60));
            assert_eq!(f.running(), ["b"], "{voters:?}, {with} with a, changed after {after} ms");
        }
    }
}

#[test]
fn a_fleet_that_left_quorum_is_bound_by_nothing() {
    for seed in 0..10 {
        let mut f = three(seed, &config(&["a", "b", "c"]));
        for n in ["a", "b", "c"] {
            f.change_spec(n, |spec| spec.proposal = FleetConfig::default());
        }
        f.crash("c");
        let unbound = |f: &Fleet, n: &str| {
            let core = f.nodes[&name(n)].core.as_ref().unwrap();
            core.config().mode == Mode::Availability && !core.is_bound_by_quorum()
        };
        f.until(secs(5), "those who are there go by Availability", |f| unbound(f, "a") && unbound(f, "b"));
        f.start("c");
        f.until(secs(10), "and who comes back later", |f| unbound(f, "c"));
        f.run(secs(5));
        f.crash("a");
        f.crash("b");
        f.until(secs(20), "c leads alone", |f| f.running().contains(&"c"));
    }
}

#[test]
fn quorum_is_not_left_without_its_majority() {
    let mut f = three(7, &config(&["a", "b", "c"]));
    f.isolate("a");
    f.view_down("a", "b");
    f.view_down("a", "c");
    f.change_spec("a", |spec| spec.proposal = FleetConfig::default());
    f.run(ms(100));
    let core = f.nodes[&name("a")].core.as_ref().unwrap();
    assert_eq!((core.role(), core.config().mode), (flagship_types::Role::Leader, Mode::Quorum));
    let because = core.voters_refused().unwrap();
    assert!(because.contains("b, c did not answer"), "{because}");
}

#[test]
fn on_the_way_out_of_quorum_a_candidate_asks_as_the_voters_know_it() {
    use flagship_election::{Config, Election, Message, Output, PeerView, Presence, Record, Restored};
    use flagship_types::{ConfigVersion, Instant, Rank, Role};

    let old = FleetConfig { version: ConfigVersion(256), ..config(&["a", "b", "c"]) };
    let new = FleetConfig { version: ConfigVersion(257), ..FleetConfig::default() };
    let record = Record {
        term: Term(1),
        leader: Some(name("b")),
        replaced: Some(Box::new(old.clone())),
        ..Record::new(new.clone())
    };
    let restored = Restored { record: Some(record), known_peers: vec![name("b")], ..Restored::default() };
    let spec = Spec { proposal: new, ..Fleet::spec(9, true) };
    let mut now = Instant::ZERO;
    let mut a = Election::new(Config { name: name("a") }, spec, restored, 1, now);
    let peer = |n: &str, presence, linked, config| {
        let metadata = (n == "c").then(|| flagship_types::Metadata {
            address: None,
            rank: Rank(0),
            candidate: false,
            health: flagship_types::Health::default(),
            role: Role::Witness,
            term: Term(1),
            leader: None,
            config,
            interrupted: false,
            fences: false,
            quorum: false,
            promoted: Term::NONE,
        });
        Input::Peer(PeerView { name: name(n), presence, metadata, exited: false, linked })
    };
    a.handle(peer("b", Presence::Down, false, old.version), now);
    a.handle(peer("c", Presence::Present, false, ConfigVersion(512)), now);
    assert!(a.is_bound_by_quorum(), "what another leader has written since says nothing of this one");
    a.handle(peer("c", Presence::Present, true, old.version), now);
    let mut waited = None;
    for _ in 0..3_000 {
        let outputs: Vec<_> = std::iter::from_fn(|| a.poll_output()).collect();
        for output in outputs {
            let (claim, pre) = match output {
                Output::Persist(record) => {
                    a.handle(Input::Persisted(record.version), now);
                    continue;
                }
                Output::Send { message: Message::Renew { term, seq, .. }, .. } => {
                    let message = Message::Renewed { term, seq, config: old.version };
                    a.handle(Input::Message { from: name("c"), message }, now);
                    continue;
                }
                Output::Send { message: Message::PreClaim(claim), .. } => (claim, true),
                Output::Send { message: Message::Claim(claim), .. } => (claim, false),
                _ => continue,
            };
            assert_eq!(claim.config, old);
            waited = waited.or(a.waiting_for(now));
            let owed = std::time::Duration::ZERO;
            let message = Message::Grant { term: claim.term, pre, owed, config: old.version };
            a.handle(Input::Message { from: name("c"), message }, now);
        }
        now = now + ms(10);
        a.handle_timeout(now);
    }
    assert!(a.role() == Role::Leader && a.is_bound_by_quorum(), "{:?}", a.role());
    let version = a.config().version;
    assert_eq!((a.config().mode, version.term()), (Mode::Availability, a.term()), "newer than any before it");
    let message = Message::ConfigStored { version };
    a.handle(Input::Message { from: name("c"), message }, now);
    assert!(!a.is_bound_by_quorum(), "a and c are a majority");
    assert!(waited.as_ref().unwrap().contains("2 of 3 voters"), "{waited:?}");
}
