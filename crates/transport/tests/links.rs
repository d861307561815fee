//! Links between members that keep the rules.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

mod support;

use std::time::{Duration, Instant};

use flagship_node::{ConnectFailure, LinkEnd, LinkEvent};
use flagship_transport::{AttachError, FrameKind, Listen};
use flagship_types::{CloseCode, Epoch, PeerAddress};
use socket2::{Domain, Socket, Type};
use support::{Fleet, Node, beat, election, endpoint, local_hello, name, transport};

#[tokio::test]
async fn two_members_link_and_exchange_messages() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    a.attachment
        .links
        .set_hello(flagship_node::LocalHello { epoch: Epoch(2000), ..local_hello("federation", "newyork") });
    a.attachment.links.connect(&b.address());
    let (link_a, hello_of_b, dialled) = a.up().await;
    assert_eq!(
        (hello_of_b.member, hello_of_b.epoch, hello_of_b.view_hash),
        (name("sheffield"), Epoch(1000), 7)
    );
    assert_eq!(hello_of_b.address.unwrap().to_string(), "172.18.100.100:9990");
    assert_eq!(dialled, Some(b.address()));
    let (link_b, hello_of_a, dialled) = b.up().await;
    assert_eq!((hello_of_a.member, hello_of_a.epoch, dialled), (name("newyork"), Epoch(2000), None));

    for term in 1..=500 {
        if term % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        a.attachment.links.send(link_a, election(term));
    }
    b.attachment.links.send(link_b, beat(1));
    for term in 1..=500 {
        assert_eq!(b.message().await, election(term));
    }
    assert_eq!(a.message().await, beat(1));
    let stats = a.transport.stats();
    assert_eq!((stats.links, a.handshakes(true, "ok"), b.handshakes(false, "ok")), (1, 1, 1));
    let sent = stats.frames.iter().find(|f| f.sent && f.kind == FrameKind::Election).unwrap();
    assert_eq!(sent.frames, 500);
}

#[tokio::test]
async fn a_message_takes_no_40_ms() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let (link_a, link_b) = a.link_to(&mut b).await;
    let begin = Instant::now();
    for term in 1..=20 {
        a.attachment.links.send(link_a, election(term));
        b.message().await;
        b.attachment.links.send(link_b, election(term));
        a.message().await;
    }
    let each = begin.elapsed() / 20;
    assert!(each < Duration::from_millis(20), "{each:?} per round trip");
}

#[tokio::test]
async fn two_streams_between_two_members_are_left_to_the_core() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let first = a.link_to(&mut b).await;
    let second = b.link_to(&mut a).await;
    b.attachment.links.close(second.0, CloseCode::Duplicate);
    assert_eq!(a.down().await, (second.1, LinkEnd::Closed(CloseCode::Duplicate)));
    b.nothing_happens().await;
    a.attachment.links.send(first.0, election(1));
    assert_eq!(b.message().await, election(1));
}

#[tokio::test]
async fn what_was_queued_before_a_close_arrives() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let (link_a, link_b) = a.link_to(&mut b).await;
    a.attachment.links.send(link_a, election(1));
    let Node { attachment, .. } = a;
    let begin = Instant::now();
    attachment.detach.close(CloseCode::ShuttingDown).await;
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    assert_eq!(b.message().await, election(1));
    assert_eq!(b.down().await, (link_b, LinkEnd::Closed(CloseCode::ShuttingDown)));
}

#[test]
fn a_killed_peer_is_lost_and_then_refuses() {
    let fleet = Fleet::new("federation");
    let killed = tokio::runtime::Runtime::new().unwrap();
    let mut b = killed.block_on(fleet.start("sheffield"));
    let address = b.address();
    let survivor = tokio::runtime::Runtime::new().unwrap();
    survivor.block_on(async {
        let mut a = fleet.start("newyork").await;
        a.attachment.links.connect(&address);
        let (link, ..) = a.up().await;
        killed.spawn(async move {
            b.up().await;
            std::future::pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begin = Instant::now();
        // Sockets close without a word, as when a process is killed.
        killed.shutdown_background();
        assert_eq!(a.down().await, (link, LinkEnd::Lost));
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
        a.attachment.links.connect(&address);
        let (failure, reason) = a.connect_failed().await;
        assert_eq!(failure, ConnectFailure::Refused, "{reason}");
        assert_eq!(a.handshakes(true, "refused"), 1);
    });
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_unanswered_in_two_seconds() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    // A listener whose queue is full: the kernel drops what comes, as a cut network does.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address.into());
        waiting.push(client);
    }
    let begin = Instant::now();
    a.attachment.links.connect(&PeerAddress::parse(&address.to_string(), 1).unwrap());
    let (failure, reason) = a.connect_failed().await;
    assert_eq!(failure, ConnectFailure::Unanswered, "{reason}");
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_millis(2600), "{took:?}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    a.attachment.links.connect(&PeerAddress::parse("nowhere.invalid", 9990).unwrap());
    let (failure, reason) = a.connect_failed().await;
    assert_eq!(failure, ConnectFailure::Unanswered);
    assert!(reason.contains("cannot resolve nowhere.invalid"), "{reason}");
}

#[tokio::test]
async fn members_of_several_fleets_share_a_port() {
    let fleets = [Fleet::new("east"), Fleet::new("west")];
    let dir = tempfile::tempdir().unwrap();
    for fleet in &fleets {
        fleet.certify_into(&dir.path().join(fleet.callsign.as_str()).join("hub"), "hub", Duration::ZERO);
    }
    let shared = transport(dir.path());
    let east = shared.attach(endpoint("east", "hub", 0)).await.unwrap();
    let port = east.local.port();
    let west = shared.attach(endpoint("west", "hub", port)).await.unwrap();
    assert_eq!(shared.certificates().len(), 2);
    let mut hubs = [
        Node { transport: shared.clone(), attachment: east },
        Node { transport: shared.clone(), attachment: west },
    ];
    for (fleet, hub) in fleets.iter().zip(&mut hubs) {
        let mut spoke = fleet.start("spoke").await;
        let (link, _) = spoke.link_to(hub).await;
        spoke.attachment.links.send(link, election(1));
        assert_eq!(hub.message().await, election(1));
        hub.attachment.links.close(flagship_node::LinkId(0), CloseCode::Leaving);
        drop(spoke);
        assert!(matches!(hub.down().await.1, LinkEnd::Closed(CloseCode::Leaving)));
    }
    // A third fleet is told that nobody of it is there, and the two hear of it.
    // Kept: without its files it would be warned of that, before or after it is refused.
    let north = Fleet::new("north");
    let mut stranger = north.start("spoke").await;
    stranger.attachment.links.connect(&hubs[0].address());
    let refusal = stranger.refused().await;
    assert!(refusal.sentence.contains("spec.callsign differs"), "{refusal:?}");
    assert_eq!(stranger.connect_failed().await.0, ConnectFailure::Unanswered);
    for hub in &mut hubs {
        assert!(hub.refused().await.sentence.contains("compare spec.callsign"));
    }
    // One of them goes, the port stays; both go, the port is free for another process.
    let [a, b] = hubs;
    drop(a);
    let mut spoke = fleets[1].start("spoke").await;
    let mut b = b;
    spoke.link_to(&mut b).await;
    drop(b);
    let again = transport(dir.path()).attach(endpoint("east", "hub", port)).await.unwrap();
    assert_eq!(again.local.port(), port);
}

#[tokio::test]
async fn what_hinders_an_attachment_says_what_to_do() {
    let fleet = Fleet::new("federation");
    let a = fleet.start("newyork").await;
    let port = a.attachment.local.port();
    let taken =
        transport(&fleet.certify("sheffield")).attach(endpoint("federation", "sheffield", port)).await;
    assert!(taken.err().unwrap().to_string().contains("choose another spec.port"));
    let twice = a.transport.attach(endpoint("federation", "newyork", 0)).await;
    assert!(matches!(twice, Err(AttachError::CallsignTaken { .. })));
    let empty = tempfile::tempdir().unwrap();
    let missing = transport(empty.path()).attach(endpoint("federation", "newyork", 0)).await.err().unwrap();
    let said = missing.to_string();
    let (add, init) = ["add-member", "init"]
        .map(|verb| format!("flagship pki {verb} --fleet federation --member newyork --out DIR"))
        .into();
    // Who makes a second authority for a fleet that exists cuts the new member off.
    assert!(said.find(&add).unwrap() < said.find(&init).unwrap(), "{said}");
    let other =
        transport(&fleet.certify("paris")).attach(endpoint("federation", "newyork", 0)).await.err().unwrap();
    assert!(other.to_string().contains("is for spiffe://flagship/fleet/federation/member/paris"), "{other}");
    assert!(other.to_string().contains(&add), "{other}");
}

#[tokio::test]
async fn a_member_that_dials_itself_is_told_quietly() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    a.attachment.links.connect(&a.address());
    let (failure, reason) = a.connect_failed().await;
    assert_eq!(failure, ConnectFailure::Rejected(CloseCode::IdentityMismatch), "{reason}");
    assert!(reason.contains("dialled itself"), "{reason}");
    a.nothing_happens().await;
}

#[tokio::test]
async fn two_processes_with_one_name_meet_and_the_core_decides() {
    let fleet = Fleet::new("federation");
    let dir = fleet.certify("newyork");
    let mut a = Node::start(&dir, "federation", "newyork").await;
    let mut b = Node::start(&dir, "federation", "newyork").await;
    a.attachment.links.connect(&b.address());
    let (link, hello, _) = a.up().await;
    assert_eq!(hello.member, name("newyork"));
    a.attachment.links.close(link, CloseCode::NameInUse);
    b.up().await;
    assert_eq!(b.down().await.1, LinkEnd::Closed(CloseCode::NameInUse));
}

#[tokio::test]
async fn a_detached_member_answers_no_more() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    a.link_to(&mut b).await;
    let address = b.address();
    drop(b);
    assert_eq!(a.down().await.1, LinkEnd::Closed(CloseCode::Leaving));
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.attachment.links.connect(&address);
    assert!(matches!(a.event().await, LinkEvent::ConnectFailed { failure: ConnectFailure::Refused, .. }));
}

#[tokio::test]
async fn settings_are_probed_without_touching_the_member_that_runs() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let (federation, newyork) = (support::callsign("federation"), name("newyork"));
    let probe = async |address: Option<[u8; 4]>, port: u16| {
        let listen = Listen { address: address.map(Into::into), port };
        a.transport.probe(federation.clone(), newyork.clone(), listen).await
    };
    let (own, loopback) = (a.attachment.local.port(), Some([127, 0, 0, 1]));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = probe(loopback, port).await.unwrap_err().to_string();
    assert!(refused.contains(&port.to_string()) && refused.contains("choose another spec.port"), "{refused}");
    drop(taken);
    probe(loopback, port).await.unwrap();
    // What its own listener keeps busy is free for it, on the addresses that this host has.
    probe(loopback, own).await.unwrap();
    probe(None, own).await.unwrap();
    let refused = probe(Some([192, 0, 2, 1]), own).await.unwrap_err().to_string();
    assert!(refused.contains("does not have that address"), "{refused}");
    let listen = Listen { address: None, port };
    let refused = a.transport.probe(support::callsign("rebels"), newyork.clone(), listen).await;
    assert!(matches!(refused, Err(AttachError::Tls(_))));
    // It was not disturbed.
    let mut b = fleet.start("sheffield").await;
    a.link_to(&mut b).await;
}

#[tokio::test]
async fn whose_certificates_are_there_is_known_by_fleet() {
    let (fleet, other) = (Fleet::new("federation"), Fleet::new("empire"));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let members = async |callsign: &str| {
        let names = transport(root).members(support::callsign(callsign)).await;
        names
            .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>())
            .map_err(|e| e.to_string())
    };
    assert_eq!(members("federation").await, Ok(vec![]), "an empty directory");
    fleet.certify_into(root, "witness", Duration::ZERO);
    assert_eq!(members("federation").await, Ok(vec!["witness".into()]));
    assert_eq!(members("empire").await, Ok(vec![]), "the pair is another fleet's");
    other.certify_into(&root.join("empire/third"), "third", Duration::ZERO);
    // Nobody would read this one for `third`, nor for `fourth`.
    other.certify_into(&root.join("empire/fourth"), "fifth", Duration::ZERO);
    assert_eq!(members("empire").await, Ok(vec!["third".into()]));
    fleet.certify_into(&root.join("federation/a"), "a", Duration::ZERO);
    assert_eq!(members("federation").await, Ok(vec!["a".into(), "witness".into()]));
    std::fs::write(root.join("tls.crt"), "nonsense").unwrap();
    let error = members("federation").await.unwrap_err();
    assert!(error.contains("tls.crt holds no certificate in PEM"), "{error}");
}
