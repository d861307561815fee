//! Talks to the process that owns a cluster's processes and network namespace (`testing/controlplane/cmd/supervisor`).

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// An answer takes a millisecond; a supervisor that is silent for this long is stopped or broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new supervisor may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel's limit for the path of a socket is 108 bytes with the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// A signal for a process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends it without a word.
    Kill,
    /// Asks it to end.
    Terminate,
    /// Freezes it.
    Stop,
    /// Lets it go on.
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Terminate => "TERM",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// A process to start.
pub(crate) struct Spawn<'a> {
    pub(crate) name: &'a str,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: &'a Path,
    pub(crate) log: &'a Path,
}

#[derive(Default, Serialize)]
struct Request<'a> {
    op: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    argv: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    log: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    signal: &'a str,
    timeout_ms: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response {
    error: String,
    pid: u32,
    exited: bool,
    status: String,
    processes: Vec<ProcessStatus>,
    packets: u64,
}

/// What the supervisor knows of one of its processes.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ProcessStatus {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) running: bool,
    /// How it ended, in words. Empty while it runs.
    pub(crate) status: String,
}

/// A supervisor that answers, or did when this was made.
#[derive(Debug)]
pub(crate) struct Supervisor {
    socket: PathBuf,
    pid: u32,
    /// Ours, until detached: when its standard input closes, it kills everything and ends.
    child: Option<Child>,
}

impl Supervisor {
    /// Starts a supervisor whose life is tied to ours, in a network namespace of its own if asked.
    pub(crate) async fn start(program: &Path, socket: &Path, log: &Path, own_network: bool) -> Result<Self> {
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            bail!(
                "{} is too long for a socket ({MAX_SOCKET_PATH} bytes at most): choose a shorter --state-dir",
                socket.display()
            );
        }
        let log_file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut command = if own_network {
            let mut unshare = Command::new("unshare");
            unshare.arg("--net").arg("--").arg(program);
            unshare
        } else {
            Command::new(program)
        };
        command.args(["run", "--socket"]).arg(socket);
        // Its own process group: Ctrl-C is for the harness, which then decides what becomes of the cluster.
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(log_file.try_clone().context("share the supervisor's log")?).stderr(log_file);
        let mut child =
            command.spawn().context("start the supervisor (is util-linux's `unshare` installed?)")?;
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(mut found) = Self::connect(socket).await
                && found.pid == child.id()
            {
                found.child = Some(child);
                return Ok(found);
            }
            if let Some(status) = child.try_wait().context("look at the supervisor")? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the supervisor ended at once ({status}): {}", said.trim());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("the supervisor does not listen on {}", socket.display());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Finds the supervisor that listens on this socket.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let mut found = Self { socket: socket.to_owned(), pid: 0, child: None };
        found.pid = found.ask(Request { op: "list", ..Request::default() }).await?.pid;
        Ok(found)
    }

    /// The supervisor's own process, which stands for the cluster's network namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) async fn spawn(&self, process: Spawn<'_>) -> Result<u32> {
        let what = process.name.to_owned();
        let request = Request {
            op: "spawn",
            name: process.name,
            argv: process.argv,
            env: process.env,
            dir: process.dir.display().to_string(),
            log: process.log.display().to_string(),
            ..Request::default()
        };
        Ok(self.ask(request).await.with_context(|| format!("start {what}"))?.pid)
    }

    pub(crate) async fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let request = Request { op: "signal", name, signal: signal.name(), ..Request::default() };
        self.ask(request).await.with_context(|| format!("signal {name}"))?;
        Ok(())
    }

    /// Waits for the end of a process and tells how it ended, or `None` if it still runs after `limit`.
    pub(crate) async fn wait(&self, name: &str, limit: Duration) -> Result<Option<String>> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = Request { op: "wait", name, timeout_ms, ..Request::default() };
        let response = self.ask_within(request, limit + ANSWER_TIMEOUT).await?;
        Ok(response.exited.then_some(response.status))
    }

    /// Whether a process of this name runs; a stopped one does. To wait for no time would be a toss-up over there.
    pub(crate) async fn is_running(&self, name: &str) -> Result<bool> {
        Ok(self.list().await?.iter().any(|process| process.name == name && process.running))
    }

    pub(crate) async fn list(&self) -> Result<Vec<ProcessStatus>> {
        Ok(self.ask(Request { op: "list", ..Request::default() }).await?.processes)
    }

    /// From now on, packets from these addresses vanish on arrival in the cluster's namespace. Replaces the last set.
    pub(crate) async fn drop_from(&self, from: &[Ipv4Addr]) -> Result<()> {
        let from = from.iter().map(Ipv4Addr::to_string).collect();
        self.ask(Request { op: "drop", from, ..Request::default() }).await.context("drop packets")?;
        Ok(())
    }

    pub(crate) async fn dropped(&self) -> Result<u64> {
        Ok(self.ask(Request { op: "dropped", ..Request::default() }).await?.packets)
    }

    /// Lets the cluster live on after our own end.
    pub(crate) async fn detach(&mut self) -> Result<()> {
        self.ask(Request { op: "detach", ..Request::default() }).await?;
        self.child = None;
        Ok(())
    }

    /// Kills all processes and the supervisor itself, and returns when they are gone.
    pub(crate) async fn shut_down(mut self) -> Result<()> {
        self.ask_within(Request { op: "shutdown", ..Request::default() }, Duration::from_secs(30)).await?;
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        while self.socket.exists() || self.still_there() {
            if tokio::time::Instant::now() > deadline {
                bail!("process {} (supervisor) does not end: kill it", self.pid);
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn still_there(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    async fn ask(&self, request: Request<'_>) -> Result<Response> {
        self.ask_within(request, ANSWER_TIMEOUT).await
    }

    async fn ask_within(&self, request: Request<'_>, limit: Duration) -> Result<Response> {
        let mut line = serde_json::to_vec(&request).context("encode a request")?;
        line.push(b'\n');
        let exchange = async {
            let mut stream = UnixStream::connect(&self.socket).await.context("connect")?;
            stream.write_all(&line).await.context("send")?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.context("receive")?;
            serde_json::from_str::<Response>(&answer).context("the supervisor closed the connection")
        };
        let response = timeout(limit, exchange).await.with_context(|| {
            format!("the supervisor at {} does not answer: is it stopped?", self.socket.display())
        })??;
        if !response.error.is_empty() {
            bail!("{}", response.error);
        }
        Ok(response)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}
