//! Networks that are really cut: nothing answers, nothing is refused.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flagship_e2e::{Expect, World, e2e};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The heal itself may take 5 s; deleting three kwok pods and their owners takes up to 2 s on a busy machine.
const HEAL_LIMIT: Duration = Duration::from_secs(7);

async fn cut_for(world: &World, length: Duration) -> Result<()> {
    world.expect(Expect::Overlap("in Availability each part has a leader"));
    let (newyork, sheffield) = world.settle().await?;
    let cut = world.fleet.cut_off("sheffield").await?;
    let created = newyork.wait_created(cut, secs(20)).await?;
    ensure!(created - cut <= secs(9), "replaced after {:?}", created - cut);
    tokio::time::sleep(length.saturating_sub(cut.elapsed())).await;
    ensure!(sheffield.cluster.dropped_packets().await? > 0, "the cut really dropped packets");
    let healed = world.fleet.heal().await?;
    world.one_active(HEAL_LIMIT).await?;
    eprintln!(
        "cut of {length:?}: payload created after {:?}, healed after {:?}",
        created - cut,
        healed.elapsed()
    );
    let active = world.one_active(secs(60)).await?;
    let alone = world.alone(secs(5)).await?;
    let facts = world.facts(&active)?;
    world.nothing_moves(&active, &facts, secs(6)).await?;
    world.no_overlap(alone)
}

#[test]
fn a_silent_cut_of_10_s_is_survived_and_healed() {
    e2e("a_silent_cut_of_10_s_is_survived_and_healed", World::two(), async |world| {
        cut_for(world, secs(10)).await
    });
}

#[test]
fn a_silent_cut_of_30_s_is_survived_and_healed() {
    e2e("a_silent_cut_of_30_s_is_survived_and_healed", World::two(), async |world| {
        cut_for(world, secs(30)).await
    });
}

#[test]
fn a_silent_cut_of_60_s_is_survived_and_healed() {
    e2e("a_silent_cut_of_60_s_is_survived_and_healed", World::two(), async |world| {
        cut_for(world, secs(60)).await
    });
}

async fn cut_one_direction(world: &World, from: &str, to: &str) -> Result<()> {
    world.expect(Expect::Either("half a path may pass for none at all"));
    let (newyork, sheffield) = world.settle().await?;
    let cut = world.fleet.cut_one_way(from, to).await?;
    tokio::time::sleep(secs(20)).await;
    // TCP cannot live on half a path, so this may look like a full cut; but it must not flap.
    let creations = |since: Instant| {
        let count = |member: &clusters::fleet::Member| {
            let state = member.state();
            let came = |s: &&clusters::watch::Sighting| {
                s.came && s.at >= since && s.kind == clusters::watch::Kind::Deployment
            };
            state.sightings.iter().filter(came).count()
        };
        count(newyork) + count(sheffield)
    };
    ensure!(creations(cut) <= 1, "{} Deployments were created during the cut", creations(cut));
    for member in [newyork, sheffield] {
        ensure!(member.daemon.is_running(&member.cluster).await?, "{} crashed", member.name());
    }
    world.fleet.heal().await?;
    let active = world.one_active(secs(30)).await?;
    let facts = world.facts(&active)?;
    world.nothing_moves(&active, &facts, secs(6)).await
}

#[test]
fn a_cut_of_the_leaders_voice_does_not_flap() {
    e2e("a_cut_of_the_leaders_voice_does_not_flap", World::two(), async |world| {
        cut_one_direction(world, "sheffield", "newyork").await
    });
}

#[test]
fn a_cut_of_the_leaders_ears_does_not_flap() {
    e2e("a_cut_of_the_leaders_ears_does_not_flap", World::two(), async |world| {
        cut_one_direction(world, "newyork", "sheffield").await
    });
}

#[test]
fn a_flapping_link_does_not_move_the_payload_at_every_flap() {
    e2e("a_flapping_link_does_not_move_the_payload_at_every_flap", World::two(), async |world| {
        world.expect(Expect::Either("a flap may be too short to be found out"));
        let (newyork, _) = world.settle().await?;
        let began = Instant::now();
        for _ in 0..10 {
            world.fleet.cut_off("sheffield").await?;
            tokio::time::sleep(secs(6)).await;
            world.fleet.heal().await?;
            tokio::time::sleep(secs(6)).await;
        }
        let state = newyork.state();
        let came = |s: &&clusters::watch::Sighting| {
            s.came && s.kind == clusters::watch::Kind::Deployment && s.at >= began
        };
        let moves = state.sightings.iter().filter(came).count();
        ensure!(moves <= 4, "the payload was started {moves} times at newyork in 10 flaps");
        eprintln!("10 flaps of 6 s started the payload {moves} times at newyork");
        world.one_active(secs(60)).await.map(drop)
    });
}
