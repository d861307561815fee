//! `flagship pause` and `flagship resume`: the leader writes it down, and everybody stores it.

use std::time::{Duration, Instant};

use flagship_k8s_api::{
    ConditionType, MultiClusterStatus, OrderAnswer, PAUSE_ANNOTATION, RESUME_ANNOTATION, conditions,
};
use futures::future::join_all;

use super::args::{FleetChoice, PauseArgs, ResumeArgs};
use super::scene::{Found, POLL, Scene, order};
use crate::exit::{Exit, Stop};
use crate::out::print;

pub(crate) async fn pause(args: &PauseArgs) -> Result<Exit, Stop> {
    let scene = look(&args.fleet).await?;
    let leader = scene.leader()?;
    leader.command(PAUSE_ANNOTATION, &order(&args.reason)).await?;
    let (leader, callsign) = (&leader.name, &scene.view.callsign);
    print(&format!("{leader}, who leads, has paused fleet {callsign}: {}\n", args.reason))?;
    stored(&scene, leader, true, args.timeout).await
}

pub(crate) async fn resume(args: &ResumeArgs) -> Result<Exit, Stop> {
    let scene = look(&args.fleet).await?;
    let (callsign, reason) = (&scene.view.callsign, args.reason.as_deref().unwrap_or_default());
    if let Ok(leader) = scene.leader() {
        leader.command(RESUME_ANNOTATION, &order(reason)).await?;
        print(&format!("{}, who leads, has resumed fleet {callsign}\n", leader.name))?;
        return stored(&scene, &leader.name, false, args.timeout).await;
    }
    // Nobody that can be asked leads: each member knows itself whether anybody else does.
    let alive: Vec<&Found> = scene.found.iter().filter(|one| one.alive).collect();
    if alive.is_empty() {
        return scene.leader().map(|_| Exit::Success);
    }
    let ask = alive.iter().map(|one| async {
        let answer = one.give(RESUME_ANNOTATION, &order(reason)).await;
        (one.name.as_str(), answer)
    });
    let answers = join_all(ask).await;
    let accepted: Vec<&str> =
        answers.iter().filter(|(_, answer)| is_accepted(answer)).map(|(name, _)| *name).collect();
    if accepted.is_empty() {
        let why: Vec<String> = answers
            .into_iter()
            .map(|(name, answer)| match answer {
                Ok(answer) => format!("{name}: {}", answer.message),
                Err(stop) => format!("{name}: {}", stop.message),
            })
            .collect();
        return Err(Stop::failure(format!("fleet {callsign} was not resumed\n{}", why.join("\n"))));
    }
    print(&format!("nobody leads fleet {callsign}: {} may take the lead now\n", accepted.join(", ")))?;
    let until = Instant::now() + args.timeout;
    let leader = wait_for_leader(&scene, &accepted, until).await?;
    print(&format!("{leader} leads\n"))?;
    stored(&scene, &leader, false, until.saturating_duration_since(Instant::now())).await
}

fn is_accepted(answer: &Result<OrderAnswer, Stop>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.accepted)
}

async fn look(choice: &FleetChoice) -> Result<Scene, Stop> {
    Scene::look(&choice.clusters, choice.fleet.as_ref()).await
}

async fn wait_for_leader(scene: &Scene, told: &[&str], until: Instant) -> Result<String, Stop> {
    loop {
        let mut waits = Vec::new();
        for one in scene.found.iter().filter(|one| one.alive) {
            let Ok(status) = one.read().await else { continue };
            if status.role.as_deref() == Some("Leader") {
                return Ok(one.name.clone());
            }
            let leading = conditions::get(&status.conditions, ConditionType::Leading);
            waits.extend(leading.map(|leading| format!("{}: {}", one.name, leading.message)));
        }
        if Instant::now() >= until {
            return Err(Stop::failure(format!(
                "{} may take the lead, and did not yet. {}\nSee how it goes on with: flagship status -w",
                told.join(", "),
                waits.join("\n")
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Who has stored what the leader wrote, and who has not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stored {
    yes: Vec<String>,
    no: Vec<String>,
    /// Not there: they learn of it when they come back.
    absent: Vec<String>,
}

/// Waits until everybody that is there has stored it, then says who has and who has not.
async fn stored(scene: &Scene, leader: &str, paused: bool, timeout: Duration) -> Result<Exit, Stop> {
    let until = Instant::now() + timeout;
    let Some(leader) = scene.find(leader) else { return Ok(Exit::Unreachable) };
    loop {
        let statuses = join_all(scene.found.iter().map(async |one| (one, one.read().await))).await;
        let read = |name: &str| {
            statuses.iter().find(|(one, _)| one.name == name).and_then(|(_, status)| status.as_ref().ok())
        };
        let result = read(&leader.name).filter(|status| is_paused(status) == paused).map(|status| {
            let others = statuses.iter().filter(|(one, _)| one.alive && one.name != leader.name);
            who(&leader.name, status, others.map(|(one, status)| (one.name.as_str(), status.as_ref().ok())))
        });
        let late = Instant::now() >= until;
        if let Some(result) = result.filter(|result| result.no.is_empty() || late) {
            return tell(&result, paused);
        }
        if late {
            let what = if paused { "the pause" } else { "the end of the pause" };
            return Err(Stop::failure(format!(
                "{} has not stored {what} yet: is its API server there? See: flagship status",
                leader.name
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn is_paused(status: &MultiClusterStatus) -> bool {
    status.configuration.as_ref().is_some_and(|config| config.pause.is_some())
}

/// From what the leader says of all, and what those say that could be asked themselves.
fn who<'a>(
    leader: &str,
    status: &MultiClusterStatus,
    asked: impl Iterator<Item = (&'a str, Option<&'a MultiClusterStatus>)>,
) -> Stored {
    let version = |status: &MultiClusterStatus| status.configuration.as_ref().map(|config| config.version);
    let lags: Vec<&str> = asked
        .filter(|(_, theirs)| theirs.is_some_and(|theirs| version(theirs) < version(status)))
        .map(|(name, _)| name)
        .collect();
    let mut stored = Stored { yes: vec![leader.to_owned()], ..Stored::default() };
    let is_known = |name: &String| status.members.iter().any(|row| row.name == *name);
    let unknown = status.configuration_missing.iter().filter(|name| !is_known(name));
    stored.absent.extend(unknown.map(|name| format!("{name} (a voter that was never seen)")));
    for row in status.members.iter().filter(|row| row.name != leader && row.state != "Left") {
        let missing = status.configuration_missing.contains(&row.name) || lags.contains(&row.name.as_str());
        match (missing, row.state.as_str()) {
            (true, "Alive" | "Suspect") => stored.no.push(row.name.clone()),
            (_, "Down" | "Away") => stored.absent.push(format!("{} ({})", row.name, row.state)),
            _ => stored.yes.push(row.name.clone()),
        }
    }
    stored
}

fn tell(stored: &Stored, paused: bool) -> Result<Exit, Stop> {
    let what = if paused { "the pause" } else { "the end of the pause" };
    print(&format!("stored by {}\n", stored.yes.join(", ")))?;
    if !stored.absent.is_empty() {
        let names = stored.absent.join(", ");
        print(&format!("not there, told when back: {names}\n"))?;
    }
    if stored.no.is_empty() {
        return Ok(Exit::Success);
    }
    print(&format!("NOT STORED YET by {}: until it is, they do not know of {what}\n", stored.no.join(", ")))?;
    Ok(Exit::Failure)
}

#[cfg(test)]
mod tests {
    use flagship_k8s_api::{ConfigurationStatus, MemberStatus};

    use super::*;

    fn status(version: i64) -> MultiClusterStatus {
        let configuration = Some(ConfigurationStatus { version, ..ConfigurationStatus::default() });
        MultiClusterStatus { configuration, ..MultiClusterStatus::default() }
    }

    #[test]
    fn who_has_stored_it_is_told_by_the_leader_and_by_those_that_can_be_asked() {
        let row = |name: &str, state: &str| MemberStatus {
            name: name.into(),
            state: state.into(),
            ..MemberStatus::default()
        };
        let mut leader = status(9);
        leader.members = vec![
            row("a", "Alive"),
            row("b", "Alive"),
            row("c", "Alive"),
            row("d", "Down"),
            row("e", "Left"),
            row("f", "Alive"),
        ];
        leader.configuration_missing = vec!["b".into(), "d".into(), "ghost".into()];
        let (old, new) = (status(8), status(9));
        let asked = [("c", Some(&old)), ("f", Some(&new)), ("a", None)];
        let expected = Stored {
            yes: vec!["a".into(), "f".into()],
            no: vec!["b".into(), "c".into()],
            absent: vec!["ghost (a voter that was never seen)".into(), "d (Down)".into()],
        };
        assert_eq!(who("a", &leader, asked.into_iter()), expected);
        assert_eq!(tell(&expected, true).unwrap(), Exit::Failure);
        assert_eq!(tell(&Stored { no: Vec::new(), ..expected }, true).unwrap(), Exit::Success);
    }
}
