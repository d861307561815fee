//! A pod: a network namespace with addresses of its own beside its cluster, for one of several replicas of a daemon.
//! Processes of one namespace could not all listen on the member's port.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, SOCKET, Signal};
use crate::network::{Network, watch_address};
use crate::supervisor::{Spawn, Supervisor};

/// The name of its process at its supervisor.
const PROCESS: &str = "flagship";

/// A pod, with at most one process. That ends with this value.
#[derive(Debug)]
pub struct Pod {
    name: String,
    node: String,
    address: Ipv4Addr,
    dir: PathBuf,
    supervisor: Supervisor,
}

impl Pod {
    /// The pod of this number, on the node of that number.
    pub(crate) async fn make(
        program: &Path,
        network: &Network,
        cluster: &Cluster,
        number: u8,
    ) -> Result<Self> {
        let name = format!("pod-{number}");
        let dir = cluster.dir().join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let log = dir.join("supervisor.log");
        let supervisor = Supervisor::start(program, &dir.join(SOCKET), &log, true).await?;
        let address = address(cluster.service_address(), number)?;
        network.plug(address, supervisor.pid())?;
        let node = format!("{}-node-{number}", cluster.name());
        Ok(Self { name: format!("{}-{name}", cluster.name()), node, address, dir, supervisor })
    }

    /// What `metadata.name` would be, unlike that of any other pod of the fleet.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node that it runs on.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its own address on the members' network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where the harness reaches it, on a path that is never cut.
    #[must_use]
    pub fn watch_address(&self) -> Ipv4Addr {
        watch_address(self.address)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("flagship.log")
    }

    pub(crate) async fn spawn(&self, argv: Vec<String>, env: BTreeMap<String, String>) -> Result<u32> {
        let log = self.log();
        self.supervisor.spawn(Spawn { name: PROCESS, argv, env, dir: &self.dir, log: &log }).await
    }

    pub(crate) async fn signal(&self, signal: Signal) -> Result<()> {
        self.supervisor.signal(PROCESS, signal).await
    }

    pub(crate) async fn wait(&self, limit: Duration) -> Result<Option<String>> {
        self.supervisor.wait(PROCESS, limit).await
    }

    pub(crate) async fn is_running(&self) -> Result<bool> {
        self.supervisor.is_running(PROCESS).await
    }

    pub(crate) async fn pid(&self) -> Result<u32> {
        let all = self.supervisor.list().await?;
        let found = all.iter().find(|one| one.name == PROCESS);
        Ok(found.with_context(|| format!("nothing was started in {}", self.name))?.pid)
    }

    pub(crate) async fn drop_from(&self, from: &[Ipv4Addr]) -> Result<()> {
        self.supervisor.drop_from(from).await
    }

    pub(crate) async fn dropped_packets(&self) -> Result<u64> {
        self.supervisor.dropped().await
    }
}

/// The addresses after that of the cluster.
fn address(cluster: Ipv4Addr, number: u8) -> Result<Ipv4Addr> {
    let [a, b, c, d] = cluster.octets();
    let last = d.checked_add(number).filter(|last| *last != u8::MAX);
    Ok(Ipv4Addr::new(a, b, c, last.with_context(|| format!("no addresses for pods after {cluster}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_the_addresses_after_their_clusters() {
        let cluster = Ipv4Addr::new(172, 18, 100, 220);
        assert_eq!(address(cluster, 2).unwrap(), Ipv4Addr::new(172, 18, 100, 222));
        assert!(address(Ipv4Addr::new(172, 18, 100, 254), 1).is_err(), "that is the broadcast address");
    }
}
