//! What the project is compared with: the published crates of other membership protocols, run in virtual time
//! over the simulator's network. Every figure comes from running the crate; nothing here is a table of results.

mod chitchat;
mod foca;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::membership::rows::{self, Case, Scenario};

pub use self::chitchat::Chitchat;
pub use self::foca::Foca;
pub use crate::membership::fault::Block;

/// A slow member is blocked this long …
pub const BLOCKED: Duration = Duration::from_millis(8200);
/// … out of every period of this length.
pub const BLOCK_PERIOD: Duration = Duration::from_millis(9200);
/// Members of a fleet start within this time of each other, so that their timers are not in step.
const START_SPREAD: Duration = Duration::from_secs(1);

/// All of them, as the report wants them.
pub fn all() -> [&'static dyn rows::PeerModel; 2] {
    [&Foca, &Chitchat]
}

/// A fleet and its network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Seeds the network, the choice of victims and, where the peer allows it, the protocol.
    pub seed: u64,
    /// Members of the fleet, at least 2.
    pub members: usize,
    /// What every datagram takes …
    pub one_way: Duration,
    /// … and up to so much more, drawn evenly for each.
    pub jitter: Duration,
    /// Probability that a datagram is lost, from 0 to 1.
    pub loss: f64,
    /// How many members, the first ones, are blocked for [`BLOCKED`] of every [`BLOCK_PERIOD`].
    pub slow: usize,
    /// What being blocked means.
    pub block: Block,
}

impl Setting {
    /// A fleet of healthy members without loss, at the distances of DESIGN section 11.
    pub fn new(seed: u64, members: usize) -> Self {
        let case = Case::new(Scenario::SilentCrash, members, seed);
        let (one_way, jitter) = (case.one_way, case.jitter);
        Self { seed, members, one_way, jitter, loss: 0.0, slow: 0, block: Block::Process }
    }

    /// The conditions of a case of the report.
    fn of(case: &Case) -> Self {
        let (one_way, jitter) = (case.one_way, case.jitter);
        let quiet = Self { one_way, jitter, ..Self::new(case.seed, case.members) };
        match case.scenario {
            Scenario::FalseDowns { loss_percent, .. } => quiet.with_loss(f64::from(loss_percent) / 100.0),
            Scenario::SlowMembers { block } => quiet.with_slow(case.members / 8, block),
            _ => quiet,
        }
    }

    /// The same with this probability of loss.
    #[must_use]
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// The same with so many slow members, blocked in this way.
    #[must_use]
    pub fn with_slow(self, slow: usize, block: Block) -> Self {
        Self { slow, block, ..self }
    }
}

/// How a fleet noticed a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// For every survivor: how long after the crash it held all victims Down. `None` if it never did within
    /// [`Detection::LIMIT`].
    pub survivors: Vec<Option<Duration>>,
}

impl Detection {
    /// How long a run waits for the last survivor.
    pub const LIMIT: Duration = Duration::from_secs(600);

    /// When the last survivor held all victims Down; `None` if one never did.
    pub fn everywhere(&self) -> Option<Duration> {
        self.survivors.iter().copied().try_fold(Duration::ZERO, |last, at| Some(last.max(at?)))
    }

    /// When, by this log, each survivor of a crash at this time held all victims Down.
    fn from_log(log: &DownLog, victims: &[usize], members: usize, crashed: Duration) -> Self {
        let survivors = (0..members).filter(|member| !victims.contains(member));
        let when = |observer, subject| {
            log.downs
                .iter()
                .filter(|down| down.observer == observer && down.subject == subject && down.at >= crashed)
                .map(|down| down.at.saturating_sub(crashed))
                .min()
        };
        let last = |observer| {
            victims
                .iter()
                .map(|&subject| when(observer, subject))
                .try_fold(Duration::ZERO, |last, at| Some(last.max(at?)))
        };
        Self { survivors: survivors.map(last).collect() }
    }
}

/// A protocol to compare with. Each call runs a fleet of its own from the start.
///
/// A process that dies on a living host is the same to these peers as a host that vanishes: they send datagrams and
/// do not read what the host answers for a closed port. [`Peer::crash`] therefore stands for both.
pub trait Peer {
    /// The crate's name.
    fn name(&self) -> &'static str;

    /// Which of its documented configurations runs in a fleet of this size.
    fn configuration(&self, members: usize) -> String;

    /// Crashes so many members of a fleet that has been quiet, all at once.
    fn crash(&self, setting: &Setting, victims: usize) -> Detection;

    /// How often, in so much time of a fleet in which nobody crashes, a member held another Down.
    fn false_downs(&self, setting: &Setting, duration: Duration) -> FalseDowns;

    /// Bytes of datagram payload that a member sends per second in a quiet fleet, averaged over this time and over
    /// all members. Headers of UDP and IP are not counted.
    fn steady_bytes(&self, setting: &Setting, duration: Duration) -> f64;

    /// Starts all members, which know one address each; how long until every one knows all. `None` if that takes
    /// longer than `limit`.
    fn boot(&self, setting: &Setting, limit: Duration) -> Option<Duration>;

    /// Whether a case of the report of this size ends in a time that is worth waiting for.
    fn is_quick(&self, scenario: Scenario, members: usize) -> bool;
}

impl<P: Peer + Sync> rows::PeerModel for P {
    fn name(&self) -> &'static str {
        Peer::name(self)
    }

    fn supports(&self, scenario: Scenario, members: usize) -> bool {
        // They send datagrams: there are no links to be reset.
        let links = matches!(scenario, Scenario::FalseDowns { cold: true, .. });
        !links && self.is_quick(scenario, members)
    }

    fn measure(&self, case: &Case) -> Option<f64> {
        let setting = Setting::of(case);
        let everywhere = |victims| self.crash(&setting, victims).everywhere();
        let seconds = match case.scenario {
            Scenario::SilentCrash | Scenario::CrashBesideWitness | Scenario::ProcessExit => everywhere(1),
            Scenario::SeveralAtOnce { dead } => everywhere(dead),
            Scenario::Boot => self.boot(&setting, Detection::LIMIT),
            Scenario::SteadyPayload => return Some(self.steady_bytes(&setting, case.duration)),
            Scenario::FalseDowns { .. } | Scenario::SlowMembers { .. } => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 verdicts")]
                return Some(self.false_downs(&setting, case.duration).between_healthy as f64);
            }
        };
        seconds.map(|seconds| seconds.as_secs_f64())
    }
}

/// Verdicts about members that run, one for each observer that comes to it and each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FalseDowns {
    /// Of healthy members about healthy members.
    pub between_healthy: u64,
    /// Of slow members or about them.
    pub with_slow: u64,
}

/// A member was held Down, at this time since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Down {
    at: Duration,
    observer: usize,
    subject: usize,
}

/// Everything that was held Down in a run.
#[derive(Debug, Default)]
struct DownLog {
    downs: Vec<Down>,
}

impl DownLog {
    fn record(&mut self, at: Duration, observer: usize, subject: usize) {
        self.downs.push(Down { at, observer, subject });
    }

    /// All of a run without crashes; the first `slow` members are not healthy.
    fn false_downs(&self, slow: usize) -> FalseDowns {
        let healthy = |down: &&Down| down.observer >= slow && down.subject >= slow;
        let between_healthy = self.downs.iter().filter(healthy).count();
        let with_slow = self.downs.len() - between_healthy;
        FalseDowns { between_healthy: between_healthy as u64, with_slow: with_slow as u64 }
    }

    fn clear(&mut self) {
        self.downs.clear();
    }
}

/// The network of a fleet that speaks UDP.
#[derive(Debug)]
struct Datagrams {
    rng: Pcg64,
    one_way: Duration,
    jitter: Duration,
    loss: f64,
    sent: u64,
    bytes: u64,
}

impl Datagrams {
    fn new(setting: &Setting) -> Self {
        let Setting { seed, one_way, jitter, loss, .. } = *setting;
        Self { rng: Pcg64::seed_from_u64(seed), one_way, jitter, loss, sent: 0, bytes: 0 }
    }

    /// How long a datagram of so many bytes is under way; `None` if it is lost. A datagram larger than a packet is
    /// lost as often as a small one, in the peers' favour.
    fn carry(&mut self, bytes: usize) -> Option<Duration> {
        self.sent += 1;
        self.bytes += bytes as u64;
        if self.loss > 0.0 && self.rng.random_bool(self.loss) {
            return None;
        }
        Some(self.one_way + self.jitter.mul_f64(self.rng.random_range(0.0..1.0)))
    }

    /// Bytes sent per second and member, if so many members sent for so long.
    fn rate(&self, members: usize, duration: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate of at most three digits is printed")]
        let bytes = self.bytes as f64 / members as f64;
        bytes / duration.as_secs_f64()
    }

    fn reset_counters(&mut self) {
        (self.sent, self.bytes) = (0, 0);
    }
}

/// When slow members are blocked: each has a phase of its own, drawn from the seed.
#[derive(Debug, Clone)]
struct Blocks {
    phases: Vec<Duration>,
}

impl Blocks {
    fn new(slow: usize, rng: &mut Pcg64) -> Self {
        Self { phases: (0..slow).map(|_| BLOCK_PERIOD.mul_f64(rng.random_range(0.0..1.0))).collect() }
    }

    /// Until when this member is blocked; `None` if it runs at this time.
    fn until(&self, member: usize, at: Duration) -> Option<Duration> {
        let phase = self.phases.get(member)?;
        let since_phase = (at + BLOCK_PERIOD).checked_sub(*phase)?;
        let into_period = Duration::from_secs_f64(since_phase.as_secs_f64() % BLOCK_PERIOD.as_secs_f64());
        let left = BLOCKED.checked_sub(into_period)?;
        (left > Duration::ZERO).then(|| at + left)
    }

    /// When this member is blocked for the first time; `None` if it is not slow.
    fn first(&self, member: usize) -> Option<Duration> {
        self.phases.get(member).copied()
    }
}

/// Draws victims. The first member is never one of them: it is the seed address of the others.
fn draw_victims(members: usize, victims: usize, rng: &mut Pcg64) -> Vec<usize> {
    let mut candidates: Vec<usize> = (1..members).collect();
    assert!(victims <= candidates.len(), "no survivor would be left to notice");
    (0..victims).map(|_| candidates.swap_remove(rng.random_range(0..candidates.len()))).collect()
}

/// A moment within the spread of starts.
fn draw_start(rng: &mut Pcg64) -> Duration {
    START_SPREAD.mul_f64(rng.random_range(0.0..1.0))
}
