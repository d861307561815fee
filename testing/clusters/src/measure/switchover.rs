//! Moves the lead of one fleet there and back by the command line, and measures how long nobody has the payload.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{PATIENCE, median, sorted};
use crate::fleet::{Fleet, Member};
use crate::harness::Harness;
use crate::story::Story;
use crate::watch::{Kind, State, overlap};

/// The longest that is good enough between the last pod gone and the new Deployment, for the worst move.
pub(super) const TARGET: Duration = Duration::from_secs(1);

/// One move of the lead.
#[derive(Clone, Debug)]
pub(super) struct Move {
    /// From the last pod of the old leader gone to the Deployment created in the new one's cluster.
    gap: Duration,
    /// From the Deployment deleted to the last pod gone: the pods' own time.
    pods: Duration,
    /// From the command to the Deployment created in the new leader's cluster.
    created: Duration,
    /// For how long both clusters had an object or a pod of the payload.
    overlap: Duration,
    /// What the new leader says of its steps, in milliseconds since the old one was seen to stop: which of them was slow.
    phases: String,
}

/// Makes the fleet whole, with the best member as its leader, and moves the lead `runs` times there and back.
pub(super) async fn series(story: &Story, harness: &Harness, fleet: &Fleet, runs: u32) -> Result<Vec<Move>> {
    let [away, home] = &fleet.members[..] else {
        anyhow::bail!("a switchover is measured with two members");
    };
    // In mode Quorum nobody leads before all voters are there, so none is waited for in between.
    for member in &fleet.members {
        member.apply().await?;
    }
    home.wait_leading(PATIENCE).await?;
    away.wait_gone(PATIENCE).await?;
    let mut moves = Vec::new();
    for number in 1..=runs {
        for (old, new) in [(home, away), (away, home)] {
            let done = once(harness, fleet, old, new).await;
            let done = done.with_context(|| format!("run {number}, {} to {}", old.name(), new.name()))?;
            story.now(
                "",
                &format!(
                    "run {number:>3}: {} to {}: last pod gone to created {:.3} s; pods took {:.3} s; command to created {:.3} s; overlap {:.3} s; {}",
                    old.name(),
                    new.name(),
                    done.gap.as_secs_f64(),
                    done.pods.as_secs_f64(),
                    done.created.as_secs_f64(),
                    done.overlap.as_secs_f64(),
                    done.phases
                ),
            );
            moves.push(done);
        }
    }
    Ok(moves)
}

async fn once(harness: &Harness, fleet: &Fleet, old: &Member, new: &Member) -> Result<Move> {
    // A member that has just lost the lead is fit again when it says so.
    let name = new.name().to_owned();
    let fit = |state: &State| standby_is_ready(state.status(&name, "conditions"));
    new.watch.wait(&format!("{name} is a healthy standby"), PATIENCE, fit).await?;

    let kubeconfig = harness.kubeconfig().display().to_string();
    let args = ["switchover", "--to", new.name(), "--reason", "measured", "--kubeconfig", &kubeconfig];
    let contexts = ["--context", old.name(), "--context", new.name()];
    let asked = Instant::now();
    fleet.flagship.run(&[&args[..], &contexts[..]].concat())?;
    new.wait_leading(PATIENCE).await?;
    old.wait_gone(PATIENCE).await?;

    let (before, after) = (old.state(), new.state());
    let created = after.deployment_created_since(asked).context("no Deployment was created")?;
    let last_pod = last_gone(&before, Kind::Pod, asked).context("no pod of the old leader went")?;
    let deleted = last_gone(&before, Kind::Deployment, asked).context("its Deployment did not go")?;
    Ok(Move {
        gap: created.saturating_duration_since(last_pod),
        pods: last_pod.saturating_duration_since(deleted),
        created: created - asked,
        overlap: overlap(&before, &after, asked),
        phases: phases(after.status(new.name(), "history")),
    })
}

/// Of the last lead that began, as far as its status has them.
fn phases(history: &Value) -> String {
    let last = history.as_array().and_then(|all| all.iter().rev().find(|entry| entry["phases"].is_object()));
    let of = |field: &str| match last.and_then(|entry| entry["phases"][field].as_i64()) {
        Some(ms) => ms.to_string(),
        None => "?".to_owned(),
    };
    let (stopped, elected, created) = (of("predecessorStoppedMs"), of("electedMs"), of("payloadCreatedMs"));
    format!("stopped {stopped} ms, elected {elected} ms, applied {created} ms")
}

fn standby_is_ready(conditions: &Value) -> bool {
    let conditions = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    let has =
        |kind: &str, status: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == status);
    has("Ready", "True") && has("Leading", "False")
}

/// When the last object of a kind went, at or after a time.
fn last_gone(state: &State, kind: Kind, since: Instant) -> Option<Instant> {
    let went = state.sightings.iter().rev().find(|s| !s.came && s.kind == kind && s.at >= since);
    went.map(|sighting| sighting.at)
}

/// Prints the table, and returns the titles of those that miss the target.
pub(super) fn print(story: &Story, results: &[(&'static str, Vec<Move>)]) -> Result<Vec<&'static str>> {
    story.line("\nSwitchover by command, there and back, in seconds");
    story.line(&format!(
        "  {:<42}{:>6}{:>9}{:>9}{:>9}{:>16}{:>22}{:>13}",
        "last pod gone to created elsewhere",
        "moves",
        "p50",
        "p99",
        "target",
        "pods, p50 (1)",
        "command, p50 p99 (2)",
        "overlap (3)"
    ));
    let mut late = Vec::new();
    for (title, moves) in results {
        ensure!(!moves.is_empty(), "no move");
        let seconds =
            |of: fn(&Move) -> Duration, percent| percentile(&sorted(moves, of), percent).as_secs_f64();
        let worst_overlap = seconds(|one| one.overlap, 100);
        let gap = seconds(|one| one.gap, 99);
        story.line(&format!(
            "  {title:<42}{:>6}{:>9.3}{gap:>9.3}{:>9.3}{:>16.3}{:>14.3}{:>8.3}{worst_overlap:>13.3}",
            moves.len(),
            median(&sorted(moves, |one| one.gap)).as_secs_f64(),
            TARGET.as_secs_f64(),
            median(&sorted(moves, |one| one.pods)).as_secs_f64(),
            median(&sorted(moves, |one| one.created)).as_secs_f64(),
            seconds(|one| one.created, 99),
        ));
        if seconds(|one| one.gap, 100) > TARGET.as_secs_f64() || worst_overlap > 0.0 {
            late.push(*title);
        }
    }
    story.line("  (1) the pods' own time: from the Deployment deleted to the last pod gone");
    story.line("  (2) from the command to the Deployment created in the other cluster");
    story.line("  (3) worst time that both clusters had an object or a pod of the payload: must be 0");
    Ok(late)
}

/// The smallest value that at least so many percent are not above: of up to a hundred, the 99th is the worst.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::watch::Sighting;

    #[test]
    fn the_99th_percentile_of_few_is_the_worst() {
        let ms = |to: u64| (1..=to).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(percentile(&ms(40), 99), Duration::from_millis(40));
        assert_eq!(percentile(&ms(40), 50), Duration::from_millis(20));
        assert_eq!(percentile(&ms(200), 99), Duration::from_millis(198));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn the_last_pod_that_went_counts_and_nothing_before_the_command() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let sighting =
            |ms, kind, came| Sighting { at: at(ms), kind, name: "n".into(), uid: "u".into(), came };
        let state = State {
            sightings: vec![
                sighting(1, Kind::Pod, false),
                sighting(10, Kind::Deployment, false),
                sighting(11, Kind::Pod, false),
                sighting(12, Kind::Pod, false),
                sighting(13, Kind::Pod, true),
            ],
            ..State::default()
        };
        assert_eq!(last_gone(&state, Kind::Pod, at(5)), Some(at(12)));
        assert_eq!(last_gone(&state, Kind::Deployment, at(11)), None);
    }

    #[test]
    fn the_steps_are_those_of_the_last_lead() {
        let lead = |stopped: i64| {
            let phases = json!({"predecessorStoppedMs": stopped, "electedMs": 250, "payloadCreatedMs": 300});
            json!({"kind": "Elected", "phases": phases})
        };
        let history = json!([lead(100), lead(200), {"kind": "PayloadApplied"}]);
        assert_eq!(phases(&history), "stopped 200 ms, elected 250 ms, applied 300 ms");
        assert_eq!(phases(&Value::Null), "stopped ? ms, elected ? ms, applied ? ms");
    }

    #[test]
    fn a_healthy_standby_is_ready_and_does_not_lead() {
        let conditions = |ready: &str, leading: &str| json!([{"type": "Ready", "status": ready}, {"type": "Leading", "status": leading}]);
        assert!(standby_is_ready(&conditions("True", "False")));
        assert!(!standby_is_ready(&conditions("False", "False")));
        assert!(!standby_is_ready(&conditions("True", "True")));
        assert!(!standby_is_ready(&Value::Null));
    }
}
