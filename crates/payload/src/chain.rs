//! Workloads and what they own: gone only when the last pod is.
//!
//! The API server forgets a Deployment long before its pods have ended, so the chain of owners is recorded first, every
//! level is deleted from the top (a ReplicaSet whose pods go first makes new ones), and the end of all is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flagship_k8s_api::ObjectState;
use kube::core::{ApiResource, ObjectMeta};

use crate::cluster::side_by_side;
use crate::delete::{Deletion, FIRST_PAUSE, Look};
use crate::error::{ApiError, DeleteError, Stuck};
use crate::inventory::Entry;
use crate::object::{GroupKind, ObjectId};
use crate::plan::Owner;

/// After the last pod is gone, one more look this much later: a controller that had not yet seen its owner's deletion
/// may have made another one. Its watch is behind by milliseconds.
const CONFIRM_AFTER: Duration = Duration::from_millis(100);

/// One object of the chain. How many there are is bounded by what the cluster runs for the payload.
struct Link {
    id: ObjectId,
    uid: String,
    /// 0 for objects of the inventory, then one more for each owner.
    level: usize,
    /// From the inventory: its entry goes when the chain has ended.
    listed: bool,
    /// `None`: gone.
    live: Option<ObjectMeta>,
}

/// A workload stage being deleted.
pub(crate) struct Chain<'a> {
    deletion: &'a Deletion<'a>,
    links: BTreeMap<String, Link>,
}

/// What objects of a kind own that runs.
fn owned_kind(kind: &GroupKind) -> Option<ApiResource> {
    let resource = |group: &str, kind: &str, plural: &str| {
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        ApiResource {
            group: group.into(),
            version: "v1".into(),
            api_version,
            kind: kind.into(),
            plural: plural.into(),
        }
    };
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "Deployment") => Some(resource("apps", "ReplicaSet", "replicasets")),
        ("batch", "CronJob") => Some(resource("batch", "Job", "jobs")),
        ("apps", "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => Some(resource("", "Pod", "pods")),
        _ => None,
    }
}

fn is_pod(id: &ObjectId) -> bool {
    id.group.is_empty() && id.kind == "Pod"
}

impl<'a> Chain<'a> {
    /// Deletes workloads and everything below them. Returns how many inventory entries went.
    pub(crate) async fn delete(
        deletion: &'a Deletion<'a>,
        ids: &[&ObjectId],
        owner: &Owner,
    ) -> Result<usize, DeleteError> {
        let mut chain = Self { deletion, links: BTreeMap::new() };
        chain.record_roots(ids, owner).await?;
        chain.record_owned().await?;
        let had_pods = chain.links.values().any(|link| is_pod(&link.id));
        let mut pause = FIRST_PAUSE;
        let mut confirmed = !had_pods;
        loop {
            // Also what came up since the last look: the gate makes it durable before it gives leave.
            chain.note_between();
            chain.ask_top_down().await?;
            chain.look_again(owner).await?;
            let left: Vec<Stuck> = chain.links.values().filter_map(Link::stuck).collect();
            match (left.is_empty(), confirmed) {
                (true, true) => break,
                (true, false) => {
                    confirmed = true;
                    tokio::time::sleep(CONFIRM_AFTER).await;
                    chain.look_again(owner).await?;
                }
                (false, _) => deletion.wait(&mut pause, left).await?,
            }
        }
        let listed: Vec<ObjectId> =
            chain.links.values().filter(|link| link.listed).map(|link| link.id.clone()).collect();
        listed.iter().for_each(|id| deletion.gone(id));
        Ok(listed.len())
    }

    async fn record_roots(&mut self, ids: &[&ObjectId], owner: &Owner) -> Result<(), ApiError> {
        for (id, look) in self.deletion.look_at_all(ids, owner).await? {
            let known = self.deletion.tracker.borrow().inventory.get(id).map(|entry| entry.uid.clone());
            let (uid, live) = match look {
                Look::Foreign => {
                    self.deletion.forget(id);
                    continue;
                }
                // Gone, but what it owned may still run: an earlier process may have begun to delete it.
                Look::Gone => (known.unwrap_or_default(), None),
                Look::Live(live) => (live.uid.clone(), Some(live.metadata)),
            };
            if uid.is_empty() {
                // Announced and never created.
                self.deletion.forget(id);
                continue;
            }
            let link = Link { id: id.clone(), uid: uid.clone(), level: 0, listed: true, live };
            self.links.insert(uid, link);
        }
        Ok(())
    }

    /// Adds what the links own, level by level, until nothing new is found.
    async fn record_owned(&mut self) -> Result<(), ApiError> {
        let mut seen: BTreeSet<(GroupKind, String)> = BTreeSet::new();
        loop {
            // Each kind is listed once per namespace and round; a kind comes up when its owners do.
            let mut wanted: BTreeMap<(GroupKind, String), ApiResource> = BTreeMap::new();
            for link in self.links.values() {
                if let Some(resource) = owned_kind(&link.id.group_kind()) {
                    let kind = GroupKind { group: resource.group.clone(), kind: resource.kind.clone() };
                    let key = (kind, link.id.namespace.clone());
                    if !seen.contains(&key) {
                        wanted.insert(key, resource);
                    }
                }
            }
            // Owners before what they own, so that a Deployment's ReplicaSets are known when its pods are listed.
            let pods_last = wanted.keys().any(|(kind, _)| kind.kind != "Pod");
            wanted.retain(|(kind, _), _| !pods_last || kind.kind != "Pod");
            if wanted.is_empty() {
                return Ok(());
            }
            let deletion = self.deletion;
            let lists: Vec<_> = (wanted.iter())
                .map(|(key, resource)| async move {
                    (key, deletion.cluster.list_metadata(resource, &key.1, None).await)
                })
                .collect();
            let lists = side_by_side(lists).await;
            for (key, items) in lists {
                for item in items? {
                    self.adopt(&key.0, item.metadata);
                }
                seen.insert(key.clone());
            }
        }
    }

    /// Takes an object into the chain if one of the links owns it.
    fn adopt(&mut self, kind: &GroupKind, metadata: ObjectMeta) {
        let owners = metadata.owner_references.iter().flatten();
        let Some(level) =
            owners.filter_map(|owner| self.links.get(&owner.uid)).map(|owner| owner.level + 1).max()
        else {
            return;
        };
        let (name, namespace) =
            (metadata.name.clone().unwrap_or_default(), metadata.namespace.clone().unwrap_or_default());
        let id = ObjectId { group: kind.group.clone(), kind: kind.kind.clone(), namespace, name };
        let uid = metadata.uid.clone().unwrap_or_default();
        let link =
            self.links.entry(uid.clone()).or_insert(Link { id, uid, level, listed: false, live: None });
        link.level = link.level.max(level);
        link.live = Some(metadata);
    }

    /// Puts what stands between workloads and pods into the inventory: if this process dies after it is deleted, the
    /// next one could not tell any more whose the pods are.
    fn note_between(&mut self) {
        let between = self
            .links
            .values_mut()
            .filter(|link| !link.listed && owned_kind(&link.id.group_kind()).is_some());
        let mut entries = Vec::new();
        for link in between {
            link.listed = true;
            let (version, state) = ("v1".into(), ObjectState::Deleting);
            entries.push((link.id.clone(), Entry { version, uid: link.uid.clone(), generation: 0, state }));
        }
        if !entries.is_empty() {
            self.deletion.tracker.send_modify(|progress| {
                entries.drain(..).for_each(|(id, entry)| progress.inventory.insert(id, entry));
            });
        }
    }

    /// Asks for the deletion of everything that is there and not yet being deleted, owners first.
    async fn ask_top_down(&mut self) -> Result<(), DeleteError> {
        let deepest = self.links.values().map(|link| link.level).max().unwrap_or(0);
        let deletion = self.deletion;
        for level in 0..=deepest {
            let here = self.links.values().filter(|link| link.level == level && link.is_untouched());
            let asks: Vec<_> = here
                .map(|link| async move { (&link.uid, deletion.ask(&link.id, &link.uid).await) })
                .collect();
            let mut gone = Vec::new();
            for (uid, asked) in side_by_side(asks).await {
                if asked? {
                    gone.push(uid.clone());
                }
            }
            for uid in gone {
                if let Some(link) = self.links.get_mut(&uid) {
                    link.live = None;
                }
            }
        }
        Ok(())
    }

    /// Reads how everything is now, new objects of old owners included.
    async fn look_again(&mut self, owner: &Owner) -> Result<(), ApiError> {
        let roots: Vec<ObjectId> = self
            .links
            .values()
            .filter(|link| link.level == 0 && link.live.is_some())
            .map(|link| link.id.clone())
            .collect();
        let looks = self.deletion.look_at_all(&roots.iter().collect::<Vec<_>>(), owner).await?;
        let there: BTreeMap<String, ObjectMeta> = (looks.into_iter())
            .filter_map(|(_, look)| match look {
                Look::Live(live) => Some((live.uid.clone(), live.metadata)),
                Look::Gone | Look::Foreign => None,
            })
            .collect();
        for link in self.links.values_mut() {
            link.live = there.get(&link.uid).cloned();
        }
        self.record_owned().await
    }
}

impl Link {
    fn is_untouched(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.deletion_timestamp.is_none())
    }

    fn stuck(&self) -> Option<Stuck> {
        let live = self.live.as_ref()?;
        Some(Stuck { what: self.id.to_string(), finalizers: live.finalizers.clone().unwrap_or_default() })
    }
}
