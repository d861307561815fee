//! Starts, finds and removes clusters.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::assets::{Assets, user_dir};
use crate::cluster::SOCKET;
use crate::cluster::{Cluster, Options};
use crate::daemon::Flagship;
use crate::kubeconfig;
use crate::network::{self, Mode, Network};
use crate::pod::Pod;
use crate::record::{self, check_name};
use crate::supervisor::Supervisor;
use crate::witness::{self, Witness, WitnessPlan};

/// Starts, finds and removes clusters under one state directory.
#[derive(Debug)]
pub struct Harness {
    state_dir: PathBuf,
    assets: Assets,
    mode: Mode,
    network: Option<Network>,
}

impl Harness {
    /// Finds or builds the programs, and makes the bridges in [`Mode::Namespaces`].
    ///
    /// # Errors
    /// If a program cannot be built or the network cannot be made: another network has the addresses, or no right.
    pub fn open(state_dir: &Path, mode: Mode) -> Result<Self> {
        let harness = Self::for_removal(state_dir, mode)?;
        if let Some(network) = &harness.network {
            network.open()?;
        }
        Ok(harness)
    }

    /// As [`Harness::open`], but changes nothing on the network: for [`Harness::remove`] alone.
    ///
    /// # Errors
    /// If a program cannot be built.
    pub fn for_removal(state_dir: &Path, mode: Mode) -> Result<Self> {
        let assets = Assets::prepare()?;
        fs::create_dir_all(state_dir).with_context(|| format!("create {}", state_dir.display()))?;
        let state_dir = state_dir.canonicalize().context("resolve --state-dir")?;
        let network = (mode == Mode::Namespaces).then(|| Network::existing(&assets.supervisor));
        Ok(Self { state_dir, assets, mode, network })
    }

    /// `$XDG_STATE_HOME/flagship/clusters`, else `~/.cache/flagship/clusters`.
    ///
    /// # Errors
    /// If neither variable is set.
    pub fn default_state_dir() -> Result<PathBuf> {
        Ok(user_dir("XDG_STATE_HOME", ".cache")?.join("flagship/clusters"))
    }

    /// Where its clusters live.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The kubeconfig with one context for each of its clusters.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state_dir.join("kubeconfig")
    }

    /// The directory that holds everything.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What to type to remove a cluster.
    #[must_use]
    pub fn removal_command(&self, name: &str) -> String {
        let default = Self::default_state_dir().ok().and_then(|dir| dir.canonicalize().ok());
        removal_command(name, &self.state_dir, default.as_deref())
    }

    /// Names of all clusters with a directory here, running or not.
    ///
    /// # Errors
    /// If the state directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.state_dir).context("read the state directory")? {
            let entry = entry?;
            if record::is_cluster(&entry.path())
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Starts a cluster, or returns the healthy one that already has this name. What a crash left behind under the
    /// name is removed first.
    ///
    /// # Errors
    /// If it does not become ready: with the end of the log of the component that failed. Nothing of it is left then.
    pub async fn start(&self, options: Options) -> Result<Cluster> {
        check_name(&options.name)?;
        if self.mode == Mode::Namespaces {
            network::check_member_address(options.service_address)?;
        }
        let _lock = self.lock(&options.name)?;
        if let Some(found) = self.find(&options.name).await? {
            if self.mode == Mode::Namespaces && found.service_address() != options.service_address {
                bail!(
                    "cluster {} runs with address {}, not {}: remove it first: {}",
                    options.name,
                    found.service_address(),
                    options.service_address,
                    self.removal_command(&options.name)
                );
            }
            return Ok(found);
        }
        self.remove_unlocked(&options.name).await?;
        let started = self.start_new(&options).await;
        if started.is_err() {
            // Logs are what the error is about, and it repeats their ends; the processes ended with the supervisor.
            let _ = self.remove_unlocked(&options.name).await;
        }
        started.with_context(|| format!("start cluster {}", options.name))
    }

    /// Starts a witness of one fleet, which dials these members.
    ///
    /// # Errors
    /// If the clusters have no networks of their own, or it cannot be started.
    pub async fn start_witness(
        &self,
        plan: WitnessPlan,
        flagship: &Flagship,
        callsign: &str,
        tls_dir: &Path,
        members: Vec<Ipv4Addr>,
    ) -> Result<Witness> {
        network::check_member_address(plan.address)?;
        let network = self.network.as_ref().context("a witness needs a network of its own")?;
        let (supervisor, dir) = (&self.assets.supervisor, self.state_dir.join(&plan.name));
        let start = witness::Start { supervisor, network, flagship, dir, tls_dir, callsign, members };
        Witness::start(plan, start).await.context("start the witness")
    }

    /// Makes pods of a cluster, each on a node of its own, with nothing in them yet.
    ///
    /// # Errors
    /// If the clusters have no networks of their own, or one cannot be made.
    pub async fn make_pods(&self, cluster: &Cluster, count: u8) -> Result<Vec<Pod>> {
        let network = self.network.as_ref().context("a pod needs a network of its own")?;
        let mut pods = Vec::with_capacity(count.into());
        for number in 1..=count {
            let pod = Pod::make(&self.assets.supervisor, network, cluster, number).await;
            pods.push(pod.with_context(|| format!("make pod {number} of {}", cluster.name()))?);
        }
        Ok(pods)
    }

    /// Ends a witness and removes its files.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub async fn remove_witness(&self, witness: Witness) -> Result<()> {
        witness.remove(self.network.as_ref().context("a witness needs a network of its own")?).await
    }

    /// The cluster of this name, if it was started completely and its API server answers.
    ///
    /// # Errors
    /// If its files cannot be read.
    pub async fn find(&self, name: &str) -> Result<Option<Cluster>> {
        check_name(name)?;
        let found = Cluster::find(&self.state_dir.join(name)).await?;
        Ok(found.filter(|cluster| cluster.has_own_network() == (self.mode == Mode::Namespaces)))
    }

    /// Removes a cluster: its processes, its interfaces, its files and its context. It need not exist or be whole.
    ///
    /// # Errors
    /// If a process cannot be ended or a file not be removed.
    pub async fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let lock = self.lock(name)?;
        self.remove_unlocked(name).await?;
        drop(lock);
        let _ = fs::remove_file(self.state_dir.join(format!("{name}.lock")));
        Ok(())
    }

    /// Removes the bridges, unless a cluster still uses them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn close_network(&self) -> Result<()> {
        self.network.as_ref().map_or(Ok(()), Network::close)
    }

    async fn remove_unlocked(&self, name: &str) -> Result<()> {
        let dir = self.state_dir.join(name);
        if !dir.exists() {
            return Ok(());
        }
        let record = record::read(&dir)?;
        let Some(record) = record else {
            // Killed before it had written anything, or somebody else's directory: that is never empty.
            return fs::remove_dir(&dir).with_context(|| {
                format!("{} is not a cluster's directory: nothing was removed", dir.display())
            });
        };
        if let Some(network) = self.network.as_ref().filter(|_| record.own_network) {
            network.unplug(record.service_address)?;
        }
        let asked = match Supervisor::connect(&dir.join(SOCKET)).await {
            Ok(supervisor) => supervisor.shut_down().await,
            Err(error) => Err(error),
        };
        if asked.is_err() {
            record.kill_supervisor()?;
        }
        kubeconfig::remove(&self.kubeconfig(), name)?;
        record::remove_directory(&dir)
    }

    async fn start_new(&self, options: &Options) -> Result<Cluster> {
        let dir = self.state_dir.join(&options.name);
        let cluster = Cluster::make(&self.assets, self.network.as_ref(), dir, options).await?;
        let _lock = self.lock("kubeconfig")?;
        cluster.merge_kubeconfig(&self.kubeconfig())?;
        Ok(cluster)
    }

    /// One process at a time works on a name.
    fn lock(&self, name: &str) -> Result<File> {
        let path = self.state_dir.join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    }
}

fn removal_command(name: &str, state_dir: &Path, default: Option<&Path>) -> String {
    let elsewhere = match default == Some(state_dir) {
        true => String::new(),
        false => format!(" --state-dir {}", state_dir.display()),
    };
    format!("cargo run -p clusters -- --name {name}{elsewhere} --force-clean")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_removal_command_names_a_state_directory_of_ones_own() {
        let default = Some(Path::new("/home/me/.cache/flagship/clusters"));
        let plain = removal_command("newyork", Path::new("/home/me/.cache/flagship/clusters"), default);
        assert_eq!(plain, "cargo run -p clusters -- --name newyork --force-clean");
        let own = "cargo run -p clusters -- --name newyork --state-dir /tmp/mine --force-clean";
        assert_eq!(removal_command("newyork", Path::new("/tmp/mine"), default), own);
        assert_eq!(removal_command("newyork", Path::new("/tmp/mine"), None), own);
    }
}
