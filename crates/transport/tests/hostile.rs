//! Peers and certificates that break the rules: each is refused with a sentence, and hurts nobody else.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

mod support;

use std::time::{Duration, Instant};

use flagship_node::{ConnectFailure, LinkEnd, RefusalReason};
use flagship_transport::QUEUE_FULL_LIMIT;
use flagship_types::CloseCode;
use flagship_wire::{Incoming, hello_frame, pb};
use futures::{StreamExt, stream};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PKCS_RSA_SHA256, SanType};
use support::{DAY, Fleet, Node, RawPeer, election, election_of, hello, name, raw_tls, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SNI: &str = "anything.flagship";

/// A raw peer's Hello, then silence; gives the member's answer.
async fn answer_to(node: &Node, dir: &std::path::Path, hello: flagship_wire::Hello) -> Option<Incoming> {
    let frames = stream::iter([hello_frame(&hello)]).chain(stream::pending()).boxed();
    RawPeer::open(node, dir, SNI, frames).await.unwrap().next().await
}

fn code_of(answer: Option<Incoming>) -> (CloseCode, String) {
    match answer {
        Some(Incoming::Close(close)) => (close.code, close.sentence),
        other => panic!("no Close but {other:?}"),
    }
}

/// A good peer still links: the refusals hurt nobody.
async fn still_works(node: &mut Node, fleet: &Fleet) {
    let mut good = fleet.start("good").await;
    let (link, _) = good.link_to(node).await;
    good.attachment.links.send(link, election(1));
    assert_eq!(node.message().await, election(1));
}

#[tokio::test]
async fn another_authority_is_refused_on_both_sides() {
    // The same names, made by another run of `pki init`.
    let (fleet, other) = (Fleet::new("federation"), Fleet::new("federation"));
    let (mut a, mut b) = (fleet.start("newyork").await, other.start("sheffield").await);
    a.attachment.links.connect(&b.address());
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Tls);
    assert!(refusal.sentence.contains("an authority that is not in our ca.crt"), "{refusal:?}");
    assert_eq!(a.connect_failed().await.0, ConnectFailure::Unanswered);
    let refusal = b.refused().await;
    assert!(refusal.sentence.contains("does not know the authority"), "{refusal:?}");
    // And who believes everything is refused by the acceptor.
    let frames =
        || stream::iter([hello_frame(&hello("federation", "sheffield"))]).chain(stream::pending()).boxed();
    let dir = other.dir.path().join("sheffield");
    let answer = match RawPeer::open(&a, &dir, SNI, frames()).await {
        Ok(mut peer) => peer.next().await,
        Err(_) => None,
    };
    assert_eq!(answer, None);
    let refusal = a.refused().await;
    assert!(!refusal.dialled && refusal.sentence.contains("not in our ca.crt"), "{refusal:?}");
    still_works(&mut a, &fleet).await;
}

#[tokio::test]
async fn the_dialler_reads_why_its_certificate_is_refused() {
    // The acceptor's authorities lack the dialler's; the dialler trusts both.
    let (fleet, other) = (Fleet::new("federation"), Fleet::new("federation"));
    let mut b = fleet.start("sheffield").await;
    let dir = other.certify("newyork");
    let both = format!("{}{}", other.authority.certificate(), fleet.authority.certificate());
    std::fs::write(dir.join("ca.crt"), both).unwrap();
    let mut a = Node::start(&dir, "federation", "newyork").await;
    for _ in 0..10 {
        a.attachment.links.connect(&b.address());
    }
    let refusal = a.refused().await;
    assert!(
        refusal.sentence.contains("does not know the authority that signed our certificate"),
        "{refusal:?}"
    );
    assert!(b.refused().await.sentence.contains("not in our ca.crt"));
    for _ in 0..10 {
        let (failure, reason) = a.connect_failed().await;
        assert_eq!(failure, ConnectFailure::Unanswered);
        assert!(reason.contains("does not know the authority"), "{reason}");
    }
    a.nothing_happens().await;
    assert_eq!(a.handshakes(true, "tls"), 10);
}

#[tokio::test]
async fn a_hello_must_match_the_certificate() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let dir = fleet.certify("sheffield");
    let (code, sentence) = code_of(answer_to(&a, &dir, hello("federation", "paris")).await);
    assert_eq!(code, CloseCode::IdentityMismatch);
    assert!(sentence.contains("says it is paris") && sentence.contains("member/sheffield"), "{sentence}");
    let refusal = a.refused().await;
    assert_eq!((refusal.reason, refusal.peer), (RefusalReason::Code(code), None));

    let (code, sentence) = code_of(answer_to(&a, &dir, hello("empire", "sheffield")).await);
    assert_eq!(code, CloseCode::WrongCallsign);
    assert!(sentence.contains("empire") && sentence.contains("federation"), "{sentence}");
    a.refused().await;

    let old = flagship_wire::Hello { protocol_min: 7, protocol_max: 9, ..hello("federation", "sheffield") };
    let (code, sentence) = code_of(answer_to(&a, &dir, old).await);
    assert_eq!(code, CloseCode::ProtocolTooOld);
    assert!(sentence.contains("7 to 9"), "{sentence}");
    a.refused().await;

    let answer = answer_to(&a, &dir, hello("federation", "sheffield")).await;
    assert!(matches!(answer, Some(Incoming::Hello(_))), "{answer:?}");
}

#[tokio::test]
async fn members_with_different_callsigns_tell_each_other() {
    // One authority for both fleets, so that TLS works and the Hello decides.
    let fleet = Fleet::new("federation");
    let empire = {
        let key = KeyPair::generate().unwrap();
        (leaf_params("spiffe://flagship/fleet/empire/member/sheffield"), key)
    };
    let dir = fleet.dir.path().join("empire");
    sign(&fleet, &dir, &empire.0, &empire.1);
    let mut a = fleet.start("newyork").await;
    let mut b = Node::start(&dir, "empire", "sheffield").await;
    a.attachment.links.connect(&b.address());
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Code(CloseCode::WrongCallsign));
    assert!(
        refusal.sentence.contains("newyork belongs to fleet federation, sheffield to fleet empire"),
        "{refusal:?}"
    );
    assert_eq!(a.connect_failed().await.0, ConnectFailure::Rejected(CloseCode::WrongCallsign));
    assert_eq!(b.refused().await.reason, RefusalReason::Code(CloseCode::WrongCallsign));
}

fn leaf_params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// Signs what the fleet's own `issue` would not make.
fn sign(fleet: &Fleet, dir: &std::path::Path, params: &CertificateParams, key: &KeyPair) {
    let out = tempfile::tempdir().unwrap();
    let secret = flagship_pki::SecretSettings::default();
    flagship_pki::init(&fleet.authority, &[], flagship_pki::Validity::MEMBER, &secret, out.path(), false)
        .unwrap();
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(out.path().join("ca.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(fleet.authority.certificate(), ca_key).unwrap();
    let certificate = params.signed_by(key, &issuer).unwrap().pem();
    write(dir, fleet.authority.certificate(), &certificate, &key.serialize_pem());
}

#[tokio::test]
async fn rsa_keys_missing_identities_and_half_usages_are_refused() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let uri = "spiffe://flagship/fleet/federation/member/sheffield";
    let rsa = fleet.dir.path().join("rsa");
    sign(&fleet, &rsa, &leaf_params(uri), &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let nameless = fleet.dir.path().join("nameless");
    sign(&fleet, &nameless, &leaf_params("spiffe://elsewhere/ns/x/sa/y"), &KeyPair::generate().unwrap());
    let half = fleet.dir.path().join("half");
    let mut params = leaf_params(uri);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(&fleet, &half, &params, &KeyPair::generate().unwrap());
    let table = [(rsa, "RSA key"), (nameless, "carries no URI spiffe://"), (half, "clientAuth")];
    for (dir, words) in &table {
        let own = support::transport(dir)
            .attach(support::endpoint("federation", "sheffield", 0))
            .await
            .err()
            .unwrap();
        assert!(own.to_string().contains(words), "{own}");
    }
    // Each in a fresh acceptor: the second refusal within a minute is not told again.
    for (dir, words) in &table {
        let frames =
            stream::iter([hello_frame(&hello("federation", "sheffield"))]).chain(stream::pending()).boxed();
        let answer = match RawPeer::open(&a, dir, SNI, frames).await {
            Ok(mut peer) => peer.next().await,
            Err(_) => None,
        };
        assert_eq!(answer, None);
        let refusal = a.refused().await;
        assert!(refusal.sentence.contains(words), "{refusal:?}");
        a = fleet.start("newyork").await;
    }
}

#[tokio::test]
async fn another_trust_domain_is_refused() {
    let fleet = Fleet::new("federation");
    let a = fleet.start("newyork").await;
    let dir = fleet.dir.path().join("foreign");
    let uri = "spiffe://elsewhere/fleet/federation/member/sheffield";
    sign(&fleet, &dir, &leaf_params(uri), &KeyPair::generate().unwrap());
    let (code, sentence) = code_of(answer_to(&a, &dir, hello("federation", "sheffield")).await);
    assert_eq!(code, CloseCode::IdentityMismatch);
    assert!(sentence.contains("trust domain elsewhere"), "{sentence}");
}

/// What renews the certificate of the member late.
const LATE: &str = "flagship pki add-member --fleet federation --member late --out DIR --force;";

#[tokio::test]
async fn an_expired_certificate_is_let_in_for_the_grace_and_then_refused() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let mut late = Node::start(&fleet.certify_aged("late", 366 * DAY), "federation", "late").await;
    let said = late.warning().await;
    assert!(said.contains("has expired") && said.contains(LATE), "{said}");
    late.attachment.links.connect(&a.address());
    late.up().await;
    let said = a.warning().await;
    assert!(said.contains("the certificate of late has expired") && said.contains(LATE), "{said}");
    assert_eq!(a.up().await.1.member, name("late"));

    let mut gone = Node::start(&fleet.certify_aged("gone", 369 * DAY), "federation", "gone").await;
    gone.warning().await;
    gone.attachment.links.connect(&a.address());
    let said = gone.refused().await.sentence;
    assert!(said.contains("refuses our certificate as expired"), "{said}");
    let command = "flagship pki add-member --fleet federation --member gone --out DIR --force;";
    assert!(said.contains(command), "{said}");
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Expired);
    assert!(refusal.sentence.contains("the grace is over"), "{refusal:?}");
    let future = fleet.certify("future");
    let key = KeyPair::generate().unwrap();
    let mut params = leaf_params("spiffe://flagship/fleet/federation/member/future");
    params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    sign(&fleet, &future, &params, &key);
    let own =
        support::transport(&future).attach(support::endpoint("federation", "future", 0)).await.err().unwrap();
    assert!(own.to_string().contains("not valid yet"), "{own}");
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_refused() {
    let fleet = Fleet::new("federation");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: newyork\r\n\r\n"[..], &[0xa5; 4096]] {
        let mut a = fleet.start("newyork").await;
        let mut tcp = TcpStream::connect(a.attachment.local).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let refusal = a.refused().await;
        assert_eq!(refusal.reason, RefusalReason::Anonymous);
        assert!(refusal.sentence.contains("does not speak TLS"), "{refusal:?}");
        still_works(&mut a, &fleet).await;
    }
    // And a dialler that meets something else says so.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
        let _ = tcp.read(&mut [0; 1024]).await;
    });
    let mut a = fleet.start("newyork").await;
    a.attachment.links.connect(&flagship_types::PeerAddress::parse(&address, 1).unwrap());
    assert!(a.refused().await.sentence.contains("does not speak TLS"));
    assert_eq!(a.connect_failed().await.0, ConnectFailure::Unanswered);
}

#[tokio::test]
async fn a_probe_that_connects_and_goes_is_nothing_to_tell() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    drop(TcpStream::connect(a.attachment.local).await.unwrap());
    a.nothing_happens().await;
}

/// What `flagship check` does with the certificate of a member.
#[tokio::test]
async fn a_member_that_goes_after_the_handshake_is_counted_and_nothing_to_tell() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let mut tls = raw_tls(&a, &fleet.certify("sheffield"), SNI).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(200), tls.read(&mut [0; 64])).await;
    drop(tls);
    a.nothing_happens().await;
    assert_eq!(a.handshakes(false, "tls"), 1);
}

#[tokio::test]
async fn who_shows_no_certificate_is_told_apart_from_who_shows_a_wrong_one() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    drop(begin_tls(&a, SNI).await);
    assert_eq!(a.refused().await.reason, RefusalReason::Anonymous, "it asked, and went without an answer");
    drop(raw_tls(&a, &Fleet::new("federation").certify("sheffield"), SNI).await);
    assert_eq!(a.refused().await.reason, RefusalReason::Tls);
}

#[tokio::test]
async fn a_silent_peer_is_dropped_after_five_seconds() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let begin = Instant::now();
    let mut silent = TcpStream::connect(a.attachment.local).await.unwrap();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0, "closed");
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(4900) && took < Duration::from_secs(6), "{took:?}");
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Anonymous);
    assert!(refusal.sentence.contains("said nothing for 5 s"), "{refusal:?}");
    still_works(&mut a, &fleet).await;
}

/// The server name that members of the fleet ask for.
fn sni_of(fleet: &Fleet) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(fleet.callsign.as_str().as_bytes());
    let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("f-{hex}.flagship")
}

/// Sends a ClientHello that asks for this name, and gives the connection on which nothing more is said.
async fn begin_tls(node: &Node, sni: &str) -> TcpStream {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = sni.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut first = Vec::new();
    client.write_tls(&mut first).unwrap();
    let mut tcp = TcpStream::connect(node.attachment.local).await.unwrap();
    tcp.write_all(&first).await.unwrap();
    tcp
}

/// As over a path that drops packets of a certificate's size.
#[tokio::test]
async fn a_member_that_cannot_finish_tls_is_told_of() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let _held = begin_tls(&a, &sni_of(&fleet)).await;
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Handshake);
    assert!(
        refusal.sentence.contains("did not finish it in 5 s") && refusal.sentence.contains("MTU"),
        "{refusal:?}"
    );
    // Or the other end gives up first.
    drop(begin_tls(&a, &sni_of(&fleet)).await);
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Tls);
    assert!(refusal.sentence.contains("MTU") && !refusal.sentence.contains("said nothing"), "{refusal:?}");
    still_works(&mut a, &fleet).await;
}

#[tokio::test]
async fn a_peer_that_says_no_hello_is_dropped_after_five_seconds() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let dir = fleet.certify("sheffield");
    let begin = Instant::now();
    let mut tls = raw_tls(&a, &dir, SNI).await.unwrap();
    let mut mute = RawPeer::open(&a, &dir, SNI, stream::pending().boxed()).await.unwrap();
    assert_eq!(mute.next().await, None);
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(4900) && took < Duration::from_secs(6), "{took:?}");
    let mut rest = Vec::new();
    let _ = tls.read_to_end(&mut rest).await;
    assert_eq!(a.refused().await.reason, RefusalReason::Handshake);
    still_works(&mut a, &fleet).await;
}

#[tokio::test]
async fn a_dialler_waits_five_seconds_for_a_mute_acceptor() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let begin = Instant::now();
    a.attachment.links.connect(&flagship_types::PeerAddress::parse(&address, 1).unwrap());
    assert!(a.refused().await.sentence.contains("said no Hello in 5 s"));
    assert_eq!(a.connect_failed().await.0, ConnectFailure::Unanswered);
    assert!(begin.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn broken_frames_close_the_link_with_a_sentence() {
    let fleet = Fleet::new("federation");
    let dir = fleet.certify("sheffield");
    let close = pb::Close { code: 1, sentence: "x".repeat(70_000) };
    let oversized = pb::Frame { kind: Some(pb::frame::Kind::Close(close)) }.into();
    let empty = pb::Frame { kind: None }.into();
    let again = hello_frame(&hello("federation", "sheffield"));
    let table = [(oversized, "more than 65536 bytes"), (empty, "frame.kind"), (again, "Hello twice")];
    for (frame, words) in table {
        let mut a = fleet.start("newyork").await;
        let frames =
            stream::iter([hello_frame(&hello("federation", "sheffield")), frame]).chain(stream::pending());
        let mut peer = RawPeer::open(&a, &dir, SNI, frames.boxed()).await.unwrap();
        let answer = peer.next().await;
        assert!(matches!(answer, Some(Incoming::Hello(_))), "{answer:?} to what must end with {words}");
        let (code, sentence) = code_of(peer.next().await);
        assert_eq!(code, CloseCode::ProtocolError);
        assert!(sentence.contains(words), "{sentence}");
        let (link, ..) = a.up().await;
        assert!(a.refused().await.sentence.contains(words));
        assert_eq!(a.down().await, (link, LinkEnd::Closed(CloseCode::ProtocolError)));
        still_works(&mut a, &fleet).await;
    }
}

#[tokio::test]
async fn a_first_frame_that_is_no_hello_is_refused() {
    let fleet = Fleet::new("federation");
    let a = fleet.start("newyork").await;
    let dir = fleet.certify("sheffield");
    let frame = flagship_wire::message_frame(&election(1)).unwrap();
    let frames = stream::iter([frame]).chain(stream::pending()).boxed();
    let (code, sentence) = code_of(RawPeer::open(&a, &dir, SNI, frames).await.unwrap().next().await);
    assert_eq!(code, CloseCode::ProtocolError);
    assert!(sentence.contains("no Hello"), "{sentence}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_loses_its_link() {
    let fleet = Fleet::new("federation");
    let mut a = fleet.start("newyork").await;
    let dir = fleet.certify("sheffield");
    let frames =
        stream::iter([hello_frame(&hello("federation", "sheffield"))]).chain(stream::pending()).boxed();
    let deaf = RawPeer::open(&a, &dir, SNI, frames).await.unwrap();
    let (link, ..) = a.up().await;
    let refused = pb::HandoverRefused { term: 1, reason: "x".repeat(1000), retry_after_ms: 1 };
    let message = election_of(pb::election_message::Kind::HandoverRefused(refused));
    let begin = Instant::now();
    let end = loop {
        for _ in 0..200 {
            a.attachment.links.send(link, message.clone());
        }
        match tokio::time::timeout(Duration::from_millis(50), a.attachment.events.recv()).await {
            Ok(Some(flagship_node::LinkEvent::Down { end, .. })) => break end,
            Ok(Some(flagship_node::LinkEvent::Refused(r))) => {
                assert!(r.sentence.contains("stayed full"), "{r:?}");
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => assert!(begin.elapsed() < Duration::from_secs(8), "still up"),
        }
    };
    assert_eq!(end, LinkEnd::Closed(CloseCode::Stale));
    assert!(begin.elapsed() >= QUEUE_FULL_LIMIT, "{:?}", begin.elapsed());
    assert!(a.transport.stats().queue_full > 0);
    drop(deaf);
}

#[tokio::test]
async fn a_node_that_does_not_listen_pushes_back_on_its_peers() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let (link, _) = a.link_to(&mut b).await;
    let refused = pb::HandoverRefused { term: 1, reason: "x".repeat(1000), retry_after_ms: 1 };
    let message = election_of(pb::election_message::Kind::HandoverRefused(refused));
    for _ in 0..40 {
        for _ in 0..200 {
            a.attachment.links.send(link, message.clone());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(a.transport.stats().queue_full > 0, "the sender's queue has filled");
    let received: u64 = b.transport.stats().frames.iter().filter(|f| !f.sent).map(|f| f.frames).sum();
    assert!(received < 2000, "{received} were read although the node took none");
}
