//! Mode Quorum: a payload that runs here while this member has no node, so that nobody renews the fleet's lease for it.
//! Others start theirs once that lease and the stop grace are over. So it is stopped if the daemon cannot join in time,
//! and before the daemon ends, unless another replica takes the member over.

use std::time::Duration;

use flagship_k8s_api::{ConfigurationStatus, MultiClusterStatus};
use flagship_payload::{Inventory, PodGrace, Tracker};
use flagship_types::quorum::self_stop_after;
use flagship_types::{FleetConfig, Mode, Term, format_duration, parse_duration};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::discovery;
use crate::events::Notice;
use crate::gate::{HURRIED_RECORD, UnleasedGate};
use crate::happenings::Happening;
use crate::judge::objects;
use crate::lease::LeaseWatch;
use crate::memory;
use crate::payload_worker::CLEAR_TIMEOUT;
use crate::status_writer::WriteError;
use crate::tenure::{RETRY, Tenure};
use crate::worker::End;

/// How long one round of a stop waits for what was deleted: whoever can join meanwhile goes on with it.
const ROUND: Duration = Duration::from_secs(5);

/// What an object's status says of the lease that a payload needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promised {
    /// D: for so long the voters promised to elect nobody else.
    lease: Duration,
    /// S: within this time after the lease is lost the payload has to be gone.
    pub(crate) stop_grace: Duration,
}

impl Promised {
    /// `None`: not in mode Quorum, nor about to leave it. A field that cannot be read does not make a payload that nobody
    /// renews the lease for one that needs none: only Quorum writes how long that lasts, so unless the mode is one that
    /// needs none, that says it too.
    pub(crate) fn of(status: &MultiClusterStatus) -> Option<Self> {
        let mut stored = [&status.configuration, &status.replaced_configuration].into_iter().flatten();
        let needs_none = |stored: &ConfigurationStatus| stored.mode == Mode::Availability.as_str();
        let is_quorum = |stored: &ConfigurationStatus| {
            let has_lease = stored.lease_duration.is_some() || stored.stop_grace.is_some();
            stored.mode == Mode::Quorum.as_str() || (!needs_none(stored) && has_lease)
        };
        let quorum = stored.find(|stored| is_quorum(stored));
        let is_known = status.configuration.as_ref().is_some_and(needs_none);
        // Only in Quorum a vote is a promise.
        let vote = status.vote.as_ref().filter(|vote| quorum.is_some() || vote.lease_duration.is_some());
        if quorum.is_none() && (is_known || vote.is_none()) {
            return None;
        }
        let lasting = |text: &Option<String>| {
            let time = text.as_deref().and_then(|text| parse_duration(text).ok());
            time.map(|time| time.min(FleetConfig::LONGEST))
        };
        let default = FleetConfig::default();
        let stop_grace = quorum.and_then(|stored| lasting(&stored.stop_grace)).unwrap_or(default.stop_grace);
        // As long as voters know an older one, the shorter counts.
        let told = vote.and_then(|vote| lasting(&vote.stop_grace));
        Some(Self {
            lease: quorum.and_then(|stored| lasting(&stored.lease_duration)).unwrap_or(default.lease),
            stop_grace: told.map_or(stop_grace, |told| stop_grace.min(told)),
        })
    }

    /// How long a leader that started anew has to be confirmed: 0.8 D, as a node would count.
    fn patience(self) -> Duration {
        self_stop_after(self.lease)
    }
}

/// Until a deletion has waited for so long that something else may be tried meanwhile. Says for what it waits.
async fn waits_too_long(mut progress: watch::Receiver<flagship_payload::Progress>) -> String {
    let waits = progress.wait_for(|progress| progress.waiting_for.is_some()).await.is_ok();
    if !waits {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(ROUND).await;
    progress.borrow().waiting_for.clone().unwrap_or_default()
}

/// A payload that has to stop.
struct Unleased {
    status: MultiClusterStatus,
    stop_grace: Duration,
    inventory: Inventory,
}

impl Tenure {
    /// Waits as [`Self::wait`] does, while no node could join. What runs here without a lease meanwhile is stopped when
    /// its time is over.
    pub(crate) async fn wait_unjoined(&mut self, time: Duration) -> Option<End> {
        let until = match self.unleased_until().await {
            Ok(Some(until)) => until,
            Ok(None) => return self.wait(time).await,
            Err(error) => {
                debug!(%error, "it is not known yet whether a payload has to stop here");
                return self.wait(time.min(RETRY)).await;
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return self.wait(time.min(left)).await;
        }
        let mut interruption = self.interruption.clone();
        let stopped = tokio::select! {
            biased;
            end = interruption.wait() => return Some(end),
            stopped = self.stop_unleased("this daemon cannot join its fleet, so that nobody renews the lease") => stopped,
        };
        match stopped {
            Ok(()) => {
                self.unled_since = None;
                self.wait(time).await
            }
            Err(error) => {
                warn!(
                    error,
                    "a payload that nobody holds the lease for is not stopped yet; it is tried again"
                );
                // Sooner than what keeps this member from joining would be: a node can go on with the stop, as its
                // beginning is recorded.
                self.wait(time.min(RETRY)).await
            }
        }
    }

    /// Until when somebody has to hold the lease of what runs here; `None`: nothing has to stop.
    async fn unleased_until(&mut self) -> Result<Option<Instant>, WriteError> {
        let Some(since) = self.unled_since else { return Ok(None) };
        let status = self.open_status().await?.read().await?;
        Ok(Promised::of(&status).map(|promised| since + promised.patience()))
    }

    /// Whether something may run here in mode Quorum, now that no node of this process does. Asks until the API server
    /// says so.
    pub(crate) async fn may_have_unleased(&mut self) -> bool {
        loop {
            if let Ok(status) = self.open_status().await
                && let Ok(status) = status.read().await
            {
                let is_empty = status.inventory.is_empty() && memory::held(&status).is_none();
                return Promised::of(&status).is_some() && !is_empty;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// What runs here in mode Quorum.
    async fn unleased(&mut self) -> Result<Option<Unleased>, String> {
        let status = self.open_status().await.map_err(|error| error.to_string())?;
        let status = status.read().await.map_err(|error| error.to_string())?;
        let Some(Promised { stop_grace, .. }) = Promised::of(&status) else { return Ok(None) };
        let inventory = match self.discover(&status).await {
            Ok((inventory, _)) => inventory,
            Err(error) => {
                // It may be why no node could join, and last as long as it likes. What is known has to stop all the same.
                warn!(%error, "cannot look for what else runs here");
                Inventory::from_status(&status.inventory)
            }
        };
        Ok((!inventory.is_empty()).then_some(Unleased { status, stop_grace, inventory }))
    }

    /// Stops what runs here in mode Quorum without a node: all workloads and their pods at once, then the rest. Over
    /// when all of it is gone.
    ///
    /// # Errors
    /// A sentence. What was asked for stays asked for; running it again goes on.
    pub(crate) async fn stop_unleased(&mut self, because: &str) -> Result<(), String> {
        let Some(Unleased { status: stored, stop_grace, inventory }) = self.unleased().await? else {
            return Ok(());
        };
        let status = self.open_status().await.map_err(|error| error.to_string())?;
        let term = memory::held(&stored).unwrap_or(Term::NONE);
        let (count, began) = (inventory.len(), Instant::now());
        // A start that was not used yet knows nothing of this stop: whoever started from it would lead on.
        self.unused = None;
        if stored.stopping.is_none() {
            // Nobody who comes later may go on with what is half gone, but for who gets the lead again.
            match tokio::time::timeout(HURRIED_RECORD, status.begin_stop()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(%error, %term, "that the payload is stopped is not recorded; it stops");
                }
                Err(_) => warn!(%term, "that the payload is stopped is not recorded yet; it stops"),
            }
            let note = format!("the payload is stopped: {because} (mode Quorum)");
            self.chronicle.tell(
                Happening::new(Notice::warning("PayloadUnleased", note))
                    .under(term)
                    .throttled("unleased".into()),
            );
        }
        let tracker = self.tracker(inventory);
        let cluster = discovery::cluster(&self.context);
        let gate = UnleasedGate::new(self.lease.clone(), tracker.clone(), status.clone());
        let (owner, pods) = (self.owner(), self.pods_left(stop_grace));
        let deleting = async {
            cluster.halt(&owner, &gate, pods, &tracker).await?;
            cluster.delete_all(&owner, &gate, CLEAR_TIMEOUT, &tracker).await
        };
        let deleted = tokio::select! {
            deleted = deleting => deleted.map(|_| ()).map_err(|error| error.to_string()),
            // All is asked for, and a pod whose node is dead may stay for as long as it likes.
            what = waits_too_long(tracker.subscribe()) => Err(format!("it waits for {what}")),
        };
        self.endings = tracker.borrow().endings.clone();
        let left = tracker.borrow().inventory.to_status();
        self.chronicle.set_inventory(left.clone());
        status.record(left).await.map_err(|error| error.to_string())?;
        deleted?;
        let took = format_duration(began.elapsed());
        let note = format!("payload deleted: {} in {took}", objects(count));
        self.chronicle.tell(Happening::new(Notice::normal("PayloadDeleted", note)).under(term));
        let generation = self.object.borrow().metadata.generation;
        self.show(None, generation);
        self.flush().await;
        Ok(())
    }

    /// What the pods of a payload get that no node of this process renews the lease for. A node leads under a lease only, so
    /// it counts from the end of the one that led last. If none did, an earlier process may have, and nobody knows how long
    /// ago it renewed the lease.
    pub(crate) fn pods_left(&self, stop_grace: Duration) -> PodGrace {
        PodGrace::within(stop_grace, self.led_until)
    }

    /// Where a deletion without a node keeps its progress. It goes on with what is known from those before.
    pub(crate) fn tracker(&self, inventory: Inventory) -> Tracker {
        let endings = self.endings.clone();
        Tracker::new(flagship_payload::Progress { inventory, endings, ..Default::default() })
    }

    /// From now on another Lease is this process's: the one before was given up.
    pub(crate) fn holds(&mut self, lease: LeaseWatch) {
        self.lease = lease;
    }
}

#[cfg(test)]
#[path = "unleased_tests.rs"]
pub(crate) mod tests;
