//! What this process may use, and what it has used.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};

/// Sockets of one member: both ends of its links are in this process, and while it joins it has more of them.
const DESCRIPTORS_PER_MEMBER: u64 = 40;

/// Raises the soft limit of open files as far as it may be raised.
pub(super) fn raise_descriptor_limit(members: usize) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    let needed = members as u64 * DESCRIPTORS_PER_MEMBER + 200;
    ensure!(
        hard >= needed,
        "{members} members need {needed} open files and this process may have {hard}: raise the hard limit (ulimit -Hn \
         as root) or take fewer members"
    );
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")?;
    }
    Ok(())
}

/// What the process has used so far.
pub(super) struct Usage {
    at: Instant,
    cpu: Duration,
    /// Bytes in memory.
    pub(super) resident: u64,
}

/// What was used meanwhile.
pub(super) struct Used {
    pub(super) elapsed: Duration,
    pub(super) cpu: Duration,
}

impl Usage {
    pub(super) fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("read what this process used")?;
        let time = |time: nix::sys::time::TimeVal| {
            let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros(u64::try_from(micros).unwrap_or_default())
        };
        let cpu = time(usage.user_time()) + time(usage.system_time());
        let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let kib: u64 = resident.context("/proc/self/status has no VmRSS")?.parse()?;
        Ok(Self { at: Instant::now(), cpu, resident: kib * 1024 })
    }

    pub(super) fn since(&self, earlier: &Self) -> Used {
        Used { elapsed: self.at.duration_since(earlier.at), cpu: self.cpu.saturating_sub(earlier.cpu) }
    }
}
