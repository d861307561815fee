//! Mode Quorum: nobody is promoted beside a payload that nobody could stop, whoever led in between.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{Directive, Input, PeerView, Presence, Spec};
use flagship_types::{Metadata, Rank, Role};
use fleet::quorum::{self, config, run_alone};
use fleet::{Bug, Fleet, ms, name, secs};

fn spec(rank: i64, voters: &[&str]) -> Spec {
    Spec { proposal: config(voters), ..Fleet::spec(rank, true) }
}

fn witness() -> Spec {
    Spec { candidate: false, witness: true, ready: false, ..Fleet::spec(0, false) }
}

/// a could not stop when it was lost; b, which fences, has the lead and its hook fails. Also what a said last.
fn fence_that_fails(seed: u64, change: impl Fn(&mut Spec)) -> (Fleet, Metadata) {
    let voters = ["a", "b", "c", "v", "w"];
    let mut f = Fleet::new(seed, Bug::None);
    f.detect = ms(3200);
    for (n, rank) in [("a", 9), ("b", 5), ("c", 1)] {
        f.add(n, spec(rank, &voters));
    }
    f.add("v", witness());
    f.add("w", witness());
    f.until(secs(12), "a leads", |f| f.running() == ["a"]);
    f.change_spec("b", |spec| {
        spec.fences = true;
        change(spec);
    });
    f.nodes.get_mut(&name("b")).unwrap().blocked = true;
    f.api("a", false);
    run_alone(&mut f, secs(5));
    let said = f.nodes[&name("a")].metadata().unwrap();
    f.crash("a");
    let follows = |f: &Fleet| f.nodes[&name("c")].core.as_ref().unwrap().leader();
    f.until(secs(40), "b leads", |f| follows(f).is_some_and(|(leader, _)| leader == name("b")));
    f.run(secs(2));
    assert!(f.nodes[&name("c")].core.as_ref().unwrap().may_run_at().contains(&name("a")));
    (f, said)
}

/// c, which does not fence, is not promoted until it does.
fn stays_barred(f: &mut Fleet) {
    f.run(secs(60));
    assert_eq!(f.nodes[&name("c")].payload.created, 0);
    assert!(f.nodes[&name("c")].core.as_ref().unwrap().may_run_at().contains(&name("a")));
}

fn is_promoted_once_it_fences(f: &mut Fleet) {
    f.change_spec("c", |spec| spec.fences = true);
    f.until(secs(40), "c is promoted", |f| f.running().contains(&"c"));
}

#[test]
fn a_fence_that_fails_until_promote_timeout_does_not_lift_the_bar() {
    let (mut f, _) = fence_that_fails(0, |spec| spec.promote_timeout = Some(secs(10)));
    stays_barred(&mut f);
    assert_eq!(f.nodes[&name("b")].role(), Some(Role::Leader), "the lead is not given away in vain");
    is_promoted_once_it_fences(&mut f);
}

#[test]
fn a_better_rank_does_not_lift_the_bar() {
    let (mut f, _) = fence_that_fails(1, |_| {});
    f.change_spec("c", |spec| spec.rank = Rank(7));
    stays_barred(&mut f);
    assert_eq!(f.nodes[&name("b")].role(), Some(Role::Leader), "the lead is not given away in vain");
    is_promoted_once_it_fences(&mut f);
}

#[test]
fn the_loss_of_a_leader_whose_fence_failed_does_not_lift_the_bar() {
    let (mut f, _) = fence_that_fails(2, |_| {});
    f.crash("b");
    stays_barred(&mut f);
    let c = f.nodes[&name("c")].core.as_ref().unwrap();
    let waits = c.waiting_for(f.now).unwrap();
    assert!(waits.contains("a could not stop"), "{waits}");
    assert_eq!(c.may_run_at(), [name("a"), name("b")]);
    is_promoted_once_it_fences(&mut f);
}

#[test]
fn a_fence_that_succeeded_lifts_the_bar_for_everybody() {
    let (mut f, _) = fence_that_fails(3, |_| {});
    f.nodes.get_mut(&name("b")).unwrap().blocked = false;
    f.until(secs(5), "b is promoted", |f| f.running().contains(&"b"));
    f.run(secs(3));
    f.crash("b");
    f.until(secs(40), "c takes over", |f| f.running().contains(&"c"));
}

#[test]
fn what_is_to_be_fenced_is_whoever_may_run_not_whoever_led_last() {
    let mut f = quorum::three(5, &config(&["a", "b", "c"]));
    for n in ["b", "c"] {
        f.change_spec(n, |spec| spec.fences = true);
        f.nodes.get_mut(&name(n)).unwrap().blocked = true;
    }
    // Its API server answers: all that is known is that it is gone.
    f.crash("a");
    let may_run_at = |f: &Fleet, n| f.nodes[&name(n)].core.as_ref().unwrap().may_run_at();
    let leads = |f: &Fleet, n: &str| {
        matches!(f.nodes[&name(n)].core.as_ref().unwrap().directive(), Directive::Run { .. })
    };
    f.until(secs(40), "b leads", |f| leads(f, "b"));
    assert_eq!(may_run_at(&f, "b"), [name("a")]);
    f.change_spec("c", |spec| spec.rank = Rank(7));
    f.until(secs(40), "c leads", |f| leads(f, "c"));
    assert_eq!(f.nodes[&name("c")].core.as_ref().unwrap().ascent().unwrap().predecessor, Some(name("b")));
    assert_eq!(may_run_at(&f, "c"), [name("a")], "b released its lead");
    f.change_spec("c", |spec| spec.rank = Rank(1));
    f.until(secs(40), "b leads again", |f| leads(f, "b"));
    assert_eq!(may_run_at(&f, "b"), [name("a")], "whatever the reason it leads for");
    f.nodes.get_mut(&name("b")).unwrap().blocked = false;
    f.until(secs(5), "b is promoted", |f| f.running().contains(&"b"));
    f.run(secs(2));
    assert_eq!((may_run_at(&f, "b"), may_run_at(&f, "c")), (vec![], vec![name("b")]));
}

#[test]
fn who_restarts_hears_of_the_bar_from_others() {
    let (mut f, said) = fence_that_fails(4, |_| {});
    f.crash("c");
    f.start("c");
    f.run(secs(8));
    // As membership passes it on.
    let (presence, metadata) = (Presence::Down, Some(said));
    let view = PeerView { name: name("a"), presence, metadata, exited: false, linked: false };
    f.input(&name("c"), Input::Peer(view));
    f.crash("b");
    f.run(secs(60));
    assert_eq!(f.nodes[&name("c")].payload.created, 0);
    assert!(f.nodes[&name("c")].core.as_ref().unwrap().may_run_at().contains(&name("a")));
}
