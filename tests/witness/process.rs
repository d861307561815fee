//! `flagship witness` as a process of this test.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Many times what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition that nobody announces is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for what `look` finds.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(LOOK).await;
    }
}

/// A port that nobody has now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A running witness. Ends with the test, however that ends.
pub(crate) struct Witness {
    child: Option<Child>,
    metrics: SocketAddr,
    health: SocketAddr,
}

impl Witness {
    /// Starts one on a port that it is not reached at: it dials.
    pub(crate) async fn start(tls: &Path, state: &Path, args: &[&str]) -> Self {
        Self::start_at(free_port(), tls, state, args).await
    }

    /// Starts one, and waits until it is ready.
    pub(crate) async fn start_at(port: u16, tls: &Path, state: &Path, args: &[&str]) -> Self {
        let [metrics, health] = [free_port(), free_port()].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let child = command(port, metrics, health, tls, state, args).spawn().unwrap();
        let mut witness = Self { child: Some(child), metrics, health };
        let deadline = Instant::now() + PATIENCE;
        while get(witness.health, "/readyz").await.is_none_or(|(code, _)| code != 200) {
            if let Some(status) = witness.child().try_wait().unwrap() {
                panic!("the witness ended: {status}\n{}", witness.log());
            }
            assert!(Instant::now() < deadline, "the witness is not ready");
            sleep(LOOK).await;
        }
        witness
    }

    /// Starts one that ends with an error; gives what it said.
    pub(crate) async fn refused(tls: &Path, state: &Path, args: &[&str]) -> String {
        let [metrics, health] = [free_port(), free_port()].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let child = command(free_port(), metrics, health, tls, state, args).spawn().unwrap();
        let (status, log) = Self { child: Some(child), metrics, health }.ended().await;
        assert_eq!(status.code(), Some(1), "{log}");
        log
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("taken at the end only")
    }

    /// Reads to the end: only of a process that has ended.
    fn log(&mut self) -> String {
        let mut log = String::new();
        self.child().stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    pub(crate) async fn metrics(&self) -> String {
        get(self.metrics, "/metrics").await.expect("the witness answers").1
    }

    pub(crate) async fn health(&self, path: &str) -> (u16, String) {
        get(self.health, path).await.expect("the witness answers")
    }

    pub(crate) fn terminate(&self) {
        let id = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(id.try_into().unwrap()), Signal::SIGTERM).unwrap();
    }

    pub(crate) async fn kill(mut self) {
        self.child().kill().unwrap();
        self.ended().await;
    }

    /// Waits until it has ended; its status and log.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let status = eventually("the witness ends", async || self.child().try_wait().unwrap()).await;
        let log = self.log();
        self.child = None;
        (status, log)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(
    port: u16,
    metrics: SocketAddr,
    health: SocketAddr,
    tls: &Path,
    state: &Path,
    args: &[&str],
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flagship"));
    command.arg("witness").args(args);
    command.arg(format!("--listen=127.0.0.1:{port}"));
    command.arg(format!("--metrics-bind-address={metrics}"));
    command.arg(format!("--health-probe-bind-address={health}"));
    command.arg("--tls-dir").arg(tls).arg("--state-dir").arg(state);
    // A log of this size fits into the pipe: it is read when the process has ended.
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    command
}

/// `None`: nobody answers there.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: witness\r\nConnection: close\r\n\r\n");
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer))
    };
    timeout(PATIENCE, ask).await.ok()?
}
