//! Two builds in one fleet: the previous commit's daemon and this one's. An update from one to the other, and the way
//! back, is a restart like any other: nothing moves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::daemon::Flagship;
use clusters::fleet::Member;
use clusters::watch::State;
use flagship_e2e::{Expect, Facts, World, e2e_from_previous, http_get};
use kube::ResourceExt;
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the restart grace: whoever had been given up for the restart would have been replaced by then.
const STEADY: Duration = Duration::from_secs(8);
/// How long daemons may take to find each other again: a link that was lost is tried again within seconds.
const LINK_LIMIT: Duration = Duration::from_secs(20);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What an update must leave as it is.
#[derive(Debug, PartialEq, Eq)]
struct Reign {
    /// The payload at sheffield, which leads.
    payload: Facts,
    /// Leader and terms as each member has them in its status.
    said: Vec<[Value; 3]>,
}

impl Reign {
    fn of(world: &World) -> Result<Self> {
        let said = |member: &Member| {
            let state = member.state();
            ["leader", "term", "heldTerm"].map(|field| state.status(member.name(), field).clone())
        };
        Ok(Self { payload: world.facts("sheffield")?, said: world.fleet.members.iter().map(said).collect() })
    }

    /// Nobody led but sheffield, in one term, and nothing of the payload came or went anywhere since that time.
    fn unbroken(&self, world: &World, since: Instant, when: &str) -> Result<()> {
        let now = Self::of(world)?;
        ensure!(now == *self, "{when}: was {self:#?}, is {now:#?}");
        for member in &world.fleet.members {
            let state = member.state();
            let moved: Vec<_> = state.sightings.iter().filter(|sighting| sighting.at >= since).collect();
            ensure!(moved.is_empty(), "{when}: at {} came or went {moved:#?}", member.name());
        }
        Ok(())
    }
}

/// sheffield leads, both run this build, and their statuses say all that there is to say.
async fn settle<'a>(world: &'a World, flagship: &Flagship) -> Result<(&'a Member, &'a Member)> {
    let members = world.settle().await?;
    linked(world).await?;
    for member in &world.fleet.members {
        ensure_runs(member, flagship).await?;
        world.condition(member.name(), "Ready", "True", "").await?;
        let follows = |state: &State| state.status(member.name(), "leader") == "sheffield";
        member.watch.wait("its status names the leader", MINUTE, follows).await?;
    }
    Ok(members)
}

/// Which build a member runs, of the two.
async fn ensure_runs(member: &Member, flagship: &Flagship) -> Result<()> {
    let pid = member.daemon.pid(&member.cluster).await?;
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).context("which program runs")?;
    ensure!(runs == flagship.path(), "{} runs {}", member.name(), runs.display());
    Ok(())
}

/// Waits until both say that the link between them is up. What a daemon says of it dies with the daemon.
async fn linked(world: &World) -> Result<()> {
    let deadline = Instant::now() + LINK_LIMIT;
    for member in &world.fleet.members {
        while !says_linked(member).await.unwrap_or(false) {
            ensure!(Instant::now() < deadline, "{} has no link", member.name());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn says_linked(member: &Member) -> Result<bool> {
    let (_, page) = http_get(member.daemon.metrics_address(&member.cluster), "/metrics").await?;
    let up = |line: &str| line.starts_with("flagship_link_up{") && line.ends_with(" 1");
    Ok(page.lines().any(up))
}

/// Ends a member's daemon as a rolling update does, and starts the other build's in its place.
async fn replace(world: &World, member: &Member, with: &Flagship) -> Result<()> {
    let ended = member.daemon.terminate(&member.cluster, secs(15)).await?;
    ensure!(ended.ends_with("status 0"), "{} ended with {ended}", member.name());
    member.daemon.start_again_as(&member.cluster, with).await?;
    ensure_runs(member, with).await?;
    linked(world).await?;
    // That nothing happens can only be seen by waiting.
    tokio::time::sleep(STEADY).await;
    Ok(())
}

/// Replaces one after the other, and finds after each that nothing has moved.
async fn roll(world: &World, order: [&Member; 2], to: &Flagship, what: &str) -> Result<()> {
    let (since, before) = (Instant::now(), Reign::of(world)?);
    for member in order {
        replace(world, member, to).await?;
        before.unbroken(world, since, &format!("{what}, {}", member.name()))?;
    }
    Ok(())
}

/// What of a member's object must outlive an update of its CRD.
async fn remembered(world: &World, member: &Member) -> Result<[Value; 5]> {
    let found = world.get(member, "kube-vip.io/v1alpha1", "MultiCluster", member.name()).await?;
    let object = found.with_context(|| format!("{} has lost its object", member.name()))?;
    let status = |field: &str| object.data["status"][field].clone();
    let spec = object.data["spec"].clone();
    let payload = status("inventory")[0]["uid"].clone();
    Ok([object.uid().into(), spec, status("heldTerm"), status("leader"), payload])
}

#[test]
fn a_rolling_update_in_either_order_moves_nothing_and_neither_does_the_way_back() {
    let name = "a_rolling_update_in_either_order_moves_nothing_and_neither_does_the_way_back";
    e2e_from_previous(name, World::two(), async |world| {
        let (previous, new) = (&world.fleet.flagship, &Flagship::find()?);
        let (newyork, sheffield) = settle(world, previous).await?;
        let (since, before) = (Instant::now(), Reign::of(world)?);
        for member in [newyork, sheffield] {
            let had = remembered(world, member).await?;
            member.cluster.update(new.deploy()).await?;
            let has = remembered(world, member).await?;
            ensure!(has == had, "{}: the new manifests changed {had:#?} to {has:#?}", member.name());
        }
        tokio::time::sleep(STEADY).await;
        before.unbroken(world, since, "the new manifests under the old daemons")?;

        roll(world, [newyork, sheffield], new, "update, the standby first").await?;
        roll(world, [sheffield, newyork], previous, "the way back, the leader first").await?;
        roll(world, [sheffield, newyork], new, "update, the leader first").await?;
        before.unbroken(world, since, "after all of it")?;
        ensure!(world.one_active(secs(10)).await? == "sheffield");
        world.condition("sheffield", "Ready", "True", "").await?;
        world.condition("newyork", "Ready", "True", "").await
    });
}

/// sheffield leads and is killed; newyork replaces it, and gives the lead back when sheffield has returned.
async fn fails_over_and_back(world: &World, leader: &Flagship, standby: &Flagship) -> Result<()> {
    world.expect(Expect::Overlap("the payload of a killed daemon runs on"));
    let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
    ensure_runs(sheffield, leader).await?;
    ensure_runs(newyork, standby).await?;
    let killed = Instant::now();
    sheffield.kill().await?;
    newyork.wait_created(killed, secs(20)).await?;
    newyork.wait_leading(MINUTE).await?;
    sheffield.daemon.start_again_as(&sheffield.cluster, leader).await?;
    sheffield.wait_gone(secs(30)).await?;
    let healed = world.alone(secs(5)).await?;
    sheffield.wait_leading(MINUTE).await?;
    newyork.wait_gone(MINUTE).await?;
    world.no_overlap(healed).context("the way back")?;
    ensure!(world.one_active(secs(10)).await? == "sheffield");
    linked(world).await
}

#[test]
fn each_build_replaces_a_killed_leader_of_the_other_and_gives_the_lead_back() {
    let name = "each_build_replaces_a_killed_leader_of_the_other_and_gives_the_lead_back";
    e2e_from_previous(name, World::two(), async |world| {
        let (previous, new) = (&world.fleet.flagship, &Flagship::find()?);
        let (newyork, sheffield) = settle(world, previous).await?;
        // The manifests come first in an update: the new daemon may need what they allow.
        newyork.cluster.update(new.deploy()).await?;
        sheffield.cluster.update(new.deploy()).await?;
        replace(world, newyork, new).await?;
        fails_over_and_back(world, previous, new).await?;
        replace(world, sheffield, new).await?;
        replace(world, newyork, previous).await?;
        fails_over_and_back(world, new, previous).await
    });
}
