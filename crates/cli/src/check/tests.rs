//! What the checks say of fleets that have something wrong with them, and that every failure comes with a hint.

use flagship_k8s_api::{ElectionSpec, MemberStatus, MultiCluster, MultiClusterSpec, MultiClusterStatus};
use flagship_payload::{SourceText, parse};

use super::objects::{self, Located};
use super::report::{Finding, Level, Report, Topic};
use super::{certificates, links};
use crate::exit::Exit;
use crate::liveness::Renewal;
use crate::style::Style;

const PAYLOAD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";

fn member(name: &str, rank: i64) -> Located {
    let others: Vec<String> = if name == "newyork" { Vec::new() } else { vec!["172.18.100.105".into()] };
    let spec = MultiClusterSpec {
        callsign: Some("federation".into()),
        rank,
        port: 9990,
        ready: name == "newyork",
        service_address: Some(format!("172.18.100.{}", 100 + rank)),
        fleet: others,
        payload: Some(PAYLOAD.into()),
        ..MultiClusterSpec::default()
    };
    let mut object = MultiCluster::new(name, spec);
    let leading = name == "sheffield";
    let seen = ["newyork", "sheffield"].into_iter().filter(|other| *other != name);
    let members = seen.map(|other| MemberStatus {
        name: other.into(),
        state: "Alive".into(),
        ..MemberStatus::default()
    });
    let members = members.collect();
    object.status = Some(MultiClusterStatus { leading, members, ..MultiClusterStatus::default() });
    let payload = parse(&[SourceText { origin: "spec.payload".into(), text: PAYLOAD.into() }])
        .map_err(|e| e.to_string());
    Located {
        context: name.into(),
        name: name.into(),
        namespace: "default".into(),
        object,
        payload,
        renewal: Renewal::Recent,
        lease_namespace: None,
        cluster: format!("kubectl --context {name}"),
    }
}

pub(super) fn fleet() -> Vec<Located> {
    vec![member("newyork", 5), member("sheffield", 10)]
}

pub(super) fn worst(findings: &[Finding]) -> Vec<(Level, &str)> {
    for finding in findings.iter().filter(|finding| finding.level != Level::Ok) {
        assert!(finding.hint.as_ref().is_some_and(|hint| !hint.is_empty()), "no hint: {finding:?}");
    }
    let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
    bad.map(|finding| (finding.level, finding.message.as_str())).collect()
}

fn after(change: impl FnOnce(&mut Vec<Located>)) -> Vec<Finding> {
    let mut fleet = fleet();
    change(&mut fleet);
    objects::check(&fleet)
}

#[test]
fn a_witness_needs_no_object_but_has_to_be_heard() {
    let with = |state: &str| {
        let mut fleet = fleet();
        for object in &mut fleet {
            let witness = MemberStatus {
                name: "witness".into(),
                state: state.into(),
                role: Some("Witness".into()),
                ..MemberStatus::default()
            };
            object.object.status.as_mut().unwrap().members.push(witness);
        }
        let mut findings = objects::check(&fleet);
        findings.extend(certificates::check(&[], &fleet, false));
        findings.extend(links::by_status(&fleet));
        findings
    };
    let alive = with("Alive");
    assert_eq!(worst(&alive), []);
    assert!(alive.iter().any(|finding| finding.message == "newyork hears the witness witness"));
    let (newyork, sheffield) =
        ("newyork holds the witness witness Down", "sheffield holds the witness witness Down");
    assert_eq!(worst(&with("Down")), [(Level::Fail, newyork), (Level::Fail, sheffield)]);
    assert_eq!(worst(&with("Left")), []);
}

#[test]
fn a_sound_fleet_is_sound() {
    let mut findings = objects::check(&fleet());
    findings.extend(links::by_status(&fleet()));
    assert_eq!(worst(&findings), []);
    let report = Report::new(findings);
    assert_eq!(report.exit(), Exit::Success);
    assert!(
        report.render(Style::PLAIN).ends_with("5 ok, 0 warnings, 0 failed: all is well\n"),
        "{}",
        report.render(Style::PLAIN)
    );
}

#[test]
fn what_objects_disagree_about_is_found() {
    type Change = fn(&mut Vec<Located>);
    let table: [(Change, Level, &str); 13] = [
        (|f| f.truncate(1), Level::Warn, "there is nothing to fail over to"),
        (|f| f[1].name = "newyork".into(), Level::Fail, "two members are called newyork"),
        (|f| f[1].object.spec.fleet.clear(), Level::Fail, "they never meet"),
        (
            |f| f[1].object.spec.fleet = vec!["10.0.0.1:1".into()],
            Level::Warn,
            "spec.fleet[0] 10.0.0.1:1 is no found member's",
        ),
        (
            |f| f.iter_mut().for_each(|m| m.object.spec.service_address = None),
            Level::Fail,
            "newyork and sheffield have no serviceAddress",
        ),
        (|f| f[0].object.spec.ready = false, Level::Warn, "no member has ready: true"),
        (
            |f| {
                f[0].object.spec.election =
                    ElectionSpec { restart_grace: Some("9s".into()), ..ElectionSpec::default() }
            },
            Level::Warn,
            "differ in spec.election",
        ),
        (
            |f| {
                f.iter_mut().for_each(|m| {
                    m.object.spec.election = ElectionSpec {
                        mode: Some(flagship_k8s_api::Mode::Quorum),
                        voters: vec!["newyork".into(), "sheffield".into()],
                        ..ElectionSpec::default()
                    }
                });
            },
            Level::Warn,
            "federation: newyork: spec.election.voters has 2 names",
        ),
        (
            |f| {
                let text = PAYLOAD.replace('x', "other");
                f[1].payload = parse(&[SourceText { origin: "p".into(), text }]).map_err(|e| e.to_string());
            },
            Level::Warn,
            "the payload of sheffield differs from that of newyork",
        ),
        (|f| f[1].payload = Err("line 3: what".into()), Level::Fail, "sheffield: payload: line 3: what"),
        (
            |f| f[0].object.status.as_mut().unwrap().leading = true,
            Level::Fail,
            "newyork and sheffield lead at the same time",
        ),
        (|f| f[1].object.status = None, Level::Fail, "sheffield: no daemon has written a status"),
        (|f| f[1].object.spec.service_address = Some("a b".into()), Level::Fail, "spec.serviceAddress"),
    ];
    for (change, level, said) in table {
        let findings = after(change);
        let bad = worst(&findings);
        assert!(bad.iter().any(|(l, message)| *l == level && message.contains(said)), "{said}: {bad:?}");
    }
}

#[test]
fn a_closed_gate_is_found_by_its_name() {
    let findings = after(|fleet| {
        let status = fleet[0].object.status.as_mut().unwrap();
        let report = flagship_k8s_api::conditions::Report {
            status: Some(false),
            reason: "GateClosed",
            message: "not fit to lead: spec.health.gates[0]: Service default/db does not exist",
            generation: Some(1),
            now: jiff::Timestamp::now(),
        };
        flagship_k8s_api::conditions::set(
            &mut status.conditions,
            flagship_k8s_api::ConditionType::Ready,
            report,
        );
    });
    let bad = worst(&findings);
    assert!(
        bad.iter().any(|(level, said)| *level == Level::Warn && said.contains("Service default/db")),
        "{bad:?}"
    );
}

#[test]
fn each_direction_of_a_link_is_judged_for_itself() {
    let mut fleet = fleet();
    fleet[0].object.status.as_mut().unwrap().members[0].state = "Down".into();
    fleet[1].object.status.as_mut().unwrap().members.clear();
    let findings = links::by_status(&fleet);
    assert_eq!(
        worst(&findings),
        [(Level::Fail, "newyork holds sheffield Down"), (Level::Fail, "sheffield has never heard newyork")]
    );
    let hint = findings[0].hint.as_ref().unwrap();
    assert!(hint.contains("where the daemon of newyork runs: nc -vz -w 3 172.18.100.110 9990;"), "{hint}");
}

#[test]
fn who_has_no_room_in_the_list_of_a_large_fleet_is_not_called_unheard() {
    let mut fleet = fleet();
    let newyork = fleet[0].object.status.as_mut().unwrap();
    let edge =
        |number| MemberStatus { name: format!("edge-{number}"), state: "Alive".into(), ..Default::default() };
    newyork.members = (0..MultiClusterStatus::MAX_MEMBERS).map(edge).collect();
    newyork.member_counts = Some(flagship_k8s_api::MemberCounts::new(40, 0, 0, 0));
    let findings = links::by_status(&fleet);
    assert_eq!(worst(&findings), []);
    let said = "newyork counts 40 members, 40 of them alive; its list has room for 32, and 1 with objects are not in it";
    assert!(findings.iter().any(|finding| finding.message == said), "{findings:?}");

    let with = |fleet: &mut Vec<Located>, alive, down| {
        let counts = flagship_k8s_api::MemberCounts::new(alive, 0, 0, down);
        fleet[0].object.status.as_mut().unwrap().member_counts = Some(counts);
        worst(&links::by_status(fleet))
            .into_iter()
            .map(|(level, said)| (level, said.to_owned()))
            .collect::<Vec<_>>()
    };
    let found = with(&mut fleet, 39, 1);
    assert!(
        matches!(found.as_slice(), [(Level::Warn, said)] if said.ends_with("not alive for it")),
        "{found:?}"
    );
    for number in 0..39 {
        let (of, silent) = (&fleet[1], Renewal::Stopped(None));
        let edge = Located {
            context: of.context.clone(),
            name: format!("edge-{number}"),
            namespace: of.namespace.clone(),
            object: of.object.clone(),
            payload: Err("not looked for".into()),
            renewal: silent,
            lease_namespace: None,
            cluster: of.cluster.clone(),
        };
        fleet.push(edge);
    }
    let found = with(&mut fleet, 40, 0);
    let unheard = found
        .iter()
        .filter(|(level, said)| *level == Level::Fail && said.ends_with("never heard some of these"));
    assert_eq!(unheard.count(), 1, "41 objects: {found:?}");

    // All that it counts is listed: sheffield is not among them.
    fleet.truncate(2);
    let newyork = fleet[0].object.status.as_mut().unwrap();
    newyork.member_counts = Some(flagship_k8s_api::MemberCounts::new(32, 0, 0, 0));
    assert_eq!(worst(&links::by_status(&fleet)), [(Level::Fail, "newyork has never heard sheffield")]);
}

#[test]
fn a_dead_daemon_is_no_second_leader_and_no_broken_network() {
    let mut fleet = fleet();
    let newyork = fleet[0].object.status.as_mut().unwrap();
    (newyork.leading, newyork.term) = (true, Some(8));
    newyork.members[0].state = "Down".into();
    fleet[1].object.status.as_mut().unwrap().term = Some(7);
    let found = |fleet: &[Located]| {
        let mut findings = objects::check(fleet);
        findings.extend(links::by_status(fleet));
        let texts = findings.iter().filter(|finding| finding.level != Level::Ok);
        let texts: Vec<String> = texts
            .map(|finding| format!("{} -> {}", finding.message, finding.hint.as_deref().unwrap()))
            .collect();
        texts.join("\n")
    };
    let cut = found(&fleet);
    assert!(cut.contains("newyork and sheffield lead at the same time"), "{cut}");
    fleet[1].renewal = Renewal::Old(Some(jiff::Timestamp::now() - std::time::Duration::from_secs(60)));
    let killed = found(&fleet);
    assert!(!killed.contains("at the same time") && !killed.contains("nc -vz"), "{killed}");
    for said in [
        "the daemon of sheffield is down, or cut off from its API server and from the others (last sign of life 1m",
        "It led and MAY STILL LEAD",
        "flagship run --kubeconfig FILE --tls-dir DIR",
        "newyork holds sheffield Down -> its status is no news: see the daemon of sheffield under objects",
        "see: kubectl --context sheffield -n kube-vip-multi-cluster-system get pods",
    ] {
        assert!(killed.contains(said), "{said}: {killed}");
    }
}

#[test]
fn nobody_needs_a_link_to_a_forgotten_member() {
    let mut fleet = fleet();
    let newyork = fleet[0].object.status.as_mut().unwrap();
    newyork.members.clear();
    newyork.forgotten = vec!["sheffield".into()];
    fleet[1].renewal = Renewal::Old(None);
    assert_eq!(links::by_status(&fleet), []);
    // What a silent member says was forgotten is no news.
    fleet[0].renewal = Renewal::Stopped(None);
    fleet[1].renewal = Renewal::Recent;
    assert_eq!(links::by_status(&fleet).len(), 1);
}

#[test]
fn a_forgotten_member_that_runs_is_told() {
    let mut fleet = fleet();
    for (one, other) in [(0, "sheffield"), (1, "newyork")] {
        let status = fleet[one].object.status.as_mut().unwrap();
        status.members.clear();
        status.forgotten = vec![other.into()];
    }
    let findings = links::by_status(&fleet);
    assert_eq!(
        worst(&findings),
        [
            (Level::Fail, "newyork was told to forget sheffield, whose daemon runs"),
            (Level::Fail, "sheffield was told to forget newyork, whose daemon runs"),
        ]
    );
    let hint = findings[0].hint.as_ref().unwrap();
    assert!(hint.contains("nc -vz -w 3 172.18.100.110 9990"), "{hint}");
    assert!(
        hint.ends_with("delete its object: kubectl --context sheffield -n default delete mc sheffield"),
        "{hint}"
    );
}

#[test]
fn a_member_that_is_taken_over_is_no_failure() {
    let findings = after(|fleet| fleet[1].renewal = Renewal::TakenOver);
    let bad = worst(&findings);
    assert!(
        bad.iter().any(|(level, said)| *level == Level::Warn && said.contains("another process takes over")),
        "{bad:?}"
    );
}

#[test]
fn equal_ranks_are_noted_and_no_fault() {
    let findings = after(|fleet| fleet[1].object.spec.rank = 5);
    assert!(
        findings
            .iter()
            .any(|f| f.level == Level::Ok && f.message.contains("in an election newyork is preferred"))
    );
}

fn issue(dir: &std::path::Path, callsign: &str, members: &[&str]) {
    use flagship_pki::{Authority, SecretSettings, Validity, init};
    let now = std::time::SystemTime::now();
    let callsign = flagship_types::Callsign::new(callsign).unwrap();
    let authority =
        Authority::create(flagship_types::TrustDomain::default(), callsign, Validity::AUTHORITY, now)
            .unwrap();
    let members: Vec<_> = members.iter().map(|name| flagship_types::MemberName::new(name).unwrap()).collect();
    init(&authority, &members, Validity::MEMBER, &SecretSettings::default(), dir, false).unwrap();
}

#[test]
fn certificates_that_flagship_made_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), "federation", &["newyork", "sheffield"]);
    let (materials, mut findings) = certificates::from_directory(dir.path());
    findings.extend(certificates::check(&materials, &fleet(), true));
    assert_eq!(worst(&findings), []);
    assert_eq!(findings.len(), 2);
    assert!(
        findings[0].message.contains("member newyork of fleet federation, 364 days left")
            || findings[0].message.contains("365 days left")
    );
}

#[test]
fn a_certificate_that_runs_out_is_renewed_as_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), "federation", &["newyork"]);
    let (mut materials, _) = certificates::from_directory(dir.path());
    let warn = |materials: &mut Vec<certificates::Material>| {
        materials[0].reports.iter_mut().find(|report| !report.is_authority).unwrap().warnings =
            vec!["expires in 2 days".into()];
        certificates::check(materials, &[], false).remove(0).hint.unwrap()
    };
    let hint = warn(&mut materials);
    let issue = "flagship pki add-member --fleet federation --member newyork --out DIR --force";
    assert!(hint.starts_with(&format!("{issue}; copy DIR/newyork/* to ")), "{hint}");
    materials[0].secret = Some(certificates::Place {
        context: "newyork".into(),
        kubectl: "kubectl --context newyork".into(),
        namespace: "system".into(),
    });
    let apply = "&& kubectl --context newyork apply -f DIR/newyork/secret.yaml";
    assert_eq!(warn(&mut materials), format!("{issue} --namespace system {apply}"));
}

#[test]
fn wrong_certificates_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    issue(&one, "federation", &["newyork"]);
    issue(&two, "federation", &["paris"]);
    std::fs::copy(one.join("newyork/tls.key"), two.join("paris/tls.key")).unwrap();
    let (materials, mut findings) = certificates::from_directory(dir.path());
    findings.extend(certificates::check(&materials, &fleet(), true));
    let bad = worst(&findings);
    let has = |said: &str| {
        assert!(bad.iter().any(|(level, m)| *level == Level::Fail && m.contains(said)), "{said}: {bad:?}");
    };
    has("no certificate found for member sheffield of fleet federation");
    has("have no authority in common");
    has("is not its key");
    let (_, findings) = certificates::from_directory(&dir.path().join("nothing"));
    assert!(findings[0].hint.as_ref().unwrap().contains("flagship pki init"));
    std::fs::write(one.join("newyork/tls.crt"), "garbage").unwrap();
    let (_, findings) = certificates::from_directory(&one);
    assert_eq!(findings[0].level, Level::Fail);
}

#[test]
fn the_report_ends_with_a_verdict_and_the_exit_code_follows() {
    let report = Report::new(vec![
        Finding::fail(Topic::Links, "a holds b Down", "nc a b"),
        Finding::ok(Topic::Objects, "fine"),
        Finding::warn(Topic::Clocks, "odd", "timedatectl"),
    ]);
    let text = "objects\n  ok    fine\nlinks\n  FAIL  a holds b Down\n        -> nc a b\nclocks\n  warn  odd\n        -> timedatectl\n\
                1 ok, 1 warning, 1 failed: a failover may go wrong\n";
    assert_eq!(report.render(Style::PLAIN), text);
    assert_eq!(report.exit(), Exit::Failure);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][1]["level"], "fail");
    assert_eq!(json["failures"], 1);
}

/// Listens like a member, with the certificate of `name`; takes one connection.
async fn listen_as(dir: &std::path::Path, name: &str) -> std::net::SocketAddr {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |file: &str| dir.join(name).join(file);
    let chain: Vec<_> = CertificateDer::pem_file_iter(file("tls.crt")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(file("tls.key")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.crt")).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        drop(stream);
    });
    address
}

async fn dial(address: std::net::SocketAddr, certificates: &std::path::Path) -> (Level, String) {
    let mut newyork = member("newyork", 5);
    newyork.object.spec.service_address = Some(address.to_string());
    let (materials, _) = certificates::from_directory(certificates);
    let mut findings = links::by_dialling(&[newyork], &materials).await;
    worst(&findings);
    let finding = findings.remove(0);
    (finding.level, finding.message)
}

#[tokio::test]
async fn a_member_is_dialled_and_proves_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (fleet, stranger) = (dir.path().join("fleet"), dir.path().join("stranger"));
    issue(&fleet, "federation", &["newyork", "sheffield"]);
    issue(&stranger, "federation", &["newyork", "sheffield"]);

    let (level, said) = dial(listen_as(&fleet, "newyork").await, &fleet).await;
    assert!(level == Level::Ok && said.contains("over mutual TLS"), "{said}");
    let (level, said) = dial(listen_as(&fleet, "sheffield").await, &fleet).await;
    assert!(level == Level::Fail && said.contains("it is not newyork but"), "{said}");
    let (level, said) = dial(listen_as(&stranger, "newyork").await, &fleet).await;
    assert!(level == Level::Fail && said.contains("TLS fails"), "{said}");
    let (level, said) = dial(listen_as(&fleet, "newyork").await, &dir.path().join("none")).await;
    assert!(level == Level::Warn && said.contains("TCP only"), "{said}");

    // A server that we trust and that does not trust us: the refusal comes after the handshake.
    std::fs::copy(stranger.join("ca.crt"), fleet.join("newyork/ca.crt")).unwrap();
    let (level, said) = dial(listen_as(&fleet, "newyork").await, &fleet.join("sheffield")).await;
    assert!(level == Level::Fail && said.contains("was refused"), "{said}");
}

#[tokio::test]
async fn what_is_no_member_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), "federation", &["newyork", "sheffield"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    });
    let (level, said) = dial(address, dir.path()).await;
    assert!(level == Level::Fail && said.contains("TLS fails"), "{said}");
    let (level, said) = dial("127.0.0.1:1".parse().unwrap(), dir.path()).await;
    assert!(level == Level::Warn && said.contains("is not reached from this machine"), "{said}");
}
