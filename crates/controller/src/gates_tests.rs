//! Over an API server in memory that holds ConfigMaps.

use flagship_k8s_api::GateKey;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::context;
use crate::payload_worker::tests::{GOOD, Maps, NoJoiner, api_server, target, until};

fn gate(kind: &str, name: &str, namespace: Option<&str>, at: usize) -> GateKey {
    GateKey {
        group: String::new(),
        version: "v1".into(),
        kind: kind.into(),
        namespace: namespace.map(Into::into),
        name: name.into(),
        path: format!("spec.health.gates[{at}]"),
    }
}

fn map(ready: bool) -> Value {
    let condition =
        json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "message": "still warm"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "db", "namespace": "default"},
        "status": {"conditions": [condition]}})
}

struct Bench {
    maps: Maps,
    targets: watch::Sender<Target>,
    seen: watch::Receiver<Gates>,
    _watch: AbortOnDrop,
}

fn bench(gates: Vec<GateKey>) -> Bench {
    let maps = Maps::default();
    let context = Arc::new(context(api_server(Arc::clone(&maps)), Arc::new(NoJoiner)));
    let (targets, read) = watch::channel(with(gates));
    let owner = Owner { namespace: "default".into(), name: "newyork".into() };
    let (watch, seen) = watch(context, owner, read);
    Bench { maps, targets, seen, _watch: watch }
}

fn with(gates: Vec<GateKey>) -> Target {
    let mut target = target(GOOD);
    target.settings.health.gates = gates;
    target
}

#[tokio::test]
async fn a_gate_opens_when_its_object_is_there_and_ready_and_closes_again() {
    tokio::time::pause();
    let bench = bench(vec![gate("ConfigMap", "db", None, 0)]);
    let closed = |says: &'static str| {
        let seen = bench.seen.clone();
        move || seen.borrow().closed().is_some_and(|closed| closed.contains(says))
    };
    until("missing", closed("spec.health.gates[0]: ConfigMap default/db does not exist")).await;
    bench.maps.lock().unwrap().insert("db".into(), map(false));
    until("not ready", closed("ConfigMap default/db is not ready: still warm")).await;
    bench.maps.lock().unwrap().insert("db".into(), map(true));
    until("open", || bench.seen.borrow().hold()).await;
    bench.maps.lock().unwrap().clear();
    until("closed again", closed("does not exist")).await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_said_for_each() {
    let gates = vec![
        gate("ConfigMap", "db", Some("other"), 0),
        gate("Gadget", "x", None, 1),
        gate("ConfigMap", "db", Some("default"), 2),
    ];
    let bench = bench(gates);
    bench.maps.lock().unwrap().insert("db".into(), map(true));
    let mut seen = bench.seen.clone();
    let closed = seen.wait_for(|gates| gates.closed().is_some()).await.unwrap().closed().unwrap();
    assert!(closed.contains("--allow-cross-namespace") && closed.contains("namespace default"), "{closed}");
    assert!(closed.contains("spec.health.gates[1]: this cluster serves no kind Gadget in v1"), "{closed}");
    assert!(!closed.contains("gates[2]"), "{closed}");
}

#[tokio::test]
async fn without_gates_all_hold_and_an_edit_counts_at_once() {
    let bench = bench(Vec::new());
    let mut seen = bench.seen.clone();
    seen.wait_for(Gates::hold).await.unwrap();
    bench.targets.send_replace(with(vec![gate("ConfigMap", "db", None, 0)]));
    seen.wait_for(|gates| !gates.hold()).await.unwrap();
    seen.wait_for(|gates| gates.closed().is_some()).await.unwrap();
    bench.targets.send_replace(with(Vec::new()));
    seen.wait_for(Gates::hold).await.unwrap();
}
