//! One watch on all MultiClusters, and one worker for each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::MultiCluster;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::departure::HANDOVER_TIMEOUT;
use crate::ports::{Joiner, Observer};
use crate::worker::{Context, Identity, Worker};

/// Workers are looked after this often: one that ended although its object is there is started again.
const CHECK: Duration = Duration::from_secs(5);
/// How long all workers together may take to end after those that give a lead up had their time for that. With nothing to
/// give up they end at once.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of a payload that runs when the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// It runs on; the others are asked to wait a while for this daemon to come back. In mode Quorum only if another
    /// replica takes over, else as with [`OnShutdown::Handover`], and if nobody can take over it stops.
    #[default]
    Hold,
    /// A standby takes over first, if one is able to.
    Handover,
}

/// How a controller works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace whose MultiClusters are served; `None`: all.
    pub namespace: Option<String>,
    /// Where local Leases are kept; `None`: beside each MultiCluster.
    pub lease_namespace: Option<String>,
    /// Payloads may have objects outside of their MultiCluster's namespace.
    pub allow_cross_namespace: bool,
    /// The name of this process, different from that of every other replica and the same again after a restart of
    /// its container: the uid of its pod.
    pub holder: String,
    /// The node that this process runs on; `None`: not known, as outside of a cluster.
    pub node: Option<String>,
    /// What becomes of a payload that runs when the daemon ends.
    pub on_shutdown: OnShutdown,
}

/// Serves all MultiClusters of one cluster.
pub struct Controller {
    context: Arc<Context>,
    workers: BTreeMap<Key, Entry>,
}

/// Namespace and name.
type Key = (String, String);

struct Entry {
    identity: Identity,
    object: watch::Sender<Arc<MultiCluster>>,
    gone: CancellationToken,
    task: JoinHandle<()>,
}

impl Entry {
    fn has_ended(&self) -> bool {
        self.task.is_finished() && self.gone.is_cancelled()
    }
}

impl Controller {
    /// Over a client whose own retries are off and whose read timeout is set. Nothing is asked yet.
    pub fn new(
        client: Client,
        options: Options,
        joiner: Arc<dyn Joiner>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let reporter = Reporter { controller: "flagship".into(), instance: Some(options.holder.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let shutdown = CancellationToken::new();
        let context = Arc::new(Context { client, options, joiner, observer, recorder, shutdown });
        Self { context, workers: BTreeMap::new() }
    }

    /// Serves until `shutdown` is set; then ends every member in order. Takes well under a second for that, for a payload
    /// that is handed over or stopped as long as that takes, at most half a minute.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let client = self.context.client.clone();
        let api: Api<MultiCluster> = match &self.context.options.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let mut events =
            watch_objects(api, watcher::Config::default()).default_backoff().into_stream().boxed();
        let mut listed = BTreeSet::new();
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = check.tick() => self.look_after_workers(),
                event = events.next() => match event {
                    Some(Ok(event)) => self.event(event, &mut listed),
                    Some(Err(error)) => warn!(%error, "watch of MultiClusters interrupted; it is taken up again"),
                    // A watcher retries for ever.
                    None => break,
                },
            }
        }
        self.shut_down().await;
    }

    fn event(&mut self, event: Event<MultiCluster>, listed: &mut BTreeSet<Key>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.extend(self.apply(object));
            }
            Event::InitDone => {
                for (_, entry) in self.workers.iter().filter(|(key, _)| !listed.contains(*key)) {
                    entry.gone.cancel();
                }
            }
            Event::Apply(object) => {
                self.apply(object);
            }
            Event::Delete(object) => {
                let Some(identity) = Identity::of(&object) else { return };
                let entry = self.workers.get(&key(&identity));
                if let Some(entry) = entry.filter(|entry| entry.identity == identity) {
                    entry.gone.cancel();
                }
            }
        }
    }

    /// Hands an object to its worker, a new one if there is none for this very object.
    fn apply(&mut self, object: MultiCluster) -> Option<Key> {
        let Some(identity) = Identity::of(&object) else {
            warn!(name = ?object.metadata.name, "an object without uid, namespace or valid name is ignored");
            return None;
        };
        let key = key(&identity);
        let object = Arc::new(object);
        match self.workers.get(&key) {
            Some(entry) if entry.identity == identity && !entry.gone.is_cancelled() => {
                entry.object.send_replace(object);
            }
            Some(_) | None => self.start(identity, object),
        }
        Some(key)
    }

    /// Starts a worker. One that serves another object of the same name ends first.
    fn start(&mut self, identity: Identity, object: Arc<MultiCluster>) {
        info!(namespace = identity.namespace, name = identity.name, "serving a MultiCluster");
        let key = key(&identity);
        let before = self.workers.remove(&key);
        let (sender, receiver) = watch::channel(object);
        let gone = CancellationToken::new();
        let worker = Worker {
            context: Arc::clone(&self.context),
            identity: identity.clone(),
            object: receiver,
            gone: gone.clone(),
        };
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.gone.cancel();
                if let Err(error) = before.task.await {
                    warn!(%error, "the worker before this one failed");
                }
            }
            worker.run().await;
        });
        self.workers.insert(key, Entry { identity, object: sender, gone, task });
    }

    /// Forgets workers of objects that are gone; starts those anew that ended although their object is there.
    fn look_after_workers(&mut self) {
        self.workers.retain(|_, entry| !entry.has_ended());
        let ended: Vec<_> = self.workers.values().filter(|entry| entry.task.is_finished()).collect();
        let again: Vec<_> =
            ended.iter().map(|entry| (entry.identity.clone(), entry.object.borrow().clone())).collect();
        for (identity, object) in again {
            self.start(identity, object);
        }
    }

    async fn shut_down(self) {
        info!(members = self.workers.len(), "ending");
        self.context.shutdown.cancel();
        // The entries stay until the end: a worker whose object nobody watches any more takes it for deleted.
        let mut workers = self.workers;
        let all = futures::future::join_all(workers.values_mut().map(|entry| &mut entry.task));
        if tokio::time::timeout(HANDOVER_TIMEOUT + END_TIMEOUT, all).await.is_err() {
            warn!("not every member ended in time");
        }
    }
}

fn key(identity: &Identity) -> Key {
    (identity.namespace.clone(), identity.name.clone())
}
