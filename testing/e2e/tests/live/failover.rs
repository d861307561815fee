//! The lead moves when it must, and only then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Member, Plan};
use flagship_e2e::{Expect, World, e2e, http_get, payload_since};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const UNATTENDED: &str = "the payload of a daemon that is dead or stopped runs on";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn three_of_equal_rank() -> Result<Vec<Plan>> {
    let mut plans = clusters::fleet::three_members()?;
    for plan in &mut plans {
        plan.set("rank", json!(5));
    }
    Ok(plans)
}

/// newyork leads and the other two have joined it.
async fn newyork_leads_all_three(world: &World) -> Result<&Member> {
    let newyork = world.member("newyork");
    newyork.apply().await?;
    newyork.wait_leading(MINUTE).await?;
    for name in ["sheffield", "denver"] {
        world.member(name).apply().await?;
        world.condition(name, "Joined", "True", "").await?;
    }
    Ok(newyork)
}

#[test]
fn the_better_rank_takes_over_and_the_old_payload_is_gone_before_the_new_one_appears() {
    let name = "the_better_rank_takes_over_and_the_old_payload_is_gone_before_the_new_one_appears";
    e2e(name, World::two(), async |world| {
        let newyork = world.member("newyork");
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        ensure!(newyork.state().pods() == (3, 3), "all three pods are ready: {:?}", newyork.state().pods());
        let sheffield = world.member("sheffield");
        sheffield.apply().await?;
        sheffield.wait_leading(MINUTE).await?;
        newyork.wait_gone(MINUTE).await?;
        let gone = newyork.state().presences.last().and_then(|p| p.to).expect("it has gone");
        let created = sheffield.state().deployment_created_since(world.began).expect("it has come");
        ensure!(gone <= created, "sheffield created its Deployment {:?} too early", gone - created);
        world.condition("sheffield", "Ready", "True", "").await?;
        world.condition("newyork", "Ready", "True", "").await
    });
}

#[test]
fn a_killed_leader_is_replaced_and_takes_the_lead_back() {
    e2e("a_killed_leader_is_replaced_and_takes_the_lead_back", World::two(), async |world| {
        world.expect(Expect::Overlap(UNATTENDED));
        let (newyork, sheffield) = world.settle().await?;
        let killed = Instant::now();
        sheffield.kill().await?;
        let created = newyork.wait_created(killed, secs(20)).await?;
        ensure!(created - killed <= secs(8), "replaced after {:?}", created - killed);
        newyork.wait_leading(MINUTE).await?;
        sheffield.start_again().await?;
        // Superseded: it deletes what it left behind, and only then asks for the lead by its rank.
        sheffield.wait_gone(secs(30)).await?;
        let healed = world.alone(secs(5)).await?;
        sheffield.wait_leading(MINUTE).await?;
        newyork.wait_gone(MINUTE).await?;
        world.no_overlap(healed).context("the way back")?;
        world.event(sheffield, "uperseded").await
    });
}

#[test]
fn a_restart_within_the_grace_moves_nothing() {
    e2e("a_restart_within_the_grace_moves_nothing", World::two(), async |world| {
        let (_, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        sheffield.kill().await?;
        sheffield.start_again().await?;
        world.nothing_moves("sheffield", &before, secs(15)).await?;
        ensure!(world.one_active(secs(10)).await? == "sheffield");
        Ok(())
    });
}

#[test]
fn both_daemons_killed_and_started_again_the_old_leader_leads() {
    e2e("both_daemons_killed_and_started_again_the_old_leader_leads", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        sheffield.kill().await?;
        newyork.kill().await?;
        newyork.start_again().await?;
        sheffield.start_again().await?;
        world.nothing_moves("sheffield", &before, secs(15)).await?;
        ensure!(world.one_active(secs(20)).await? == "sheffield");
        Ok(())
    });
}

#[test]
fn sigterm_of_either_daemon_leaves_the_payload_untouched() {
    e2e("sigterm_of_either_daemon_leaves_the_payload_untouched", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        for member in [sheffield, newyork] {
            let ended = member.daemon.terminate(&member.cluster, secs(15)).await?;
            ensure!(ended.ends_with("status 0"), "{} ended with {ended}", member.name());
            // Longer than the restart grace: the absence was announced, so the verdict is held.
            world.nothing_moves("sheffield", &before, secs(8)).await?;
            member.start_again().await?;
            world.nothing_moves("sheffield", &before, secs(8)).await?;
        }
        ensure!(world.one_active(secs(10)).await? == "sheffield");
        Ok(())
    });
}

#[test]
fn a_stopped_leader_is_replaced_and_writes_nothing_when_it_wakes() {
    e2e("a_stopped_leader_is_replaced_and_writes_nothing_when_it_wakes", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        world.expect(Expect::Overlap(UNATTENDED));
        // The way back by rank would follow at once; here only the stepping down is looked at.
        world.patch(sheffield, json!({"spec": {"election": {"failback": "Manual"}}})).await?;
        let before = world.facts("sheffield")?;
        let stopped = Instant::now();
        sheffield.daemon.pause(&sheffield.cluster).await?;
        newyork.wait_created(stopped, secs(20)).await?;
        tokio::time::sleep(secs(10).saturating_sub(stopped.elapsed())).await;
        ensure!(world.facts("sheffield")? == before);
        let woken = Instant::now();
        sheffield.daemon.resume(&sheffield.cluster).await?;
        sheffield.wait_gone(secs(20)).await?;
        let recreated = sheffield.state().deployment_created_since(woken);
        ensure!(recreated.is_none(), "it wrote the payload after waking");
        ensure!(world.one_active(secs(10)).await? == "newyork");
        Ok(())
    });
}

#[test]
fn a_leader_without_its_api_server_goes_on_and_recovers() {
    e2e("a_leader_without_its_api_server_goes_on_and_recovers", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        let down = Instant::now();
        sheffield.cluster.stop_api_server().await?;
        tokio::time::sleep(secs(20).saturating_sub(down.elapsed())).await;
        ensure!(!payload_since(&newyork.state(), down), "newyork started the payload");
        let (code, body) =
            http_get(sheffield.daemon.health_address(&sheffield.cluster), "/leader/federation").await?;
        ensure!(code == 200, "without its API server it no longer says that it leads: {code} {body}");
        sheffield.cluster.start_api_server().await?;
        sheffield.wait_leading(MINUTE).await?;
        let told = |state: &clusters::watch::State| {
            state.status("sheffield", "history").to_string().contains("ApiUnreachable")
        };
        sheffield.watch.wait("it says that its API server was away", MINUTE, told).await?;
        world.nothing_moves("sheffield", &before, secs(5)).await?;
        let edit = json!({"spec": {"rank": 11}});
        world.patch(sheffield, edit).await?;
        world.condition("sheffield", "Ready", "True", "").await
    });
}

#[test]
fn three_of_equal_rank_have_one_leader_and_survive_two_kills() {
    e2e("three_of_equal_rank_have_one_leader_and_survive_two_kills", three_of_equal_rank(), async |world| {
        world.expect(Expect::Overlap(UNATTENDED));
        let first = newyork_leads_all_three(world).await?;
        let before = world.facts("newyork")?;
        world.nothing_moves("newyork", &before, secs(6)).await?;
        // Killed together with one more: the last one leads.
        let sheffield = world.member("sheffield");
        first.kill().await?;
        sheffield.kill().await?;
        world.member("denver").wait_leading(MINUTE).await?;
        Ok(())
    });
}

#[test]
fn of_equal_rank_the_smaller_name_wins_the_election() {
    e2e("of_equal_rank_the_smaller_name_wins_the_election", three_of_equal_rank(), async |world| {
        world.expect(Expect::Overlap(UNATTENDED));
        let first = newyork_leads_all_three(world).await?;
        first.kill().await?;
        world.member("denver").wait_leading(MINUTE).await?;
        ensure!(
            !world.member("sheffield").state().present(),
            "sheffield has the same rank and a larger name"
        );
        Ok(())
    });
}
