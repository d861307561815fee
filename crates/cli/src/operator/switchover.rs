//! `flagship switchover`: the leader decides whether the target is fit; this waits and shows how far the move is.

use std::time::{Duration, Instant};

use flagship_k8s_api::{ConditionType, HistoryEntry, MultiClusterStatus, SWITCHOVER_ANNOTATION, conditions};
use flagship_types::format_duration;

use super::args::SwitchoverArgs;
use super::scene::{Found, POLL, Scene, order};
use crate::exit::{Exit, Stop};
use crate::out::print;

pub(crate) async fn run(args: &SwitchoverArgs) -> Result<Exit, Stop> {
    let scene = Scene::look(&args.fleet.clusters, args.fleet.fleet.as_ref()).await?;
    let leader = scene.leader()?;
    let mut order = order(args.reason.as_deref().unwrap_or_default());
    order.to = args.to.clone().map(flagship_k8s_api::MemberNameText);
    order.dry_run = args.dry_run;
    let began = Instant::now();
    let answer = leader.command(SWITCHOVER_ANNOTATION, &order).await?;
    let target = answer.target.unwrap_or_default();
    if let Some(note) = scene.find(&target).and_then(|target| other_settings(&target.name, &target.status)) {
        print(&note)?;
    }
    if args.dry_run {
        print(&format!(
            "{} leads, and {target} is fit: {}. Nothing was changed\n",
            leader.name, answer.message
        ))?;
        return Ok(Exit::Success);
    }
    print(&format!("{} leads and hands over to {target}\n", leader.name))?;
    if !args.wait {
        print("Watch it with: flagship status -w\n")?;
        return Ok(Exit::Success);
    }
    follow(&scene, leader, &target, began, args.timeout).await
}

/// The settings of the leader's object are in force for the whole fleet, so that a move may change the mode.
fn other_settings(target: &str, status: &MultiClusterStatus) -> Option<String> {
    let config = conditions::get(&status.conditions, ConditionType::ConfigInForce);
    let differs = config.filter(|config| config.status == "False" && config.reason == "Differs")?;
    Some(format!(
        "NOTE: once {target} leads, the election settings of its object are in force for the whole fleet. Now {}\n",
        differs.message
    ))
}

/// A step of the move, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Asked,
    Stopping,
    Gone,
    Released,
    Elected,
    Applied,
    Ready,
}

impl Step {
    const ALL: [Self; 7] =
        [Self::Asked, Self::Stopping, Self::Gone, Self::Released, Self::Elected, Self::Applied, Self::Ready];

    fn says(self, leader: &str, target: &str) -> String {
        match self {
            Self::Asked => format!("{leader} agreed"),
            Self::Stopping => format!("{leader} stops its payload"),
            Self::Gone => format!("the payload of {leader} is gone"),
            Self::Released => format!("{leader} released the lead"),
            Self::Elected => format!("{target} was elected"),
            Self::Applied => format!("{target} applied the payload"),
            Self::Ready => format!("{target} is ready"),
        }
    }
}

/// What the two objects say of the move.
#[derive(Debug, Clone, Copy)]
struct Sight<'a> {
    /// The old leader's status, if it could be read.
    old: Option<&'a MultiClusterStatus>,
    /// The new one's.
    new: Option<&'a MultiClusterStatus>,
}

impl Sight<'_> {
    fn has(&self, step: Step, target: &str) -> bool {
        let old = |is: fn(&MultiClusterStatus) -> bool| self.old.is_some_and(is);
        let new = |is: fn(&MultiClusterStatus) -> bool| self.new.is_some_and(is);
        let leads = |status: &MultiClusterStatus| status.role.as_deref() == Some("Leader");
        let follows = self.old.is_some_and(|status| status.leader.as_deref() == Some(target));
        match step {
            Step::Asked => true,
            Step::Stopping => old(|status| status.stopping.is_some() || !status.leading),
            Step::Gone => old(|status| !status.leading && status.inventory.is_empty()),
            Step::Released => old(|status| !status.leading && status.held_term.is_none()),
            Step::Elected => new(leads) || follows,
            Step::Applied => new(|status| {
                status.leading && conditions::is_true(&status.conditions, ConditionType::PayloadApplied)
            }),
            Step::Ready => new(|status| status.leading && status.ready),
        }
    }
}

/// What was seen so far. A status is written a moment after the fact, and steps that are over before it is read are seen
/// together with the next one.
#[derive(Debug, Default)]
struct Progress {
    reached: Vec<(Step, Duration)>,
}

impl Progress {
    /// Notes what is to be seen, and returns what is new.
    fn note(&mut self, sight: Sight<'_>, target: &str, at: Duration) -> Vec<(Step, Duration)> {
        let furthest =
            Step::ALL.into_iter().rev().find(|step| sight.has(*step, target)).unwrap_or(Step::Asked);
        let known = self.reached.len();
        for step in Step::ALL {
            let is_known = self.reached.iter().any(|(reached, _)| *reached == step);
            if step <= furthest && !is_known {
                self.reached.push((step, at));
            }
        }
        self.reached[known..].to_vec()
    }

    fn is_over(&self, knows_target: bool) -> bool {
        let last = if knows_target { Step::Ready } else { Step::Elected };
        self.reached.iter().any(|(step, _)| *step == last)
    }
}

async fn follow(
    scene: &Scene,
    leader: &Found,
    target: &str,
    began: Instant,
    timeout: Duration,
) -> Result<Exit, Stop> {
    let new = scene.find(target);
    let before = &leader.status.history;
    let mut progress = Progress::default();
    loop {
        let (old, now) = match new {
            Some(new) => {
                let (old, now) = futures::future::join(leader.read(), new.read()).await;
                (old.ok(), now.ok())
            }
            None => (leader.read().await.ok(), None),
        };
        let sight = Sight { old: old.as_ref(), new: now.as_ref() };
        for (step, at) in progress.note(sight, target, began.elapsed()) {
            print(&format!("{:>8.1}s  {}\n", at.as_secs_f64(), step.says(&leader.name, target)))?;
        }
        if progress.is_over(new.is_some()) {
            return finish(target, now.as_ref());
        }
        let failed = old.as_ref().and_then(|status| fresh(before, &status.history, "HandoverFailed"));
        if let Some(failed) = failed {
            return Err(Stop::failure(failed.message.clone()));
        }
        if began.elapsed() >= timeout {
            return Err(late(leader, target, timeout, old.as_ref()));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What came into the history since.
fn fresh<'a>(before: &[HistoryEntry], now: &'a [HistoryEntry], kind: &str) -> Option<&'a HistoryEntry> {
    now.iter().rev().find(|entry| entry.kind == kind && !before.contains(entry))
}

fn finish(target: &str, status: Option<&MultiClusterStatus>) -> Result<Exit, Stop> {
    let Some(status) = status else {
        print(&format!(
            "{target} leads; its cluster was not asked whether its payload is ready: add it with --context\n"
        ))?;
        return Ok(Exit::Success);
    };
    let term = status.held_term;
    let lead = status.history.iter().rev().find(|entry| entry.phases.is_some() && Some(entry.term) == term);
    if let Some(lead) = lead {
        print(&format!("{}\n", lead.message))?;
    }
    print("Rank does not move the lead back: an operator or a failure does\n")?;
    Ok(Exit::Success)
}

fn late(leader: &Found, target: &str, timeout: Duration, status: Option<&MultiClusterStatus>) -> Stop {
    let ready = status.and_then(|status| conditions::get(&status.conditions, ConditionType::Ready));
    let says = ready.map(|ready| format!(". {} says: {}", leader.name, ready.message)).unwrap_or_default();
    Stop::failure(format!(
        "after {} {target} is not ready as the leader yet, and the move goes on{says}. See: flagship status -w",
        format_duration(timeout)
    ))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(role: &str, term: Option<i64>) -> MultiClusterStatus {
        let leading = matches!(role, "Leader" | "Stopping");
        MultiClusterStatus {
            role: Some(role.into()),
            leading,
            held_term: term,
            ..MultiClusterStatus::default()
        }
    }

    fn steps(
        progress: &mut Progress,
        old: &MultiClusterStatus,
        new: &MultiClusterStatus,
        ms: u64,
    ) -> Vec<Step> {
        let sight = Sight { old: Some(old), new: Some(new) };
        progress
            .note(sight, "sheffield", Duration::from_millis(ms))
            .into_iter()
            .map(|(step, _)| step)
            .collect()
    }

    #[test]
    fn each_step_is_told_once_also_if_several_came_at_once() {
        let mut progress = Progress::default();
        let standby = status("Standby", None);
        assert_eq!(steps(&mut progress, &status("Leader", Some(7)), &standby, 100), [Step::Asked]);
        let stopping = MultiClusterStatus { stopping: Some(7), ..status("Stopping", Some(7)) };
        assert_eq!(steps(&mut progress, &stopping, &standby, 200), [Step::Stopping]);
        assert_eq!(steps(&mut progress, &stopping, &standby, 300), []);
        let elected = steps(&mut progress, &standby, &status("Leader", Some(8)), 900);
        assert_eq!(elected, [Step::Gone, Step::Released, Step::Elected]);
        assert!(!progress.is_over(true) && progress.is_over(false));
        let ready = MultiClusterStatus { ready: true, ..status("Leader", Some(8)) };
        assert_eq!(steps(&mut progress, &standby, &ready, 950), [Step::Applied, Step::Ready]);
        assert!(progress.is_over(true));
    }

    #[test]
    fn it_is_said_that_a_move_changes_the_settings() {
        let mut standby = status("Standby", None);
        assert_eq!(other_settings("newyork", &standby), None);
        let mut condition = Condition {
            type_: ConditionType::ConfigInForce.as_str().into(),
            status: "False".into(),
            reason: "Differs".into(),
            message: "mode Quorum is in force (here Availability)".into(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        standby.conditions = vec![condition.clone()];
        let note = other_settings("newyork", &standby).unwrap();
        assert!(note.contains("once newyork leads") && note.contains("here Availability"), "{note}");
        (condition.status, condition.reason) = ("True".into(), "Equal".into());
        standby.conditions = vec![condition];
        assert_eq!(other_settings("newyork", &standby), None);
    }

    #[test]
    fn a_standby_that_is_ready_is_no_ready_leader() {
        let mut progress = Progress::default();
        let standby = MultiClusterStatus { ready: true, ..status("Standby", None) };
        assert_eq!(steps(&mut progress, &status("Leader", Some(7)), &standby, 1), [Step::Asked]);
    }

    #[test]
    fn an_old_failure_is_not_this_one() {
        let entry = |second| HistoryEntry {
            time: Time(Timestamp::from_second(second).unwrap()),
            kind: "HandoverFailed".into(),
            term: 7,
            message: "m".into(),
            reason: None,
            phases: None,
        };
        let before = [entry(1)];
        assert_eq!(fresh(&before, &[entry(1)], "HandoverFailed"), None);
        assert!(fresh(&before, &[entry(1), entry(2)], "HandoverFailed").is_some());
        assert_eq!(fresh(&before, &[entry(1), entry(2)], "Elected"), None);
    }
}
