//! A stop at once, against an API server in memory that treats pods as a real one does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flagship_k8s_api::ObjectState;
use flagship_types::{Instant as Moment, Term};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::cluster::{CALL_TIMEOUT as USUAL, Progress};
use crate::gate::{Denied, Permit};
use crate::inventory::{Entry, Inventory};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DATABASES: &str = "/apis/db.example.com/v1/namespaces/default/databases";

/// What it has, by path, and what it was asked to delete, with which grace.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    deleted: Vec<(String, Option<i64>)>,
    /// A path whose deletion is refused.
    refuses: Option<String>,
    /// It takes requests and does not answer.
    mute: bool,
    /// A path whose deletion is the last that it answers.
    mute_after: Option<String>,
    /// How long it takes to answer.
    slow: Duration,
}

impl Server {
    fn put(&mut self, place: &str, name: &str, owner: Option<&str>, spec: &Value) {
        let owners: Vec<_> = owner
            .map(|owner| json!({"apiVersion": "apps/v1", "kind": "Owner", "name": owner, "uid": uid(owner)}))
            .into_iter()
            .collect();
        let kind = place.rsplit('/').next().unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": kind, "spec": spec,
            "metadata": {"name": name, "namespace": "default", "uid": uid(name), "ownerReferences": owners,
                "labels": {"kube-vip.io/multicluster": "default.newyork"}},
        });
        self.objects.insert(format!("{place}/{name}"), object);
    }

    fn pod(&mut self, name: &str, owner: &str, grace: i64, node: &str) {
        let spec = json!({"terminationGracePeriodSeconds": grace, "nodeName": node});
        self.put(PODS, name, Some(owner), &spec);
    }

    /// Deployment and ReplicaSet of a name.
    fn deployment(&mut self, name: &str) {
        self.put(DEPLOYMENTS, name, None, &json!({}));
        self.put(REPLICA_SETS, &format!("{name}-1"), Some(name), &json!({}));
    }

    /// The node's word that a pod has ended.
    fn confirm(&mut self, pod: &str) {
        self.objects.remove(&format!("{PODS}/{pod}")).expect("a pod that is there");
    }

    /// That its deletion was asked for this long ago with that grace.
    fn deleting(&mut self, pod: &str, ago: i64, grace: i64) {
        let end = Timestamp::now() + SignedDuration::from_secs(grace - ago);
        let metadata = &mut self.objects.get_mut(&format!("{PODS}/{pod}")).unwrap()["metadata"];
        metadata["deletionTimestamp"] = json!(end.to_string());
        metadata["deletionGracePeriodSeconds"] = json!(grace);
    }

    fn graces(&self, pod: &str) -> Vec<Option<i64>> {
        let path = format!("{PODS}/{pod}");
        self.deleted.iter().filter(|(deleted, _)| *deleted == path).map(|(_, grace)| *grace).collect()
    }

    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        if matches!(path, "/api" | "/apis") {
            let empty = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": []});
            return (200, empty);
        }
        match method {
            "GET" if [DEPLOYMENTS, REPLICA_SETS, PODS].contains(&path) => {
                let items: Vec<_> = self
                    .objects
                    .iter()
                    .filter(|(at, _)| at.starts_with(path))
                    .map(|(_, o)| o.clone())
                    .collect();
                (
                    200,
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
                )
            }
            "GET" => self.objects.get(path).map_or_else(not_found, |object| (200, object.clone())),
            "DELETE" => self.delete(path, body),
            _ => panic!("{method} {path}"),
        }
    }

    fn delete(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let Some(object) = self.objects.get_mut(path) else { return not_found() };
        assert_eq!(body["preconditions"]["uid"], object["metadata"]["uid"], "deleted by its name alone");
        let grace = body["gracePeriodSeconds"].as_i64();
        self.deleted.push((path.into(), grace));
        if self.refuses.as_deref() == Some(path) {
            return status(500, "InternalError");
        }
        if !path.starts_with(PODS) {
            self.mute |= self.mute_after.as_deref() == Some(path);
            self.objects.remove(path);
            return status(200, "");
        }
        assert_ne!(grace, Some(0), "deleted by force");
        let metadata = &mut object["metadata"];
        let grace = grace.expect("a pod is not left its own grace");
        let shortens = metadata["deletionGracePeriodSeconds"].as_i64().is_none_or(|given| grace < given);
        if shortens {
            metadata["deletionTimestamp"] =
                json!((Timestamp::now() + SignedDuration::from_secs(grace)).to_string());
            metadata["deletionGracePeriodSeconds"] = json!(grace);
        }
        (200, object.clone())
    }
}

fn uid(name: &str) -> String {
    format!("uid of {name}")
}

fn not_found() -> (u16, Value) {
    status(404, "NotFound")
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    let word = if code < 400 { "Success" } else { "Failure" };
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": word, "code": code, "reason": reason, "message": reason}),
    )
}

/// Leave to write, which notes what was known to the tracker when it was first asked for.
struct Leave {
    tracker: Tracker,
    first: Mutex<Option<Inventory>>,
    denied: bool,
}

#[async_trait::async_trait]
impl Gate for Leave {
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied> {
        assert_eq!(purpose, Purpose::Delete);
        self.first.lock().unwrap().get_or_insert_with(|| self.tracker.borrow().inventory.clone());
        if self.denied {
            return Err(Denied::Refused("not now".into()));
        }
        Ok(Permit { term: Term(3), not_after: Moment::from_nanos(500_000_000) })
    }
    fn now(&self) -> Moment {
        Moment::ZERO
    }
}

struct Bench {
    server: Arc<Mutex<Server>>,
    cluster: Cluster,
    gate: Leave,
    tracker: Tracker,
}

/// A payload of these Deployments and a ConfigMap.
fn bench(deployments: &[&str], fill: impl FnOnce(&mut Server)) -> Bench {
    let mut server = Server::default();
    deployments.iter().for_each(|name| server.deployment(name));
    fill(&mut server);
    let server = Arc::new(Mutex::new(server));
    let shared = Arc::clone(&server);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let server = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or(Value::Null);
            if server.lock().unwrap().mute {
                std::future::pending::<()>().await;
            }
            let slow = server.lock().unwrap().slow;
            tokio::time::sleep(slow).await;
            let (code, answer) =
                server.lock().unwrap().answer(parts.method.as_str(), parts.uri.path(), &body);
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(answer).unwrap())
        }
    });
    let cluster = Cluster::new(kube::Client::new(service, "default"), USUAL, Arc::new(()));
    let mut inventory = Inventory::default();
    let mut add = |group: &str, kind: &str, name: &str| {
        let id = id(group, kind, name);
        let entry = Entry { version: "v1".into(), uid: uid(name), generation: 1, state: ObjectState::Ready };
        inventory.insert(id, entry);
    };
    deployments.iter().for_each(|name| add("apps", "Deployment", name));
    add("", "ConfigMap", "settings");
    let tracker = Tracker::new(Progress { inventory, ..Default::default() });
    let gate = Leave { tracker: tracker.clone(), first: Mutex::default(), denied: false };
    Bench { server, cluster, gate, tracker }
}

fn id(group: &str, kind: &str, name: &str) -> ObjectId {
    ObjectId { group: group.into(), kind: kind.into(), namespace: "default".into(), name: name.into() }
}

impl Bench {
    async fn halt(&self, stop_grace: u64) -> Result<usize, DeleteError> {
        self.halt_within(PodGrace::within(Duration::from_secs(stop_grace), Some(Instant::now()))).await
    }

    async fn halt_within(&self, pods: PodGrace) -> Result<usize, DeleteError> {
        let owner = Owner { namespace: "default".into(), name: "newyork".into() };
        self.cluster.halt(&owner, &self.gate, pods, &self.tracker).await
    }

    /// Within 10 s from now, as the controller does.
    async fn halt_again_and_again(&self) {
        let pods = PodGrace::within(Duration::from_secs(10), Some(Instant::now()));
        while let Err(error) = self.halt_within(pods).await {
            assert!(matches!(error, DeleteError::Api(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Until the API server is as wanted, however long that takes.
    async fn until(&self, is_so: impl Fn(&Server) -> bool) {
        let begin = Instant::now();
        while !is_so(&self.server.lock().unwrap()) {
            let deleted = || self.server.lock().unwrap().deleted.clone();
            assert!(begin.elapsed() < Duration::from_secs(60), "not in time; deleted: {:?}", deleted());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn two_seconds_less_than_the_stop_grace_and_never_none() {
    let given = |stop_grace, own| {
        let pod = Pod { grace: own, node: String::new() };
        PodGrace::within(Duration::from_millis(stop_grace), Some(Instant::now())).of(&pod).grace
    };
    assert_eq!(given(10_000, 30), 8);
    assert_eq!(given(10_000, 3), 3, "its own, if that is less");
    assert_eq!(given(10_900, 30), 8, "whole seconds, rounded down");
    assert_eq!(given(3_000, 30), 1);
    assert_eq!(given(10_000, 0), 1, "0 is by force");
    assert_eq!(given(0, 30), 1, "0 is by force");
    assert_eq!(given(u64::MAX, i64::MAX), 7 * 86_400 - 2, "nonsense does not overflow");
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_late_gets_what_is_left() {
    let pod = |grace| Pod { grace, node: String::new() };
    let (begin, stop_grace) = (Instant::now(), Duration::from_secs(10));
    for (after, given) in [(0, 8), (400, 8), (600, 7), (3_000, 5), (7_000, 1), (60_000, 1)] {
        tokio::time::sleep_until(begin + Duration::from_millis(after)).await;
        // Also in a later attempt of the same stop.
        let pods = PodGrace::within(stop_grace, Some(begin));
        assert_eq!((pods.of(&pod(30)).grace, pods.of(&pod(1)).grace), (given, 1), "after {after} ms");
        let exceeded = |asked, grace| pods.is_exceeded_by(&pod(30), Ending::after(asked, grace));
        assert!(!exceeded(begin, 8), "as when it was asked at once");
        assert!(exceeded(begin, 9), "by somebody else");
        assert_eq!(exceeded(Instant::now(), 8), after > 500, "by somebody else just now, after {after} ms");
        assert!(!exceeded(Instant::now(), 1), "it gets no less");
    }
    assert_eq!(PodGrace::within(stop_grace, None).of(&pod(30)).grace, 1);
}

#[tokio::test(start_paused = true)]
async fn everything_that_runs_is_asked_to_end_at_once_and_waited_for() {
    let bench = bench(&["web", "batch"], |server| {
        server.pod("web-a", "web-1", 30, "n1");
        server.pod("web-b", "web-1", 3, "n2");
        server.pod("batch-a", "batch-1", 0, "n1");
        server.pod("stranger", "another", 30, "n1");
    });
    let halted = async { bench.halt(10).await.unwrap() };
    let asked = async {
        bench.until(|server| server.deleted.len() == 7).await;
        {
            let server = bench.server.lock().unwrap();
            assert_eq!(server.graces("web-a"), [Some(8)]);
            assert_eq!(server.graces("web-b"), [Some(3)]);
            assert_eq!(server.graces("batch-a"), [Some(1)]);
            assert!(server.graces("stranger").is_empty(), "of another payload");
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(bench.server.lock().unwrap().deleted.len(), 7, "asked once");
        for pod in ["web-a", "web-b", "batch-a"] {
            let waits = bench.tracker.borrow().waiting_for.clone();
            assert!(waits.is_some(), "it waits as long as there is one");
            bench.server.lock().unwrap().confirm(pod);
        }
    };
    let (gone, ()) = tokio::join!(halted, asked);
    assert_eq!(gone, 4, "Deployments and ReplicaSets");
    // The rest is deleted in order afterwards.
    assert_eq!(bench.tracker.borrow().inventory.ids(), [id("", "ConfigMap", "settings")]);
    assert_eq!(bench.tracker.borrow().waiting_for, None);
    let first = bench.gate.first.lock().unwrap().clone().unwrap();
    let chain = ["web-1", "batch-1"].map(|name| first.get(&id("apps", "ReplicaSet", name)).is_some());
    assert_eq!(chain, [true, true], "whose the pods are was noted before the first delete");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_keeps_nothing_else_running() {
    let bench = bench(&["bad", "good"], |server| {
        server.pod("good-a", "good-1", 30, "n1");
        server.refuses = Some(format!("{DEPLOYMENTS}/bad"));
    });
    let error = bench.halt(10).await.unwrap_err();
    assert!(error.to_string().contains("Deployment default/bad"), "{error}");
    let server = bench.server.lock().unwrap();
    assert_eq!(server.graces("good-a"), [Some(8)]);
    assert!(!server.objects.contains_key(&format!("{DEPLOYMENTS}/good")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_given_longer_is_given_less() {
    let bench = bench(&["web"], |server| {
        server.pod("web-a", "web-1", 30, "n1");
        server.pod("web-b", "web-1", 30, "n1");
        server.deleting("web-a", 1, 30);
        server.deleting("web-b", 1, 5);
    });
    let halted = async { bench.halt(10).await.unwrap() };
    let asked = async {
        bench.until(|server| !server.graces("web-a").is_empty()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut server = bench.server.lock().unwrap();
        assert_eq!(server.graces("web-a"), [Some(8)], "once is enough");
        assert!(server.graces("web-b").is_empty(), "it ends soon enough by itself");
        server.confirm("web-a");
        server.confirm("web-b");
    };
    tokio::join!(halted, asked);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_somebody_else_asked_late_gets_what_is_left() {
    let bench = bench(&["web"], |server| {
        server.pod("web-a", "web-1", 8, "n1");
        server.mute_after = Some(format!("{REPLICA_SETS}/web-1"));
    });
    let begin = Instant::now();
    let garbage_collector = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        {
            let mut server = bench.server.lock().unwrap();
            assert!(server.mute && server.graces("web-a").is_empty(), "{:?}", server.deleted);
            server.mute = false;
            server.mute_after = None;
            server.deleting("web-a", 0, 8);
        }
        bench.until(|server| !server.graces("web-a").is_empty()).await;
        let asked = begin.elapsed();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut server = bench.server.lock().unwrap();
        let [Some(given)] = server.graces("web-a")[..] else { panic!("{:?}", server.graces("web-a")) };
        let ends = asked + Duration::from_secs(given.try_into().unwrap());
        assert!(ends <= Duration::from_millis(8_600), "{given} s from {asked:?}");
        server.confirm("web-a");
    };
    tokio::join!(bench.halt_again_and_again(), garbage_collector);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_in_time_is_not_asked_at_every_round() {
    let bench = bench(&["web"], |server| {
        server.pod("web-a", "web-1", 30, "n1");
        server.pod("web-b", "web-1", 8, "n1");
        server.deleting("web-b", 0, 8);
        // Each round ends with this error, and the next one begins anew.
        server.refuses = Some(format!("{DEPLOYMENTS}/web"));
    });
    let rounds = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut server = bench.server.lock().unwrap();
        assert!(server.deleted.len() > 100, "it is tried again");
        assert_eq!(server.graces("web-a"), [Some(8)], "by this process");
        assert_eq!(server.graces("web-b"), [], "by somebody else in time");
        server.refuses = None;
        server.confirm("web-a");
        server.confirm("web-b");
    };
    tokio::join!(bench.halt_again_and_again(), rounds);
    assert_eq!(bench.tracker.borrow().endings, Endings::default(), "nothing is left of them");
}

#[tokio::test]
async fn pods_of_a_node_that_does_not_answer_are_named_and_not_forced() {
    let bench = bench(&["web"], |server| {
        server.pod("web-a", "web-1", 30, "n1");
        server.pod("web-b", "web-1", 30, "n2");
        // Asked by an earlier process: the first should have ended long ago.
        server.deleting("web-a", 60, 8);
        server.deleting("web-b", 1, 8);
    });
    let mut seen = bench.tracker.subscribe();
    let halted = async { bench.halt(10).await.unwrap() };
    let told = async {
        let progress = seen.wait_for(|progress| !progress.unconfirmed.is_empty()).await.unwrap().clone();
        assert_eq!(progress.unconfirmed, ["Pod default/web-a on node n1"]);
        let mut server = bench.server.lock().unwrap();
        assert!(server.graces("web-a").is_empty(), "asking again could forget it");
        server.confirm("web-a");
        server.confirm("web-b");
    };
    tokio::join!(halted, told);
    assert!(bench.tracker.borrow().unconfirmed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mute_api_server_costs_a_second_at_first() {
    let bench = bench(&["web"], |server| server.mute = true);
    let begin = Instant::now();
    let error = bench.halt(10).await.unwrap_err();
    assert!(matches!(error, DeleteError::Api(ApiError::Timeout { .. })), "{error}");
    assert_eq!(begin.elapsed(), CALL_TIMEOUTS.iter().sum::<Duration>());
    let begin = Instant::now();
    let answers_again = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        bench.server.lock().unwrap().mute = false;
    };
    let (halted, ()) = tokio::join!(bench.halt(10), answers_again);
    assert_eq!(halted, Ok(2), "it goes on where it was");
    assert!(begin.elapsed() < CALL_TIMEOUTS[0] * 2, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_was_mute_is_asked_soon_after() {
    for mute in [900, 1_100, 2_900, 3_100, 5_500, 6_900] {
        let bench = bench(&["web"], |server| {
            server.mute = true;
            server.pod("web-a", "web-1", 30, "n1");
        });
        let begin = Instant::now();
        let mute = Duration::from_millis(mute);
        let answers_again = async {
            tokio::time::sleep(mute).await;
            bench.server.lock().unwrap().mute = false;
            bench.until(|server| !server.graces("web-a").is_empty()).await;
            let asked = begin.elapsed();
            assert!(
                asked < mute + ASK_AGAIN + Duration::from_millis(100),
                "{mute:?} mute, asked at {asked:?}"
            );
            // The pod ends in time all the same.
            let given = bench.server.lock().unwrap().graces("web-a")[0].unwrap();
            let given = Duration::from_secs(given.try_into().unwrap());
            assert!(asked + given <= Duration::from_millis(8_600), "{given:?} from {asked:?}");
            bench.server.lock().unwrap().confirm("web-a");
        };
        tokio::join!(bench.halt_again_and_again(), answers_again);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_still_gets_the_deletions() {
    let bench = bench(&["web"], |server| {
        server.slow = Duration::from_millis(1200);
        server.pod("web-a", "web-1", 30, "n1");
    });
    let begin = Instant::now();
    let halted = async { bench.halt(10).await.unwrap() };
    let asked = async {
        bench.until(|server| !server.graces("web-a").is_empty()).await;
        let took = begin.elapsed().as_secs();
        let left = 8_i64.saturating_sub(i64::try_from(took).unwrap()).max(1);
        let given = bench.server.lock().unwrap().graces("web-a")[0].unwrap();
        assert!((left - 1..=left).contains(&given) && given > 0, "{given} s after {took} s");
        bench.server.lock().unwrap().confirm("web-a");
    };
    tokio::join!(halted, asked);
    assert_eq!(bench.server.lock().unwrap().deleted.len(), 3, "each once");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_without_leave() {
    let mut bench = bench(&["web"], |server| server.pod("web-a", "web-1", 30, "n1"));
    bench.gate.denied = true;
    let error = bench.halt(10).await.unwrap_err();
    assert!(matches!(error, DeleteError::Denied(_)), "{error}");
    assert!(bench.server.lock().unwrap().deleted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_custom_resources_run_is_told_to_end_too() {
    let bench = bench(&["web"], |server| server.put(DATABASES, "main", None, &json!({})));
    let entry = Entry { version: "v1".into(), uid: uid("main"), generation: 1, state: ObjectState::Ready };
    bench
        .tracker
        .send_modify(|progress| progress.inventory.insert(id("db.example.com", "Database", "main"), entry));
    bench.halt(10).await.unwrap();
    let server = bench.server.lock().unwrap();
    assert!(server.deleted.contains(&(format!("{DATABASES}/main"), None)), "{:?}", server.deleted);
}
