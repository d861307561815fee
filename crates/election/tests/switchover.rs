//! The lead moves because its own side asks for it.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{Event, Input, ResignReason};
use flagship_types::{MemberName, Rank, Role};
use fleet::pair::{overlap, pair, settled};
use fleet::{Bug, Fleet, ms, name, secs};

fn hand_over(f: &mut Fleet, of: &str, to: Option<&str>, reason: ResignReason) -> Result<MemberName, String> {
    let since = f.events.len();
    f.input(&name(of), Input::HandOver { to: to.map(name), reason });
    let answers: Vec<_> = f.events[since..]
        .iter()
        .filter_map(|(_, _, event)| match event {
            Event::HandOverAccepted { to, reason: told, .. } if *told == reason => Some(Ok(to.clone())),
            Event::HandOverRefused { reason: told, because, .. } if *told == reason => {
                Some(Err(because.clone()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(answers.len(), 1, "one answer: {answers:?}");
    answers.into_iter().next().unwrap()
}

fn three() -> Fleet {
    let mut f = Fleet::new(1, Bug::None);
    f.add("a", Fleet::spec(9, true));
    f.add("b", Fleet::spec(5, false));
    f.add("c", Fleet::spec(1, false));
    f.run(secs(20));
    settled(&mut f, "a");
    f
}

#[test]
fn the_lead_moves_to_the_named_member_without_overlap_and_stays_there() {
    let mut f = three();
    assert_eq!(hand_over(&mut f, "a", Some("c"), ResignReason::Switchover), Ok(name("c")));
    assert!(!overlap(&mut f, secs(10)));
    settled(&mut f, "c");
    f.run(secs(3000));
    settled(&mut f, "c");
    // A failure ends what the operator wished.
    f.crash("c");
    f.until(secs(9), "a takes over", |f| f.running().contains(&"a"));
}

#[test]
fn the_failure_of_the_target_ends_the_operators_wish_also_for_who_gave_it_the_lead() {
    let mut f = three();
    assert_eq!(hand_over(&mut f, "a", Some("c"), ResignReason::Switchover), Ok(name("c")));
    f.run(secs(10));
    settled(&mut f, "c");
    // b gets it, as a is not fit when c fails; then rank decides again.
    f.api("a", false);
    f.run(secs(1));
    f.crash("c");
    f.until(secs(12), "b takes over", |f| f.nodes[&name("b")].role() == Some(Role::Leader));
    f.start("c");
    f.run(secs(10));
    settled(&mut f, "b");
    f.api("a", true);
    f.until(secs(10), "a has the highest rank", |f| f.running() == ["a"]);
}

#[test]
fn a_new_rank_is_a_newer_wish_than_the_switchover() {
    let mut f = pair();
    assert!(hand_over(&mut f, "sheffield", None, ResignReason::Switchover).is_ok());
    f.run(secs(10));
    settled(&mut f, "newyork");
    f.change_spec("sheffield", |s| s.rank = Rank(11));
    f.until(secs(10), "sheffield leads again", |f| f.running() == ["sheffield"]);
}

#[test]
fn without_a_name_the_best_healthy_candidate_gets_it() {
    let mut f = three();
    f.nodes.get_mut(&name("b")).unwrap().valid = false;
    f.api("b", true);
    f.run(secs(1));
    assert_eq!(hand_over(&mut f, "a", None, ResignReason::Switchover), Ok(name("c")));
    f.run(secs(10));
    settled(&mut f, "c");
}

#[test]
fn who_cannot_take_the_lead_is_refused_with_the_reason() {
    let mut f = three();
    let refused = |f: &mut Fleet, of, to| hand_over(f, of, to, ResignReason::Switchover).unwrap_err();
    assert_eq!(refused(&mut f, "b", Some("c")), "this member does not lead; a does");
    assert_eq!(refused(&mut f, "a", Some("x")), "no member of this fleet is called x");
    assert_eq!(refused(&mut f, "a", Some("a")), "a leads already");
    f.change_spec("c", |s| s.candidate = false);
    f.crash("b");
    f.run(secs(1));
    assert_eq!(
        refused(&mut f, "a", Some("c")),
        "c is no candidate (spec.candidate or spec.suspend of its object)"
    );
    f.until(secs(9), "b is Down", |f| f.log.iter().any(|l| l.contains("a: b is Down")));
    assert_eq!(refused(&mut f, "a", Some("b")), "b is Down");
    assert_eq!(refused(&mut f, "a", None), "there is no healthy standby: b is Down");
    assert_eq!(
        hand_over(&mut f, "a", None, ResignReason::Removal),
        Err("the lead is not handed over for the reason Removal".into())
    );
    f.api("a", false);
    assert!(refused(&mut f, "a", None).contains("cannot reach its API server"));
    f.api("a", true);
    f.start("b");
    f.run(secs(10));
    assert!(f.running() == ["a"], "nothing was touched: {:?}", f.running());
}

#[test]
fn a_target_that_dies_before_the_first_delete_leaves_everything_as_it_was() {
    let mut f = pair();
    let created = f.nodes[&name("sheffield")].payload.created;
    f.cut("newyork", "sheffield");
    assert!(hand_over(&mut f, "sheffield", Some("newyork"), ResignReason::Switchover).is_ok());
    f.view_down("sheffield", "newyork");
    f.run(secs(2));
    let me = &f.nodes[&name("sheffield")];
    assert_eq!((me.role(), me.payload.created), (Some(Role::Leader), created));
    assert!(f.events.iter().any(|(_, _, e)| matches!(e, Event::HandoverFailed { .. })));
}

#[test]
fn a_target_that_dies_later_gives_the_lead_back_and_an_operator_may_try_again_at_once() {
    let mut f = pair();
    assert!(hand_over(&mut f, "sheffield", None, ResignReason::Switchover).is_ok());
    f.until(secs(2), "released", |f| f.nodes[&name("sheffield")].role() == Some(Role::Standby));
    f.crash("newyork");
    f.until(secs(9), "sheffield leads again", |f| f.running() == ["sheffield"]);
    f.start("newyork");
    f.run(secs(5));
    settled(&mut f, "sheffield");
    assert!(hand_over(&mut f, "sheffield", None, ResignReason::Unhealthy).unwrap_err().contains("the pause"));
    assert!(hand_over(&mut f, "sheffield", None, ResignReason::Switchover).is_ok());
    f.run(secs(10));
    settled(&mut f, "newyork");
    f.run(ms(1));
}

#[test]
fn a_hook_may_refuse_a_planned_move_and_no_other_stop() {
    let mut f = pair();
    let before = f.nodes[&name("sheffield")].payload.created;
    let term = f.nodes[&name("sheffield")].core.as_ref().unwrap().term();
    let refuse = |f: &mut Fleet| {
        f.input(&name("sheffield"), Input::StopRefused { term, because: "the hook said no".into() });
    };
    refuse(&mut f);
    assert!(hand_over(&mut f, "sheffield", None, ResignReason::Switchover).is_ok());
    refuse(&mut f);
    f.run(secs(3));
    settled(&mut f, "sheffield");
    assert_eq!(f.nodes[&name("sheffield")].payload.created, before, "nothing was touched");
    assert!(f.log.iter().any(|l| l.contains("HandoverFailed") && l.contains("the hook said no")));
    // Once the first object is deleted there is no way back by a word.
    assert!(hand_over(&mut f, "sheffield", None, ResignReason::Switchover).is_ok());
    f.until(secs(2), "it deletes", |f| !f.nodes[&name("sheffield")].payload.ready);
    refuse(&mut f);
    f.until(secs(9), "it moves", |f| f.running() == ["newyork"]);
    f.run(secs(3));
    settled(&mut f, "newyork");
    // A removal is no wish.
    f.input(&name("newyork"), Input::Retire(ResignReason::Removal));
    f.input(&name("newyork"), Input::StopRefused { term: term.next(), because: "the hook said no".into() });
    f.until(secs(9), "it moves", |f| f.running() == ["sheffield"]);
}
