//! Ending what runs at once: the lease is lost, and after its stop grace another cluster starts the payload, whatever
//! became of it here.

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

    /// For one pod that is asked now: its own, if that is less.
    pub(crate) fn of(self, pod: &Pod) -> u32 {
        // To the nearest second: a request takes a few milliseconds of the first.
        let left = self.until.saturating_duration_since(Instant::now()) + Duration::from_millis(500);
        pod.grace().min(self.most).min(seconds(left))
    }

    /// Whether a pod that is being deleted was given more than it gets here. Asking again would forget one at once that
    /// was given nothing; and one that was asked here before, with more time left, ends in time.
    pub(crate) fn is_exceeded_by(self, pod: &Pod, live: &ObjectMeta) -> bool {
        let most = pod.grace().min(self.most);
        live.deletion_grace_period_seconds.is_some_and(|given| given > i64::from(most))
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
