//! One local Kubernetes cluster: its processes, its address, its kubeconfigs.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::DynamicObject;
use kube::{Client, Config};
use serde::{Deserialize, Serialize};

use crate::assets::{Assets, user_dir};
use crate::components::{self, Addresses};
use crate::credentials::{Credentials, Tokens};
use crate::install;
use crate::kubeconfig::{self, Entry};
use crate::network::{self, Mode, Network};
use crate::readiness::until;
pub use crate::supervisor::Signal;
use crate::supervisor::{Spawn, Supervisor};

/// The process name of the API server, for [`Cluster::signal`].
pub const API_SERVER: &str = "kube-apiserver";
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
    /// The address that other members reach its daemon at, of 172.18.0.0/16. Not used in [`Mode::Loopback`].
    pub service_address: Ipv4Addr,
    /// How many nodes kwok plays.
    pub nodes: u8,
}

impl Options {
    /// A cluster with one node.
    #[must_use]
    pub fn new(name: &str, service_address: Ipv4Addr) -> Self {
        Self { name: name.to_owned(), service_address, nodes: 1 }
    }
}

/// Starts, finds and removes clusters under one state directory.
#[derive(Debug)]
pub struct Harness {
    state_dir: PathBuf,
    assets: Assets,
    mode: Mode,
    network: Option<Network>,
}

/// What the state directory remembers of a cluster, so that another process can find and remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    service_address: Ipv4Addr,
    own_network: bool,
    server: String,
    supervisor_pid: u32,
    /// In clock ticks after boot: with the pid, it names a process for ever.
    supervisor_start: Option<u64>,
    api_server: Vec<String>,
    lease_namespace: String,
    restricted_daemon: bool,
    complete: bool,
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

    /// Names of all clusters with a directory here, running or not.
    ///
    /// # Errors
    /// If the state directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.state_dir).context("read the state directory")? {
            let entry = entry?;
            if entry.path().join("cluster.json").is_file()
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
                    "cluster {} runs with address {}, not {}: remove it with --force-clean first",
                    options.name,
                    found.service_address(),
                    options.service_address
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

    /// The cluster of this name, if it was started completely and its API server answers.
    ///
    /// # Errors
    /// If its files cannot be read.
    pub async fn find(&self, name: &str) -> Result<Option<Cluster>> {
        let dir = self.state_dir.join(name);
        let Some(record) = read_record(&dir)? else { return Ok(None) };
        let Ok(supervisor) = Supervisor::connect(&dir.join("supervisor.sock")).await else { return Ok(None) };
        if !record.complete || record.own_network != (self.mode == Mode::Namespaces) {
            return Ok(None);
        }
        let entry =
            serde_json::from_slice(&fs::read(dir.join("admin.json")).context("read the admin's access")?)
                .context("the admin's access")?;
        let cluster = Cluster { record, dir, supervisor, entry, found_running: true };
        Ok(cluster.is_ready().await.then_some(cluster))
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
        let record = read_record(&dir).unwrap_or_default();
        if let (Some(network), Some(record)) =
            (&self.network, record.as_ref().filter(|record| record.own_network))
        {
            network.unplug(record.service_address)?;
        }
        let asked = match Supervisor::connect(&dir.join("supervisor.sock")).await {
            Ok(supervisor) => supervisor.shut_down().await,
            Err(error) => Err(error),
        };
        if let (Err(_), Some(record)) = (asked, &record) {
            kill_exactly(record.supervisor_pid, record.supervisor_start)?;
        }
        kubeconfig::remove(&self.kubeconfig(), name)?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    async fn start_new(&self, options: &Options) -> Result<Cluster> {
        let dir = self.state_dir.join(&options.name);
        fs::create_dir_all(dir.join("logs")).with_context(|| format!("create {}", dir.display()))?;
        let own_network = self.network.is_some();
        let supervisor = Supervisor::start(
            &self.assets.supervisor,
            &dir.join("supervisor.sock"),
            &dir.join("logs/supervisor.log"),
            own_network,
        )
        .await?;
        let addresses = if own_network {
            Addresses::in_namespace(options.service_address)
        } else {
            Addresses::on_loopback()?
        };
        let credentials = Credentials::create(&dir.join("pki"), &addresses.certified())?;
        let mut record = Record {
            name: options.name.clone(),
            service_address: addresses.member,
            own_network,
            server: addresses.server(),
            supervisor_pid: supervisor.pid(),
            supervisor_start: start_time(supervisor.pid()),
            api_server: components::api_server(&self.assets, &addresses, &credentials),
            lease_namespace: "default".to_owned(),
            restricted_daemon: false,
            complete: false,
        };
        write_record(&dir, &record)?;
        if let Some(network) = &self.network {
            network.plug(options.service_address, supervisor.pid())?;
        }
        let entry = access(&options.name, &record.server, &credentials, &credentials.tokens.admin)?;
        let mut cluster = Cluster { record: record.clone(), dir, supervisor, entry, found_running: false };
        cluster.start_components(&self.assets, &addresses, &credentials, options.nodes).await?;
        record = cluster.install_daemon_access(record).await?;
        record.complete = true;
        write_record(&cluster.dir, &record)?;
        cluster.record = record;
        let _lock = self.lock("kubeconfig")?;
        cluster.entry.merge_into(&self.kubeconfig())?;
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

impl Cluster {
    /// Its name, which is also its context.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Where its daemon is reached by others: 127.0.0.1 in [`Mode::Loopback`].
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
        let document = serde_json::from_value(self.entry.document()).context("the admin's kubeconfig")?;
        let mut config =
            Config::from_custom_kubeconfig(document, &kube::config::KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(Duration::from_secs(2));
        config.read_timeout = read_timeout;
        config.default_retry = false;
        Client::try_from(config).context("make a client")
    }

    /// Applies an object server-side as administrator.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn apply(&self, object: serde_json::Value) -> Result<DynamicObject> {
        install::apply(&self.client().await?, object).await
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
        self.wait_ready().await
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
        &self,
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
        crate::credentials::write_private(&self.dir.join("admin.json"), &entry)?;
        let stages = components::kwok_stages(assets, &self.dir)?;
        self.wait_ready().await?;
        let controllers = components::controller_manager(assets, credentials, &self.dir);
        self.spawn_component("kube-controller-manager", controllers).await?;
        self.spawn_component("kube-scheduler", components::scheduler(assets, &self.dir)).await?;
        let client = self.client().await?;
        if let (Some((kwok, _)), Some(stages)) = (&assets.kwok, stages) {
            self.spawn_component("kwok", components::kwok(kwok, &stages, &self.dir)).await?;
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

    async fn install_daemon_access(&self, mut record: Record) -> Result<Record> {
        let mut entry = self.entry.clone();
        if let Some(identity) = install::install(&self.client().await?, &install::deploy_dir()).await? {
            entry.token = identity.token;
            record.lease_namespace = identity.namespace;
            record.restricted_daemon = true;
        }
        entry.write(&self.daemon_kubeconfig())?;
        Ok(record)
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

fn check_name(name: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 40 || edges || !name.bytes().all(legal) || name == "kubeconfig" {
        bail!(
            "--name {name:?}: expected up to 40 lower-case letters, digits and inner dashes, other than \"kubeconfig\""
        );
    }
    Ok(())
}

fn read_record(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join("cluster.json");
    match fs::read(&path) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn write_record(dir: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_string_pretty(record).context("encode cluster.json")?;
    crate::credentials::write_private(&dir.join("cluster.json"), &text)
}

/// Field 22 of `/proc/PID/stat`, which comes after the name in parentheses; `None` if there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Kills a process that does not answer, if it still is the one that was started. The kernel then kills its children.
fn kill_exactly(pid: u32, started: Option<u64>) -> Result<()> {
    if started.is_none() || start_time(pid) != started {
        return Ok(());
    }
    let number = i32::try_from(pid).context("pid")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), nix::sys::signal::Signal::SIGKILL)
        .with_context(|| format!("kill process {pid} (supervisor)"))?;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while start_time(pid) == started && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["newyork", "a-1"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "New", "a/b", "..", "kubeconfig", &"x".repeat(41)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pid_that_was_given_to_another_process_is_not_killed() {
        let me = std::process::id();
        let started = start_time(me);
        assert!(started.is_some());
        kill_exactly(me, started.map(|ticks| ticks + 1)).unwrap();
    }
}
