//! The rows of the report: what is measured, under which conditions, and what has to be reached. A peer is
//! measured by the same cases through [`PeerModel`].

use std::time::Duration;

use super::fault::Block;

/// What a case measures. Every case gives one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// One member of a settled fleet dies with its host, without a word. Seconds until the last survivor holds it
    /// Down (for a peer: whatever it calls dead, and acts on).
    SilentCrash,
    /// The same, and the last member is a witness: it is not the one that dies.
    CrashBesideWitness,
    /// As a silent crash, but the host lives on: streams are reset and connections refused. Seconds, as above.
    ProcessExit,
    /// Nothing dies for [`Case::duration`], but segments are lost. Number of (viewer, subject) verdicts Down.
    FalseDowns {
        /// Share of segments (stream) or datagrams that are lost, in percent.
        loss_percent: u32,
        /// Every link is reset every 10 s on average, so that none has learnt its delays. Peers without links
        /// have nothing to reset.
        cold: bool,
    },
    /// Every eighth member is blocked 8.2 s of every 9.2 s for [`Case::duration`]. Number of verdicts Down of a
    /// healthy member in the view of a healthy one.
    SlowMembers {
        /// What does not go on in a blocked one.
        block: Block,
    },
    /// A settled fleet without faults for [`Case::duration`]. Payload bytes sent per member and second: the
    /// encoded messages, without the framing of transport, IP and TLS.
    SteadyPayload,
    /// All members start within one second and know one seed address only. Seconds until all know all.
    Boot,
    /// So many members die in the same instant, without a word. Seconds until the last survivor holds the last of
    /// them Down.
    SeveralAtOnce {
        /// How many.
        dead: usize,
    },
}

/// One measurement. One-way delay is `one_way` plus up to `jitter`, drawn evenly per segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// What.
    pub scenario: Scenario,
    /// Size of the fleet before anything happens.
    pub members: usize,
    /// Of everything random in it, the instant of the crash included: draw it evenly from one second or more, so
    /// that it does not always meet the same phase of a peer's rounds.
    pub seed: u64,
    /// Base of the one-way delay.
    pub one_way: Duration,
    /// Added to it, evenly from zero.
    pub jitter: Duration,
    /// How long it is watched (the scenarios say whether it counts), in virtual time.
    pub duration: Duration,
}

impl Case {
    /// A case under the conditions of DESIGN section 11: 20 ms one way, and up to a quarter more.
    pub fn new(scenario: Scenario, members: usize, seed: u64) -> Self {
        Self {
            scenario,
            members,
            seed,
            one_way: Duration::from_millis(20),
            jitter: Duration::from_millis(5),
            duration: Duration::from_secs(60),
        }
    }
}

/// Another detector, run in the same process, in virtual time and under the same conditions.
pub trait PeerModel: Sync {
    /// Its name in the table: lower case, as on crates.io.
    fn name(&self) -> &'static str;

    /// Whether a case of this scenario and size is worth its time. The report leaves the others out and says so.
    fn supports(&self, scenario: Scenario, members: usize) -> bool;

    /// Runs one case so many times, each time in a fleet of its own, or in the same one where it can go on.
    fn measure_often(&self, case: &Case, times: u64) -> Vec<Option<f64>> {
        (0..times).map(|more| self.measure(&Case { seed: case.seed + more, ..*case })).collect()
    }

    /// Runs one case: seconds, verdicts or bytes per second, as its scenario says. `None` if what is waited for
    /// (everyone holds it dead, everyone knows everyone) did not come about within ten minutes of virtual time.
    fn measure(&self, case: &Case) -> Option<f64>;
}
