//! The auditor on real API servers: it finds what is planted, and knows when it cannot know.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::Member;
use flagship_e2e::auditor::Verdict;
use flagship_e2e::{Expect, World, e2e};
use kube::api::{Api, DeleteParams, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

fn planted(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default",
        "labels": {"kube-vip.io/multicluster": "default.planted"}}})
}

async fn delete(member: &Member, name: &str) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
    let api: Api<DynamicObject> = Api::namespaced_with(member.cluster.client().await?, "default", &kind);
    api.delete(name, &DeleteParams::default()).await.context("delete")?;
    Ok(())
}

/// Waits until the auditor's answer is like this: events arrive a moment after they happened.
async fn answer(
    world: &World,
    since: Instant,
    what: &str,
    is_so: impl Fn(Verdict) -> bool,
) -> Result<Verdict> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let report = world.audit(since);
        if is_so(report.objects) {
            return Ok(report.objects);
        }
        ensure!(Instant::now() < deadline, "{what}: {report}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn it_finds_a_short_overlap_and_says_when_it_cannot_know() {
    e2e("it_finds_a_short_overlap_and_says_when_it_cannot_know", World::two(), async |world| {
        world.expect(Expect::Overlap("planted"));
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        let began = Instant::now();
        newyork.cluster.apply(planted("one")).await?;
        delete(newyork, "one").await?;
        sheffield.cluster.apply(planted("two")).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        ensure!(world.audit(began).anything == Verdict::Never, "one after the other: {}", world.audit(began));

        newyork.cluster.apply(planted("three")).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = Instant::now();
        delete(sheffield, "two").await?;
        let slowness = asked.elapsed() + Duration::from_millis(500);
        let found =
            answer(world, began, "a planted overlap", |found| matches!(found, Verdict::For(_))).await?;
        // It grows until the deletion is seen, too.
        let longest = Duration::from_millis(50) + slowness;
        ensure!(
            matches!(found, Verdict::For(time) if time <= longest),
            "{found} is not 50 ms or little more"
        );

        // The API server restarts, and cannot tell any more what it did before.
        let since = world.alone(Duration::from_secs(20)).await?;
        sheffield.cluster.stop_api_server().await?;
        sheffield.cluster.start_api_server().await?;
        answer(world, since, "a gap while newyork has it", |found| matches!(found, Verdict::Unknown(_)))
            .await?;
        let since = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        answer(world, since, "after the gap", |found| found == Verdict::Never).await?;
        sheffield.cluster.apply(planted("four")).await?;
        answer(world, since, "found again after it", |found| matches!(found, Verdict::For(_))).await.map(drop)
    });
}
