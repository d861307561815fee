//! The finalizer, which keeps an object until its payload is gone.

use flagship_k8s_api::{FINALIZER, MultiCluster};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};

use crate::request::{CallError, Caller, Verb};

/// Conflicts in a row that one change survives.
const MAX_CONFLICTS: u32 = 5;

/// Whether our finalizer is on the object.
pub(crate) fn is_set(object: &MultiCluster) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting(object: &MultiCluster) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// Puts the finalizer on the object, unless it is there or the object is being deleted.
pub(crate) async fn add(
    api: &Api<MultiCluster>,
    caller: &Caller,
    object: &MultiCluster,
) -> Result<(), CallError> {
    change(api, caller, object, |object| {
        let wanted = !is_set(object) && !is_deleting(object);
        wanted.then(|| object.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect())
    })
    .await
}

/// Takes the finalizer off. Success also if the object is gone already.
pub(crate) async fn remove(
    api: &Api<MultiCluster>,
    caller: &Caller,
    object: &MultiCluster,
) -> Result<(), CallError> {
    let removed = change(api, caller, object, |object| {
        is_set(object).then(|| object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect())
    })
    .await;
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

/// Replaces the list of finalizers by what `next` makes of it, guarded by the object's version and uid.
async fn change(
    api: &Api<MultiCluster>,
    caller: &Caller,
    object: &MultiCluster,
    next: impl Fn(&MultiCluster) -> Option<Vec<String>>,
) -> Result<(), CallError> {
    let (name, uid) = (object.name_any(), object.uid());
    let mut object = object.clone();
    for attempt in 0.. {
        let Some(finalizers) = next(&object) else { return Ok(()) };
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers }
        });
        let params = PatchParams::default();
        let send = async { api.patch_metadata(&name, &params, &Patch::Merge(&patch)).await };
        let Err(error) = caller.call(Verb::Patch, send).await else { return Ok(()) };
        if !error.is_conflict() || attempt >= MAX_CONFLICTS {
            return Err(error);
        }
        object = caller.call(Verb::Get, async { api.get(&name).await }).await?;
        if object.uid() != uid {
            // Another object of the same name is none of ours.
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::{api_server, refusal};
    use crate::ports::NoObserver;

    fn object(version: &str, finalizers: &[&str]) -> Value {
        json!({
            "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
            "metadata": {"name": "newyork", "uid": "u", "resourceVersion": version, "finalizers": finalizers},
            "spec": {"port": 9990},
        })
    }

    #[tokio::test]
    async fn other_finalizers_survive_a_conflict() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&written);
        let client = api_server(move |method, _, body| match method {
            "PATCH" if body["metadata"]["resourceVersion"] != "2" => refusal(409, "Conflict"),
            "PATCH" => {
                seen.lock().unwrap().push(body["metadata"]["finalizers"].clone());
                (200, object("3", &[]))
            }
            _ => (200, object("2", &["example.com/other"])),
        });
        let (api, caller) = (Api::namespaced(client, "default"), Caller::new(Arc::new(NoObserver)));
        let stale: MultiCluster = serde_json::from_value(object("1", &[])).unwrap();
        add(&api, &caller, &stale).await.unwrap();
        assert_eq!(*written.lock().unwrap(), [json!(["example.com/other", FINALIZER])]);
    }

    #[tokio::test]
    async fn an_object_that_is_gone_needs_no_finalizer_off() {
        let client = api_server(|_, _, _| refusal(404, "NotFound"));
        let (api, caller) = (Api::namespaced(client, "default"), Caller::new(Arc::new(NoObserver)));
        let object: MultiCluster = serde_json::from_value(object("1", &[FINALIZER])).unwrap();
        remove(&api, &caller, &object).await.unwrap();
    }
}
