//! The payload worker's steps over an API server in memory that holds ConfigMaps.

use std::collections::BTreeMap;
use std::sync::Mutex;

use flagship_k8s_api::{MultiCluster, PayloadSource};
use flagship_node::{ElectionRecord, Restored, Vote};
use flagship_types::{Epoch, Health, Term};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{NoLinks, NoStore, context, refusal, settings, unsigned};
use crate::member::machine_config;
use crate::ports::{JoinError, Joined, Joiner, MemberStart, NoObserver, Probe, Waiting};
use crate::status_writer::Start;
use crate::status_writer::StatusWriter;

pub(crate) const OBJECT: &str = "/apis/kube-vip.io/v1alpha1/namespaces/default/multiclusters/newyork";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Longer than the founding wait: that is how long a node without links listens.
const PATIENCE: Duration = Duration::from_secs(15);

/// ConfigMaps by name.
pub(crate) type Maps = Arc<Mutex<BTreeMap<String, Value>>>;

pub(crate) fn api_server(maps: Maps) -> Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let maps = Arc::clone(&maps);
        async move {
            let (parts, body) = request.into_parts();
            let query = parts.uri.query().unwrap_or_default().to_owned();
            if query.contains("watch=true") {
                // Nothing happens that only a watch would show.
                std::future::pending::<()>().await;
            }
            let bytes = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let dry = query.contains("dryRun=All");
            let (code, answer) = answer(&maps, parts.method.as_str(), parts.uri.path(), dry, body);
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(answer).unwrap())
        }
    });
    Client::new(service, "default")
}

pub(crate) fn answer(maps: &Maps, method: &str, path: &str, dry: bool, body: Value) -> (u16, Value) {
    let discovered = |items: Value| {
        (
            200,
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
        )
    };
    if path == "/apis" {
        return discovered(json!([]));
    }
    if path == "/api" {
        let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
        let maps = json!({"resource": "configmaps", "responseKind": kind, "scope": "Namespaced",
            "singularResource": "configmap", "verbs": ["get", "list", "watch", "patch", "delete"]});
        return discovered(
            json!([{"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": [maps]}]}]),
        );
    }
    if path.starts_with(OBJECT) {
        let metadata = json!({"name": "newyork", "namespace": "default", "uid": "u-1", "resourceVersion": "1",
            "annotations": {"applyset.kubernetes.io/contains-group-kinds": "ConfigMap"}});
        let spec = json!({"port": 9990, "callsign": "federation"});
        let status = body["status"].clone();
        return (
            200,
            json!({"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster", "metadata": metadata,
            "spec": spec, "status": if status.is_null() { json!({}) } else { status }}),
        );
    }
    let mut maps = maps.lock().unwrap();
    if let Some(name) = path.strip_prefix("/api/v1/namespaces/default/secrets/") {
        let secret = maps.get(&format!("secret:{name}"));
        return secret.map_or_else(|| refusal(404, "NotFound"), |secret| (200, secret.clone()));
    }
    let name = path.strip_prefix(MAPS).unwrap_or_default().trim_start_matches('/').to_owned();
    match (method, name.as_str()) {
        ("GET", "") if path == MAPS => {
            let items: Vec<_> = maps.values().cloned().collect();
            (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            )
        }
        ("PATCH", name) if !name.is_empty() => {
            let map = stored(body);
            if !dry {
                maps.insert(name.into(), map.clone());
            }
            (200, map)
        }
        ("DELETE", name) if maps.remove(name).is_some() => {
            (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        (_, name) => maps.get(name).map_or_else(|| refusal(404, "NotFound"), |map| (200, map.clone())),
    }
}

/// As it is stored after a server-side apply by us.
fn stored(mut map: Value) -> Value {
    map["metadata"]["uid"] = format!("uid of {}", map["metadata"]["name"]).into();
    map["metadata"]["resourceVersion"] = "1".into();
    map["metadata"]["managedFields"] = json!([{"manager": "flagship", "operation": "Apply"}]);
    map
}

pub(crate) struct NoJoiner;

#[async_trait::async_trait]
impl Joiner for NoJoiner {
    async fn join(&self, _: MemberStart) -> Result<Joined, JoinError> {
        Err(JoinError::Listen("not in this test".into()))
    }
    async fn wait_at(&self, _: Probe) -> Result<Waiting, JoinError> {
        Err(JoinError::Listen("not in this test".into()))
    }

    async fn probe(&self, _: Probe) -> Result<(), JoinError> {
        Ok(())
    }
}

/// A worker that steps only when the test says so.
pub(crate) struct Bench {
    pub(crate) maps: Maps,
    pub(crate) worker: PayloadWorker,
    _renewed: watch::Sender<Option<flagship_types::Instant>>,
    _links: mpsc::Sender<flagship_node::LinkEvent>,
    pub(crate) heard: mpsc::Receiver<Happening>,
    _deliver: AbortOnDrop,
    _targets: watch::Sender<Target>,
}

pub(crate) fn target(payload: &str) -> Target {
    let sources = vec![PayloadSource::Inline(payload.into())];
    Target { generation: 1, settings: Settings { sources, ..settings() } }
}

/// One ConfigMap.
pub(crate) const GOOD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {k: v}\n";

/// A member alone, whose node has settled on leading or on standing by.
pub(crate) async fn bench(leads: bool) -> Bench {
    let maps = Maps::default();
    let client = api_server(Arc::clone(&maps));
    let context = Arc::new(context(client.clone(), Arc::new(NoJoiner)));
    let caller = Caller::new(Arc::new(NoObserver));
    let api: Api<MultiCluster> = Api::namespaced(client, "default");
    let (status, _) = StatusWriter::open(api, caller.clone(), "newyork", "u-1", "pod-1").await.unwrap();
    let (links, node) = node(leads).await;
    let (happenings, heard) = mpsc::channel(HAPPENINGS);
    let (targets_out, targets) = watch::channel(target(GOOD));
    // Never over.
    let renewed = watch::Sender::new(Some(flagship_node::boot_now() + Duration::from_secs(3600)));
    let progress = watch::Sender::new(Progress::default());
    let (background, deliver) = Background::new(
        Arc::clone(&context),
        caller.clone(),
        "default".into(),
        progress.clone(),
        happenings.clone(),
    );
    let worker = PayloadWorker {
        told: Mutex::default(),
        background,
        ran: AtomicBool::new(false),
        hurried: Mutex::default(),
        cluster: discovery::cluster(&context),
        caller,
        owner: Owner { namespace: "default".into(), name: "newyork".into() },
        directive: node.directive(),
        node,
        tracker: Tracker::new(flagship_payload::Progress::default()),
        progress,
        status,
        lease: LeaseWatch::of(&renewed),
        happenings,
        targets,
        context,
    };
    let deliver = AbortOnDrop(tokio::spawn(deliver));
    Bench { maps, worker, _renewed: renewed, _links: links, heard, _deliver: deliver, _targets: targets_out }
}

async fn node(leads: bool) -> (mpsc::Sender<flagship_node::LinkEvent>, NodeHandle) {
    let start = Start { epoch: Epoch(flagship_node::wall_ms()), status: Default::default() };
    let name: MemberName = "newyork".parse().unwrap();
    let mut machine = machine_config(&settings(), &name, &start, None, None);
    machine.spec.election.candidate = leads;
    let record = ElectionRecord {
        promise: None,
        version: 0,
        vote: Some(Vote { term: Term(3), candidate: name }),
        held: None,
        stopping: None,
        released: None,
        term: Term(3),
        leader: None,
        config: Default::default(),
        forgotten: Vec::new(),
        replaced: None,
        chosen: false,
    };
    machine.restored = Restored { record: Some(record), ..Default::default() };
    let (links, link_events) = mpsc::channel(8);
    let (node, _, _) =
        flagship_node::spawn(machine, Arc::new(NoLinks), Arc::new(unsigned), link_events, Arc::new(NoStore));
    let fit = Health { api: true, payload_valid: true, payload_ready: false, gates: true, failed: false };
    node.tell(flagship_node::Command::Health(fit)).await;
    let mut directive = node.directive();
    let settled = directive.wait_for(|directive| match directive {
        Directive::Run { .. } => leads,
        Directive::Absent => !leads,
        _ => false,
    });
    tokio::time::timeout(PATIENCE, settled).await.unwrap().unwrap();
    (links, node)
}

/// Polls until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn a_standby_sweeps_away_what_arrived_late() {
    let bench = bench(false).await;
    let label = json!({"kube-vip.io/multicluster": bench.worker.owner.label()});
    let mut late = stored(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}}),
    );
    late["metadata"]["labels"] = label;
    bench.maps.lock().unwrap().insert("late".into(), late);
    assert!(bench.worker.tracker.borrow().inventory.is_empty(), "no status knows of it");
    let next = bench.worker.be_absent(&target(GOOD), &CancellationToken::new()).await;
    assert!(bench.maps.lock().unwrap().is_empty(), "{next:?}");
    assert!(bench.worker.progress.borrow().settled);
}

#[tokio::test]
async fn what_runs_is_kept_after_a_refused_edit() {
    let bench = bench(true).await;
    let Directive::Run { term, .. } = bench.worker.node.directive().borrow().clone() else { panic!("leads") };
    let pods = |bench: &Bench| bench.worker.pods_grace(term, flagship_node::ResignReason::LeaseLost);
    let given = format!("{:?}", pods(&bench));
    assert!(
        given.contains("most: 1,"),
        "an earlier process may have kept the lease, nobody knows until when: {given}"
    );
    let mut drift = None;
    let has = |maps: &Maps| maps.lock().unwrap().contains_key("one");
    let edited = CancellationToken::new();
    let good = target(GOOD);
    tokio::join!(bench.worker.be_running(term, false, &good, &edited, &mut drift), async {
        until("applied", || has(&bench.maps)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        edited.cancel();
    });
    assert!(drift.is_some(), "its watches go on");
    let given = pods(&bench);
    assert!(format!("{given:?}").contains("most: 8,"), "this one led: {given:?}");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(pods(&bench), given, "a second attempt counts from the first");
    assert_eq!(bench.worker.pods_grace(term, flagship_node::ResignReason::Handover), None);
    // Somebody deletes it just when the payload is edited to one that cannot be.
    bench.maps.lock().unwrap().remove("one");
    let refused = target("apiVersion: v1\nkind: Nonsense\nmetadata: {name: one}\n");
    let ended = CancellationToken::new();
    tokio::join!(bench.worker.be_running(term, false, &refused, &ended, &mut drift), async {
        until("refused", || matches!(bench.worker.validity(), Validity::Invalid { .. })).await;
        until("put back", || has(&bench.maps)).await;
        ended.cancel();
    });
}

#[tokio::test]
async fn a_standby_tries_its_payload_again_and_again_and_after_each_edit() {
    let bench = bench(false).await;
    let next = bench.worker.be_absent(&target(GOOD), &CancellationToken::new()).await;
    assert_eq!((next, bench.worker.validity()), (Next::Rest(Duration::from_secs(180)), Validity::Valid));
    let Bench { worker, _targets: targets, .. } = bench;
    let mut progress = worker.progress.subscribe();
    let running = tokio::spawn(worker.run());
    targets.send_replace(target("apiVersion: v1\nkind: Nonsense\nmetadata: {name: one}\n"));
    let refused = progress.wait_for(|now| matches!(now.validity, Validity::Invalid { .. }));
    tokio::time::timeout(PATIENCE, refused).await.unwrap().unwrap();
    assert!(!progress.borrow().health(true, true).is_fit());
    targets.send_replace(target(GOOD));
    let accepted = progress.wait_for(|now| now.validity == Validity::Valid);
    tokio::time::timeout(PATIENCE, accepted).await.unwrap().unwrap();
    assert!(progress.borrow().health(true, true).is_fit() && !progress.borrow().health(true, false).is_fit());
    running.abort();
}
