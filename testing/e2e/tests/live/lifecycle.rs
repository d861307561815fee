//! What a user does to the object, and what becomes of the payload.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Plan, leads, two_members};
use flagship_e2e::{World, e2e};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn deleting_the_leaders_object_deletes_its_payload_and_moves_the_lead() {
    e2e("deleting_the_leaders_object_deletes_its_payload_and_moves_the_lead", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let deleted = Instant::now();
        sheffield.request_deletion().await?;
        // The finalizer goes last: as long as anything of the payload is there, so is the object.
        let gone = sheffield.watch.wait("sheffield is removed", MINUTE, |state| {
            assert!(!state.members.is_empty() || !state.present(), "the object went before its payload");
            state.members.is_empty()
        });
        gone.await?;
        newyork.wait_leading(MINUTE).await?;
        world.no_overlap(deleted)
    });
}

#[test]
fn deleting_a_standbys_object_touches_nothing_that_it_did_not_make() {
    e2e("deleting_a_standbys_object_touches_nothing_that_it_did_not_make", World::two(), async |world| {
        let (newyork, _) = world.settle().await?;
        // Somebody else's object of the payload's name, in the standby's cluster.
        let foreign = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "nginx-deployment2", "namespace": "default"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "foreign"}}, "template": {
                "metadata": {"labels": {"app": "foreign"}},
                "spec": {"containers": [{"name": "web", "image": "example.com/web:1"}]}}}
        });
        newyork.cluster.apply(foreign).await?;
        let before = world.facts("sheffield")?;
        newyork.delete().await?;
        let left = world.get(newyork, "apps/v1", "Deployment", "nginx-deployment2").await?;
        ensure!(
            left.is_some_and(|object| object.metadata.deletion_timestamp.is_none()),
            "it deleted what is not its own"
        );
        world.nothing_moves_of("sheffield", &before, secs(5)).await
    });
}

#[test]
fn a_new_rank_moves_the_lead() {
    e2e("a_new_rank_moves_the_lead", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let edited = Instant::now();
        world.patch(newyork, json!({"spec": {"rank": 20}})).await?;
        newyork.wait_leading(MINUTE).await?;
        sheffield.wait_gone(MINUTE).await?;
        world.no_overlap(edited)
    });
}

#[test]
fn an_edited_port_makes_the_member_rejoin() {
    e2e("an_edited_port_makes_the_member_rejoin", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        world.patch(sheffield, json!({"spec": {"port": 9991}})).await?;
        newyork
            .watch
            .wait("newyork sees sheffield at its new port", MINUTE, |state| {
                let members = state.status("newyork", "members").as_array().cloned().unwrap_or_default();
                members.iter().any(|m| m["address"] == "172.18.100.200:9991" && m["state"] == "Alive")
            })
            .await?;
        world.nothing_moves("sheffield", &before, secs(6)).await?;
        ensure!(leads(&sheffield.state(), "sheffield"), "it still leads");
        // And the other way round: a seed that leads nowhere harms nobody.
        world.patch(sheffield, json!({"spec": {"fleet": ["172.18.100.100:9990", "172.18.100.250"]}})).await?;
        world.nothing_moves("sheffield", &before, secs(6)).await
    });
}

#[test]
fn an_edited_callsign_moves_the_member_to_another_fleet() {
    e2e("an_edited_callsign_moves_the_member_to_another_fleet", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let edited = Instant::now();
        world.patch(sheffield, json!({"spec": {"callsign": "rebels"}})).await?;
        // It leaves the old fleet in order; in the new one it has no certificate, and says which command makes it.
        newyork.wait_leading(MINUTE).await?;
        world.no_overlap(edited)?;
        world.condition("sheffield", "Stalled", "True", "flagship pki").await?;
        world.patch(sheffield, json!({"spec": {"callsign": "federation"}})).await?;
        sheffield.wait_leading(MINUTE).await?;
        newyork.wait_gone(MINUTE).await?;
        world.no_overlap(edited).context("on the way back")
    });
}

/// The payload of the test with another object after it and this many replicas.
fn payload(replicas: u32, more: &str) -> Value {
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: nginx-deployment2\nspec:\n  replicas: {replicas}\n  \
         selector:\n    matchLabels:\n      app: nginx\n  template:\n    metadata:\n      labels:\n        app: nginx\n    \
         spec:\n      containers:\n      - name: nginx\n        image: nginx:latest\n"
    );
    json!({"spec": {"payload": format!("{deployment}---\n{more}")}})
}

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  key: {value}\n")
}

#[test]
fn an_edited_payload_is_updated_pruned_and_extended() {
    e2e("an_edited_payload_is_updated_pruned_and_extended", World::two(), async |world| {
        let (_, sheffield) = world.settle().await?;
        let uid = world.facts("sheffield")?.uid;
        world.patch(sheffield, payload(2, &config_map("first", "one"))).await?;
        sheffield.watch.wait("two pods", MINUTE, |state| state.pods() == (2, 2)).await?;
        world.condition("sheffield", "Ready", "True", "").await?;
        let first = world.get(sheffield, "v1", "ConfigMap", "first").await?.context("first was added")?;
        ensure!(first.data["data"]["key"] == "one");
        world.patch(sheffield, payload(2, &config_map("second", "two"))).await?;
        let deadline = Instant::now() + secs(30);
        while world.get(sheffield, "v1", "ConfigMap", "first").await?.is_some() {
            ensure!(Instant::now() < deadline, "first was not pruned");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ensure!(
            world.get(sheffield, "v1", "ConfigMap", "second").await?.is_some(),
            "second is there before first goes"
        );
        ensure!(world.facts("sheffield")?.uid == uid, "the Deployment was changed in place");
        drift_is_corrected(world).await
    });
}

/// Somebody edits and deletes what the payload says.
async fn drift_is_corrected(world: &World) -> Result<()> {
    let sheffield = world.member("sheffield");
    let edited = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"key": "edited"},
        "metadata": {"name": "second", "namespace": "default"}});
    sheffield.cluster.apply(edited).await?;
    let deadline = Instant::now() + secs(30);
    loop {
        let second = world.get(sheffield, "v1", "ConfigMap", "second").await?;
        if second.is_some_and(|object| object.data["data"]["key"] == "two") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the drift stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_leader_that_lost_its_status_finds_its_payload_again() {
    e2e("a_leader_that_lost_its_status_finds_its_payload_again", World::two(), async |world| {
        let (_, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        sheffield.kill().await?;
        // Deleted without its daemon, and restored from a backup that has no status.
        world.patch(sheffield, json!({"metadata": {"finalizers": null}})).await?;
        sheffield.delete().await?;
        sheffield.apply().await?;
        sheffield.start_again().await?;
        sheffield.wait_leading(MINUTE).await?;
        world.nothing_moves("sheffield", &before, secs(8)).await
    });
}

#[test]
fn a_forgotten_peer_is_not_waited_for() {
    e2e("a_forgotten_peer_is_not_waited_for", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        newyork.kill().await?;
        let kubeconfig = sheffield.cluster.admin_kubeconfig().display().to_string();
        let forget = [
            "fleet",
            "forget",
            "newyork",
            "--reason",
            "the data centre burnt down",
            "--kubeconfig",
            &kubeconfig,
        ];
        world.fleet.flagship.run(&forget)?;
        sheffield
            .watch
            .wait("newyork is forgotten", MINUTE, |state| {
                let members = state.status("sheffield", "members").as_array().cloned().unwrap_or_default();
                !members.iter().any(|m| m["name"] == "newyork" && m["state"] != "Left")
            })
            .await?;
        world.event(sheffield, "burnt down").await
    });
}

#[test]
fn no_password_has_to_stand_in_the_object() {
    e2e("no_password_has_to_stand_in_the_object", World::two(), async |world| {
        let newyork = world.member("newyork");
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "payload", "namespace": "default"},
            "stringData": {"more.yaml": config_map("from-secret", "one")}});
        newyork.cluster.apply(secret.clone()).await?;
        newyork.apply().await?;
        world
            .patch(
                newyork,
                json!({"spec": {"payloadFrom": [{"secretKeyRef": {"name": "payload", "key": "more.yaml"}}]}}),
            )
            .await?;
        newyork.wait_leading(MINUTE).await?;
        let value = async || -> Result<Option<Value>> {
            Ok(world
                .get(newyork, "v1", "ConfigMap", "from-secret")
                .await?
                .map(|object| object.data["data"]["key"].clone()))
        };
        ensure!(value().await? == Some(json!("one")), "the Secret's manifest is applied");
        let mut changed = secret;
        changed["stringData"]["more.yaml"] = json!(config_map("from-secret", "two"));
        newyork.cluster.apply(changed).await?;
        let deadline = Instant::now() + secs(90);
        while value().await? != Some(json!("two")) {
            ensure!(Instant::now() < deadline, "a changed Secret is not followed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    });
}

fn handing_over() -> Result<Vec<Plan>> {
    let mut plans = two_members()?;
    for plan in &mut plans {
        plan.args = vec!["--on-shutdown=handover".to_owned()];
    }
    Ok(plans)
}

#[test]
fn a_daemon_that_hands_over_at_its_end_leaves_nothing_behind() {
    e2e("a_daemon_that_hands_over_at_its_end_leaves_nothing_behind", handing_over(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let ended = Instant::now();
        sheffield.daemon.terminate(&sheffield.cluster, secs(35)).await?;
        ensure!(!sheffield.state().present(), "its process is gone and its payload is not");
        newyork.wait_leading(secs(60)).await?;
        eprintln!(
            "payload created elsewhere after {:?}",
            newyork.wait_created(ended, secs(1)).await? - ended
        );
        sheffield.start_again().await?;
        sheffield.wait_leading(secs(60)).await.map(drop)
    });
}
