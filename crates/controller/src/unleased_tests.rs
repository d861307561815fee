use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flagship_types::Term;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::fixtures::{api_server, refusal};
use crate::payload_worker::tests::{Maps, OBJECT, answer};
use crate::prepare::Prepared;
use crate::tenure::tests::{Bench, bench_over};

/// A MultiCluster and ConfigMaps, and what was asked of them.
#[derive(Clone, Default)]
pub(crate) struct Server {
    pub(crate) status: Arc<Mutex<Value>>,
    maps: Maps,
    /// Deletions, and the term that the status said was being stopped at that moment.
    deleted: Arc<Mutex<Vec<(String, Value)>>>,
    /// A StatefulSet and its pod, by path, which no node ever says has ended.
    workload: Maps,
    /// The grace that was asked for with each deletion of a pod, in seconds.
    graces: Arc<Mutex<Vec<Value>>>,
    refuses: Arc<Mutex<Option<Refuses>>>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Refuses {
    /// Nothing is answered but errors.
    All,
    /// As with a conversion webhook that is not there.
    Lists,
    /// As with an admission webhook on the status.
    StatusWrites,
}

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const PODS: &str = "/api/v1/namespaces/default/pods";

impl Server {
    /// newyork held term 7 when its last process ended, and its ConfigMap `one` is there.
    pub(crate) fn after_a_lead(mode: &str) -> Self {
        let entry = json!({"group": "", "version": "v1", "kind": "ConfigMap", "namespace": "default", "name": "one",
            "uid": "uid of one", "generation": 0, "state": "Ready"});
        let configuration = json!({"version": 1797, "mode": mode, "voters": ["denver", "newyork", "sheffield"],
            "leaseDuration": "3s", "stopGrace": "10s", "failback": "Automatic", "failbackDelay": "1s",
            "restartGrace": "3s"});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": "default",
            "uid": "uid of one", "resourceVersion": "1", "labels": {"kube-vip.io/multicluster": "newyork"},
            "managedFields": [{"manager": "flagship", "operation": "Apply"}]}});
        let server = Self::default();
        *server.status.lock().unwrap() =
            json!({"heldTerm": 7, "term": 7, "inventory": [entry], "configuration": configuration});
        *server.maps.lock().unwrap() = BTreeMap::from([("one".to_owned(), map)]);
        server
    }

    /// The same with a StatefulSet of one pod, which wants a minute to end and never does.
    fn after_a_lead_with_a_pod() -> Self {
        let server = Self::after_a_lead("Quorum");
        let entry = json!({"group": "apps", "version": "v1", "kind": "StatefulSet", "namespace": "default",
            "name": "web", "uid": "uid of web", "generation": 0, "state": "Ready"});
        server.status.lock().unwrap()["inventory"].as_array_mut().unwrap().push(entry);
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web",
            "namespace": "default", "uid": "uid of web", "labels": {"kube-vip.io/multicluster": "newyork"}}});
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "uid of web"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0", "namespace": "default", "uid": "uid of web-0", "ownerReferences": [owner]},
            "spec": {"terminationGracePeriodSeconds": 60, "nodeName": "n1"}});
        *server.workload.lock().unwrap() =
            BTreeMap::from([(format!("{SETS}/web"), set), (format!("{PODS}/web-0"), pod)]);
        server
    }

    /// About the StatefulSet and its pod.
    fn run(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut objects = self.workload.lock().unwrap();
        if [SETS, PODS].contains(&path) {
            let items: Vec<_> = objects
                .iter()
                .filter(|(at, _)| at.starts_with(path))
                .map(|(_, object)| object.clone())
                .collect();
            return (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            );
        }
        let Some(object) = objects.get_mut(path) else { return refusal(404, "NotFound") };
        if method != "DELETE" {
            return (200, object.clone());
        }
        if path.starts_with(SETS) {
            objects.remove(path);
            return (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
        }
        let grace = body["gracePeriodSeconds"].clone();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["deletionGracePeriodSeconds"] = grace.clone();
        self.graces.lock().unwrap().push(grace);
        (200, object.clone())
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        api_server(move |method, path, body| server.answer(method, path, body))
    }

    pub(crate) fn is_mute(&self) -> bool {
        *self.refuses.lock().unwrap() == Some(Refuses::All)
    }

    pub(crate) fn refuse(&self, what: Option<Refuses>) {
        *self.refuses.lock().unwrap() = what;
    }

    pub(crate) fn answer(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let refused = match *self.refuses.lock().unwrap() {
            Some(Refuses::All) => true,
            Some(Refuses::Lists) => method == "GET" && path.ends_with("/configmaps"),
            Some(Refuses::StatusWrites) => method == "PATCH" && path.starts_with(OBJECT),
            None => false,
        };
        if refused {
            return refusal(500, "InternalError");
        }
        if path.starts_with(SETS) || path.starts_with(PODS) {
            return self.run(method, path, &body);
        }
        if path.starts_with(OBJECT) {
            let mut status = self.status.lock().unwrap();
            for (field, value) in body["status"].as_object().into_iter().flatten() {
                // As in a merge patch.
                match value {
                    Value::Null => status.as_object_mut().unwrap().remove(field),
                    value => status.as_object_mut().unwrap().insert(field.clone(), value.clone()),
                };
            }
            let (_, mut object) = answer(&self.maps, method, path, false, Value::Null);
            object["status"] = status.clone();
            return (200, object);
        }
        if method == "DELETE" {
            let stopping = self.status.lock().unwrap()["stopping"].clone();
            self.deleted.lock().unwrap().push((path.to_owned(), stopping));
        }
        answer(&self.maps, method, path, false, body)
    }

    pub(crate) fn deletions(&self) -> usize {
        self.deleted.lock().unwrap().iter().filter(|(path, _)| path.contains("/configmaps/")).count()
    }

    pub(crate) fn runs(&self) -> bool {
        !self.maps.lock().unwrap().is_empty()
    }
}

/// A member that holds its local Lease and whose status is open, as before each try to join.
pub(crate) async fn bench(server: &Server) -> Bench {
    let mut bench = bench_over(server.client());
    // Held for longer than any of this takes, on the real clock.
    let renewed = watch::Sender::new(Some(flagship_node::boot_now() + Duration::from_secs(3600)));
    bench.tenure.holds(LeaseWatch::of(&renewed));
    std::mem::forget(renewed);
    bench.tenure.open_status().await.unwrap();
    bench
}

/// Waits in vain to join, for this long.
async fn wait(bench: &mut Bench, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        let left = until - Instant::now();
        assert_eq!(bench.tenure.wait_unjoined(left.min(RETRY)).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_stops_when_its_daemon_cannot_join_in_time() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    wait(&mut bench, Duration::from_millis(2300)).await;
    assert!(server.runs(), "it has 0.8 D to be confirmed");
    wait(&mut bench, Duration::from_secs(1)).await;
    assert!(!server.runs());
    let deleted = server.deleted.lock().unwrap().clone();
    let [(path, stopping)] = deleted.as_slice() else { panic!("{deleted:?}") };
    assert!(path.ends_with("/configmaps/one"));
    assert_eq!(*stopping, 7, "recorded before, so that nobody goes on with it");
    let status = server.status.lock().unwrap().clone();
    assert_eq!(
        (&status["inventory"], &status["heldTerm"]),
        (&Value::Null, &json!(7)),
        "the rest is the node's"
    );
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_does_not_mean_that_nothing_has_to_stop() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    server.refuse(Some(Refuses::All));
    // As with an invalid spec: nobody knows when anything changes.
    let waited =
        tokio::time::timeout(Duration::from_secs(5), bench.tenure.wait_unjoined(Duration::MAX)).await;
    assert_eq!(waited, Ok(None), "it asks again");
    server.refuse(None);
    let stopped = async {
        while server.runs() {
            assert_eq!(bench.tenure.wait_unjoined(Duration::from_millis(500)).await, None);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_joins_after_a_stop_knows_of_it() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    let prepared = async |bench: &mut Bench| match bench.tenure.prepare().await {
        Prepared::Ready(ready) => ready.start,
        _ => panic!("nothing is in the way"),
    };
    let start = prepared(&mut bench).await;
    assert_eq!(
        (start.status.held_term, start.status.stopping),
        (Some(7), None),
        "it would go on with the lead"
    );
    // As after a node that could not listen.
    bench.tenure.unused = Some(start.clone());
    bench.tenure.stop_unleased("the test says so").await.unwrap();
    let later = prepared(&mut bench).await;
    assert_eq!(later.status.stopping, Some(7));
    assert!(later.epoch > start.epoch);
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_node_from_joining_does_not_keep_its_payload_running() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    server.refuse(Some(Refuses::Lists));
    bench.tenure.stop_unleased("the test says so").await.unwrap();
    assert!(!server.runs(), "the status knows of it");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_written_keeps_nothing_running() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    server.refuse(Some(Refuses::StatusWrites));
    let recorded = bench.tenure.stop_unleased("the test says so").await;
    assert!(!server.runs() && recorded.is_err(), "{recorded:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_stays_does_not_keep_a_node_from_joining() {
    let server = Server::after_a_lead_with_a_pod();
    let mut bench = bench(&server).await;
    wait(&mut bench, Duration::from_millis(2300)).await;
    let begin = Instant::now();
    while server.graces.lock().unwrap().is_empty() {
        let waited = tokio::time::timeout(Duration::from_secs(60), bench.tenure.wait_unjoined(Duration::MAX));
        assert_eq!(waited.await, Ok(None), "another try to join");
    }
    assert!(begin.elapsed() < ROUND + Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(*server.graces.lock().unwrap(), [1], "nobody knows since when the lease is over");
    assert_eq!(server.status.lock().unwrap()["stopping"], 7, "a node goes on with it");
    bench.tenure.wait_unjoined(Duration::MAX).await;
    assert_eq!(server.graces.lock().unwrap().len(), 1, "what was asked for stays asked for");
}

#[tokio::test(start_paused = true)]
async fn pods_get_what_is_left_of_the_stop_grace() {
    let server = Server::after_a_lead_with_a_pod();
    let mut bench = bench(&server).await;
    bench.tenure.led_until = Some(Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stuck = bench.tenure.stop_unleased("the test says so").await.unwrap_err();
    assert!(stuck.contains("Pod default/web-0"), "{stuck}");
    assert_eq!(*server.graces.lock().unwrap(), [5], "10 s, less 3 s that passed, less 2 s");
    bench.tenure.stop_unleased("the test says so").await.unwrap_err();
    assert_eq!(server.graces.lock().unwrap().len(), 1, "it ends in time");
}

#[tokio::test(start_paused = true)]
async fn a_removal_in_quorum_does_not_wait_for_pods_in_their_own_time() {
    let server = Server::after_a_lead_with_a_pod();
    let mut bench = bench(&server).await;
    let removed = tokio::time::timeout(Duration::from_secs(20), bench.tenure.remove_leftovers()).await;
    assert!(removed.is_err(), "the pod is still there: {removed:?}");
    assert_eq!(*server.graces.lock().unwrap(), [1]);
}

#[tokio::test(start_paused = true)]
async fn in_availability_a_payload_waits_for_its_daemon() {
    let server = Server::after_a_lead("Availability");
    let mut bench = bench(&server).await;
    wait(&mut bench, Duration::from_secs(60)).await;
    assert!(server.runs());
    assert!(!bench.tenure.may_have_unleased().await);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_ends_stops_what_is_left() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    assert!(bench.tenure.may_have_unleased().await);
    bench.tenure.stop_unleased("the test says so").await.unwrap();
    assert!(!server.runs());
    bench.tenure.stop_unleased("the test says so").await.unwrap();
    assert_eq!(server.deleted.lock().unwrap().len(), 1, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_without_the_local_lease() {
    let server = Server::after_a_lead("Quorum");
    let mut bench = bench(&server).await;
    bench.tenure.holds(LeaseWatch::of(&watch::Sender::new(None)));
    let refused = bench.tenure.stop_unleased("the test says so").await.unwrap_err();
    assert!(refused.contains("local Lease"), "{refused}");
    assert!(server.runs());
}

#[test]
fn the_shorter_stop_grace_counts() {
    let mut status = MultiClusterStatus::default();
    assert_eq!(Promised::of(&status), None, "no configuration");
    let mut config = FleetConfig { mode: Mode::Quorum, ..Default::default() };
    config.stop_grace = Duration::from_secs(30);
    status.configuration = Some(ConfigurationStatus::from(&config));
    let promised = Promised::of(&status).unwrap();
    assert_eq!((promised.stop_grace, promised.patience()), (config.stop_grace, Duration::from_millis(2400)));
    let vote = json!({"term": 7, "candidate": "newyork", "configVersion": 1, "stopGrace": "10s"});
    status.vote = Some(serde_json::from_value(vote).unwrap());
    assert_eq!(Promised::of(&status).unwrap().stop_grace, Duration::from_secs(10));
    assert_eq!(memory::held(&status), None::<Term>);
}

#[test]
fn a_lease_that_cannot_be_read_is_one() {
    let promised = |status: Value| Promised::of(&serde_json::from_value(status).unwrap());
    let config = |mode: &str, lease: &str| {
        json!({"version": 1, "mode": mode, "leaseDuration": lease, "stopGrace": "4s", "failback": "?",
            "failbackDelay": "", "restartGrace": ""})
    };
    let vote = json!({"term": 7, "candidate": "newyork", "leaseDuration": "3s", "stopGrace": "10s"});
    let grace = |seconds| Some(Duration::from_secs(seconds));
    let of = |status| promised(status).map(|promised| promised.stop_grace);
    assert_eq!(of(json!({"configuration": config("Quorum", "?")})), grace(4));
    assert_eq!(of(json!({"configuration": config("Quorum", "99999999h"), "vote": vote})), grace(4));
    assert_eq!(of(json!({"configuration": config("quorum", "3s"), "vote": vote})), grace(4), "the shorter");
    assert_eq!(of(json!({"vote": vote})), grace(10), "the configuration was lost");
    assert_eq!(of(json!({"configuration": config("quorum", "3s")})), grace(4), "only Quorum writes a lease");
    assert_eq!(of(json!({"configuration": config("", "?")})), grace(4), "whatever it says");
    let mut bare = config("quorum", "3s");
    bare.as_object_mut().unwrap().remove("leaseDuration");
    assert_eq!(of(json!({"configuration": bare})), grace(4), "nor a stop grace");
    bare.as_object_mut().unwrap().remove("stopGrace");
    assert_eq!(of(json!({"configuration": bare, "vote": vote})), grace(10), "by the vote");
    assert_eq!(of(json!({"configuration": bare})), None, "nothing says that there is one");
    assert_eq!(
        of(json!({"configuration": config("Availability", "3s")})),
        None,
        "that says that it needs none"
    );
    assert_eq!(of(json!({"configuration": config("Availability", "3s"), "vote": vote})), None);
    let replaced = config("Availability", "3s");
    let leaves =
        json!({"configuration": config("quorum", "3s"), "replacedConfiguration": replaced, "vote": vote});
    assert_eq!(of(leaves), grace(4), "what it was does not say what it is");
    let long = promised(json!({"configuration": config("Quorum", "9999999999h")})).unwrap();
    assert!(long.patience() <= FleetConfig::LONGEST);
}
