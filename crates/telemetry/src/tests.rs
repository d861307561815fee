//! A made-up member, its metrics as text, and the endpoints over real connections.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flagship_node::{
    Ascent, AscentReason, Directive, ElectionEvent, LinkRefusal, MemberSnapshot, NodeEvent, Phases,
    RefusalReason, Snapshot, State,
};
use flagship_types::{
    Callsign, CloseCode, Epoch, FleetConfig, Health, Instant, MemberName, PeerAddress, Rank, Role, Term,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::fleets::{Running, Source};
use crate::{Addresses, FrameFigures, LinkFigures, METRICS, Outcome, Phase, Telemetry, metrics_reference};

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn peer(member: &str, state: State, linked: bool, rtt_ms: Option<u64>) -> MemberSnapshot {
    MemberSnapshot {
        name: name(member),
        state,
        since: at(10),
        linked,
        address: Some(PeerAddress::parse("172.18.100.100", 9990).unwrap()),
        rtt: rtt_ms.map(Duration::from_millis),
        heard_at: rtt_ms.map(|_| at(98)),
        rank: Some(Rank(5)),
        role: Some(Role::Standby),
        term: Term(7),
        health: Health::default(),
        epoch: Epoch(1),
        candidate: true,
        fences: false,
        quorum: false,
        unfit: None,
    }
}

fn snapshot(role: Role) -> Snapshot {
    let mut members = vec![
        peer("newyork", State::Alive, true, Some(20)),
        peer("paris", State::Down, false, None),
        peer("sheffield", State::Alive, true, None),
    ];
    members[2].role = Some(role);
    let mut snapshot = Snapshot {
        callsign: Callsign::new("federation").unwrap(),
        member: name("sheffield"),
        epoch: Epoch(1),
        taken_at: at(100),
        role,
        term: Term(7),
        leader: Some(name("sheffield")),
        directive: Directive::Run { term: Term(7), resumed: false },
        config: FleetConfig::default(),
        stop_grace: FleetConfig::default().stop_grace,
        restart_grace: FleetConfig::default().restart_grace,
        silence_floor: Duration::from_secs(3),
        ascent: None,
        successor: None,
        may_run_at: Vec::new(),
        lapse: None,
        config_conflict: None,
        voters_refused: None,
        config_missing: Vec::new(),
        quorum: false,
        waiting_for: None,
        members,
        other_leaders: Vec::new(),
        name_in_use: false,
        interrupted: false,
        membership: Default::default(),
        election: Default::default(),
    };
    snapshot.membership.beats_sent = 300;
    snapshot.membership.beats_received = 299;
    snapshot.membership.suspicions = 1;
    snapshot
}

/// A node that does what the test says.
struct Fake {
    picture: watch::Sender<Arc<Snapshot>>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<NodeEvent>,
}

impl Fake {
    fn new(first: Snapshot) -> (Self, Source) {
        let (picture, seen) = watch::channel(Arc::new(first));
        let (changed, changes) = watch::channel(0);
        let (events, received) = broadcast::channel(8);
        let source = Source {
            snapshot: Box::new(move || Arc::clone(&seen.borrow())),
            changed: changes,
            events: received,
        };
        (Self { picture, changed, events }, source)
    }

    fn show(&self, snapshot: Snapshot) {
        self.picture.send_replace(Arc::new(snapshot));
        self.changed.send_modify(|count| *count += 1);
    }
}

fn running(telemetry: &Telemetry, role: Role) -> (Fake, Running) {
    let (fake, source) = Fake::new(snapshot(role));
    let guard = telemetry.fleets().add_source(source);
    (fake, guard)
}

/// Lets the follower of a member take what was sent.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn busy_member() -> (Telemetry, Fake, Running) {
    let telemetry = Telemetry::new();
    let (fake, guard) = running(&telemetry, Role::Standby);
    let elected = |failover| {
        NodeEvent::Election(ElectionEvent::Elected {
            term: Term(7),
            took: Duration::from_millis(1500),
            failover,
            handed_over_by: None,
            ascent: Ascent {
                term: Term(7),
                predecessor: None,
                reason: if failover { AscentReason::Crash } else { AscentReason::Founding },
                phases: Phases {
                    detected: Some(Duration::from_millis(300)),
                    predecessor_stopped: None,
                    elected: Duration::from_millis(1500),
                },
            },
        })
    };
    fake.events.send(elected(true)).unwrap();
    fake.events.send(elected(false)).unwrap();
    fake.events
        .send(NodeEvent::LinkRefused(LinkRefusal {
            remote: None,
            peer: None,
            dialled: false,
            reason: RefusalReason::Code(CloseCode::WrongCallsign),
            sentence: "never a label".into(),
        }))
        .unwrap();
    fake.events.send(NodeEvent::Paused(Duration::from_secs(2))).unwrap();
    let recorder = guard.recorder();
    recorder.applied(Duration::from_millis(300), Outcome::Success);
    recorder.deleted(Duration::from_secs(31), Outcome::Failure);
    recorder.lead_phase(Phase::PayloadCreated, Duration::from_millis(1900));
    recorder.payload_objects(10);
    recorder.event(&NodeEvent::LinkUp(MemberName::new("sheffield").unwrap()));
    recorder.certificate_expiry(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
    telemetry.recorder().api_request("patch", 200);
    telemetry.recorder().api_request("get", 0);
    telemetry.recorder().links_from(|| LinkFigures {
        frames: vec![FrameFigures { sent: true, kind: "beat", frames: 300, bytes: 18_600 }],
        refused: vec![("plaintext", 2)],
        statements_verified: 41,
        statements_refused: 1,
    });
    settle().await;
    (telemetry, fake, guard)
}

/// Without the two stopwatches, whose values depend on how long the test runs.
fn stable(text: &str) -> String {
    let clock = ["flagship_leader_seconds_total", "flagship_split_brain_seconds_total"];
    text.lines()
        .filter(|line| !clock.iter().any(|name| line.starts_with(name)))
        .fold(String::new(), |out, line| out + line + "\n")
}

#[tokio::test]
async fn metrics_of_a_made_up_member_read_as_the_golden_text() {
    let (telemetry, _fake, _guard) = busy_member().await;
    check_file("tests/golden/metrics.txt", &stable(&telemetry.metrics().unwrap()));
}

#[tokio::test]
async fn every_metric_of_the_table_appears_and_no_other() {
    let (telemetry, _fake, _guard) = busy_member().await;
    let text = telemetry.metrics().unwrap();
    let mut shown: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut expected: Vec<String> =
        METRICS.iter().map(|metric| metric.full_name().trim_end_matches("_total").to_string()).collect();
    shown.sort_unstable();
    expected.sort_unstable();
    assert_eq!(shown, expected);
}

#[test]
fn the_reference_page_is_the_generated_one() {
    check_file("../../docs/reference/metrics.md", &metrics_reference());
}

/// Compares with a file of the repository, or writes it when UPDATE_DOCS is set.
fn check_file(path: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{} differs; if that is meant: UPDATE_DOCS=1 cargo test -p flagship-telemetry\n{text}",
        path.display()
    );
}

#[tokio::test]
async fn series_end_with_the_member_and_a_successor_keeps_its_own() {
    let telemetry = Telemetry::new();
    let (_old, first) = running(&telemetry, Role::Standby);
    let (_new, second) = running(&telemetry, Role::Leader);
    drop(first);
    assert!(
        telemetry
            .metrics()
            .unwrap()
            .contains("flagship_role{callsign=\"federation\",member=\"sheffield\",role=\"Leader\"} 1")
    );
    drop(second);
    assert!(!telemetry.metrics().unwrap().contains("sheffield"));
}

#[tokio::test]
async fn time_as_leader_and_of_a_split_is_counted_while_it_lasts() {
    let telemetry = Telemetry::new();
    let (fake, _guard) = running(&telemetry, Role::Leader);
    let mut split = snapshot(Role::Leader);
    split.other_leaders = vec![name("newyork")];
    settle().await;
    fake.show(split);
    settle().await;
    fake.show(snapshot(Role::Standby));
    settle().await;
    let first = telemetry.metrics().unwrap();
    settle().await;
    let seconds = |text: &str, metric: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(metric)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let led = seconds(&first, "flagship_leader_seconds_total");
    let split = seconds(&first, "flagship_split_brain_seconds_total");
    assert!(led >= 0.1 && split >= 0.05 && led > split, "led {led}, split {split}");
    let later = telemetry.metrics().unwrap();
    assert_eq!(seconds(&later, "flagship_leader_seconds_total"), led);
}

#[tokio::test]
async fn events_that_did_not_fit_are_counted() {
    let telemetry = Telemetry::new();
    let (fake, _guard) = running(&telemetry, Role::Standby);
    for _ in 0..20 {
        let _ = fake.events.send(NodeEvent::NameInUse);
    }
    settle().await;
    assert!(
        telemetry
            .metrics()
            .unwrap()
            .contains("flagship_events_lost_total{callsign=\"federation\",member=\"sheffield\"} 12")
    );
}

struct Served {
    telemetry: Telemetry,
    metrics: std::net::SocketAddr,
    health: std::net::SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn serve() -> Served {
    let telemetry = Telemetry::new();
    let any = Some("127.0.0.1:0".parse().unwrap());
    let bound = telemetry.bind(Addresses { metrics: any, health: any }).await.unwrap();
    let (metrics, health) = (bound.metrics_address().unwrap(), bound.health_address().unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(bound.serve(stop.clone()));
    Served { telemetry, metrics, health, stop, task }
}

async fn get(address: std::net::SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[tokio::test]
async fn metrics_are_served_in_both_formats() {
    let served = serve().await;
    let (_fake, _guard) = running(&served.telemetry, Role::Leader);
    let (status, plain) = get(served.metrics, "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(plain.contains("content-type: text/plain; version=0.0.4"), "{plain}");
    assert!(plain.contains("# TYPE flagship_beats_total counter") && !plain.contains("# EOF"));
    let (_, open) =
        get(served.metrics, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(open.contains("# TYPE flagship_beats counter") && open.trim_end().ends_with("# EOF"));
    assert_eq!(get(served.metrics, "/healthz", "").await.0, 404);
    assert_eq!(get(served.health, "/metrics", "").await.0, 404);
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let served = serve().await;
    let (status, body) = get(served.health, "/readyz", "").await;
    assert!(status == 503 && body.contains("process: starting"), "{body}");
    served.telemetry.readiness().set("watch", Err("MultiClusters are not listed yet".into()));
    served.telemetry.readiness().set("links", Ok(()));
    let (status, body) = get(served.health, "/readyz", "").await;
    assert!(
        status == 503 && body.contains("watch: MultiClusters are not listed yet") && !body.contains("links")
    );
    served.telemetry.readiness().set("watch", Ok(()));
    assert_eq!(get(served.health, "/readyz", "").await.0, 200);
}

#[tokio::test]
async fn a_node_that_ended_unasked_is_not_healthy_and_does_not_lead() {
    let served = serve().await;
    let (fake, _guard) = running(&served.telemetry, Role::Leader);
    assert_eq!(get(served.health, "/healthz", "").await.0, 200);
    drop(fake);
    let (status, body) = get(served.health, "/healthz", "").await;
    assert!(status == 503 && body.contains("sheffield of fleet federation"), "{body}");
    assert_eq!(get(served.health, "/leader/federation", "").await.0, 503);
}

#[tokio::test]
async fn leadership_is_200_on_the_leader_only() {
    let served = serve().await;
    let (fake, _guard) = running(&served.telemetry, Role::Leader);
    let (status, body) = get(served.health, "/leader/federation", "").await;
    assert_eq!(status, 200);
    assert!(
        body.ends_with(
            r#"{"callsign":"federation","leader":"sheffield","member":"sheffield","role":"Leader","term":7}"#
        ),
        "{body}"
    );
    for role in [Role::Standby, Role::Stopping, Role::Joining, Role::Candidate, Role::Witness] {
        let mut other = snapshot(role);
        other.leader = Some(name("newyork"));
        fake.show(other);
        let (status, body) = get(served.health, "/leader/federation", "").await;
        assert!(status == 503 && body.contains(r#""leader":"newyork""#), "{body}");
    }
    let mut doubled = snapshot(Role::Leader);
    doubled.name_in_use = true;
    fake.show(doubled);
    assert_eq!(get(served.health, "/leader/federation", "").await.0, 503);
    assert_eq!(get(served.health, "/leader/unknown", "").await.0, 404);
    assert_eq!(get(served.health, "/leader/%ff", "").await.0, 400);
}

#[tokio::test]
async fn garbage_and_silence_hurt_nobody() {
    let served = serve().await;
    served.telemetry.readiness().set("watch", Ok(()));
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(served.health).await.unwrap());
    }
    let mut garbage = TcpStream::connect(served.health).await.unwrap();
    garbage.write_all(&[0x16, 3, 1, 0, 255, 7, 7, 7, b'\n', b'\n']).await.unwrap();
    let mut long = TcpStream::connect(served.health).await.unwrap();
    let _ = long.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(60_000)).as_bytes()).await;
    let (status, _) = get(served.health, "/readyz", "Content-Length: 99999999\r\n").await;
    assert_eq!(status, 200);
    served.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_address_serves_all_and_a_taken_one_is_named() {
    let telemetry = Telemetry::new();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let addresses = Addresses { metrics: Some(address), health: Some(address) };
    let error = telemetry.bind(addresses).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("--metrics-bind-address"), "{error}");
    drop(taken);
    let bound = telemetry.bind(addresses).await.unwrap();
    assert_eq!(bound.health_address(), Some(address));
    let stop = CancellationToken::new();
    let task = tokio::spawn(bound.serve(stop.clone()));
    assert_eq!(get(address, "/metrics", "").await.0, 200);
    assert_eq!(get(address, "/healthz", "").await.0, 200);
    stop.cancel();
    task.await.unwrap();
}
