//! A leader that learns of a higher term waits until it meets who leads under it, and does not outbid him before.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{Input, PeerView, Presence};
use flagship_types::{ConfigVersion, Health, Metadata, Rank, Role, Term};
use fleet::pair::pair;
use fleet::{Fleet, ms, name, secs};

/// What sheffield, the leader of a pair, is told of a member that it has no link to.
fn told(f: &mut Fleet, who: &str, presence: Presence, role: Role, (leader, term): (&str, Term)) {
    let health = Health { api: true, payload_valid: true, payload_ready: false, gates: true, failed: false };
    let metadata = Metadata {
        address: None,
        rank: Rank(1),
        candidate: true,
        health,
        role,
        term,
        leader: Some(name(leader)),
        config: ConfigVersion(0),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    };
    let view = PeerView { name: name(who), presence, metadata: Some(metadata), exited: false, linked: false };
    f.input(&name("sheffield"), Input::Peer(view));
}

fn forgotten(f: &mut Fleet, who: &str) {
    let view =
        PeerView { name: name(who), presence: Presence::Left, metadata: None, exited: false, linked: false };
    f.input(&name("sheffield"), Input::Peer(view));
}

fn own_term(f: &Fleet) -> Term {
    let sheffield = f.nodes[&name("sheffield")].core.as_ref().unwrap();
    assert_eq!(sheffield.role(), Role::Leader);
    sheffield.term()
}

/// Returns its own term and, for tests, one above it that it has never seen.
fn leader() -> (Fleet, Term, Term) {
    let f = pair();
    let own = own_term(&f);
    (f, own, own.next())
}

/// For how long it keeps its term from now on, up to 20 s.
fn keeps(f: &mut Fleet, own: Term) -> std::time::Duration {
    let begin = f.now;
    while own_term(f) == own && f.now.since(begin) < secs(20) {
        f.run(ms(10));
    }
    f.now.since(begin)
}

#[test]
fn who_others_follow_is_waited_for() {
    let (mut f, own, higher) = leader();
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("paris", higher));
    let kept = keeps(&mut f, own);
    assert!(kept >= secs(6) && kept < ms(6500), "{kept:?}");
    assert!(own_term(&f) > higher);
}

#[test]
fn a_leader_that_was_there_meanwhile_is_waited_for_anew_when_it_is_lost() {
    let (mut f, own, higher) = leader();
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("paris", higher));
    f.run(secs(1));
    // It is heard of and never linked, for longer than anybody is waited for.
    told(&mut f, "paris", Presence::Present, Role::Leader, ("paris", higher));
    f.run(secs(10));
    assert_eq!(own_term(&f), own, "who may hold a lead is not outbid");
    told(&mut f, "paris", Presence::Down, Role::Leader, ("paris", higher));
    let kept = keeps(&mut f, own);
    assert!(kept >= secs(6) && kept < ms(6500), "{kept:?}");
}

#[test]
fn the_leader_of_a_newer_term_is_waited_for_by_itself() {
    let (mut f, own, higher) = leader();
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("paris", higher));
    f.run(secs(5));
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("denver", higher.next()));
    let kept = keeps(&mut f, own);
    assert!(kept >= secs(6) && kept < ms(6500), "{kept:?}");
}

#[test]
fn who_is_told_of_after_a_raise_is_waited_for_by_himself() {
    let (mut f, own, higher) = leader();
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("paris", higher));
    keeps(&mut f, own);
    f.run(secs(10));
    let raised = own_term(&f);
    assert!(raised > higher);
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("denver", raised.next()));
    let kept = keeps(&mut f, raised);
    assert!(kept >= secs(6) && kept < ms(6500), "{kept:?}");
}

#[test]
fn what_is_no_newer_lengthens_no_wait() {
    let (mut f, own, higher) = leader();
    let newer = higher.next();
    let begin = f.now;
    // Two that lag behind each other tell it by turns.
    while own_term(&f) == own && f.now.since(begin) < secs(20) {
        for term in [newer, higher] {
            told(&mut f, "leeds", Presence::Present, Role::Standby, ("paris", term));
            f.run(ms(500));
        }
    }
    let kept = f.now.since(begin);
    assert!(kept >= secs(6) && kept <= secs(7), "{kept:?}");
}

#[test]
fn a_wait_ends_with_its_reason() {
    let (mut f, own, higher) = leader();
    told(&mut f, "leeds", Presence::Present, Role::Standby, ("paris", higher));
    f.run(secs(1));
    forgotten(&mut f, "leeds");
    let kept = keeps(&mut f, own);
    assert!(kept < secs(1), "nobody leads under the higher term: {kept:?}");
}
