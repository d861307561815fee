//! One local Kubernetes cluster: its processes, its address, its kubeconfigs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::DynamicObject;
use kube::{Client, Config};

use crate::assets::Assets;
use crate::components::{self, Addresses};
use crate::credentials::{Credentials, Tokens};
use crate::install;
use crate::kubeconfig::{self, Entry};
use crate::network::{self, Network};
use crate::readiness::until;
use crate::record::{self, Record};
pub use crate::supervisor::Signal;
use crate::supervisor::{Spawn, Supervisor};

/// The process name of the API server, for [`Cluster::signal`].
pub const API_SERVER: &str = "kube-apiserver";
/// The process that plays the nodes.
const KWOK: &str = "kwok";
/// The administrator's [`Entry`] in a cluster's directory, for who finds it.
const ADMIN_ACCESS: &str = "admin.json";
/// The supervisor's socket in a cluster's directory.
pub(crate) const SOCKET: &str = "supervisor.sock";
/// A cluster that is not ready by then never will be: it takes 3 s on an idle machine.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// One request to a local API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The end of a component's log that is worth repeating in an error.
const LOG_TAIL_BYTES: usize = 2_000;

/// What a new cluster is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the cluster and its context: lower-case letters, digits and dashes.
    pub name: String,
    /// The address that other members reach its daemon at, of 172.18.0.0/16. Not used in
    /// [`crate::network::Mode::Loopback`].
    pub service_address: Ipv4Addr,
    /// How many nodes kwok plays.
    pub nodes: u8,
    /// The manifests that give it the CRD and the daemon's rights: a `deploy` directory.
    pub deploy: PathBuf,
    /// Whether watches of payload kinds can be taken up again without a gap when the API server has restarted. Real API
    /// servers cannot do that, so this is for who must know what happened meanwhile.
    pub exact_watches: bool,
}

impl Options {
    /// A cluster with one node and the manifests of this checkout.
    #[must_use]
    pub fn new(name: &str, service_address: Ipv4Addr) -> Self {
        Self {
            name: name.to_owned(),
            service_address,
            nodes: 1,
            deploy: install::deploy_dir(),
            exact_watches: false,
        }
    }
}

/// A running cluster. One that [`Cluster::detach`] was not called on ends with this value.
#[derive(Debug)]
pub struct Cluster {
    record: Record,
    dir: PathBuf,
    supervisor: Supervisor,
    entry: Entry,
    /// Whether it was there before it was asked for.
    found_running: bool,
}

impl Cluster {
    /// Makes a new one in an empty directory. If that fails, the processes have ended; the directory stays.
    pub(crate) async fn make(
        assets: &Assets,
        network: Option<&Network>,
        dir: PathBuf,
        options: &Options,
    ) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let own_network = network.is_some();
        let addresses = if own_network {
            Addresses::in_namespace(options.service_address)
        } else {
            Addresses::on_loopback()?
        };
        let mut record = Record::new(&options.name, addresses.member, own_network, addresses.server());
        record.write(&dir)?;
        fs::create_dir_all(dir.join("logs")).context("create the directory of logs")?;
        let log = dir.join("logs/supervisor.log");
        let supervisor = Supervisor::start(&assets.supervisor, &dir.join(SOCKET), &log, own_network).await?;
        record.set_supervisor(supervisor.pid());
        let credentials = Credentials::create(&dir.join("pki"), &addresses.certified())?;
        record.api_server = components::api_server(assets, &addresses, &credentials);
        if options.exact_watches {
            record.api_server.extend(components::exact_watches());
        }
        record.write(&dir)?;
        if let Some(network) = network {
            network.plug(options.service_address, supervisor.pid())?;
        }
        let entry = access(&options.name, &record.server, &credentials, &credentials.tokens.admin)?;
        let mut cluster = Self { record, dir, supervisor, entry, found_running: false };
        cluster.start_components(assets, &addresses, &credentials, options.nodes).await?;
        cluster.install_daemon_access(&options.deploy).await?;
        cluster.record.complete = true;
        cluster.record.write(&cluster.dir)?;
        Ok(cluster)
    }

    /// The one in this directory, if it was made completely and its API server answers.
    pub(crate) async fn find(dir: &Path) -> Result<Option<Self>> {
        let Some(record) = record::read(dir)?.filter(|record| record.complete) else { return Ok(None) };
        let Ok(supervisor) = Supervisor::connect(&dir.join(SOCKET)).await else { return Ok(None) };
        let access = fs::read(dir.join(ADMIN_ACCESS)).context("read the administrator's access")?;
        let entry = serde_json::from_slice(&access).context("the administrator's access")?;
        let cluster = Self { record, dir: dir.to_owned(), supervisor, entry, found_running: true };
        Ok(cluster.is_ready().await.then_some(cluster))
    }

    /// Its name, which is also its context.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Where its daemon is reached by others: 127.0.0.1 in
    /// [`crate::network::Mode::Loopback`].
    #[must_use]
    pub fn service_address(&self) -> Ipv4Addr {
        self.record.service_address
    }

    /// Where the harness reaches its processes on a path that is never cut.
    #[must_use]
    pub fn watch_address(&self) -> Ipv4Addr {
        if self.record.own_network {
            network::watch_address(self.record.service_address)
        } else {
            Ipv4Addr::LOCALHOST
        }
    }

    /// Whether it has a network namespace of its own, so that its paths can be cut.
    #[must_use]
    pub fn has_own_network(&self) -> bool {
        self.record.own_network
    }

    /// Whether it ran already when it was asked for.
    #[must_use]
    pub fn found_running(&self) -> bool {
        self.found_running
    }

    /// The process whose network namespace is the cluster's (`nsenter --net --target PID`).
    #[must_use]
    pub fn namespace_pid(&self) -> u32 {
        self.record.supervisor_pid
    }

    /// Its directory, with `logs/`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kubeconfig of the administrator.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Kubeconfig of the daemon, with the rights that `deploy/install.yaml` gives it.
    #[must_use]
    pub fn daemon_kubeconfig(&self) -> PathBuf {
        self.dir.join("daemon.kubeconfig")
    }

    /// Whether the daemon's kubeconfig really is restricted: `false` if this checkout has no `deploy/install.yaml`.
    #[must_use]
    pub fn daemon_is_restricted(&self) -> bool {
        self.record.restricted_daemon
    }

    /// The namespace of the daemon's ServiceAccount, for its Lease.
    #[must_use]
    pub fn lease_namespace(&self) -> &str {
        &self.record.lease_namespace
    }

    /// A client with all rights, for requests. Wrap each in a timeout.
    ///
    /// # Errors
    /// If the kubeconfig is broken.
    pub async fn client(&self) -> Result<Client> {
        self.client_with(Some(CALL_TIMEOUT)).await
    }

    /// A client with all rights, for watches that may be silent for long.
    pub(crate) async fn watch_client(&self) -> Result<Client> {
        self.client_with(None).await
    }

    async fn client_with(&self, read_timeout: Option<Duration>) -> Result<Client> {
        Client::try_from(self.config(read_timeout).await?).context("make a client")
    }

    /// What a client with all rights is made of, for watches that may be silent for long.
    ///
    /// # Errors
    /// If the kubeconfig is broken.
    pub async fn watch_config(&self) -> Result<Config> {
        self.config(None).await
    }

    async fn config(&self, read_timeout: Option<Duration>) -> Result<Config> {
        let document = serde_json::from_value(self.entry.document()).context("the admin's kubeconfig")?;
        let mut config =
            Config::from_custom_kubeconfig(document, &kube::config::KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(Duration::from_secs(2));
        config.read_timeout = read_timeout;
        config.default_retry = false;
        Ok(config)
    }

    /// Applies an object server-side as administrator.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn apply(&self, object: serde_json::Value) -> Result<DynamicObject> {
        install::apply(&self.client().await?, object).await
    }

    /// Applies the CRD and the rights of another build over those that are there, as an update does.
    ///
    /// # Errors
    /// If the API server refuses one of them.
    pub async fn update(&self, deploy: &Path) -> Result<()> {
        install::install(&self.client().await?, deploy).await.map(drop)
    }

    /// Kills the API server. Returns when it is gone.
    ///
    /// # Errors
    /// If it did not run.
    pub async fn stop_api_server(&self) -> Result<()> {
        self.signal(API_SERVER, Signal::Kill).await?;
        if self.wait(API_SERVER, CALL_TIMEOUT).await?.is_none() {
            bail!("the API server of {} survived SIGKILL", self.name());
        }
        Ok(())
    }

    /// Starts the API server again. Returns when it is ready.
    ///
    /// # Errors
    /// If it runs already or does not become ready.
    pub async fn start_api_server(&self) -> Result<()> {
        self.spawn_component(API_SERVER, self.record.api_server.clone()).await?;
        self.wait_ready().await?;
        if self.record.kwok.is_empty() {
            return Ok(());
        }
        // Unlike a kubelet it does not always find the API server again, and then no pod ever becomes ready.
        self.signal(KWOK, Signal::Kill).await?;
        if self.wait(KWOK, CALL_TIMEOUT).await?.is_none() {
            bail!("kwok of {} survived SIGKILL", self.name());
        }
        self.spawn_component(KWOK, self.record.kwok.clone()).await
    }

    /// Sends a signal to a process of the cluster, for example [`API_SERVER`].
    ///
    /// # Errors
    /// If no such process was started.
    pub async fn signal(&self, process: &str, signal: Signal) -> Result<()> {
        self.supervisor.signal(process, signal).await
    }

    /// Waits for the end of a process and says how it ended; `None` if it still runs after `limit`.
    ///
    /// # Errors
    /// If no such process was started.
    pub async fn wait(&self, process: &str, limit: Duration) -> Result<Option<String>> {
        self.supervisor.wait(process, limit).await
    }

    pub(crate) async fn is_running(&self, process: &str) -> Result<bool> {
        self.supervisor.is_running(process).await
    }

    /// The pid of a process of the cluster.
    pub(crate) async fn pid_of(&self, process: &str) -> Result<u32> {
        let all = self.supervisor.list().await?;
        let found = all.iter().find(|one| one.name == process);
        Ok(found.with_context(|| format!("no process of {} is named {process}", self.name()))?.pid)
    }

    /// From now on, packets from these addresses vanish when they arrive here, without an answer to their sender:
    /// a cut as the far side of a dead network. Packets from here still leave. Replaces the last set.
    ///
    /// # Errors
    /// If the cluster has no network of its own.
    pub async fn drop_from(&self, from: &[Ipv4Addr]) -> Result<()> {
        if !self.record.own_network {
            bail!(
                "cluster {} shares the loopback network: paths can be cut only with network namespaces",
                self.name()
            );
        }
        self.supervisor.drop_from(from).await
    }

    /// How many packets it has dropped since it was started, to prove that a fault did fire.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn dropped_packets(&self) -> Result<u64> {
        self.supervisor.dropped().await
    }

    /// Starts a process inside the cluster's network, which ends with the cluster. Returns its pid.
    pub(crate) async fn spawn(&self, process: Spawn<'_>) -> Result<u32> {
        self.supervisor.spawn(process).await
    }

    /// Adds its context to a kubeconfig of the user's.
    ///
    /// # Errors
    /// If that file is not a kubeconfig or cannot be written; it is unchanged then.
    pub fn merge_kubeconfig(&self, path: &Path) -> Result<()> {
        self.entry.merge_into(path)
    }

    /// Lets the cluster live on after this process.
    ///
    /// # Errors
    /// If its supervisor does not answer.
    pub async fn detach(&mut self) -> Result<()> {
        self.supervisor.detach().await
    }

    /// Whether the API server answers that it is ready.
    pub async fn is_ready(&self) -> bool {
        let Ok(client) = self.client().await else { return false };
        let Ok(request) = http_get("/readyz") else { return false };
        let call = tokio::time::timeout(CALL_TIMEOUT, client.request_text(request)).await;
        matches!(call, Ok(Ok(answer)) if answer == "ok")
    }

    async fn start_components(
        &mut self,
        assets: &Assets,
        addresses: &Addresses,
        credentials: &Credentials,
        nodes: u8,
    ) -> Result<()> {
        self.spawn_component("etcd", components::etcd(assets, addresses, &self.dir)).await?;
        self.spawn_component(API_SERVER, self.record.api_server.clone()).await?;
        let Tokens { admin, controller_manager, scheduler } = &credentials.tokens;
        for (file, token) in
            [("admin", admin), ("controller-manager", controller_manager), ("scheduler", scheduler)]
        {
            let entry = access(self.name(), &self.record.server, credentials, token)?;
            entry.write(&self.dir.join(format!("{file}.kubeconfig")))?;
        }
        let entry = serde_json::to_string(&self.entry).context("the admin's access")?;
        crate::credentials::write_private(&self.dir.join(ADMIN_ACCESS), &entry)?;
        let stages = components::kwok_stages(assets, &self.dir)?;
        self.wait_ready().await?;
        let controllers = components::controller_manager(assets, credentials, &self.dir);
        self.spawn_component("kube-controller-manager", controllers).await?;
        self.spawn_component("kube-scheduler", components::scheduler(assets, &self.dir)).await?;
        let client = self.client().await?;
        if let (Some((kwok, _)), Some(stages)) = (&assets.kwok, stages) {
            self.record.kwok = components::kwok(kwok, &stages, &self.dir);
            self.spawn_component(KWOK, self.record.kwok.clone()).await?;
            components::create_nodes(&client, self.name(), nodes).await?;
        }
        let ready = until("nodes and controllers are ready", READY_TIMEOUT, async || {
            self.check_components().await?;
            Ok(components::nodes_and_accounts_ready(&client).await.then_some(()))
        });
        ready.await
    }

    async fn spawn_component(&self, name: &str, argv: Vec<String>) -> Result<()> {
        let log = self.log(name);
        let process = Spawn { name, argv, env: components::environment(), dir: &self.dir, log: &log };
        self.spawn(process).await?;
        Ok(())
    }

    async fn wait_ready(&self) -> Result<()> {
        until("the API server is ready", READY_TIMEOUT, async || {
            self.check_components().await?;
            Ok(self.is_ready().await.then_some(()))
        })
        .await
    }

    /// Fails if a component has ended, with the end of its log.
    async fn check_components(&self) -> Result<()> {
        let all = self.supervisor.list().await?;
        let Some(ended) = all.iter().find(|process| !process.running) else { return Ok(()) };
        let log = fs::read_to_string(self.log(&ended.name)).unwrap_or_default();
        let start = log.len().saturating_sub(LOG_TAIL_BYTES);
        let tail = log.get(start..).unwrap_or(&log);
        bail!("{} (process {}) ended: {}\n{tail}", ended.name, ended.pid, ended.status);
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    async fn install_daemon_access(&mut self, deploy: &Path) -> Result<()> {
        let mut entry = self.entry.clone();
        if let Some(identity) = install::install(&self.client().await?, deploy).await? {
            entry.token = identity.token;
            self.record.lease_namespace = identity.namespace;
            self.record.restricted_daemon = true;
        }
        entry.write(&self.daemon_kubeconfig())
    }
}

fn access(name: &str, server: &str, credentials: &Credentials, token: &str) -> Result<Entry> {
    let authority = fs::read(&credentials.ca).context("read the CA")?;
    Ok(Entry {
        name: name.to_owned(),
        server: server.to_owned(),
        authority_base64: kubeconfig::base64(&authority),
        token: token.to_owned(),
    })
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).context("make a request")
}
