//! The two clusters, the fleet in them, and what can be done to a node.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clusters::fleet::Plan;
use clusters::kind;
use clusters::readiness::until;
use clusters::watch::{Payload, Watch};
use flagship_e2e::auditor::Auditor;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::probe::{Clients, Dialled};
use crate::witness::{self, Witness};

/// The namespace of `deploy/install.yaml`.
pub(crate) const SYSTEM: &str = "kube-vip-multi-cluster-system";
/// The daemon's Deployment in it.
pub(crate) const DEPLOYMENT: &str = "kube-vip-multi-cluster-controller-manager";
/// From any fault back to rest: a node that was stopped takes half a minute until its API answers.
const SETTLE: Duration = Duration::from_secs(180);
/// A watch on a node that was stopped ends with this.
const WATCH_TIMEOUT: Duration = Duration::from_secs(15);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Marks our rules among those of others.
const RULE: &str = "flagship-kind-test";
/// The image of the payload: an HTTP server on 8080. `KIND_WEB_IMAGE` names another one.
const WEB_IMAGE: &str = "kindlab/web:1";

/// What the fleet is asked to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Each connected part has a leader.
    Availability,
    /// Never two leaders, with a witness for the third vote.
    Quorum,
}

/// One cluster with its member.
pub(crate) struct Site {
    /// Of the cluster and of the member.
    pub(crate) name: &'static str,
    /// Of the daemon's and of the payload's Service.
    pub(crate) address: Ipv4Addr,
    /// What its API server says.
    pub(crate) watch: Watch,
    client: Client,
    node_address: Ipv4Addr,
    _load_balancer: JoinSet<()>,
}

/// The clusters, their clients and their faults.
pub(crate) struct Lab {
    /// The standby at rest.
    pub(crate) newyork: Site,
    /// The leader at rest, by its rank.
    pub(crate) sheffield: Site,
    /// The third vote, in [`Promise::Quorum`].
    pub(crate) witness: Option<Witness>,
    /// Ask both payloads all the time.
    pub(crate) clients: Clients,
    /// Which objects and pods were alive where.
    pub(crate) auditor: Auditor,
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

impl Lab {
    /// Makes the clusters or repairs those that a run with `KIND_KEEP=1` left, loads the daemon of this checkout into them, and applies
    /// the two members.
    pub(crate) async fn open(promise: Promise) -> Result<Self> {
        let sites =
            [("newyork", Ipv4Addr::new(172, 18, 100, 100)), ("sheffield", Ipv4Addr::new(172, 18, 100, 200))];
        for (name, address) in sites {
            harness(Some((name, address))).await?;
        }
        harness(None).await?;
        load_payload_image(&sites.map(|(name, _)| name)).await?;
        let [newyork, sheffield] = sites;
        let witness = match promise {
            Promise::Availability => None,
            Promise::Quorum => {
                let pki = state_dir().join("pki");
                Some(Witness::make(&state_dir(), &pki, &sites.map(|(_, address)| address)).await?)
            }
        };
        let configs = sites.map(|(name, _)| kind::config(name, WATCH_TIMEOUT));
        let lab = Self {
            auditor: Auditor::over(try_join_all(configs).await?).await?,
            witness,
            newyork: Site::open(newyork.0, newyork.1).await?,
            sheffield: Site::open(sheffield.0, sheffield.1).await?,
            clients: Clients::start(&[newyork.1, sheffield.1]),
        };
        unblock().await?;
        let with_witness = |seeds: &[&str]| match promise {
            Promise::Availability => (seeds.iter().map(ToString::to_string).collect(), Value::Null),
            Promise::Quorum => {
                let seeds = seeds.iter().map(ToString::to_string);
                let voters = ["newyork", "sheffield", witness::NAME];
                let all = seeds.chain([format!("{}:9990", witness::ADDRESS)]).collect();
                (all, json!({"mode": "Quorum", "voters": voters}))
            }
        };
        lab.newyork.apply_member(with_witness(&[])).await?;
        // By name, so that the static binary has to resolve it inside of its pod: without that the two never meet.
        lab.sheffield.name_in_dns("newyork-fleet", newyork.1).await?;
        lab.sheffield.apply_member(with_witness(&["newyork-fleet.default.svc.cluster.local:9990"])).await?;
        Ok(lab)
    }

    /// Waits until sheffield alone runs the payload and both members are content.
    pub(crate) async fn steady(&self) -> Result<Facts> {
        let (newyork, sheffield) = (&self.newyork, &self.sheffield);
        newyork
            .watch
            .wait("newyork stands by", SETTLE, |state| {
                !state.present()
                    && state.status("newyork", "role") == "Standby"
                    && ready(state.status("newyork", "conditions"))
            })
            .await?;
        sheffield
            .watch
            .wait("sheffield leads and its payload is ready", SETTLE, |state| {
                state.deployment().is_some_and(|(_, deployment)| deployment.ready)
                    && state.status("sheffield", "role") == "Leader"
                    && ready(state.status("sheffield", "conditions"))
            })
            .await?;
        holds("sheffield's payload answers", SETTLE, || self.clients.answers_now(sheffield.address)).await?;
        sheffield.facts()
    }

    /// The same with a standby whose daemon has just started: one that has seen take-overs end in a heal waits longer
    /// each time, for 10 minutes, and so the third cut in a row would be measured with 12 s instead of 3 s.
    pub(crate) async fn steady_with_fresh_standby(&self) -> Result<Facts> {
        self.steady().await?;
        let newyork = &self.newyork;
        let before = newyork.epoch();
        newyork.kubectl(&["-n", SYSTEM, "rollout", "restart", &format!("deployment/{DEPLOYMENT}")]).await?;
        newyork.scale(1).await?;
        holds("newyork's new daemon serves it", SETTLE, || newyork.epoch() > before).await?;
        self.steady().await
    }

    /// Removes the clusters.
    pub(crate) async fn remove(self) -> Result<()> {
        drop(self);
        witness::remove().await?;
        let arguments =
            kind::Arguments { state_dir: state_dir(), force_clean: true, ..kind::Arguments::default() };
        kind::run(arguments).await.map(drop)
    }

    /// Undoes every fault, whatever it was.
    pub(crate) async fn mend_everything(&self) -> Result<()> {
        unblock().await?;
        if let Some(witness) = &self.witness {
            witness.wake().await?;
        }
        for site in [&self.newyork, &self.sheffield] {
            site.wake().await?;
            site.end_stopped_processes().await?;
            site.scale(1).await?;
            // Until then the status is the last word of a daemon that is no more.
            let what = format!("a pod that is there serves {}", site.name);
            until(&what, SETTLE, async || Ok(site.active_pod().await.ok())).await?;
        }
        Ok(())
    }

    /// Drops what sheffield sends to all others, as a dead network does: without a word.
    pub(crate) async fn mute_sheffield(&self) -> Result<()> {
        drop_packets(&self.sheffield.addresses(), &self.others()).await
    }

    /// Drops what sheffield is sent by all others.
    pub(crate) async fn deafen_sheffield(&self) -> Result<()> {
        drop_packets(&self.others(), &self.sheffield.addresses()).await
    }

    fn others(&self) -> Vec<Ipv4Addr> {
        let witness = self.witness.iter().map(|_| witness::ADDRESS);
        self.newyork.addresses().into_iter().chain(witness).collect()
    }

    /// What a daemon in newyork meets when it dials sheffield's address.
    pub(crate) async fn dial_sheffield(&self, dialled: &mut Dialled) -> Result<()> {
        let script = format!("exec 3<>/dev/tcp/{}/9990", self.sheffield.address);
        let script = format!("timeout 2 bash -c '{script}' 2>&1; echo ended with $?");
        let said = run("docker", &["exec", &self.newyork.node(), "bash", "-c", &script]).await?;
        dialled.add(match said.as_str() {
            said if said.contains("ended with 0") => "accepted",
            said if said.contains("ended with 124") => "silence",
            said if said.contains("refused") => "refused",
            said if said.contains("No route") => "no route",
            _ => "failed",
        });
        Ok(())
    }
}

impl Drop for Lab {
    /// However the test ends, no rule and no paused node stays.
    fn drop(&mut self) {
        let script = format!(
            "iptables -S DOCKER-USER | grep {RULE} | sed 's/^-A/-D/' | xargs -r -L1 iptables; \
             docker unpause newyork-control-plane sheffield-control-plane"
        );
        // What there is nothing to undo of fails.
        let _ = Command::new("sh").args(["-c", &script]).output();
    }
}

impl Site {
    async fn open(name: &'static str, address: Ipv4Addr) -> Result<Self> {
        // A watch on a node that was stopped ends with this.
        let client = kind::client(name, Duration::from_secs(60)).await?;
        let inspect = ["inspect", "-f", "{{(index .NetworkSettings.Networks \"kind\").IPAddress}}"];
        let node = format!("{name}-control-plane");
        let said = run("docker", &[&inspect[..], &[node.as_str()]].concat()).await?;
        let node_address = said.trim().parse().with_context(|| format!("the address of {node}: {said:?}"))?;
        let payload =
            Payload { deployment: "web".into(), pod_labels: "app=web".into(), ..Payload::default() };
        let mut load_balancer = JoinSet::new();
        load_balancer.spawn(give_addresses(client.clone(), address));
        let watch = Watch::over(client.clone(), &payload);
        Ok(Self { name, address, watch, client, node_address, _load_balancer: load_balancer })
    }

    /// The container that is its node.
    pub(crate) fn node(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// Of its node and of its Services.
    fn addresses(&self) -> [Ipv4Addr; 2] {
        [self.node_address, self.address]
    }

    /// The member of `testing/manifests`, with these seeds and `spec.election`, and a payload that runs without a registry
    /// and is reached over HTTP.
    async fn apply_member(&self, (seeds, election): (Vec<String>, Value)) -> Result<()> {
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
    async fn name_in_dns(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": "None", "ports": [{"name": "fleet", "port": 9990, "protocol": "TCP"}]}
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "fleet", "port": 9990, "protocol": "TCP"}]
        });
        self.put(ApiResource::erase::<Service>(&()), &service).await?;
        self.put(ApiResource::erase::<EndpointSlice>(&()), &slice).await
    }

    async fn put(&self, kind: ApiResource, object: &Value) -> Result<()> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), "default", &kind);
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

    /// The epoch of the daemon that serves it.
    pub(crate) fn epoch(&self) -> i64 {
        self.watch.state().status(self.name, "epoch").as_i64().unwrap_or_default()
    }

    /// Runs the container of the node again, with everything that it lost by a stop.
    pub(crate) async fn wake(&self) -> Result<()> {
        let node = self.node();
        let state = run("docker", &["inspect", "-f", "{{.State.Status}}", &node]).await?;
        match state.trim() {
            "running" => return Ok(()),
            "paused" => drop(run("docker", &["unpause", &node]).await?),
            _ => drop(run("docker", &["start", &node]).await?),
        }
        // A stop takes the address from the node, which no load balancer of a cloud would lose.
        harness(Some((self.name, self.address))).await
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
        let lease = format!("flagship.default.{}", self.name);
        let holder = self
            .kubectl(&["-n", SYSTEM, "get", "lease", &lease, "-o", "jsonpath={.spec.holderIdentity}"])
            .await?;
        let pods = r#"jsonpath={range .items[*]}{.metadata.uid} {.metadata.name}{"\n"}{end}"#;
        let pods = self.kubectl(&["-n", SYSTEM, "get", "pods", "-o", pods]).await?;
        let found = pods.lines().find_map(|line| line.strip_prefix(holder.trim()));
        Ok(found.with_context(|| format!("no pod with uid {holder:?} among: {pods}"))?.trim().to_owned())
    }

    /// Name of the pod whose daemon serves the member, and the daemon's process on the node.
    pub(crate) async fn active_process(&self) -> Result<(String, String)> {
        let pod = self.active_pod().await?;
        let uid = self.kubectl(&["-n", SYSTEM, "get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"]).await?;
        // The name of its control group has the pod's uid, with dashes or underscores.
        let script = format!(
            "for pid in $(pgrep -x flagship); do tr _ - </proc/$pid/cgroup | grep -q {uid} && echo $pid; done; true"
        );
        let found = run("docker", &["exec", &self.node(), "bash", "-c", &script]).await?;
        let pid =
            found.lines().next().with_context(|| format!("no process of pod {pod} on {}", self.node()))?;
        Ok((pod, pid.to_owned()))
    }

    /// Ends daemons that were stopped, so that the kubelet starts them again.
    async fn end_stopped_processes(&self) -> Result<()> {
        let script = "pkill -KILL -r T -x flagship; true";
        run("docker", &["exec", &self.node(), "bash", "-c", script]).await.map(drop)
    }

    /// Sends a signal to a process of its node.
    pub(crate) async fn signal(&self, pid: &str, signal: &str) -> Result<()> {
        run("docker", &["exec", &self.node(), "kill", signal, pid]).await.map(drop)
    }

    /// `kubectl` as its administrator.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let context = format!("kind-{}", self.name);
        run("kubectl", &[&["--context", &context], args].concat()).await
    }
}

/// Not the user's own clusters: a cluster newyork of theirs is refused, never touched.
fn state_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kind")
}

/// Makes or repairs a cluster; without one loads the daemon of this checkout into both.
async fn harness(cluster: Option<(&str, Ipv4Addr)>) -> Result<()> {
    let arguments = kind::Arguments {
        state_dir: state_dir(),
        name: cluster.map(|(name, _)| name.to_owned()),
        svc_address: cluster.map(|(_, address)| address),
        node_image: std::env::var("FLAGSHIP_NODE_IMAGE").ok(),
        reload: cluster.is_none(),
        nodes: 1,
        ..kind::Arguments::default()
    };
    kind::run(arguments).await.map(drop)
}

async fn load_payload_image(clusters: &[&str]) -> Result<()> {
    for name in clusters {
        run("kind", &["load", "docker-image", &web_image(), "--name", name]).await?;
    }
    Ok(())
}

fn web_image() -> String {
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
    let api: Api<Service> = Api::namespaced(client, "default");
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

fn ready(conditions: &Value) -> bool {
    let all = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Drops what goes from any of these addresses to any of those.
async fn drop_packets(from: &[Ipv4Addr], to: &[Ipv4Addr]) -> Result<()> {
    for source in from {
        for target in to {
            let (source, target) = (source.to_string(), target.to_string());
            let rule =
                ["-I", "DOCKER-USER", "-s", &source, "-d", &target, "-m", "comment", "--comment", RULE];
            run("iptables", &[&rule[..], &["-j", "DROP"]].concat()).await?;
        }
    }
    Ok(())
}

/// Takes all our rules out again.
async fn unblock() -> Result<()> {
    let rules = run("iptables", &["-S", "DOCKER-USER"]).await?;
    for rule in rules.lines().filter(|rule| rule.contains(RULE)) {
        let rule = rule.replacen("-A", "-D", 1);
        let args: Vec<_> = rule.split_whitespace().collect();
        run("iptables", &args).await?;
    }
    Ok(())
}

/// Waits for something that nobody announces.
pub(crate) async fn holds(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, async || Ok(condition().then_some(()))).await
}

/// What a command printed; an error if it failed.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<String> {
    kind::output(program, args, COMMAND_TIMEOUT).await
}
