//! What a frame carries arrives as it was sent, and what does not fit is refused without a panic.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

use std::time::Duration;

use flagship_election::{Claim, Message as Election, Refusal, Vote};
use flagship_membership::{
    Accusation, Echo, Evidence, Message as Membership, Record, SelfState, State, Verdict,
};
use flagship_types::{
    Callsign, CloseCode, ConfigVersion, Epoch, Failback, FleetConfig, Health, Incarnation, MemberName,
    Metadata, PeerAddress, Rank, Role, Term,
};
use flagship_wire::{
    Close, Hello, Incoming, MAX_FRAME_BYTES, MAX_SENTENCE_BYTES, PeerMessage, close_frame, decode,
    hello_frame, message_frame, pb,
};
use proptest::prelude::*;
use prost::Message as _;

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn address(text: &str) -> PeerAddress {
    PeerAddress::parse(text, 9990).unwrap()
}

fn metadata() -> Metadata {
    Metadata {
        address: Some(address("[2001:db8::1]:9990")),
        rank: Rank(-5),
        candidate: true,
        health: Health { api: true, payload_valid: false, payload_ready: true },
        role: Role::Standby,
        term: Term(7),
        leader: Some(name("newyork")),
        config: ConfigVersion(3),
        interrupted: true,
    }
}

fn record(status: SelfState) -> Membership {
    Membership::Record(Record {
        member: name("sheffield"),
        epoch: Epoch(1_700_000_000_000),
        incarnation: Incarnation(2),
        version: 9,
        status,
        metadata: metadata(),
    })
}

fn membership_messages() -> Vec<Membership> {
    let echo = Echo { seq: 8, delay: Duration::from_micros(1234) };
    let subject = name("paris");
    let mut all = vec![
        Membership::Beat { seq: 9, echo: Some(echo), view_hash: 0xdead_beef },
        Membership::Beat { seq: 0, echo: None, view_hash: 0 },
        Membership::Ping { seq: 10 },
        Membership::Echo(echo),
        Membership::Query {
            id: 1,
            subject: subject.clone(),
            epoch: Epoch(5),
            deadline: Duration::from_millis(90),
        },
        record(SelfState::Alive),
        record(SelfState::Away { grace: Duration::from_secs(30) }),
        record(SelfState::Left),
        Membership::Addresses(vec![
            (name("a"), address("172.18.100.100:9990")),
            (name("b"), address("b.example:1")),
        ]),
    ];
    for verdict in [
        Verdict::Heard(Duration::from_micros(77)),
        Verdict::Mute(Evidence::Exit),
        Verdict::Mute(Evidence::Silence),
        Verdict::Abstain,
    ] {
        all.push(Membership::Answer { id: 1, subject: subject.clone(), verdict });
    }
    for evidence in [Evidence::Exit, Evidence::Silence] {
        let (epoch, incarnation) = (Epoch(4), Incarnation(1));
        all.push(Membership::Accuse(Accusation { subject: subject.clone(), epoch, incarnation, evidence }));
    }
    for state in State::ALL {
        all.push(Membership::Known { epoch: Epoch(3), incarnation: Incarnation(4), state });
    }
    all
}

fn election_messages() -> Vec<Election> {
    let claim = Claim { term: Term(4), rank: Rank(10), config: ConfigVersion(2), released: Some(Term(3)) };
    let vote = Vote { term: Term(4), candidate: name("sheffield") };
    let config =
        FleetConfig { version: ConfigVersion(8), failback: Failback::Manual, ..FleetConfig::default() };
    let retry_after = Duration::from_millis(1500);
    let mut all = vec![
        Election::PreClaim(Claim { released: None, ..claim.clone() }),
        Election::Claim(claim),
        Election::Grant { term: Term(4), pre: true },
        Election::Announce { term: Term(4), config },
        Election::HandoverRequest { term: Term(4) },
        Election::HandoverRefused { term: Term(4), reason: "the payload is stuck".into(), retry_after },
        Election::Release { term: Term(4), successor: Some(name("sheffield")) },
        Election::Release { term: Term(4), successor: None },
        Election::ConfirmRequest { term: Term(4) },
        Election::ConfirmReply { term: Term(4), highest: Some(vote.clone()) },
        Election::RecordRequest,
        Election::RecordReply { vote: Some(vote), term: Term(9), config: FleetConfig::default() },
        Election::ConfigStored { version: ConfigVersion(8) },
    ];
    for refusal in [
        Refusal::LeaderAlive { beat_age: Duration::from_millis(120) },
        Refusal::Granted { term: Term(11) },
        Refusal::RestartGrace,
        Refusal::BetterCandidate,
        Refusal::ReservedForSuccessor,
        Refusal::Leading,
        Refusal::NoRecord,
        Refusal::TermJump,
    ] {
        all.push(Election::Refuse { term: Term(4), pre: false, refusal, highest: Term(12), retry_after });
    }
    all
}

fn through_bytes(frame: &pb::Frame) -> Incoming {
    decode(pb::Frame::decode(frame.encode_to_vec().as_slice()).unwrap()).unwrap()
}

#[test]
fn every_message_arrives_as_it_was_sent() {
    let messages = membership_messages().into_iter().map(PeerMessage::Membership);
    for message in messages.chain(election_messages().into_iter().map(PeerMessage::Election)) {
        let frame = message_frame(&message).unwrap();
        assert_eq!(through_bytes(&frame), Incoming::Message(message));
    }
}

#[test]
fn hello_and_every_close_code_arrive_as_they_were_sent() {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 3,
        callsign: Callsign::new("federation").unwrap(),
        member: name("newyork"),
        epoch: Epoch(u64::MAX),
        address: None,
        view_hash: 1,
        instance: 42,
    };
    assert_eq!(through_bytes(&hello_frame(&hello)), Incoming::Hello(hello));
    for code in CloseCode::ALL {
        let close = Close { code, sentence: "because".into() };
        assert_eq!(through_bytes(&close_frame(&close)), Incoming::Close(close));
    }
}

/// What a build that does not know a code makes of it: a frame that is refused, and so a link that is closed with
/// `ProtocolError`. Never the silence of a lost stream or a refused connection.
#[test]
fn a_code_of_a_newer_build_is_a_refused_frame() {
    let close = pb::Close { code: 4711, sentence: "because".into() };
    let refused = decode(pb::Frame { kind: Some(pb::frame::Kind::Close(close)) }).unwrap_err().to_string();
    assert!(refused.contains("close.code") && refused.contains("4711 is not a known value"), "{refused}");
}

#[test]
fn sentences_are_cut_and_cleaned() {
    let frame = close_frame(&Close {
        code: CloseCode::Full,
        sentence: format!("a\nb{}", "é".repeat(MAX_SENTENCE_BYTES)),
    });
    let Incoming::Close(close) = through_bytes(&frame) else { panic!("not a Close") };
    assert!(close.sentence.starts_with("a b"), "{}", close.sentence);
    assert!(close.sentence.len() <= MAX_SENTENCE_BYTES);
}

#[test]
fn a_message_that_is_too_large_has_no_frame() {
    let reason = "x".repeat(MAX_FRAME_BYTES);
    let refused = Election::HandoverRefused { term: Term(1), reason, retry_after: Duration::ZERO };
    assert!(message_frame(&PeerMessage::Election(refused)).is_some(), "a reason is cut");
    let long = name(&"a".repeat(253));
    let addresses = vec![(long, address(&format!("{}.b:1", "a".repeat(63)))); 1000];
    assert_eq!(message_frame(&PeerMessage::Membership(Membership::Addresses(addresses))), None);
}

#[test]
fn what_does_not_fit_names_its_field() {
    let membership = |kind| pb::Frame {
        kind: Some(pb::frame::Kind::Membership(pb::MembershipMessage { kind: Some(kind) })),
    };
    let record = |record: pb::Record| {
        membership(pb::membership_message::Kind::Record(pb::SignedRecord {
            record: record.encode_to_vec(),
            ..Default::default()
        }))
    };
    let good = match message_frame(&PeerMessage::Membership(self::record(SelfState::Alive))).unwrap().kind {
        Some(pb::frame::Kind::Membership(pb::MembershipMessage {
            kind: Some(pb::membership_message::Kind::Record(r)),
        })) => pb::Record::decode(r.record.as_slice()).unwrap(),
        other => panic!("{other:?}"),
    };
    let bad_metadata = |change: fn(&mut pb::Metadata)| {
        let mut bad = good.clone();
        change(bad.metadata.as_mut().unwrap());
        record(bad)
    };
    let query = pb::Query { id: 1, subject: "Not A Name".into(), epoch: 1, deadline_us: 1 };
    let echo = pb::Echo { seq: 1, delay_us: u64::MAX };
    let table = [
        (pb::Frame { kind: None }, "frame.kind"),
        (membership(pb::membership_message::Kind::Query(query)), "query.subject"),
        (membership(pb::membership_message::Kind::Echo(echo)), "echo.delay_us"),
        (record(pb::Record { status: None, ..good.clone() }), "record.status"),
        (record(pb::Record { metadata: None, ..good.clone() }), "record.metadata"),
        (bad_metadata(|m| m.role = 99), "metadata.role"),
        (bad_metadata(|m| m.address = "172.18.0.1".into()), "metadata.address"),
        (bad_metadata(|m| m.leader = "x".repeat(2000)), "metadata"),
        (
            membership(pb::membership_message::Kind::Record(pb::SignedRecord {
                record: vec![0xff],
                ..Default::default()
            })),
            "record.record",
        ),
        (
            pb::Frame { kind: Some(pb::frame::Kind::Close(pb::Close { code: 99, sentence: String::new() })) },
            "close.code",
        ),
    ];
    for (frame, field) in table {
        assert_eq!(decode(frame).unwrap_err().field, field);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(frame) = pb::Frame::decode(bytes.as_slice()) {
            let _ = decode(frame);
        }
    }

    #[test]
    fn damaged_messages_never_panic(index in 0usize..64, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let messages: Vec<_> = membership_messages().into_iter().map(PeerMessage::Membership)
            .chain(election_messages().into_iter().map(PeerMessage::Election)).collect();
        let mut bytes = message_frame(&messages[index % messages.len()]).unwrap().encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(frame) = pb::Frame::decode(bytes.as_slice()) {
            let _ = decode(frame);
        }
    }
}
