//! One cluster with its member, and what can be done to its nodes.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use clusters::fleet::{CALLSIGN, Plan};
use clusters::kind;
use clusters::watch::{Payload, Watch};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::lab::{harness, run};

/// The namespace of `deploy/install.yaml`.
pub(crate) const SYSTEM: &str = "kube-vip-multi-cluster-system";
/// The daemon's Deployment in it.
const DEPLOYMENT: &str = "kube-vip-multi-cluster-controller-manager";
/// Where the members and their payload are.
pub(crate) const NAMESPACE: &str = "default";
/// A watch on a node that was stopped ends with this.
const WATCH_TIMEOUT: Duration = Duration::from_secs(60);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The image of the payload: an HTTP server on 8080. `KIND_WEB_IMAGE` names another one.
const WEB_IMAGE: &str = "kindlab/web:1";

/// One cluster with its member.
pub(crate) struct Site {
    /// Of the cluster and of the member.
    pub(crate) name: &'static str,
    /// Of the daemon's and of the payload's Service.
    pub(crate) address: Ipv4Addr,
    /// What its API server says.
    pub(crate) watch: Watch,
    client: Client,
    /// Its nodes, that of the control plane first.
    nodes: Vec<Node>,
    _load_balancer: JoinSet<()>,
}

/// A container that is a node.
#[derive(Debug)]
struct Node {
    name: String,
    address: Ipv4Addr,
}

/// Which cluster a site is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plot {
    /// Of the cluster and of the member.
    pub(crate) name: &'static str,
    /// Of the daemon's and of the payload's Service.
    pub(crate) address: Ipv4Addr,
    /// How many nodes it has: that of the control plane, and workers.
    pub(crate) nodes: u8,
}

/// The process of a daemon.
#[derive(Debug)]
pub(crate) struct Process {
    /// The pod that it is in.
    pub(crate) pod: String,
    node: String,
    /// As its node counts.
    pid: String,
}

/// Which failover [`Site::announced`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    /// Of a leader that is suddenly gone.
    Crash,
    /// Of a leader that says it ends.
    Restart,
}

/// The facts that a fault without a failover must not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Of the payload's Deployment.
    pub(crate) uid: String,
    /// Of the fleet.
    pub(crate) term: i64,
    /// Of the leader's daemon: a daemon that took over or was restarted has a higher one.
    pub(crate) epoch: i64,
}

impl Site {
    pub(crate) async fn open(Plot { name, address, nodes: count }: Plot) -> Result<Self> {
        let client = kind::client(name, WATCH_TIMEOUT).await?;
        let mut nodes = Vec::new();
        for node in node_names(name, count) {
            let inspect = ["inspect", "-f", "{{(index .NetworkSettings.Networks \"kind\").IPAddress}}"];
            let said = run("docker", &[&inspect[..], &[node.as_str()]].concat()).await?;
            let address = said.trim().parse().with_context(|| format!("the address of {node}: {said:?}"))?;
            nodes.push(Node { name: node, address });
        }
        let payload =
            Payload { deployment: "web".into(), pod_labels: "app=web".into(), ..Payload::default() };
        let mut load_balancer = JoinSet::new();
        load_balancer.spawn(give_addresses(client.clone(), address));
        let watch = Watch::over(client.clone(), &payload);
        Ok(Self { name, address, watch, client, nodes, _load_balancer: load_balancer })
    }

    /// The node with its API server.
    pub(crate) fn control_plane(&self) -> &str {
        self.nodes.first().map_or("", |node| &node.name)
    }

    /// Its last node: without workers that of the control plane.
    pub(crate) fn worker(&self) -> &str {
        self.nodes.last().map_or("", |node| &node.name)
    }

    /// All its nodes.
    pub(crate) fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// Of its nodes and of its Services.
    pub(crate) fn addresses(&self) -> Vec<Ipv4Addr> {
        self.nodes.iter().map(|node| node.address).chain([self.address]).collect()
    }

    /// The member of `testing/manifests`, with these seeds and `spec.election`, and a payload that runs without a registry
    /// and is reached over HTTP.
    pub(crate) async fn apply_member(&self, (seeds, election): (Vec<String>, Value)) -> Result<()> {
        let mut plan = Plan::from_manifest(self.name)?;
        if !seeds.is_empty() {
            plan.set("fleet", json!(seeds));
        }
        if !election.is_null() {
            plan.set("election", election);
        }
        plan.set("payload", json!(payload(self.name)));
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-vip.io", "v1alpha1", "MultiCluster"));
        self.put(kind, &plan.object).await
    }

    /// Makes a name of the cluster's DNS stand for an address outside of it.
    pub(crate) async fn name_in_dns(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"clusterIP": "None", "ports": [{"name": "fleet", "port": 9990, "protocol": "TCP"}]}
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "fleet", "port": 9990, "protocol": "TCP"}]
        });
        self.put(ApiResource::erase::<Service>(&()), &service).await?;
        self.put(ApiResource::erase::<EndpointSlice>(&()), &slice).await
    }

    async fn put(&self, kind: ApiResource, object: &Value) -> Result<()> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), NAMESPACE, &kind);
        let params = PatchParams::apply("kind-test").force();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let patch = Patch::Apply(object);
        let call = api.patch(name, &params, &patch);
        timeout(CALL_TIMEOUT, call).await.with_context(|| format!("apply {name}: no answer"))??;
        Ok(())
    }

    /// What its API server says of the payload and the member now.
    pub(crate) fn facts(&self) -> Result<Facts> {
        let state = self.watch.state();
        let (uid, _) = state.deployment().context("no payload")?;
        let term = state.status(self.name, "term").as_i64().unwrap_or_default();
        Ok(Facts { uid: uid.to_owned(), term, epoch: self.epoch() })
    }

    /// Whether `SplitBrainProtected` is so, and the reason.
    pub(crate) fn protected(&self) -> String {
        let state = self.watch.state();
        let all = state.status(self.name, "conditions").as_array().map(Vec::as_slice).unwrap_or_default();
        let found = all.iter().find(|one| one["type"] == "SplitBrainProtected");
        let [value, reason] =
            ["status", "reason"].map(|field| found.and_then(|one| one[field].as_str()).unwrap_or("?"));
        format!("{value}, {reason}")
    }

    /// How long a failover takes at the most, as its status says.
    pub(crate) fn announced(&self, of: Announced) -> Result<Duration> {
        let state = self.watch.state();
        let field = match of {
            Announced::Crash => "crash",
            Announced::Restart => "announcedRestart",
        };
        let seconds = state.status(self.name, "worstCaseFailoverSeconds")[field].as_u64();
        seconds.map(Duration::from_secs).context("the leader does not say how long a failover may take")
    }

    /// The epoch of the daemon that serves it.
    pub(crate) fn epoch(&self) -> i64 {
        self.watch.state().status(self.name, "epoch").as_i64().unwrap_or_default()
    }

    /// Runs the containers of its nodes again, with everything that they lost by a stop.
    pub(crate) async fn wake(&self) -> Result<()> {
        let mut woken = false;
        for node in self.node_names() {
            let state = run("docker", &["inspect", "-f", "{{.State.Status}}", node]).await?;
            let verb = match state.trim() {
                "running" => continue,
                "paused" => "unpause",
                _ => "start",
            };
            run("docker", &[verb, node]).await?;
            woken = true;
        }
        if woken {
            // A stop takes the address from the node, which no load balancer of a cloud would lose.
            harness(Some(self.plot())).await?;
        }
        Ok(())
    }

    fn plot(&self) -> Plot {
        let nodes = u8::try_from(self.nodes.len()).unwrap_or(u8::MAX);
        Plot { name: self.name, address: self.address, nodes }
    }

    /// Lets new pods come on this node only.
    pub(crate) async fn schedule_only_on(&self, node: &str) -> Result<()> {
        for other in self.node_names().filter(|other| *other != node) {
            self.kubectl(&["cordon", other]).await?;
        }
        self.kubectl(&["uncordon", node]).await.map(drop)
    }

    /// Lets new pods come on all nodes.
    pub(crate) async fn schedule_anywhere(&self) -> Result<()> {
        for node in self.node_names() {
            self.kubectl(&["uncordon", node]).await?;
        }
        Ok(())
    }

    /// Has the payload's pods replaced by others on this node, the only one on which new pods may come meanwhile.
    pub(crate) async fn move_payload_to(&self, node: &str) -> Result<()> {
        self.schedule_only_on(node).await?;
        let elsewhere = format!("spec.nodeName!={node}");
        self.kubectl(&["-n", NAMESPACE, "delete", "pods", "-l", "app=web", "--field-selector", &elsewhere])
            .await?;
        self.kubectl(&["-n", NAMESPACE, "rollout", "status", "deployment", "web", "--timeout=55s"]).await?;
        Ok(())
    }

    /// Has the daemon's pods replaced.
    pub(crate) async fn roll(&self) -> Result<()> {
        let deployment = format!("deployment/{DEPLOYMENT}");
        self.kubectl(&["-n", SYSTEM, "rollout", "restart", &deployment]).await.map(drop)
    }

    /// Scales the daemon, and waits until all replicas are there.
    pub(crate) async fn scale(&self, replicas: i32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.kubectl(&["-n", SYSTEM, "scale", "deployment", DEPLOYMENT, &replicas]).await?;
        self.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment", DEPLOYMENT, "--timeout=55s"]).await?;
        Ok(())
    }

    /// The pod whose daemon serves the member.
    pub(crate) async fn active_pod(&self) -> Result<String> {
        let lease = format!("flagship.{NAMESPACE}.{}", self.name);
        let holder = self
            .kubectl(&["-n", SYSTEM, "get", "lease", &lease, "-o", "jsonpath={.spec.holderIdentity}"])
            .await?;
        let pods = r#"jsonpath={range .items[*]}{.metadata.uid} {.metadata.name}{"\n"}{end}"#;
        let pods = self.kubectl(&["-n", SYSTEM, "get", "pods", "-o", pods]).await?;
        let found = pods.lines().find_map(|line| line.strip_prefix(holder.trim()));
        Ok(found.with_context(|| format!("no pod with uid {holder:?} among: {pods}"))?.trim().to_owned())
    }

    /// Whether the daemon that serves the member says itself that it leads. The status may still be that of the one before,
    /// while the new one waits for the others' word.
    pub(crate) async fn leads(&self) -> bool {
        let Ok(pod) = self.active_pod().await else { return false };
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:8081/proxy/leader/{CALLSIGN}");
        self.kubectl(&["get", "--raw", &path]).await.is_ok()
    }

    /// The process of the daemon that serves the member.
    pub(crate) async fn active_process(&self) -> Result<Process> {
        let pod = self.active_pod().await?;
        let wanted = "jsonpath={.metadata.uid} {.spec.nodeName}";
        let said = self.kubectl(&["-n", SYSTEM, "get", "pod", &pod, "-o", wanted]).await?;
        let (uid, node) = said.trim().split_once(' ').with_context(|| format!("of pod {pod}: {said:?}"))?;
        // The name of its control group has the pod's uid, with dashes or underscores.
        let script = format!(
            "for pid in $(pgrep -x flagship); do tr _ - </proc/$pid/cgroup | grep -q {uid} && echo $pid; done; true"
        );
        let found = run("docker", &["exec", node, "bash", "-c", &script]).await?;
        let pid = found.lines().next().with_context(|| format!("no process of pod {pod} on {node}"))?;
        Ok(Process { node: node.to_owned(), pid: pid.to_owned(), pod })
    }

    /// Ends daemons that were stopped, so that the kubelet starts them again.
    pub(crate) async fn end_stopped_processes(&self) -> Result<()> {
        let script = "pkill -KILL -r T -x flagship; true";
        for node in self.node_names() {
            run("docker", &["exec", node, "bash", "-c", script]).await?;
        }
        Ok(())
    }

    /// `kubectl` as its administrator.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let context = format!("kind-{}", self.name);
        run("kubectl", &[&["--context", &context], args].concat()).await
    }
}

impl Process {
    /// Sends it a signal, on its node, as nothing in the image could.
    pub(crate) async fn signal(&self, signal: &str) -> Result<()> {
        run("docker", &["exec", &self.node, "kill", signal, &self.pid]).await.map(drop)
    }
}

/// The names that kind gives to the nodes of a cluster.
fn node_names(cluster: &str, count: u8) -> impl Iterator<Item = String> {
    let workers = (1..count).map(move |number| match number {
        1 => format!("{cluster}-worker"),
        _ => format!("{cluster}-worker{number}"),
    });
    std::iter::once(format!("{cluster}-control-plane")).chain(workers)
}

/// The image of the payload.
pub(crate) fn web_image() -> String {
    std::env::var("KIND_WEB_IMAGE").unwrap_or_else(|_| WEB_IMAGE.to_owned())
}

/// A Deployment and the LoadBalancer Service before it. Its pods need a moment to end, as those of a database do.
fn payload(cluster: &str) -> String {
    let labels = json!({"app": "web"});
    let container = json!({
        "name": "web", "image": web_image(), "imagePullPolicy": "IfNotPresent", "args": ["serve"],
        "env": [{"name": "CLUSTER", "value": cluster}],
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": labels},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}
        }}
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": labels},
        "spec": {"type": "LoadBalancer", "selector": labels, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}
    });
    format!("{deployment}\n---\n{service}\n")
}

/// The load balancer before the payload: gives each Service that wants an address the cluster's own, on which the node
/// listens already. One that is installed in the cluster comes first or agrees.
async fn give_addresses(client: Client, address: Ipv4Addr) {
    let api: Api<Service> = Api::namespaced(client, NAMESPACE);
    let status =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": address.to_string(), "ipMode": "VIP"}]}}});
    loop {
        let services = timeout(CALL_TIMEOUT, api.list(&ListParams::default())).await;
        for service in services.ok().and_then(Result::ok).into_iter().flatten() {
            if wants_address(&service) {
                let patch = Patch::Merge(&status);
                let params = PatchParams::default();
                let call =
                    api.patch_status(service.metadata.name.as_deref().unwrap_or_default(), &params, &patch);
                // Refused or lost: the next look tries again.
                let _ = timeout(CALL_TIMEOUT, call).await;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn wants_address(service: &Service) -> bool {
    let wanted = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let given = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    wanted
        && given.and_then(|given| given.ingress.as_ref()).is_none_or(Vec::is_empty)
        && !service.name_any().is_empty()
}
