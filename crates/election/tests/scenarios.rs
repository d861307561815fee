//! Each line of the "What must happen", as far as the election decides it.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use std::time::Duration;

use flagship_election::{Directive, Event, Input, ResignReason};
use flagship_types::{Failback, Role, Term};
use fleet::pair::{created, overlap, pair, settled};
use fleet::{Bug, Fleet, ms, name, secs};

#[test]
fn a_better_member_joins_and_takes_over_stop_before_start() {
    let mut f = Fleet::new(3, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "newyork leads alone", |f| f.running() == ["newyork"]);
    f.add("sheffield", Fleet::spec(10, false));
    assert!(!overlap(&mut f, secs(10)));
    settled(&mut f, "sheffield");
    let told = |words: &[&str]| f.log.iter().any(|l| words.iter().all(|word| l.contains(word)));
    assert!(told(&["sheffield", "Elected {", "failover: false", "handed_over_by: Some", "newyork"]));
    let reasons = f.log.iter().filter(|l| l.contains("Stop {") && l.contains("Handover")).count();
    assert_eq!(reasons, 1);
}

#[test]
fn who_stepped_down_names_its_own_term_not_its_successors() {
    let mut f = pair();
    let ended = f.leaders()[0].core.as_ref().unwrap().term();
    // Paused for long: it comes back to a newer leader and gives its payload up.
    f.crash("sheffield");
    f.until(secs(5), "newyork takes over", |f| f.running().contains(&"newyork"));
    f.start("sheffield");
    f.until(secs(5), "sheffield gives its payload up", |f| f.running() == ["newyork"]);
    f.run(secs(1));
    let down: Vec<_> =
        f.log.iter().filter(|l| l.contains("sheffield RoleChanged { from: Stopping, to: Standby")).collect();
    assert!(!down.is_empty() && down[0].contains(&format!("term: {ended:?}")), "{ended:?} {down:?}");
}

#[test]
fn what_is_waited_for_is_a_sentence_that_stands_still() {
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    let mut said = std::collections::BTreeSet::new();
    while f.running().is_empty() {
        f.run(ms(100));
        let waits = f.nodes[&name("newyork")].core.as_ref().unwrap().waiting_for(f.now);
        said.extend(waits);
    }
    assert!(said.iter().any(|s| s.contains("founds the fleet alone")), "{said:?}");
    assert!(said.len() <= 4, "no countdown: {said:?}");
}

#[test]
fn never_founds_when_not_ready_and_says_so() {
    let mut f = Fleet::new(1, Bug::None);
    f.add("sheffield", Fleet::spec(10, false));
    f.run(secs(120));
    let core = f.nodes[&name("sheffield")].core.as_ref().unwrap();
    assert_eq!(core.role(), Role::Joining);
    assert!(core.waiting_for(f.now).unwrap().contains("ready"), "{:?}", core.waiting_for(f.now));
}

#[test]
fn killed_leader_is_replaced_comes_back_and_takes_the_lead_by_handover() {
    let mut f = pair();
    f.crash("sheffield");
    let took = f.until(secs(5), "newyork takes over", |f| f.running().contains(&"newyork"));
    assert!(took <= ms(3500), "{took:?}");
    f.run(secs(5));
    f.start("sheffield");
    f.until(secs(5), "sheffield gives its payload up", |f| f.running() == ["newyork"]);
    f.until(secs(10), "sheffield leads again", |f| f.running() == ["sheffield"]);
    f.run(secs(3));
    settled(&mut f, "sheffield");
}

#[test]
fn failover_is_at_once_without_restart_grace() {
    let mut f = pair();
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.proposal.restart_grace = Duration::ZERO);
    }
    f.run(secs(2));
    f.crash("sheffield");
    let took = f.until(secs(5), "newyork takes over", |f| f.running().contains(&"newyork"));
    assert!(took <= ms(700), "{took:?}");
}

#[test]
fn restart_within_the_grace_moves_nothing() {
    let mut f = pair();
    let before = created(&f);
    for pause in [100, 1000, 2000] {
        f.crash("sheffield");
        f.run(ms(pause));
        f.start("sheffield");
        f.run(secs(10));
        settled(&mut f, "sheffield");
    }
    assert_eq!(created(&f), before);
    assert_eq!(f.nodes[&name("sheffield")].core.as_ref().unwrap().term(), Term(2));
}

#[test]
fn standby_restart_moves_nothing() {
    let mut f = pair();
    let before = created(&f);
    f.crash("newyork");
    f.run(secs(20));
    f.start("newyork");
    f.run(secs(10));
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before);
}

#[test]
fn silent_cuts_split_and_heal_to_one() {
    for (cut, seconds) in [(0, 10), (0, 30), (0, 60), (1, 20), (2, 20)] {
        let mut f = pair();
        match cut {
            0 => f.cut("newyork", "sheffield"),
            1 => f.cut_one_way("newyork", "sheffield"),
            _ => f.cut_one_way("sheffield", "newyork"),
        }
        f.until(ms(5500), "newyork takes over", |f| f.running().len() == 2);
        f.run(secs(seconds));
        f.heal_all();
        f.until(secs(5), "healed", |f| f.running().len() == 1);
        f.run(secs(5));
        settled(&mut f, "sheffield");
        assert_eq!(created(&f), [2, 1], "the better-ranked ready payload stays");
    }
}

#[test]
fn a_payload_that_is_not_ready_loses_to_one_that_is() {
    let mut f = pair();
    f.cut("newyork", "sheffield");
    f.until(ms(5500), "newyork takes over", |f| f.running().len() == 2);
    f.run(secs(5));
    f.break_pods("sheffield", true);
    f.heal_all();
    f.until(secs(5), "healed", |f| f.running() == ["newyork"]);
    f.until(secs(10), "failback by handover", |f| f.running() == ["sheffield"]);
    assert!(f.violations.is_empty(), "{:?}", f.violations);
}

#[test]
fn manual_failback_keeps_the_newer_lead() {
    let mut f = pair();
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.proposal.failback = Failback::Manual);
    }
    f.run(secs(2));
    f.cut("newyork", "sheffield");
    f.run(secs(20));
    f.heal_all();
    f.run(secs(30));
    settled(&mut f, "newyork");
}

#[test]
fn a_stopped_process_asks_before_it_writes_and_steps_down() {
    let mut f = pair();
    f.freeze("sheffield");
    f.until(secs(6), "newyork takes over", |f| f.running().len() == 2);
    f.run(secs(4));
    f.thaw("sheffield");
    assert_eq!(f.directive("sheffield"), Some(&Directive::Hold));
    let permit = f.nodes[&name("sheffield")].core.as_ref().unwrap().permit(f.now);
    assert_eq!(permit, None);
    f.until(secs(5), "sheffield steps down", |f| f.running() == ["newyork"]);
    f.until(secs(10), "failback", |f| f.running() == ["sheffield"]);
    f.run(secs(3));
    settled(&mut f, "sheffield");
}

#[test]
fn a_short_pause_changes_nothing() {
    let mut f = pair();
    let before = created(&f);
    f.freeze("sheffield");
    f.run(ms(1500));
    f.thaw("sheffield");
    f.run(secs(10));
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before);
    assert!(matches!(f.directive("sheffield"), Some(Directive::Run { resumed: true, .. })));
}

#[test]
fn the_leader_goes_on_without_its_api_server() {
    let mut f = pair();
    let before = created(&f);
    f.api("sheffield", false);
    f.run(secs(20));
    f.api("sheffield", true);
    f.run(secs(5));
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before);
}

#[test]
fn a_standby_without_its_api_server_does_not_hold_the_others_up() {
    let mut f = Fleet::new(9, Bug::None);
    for (n, rank) in [("a", 3), ("b", 2), ("c", 1)] {
        f.add(n, Fleet::spec(rank, true));
    }
    f.run(secs(15));
    settled(&mut f, "a");
    f.api("c", false);
    f.run(secs(5));
    f.crash("a");
    let took = f.until(secs(6), "b takes over", |f| f.running().contains(&"b"));
    assert!(took <= ms(4800), "{took:?}");
}

#[test]
fn removal_deletes_first_and_moves_the_lead() {
    let mut f = pair();
    f.input(&name("sheffield"), Input::Retire(ResignReason::Removal));
    let (gone, moved) = (|f: &Fleet| f.running().is_empty(), |f: &Fleet| f.running() == ["newyork"]);
    f.until(secs(2), "payload deleted", gone);
    f.until(secs(2), "lead moved", moved);
    f.run(secs(20));
    settled(&mut f, "newyork");
    assert!(!f.nodes[&name("sheffield")].core.as_ref().unwrap().candidate());
    assert_eq!(f.directive("sheffield"), Some(&Directive::Absent));
}

#[test]
fn the_only_member_stops_when_it_is_removed() {
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "leads", |f| f.running() == ["newyork"]);
    f.input(&name("newyork"), Input::Retire(ResignReason::Removal));
    f.until(secs(2), "gone", |f| {
        f.running().is_empty() && f.directive("newyork") == Some(&Directive::Absent)
    });
    f.run(secs(30));
    assert!(f.running().is_empty());
}

#[test]
fn a_rank_edit_moves_the_lead() {
    for (node, rank) in [("newyork", 20), ("sheffield", 1)] {
        let mut f = pair();
        f.change_spec(node, |s| s.rank.0 = rank);
        assert!(!overlap(&mut f, secs(10)));
        settled(&mut f, "newyork");
    }
    let mut f = pair();
    let before = created(&f);
    f.change_spec("newyork", |s| s.rank.0 = 10);
    f.run(secs(30));
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before, "an equal rank never moves a running payload");
}

#[test]
fn a_leader_that_must_not_lead_any_more_hands_over() {
    let mut f = pair();
    f.change_spec("sheffield", |s| s.candidate = false);
    assert!(!overlap(&mut f, secs(10)));
    settled(&mut f, "newyork");
}

#[test]
fn three_equal_members_elect_by_name_and_survive_two_kills() {
    for seed in 0..20 {
        let mut f = Fleet::new(seed, Bug::None);
        for n in ["c", "a", "b"] {
            f.add(n, Fleet::spec(5, true));
        }
        f.run(secs(15));
        settled(&mut f, "a");
        f.crash("a");
        f.crash("b");
        let took = f.until(secs(6), "c takes over", |f| f.running().contains(&"c"));
        assert!(took <= ms(4000), "{took:?}");
    }
}

#[test]
fn three_members_fail_over_from_a_silent_cut() {
    for seed in 0..20 {
        let mut f = Fleet::new(seed, Bug::None);
        f.detect = ms(1000);
        for (n, rank) in [("a", 3), ("b", 2), ("c", 1)] {
            f.add(n, Fleet::spec(rank, true));
        }
        f.run(secs(15));
        settled(&mut f, "a");
        f.detect = ms(3000);
        f.isolate("a");
        let took = f.until(secs(6), "b takes over", |f| f.running().contains(&"b"));
        assert!(took <= ms(4100), "detection 3.0 to 3.6 s, and {took:?}");
    }
}

#[test]
fn a_flapping_link_does_not_move_the_payload_every_time() {
    let mut f = pair();
    let before = created(&f);
    for _ in 0..10 {
        f.cut("newyork", "sheffield");
        f.run(secs(6));
        f.heal_all();
        f.run(secs(6));
    }
    f.run(secs(10));
    settled(&mut f, "sheffield");
    let after = created(&f);
    assert_eq!(after[1], before[1], "the leader's payload is never touched");
    assert!(after[0] - before[0] <= 2, "{after:?}");
    assert!(f.nodes.values().all(|n| n.caution() >= 2));
    f.run(secs(700));
    assert!(f.nodes.values().all(|n| n.caution() == 1));
}

#[test]
fn a_stuck_stop_is_called_off_and_waits_longer_each_time() {
    let mut f = Fleet::new(5, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "leads", |f| f.running() == ["newyork"]);
    f.nodes.get_mut(&name("newyork")).unwrap().stuck = true;
    f.add("sheffield", Fleet::spec(10, false));
    f.run(secs(400));
    let failed: Vec<_> = f
        .events
        .iter()
        .filter(|(_, _, e)| matches!(e, Event::HandoverFailed { .. }))
        .map(|(at, _, _)| *at)
        .collect();
    assert!(failed.len() >= 3, "{failed:?}");
    assert!(failed[1].since(failed[0]) >= secs(60) && failed[2].since(failed[1]) >= secs(120), "{failed:?}");
    assert_eq!(f.nodes[&name("newyork")].core.as_ref().unwrap().term(), Term(1));
    f.nodes.get_mut(&name("newyork")).unwrap().stuck = false;
    f.until(secs(1000), "moves in the end", |f| f.running() == ["sheffield"]);
}

#[test]
fn a_successor_that_dies_leaves_the_lead_with_the_old_leader() {
    // Before the first delete: called off. After it: the old leader claims anew.
    for die_at in ["Stop { term: Term(1)", "payload gone", "Release"] {
        let mut f = Fleet::new(6, Bug::None);
        f.add("newyork", Fleet::spec(5, true));
        f.until(secs(9), "leads", |f| f.running() == ["newyork"]);
        f.add("sheffield", Fleet::spec(10, false));
        if die_at == "Release" {
            f.until(secs(9), "released", |f| f.nodes[&name("newyork")].role() == Some(Role::Standby));
        } else {
            f.until(secs(9), die_at, |f| f.log.iter().any(|l| l.contains(die_at)));
        }
        f.crash("sheffield");
        f.until(secs(6), "newyork leads", |f| {
            f.running() == ["newyork"] && f.nodes[&name("newyork")].role() == Some(Role::Leader)
        });
        assert!(f.violations.is_empty(), "{:?}", f.violations);
    }
}

#[test]
fn the_leader_decides_the_configuration() {
    let mut f = pair();
    f.change_spec("newyork", |s| s.proposal.failback_delay = secs(7));
    f.run(secs(2));
    let (leader, in_force, wanted) =
        f.nodes[&name("newyork")].core.as_ref().unwrap().config_conflict().unwrap();
    let delays = (in_force.failback_delay, wanted.failback_delay);
    assert_eq!((leader, delays), (name("sheffield"), (secs(1), secs(7))));
    f.change_spec("sheffield", |s| s.proposal.failback_delay = secs(9));
    f.run(secs(2));
    for node in f.nodes.values() {
        let core = node.core.as_ref().unwrap();
        assert_eq!(core.config().failback_delay, secs(9));
        assert_eq!(node.durable.as_ref().unwrap().config.failback_delay, secs(9));
        assert_eq!(core.config_missing(), []);
    }
}

#[test]
fn an_admitted_member_votes_without_a_record() {
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.input(&name("newyork"), Input::Admit(name("newyork")));
    f.run(secs(8));
    settled(&mut f, "newyork");
}
