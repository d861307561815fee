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
use crate::halt::Pod;
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
    /// Of a pod that has to go at once.
    pod: Option<Pod>,
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
            chain.tell_unconfirmed();
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
            let link = Link { id: id.clone(), uid: uid.clone(), level: 0, listed: true, live, pod: None };
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
                self.note_ending_pods();
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

    /// Notes which pods that have to go at once are ending by now, maybe by somebody else's word.
    fn note_ending_pods(&self) {
        if self.deletion.pods.is_none() {
            return;
        }
        let is_there = |uid: &str| self.links.get(uid).is_some_and(|link| link.live.is_some());
        self.deletion.note_endings(|endings| {
            endings.retain(is_there);
            for link in self.links.values().filter(|link| is_pod(&link.id)) {
                let given = link.live.as_ref().and_then(|live| live.deletion_grace_period_seconds);
                given.into_iter().for_each(|given| endings.seen(&link.uid, given));
            }
        });
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
        let new = Link { id, uid: uid.clone(), level, listed: false, live: None, pod: None };
        let link = self.links.entry(uid).or_insert(new);
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

    /// Asks for the deletion of everything that is there and not yet being deleted, owners first. What has to go at once
    /// is asked for whatever became of the rest, and an error is told at the end.
    async fn ask_top_down(&mut self) -> Result<(), DeleteError> {
        let deepest = self.links.values().map(|link| link.level).max().unwrap_or(0);
        let mut failed = None;
        for level in 0..=deepest {
            match self.ask_level(level).await {
                Err(error) if self.deletion.pods.is_none() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
                Ok(()) => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn ask_level(&mut self, level: usize) -> Result<(), DeleteError> {
        self.learn_graces(level).await?;
        let deletion = self.deletion;
        let here = self.links.values().filter(|link| link.level == level && link.is_to_ask(deletion));
        let asks: Vec<_> = here
            .map(|link| async move {
                let ending = link.pod.as_ref().zip(deletion.pods).map(|(pod, most)| most.of(pod));
                let grace = ending.map(|ending| ending.grace);
                (&link.uid, ending, deletion.ask(&link.id, &link.uid, grace).await)
            })
            .collect();
        let (mut gone, mut failed) = (Vec::new(), None);
        for (uid, ending, asked) in side_by_side(asks).await {
            match asked {
                Ok(true) => gone.push(uid.clone()),
                Ok(false) => {
                    if let Some(ending) = ending {
                        deletion.note_endings(|endings| endings.asked(uid, ending));
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for uid in gone {
            if let Some(link) = self.links.get_mut(&uid) {
                link.live = None;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Finds out how long the pods of a level want to take to end, where that is not to be their own affair.
    async fn learn_graces(&mut self, level: usize) -> Result<(), ApiError> {
        if self.deletion.pods.is_none() {
            return Ok(());
        }
        let deletion = self.deletion;
        let unknown = |link: &&Link| is_pod(&link.id) && link.live.is_some() && link.pod.is_none();
        let reads: Vec<_> = (self.links.values().filter(|link| link.level == level).filter(unknown))
            .map(|link| async move { (link.uid.clone(), deletion.pod(&link.id, &link.uid).await) })
            .collect();
        for (uid, read) in side_by_side(reads).await {
            let read = read?;
            if let Some(link) = self.links.get_mut(&uid) {
                link.live = link.live.take().filter(|_| read.is_some());
                link.pod = read;
            }
        }
        Ok(())
    }

    /// Names the pods that should have ended by now and that nobody says have. With time they become more or fewer.
    fn tell_unconfirmed(&self) {
        if self.deletion.pods.is_none() {
            return;
        }
        let now = k8s_openapi::jiff::Timestamp::now();
        let overdue = self.links.values().filter_map(|link| {
            let live = link.live.as_ref()?;
            link.pod.as_ref().filter(|pod| pod.is_overdue(live, now)).map(|pod| pod.place(&link.id))
        });
        let overdue: Vec<String> = overdue.collect();
        self.deletion.tracker.send_if_modified(|progress| {
            let changed = progress.unconfirmed != overdue;
            progress.unconfirmed = overdue;
            changed
        });
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
    /// Whether it is there and its deletion, or its end in time, is still to be asked for.
    fn is_to_ask(&self, deletion: &Deletion<'_>) -> bool {
        let Some(live) = &self.live else { return false };
        let ends_late = || {
            let ending = deletion.tracker.borrow().endings.get(&self.uid);
            let (pod, most, ending) = (self.pod.as_ref()?, deletion.pods?, ending?);
            Some(most.is_exceeded_by(pod, ending))
        };
        live.deletion_timestamp.is_none() || ends_late().unwrap_or(false)
    }

    fn stuck(&self) -> Option<Stuck> {
        let live = self.live.as_ref()?;
        Some(Stuck { what: self.id.to_string(), finalizers: live.finalizers.clone().unwrap_or_default() })
    }
}
