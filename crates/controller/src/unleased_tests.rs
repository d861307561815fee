use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flagship_types::Term;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::fixtures::api_server;
use crate::payload_worker::tests::{Maps, OBJECT, answer};
use crate::tenure::tests::{Bench, bench_over};

/// A MultiCluster and ConfigMaps, and what was asked of them.
#[derive(Clone, Default)]
struct Server {
    status: Arc<Mutex<Value>>,
    maps: Maps,
    /// Deletions, and the term that the status said was being stopped at that moment.
    deleted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    /// newyork held term 7 when its last process ended, and its ConfigMap `one` is there.
    fn after_a_lead(mode: &str) -> Self {
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

    fn client(&self) -> Client {
        let server = self.clone();
        api_server(move |method, path, body| server.answer(method, path, body))
    }

    fn answer(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
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

    fn runs(&self) -> bool {
        !self.maps.lock().unwrap().is_empty()
    }
}

/// A member that holds its local Lease and whose status is open, as before each try to join.
async fn bench(server: &Server) -> Bench {
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
    let mut config = flagship_types::FleetConfig { mode: Mode::Quorum, ..Default::default() };
    config.stop_grace = Duration::from_secs(30);
    status.configuration = Some(ConfigurationStatus::from(&config));
    let promised = Promised::of(&status).unwrap();
    assert_eq!((promised.stop_grace, promised.patience()), (config.stop_grace, Duration::from_millis(2400)));
    let vote = json!({"term": 7, "candidate": "newyork", "configVersion": 1, "stopGrace": "10s"});
    status.vote = Some(serde_json::from_value(vote).unwrap());
    assert_eq!(Promised::of(&status).unwrap().stop_grace, Duration::from_secs(10));
    assert_eq!(memory::held(&status), None::<Term>);
}
