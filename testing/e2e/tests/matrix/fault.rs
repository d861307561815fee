//! What befalls a fleet, and how it ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clusters::fleet::Member;
use clusters::readiness::until;
use clusters::witness::Witness;
use flagship_e2e::World;
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::{Kind, best_two};

/// How long an asked daemon may take to end: in Quorum it gives the lead away or stops the payload first.
const TERMINATE: Duration = Duration::from_secs(60);

/// For how long the deletion is blocked: long after a handover would have been through.
const BLOCKED: Duration = Duration::from_secs(10);
/// Nobody in the harness removes it.
const FINALIZER: &str = "example.com/blocked";
/// How often the link flaps, and how long it is down and up each time: too short to be found out, long enough to hit
/// every step of a handover.
const FLAPS: usize = 8;
const FLAP: Duration = Duration::from_millis(700);
/// In this time the leader knows how the standby does, whatever was cut before.
const NEWS: Duration = Duration::from_secs(5);

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    LeaderKilled,
    LeaderTerminated,
    StandbyKilled,
    WitnessKilled,
    LeaderCut,
    StandbyCut,
    WitnessCut,
    LinkCut,
    LeaderMute,
    LeaderDeaf,
    StandbyMute,
    StandbyDeaf,
    WitnessMute,
    WitnessDeaf,
    LeaderPaused,
    LeaderApiDown,
    StandbyApiDown,
    AllRestarted,
    AllKilled,
    Rolling,
    CertificateRotated,
    SwitchoverFlapping,
    DeleteBlocked,
    Everything,
    ActiveKilled,
    ActiveTerminated,
    ActivePaused,
}

use Fault::*;

/// The rows of a fleet whose leader's cluster has two replicas of the daemon.
const OF_REPLICAS: [Fault; 12] = [
    ActiveKilled,
    ActiveTerminated,
    ActivePaused,
    LeaderKilled,
    LeaderTerminated,
    LeaderCut,
    LeaderMute,
    LeaderDeaf,
    LeaderApiDown,
    AllRestarted,
    AllKilled,
    Rolling,
];

impl Fault {
    /// The rows of a fleet.
    pub(crate) fn of(kind: Kind) -> Vec<Self> {
        if kind.has_replicas() {
            return OF_REPLICAS.to_vec();
        }
        let both_ends_are_one = [StandbyCut, LinkCut, StandbyMute, StandbyDeaf];
        let all = [
            LeaderKilled,
            LeaderTerminated,
            LeaderCut,
            LeaderMute,
            LeaderDeaf,
            LinkCut,
            LeaderPaused,
            LeaderApiDown,
            StandbyKilled,
            StandbyCut,
            StandbyMute,
            StandbyDeaf,
            StandbyApiDown,
            WitnessKilled,
            WitnessCut,
            WitnessMute,
            WitnessDeaf,
            AllRestarted,
            AllKilled,
            Rolling,
            CertificateRotated,
            SwitchoverFlapping,
            DeleteBlocked,
            Everything,
        ];
        let is_run = |fault: &Self| match kind {
            // Of two, the standby's side of a cut is the leader's.
            Kind::Two => !both_ends_are_one.contains(fault) && !fault.is_of_the_witness(),
            Kind::TwoAndWitness | Kind::TwoAndWitnessReplicas => true,
            Kind::Three | Kind::ThreeReplicas => !fault.is_of_the_witness(),
        };
        all.into_iter().filter(is_run).collect()
    }

    fn is_of_the_witness(self) -> bool {
        matches!(self, WitnessKilled | WitnessCut | WitnessMute | WitnessDeaf)
    }

    pub(crate) fn title(self, kind: Kind) -> &'static str {
        match self {
            LeaderKilled if kind.has_replicas() => "both replicas of the leader's daemon killed",
            LeaderKilled => "leader's daemon killed",
            LeaderTerminated if kind.has_replicas() => {
                "both replicas of the leader's daemon ended (SIGTERM), and do not come back"
            }
            LeaderTerminated => "leader's daemon ended (SIGTERM), and does not come back",
            StandbyKilled => "standby's daemon killed",
            WitnessKilled => "witness killed",
            LeaderCut => "leader cut off",
            StandbyCut => "standby cut off",
            WitnessCut => "witness cut off",
            LinkCut => "leader and standby cut off from each other",
            LeaderMute => "nobody hears the leader",
            LeaderDeaf => "the leader hears nobody",
            StandbyMute => "nobody hears the standby",
            StandbyDeaf => "the standby hears nobody",
            WitnessMute => "nobody hears the witness",
            WitnessDeaf => "the witness hears nobody",
            LeaderPaused => "leader's daemon stopped (SIGSTOP) for 10 s",
            LeaderApiDown => "leader's API server down",
            StandbyApiDown => "standby's API server down",
            AllRestarted => "all daemons restarted at once (SIGTERM)",
            AllKilled => "all daemons killed at once and started again",
            Rolling => "all daemons restarted one after the other",
            CertificateRotated => "leader's daemon killed, the standby's certificate rotated meanwhile",
            SwitchoverFlapping => "switchover while the link between the two flaps",
            DeleteBlocked => "switchover, and a finalizer blocks the deletion for 10 s",
            Everything if kind != Kind::TwoAndWitness => {
                "leader cut off, all other daemons stopped; then all of it healed"
            }
            Everything => "leader cut off, all other daemons stopped, witness killed; then all of it healed",
            ActiveKilled => "active replica of the leader's daemon killed",
            ActiveTerminated => "active replica of the leader's daemon ended (SIGTERM)",
            ActivePaused => "active replica of the leader's daemon stopped (SIGSTOP) for 20 s",
        }
    }

    /// Whether no process in the leader's cluster can stop the payload: its only daemon is dead or stopped.
    pub(crate) fn leaves_the_payload_alone(self) -> bool {
        matches!(self, LeaderKilled | LeaderPaused | CertificateRotated)
    }

    /// Whether another replica has to act afterwards.
    pub(crate) fn changes_the_replica(self) -> bool {
        matches!(self, ActiveKilled | ActiveTerminated | ActivePaused)
    }

    /// Whether it is chance who leads afterwards: a handover may be over before the link is down again, or before the
    /// successor has ended or after it has started again, and the voters' promise may end before the other replica has the local
    /// Lease. Either way the payload is in one place.
    pub(crate) fn is_a_race(self, kind: Kind) -> bool {
        match self {
            SwitchoverFlapping | ActivePaused => true,
            AllRestarted => kind.quorum(),
            _ => false,
        }
    }

    /// Whether the leader has said that it will be back, so that it is waited for.
    pub(crate) fn is_announced(self) -> bool {
        self == LeaderTerminated
    }

    /// How long it lasts. `None`: until somebody else leads, or the longest time in which that may happen has passed.
    pub(crate) fn lasts(self) -> Option<Duration> {
        match self {
            LeaderPaused => Some(Duration::from_secs(10)),
            ActivePaused => Some(Duration::from_secs(20)),
            DeleteBlocked => Some(BLOCKED),
            AllRestarted | AllKilled | Rolling | SwitchoverFlapping => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Whether it is made of dropped packets, of which there must be some.
    pub(crate) fn drops_packets(self) -> bool {
        matches!(
            self,
            LeaderCut
                | StandbyCut
                | WitnessCut
                | LinkCut
                | LeaderMute
                | LeaderDeaf
                | StandbyMute
                | StandbyDeaf
                | WitnessMute
                | WitnessDeaf
                | SwitchoverFlapping
                | Everything
        )
    }

    /// Lets it befall the fleet. Returns the moment before.
    pub(crate) async fn strike(self, world: &World) -> Result<Instant> {
        let (leader, standby) = best_two(world);
        let fleet = &world.fleet;
        let at = Instant::now();
        match self {
            LeaderKilled => world.member(leader).kill().await?,
            LeaderTerminated => world.member(leader).terminate(TERMINATE).await?,
            ActiveKilled => {
                let member = world.member(leader);
                member.active()?.kill(&member.cluster).await?;
            }
            ActiveTerminated => {
                let member = world.member(leader);
                member.active()?.terminate(&member.cluster, TERMINATE).await?;
            }
            ActivePaused => {
                let member = world.member(leader);
                member.active()?.pause(&member.cluster).await?;
            }
            StandbyKilled => world.member(standby).kill().await?,
            WitnessKilled => witness(world)?.kill().await?,
            LeaderCut => return fleet.cut_off(leader).await,
            StandbyCut => return fleet.cut_off(standby).await,
            WitnessCut => return fleet.cut_off(&witness(world)?.plan.name).await,
            LinkCut => {
                futures::try_join!(fleet.cut_one_way(leader, standby), fleet.cut_one_way(standby, leader))?;
            }
            LeaderMute => return fleet.mute(leader).await,
            LeaderDeaf => return fleet.deafen(leader).await,
            StandbyMute => return fleet.mute(standby).await,
            StandbyDeaf => return fleet.deafen(standby).await,
            WitnessMute => return fleet.mute(&witness(world)?.plan.name).await,
            WitnessDeaf => return fleet.deafen(&witness(world)?.plan.name).await,
            LeaderPaused => {
                let member = world.member(leader);
                member.daemon.pause(&member.cluster).await?;
            }
            LeaderApiDown => world.member(leader).cluster.stop_api_server().await?,
            StandbyApiDown => world.member(standby).cluster.stop_api_server().await?,
            AllRestarted => {
                let ends = fleet.members.iter().map(|member| member.terminate(TERMINATE));
                let witness_ends = async {
                    match &fleet.witness {
                        Some(witness) => witness.terminate().await,
                        None => Ok(()),
                    }
                };
                futures::try_join!(try_join_all(ends), witness_ends)?;
                start_all(world).await?;
            }
            AllKilled => {
                try_join_all(fleet.members.iter().map(Member::kill)).await?;
                if let Some(witness) = &fleet.witness {
                    witness.kill().await?;
                }
                start_all(world).await?;
            }
            Rolling => {
                for member in &fleet.members {
                    for daemon in member.daemons() {
                        daemon.terminate(&member.cluster, TERMINATE).await?;
                        daemon.start_again(&member.cluster).await?;
                        crate::run::all_heard(world).await?;
                        crate::run::second_is_seen(member).await?;
                    }
                }
                if let Some(witness) = &fleet.witness {
                    witness.terminate().await?;
                    witness.start_again().await?;
                }
            }
            CertificateRotated => {
                world.member(leader).kill().await?;
                rotate_certificate(world, standby)?;
            }
            SwitchoverFlapping => {
                for flap in 0..FLAPS {
                    futures::try_join!(
                        fleet.cut_one_way(leader, standby),
                        fleet.cut_one_way(standby, leader)
                    )?;
                    tokio::time::sleep(FLAP).await;
                    fleet.heal().await?;
                    if flap == 0 {
                        switchover(world, standby, &["--wait=false"]).await?;
                    }
                    tokio::time::sleep(FLAP).await;
                }
            }
            DeleteBlocked => {
                set_finalizers(world.member(leader), json!([FINALIZER])).await?;
                switchover(world, standby, &["--wait=false"]).await?;
            }
            Everything => {
                fleet.cut_off(leader).await?;
                let others = fleet.members.iter().filter(|member| member.name() != leader);
                try_join_all(others.map(|member| member.daemon.pause(&member.cluster))).await?;
                if let Some(witness) = &fleet.witness {
                    witness.kill().await?;
                }
            }
        }
        Ok(at)
    }

    /// Ends it.
    pub(crate) async fn mend(self, world: &World) -> Result<()> {
        let (leader, standby) = best_two(world);
        match self {
            LeaderKilled | LeaderTerminated | CertificateRotated | ActiveKilled | ActiveTerminated => {
                world.member(leader).start_again().await
            }
            StandbyKilled => world.member(standby).start_again().await,
            WitnessKilled => witness(world)?.start_again().await.map(drop),
            LeaderPaused | ActivePaused => {
                let member = world.member(leader);
                // Whoever is active by now; for those that run it means nothing.
                try_join_all(member.daemons().map(|daemon| daemon.resume(&member.cluster))).await.map(drop)
            }
            LeaderApiDown => bring_back(world.member(leader)).await,
            StandbyApiDown => bring_back(world.member(standby)).await,
            AllRestarted | AllKilled | Rolling => Ok(()),
            // An operator's choice outweighs rank, so an operator has to undo it.
            SwitchoverFlapping => {
                crate::run::one_leads(world).await?;
                give_back(world, leader).await
            }
            DeleteBlocked => {
                set_finalizers(world.member(leader), json!(null)).await?;
                world.member(standby).wait_leading(TERMINATE).await?;
                give_back(world, leader).await
            }
            Everything => {
                let others = world.fleet.members.iter().filter(|member| member.name() != leader);
                try_join_all(others.map(|member| member.daemon.resume(&member.cluster))).await?;
                if let Some(witness) = &world.fleet.witness {
                    witness.start_again().await?;
                }
                world.fleet.heal().await.map(drop)
            }
            LeaderCut | StandbyCut | WitnessCut | LinkCut | LeaderMute | LeaderDeaf | StandbyMute
            | StandbyDeaf | WitnessMute | WitnessDeaf => world.fleet.heal().await.map(drop),
        }
    }
}

/// Starts the API server, and waits until the controllers have found it again: for some seconds they would make anew
/// what has been deleted, as they do not see that, and the next row would show it.
async fn bring_back(member: &Member) -> Result<()> {
    member.cluster.start_api_server().await?;
    let client = member.cluster.client().await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "kube-system");
    let pods: Api<Pod> = Api::namespaced(client, "kube-system");
    let labels = json!({"app": "probe"});
    let container = json!({"name": "probe", "image": "probe"});
    let spec = json!({"selector": {"matchLabels": &labels},
        "template": {"metadata": {"labels": &labels}, "spec": {"containers": [container]}}});
    let probe = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "probe", "namespace": "kube-system"}, "spec": spec});
    member.cluster.apply(probe).await?;
    until("a Deployment becomes ready", TERMINATE, async || {
        let status = deployments.get("probe").await?.status;
        Ok(status.and_then(|status| status.ready_replicas).filter(|ready| *ready == 1))
    })
    .await?;
    deployments.delete("probe", &DeleteParams::background()).await.context("delete the probe")?;
    until("its pods are gone", TERMINATE, async || {
        let left = pods.list(&ListParams::default().labels("app=probe")).await?;
        Ok(left.items.is_empty().then_some(()))
    })
    .await
}

fn witness(world: &World) -> Result<&Witness> {
    world.fleet.witness.as_ref().context("a fleet without a witness")
}

async fn start_all(world: &World) -> Result<()> {
    try_join_all(world.fleet.members.iter().map(Member::start_again)).await?;
    if let Some(witness) = &world.fleet.witness {
        witness.start_again().await?;
    }
    Ok(())
}

/// `flagship switchover --to MEMBER`, again as long as the leader refuses it: that the target is fit after the row before
/// may be on its way to the leader yet.
async fn switchover(world: &World, to: &str, more: &[&str]) -> Result<()> {
    let kubeconfig = world.kubeconfig().display().to_string();
    let mut args = vec!["switchover", "--to", to, "--kubeconfig", &kubeconfig];
    for member in &world.fleet.members {
        args.extend(["--context", member.name()]);
    }
    args.extend(more);
    let deadline = Instant::now() + NEWS;
    loop {
        match world.fleet.flagship.run(&args) {
            Err(refused) if is_refusal(&refused) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            result => return result.map(drop),
        }
    }
}

fn is_refusal(error: &anyhow::Error) -> bool {
    let said = error.to_string();
    said.contains("refused the switchover") && said.contains("Nothing was changed")
}

async fn give_back(world: &World, leader: &str) -> Result<()> {
    if clusters::fleet::leads(&world.member(leader).state(), leader) {
        return Ok(());
    }
    switchover(world, leader, &["--timeout", "1m"]).await
}

/// Sets the finalizers of the payload's Deployment.
async fn set_finalizers(member: &Member, finalizers: Value) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
    let api: Api<DynamicObject> = Api::namespaced_with(member.cluster.client().await?, "default", &kind);
    let patch = json!({"metadata": {"finalizers": finalizers}});
    let name = clusters::watch::Payload::default().deployment;
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.context("set finalizers")?;
    Ok(())
}

/// A new certificate by the same authority in the place of a member's, file by file as a rotation of a mounted Secret is
/// not: the daemon must cope with a pair that does not match for a moment.
fn rotate_certificate(world: &World, member: &str) -> Result<()> {
    let live = &world.fleet.tls_dir;
    let made = live.with_file_name("rotated");
    let status = std::process::Command::new("cp").arg("-a").arg(live).arg(&made).status().context("cp")?;
    anyhow::ensure!(status.success(), "copy the authority");
    std::fs::remove_dir_all(made.join(member)).context("remove the old certificate from the copy")?;
    let out = made.to_str().context("a path that is text")?;
    let args = ["pki", "add-member", "--fleet", clusters::fleet::CALLSIGN, "--member", member, "--out", out];
    world.fleet.flagship.run(&args)?;
    for file in ["tls.crt", "tls.key"] {
        let (from, to) = (made.join(member).join(file), live.join(member).join(file));
        anyhow::ensure!(std::fs::read(&from)? != std::fs::read(&to)?, "{file} is the old one");
        std::fs::rename(&from, &to).with_context(|| format!("rotate {file}"))?;
    }
    std::fs::remove_dir_all(&made).context("remove the copy")
}
