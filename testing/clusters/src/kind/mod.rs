//! Real kind clusters with the daemon in a pod: makes, repairs, reloads and removes those that this harness made, and
//! never touches others. Certificates of one fleet for all of them are kept beside their records.

mod certificates;
mod command;
mod engine;
mod image;
mod install;
mod manifests;
mod record;
mod tool;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

pub use command::{Arguments, run};
use engine::Node;
use install::{Daemon, Given};
pub use install::{client, config};
use manifests::Install;
use record::{Record, Stage};
pub use tool::output;

use crate::progress::say;
use crate::record::check_name;

/// How often a process that waits for another one looks whether that has finished.
const LOCK_EVERY: Duration = Duration::from_millis(200);
/// What a state directory keeps of kind clusters.
const DIR: &str = "kind";
/// The part of it that holds certificates.
const CERTIFICATES: &str = "pki";

/// What a cluster is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) service_address: Ipv4Addr,
    pub(crate) node_image: Option<String>,
    pub(crate) nodes: u8,
}

/// What was found or done when a cluster was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Made,
    /// It was there; this was missing and has been put back.
    Repaired(Vec<String>),
}

/// Where the kind clusters of a state directory have the authority and the certificates of their fleet.
#[must_use]
pub fn certificates_in(state_dir: &Path) -> PathBuf {
    state_dir.join(DIR).join(CERTIFICATES)
}

/// All kind clusters of one state directory.
#[derive(Debug)]
pub(crate) struct Kind {
    dir: PathBuf,
    /// Whether this process has begun to make a cluster.
    begun: AtomicBool,
}

impl Kind {
    /// Those whose records are in `kind/` of the state directory.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join(DIR);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { dir: dir.canonicalize().context("resolve --state-dir")?, begun: AtomicBool::new(false) })
    }

    /// Names of the clusters that were made here, whole or not.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        record::names(&self.dir)
    }

    /// Makes a cluster with the daemon in it, or puts back whatever is missing in the one that is there. What a crash
    /// left of it is removed first, and nothing of it is left after an error.
    pub(crate) async fn start(&self, wanted: &Wanted) -> Result<Outcome> {
        check_name(&wanted.name)?;
        engine::check_tools().await?;
        let _lock = self.lock().await?;
        match self.find(&wanted.name).await? {
            Found::Whole(record, node) => return self.repair(wanted, record, node).await,
            Found::Foreign => bail!(
                "a kind cluster {0} is there that this harness did not make: choose another --name, or remove it with `kind delete cluster --name {0}`",
                wanted.name
            ),
            Found::HalfMade => self.remove_cluster(&wanted.name).await?,
            Found::Nothing => {}
        }
        let made = self.make(wanted).await;
        if made.is_err() {
            // The error is about what failed first.
            let _ = self.remove_all_of(&wanted.name).await;
        }
        made.with_context(|| format!("make kind cluster {}", wanted.name))?;
        Ok(Outcome::Made)
    }

    /// Removes what this process made of a cluster before it was interrupted. A whole one stays.
    pub(crate) async fn remove_half_made(&self, name: &str) -> Result<bool> {
        if !self.begun.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let _lock = self.lock().await?;
        let half_made = record::read(&self.dir, name)?.is_some_and(|record| record.stage != Stage::Whole);
        if half_made {
            self.remove_all_of(name).await?;
        }
        Ok(half_made)
    }

    /// Removes a cluster of this harness with its record and certificates, and with the last one what they shared.
    /// `false` if there was none.
    pub(crate) async fn remove(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        engine::check_tools().await?;
        let _lock = self.lock().await?;
        match self.find(name).await? {
            Found::Nothing => Ok(false),
            Found::Foreign if record::read(&self.dir, name)?.is_some() => {
                say(&format!(
                    "{name}: the kind cluster of this name is not the one that was made here, and stays"
                ));
                self.remove_all_of(name).await.map(|()| true)
            }
            Found::Foreign => bail!(
                "this harness did not make the kind cluster {name}, and leaves it alone: `kind delete cluster --name {name}` removes it"
            ),
            Found::HalfMade | Found::Whole(..) => self.remove_all_of(name).await.map(|()| true),
        }
    }

    /// Builds the image of this checkout, loads it into the clusters and rolls their Deployments, one cluster after
    /// the other, so that the fleet never misses two members at once. Returns their names; having none is an error.
    pub(crate) async fn reload(&self, only: Option<&str>) -> Result<Vec<String>> {
        engine::check_tools().await?;
        let _lock = self.lock().await?;
        let names = match only {
            Some(name) => vec![name.to_owned()],
            None => self.names()?,
        };
        if names.is_empty() {
            bail!(
                "no kind cluster of this harness is there to reload; this makes one: cargo run --release -p clusters -- --provider kind{} --name newyork --svc-address 172.18.100.100",
                command::elsewhere(self)
            );
        }
        for name in &names {
            let Found::Whole(_, node) = self.find(name).await? else {
                bail!(
                    "no whole kind cluster {name} of this harness is there: make it with --name and --svc-address"
                );
            };
            let workers = engine::workers(name).await?;
            if let Some(down) = [&node].into_iter().chain(&workers).find(|one| !one.is_running()) {
                bail!(
                    "{} is {}: run the command that made {name} once more, it repairs that",
                    down.container,
                    down.state
                );
            }
        }
        let install = Install::read()?;
        image::build(&install.image, &self.dir).await?;
        for name in &names {
            image::load(&install.image, name).await?;
            let daemon = Daemon::connect(name, &install).await?;
            daemon.apply_all().await?;
            daemon.roll().await?;
        }
        engine::prune_images().await?;
        Ok(names)
    }

    async fn make(&self, wanted: &Wanted) -> Result<()> {
        let name = &wanted.name;
        self.check_address(wanted).await?;
        let install = Install::read()?;
        let mut record = Record::new(name, wanted.service_address, wanted.nodes);
        self.begun.store(true, Ordering::Relaxed);
        record.write(&self.dir)?;
        engine::ensure_network(wanted.service_address).await?;
        let binary = image::build(&install.image, &self.dir).await?;

        if engine::node(name).await?.is_some() {
            bail!("somebody else made a kind cluster {name} meanwhile");
        }
        record.stage = Stage::Creating;
        record.write(&self.dir)?;
        let config = self.dir.join(format!("{name}.yaml"));
        let text = manifests::cluster_config(engine::has_cgroup_v1().await?, wanted.nodes);
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        tool::create_cluster(name, &config, wanted.node_image.as_deref()).await?;
        let node = engine::node(name).await?.context("kind made a cluster without a control plane")?;
        record.node_id = Some(node.id.clone());
        record.write(&self.dir)?;

        image::load(&install.image, name).await?;
        let daemon = Daemon::connect(name, &install).await?;
        daemon.wait_for_api().await?;
        self.put_in(&daemon, &mut record, &node, Some(binary)).await?;
        record.stage = Stage::Whole;
        record.write(&self.dir)
    }

    /// Puts into a cluster what is not there, and returns what that was.
    async fn put_in(
        &self,
        daemon: &Daemon<'_>,
        record: &mut Record,
        node: &Node,
        binary: Option<PathBuf>,
    ) -> Result<Vec<String>> {
        let (name, address) = (&record.name.clone(), record.service_address);
        let mut done = connect_nodes(daemon, record.nodes).await?;
        done.extend(daemon.apply_missing_before_daemon().await?);
        if !daemon.has_secret().await? {
            let secret = certificates::secret(&self.certificates(), name, binary).await?;
            done.push(daemon.apply(secret).await?);
        }
        done.extend(daemon.apply_missing_daemon().await?);
        let exposed = daemon.expose(address).await?;
        // A load balancer that was installed since gives a new Service its address.
        let mut gives_address = record.gives_address && exposed.is_none();
        done.extend(exposed);
        if daemon.wait_for_address(address).await? == Given::Missing {
            say(&format!(
                "{name}: no load balancer gave the Service an address within {} s, so this harness gives it {address}",
                install::ADDRESS_TIMEOUT.as_secs()
            ));
            gives_address = true;
        }
        if record.gives_address != gives_address {
            record.gives_address = gives_address;
            record.write(&self.dir)?;
        }
        if gives_address {
            done.extend(daemon.give_address(address).await?);
            done.extend(engine::ensure_address(node, address).await?);
        }
        daemon.wait_until_available().await?;
        Ok(done)
    }

    async fn repair(&self, wanted: &Wanted, mut record: Record, node: Node) -> Result<Outcome> {
        let name = &wanted.name;
        if record.service_address != wanted.service_address {
            bail!(
                "kind cluster {name} is there with address {}, not {}: remove it with --force-clean first",
                record.service_address,
                wanted.service_address
            );
        }
        if record.nodes != wanted.nodes {
            bail!(
                "kind cluster {name} is there with --nodes {}, not {}: remove it with --force-clean first",
                record.nodes,
                wanted.nodes
            );
        }
        say(&format!("{name}: is there, looking for what is missing"));
        let install = Install::read()?;
        let mut done = Vec::new();
        let workers = engine::workers(name).await?;
        for node in [&node].into_iter().chain(&workers) {
            done.extend(engine::wake(node).await?);
        }
        if tool::restore_context(name).await? {
            done.push(format!("the context kind-{name} in your kubeconfig"));
        }
        let daemon = Daemon::connect(name, &install).await?;
        daemon.wait_for_api().await?;
        if !all_have_image([&node].into_iter().chain(&workers), &install.image).await? {
            image::build(&install.image, &self.dir).await?;
            image::load(&install.image, name).await?;
            done.push(format!("the image {}", install.image));
        }
        done.extend(self.put_in(&daemon, &mut record, &node, None).await?);
        Ok(Outcome::Repaired(done))
    }

    async fn check_address(&self, wanted: &Wanted) -> Result<()> {
        for other in self.names()?.iter().filter(|other| **other != wanted.name) {
            let taken = record::read(&self.dir, other)?;
            if taken.is_some_and(|record| record.service_address == wanted.service_address) {
                bail!(
                    "--svc-address {}: kind cluster {other} has it, choose another",
                    wanted.service_address
                );
            }
        }
        engine::check_address_is_free(wanted.service_address).await
    }

    async fn find(&self, name: &str) -> Result<Found> {
        let record = record::read(&self.dir, name)?;
        let node = engine::node(name).await?;
        Ok(Found::from(record, node))
    }

    /// The cluster, and with the last one what all of them shared.
    async fn remove_all_of(&self, name: &str) -> Result<()> {
        self.remove_cluster(name).await?;
        if self.names()?.is_empty() {
            engine::remove_images().await?;
            engine::remove_network().await?;
            remove_dir(&self.dir)?;
        }
        Ok(())
    }

    async fn remove_cluster(&self, name: &str) -> Result<()> {
        let record = record::read(&self.dir, name)?;
        // Also where only its context is left.
        let begun = record.as_ref().is_some_and(|record| record.stage != Stage::Preparing);
        let ours = !matches!(Found::from(record, engine::node(name).await?), Found::Foreign);
        if begun && ours {
            tool::delete_cluster(name).await?;
        }
        remove_dir(&self.certificates().join(name))?;
        remove_file(&self.dir.join(format!("{name}.yaml")))?;
        record::remove(&self.dir, name)
    }

    /// Where the fleet's authority and its members' certificates are.
    fn certificates(&self) -> PathBuf {
        self.dir.join(CERTIFICATES)
    }

    /// One process at a time works on the clusters here. Waits without blocking Ctrl-C.
    async fn lock(&self) -> Result<fs::File> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        let path = self.dir.join("lock");
        let file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
            if !std::mem::replace(&mut said, true) {
                say("another process works on the kind clusters, waiting for it");
            }
            sleep(LOCK_EVERY).await;
        }
    }
}

/// What there is under a name: what the record says, held against what Docker says.
#[derive(Debug)]
enum Found {
    Nothing,
    /// Begun here and not finished, or gone since.
    HalfMade,
    Whole(Record, Node),
    /// A cluster that somebody else made.
    Foreign,
}

impl Found {
    fn from(record: Option<Record>, node: Option<Node>) -> Self {
        let (record, node) = match (record, node) {
            (None, None) => return Self::Nothing,
            (None, Some(_)) => return Self::Foreign,
            (Some(_), None) => return Self::HalfMade,
            (Some(record), Some(node)) => (record, node),
        };
        // One that was deleted with `kind` may have been followed by somebody else's of the same name.
        let ours = match &record.node_id {
            Some(id) => *id == node.id,
            None => record.stage == Stage::Creating,
        };
        match record.stage {
            _ if !ours => Self::Foreign,
            Stage::Whole => Self::Whole(record, node),
            Stage::Preparing | Stage::Creating => Self::HalfMade,
        }
    }
}

/// Sends each node's pods what the others have for them, and names what was missing for that.
async fn connect_nodes(daemon: &Daemon<'_>, nodes: u8) -> Result<Vec<String>> {
    if nodes < 2 {
        return Ok(Vec::new());
    }
    let nodes = daemon.wait_for_nodes(nodes).await?;
    let mut done = Vec::new();
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.name != from.name) {
            done.extend(engine::ensure_route(&from.name, &to.pods, &to.address).await?);
        }
    }
    Ok(done)
}

async fn all_have_image(nodes: impl IntoIterator<Item = &Node>, image: &str) -> Result<bool> {
    for node in nodes {
        if !engine::has_image(node, image).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove_dir(path: &Path) -> Result<()> {
    gone(fs::remove_dir_all(path)).with_context(|| format!("remove {}", path.display()))
}

fn remove_file(path: &Path) -> Result<()> {
    gone(fs::remove_file(path)).with_context(|| format!("remove {}", path.display()))
}

/// What was not there is gone too.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_here_is_taken_for_ours() {
        let node = |id: &str| Some(Node::new("newyork", id, "running"));
        let record = |id: Option<&str>, stage| {
            let mut record = Record::new("newyork", Ipv4Addr::new(172, 18, 100, 100), 1);
            (record.node_id, record.stage) = (id.map(str::to_owned), stage);
            Some(record)
        };
        assert!(matches!(Found::from(None, None), Found::Nothing));
        assert!(matches!(Found::from(None, node("a")), Found::Foreign));
        for stage in [Stage::Preparing, Stage::Creating] {
            assert!(matches!(Found::from(record(None, stage), None), Found::HalfMade));
        }
        assert!(matches!(Found::from(record(None, Stage::Preparing), node("a")), Found::Foreign));
        assert!(matches!(Found::from(record(None, Stage::Creating), node("a")), Found::HalfMade));
        assert!(matches!(Found::from(record(Some("a"), Stage::Creating), node("a")), Found::HalfMade));
        assert!(matches!(Found::from(record(Some("a"), Stage::Whole), node("a")), Found::Whole(..)));
        assert!(matches!(Found::from(record(Some("a"), Stage::Whole), node("b")), Found::Foreign));
        assert!(matches!(Found::from(record(Some("a"), Stage::Whole), None), Found::HalfMade));
    }
}
