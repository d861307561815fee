//! A replica that waits for its member's local Lease answers in place of the one that acts.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

mod support;

use std::time::Duration;

use flagship_node::{ConnectFailure, LinkEvent};
use flagship_transport::{AttachError, Listen, Transport, Waiting};
use flagship_types::{CloseCode, PeerAddress};
use flagship_wire::{Incoming, hello_frame};
use futures::StreamExt;
use support::{Fleet, Node, RawPeer, callsign, election, endpoint, hello, name, transport};

const LOOPBACK: Listen =
    Listen { address: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)), port: 0 };

async fn wait(transport: &Transport, fleet: &str, member: &str, port: u16) -> Waiting {
    transport.wait(callsign(fleet), name(member), Listen { port, ..LOOPBACK }).await.unwrap()
}

fn address(waiting: &Waiting) -> PeerAddress {
    PeerAddress::parse(&waiting.local().to_string(), 1).unwrap()
}

/// Dials once; `None` if a link came up.
async fn dial(a: &mut Node, address: &PeerAddress) -> Option<(ConnectFailure, String)> {
    a.attachment.links.connect(address);
    match a.event().await {
        LinkEvent::ConnectFailed { failure, reason, .. } => Some((failure, reason)),
        LinkEvent::Up { .. } => None,
        other => panic!("{other:?}"),
    }
}

const STANDBY: ConnectFailure = ConnectFailure::Rejected(CloseCode::Standby);

#[tokio::test]
async fn a_waiting_replica_tells_its_peers_to_dial_again() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let replica = transport(&fleet.certify("sheffield"));
    let waiting = wait(&replica, "federation", "sheffield", 0).await;
    for _ in 0..3 {
        let (failure, reason) = dial(&mut a, &address(&waiting)).await.unwrap();
        assert_eq!(failure, STANDBY);
        assert!(reason.contains("this replica waits") && reason.contains("dial again"), "{reason}");
    }
    // Neither side makes anything of it but numbers.
    a.nothing_happens().await;
    assert_eq!(a.handshakes(true, "standby"), 3);
    let counted = replica.stats().handshakes;
    let counted = counted.iter().find(|count| !count.dialled && count.result == "standby").unwrap();
    assert_eq!(counted.count, 3);
    assert!(replica.certificates().is_empty() && replica.stats().links == 0, "it serves nobody");
    // Given up, nothing listens.
    let place = address(&waiting);
    drop(waiting);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(dial(&mut a, &place).await.unwrap().0, ConnectFailure::Refused);
}

#[tokio::test]
async fn it_takes_over_its_port_while_it_is_dialled() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let replica = transport(&fleet.certify("sheffield"));
    let waiting = wait(&replica, "federation", "sheffield", 0).await;
    let place = address(&waiting);
    assert_eq!(dial(&mut a, &place).await.unwrap().0, STANDBY);
    let port = place.port();
    let taking_over = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let attachment = replica.attach(endpoint("federation", "sheffield", port)).await.unwrap();
        drop(waiting);
        Node { transport: replica, attachment }
    });
    let mut answers = 0;
    while let Some((failure, reason)) = dial(&mut a, &place).await {
        assert_eq!(failure, STANDBY, "never refused: {reason}");
        answers += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(answers > 0, "it waited at first");
    let mut b = taking_over.await.unwrap();
    let (link, hello, _) = b.up().await;
    assert_eq!(hello.member, name("newyork"));
    // The answer's end did not take the place away.
    b.attachment.links.send(link, election(1));
    assert_eq!(a.message().await, election(1));
    assert_eq!(dial(&mut a, &place).await, None);
}

#[tokio::test]
async fn it_goes_back_to_waiting_on_the_same_port() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let mut b = fleet.start("sheffield").await;
    let place = b.address();
    a.link_to(&mut b).await;
    let Node { transport: replica, attachment } = b;
    // The other replica took the Lease. The place may still be saying good-bye.
    let closing = tokio::spawn(attachment.detach.close(CloseCode::ShuttingDown));
    closing.await.unwrap();
    let _waiting = wait(&replica, "federation", "sheffield", place.port()).await;
    assert!(matches!(a.event().await, LinkEvent::Down { .. }));
    assert_eq!(dial(&mut a, &place).await.unwrap().0, STANDBY);
}

#[tokio::test]
async fn it_says_no_hello_and_only_proper_peers_hear_that_it_waits() {
    let fleet = Fleet::new("federation");
    let dir = fleet.certify("newyork");
    let replica = transport(&fleet.certify("sheffield"));
    let waiting = wait(&replica, "federation", "sheffield", 0).await;
    // Only its address is used.
    let mut here = fleet.start("paris").await;
    here.attachment.local = waiting.local();
    let answer = async |said: flagship_wire::Hello| {
        let frames = futures::stream::iter([hello_frame(&said)]).chain(futures::stream::pending()).boxed();
        let mut peer = RawPeer::open(&here, &dir, "f-0.flagship", frames).await.unwrap();
        peer.next().await
    };
    match answer(hello("federation", "newyork")).await {
        Some(Incoming::Close(close)) => assert_eq!(close.code, CloseCode::Standby),
        other => panic!("{other:?}"),
    }
    // It is told what is wrong with it, as the replica that acts would.
    match answer(hello("federation", "london")).await {
        Some(Incoming::Close(close)) => assert_eq!(close.code, CloseCode::IdentityMismatch),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn members_on_one_port_wait_and_act_each_on_its_own() {
    let (federation, rebels) = (Fleet::new("federation"), Fleet::new("rebels"));
    let tls = tempfile::tempdir().unwrap();
    for (fleet, member) in [(&federation, "sheffield"), (&rebels, "hoth")] {
        fleet.certify_into(&tls.path().join(fleet.callsign.as_str()).join(member), member, Duration::ZERO);
    }
    let both = transport(tls.path());
    let waiting = wait(&both, "federation", "sheffield", 0).await;
    let port = waiting.local().port();
    let acting = both.attach(endpoint("rebels", "hoth", port)).await.unwrap();
    let mut a = federation.start("newyork").await;
    let mut yavin = rebels.start("yavin").await;
    assert_eq!(dial(&mut a, &address(&waiting)).await.unwrap().0, STANDBY);
    assert_eq!(dial(&mut yavin, &address(&waiting)).await, None);
    // Who acts for a fleet in this process is not pushed aside by another of its members that waits.
    let refused = both.wait(callsign("rebels"), name("other"), Listen { port, ..LOOPBACK }).await;
    assert!(matches!(refused, Err(AttachError::CallsignTaken { .. })));
    drop(acting);
    assert_eq!(dial(&mut a, &address(&waiting)).await.unwrap().0, STANDBY);
}

#[tokio::test]
async fn a_port_of_another_process_and_missing_certificates_are_no_harm() {
    let fleet = Fleet::new("federation");
    let mut acting = fleet.start("sheffield").await;
    let replica = transport(&fleet.dir.path().join("sheffield"));
    let port = acting.attachment.local.port();
    let begin = std::time::Instant::now();
    let refused = replica.wait(callsign("federation"), name("sheffield"), Listen { port, ..LOOPBACK }).await;
    assert!(matches!(refused, Err(AttachError::Bind { .. })));
    assert!(begin.elapsed() < Duration::from_millis(500), "others are not kept waiting");
    let nothing = transport(fleet.dir.path());
    let refused = nothing.wait(callsign("federation"), name("sheffield"), LOOPBACK).await;
    assert!(matches!(refused, Err(AttachError::Tls(_))));
    // The one that acts was not disturbed.
    let mut a = fleet.start("newyork").await;
    a.link_to(&mut acting).await;
}
