//! Mode Quorum on real control planes: no process leaves a payload running that nobody renews the lease for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Layout, Member, two_members};
use clusters::witness::WitnessPlan;
use flagship_e2e::{World, e2e};

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
