//! Several fleets in one daemon, on one port and on several: what befalls one is nothing to the others.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::Member;
use clusters::watch::State;
use flagship_e2e::{Expect, World, e2e};
use kube::api::{Api, DeleteParams, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);

/// A fleet with a member in each of the two clusters.
struct Fleet {
    callsign: &'static str,
    port: u16,
    /// The rank of its member in newyork and in sheffield.
    ranks: [i64; 2],
}

/// alpha and beta share a port, and not the leader; gamma has a port of its own.
const FLEETS: [Fleet; 3] = [
    Fleet { callsign: ALPHA, port: 9990, ranks: [10, 5] },
    Fleet { callsign: BETA, port: 9990, ranks: [5, 10] },
    Fleet { callsign: GAMMA, port: 9991, ranks: [10, 5] },
];
const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const GAMMA: &str = "gamma";
const CLUSTERS: [&str; 2] = ["newyork", "sheffield"];

fn name(cluster: &str, callsign: &str) -> String {
    format!("{cluster}-{callsign}")
}

/// The MultiCluster of a fleet in a cluster. newyork founds, sheffield joins through it.
fn object(name: &str, fleet: &Fleet, rank: i64, own: Ipv4Addr, seed: Option<Ipv4Addr>) -> Value {
    let Fleet { callsign, port, .. } = fleet;
    let payload =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: payload-{callsign}\ndata:\n  a: b\n");
    json!({
        "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "port": port, "callsign": callsign, "rank": rank, "ready": seed.is_none(),
            "serviceAddress": own.to_string(), "payload": payload,
            "fleet": seed.iter().map(|seed| format!("{seed}:{port}")).collect::<Vec<_>>(),
        }
    })
}

/// Certificates for all members of all fleets, each in `<callsign>/<member>/` of its daemon's directory.
fn make_certificates(world: &World) -> Result<()> {
    for Fleet { callsign, .. } in FLEETS {
        let names = CLUSTERS.map(|cluster| name(cluster, callsign));
        let made = world.fleet.tls_dir.join(format!("made-{callsign}"));
        world.fleet.flagship.make_certificates(callsign, &names.each_ref().map(String::as_str), &made)?;
        for (cluster, name) in CLUSTERS.iter().zip(names) {
            let to = world.fleet.tls_dir.join(cluster).join(callsign).join(&name);
            copy(&made.join(&name), &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        std::fs::copy(from.join(file), to.join(file)).with_context(|| format!("copy {file}"))?;
    }
    Ok(())
}

fn says_it_leads(state: &State, name: &str) -> bool {
    *state.status(name, "leading") == Value::Bool(true) && *state.status(name, "ready") == Value::Bool(true)
}

/// The uid and version of a fleet's payload in a cluster: unchanged means that nobody touched it.
async fn payload(world: &World, cluster: &str, callsign: &str) -> Result<Option<(String, String)>> {
    let found = world.get(world.member(cluster), "v1", "ConfigMap", &format!("payload-{callsign}")).await?;
    let marks = |object: DynamicObject| {
        (object.metadata.uid.unwrap_or_default(), object.metadata.resource_version.unwrap_or_default())
    };
    Ok(found.map(marks))
}

/// Waits until a fleet's payload runs in this cluster, by its own word, and in no other.
async fn runs_in(world: &World, callsign: &str, cluster: &str) -> Result<()> {
    let member = name(cluster, callsign);
    let what = format!("{member} leads");
    let leads = |state: &State| says_it_leads(state, &member);
    world.member(cluster).watch.wait(&what, MINUTE, leads).await?;
    let deadline = Instant::now() + MINUTE;
    loop {
        let mut found = Vec::new();
        for cluster in CLUSTERS {
            if payload(world, cluster, callsign).await?.is_some() {
                found.push(cluster);
            }
        }
        if found == [cluster] {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the payload of {callsign} is in {found:?}, not in {cluster} alone"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a fleet's member in this cluster follows the one in the other.
async fn follows(world: &World, callsign: &str, cluster: &str) -> Result<()> {
    let leader = if cluster == "newyork" { "sheffield" } else { "newyork" };
    let (member, leader) = (name(cluster, callsign), name(leader, callsign));
    let what = format!("{member} follows {leader}");
    let follows = |state: &State| {
        *state.status(&member, "leader") == leader.as_str()
            && *state.status(&member, "ready") == Value::Bool(true)
    };
    world.member(cluster).watch.wait(&what, MINUTE, follows).await.map(drop)
}

/// What must stay as it is in a fleet that nothing happens to: the payload, the leader's term, both members' start.
async fn facts(world: &World, callsign: &str) -> Result<Vec<String>> {
    let mut facts = Vec::new();
    for cluster in CLUSTERS {
        let (state, name) = (world.member(cluster).state(), name(cluster, callsign));
        facts.push(format!("{name}: {:?}", payload(world, cluster, callsign).await?));
        facts.push(["leader", "term"].map(|field| state.status(&name, field).to_string()).join(" "));
    }
    Ok(facts)
}

async fn apply_all(world: &World) -> Result<()> {
    // The label's value is NAMESPACE.CLUSTER-CALLSIGN.
    world.tell_fleets_apart(|label| label.rsplit('-').next().unwrap_or(label));
    make_certificates(world)?;
    let [newyork, sheffield] = CLUSTERS.map(|cluster| world.member(cluster));
    let at = |member: &Member| member.cluster.service_address();
    for fleet in &FLEETS {
        let (first, second) = (name("newyork", fleet.callsign), name("sheffield", fleet.callsign));
        let founder = object(&first, fleet, fleet.ranks[0], at(newyork), None);
        newyork.cluster.apply(founder).await?;
        let joiner = object(&second, fleet, fleet.ranks[1], at(sheffield), Some(at(newyork)));
        sheffield.cluster.apply(joiner).await?;
    }
    for (callsign, cluster) in [(ALPHA, "newyork"), (BETA, "sheffield"), (GAMMA, "newyork")] {
        runs_in(world, callsign, cluster).await?;
        follows(world, callsign, if cluster == "newyork" { "sheffield" } else { "newyork" }).await?;
    }
    Ok(())
}

async fn objects(member: &Member) -> Result<Api<DynamicObject>> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-vip.io", "v1alpha1", "MultiCluster"));
    Ok(Api::namespaced_with(member.cluster.client().await?, "default", &kind))
}

async fn delete(member: &Member, name: &str) -> Result<()> {
    let (api, params) = (objects(member).await?, DeleteParams::default());
    let call = tokio::time::timeout(CALL, api.delete(name, &params)).await;
    call.context("delete: no answer")?.with_context(|| format!("delete MultiCluster {name}"))?;
    let gone = |state: &State| !state.members.contains_key(name);
    member.watch.wait(&format!("{name} is removed"), MINUTE, gone).await.map(drop)
}

#[test]
fn a_killed_daemon_moves_the_fleets_that_were_led_there() {
    e2e("a_killed_daemon_moves_the_fleets_that_were_led_there", World::two(), async |world| {
        world.expect(Expect::Either("what the killed daemon led runs on; beta was led elsewhere"));
        apply_all(world).await?;
        let newyork = world.member("newyork");
        let beta = facts(world, BETA).await?;
        newyork.daemon.kill(&newyork.cluster).await?;
        for callsign in [ALPHA, GAMMA] {
            let member = name("sheffield", callsign);
            let leads = |state: &State| says_it_leads(state, &member);
            world.member("sheffield").watch.wait(&format!("{member} takes over"), MINUTE, leads).await?;
        }
        newyork.daemon.start_again(&newyork.cluster).await?;
        for (callsign, cluster) in [(ALPHA, "newyork"), (BETA, "sheffield"), (GAMMA, "newyork")] {
            runs_in(world, callsign, cluster).await.context("after the restart rank decides again")?;
        }
        follows(world, BETA, "newyork").await?;
        ensure!(facts(world, BETA).await? == beta, "beta was led elsewhere and was touched");
        Ok(())
    });
}

#[test]
fn removing_one_fleet_is_nothing_to_the_others() {
    e2e("removing_one_fleet_is_nothing_to_the_others", World::two(), async |world| {
        apply_all(world).await?;
        let newyork = world.member("newyork");
        let others = [facts(world, ALPHA).await?, facts(world, BETA).await?];
        // The leader of the fleet with a port of its own, which is free then.
        delete(newyork, &name("newyork", GAMMA)).await?;
        runs_in(world, GAMMA, "sheffield").await?;
        ensure!([facts(world, ALPHA).await?, facts(world, BETA).await?] == others, "the others were touched");
        // The standby of one of the two that share a port: the other one goes on listening there.
        delete(newyork, &name("newyork", BETA)).await?;
        runs_in(world, BETA, "sheffield").await?;
        ensure!(facts(world, ALPHA).await? == others[0], "alpha was touched");
        let address = newyork.cluster.service_address();
        let seed = world.member("sheffield").cluster.service_address();
        let back = object(&name("newyork", BETA), &FLEETS[1], 5, address, Some(seed));
        newyork.cluster.apply(back).await?;
        follows(world, BETA, "newyork").await?;
        ensure!(facts(world, ALPHA).await? == others[0], "alpha was touched");
        Ok(())
    });
}

#[test]
fn a_second_member_of_one_fleet_in_one_daemon_is_refused() {
    e2e("a_second_member_of_one_fleet_in_one_daemon_is_refused", World::two(), async |world| {
        apply_all(world).await?;
        let newyork = world.member("newyork");
        let before = [facts(world, ALPHA).await?, facts(world, BETA).await?, facts(world, GAMMA).await?];
        let address = newyork.cluster.service_address();
        newyork.cluster.apply(object("newyork-again", &FLEETS[0], 99, address, None)).await?;
        let stalled = |state: &State| {
            let conditions =
                state.status("newyork-again", "conditions").as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| {
                condition["type"] == "Stalled"
                    && condition["reason"] == "CallsignTaken"
                    && condition["message"].as_str().is_some_and(|message| message.contains("newyork-alpha"))
            })
        };
        newyork.watch.wait("newyork-again is refused", MINUTE, stalled).await?;
        // That nothing happens can only be seen by waiting.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let after = [facts(world, ALPHA).await?, facts(world, BETA).await?, facts(world, GAMMA).await?];
        ensure!(after == before, "a refused member changed something: {before:?} {after:?}");
        delete(newyork, "newyork-again").await?;
        ensure!(facts(world, ALPHA).await? == before[0], "its removal took alpha's payload");
        Ok(())
    });
}
