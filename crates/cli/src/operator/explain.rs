//! `flagship explain`: why each member leads or does not, and whether a failover would succeed right now.

use std::fmt::Write as _;

use flagship_k8s_api::{ConditionType, MemberStatus, conditions};

use super::args::ExplainArgs;
use super::scene::{Found, Scene};
use crate::exit::{Exit, Stop};
use crate::out::print;

pub(crate) async fn run(args: &ExplainArgs) -> Result<Exit, Stop> {
    let scene = Scene::look(&args.fleet.clusters, args.fleet.fleet.as_ref()).await?;
    let mut text = String::new();
    for one in &scene.found {
        let _ = writeln!(text, "{}: {}", one.name, why(one, scene.leader().ok()));
    }
    for (context, reason) in &scene.unreachable {
        let _ = writeln!(text, "{context}: NOT ASKED: {reason}");
    }
    let (sound, verdict) = match scene.leader() {
        Ok(leader) => verdict(leader),
        Err(stop) => (false, stop.message),
    };
    let _ = writeln!(text, "\n{verdict}");
    print(&text)?;
    Ok(match (scene.unreachable.is_empty(), sound) {
        (false, _) => Exit::Unreachable,
        (true, true) => Exit::Success,
        (true, false) => Exit::Failure,
    })
}

/// Why this member leads, or does not.
fn why(one: &Found, leader: Option<&Found>) -> String {
    if !one.alive {
        return "its daemon does not run, as far as can be seen from here; what its status says is old"
            .into();
    }
    let status = &one.status;
    let mut because = Vec::new();
    let leading = conditions::get(&status.conditions, ConditionType::Leading);
    because.extend(leading.map(|leading| leading.message.clone()));
    because.extend(leader.and_then(|leader| outranks(one, leader)));
    if status.leading {
        let began = status.history.iter().rev().find(|entry| entry.phases.is_some());
        let began = began.filter(|entry| Some(entry.term) == status.held_term);
        because.extend(
            began
                .and_then(|entry| entry.reason.as_ref())
                .map(|reason| format!("it came to lead by {reason}")),
        );
        if status.chosen {
            because.push("an operator moved the lead here, so rank does not move it".into());
        }
    }
    let config = conditions::get(&status.conditions, ConditionType::ConfigInForce);
    because.extend(
        config
            .filter(|config| {
                config.status == "False" || ["NotStoredByAll", "EvenVoters"].contains(&config.reason.as_str())
            })
            .map(|config| config.message.clone()),
    );
    if one.spec.candidate == Some(false) {
        because.push("spec.candidate is false: it may not lead".into());
    }
    if one.spec.suspend {
        because.push("spec.suspend is true: it is left alone".into());
    }
    if let Some(ready) =
        conditions::get(&status.conditions, ConditionType::Ready).filter(|ready| ready.status != "True")
        && leading.is_none_or(|leading| leading.message != ready.message)
    {
        because.push(format!("it is not ready ({}): {}", ready.reason, ready.message));
    }
    if because.is_empty() { "its status says nothing yet".into() } else { because.join("; ") }
}

/// Why it does not lead, though its rank is higher than the leader's.
fn outranks(one: &Found, leader: &Found) -> Option<String> {
    let config = leader.status.configuration.as_ref()?;
    if one.name == leader.name || one.spec.rank <= leader.spec.rank || one.spec.candidate == Some(false) {
        return None;
    }
    Some(if config.failback == "Manual" {
        "failback is Manual, so rank does not move the lead; an operator can: flagship switchover".into()
    } else if leader.status.chosen {
        format!("an operator moved the lead to {}, so rank does not move it", leader.name)
    } else if config.pause.is_some() {
        "the fleet is paused, so rank does not move the lead".into()
    } else {
        format!("its rank moves the lead to it once it has been healthy for {}", config.failback_delay)
    })
}

/// Whether somebody would take over if the leader failed now.
fn verdict(leader: &Found) -> (bool, String) {
    let status = &leader.status;
    if let Some(pause) = status.configuration.as_ref().and_then(|config| config.pause.as_ref()) {
        let text = format!(
            "If {} failed now, nobody would take over: the fleet is paused ({}). End that with: flagship resume",
            leader.name, pause.reason
        );
        return (false, text);
    }
    let others = status.members.iter().filter(|row| row.name != leader.name && row.state != "Left");
    let may = |row: &&MemberStatus| row.role.as_deref() != Some("Witness");
    let (fit, unfit): (Vec<_>, Vec<_>) =
        others.filter(may).partition(|row| row.unfit.is_none() && row.state == "Alive");
    let best = fit.iter().max_by(|a, b| a.rank.cmp(&b.rank).then_with(|| b.name.cmp(&a.name)));
    let mut text = match best {
        Some(best) => format!("If {} failed now, {} would take over", leader.name, best.name),
        None => format!("If {} failed now, nobody would take over", leader.name),
    };
    for row in unfit {
        let because = row.unfit.clone().unwrap_or_else(|| format!("{} is {}", row.name, row.state));
        let _ = write!(text, "; {because}");
    }
    (best.is_some(), text)
}

#[cfg(test)]
mod tests {
    use flagship_k8s_api::{ConfigurationStatus, MultiClusterStatus, PauseStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::cluster::testing::cluster_at;

    fn leader(rows: &[(&str, i64, &str, Option<&str>)]) -> Found {
        let members = rows.iter().map(|(name, rank, state, unfit)| MemberStatus {
            name: (*name).into(),
            state: (*state).into(),
            rank: Some(*rank),
            unfit: unfit.map(Into::into),
            ..MemberStatus::default()
        });
        Found {
            name: "a".into(),
            namespace: "default".into(),
            cluster: cluster_at("http://127.0.0.1:1"),
            status: MultiClusterStatus {
                leading: true,
                members: members.collect(),
                ..MultiClusterStatus::default()
            },
            spec: flagship_k8s_api::MultiClusterSpec::default(),
            alive: true,
        }
    }

    #[tokio::test]
    async fn the_best_fit_standby_would_take_over_and_the_others_are_named() {
        let rows = [
            ("b", 9, "Alive", Some("b cannot reach its API server")),
            ("c", 5, "Alive", None),
            ("d", 1, "Down", None),
        ];
        let (sound, text) = verdict(&leader(&rows));
        assert!(sound);
        assert_eq!(text, "If a failed now, c would take over; b cannot reach its API server; d is Down");
        let (sound, text) = verdict(&leader(&rows[..1]));
        assert!(!sound && text.starts_with("If a failed now, nobody would take over; b cannot"), "{text}");
        let mut paused = leader(&rows);
        let pause = Some(PauseStatus { since_ms: 1, reason: "work".into() });
        paused.status.configuration = Some(ConfigurationStatus { pause, ..ConfigurationStatus::default() });
        assert!(verdict(&paused).1.contains("flagship resume"));
    }

    #[tokio::test]
    async fn why_a_higher_rank_does_not_lead_is_said() {
        let (mut first, mut other) = (leader(&[]), leader(&[]));
        (first.spec.rank, other.spec.rank, other.name) = (5, 9, "b".into());
        let config = ConfigurationStatus { failback_delay: "7s".into(), ..ConfigurationStatus::default() };
        first.status.configuration =
            Some(ConfigurationStatus { failback: "Automatic".into(), ..config.clone() });
        assert!(outranks(&other, &first).unwrap().contains("healthy for 7s"));
        assert_eq!(outranks(&first, &first), None);
        first.status.chosen = true;
        assert!(outranks(&other, &first).unwrap().contains("an operator moved the lead to a"));
        first.status.configuration = Some(ConfigurationStatus { failback: "Manual".into(), ..config });
        assert!(outranks(&other, &first).unwrap().contains("flagship switchover"));
        other.spec.rank = 5;
        assert_eq!(outranks(&other, &first), None);
    }

    #[tokio::test]
    async fn what_keeps_a_member_from_leading_is_said() {
        let mut one = leader(&[]);
        one.status = MultiClusterStatus::default();
        one.spec.candidate = Some(false);
        one.spec.suspend = true;
        let said = why(&one, None);
        assert!(said.contains("spec.candidate is false") && said.contains("spec.suspend is true"), "{said}");
        let condition = |status: &str, reason: &str, message: &str| Condition {
            type_: ConditionType::ConfigInForce.as_str().into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        for (status, reason) in
            [("False", "VotersRefused"), ("True", "NotStoredByAll"), ("True", "EvenVoters")]
        {
            one.status.conditions = vec![condition(status, reason, "the witness")];
            assert!(why(&one, None).contains("the witness"), "{reason}");
        }
        one.status.conditions = vec![condition("True", "Equal", "all is as it should be")];
        assert!(!why(&one, None).contains("all is as"), "that is no news");
        one.alive = false;
        assert!(why(&one, None).contains("does not run"));
    }
}
