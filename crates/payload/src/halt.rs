//! Ending what runs at once: the lease is lost, and after its stop grace another cluster starts the payload, whatever
//! became of it here.

use std::collections::BTreeMap;
use std::time::Duration;

use flagship_types::FleetConfig;
use flagship_types::quorum::pods_time;
use futures::future::join;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::DynamicObject;
use kube::core::ObjectMeta;
use tokio::time::Instant;

use crate::chain::Chain;
use crate::cluster::{Cluster, Tracker, side_by_side};
use crate::delete::Deletion;
use crate::error::{ApiError, DeleteError};
use crate::gate::{Gate, Purpose};
use crate::object::ObjectId;
use crate::observe::resource_of;
use crate::plan::{Owner, Stage, owns_the_unknown};

/// A request takes no longer than this: of what little time there is, one that was lost must not take the most. Whatever
/// took longer is tried again with more, as the API server may be slow and there all the same.
const CALL_TIMEOUTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// What only reads is asked again this much later, while the first is still waited for: an API server that was mute for a
/// moment is asked soon after, and one that is slow still answers the first.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// What the API server gives a pod that says nothing.
const DEFAULT_GRACE: i64 = 30;
/// A kubelet says that a pod has ended well within this time after it should have.
const OVERDUE: SignedDuration = SignedDuration::from_secs(2);
/// A grace has whole seconds: what is left is rounded to the nearest, as a request takes a few milliseconds of the first.
const ROUNDING: Duration = Duration::from_millis(500);

/// How long pods may take to end: until some time before another cluster starts the payload, so less the later they are
/// asked. Never 0 seconds: with that the API server forgets a pod without a word from its node, and it may run on where
/// nobody sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodGrace {
    /// What a pod gets that is asked at once, in seconds.
    most: u32,
    until: Instant,
}

impl PodGrace {
    /// So that pods have ended 2 s before the end of a stop grace that began `since`. `None`: nobody knows when it began,
    /// and nothing of it may be left.
    pub fn within(stop_grace: Duration, since: Option<Instant>) -> Self {
        let (time, now) = (pods_time(stop_grace.min(FleetConfig::LONGEST)), Instant::now());
        match since {
            Some(since) => Self { most: seconds(time), until: since + time },
            None => Self { most: seconds(Duration::ZERO), until: now },
        }
    }

    /// Of one pod that is asked now: with its own grace, if that is less.
    pub(crate) fn of(self, pod: &Pod) -> Ending {
        let now = Instant::now();
        let left = self.until.saturating_duration_since(now) + ROUNDING;
        Ending::after(now, pod.grace().min(self.most).min(seconds(left)))
    }

    /// Whether a pod that is being deleted is to be asked again, as it ends too late. Somebody else may have asked it when
    /// much of the time was over: it has its own grace then, counted from there. The API server takes a shorter grace
    /// only, and one that was given nothing it would forget at once.
    pub(crate) fn is_exceeded_by(self, pod: &Pod, ending: Ending) -> bool {
        ending.until > self.until + ROUNDING && ending.grace > self.of(pod).grace
    }
}

/// When a pod that is being deleted ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    /// What it was given, in seconds.
    pub(crate) grace: u32,
    until: Instant,
}

impl Ending {
    fn after(asked: Instant, grace: u32) -> Self {
        Self { grace, until: asked + Duration::from_secs(grace.into()) }
    }
}

/// When pods end that are being deleted, by uid, on this process's clock: that of the API server, which a
/// `deletionTimestamp` is of, may be another. Whoever asks for them again and again goes on with it: a pod that ends in
/// time is not asked twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endings(BTreeMap<String, Ending>);

impl Endings {
    pub(crate) fn get(&self, uid: &str) -> Option<Ending> {
        self.0.get(uid).copied()
    }

    /// A pod was asked by this process.
    pub(crate) fn asked(&mut self, uid: &str, ending: Ending) {
        self.0.insert(uid.to_owned(), ending);
    }

    /// A pod is being deleted. Unless it is known with that grace, somebody else asked it: just now at the latest.
    pub(crate) fn seen(&mut self, uid: &str, grace: i64) {
        let grace = u32::try_from(grace.max(0)).unwrap_or(u32::MAX);
        if self.get(uid).is_none_or(|known| known.grace != grace) {
            self.0.insert(uid.to_owned(), Ending::after(Instant::now(), grace));
        }
    }

    /// Forgets all pods but those that are there.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| is_there(uid));
    }
}

/// Whole ones, and one at least.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// A pod that has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// How long it wants to take, in seconds.
    grace: i64,
    /// Empty: on none yet.
    node: String,
}

impl Pod {
    fn of(object: &DynamicObject) -> Self {
        let spec = &object.data["spec"];
        Self {
            grace: spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_GRACE),
            node: spec["nodeName"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// How long it may take to end if it is asked for no less, in seconds.
    fn grace(&self) -> u32 {
        u32::try_from(self.grace.max(1)).unwrap_or(u32::MAX)
    }

    /// Whether its node should have said by now that it has ended.
    pub(crate) fn is_overdue(&self, live: &ObjectMeta, now: Timestamp) -> bool {
        live.deletion_timestamp.as_ref().is_some_and(|end| now.duration_since(end.0) > OVERDUE)
    }

    /// Which it is and where, for people.
    pub(crate) fn place(&self, id: &ObjectId) -> String {
        match self.node.as_str() {
            "" => id.to_string(),
            node => format!("{id} on node {node}"),
        }
    }
}

impl Cluster {
    /// Deletes the workloads in the tracker's inventory all at once, and their pods directly, within `pods`; waits, for
    /// as long as it takes, until they are gone. No pod is deleted by force. Returns how many objects went; what does not
    /// run is left to [`Self::delete_all`].
    ///
    /// # Errors
    /// If anything could not be asked for; all else was. Running it again goes on.
    pub async fn halt(
        &self,
        owner: &Owner,
        gate: &dyn Gate,
        pods: PodGrace,
        tracker: &Tracker,
    ) -> Result<usize, DeleteError> {
        let mut halted = Ok(0);
        for timeout in CALL_TIMEOUTS {
            halted = self.hurried(timeout, ASK_AGAIN).try_halt(owner, gate, pods, tracker).await;
            if !matches!(halted, Err(DeleteError::Api(ApiError::Timeout { .. }))) {
                break;
            }
        }
        halted
    }

    /// One round of [`Self::halt`]. What was asked for before is not asked for again.
    async fn try_halt(
        &self,
        owner: &Owner,
        gate: &dyn Gate,
        pods: PodGrace,
        tracker: &Tracker,
    ) -> Result<usize, DeleteError> {
        let cluster = self;
        let (begin, purpose) = (std::time::Instant::now(), Purpose::Delete);
        let deletion = Deletion { cluster, gate, purpose, tracker, begin, timeout: None, pods: Some(pods) };
        let ids = tracker.borrow().inventory.ids();
        let (workloads, others): (Vec<_>, Vec<_>) =
            ids.iter().partition(|id| Stage::of(&id.group_kind()) == Stage::Workload);
        // What custom resources make run, only their controllers know. Nothing more can be done for it than to say so now.
        let unknown: Vec<_> = others.into_iter().filter(|id| owns_the_unknown(&id.group_kind())).collect();
        let (gone, ()) =
            join(Chain::delete(&deletion, &workloads, owner), deletion.ask_once(&unknown, owner)).await;
        if gone.is_ok() {
            tracker.send_modify(|progress| {
                progress.unconfirmed.clear();
                progress.waiting_for = None;
            });
        }
        gone
    }
}

impl Deletion<'_> {
    /// Asks for the deletion of leaves and does not wait; what is in the way shows when they are deleted in order.
    async fn ask_once(&self, ids: &[&ObjectId], owner: &Owner) {
        let asks: Vec<_> = ids.iter().map(|id| self.leaf(id, owner)).collect();
        for (id, asked) in side_by_side(asks).await {
            if let Err(error) = asked {
                tracing::warn!(object = %id, %error, "not deleted yet");
            }
        }
    }

    /// Nobody is told: what is shown of the progress stays as it is.
    pub(crate) fn note_endings(&self, note: impl FnOnce(&mut Endings)) {
        self.tracker.send_if_modified(|progress| {
            note(&mut progress.endings);
            false
        });
    }

    /// What has to be known of a pod. `None`: it is gone.
    pub(crate) async fn pod(&self, id: &ObjectId, uid: &str) -> Result<Option<Pod>, ApiError> {
        let catalog = self.cluster.catalog().await?;
        let api = self.cluster.api(&resource_of(&catalog, id, "v1"), &id.namespace);
        let pod = self.cluster.find(id, || api.get_opt(&id.name)).await?;
        Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)).as_ref().map(Pod::of))
    }
}

#[cfg(test)]
#[path = "halt_tests.rs"]
mod tests;
