//! The daemon inside a cluster: applies what is missing, exposes it, gives it an address, waits, rolls.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::manifests::{Install, Reached, SERVICE, given_address, is_available, reached, trouble};
use super::tool::cluster_kubeconfig;
use crate::install::{api_of, apply, wait_established};
use crate::progress::say;
use crate::readiness::until;

/// One call to an API server on this machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that was just started answers after 10 s on an idle machine.
const API_TIMEOUT: Duration = Duration::from_secs(120);
/// A load balancer gives an address within a second or two of seeing the Service.
pub(super) const ADDRESS_TIMEOUT: Duration = Duration::from_secs(6);
/// A pod starts in seconds. A rollout waits for the old one, which takes up to 40 s.
const AVAILABLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a cluster is asked whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The Secret that the Deployment mounts.
const SECRET: &str = "flagship-tls";

/// Whether a Service has been given its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    There,
    Missing,
}

/// A client with the administrator's rights in a kind cluster, which waits so long for the next word of an answer.
///
/// # Errors
/// If kind does not know the cluster.
pub async fn client(cluster: &str, read_timeout: Duration) -> Result<Client> {
    Client::try_from(config(cluster, read_timeout).await?).context("make a client")
}

/// What [`client`] is made of.
///
/// # Errors
/// If kind does not know the cluster.
pub async fn config(cluster: &str, read_timeout: Duration) -> Result<Config> {
    let text = cluster_kubeconfig(cluster).await?;
    let document = Kubeconfig::from_yaml(&text).context("the kubeconfig that kind printed")?;
    let mut config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(read_timeout);
    config.default_retry = false;
    Ok(config)
}

/// The daemon of one cluster.
pub(super) struct Daemon<'a> {
    cluster: &'a str,
    install: &'a Install,
    client: Client,
}

impl<'a> Daemon<'a> {
    /// Makes a client with the administrator's rights. Nothing is asked yet.
    pub(super) async fn connect(cluster: &'a str, install: &'a Install) -> Result<Self> {
        let client = client(cluster, CALL_TIMEOUT).await?;
        Ok(Self { cluster, install, client })
    }

    /// Waits for the API server, as after a start of the node.
    pub(super) async fn wait_for_api(&self) -> Result<()> {
        let what = format!("the API server of {} is ready", self.cluster);
        slowly_until(&what, API_TIMEOUT, async || {
            let request = http::Request::get("/readyz").body(Vec::new()).context("a request")?;
            let answer = timeout(CALL_TIMEOUT, self.client.request_text(request)).await;
            Ok(answer.is_ok_and(|answer| answer.is_ok()).then_some(()))
        })
        .await
    }

    /// All nodes with the addresses of their pods, once there are so many and all of them are ready.
    pub(super) async fn wait_for_nodes(&self, wanted: u8) -> Result<Vec<Reached>> {
        let api: Api<Node> = Api::all(self.client.clone());
        let what = format!("{wanted} nodes of {} are ready", self.cluster);
        let mut found = Vec::new();
        slowly_until(&what, API_TIMEOUT, async || {
            let nodes = timeout(CALL_TIMEOUT, api.list(&ListParams::default())).await;
            let nodes = nodes.ok().and_then(Result::ok).into_iter().flatten();
            let nodes: Result<Vec<Value>, _> = nodes.map(serde_json::to_value).collect();
            found = nodes.context("a node")?.iter().filter_map(reached).collect();
            Ok((found.len() >= usize::from(wanted)).then_some(()))
        })
        .await?;
        Ok(found)
    }

    /// Applies all of install.yaml, changed or not.
    pub(super) async fn apply_all(&self) -> Result<()> {
        for object in self.install.before.iter().chain([&self.install.deployment]) {
            self.apply(object.clone()).await?;
        }
        Ok(())
    }

    /// Of what the daemon needs, applies what is not there, and names it.
    pub(super) async fn apply_missing_before_daemon(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for object in &self.install.before {
            done.extend(self.apply_if_missing(object).await?);
        }
        Ok(done)
    }

    /// Applies the Deployment if it is not there.
    pub(super) async fn apply_missing_daemon(&self) -> Result<Option<String>> {
        self.apply_if_missing(&self.install.deployment).await
    }

    /// Makes the Service if it is not there.
    pub(super) async fn expose(&self, address: Ipv4Addr) -> Result<Option<String>> {
        self.apply_if_missing(&self.install.service(address)).await
    }

    /// Applies an object and names it.
    pub(super) async fn apply(&self, object: Value) -> Result<String> {
        let name = name_of(&object);
        let is_crd = object["kind"] == "CustomResourceDefinition";
        let applied = apply(&self.client, object).await?;
        if is_crd {
            wait_established(&self.client, &applied.metadata.name.unwrap_or_default()).await?;
        }
        Ok(name)
    }

    pub(super) async fn has_secret(&self) -> Result<bool> {
        Ok(self.get(&self.api::<Secret>(), SECRET).await?.is_some())
    }

    /// Whether a load balancer gives the Service its address within [`ADDRESS_TIMEOUT`].
    pub(super) async fn wait_for_address(&self, wanted: Ipv4Addr) -> Result<Given> {
        let deadline = tokio::time::Instant::now() + ADDRESS_TIMEOUT;
        loop {
            let service = self.get(&self.api::<Service>(), SERVICE).await?.unwrap_or_default();
            match given_address(&service) {
                Some(given) if given == wanted.to_string() => return Ok(Given::There),
                Some(given) => bail!(
                    "the load balancer of {} gave the Service {given} instead of {wanted}: let it give out {wanted}, or call again with --svc-address {given}",
                    self.cluster
                ),
                None if tokio::time::Instant::now() >= deadline => return Ok(Given::Missing),
                None => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Writes the address into the Service's status, as a load balancer does, if it is not there. kube-proxy then
    /// answers for it.
    pub(super) async fn give_address(&self, address: Ipv4Addr) -> Result<Option<String>> {
        let api = self.api::<Service>();
        let service = self.get(&api, SERVICE).await?.unwrap_or_default();
        if given_address(&service).is_some_and(|given| given == address.to_string()) {
            return Ok(None);
        }
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(status));
        let call = timeout(CALL_TIMEOUT, api.patch_status(SERVICE, &params, &patch));
        call.await
            .context("give the Service its address: no answer")?
            .context("give the Service its address")?;
        Ok(Some(format!("the address in the status of Service {SERVICE}")))
    }

    /// Replaces the daemon's pods, as `kubectl rollout restart` does, and waits for the new ones.
    pub(super) async fn roll(&self) -> Result<()> {
        say(&format!("{}: rolling the Deployment", self.cluster));
        let api = self.api::<Deployment>();
        let call = timeout(CALL_TIMEOUT, api.restart(&self.install.name));
        call.await.context("restart the Deployment: no answer")?.context("restart the Deployment")?;
        self.wait_until_available().await
    }

    /// Waits for the daemon's pods; at the end of patience the error says what keeps them.
    pub(super) async fn wait_until_available(&self) -> Result<()> {
        let api = self.api::<Deployment>();
        let what = format!("Deployment {} of {} is available", self.install.name, self.cluster);
        let waited = slowly_until(&what, AVAILABLE_TIMEOUT, async || {
            // An API server that does not answer for a moment is waited for too.
            let seen = self.get(&api, &self.install.name).await.ok().flatten();
            let available = seen.as_ref().is_some_and(is_available);
            // After a start of the node the status is still the one from before.
            Ok((available && self.answers().await).then_some(()))
        });
        match waited.await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error}{}", self.troubles().await),
        }
    }

    /// Whether each pod of the daemon says itself that it is ready.
    async fn answers(&self) -> bool {
        let Ok(pods) = self.pods().await else { return false };
        let Install { namespace, health_port, .. } = self.install;
        for pod in pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{health_port}/proxy/readyz");
            let Ok(request) = http::Request::get(path).body(Vec::new()) else { return false };
            let answer = timeout(CALL_TIMEOUT, self.client.request_text(request)).await;
            if !answer.is_ok_and(|answer| answer.is_ok()) {
                return false;
            }
        }
        !pods.is_empty()
    }

    async fn troubles(&self) -> String {
        let pods = self.pods().await.unwrap_or_default();
        if pods.is_empty() {
            return "; it has no pods: see `kubectl describe` of its ReplicaSet".to_owned();
        }
        pods.iter().filter_map(trouble).map(|trouble| format!("; {trouble}")).collect()
    }

    async fn pods(&self) -> Result<Vec<Value>> {
        let labels = &self.install.deployment["spec"]["selector"]["matchLabels"];
        let labels = labels.as_object().into_iter().flatten();
        let selector: Vec<String> =
            labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let (api, params) = (self.api::<Pod>(), ListParams::default().labels(&selector.join(",")));
        let pods = timeout(CALL_TIMEOUT, api.list(&params)).await.context("list the pods: no answer")??;
        pods.items.iter().map(|pod| serde_json::to_value(pod).context("a pod")).collect()
    }

    async fn apply_if_missing(&self, object: &Value) -> Result<Option<String>> {
        let wanted: DynamicObject =
            serde_json::from_value(object.clone()).context("not a Kubernetes object")?;
        let (api, _) = api_of(&self.client, &wanted)?;
        let name = wanted.metadata.name.context("an object without a name")?;
        if self.get(&api, &name).await?.is_some() {
            return Ok(None);
        }
        self.apply(object.clone()).await.map(Some)
    }

    async fn get<K>(&self, api: &Api<K>, name: &str) -> Result<Option<Value>>
    where
        K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let found = timeout(CALL_TIMEOUT, api.get_opt(name)).await;
        let found = found.with_context(|| format!("read {name}: no answer"))?;
        let found = found.with_context(|| format!("read {name}"))?;
        found.map(|object| serde_json::to_value(object).context("an object")).transpose()
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.install.namespace)
    }
}

fn name_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// As [`until`], for API servers that are not idle.
async fn slowly_until(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<()>>,
) -> Result<()> {
    until(what, limit, async || {
        let seen = look().await?;
        if seen.is_none() {
            sleep(LOOK_EVERY).await;
        }
        Ok(seen)
    })
    .await
}
