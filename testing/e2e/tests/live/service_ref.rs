//! `spec.serviceRef`: a Service of type LoadBalancer says where others reach a member, and may change its mind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Member, leads};
use clusters::watch::State;
use flagship_e2e::{World, e2e};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);
/// Another namespace than the MultiCluster's, as in the guide.
const NAMESPACE: &str = "kube-vip-multi-cluster-system";
const NAME: &str = "multi-cluster-service";

fn service(kind: &str, ports: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"type": kind, "ports": ports, "selector": {"control-plane": "controller-manager"}}})
}

async fn services(member: &Member) -> Result<Api<Service>> {
    Ok(Api::namespaced(member.cluster.client().await?, NAMESPACE))
}

/// What a load balancer's controller does.
async fn give(member: &Member, ingress: Value) -> Result<()> {
    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let (api, params, patch) = (services(member).await?, PatchParams::default(), Patch::Merge(&patch));
    let call = tokio::time::timeout(CALL, api.patch_status(NAME, &params, &patch));
    call.await.context("patch status: no answer")?.context("patch the Service's status").map(drop)
}

/// sheffield behind a Service, with nobody to dial; newyork, which nobody can dial, with sheffield's first address.
async fn apply(newyork: &Member, sheffield: &Member) -> Result<()> {
    for (member, edits) in [
        (
            sheffield,
            json!({"serviceAddress": "", "serviceRef": {"name": NAME, "namespace": NAMESPACE}, "fleet": [],
                "ready": true}),
        ),
        (newyork, json!({"serviceAddress": "", "fleet": ["172.18.100.200:9990"], "ready": false})),
    ] {
        let mut object = member.plan.object.clone();
        object["metadata"]["namespace"] = json!("default");
        for (field, value) in edits.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        member.cluster.apply(object).await?;
    }
    Ok(())
}

/// What `who` says of `whom` in its status.
fn row(state: &State, who: &str, whom: &str) -> Value {
    let members = state.status(who, "members").as_array().cloned().unwrap_or_default();
    members.into_iter().find(|member| member["name"] == whom).unwrap_or_default()
}

async fn told(newyork: &Member, address: &str) -> Result<()> {
    let what = format!("newyork is told that sheffield is at {address}");
    let knows = |state: &State| {
        let row = row(state, "newyork", "sheffield");
        row["address"] == address && row["state"] == "Alive"
    };
    newyork.watch.wait(&what, MINUTE, knows).await.map(drop)
}

#[test]
fn a_service_gives_the_address_and_moves_it_without_a_failover() {
    let name = "a_service_gives_the_address_and_moves_it_without_a_failover";
    e2e(name, World::two(), async |world| {
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        apply(newyork, sheffield).await?;
        sheffield.wait_leading(MINUTE).await?;
        newyork
            .watch
            .wait("newyork follows", MINUTE, |s| s.status("newyork", "leader") == "sheffield")
            .await?;
        let before = world.facts("sheffield")?;
        let identity =
            |state: &State| ["epoch", "term"].map(|field| state.status("sheffield", field).clone());
        let started = identity(&sheffield.state());

        what_is_wrong_is_said(world, sheffield).await?;
        give(sheffield, json!([{"ip": "172.18.100.200"}])).await?;
        told(newyork, "172.18.100.200:9990").await?;
        world.condition("sheffield", "Ready", "True", "").await?;
        world.event(sheffield, "other members are told to dial 172.18.100.200:9990").await?;

        // The other network that the two clusters share plays the new load balancer.
        let moved = sheffield.cluster.watch_address().to_string();
        give(sheffield, json!([{"ip": moved}])).await?;
        let address = format!("{moved}:9990");
        told(newyork, &address).await?;
        world.nothing_moves("sheffield", &before, Duration::from_secs(6)).await?;
        ensure!(
            identity(&sheffield.state()) == started,
            "it joined anew: {:?}",
            identity(&sheffield.state())
        );

        is_dialled_there(world).await?;
        world.nothing_moves("sheffield", &before, Duration::from_secs(6)).await?;

        give(sheffield, json!(null)).await?;
        world.condition("sheffield", "Reconciling", "True", "has lost its LoadBalancer address").await?;
        told(newyork, &address).await?;
        let api = services(sheffield).await?;
        let params = DeleteParams::default();
        tokio::time::timeout(CALL, api.delete(NAME, &params)).await?.context("delete the Service")?;
        world.condition("sheffield", "Stalled", "True", "there is no Service").await?;
        world.patch(sheffield, json!({"spec": {"serviceAddress": "172.18.100.200"}})).await?;
        told(newyork, "172.18.100.200:9990").await?;
        world.condition("sheffield", "Ready", "True", "").await?;
        world.nothing_moves("sheffield", &before, Duration::from_secs(3)).await?;
        ensure!(identity(&sheffield.state()) == started && leads(&sheffield.state(), "sheffield"));
        Ok(())
    });
}

/// From no Service to one that waits for its address. sheffield leads all the time.
async fn what_is_wrong_is_said(world: &World, sheffield: &Member) -> Result<()> {
    world.condition("sheffield", "Stalled", "True", "there is no Service").await?;
    let right = || json!([{"name": "fleet", "port": 9990, "targetPort": 9990}]);
    sheffield.cluster.apply(service("ClusterIP", &right())).await?;
    world.condition("sheffield", "Stalled", "True", "of type ClusterIP").await?;
    let wrong = json!([{"name": "web", "port": 80, "targetPort": 8080}, {"name": "tls", "port": 443, "targetPort": 8443}]);
    sheffield.cluster.apply(service("LoadBalancer", &wrong)).await?;
    world.condition("sheffield", "Stalled", "True", "web 80/TCP to 8080").await?;
    sheffield.cluster.apply(service("LoadBalancer", &right())).await?;
    world.condition("sheffield", "Reconciling", "True", "has no LoadBalancer address yet").await?;
    ensure!(leads(&sheffield.state(), "sheffield"), "it leads all the same");
    Ok(())
}

/// newyork starts anew without seeds, and the path to the old address is cut: only the new one is left.
async fn is_dialled_there(world: &World) -> Result<()> {
    let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
    world.patch(newyork, json!({"spec": {"fleet": []}})).await?;
    let old = row(&sheffield.state(), "sheffield", "newyork")["epoch"].as_i64().context("newyork's epoch")?;
    newyork.daemon.kill(&newyork.cluster).await?;
    world.fleet.cut_off("sheffield").await?;
    newyork.daemon.start_again(&newyork.cluster).await?;
    let linked = |state: &State| {
        let row = row(state, "sheffield", "newyork");
        row["state"] == "Alive" && row["epoch"].as_i64() > Some(old)
    };
    sheffield.watch.wait("newyork dials the new address", MINUTE, linked).await?;
    world.fleet.heal().await.map(drop)
}
