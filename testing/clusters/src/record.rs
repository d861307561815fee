//! What the state directory remembers of a cluster, and the process that it names.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::credentials::write_private;

/// The file that makes a directory a cluster's. It is written first and removed last.
const FILE: &str = "cluster.json";

/// What else is in the state directory: the clusters of `--provider kind`, and the kubeconfig of all.
const RESERVED: [&str; 2] = ["kind", "kubeconfig"];

/// What the state directory remembers of a cluster, so that another process can find and remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) service_address: Ipv4Addr,
    pub(crate) own_network: bool,
    pub(crate) server: String,
    pub(crate) supervisor_pid: u32,
    /// In clock ticks after boot: with the pid, it names a process for ever.
    pub(crate) supervisor_start: Option<u64>,
    pub(crate) api_server: Vec<String>,
    /// Who plays the nodes; empty if nobody does.
    #[serde(default)]
    pub(crate) kwok: Vec<String>,
    pub(crate) lease_namespace: String,
    pub(crate) restricted_daemon: bool,
    pub(crate) complete: bool,
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 40 || edges || !name.bytes().all(legal) || RESERVED.contains(&name) {
        bail!(
            "--name {name:?}: expected up to 40 lower-case letters, digits and inner dashes, other than \"kind\" and \"kubeconfig\""
        );
    }
    Ok(())
}

/// The record in a directory; `None` if that is not a cluster's.
pub(crate) fn read(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join(FILE);
    match fs::read(&path) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Whether the directory is a cluster's, running or not.
pub(crate) fn is_cluster(dir: &Path) -> bool {
    dir.join(FILE).is_file()
}

/// Removes a cluster's directory, so that it stays one until all else in it has gone.
pub(crate) fn remove_directory(dir: &Path) -> Result<()> {
    let remove = || -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != FILE {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_file(dir.join(FILE))?;
        fs::remove_dir(dir)
    };
    remove().with_context(|| format!("remove {}", dir.display()))
}

impl Record {
    /// Of a cluster of which nothing runs yet.
    pub(crate) fn new(name: &str, service_address: Ipv4Addr, own_network: bool, server: String) -> Self {
        Self {
            name: name.to_owned(),
            service_address,
            own_network,
            server,
            supervisor_pid: 0,
            supervisor_start: None,
            api_server: Vec::new(),
            kwok: Vec::new(),
            lease_namespace: "default".to_owned(),
            restricted_daemon: false,
            complete: false,
        }
    }

    /// Writes it into the cluster's directory.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("encode the record")?;
        write_private(&dir.join(FILE), &text)
    }

    /// Notes which process the supervisor is.
    pub(crate) fn set_supervisor(&mut self, pid: u32) {
        (self.supervisor_pid, self.supervisor_start) = (pid, start_time(pid));
    }

    /// Kills a supervisor that does not answer, if it still is the process that was started. The kernel then kills
    /// its children.
    pub(crate) fn kill_supervisor(&self) -> Result<()> {
        kill_exactly(self.supervisor_pid, self.supervisor_start)
    }
}

/// Field 22 of `/proc/PID/stat`, which comes after the name in parentheses; `None` if there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Kills a process, if it still is the one that was started at that time.
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
        for bad in ["", "-a", "New", "a/b", "..", "kind", "kubeconfig", &"x".repeat(41)] {
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
