use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{api_server, refusal};
use crate::tenure::tests::{Bench, bench_over, object};

const COMMAND: &str = "kubectl create rolebinding kube-vip-multi-cluster-payloads --namespace default \
     --clusterrole=edit --serviceaccount=kube-vip-multi-cluster-system:kube-vip-multi-cluster-controller-manager";

/// An API server that lets the daemon do what its own ClusterRole allows, and nothing in the payload's namespace.
fn without_edit(requests: &Arc<Mutex<Vec<(String, Value)>>>) -> kube::Client {
    let seen = Arc::clone(requests);
    api_server(move |method, path, body| {
        seen.lock().unwrap().push((format!("{method} {path}"), body.clone()));
        if path.contains("/multiclusters/") {
            let mut answer = serde_json::to_value(&*object(9990, 1)).unwrap();
            answer["metadata"]["resourceVersion"] = json!("1");
            return (200, answer);
        }
        if path.contains("/events") {
            return (200, body);
        }
        let (code, mut answer) = refusal(403, "Forbidden");
        answer["message"] = json!(
            "configmaps is forbidden: User \"system:serviceaccount:kube-vip-multi-cluster-system:kube-vip-multi-cluster-controller-manager\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
        );
        (code, answer)
    })
}

#[tokio::test(start_paused = true)]
async fn a_namespace_without_rights_is_shown_with_the_command_that_gives_them() {
    let requests = Arc::default();
    let Bench { mut tenure, object: _object, .. } = bench_over(without_edit(&requests));
    for _ in 0..3 {
        assert!(matches!(tenure.prepare().await, Prepared::Wait(_)), "it is tried again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let stall = tenure.stall.clone().unwrap();
    assert_eq!(stall.reason, "Forbidden");
    assert!(stall.message.contains("cannot list resource \"configmaps\""), "{}", stall.message);
    assert!(stall.message.ends_with(COMMAND), "{}", stall.message);

    let requests = requests.lock().unwrap();
    let is_stalled = |body: &Value| {
        let conditions = body["status"]["conditions"].as_array().into_iter().flatten();
        let mut stalled = conditions.filter(|condition| condition["type"] == "Stalled");
        stalled.any(|condition| {
            condition["reason"] == "Forbidden" && condition["message"].as_str().unwrap().contains(COMMAND)
        })
    };
    let mut statuses =
        requests.iter().filter(|(what, _)| what.starts_with("PATCH") && what.ends_with("/status"));
    assert!(statuses.any(|(_, body)| is_stalled(body)), "{requests:?}");
    let events: Vec<_> = requests.iter().filter(|(what, _)| what.contains("/events")).collect();
    assert_eq!(events.len(), 1, "told once: {events:?}");
    assert!(events[0].1["note"].as_str().unwrap().ends_with(COMMAND), "{events:?}");
}

#[test]
fn the_command_names_who_was_refused() {
    assert_eq!(subject("User \"system:serviceaccount:mine:daemon\" cannot"), "--serviceaccount=mine:daemon");
    assert_eq!(subject("User \"alice@example.com\" cannot list"), "--user=alice@example.com");
    for nonsense in ["forbidden", "User \"\" cannot", "User \"x; rm -rf /\" cannot", "User \"x"] {
        assert_eq!(subject(nonsense), format!("--serviceaccount={ACCOUNT}"));
    }
}

#[test]
fn what_may_pass_by_itself_is_no_stall() {
    let identity = || Identity::of(&object(9990, 1)).unwrap();
    let error = |code: u16| {
        let status = kube::core::Status { code, ..Default::default() };
        PrepareError::Finalizer(CallError::Kube(kube::Error::Api(Box::new(status))))
    };
    assert_eq!(error(500).stall(&identity()), None);
    assert!(error(403).stall(&identity()).unwrap().message.contains("deploy/install.yaml"));
    assert_eq!(PrepareError::Status(WriteError::Contended).stall(&identity()), None);
}

/// An API server with one MultiCluster, whose status can be edited behind the daemon's back; and what was written to it.
pub(super) fn with_status(status: &Arc<Mutex<Value>>, writes: &Arc<Mutex<Vec<Value>>>) -> kube::Client {
    let (status, writes) = (Arc::clone(status), Arc::clone(writes));
    api_server(move |method, path, body| {
        if path.contains("/events") {
            return (200, body);
        }
        if !path.contains("/multiclusters/") {
            return (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []}));
        }
        let mut status = status.lock().unwrap();
        if method == "PATCH" && path.ends_with("/status") {
            for (field, value) in body["status"].as_object().unwrap() {
                match value {
                    Value::Null => status.as_object_mut().unwrap().remove(field),
                    value => status.as_object_mut().unwrap().insert(field.clone(), value.clone()),
                };
            }
            writes.lock().unwrap().push(body["status"].clone());
        }
        let mut answer = serde_json::to_value(&*object(9990, 1)).unwrap();
        answer["metadata"]["resourceVersion"] = json!("1");
        answer["status"] = status.clone();
        (200, answer)
    })
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_stalls_the_member_until_somebody_mends_it() {
    let configuration = json!({"version": 1797, "mode": "Quorum", "voters": ["denver", "newyork", "sheffield"],
        "leaseDuration": "3 s", "stopGrace": "10s", "failback": "Automatic", "failbackDelay": "1s", "restartGrace": "3s"});
    let vote = json!({"term": 7, "candidate": "denver", "configVersion": 1797, "leaseDuration": "3s", "stopGrace": "10s"});
    let status = Arc::new(Mutex::new(json!({"term": 7, "vote": vote, "configuration": configuration})));
    let writes = Arc::default();
    let Bench { mut tenure, object: _object, .. } = bench_over(with_status(&status, &writes));
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(30) {
        let Prepared::Wait(time) = tenure.prepare().await else { panic!("it joins by a guess") };
        assert!(time <= MAX_RETRY, "nobody tells when a status is edited");
        tokio::time::sleep(time).await;
    }
    let stall = tenure.stall.clone().unwrap();
    assert_eq!(stall.reason, "DamagedStatus");
    for part in
        ["status.configuration.leaseDuration: \"3 s\" is not a duration", "kubectl patch", FORGET_RECORD]
    {
        assert!(stall.message.contains(part), "{}", stall.message);
    }
    assert!(
        stall.message.chars().count() < flagship_k8s_api::conditions::MAX_MESSAGE_CHARS,
        "it is shown whole"
    );
    assert!(writes.lock().unwrap().iter().all(|write| write.get("epoch").is_none()), "nothing was begun");
    assert_eq!(status.lock().unwrap()["configuration"], configuration, "and nothing replaced");

    status.lock().unwrap()["configuration"]["leaseDuration"] = json!("3s");
    let Prepared::Ready(ready) = tenure.prepare().await else { panic!("it is mended") };
    let record = ready.record.unwrap();
    assert_eq!((record.config.mode, record.vote.unwrap().term), (flagship_types::Mode::Quorum, Term(7)));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_forgets_its_record_starts_without_one() {
    let status = Arc::new(Mutex::new(json!({"term": -1, "heldTerm": 7, "epoch": 5})));
    let Bench { mut tenure, object: _object, .. } = bench_over(with_status(&status, &Arc::default()));
    assert!(matches!(tenure.prepare().await, Prepared::Wait(_)));
    let patch: Value = serde_json::from_str(FORGET_RECORD).unwrap();
    for field in patch["status"].as_object().unwrap().keys() {
        status.lock().unwrap().as_object_mut().unwrap().remove(field);
    }
    let Prepared::Ready(ready) = tenure.prepare().await else { panic!("it has no record now") };
    assert_eq!(ready.record, None);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_does_not_keep_an_object_from_being_removed() {
    let status = Arc::new(Mutex::new(json!({"term": -1})));
    let Bench { mut tenure, object: edit, .. } = bench_over(with_status(&status, &Arc::default()));
    let mut deleted = (*object(9990, 2)).clone();
    deleted.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    edit.send_replace(Arc::new(deleted));
    assert!(matches!(tenure.prepare().await, Prepared::Leftovers));
}
