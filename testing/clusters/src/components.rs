//! The command lines of the control plane, and what makes it complete: nodes and default accounts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::json;
use tokio::time::timeout;

use crate::assets::{Assets, Program};
use crate::credentials::{Credentials, write_private};
use crate::install::apply;
use crate::network::watch_address;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a cluster's processes listen.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// Where other members reach the daemon.
    pub(crate) member: Ipv4Addr,
    /// Where the harness reaches the API server.
    api: Ipv4Addr,
    bind: Ipv4Addr,
    api_port: u16,
    etcd_port: u16,
    etcd_peer_port: u16,
}

impl Addresses {
    /// The usual ports: nobody else is in the namespace.
    pub(crate) fn in_namespace(member: Ipv4Addr) -> Self {
        Self {
            member,
            api: watch_address(member),
            bind: Ipv4Addr::UNSPECIFIED,
            api_port: 6443,
            etcd_port: 2379,
            etcd_peer_port: 2380,
        }
    }

    /// Ports that are free now.
    pub(crate) fn on_loopback() -> Result<Self> {
        let [api_port, etcd_port, etcd_peer_port] = free_ports()?;
        let local = Ipv4Addr::LOCALHOST;
        Ok(Self { member: local, api: local, bind: local, api_port, etcd_port, etcd_peer_port })
    }

    pub(crate) fn server(&self) -> String {
        format!("https://{}:{}", self.api, self.api_port)
    }

    /// Addresses that the API server's certificate must name; the first one of its Service network is its own.
    pub(crate) fn certified(&self) -> Vec<Ipv4Addr> {
        vec![Ipv4Addr::LOCALHOST, self.api, self.member, Ipv4Addr::new(10, 96, 0, 1)]
    }

    fn etcd(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }
}

/// Ports of 127.0.0.1 that nothing listens on, all different.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        *port = listener.local_addr().context("find a free port")?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// What all components are started with: memory is given back early, as a machine may run many clusters.
pub(crate) fn environment() -> BTreeMap<String, String> {
    BTreeMap::from([("GOGC".to_owned(), "60".to_owned())])
}

pub(crate) fn etcd(assets: &Assets, addresses: &Addresses, dir: &Path) -> Vec<String> {
    let (client, peer) = (addresses.etcd(), format!("http://127.0.0.1:{}", addresses.etcd_peer_port));
    let mut argv = assets.etcd.argv();
    argv.extend([
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The data lives no longer than the machine is up.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]);
    argv
}

/// Flags with which a watch of the kinds that payloads are made of can be taken up after any outage: the store answers,
/// which forgets nothing. With the cache that usually answers, a restarted API server cannot tell what went before.
pub(crate) fn exact_watches() -> [String; 2] {
    let kinds = [
        "deployments.apps",
        "statefulsets.apps",
        "daemonsets.apps",
        "replicasets.apps",
        "jobs.batch",
        "configmaps",
        "services",
        "pods",
    ];
    let sizes: Vec<String> = kinds.iter().map(|kind| format!("{kind}#0")).collect();
    [format!("--watch-cache-sizes={}", sizes.join(",")), "--etcd-compaction-interval=0".to_owned()]
}

pub(crate) fn api_server(assets: &Assets, addresses: &Addresses, credentials: &Credentials) -> Vec<String> {
    let mut argv = assets.api_server.argv();
    argv.extend([
        format!("--etcd-servers={}", addresses.etcd()),
        format!("--bind-address={}", addresses.bind),
        format!("--secure-port={}", addresses.api_port),
        // Must be given where there is no default route.
        format!("--advertise-address={}", addresses.api),
        // Nothing inside the cluster calls kubernetes.default: pods are not real.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", credentials.certificate.display()),
        format!("--tls-private-key-file={}", credentials.key.display()),
        format!("--token-auth-file={}", credentials.token_file.display()),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-signing-key-file={}", credentials.service_account_key.display()),
        format!("--service-account-key-file={}", credentials.service_account_public_key.display()),
        "--service-account-extend-token-expiration=false".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    argv
}

pub(crate) fn controller_manager(assets: &Assets, credentials: &Credentials, dir: &Path) -> Vec<String> {
    let mut argv = assets.controller_manager.argv();
    argv.extend([
        format!("--kubeconfig={}", dir.join("controller-manager.kubeconfig").display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        // One identity for all controllers, and no throttle: otherwise their start alone takes 5 s.
        "--use-service-account-credentials=false".to_owned(),
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=500".to_owned(),
        format!("--service-account-private-key-file={}", credentials.service_account_key.display()),
        format!("--root-ca-file={}", credentials.ca.display()),
        "--profiling=false".to_owned(),
        // Pods that it marks as not ready after an outage of the API server stay so, as nobody plays a kubelet that would
        // mark them again.
        "--node-monitor-grace-period=24h".to_owned(),
    ]);
    argv
}

pub(crate) fn scheduler(assets: &Assets, dir: &Path) -> Vec<String> {
    let mut argv = assets.scheduler.argv();
    argv.extend([
        format!("--kubeconfig={}", dir.join("scheduler.kubeconfig").display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    argv
}

pub(crate) fn kwok(program: &Program, stages: &Path, dir: &Path) -> Vec<String> {
    let mut argv = program.argv();
    argv.extend([
        format!("--kubeconfig={}", dir.join("admin.kubeconfig").display()),
        format!("--config={}", stages.display()),
        "--manage-all-nodes=true".to_owned(),
        // Who is started anew waits for the end of the leases of who was before.
        "--node-lease-duration-seconds=20".to_owned(),
    ]);
    argv
}

/// Writes the rules that kwok plays nodes and pods by; `None` without kwok.
pub(crate) fn kwok_stages(assets: &Assets, dir: &Path) -> Result<Option<PathBuf>> {
    let Some((_, stages)) = &assets.kwok else { return Ok(None) };
    let argv = stages.argv();
    let (program, args) = argv.split_first().context("kwok's stages have no program")?;
    let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!("{program} kwok-stages failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let path = dir.join("kwok-stages.yaml");
    write_private(&path, &String::from_utf8(output.stdout).context("kwok's stages are not text")?)?;
    Ok(Some(path))
}

pub(crate) async fn create_nodes(client: &Client, cluster: &str, nodes: u8) -> Result<()> {
    for number in 1..=nodes {
        let name = format!("{cluster}-node-{number}");
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}},
        });
        apply(client, node).await?;
    }
    Ok(())
}

/// Whether all nodes are Ready and pods may be made in the default namespace.
pub(crate) async fn nodes_and_accounts_ready(client: &Client) -> bool {
    let nodes: Api<Node> = Api::all(client.clone());
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let params = ListParams::default();
    let Ok(Ok(nodes)) = timeout(CALL_TIMEOUT, nodes.list(&params)).await else { return false };
    let ready = nodes.iter().all(|node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready =
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        // The controllers take this taint away when they have seen the node Ready.
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        ready && taints.is_none_or(Vec::is_empty)
    });
    ready && matches!(timeout(CALL_TIMEOUT, accounts.get_opt("default")).await, Ok(Ok(Some(_))))
}
