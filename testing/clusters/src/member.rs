//! One member of a fleet: its cluster, its daemon or the replicas of it, and what happens to them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::daemon::{self, Daemon, Flagship};
use crate::fleet::Plan;
use crate::harness::Harness;
use crate::pod::Pod;
use crate::watch::{Payload, State, Watch};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A member's object goes when its payload has gone and its fleet knows; slower is a failure.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// One member with all that belongs to it.
#[derive(Debug)]
pub struct Member {
    /// Its object as planned. Not applied by [`Fleet::start`].
    pub plan: Plan,
    /// Its cluster.
    pub cluster: Cluster,
    /// Its daemon, or the first one of its replicas.
    pub daemon: Daemon,
    /// The other replicas.
    pub more: Vec<Daemon>,
    /// In front of the replicas.
    _balancer: Option<Balancer>,
    /// The view of its API server.
    pub watch: Watch,
}

impl Member {
    pub(crate) async fn start(
        harness: &Harness,
        flagship: &Flagship,
        plan: Plan,
        cluster: Cluster,
        options: daemon::Options,
    ) -> Result<Self> {
        let watch = Watch::start(&cluster, &Payload::default()).await?;
        if plan.replicas == 1 {
            let daemon = Daemon::start(&cluster, flagship, options).await?;
            return Ok(Self { plan, cluster, daemon, more: Vec::new(), _balancer: None, watch });
        }
        let pods = harness.make_pods(&cluster, plan.replicas).await?;
        let addresses = pods.iter().map(Pod::address).collect();
        let balancer = Balancer::start(cluster.namespace_pid(), plan.socket_address()?, addresses)?;
        let mut daemons = Vec::with_capacity(pods.len());
        for pod in pods {
            daemons.push(Daemon::start_in(Some(pod), &cluster, flagship, options.clone()).await?);
        }
        let more = daemons.split_off(1);
        let daemon = daemons.pop().context("a member without a daemon")?;
        Ok(Self { plan, cluster, daemon, more, _balancer: Some(balancer), watch })
    }

    /// All its addresses on the members' network: others see a pod under its own.
    pub(crate) fn addresses(&self) -> Vec<Ipv4Addr> {
        let pods = self.daemons().filter_map(Daemon::pod).map(Pod::address);
        std::iter::once(self.cluster.service_address()).chain(pods).collect()
    }

    pub(crate) async fn drop_from(&self, from: &[Ipv4Addr]) -> Result<()> {
        self.cluster.drop_from(from).await?;
        try_join_all(self.daemons().filter_map(Daemon::pod).map(|pod| pod.drop_from(from))).await.map(drop)
    }

    pub(crate) async fn dropped_packets(&self) -> Result<u64> {
        let pods = try_join_all(self.daemons().filter_map(Daemon::pod).map(Pod::dropped_packets)).await?;
        Ok(self.cluster.dropped_packets().await? + pods.iter().sum::<u64>())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.plan.name()
    }

    /// What its API server shows now.
    #[must_use]
    pub fn state(&self) -> State {
        self.watch.state()
    }

    /// Applies the planned object.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn apply(&self) -> Result<()> {
        let mut object = self.plan.object.clone();
        object["metadata"]["namespace"] = json!("default");
        self.cluster.apply(object).await.map(drop)
    }

    /// Changes its object with a JSON merge patch, as `kubectl patch --type merge` does.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn patch(&self, patch: &Value) -> Result<()> {
        let (name, params, patch) = (self.name(), PatchParams::default(), Patch::Merge(patch));
        let api = self.objects().await?;
        let call = timeout(CALL_TIMEOUT, api.patch(name, &params, &patch));
        call.await.context("patch: no answer")?.with_context(|| format!("patch MultiCluster {name}"))?;
        Ok(())
    }

    /// All replicas of its daemon.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        std::iter::once(&self.daemon).chain(&self.more)
    }

    /// The replica that wrote the status last.
    ///
    /// # Errors
    /// If the status names none of them.
    pub fn active(&self) -> Result<&Daemon> {
        let state = self.state();
        let holder = state.status(self.name(), "holder");
        let is_holder = |daemon: &&Daemon| daemon.pod().is_none_or(|pod| *holder == pod.name());
        self.daemons().find(is_holder).with_context(|| format!("no replica of {} is {holder}", self.name()))
    }

    /// Kills its daemon, all replicas at once; returns when they are gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&self) -> Result<()> {
        try_join_all(self.daemons().map(|daemon| daemon.kill(&self.cluster))).await.map(drop)
    }

    /// SIGTERM to its daemon, all replicas at once; returns when they are gone.
    ///
    /// # Errors
    /// If one has not ended within `limit`.
    pub async fn terminate(&self, limit: Duration) -> Result<()> {
        try_join_all(self.daemons().map(|daemon| daemon.terminate(&self.cluster, limit))).await.map(drop)
    }

    /// Starts its daemon again with the same flags after it has ended, all replicas that do not run.
    ///
    /// # Errors
    /// If one cannot be started.
    pub async fn start_again(&self) -> Result<()> {
        for daemon in self.daemons() {
            if !daemon.is_running(&self.cluster).await? {
                daemon.start_again(&self.cluster).await?;
            }
        }
        Ok(())
    }

    /// The MultiCluster objects of its cluster.
    async fn objects(&self) -> Result<Api<DynamicObject>> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-vip.io", "v1alpha1", "MultiCluster"));
        Ok(Api::namespaced_with(self.cluster.client().await?, "default", &kind))
    }

    /// Deletes its object and waits until it has gone, which needs its daemon.
    ///
    /// # Errors
    /// If it is still there after a minute.
    pub async fn delete(&self) -> Result<()> {
        self.request_deletion().await?;
        let name = self.name().to_owned();
        let gone = |state: &State| !state.members.contains_key(&name);
        self.watch.wait(&format!("MultiCluster {name} is removed"), REMOVAL_TIMEOUT, gone).await.map(drop)
    }

    /// Deletes its object, and does not wait.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn request_deletion(&self) -> Result<()> {
        let api = self.objects().await?;
        let (name, params) = (self.name(), DeleteParams::default());
        let call = timeout(CALL_TIMEOUT, api.delete(name, &params));
        call.await.context("delete: no answer")?.with_context(|| format!("delete MultiCluster {name}"))?;
        Ok(())
    }

    /// Waits until it says that it leads and its payload is ready.
    ///
    /// # Errors
    /// After `limit`, with what there was instead.
    pub async fn wait_leading(&self, limit: Duration) -> Result<State> {
        let what = format!("{} leads and its payload is ready", self.name());
        let name = self.name().to_owned();
        self.watch.wait(&what, limit, move |state| leads(state, &name) && payload_ready(state)).await
    }

    /// Waits until nothing of the payload is there.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn wait_gone(&self, limit: Duration) -> Result<State> {
        let what = format!("the payload has gone from {}", self.name());
        self.watch.wait(&what, limit, |state| !state.present()).await
    }

    /// Waits for a Deployment that came after `since`, and returns when it did.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn wait_created(&self, since: Instant, limit: Duration) -> Result<Instant> {
        let what = format!("the payload is created in {}", self.name());
        let state =
            self.watch.wait(&what, limit, |state| state.deployment_created_since(since).is_some()).await?;
        state.deployment_created_since(since).context("it was there a moment ago")
    }
}

/// Whether the member says so.
#[must_use]
pub fn leads(state: &State, member: &str) -> bool {
    *state.status(member, "leading") == Value::Bool(true)
}

/// Whether the Deployment and all its pods are ready.
#[must_use]
pub fn payload_ready(state: &State) -> bool {
    let (pods, ready) = state.pods();
    state.deployment().is_some_and(|(_, deployment)| deployment.ready) && pods == ready
}
