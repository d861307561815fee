//! What an operator asks of a fleet: pause, resume, a lead by force, a member that may not lead.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{AscentReason, Claim, Event, Input, Message, ResignReason};
use flagship_types::{Failback, Pause, Rank, Term};
use fleet::pair::{overlap, pair, settled};
use fleet::{Bug, Fleet, ms, name, secs};

fn three() -> Fleet {
    let mut f = Fleet::new(1, Bug::None);
    f.add("a", Fleet::spec(9, true));
    f.add("b", Fleet::spec(5, false));
    f.add("c", Fleet::spec(1, false));
    f.run(secs(20));
    settled(&mut f, "a");
    f
}

/// The answer to one order: what its events say.
fn order(f: &mut Fleet, of: &str, input: Input) -> Result<(), String> {
    let since = f.events.len();
    f.input(&name(of), input);
    let own = f.events[since..].iter().filter(|(_, who, _)| who.as_str() == of);
    let mut refused = own.filter_map(|(_, _, event)| match event {
        Event::PauseRefused { because, .. }
        | Event::ForceRefused { because }
        | Event::HandOverRefused { because, .. } => Some(because.clone()),
        _ => None,
    });
    refused.next_back().map_or(Ok(()), Err)
}

/// Who says that it leads. A payload whose daemon was killed runs on, and does not count here.
fn leads(f: &Fleet) -> Vec<&str> {
    f.leaders().iter().map(|node| node.name.as_str()).collect()
}

fn pause(f: &mut Fleet, on: &str) -> Result<(), String> {
    let since_ms = millis(f);
    order(f, on, Input::Pause(Some(Pause { since_ms, reason: "network work".into() })))
}

fn millis(f: &Fleet) -> u64 {
    u64::try_from(f.now.since(flagship_types::Instant::ZERO).as_millis()).unwrap()
}

fn resume(f: &mut Fleet, on: &str) -> Result<(), String> {
    order(f, on, Input::Pause(None))
}

fn force(f: &mut Fleet, on: &str, above: u64, stopped: &[&str]) -> Result<(), String> {
    let stopped = stopped.iter().map(|n| name(n)).collect();
    order(f, on, Input::ForceLead { above: Term(above), stopped })
}

fn paused(f: &Fleet, on: &str) -> bool {
    f.nodes[&name(on)].core.as_ref().unwrap().config().pause.is_some()
}

fn term(f: &Fleet, of: &str) -> u64 {
    f.nodes[&name(of)].core.as_ref().unwrap().record().term.0
}

fn reason(f: &Fleet, of: &str) -> Option<AscentReason> {
    f.nodes[&name(of)].core.as_ref().unwrap().ascent().map(|ascent| ascent.reason)
}

fn waits(f: &Fleet, on: &str) -> String {
    f.nodes[&name(on)].core.as_ref().unwrap().waiting_for(f.now).unwrap_or_default()
}

#[test]
fn under_a_pause_a_dead_leader_is_not_replaced_until_the_fleet_is_resumed() {
    let mut f = pair();
    pause(&mut f, "sheffield").unwrap();
    f.run(secs(2));
    assert!(paused(&f, "newyork") && paused(&f, "sheffield"));
    assert!(f.nodes[&name("sheffield")].core.as_ref().unwrap().config_missing().is_empty());
    f.crash("sheffield");
    f.run(secs(120));
    assert!(f.leaders().is_empty(), "nothing moves");
    assert!(waits(&f, "newyork").contains("network work"), "{}", waits(&f, "newyork"));
    assert_eq!(f.nodes[&name("newyork")].core.as_ref().unwrap().leader(), None, "who is gone does not lead");
    resume(&mut f, "newyork").unwrap();
    f.until(secs(5), "newyork takes over", |f| leads(f) == ["newyork"]);
    f.run(secs(1));
    assert!(!paused(&f, "newyork"), "whoever leads by that order ends the pause");
    f.start("sheffield");
    f.until(secs(20), "rank decides again", |f| leads(f) == ["sheffield"]);
    f.run(secs(3));
    assert!(!paused(&f, "sheffield"));
    settled(&mut f, "sheffield");
}

#[test]
fn a_pause_survives_a_restart_of_everything_and_a_leader_goes_on() {
    let mut f = pair();
    pause(&mut f, "sheffield").unwrap();
    f.run(secs(2));
    let created = f.nodes[&name("sheffield")].payload.created;
    f.crash("newyork");
    f.crash("sheffield");
    f.run(secs(5));
    f.start("newyork");
    f.run(secs(60));
    assert!(f.leaders().is_empty() && paused(&f, "newyork"), "the other one alone does not take over");
    f.start("sheffield");
    f.until(secs(20), "sheffield goes on", |f| f.leaders().len() == 1);
    settled(&mut f, "sheffield");
    assert!(paused(&f, "sheffield"));
    assert_eq!(f.nodes[&name("sheffield")].payload.created, created, "its payload was not touched");
}

#[test]
fn under_a_pause_rank_and_health_move_nothing_and_an_operator_does() {
    let mut f = pair();
    pause(&mut f, "sheffield").unwrap();
    f.run(secs(1));
    f.change_spec("newyork", |s| s.rank = Rank(99));
    f.change_spec("sheffield", |s| s.promote_timeout = Some(secs(5)));
    f.break_pods("sheffield", true);
    f.run(secs(60));
    assert_eq!(leads(&f), ["sheffield"]);
    let because = "an operator paused the fleet (network work)";
    let own = f.events.iter().filter(|(_, who, _)| who.as_str() == "sheffield");
    let refused = own.filter(|(_, _, e)| matches!(e, Event::HandOverRefused { because: b, reason: ResignReason::Unhealthy, .. } if b == because));
    assert_eq!(refused.count(), 1, "said once");
    f.break_pods("sheffield", false);
    order(&mut f, "sheffield", Input::HandOver { to: None, reason: ResignReason::Switchover }).unwrap();
    assert!(!overlap(&mut f, secs(10)));
    settled(&mut f, "newyork");
    assert!(paused(&f, "newyork"), "the pause goes with the configuration");
    assert_eq!(reason(&f, "newyork"), Some(AscentReason::Switchover));
    resume(&mut f, "newyork").unwrap();
    f.run(secs(2));
    assert!(!paused(&f, "newyork") && !paused(&f, "sheffield"));
}

#[test]
fn the_object_of_a_leader_may_go_under_a_pause_and_somebody_follows() {
    let mut f = pair();
    pause(&mut f, "sheffield").unwrap();
    f.run(secs(1));
    f.input(&name("sheffield"), Input::Retire(ResignReason::Removal));
    f.until(secs(10), "newyork follows", |f| leads(f) == ["newyork"]);
    assert_eq!(reason(&f, "newyork"), Some(AscentReason::Removal));
}

#[test]
fn who_does_not_lead_says_who_does() {
    let mut f = pair();
    let said = pause(&mut f, "newyork").unwrap_err();
    assert!(said.contains("tell sheffield"), "{said}");
    assert!(resume(&mut f, "newyork").unwrap_err().contains("tell sheffield"));
    assert_eq!(resume(&mut f, "sheffield").unwrap_err(), "the fleet is not paused");
    f.crash("sheffield");
    f.view_down("newyork", "sheffield");
    assert_eq!(pause(&mut f, "newyork").unwrap_err(), "nobody leads, so nobody can pause the fleet");
}

#[test]
fn a_second_pause_keeps_its_beginning_and_takes_the_new_reason() {
    let mut f = pair();
    pause(&mut f, "sheffield").unwrap();
    f.run(secs(5));
    let now = millis(&f);
    order(&mut f, "sheffield", Input::Pause(Some(Pause { since_ms: now, reason: "more".into() }))).unwrap();
    f.run(secs(1));
    let config = f.nodes[&name("newyork")].core.as_ref().unwrap().config().clone();
    let pause = config.pause.unwrap();
    assert_eq!((pause.reason.as_str(), pause.since_ms), ("more", now - 5000));
}

#[test]
fn a_member_that_missed_the_pause_is_told_when_it_claims() {
    let mut f = three();
    f.isolate("b");
    f.run(secs(10));
    let leads_apart = leads(&f);
    assert!(leads_apart.contains(&"b"), "cut off, it leads its own part: {leads_apart:?}");
    f.heal_all();
    f.run(secs(20));
    settled(&mut f, "a");
    // It misses the pause, and the leader dies before it comes back.
    f.crash("b");
    f.run(secs(5));
    pause(&mut f, "a").unwrap();
    f.run(secs(2));
    assert_eq!(
        f.nodes[&name("a")].core.as_ref().unwrap().config_missing(),
        [],
        "b is down and not waited for"
    );
    f.crash("a");
    f.start("b");
    f.run(secs(60));
    assert!(f.leaders().is_empty() && paused(&f, "b"));
}

#[test]
fn force_needs_the_highest_term_and_everybody_who_might_lead() {
    let mut f = three();
    let known = term(&f, "b");
    let said = force(&mut f, "b", known, &[]).unwrap_err();
    assert!(said.contains("a leads, or may, and is alive"), "{said}");
    let said = force(&mut f, "b", known, &["a"]).unwrap_err();
    assert!(said.contains("a is not stopped"), "{said}");
    assert_eq!(force(&mut f, "a", known, &[]).unwrap_err(), "this member leads already");
    pause(&mut f, "a").unwrap();
    f.run(secs(1));
    f.crash("a");
    f.crash("c");
    f.run(secs(10));
    let known = term(&f, "b");
    for (above, stopped, said) in [
        (known - 1, &["a", "c"][..], "is not the highest"),
        (known + (1 << 21), &["a", "c"], "too far above"),
        (known, &["a"], "cannot see them: c"),
        (known, &[], "cannot see them: a,c"),
        (known, &["a", "b", "c"], "b is to lead"),
        (known, &["a", "c", "x"], "no member of this fleet is called x"),
    ] {
        let error = force(&mut f, "b", above, stopped).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    assert!(f.leaders().is_empty(), "nothing moved");
    force(&mut f, "b", known + 5, &["a", "c"]).unwrap();
    f.until(secs(1), "b leads", |f| leads(f) == ["b"]);
    assert_eq!((term(&f, "b"), reason(&f, "b")), (known + 6, Some(AscentReason::Forced)));
    assert!(paused(&f, "b"), "force does not end a pause");
    // Who had led asks, and finds itself superseded.
    f.start("a");
    f.start("c");
    f.run(secs(20));
    settled(&mut f, "b");
    f.check_quiet();
}

#[test]
fn force_does_not_wait_for_one_that_is_away() {
    let mut f = pair();
    f.crash("sheffield");
    f.run(ms(100));
    let known = term(&f, "newyork");
    f.view_away("newyork", "sheffield");
    f.run(ms(100));
    assert!(force(&mut f, "newyork", known, &[]).unwrap_err().contains("cannot see them: sheffield"));
    force(&mut f, "newyork", known, &["sheffield"]).unwrap();
    f.until(secs(1), "newyork leads", |f| leads(f) == ["newyork"]);
}

#[test]
fn a_term_that_was_used_up_is_not_taken_by_force() {
    let mut f = three();
    pause(&mut f, "a").unwrap();
    f.run(secs(1));
    f.crash("a");
    f.run(secs(9));
    let known = term(&f, "b");
    let config = f.nodes[&name("b")].core.as_ref().unwrap().config().clone();
    // c asks for a term that the operator knows nothing of.
    let claim = Claim { term: Term(known + 3), rank: Rank(1), config, released: None };
    f.input(&name("b"), Input::Message { from: name("c"), message: Message::Claim(claim) });
    let error = force(&mut f, "b", known, &["a"]).unwrap_err();
    assert!(error.contains(&format!("knows term {}", known + 3)), "{error}");
    force(&mut f, "b", known + 3, &["a"]).unwrap();
    f.until(secs(1), "b leads", |f| leads(f) == ["b"]);
    assert_eq!(term(&f, "b"), known + 4);
}

#[test]
fn a_member_without_a_record_does_not_lead_by_force() {
    let mut f = pair();
    f.crash("newyork");
    f.lose_status("newyork");
    f.crash("sheffield");
    f.start("newyork");
    f.run(ms(200));
    let error = force(&mut f, "newyork", 9, &[]).unwrap_err();
    assert!(error.contains("admit it first"), "{error}");
}

#[test]
fn a_leader_that_may_not_lead_any_more_hands_over_at_once_also_with_manual_failback() {
    let mut f = pair();
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.proposal.failback = Failback::Manual);
    }
    f.run(secs(1));
    f.change_spec("sheffield", |s| s.candidate = false);
    assert!(!overlap(&mut f, secs(5)));
    settled(&mut f, "newyork");
    // It does not come back, whatever its rank, until it may lead; nor then, with Manual.
    f.run(secs(60));
    f.change_spec("sheffield", |s| s.candidate = true);
    f.run(secs(60));
    settled(&mut f, "newyork");
}

#[test]
fn a_leader_that_may_not_lead_any_more_stays_as_long_as_nobody_is_fit() {
    let mut f = pair();
    f.api("newyork", false);
    f.run(secs(1));
    f.change_spec("sheffield", |s| s.candidate = false);
    f.run(secs(30));
    assert_eq!(leads(&f), ["sheffield"]);
    assert!(
        waits(&f, "sheffield").contains("newyork cannot reach its API server"),
        "{}",
        waits(&f, "sheffield")
    );
    f.api("newyork", true);
    f.until(secs(5), "newyork takes it", |f| leads(f) == ["newyork"]);
}

#[test]
fn a_suspended_leader_stays_and_a_suspended_standby_does_not_lead() {
    let mut f = pair();
    f.change_spec("sheffield", |s| s.suspended = true);
    f.change_spec("newyork", |s| s.rank = Rank(99));
    f.run(secs(60));
    assert_eq!(leads(&f), ["sheffield"]);
    let said = order(&mut f, "sheffield", Input::HandOver { to: None, reason: ResignReason::Switchover });
    assert!(said.unwrap_err().contains("spec.suspend"));
    f.change_spec("sheffield", |s| s.suspended = false);
    f.until(secs(10), "rank decides again", |f| leads(f) == ["newyork"]);
    f.change_spec("sheffield", |s| s.suspended = true);
    f.run(secs(1));
    f.crash("newyork");
    f.run(secs(60));
    assert!(f.leaders().is_empty(), "a suspended member takes no lead");
    f.change_spec("sheffield", |s| s.suspended = false);
    f.until(secs(10), "sheffield takes over", |f| leads(f) == ["sheffield"]);
}

#[test]
fn a_suspended_leader_that_restarts_goes_on() {
    let mut f = pair();
    let created = f.nodes[&name("sheffield")].payload.created;
    f.change_spec("sheffield", |s| s.suspended = true);
    f.run(secs(1));
    f.crash("sheffield");
    f.run(ms(500));
    f.start("sheffield");
    f.run(secs(20));
    settled(&mut f, "sheffield");
    assert_eq!(f.nodes[&name("sheffield")].payload.created, created);
}

#[test]
fn a_switchover_holds_through_restarts_of_both_and_against_a_third() {
    let mut f = three();
    order(&mut f, "a", Input::HandOver { to: Some(name("c")), reason: ResignReason::Switchover }).unwrap();
    f.run(secs(10));
    settled(&mut f, "c");
    for node in ["a", "b", "c"] {
        f.crash(node);
        f.run(ms(500));
        f.start(node);
        f.run(secs(30));
        settled(&mut f, "c");
    }
    // An edited rank is a newer wish.
    f.change_spec("b", |s| s.rank = Rank(20));
    f.until(secs(10), "b leads", |f| leads(f) == ["b"]);
}

#[test]
fn failback_waits_for_its_delay_and_manual_failback_for_an_operator() {
    let mut f = pair();
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.proposal.failback_delay = secs(30));
    }
    f.run(secs(1));
    f.crash("sheffield");
    f.until(secs(9), "newyork takes over", |f| leads(f) == ["newyork"]);
    assert_eq!(reason(&f, "newyork"), Some(AscentReason::Crash));
    f.start("sheffield");
    f.run(secs(28));
    settled(&mut f, "newyork");
    f.until(secs(10), "sheffield takes it back", |f| leads(f) == ["sheffield"]);
    assert_eq!(reason(&f, "sheffield"), Some(AscentReason::Rank));
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.proposal.failback = Failback::Manual);
    }
    f.run(secs(1));
    f.crash("sheffield");
    f.until(secs(9), "newyork takes over", |f| leads(f) == ["newyork"]);
    f.start("sheffield");
    f.run(secs(600));
    settled(&mut f, "newyork");
    order(&mut f, "newyork", Input::HandOver { to: None, reason: ResignReason::Switchover }).unwrap();
    f.until(secs(9), "an operator moves it", |f| leads(f) == ["sheffield"]);
}

#[test]
fn a_health_problem_starts_the_failback_delay_anew() {
    let mut f = pair();
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.proposal.failback_delay = secs(30));
    }
    f.run(secs(1));
    f.crash("sheffield");
    f.until(secs(9), "newyork takes over", |f| leads(f) == ["newyork"]);
    f.start("sheffield");
    f.run(secs(20));
    f.api("sheffield", false);
    f.run(secs(1));
    f.api("sheffield", true);
    f.run(secs(25));
    settled(&mut f, "newyork");
    f.until(secs(10), "sheffield takes it back", |f| leads(f) == ["sheffield"]);
}

#[test]
fn the_phases_of_a_change_are_measured_from_its_cause() {
    let mut f = pair();
    let phases = |f: &Fleet, of: &str| f.nodes[&name(of)].core.as_ref().unwrap().ascent().unwrap().phases;
    f.crash("sheffield");
    f.until(secs(9), "newyork takes over", |f| leads(f) == ["newyork"]);
    let crash = phases(&f, "newyork");
    let detected = crash.detected.expect("a failure is detected");
    assert!(detected >= ms(200) && detected <= secs(2), "{crash:?}");
    assert!(crash.elected > detected && crash.elected <= secs(9), "{crash:?}");
    assert_eq!(crash.predecessor_stopped, None, "nobody said so");
    f.start("sheffield");
    f.until(secs(20), "sheffield takes it back", |f| leads(f) == ["sheffield"]);
    let rank = phases(&f, "sheffield");
    let stopped = rank.predecessor_stopped.expect("newyork said so");
    assert_eq!(rank.detected, None);
    assert!(rank.elected >= stopped && rank.elected <= secs(5), "{rank:?}");
}

#[test]
fn a_failure_counts_from_the_last_sign_of_life_that_anybody_told_of() {
    let detected = |vouched_ms: Option<u64>| {
        let mut f = pair();
        f.run(ms(700));
        let at = f.now;
        f.crash("sheffield");
        if let Some(ahead) = vouched_ms {
            f.input(&name("newyork"), Input::Vouched { member: name("sheffield"), at: at + ms(ahead) });
        }
        f.until(secs(9), "newyork takes over", |f| leads(f) == ["newyork"]);
        let phases = f.nodes[&name("newyork")].core.as_ref().unwrap().ascent().unwrap().phases;
        phases.detected.expect("a failure is detected")
    };
    let (alone, told) = (detected(None), detected(Some(0)));
    assert!(told > ms(0) && told + ms(300) < alone, "{told:?} against {alone:?}");
    assert_eq!(detected(Some(3_600_000)), told, "nobody hears the future");
}

#[test]
fn a_leader_that_others_heard_did_not_fail_before() {
    let mut f = three();
    // b hears a no more and wants the lead; c hears a, and refuses for half a minute.
    f.cut("a", "b");
    f.run(secs(30));
    assert!(
        f.events
            .iter()
            .any(|(_, who, event)| who.as_str() == "b" && matches!(event, Event::RoleChanged { .. }))
    );
    f.crash("a");
    f.until(secs(9), "b takes over", |f| leads(f) == ["b"]);
    let phases = f.nodes[&name("b")].core.as_ref().unwrap().ascent().unwrap().phases;
    let detected = phases.detected.expect("a failure is detected");
    assert!(detected > ms(0) && detected <= secs(6), "not since b itself heard a: {phases:?}");
    assert!(phases.elected >= detected && phases.elected <= secs(9), "{phases:?}");
}

#[test]
fn a_lead_that_is_forced_is_not_given_to_two() {
    for seed in 0..50 {
        let mut f = Fleet::new(seed, Bug::None);
        f.add("a", Fleet::spec(9, true));
        f.add("b", Fleet::spec(5, false));
        f.add("c", Fleet::spec(1, false));
        f.run(secs(20));
        pause(&mut f, "a").unwrap();
        f.run(secs(1));
        f.crash("a");
        f.run(secs(9));
        let known = term(&f, "b").max(term(&f, "c"));
        // Two operators at once, one of whom resumes.
        let forced = force(&mut f, "b", known, &["a"]);
        let resumed = resume(&mut f, "c");
        assert!(forced.is_ok(), "{forced:?}");
        let _: Result<(), String> = resumed;
        f.run(secs(10));
        f.start("a");
        f.run(secs(30));
        f.check_quiet();
        assert!(f.violations.is_empty(), "seed {seed}: {:?}", f.violations);
        assert_eq!(f.leaders().len(), 1);
    }
}
