//! Repeats a failover many times, each with a new fleet of the same clusters, and a planned move of the lead many times
//! in one fleet, and prints the median and the worst.

mod switchover;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde_json::json;

use crate::daemon::Flagship;
use crate::demo::LOG_TAIL_LINES;
use crate::fleet::{Fleet, Layout, Member, Plan, three_members, two_members};
use crate::harness::Harness;
use crate::network::Mode;
use crate::scratch::Scratch;
use crate::story::Story;
use crate::watch::overlap;
use crate::witness::WitnessPlan;

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which failovers, and how many.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// How often each scenario is repeated.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only this scenario (may be repeated); without it, all of them.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
}

impl Arguments {
    /// Whether a scenario is among them that needs network namespaces: for a cut, or for a witness.
    #[must_use]
    pub fn needs_networks(&self) -> bool {
        self.scenarios().iter().any(|scenario| scenario.cuts() || *scenario == Scenario::SwitchoverQuorum)
    }

    fn scenarios(&self) -> Vec<Scenario> {
        if self.scenario.is_empty() { Scenario::value_variants().to_vec() } else { self.scenario.clone() }
    }
}

/// What befalls the leader, or moves the lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Its daemon is killed, with the default restartGrace of 3 s.
    Killed,
    /// Its daemon is killed, with restartGrace 0.
    KilledNoGrace,
    /// Its cluster is cut off without a sound, in a fleet of two.
    Cut,
    /// Its cluster is cut off without a sound, in a fleet of three.
    CutThree,
    /// The lead is moved by `flagship switchover`, there and back, in a fleet of two.
    Switchover,
    /// The same in mode Quorum, with a witness.
    SwitchoverQuorum,
}

impl Scenario {
    fn cuts(self) -> bool {
        matches!(self, Self::Cut | Self::CutThree)
    }

    fn moves(self) -> bool {
        matches!(self, Self::Switchover | Self::SwitchoverQuorum)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Killed => "leader's daemon killed, restartGrace 3 s",
            Self::KilledNoGrace => "leader's daemon killed, restartGrace 0",
            Self::Cut => "leader's cluster cut off, 2 members",
            Self::CutThree => "leader's cluster cut off, 3 members",
            Self::Switchover => "switchover, Availability, 2 members",
            Self::SwitchoverQuorum => "switchover, Quorum, 2 members and witness",
        }
    }

    /// The longest time that is good enough, for the worst run.
    fn target(self) -> Duration {
        Duration::from_millis(match self {
            Self::Killed => 4_000,
            Self::KilledNoGrace => 1_000,
            Self::Cut => 5_500,
            Self::CutThree => 2_500,
            Self::Switchover | Self::SwitchoverQuorum => return switchover::TARGET,
        })
    }

    fn layout(self) -> Result<Layout> {
        let layout = Layout::from(self.plans()?);
        if self != Self::SwitchoverQuorum {
            return Ok(layout);
        }
        Ok(Layout { witness: Some(WitnessPlan::new()), ..layout }.in_quorum())
    }

    fn plans(self) -> Result<Vec<Plan>> {
        let mut plans = if self == Self::CutThree { three_members()? } else { two_members()? };
        if self == Self::KilledNoGrace {
            for plan in &mut plans {
                plan.set("election", json!({"restartGrace": "0s"}));
            }
        }
        Ok(plans)
    }
}

/// One failover.
#[derive(Clone, Debug)]
struct Sample {
    /// From the fault to the Deployment created elsewhere.
    takeover: Duration,
    /// Both active, while the old cluster could not be reached or had no daemon.
    unreachable: Duration,
    /// From the end of the fault to exactly one payload.
    heal: Duration,
    /// Both active during the handovers before and after the fault, when all could be reached.
    overlap: Duration,
}

/// Runs the series. The worst run above its target is an error, at the end.
///
/// # Errors
/// If a fleet cannot be made or a failover does not happen.
pub async fn run(mode: Mode, arguments: Arguments) -> Result<()> {
    let scratch = Scratch::create()?;
    let harness = Harness::open(scratch.path(), mode)?;
    let flagship = Flagship::find()?;
    let story = Story::begin();
    let (mut failovers, mut moves) = (Vec::new(), Vec::new());
    for scenario in arguments.scenarios() {
        story.now("", &format!("{}: {} runs", scenario.title(), arguments.runs));
        let fleet = Fleet::start(&harness, &flagship, scenario.layout()?).await?;
        let with_logs = |error| anyhow!("{error:#}\n{}", fleet.log_tails(LOG_TAIL_LINES));
        if scenario.moves() {
            let done = switchover::series(&story, &harness, &fleet, arguments.runs).await;
            moves.push((scenario.title(), done.map_err(with_logs)?));
        } else {
            let samples = series(&story, &fleet, scenario, arguments.runs).await;
            failovers.push((scenario, samples.map_err(with_logs)?));
        }
        fleet.remove(&harness).await?;
    }
    harness.close_network()?;
    let mut late = if failovers.is_empty() { Vec::new() } else { print(&story, &failovers)? };
    if !moves.is_empty() {
        late.extend(switchover::print(&story, &moves)?);
    }
    ensure!(late.is_empty(), "above the target or with an overlap: {}", late.join("; "));
    Ok(())
}

async fn series(story: &Story, fleet: &Fleet, scenario: Scenario, runs: u32) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for number in 1..=runs {
        let sample = one(fleet, scenario).await.with_context(|| format!("run {number}"))?;
        story.now(
            "",
            &format!(
                "run {number:>3}: created elsewhere after {:.2} s; after the end of the fault one payload in {:.2} s; handover overlap {:.2} s",
                sample.takeover.as_secs_f64(),
                sample.heal.as_secs_f64(),
                sample.overlap.as_secs_f64()
            ),
        );
        samples.push(sample);
        start_over(fleet).await?;
    }
    Ok(samples)
}

/// Founds the fleet, lets the best member take the lead, breaks it, and mends it.
async fn one(fleet: &Fleet, scenario: Scenario) -> Result<Sample> {
    let began = Instant::now();
    let (founder, others) = fleet.members.split_first().context("a fleet without members")?;
    founder.apply().await?;
    founder.wait_leading(PATIENCE).await?;
    for member in others {
        member.apply().await?;
    }
    let leader = fleet.members.last().context("a fleet without members")?;
    leader.wait_leading(PATIENCE).await?;
    all_others_gone(fleet, leader).await?;
    // Rank order: of those that are left, the last before the leader is the best.
    let successor = &fleet.members[fleet.members.len() - 2];

    let before = handover_overlap(fleet, began);
    let fault = break_leader(fleet, leader, scenario).await?;
    let created = successor.wait_created(fault, PATIENCE).await?;
    successor.wait_leading(PATIENCE).await?;

    let mended = mend(fleet, leader, scenario).await?;
    let (heal, alone_at) = exactly_one(leader, successor, mended).await?;
    let unreachable = overlap(&leader.state(), &successor.state(), fault);
    leader.wait_leading(PATIENCE).await?;
    all_others_gone(fleet, leader).await?;
    let after = overlap(&leader.state(), &successor.state(), alone_at);
    Ok(Sample { takeover: created - fault, unreachable, heal, overlap: before.max(after) })
}

async fn break_leader(fleet: &Fleet, leader: &Member, scenario: Scenario) -> Result<Instant> {
    if scenario.cuts() {
        return fleet.cut_off(leader.name()).await;
    }
    let at = Instant::now();
    leader.kill().await?;
    Ok(at)
}

async fn mend(fleet: &Fleet, leader: &Member, scenario: Scenario) -> Result<Instant> {
    if scenario.cuts() {
        let dropped = leader.cluster.dropped_packets().await?;
        ensure!(dropped > 0, "the cut dropped no packet in {}: it was no fault", leader.name());
        return fleet.heal().await;
    }
    let at = Instant::now();
    leader.start_again().await?;
    Ok(at)
}

/// Waits until only one of the two has the payload, and returns how long that took and when it was.
async fn exactly_one(leader: &Member, successor: &Member, mended: Instant) -> Result<(Duration, Instant)> {
    let ended = |state: &crate::watch::State| {
        let last = state.presences.last().and_then(|last| last.to);
        last.filter(|at| *at >= mended)
    };
    let alone = |state: &crate::watch::State| ended(state).is_some();
    let first = tokio::select! {
        state = leader.watch.wait("one of two payloads goes", PATIENCE, alone) => ended(&state?),
        state = successor.watch.wait("one of two payloads goes", PATIENCE, alone) => ended(&state?),
    };
    let at = first.context("it had gone a moment ago")?;
    Ok((at - mended, at))
}

async fn all_others_gone(fleet: &Fleet, leader: &Member) -> Result<()> {
    for member in fleet.members.iter().filter(|member| member.name() != leader.name()) {
        member.wait_gone(PATIENCE).await?;
    }
    Ok(())
}

/// The longest time that any two members were both active.
fn handover_overlap(fleet: &Fleet, since: Instant) -> Duration {
    let states: Vec<_> = fleet.members.iter().map(Member::state).collect();
    let pairs = (0..states.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
    pairs.map(|(one, other)| overlap(&states[one], &states[other], since)).max().unwrap_or_default()
}

/// Removes all objects and restarts the daemons, so that no run remembers the one before: a fleet that healed is more
/// careful for ten minutes.
async fn start_over(fleet: &Fleet) -> Result<()> {
    // The leader last: otherwise the lead would move once more first.
    for member in &fleet.members {
        member.delete().await?;
    }
    for member in &fleet.members {
        member.wait_gone(PATIENCE).await?;
        member.kill().await?;
        member.start_again().await?;
    }
    Ok(())
}

/// Prints the table, and returns the titles of those that miss the target.
fn print(story: &Story, results: &[(Scenario, Vec<Sample>)]) -> Result<Vec<&'static str>> {
    story.line("\nFrom the fault to the payload created elsewhere, in seconds");
    story.line(&format!(
        "  {:<42}{:>5}{:>9}{:>9}{:>9}{:>14}{:>13}{:>18}",
        "", "runs", "median", "worst", "target", "heal, worst", "overlap (1)", "unreachable (2)"
    ));
    let mut late = Vec::new();
    for (scenario, samples) in results {
        let takeovers = sorted(samples, |sample| sample.takeover);
        let worst = *takeovers.last().context("no run")?;
        let seconds =
            |of: fn(&Sample) -> Duration| sorted(samples, of).last().map_or(0.0, Duration::as_secs_f64);
        story.line(&format!(
            "  {:<42}{:>5}{:>9.2}{:>9.2}{:>9.2}{:>14.2}{:>13.2}{:>18.2}",
            scenario.title(),
            samples.len(),
            median(&takeovers).as_secs_f64(),
            worst.as_secs_f64(),
            scenario.target().as_secs_f64(),
            seconds(|sample| sample.heal),
            seconds(|sample| sample.overlap),
            seconds(|sample| sample.unreachable),
        ));
        if worst > scenario.target() || seconds(|sample| sample.overlap) > 0.0 {
            late.push(scenario.title());
        }
    }
    story.line("  (1) worst time that two clusters had the payload in a handover, when the old one could be reached: must be 0");
    story.line("  (2) the same while the old one was cut off or had no daemon, until the end of the fault was dealt with");
    Ok(late)
}

fn sorted<S>(samples: &[S], of: impl Fn(&S) -> Duration) -> Vec<Duration> {
    let mut all: Vec<Duration> = samples.iter().map(of).collect();
    all.sort();
    all
}

/// The middle one, or the mean of the two in the middle. Zero if there is none.
fn median(sorted: &[Duration]) -> Duration {
    match sorted.len() {
        0 => Duration::ZERO,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_even_and_odd_series() {
        let ms = |all: &[u64]| all.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(median(&ms(&[1, 2, 9])), Duration::from_millis(2));
        assert_eq!(median(&ms(&[1, 3, 5, 9])), Duration::from_millis(4));
        assert_eq!(median(&[]), Duration::ZERO);
    }

    #[test]
    fn restart_grace_is_set_where_the_scenario_says_so() {
        let plans = Scenario::KilledNoGrace.plans().unwrap();
        assert!(plans.iter().all(|plan| plan.object["spec"]["election"]["restartGrace"] == "0s"));
        assert!(Scenario::Killed.plans().unwrap()[0].object["spec"].get("election").is_none());
        assert_eq!(Scenario::CutThree.plans().unwrap().len(), 3);
    }

    #[test]
    fn the_witness_votes_where_the_scenario_says_so() {
        let layout = Scenario::SwitchoverQuorum.layout().unwrap();
        let election = &layout.plans[0].object["spec"]["election"];
        assert_eq!(election["mode"], "Quorum");
        assert_eq!(election["voters"], json!(["newyork", "sheffield", layout.witness.unwrap().name]));
        assert!(Scenario::Switchover.layout().unwrap().witness.is_none());
    }
}
