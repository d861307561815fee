use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flagship_k8s_api::MultiClusterStatus;
use flagship_node::{LinkEvent, LinkId, PeerHello};
use flagship_types::{Epoch, Verified};
use kube::Resource;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fixtures::{
    NoLinks, NoStore, Services, api_server, context, put, refusal, service, service_api, spec, unsigned,
};
use crate::ports::{JoinError, Joiner, NoObserver, Probe, Waiting};

/// Refuses to join anew for as long as it is told to.
#[derive(Default)]
struct FakeJoiner {
    refuses: Mutex<Option<JoinError>>,
    probed: AtomicUsize,
}

#[async_trait::async_trait]
impl Joiner for FakeJoiner {
    async fn join(&self, _: MemberStart) -> Result<Joined, JoinError> {
        Err(JoinError::Listen("not in this test".into()))
    }

    async fn wait_at(&self, _: Probe) -> Result<Waiting, JoinError> {
        Err(JoinError::Listen("not in this test".into()))
    }

    async fn probe(&self, _: Probe) -> Result<(), JoinError> {
        self.probed.fetch_add(1, Ordering::Relaxed);
        self.refuses.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// The member newyork, whose node runs without links.
pub(crate) struct Bench {
    joiner: Arc<FakeJoiner>,
    pub(crate) tenure: Tenure,
    member: Member,
    pub(crate) object: watch::Sender<Arc<MultiCluster>>,
    links: mpsc::Sender<LinkEvent>,
    _lost: watch::Sender<Option<String>>,
    _progress: watch::Sender<Progress>,
    _happenings: mpsc::Sender<Happening>,
}

pub(crate) fn object(port: i32, generation: i64) -> Arc<MultiCluster> {
    let mut object = MultiCluster::new("newyork", spec());
    object.spec.port = port.into();
    object.metadata.namespace = Some("default".into());
    object.metadata.uid = Some("u-1".into());
    object.metadata.generation = Some(generation);
    object.metadata.finalizers = Some(vec![flagship_k8s_api::FINALIZER.into()]);
    Arc::new(object)
}

fn bench() -> Bench {
    bench_over(api_server(|_, _, _| (200, json!({}))))
}

/// In mode Quorum, and it led before it started.
fn quorum_bench() -> Bench {
    let config = flagship_types::FleetConfig {
        version: flagship_types::ConfigVersion(1797),
        mode: flagship_types::Mode::Quorum,
        voters: ["denver", "newyork", "sheffield"].map(|name| name.parse().unwrap()).to_vec(),
        ..Default::default()
    };
    let configuration = Some(flagship_k8s_api::ConfigurationStatus::from(&config));
    let vote = json!({"term": 7, "candidate": "newyork", "configVersion": 1797});
    let vote = Some(serde_json::from_value(vote).unwrap());
    let status =
        MultiClusterStatus { configuration, vote, term: Some(7), held_term: Some(7), ..Default::default() };
    bench_of(api_server(|_, _, _| (200, json!({}))), &status)
}

pub(crate) fn bench_over(client: kube::Client) -> Bench {
    bench_of(client, &MultiClusterStatus::default())
}

fn bench_of(client: kube::Client, status: &MultiClusterStatus) -> Bench {
    let joiner = Arc::new(FakeJoiner::default());
    let (object_out, seen) = watch::channel(object(9990, 1));
    let context = context(client, Arc::clone(&joiner) as Arc<dyn Joiner>);
    let identity = Identity::of(&seen.borrow()).unwrap();
    let about = seen.borrow().object_ref(&());
    let worker =
        Worker { context: Arc::new(context), identity, object: seen, gone: CancellationToken::new() };
    let caller = Caller::new(Arc::new(NoObserver));
    let events = Publisher::spawn(worker.context.recorder.clone(), caller.clone(), about);
    let (lost_out, lost) = watch::channel(None);
    let interruption = Interruption {
        gone: CancellationToken::new(),
        shutdown: CancellationToken::new(),
        lost,
        usurper: None,
    };
    let lease = LeaseWatch::of(&watch::Sender::new(None));
    let tenure = Tenure::new(&worker, caller, events, interruption, lease);

    let settings = object(9990, 1).spec.settings().unwrap();
    let epoch = Epoch(flagship_node::wall_ms());
    let record = crate::memory::restore(status, &settings.callsign).unwrap();
    let start = Start { epoch, status: status.clone() };
    let machine = machine_config(&settings, tenure.member(), &start, record, None);
    let (links, link_events) = mpsc::channel(8);
    let (node, events, ended) =
        flagship_node::spawn(machine, Arc::new(NoLinks), Arc::new(unsigned), link_events, Arc::new(NoStore));
    let (progress_out, progress) = watch::channel(Progress::default());
    let (happenings_out, happenings) = mpsc::channel(1);
    let (target, _) = watch::channel(Target { generation: 1, settings: settings.clone() });
    let member = Member {
        events,
        node,
        ended,
        settings,
        generation: Some(1),
        target,
        progress,
        happenings,
        payload: AbortOnDrop(tokio::spawn(std::future::pending())),
        gates: watch::channel(Gates::Open).1,
        _gate_watch: AbortOnDrop(tokio::spawn(std::future::pending())),
        fenced: watch::Sender::new(false),
        fence: watch::Sender::new(Fence::Off).subscribe(),
        _fencing: AbortOnDrop(tokio::spawn(std::future::pending())),
        _votes: AbortOnDrop(tokio::spawn(std::future::pending())),
    };
    Bench {
        joiner,
        tenure,
        member,
        object: object_out,
        links,
        _lost: lost_out,
        _progress: progress_out,
        _happenings: happenings_out,
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_cannot_be_had_does_not_end_the_node() {
    let Bench { joiner, mut tenure, mut member, object: edit, links: _links, .. } = bench();
    *joiner.refuses.lock().unwrap() = Some(JoinError::Listen("cannot listen on [::]:8080".into()));
    edit.send_replace(object(8080, 2));
    let attended = tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await;
    assert!(attended.is_err(), "it goes on: {attended:?}");
    assert!(!member.ended.is_finished() && member.settings.port == 9990);
    let stall = tenure.stall.clone().unwrap();
    assert_eq!(stall.reason, "CannotListen");
    assert!(stall.message.starts_with("cannot listen on [::]:8080") && stall.message.contains("goes on"));
    assert_eq!(joiner.probed.load(Ordering::Relaxed), 1, "not tried again all the time");

    let becomes_free = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        *joiner.refuses.lock().unwrap() = None;
    };
    let (outcome, ()) = tokio::join!(tenure.attend(&mut member), becomes_free);
    assert_eq!(outcome, Outcome::Rejoin, "tried again by itself");
    assert!((3..=7).contains(&joiner.probed.load(Ordering::Relaxed)));
}

#[tokio::test(start_paused = true)]
async fn another_fleet_is_joined_without_asking_whether_that_works() {
    let Bench { joiner, mut tenure, mut member, object: edit, links: _links, .. } = bench();
    *joiner.refuses.lock().unwrap() = Some(JoinError::NoCertificate("none".into()));
    let mut other = (*object(9990, 2)).clone();
    other.spec.callsign = Some("rebels".into());
    edit.send_replace(Arc::new(other));
    // Nothing is settled yet, so that it takes a while; but it leaves.
    let outcome = tokio::time::timeout(Duration::from_secs(300), tenure.attend(&mut member)).await;
    assert!(matches!(outcome, Ok(Outcome::Departed(Why::OtherFleet)) | Err(_)), "{outcome:?}");
    assert_eq!((joiner.probed.load(Ordering::Relaxed), &tenure.stall), (0, &None));
}

/// Mode Quorum: a replica that cannot reach its API server is heard on, and once it ends nobody renews the lease for what
/// runs here but who took over from it.
#[tokio::test]
async fn a_name_in_use_is_asked_for_again() {
    let beside = || Second::Beside { here: None };
    for (runs, relieves, second, seconds) in [
        (false, false, Second::Unknown, 60),
        (false, true, Second::Unknown, 10),
        (false, false, beside(), 10),
        (true, false, Second::Unknown, 2),
        (true, true, beside(), 2),
    ] {
        name_in_use_again(runs, relieves, second, seconds).await;
    }
}

async fn name_in_use_again(runs: bool, relieves: bool, second: Second, seconds: u64) {
    let Bench { joiner, mut tenure, mut member, object: _object, links, .. } = bench();
    tenure.relieves = relieves;
    tenure.second_seen.send_replace(second);
    let service =
        json!({"version": "v1", "kind": "Service", "namespace": "default", "name": "web", "state": "Ready"});
    let inventory = if runs { vec![serde_json::from_value(service).unwrap()] } else { Vec::new() };
    let (_told, progress) = watch::channel(Progress { inventory, ..Progress::default() });
    member.progress = progress;
    let epoch = Epoch(flagship_node::wall_ms() - 60_000);
    let hello =
        PeerHello { member: tenure.member().clone(), epoch, address: None, view_hash: 0, protocol: 2 };
    let up = LinkEvent::Up { link: LinkId(1), hello: Verified::first_hand(hello), dialled: None };
    links.send(up).await.unwrap();
    // The node's clock is the machine's.
    while !member.node.snapshot().name_in_use {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::pause();
    let begin = Instant::now();
    let outcome = tokio::time::timeout(Duration::from_secs(600), tenure.attend(&mut member)).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome, Outcome::Rejoin);
    let took = begin.elapsed().as_secs();
    assert!((seconds..seconds + 3).contains(&took), "{took} s, something runs: {runs}, relieves: {relieves}");
    assert_eq!(joiner.probed.load(Ordering::Relaxed), 1, "asked first whether it can join again");
    assert_eq!(tenure.follow(outcome, member).await, None, "and it goes on with a new node");
    tokio::time::resume();
}

#[tokio::test(start_paused = true)]
async fn a_payload_worker_that_fails_is_noticed() {
    let Bench { mut tenure, mut member, object: _object, links: _links, .. } = bench();
    member.payload = AbortOnDrop(tokio::spawn(async { panic!("as a bug would") }));
    let outcome = tokio::time::timeout(Duration::from_secs(5), tenure.attend(&mut member)).await;
    assert_eq!(outcome, Ok(Outcome::WorkerEnded));
    let told = tenure.chronicle.history().last().unwrap();
    assert_eq!(told.kind, "PayloadWorkerEnded");
    assert!(told.message.contains("as a bug would"), "{}", told.message);
    assert_eq!(tenure.follow(Outcome::WorkerEnded, member).await, None, "a new node and a new worker");
}

#[tokio::test(start_paused = true)]
async fn while_the_daemon_ends_nothing_is_started_again() {
    for outcome in [Outcome::Rejoin, Outcome::WorkerEnded, Outcome::Ended] {
        let Bench { mut tenure, member, object: _object, links: _links, .. } = bench();
        tenure.context.shutdown.cancel();
        assert_eq!(tenure.follow(outcome, member).await, Some(End::Shutdown), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_does_not_keep_a_daemon_that_ends_from_giving_up() {
    let Bench { mut tenure, mut member, object: edit, links: _links, .. } = quorum_bench();
    tenure.interruption.shutdown.cancel();
    let edited = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        edit.send_replace(object(8080, 2));
        tokio::time::sleep(Duration::from_secs(2)).await;
        edit.send_replace(deleting(flagship_k8s_api::DeletionPolicy::Delete));
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(Duration::from_secs(60), tenure.attend(&mut member)) => outcome,
        () = edited => unreachable!("pending"),
    };
    assert_eq!(outcome, Ok(Outcome::Departed(Why::Shutdown)));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_replica_relieves_wherever_it_runs() {
    let beside = Second::Beside { here: Some("n1".into()) };
    for second in [beside, Second::Beside { here: None }, Second::On { node: "n2".into() }] {
        let Bench { mut tenure, mut member, object: _object, links: _links, .. } = quorum_bench();
        assert_ne!(
            member.node.snapshot().directive,
            flagship_node::Directive::Absent,
            "something may run here"
        );
        tenure.second_seen.send_replace(second.clone());
        tenure.interruption.shutdown.cancel();
        let outcome = tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await;
        assert_eq!(outcome, Ok(Outcome::Interrupted(End::Shutdown)), "{second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_node_that_led_at_its_end_kept_a_lease() {
    for applied in [None, Some((flagship_types::Term(7), 1))] {
        let Bench { mut tenure, member, object: _object, links: _links, _progress: progress, .. } = bench();
        progress.send_modify(|progress| progress.applied = applied);
        tenure.follow(Outcome::Interrupted(End::Shutdown), member).await;
        assert_eq!(tenure.led_until.is_some(), applied.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_is_started_again() {
    let Bench { mut tenure, mut member, object: _object, links: _links, .. } = bench();
    member.node.tell(Command::Shutdown).await;
    let outcome = tokio::time::timeout(Duration::from_secs(5), tenure.attend(&mut member)).await;
    assert_eq!(outcome, Ok(Outcome::Ended));
    assert_eq!(tenure.follow(Outcome::Ended, member).await, None);
}

#[tokio::test]
async fn what_a_node_tells_at_its_end_is_heard() {
    let Bench { mut tenure, member, object: _object, links, .. } = bench();
    let epoch = Epoch(flagship_node::wall_ms() - 60_000);
    let hello =
        PeerHello { member: tenure.member().clone(), epoch, address: None, view_hash: 0, protocol: 2 };
    let up = LinkEvent::Up { link: LinkId(1), hello: Verified::first_hand(hello), dialled: None };
    links.send(up).await.unwrap();
    while !member.node.snapshot().name_in_use {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Nobody attends to it any more.
    tenure.follow(Outcome::Interrupted(End::LeaseLost), member).await;
    let told: Vec<_> = tenure.chronicle.history().iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(told, ["NameInUse"]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wrote_the_status_after_us_ends_the_tenure() {
    let Bench { mut tenure, mut member, object: _object, links: _links, .. } = bench();
    let usurper = watch::Sender::new(None);
    tenure.interruption.usurper = Some(usurper.subscribe());
    assert!(tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await.is_err());
    usurper.send_replace(Some("pod-2".into()));
    let outcome = tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await;
    assert_eq!(outcome, Ok(Outcome::Interrupted(End::LeaseLost)));
}

/// The same object with a Service for an address.
fn behind_a_service(generation: i64) -> Arc<MultiCluster> {
    let mut object = (*object(9990, generation)).clone();
    object.spec.service_address = Some(String::new());
    let namespace = Some("system".into());
    object.spec.service_ref = Some(flagship_k8s_api::ServiceRef { name: "front".into(), namespace });
    Arc::new(object)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_moves_is_news_of_the_member_and_no_reason_to_join_anew() {
    let with = |ip: &str| Some(service("LoadBalancer", json!([{"port": 9990}]), json!([{"ip": ip}])));
    let services = Services::new((1, with("10.0.0.1")));
    let Bench { joiner, mut tenure, mut member, object: edit, links: _links, .. } =
        bench_over(service_api(&services));
    let epoch = member.node.snapshot().epoch;
    let told = |member: &Member| member.node.snapshot().members[0].address.as_ref().map(ToString::to_string);
    assert_eq!(told(&member).as_deref(), Some("172.18.100.100:9990"));
    edit.send_replace(behind_a_service(2));
    for (ip, service) in [("10.0.0.1", None), ("10.0.0.2", Some(with("10.0.0.2"))), ("10.0.0.2", Some(None))]
    {
        if let Some(service) = service {
            put(&services, service);
        }
        let attended = tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await;
        assert!(attended.is_err(), "it goes on: {attended:?}");
        assert_eq!(told(&member), Some(format!("{ip}:9990")));
    }
    assert_eq!(tenure.service.as_ref().unwrap().trouble().unwrap().reason, "ServiceMissing");
    assert_eq!((member.node.snapshot().epoch, joiner.probed.load(Ordering::Relaxed)), (epoch, 0));
    edit.send_replace(object(9990, 3));
    assert!(tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await.is_err());
    assert_eq!(told(&member).as_deref(), Some("172.18.100.100:9990"), "serviceAddress wins");
    assert!(tenure.service.is_none(), "and the Service is not followed any more");
}

/// Being deleted, with this policy.
fn deleting(policy: flagship_k8s_api::DeletionPolicy) -> Arc<MultiCluster> {
    let mut object = (*object(9990, 2)).clone();
    object.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    object.spec.apply.deletion_policy = Some(policy);
    Arc::new(object)
}

#[tokio::test(start_paused = true)]
async fn the_last_member_leaves_its_payload_behind_if_it_is_told_to() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let client = api_server(move |method, path, body| {
        seen.lock().unwrap().push((
            method.to_owned(),
            path.to_owned(),
            body["metadata"]["finalizers"].clone(),
        ));
        if path.starts_with("/apis/admissionregistration.k8s.io/") {
            return refusal(403, "Forbidden");
        }
        (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {}}))
    });
    let Bench { mut tenure, mut member, object: edit, links: _links, .. } = bench_over(client);
    edit.send_replace(deleting(flagship_k8s_api::DeletionPolicy::Orphan));
    let outcome = tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await;
    assert_eq!(outcome, Ok(Outcome::Orphaned));
    assert_eq!(tenure.follow(Outcome::Orphaned, member).await, Some(End::Removed));
    let requests = requests.lock().unwrap();
    assert!(
        requests.iter().any(|(_, path, finalizers)| path.ends_with("/newyork") && *finalizers == json!([]))
    );
    assert!(requests.iter().all(|(method, _, _)| method != "DELETE"), "{requests:?}");
}

#[tokio::test]
async fn a_payload_does_not_stay_behind_beside_another_member() {
    let Bench { mut tenure, mut member, object: edit, links, .. } = bench();
    let hello = PeerHello {
        member: "sheffield".parse().unwrap(),
        epoch: Epoch(flagship_node::wall_ms()),
        address: None,
        view_hash: 0,
        protocol: 2,
    };
    let up = LinkEvent::Up { link: LinkId(1), hello: Verified::first_hand(hello), dialled: None };
    links.send(up).await.unwrap();
    while member.node.snapshot().members.len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::pause();
    edit.send_replace(deleting(flagship_k8s_api::DeletionPolicy::Orphan));
    assert!(tokio::time::timeout(Duration::from_secs(2), tenure.attend(&mut member)).await.is_err());
    let stall = tenure.stall.clone().unwrap();
    assert_eq!(stall.reason, "CannotOrphan");
    assert!(stall.message.contains("sheffield"), "{}", stall.message);
    edit.send_replace(deleting(flagship_k8s_api::DeletionPolicy::Delete));
    let attended = tokio::time::timeout(Duration::from_secs(300), tenure.attend(&mut member)).await;
    assert!(matches!(attended, Ok(Outcome::Departed(Why::Removal)) | Err(_)), "{attended:?}");
    assert_eq!(tenure.stall, None);
}
