//! Whether an object is ready, by the rules of kstatus.

use serde_json::Value;

use crate::object::GroupKind;

/// How far an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// As it was asked for.
    Ready,
    /// On its way; why not yet.
    InProgress(String),
    /// It says itself that it will not get there.
    Failed(String),
}

/// Judges one object by what it says of itself.
pub fn assess(kind: &GroupKind, object: &Value) -> Readiness {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return waiting("it is being deleted");
    }
    let status = &object["status"];
    let generation = object["metadata"]["generation"].as_i64();
    if let (Some(seen), Some(now)) = (status["observedGeneration"].as_i64(), generation)
        && seen < now
    {
        return waiting(format!("generation {now} has not been looked at (only {seen})"));
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => replica_set(object),
        ("batch", "Job") => job(status),
        ("", "Pod") => pod(status),
        ("", "PersistentVolumeClaim") => match status["phase"].as_str() {
            Some("Bound") => Readiness::Ready,
            phase => waiting(format!("it is {}, not Bound", phase.unwrap_or("new"))),
        },
        ("", "Service") => service(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd(status),
        _ => by_conditions(status),
    }
}

fn waiting(why: impl Into<String>) -> Readiness {
    Readiness::InProgress(why.into())
}

fn condition<'a>(status: &'a Value, which: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == which)
}

fn holds(condition: Option<&Value>) -> bool {
    condition.is_some_and(|condition| condition["status"] == "True")
}

fn message(condition: &Value) -> String {
    let text = |key| condition[key].as_str().filter(|text| !text.is_empty());
    text("message").or(text("reason")).unwrap_or("no reason given").to_owned()
}

/// Absent counts are zero, as omitted by the API server; an absent `replicas` in a spec means one.
fn count(value: &Value, default: i64) -> i64 {
    value.as_i64().unwrap_or(default)
}

fn deployment(object: &Value) -> Readiness {
    let (spec, status) = (&object["spec"], &object["status"]);
    let progressing = condition(status, "Progressing");
    if let Some(stuck) = progressing.filter(|condition| condition["reason"] == "ProgressDeadlineExceeded") {
        return Readiness::Failed(message(stuck));
    }
    if status["observedGeneration"].is_null() {
        return waiting("its controller has not looked at it");
    }
    let wanted = count(&spec["replicas"], 1);
    let [all, updated, ready, available] =
        ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
            .map(|key| count(&status[key], 0));
    if updated < wanted {
        return waiting(format!("{updated} of {wanted} replicas are updated"));
    }
    if all > updated {
        return waiting(format!("{} old replicas are left", all - updated));
    }
    if available < wanted {
        return waiting(format!("{available} of {wanted} replicas are available"));
    }
    if ready < wanted {
        return waiting(format!("{ready} of {wanted} replicas are ready"));
    }
    Readiness::Ready
}

fn stateful_set(object: &Value) -> Readiness {
    let (spec, status) = (&object["spec"], &object["status"]);
    if spec["updateStrategy"]["type"] == "OnDelete" {
        return Readiness::Ready;
    }
    if status["observedGeneration"].is_null() {
        return waiting("its controller has not looked at it");
    }
    let wanted = count(&spec["replicas"], 1);
    let [all, ready, current, updated] =
        ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas"].map(|key| count(&status[key], 0));
    if ready < wanted {
        return waiting(format!("{ready} of {wanted} replicas are ready"));
    }
    if all > wanted {
        return waiting(format!("{} replicas too many", all - wanted));
    }
    let partition = count(&spec["updateStrategy"]["rollingUpdate"]["partition"], 0);
    if partition > 0 {
        return match updated < wanted - partition {
            true => waiting(format!("{updated} of {} replicas are updated", wanted - partition)),
            false => Readiness::Ready,
        };
    }
    if current < wanted || status["currentRevision"] != status["updateRevision"] {
        return waiting(format!("{updated} of {wanted} replicas are updated"));
    }
    Readiness::Ready
}

fn daemon_set(object: &Value) -> Readiness {
    let status = &object["status"];
    if status["observedGeneration"].is_null() {
        return waiting("its controller has not looked at it");
    }
    let wanted = count(&status["desiredNumberScheduled"], 0);
    let on_delete = object["spec"]["updateStrategy"]["type"] == "OnDelete";
    let counts = [
        ("currentNumberScheduled", "scheduled"),
        ("updatedNumberScheduled", "updated"),
        ("numberAvailable", "available"),
        ("numberReady", "ready"),
    ];
    for (key, word) in counts {
        let have = count(&status[key], 0);
        if have < wanted && !(on_delete && word == "updated") {
            return waiting(format!("{have} of {wanted} pods are {word}"));
        }
    }
    Readiness::Ready
}

fn replica_set(object: &Value) -> Readiness {
    let status = &object["status"];
    if let Some(failure) = condition(status, "ReplicaFailure").filter(|condition| holds(Some(condition))) {
        return waiting(message(failure));
    }
    let wanted = count(&object["spec"]["replicas"], 1);
    let [all, ready] = ["replicas", "readyReplicas"].map(|key| count(&status[key], 0));
    match () {
        () if ready < wanted => waiting(format!("{ready} of {wanted} replicas are ready")),
        () if all > wanted => waiting(format!("{} replicas too many", all - wanted)),
        () => Readiness::Ready,
    }
}

fn job(status: &Value) -> Readiness {
    if let Some(failed) = condition(status, "Failed").filter(|condition| holds(Some(condition))) {
        return Readiness::Failed(message(failed));
    }
    match holds(condition(status, "Complete")) || status["startTime"].is_string() {
        true => Readiness::Ready,
        false => waiting("it has not started"),
    }
}

fn pod(status: &Value) -> Readiness {
    match status["phase"].as_str().unwrap_or_default() {
        "Succeeded" => Readiness::Ready,
        "Failed" => Readiness::Failed(status["message"].as_str().unwrap_or("a container failed").to_owned()),
        "Running" if holds(condition(status, "Ready")) => Readiness::Ready,
        phase => {
            let blocked = ["PodScheduled", "Ready"].into_iter().filter_map(|which| condition(status, which));
            let why = blocked.filter(|condition| condition["status"] == "False").map(message).next();
            waiting(why.unwrap_or_else(|| format!("it is {}", if phase.is_empty() { "new" } else { phase })))
        }
    }
}

fn service(object: &Value) -> Readiness {
    let spec = &object["spec"];
    match spec["type"] == "LoadBalancer" && spec["clusterIP"].as_str().unwrap_or_default().is_empty() {
        true => waiting("it has no cluster IP"),
        false => Readiness::Ready,
    }
}

fn crd(status: &Value) -> Readiness {
    if let Some(refused) =
        condition(status, "NamesAccepted").filter(|condition| condition["status"] == "False")
    {
        return Readiness::Failed(message(refused));
    }
    match holds(condition(status, "Established")) {
        true => Readiness::Ready,
        false => waiting("it is not established"),
    }
}

fn by_conditions(status: &Value) -> Readiness {
    if let Some(stalled) = condition(status, "Stalled").filter(|condition| holds(Some(condition))) {
        return Readiness::Failed(message(stalled));
    }
    if let Some(busy) = condition(status, "Reconciling").filter(|condition| holds(Some(condition))) {
        return waiting(message(busy));
    }
    match condition(status, "Ready") {
        Some(ready) if ready["status"] != "True" => waiting(message(ready)),
        _ => Readiness::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[allow(clippy::needless_pass_by_value, reason = "written in place")]
    fn judge(kind: &str, object: Value) -> Readiness {
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        assess(&GroupKind { group: group.into(), kind: kind.into() }, &object)
    }

    fn in_progress(kind: &str, object: Value, why: &str) {
        match judge(kind, object) {
            Readiness::InProgress(text) => assert!(text.contains(why), "{kind}: {text}"),
            other => panic!("{kind}: {other:?}"),
        }
    }

    #[test]
    fn deployments() {
        let with =
            |status: Value| json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status});
        in_progress("Deployment.apps", with(json!({})), "not looked");
        in_progress("Deployment.apps", with(json!({"observedGeneration": 1})), "generation 2");
        let mut status = json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 2});
        in_progress("Deployment.apps", with(status.clone()), "2 of 3 replicas are updated");
        status["updatedReplicas"] = json!(3);
        in_progress("Deployment.apps", with(status.clone()), "1 old");
        status["replicas"] = json!(3);
        in_progress("Deployment.apps", with(status.clone()), "0 of 3 replicas are available");
        status["availableReplicas"] = json!(3);
        status["readyReplicas"] = json!(3);
        assert_eq!(judge("Deployment.apps", with(status.clone())), Readiness::Ready);
        status["conditions"] = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too slow"}]);
        assert_eq!(judge("Deployment.apps", with(status)), Readiness::Failed("too slow".into()));
    }

    #[test]
    fn other_workloads() {
        let set = |status: Value| json!({"spec": {"replicas": 2}, "status": status});
        in_progress("StatefulSet.apps", set(json!({"observedGeneration": 1, "readyReplicas": 1})), "1 of 2");
        let done = json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "currentReplicas": 2, "currentRevision": "a", "updateRevision": "a"});
        assert_eq!(judge("StatefulSet.apps", set(done)), Readiness::Ready);
        let daemon = json!({"status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 1}});
        in_progress("DaemonSet.apps", daemon, "1 of 2 pods are updated");
        assert_eq!(judge("DaemonSet.apps", json!({"status": {"observedGeneration": 1}})), Readiness::Ready);
        in_progress("Job.batch", json!({"status": {}}), "not started");
        assert_eq!(judge("Job.batch", json!({"status": {"startTime": "x"}})), Readiness::Ready);
        let failed =
            json!({"status": {"conditions": [{"type": "Failed", "status": "True", "message": "boom"}]}});
        assert_eq!(judge("Job.batch", failed), Readiness::Failed("boom".into()));
        let unscheduled = json!({"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]}});
        in_progress("Pod", unscheduled, "no node");
        let running =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(judge("Pod", running), Readiness::Ready);
    }

    #[test]
    fn everything_else() {
        in_progress("PersistentVolumeClaim", json!({"status": {"phase": "Pending"}}), "Pending");
        in_progress("Service", json!({"spec": {"type": "LoadBalancer"}}), "cluster IP");
        assert_eq!(judge("Service", json!({"spec": {"type": "ClusterIP"}})), Readiness::Ready);
        in_progress("CustomResourceDefinition.apiextensions.k8s.io", json!({}), "established");
        assert_eq!(judge("ConfigMap", json!({"data": {}})), Readiness::Ready);
        let custom = |which: &str, status: &str| json!({"status": {"conditions": [{"type": which, "status": status, "message": "m"}]}});
        in_progress("Gadget.example.org", custom("Ready", "False"), "m");
        in_progress("Gadget.example.org", custom("Reconciling", "True"), "m");
        assert_eq!(judge("Gadget.example.org", custom("Stalled", "True")), Readiness::Failed("m".into()));
        assert_eq!(judge("Gadget.example.org", custom("Ready", "True")), Readiness::Ready);
        in_progress("ConfigMap", json!({"metadata": {"deletionTimestamp": "x"}}), "deleted");
        assert_eq!(judge("ConfigMap", json!({"status": "garbage", "metadata": []})), Readiness::Ready);
    }
}
