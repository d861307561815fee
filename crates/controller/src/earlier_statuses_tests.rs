//! Statuses as builds before this one, and after it, write them, letter by letter: a daemon of this build starts from each of
//! them, and with all that they say. A field that is renamed or asked for since would be seen nowhere else.

use std::sync::Mutex;
use std::time::Duration;

use flagship_k8s_api::ObjectState;
use flagship_node::{ElectionRecord, Promise, Vote};
use flagship_types::{ConfigVersion, Epoch, Failback, FleetConfig, Mode};
use serde_json::Value;

use super::tests::with_status;
use super::*;
use crate::tenure::tests::{Bench, bench_over};

const EMPTY: &str = "{}";

/// The proof of concept in Go.
const PROOF_OF_CONCEPT: &str =
    r#"{"leaderAddress": "172.18.100.100:9990", "ready": true, "leading": true, "port": 9990}"#;

/// A leader before there was mode Quorum.
const LEADER_OF_AVAILABILITY: &str = r#"{
  "observedGeneration": 1, "leaderAddress": "172.18.100.100:9990", "ready": true, "leading": true, "port": 9990,
  "role": "Leader", "leader": "newyork", "term": 7, "leadSince": "2025-11-02T12:03:11Z",
  "members": [
    {"name": "newyork", "state": "Alive", "role": "Leader", "rank": 5, "address": "172.18.100.100:9990",
     "since": "2025-11-02T12:03:01Z", "epoch": 1762084981000},
    {"name": "sheffield", "state": "Down"}],
  "memberCounts": {"summary": "1/2", "alive": 1, "suspect": 0, "away": 0, "down": 1},
  "inventory": [{"version": "v1", "kind": "ConfigMap", "namespace": "default", "name": "one",
    "uid": "2b6e8a6c-2d53-4c4e-a1ab-6a4f2c1f0f11", "generation": 0, "state": "Ready"}],
  "history": [{"time": "2025-11-02T12:03:11Z", "type": "LeadTaken", "term": 7, "message": "leads under term 7"}],
  "epoch": 1762084981000, "callsign": "federation",
  "vote": {"term": 7, "candidate": "newyork", "configVersion": 3}, "heldTerm": 7,
  "holder": "5c4f4c52-8a35-4b4e-9a6f-2f3c9f7f5a10", "forgotten": ["leeds"],
  "configuration": {"version": 3, "mode": "Availability", "failback": "Manual", "failbackDelay": "30s",
    "restartGrace": "1500ms"},
  "conditions": [{"type": "Ready", "status": "True", "reason": "Leading", "message": "leads under term 7",
    "lastTransitionTime": "2025-11-02T12:03:11Z", "observedGeneration": 1}]
}"#;

/// A standby of the same build, in the middle of its stop: it voted for its successor.
const VOTER_OF_AVAILABILITY: &str = r#"{
  "observedGeneration": 1, "leaderAddress": "172.18.100.200:9990", "ready": false, "leading": false, "port": 9990,
  "role": "Stopping", "leader": "sheffield", "term": 8,
  "memberCounts": {"summary": "2/2", "alive": 2}, "epoch": 1762084981000, "callsign": "federation",
  "vote": {"term": 8, "candidate": "sheffield"}, "heldTerm": 7, "stopping": 7,
  "configuration": {"version": 3, "mode": "Availability", "failback": "Automatic", "failbackDelay": "1s",
    "restartGrace": "3s"}
}"#;

/// Mode Quorum, and a vote from before votes were promises.
const VOTE_WITHOUT_PROMISE: &str = r#"{
  "role": "Standby", "leader": "denver", "term": 7, "epoch": 1762084981000, "callsign": "federation",
  "vote": {"term": 7, "candidate": "denver", "configVersion": 1797},
  "configuration": {"version": 1797, "mode": "Quorum", "voters": ["denver", "newyork", "sheffield"],
    "leaseDuration": "3s", "stopGrace": "10s", "failback": "Automatic", "failbackDelay": "1s", "restartGrace": "3s"}
}"#;

/// A later build: fields, a role, a state and a condition that this one does not know, everywhere it may meet them.
const LATER_BUILD: &str = r#"{
  "ready": true, "leading": false, "role": "Observer", "leader": "denver", "term": 7, "weather": {"wind": [1, 2]},
  "members": [{"name": "denver", "state": "Dreaming", "role": "Observer", "depth": 3}],
  "memberCounts": {"summary": "1/1", "alive": 1, "dreaming": 1},
  "inventory": [{"version": "v1", "kind": "ConfigMap", "namespace": "default", "name": "one", "state": "Frozen",
    "colour": "red"}],
  "history": [{"time": "2027-11-02T12:03:11Z", "type": "Painted", "message": "red", "by": "leeds"}],
  "epoch": 1762084981000, "callsign": "federation",
  "vote": {"term": 7, "candidate": "denver", "configVersion": 1797, "leaseDuration": "3s", "stopGrace": "10s",
    "witnessed": true},
  "failedLead": {"times": 1, "why": "gates"},
  "configuration": {"version": 1797, "mode": "Quorum", "voters": ["denver", "newyork", "sheffield"], "quorate": "yes",
    "leaseDuration": "3s", "stopGrace": "10s", "failback": "Automatic", "failbackDelay": "1s", "restartGrace": "3s",
    "pause": {"sinceMs": 1762084981000, "reason": "work", "by": "alice"}},
  "conditions": [{"type": "Painted", "status": "True", "reason": "Red", "message": "",
    "lastTransitionTime": "2027-11-02T12:03:11Z"}]
}"#;

/// What a daemon starts with that finds this status on the object of newyork.
async fn begun_from(status: &str) -> Box<Ready> {
    let status: Value = serde_json::from_str(status).unwrap();
    let status = Arc::new(Mutex::new(status));
    let Bench { mut tenure, object: _object, .. } = bench_over(with_status(&status, &Arc::default()));
    match tenure.prepare().await {
        Prepared::Ready(ready) => ready,
        _ => panic!("it does not start: {:?}", tenure.stall),
    }
}

fn empty_record(term: u64, config: FleetConfig) -> ElectionRecord {
    ElectionRecord { term: Term(term), ..ElectionRecord::new(config) }
}

fn quorum() -> FleetConfig {
    FleetConfig {
        version: ConfigVersion(1797),
        mode: Mode::Quorum,
        voters: ["denver", "newyork", "sheffield"].map(|name| name.parse().unwrap()).into(),
        lease: Duration::from_secs(3),
        stop_grace: Duration::from_secs(10),
        pause: None,
        failback: Failback::Automatic,
        failback_delay: Duration::from_secs(1),
        restart_grace: Duration::from_secs(3),
    }
}

fn vote(term: u64, candidate: &str) -> Option<Vote> {
    Some(Vote { term: Term(term), candidate: candidate.parse().unwrap() })
}

#[tokio::test(start_paused = true)]
async fn who_has_no_record_starts_without_one() {
    for status in [EMPTY, PROOF_OF_CONCEPT] {
        let ready = begun_from(status).await;
        assert_eq!(ready.record, None, "it asks the others: {status}");
        assert!(ready.inventory.is_empty() && ready.found.is_none(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_an_earlier_build_goes_on_with_its_lead() {
    let ready = begun_from(LEADER_OF_AVAILABILITY).await;
    let config = FleetConfig {
        version: ConfigVersion(3),
        failback: Failback::Manual,
        failback_delay: Duration::from_secs(30),
        restart_grace: Duration::from_millis(1500),
        ..FleetConfig::default()
    };
    assert_eq!((config.mode, config.voters.len()), (Mode::Availability, 0));
    let record = ElectionRecord {
        vote: vote(7, "newyork"),
        held: Some(Term(7)),
        leader: Some("newyork".parse().unwrap()),
        forgotten: vec!["leeds".parse().unwrap()],
        ..empty_record(7, config)
    };
    assert_eq!(ready.record, Some(record));
    assert!(ready.start.epoch > Epoch(1_762_084_981_000), "{:?}", ready.start.epoch);
    let inventory = ready.inventory.to_status();
    let [entry] = inventory.as_slice() else { panic!("{inventory:?}") };
    assert_eq!((entry.kind.as_str(), entry.name.as_str()), ("ConfigMap", "one"));
    assert_eq!(entry.state, ObjectState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_an_earlier_build_is_completed() {
    let ready = begun_from(VOTER_OF_AVAILABILITY).await;
    let config = FleetConfig {
        version: ConfigVersion(3),
        failback: Failback::Automatic,
        failback_delay: Duration::from_secs(1),
        restart_grace: Duration::from_secs(3),
        ..FleetConfig::default()
    };
    let record = ElectionRecord {
        vote: vote(8, "sheffield"),
        held: Some(Term(7)),
        stopping: Some(Term(7)),
        leader: Some("sheffield".parse().unwrap()),
        ..empty_record(8, config)
    };
    assert_eq!(ready.record, Some(record));
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_promised_nothing_stays_a_vote() {
    let ready = begun_from(VOTE_WITHOUT_PROMISE).await;
    let record = ElectionRecord {
        vote: vote(7, "denver"),
        leader: Some("denver".parse().unwrap()),
        ..empty_record(7, quorum())
    };
    assert_eq!(ready.record, Some(record));
}

#[tokio::test(start_paused = true)]
async fn what_a_later_build_added_is_passed_over() {
    let ready = begun_from(LATER_BUILD).await;
    let pause = flagship_types::Pause { since_ms: 1_762_084_981_000, reason: "work".into() };
    let promise = Promise { lease: Duration::from_secs(3), stop_grace: Duration::from_secs(10) };
    let record = ElectionRecord {
        vote: vote(7, "denver"),
        promise: Some(promise),
        leader: Some("denver".parse().unwrap()),
        ..empty_record(7, FleetConfig { pause: Some(pause), ..quorum() })
    };
    assert_eq!(ready.record, Some(record));
    assert!(!ready.inventory.is_empty(), "an object in a state that is not known may run");
}
