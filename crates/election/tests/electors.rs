//! In a fleet of which most only watch: whom a member needs links to, and that watchers take nobody's place.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

use std::collections::BTreeSet;

use flagship_election::{
    Config, Election, Input, MAX_NEEDED, MAX_OTHER_ELECTORS, MAX_PEERS, Output, PeerView, Presence, Record,
    Restored, Spec,
};
use flagship_types::{ConfigVersion, FleetConfig, Health, Instant, MemberName, Metadata, Rank, Role, Term};

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn election(candidate: bool) -> Election {
    let spec = Spec {
        rank: Rank(1),
        ready: true,
        candidate,
        witness: false,
        fences: false,
        suspended: false,
        proposal: FleetConfig::default(),
        promote_timeout: None,
    };
    Election::new(Config { name: name("me") }, spec, Restored::default(), 1, Instant::ZERO)
}

fn meet(election: &mut Election, peer: &str, candidate: bool, rank: i64) {
    let metadata = Metadata {
        address: None,
        rank: Rank(rank),
        candidate,
        health: Health { api: true, payload_valid: true, payload_ready: false, gates: true, failed: false },
        role: Role::Standby,
        term: Term::NONE,
        leader: None,
        config: ConfigVersion(0),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    };
    let (name, presence, metadata) = (name(peer), Presence::Present, Some(metadata));
    election.handle(
        Input::Peer(PeerView { name, presence, metadata, exited: false, linked: true }),
        Instant::ZERO,
    );
}

#[test]
fn a_witness_says_that_it_is_one_and_proposes_nothing() {
    let proposal = FleetConfig { restart_grace: std::time::Duration::from_secs(9), ..FleetConfig::default() };
    let spec = Spec {
        rank: Rank(0),
        ready: false,
        candidate: false,
        suspended: false,
        witness: true,
        fences: false,
        proposal,
        promote_timeout: None,
    };
    let record = Record {
        term: Term(3),
        leader: Some(name("newyork")),
        // Written by a leader: before that a member's own proposal stands for it.
        ..Record::new(FleetConfig { version: ConfigVersion(1), ..FleetConfig::default() })
    };
    let restored = Restored { record: Some(record), ..Restored::default() };
    let start = |spec| Election::new(Config { name: name("me") }, spec, restored.clone(), 1, Instant::ZERO);
    let mut witness = start(spec.clone());
    assert_eq!(witness.role(), Role::Witness);
    assert_eq!(witness.config_conflict(), None);
    let told = std::iter::from_fn(|| witness.poll_output());
    let roles: Vec<_> = told
        .filter_map(|output| match output {
            Output::Publish(standing) => Some(standing.role),
            _ => None,
        })
        .collect();
    assert_eq!(roles, [Role::Witness], "and the others are told");
    let observer = start(Spec { witness: false, ..spec });
    assert_eq!(observer.role(), Role::Standby);
    assert!(observer.config_conflict().is_some());
}

#[test]
fn a_candidate_needs_the_electors_and_a_batch_of_those_it_has_yet_to_ask() {
    let mut candidate = election(true);
    for i in 0..MAX_PEERS + 10 {
        meet(&mut candidate, &format!("w{i:03}"), false, 0);
    }
    let candidates: BTreeSet<_> = (0..10_i64).map(|i| (format!("c{i}"), i)).collect();
    for (peer, rank) in &candidates {
        meet(&mut candidate, peer, true, *rank);
    }
    let needed = candidate.needed();
    // Every one of them found a place, though watchers had taken all of them.
    let best = candidates.iter().rev().take(MAX_OTHER_ELECTORS).map(|(peer, _)| name(peer));
    assert!(best.into_iter().all(|peer| needed.contains(&peer)), "{needed:?}");
    assert_eq!(needed.len(), MAX_NEEDED, "those without whose record it may not vote yet");
}

#[test]
fn a_watcher_needs_nobody() {
    let mut watcher = election(false);
    for i in 0..10 {
        meet(&mut watcher, &format!("c{i}"), true, i);
    }
    assert_eq!(watcher.needed(), BTreeSet::new());
}
