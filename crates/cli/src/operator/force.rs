//! `flagship fleet force-lead`: the last resort, with what can be checked from here checked first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flagship_k8s_api::{FORCE_LEAD_ANNOTATION, MemberNameText, Mode, MultiClusterStatus};
use flagship_types::{MemberName, format_duration};

use super::args::ForceLeadArgs;
use super::scene::{Found, POLL, Scene, order};
use crate::exit::{Exit, Stop};
use crate::liveness::left_behind;
use crate::out::print;
use crate::style::counted;

pub(crate) async fn run(args: &ForceLeadArgs) -> Result<Exit, Stop> {
    let scene = Scene::look(&args.fleet.clusters, args.fleet.fleet.as_ref()).await?;
    let target = target(args, &scene)?;
    let fleet: Vec<_> = scene.found.iter().map(|one| (one.name.as_str(), &one.status, one.alive)).collect();
    check(args.above_term, &args.i_have_stopped, &fleet).map_err(Stop::failure)?;
    for warning in warnings(&args.i_have_stopped, target, &scene) {
        print(&format!("{warning}\n"))?;
    }
    let mut order = order(&args.reason);
    order.above_term = Some(args.above_term);
    order.stopped = args.i_have_stopped.iter().cloned().map(MemberNameText).collect();
    let answer = target.command(FORCE_LEAD_ANNOTATION, &order).await?;
    print(&format!("{}: {}\n", target.name, answer.message))?;
    wait(target, args.timeout).await
}

fn target<'a>(args: &ForceLeadArgs, scene: &'a Scene) -> Result<&'a Found, Stop> {
    let named = args.to.as_ref().map(MemberName::as_str);
    let alive = scene.found.iter().filter(|one| one.alive);
    let mut fit: Vec<_> = alive.filter(|one| named.is_none_or(|named| one.name == named)).collect();
    match (fit.len(), named) {
        (1, _) => Ok(fit.remove(0)),
        (0, Some(named)) => Err(Stop::new(
            Exit::NotFound,
            format!(
                "no daemon of {named} runs in the clusters given: give its cluster with --context, and start it"
            ),
        )),
        (0, None) => Err(Stop::new(
            Exit::NotFound,
            "no daemon of the fleet runs in the clusters given: give the cluster that is to lead with --context",
        )),
        (_, None) => {
            let names: Vec<_> = fit.iter().map(|one| one.name.as_str()).collect();
            Err(Stop::new(Exit::Usage, format!("say who is to lead with --to: {}", names.join(", "))))
        }
        (_, Some(named)) => Err(Stop::failure(format!("two members are called {named}"))),
    }
}

/// What can be seen from here: a member that was named and runs, and a term that is not the highest. The member that is
/// to lead judges by what it knows itself.
fn check(
    above: u64,
    stopped: &[MemberName],
    fleet: &[(&str, &MultiClusterStatus, bool)],
) -> Result<(), String> {
    for (name, status, alive) in fleet {
        if *alive && stopped.iter().any(|stopped| stopped.as_str() == *name) {
            return Err(format!(
                "{name} is not stopped: its daemon renews its Lease. Move the lead with: flagship switchover --to MEMBER"
            ));
        }
        let vote = status.vote.as_ref().map(|vote| vote.term);
        let known = [status.term, vote, status.held_term, status.stopping].into_iter().flatten().max();
        let known = known.and_then(|term| u64::try_from(term).ok()).unwrap_or_default();
        if known > above {
            return Err(format!(
                "{name} knows term {known}, so {above} is not the highest: look at who led under it before you repeat \
                 this with --above-term {known}"
            ));
        }
    }
    Ok(())
}

fn warnings(stopped: &[MemberName], target: &Found, scene: &Scene) -> Vec<String> {
    let mut warnings = Vec::new();
    for one in scene.found.iter().filter(|one| stopped.iter().any(|name| name.as_str() == one.name)) {
        let left = left_behind(&one.status);
        if left > 0 {
            warnings.push(format!(
                "!! {} applied {} that nobody has deleted: if it still runs there, the payload runs twice from now on",
                one.name,
                counted(left, "object")
            ));
        }
    }
    let quorum = target
        .status
        .configuration
        .as_ref()
        .map_or_else(|| target.spec.election.mode == Some(Mode::Quorum), |config| config.mode == "Quorum");
    if quorum {
        warnings.push(format!(
            "!! This fleet runs in mode Quorum, which never has two payloads. A lead by force gives that up: {} leads \
             without a majority, by its own vote alone, and the other voters are added again one at a time when they \
             answer. If anybody whom you named still runs its payload, there are two. Nothing but your word prevents that",
            target.name
        ));
    }
    warnings
}

async fn wait(target: &Found, timeout: Duration) -> Result<Exit, Stop> {
    let until = Instant::now() + timeout;
    let mut last: BTreeMap<&str, String> = BTreeMap::new();
    loop {
        match target.read().await {
            Ok(status) if status.role.as_deref() == Some("Leader") => {
                let term = status.held_term.unwrap_or_default();
                print(&format!("{} leads under term {term}. See: flagship status\n", target.name))?;
                return Ok(Exit::Success);
            }
            Ok(status) => last.insert("role", status.role.unwrap_or_default()),
            Err(error) => last.insert("error", error.to_string()),
        };
        if Instant::now() >= until {
            let said: Vec<_> = last.iter().map(|(what, said)| format!("{what} {said}")).collect();
            return Err(Stop::failure(format!(
                "{} does not lead after {} ({}): see flagship status -w",
                target.name,
                format_duration(timeout),
                said.join(", ")
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use flagship_k8s_api::VoteStatus;

    use super::*;

    #[test]
    fn what_the_objects_show_speaks_against_a_lead_by_force() {
        let name = |name: &str| MemberName::new(name).unwrap();
        let at = |term| MultiClusterStatus { term: Some(term), ..MultiClusterStatus::default() };
        let (old, new) = (at(7), at(8));
        let fleet = [("newyork", &old, true), ("sheffield", &new, false)];
        let stopped = [name("sheffield")];
        assert!(check(7, &stopped, &fleet).unwrap_err().contains("sheffield knows term 8"));
        assert_eq!(check(8, &stopped, &fleet), Ok(()));
        let alive = [("newyork", &old, true), ("sheffield", &new, true)];
        assert!(check(8, &stopped, &alive).unwrap_err().contains("sheffield is not stopped"));
        let vote = Some(VoteStatus { term: 11, ..VoteStatus::default() });
        let voted = MultiClusterStatus { vote, ..at(7) };
        assert!(check(8, &[], &[("newyork", &voted, true)]).unwrap_err().contains("--above-term 11"));
    }
}
