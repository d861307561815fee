//! A whole fleet: clusters, certificates, daemons and watches, and the faults that befall its members.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::cluster;
use crate::components::free_ports;
use crate::daemon::{self, Flagship};
use crate::harness::Harness;
use crate::install::read_objects;
pub use crate::member::{Member, leads, payload_ready};
use crate::network::Mode;
use crate::pod::Pod;
use crate::witness::{Witness, WitnessPlan};

/// The fleet's name in `testing/manifests`.
pub const CALLSIGN: &str = "federation";

/// A member to be: its MultiCluster object, and where its cluster lives.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The MultiCluster object.
    pub object: Value,
    /// Replicas of its daemon. More than one are each in a pod on a node of its own, behind a load balancer.
    pub replicas: u8,
    /// Further flags of its daemon.
    pub args: Vec<String>,
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
            (Some(object), true) if object["kind"] == "MultiCluster" => {
                Ok(Self { object, replicas: 1, args: Vec::new() })
            }
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

    /// Where others reach it, and where it listens.
    pub(crate) fn socket_address(&self) -> Result<SocketAddrV4> {
        let port = self.object["spec"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(SocketAddrV4::new(self.address()?, port.with_context(|| format!("port of {}", self.name()))?))
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
            let options = cluster::Options::new(plan.name(), address);
            harness.start(cluster::Options { deploy, exact_watches, nodes: plan.replicas, ..options }).await
        });
        let clusters = try_join_all(starts).await?;
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
            let options = daemon::Options::new(&tls_dir.join(plan.name()));
            let options = daemon::Options { args: plan.args.clone(), ..options };
            members.push(Member::start(harness, flagship, plan, cluster, options).await?);
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
        let (at, own) = (Instant::now(), self.place(name)?.addresses());
        try_join_all(self.places_but(name).map(|other| other.drop_from(own.clone()))).await?;
        Ok(at)
    }

    /// From now on, it hears nobody. The others hear it.
    ///
    /// # Errors
    /// As [`Fleet::cut_off`].
    pub async fn deafen(&self, name: &str) -> Result<Instant> {
        let at = Instant::now();
        let others = self.places_but(name).flat_map(Place::addresses).collect();
        self.place(name)?.drop_from(others).await?;
        Ok(at)
    }

    /// From now on, what `from` sends to `to` vanishes. The other direction stays as it is.
    ///
    /// # Errors
    /// As [`Fleet::cut_off`].
    pub async fn cut_one_way(&self, from: &str, to: &str) -> Result<Instant> {
        let (at, from) = (Instant::now(), self.place(from)?.addresses());
        self.place(to)?.drop_from(from).await?;
        Ok(at)
    }

    /// Ends all cuts. Returns the moment before.
    ///
    /// # Errors
    /// If a supervisor does not answer.
    pub async fn heal(&self) -> Result<Instant> {
        let at = Instant::now();
        try_join_all(self.places().map(|place| place.drop_from(Vec::new()))).await?;
        Ok(at)
    }

    /// How many packets all cuts have dropped so far, to prove that a fault did fire.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn dropped_packets(&self) -> Result<u64> {
        let counts = try_join_all(self.places().map(Place::dropped_packets)).await?;
        Ok(counts.into_iter().sum())
    }

    /// The last lines of each daemon's log, for an error's context: the files go with the fleet.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut text = String::from("the last lines of the daemons' logs:\n");
        let mut add = |name: &str, log: PathBuf| {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            let tail = &all[all.len().saturating_sub(lines)..];
            text.push_str(&format!("--- {name}\n{}\n", tail.join("\n")));
        };
        for member in &self.members {
            for daemon in member.daemons() {
                add(daemon.pod().map_or(member.name(), Pod::name), daemon.log(&member.cluster));
            }
        }
        if let Some(witness) = &self.witness {
            add(&witness.plan.name, witness.log());
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

    fn addresses(self) -> Vec<Ipv4Addr> {
        match self {
            Self::Member(member) => member.addresses(),
            Self::Witness(witness) => vec![witness.plan.address],
        }
    }

    async fn drop_from(self, from: Vec<Ipv4Addr>) -> Result<()> {
        match self {
            Self::Member(member) => member.drop_from(&from).await,
            Self::Witness(witness) => witness.drop_from(&from).await,
        }
    }

    async fn dropped_packets(self) -> Result<u64> {
        match self {
            Self::Member(member) => member.dropped_packets().await,
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
