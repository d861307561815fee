//! What befalls sheffield, which leads, and what must come of it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clusters::watch::overlap;
use tokio::time::sleep;

use crate::lab::{DEPLOYMENT, Facts, Lab, SYSTEM, holds, run};
use crate::probe::Dialled;
use crate::table::Row;

/// A leader that is cut off is replaced within 5.5 s; a machine that makes pods at the same time takes longer.
const FAILOVER: Duration = Duration::from_secs(15);
/// Pods are pulled up, and the load balancer gives their Service an address.
const ANSWER: Duration = Duration::from_secs(60);
/// A node that was stopped takes the lead back as soon as its API answers; what makes its pods takes longer.
const OUTAGE: Duration = Duration::from_secs(60);
/// Two leaders that meet agree within a second; the loser's pods have 5 s to end.
const HEAL: Duration = Duration::from_secs(12);
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
    Paused,
    Stopped,
    CutOff,
    CutOutbound,
    CutInbound,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::PodDeleted,
        Self::ProcessKilled,
        Self::Rolled,
        Self::ReplicaKilled,
        Self::ReplicaHangs,
        Self::Paused,
        Self::Stopped,
        Self::CutOff,
        Self::CutOutbound,
        Self::CutInbound,
    ];

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::PodDeleted => "daemon's pod deleted",
            Self::ProcessKilled => "daemon's process killed",
            Self::Rolled => "Deployment rolled",
            Self::ReplicaKilled => "the active of two replicas killed",
            Self::ReplicaHangs => "the active of two replicas hangs",
            Self::Paused => "node paused, unpaused",
            Self::Stopped => "node stopped, started",
            Self::CutOff => "cut off both ways, healed",
            Self::CutOutbound => "cut off one way: what it sends, healed",
            Self::CutInbound => "cut off one way: what it is sent, healed",
        }
    }

    /// Whether another cluster has to take over. Otherwise nobody may.
    fn moves_the_lead(self) -> bool {
        matches!(self, Self::Paused | Self::Stopped | Self::CutOff | Self::CutOutbound | Self::CutInbound)
    }

    /// What must not have happened, or must have.
    pub(crate) fn objections(self, row: &Row) -> Vec<String> {
        let mut objections = Vec::new();
        let mut object = |wrong: bool, what: String| objections.extend(wrong.then_some(what));
        object(row.leader_after != "sheffield", format!("{} leads in the end", row.leader_after));
        if self.moves_the_lead() {
            object(row.leader != "newyork", format!("{} leads meanwhile", row.leader));
            object(
                row.created.is_none_or(|took| took > FAILOVER),
                format!("payload created: {:?}", row.created),
            );
            object(row.interruption > OUTAGE, format!("nobody answered for {:?}", row.interruption));
            object(row.twice_after > HEAL, format!("both answered for {:?} after its end", row.twice_after));
            object(
                row.overlap_after > HEAL,
                format!("both had pods for {:?} after its end", row.overlap_after),
            );
        } else {
            object(row.created.is_some(), "newyork created the payload, too".to_owned());
            object(row.interruption > UNTOUCHED, format!("nobody answered for {:?}", row.interruption));
            let twice = row.twice_during + row.twice_after + row.overlap_after;
            object(!twice.is_zero(), format!("both had the payload for {twice:?}"));
        }
        objections
    }

    /// Lets it happen, watches what comes of it, and returns when all is as before.
    pub(crate) async fn strike(self, lab: &Lab, before: &Facts) -> Result<Row> {
        if self.moves_the_lead() {
            self.with_failover(lab).await
        } else {
            self.without_failover(lab, before).await
        }
    }

    async fn with_failover(self, lab: &Lab) -> Result<Row> {
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
        lab.mend_everything().await?;
        lab.steady().await?;
        let now = Instant::now();
        Ok(Row {
            leader,
            created: created.map(|at| at - struck),
            answered: answered.map(|at| at - struck),
            interruption: lab.clients.longest_silence(struck, now),
            twice_during: lab.clients.both(struck, healed),
            twice_after: lab.clients.both(healed, now),
            overlap_after: overlap(&newyork.watch.state(), &lab.sheffield.watch.state(), healed),
            dialled,
            leader_after: text(lab.sheffield.watch.state().status("sheffield", "leader")),
        })
    }

    async fn without_failover(self, lab: &Lab, before: &Facts) -> Result<Row> {
        let sheffield = &lab.sheffield;
        let replicas = matches!(self, Self::ReplicaKilled | Self::ReplicaHangs);
        if replicas {
            sheffield.scale(2).await?;
        }
        let active = sheffield.active_pod().await?;
        let struck = Instant::now();
        self.begin(lab).await?;
        let mut dialled = Dialled::default();
        for _ in 0..10 {
            lab.dial_sheffield(&mut dialled).await?;
        }
        // Another process serves the member, or the same pod's anew.
        let next = sheffield.watch.wait("a new daemon serves sheffield", RECOVERY, |state| {
            state.status("sheffield", "epoch").as_i64().is_some_and(|epoch| epoch > before.epoch)
        });
        next.await?;
        let kept = active == sheffield.active_pod().await?;
        ensure!(!(replicas && kept), "{active} serves the member again, not the other replica");
        sleep(LINGER).await;
        let leader = text(sheffield.watch.state().status("sheffield", "leader"));
        let after = lab.steady().await?;
        ensure!(
            (&after.uid, after.term) == (&before.uid, before.term),
            "the payload or the term changed: {before:?}, then {after:?}"
        );
        let now = Instant::now();
        let created = lab.newyork.watch.state().deployment_created_since(struck);
        Ok(Row {
            leader,
            created: created.map(|at| at - struck),
            answered: lab.clients.first(lab.newyork.address, struck).map(|at| at - struck),
            interruption: lab.clients.longest_silence(struck, now),
            twice_during: lab.clients.both(struck, now),
            twice_after: Duration::ZERO,
            overlap_after: overlap(&lab.newyork.watch.state(), &sheffield.watch.state(), struck),
            dialled,
            leader_after: text(sheffield.watch.state().status("sheffield", "leader")),
        })
    }

    async fn begin(self, lab: &Lab) -> Result<()> {
        let sheffield = &lab.sheffield;
        let node = sheffield.node();
        match self {
            Self::PodDeleted => {
                let pod = sheffield.active_pod().await?;
                sheffield.kubectl(&["-n", SYSTEM, "delete", "pod", &pod, "--wait=false"]).await?;
            }
            Self::ProcessKilled => {
                // On the node, as nothing in the image could.
                let (_, pid) = sheffield.active_process().await?;
                sheffield.signal(&pid, "-KILL").await?;
            }
            Self::Rolled => {
                let deployment = format!("deployment/{DEPLOYMENT}");
                sheffield.kubectl(&["-n", SYSTEM, "rollout", "restart", &deployment]).await?;
            }
            Self::ReplicaKilled => {
                let (pod, pid) = sheffield.active_process().await?;
                // Stopped first, so that it hears of no SIGTERM and announces nothing; its pod is deleted, so that no
                // container with the same uid takes the Lease again.
                sheffield.signal(&pid, "-STOP").await?;
                let force =
                    ["-n", SYSTEM, "delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"];
                sheffield.kubectl(&force).await?;
                sheffield.signal(&pid, "-KILL").await?;
            }
            Self::ReplicaHangs => {
                let (_, pid) = sheffield.active_process().await?;
                sheffield.signal(&pid, "-STOP").await?;
            }
            Self::Paused => drop(run("docker", &["pause", &node]).await?),
            // Without a grace period: as a machine that loses its power.
            Self::Stopped => drop(run("docker", &["stop", "-t", "0", &node]).await?),
            Self::CutOff => {
                lab.drop_packets(sheffield, &lab.newyork).await?;
                lab.drop_packets(&lab.newyork, sheffield).await?;
            }
            Self::CutOutbound => lab.drop_packets(sheffield, &lab.newyork).await?,
            Self::CutInbound => lab.drop_packets(&lab.newyork, sheffield).await?,
        }
        Ok(())
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or("nobody").to_owned()
}
