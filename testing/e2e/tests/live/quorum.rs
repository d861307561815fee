//! Mode Quorum on real control planes: no process leaves a payload running that nobody renews the lease for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Layout, Member, two_members};
use clusters::witness::WitnessPlan;
use flagship_e2e::{World, e2e};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::fence::Fence;

/// How long a daemon may take to end when it has a payload to give up: below the 40 s of its Deployment.
const END: Duration = Duration::from_secs(35);
/// Long after everything that may happen has happened.
const SETTLE: Duration = Duration::from_secs(60);

fn two_and_a_witness() -> Result<Layout> {
    Ok(Layout { witness: Some(WitnessPlan::new()), ..Layout::from(two_members()?) }.in_quorum())
}

/// A fleet that begins in Quorum needs all of its voters; sheffield is the best of them.
async fn found(world: &World) -> Result<(&Member, &Member)> {
    let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
    newyork.apply().await?;
    sheffield.apply().await?;
    sheffield.wait_leading(SETTLE).await?;
    newyork.wait_gone(SETTLE).await?;
    Ok((newyork, sheffield))
}

#[test]
fn a_leader_that_ends_gives_the_payload_up_first() {
    e2e("a_leader_that_ends_gives_the_payload_up_first", two_and_a_witness(), async |world| {
        let (newyork, sheffield) = found(world).await?;
        let ended = Instant::now();
        sheffield.daemon.terminate(&sheffield.cluster, END).await?;
        let took = ended.elapsed();
        ensure!(!sheffield.state().present(), "its process is gone and its payload is not");
        let created = newyork.wait_created(ended, SETTLE).await? - ended;
        newyork.wait_leading(SETTLE).await?;
        eprintln!("ended after {took:?}, payload created elsewhere after {created:?}");
        sheffield.start_again().await?;
        sheffield.wait_leading(SETTLE).await.context("the better one is back")?;
        Ok(())
    });
}

/// The way out where all of a leader's daemons may be lost at once: what runs in its cluster then is stopped by somebody
/// else, and until then nobody is promoted.
#[test]
fn nobody_is_promoted_before_the_old_leader_is_fenced_off() {
    let plans = two_and_a_witness().map(|mut layout| {
        for plan in &mut layout.plans {
            plan.set("hooks", json!({"beforePromote": {"url": Fence::url(), "retries": 0}}));
        }
        layout
    });
    e2e("nobody_is_promoted_before_the_old_leader_is_fenced_off", plans, async |world| {
        let fence = Fence::start().await?;
        fence.succeeds();
        let (newyork, sheffield) = found(world).await?;
        world.condition("sheffield", "SplitBrainProtected", "True", "FencingHook").await?;
        fence.fails();
        let begin = Instant::now();
        sheffield.daemon.kill(&sheffield.cluster).await?;
        fence.wait_more("beforePromote", 3, SETTLE).await?;
        world.condition("newyork", "Ready", "False", "HookBlocks").await?;
        ensure!(!newyork.state().present(), "the old payload runs on: {:?}", sheffield.state().pods());
        ensure!(sheffield.state().present(), "nobody there could stop it");
        let body = fence.bodies("beforePromote").pop().context("a body")?;
        ensure!(body["predecessor"] == "sheffield" && body["member"] == "newyork", "{body}");

        let deployments: Api<Deployment> = Api::default_namespaced(sheffield.cluster.client().await?);
        let of_the_payload = ListParams::default().labels("kube-vip.io/multicluster=default.sheffield");
        deployments.delete_collection(&DeleteParams::default(), &of_the_payload).await?;
        sheffield.wait_gone(SETTLE).await?;
        fence.succeeds();
        newyork.wait_leading(SETTLE).await?;
        newyork.wait_created(begin, SETTLE).await?;
        world.no_overlap(begin)
    });
}

#[test]
fn a_leader_that_ends_without_an_heir_stops_the_payload() {
    e2e("a_leader_that_ends_without_an_heir_stops_the_payload", two_and_a_witness(), async |world| {
        let (newyork, sheffield) = found(world).await?;
        newyork.daemon.terminate(&newyork.cluster, END).await?;
        sheffield.daemon.terminate(&sheffield.cluster, END).await?;
        ensure!(!sheffield.state().present(), "its process is gone and its payload is not");
        ensure!(!newyork.state().present(), "nobody could start one there");
        // With the witness that is a majority.
        sheffield.start_again().await?;
        sheffield.wait_leading(SETTLE).await?;
        Ok(())
    });
}

#[test]
fn a_daemon_that_cannot_join_stops_the_payload_that_it_left() {
    e2e("a_daemon_that_cannot_join_stops_the_payload_that_it_left", two_and_a_witness(), async |world| {
        let (newyork, sheffield) = found(world).await?;
        let key = world.fleet.tls_dir.join("sheffield").join("tls.key");
        let away = key.with_extension("away");
        std::fs::rename(&key, &away).context("take the key away")?;
        let killed = Instant::now();
        sheffield.kill().await?;
        sheffield.start_again().await?;
        sheffield.wait_gone(SETTLE).await?;
        let gone = killed.elapsed();
        let created = newyork.wait_created(killed, SETTLE).await? - killed;
        newyork.wait_leading(SETTLE).await?;
        eprintln!("payload gone after {gone:?}, created elsewhere after {created:?}");
        let state = sheffield.state();
        let history = state.status("sheffield", "history").to_string();
        ensure!(history.contains("PayloadUnleased"), "{history}");
        std::fs::rename(&away, &key).context("give the key back")?;
        sheffield.wait_leading(SETTLE).await.context("with its key it is the better one again")?;
        Ok(())
    });
}
