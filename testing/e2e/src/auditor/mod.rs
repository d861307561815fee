//! Whether the payload was alive in two clusters at once. Watches all API servers of a run over the network that no
//! fault cuts, and answers from event times and resource versions: for how long, or that it cannot know, because a
//! watch had a gap in which something may have come and gone.

mod follow;
mod follower;
mod ledger;
mod overlap;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clusters::cluster::Cluster;
use tokio::sync::{mpsc, oneshot};

use ledger::Ledger;
pub use overlap::{Report, Verdict};

/// The first lists of all kinds, of API servers that are ready.
const START: Duration = Duration::from_secs(60);

/// Which fleet the payload of a MultiCluster belongs to, from the value of the label `kube-vip.io/multicluster`.
pub type FleetOf = fn(&str) -> &str;

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Auditor {
    ledgers: Vec<Arc<Mutex<Ledger>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Auditor {
    /// Starts to watch these clusters; returns when each kind has been listed in each of them, so that nothing which
    /// happens afterwards is missed. It runs on a thread of its own: what a test does must not delay what it sees.
    ///
    /// # Errors
    /// If an API server does not answer.
    pub async fn start(clusters: impl IntoIterator<Item = &Cluster>) -> Result<Self> {
        let configs = clusters.into_iter().map(Cluster::watch_config).collect::<Vec<_>>();
        Self::over(futures::future::try_join_all(configs).await?, None).await
    }

    /// The same on clusters that are reached by these, and only in this namespace. A real cluster has pods of its own,
    /// which would all count as possibly the payload's: what owns them is not looked at, as it does not carry the label.
    ///
    /// # Errors
    /// As above.
    pub async fn within(namespace: &str, configs: Vec<kube::Config>) -> Result<Self> {
        Self::over(configs, Some(namespace.to_owned())).await
    }

    async fn over(configs: Vec<kube::Config>, namespace: Option<String>) -> Result<Self> {
        let ledgers: Vec<_> = configs.iter().map(|_| Arc::new(Mutex::new(Ledger::default()))).collect();
        let (stop, stopped) = oneshot::channel();
        let (ready, mut listed) = mpsc::channel(1);
        let pairs: Vec<_> = configs.into_iter().zip(ledgers.iter().cloned()).collect();
        let thread = std::thread::Builder::new()
            .name("auditor".to_owned())
            .spawn(move || follow::run(pairs, namespace.as_deref(), ready, stopped))
            .context("start the auditor's thread")?;
        let auditor = Self { ledgers, stop: Some(stop), thread: Some(thread) };
        // Each follower drops its half when it has listed, so the channel ends with the last one.
        tokio::time::timeout(START, listed.recv()).await.context("the auditor cannot list what there is")?;
        Ok(auditor)
    }

    /// What was alive where, of one fleet in all clusters, from `since` to now.
    #[must_use]
    pub fn report(&self, since: Instant) -> Report {
        self.report_of(since, |_| "", "")
    }

    /// The same of one of several fleets.
    #[must_use]
    pub fn report_of(&self, since: Instant, fleet_of: FleetOf, fleet: &str) -> Report {
        // All locked, so that no cluster is seen later than another.
        let ledgers: Vec<_> = self.ledgers.iter().map(locked).collect();
        let presences: Vec<_> = ledgers.iter().map(|ledger| ledger.presence(fleet_of, fleet)).collect();
        overlap::report(&presences, since, Instant::now())
    }

    /// In how many clusters anything of the payload is alive now, of all fleets.
    #[must_use]
    pub fn clusters_with_payload(&self) -> usize {
        let presences = self.ledgers.iter().map(|ledger| locked(ledger).presence(|_| "", ""));
        presences.filter(ledger::Presence::is_alive).count()
    }

    /// The fleets whose payload was seen.
    #[must_use]
    pub fn fleets(&self, fleet_of: FleetOf) -> Vec<String> {
        let fleets = self.ledgers.iter().flat_map(|ledger| locked(ledger).fleets(fleet_of));
        fleets.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked(ledger: &Arc<Mutex<Ledger>>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
