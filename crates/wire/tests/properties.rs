//! For any message: it arrives as it was sent, in a frame that fits. For any bytes: no panic, and a refusal names a field
//! of the `.proto` files.
#![allow(clippy::unwrap_used, reason = "a fixture's unwrap fails the test as it should")]
#![allow(clippy::unit_arg, reason = "a broken field and its name stand in one line")]

use std::collections::BTreeSet;
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
    Close, DecodeError, Frame, Hello, Incoming, MAX_DIGEST_BITS, MAX_FRAME_BYTES, MAX_LEAF_BYTES,
    MAX_SENTENCE_BYTES, MAX_SIGNATURE_BYTES, MAX_STATEMENTS, PeerMessage, close_frame, decode, decode_from,
    hello_frame, message_frame, pb, statement_bytes,
};
use pb::frame::Kind;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn name() -> impl Strategy<Value = MemberName> {
    let text = prop_oneof![
        8 => "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?",
        1 => "[a-z0-9]{253}",
    ];
    text.prop_map(|text| MemberName::new(&text).unwrap())
}

fn address() -> impl Strategy<Value = PeerAddress> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        "[a-zA-Z]([a-z0-9_-]{0,30}[a-z0-9])?(\\.[a-z]{1,20}){0,4}\\.?",
    ];
    (host, 1..=u16::MAX).prop_map(|(host, port)| PeerAddress::parse(&format!("{host}:{port}"), 1).unwrap())
}

fn micros() -> impl Strategy<Value = Duration> {
    (0..=WEEK.as_micros()).prop_map(|us| Duration::from_micros(us.try_into().unwrap()))
}

fn millis() -> impl Strategy<Value = Duration> {
    (0..=WEEK.as_millis()).prop_map(|ms| Duration::from_millis(ms.try_into().unwrap()))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let role = prop::sample::select(vec![
        Role::Joining,
        Role::Standby,
        Role::Candidate,
        Role::Leader,
        Role::Stopping,
    ]);
    let flags = any::<[bool; 9]>();
    let numbers = (any::<i64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (option::of(address()), option::of(name()), role, flags, numbers).prop_map(
        |(
            address,
            leader,
            role,
            [candidate, api, payload_valid, payload_ready, gates, failed, interrupted, fences, quorum],
            (rank, term, config, promoted),
        )| {
            Metadata {
                address,
                rank: Rank(rank),
                candidate,
                health: Health { api, payload_valid, payload_ready, gates, failed },
                role,
                term: Term(term),
                leader,
                config: ConfigVersion(config),
                interrupted,
                fences,
                quorum,
                promoted: Term(promoted),
            }
        },
    )
}

fn proof(statement: &Statement, signed_at_ms: u64, signature: Vec<u8>, leaf: &[u8]) -> Proof {
    let bytes = statement_bytes(statement, signed_at_ms).1.into();
    Proof { bytes, signature: signature.into(), leaf: leaf.into() }
}

/// Signature and leaf; without the first there is no proof.
fn seal() -> impl Strategy<Value = Option<(u64, Vec<u8>, Vec<u8>)>> {
    let leaf = prop_oneof![vec(any::<u8>(), 0..700), vec(any::<u8>(), MAX_LEAF_BYTES)];
    option::of((any::<u64>(), vec(any::<u8>(), 1..=MAX_SIGNATURE_BYTES), leaf))
}

fn record() -> impl Strategy<Value = Signed<Record>> {
    let status = prop_oneof![
        Just(SelfState::Alive),
        micros().prop_map(|grace| SelfState::Away { grace }),
        Just(SelfState::Left)
    ];
    let numbers = (any::<u64>(), any::<u32>(), any::<u64>());
    (name(), numbers, status, metadata(), seal()).prop_map(
        |(member, (epoch, incarnation, version), status, metadata, seal)| {
            let (epoch, incarnation) = (Epoch(epoch), Incarnation(incarnation));
            let record = Record { member, epoch, incarnation, version, status, metadata };
            match seal {
                None => Signed::unsigned(record),
                Some((at, signature, leaf)) => {
                    let proof = proof(&Statement::Record(record.clone()), at, signature, &leaf);
                    Signed::new(record, proof)
                }
            }
        },
    )
}

fn evidence() -> impl Strategy<Value = Evidence> {
    prop::sample::select(vec![Evidence::Exit, Evidence::Silence])
}

/// Who accuses without a proof is the sender.
fn accusation(sender: MemberName) -> impl Strategy<Value = Signed<Accusation>> {
    (name(), name(), any::<u64>(), any::<u32>(), evidence(), seal()).prop_map(
        move |(accuser, subject, epoch, incarnation, evidence, seal)| {
            let accuser = if seal.is_some() { accuser } else { sender.clone() };
            let (epoch, incarnation) = (Epoch(epoch), Incarnation(incarnation));
            let accusation = Accusation { accuser, subject, epoch, incarnation, evidence };
            match seal {
                None => Signed::unsigned(accusation),
                Some((at, signature, leaf)) => {
                    let proof = proof(&Statement::Accusation(accusation.clone()), at, signature, &leaf);
                    Signed::new(accusation, proof)
                }
            }
        },
    )
}

fn echo() -> impl Strategy<Value = Echo> {
    (any::<u64>(), micros()).prop_map(|(seq, delay)| Echo { seq, delay })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![micros().prop_map(Verdict::Heard), evidence().prop_map(Verdict::Mute), Just(Verdict::Abstain)]
}

fn digest() -> impl Strategy<Value = Membership> {
    (0..=MAX_DIGEST_BITS, any::<bool>()).prop_flat_map(|(bits, answer)| {
        let most = 1_u16 << bits;
        let bucket = (0..most, any::<u32>());
        vec(bucket, 0..=usize::from(most)).prop_map(move |buckets| Membership::Digest {
            bits,
            answer,
            buckets,
        })
    })
}

fn membership(sender: MemberName) -> impl Strategy<Value = Membership> {
    let accusations = vec(accusation(sender.clone()), 0..=MAX_STATEMENTS / 2);
    prop_oneof![
        (any::<u64>(), option::of(echo()), option::of(echo()), any::<u32>())
            .prop_map(|(seq, echo, acked, view_hash)| Membership::Beat { seq, echo, acked, view_hash }),
        any::<u64>().prop_map(|seq| Membership::Ping { seq }),
        echo().prop_map(Membership::Echo),
        (any::<u64>(), name(), any::<u64>(), micros()).prop_map(|(id, subject, epoch, deadline)| {
            Membership::Query { id, subject, epoch: Epoch(epoch), deadline }
        }),
        (any::<u64>(), name(), verdict()).prop_map(|(id, subject, verdict)| Membership::Answer {
            id,
            subject,
            verdict
        }),
        accusation(sender).prop_map(Membership::Accuse),
        record().prop_map(Membership::Record),
        (vec(record(), 0..=MAX_STATEMENTS / 2), accusations)
            .prop_map(|(records, accusations)| Membership::Delta { records, accusations }),
        digest(),
        Just(Membership::Unobserve),
        (any::<u64>(), any::<u32>(), prop::sample::select(State::ALL.to_vec())).prop_map(
            |(epoch, incarnation, state)| Membership::Known {
                epoch: Epoch(epoch),
                incarnation: Incarnation(incarnation),
                state
            }
        ),
        vec((name(), address()), 0..=128).prop_map(Membership::Addresses),
    ]
}

fn config() -> impl Strategy<Value = FleetConfig> {
    let failback = prop::sample::select(vec![Failback::Automatic, Failback::Manual]);
    let mode = prop::sample::select(vec![Mode::Availability, Mode::Quorum]);
    let voters = |mode| {
        let fewest = usize::from(mode == Mode::Quorum);
        (Just(mode), prop::collection::btree_set(name(), fewest..=FleetConfig::MAX_VOTERS))
    };
    // Zero is what an earlier build says, and means the default.
    let lasting = || millis().prop_filter("lasts", |time| !time.is_zero());
    let pause = option::of((any::<u64>(), "[a-z ]{0,256}"));
    let settings = (failback, millis(), millis());
    (any::<u64>(), mode.prop_flat_map(voters), settings, lasting(), lasting(), pause).prop_map(
        |(version, (mode, voters), (failback, failback_delay, restart_grace), lease, stop_grace, pause)| {
            FleetConfig {
                version: ConfigVersion(version),
                mode,
                voters: voters.into_iter().collect(),
                lease,
                stop_grace,
                pause: pause.map(|(since_ms, reason)| Pause { since_ms, reason }),
                failback,
                failback_delay,
                restart_grace,
            }
        },
    )
}

fn vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), name()).prop_map(|(term, candidate)| Vote { term: Term(term), candidate })
}

fn claim() -> impl Strategy<Value = Claim> {
    (any::<u64>(), any::<i64>(), config(), option::of(any::<u64>())).prop_map(
        |(term, rank, config, released)| Claim {
            term: Term(term),
            rank: Rank(rank),
            config,
            released: released.map(Term),
        },
    )
}

fn resignation() -> impl Strategy<Value = ResignReason> {
    prop_oneof![
        Just(ResignReason::Superseded),
        Just(ResignReason::Handover),
        Just(ResignReason::Switchover),
        Just(ResignReason::Unhealthy),
        Just(ResignReason::NotCandidate),
        Just(ResignReason::Removal),
        Just(ResignReason::Operator),
        Just(ResignReason::Unfinished),
        Just(ResignReason::LeaseLost),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        millis().prop_map(|beat_age| Refusal::LeaderAlive { beat_age }),
        any::<u64>().prop_map(|term| Refusal::Granted { term: Term(term) }),
        Just(Refusal::RestartGrace),
        Just(Refusal::BetterCandidate),
        Just(Refusal::ReservedForSuccessor),
        Just(Refusal::Leading),
        Just(Refusal::NoRecord),
        Just(Refusal::TermJump),
        Just(Refusal::Leased),
        Just(Refusal::OldConfig),
        Just(Refusal::NoVoter),
    ]
}

/// What a sentence becomes when it is sent: short, and without control characters.
fn sentence() -> impl Strategy<Value = String> {
    prop_oneof!["[^\\p{Cc}]{0,40}", "[a-z ]{1024}"]
        .prop_filter("fits", |text| text.len() <= MAX_SENTENCE_BYTES)
}

fn election() -> impl Strategy<Value = Election> {
    let term = || any::<u64>().prop_map(Term);
    prop_oneof![
        claim().prop_map(Election::PreClaim),
        claim().prop_map(Election::Claim),
        (term(), any::<bool>(), millis(), any::<u64>()).prop_map(|(term, pre, owed, config)| {
            Election::Grant { term, pre, owed, config: ConfigVersion(config) }
        }),
        (term(), any::<u64>(), any::<u64>(), millis(), millis()).prop_map(
            |(term, seq, config, lease, stop_grace)| Election::Renew {
                term,
                seq,
                config: ConfigVersion(config),
                lease,
                stop_grace,
            },
        ),
        (term(), any::<u64>(), any::<u64>()).prop_map(|(term, seq, config)| Election::Renewed {
            term,
            seq,
            config: ConfigVersion(config),
        }),
        (term(), any::<bool>(), refusal(), term(), millis()).prop_map(
            |(term, pre, refusal, highest, retry_after)| Election::Refuse {
                term,
                pre,
                refusal,
                highest,
                retry_after
            }
        ),
        (term(), config()).prop_map(|(term, config)| Election::Announce { term, config }),
        term().prop_map(|term| Election::HandoverRequest { term }),
        (term(), sentence(), millis()).prop_map(|(term, reason, retry_after)| Election::HandoverRefused {
            term,
            reason,
            retry_after
        }),
        (term(), option::of(name()), resignation()).prop_map(|(term, successor, reason)| Election::Release {
            term,
            successor,
            reason
        }),
        term().prop_map(|term| Election::ConfirmRequest { term }),
        (term(), option::of(vote())).prop_map(|(term, highest)| Election::ConfirmReply { term, highest }),
        Just(Election::RecordRequest),
        (option::of(vote()), term(), config()).prop_map(|(vote, term, config)| Election::RecordReply {
            vote,
            term,
            config
        }),
        any::<u64>().prop_map(|version| Election::ConfigStored { version: ConfigVersion(version) }),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let callsign = "[a-zA-Z0-9é_.:-]{1,30}".prop_map(|text| Callsign::new(&text).unwrap());
    let numbers = (any::<[u32; 2]>(), any::<u64>(), any::<u32>(), 1..=u64::MAX);
    (callsign, name(), option::of(address()), numbers).prop_map(
        |(callsign, member, address, ([a, b], epoch, view_hash, instance))| Hello {
            protocol_min: a.min(b),
            protocol_max: a.max(b),
            callsign,
            member,
            epoch: Epoch(epoch),
            address,
            view_hash,
            instance,
        },
    )
}

fn close() -> impl Strategy<Value = Close> {
    (prop::sample::select(CloseCode::ALL.to_vec()), sentence())
        .prop_map(|(code, sentence)| Close { code, sentence })
}

fn sender() -> MemberName {
    MemberName::new("sender").unwrap()
}

fn incoming() -> impl Strategy<Value = Incoming> {
    prop_oneof![
        6 => membership(sender()).prop_map(|m| Incoming::Message(PeerMessage::Membership(m))),
        6 => election().prop_map(|m| Incoming::Message(PeerMessage::Election(m))),
        1 => hello().prop_map(Incoming::Hello),
        1 => close().prop_map(Incoming::Close),
    ]
}

/// The frame, and whether it was given out or is too large for that.
fn frame(incoming: &Incoming) -> (pb::Frame, bool) {
    let given = match incoming {
        Incoming::Hello(hello) => hello_frame(hello),
        Incoming::Close(close) => close_frame(close),
        Incoming::Message(message) => match message_frame(message) {
            Some(frame) => frame,
            None => {
                let kind = match message {
                    PeerMessage::Membership(message) => Kind::Membership(message.into()),
                    PeerMessage::Election(message) => Kind::Election(message.into()),
                };
                return (pb::Frame { kind: Some(kind) }, false);
            }
        },
    };
    let mut bytes = Vec::new();
    given.encode(&mut bytes);
    assert_eq!(bytes.len(), given.encoded_len());
    (pb::Frame::decode(bytes.as_slice()).unwrap(), true)
}

/// All names of fields in the `.proto` files.
fn fields() -> BTreeSet<String> {
    let files = ["fleet", "membership", "election"].map(|file| {
        let path = format!("{}/../../proto/flagship/v1/{file}.proto", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    });
    let lines =
        files.iter().flat_map(|file| file.lines()).map(str::trim).filter(|line| !line.starts_with("//"));
    let field = |line: &str| {
        let declared = line.strip_prefix("oneof ").and_then(|rest| rest.split(' ').next());
        let (before, _) = line.split_once(" = ").unwrap_or_default();
        declared.or(before.rsplit(' ').next()).filter(|name| !name.is_empty()).map(str::to_owned)
    };
    lines.filter_map(field).collect()
}

fn is_named(refused: &DecodeError) -> bool {
    let known = fields();
    // The whole of the metadata may be too long: it has no parent that is told.
    let of_a_field = refused.field.split('.').all(|part| known.contains(part) || is_message(part));
    of_a_field && !refused.problem.is_empty()
}

/// Messages are named like the fields that hold them, the frame itself and those of election's oneof aside.
fn is_message(part: &str) -> bool {
    ["frame", "membership", "election", "vote", "config", "metadata"].contains(&part)
}

/// After a field was broken: its name.
trait ThenNamed {
    fn then_named(self, field: &'static str) -> &'static str;
}

impl ThenNamed for () {
    fn then_named(self, field: &'static str) -> &'static str {
        field
    }
}

/// What of a sound frame can be broken, and the field that is named then.
fn break_one(frame: &mut pb::Frame, how: u8) -> Option<&'static str> {
    use pb::election_message::Kind as E;
    let bad = || "Not a name!".to_owned();
    let long = u64::MAX;
    Some(match frame.kind.as_mut()? {
        Kind::Hello(hello) => match how % 6 {
            0 => ((hello.protocol_min, hello.protocol_max) = (2, 1)).then_named("hello.protocol_min"),
            1 => (hello.instance = 0).then_named("hello.instance"),
            2 => (hello.callsign = "a b".into()).then_named("hello.callsign"),
            3 => (hello.member = bad()).then_named("hello.member"),
            4 => (hello.address = "not a host:1".into()).then_named("hello.address"),
            _ => (hello.address = "host".into()).then_named("hello.address"),
        },
        Kind::Close(close) => (close.code = 999).then_named("close.code"),
        Kind::Membership(message) => return break_membership(message.kind.as_mut()?, how),
        Kind::Election(message) => match message.kind.as_mut()? {
            E::Refuse(refuse) if how.is_multiple_of(2) => (refuse.refusal = 999).then_named("refuse.refusal"),
            E::Refuse(refuse) => (refuse.retry_after_ms = long).then_named("refuse.retry_after_ms"),
            E::Announce(announce) => match (how % 5, announce.config.as_mut()) {
                (0, Some(config)) => (config.mode = 999).then_named("config.mode"),
                (1, Some(config)) => (config.failback = 999).then_named("config.failback"),
                (2, Some(config)) => (config.failback_delay_ms = long).then_named("config.failback_delay_ms"),
                (3, Some(config)) => {
                    config.set_mode(pb::Mode::Quorum);
                    config.voters.clear();
                    "config.voters"
                }
                _ => (announce.config = None).then_named("announce.config"),
            },
            E::HandoverRefused(refused) => {
                (refused.retry_after_ms = long).then_named("handover_refused.retry_after_ms")
            }
            E::Release(release) => (release.successor = bad()).then_named("release.successor"),
            E::ConfirmReply(reply) => {
                (reply.highest.as_mut()?.candidate = bad()).then_named("vote.candidate")
            }
            E::RecordReply(reply) => (reply.config = None).then_named("record_reply.config"),
            _ => (message.kind = None).then_named("election.kind"),
        },
    })
}

fn break_membership(kind: &mut pb::membership_message::Kind, how: u8) -> Option<&'static str> {
    use pb::answer::Verdict as V;
    use pb::membership_message::Kind as M;
    let bad = || "Not a name!".to_owned();
    let long = u64::MAX;
    Some(match kind {
        M::Beat(beat) => (beat.echo.as_mut()?.delay_us = long).then_named("echo.delay_us"),
        M::Echo(echo) => (echo.delay_us = long).then_named("echo.delay_us"),
        M::Query(query) if how.is_multiple_of(2) => (query.subject = bad()).then_named("query.subject"),
        M::Query(query) => (query.deadline_us = long).then_named("query.deadline_us"),
        M::Answer(answer) => match how % 4 {
            0 => (answer.subject = bad()).then_named("answer.subject"),
            1 => (answer.verdict = None).then_named("answer.verdict"),
            2 => (answer.verdict = Some(V::HeardUs(long))).then_named("answer.heard_us"),
            _ => (answer.verdict = Some(V::Mute(9))).then_named("answer.mute"),
        },
        M::Accusation(accusation) => match how % 4 {
            0 => (accusation.signature = vec![0; MAX_SIGNATURE_BYTES + 1]).then_named("accusation.signature"),
            1 => (accusation.leaf = vec![0; MAX_LEAF_BYTES + 1]).then_named("accusation.leaf"),
            _ if !accusation.statement.is_empty() => {
                (accusation.statement = vec![0xff; 9]).then_named("accusation.statement")
            }
            2 => (accusation.evidence = 9).then_named("accusation.evidence"),
            _ => (accusation.subject = bad()).then_named("accusation.subject"),
        },
        M::Record(record) => match how % 3 {
            0 => (record.record = vec![0xff; 9]).then_named("record.record"),
            1 => (record.signature = vec![0; MAX_SIGNATURE_BYTES + 1]).then_named("record.signature"),
            _ => (record.leaf = vec![0; MAX_LEAF_BYTES + 1]).then_named("record.leaf"),
        },
        M::Known(known) => (known.state = 9).then_named("known.state"),
        M::Addresses(addresses) => match (how % 3, addresses.members.first_mut()) {
            (0, Some(first)) => (first.member = bad()).then_named("addresses.members.member"),
            (1, Some(first)) => (first.address = "host".into()).then_named("addresses.members.address"),
            _ => addresses.members.resize_with(129, Default::default).then_named("addresses.members"),
        },
        M::Delta(delta) => {
            delta.records.resize_with(MAX_STATEMENTS + 1, Default::default).then_named("delta.records")
        }
        M::Digest(digest) => match how % 3 {
            0 => (digest.bits = 13).then_named("digest.bits"),
            1 => digest.hashes.push(1).then_named("digest.hashes"),
            _ => (*digest.buckets.first_mut()? = 1 << 13).then_named("digest.buckets"),
        },
        M::Ping(_) | M::Unobserve(_) => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_sent_arrives(sent in incoming()) {
        let (frame, given) = frame(&sent);
        // Only what cannot be sent is held back.
        prop_assert_eq!(frame.encoded_len() <= MAX_FRAME_BYTES, given);
        let read = Frame::decode(frame.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(decode_from(read, &sender()).unwrap(), sent);
    }

    #[test]
    fn a_broken_field_is_named(sent in incoming(), how in any::<u8>()) {
        let (mut frame, _) = frame(&sent);
        if let Some(field) = break_one(&mut frame, how) {
            let refused = decode_from(frame.into(), &sender()).unwrap_err();
            prop_assert_eq!(refused.field, field, "{}", refused);
            prop_assert!(is_named(&refused), "{}", refused);
        }
    }

    #[test]
    fn damaged_frames_are_refused_by_name_or_mean_something(
        sent in incoming(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = frame(&sent).0.encode_to_vec();
        for (at, byte) in damage.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if cut.index(3) == 0 {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        check_bytes(&bytes)?;
    }

    #[test]
    fn any_bytes_are_refused_by_name_or_mean_something(bytes in vec(any::<u8>(), 0..2_000)) {
        check_bytes(&bytes)?;
    }
}

/// What is understood is written and read again without a change.
fn check_bytes(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(read) = pb::Frame::decode(bytes) else { return Ok(()) };
    if let Err(refused) = decode(read.clone().into()) {
        prop_assert!(is_named(&refused), "{}", refused);
    }
    match decode_from(read.into(), &sender()) {
        Err(refused) => prop_assert!(is_named(&refused), "{}", refused),
        Ok(understood) => {
            let (frame, given) = frame(&understood);
            prop_assert_eq!(frame.encoded_len() <= MAX_FRAME_BYTES, given);
            prop_assert_eq!(decode_from(frame.into(), &sender()).unwrap(), understood);
        }
    }
    Ok(())
}
