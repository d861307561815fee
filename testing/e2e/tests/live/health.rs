//! Who is fit to lead: candidate gates, a leader whose payload does not get ready, and hooks.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Plan, leads};
use flagship_e2e::{World, e2e};
use serde_json::{Value, json};

use crate::fence::Fence;

const MINUTE: Duration = Duration::from_secs(60);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// newyork and sheffield, the better one, with these fields in its spec.
fn sheffield_with(fields: &Value) -> Result<Vec<Plan>> {
    let mut plans = World::two()?;
    let sheffield = plans.iter_mut().find(|plan| plan.name() == "sheffield").context("sheffield")?;
    for (field, value) in fields.as_object().into_iter().flatten() {
        sheffield.set(field, value.clone());
    }
    Ok(plans)
}

/// The payload of the test with pods that no node of the cluster takes: as with an image that cannot be pulled, they
/// never get ready.
fn never_ready() -> Result<String> {
    let plans = World::two()?;
    let payload = plans[0].object["spec"]["payload"].as_str().context("a payload")?;
    let containers = "      containers:\n";
    ensure!(payload.contains(containers), "the manifest changed: {payload}");
    Ok(payload.replace(containers, &format!("      nodeSelector: {{no-such: node}}\n{containers}")))
}

#[test]
fn a_payload_that_never_gets_ready_moves_to_the_healthy_standby() {
    let plans = never_ready()
        .and_then(|payload| sheffield_with(&json!({"payload": payload, "health": {"promoteTimeout": "8s"}})));
    e2e("a_payload_that_never_gets_ready_moves_to_the_healthy_standby", plans, async |world| {
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        sheffield.apply().await?;
        let failed = "sheffield takes the lead by its rank";
        sheffield.watch.wait(failed, MINUTE, |state| leads(state, "sheffield") && state.present()).await?;
        let took = Instant::now();
        newyork.watch.wait("newyork has it back", MINUTE, |state| leads(state, "newyork")).await?;
        let held = took.elapsed();
        ensure!(held >= secs(5) && held < secs(30), "sheffield held it for {held:?}");
        newyork.wait_leading(MINUTE).await?;
        sheffield.wait_gone(MINUTE).await?;
        world.no_overlap(took)?;
        // It says why, and its rank does not fetch the lead back.
        world.event(sheffield, "(Unhealthy)").await?;
        world.condition("sheffield", "Ready", "False", "FailedAsLeader").await?;
        ensure!(sheffield.state().status("sheffield", "failedLead")["times"] == 1, "status.failedLead");
        let facts = world.facts("newyork")?;
        world.nothing_moves("newyork", &facts, secs(10)).await?;
        // Neither does a restart of its daemon.
        sheffield.kill().await?;
        sheffield.start_again().await?;
        world.condition("sheffield", "Ready", "False", "FailedAsLeader").await?;
        world.nothing_moves("newyork", &facts, secs(10)).await
    });
}

#[test]
fn a_closed_gate_keeps_a_member_from_the_lead_until_it_opens() {
    let gate = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "database"});
    let plans = sheffield_with(&json!({"health": {"gates": [gate]}}));
    e2e("a_closed_gate_keeps_a_member_from_the_lead_until_it_opens", plans, async |world| {
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        sheffield.apply().await?;
        world.condition("sheffield", "Ready", "False", "ConfigMap default/database does not exist").await?;
        world.event(sheffield, "GateClosed").await?;
        let facts = world.facts("newyork")?;
        world.nothing_moves("newyork", &facts, secs(5)).await?;
        let database = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "database", "namespace": "default"}});
        sheffield.cluster.apply(database).await?;
        sheffield.wait_leading(MINUTE).await?;
        newyork.wait_gone(MINUTE).await.map(drop)
    });
}

#[test]
fn a_before_promote_hook_that_fails_blocks_and_shows() {
    let hook = |retries: u32| {
        json!({"url": format!("{}?token=hunter2", Fence::url()), "retries": retries,
            "secretRef": {"name": "fence", "key": "hmac"}})
    };
    let plans = sheffield_with(&json!({"hooks": {"beforePromote": hook(1), "afterPromote": hook(0)}}));
    e2e("a_before_promote_hook_that_fails_blocks_and_shows", plans, async |world| {
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        let fence = Fence::start().await?;
        let key = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "fence", "namespace": "default"},
            "stringData": {"hmac": "topsecret"}});
        sheffield.cluster.apply(key).await?;
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        sheffield.apply().await?;
        world.condition("sheffield", "Reconciling", "True", "answered 503").await?;
        world.condition("sheffield", "Ready", "False", "HookBlocks").await?;
        world.event(sheffield, "HookFailed").await?;
        ensure!(!sheffield.state().present(), "nothing may be written");
        fence.wait_more("beforePromote", 3, MINUTE).await.context("it is tried again")?;
        ensure!(!sheffield.state().present(), "nothing may be written");
        let freed = Instant::now();
        fence.succeeds();
        sheffield.wait_leading(MINUTE).await?;
        ensure!(sheffield.watch.state().deployment_created_since(freed).is_some(), "created afterwards");
        let body = fence.bodies("beforePromote").pop().context("a body")?;
        ensure!(body["predecessor"] == "newyork" && body["reason"] == "Rank", "{body}");
        ensure!(body["member"] == "sheffield" && body["callsign"] == "federation", "{body}");
        fence.wait("afterPromote", 1, MINUTE).await?;
        let signed = fence.signatures().iter().all(|signature| signature.contains(",v1="));
        ensure!(signed, "every delivery is signed");
        let events = world.events(sheffield).await?;
        let told = format!("{events:?} {}", sheffield.state().status("sheffield", "conditions"));
        ensure!(!told.contains("hunter2") && !told.contains("topsecret"), "a secret is told: {told}");
        Ok(())
    });
}
