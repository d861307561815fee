//! A whole fleet: clusters, certificates, daemons and watches, and the faults that befall its members.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cluster::{self, Cluster};
use crate::components::free_ports;
use crate::daemon::{self, Daemon, Flagship};
use crate::harness::Harness;
use crate::install::read_objects;
use crate::network::Mode;
use crate::watch::{Payload, State, Watch};
use crate::witness::{Witness, WitnessPlan};

/// The fleet's name in `testing/manifests`.
pub const CALLSIGN: &str = "federation";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A member's object goes when its payload has gone and its fleet knows; slower is a failure.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A member to be: its MultiCluster object, and where its cluster lives.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The MultiCluster object.
    pub object: Value,
}

impl Plan {
    /// The object of `testing/manifests/NAME.yaml`.
    ///
    /// # Errors
    /// If the file is missing or is not one MultiCluster.
    pub fn from_manifest(name: &str) -> Result<Self> {
        let path = manifests_dir().join(format!("{name}.yaml"));
        let mut objects = read_objects(&path)?;
        match (objects.pop(), objects.is_empty()) {
            (Some(object), true) if object["kind"] == "MultiCluster" => Ok(Self { object }),
            _ => bail!("{}: expected one MultiCluster", path.display()),
        }
    }

    /// One more member like this one.
    #[must_use]
    pub fn like(&self, name: &str, rank: i64, address: Ipv4Addr) -> Self {
        let mut plan = self.clone();
        plan.object["metadata"]["name"] = json!(name);
        plan.set("rank", json!(rank)).set("serviceAddress", json!(address.to_string()));
        plan
    }

    /// Sets a field of the spec.
    pub fn set(&mut self, field: &str, value: Value) -> &mut Self {
        self.object["spec"][field] = value;
        self
    }

    /// The member's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn address(&self) -> Result<Ipv4Addr> {
        let text = self.object["spec"]["serviceAddress"].as_str().unwrap_or_default();
        text.parse().with_context(|| format!("serviceAddress of {}: {text:?}", self.name()))
    }
}

/// `testing/manifests` of this checkout.
#[must_use]
pub fn manifests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// newyork and sheffield of `testing/manifests`.
///
/// # Errors
/// If a manifest is missing.
pub fn two_members() -> Result<Vec<Plan>> {
    Ok(vec![Plan::from_manifest("newyork")?, Plan::from_manifest("sheffield")?])
}

/// The same and denver, which has the highest rank.
///
/// # Errors
/// If a manifest is missing.
pub fn three_members() -> Result<Vec<Plan>> {
    let mut plans = two_members()?;
    let third = plans[1].like("denver", 15, Ipv4Addr::new(172, 18, 100, 220));
    plans.push(third);
    Ok(plans)
}

/// A fleet to be.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Its members.
    pub plans: Vec<Plan>,
    /// A witness beside them.
    pub witness: Option<WitnessPlan>,
    /// As [`cluster::Options::exact_watches`].
    pub exact_watches: bool,
}

impl From<Vec<Plan>> for Layout {
    fn from(plans: Vec<Plan>) -> Self {
        Self { plans, witness: None, exact_watches: false }
    }
}

/// The lease of fleets in mode Quorum that tests and measurements use.
pub const TEST_LEASE: &str = "2s";
/// Their stop grace: the shortest, rounded up, with which a second replica still comes in time under that lease.
pub const TEST_STOP_GRACE: &str = "4s";

impl Layout {
    /// The same fleet in mode Quorum: all its members and its witness vote, and all know where the witness is.
    #[must_use]
    pub fn in_quorum(mut self) -> Self {
        let members = self.plans.iter().map(|plan| plan.name().to_owned());
        let voters: Vec<String> =
            members.chain(self.witness.iter().map(|witness| witness.name.clone())).collect();
        for plan in &mut self.plans {
            plan.set(
                "election",
                json!({"mode": "Quorum", "voters": voters, "leaseDuration": TEST_LEASE, "stopGrace": TEST_STOP_GRACE}),
            );
            if let Some(witness) = &self.witness {
                let port = plan.object["spec"]["port"].clone();
                let mut seeds = plan.object["spec"]["fleet"].as_array().cloned().unwrap_or_default();
                seeds.push(json!(format!("{}:{port}", witness.address)));
                plan.set("fleet", Value::Array(seeds));
            }
        }
        self
    }
}

/// One member with all that belongs to it.
#[derive(Debug)]
pub struct Member {
    /// Its object as planned. Not applied by [`Fleet::start`].
    pub plan: Plan,
    /// Its cluster.
    pub cluster: Cluster,
    /// Its daemon.
    pub daemon: Daemon,
    /// The view of its API server.
    pub watch: Watch,
}

impl Member {
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

    /// Kills its daemon; returns when it is gone.
    ///
    /// # Errors
    /// If it was never started.
    pub async fn kill(&self) -> Result<()> {
        self.daemon.kill(&self.cluster).await
    }

    /// Starts its daemon again with the same flags after it has ended.
    ///
    /// # Errors
    /// If it still runs.
    pub async fn start_again(&self) -> Result<u32> {
        self.daemon.start_again(&self.cluster).await
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

/// Clusters and daemons that run. They end with this value.
#[derive(Debug)]
pub struct Fleet {
    /// In the order of the plans.
    pub members: Vec<Member>,
    /// Runs beside them, if planned.
    pub witness: Option<Witness>,
    /// The daemon's binary.
    pub flagship: Flagship,
    /// The certificates: one directory for each member.
    pub tls_dir: PathBuf,
}

impl Fleet {
    /// Starts all clusters at once, makes certificates, and starts the daemons, which have nothing to do until
    /// [`Member::apply`].
    ///
    /// # Errors
    /// If any of it fails; nothing is left running then.
    pub async fn start(harness: &Harness, flagship: &Flagship, layout: impl Into<Layout>) -> Result<Self> {
        let Layout { plans, witness, exact_watches } = layout.into();
        let plans = if harness.mode() == Mode::Loopback { on_loopback(plans)? } else { plans };
        let starts = plans.iter().map(|plan| async {
            let address = plan.address()?;
            let deploy = flagship.deploy().to_owned();
            harness
                .start(cluster::Options {
                    deploy,
                    exact_watches,
                    ..cluster::Options::new(plan.name(), address)
                })
                .await
        });
        let clusters = futures::future::try_join_all(starts).await?;
        let tls_dir = harness.state_dir().join("certificates");
        // Of an earlier fleet under the same harness: its members may have been others.
        if tls_dir.exists() {
            std::fs::remove_dir_all(&tls_dir).context("remove the last fleet's certificates")?;
        }
        let mut names: Vec<&str> = plans.iter().map(Plan::name).collect();
        names.extend(witness.iter().map(|witness| witness.name.as_str()));
        flagship.make_certificates(CALLSIGN, &names, &tls_dir)?;
        let mut members = Vec::with_capacity(plans.len());
        for (plan, cluster) in plans.into_iter().zip(clusters) {
            let watch = Watch::start(&cluster, &Payload::default()).await?;
            let options = daemon::Options::new(&tls_dir.join(plan.name()));
            let daemon = Daemon::start(&cluster, flagship, options).await?;
            members.push(Member { plan, cluster, daemon, watch });
        }
        let witness = match witness {
            Some(plan) => {
                let tls = tls_dir.join(&plan.name);
                let addresses = members.iter().map(|member| member.cluster.service_address()).collect();
                Some(harness.start_witness(plan, flagship, CALLSIGN, &tls, addresses).await?)
            }
            None => None,
        };
        Ok(Self { members, witness, flagship: flagship.clone(), tls_dir })
    }

    /// All that talk to each other.
    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let members = self.members.iter().map(Place::Member);
        members.chain(self.witness.iter().map(Place::Witness))
    }

    fn place(&self, name: &str) -> Result<Place<'_>> {
        self.places()
            .find(|place| place.name() == name)
            .with_context(|| format!("no member or witness {name}"))
    }

    fn places_but<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Place<'a>> {
        self.places().filter(move |place| place.name() != name)
    }

    /// The member of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name() == name).with_context(|| format!("no member {name}"))
    }

    /// Cuts a member or the witness off from all others without a sound: each side drops what arrives from the other.
    /// Returns the moment before.
    ///
    /// # Errors
    /// If the clusters have no networks of their own.
    pub async fn cut_off(&self, name: &str) -> Result<Instant> {
        let at = Instant::now();
        futures::try_join!(self.deafen(name), self.mute(name))?;
        Ok(at)
    }

    /// From now on, nobody hears it. It hears the others.
    ///
    /// # Errors
    /// As [`Fleet::cut_off`].
    pub async fn mute(&self, name: &str) -> Result<Instant> {
        let (at, own) = (Instant::now(), [self.place(name)?.address()]);
        futures::future::try_join_all(self.places_but(name).map(|other| other.drop_from(own.to_vec())))
            .await?;
        Ok(at)
    }

    /// From now on, it hears nobody. The others hear it.
    ///
    /// # Errors
    /// As [`Fleet::cut_off`].
    pub async fn deafen(&self, name: &str) -> Result<Instant> {
        let at = Instant::now();
        let others = self.places_but(name).map(Place::address).collect();
        self.place(name)?.drop_from(others).await?;
        Ok(at)
    }

    /// From now on, what `from` sends to `to` vanishes. The other direction stays as it is.
    ///
    /// # Errors
    /// As [`Fleet::cut_off`].
    pub async fn cut_one_way(&self, from: &str, to: &str) -> Result<Instant> {
        let (at, from) = (Instant::now(), self.place(from)?.address());
        self.place(to)?.drop_from(vec![from]).await?;
        Ok(at)
    }

    /// Ends all cuts. Returns the moment before.
    ///
    /// # Errors
    /// If a supervisor does not answer.
    pub async fn heal(&self) -> Result<Instant> {
        let at = Instant::now();
        futures::future::try_join_all(self.places().map(|place| place.drop_from(Vec::new()))).await?;
        Ok(at)
    }

    /// How many packets all cuts have dropped so far, to prove that a fault did fire.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn dropped_packets(&self) -> Result<u64> {
        let counts = futures::future::try_join_all(self.places().map(Place::dropped_packets)).await?;
        Ok(counts.into_iter().sum())
    }

    /// The last lines of each daemon's log, for an error's context: the files go with the fleet.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut text = String::from("the last lines of the daemons' logs:\n");
        for member in &self.members {
            let log = std::fs::read_to_string(member.daemon.log(&member.cluster)).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            let tail = &all[all.len().saturating_sub(lines)..];
            text.push_str(&format!("--- {}\n{}\n", member.name(), tail.join("\n")));
        }
        if let Some(witness) = &self.witness {
            let log = std::fs::read_to_string(witness.log()).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            let tail = &all[all.len().saturating_sub(lines)..];
            text.push_str(&format!("--- {}\n{}\n", witness.plan.name, tail.join("\n")));
        }
        text
    }

    /// Ends the fleet and removes its clusters. The network stays, for the next one: [`Harness::close_network`].
    ///
    /// # Errors
    /// If something cannot be removed.
    pub async fn remove(mut self, harness: &Harness) -> Result<()> {
        if let Some(witness) = self.witness.take() {
            harness.remove_witness(witness).await?;
        }
        let names: Vec<String> = self.members.iter().map(|member| member.cluster.name().to_owned()).collect();
        drop(self);
        for name in names {
            harness.remove(&name).await?;
        }
        Ok(())
    }
}

/// One end of the paths that can be cut.
#[derive(Clone, Copy)]
enum Place<'a> {
    Member(&'a Member),
    Witness(&'a Witness),
}

impl<'a> Place<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Member(member) => member.name(),
            Self::Witness(witness) => &witness.plan.name,
        }
    }

    fn address(self) -> Ipv4Addr {
        match self {
            Self::Member(member) => member.cluster.service_address(),
            Self::Witness(witness) => witness.plan.address,
        }
    }

    async fn drop_from(self, from: Vec<Ipv4Addr>) -> Result<()> {
        match self {
            Self::Member(member) => member.cluster.drop_from(&from).await,
            Self::Witness(witness) => witness.drop_from(&from).await,
        }
    }

    async fn dropped_packets(self) -> Result<u64> {
        match self {
            Self::Member(member) => member.cluster.dropped_packets().await,
            Self::Witness(witness) => witness.dropped_packets().await,
        }
    }
}

/// All members on 127.0.0.1, each with its own port.
fn on_loopback(mut plans: Vec<Plan>) -> Result<Vec<Plan>> {
    let mut moved = Vec::with_capacity(plans.len());
    for plan in &mut plans {
        let [port] = free_ports()?;
        let old = format!("{}:{}", plan.address()?, plan.object["spec"]["port"]);
        moved.push((old, format!("127.0.0.1:{port}")));
        plan.set("serviceAddress", json!("127.0.0.1"))
            .set("address", json!("127.0.0.1"))
            .set("port", json!(port));
    }
    for plan in &mut plans {
        let Some(fleet) = plan.object.pointer_mut("/spec/fleet").and_then(Value::as_array_mut) else {
            continue;
        };
        for seed in fleet {
            if let Some((_, new)) = moved.iter().find(|(old, _)| seed == old) {
                *seed = json!(new);
            }
        }
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_seeds_follow_the_ports() {
        let plans = on_loopback(three_members().unwrap()).unwrap();
        let port = &plans[0].object["spec"]["port"];
        for plan in &plans {
            assert_eq!(plan.object["spec"]["serviceAddress"], "127.0.0.1");
        }
        assert!(plans[0].object["spec"].get("fleet").is_none(), "a field that was absent stays so");
        assert_eq!(plans[1].object["spec"]["fleet"][0], format!("127.0.0.1:{port}"));
        assert_eq!(plans[2].object["spec"]["fleet"][0], format!("127.0.0.1:{port}"));
        assert_ne!(plans[1].object["spec"]["port"], *port);
    }

    #[test]
    fn the_manifests_are_those_of_the_issue() {
        let plans = two_members().unwrap();
        let spec = &plans[0].object["spec"];
        let expected = json!({"port": 9990, "callsign": "federation", "rank": 5, "ready": true,
            "serviceAddress": "172.18.100.100", "payload": spec["payload"]});
        assert_eq!(*spec, expected);
        let other = &plans[1].object["spec"];
        assert_eq!((&other["rank"], &other["ready"]), (&json!(10), &json!(false)));
        assert_eq!(other["fleet"], json!(["172.18.100.100:9990"]));
        assert_eq!(other["payload"], spec["payload"]);
    }
}
