//! What a run of a swarm found, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// What the links of a swarm have sent so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Bytes of frames.
    pub(super) payload: u64,
    /// Those of the election.
    pub(super) election: u64,
    /// Beats.
    pub(super) beats: u64,
    /// Other frames of membership: mostly echoes.
    pub(super) others: u64,
    /// Bytes with TLS and HTTP/2.
    pub(super) wire: u64,
    /// Link ends that are up.
    pub(super) links: usize,
    /// Statements whose signature was checked.
    pub(super) statements: u64,
    /// Digests sent.
    pub(super) digests: u64,
    /// Links accepted.
    pub(super) handshakes: u64,
}

impl Carried {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            payload: self.payload + other.payload,
            election: self.election + other.election,
            beats: self.beats + other.beats,
            others: self.others + other.others,
            wire: self.wire + other.wire,
            links: self.links + other.links,
            statements: self.statements + other.statements,
            digests: self.digests + other.digests,
            handshakes: self.handshakes + other.handshakes,
        }
    }

    pub(super) fn since(self, earlier: &Self) -> Self {
        Self {
            payload: self.payload - earlier.payload,
            election: self.election - earlier.election,
            beats: self.beats - earlier.beats,
            others: self.others - earlier.others,
            wire: self.wire - earlier.wire,
            links: self.links,
            statements: self.statements - earlier.statements,
            digests: self.digests - earlier.digests,
            handshakes: self.handshakes - earlier.handshakes,
        }
    }
}

/// How soon the others noticed that members were gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detection {
    /// How many members were lost.
    pub lost: usize,
    /// How many verdicts there had to be: each of the others about each of the lost.
    pub observers: usize,
    /// How many of those never came.
    pub missed: usize,
    /// Half of the verdicts took at most so long.
    pub p50: Duration,
    /// The last verdict took so long.
    pub worst: Duration,
}

impl Detection {
    pub(super) fn of(losses: &[Vec<Option<Duration>>]) -> Self {
        let mut took: Vec<_> = losses.iter().flatten().flatten().copied().collect();
        took.sort_unstable();
        let observers = losses.iter().map(Vec::len).sum();
        Self {
            lost: losses.len(),
            observers,
            missed: observers - took.len(),
            p50: took.get(took.len() / 2).copied().unwrap_or_default(),
            worst: took.last().copied().unwrap_or_default(),
        }
    }

    fn to_json(self) -> Value {
        json!({
            "lost": self.lost,
            "verdicts": self.observers,
            "missed": self.missed,
            "p50_s": self.p50.as_secs_f64(),
            "worst_s": self.worst.as_secs_f64(),
        })
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, observers, missed, p50, worst } = self;
        if *lost == 0 {
            return write!(f, "not tried");
        }
        let (p50, worst) = (p50.as_secs_f64(), worst.as_secs_f64());
        write!(f, "p50 {p50:.2} s, worst {worst:.2} s ({lost} lost, {observers} verdicts, {missed} missed)")
    }
}

/// What a run found. Totals are of all members together.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Nodes.
    pub members: usize,
    /// How many of them may lead.
    pub electors: usize,
    /// From the first listener to the moment when each held all others Alive.
    pub boot: Duration,
    /// CPU time of all until then: what boot costs whatever else the machine does.
    pub boot_cpu: Duration,
    /// Bytes sent until then, TLS and HTTP/2 included.
    pub boot_sent: u64,
    /// Signatures checked until then.
    pub boot_statements: u64,
    /// Links accepted until then.
    pub boot_handshakes: u64,
    /// How long the fleet was measured at rest.
    pub rest: Duration,
    /// CPU time of all at rest, in the kernel and out of it.
    pub cpu: Duration,
    /// Bytes of frames sent at rest.
    pub payload_sent: u64,
    /// Bytes sent at rest with TLS and HTTP/2 around the frames; the headers of TCP and IP are not in it.
    pub wire_sent: u64,
    /// Bytes of the election's frames sent at rest.
    pub election_sent: u64,
    /// Beats sent at rest.
    pub beats_sent: u64,
    /// Other frames of membership sent at rest: mostly echoes.
    pub others_sent: u64,
    /// Signed statements that were new to somebody at rest: a fleet at rest has nothing to say.
    pub statements: u64,
    /// Digests sent at rest: views that agree need none.
    pub digests: u64,
    /// Link ends.
    pub links: usize,
    /// Bytes of the process in memory.
    pub resident: u64,
    /// By how many bytes the process grew from before the first member to the end of the rest.
    pub grown: u64,
    /// Members that led at the end of the rest.
    pub leaders: usize,
    /// Suspicions and verdicts about members that were not lost, since the beginning of the rest.
    pub false_alarms: Vec<String>,
    /// Members whose process ended.
    pub exit: Detection,
    /// Members that fell silent.
    pub silence: Detection,
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "figures for people have a few digits")]
    fn per_member(&self, total: f64) -> f64 {
        total / self.members as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people have a few digits")]
    fn per_member_and_second(&self, total: u64) -> f64 {
        self.per_member(total as f64) / self.rest.as_secs_f64()
    }

    /// CPU of one member at rest, in percent of one core.
    pub fn cpu_percent(&self) -> f64 {
        self.per_member(100.0 * self.cpu.as_secs_f64()) / self.rest.as_secs_f64()
    }

    /// Bytes of frames that a member sends per second at rest.
    pub fn payload_per_second(&self) -> f64 {
        self.per_member_and_second(self.payload_sent)
    }

    /// The same with TLS and HTTP/2.
    pub fn wire_per_second(&self) -> f64 {
        self.per_member_and_second(self.wire_sent)
    }

    /// What must not be, as sentences.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.leaders != 1 {
            failures.push(format!("{} members lead", self.leaders));
        }
        for (kind, found) in [("ended", self.exit), ("fell silent", self.silence)] {
            if found.missed > 0 {
                failures.push(format!("{} verdicts about members that {kind} did not come", found.missed));
            }
        }
        if let Some(first) = self.false_alarms.first() {
            failures.push(format!("{} false alarms; the first: {first}", self.false_alarms.len()));
        }
        failures
    }

    /// One object.
    #[expect(clippy::cast_precision_loss, reason = "figures for people have a few digits")]
    pub fn to_json(&self) -> Value {
        json!({
            "members": self.members,
            "electors": self.electors,
            "boot_s": self.boot.as_secs_f64(),
            "boot_cpu_s": self.boot_cpu.as_secs_f64(),
            "boot_bytes_per_member": self.per_member(self.boot_sent as f64),
            "boot_statements_per_member": self.per_member(self.boot_statements as f64),
            "boot_links_accepted": self.boot_handshakes,
            "rest_s": self.rest.as_secs_f64(),
            "cpu_percent_per_member": self.cpu_percent(),
            "payload_bytes_per_second_per_member": self.payload_per_second(),
            "wire_bytes_per_second_per_member": self.wire_per_second(),
            "election_bytes_per_second_per_member": self.per_member_and_second(self.election_sent),
            "beats_per_second_per_member": self.per_member_and_second(self.beats_sent),
            "other_membership_frames_per_second_per_member": self.per_member_and_second(self.others_sent),
            "statements_checked_at_rest": self.statements,
            "digests_sent_at_rest": self.digests,
            "links_per_member": self.per_member(self.links as f64),
            "resident_bytes": self.resident,
            "bytes_per_member": self.per_member(self.grown as f64),
            "leaders": self.leaders,
            "false_alarms": self.false_alarms.len(),
            "exit": self.exit.to_json(),
            "silence": self.silence.to_json(),
            "failures": self.failures(),
        })
    }
}

impl fmt::Display for Report {
    #[expect(clippy::cast_precision_loss, reason = "figures for people have a few digits")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let rows = [
            ("members", format!("{}, of which {} may lead", self.members, self.electors)),
            (
                "boot until all know all",
                format!(
                    "{:.2} s ({:.2} s of CPU; per member {:.0} KiB sent, {:.0} signatures checked, {:.1} links accepted)",
                    self.boot.as_secs_f64(),
                    self.boot_cpu.as_secs_f64(),
                    self.per_member(self.boot_sent as f64) / 1024.0,
                    self.per_member(self.boot_statements as f64),
                    self.per_member(self.boot_handshakes as f64)
                ),
            ),
            (
                "CPU per member at rest",
                format!(
                    "{:.3} % of a core (all: {:.1} %, over {:.0} s)",
                    self.cpu_percent(),
                    self.cpu_percent() * self.members as f64,
                    self.rest.as_secs_f64()
                ),
            ),
            (
                "sent per member at rest",
                format!(
                    "{:.0} B/s of frames ({:.0} of them election), {:.0} B/s with TLS and HTTP/2",
                    self.payload_per_second(),
                    self.per_member_and_second(self.election_sent),
                    self.wire_per_second()
                ),
            ),
            (
                "frames per member at rest",
                format!(
                    "{:.2} beats/s, {:.2} others of membership/s",
                    self.per_member_and_second(self.beats_sent),
                    self.per_member_and_second(self.others_sent)
                ),
            ),
            (
                "news at rest, all members",
                format!("{} statements checked, {} digests", self.statements, self.digests),
            ),
            ("links per member", format!("{:.1}", self.per_member(self.links as f64))),
            (
                "memory",
                format!(
                    "{:.0} MiB resident, {:.2} MiB per member",
                    mib(self.resident as f64),
                    mib(self.per_member(self.grown as f64))
                ),
            ),
            ("leaders", self.leaders.to_string()),
            ("false alarms", self.false_alarms.len().to_string()),
            ("process ended, Down at all others", self.exit.to_string()),
            ("fell silent, Down at all others", self.silence.to_string()),
        ];
        rows.iter().try_for_each(|(what, found)| writeln!(f, "{what:34} {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_counts_what_did_not_come() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let found = Detection::of(&[vec![ms(30), None, ms(10)], vec![ms(20), ms(40), ms(50)]]);
        let (p50, worst) = (Duration::from_millis(30), Duration::from_millis(50));
        assert_eq!(found, Detection { lost: 2, observers: 6, missed: 1, p50, worst });
    }
}
