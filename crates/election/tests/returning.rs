//! A process that finds what an earlier one left, and a member that comes back: the last good copy stays.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{Directive, Input, Record, ResignReason};
use flagship_types::{Failback, Role, Term};
use fleet::pair::{created, overlap, pair, settled};
use fleet::{Bug, Fleet, ms, name, secs};

#[test]
fn a_leader_without_status_finds_its_payload_and_keeps_it() {
    let mut f = pair();
    let before = created(&f);
    f.crash("sheffield");
    f.lose_status("sheffield");
    f.run(ms(500));
    f.start("sheffield");
    f.run(secs(10));
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before);
    // And alone.
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "leads", |f| f.running() == ["newyork"]);
    f.crash("newyork");
    f.lose_status("newyork");
    f.start("newyork");
    f.run(secs(10));
    settled(&mut f, "newyork");
    assert_eq!(created(&f), [1]);
}

#[test]
fn a_crash_between_the_writes_of_a_leader_without_status_keeps_its_payload() {
    // Its first record, and the one with its own vote, are durable before it holds a lead again.
    let (first, voted) = (|r: &Record| r.vote.is_none(), |r: &Record| r.vote.is_some());
    for is_there in [first as fn(&Record) -> bool, voted] {
        let mut f = pair();
        let before = created(&f);
        f.crash("sheffield");
        f.lose_status("sheffield");
        f.run(ms(500));
        f.start("sheffield");
        let has_half = |f: &Fleet| {
            let record = f.nodes[&name("sheffield")].durable.as_ref();
            record.is_some_and(|r| r.held.is_none() && is_there(r))
        };
        while !has_half(&f) {
            f.run(ms(1));
            assert!(f.leaders().is_empty());
        }
        f.crash("sheffield");
        f.run(ms(500));
        f.start("sheffield");
        f.run(secs(10));
        settled(&mut f, "sheffield");
        assert_eq!(created(&f), before);
    }
}

#[test]
fn forgetting_a_member_writes_no_half_record() {
    let mut f = pair();
    let before = created(&f);
    f.cut("newyork", "sheffield");
    f.crash("sheffield");
    f.lose_status("sheffield");
    f.start("sheffield");
    f.input(&name("sheffield"), Input::Forget(name("ghost")));
    f.run(secs(1));
    assert_eq!(f.nodes[&name("sheffield")].durable, None);
    f.crash("sheffield");
    f.start("sheffield");
    f.heal_all();
    f.run(secs(20));
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before);
}

#[test]
fn what_a_stop_left_behind_gives_way_to_the_leader() {
    let mut f = pair();
    f.crash("newyork");
    let newyork = f.nodes.get_mut(&name("newyork")).unwrap();
    assert_eq!(newyork.durable.as_ref().unwrap().held, None);
    newyork.payload.exists = Some(Term(1));
    f.start("newyork");
    assert_eq!(f.directive("newyork"), Some(&Directive::Hold));
    f.until(secs(5), "newyork deletes", |f| f.running() == ["sheffield"]);
    f.run(secs(5));
    settled(&mut f, "sheffield");
}

#[test]
fn a_superseded_leader_without_status_deletes() {
    let mut f = pair();
    f.crash("sheffield");
    f.lose_status("sheffield");
    f.run(secs(10));
    f.start("sheffield");
    f.until(secs(5), "sheffield deletes", |f| f.running() == ["newyork"]);
    f.until(secs(10), "failback", |f| f.running() == ["sheffield"]);
}

#[test]
fn both_daemons_killed_and_restarted_change_nothing() {
    for order in [["newyork", "sheffield"], ["sheffield", "newyork"]] {
        for pause in [0, 1500, 20_000] {
            let mut f = pair();
            let before = created(&f);
            f.crash("newyork");
            f.crash("sheffield");
            f.run(secs(2));
            f.start(order[0]);
            f.run(ms(pause.min(2000)));
            f.start(order[1]);
            f.run(secs(10));
            settled(&mut f, "sheffield");
            assert_eq!(created(&f), before);
        }
    }
}

#[test]
fn a_process_that_finds_a_stop_only_completes_it() {
    let mut f = Fleet::new(6, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "leads", |f| f.running() == ["newyork"]);
    f.nodes.get_mut(&name("newyork")).unwrap().delete_ms = 5000;
    f.add("sheffield", Fleet::spec(10, false));
    f.until(secs(9), "stops", |f| f.log.iter().any(|l| l.contains("newyork Stop")));
    f.run(ms(200));
    f.crash("newyork");
    f.run(ms(500));
    f.start("newyork");
    assert!(matches!(f.directive("newyork"), Some(Directive::Stop { reason: ResignReason::Unfinished, .. })));
    assert!(!overlap(&mut f, secs(12)));
    settled(&mut f, "sheffield");
}

#[test]
fn a_forgotten_member_is_not_waited_for() {
    let mut f = pair();
    f.cut("newyork", "sheffield");
    f.run(ms(500));
    f.forget("newyork", "sheffield");
    f.until(secs(2), "newyork leads", |f| f.nodes[&name("newyork")].role() == Some(Role::Leader));
    f.run(secs(10));
    assert_eq!(f.nodes[&name("newyork")].durable.as_ref().unwrap().forgotten, [name("sheffield")]);
}

#[test]
fn a_forgotten_leader_that_returns_is_met_like_any_other() {
    for failback in [Failback::Automatic, Failback::Manual] {
        let mut f = pair();
        for node in ["newyork", "sheffield"] {
            f.change_spec(node, |s| s.proposal.failback = failback);
        }
        f.run(secs(2));
        f.cut("newyork", "sheffield");
        f.run(ms(500));
        f.forget("newyork", "sheffield");
        f.until(secs(5), "both lead", |f| f.running().len() == 2);
        f.run(secs(10));
        f.heal_all();
        f.until(secs(5), "one stops", |f| f.running().len() == 1);
        f.run(secs(5));
        settled(&mut f, if failback == Failback::Automatic { "sheffield" } else { "newyork" });
        assert_eq!(f.nodes[&name("newyork")].durable.as_ref().unwrap().forgotten, []);
    }
}
