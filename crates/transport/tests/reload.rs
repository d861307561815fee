//! Certificates, authorities and revocations that change while links are up.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use flagship_membership::{Message, Signed, Statement};
use flagship_node::{LinkEnd, PeerMessage, RefusalReason};
use flagship_transport::RELOAD_INTERVAL;
use flagship_types::CloseCode;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use support::{Fleet, Node, election, record_of, sign_as};
use x509_parser::prelude::FromDer;

/// Two looks: one may fall into the middle of the test's writing.
const SEEN: Duration = Duration::from_millis(2 * 2000 + 500);

fn fingerprint(node: &Node) -> String {
    node.transport.certificates()[0].fingerprint.clone()
}

async fn exchange(a: &mut Node, b: &mut Node, link: flagship_node::LinkId) {
    a.attachment.links.send(link, election(1));
    assert_eq!(b.message().await, election(1));
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    assert_eq!(RELOAD_INTERVAL, Duration::from_secs(2));
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let (link, _) = a.link_to(&mut b).await;
    let before = fingerprint(&a);
    fleet.certify("newyork");
    let told = a.any_event().await;
    assert!(matches!(told, flagship_node::LinkEvent::Renewed), "{told:?}");
    assert_ne!(fingerprint(&a), before);
    exchange(&mut a, &mut b, link).await;
    let (link, _) = a.link_to(&mut b).await;
    exchange(&mut a, &mut b, link).await;
}

#[tokio::test]
async fn broken_files_leave_the_old_certificate_in_use() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let before = fingerprint(&a);
    let dir = fleet.dir.path().join("newyork");
    fs::copy(fleet.dir.path().join("sheffield/tls.key"), dir.join("tls.key")).unwrap();
    let warning = a.warning().await;
    assert!(warning.contains("tls.key is not the key") && warning.contains("stay in use"), "{warning}");
    fs::remove_file(dir.join("tls.crt")).unwrap();
    tokio::time::sleep(SEEN).await;
    assert_eq!(fingerprint(&a), before);
    a.link_to(&mut b).await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_taken_for_whole() {
    let (old, new) = (Fleet::new("federation"), Fleet::new("federation"));
    let a = old.start("newyork").await;
    let file = old.dir.path().join("newyork/ca.crt");
    let both = format!("{}{}", old.authority.certificate(), new.authority.certificate());
    // Cut off after the first authority again and again: at every look it seems to have changed, and never rests.
    let writing = tokio::spawn({
        let (file, first, both) = (file.clone(), old.authority.certificate().to_owned(), both.clone());
        async move {
            for round in 0_u32.. {
                // A comment that differs, so that two looks never see the same.
                fs::write(&file, format!("{first}# {round}\n")).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                fs::write(&file, format!("{both}# {round}\n")).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    tokio::time::sleep(SEEN).await;
    assert_eq!(a.transport.certificates()[0].authorities, 1, "nothing of it was taken");
    writing.abort();
    let _ = writing.await;
    fs::write(&file, &both).unwrap();
    tokio::time::sleep(SEEN).await;
    assert_eq!(a.transport.certificates()[0].authorities, 2);
}

#[tokio::test]
async fn an_authority_is_replaced_while_links_stay_and_its_removal_closes_them() {
    let (old, new) = (Fleet::new("federation"), Fleet::new("federation"));
    let (mut a, mut b) = (old.start("newyork").await, old.start("sheffield").await);
    let (link, _) = a.link_to(&mut b).await;
    let dirs = ["newyork", "sheffield"].map(|member| old.dir.path().join(member));
    // Both authorities everywhere, then new certificates one after the other.
    let both = format!("{}{}", old.authority.certificate(), new.authority.certificate());
    for dir in &dirs {
        fs::write(dir.join("ca.crt"), &both).unwrap();
    }
    tokio::time::sleep(SEEN).await;
    assert_eq!(a.transport.certificates()[0].authorities, 2);
    exchange(&mut a, &mut b, link).await;
    renew(&new, &dirs[0], "newyork", &both);
    tokio::time::sleep(SEEN).await;
    let (second, second_b) = a.link_to(&mut b).await;
    exchange(&mut a, &mut b, second).await;
    exchange(&mut a, &mut b, link).await;
    // The old authority goes at newyork: sheffield still has its certificate, so both links end at once.
    fs::write(dirs[0].join("ca.crt"), new.authority.certificate()).unwrap();
    let refusal = a.refused().await;
    assert_eq!(refusal.reason, RefusalReason::Code(CloseCode::CertificateRevoked));
    assert!(refusal.sentence.contains("sheffield is no longer trusted"), "{refusal:?}");
    for _ in 0..2 {
        assert_eq!(a.down().await.1, LinkEnd::Closed(CloseCode::CertificateRevoked));
        let (ended, end) = b.down().await;
        assert!(end == LinkEnd::Closed(CloseCode::CertificateRevoked) && ended <= second_b);
    }
    // And with a new certificate sheffield is back.
    renew(&new, &dirs[1], "sheffield", new.authority.certificate());
    tokio::time::sleep(SEEN).await;
    b.link_to(&mut a).await;
}

fn renew(fleet: &Fleet, dir: &Path, member: &str, authorities: &str) {
    fleet.certify_into(dir, member, Duration::ZERO);
    fs::write(dir.join("ca.crt"), authorities).unwrap();
}

#[tokio::test]
async fn a_revoked_member_is_closed_and_stays_out() {
    let fleet = Fleet::new("federation");
    let (mut a, mut b) = (fleet.start("newyork").await, fleet.start("sheffield").await);
    let mut c = fleet.start("paris").await;
    a.link_to(&mut b).await;
    let (to_c, _) = a.link_to(&mut c).await;
    fs::write(fleet.dir.path().join("newyork/crl.pem"), revoke(&fleet, "sheffield")).unwrap();
    assert_eq!(a.refused().await.reason, RefusalReason::Code(CloseCode::CertificateRevoked));
    assert_eq!(a.down().await.1, LinkEnd::Closed(CloseCode::CertificateRevoked));
    assert_eq!(b.down().await.1, LinkEnd::Closed(CloseCode::CertificateRevoked));
    b.attachment.links.connect(&a.address());
    assert!(b.refused().await.sentence.contains("revoked"));
    exchange(&mut a, &mut c, to_c).await;
}

#[tokio::test]
async fn statements_of_a_removed_authority_or_a_revoked_member_are_believed_no_more() {
    let (old, new) = (Fleet::new("federation"), Fleet::new("federation"));
    let (mut a, mut b) = (new.start("newyork").await, new.start("sheffield").await);
    let ca = new.dir.path().join("newyork/ca.crt");
    fs::write(&ca, format!("{}{}", old.authority.certificate(), new.authority.certificate())).unwrap();
    tokio::time::sleep(SEEN).await;
    let (_, to_a) = a.link_to(&mut b).await;
    let signed = |fleet: &Fleet, member: &str| {
        let (dir, content) = (fleet.certify(member), record_of(member));
        let statement = Statement::Record(content.clone());
        let proof = sign_as(&dir, &fleet.callsign, &statement, std::time::SystemTime::now());
        PeerMessage::Membership(Message::Record(Signed::new(content, proof)))
    };
    let (of_paris, of_rome, of_london) =
        (signed(&old, "paris"), signed(&new, "rome"), signed(&new, "london"));
    for message in [&of_paris, &of_rome, &of_london] {
        b.attachment.links.send(to_a, message.clone());
        assert_eq!(a.message().await, *message);
    }
    fs::write(&ca, new.authority.certificate()).unwrap();
    fs::write(new.dir.path().join("newyork/crl.pem"), revoke(&new, "rome")).unwrap();
    tokio::time::sleep(SEEN).await;
    for message in [&of_paris, &of_rome, &of_london] {
        b.attachment.links.send(to_a, message.clone());
    }
    let warning = a.warning().await;
    assert!(warning.contains("sheffield sent this member the record of paris"), "{warning}");
    assert_eq!(a.message().await, of_london);
    assert_eq!(a.transport.stats().statements_refused, 2);
}

fn revoke(fleet: &Fleet, member: &str) -> String {
    let out = tempfile::tempdir().unwrap();
    let secret = flagship_pki::SecretSettings::default();
    flagship_pki::init(&fleet.authority, &[], flagship_pki::Validity::MEMBER, &secret, out.path(), false)
        .unwrap();
    let key = KeyPair::from_pem(&fs::read_to_string(out.path().join("ca.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(fleet.authority.certificate(), key).unwrap();
    let pem = fs::read(fleet.dir.path().join(member).join("tls.crt")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&pem.contents).unwrap();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(certificate.raw_serial()),
        revocation_time: rcgen::date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}
