//! What befalls sheffield, which leads, and what must come of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::watch::overlap;
use flagship_e2e::auditor::Verdict;
use tokio::time::sleep;

use crate::lab::{Lab, Promise, holds, run};
use crate::placement::{Placement, Where};
use crate::probe::Dialled;
use crate::site::{Announced, Facts, SYSTEM};
use crate::table::{Before, Row};

/// Pods are pulled up, and the load balancer gives their Service an address.
const ANSWER: Duration = Duration::from_secs(60);
/// A node that was stopped takes the lead back as soon as its API answers; what makes its pods takes longer.
const OUTAGE: Duration = Duration::from_secs(60);
/// Two leaders that meet agree within a second; the loser's pods have 5 s to end.
const HEAL: Duration = Duration::from_secs(12);
/// Until the API of a node that was stopped answers, its objects count as there.
const NODE_START: Duration = Duration::from_secs(20);
/// A pod is replaced.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long a fault goes on after its effect, and how long nothing may happen after one without.
const LINGER: Duration = Duration::from_secs(8);
/// A payload that nobody touches answers all the time; on two busy cores an answer may be late.
const UNTOUCHED: Duration = Duration::from_secs(2);

/// A fault of sheffield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    PodDeleted,
    ProcessKilled,
    Rolled,
    ReplicaKilled,
    ReplicaHangs,
    Hangs,
    Paused,
    Stopped,
    /// The worker with the active replica on it, and all pods of the payload there.
    WorkerPaused(Where),
    /// The same, stopped.
    WorkerStopped(Where),
    /// The control plane's node with its API server, and the active replica there.
    ApiPaused(Where),
    CutOff,
    CutOutbound,
    CutInbound,
    WitnessLost,
}

/// What has to come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Nobody notices.
    Untouched,
    /// Another cluster takes over while it lasts.
    Moved,
    /// The daemon or a replica of it is in time to go on, or it is not.
    Either,
}

impl Fault {
    /// Those that befall a fleet of this promise.
    pub(crate) fn of(promise: Promise) -> Vec<Self> {
        let all = [
            Self::PodDeleted,
            Self::ProcessKilled,
            Self::Rolled,
            Self::Hangs,
            Self::ReplicaKilled,
            Self::ReplicaHangs,
            Self::WorkerPaused(Where::ControlPlane),
            Self::WorkerStopped(Where::ControlPlane),
            Self::WorkerPaused(Where::Worker),
            Self::WorkerStopped(Where::Worker),
            Self::ApiPaused(Where::Worker),
            Self::ApiPaused(Where::ControlPlane),
            Self::Paused,
            Self::Stopped,
            Self::CutOff,
            Self::CutOutbound,
            Self::CutInbound,
            Self::WitnessLost,
        ];
        all.into_iter().filter(|fault| promise == Promise::Quorum || !fault.is_for_quorum_only()).collect()
    }

    /// Whether it says nothing about a fleet that promises less.
    fn is_for_quorum_only(self) -> bool {
        matches!(
            self,
            Self::WorkerPaused(_) | Self::WorkerStopped(_) | Self::ApiPaused(_) | Self::WitnessLost
        )
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::PodDeleted => "daemon's pod deleted",
            Self::ProcessKilled => "daemon's process killed",
            Self::Rolled => "Deployment rolled",
            Self::ReplicaKilled => "the active of two replicas killed",
            Self::ReplicaHangs => "the active of two replicas hangs",
            Self::Hangs => "the only replica hangs",
            Self::Paused => "all nodes paused, unpaused",
            Self::Stopped => "all nodes stopped, started",
            Self::WorkerPaused(Where::ControlPlane) => {
                "worker with the active replica paused, payload on the other node"
            }
            Self::WorkerPaused(Where::Worker) => "worker with the active replica and the payload paused",
            Self::WorkerStopped(Where::ControlPlane) => {
                "worker with the active replica stopped, payload on the other node"
            }
            Self::WorkerStopped(Where::Worker) => "worker with the active replica and the payload stopped",
            Self::ApiPaused(Where::Worker) => {
                "control plane's node paused, active replica and payload on the worker"
            }
            Self::ApiPaused(Where::ControlPlane) => {
                "control plane's node with the active replica paused, payload on the worker"
            }
            Self::CutOff => "cut off both ways, healed",
            Self::CutOutbound => "cut off one way: what it sends, healed",
            Self::CutInbound => "cut off one way: what it is sent, healed",
            Self::WitnessLost => "witness stopped, started",
        }
    }

    fn course(self, promise: Promise) -> Course {
        use Course::{Either, Moved, Untouched};
        match (self, promise) {
            (Self::Hangs | Self::Paused | Self::Stopped | Self::ApiPaused(Where::ControlPlane), _) => Moved,
            (Self::CutOff | Self::CutOutbound | Self::CutInbound, _) => Moved,
            // A leader needs no API server to lead.
            (Self::WitnessLost | Self::ApiPaused(Where::Worker), _) | (_, Promise::Availability) => Untouched,
            // The new pod waits before the old one ends.
            (Self::Rolled, Promise::Quorum) => Untouched,
            // A new pod is made when the old one is asked to end, and takes over from it, or is too late.
            (Self::PodDeleted, Promise::Quorum) => Either,
            (Self::ProcessKilled | Self::ReplicaKilled | Self::ReplicaHangs, Promise::Quorum) => Either,
            (Self::WorkerPaused(_) | Self::WorkerStopped(_), Promise::Quorum) => Either,
        }
    }

    /// Whether the whole cluster stands still, its payload and who could stop that alike.
    fn stops_everything(self) -> bool {
        matches!(self, Self::Paused | Self::Stopped)
    }

    /// Whether nobody in the struck cluster can stop its payload before others start theirs.
    fn leaves_the_payload_alone(self) -> bool {
        self.stops_everything() || matches!(self, Self::Hangs | Self::ApiPaused(Where::ControlPlane))
    }

    /// Where what is before it, if the daemon has two replicas then.
    pub(crate) fn placement(self, promise: Promise) -> Option<Placement> {
        let (active, payload) = match self {
            Self::PodDeleted | Self::ProcessKilled | Self::Rolled | Self::Hangs => return None,
            Self::ReplicaKilled | Self::ReplicaHangs => (Where::Worker, None),
            Self::WorkerPaused(payload) | Self::WorkerStopped(payload) => (Where::Worker, Some(payload)),
            Self::ApiPaused(active) => (active, Some(Where::Worker)),
            _ if promise == Promise::Availability => return None,
            _ => (Where::Worker, None),
        };
        Some(Placement { active, payload })
    }

    /// Whether it befalls the active one of two replicas and leaves the other one able to act.
    fn strikes_the_active_replica(self) -> bool {
        matches!(
            self,
            Self::ReplicaKilled | Self::ReplicaHangs | Self::WorkerPaused(_) | Self::WorkerStopped(_)
        )
    }

    /// Whether it ends only when it is undone.
    fn lasts(self) -> bool {
        matches!(
            self,
            Self::WitnessLost | Self::WorkerPaused(_) | Self::WorkerStopped(_) | Self::ApiPaused(_)
        )
    }

    /// What the fleet has announced for it.
    fn announcement(self) -> Announced {
        match self {
            Self::PodDeleted | Self::Rolled => Announced::Restart,
            _ => Announced::Crash,
        }
    }

    /// What must not have happened, or must have.
    pub(crate) fn objections(self, promise: Promise, row: &Row) -> Vec<String> {
        let mut objections = Vec::new();
        let mut object = |wrong: bool, what: String| objections.extend(wrong.then_some(what));
        object(row.leader_after != "sheffield", format!("{} leads in the end", row.leader_after));
        let twice = row.twice_during + row.twice_after;
        if promise == Promise::Quorum && !self.leaves_the_payload_alone() {
            object(row.audit.anything != Verdict::Never, format!("in two clusters: {}", row.audit));
            object(!twice.is_zero(), format!("both answered for {twice:?}"));
        }
        if self.stops_everything() {
            let during = row.twice_during;
            object(!during.is_zero(), format!("both answered for {during:?} while one of them stood still"));
        }
        object(
            row.created.is_some_and(|took| took > row.before.announced),
            format!("payload created after {:?}, announced were {:?}", row.created, row.before.announced),
        );
        match self.course(promise) {
            Course::Moved => {
                object(row.created.is_none(), "nobody else created the payload".to_owned());
                object(row.interruption > OUTAGE, format!("nobody answered for {:?}", row.interruption));
                object(
                    row.twice_after > HEAL,
                    format!("both answered for {:?} after its end", row.twice_after),
                );
                let limit = if self == Self::Stopped { HEAL + NODE_START } else { HEAL };
                object(
                    row.overlap_after > limit,
                    format!("both had pods for {:?} after its end", row.overlap_after),
                );
            }
            Course::Either => {
                object(row.interruption > OUTAGE, format!("nobody answered for {:?}", row.interruption));
            }
            Course::Untouched => {
                object(row.created.is_some(), "newyork created the payload, too".to_owned());
                object(row.interruption > UNTOUCHED, format!("nobody answered for {:?}", row.interruption));
                let twice = twice + row.overlap_after;
                object(!twice.is_zero(), format!("both had the payload for {twice:?}"));
            }
        }
        objections
    }

    /// Lets it happen, watches what comes of it, and returns when all is as before.
    pub(crate) async fn strike(self, lab: &Lab, promise: Promise, facts: &Facts) -> Result<Row> {
        let sheffield = &lab.sheffield;
        let placement = self.placement(promise);
        if let Some(placement) = placement {
            placement.complete(sheffield).await?;
            lab.steady().await?;
        }
        if promise == Promise::Quorum {
            // What the status says may still be from the daemon before.
            let reason = if placement.is_some() { "True, SecondReplica" } else { "False, OneReplica" };
            let says = || sheffield.protected() == reason;
            holds("sheffield's daemon knows how many replicas it has", RECOVERY, says).await?;
        }
        let before =
            Before { protected: sheffield.protected(), announced: sheffield.announced(self.announcement())? };
        match self.course(promise) {
            Course::Moved => self.with_failover(lab, before).await,
            Course::Either => self.without_failover(lab, before, None).await,
            Course::Untouched => self.without_failover(lab, before, Some(facts)).await,
        }
    }

    async fn with_failover(self, lab: &Lab, before: Before) -> Result<Row> {
        let newyork = &lab.newyork;
        let struck = Instant::now();
        self.begin(lab).await?;
        let mut dialled = Dialled::default();
        for _ in 0..3 {
            lab.dial_sheffield(&mut dialled).await?;
        }
        let created = newyork.watch.wait("newyork creates the payload", ANSWER, |state| {
            state.deployment_created_since(struck).is_some()
        });
        let created = created.await?.deployment_created_since(struck);
        let what = "newyork's payload answers";
        holds(what, ANSWER, || lab.clients.first(newyork.address, struck).is_some()).await?;
        let answered = lab.clients.first(newyork.address, struck);
        let leader = text(newyork.watch.state().status("newyork", "leader"));
        sleep(LINGER).await;
        let healed = Instant::now();
        lab.mend().await?;
        lab.steady().await?;
        let now = Instant::now();
        Ok(Row {
            before,
            leader,
            created: created.map(|at| at - struck),
            answered: answered.map(|at| at - struck),
            interruption: lab.clients.longest_silence(struck, now),
            twice_during: lab.clients.both(struck, healed),
            twice_after: lab.clients.both(healed, now),
            overlap_after: overlap(&newyork.watch.state(), &lab.sheffield.watch.state(), healed),
            audit: lab.auditor.report(struck),
            dialled,
            leader_after: text(lab.sheffield.watch.state().status("sheffield", "leader")),
        })
    }

    /// `same`: what must be as it was.
    async fn without_failover(self, lab: &Lab, before: Before, same: Option<&Facts>) -> Result<Row> {
        let sheffield = &lab.sheffield;
        let (active, epoch) = (sheffield.active_pod().await?, sheffield.epoch());
        let struck = Instant::now();
        self.begin(lab).await?;
        let mut dialled = Dialled::default();
        for _ in 0..10 {
            lab.dial_sheffield(&mut dialled).await?;
        }
        if self == Self::ApiPaused(Where::Worker) {
            // Nobody can be asked there. Longer than anybody may take to act on it.
            sleep(before.announced).await;
        } else if self == Self::WitnessLost {
            let missed = sheffield.watch.wait("sheffield misses the witness", RECOVERY, |state| {
                state.status("sheffield", "memberCounts")["alive"] == 2
            });
            missed.await?;
        } else {
            // Another process serves the member, or the same pod's anew.
            let next = sheffield.watch.wait("a new daemon serves sheffield", RECOVERY, |state| {
                state.status("sheffield", "epoch").as_i64().is_some_and(|now| now > epoch)
            });
            next.await?;
        }
        if self.strikes_the_active_replica() {
            let now = sheffield.active_pod().await?;
            ensure!(now != active, "{active} serves the member again, not the other replica");
        }
        sleep(LINGER).await;
        if matches!(self, Self::WorkerPaused(_) | Self::WorkerStopped(_)) {
            // A take-over that comes late is to be seen.
            tokio::time::sleep_until((struck + before.announced + LINGER).into()).await;
        }
        let now_leads = text(lab.newyork.watch.state().status("newyork", "leader"));
        if self.lasts() {
            lab.mend().await?;
        }
        let after = lab.steady().await?;
        if let Some(same) = same {
            ensure!(
                (&after.uid, after.term) == (&same.uid, same.term),
                "the payload or the term changed: {same:?}, then {after:?}"
            );
        }
        let now = Instant::now();
        let created = lab.newyork.watch.state().deployment_created_since(struck);
        // The lead may have been back already.
        let leader = if created.is_some() { "newyork".to_owned() } else { now_leads };
        Ok(Row {
            before,
            leader,
            created: created.map(|at| at - struck),
            answered: lab.clients.first(lab.newyork.address, struck).map(|at| at - struck),
            interruption: lab.clients.longest_silence(struck, now),
            twice_during: lab.clients.both(struck, now),
            twice_after: Duration::ZERO,
            overlap_after: overlap(&lab.newyork.watch.state(), &sheffield.watch.state(), struck),
            audit: lab.auditor.report(struck),
            dialled,
            leader_after: text(sheffield.watch.state().status("sheffield", "leader")),
        })
    }

    async fn begin(self, lab: &Lab) -> Result<()> {
        let sheffield = &lab.sheffield;
        match self {
            Self::PodDeleted => {
                let pod = sheffield.active_pod().await?;
                sheffield.kubectl(&["-n", SYSTEM, "delete", "pod", &pod, "--wait=false"]).await?;
            }
            Self::ProcessKilled => {
                sheffield.active_process().await?.signal("-KILL").await?;
            }
            Self::Rolled => sheffield.roll().await?,
            Self::ReplicaKilled => {
                let process = sheffield.active_process().await?;
                let pod = &process.pod;
                // Stopped first, so that it hears of no SIGTERM and announces nothing; its pod is deleted, so that no
                // container with the same uid takes the Lease again.
                process.signal("-STOP").await?;
                let force =
                    ["-n", SYSTEM, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"];
                sheffield.kubectl(&force).await?;
                process.signal("-KILL").await?;
            }
            Self::ReplicaHangs | Self::Hangs => {
                sheffield.active_process().await?.signal("-STOP").await?;
            }
            Self::Paused => pause(sheffield.node_names()).await?,
            Self::Stopped => stop(sheffield.node_names()).await?,
            Self::WorkerPaused(_) => pause([sheffield.worker()]).await?,
            Self::WorkerStopped(_) => stop([sheffield.worker()]).await?,
            Self::ApiPaused(_) => pause([sheffield.control_plane()]).await?,
            Self::CutOff => {
                lab.mute_sheffield().await?;
                lab.deafen_sheffield().await?;
            }
            Self::CutOutbound => lab.mute_sheffield().await?,
            Self::CutInbound => lab.deafen_sheffield().await?,
            Self::WitnessLost => lab.witness.as_ref().context("a fleet without a witness")?.stop().await?,
        }
        Ok(())
    }
}

async fn pause<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let nodes: Vec<_> = nodes.into_iter().collect();
    run("docker", &[&["pause"], &nodes[..]].concat()).await.map(drop)
}

/// Without a grace period: as machines that lose their power.
async fn stop<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let nodes: Vec<_> = nodes.into_iter().collect();
    run("docker", &[&["stop", "-t", "0"], &nodes[..]].concat()).await.map(drop)
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or("nobody").to_owned()
}
