//! A witness (`flagship witness`) on the members' network, in a network namespace and a state directory of its own,
//! and what happens to it.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{SOCKET, Signal};
use crate::daemon::Flagship;
use crate::network::Network;
use crate::supervisor::{Spawn, Supervisor};

/// The name of its process at its supervisor.
const PROCESS: &str = "witness";
/// How long a killed or asked process may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A witness to be.
#[derive(Clone, Debug)]
pub struct WitnessPlan {
    /// Its name as a member, in its certificate and in `spec.election.voters`.
    pub name: String,
    /// Its address on the members' network.
    pub address: Ipv4Addr,
}

impl WitnessPlan {
    /// The one of the documentation.
    #[must_use]
    pub fn new() -> Self {
        Self { name: "witness".to_owned(), address: Ipv4Addr::new(172, 18, 100, 240) }
    }
}

impl Default for WitnessPlan {
    fn default() -> Self {
        Self::new()
    }
}

/// What it is started with.
pub(crate) struct Start<'a> {
    pub(crate) supervisor: &'a Path,
    pub(crate) network: &'a Network,
    pub(crate) flagship: &'a Flagship,
    /// Its directory, made here.
    pub(crate) dir: PathBuf,
    pub(crate) tls_dir: &'a Path,
    pub(crate) callsign: &'a str,
    /// Members that it dials.
    pub(crate) members: Vec<Ipv4Addr>,
}

/// A witness that runs, or has ended and can be started again. Its process ends with this value.
#[derive(Debug)]
pub struct Witness {
    /// As planned.
    pub plan: WitnessPlan,
    dir: PathBuf,
    argv: Vec<String>,
    supervisor: Supervisor,
}

impl Witness {
    pub(crate) async fn start(plan: WitnessPlan, start: Start<'_>) -> Result<Self> {
        let Start { dir, network, .. } = &start;
        let state_dir = dir.join("state");
        fs::create_dir_all(&state_dir).with_context(|| format!("create {}", state_dir.display()))?;
        let supervisor =
            Supervisor::start(start.supervisor, &dir.join(SOCKET), &dir.join("supervisor.log"), true).await?;
        network.plug(plan.address, supervisor.pid())?;
        let members: Vec<String> = start.members.iter().map(Ipv4Addr::to_string).collect();
        let argv = vec![
            start.flagship.path().display().to_string(),
            "witness".to_owned(),
            format!("--callsign={}", start.callsign),
            format!("--tls-dir={}", start.tls_dir.display()),
            format!("--state-dir={}", state_dir.display()),
            format!("--fleet={}", members.join(",")),
            format!("--service-address={}", plan.address),
        ];
        let witness = Self { plan, dir: start.dir, argv, supervisor };
        witness.start_again().await?;
        Ok(witness)
    }

    /// Starts it again with the same flags and the same state after it has ended.
    ///
    /// # Errors
    /// If it still runs.
    pub async fn start_again(&self) -> Result<u32> {
        let log = self.log();
        let env = BTreeMap::new();
        let process = Spawn { name: PROCESS, argv: self.argv.clone(), env, dir: &self.dir, log: &log };
        self.supervisor.spawn(process).await
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&self) -> Result<()> {
        self.end(Signal::Kill).await
    }

    /// SIGTERM; returns when it is gone.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn terminate(&self) -> Result<()> {
        self.end(Signal::Terminate).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        self.supervisor.signal(PROCESS, signal).await?;
        self.supervisor.wait(PROCESS, END_TIMEOUT).await?.context("the witness still runs")?;
        Ok(())
    }

    /// Its log, over all restarts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("witness.log")
    }

    /// As [`crate::cluster::Cluster::drop_from`].
    ///
    /// # Errors
    /// If its supervisor does not answer.
    pub async fn drop_from(&self, from: &[Ipv4Addr]) -> Result<()> {
        self.supervisor.drop_from(from).await
    }

    /// As [`crate::cluster::Cluster::dropped_packets`].
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn dropped_packets(&self) -> Result<u64> {
        self.supervisor.dropped().await
    }

    /// Ends it and removes its files.
    pub(crate) async fn remove(self, network: &Network) -> Result<()> {
        network.unplug(self.plan.address)?;
        self.supervisor.shut_down().await?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))
    }
}
