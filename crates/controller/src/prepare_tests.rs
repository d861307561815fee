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
    let error = |code: u16| {
        let status = kube::core::Status { code, ..Default::default() };
        PrepareError::Finalizer(CallError::Kube(kube::Error::Api(Box::new(status))))
    };
    assert_eq!(error(500).stall("default"), None);
    assert!(error(403).stall("default").unwrap().message.contains("deploy/install.yaml"));
    assert_eq!(PrepareError::Status(WriteError::Contended).stall("default"), None);
}
