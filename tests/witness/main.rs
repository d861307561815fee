//! `flagship witness` as a process, with members that are real nodes over mutual TLS on loopback.

#![allow(clippy::unwrap_used, reason = "a test; clippy exempts only its test functions")]

mod fleet;
mod process;

use std::path::Path;

use flagship_node::State;
use flagship_types::{Epoch, Role};
use serde_json::Value;

use fleet::{Authority, Member};
use process::{Witness, eventually, free_port};

fn record(state: &Path, callsign: &str) -> Option<Value> {
    let text = std::fs::read_to_string(state.join(format!("fleet-{callsign}.json"))).ok()?;
    Some(serde_json::from_str::<Value>(&text).unwrap()["fleet"].clone())
}

/// The whole life of a witness: it is found by one address, killed, finds its fleet again by itself and ends in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_joins_is_killed_comes_back_and_ends_in_order() {
    let tls = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let authority = Authority::new("federation");
    let own = authority.certify(tls.path(), "witness");
    let newyork = Member::start(&authority, tls.path(), "newyork", &[]).await;
    let sheffield = Member::start(&authority, tls.path(), "sheffield", &[newyork.address()]).await;

    let seed = format!("--fleet={}", newyork.address());
    let witness = Witness::start(&own, state.path(), &["--callsign=federation", &seed]).await;
    let mut first = Epoch(0);
    for member in [&newyork, &sheffield] {
        let seen = member.sees("witness", |witness| witness.state == State::Alive && witness.linked).await;
        first = seen.epoch;
    }
    let leader = newyork.until("somebody leads", |picture| picture.leader.clone()).await;
    // It has nobody else's word to wait for, so that it may vote, and says what it is.
    for member in [&newyork, &sheffield] {
        member.sees("witness", |witness| witness.role == Some(Role::Witness)).await;
    }
    let metric = r#"flagship_role{callsign="federation",member="witness",role="Witness"} 1"#;
    assert!(witness.metrics().await.contains(metric), "{}", witness.metrics().await);
    let (code, body) = witness.health("/leader/federation").await;
    assert_eq!(code, 503, "a load balancer must not send anybody to a witness: {body}");
    assert_eq!(witness.health("/readyz").await.0, 200);

    let addresses = [newyork.address().to_string(), sheffield.address().to_string()];
    let stored = eventually("record, term and both peers are stored", async || {
        let fleet = record(state.path(), "federation")?;
        let found: Vec<_> = fleet["peers"].as_array()?.iter().map(|peer| peer["address"].clone()).collect();
        let knows_lead =
            fleet["election"]["leader"] == leader.as_str() && fleet["election"]["term"].as_u64()? > 0;
        (found == addresses && knows_lead).then_some(fleet)
    })
    .await;
    assert_eq!((&stored["member"], stored["epoch"].as_u64()), (&"witness".into(), Some(first.0)));

    witness.kill().await;
    for member in [&newyork, &sheffield] {
        member.sees("witness", |witness| witness.state == State::Down).await;
    }
    // Nobody tells it where its fleet is, and nobody knows where it is.
    let witness = Witness::start(&own, state.path(), &["--callsign=federation"]).await;
    for member in [&newyork, &sheffield] {
        let back = member.sees("witness", |witness| witness.state == State::Alive && witness.linked).await;
        assert!(back.epoch > first, "{:?} is not above {first:?}", back.epoch);
    }
    let kept = record(state.path(), "federation").unwrap();
    assert!(kept["election"]["term"].as_u64() >= stored["election"]["term"].as_u64(), "{kept}\n{stored}");

    // All have said what they are: an end in the middle of that would be told to nobody.
    for member in [&newyork, &sheffield] {
        member.sees("witness", |witness| witness.role == Some(Role::Witness)).await;
    }
    let alive = r#"flagship_members{callsign="federation",member="witness",state="Alive"} 3"#;
    eventually("it sees both", async || witness.metrics().await.contains(alive).then_some(())).await;
    witness.terminate();
    for member in [&newyork, &sheffield] {
        member.sees("witness", |witness| witness.state == State::Away).await;
    }
    let (status, log) = witness.ended().await;
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains("flagship has ended in order"), "{log}");
    assert!(log.contains("newyork joined the fleet"), "{log}");
}

/// One port, one process: who dials it names the fleet in the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_is_the_witness_of_two_fleets() {
    let tls = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let own = tls.path().join("witness");
    let (blue, red) = (Authority::new("blue"), Authority::new("red"));
    // As the daemon's: CALLSIGN/MEMBER/, with an authority of its own each.
    blue.certify_into(&own.join("blue/third"), "third");
    red.certify_into(&own.join("red/witness"), "witness");
    let port = free_port();
    let witness = Witness::start_at(port, &own, state.path(), &["--callsign=blue", "--callsign=red"]).await;
    let seeds = [format!("127.0.0.1:{port}").parse_address()];
    let newyork = Member::start(&blue, tls.path(), "newyork", &seeds).await;
    let paris = Member::start(&red, tls.path(), "paris", &seeds).await;
    newyork.sees("third", |witness| witness.state == State::Alive && witness.linked).await;
    paris.sees("witness", |witness| witness.state == State::Alive && witness.linked).await;
    assert_eq!(newyork.names(), ["newyork", "third"]);
    assert_eq!(paris.names(), ["paris", "witness"]);
    newyork.until("blue has a leader", |picture| (picture.role == Role::Leader).then_some(())).await;
    paris.until("red has a leader", |picture| (picture.role == Role::Leader).then_some(())).await;
    for (callsign, member) in [("blue", "third"), ("red", "witness")] {
        let term = format!(r#"flagship_term{{callsign="{callsign}",member="{member}"}}"#);
        assert!(witness.metrics().await.contains(&term), "{term}");
        eventually("its record is stored", async || {
            let fleet = record(state.path(), callsign)?;
            (fleet["member"] == member && !fleet["election"].is_null()).then_some(())
        })
        .await;
    }

    // A fleet without a certificate takes nothing from the others.
    witness.terminate();
    assert!(witness.ended().await.0.success());
    std::fs::rename(own.join("red"), tls.path().join("away")).unwrap();
    let witness = Witness::start_at(port, &own, state.path(), &["--callsign=blue", "--callsign=red"]).await;
    newyork.sees("third", |witness| witness.state == State::Alive && witness.linked).await;
    assert_eq!(witness.health("/readyz").await.0, 200);
    std::fs::rename(tls.path().join("away"), own.join("red")).unwrap();
    paris.sees("witness", |witness| witness.state == State::Alive && witness.linked).await;
    witness.terminate();
    let (_, log) = witness.ended().await;
    assert!(log.contains("fleet red has no witness here: there is no certificate for it"), "{log}");
}

/// With nobody to tell it what they know, it does not vote before an operator vouches for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_record_is_vouched_for_once() {
    let tls = tempfile::tempdir().unwrap();
    let own = Authority::new("federation").certify(tls.path(), "witness");
    let is =
        |role: &str| format!(r#"flagship_role{{callsign="federation",member="witness",role="{role}"}} 1"#);
    // What the one before was vouched for with.
    let mut admit = "--admit=1".to_owned();
    for _ in 0..2 {
        let state = tempfile::tempdir().unwrap();
        let args = ["--callsign=federation", &admit];
        let witness = Witness::start(&own, state.path(), &args).await;
        let begun =
            eventually("it has begun", async || record(state.path(), "federation")?["begun"].as_u64()).await;
        eventually("it waits", async || witness.metrics().await.contains(&is("Joining")).then_some(())).await;
        assert!(record(state.path(), "federation").unwrap()["election"].is_null());
        witness.terminate();
        let (_, log) = witness.ended().await;
        admit = format!("--admit=federation={begun}");
        assert!(log.contains(&format!("start it with --admit federation={begun}")), "{log}");
        assert!(log.contains("is about another record than this one"), "{log}");

        let args = ["--callsign=federation", &admit];
        let witness = Witness::start(&own, state.path(), &args).await;
        eventually("it is a voter", async || witness.metrics().await.contains(&is("Witness")).then_some(()))
            .await;
        eventually("its record is stored", async || {
            record(state.path(), "federation").filter(|fleet| !fleet["election"].is_null())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_trusted_ends_it_with_a_sentence() {
    let tls = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let own = Authority::new("federation").certify(tls.path(), "witness");
    let args = ["--callsign=federation"];

    let witness = Witness::start(&own, state.path(), &args).await;
    eventually("it has begun", async || record(state.path(), "federation")).await;
    let second = Witness::refused(&own, state.path(), &args).await;
    assert!(second.contains("another flagship witness uses it"), "{second}");
    witness.kill().await;

    let file = state.path().join("fleet-federation.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    let damaged = Witness::refused(&own, state.path(), &args).await;
    assert!(damaged.contains(file.to_str().unwrap()) && damaged.contains("is damaged"), "{damaged}");
    assert_eq!(std::fs::read(&file).unwrap().len(), whole.len() - 20, "it is left as it was");

    let missing = Witness::refused(&own, &state.path().join("no"), &args).await;
    assert!(missing.contains("its volume is not mounted"), "{missing}");
}

/// `text.parse_address()` reads better than the constructor in a list of seeds.
trait ParseAddress {
    fn parse_address(&self) -> flagship_types::PeerAddress;
}

impl ParseAddress for String {
    fn parse_address(&self) -> flagship_types::PeerAddress {
        flagship_types::PeerAddress::parse(self, 1).unwrap()
    }
}
