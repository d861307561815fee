//! What an operator does with the lead, by the command line, on real control planes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flagship_e2e::{Expect, World, e2e};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs a verb on both clusters, and shows what it says.
fn flagship(world: &World, args: &[&str]) -> Result<String> {
    let kubeconfig = world.kubeconfig().display().to_string();
    let clusters = ["--kubeconfig", &kubeconfig, "--context", "newyork", "--context", "sheffield"];
    eprintln!("$ flagship {}", args.join(" "));
    let said = world.fleet.flagship.run(&[args, &clusters[..]].concat());
    match &said {
        Ok(said) => eprintln!("{said}"),
        Err(error) => eprintln!("{error:#}"),
    }
    said
}

/// A verb that has to be refused with this.
fn refused(world: &World, args: &[&str], because: &str) -> Result<()> {
    match flagship(world, args) {
        Ok(said) => bail!("{args:?} was not refused: {said}"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains(because), "{because:?} is not in: {said}");
            Ok(())
        }
    }
}

fn term(world: &World, member: &str) -> Result<i64> {
    world.member(member).state().status(member, "term").as_i64().context("a term")
}

/// Since when the payload is in one cluster only: the last pods of the other go a moment after their Deployment.
async fn once_apart(world: &World) -> Result<Instant> {
    let deadline = Instant::now() + MINUTE;
    loop {
        let since = Instant::now();
        tokio::time::sleep(Duration::from_millis(200)).await;
        match world.no_overlap(since) {
            Ok(()) => return Ok(since),
            Err(error) => ensure!(Instant::now() < deadline, "{error:#}"),
        }
    }
}

#[test]
fn a_switchover_moves_the_lead_to_the_named_member_and_it_stays_there() {
    e2e("a_switchover_moves_the_lead_to_the_named_member_and_it_stays_there", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        world.condition("newyork", "Ready", "True", "").await?;
        let before = world.facts("sheffield")?;
        let dry = flagship(world, &["switchover", "--to", "newyork", "--dry-run"])?;
        ensure!(dry.contains("newyork is fit") && dry.contains("Nothing was changed"), "{dry}");
        refused(world, &["switchover", "--to", "denver"], "no member of this fleet is called denver")?;
        refused(world, &["switchover", "--to", "sheffield"], "sheffield leads already")?;
        world.nothing_moves("sheffield", &before, secs(3)).await?;
        let asked = Instant::now();
        let said = flagship(world, &["switchover", "--to", "newyork", "--reason", "maintenance"])?;
        ensure!(said.contains("newyork is ready") && said.contains("(Switchover)"), "{said}");
        newyork.wait_leading(MINUTE).await?;
        sheffield.wait_gone(MINUTE).await?;
        world.no_overlap(asked)?;
        // sheffield has the higher rank, and its failback delay is 1 s.
        let moved = world.facts("newyork")?;
        sheffield.kill().await?;
        sheffield.start_again().await?;
        world.nothing_moves("newyork", &moved, secs(12)).await?;
        newyork.kill().await?;
        newyork.start_again().await?;
        world.nothing_moves("newyork", &moved, secs(15)).await?;
        let history: Value = serde_json::from_str(&flagship(world, &["history", "--leads", "-o", "json"])?)?;
        let entries = history.as_array().context("a list")?;
        let lead =
            entries.iter().rev().find(|entry| entry["reason"] == "Switchover").context("a switchover")?;
        let phase = |name: &str| lead["phases"][name].as_i64();
        ensure!(
            phase("predecessorStoppedMs").is_some()
                && phase("electedMs") <= phase("payloadCreatedMs")
                && phase("payloadCreatedMs") <= phase("payloadReadyMs")
                && phase("payloadReadyMs").is_some(),
            "{lead}"
        );
        flagship(world, &["history", "--leads"])?;
        flagship(world, &["explain"])?;
        world.event(sheffield, "maintenance").await
    });
}

#[test]
fn a_pause_survives_restarts_and_holds_a_failover_back_until_it_is_ended() {
    e2e(
        "a_pause_survives_restarts_and_holds_a_failover_back_until_it_is_ended",
        World::two(),
        async |world| {
            let (newyork, sheffield) = world.settle().await?;
            let tls = world.fleet.tls_dir.display().to_string();
            world.condition("newyork", "Ready", "True", "").await?;
            flagship(world, &["check", "--tls-dir", &tls])?;
            let said = flagship(world, &["pause", "--reason", "network work"])?;
            ensure!(said.contains("stored by sheffield, newyork"), "{said}");
            for name in ["newyork", "sheffield"] {
                world.condition(name, "Paused", "True", "network work").await?;
            }
            let before = world.facts("sheffield")?;
            for member in [newyork, sheffield] {
                member.kill().await?;
            }
            for member in [newyork, sheffield] {
                member.start_again().await?;
            }
            world.nothing_moves("sheffield", &before, secs(12)).await?;
            let status = flagship(world, &["status"])?;
            ensure!(status.contains("PAUSED by an operator") && status.contains("network work"), "{status}");
            let tls = world.fleet.tls_dir.display().to_string();
            ensure!(flagship(world, &["check", "--tls-dir", &tls]).is_err(), "nobody would take over");
            // The failover that does not happen, and then does; what the killed daemon left runs on.
            world.expect(Expect::Overlap("the payload of a killed daemon runs on"));
            sheffield.kill().await?;
            world
                .condition("newyork", "Leading", "False", "nobody takes the lead before flagship resume")
                .await?;
            world.nothing_moves("sheffield", &before, secs(10)).await?;
            refused(world, &["pause", "--reason", "more"], "nobody leads")?;
            let said = flagship(world, &["resume"])?;
            ensure!(said.contains("newyork leads"), "{said}");
            newyork.wait_leading(MINUTE).await?;
            sheffield.start_again().await?;
            sheffield.wait_gone(MINUTE).await?;
            // Rank decides again.
            let back = once_apart(world).await?;
            sheffield.wait_leading(MINUTE).await?;
            newyork.wait_gone(MINUTE).await?;
            world.no_overlap(back)?;
            world.event(newyork, "not paused any more").await
        },
    );
}

#[test]
fn a_lead_is_forced_only_above_the_highest_term_and_with_everybody_named() {
    e2e(
        "a_lead_is_forced_only_above_the_highest_term_and_with_everybody_named",
        World::two(),
        async |world| {
            world.expect(Expect::Overlap("the operator says that it is stopped, and it is not"));
            let (newyork, sheffield) = world.settle().await?;
            flagship(world, &["pause", "--reason", "drill"])?;
            let known = term(world, "sheffield")?;
            let force = |above: i64, stopped: &str| -> Vec<String> {
                let above = above.to_string();
                let args =
                    ["fleet", "force-lead", "--to", "newyork", "--reason", "drill", "--above-term", &above];
                let stopped = match stopped {
                    "" => "--i-have-stopped".to_owned(),
                    stopped => format!("--i-have-stopped={stopped}"),
                };
                args.iter().map(ToString::to_string).chain([stopped]).collect()
            };
            let refused_force = |above, stopped: &str, because: &str| {
                let args = force(above, stopped);
                refused(world, &args.iter().map(String::as_str).collect::<Vec<_>>(), because)
            };
            refused_force(known, "sheffield", "is not stopped")?;
            let before = world.facts("sheffield")?;
            sheffield.kill().await?;
            world
                .condition("newyork", "Leading", "False", "nobody takes the lead before flagship resume")
                .await?;
            refused_force(known - 1, "sheffield", "is not the highest")?;
            refused_force(known, "", "cannot see them: sheffield")?;
            world.nothing_moves("sheffield", &before, secs(2)).await?;
            let args = force(known, "sheffield");
            let said = flagship(world, &args.iter().map(String::as_str).collect::<Vec<_>>())?;
            // Its payload was not stopped, whatever the operator says: that much can be seen.
            ensure!(said.contains("the payload runs twice from now on"), "{said}");
            newyork.wait_leading(MINUTE).await?;
            ensure!(term(world, "newyork")? > known, "a new term");
            world.event(newyork, "by his word: sheffield").await?;
            // Who had led finds itself superseded, and the pause keeps the lead where it is.
            sheffield.start_again().await?;
            sheffield.wait_gone(MINUTE).await?;
            ensure!(world.one_active(MINUTE).await? == "newyork");
            Ok(())
        },
    );
}

#[test]
fn a_suspended_object_is_left_alone_and_one_that_is_no_candidate_hands_over() {
    e2e(
        "a_suspended_object_is_left_alone_and_one_that_is_no_candidate_hands_over",
        World::two(),
        async |world| {
            let (newyork, sheffield) = world.settle().await?;
            world.condition("newyork", "Ready", "True", "").await?;
            world.patch(sheffield, json!({"spec": {"suspend": true}})).await?;
            world.condition("sheffield", "Ready", "True", "left as it is").await?;
            let before = world.facts("sheffield")?;
            // Rank does not move it, and an edited payload is not applied.
            world.patch(newyork, json!({"spec": {"rank": 99}})).await?;
            let more = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: more\n";
            let payload = sheffield.state();
            ensure!(payload.present());
            world.patch(sheffield, json!({"spec": {"payload": more}})).await?;
            refused(world, &["switchover"], "spec.suspend")?;
            world.nothing_moves("sheffield", &before, secs(8)).await?;
            ensure!(world.get(sheffield, "v1", "ConfigMap", "more").await?.is_none(), "it was applied");
            let resumed = Instant::now();
            world.patch(sheffield, json!({"spec": {"suspend": false, "candidate": false}})).await?;
            newyork.wait_leading(MINUTE).await?;
            world.no_overlap(resumed)?;
            Ok(())
        },
    );
}
