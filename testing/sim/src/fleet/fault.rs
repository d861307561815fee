//! Faults as data: what goes wrong in a fleet of whole members, when, and for how long.

use std::time::Duration;

use flagship_types::{Failback, FleetConfig, Mode};

use super::host::HostSpec;
pub use crate::paths::{Host, Network};

/// How a process comes back after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// With its status, under max(wall clock, stored + 1).
    Whole,
    /// Its status is lost: no voter record, no known members.
    Blank,
    /// Its status is lost and its wall clock is behind: under an epoch below the one the others know.
    Behind,
}

/// What is done to one of two replicas of a daemon. It ends with the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaFault {
    /// SIGKILL; its container starts again at the end.
    Killed,
    /// SIGSTOP; SIGCONT at the end.
    Stopped,
    /// SIGTERM, as in a rolling update; another pod is there at the end.
    Ended,
    /// Its node does not reach the API server, and reaches everything else.
    CutOff,
}

/// Something that goes wrong, or that an operator does. It ends by itself after [`Timed::lasts`], if it can end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; its cluster lives, and so does what runs there. With `reset` its address refuses connections,
    /// without it nothing answers. It comes back at the end if `back` says how.
    Crash {
        /// Who.
        host: Host,
        /// Whether its address refuses.
        reset: bool,
        /// How it comes back.
        back: Option<Back>,
    },
    /// Something happens to one of the two replicas of a member.
    Replica {
        /// Whose.
        host: Host,
        /// The one that acts, not the one that waits.
        acting: bool,
        /// What.
        what: ReplicaFault,
    },
    /// SIGSTOP; SIGCONT at the end.
    Freeze {
        /// Who.
        host: Host,
    },
    /// SIGSTOP as soon as the leader has written something durable, right after a renewal; SIGCONT at the end.
    FreezeAfterWrite {
        /// Who.
        host: Host,
    },
    /// Nothing gets from one of these to one of those. One direction only.
    Cut {
        /// Who is not heard.
        from: Vec<Host>,
        /// By whom.
        to: Vec<Host>,
    },
    /// Nothing gets from these to the others, nor back.
    Split {
        /// One side.
        side: Vec<Host>,
    },
    /// The two are cut off from each other.
    Apart {
        /// One.
        a: Host,
        /// The other.
        b: Host,
    },
    /// Segments are lost on every link.
    Loss {
        /// How many.
        percent: u32,
    },
    /// Every segment between the two takes this much longer.
    SlowLink {
        /// One.
        a: Host,
        /// The other.
        b: Host,
        /// Added to the one-way delay.
        extra: Duration,
    },
    /// Its clocks run faster (or slower) by so many thousandths.
    Drift {
        /// Whose.
        host: Host,
        /// Faster by.
        permille: i32,
    },
    /// Its wall clock jumps, for good.
    WallJump {
        /// Whose.
        host: Host,
        /// By how many milliseconds.
        ms: i64,
    },
    /// The API server of its cluster does not answer: nothing can be read or written, what runs goes on.
    ApiDown {
        /// Whose.
        host: Host,
    },
    /// Pods take so much longer to end.
    SlowDelete {
        /// Where.
        host: Host,
        /// How much.
        extra: Duration,
    },
    /// A finalizer holds every object that is deleted, until the end.
    StuckDelete {
        /// Where.
        host: Host,
    },
    /// The payload cannot be applied there, as its dry run says, until the end.
    Invalid {
        /// Where.
        host: Host,
    },
    /// An operator changes the rank, for good.
    Rank {
        /// Whose.
        host: Host,
        /// To.
        rank: i64,
    },
    /// An operator takes `candidate` away; gives it back at the end.
    NoCandidate {
        /// Whose.
        host: Host,
    },
    /// An operator edits the failback of one object only, for good.
    Failback {
        /// Whose.
        host: Host,
        /// To.
        failback: Failback,
    },
    /// An operator edits the fleet's settings in one object only, for good.
    Propose {
        /// Whose.
        host: Host,
        /// To.
        config: FleetConfig,
    },
    /// An operator declares a member gone, at one other member; vouches for it again at the end.
    Forget {
        /// At whom.
        at: Host,
        /// Who.
        member: Host,
    },
    /// SIGTERM with `--on-shutdown handover`: gives the lead away, ends, comes back at the end.
    Handover {
        /// Who.
        host: Host,
    },
    /// SIGTERM with `--on-shutdown hold`: announces a pause, ends, comes back at the end.
    Away {
        /// Who.
        host: Host,
        /// For how long it asks.
        grace: Duration,
    },
    /// An operator pauses the fleet, at whoever leads; resumes it at the end.
    Pause,
    /// An operator moves the lead: to this one, or to the best. Asked of whoever leads.
    Switchover {
        /// To whom.
        to: Option<Host>,
    },
    /// Not part of the fleet at first: starts now. With a `name` it is a second cluster with another member's name.
    Join {
        /// Who.
        host: Host,
    },
}

impl Fault {
    /// One word for tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Replica { .. } => "replica",
            Self::Freeze { .. } => "freeze",
            Self::FreezeAfterWrite { .. } => "freeze after a write",
            Self::Cut { .. } => "one-way cut",
            Self::Split { .. } => "partition",
            Self::Apart { .. } => "two apart",
            Self::Loss { .. } => "loss",
            Self::SlowLink { .. } => "slow link",
            Self::Drift { .. } => "drift",
            Self::WallJump { .. } => "wall jump",
            Self::ApiDown { .. } => "API outage",
            Self::SlowDelete { .. } => "slow delete",
            Self::StuckDelete { .. } => "stuck delete",
            Self::Invalid { .. } => "invalid payload",
            Self::Rank { .. } => "rank",
            Self::NoCandidate { .. } => "no candidate",
            Self::Failback { .. } => "failback",
            Self::Propose { .. } => "settings",
            Self::Forget { .. } => "forget",
            Self::Handover { .. } => "handover",
            Self::Away { .. } => "away",
            Self::Pause => "pause",
            Self::Switchover { .. } => "switchover",
            Self::Join { .. } => "join",
        }
    }

    /// The members it names.
    pub fn hosts(&self) -> Vec<Host> {
        match self {
            Self::Crash { host, .. }
            | Self::Replica { host, .. }
            | Self::Freeze { host }
            | Self::FreezeAfterWrite { host }
            | Self::Drift { host, .. }
            | Self::WallJump { host, .. }
            | Self::ApiDown { host }
            | Self::SlowDelete { host, .. }
            | Self::StuckDelete { host }
            | Self::Invalid { host }
            | Self::Rank { host, .. }
            | Self::NoCandidate { host }
            | Self::Failback { host, .. }
            | Self::Propose { host, .. }
            | Self::Handover { host }
            | Self::Away { host, .. }
            | Self::Join { host } => vec![*host],
            Self::Cut { from, to } => from.iter().chain(to).copied().collect(),
            Self::Split { side } => side.clone(),
            Self::Apart { a, b } | Self::SlowLink { a, b, .. } => vec![*a, *b],
            Self::Forget { at, member } => vec![*at, *member],
            Self::Switchover { to } => to.iter().copied().collect(),
            Self::Loss { .. } | Self::Pause => Vec::new(),
        }
    }

    /// In words.
    pub fn describe(&self, hosts: &[HostSpec]) -> String {
        let name = |host: &Host| hosts.get(*host).map_or("?", |spec| spec.name);
        let names = |list: &[Host]| list.iter().map(name).collect::<Vec<_>>().join(", ");
        match self {
            Self::Crash { host, reset: true, .. } => format!("{}'s process is killed", name(host)),
            Self::Crash { host, reset: false, .. } => format!("{}'s machine is gone, silently", name(host)),
            Self::Replica { host, acting, what } => {
                let which = if *acting { "acts" } else { "waits" };
                let what = match what {
                    ReplicaFault::Killed => "is killed",
                    ReplicaFault::Stopped => "is stopped",
                    ReplicaFault::Ended => "is asked to end",
                    ReplicaFault::CutOff => "does not reach its API server",
                };
                format!("the replica of {} that {which} {what}", name(host))
            }
            Self::Freeze { host } => format!("{} is stopped", name(host)),
            Self::FreezeAfterWrite { host } => format!("{} is stopped right after a write", name(host)),
            Self::Cut { from, to } => format!("nothing gets from {} to {}", names(from), names(to)),
            Self::Split { side } => format!("{} cut off from the others", names(side)),
            Self::Apart { a, b } => format!("{} and {} cut off from each other", name(a), name(b)),
            Self::Loss { percent } => format!("{percent} % of all segments are lost"),
            Self::SlowLink { a, b, extra } => format!("{} - {} slower by {extra:?}", name(a), name(b)),
            Self::Drift { host, permille } => {
                format!("clocks of {} run faster by {permille} in 1000", name(host))
            }
            Self::WallJump { host, ms } => format!("wall clock of {} jumps by {ms} ms", name(host)),
            Self::ApiDown { host } => format!("API server of {} does not answer", name(host)),
            Self::SlowDelete { host, extra } => format!("pods of {} end later by {extra:?}", name(host)),
            Self::StuckDelete { host } => format!("a finalizer holds what is deleted at {}", name(host)),
            Self::Invalid { host } => format!("the payload cannot be applied at {}", name(host)),
            Self::Rank { host, rank } => format!("rank of {} becomes {rank}", name(host)),
            Self::NoCandidate { host } => format!("{} is no candidate", name(host)),
            Self::Failback { host, failback } => format!("failback of {} becomes {failback:?}", name(host)),
            Self::Propose { host, config } => format!("object of {} proposes {config:?}", name(host)),
            Self::Forget { at, member } => format!("{} is forgotten at {}", name(member), name(at)),
            Self::Handover { host } => format!("{} hands over and ends", name(host)),
            Self::Away { host, grace } => format!("{} announces a pause of {grace:?} and ends", name(host)),
            Self::Pause => "the fleet is paused".into(),
            Self::Switchover { to } => {
                format!("the lead is to go to {}", to.as_ref().map_or("the best", name))
            }
            Self::Join { host } => format!("{} joins", name(host)),
        }
    }
}

/// A fault in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// From the start of the plan.
    pub at: Duration,
    /// `Duration::ZERO`: does not end, or is over at once.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// All that goes wrong in one run, and on what fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which generator made it.
    pub name: &'static str,
    /// The fleet, those that join later included.
    pub hosts: Vec<HostSpec>,
    /// The network it runs on.
    pub network: Network,
    /// What goes wrong.
    pub faults: Vec<Timed>,
}

impl Plan {
    /// When the last fault begins or ends.
    pub fn length(&self) -> Duration {
        self.faults.iter().map(|f| f.at + f.lasts).max().unwrap_or_default()
    }

    /// The fleet begins in Quorum.
    pub fn is_quorum(&self) -> bool {
        self.hosts.iter().all(|host| host.config.mode == Mode::Quorum)
    }

    /// Who is not part of the fleet at first.
    pub fn joins_later(&self, host: Host) -> bool {
        self.faults.iter().any(|f| f.fault == Fault::Join { host })
    }
}
