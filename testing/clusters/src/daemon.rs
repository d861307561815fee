//! The Flagship daemon: finding its binary, starting it inside a cluster's network, and doing to it what happens to
//! processes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::{Cluster, Signal};
use crate::components::free_ports;
use crate::install::deploy_dir;
use crate::pod::Pod;
use crate::progress;
use crate::supervisor::Spawn;

/// The process name of the daemon inside its cluster, for [`Cluster::signal`].
pub const DAEMON: &str = "flagship";
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The `flagship` binary, with the manifests that install it.
#[derive(Clone, Debug)]
pub struct Flagship {
    path: PathBuf,
    deploy: PathBuf,
}

impl Flagship {
    /// `$FLAGSHIP_BIN`, else builds it with `$CARGO` in the profile that this harness was built in.
    ///
    /// # Errors
    /// If the variable names no file, or the build fails (its messages are on standard error then).
    pub fn find() -> Result<Self> {
        named_by_user()?.map_or_else(Self::build, |path| Ok(Self::at(path)))
    }

    /// One that was built in another way from this checkout.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self::with_manifests(path, deploy_dir())
    }

    /// One of another checkout.
    pub(crate) fn with_manifests(path: PathBuf, deploy: PathBuf) -> Self {
        Self { path, deploy }
    }

    fn build() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        build_in(&root, |_| {}).context("build flagship (or set FLAGSHIP_BIN)").map(Self::at)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the manifests that go with it.
    #[must_use]
    pub fn deploy(&self) -> &Path {
        &self.deploy
    }

    /// Runs one of its verbs to its end and returns what it printed.
    ///
    /// # Errors
    /// If it fails, with its own message.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.path)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", self.path.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("flagship {} failed ({}): {}", args.join(" "), output.status, said.trim());
        }
        String::from_utf8(output.stdout).context("flagship printed something that is not text")
    }

    /// Makes a CA and a certificate for each member in `dir` (`flagship pki init`).
    ///
    /// # Errors
    /// If the command fails.
    pub fn make_certificates(&self, fleet: &str, members: &[&str], dir: &Path) -> Result<()> {
        let dir = dir.to_str().context("the directory's name is not UTF-8")?;
        let mut args = vec!["pki", "init", "--fleet", fleet, "--out", dir];
        for member in members {
            args.extend(["--member", member]);
        }
        self.run(&args).map(drop)
    }
}

/// `$FLAGSHIP_BIN`, if that is set.
pub(crate) fn named_by_user() -> Result<Option<PathBuf>> {
    named_by("FLAGSHIP_BIN")
}

/// The file that an environment variable names, if that is set.
pub(crate) fn named_by(variable: &str) -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    if !path.is_file() {
        bail!("{variable}={} is not a file: build it, or unset the variable", path.display());
    }
    path.canonicalize().with_context(|| format!("resolve {variable}")).map(Some)
}

/// Builds the daemon of a checkout with `$CARGO`, in the profile that this harness was built in, and returns where
/// it is. `with` adds to the command.
pub(crate) fn build_in(root: &Path, with: impl FnOnce(&mut Command)) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bin", "flagship", "--message-format=json"]).current_dir(root);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    with(&mut command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("run cargo")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        stdout.lines().filter_map(rendered).for_each(|text| progress::say(&text));
        bail!("building flagship failed ({}): its messages are above", output.status);
    }
    stdout.lines().find_map(executable).context("cargo named no executable for flagship")
}

/// The path of the executable, if this line of cargo's says that flagship's was made.
pub(crate) fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let binary = message["reason"] == "compiler-artifact" && message["target"]["name"] == "flagship";
    message["executable"].as_str().filter(|_| binary).map(PathBuf::from)
}

pub(crate) fn rendered(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    message["message"]["rendered"].as_str().map(str::to_owned)
}

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory with ca.crt, tls.crt and tls.key.
    pub tls_dir: PathBuf,
    /// `--log-level`.
    pub log_level: String,
    /// Further flags, after ours.
    pub args: Vec<String>,
    /// Further environment.
    pub env: BTreeMap<String, String>,
}

impl Options {
    /// The defaults of `flagship run`, with these certificates.
    #[must_use]
    pub fn new(tls_dir: &Path) -> Self {
        Self {
            tls_dir: tls_dir.to_owned(),
            log_level: "info".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
        }
    }
}

/// A daemon inside a cluster's network, or in a pod of its own there. It ends with the cluster.
#[derive(Debug)]
pub struct Daemon {
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    listening: Listening,
    pod: Option<Pod>,
}

/// Where a daemon serves its metrics and its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// `127.0.0.1`, or nothing for all addresses.
    host: &'static str,
    metrics_port: u16,
    health_port: u16,
}

impl Listening {
    /// The default ports in a network of its own, where nobody else has them; otherwise ports of 127.0.0.1 that are
    /// free now, as two daemons cannot have the same.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        if cluster.has_own_network() {
            return Ok(Self { host: "", metrics_port: 8080, health_port: 8081 });
        }
        let [metrics_port, health_port] = free_ports()?;
        Ok(Self { host: "127.0.0.1", metrics_port, health_port })
    }

    /// The flags of `flagship run` for it.
    #[must_use]
    pub fn flags(&self) -> [String; 2] {
        [
            format!("--metrics-bind-address={}:{}", self.host, self.metrics_port),
            format!("--health-probe-bind-address={}:{}", self.host, self.health_port),
        ]
    }
}

impl Daemon {
    /// Starts it. Returns as soon as the process exists.
    ///
    /// # Errors
    /// If a daemon runs in this cluster already, or cannot be started.
    pub async fn start(cluster: &Cluster, flagship: &Flagship, options: Options) -> Result<Self> {
        Self::start_in(None, cluster, flagship, options).await
    }

    /// The same in a pod of the cluster, if one is given.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_in(
        pod: Option<Pod>,
        cluster: &Cluster,
        flagship: &Flagship,
        options: Options,
    ) -> Result<Self> {
        let listening = Listening::of(cluster)?;
        let mut argv = vec![flagship.path().display().to_string(), "run".to_owned()];
        argv.extend([
            format!("--kubeconfig={}", cluster.daemon_kubeconfig().display()),
            format!("--tls-dir={}", options.tls_dir.display()),
            format!("--lease-namespace={}", cluster.lease_namespace()),
            format!("--log-level={}", options.log_level),
        ]);
        argv.extend(listening.flags());
        argv.extend(options.args);
        let mut env = options.env;
        // As deploy/manager.yaml has them. Without a pod the daemon makes a name for itself.
        let node =
            pod.as_ref().map_or_else(|| format!("{}-node-1", cluster.name()), |pod| pod.node().to_owned());
        env.entry("NODE_NAME".to_owned()).or_insert(node);
        if let Some(pod) = &pod {
            env.insert("POD_UID".to_owned(), pod.name().to_owned());
        }
        let daemon = Self { argv, env, listening, pod };
        daemon.start_again(cluster).await?;
        Ok(daemon)
    }

    /// Starts it again with the same flags after it has ended.
    ///
    /// # Errors
    /// If it still runs.
    pub async fn start_again(&self, cluster: &Cluster) -> Result<u32> {
        self.spawn(cluster, self.argv.clone()).await
    }

    /// As [`Daemon::start_again`], but once with another build: an update, or the way back.
    ///
    /// # Errors
    /// If it still runs.
    pub async fn start_again_as(&self, cluster: &Cluster, flagship: &Flagship) -> Result<u32> {
        let mut argv = self.argv.clone();
        argv[0] = flagship.path().display().to_string();
        self.spawn(cluster, argv).await
    }

    async fn spawn(&self, cluster: &Cluster, argv: Vec<String>) -> Result<u32> {
        if let Some(pod) = &self.pod {
            return pod.spawn(argv, self.env.clone()).await;
        }
        let log = self.log(cluster);
        let process = Spawn { name: DAEMON, argv, env: self.env.clone(), dir: cluster.dir(), log: &log };
        cluster.spawn(process).await
    }

    /// Its log, over all restarts.
    #[must_use]
    pub fn log(&self, cluster: &Cluster) -> PathBuf {
        self.pod.as_ref().map_or_else(|| cluster.log(DAEMON), Pod::log)
    }

    /// The pod that it runs in, if it is one of several replicas.
    #[must_use]
    pub fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    async fn signal(&self, cluster: &Cluster, signal: Signal) -> Result<()> {
        match &self.pod {
            Some(pod) => pod.signal(signal).await,
            None => cluster.signal(DAEMON, signal).await,
        }
    }

    async fn wait(&self, cluster: &Cluster, limit: Duration) -> Result<Option<String>> {
        match &self.pod {
            Some(pod) => pod.wait(limit).await,
            None => cluster.wait(DAEMON, limit).await,
        }
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// If it was never started.
    pub async fn kill(&self, cluster: &Cluster) -> Result<()> {
        self.signal(cluster, Signal::Kill).await?;
        self.wait_end(cluster, KILL_TIMEOUT).await.map(drop)
    }

    /// SIGTERM; returns how it ended.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub async fn terminate(&self, cluster: &Cluster, limit: Duration) -> Result<String> {
        self.signal(cluster, Signal::Terminate).await?;
        self.wait_end(cluster, limit).await
    }

    /// SIGSTOP: it stands still, its connections stay.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn pause(&self, cluster: &Cluster) -> Result<()> {
        self.signal(cluster, Signal::Stop).await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn resume(&self, cluster: &Cluster) -> Result<()> {
        self.signal(cluster, Signal::Continue).await
    }

    /// Whether it runs. A paused one does.
    ///
    /// # Errors
    /// If the cluster's supervisor does not answer.
    pub async fn is_running(&self, cluster: &Cluster) -> Result<bool> {
        match &self.pod {
            Some(pod) => pod.is_running().await,
            None => cluster.is_running(DAEMON).await,
        }
    }

    /// Waits for its end and says how it ended ("exit status: 0", "signal: killed").
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn wait_end(&self, cluster: &Cluster, limit: Duration) -> Result<String> {
        let ended = self.wait(cluster, limit).await?;
        ended.with_context(|| {
            format!("the daemon of {} still runs after {} s", cluster.name(), limit.as_secs())
        })
    }

    /// Its process, for measuring memory and processor time.
    ///
    /// # Errors
    /// If it was never started.
    pub async fn pid(&self, cluster: &Cluster) -> Result<u32> {
        match &self.pod {
            Some(pod) => pod.pid().await,
            None => cluster.pid_of(DAEMON).await,
        }
    }

    /// Where the harness reads its metrics.
    #[must_use]
    pub fn metrics_address(&self, cluster: &Cluster) -> (Ipv4Addr, u16) {
        (self.watch_address(cluster), self.listening.metrics_port)
    }

    /// Where the harness reads its health.
    #[must_use]
    pub fn health_address(&self, cluster: &Cluster) -> (Ipv4Addr, u16) {
        (self.watch_address(cluster), self.listening.health_port)
    }

    fn watch_address(&self, cluster: &Cluster) -> Ipv4Addr {
        self.pod.as_ref().map_or_else(|| cluster.watch_address(), Pod::watch_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_name_both_addresses() {
        let listening = Listening { host: "127.0.0.1", metrics_port: 4001, health_port: 4002 };
        let flags = ["--metrics-bind-address=127.0.0.1:4001", "--health-probe-bind-address=127.0.0.1:4002"];
        assert_eq!(listening.flags(), flags);
    }

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let artifact = |name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}"}},"executable":{executable}}}"#
            )
        };
        let lines = [
            "not json".to_owned(),
            artifact("flagship", "null"),
            artifact("other", r#""/target/debug/other""#),
            artifact("flagship", r#""/target/debug/flagship""#),
        ];
        let found = lines.iter().find_map(|line| executable(line));
        assert_eq!(found, Some(PathBuf::from("/target/debug/flagship")));
    }
}
