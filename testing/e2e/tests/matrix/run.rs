//! One row: from a fleet at rest, through a fault, to a fleet at rest.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::fleet::{Member, leads, payload_ready};
use clusters::watch::State;
use flagship_e2e::auditor::{Report, Verdict};
use flagship_e2e::{World, http_get};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::Value;

use crate::document::Row;
use crate::fault::Fault;
use crate::{Kind, best_two};

/// Everything is over by then, on a loaded machine, too.
const SETTLE: Duration = Duration::from_secs(120);
/// How often is asked who leads.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A daemon that runs answers at once.
const ANSWER: Duration = Duration::from_secs(1);
/// After the longest time in which somebody else may take over: who has not by then will not.
const BEYOND: Duration = Duration::from_secs(2);

/// What came of a fault.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Who said that it leads at the end of the fault.
    leads: String,
    /// Whether the leader is in the term from before, when all is over.
    term: &'static str,
    /// What became of the payload, when all is over.
    payload: &'static str,
    audit: Report,
    /// From the fault to the payload created elsewhere.
    takeover: Option<Duration>,
    /// `status.worstCaseFailoverSeconds` before the fault.
    worst: Duration,
}

impl Outcome {
    /// What no row may show.
    pub(crate) fn wrong(&self, kind: Kind, fault: Fault) -> Vec<String> {
        let mut wrong = Vec::new();
        if kind.quorum() && !fault.leaves_the_payload_alone() && self.audit.anything != Verdict::Never {
            wrong.push(format!("{fault:?}: two clusters had the payload in mode Quorum: {}", self.audit));
        }
        if let Some(takeover) =
            self.takeover.filter(|takeover| fault.lasts().is_none() && *takeover > self.worst)
        {
            wrong.push(format!("{fault:?}: replaced after {takeover:?}, announced were {:?}", self.worst));
        }
        wrong
    }

    pub(crate) fn row(&self, kind: Kind, fault: Fault) -> Row {
        let yes = |verdict| match verdict {
            Verdict::Never => "no",
            Verdict::For(_) => "**yes**",
            Verdict::Unknown(_) => "unknown",
        };
        let time = |verdict| match verdict {
            Verdict::Never => "0".to_owned(),
            Verdict::For(time) => seconds(time),
            Verdict::Unknown(time) => format!("≤ {}", seconds(time)),
        };
        let outcome = vec![
            fault.title(kind).to_owned(),
            self.leads.clone(),
            self.term.to_owned(),
            self.payload.to_owned(),
            yes(self.audit.objects).to_owned(),
            yes(self.audit.pods).to_owned(),
        ];
        let times = vec![
            self.takeover.map_or("–".to_owned(), seconds),
            format!("{}", self.worst.as_secs()),
            seconds(self.audit.nobody),
            time(self.audit.anything),
        ];
        Row { outcome, times }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// Applies all objects and waits until the best one leads.
pub(crate) async fn found(world: &World, kind: Kind) -> Result<()> {
    let (founder, others) = world.fleet.members.split_first().context("a fleet without members")?;
    founder.apply().await?;
    for member in others {
        member.apply().await?;
    }
    at_rest(world, kind).await.context("the fleet is not founded")
}

/// One fault, from a fleet at rest to a fleet at rest.
pub(crate) async fn row(world: &World, kind: Kind, fault: Fault) -> Result<Outcome> {
    at_rest(world, kind).await.context("before the fault")?;
    let (leader, _) = best_two(world);
    second_is_seen(world.member(leader)).await?;
    let before = world.facts(leader)?;
    let term = of_status(world, leader, "term");
    let holder = of_status(world, leader, "holder");
    let worst =
        worst_case(world.member(leader), if fault.is_announced() { "announcedRestart" } else { "crash" })?;
    let dropped = world.fleet.dropped_packets().await?;
    let at = fault.strike(world).await?;
    last(world, fault, at, worst).await?;
    let said = if fault.lasts() == Some(Duration::ZERO) {
        let now = one_leads(world).await?;
        // The lead may be back already.
        let meanwhile = world.fleet.members.iter().find(|member| created_since(member, at, leader).is_some());
        vec![meanwhile.map_or(now, |member| member.name().to_owned())]
    } else {
        who_leads(world).await
    };
    if fault.drops_packets() {
        ensure!(world.fleet.dropped_packets().await? > dropped, "no packet was dropped: it was no fault");
    }
    fault.mend(world).await?;
    at_rest(world, kind).await.context("after the fault")?;
    ensure!(
        !fault.changes_the_replica() || holder != of_status(world, leader, "holder"),
        "{holder} acts as before: it was not the active replica"
    );
    let takeover = created_elsewhere(world, leader, at).map(|created| created - at);
    let is_chance = fault.is_a_race(kind);
    let payload = match takeover {
        _ if is_chance => "either",
        Some(_) => "moved",
        None if world.facts(leader).is_ok_and(|facts| facts == before) => "untouched",
        None => "stopped, and started again",
    };
    let outcome = Outcome {
        leads: if is_chance { "either".to_owned() } else { in_words(world, &said) },
        term: match term == of_status(world, leader, "term") {
            _ if is_chance => "either",
            true => "the same",
            false => "a new one",
        },
        payload,
        audit: world.audit(at),
        takeover,
        worst,
    };
    if kind == Kind::Two && takeover.is_some() {
        forget(world, kind).await?;
    }
    Ok(outcome)
}

/// Lets the fault last, until somebody else leads, or nobody will.
async fn last(world: &World, fault: Fault, at: Instant, worst: Duration) -> Result<()> {
    let (leader, _) = best_two(world);
    if let Some(length) = fault.lasts() {
        tokio::time::sleep(length.saturating_sub(at.elapsed())).await;
        return Ok(());
    }
    while at.elapsed() < worst + BEYOND {
        let taken_over = |member: &Member| {
            let state = member.state();
            state.deployment_created_since(at).is_some()
                && leads(&state, member.name())
                && payload_ready(&state)
        };
        if world.fleet.members.iter().any(|member| member.name() != leader && taken_over(member)) {
            return Ok(());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// The members whose daemon says that it leads, now.
async fn who_leads(world: &World) -> Vec<String> {
    let mut leaders = Vec::new();
    for member in &world.fleet.members {
        let path = format!("/leader/{}", clusters::fleet::CALLSIGN);
        for daemon in member.daemons() {
            let address = daemon.health_address(&member.cluster);
            if let Ok(Ok((200, _))) = tokio::time::timeout(ANSWER, http_get(address, &path)).await {
                leaders.push(member.name().to_owned());
            }
        }
    }
    leaders
}

fn in_words(world: &World, leaders: &[String]) -> String {
    let (leader, standby) = best_two(world);
    match leaders {
        [] => "nobody".to_owned(),
        [one] if one == leader => "the same".to_owned(),
        [one] if one == standby => "the standby".to_owned(),
        [_, _] if leaders.contains(&leader.to_owned()) && leaders.contains(&standby.to_owned()) => {
            "both".to_owned()
        }
        others => others.join(", "),
    }
}

fn created_elsewhere(world: &World, leader: &str, since: Instant) -> Option<Instant> {
    world.fleet.members.iter().filter_map(|member| created_since(member, since, leader)).min()
}

fn created_since(member: &Member, since: Instant, leader: &str) -> Option<Instant> {
    (member.name() != leader).then(|| member.state().deployment_created_since(since)).flatten()
}

fn of_status(world: &World, leader: &str, field: &str) -> Value {
    world.member(leader).state().status(leader, field).clone()
}

fn worst_case(leader: &Member, of: &str) -> Result<Duration> {
    let seconds = leader.state().status(leader.name(), "worstCaseFailoverSeconds")[of].as_u64();
    Ok(Duration::from_secs(seconds.context("the leader does not say how long a failover may take")?))
}

/// Waits until the best member leads, has the only payload, all are Ready, and the leader hears everybody.
async fn at_rest(world: &World, kind: Kind) -> Result<()> {
    let (leader, _) = best_two(world);
    let deadline = Instant::now() + SETTLE;
    loop {
        let unrest = unrest(world, kind, leader);
        if unrest.is_empty() && who_leads(world).await == [leader] {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not at rest after {SETTLE:?}: {}", unrest.join("; "));
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What is not as it is when all is well.
fn unrest(world: &World, kind: Kind, leader: &str) -> Vec<String> {
    let mut unrest = Vec::new();
    let everybody = world.fleet.members.len() + usize::from(world.fleet.witness.is_some());
    for member in &world.fleet.members {
        let (name, state) = (member.name(), member.state());
        let mut note = |well: bool, what: String| {
            if !well {
                unrest.push(format!("{name}: {what}"));
            }
        };
        let has = if name == leader { payload_ready(&state) } else { !state.present() };
        note(has, format!("payload {} {:?}", state.present(), state.pods()));
        note(leads(&state, name) == (name == leader), "leading".to_owned());
        let says = state.status(name, "leader");
        note(*says == leader, format!("leader {says}"));
        note(
            *state.status(name, "ready") == Value::Bool(true),
            format!("conditions {}", state.status(name, "conditions")),
        );
        let alive = state.status(name, "memberCounts")["alive"].as_u64();
        note(alive == Some(everybody as u64), format!("{alive:?} of {everybody} alive"));
        if name == leader {
            note(worst_case(member, "crash").is_ok(), "no worstCaseFailoverSeconds".to_owned());
            let protected = condition(&state, name, "SplitBrainProtected");
            let is =
                [&protected["status"], &protected["reason"]].map(|value| value.as_str().unwrap_or_default());
            note(is == kind.protected(), format!("SplitBrainProtected {protected}"));
        }
    }
    unrest
}

fn condition(state: &State, member: &str, kind: &str) -> Value {
    let all = state.status(member, "conditions").as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// Waits until exactly one daemon says that it leads, and its payload is ready.
pub(crate) async fn one_leads(world: &World) -> Result<String> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let leaders = who_leads(world).await;
        if let [one] = leaders.as_slice()
            && payload_ready(&world.member(one).state())
            && world.auditor.clusters_with_payload() == 1
        {
            return Ok(one.clone());
        }
        ensure!(Instant::now() < deadline, "leading after {SETTLE:?}: {leaders:?}");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Waits until the active replica of a member must have seen that another one waits, as `minReadySeconds` does in a
/// cluster. What the status says of that may be from the replica before.
pub(crate) async fn second_is_seen(member: &Member) -> Result<()> {
    if member.more.is_empty() {
        return Ok(());
    }
    let leases: Api<Lease> =
        Api::namespaced(member.cluster.client().await?, member.cluster.lease_namespace());
    let name = format!("second.flagship.default.{}", member.name());
    let deadline = Instant::now() + SETTLE;
    let mut seen = BTreeSet::new();
    // It looks as often as the other one renews, and believes what it has seen to change.
    while seen.len() < 4 {
        ensure!(Instant::now() < deadline, "no second replica of {} waits", member.name());
        let lease = leases.get_opt(&name).await.context("read the second replica's Lease")?;
        let waits = lease.filter(|lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            let is_active = |holder: &str| *member.state().status(member.name(), "holder") == holder;
            holder.is_some_and(|holder| !holder.is_empty() && !is_active(holder))
        });
        seen.extend(waits.and_then(|lease| lease.metadata.resource_version));
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Waits until every member hears everybody.
pub(crate) async fn all_heard(world: &World) -> Result<()> {
    let everybody = world.fleet.members.len() + usize::from(world.fleet.witness.is_some());
    for member in &world.fleet.members {
        let name = member.name().to_owned();
        let hears = |state: &State| {
            state.status(&name, "memberCounts")["alive"].as_u64() == Some(everybody as u64)
                && state.status(&name, "ready") == &Value::Bool(true)
        };
        member.watch.wait(&format!("{name} hears everybody"), SETTLE, hears).await?;
    }
    Ok(())
}

/// A fleet that healed two leaders is more careful for ten minutes, in the memory of its processes: they start anew, so
/// that each row begins alike.
async fn forget(world: &World, kind: Kind) -> Result<()> {
    Fault::AllKilled.strike(world).await?;
    at_rest(world, kind).await.context("after starting anew")
}

/// Ends whatever was going on when a row failed.
pub(crate) async fn mend_everything(world: &World, kind: Kind) -> Result<()> {
    world.fleet.heal().await?;
    for member in &world.fleet.members {
        if !member.cluster.is_ready().await {
            member.cluster.start_api_server().await?;
        }
        // Killing continues a stopped one, too; one that has ended already is as good.
        let _ = member.kill().await;
        member.start_again().await?;
    }
    if let Some(witness) = &world.fleet.witness {
        let _ = witness.kill().await;
        witness.start_again().await?;
    }
    at_rest(world, kind).await
}
