//! Whether a majority of the voters is there, and how many more may be lost. In mode Quorum only.

use std::collections::BTreeMap;

use flagship_k8s_api::{ConditionType, MultiClusterStatus, conditions};
use flagship_types::quorum::{majority, tolerated};

use super::objects::Located;
use super::report::{Finding, Topic};

/// Every finding about voters, fleet by fleet, by the word of the leader or else of who knows the newest configuration.
pub(crate) fn check(objects: &[Located]) -> Vec<Finding> {
    let mut authorities: BTreeMap<&str, (&Located, &MultiClusterStatus)> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.silence(objects).is_none()) {
        let Some(status) = &object.object.status else { continue };
        let knows = |status: &MultiClusterStatus| {
            (status.leading, status.configuration.as_ref().map(|config| config.version))
        };
        let best = authorities.entry(object.callsign()).or_insert((object, status));
        if knows(best.1) < knows(status) {
            *best = (object, status);
        }
    }
    authorities.into_iter().flat_map(|(callsign, (object, status))| fleet(callsign, object, status)).collect()
}

fn fleet(callsign: &str, object: &Located, status: &MultiClusterStatus) -> Vec<Finding> {
    let Some(config) = status.configuration.as_ref().filter(|config| config.mode == "Quorum") else {
        return Vec::new();
    };
    let answers = |voter: &&String| {
        **voter == object.name
            || status.members.iter().any(|member| member.name == **voter && member.state == "Alive")
    };
    let (there, missing): (Vec<_>, Vec<_>) = config.voters.iter().partition(answers);
    let mut findings = vec![presence(callsign, object, (there.len(), config.voters.len()), &missing)];
    let unstored: Vec<_> =
        status.configuration_missing.iter().filter(|member| !missing.contains(member)).collect();
    if !unstored.is_empty() {
        findings.push(Finding::warn(
            Topic::Voters,
            format!("{callsign}: {} did not store the configuration in force yet", names(&unstored)),
            "a voter stores it within a second: see its log, and whether its API server answers",
        ));
    }
    let protected = conditions::get(&status.conditions, ConditionType::SplitBrainProtected);
    if let Some(open) = protected.filter(|condition| condition.status != "True") {
        let message = format!("{callsign}: SplitBrainProtected={}: {}", open.status, open.message);
        findings.push(Finding::warn(
            Topic::Voters,
            message,
            "docs/quorum.md: what is promised, and what is not",
        ));
    }
    findings
}

fn presence(callsign: &str, object: &Located, (there, all): (usize, usize), missing: &[&String]) -> Finding {
    if missing.is_empty() {
        let message = format!("{callsign}: all {all} voters answer; {} may be lost", tolerated(all));
        return Finding::ok(Topic::Voters, message);
    }
    let who =
        format!("{callsign}: {there} of {all} voters answer {} (missing: {})", object.name, names(missing));
    let hint = format!(
        "start {0}, or mend its links; how {1} sees it: {2} describe mc {1}",
        names(missing),
        object.name,
        object.kubectl()
    );
    let needed = majority(all);
    match there.checked_sub(needed) {
        None => Finding::fail(Topic::Voters, format!("{who}: nobody can lead without {needed}"), hint),
        Some(0) => Finding::warn(Topic::Voters, format!("{who}: with one less nobody can lead"), hint),
        Some(spare) => Finding::warn(Topic::Voters, format!("{who}: {spare} more may be lost"), hint),
    }
}

fn names(members: &[&String]) -> String {
    members.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}
