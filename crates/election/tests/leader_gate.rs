//! A leader whose payload is not ready hands over to a healthy standby, and two that both fail do not play ping-pong.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use std::time::Duration;

use flagship_election::{Election, Event, Input, ResignReason};
use flagship_types::{Instant, Role};
use fleet::pair::{created, overlap, settled};
use fleet::{Bug, Fleet, ms, name, secs};

const TIMEOUT: Duration = Duration::from_secs(300);

/// newyork (rank 5) and sheffield (rank 10, leads), both with a promote timeout of 5 min.
fn pair() -> Fleet {
    let mut f = fleet::pair::pair();
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.promote_timeout = Some(TIMEOUT));
    }
    f
}

fn leads(f: &Fleet, node: &str) -> bool {
    f.nodes[&name(node)].role() == Some(Role::Leader)
}

fn accepted(f: &Fleet) -> Vec<Instant> {
    let unhealthy =
        |e: &Event| matches!(e, Event::HandOverAccepted { reason, .. } if *reason == ResignReason::Unhealthy);
    f.events.iter().filter(|(_, _, e)| unhealthy(e)).map(|(at, _, _)| *at).collect()
}

fn refusals(f: &Fleet) -> Vec<String> {
    let because = |e: &Event| match e {
        Event::HandOverRefused { because, .. } => Some(because.clone()),
        _ => None,
    };
    f.events.iter().filter_map(|(_, _, e)| because(e)).collect()
}

fn gate(f: &mut Fleet, node: &str, holds: bool) {
    f.nodes.get_mut(&name(node)).unwrap().gates = holds;
    f.api(node, true);
}

#[test]
fn a_payload_that_breaks_moves_after_the_timeout_and_not_before() {
    let mut f = pair();
    f.break_pods("sheffield", true);
    let took = f.until(TIMEOUT + secs(5), "it is given away", |f| !accepted(f).is_empty());
    assert!(took >= TIMEOUT && took < TIMEOUT + secs(1), "{took:?}");
    assert!(!overlap(&mut f, secs(10)));
    settled(&mut f, "newyork");
}

#[test]
fn a_payload_that_recovers_in_time_stays() {
    let mut f = pair();
    let before = created(&f);
    for _ in 0..5 {
        f.break_pods("sheffield", true);
        f.run(TIMEOUT - secs(5));
        f.break_pods("sheffield", false);
        f.run(secs(10));
    }
    settled(&mut f, "sheffield");
    assert_eq!(created(&f), before);
}

#[test]
fn a_payload_that_never_gets_ready_moves_and_the_better_rank_does_not_fetch_it_back() {
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "newyork leads alone", |f| f.running() == ["newyork"]);
    f.add("sheffield", Fleet::spec(10, false));
    for node in ["newyork", "sheffield"] {
        f.change_spec(node, |s| s.promote_timeout = Some(TIMEOUT));
    }
    f.break_pods("sheffield", true);
    f.until(secs(10), "sheffield takes over", |f| f.running() == ["sheffield"]);
    f.until(TIMEOUT + secs(9), "newyork has it back", |f| f.running() == ["newyork"]);
    // Failed for twice the timeout: no failback before.
    f.run(TIMEOUT * 2 - secs(20));
    settled(&mut f, "newyork");
    assert!(f.nodes[&name("sheffield")].health().failed);
    // Then it may try again, and its next failure counts for twice as long.
    f.until(secs(60), "sheffield tries again", |f| leads(f, "sheffield"));
    f.until(TIMEOUT + secs(9), "newyork has it back", |f| f.running() == ["newyork"]);
    f.run(TIMEOUT * 4 - secs(20));
    settled(&mut f, "newyork");
}

#[test]
fn with_nobody_healthy_the_leader_stays_and_says_so_once() {
    let mut f = pair();
    gate(&mut f, "newyork", false);
    f.break_pods("sheffield", true);
    f.run(TIMEOUT * 4);
    assert!(leads(&f, "sheffield") && f.running() == ["sheffield"]);
    let why = "there is no healthy standby: newyork has a gate in spec.health.gates that does not hold";
    assert_eq!(refusals(&f), [why]);
    let waits = f.nodes[&name("sheffield")].core.as_ref().unwrap().waiting_for(f.now).unwrap();
    assert!(waits.contains("the lead stays here") && waits.contains(why), "{waits}");
    // As soon as somebody is, it moves.
    gate(&mut f, "newyork", true);
    f.until(secs(10), "it moves", |f| f.running() == ["newyork"]);
    f.run(secs(5));
    settled(&mut f, "newyork");
}

#[test]
fn two_unhealthy_members_do_not_play_ping_pong() {
    let mut f = pair();
    f.break_pods("sheffield", true);
    f.break_pods("newyork", true);
    f.run(secs(24 * 3600));
    let moves = accepted(&f);
    // At every timeout it would be 288. Each member fails for longer each time, up to an hour.
    assert!(moves.len() >= 4 && moves.len() <= 60, "{} moves", moves.len());
    let gaps: Vec<_> = moves.windows(2).map(|w| w[1].since(w[0])).collect();
    let (late, early) = (&gaps[gaps.len() - 6..], &gaps[..3]);
    assert!(late.iter().sum::<Duration>() > early.iter().sum::<Duration>() * 3, "{gaps:?}");
    // One of them recovers: the payload ends there and stays.
    f.break_pods("newyork", false);
    f.run(secs(3 * 3600));
    settled(&mut f, "newyork");
}

#[test]
fn the_failure_survives_a_restart() {
    let mut f = pair();
    f.break_pods("sheffield", true);
    f.until(TIMEOUT + secs(9), "newyork has it", |f| f.running() == ["newyork"]);
    f.run(secs(5));
    f.crash("sheffield");
    f.run(secs(5));
    f.start("sheffield");
    f.run(secs(400));
    settled(&mut f, "newyork");
    let lapse = f.nodes[&name("sheffield")].core.as_ref().and_then(Election::lapse).unwrap();
    assert!(lapse.times == 1 && lapse.left < TIMEOUT * 2 && lapse.left > ms(1000), "{lapse:?}");
}

#[test]
fn who_failed_still_leads_when_nobody_else_can_and_an_operator_may_give_it_the_lead() {
    let mut f = pair();
    f.break_pods("sheffield", true);
    f.until(TIMEOUT + secs(9), "newyork has it", |f| f.running() == ["newyork"]);
    f.run(secs(5));
    f.crash("newyork");
    f.until(secs(10), "sheffield takes over", |f| leads(f, "sheffield"));
    f.start("newyork");
    f.until(TIMEOUT + secs(9), "newyork has it again", |f| f.running() == ["newyork"]);
    f.run(secs(5));
    f.break_pods("sheffield", false);
    f.input(
        &name("newyork"),
        Input::HandOver { to: Some(name("sheffield")), reason: ResignReason::Switchover },
    );
    f.run(secs(10));
    settled(&mut f, "sheffield");
}

#[test]
fn without_its_api_server_a_leader_gives_nothing_away() {
    let mut f = pair();
    f.break_pods("sheffield", true);
    f.api("sheffield", false);
    f.run(TIMEOUT * 3);
    assert!(leads(&f, "sheffield") && accepted(&f).is_empty());
    // Back, it gets the whole time again: how the payload did meanwhile nobody knows.
    f.api("sheffield", true);
    f.run(TIMEOUT - secs(1));
    assert!(accepted(&f).is_empty());
    f.until(secs(3), "it is given away", |f| !accepted(f).is_empty());
}

#[test]
fn a_gate_that_does_not_hold_keeps_from_failback_but_not_from_the_last_resort() {
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "newyork leads alone", |f| f.running() == ["newyork"]);
    f.add("sheffield", Fleet::spec(10, false));
    gate(&mut f, "sheffield", false);
    f.run(secs(60));
    settled(&mut f, "newyork");
    f.crash("newyork");
    f.until(secs(10), "sheffield takes over", |f| leads(f, "sheffield"));
    f.start("newyork");
    f.run(secs(10));
    gate(&mut f, "sheffield", true);
    f.run(secs(30));
    settled(&mut f, "sheffield");
}
