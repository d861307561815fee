//! `spec.apply.deletionPolicy: Orphan`: an object goes and its payload stays, but never beside another one.

use std::time::Duration;

use anyhow::{Result, ensure};
use clusters::fleet::{Plan, leads};
use flagship_e2e::{World, e2e};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

/// newyork leads, sheffield stands by.
fn plans() -> Result<Vec<Plan>> {
    let mut plans = World::two()?;
    plans[1].set("rank", json!(1));
    Ok(plans)
}

#[test]
fn a_payload_stays_behind_when_the_last_member_goes_and_is_taken_over_again() {
    let name = "a_payload_stays_behind_when_the_last_member_goes_and_is_taken_over_again";
    e2e(name, plans(), async |world| {
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        sheffield.apply().await?;
        sheffield
            .watch
            .wait("sheffield follows", MINUTE, |s| s.status("sheffield", "leader") == "newyork")
            .await?;
        let before = world.facts("newyork")?;

        world.patch(newyork, json!({"spec": {"apply": {"deletionPolicy": "Orphan"}}})).await?;
        newyork.request_deletion().await?;
        world
            .condition("newyork", "Stalled", "True", "sheffield could run the payload a second time")
            .await?;
        world.nothing_moves("newyork", &before, Duration::from_secs(6)).await?;
        ensure!(leads(&newyork.state(), "newyork"), "it leads for as long as it may not go");

        // The other one goes, and with it what was in the way.
        sheffield.delete().await?;
        newyork.watch.wait("newyork is removed", MINUTE, |state| state.members.is_empty()).await?;
        world.nothing_moves("newyork", &before, Duration::from_secs(3)).await?;

        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        world.nothing_moves("newyork", &before, Duration::from_secs(6)).await?;
        newyork.delete().await?;
        newyork.wait_gone(MINUTE).await.map(drop)
    });
}
