//! What a frame carries arrives as it was sent, and what does not fit is refused without a panic.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

use std::time::Duration;

use flagship_election::{Claim, Message as Election, Refusal, ResignReason, Vote};
use flagship_membership::{
    Accusation, Echo, Evidence, Message as Membership, Proof, Record, SelfState, Signed, State, Statement,
    Verdict,
};
use flagship_types::{
    Callsign, CloseCode, ConfigVersion, Epoch, Failback, FleetConfig, Health, Incarnation, MemberName,
    Metadata, Mode, Pause, PeerAddress, Rank, Role, Term,
};
use flagship_wire::{
    Close, Frame, Hello, Incoming, MAX_FRAME_BYTES, MAX_LEAF_BYTES, MAX_SENTENCE_BYTES, MAX_SIGNATURE_BYTES,
    MAX_STATEMENT_BYTES, MAX_STATEMENTS, PeerMessage, StatementKind, close_frame, decode, decode_from,
    hello_frame, message_frame, pb, signed_at_ms, signing_input, statement_bytes,
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
        health: Health { api: true, payload_valid: false, payload_ready: true, gates: true, failed: false },
        role: Role::Standby,
        term: Term(7),
        leader: Some(name("newyork")),
        config: ConfigVersion(3),
        interrupted: true,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    }
}

fn content(status: SelfState) -> Record {
    Record {
        member: name("sheffield"),
        epoch: Epoch(1_700_000_000_000),
        incarnation: Incarnation(2),
        version: 9,
        status,
        metadata: metadata(),
    }
}

fn record(status: SelfState) -> Membership {
    Membership::Record(Signed::unsigned(content(status)))
}

fn accusation(evidence: Evidence) -> Accusation {
    let (accuser, subject) = (name("newyork"), name("paris"));
    Accusation { accuser, subject, epoch: Epoch(4), incarnation: Incarnation(1), evidence }
}

const SIGNED_AT: u64 = 1_700_000_001_234;

fn proof(statement: &Statement) -> Proof {
    let bytes = statement_bytes(statement, SIGNED_AT).1.into();
    Proof { bytes, signature: [7; 71].into(), leaf: [8; 600].into() }
}

fn signed_record() -> Signed<Record> {
    let record = content(SelfState::Alive);
    let proof = proof(&Statement::Record(record.clone()));
    Signed::new(record, proof)
}

fn signed_accusation() -> Signed<Accusation> {
    let accusation = accusation(Evidence::Exit);
    let proof = proof(&Statement::Accusation(accusation.clone()));
    Signed::new(accusation, proof)
}

fn membership_messages() -> Vec<Membership> {
    let echo = Echo { seq: 8, delay: Duration::from_micros(1234) };
    let subject = name("paris");
    let mut all = vec![
        Membership::Beat { seq: 9, echo: Some(echo), acked: None, view_hash: 0xdead_beef },
        Membership::Beat { seq: 0, echo: None, acked: Some(echo), view_hash: 0 },
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
        all.push(Membership::Accuse(Signed::unsigned(accusation(evidence))));
    }
    all.extend([
        Membership::Record(signed_record()),
        Membership::Accuse(signed_accusation()),
        Membership::Delta {
            records: vec![signed_record(), Signed::unsigned(content(SelfState::Left))],
            accusations: vec![signed_accusation(), Signed::unsigned(accusation(Evidence::Silence))],
        },
        Membership::Digest { bits: 12, answer: true, buckets: vec![(0, 1), (4095, u32::MAX)] },
        Membership::Digest { bits: 0, answer: false, buckets: Vec::new() },
        Membership::Unobserve,
    ]);
    for state in State::ALL {
        all.push(Membership::Known { epoch: Epoch(3), incarnation: Incarnation(4), state });
    }
    all
}

fn election_messages() -> Vec<Election> {
    let vote = Vote { term: Term(4), candidate: name("sheffield") };
    let config = FleetConfig {
        version: ConfigVersion(8),
        failback: Failback::Manual,
        mode: Mode::Quorum,
        voters: vec![name("newyork"), name("sheffield"), name("witness")],
        lease: Duration::from_secs(5),
        stop_grace: Duration::from_millis(12_500),
        pause: Some(Pause { since_ms: 1_700_000_000_000, reason: "maintenance".into() }),
        ..FleetConfig::default()
    };
    let (version, lease, stop_grace) = (config.version, config.lease, config.stop_grace);
    let claim = Claim { term: Term(4), rank: Rank(10), config: config.clone(), released: Some(Term(3)) };
    let retry_after = Duration::from_millis(1500);
    let mut all = vec![
        Election::PreClaim(Claim { released: None, ..claim.clone() }),
        Election::Claim(claim),
        Election::Grant { term: Term(4), pre: true, owed: Duration::from_millis(900), config: version },
        Election::Renew { term: Term(4), seq: 7, config: version, lease, stop_grace },
        Election::Renewed { term: Term(4), seq: 7, config: version },
        Election::Announce { term: Term(4), config },
        Election::HandoverRequest { term: Term(4) },
        Election::HandoverRefused { term: Term(4), reason: "the payload is stuck".into(), retry_after },
        Election::Release {
            term: Term(4),
            successor: Some(name("sheffield")),
            reason: ResignReason::Switchover,
        },
        Election::Release { term: Term(4), successor: None, reason: ResignReason::LeaseLost },
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

/// Whoever stored it would be refused its own status at the next start.
#[test]
fn a_quorum_that_nobody_votes_in_is_refused() {
    let announced = |mode, voters| {
        let config = FleetConfig { mode, voters, ..FleetConfig::default() };
        let announce = PeerMessage::Election(Election::Announce { term: Term(4), config });
        decode_from(message_frame(&announce).unwrap(), &name("newyork"))
    };
    let refused = announced(Mode::Quorum, Vec::new()).unwrap_err();
    assert_eq!(refused.field, "config.voters");
    assert_eq!(refused.problem, "is empty, in mode Quorum 1 to 9 names are expected");
    assert!(announced(Mode::Quorum, vec![name("newyork")]).is_ok());
    assert!(announced(Mode::Availability, Vec::new()).is_ok());
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// A message in the words of the generated code.
fn generated(message: Membership) -> pb::Frame {
    let frame = message_frame(&PeerMessage::Membership(message)).unwrap();
    pb::Frame::decode(bytes_of(&frame).as_slice()).unwrap()
}

fn through_bytes(frame: &Frame) -> Incoming {
    decode_from(Frame::decode(bytes_of(frame).as_slice()).unwrap(), &name("newyork")).unwrap()
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
    let refused =
        decode(pb::Frame { kind: Some(pb::frame::Kind::Close(close)) }.into()).unwrap_err().to_string();
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
    let good = match generated(self::record(SelfState::Alive)).kind {
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
        assert_eq!(decode(frame.into()).unwrap_err().field, field);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the builds of protocol 1 send and expect, byte for byte, as they wrote it.
#[test]
fn messages_of_protocol_1_have_not_changed() {
    let echo = Echo { seq: 8, delay: Duration::from_micros(1234) };
    let beat = Membership::Beat { seq: 9, echo: Some(echo), acked: None, view_hash: 0xdead_beef };
    let accusation = Membership::Accuse(Signed::unsigned(accusation(Evidence::Silence)));
    let table = [
        (beat, "1a100a0e080912050808 10d2091defbeadde"),
        (Membership::Echo(echo), "1a071a050808 10d209"),
        (accusation, "1a0f320d 0a05 7061726973 1004 1801 2002"),
        (
            record(SelfState::Alive),
            "1a4d3a4b 0a49 0a09 736865666669656c64 1080d095ffbc31 1802 2009 2801 422f 0a12 \
             5b323030313a6462383a3a315d3a39393930 1009 1801 2204 0801 1801 2802 3007 3a07 6e6577796f726b 4003 4801",
        ),
    ];
    for (message, golden) in table {
        let frame = message_frame(&PeerMessage::Membership(message)).unwrap();
        assert_eq!(hex(&bytes_of(&frame)), golden.replace(char::is_whitespace, ""));
    }
}

/// An accusation as protocol 1 reads it.
#[derive(Clone, PartialEq, prost::Message)]
struct OldAccusation {
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint32, tag = "3")]
    incarnation: u32,
    #[prost(int32, tag = "4")]
    evidence: i32,
}

#[test]
fn protocol_1_reads_a_signed_accusation() {
    let frame = generated(Membership::Accuse(signed_accusation()));
    let Some(pb::frame::Kind::Membership(pb::MembershipMessage { kind })) = frame.kind else { panic!() };
    let Some(pb::membership_message::Kind::Accusation(accusation)) = kind else { panic!() };
    let read = OldAccusation::decode(accusation.encode_to_vec().as_slice()).unwrap();
    let expected = OldAccusation { subject: "paris".into(), epoch: 4, incarnation: 1, evidence: 1 };
    assert_eq!(read, expected);
}

#[test]
fn an_accusation_without_an_accuser_is_the_senders() {
    let message = Membership::Accuse(Signed::unsigned(accusation(Evidence::Exit)));
    let frame = message_frame(&PeerMessage::Membership(message)).unwrap();
    assert_eq!(decode(frame.clone()).unwrap_err().field, "accusation.accuser");
    let Incoming::Message(PeerMessage::Membership(Membership::Accuse(read))) =
        decode_from(frame, &name("london")).unwrap()
    else {
        panic!("not an accusation")
    };
    assert_eq!((read.accuser.as_str(), read.subject.as_str()), ("london", "paris"));
}

#[test]
fn what_is_signed_names_kind_fleet_and_time() {
    let callsign = Callsign::new("federation").unwrap();
    let statements =
        [Statement::Record(content(SelfState::Alive)), Statement::Accusation(accusation(Evidence::Exit))];
    let mut inputs = Vec::new();
    for statement in statements {
        let (kind, bytes) = statement_bytes(&statement, SIGNED_AT);
        assert_eq!(signed_at_ms(kind, &bytes).unwrap(), SIGNED_AT);
        let input = signing_input(kind, &callsign, &bytes);
        let text = String::from_utf8_lossy(&input).into_owned();
        assert!(text.starts_with(&format!("flagship/v1 {}\0federation\0", kind.as_str())), "{text}");
        assert!(input.ends_with(&bytes));
        inputs.push(input);
    }
    assert_ne!(
        signing_input(StatementKind::Record, &callsign, b"x"),
        signing_input(StatementKind::Accusation, &callsign, b"x")
    );
}

#[test]
fn statements_of_others_are_protocol_2() {
    let (sheffield, newyork) = (name("sheffield"), name("newyork"));
    for message in membership_messages() {
        let new =
            matches!(message, Membership::Delta { .. } | Membership::Digest { .. } | Membership::Unobserve);
        let (record, accuse) =
            (matches!(message, Membership::Record(_)), matches!(message, Membership::Accuse(_)));
        let message = PeerMessage::Membership(message);
        assert_eq!(message.protocol(&sheffield), if new || accuse { 2 } else { 1 }, "{message:?}");
        assert_eq!(message.protocol(&newyork), if new || record { 2 } else { 1 }, "{message:?}");
    }
}

#[test]
fn statements_and_digests_over_their_limits_name_the_field() {
    use pb::membership_message::Kind;
    let record = pb::SignedRecord {
        record: statement_bytes(&Statement::Record(content(SelfState::Alive)), 1).1,
        signature: vec![1; MAX_SIGNATURE_BYTES],
        leaf: vec![1; MAX_LEAF_BYTES],
    };
    let accusation = pb::Accusation {
        signature: vec![1; MAX_SIGNATURE_BYTES],
        leaf: vec![1; MAX_LEAF_BYTES],
        statement: statement_bytes(&Statement::Accusation(accusation(Evidence::Exit)), 1).1,
        ..Default::default()
    };
    let refused = |kind: Kind| {
        let membership = pb::MembershipMessage { kind: Some(kind) };
        decode(pb::Frame { kind: Some(pb::frame::Kind::Membership(membership)) }.into())
            .map_err(|e| e.field)
            .err()
    };
    let long = |bytes: &[u8], most: usize| [bytes, &vec![0; most + 1 - bytes.len()]].concat();
    let records = |record| Kind::Delta(pb::Delta { records: vec![record], accusations: Vec::new() });
    assert_eq!(refused(Kind::Record(record.clone())), None);
    assert_eq!(refused(Kind::Accusation(accusation.clone())), None);
    for kind in [Kind::Record as fn(pb::SignedRecord) -> Kind, records] {
        let leaf = long(&record.leaf, MAX_LEAF_BYTES);
        assert_eq!(refused(kind(pb::SignedRecord { leaf, ..record.clone() })), Some("record.leaf"));
        let signature = long(&record.signature, MAX_SIGNATURE_BYTES);
        assert_eq!(refused(kind(pb::SignedRecord { signature, ..record.clone() })), Some("record.signature"));
        let bytes = long(&record.record, MAX_STATEMENT_BYTES);
        assert_eq!(
            refused(kind(pb::SignedRecord { record: bytes, ..record.clone() })),
            Some("record.record")
        );
    }
    let leaf = long(&accusation.leaf, MAX_LEAF_BYTES);
    let bad = pb::Accusation { leaf, ..accusation.clone() };
    assert_eq!(refused(Kind::Accusation(bad)), Some("accusation.leaf"));
    let signature = long(&accusation.signature, MAX_SIGNATURE_BYTES);
    let bad = pb::Accusation { signature, ..accusation.clone() };
    assert_eq!(refused(Kind::Accusation(bad)), Some("accusation.signature"));
    let statement = long(&accusation.statement, MAX_STATEMENT_BYTES);
    let bad = pb::Accusation { statement, ..accusation.clone() };
    assert_eq!(refused(Kind::Accusation(bad)), Some("accusation.statement"));
    let unsigned = pb::SignedRecord { signature: Vec::new(), leaf: Vec::new(), ..record };
    let delta = |records, accusations| {
        let records = vec![unsigned.clone(); records];
        refused(Kind::Delta(pb::Delta { records, accusations: vec![accusation.clone(); accusations] }))
    };
    assert_eq!(delta(MAX_STATEMENTS, 0), None);
    assert_eq!(delta(MAX_STATEMENTS + 1, 0), Some("delta.records"));
    assert_eq!(delta(MAX_STATEMENTS, 1), Some("delta.accusations"));
    let digest = |bits, buckets: &[u32], hashes: &[u32]| {
        let (buckets, hashes) = (buckets.to_vec(), hashes.to_vec());
        refused(Kind::Digest(pb::Digest { bits, answer: false, buckets, hashes }))
    };
    assert_eq!(digest(1, &[0, 1], &[5, 6]), None);
    assert_eq!(digest(13, &[], &[]), Some("digest.bits"));
    assert_eq!(digest(256 + 1, &[], &[]), Some("digest.bits"));
    assert_eq!(digest(1, &[0, 1, 1], &[5, 6, 7]), Some("digest.buckets"));
    assert_eq!(digest(1, &[0, 2], &[5, 6]), Some("digest.buckets"));
    assert_eq!(digest(1, &[0, 65_536], &[5, 6]), Some("digest.buckets"));
    assert_eq!(digest(1, &[0, 1], &[5]), Some("digest.hashes"));
}

/// DESIGN section 11: a member sends about three beats and three echoes a second, of at most 100 bytes together.
#[test]
fn a_beat_and_an_echo_are_small() {
    let bytes = |message| message_frame(&PeerMessage::Membership(message)).unwrap().encoded_len();
    let acked = Some(Echo { seq: 9_999, delay: Duration::from_micros(961_234) });
    let beat = bytes(Membership::Beat { seq: 10_000, echo: None, acked, view_hash: 0xdead_beef });
    let echo = bytes(Membership::Echo(Echo { seq: 10_000, delay: Duration::from_micros(150) }));
    assert_eq!((beat, echo), (21, 10));
    assert!(3 * (beat + echo) <= 100);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(frame) = Frame::decode(bytes.as_slice()) {
            let _ = decode(frame);
        }
    }

    #[test]
    fn damaged_messages_never_panic(index in 0usize..96, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let messages: Vec<_> = membership_messages().into_iter().map(PeerMessage::Membership)
            .chain(election_messages().into_iter().map(PeerMessage::Election)).collect();
        let mut bytes = bytes_of(&message_frame(&messages[index % messages.len()]).unwrap());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(frame) = Frame::decode(bytes.as_slice()) {
            let _ = decode_from(frame, &name("newyork"));
        }
    }
}
