//! The watches themselves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, DynamicObject, ListParams, PartialObjectMeta, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::follower::Follower;
use super::ledger::{Kind, Ledger, Seen};
use super::locked;

/// The label of payload objects.
const LABEL: &str = "kube-vip.io/multicluster";
/// An API server that is away is asked again after this time: short, because it is the precision of what is seen.
const RETRY: Duration = Duration::from_millis(20);
const CALL: Duration = Duration::from_secs(5);
/// What a test's payload is made of. Objects of other kinds are not looked at.
const KINDS: [(&str, &str, &str, Kind); 8] = [
    ("apps", "v1", "Deployment", Kind::Object),
    ("apps", "v1", "StatefulSet", Kind::Object),
    ("apps", "v1", "DaemonSet", Kind::Object),
    ("batch", "v1", "Job", Kind::Object),
    ("", "v1", "ConfigMap", Kind::Object),
    ("", "v1", "Service", Kind::Object),
    ("apps", "v1", "ReplicaSet", Kind::Between),
    ("", "v1", "Pod", Kind::Pod),
];

type Shared = Arc<Mutex<Ledger>>;
type Cluster = (Config, Shared);

/// Follows all kinds in all clusters, in this namespace or all of them, until `stopped`. `ready` is dropped when each
/// has been listed.
pub(super) fn run(
    clusters: Vec<Cluster>,
    namespace: Option<&str>,
    ready: mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread needs nothing that could be missing");
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for (config, ledger) in clusters {
            let client = Client::try_from(config).expect("it was made of a kubeconfig that is in use");
            for (group, version, kind, counts) in KINDS {
                let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
                let api = match namespace {
                    Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                    None => Api::all_with(client.clone(), &resource),
                };
                tasks.spawn(follow(api, Follower::new(counts), counts, ledger.clone(), ready.clone()));
            }
        }
        drop(ready);
        let _ = stopped.await;
    });
}

async fn follow(
    api: Api<DynamicObject>,
    mut follower: Follower,
    kind: Kind,
    ledger: Shared,
    ready: mpsc::Sender<()>,
) {
    let labels = if kind == Kind::Object { LABEL } else { "" };
    let mut ready = Some(ready);
    let mut relist = true;
    loop {
        if relist {
            if list(&api, labels, &mut follower, &ledger).await.is_err() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            drop(ready.take());
        }
        match watch(&api, labels, &mut follower, &ledger).await {
            Ok(End::Expired) => relist = true,
            Ok(End::Closed) | Err(_) => relist = false,
        }
        follower.ended(Instant::now());
        if !relist {
            // An API server that was away for a moment may still know what happened.
            follower.taken_up(current_version(&api).await);
        }
    }
}

async fn list(
    api: &Api<DynamicObject>,
    labels: &str,
    follower: &mut Follower,
    ledger: &Shared,
) -> Result<()> {
    let asked = Instant::now();
    let params = ListParams::default().labels(labels);
    let list = tokio::time::timeout(CALL, api.list_metadata(&params)).await.context("list: no answer")??;
    let answered = Instant::now();
    let version = number(list.metadata.resource_version.as_deref())?;
    let all = list.items.iter().filter_map(seen).collect();
    follower.listed(&mut locked(ledger), version, all, (asked, answered));
    Ok(())
}

/// The version that the API server is at, once it answers: from a list of one object at most, as of its store.
async fn current_version(api: &Api<DynamicObject>) -> u64 {
    let params = ListParams::default().limit(1);
    loop {
        if let Ok(Ok(list)) = tokio::time::timeout(CALL, api.list_metadata(&params)).await
            && let Ok(version) = number(list.metadata.resource_version.as_deref())
        {
            return version;
        }
        tokio::time::sleep(RETRY).await;
    }
}

enum End {
    /// It can be taken up where it was.
    Closed,
    /// The API server has forgotten what happened since.
    Expired,
}

async fn watch(
    api: &Api<DynamicObject>,
    labels: &str,
    follower: &mut Follower,
    ledger: &Shared,
) -> Result<End> {
    let version = follower.version().context("a watch begins where a list ended")?.to_string();
    let params = WatchParams::default().labels(labels);
    let started = tokio::time::timeout(CALL, api.watch_metadata(&params, &version));
    let mut events = match started.await.context("watch: no answer")? {
        Ok(events) => events.boxed(),
        Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Expired),
        Err(error) => return Err(error.into()),
    };
    while let Some(event) = events.try_next().await? {
        let at = Instant::now();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = number(object.metadata.resource_version.as_deref())?;
                let seen = seen(&object).context("an object without a uid")?;
                follower.came(&mut locked(ledger), version, seen, at);
            }
            WatchEvent::Deleted(object) => {
                let version = number(object.metadata.resource_version.as_deref())?;
                let uid = object.metadata.uid.context("an object without a uid")?;
                follower.went(&mut locked(ledger), version, &uid, at);
            }
            WatchEvent::Bookmark(mark) => follower.told_up_to(number(Some(&mark.metadata.resource_version))?),
            WatchEvent::Error(status) if status.code == 410 => return Ok(End::Expired),
            WatchEvent::Error(status) => bail!("watch: {status:?}"),
        }
    }
    Ok(End::Closed)
}

fn seen(object: &PartialObjectMeta<DynamicObject>) -> Option<Seen> {
    let metadata = &object.metadata;
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).cloned();
    let owners = metadata.owner_references.iter().flatten();
    let owner =
        owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone());
    Some(Seen { uid: metadata.uid.clone()?, label, owner })
}

/// One API server's versions are numbers that grow.
fn number(version: Option<&str>) -> Result<u64> {
    version.and_then(|version| version.parse().ok()).with_context(|| format!("resource version {version:?}"))
}
