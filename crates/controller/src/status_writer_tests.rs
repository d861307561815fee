use std::sync::Mutex;

use flagship_node::{ElectionRecord, Vote};
use flagship_types::{FleetConfig, Term};
use kube::Client;
use serde_json::json;

use super::*;
use crate::fixtures::{api_server, refusal};
use crate::ports::NoObserver;

/// An API server with one object, which counts versions and refuses old ones.
#[derive(Default)]
struct Object {
    version: u64,
    uid: &'static str,
    status: Value,
    /// The statuses of all accepted patches.
    patches: Vec<Value>,
    /// Whether patches are answered with an error.
    down: bool,
}

impl Object {
    fn body(&self) -> Value {
        json!({
            "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
            "metadata": {
                "name": "newyork", "namespace": "default", "uid": self.uid,
                "resourceVersion": self.version.to_string(),
            },
            "spec": {"port": 9990, "callsign": "federation"}, "status": self.status,
        })
    }

    fn answer(&mut self, method: &str, body: &Value) -> (u16, Value) {
        if self.down {
            return refusal(503, "ServiceUnavailable");
        }
        if method == "PATCH" {
            if body["metadata"]["resourceVersion"] != json!(self.version.to_string()) {
                return refusal(409, "Conflict");
            }
            self.version += 1;
            merge(&mut self.status, &body["status"]);
            self.patches.push(body["status"].clone());
        }
        (200, self.body())
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        let fields = into.as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn server() -> (Arc<Mutex<Object>>, Client) {
    let object = Arc::new(Mutex::new(Object { version: 1, uid: "u-1", ..Default::default() }));
    let shared = Arc::clone(&object);
    (object, api_server(move |method, _, body| shared.lock().unwrap().answer(method, &body)))
}

async fn open(client: Client) -> StatusHandle {
    let caller = Caller::new(Arc::new(NoObserver));
    let api = Api::namespaced(client, "default");
    StatusWriter::open(api, caller, "newyork", "u-1", "pod-1").await.unwrap().0
}

fn record(term: u64) -> DurableRecord {
    let election = ElectionRecord {
        promise: None,
        version: term,
        vote: Some(Vote { term: Term(term), candidate: "newyork".parse().unwrap() }),
        held: Some(Term(term)),
        stopping: None,
        released: None,
        term: Term(term),
        leader: None,
        config: FleetConfig::default(),
        forgotten: Vec::new(),
        replaced: None,
        chosen: false,
    };
    DurableRecord { epoch: Epoch(99), election }
}

fn fleet() -> Callsign {
    "federation".parse().unwrap()
}

fn shown(role: &str) -> Picture {
    let status = MultiClusterStatus { role: Some(role.into()), ..Default::default() };
    let ready = Judgement {
        which: ConditionType::Ready,
        status: Some(true),
        reason: "Standby".into(),
        message: "fine".into(),
    };
    Picture { status, judgements: vec![ready] }
}

#[tokio::test]
async fn what_must_be_durable_is_written_before_the_answer() {
    let (object, client) = server();
    let status = open(client).await;
    let start = status.begin().await.unwrap();
    assert_eq!(object.lock().unwrap().status["holder"], "pod-1");
    assert_eq!(object.lock().unwrap().status["epoch"], json!(start.epoch.0));
    status.store(&fleet()).persist(&record(7)).await.unwrap();
    let stored = object.lock().unwrap().status.clone();
    assert_eq!(stored["vote"], json!({"term": 7, "candidate": "newyork", "configVersion": 0}));
    assert_eq!((&stored["heldTerm"], &stored["callsign"]), (&json!(7), &json!("federation")));
    let mut done = record(8);
    done.election.held = None;
    status.store(&fleet()).persist(&done).await.unwrap();
    assert_eq!(object.lock().unwrap().status.get("heldTerm"), None, "what is over is removed");
}

#[tokio::test]
async fn a_conflict_is_read_again_and_only_our_fields_are_merged() {
    let (object, client) = server();
    let status = open(client).await;
    {
        let mut object = object.lock().unwrap();
        object.version = 50;
        object.status = json!({"role": "Standby"});
    }
    status.store(&fleet()).persist(&record(7)).await.unwrap();
    let object = object.lock().unwrap();
    assert_eq!(object.patches.len(), 1);
    assert_eq!((&object.status["role"], &object.status["term"]), (&json!("Standby"), &json!(7)));
}

#[tokio::test]
async fn another_object_of_the_same_name_is_left_alone() {
    let (object, client) = server();
    let status = open(client).await;
    {
        let mut object = object.lock().unwrap();
        (object.version, object.uid) = (2, "u-2");
    }
    assert!(status.store(&fleet()).persist(&record(7)).await.is_err());
    assert!(object.lock().unwrap().patches.is_empty());
}

#[tokio::test]
async fn a_newer_process_is_not_written_over() {
    let (object, client) = server();
    let status = open(client).await;
    status.begin().await.unwrap();
    {
        let mut object = object.lock().unwrap();
        object.version += 1;
        object.status["epoch"] = json!(i64::MAX);
        object.status["holder"] = json!("pod-2");
    }
    let error = status.store(&fleet()).persist(&record(7)).await.unwrap_err();
    assert!(error.to_string().contains("pod-2"), "{error}");
    assert_eq!(status.usurper().borrow().as_deref(), Some("pod-2"), "which ends the tenure");
}

#[tokio::test]
async fn an_unanswered_write_is_not_taken_for_done() {
    let (object, client) = server();
    let status = open(client).await;
    status.store(&fleet()).persist(&record(7)).await.unwrap();
    object.lock().unwrap().down = true;
    assert!(status.store(&fleet()).persist(&record(8)).await.is_err());
    {
        // It had arrived after all.
        let mut object = object.lock().unwrap();
        object.down = false;
        object.version += 1;
        object.status["term"] = json!(8);
    }
    status.store(&fleet()).persist(&record(7)).await.unwrap();
    assert_eq!(
        object.lock().unwrap().status["term"],
        json!(7),
        "compared with what is there, not what was thought"
    );
}

#[tokio::test(start_paused = true)]
async fn pictures_are_collected_and_never_loop() {
    let (object, client) = server();
    let status = open(client).await;
    for role in ["Joining", "Candidate", "Leader"] {
        status.show(shown(role));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(object.lock().unwrap().patches.len(), 1, "one write for three changes");
    assert_eq!(object.lock().unwrap().status["role"], "Leader");
    status.show(shown("Leader"));
    let mut later = shown("Leader");
    later.status.lead_since = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    status.show(later);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(object.lock().unwrap().patches.len(), 1, "times alone are no change");
}

#[tokio::test(start_paused = true)]
async fn a_picture_waits_for_an_api_server_that_is_away() {
    let (object, client) = server();
    let status = open(client).await;
    object.lock().unwrap().down = true;
    status.show(shown("Leader"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(object.lock().unwrap().patches.is_empty());
    object.lock().unwrap().down = false;
    tokio::time::sleep(RETRY * 2).await;
    assert_eq!(object.lock().unwrap().status["role"], "Leader");
}

#[tokio::test]
async fn pictures_do_not_touch_what_is_durable() {
    let (object, client) = server();
    let status = open(client).await;
    status.store(&fleet()).persist(&record(7)).await.unwrap();
    let mut picture = shown("Leader");
    picture.status.term = Some(1);
    picture.status.vote = None;
    status.show(picture);
    status.flush().await.unwrap();
    let stored = object.lock().unwrap().status.clone();
    assert_eq!(
        (&stored["term"], &stored["vote"]["term"], &stored["role"]),
        (&json!(7), &json!(7), &json!("Leader"))
    );
}

#[test]
fn conditions_that_nothing_is_said_of_go() {
    let mut server = MultiClusterStatus::default();
    let stalled = Judgement {
        which: ConditionType::Stalled,
        status: Some(true),
        reason: "InvalidSpec".into(),
        message: "spec.port".into(),
    };
    let both = Picture { judgements: vec![stalled, shown("x").judgements[0].clone()], ..shown("x") };
    server = compose(&server, &both, Timestamp::UNIX_EPOCH);
    assert_eq!(server.conditions.len(), 2);
    let later = compose(&server, &shown("x"), Timestamp::now());
    assert_eq!(later.conditions.len(), 1);
    assert_eq!(later.conditions[0].last_transition_time.0, Timestamp::UNIX_EPOCH, "Ready did not change");
}
