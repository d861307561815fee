//! Deleting and waiting until it is gone, stage by stage in reverse.

use std::time::{Duration, Instant};

use flagship_k8s_api::ObjectState;
use futures::future::try_join_all;
use kube::core::ObjectMeta;

use crate::chain::Chain;
use crate::check::is_ours;
use crate::cluster::{Cluster, Tracker, side_by_side};
use crate::error::{ApiError, DeleteError, Stuck};
use crate::gate::{Gate, Purpose};
use crate::halt::PodGrace;
use crate::object::ObjectId;
use crate::observe::resource_of;
use crate::observer::Outcome;
use crate::plan::{Owner, Stage};

/// Between two looks at what is going away: short at first, as most objects go at once.
const POLL: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_millis(320);

/// What one deletion needs.
pub(crate) struct Deletion<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) gate: &'a dyn Gate,
    pub(crate) purpose: Purpose,
    pub(crate) tracker: &'a Tracker,
    pub(crate) begin: Instant,
    /// `None`: for as long as it takes.
    pub(crate) timeout: Option<Duration>,
    /// Workloads have to go at once, their pods within this time; `None`: in their own time.
    pub(crate) pods: Option<PodGrace>,
}

/// How an object of the inventory is in the cluster.
pub(crate) enum Look {
    /// Not there, or another one of that name.
    Gone,
    /// There, and not ours to delete.
    Foreign,
    /// There.
    Live(Box<Live>),
}

/// An object that is there.
pub(crate) struct Live {
    pub(crate) uid: String,
    pub(crate) metadata: ObjectMeta,
}

impl Live {
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

impl Cluster {
    /// Deletes everything in the tracker's inventory, in reverse order, and waits until it and what it owns is gone.
    /// Returns how many objects went. Running it again after an error, or in another process, goes on where it was.
    pub async fn delete_all(
        &self,
        owner: &Owner,
        gate: &dyn Gate,
        timeout: Duration,
        tracker: &Tracker,
    ) -> Result<usize, DeleteError> {
        let ids = tracker.borrow().inventory.ids();
        self.delete(&ids, owner, gate, Purpose::Delete, timeout, tracker).await
    }

    pub(crate) async fn delete(
        &self,
        ids: &[ObjectId],
        owner: &Owner,
        gate: &dyn Gate,
        purpose: Purpose,
        timeout: Duration,
        tracker: &Tracker,
    ) -> Result<usize, DeleteError> {
        let (begin, timeout) = (Instant::now(), Some(timeout));
        let deletion = Deletion { cluster: self, gate, purpose, tracker, begin, timeout, pods: None };
        let mut gone = 0;
        for stage in Stage::ALL.into_iter().rev() {
            let ids: Vec<&ObjectId> = ids.iter().filter(|id| Stage::of(&id.group_kind()) == stage).collect();
            if ids.is_empty() {
                continue;
            }
            gone += match stage {
                Stage::Workload => Chain::delete(&deletion, &ids, owner).await?,
                Stage::Foundation | Stage::Support | Stage::Webhook => deletion.leaves(&ids, owner).await?,
            };
        }
        tracker.send_if_modified(|progress| progress.waiting_for.take().is_some());
        Ok(gone)
    }
}

impl Deletion<'_> {
    /// Deletes objects that own nothing that runs, or that stay until it has ended, and waits for each.
    async fn leaves(&self, ids: &[&ObjectId], owner: &Owner) -> Result<usize, DeleteError> {
        let mut gone = 0;
        let mut left = ids.to_vec();
        let mut pause = POLL.start;
        loop {
            let steps: Vec<_> = left.iter().map(|id| self.leaf(id, owner)).collect();
            let mut waiting = Vec::new();
            let mut error = None;
            for (id, step) in side_by_side(steps).await {
                match step {
                    Ok(Look::Gone) => {
                        self.gone(id);
                        gone += 1;
                    }
                    Ok(Look::Foreign) => self.forget(id),
                    Ok(Look::Live(live)) => waiting.push((id, live)),
                    Err(why) => error = Some(why),
                }
            }
            if let Some(error) = error {
                return Err(error);
            }
            if waiting.is_empty() {
                return Ok(gone);
            }
            let stuck = waiting.iter().map(|(id, live)| Stuck {
                what: id.to_string(),
                finalizers: live.metadata.finalizers.clone().unwrap_or_default(),
            });
            self.wait(&mut pause, stuck.collect()).await?;
            left = waiting.into_iter().map(|(id, _)| id).collect();
        }
    }

    /// One look at a leaf, and its deletion if that was not asked for yet. Says how it is after that.
    pub(crate) async fn leaf<'a>(
        &self,
        id: &'a ObjectId,
        owner: &Owner,
    ) -> (&'a ObjectId, Result<Look, DeleteError>) {
        let step = async {
            match self.look(id, owner).await? {
                Look::Live(live) if !live.is_deleting() => match self.ask(id, &live.uid, None).await? {
                    true => Ok(Look::Gone),
                    false => Ok(Look::Live(live)),
                },
                other => Ok(other),
            }
        };
        (id, step.await)
    }

    /// Reads an object and judges whether it is the one that was applied.
    pub(crate) async fn look(&self, id: &ObjectId, owner: &Owner) -> Result<Look, ApiError> {
        let Some(entry) = self.tracker.borrow().inventory.get(id).cloned() else { return Ok(Look::Gone) };
        let catalog = self.cluster.catalog().await?;
        let api = self.cluster.api(&resource_of(&catalog, id, &entry.version), &id.namespace);
        let live = self.cluster.find(id, || api.get_metadata_opt(&id.name)).await?;
        let Some(metadata) = live.map(|live| live.metadata) else { return Ok(Look::Gone) };
        let uid = metadata.uid.clone().unwrap_or_default();
        // By uid it is the very object that was applied. Else our mark on it counts: it was applied again meanwhile.
        if uid != entry.uid && !is_ours(&metadata, &owner.label()) {
            return Ok(if entry.uid.is_empty() { Look::Foreign } else { Look::Gone });
        }
        if self.purpose == Purpose::Prune && self.serves_a_kept_object(&metadata) {
            return Ok(Look::Foreign);
        }
        Ok(Look::Live(Box::new(Live { uid, metadata })))
    }

    /// Whether it is part of an object that stays: the entry of a ReplicaSet is left over from a stop that was called
    /// off before its Deployment was touched.
    fn serves_a_kept_object(&self, metadata: &ObjectMeta) -> bool {
        let progress = self.tracker.borrow();
        let kept = |uid: &str| {
            progress
                .inventory
                .iter()
                .any(|(_, entry)| entry.uid == uid && entry.state != ObjectState::Deleting)
        };
        metadata.owner_references.iter().flatten().any(|owner| kept(&owner.uid))
    }

    /// Asks for the deletion of exactly this object, of a pod within so many seconds. Returns whether it is gone already.
    pub(crate) async fn ask(
        &self,
        id: &ObjectId,
        uid: &str,
        grace: Option<u32>,
    ) -> Result<bool, DeleteError> {
        let catalog = self.cluster.catalog().await?;
        // What is not in the inventory was found below a workload, and all that can be there is of version 1.
        let known = self.tracker.borrow().inventory.get(id).map(|entry| entry.version.clone());
        let version = known.unwrap_or_else(|| "v1".into());
        let api = self.cluster.api(&resource_of(&catalog, id, &version), &id.namespace);
        // Which terms may be stopped is the gate's business: a stop has one, what an earlier lead left behind has not.
        let allowed = Cluster::permitted(self.gate, self.purpose, None).await?;
        let gone = self.cluster.delete_one(&api, id, uid, grace, allowed).await?;
        tracing::info!(object = %id, grace, gone, "deletion asked for");
        if !gone {
            self.tracker.send_modify(|progress| progress.inventory.set_state(id, ObjectState::Deleting));
        }
        Ok(gone)
    }

    /// The object is gone: out of the inventory.
    pub(crate) fn gone(&self, id: &ObjectId) {
        self.forget(id);
        let outcome = if self.purpose == Purpose::Prune { Outcome::Pruned } else { Outcome::Deleted };
        self.cluster.observer().object(id, outcome);
    }

    /// Out of the inventory: it is not ours.
    pub(crate) fn forget(&self, id: &ObjectId) {
        self.tracker.send_modify(|progress| progress.inventory.remove(id));
    }

    /// Sleeps a little longer each time; an error once the timeout is over.
    pub(crate) async fn wait(&self, pause: &mut Duration, mut stuck: Vec<Stuck>) -> Result<(), DeleteError> {
        let waited = self.begin.elapsed();
        // Held by a finalizer first: that is what a person can do something about.
        stuck.sort_by_key(|stuck| stuck.finalizers.is_empty());
        let sentence = stuck.first().map(|first| match stuck.len() {
            1 => format!("{first} to be gone"),
            count => format!("{first} and {} more to be gone", count - 1),
        });
        self.tracker.send_if_modified(|progress| {
            let changed = progress.waiting_for != sentence;
            progress.waiting_for = sentence;
            changed
        });
        if self.timeout.is_some_and(|timeout| waited > timeout) {
            stuck.truncate(Stuck::MAX);
            return Err(DeleteError::Stuck { stuck, waited });
        }
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(POLL.end);
        Ok(())
    }

    /// Looks at several objects at once.
    pub(crate) async fn look_at_all<'a>(
        &self,
        ids: &[&'a ObjectId],
        owner: &Owner,
    ) -> Result<Vec<(&'a ObjectId, Look)>, ApiError> {
        try_join_all(ids.iter().map(|id| async move { Ok((*id, self.look(id, owner).await?)) })).await
    }
}

/// The first pause of a wait.
pub(crate) const FIRST_PAUSE: Duration = POLL.start;
