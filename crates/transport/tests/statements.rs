//! Records and accusations on real links: what is signed as it must be passes, whoever brings it, and nothing else.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

mod support;

use std::time::{Duration, SystemTime};

use flagship_membership::{Accusation, Evidence, Message, Proof, Signed, Statement};
use flagship_node::{LinkEnd, PeerMessage};
use flagship_types::{CloseCode, Epoch, Incarnation};
use flagship_wire::{Close, Incoming, hello_frame};
use futures::{StreamExt, stream};
use support::{DAY, Fleet, Node, RawPeer, hello, name, record_of, sign_as};

fn record(message: Signed<flagship_membership::Record>) -> PeerMessage {
    PeerMessage::Membership(Message::Record(message))
}

fn accusation(accuser: &str, subject: &str) -> Accusation {
    let (epoch, incarnation, evidence) = (Epoch(3), Incarnation(0), Evidence::Silence);
    Accusation { accuser: name(accuser), subject: name(subject), epoch, incarnation, evidence }
}

/// A statement that its owner's running daemon signed.
fn signed_by(node: &Node, owner: &str) -> Signed<flagship_membership::Record> {
    let content = record_of(owner);
    let proof = node.attachment.signer.sign(&Statement::Record(content.clone())).unwrap();
    Signed::new(content, proof)
}

fn refused(node: &Node) -> u64 {
    node.transport.stats().statements_refused
}

#[tokio::test]
async fn a_good_statement_passes_from_hand_to_hand_and_is_checked_once() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let c = fleet.start("paris").await;
    let (_, to_a) = a.link_to(&mut b).await;
    let of_paris = signed_by(&c, "paris");
    for _ in 0..3 {
        b.attachment.links.send(to_a, record(of_paris.clone()));
        assert_eq!(a.message().await, record(of_paris.clone()));
    }
    assert_eq!((a.transport.stats().statements_verified, refused(&a)), (1, 0));
    let content = accusation("paris", "london");
    let proof = c.attachment.signer.sign(&Statement::Accusation(content.clone())).unwrap();
    let accuses = PeerMessage::Membership(Message::Accuse(Signed::new(content, proof)));
    b.attachment.links.send(to_a, accuses.clone());
    assert_eq!(a.message().await, accuses);
    // Without a signature a peer speaks for itself.
    b.attachment.links.send(to_a, record(Signed::unsigned(record_of("sheffield"))));
    assert_eq!(a.message().await, record(Signed::unsigned(record_of("sheffield"))));
    let own = PeerMessage::Membership(Message::Accuse(Signed::unsigned(accusation("sheffield", "london"))));
    b.attachment.links.send(to_a, own.clone());
    assert_eq!(a.message().await, own);
    assert_eq!((a.transport.stats().statements_verified, refused(&a)), (2, 0));
}

#[tokio::test]
async fn a_forged_statement_is_dropped_and_both_are_named() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let c = fleet.start("paris").await;
    let (_, to_a) = a.link_to(&mut b).await;
    let good = signed_by(&c, "paris");
    let proof = |change: &dyn Fn(&mut Proof)| {
        let mut proof = good.proof().unwrap().clone();
        change(&mut proof);
        record(Signed::new(record_of("paris"), proof))
    };
    let forged_by_sheffield = record(signed_by(&b, "paris"));
    let other_fleet = Fleet::new("federation").start("paris").await;
    let lie = accusation("paris", "newyork");
    let record_as_accusation = Proof {
        bytes: flagship_wire::statement_bytes(&Statement::Accusation(lie.clone()), 1).1.into(),
        ..good.proof().unwrap().clone()
    };
    let table = [
        forged_by_sheffield,
        record(Signed::unsigned(record_of("paris"))),
        record(signed_by(&other_fleet, "paris")),
        proof(&|proof| proof.signature[20] ^= 1),
        proof(&|proof| {
            proof.leaf = b.attachment.signer.sign(&Statement::Record(record_of("x"))).unwrap().leaf;
        }),
        proof(&|proof| proof.leaf = [1, 2, 3].into()),
        proof(&|proof| proof.leaf = [].into()),
        PeerMessage::Membership(Message::Accuse(Signed::new(lie, record_as_accusation))),
    ];
    let count = table.len() as u64;
    for message in table {
        b.attachment.links.send(to_a, message);
    }
    let warning = a.warning().await;
    assert!(warning.starts_with("sheffield sent this member the record of paris"), "{warning}");
    assert!(
        warning.contains("certificate of spiffe://flagship/fleet/federation/member/sheffield"),
        "{warning}"
    );
    // What is good beside it passes, and the link stays.
    let delta = |records| PeerMessage::Membership(Message::Delta { records, accusations: Vec::new() });
    b.attachment.links.send(to_a, delta(vec![signed_by(&b, "london"), good.clone()]));
    assert_eq!(a.message().await, delta(vec![good]));
    assert_eq!(refused(&a), count + 1);
    a.nothing_happens().await;
}

#[tokio::test]
async fn a_certificate_is_judged_as_of_the_signature() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let (_, to_a) = a.link_to(&mut b).await;
    // It expired ten days ago, its grace ended seven days ago.
    let dir = fleet.certify_aged("paris", 375 * DAY);
    let signed = |age: Duration| {
        let content = record_of("paris");
        let at = SystemTime::now() - age;
        let proof = sign_as(&dir, &fleet.callsign, &Statement::Record(content.clone()), at);
        record(Signed::new(content, proof))
    };
    for age in [300 * DAY, 11 * DAY, 8 * DAY] {
        let message = signed(age);
        b.attachment.links.send(to_a, message.clone());
        assert_eq!(a.message().await, message, "{age:?}");
    }
    for age in [DAY, Duration::ZERO, 376 * DAY] {
        b.attachment.links.send(to_a, signed(age));
    }
    let warning = a.warning().await;
    assert!(warning.contains("paris") && warning.contains("not believed as of then"), "{warning}");
    a.nothing_happens().await;
    assert_eq!(refused(&a), 3);
}

#[tokio::test]
async fn a_statement_of_the_day_after_tomorrow_is_refused() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let dir = fleet.certify("paris");
    let (_, to_a) = a.link_to(&mut b).await;
    for (ahead, passes) in [(DAY - Duration::from_secs(60), true), (DAY + Duration::from_secs(60), false)] {
        let content = record_of("paris");
        let at = SystemTime::now() + ahead;
        let proof = sign_as(&dir, &fleet.callsign, &Statement::Record(content.clone()), at);
        let message = record(Signed::new(content, proof));
        b.attachment.links.send(to_a, message.clone());
        match passes {
            true => assert_eq!(a.message().await, message),
            false => assert!(a.warning().await.contains("ahead of this member's clock")),
        }
    }
}

#[tokio::test]
async fn a_member_whose_certificate_is_past_its_grace_signs_nothing() {
    let fleet = Fleet::new("federation");
    let old = Node::start(&fleet.certify_aged("paris", 367 * DAY), "federation", "paris").await;
    let too_old = Node::start(&fleet.certify_aged("rome", 369 * DAY), "federation", "rome").await;
    let sign = |node: &Node, owner| node.attachment.signer.sign(&Statement::Record(record_of(owner)));
    assert!(sign(&old, "paris").is_some() && sign(&too_old, "rome").is_none());
}

#[tokio::test]
async fn a_build_of_protocol_1_is_sent_what_it_knows() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let c = fleet.start("paris").await;
    let dir = fleet.certify("sheffield");
    for (protocol_max, told) in
        [(1, CloseCode::Duplicate), (2, CloseCode::Unneeded), (9, CloseCode::Unneeded)]
    {
        let theirs = flagship_wire::Hello { protocol_max, ..hello("federation", "sheffield") };
        let frames = stream::iter([hello_frame(&theirs)]).chain(stream::pending()).boxed();
        let mut peer = RawPeer::open(&a, &dir, "anything.flagship", frames).await.unwrap();
        let (link, up, _) = a.up().await;
        assert_eq!(up.protocol, protocol_max.min(2));
        let Some(Incoming::Hello(ours)) = peer.next().await else { panic!("no Hello") };
        assert_eq!((ours.protocol_min, ours.protocol_max), (1, 2));
        let own = signed_by(&a, "newyork");
        let new = [
            Message::Delta { records: vec![own.clone()], accusations: Vec::new() },
            Message::Digest { bits: 1, answer: false, buckets: vec![(0, 1)] },
            Message::Unobserve,
            Message::Record(signed_by(&c, "paris")),
        ];
        let before = a.transport.stats().unspoken;
        for message in new.iter().cloned().chain([Message::Record(own.clone())]) {
            a.attachment.links.send(link, PeerMessage::Membership(message));
        }
        a.attachment.links.close(link, CloseCode::Unneeded);
        if protocol_max > 1 {
            for message in new {
                assert_eq!(peer.next().await, Some(Incoming::Message(PeerMessage::Membership(message))));
            }
        }
        assert_eq!(peer.next().await, Some(Incoming::Message(record(own))));
        assert_eq!(a.transport.stats().unspoken - before, if protocol_max == 1 { 4 } else { 0 });
        let Some(Incoming::Close(Close { code, .. })) = peer.next().await else { panic!("no Close") };
        assert_eq!(code, told);
    }
}

#[tokio::test]
async fn an_unneeded_link_ends_with_that_code() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let (link, theirs) = a.link_to(&mut b).await;
    a.attachment.links.close(link, CloseCode::Unneeded);
    assert_eq!(b.down().await, (theirs, LinkEnd::Closed(CloseCode::Unneeded)));
}
