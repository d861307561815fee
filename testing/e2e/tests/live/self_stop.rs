//! Mode Quorum on real API servers: a leader that is cut off from its fleet and keeps its API server ends its payload by
//! itself, however long its pods would like to take, before another cluster has it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::cluster::Signal;
use clusters::fleet::{Layout, Member, two_members};
use clusters::witness::WitnessPlan;
use flagship_e2e::{World, e2e};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
/// S of this fleet: long enough to be told apart from the pods' own time and from what a cut lasts.
const STOP_GRACE_S: i64 = 8;
/// What the pods have of it at most: it is 2 s less.
const POD_GRACE_S: i64 = STOP_GRACE_S - 2;
/// What they ask for in their template.
const OWN_GRACE_S: i64 = 60;
/// The lease is 2 s and is given up after 0.8 of it; the rest is for a loaded machine.
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// Plays the kubelet: while it stands still, a pod that is being deleted stays to be looked at.
const KUBELET: &str = "kwok";

/// Two members and a witness, with pods that would like to take a minute to end.
fn layout() -> Result<Layout> {
    let layout = Layout { witness: Some(WitnessPlan::new()), ..Layout::from(two_members()?) };
    let mut layout = layout.in_quorum();
    for plan in &mut layout.plans {
        plan.object["spec"]["election"]["stopGrace"] = json!(format!("{STOP_GRACE_S}s"));
        let payload = plan.object["spec"]["payload"].as_str().context("a payload")?;
        let containers = "      containers:\n";
        ensure!(payload.contains(containers), "the sample payload changed: {payload}");
        let grace = format!("      terminationGracePeriodSeconds: {OWN_GRACE_S}\n{containers}");
        let slow = payload.replacen(containers, &grace, 1);
        plan.set("payload", json!(slow));
    }
    Ok(layout)
}

async fn pods(member: &Member) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(member.cluster.client().await?, "default");
    Ok(api.list(&ListParams::default().labels("app=nginx")).await?.items)
}

/// Waits until every pod there is has to end within [`POD_GRACE_S`], and returns when that was seen.
async fn all_asked_to_end(member: &Member, limit: Duration) -> Result<Instant> {
    let deadline = Instant::now() + limit;
    loop {
        let all = pods(member).await?;
        let given: Vec<_> = all.iter().map(|pod| pod.metadata.deletion_grace_period_seconds).collect();
        let is_short = |given: &Option<i64>| given.is_some_and(|given| (1..=POD_GRACE_S).contains(&given));
        if !given.is_empty() && given.iter().all(is_short) {
            return Ok(Instant::now());
        }
        ensure!(
            Instant::now() < deadline,
            "the pods have {given:?} s to end, at most {POD_GRACE_S} are left"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn said(member: &Member, kind: &str) -> Option<String> {
    let history = member.state().status(member.name(), "history").clone();
    let found = history.as_array()?.iter().rev().find(|entry| entry["type"] == kind)?;
    found["message"].as_str().map(str::to_owned)
}

#[test]
fn a_leader_that_is_cut_off_ends_its_pods_within_the_stop_grace() {
    e2e("a_leader_that_is_cut_off_ends_its_pods_within_the_stop_grace", layout(), async |world: &World| {
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        for member in [newyork, sheffield] {
            member.apply().await?;
        }
        sheffield.wait_leading(MINUTE).await?;
        newyork.wait_gone(MINUTE).await?;
        let before = pods(sheffield).await?;
        ensure!(
            before.len() == 3
                && before.iter().all(|pod| {
                    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                    own == Some(OWN_GRACE_S)
                }),
            "{before:?}"
        );
        let announced = sheffield.state().status("sheffield", "worstCaseFailoverSeconds")["crash"].clone();
        let announced = Duration::from_secs(announced.as_u64().context("worstCaseFailoverSeconds")?);

        sheffield.cluster.signal(KUBELET, Signal::Stop).await?;
        let cut = world.fleet.cut_off("sheffield").await?;
        let asked = all_asked_to_end(sheffield, ASKED_WITHIN + Duration::from_secs(5)).await;
        sheffield.cluster.signal(KUBELET, Signal::Continue).await?;
        let asked = asked? - cut;
        sheffield.wait_gone(MINUTE).await?;
        let gone = cut.elapsed();
        ensure!(asked <= ASKED_WITHIN, "asked to end {asked:?} after the cut");
        ensure!(world.fleet.dropped_packets().await? > 0, "the cut dropped no packet: it was no fault");
        let created = newyork.wait_created(cut, MINUTE).await? - cut;
        eprintln!(
            "pods asked to end after {asked:?}, gone after {gone:?}, created elsewhere after {created:?}, announced {announced:?}"
        );
        ensure!(gone < created, "gone after {gone:?}, created elsewhere after {created:?}");
        ensure!(created <= announced, "created elsewhere after {created:?}, announced were {announced:?}");
        newyork.wait_leading(MINUTE).await?;
        world.no_overlap(cut)?;

        // It says why, though nobody but its own cluster can read it.
        let stopping = said(sheffield, "Stopping").context("no stop in the history")?;
        ensure!(stopping.contains("LeaseLost") && stopping.contains("majority of the voters"), "{stopping}");
        ensure!(*sheffield.state().status("sheffield", "leading") == Value::Bool(false), "it still leads");
        world.condition("sheffield", "Leading", "False", "voters").await?;
        let elected = said(newyork, "Elected").context("no election in the history")?;
        ensure!(elected.contains("(Silence)"), "{elected}");

        world.fleet.heal().await?;
        sheffield.wait_leading(MINUTE).await?;
        newyork.wait_gone(MINUTE).await.map(drop)
    });
}
