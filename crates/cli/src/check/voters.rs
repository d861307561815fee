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
    let voters = Voters::sort(object, status, &config.voters);
    let mut findings = vec![presence(callsign, object, &voters)];
    let unstored: Vec<_> =
        status.configuration_missing.iter().filter(|member| !voters.missing.contains(member)).collect();
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

/// The voters of a configuration as one member's status has them.
#[derive(Default)]
struct Voters<'a> {
    /// How many there are.
    all: usize,
    /// How many answer.
    there: usize,
    /// Silent for a moment: they count as there until they are held Down.
    suspect: Vec<&'a String>,
    /// Not in a list that does not have everybody.
    unknown: Vec<&'a String>,
    missing: Vec<&'a String>,
}

impl<'a> Voters<'a> {
    fn sort(object: &Located, status: &MultiClusterStatus, voters: &'a [String]) -> Self {
        let lists_all = status.lists_all_members();
        let mut sorted = Self { all: voters.len(), ..Self::default() };
        for voter in voters {
            let row = status.members.iter().find(|member| member.name == *voter);
            match row.map(|member| member.state.as_str()) {
                _ if *voter == object.name => sorted.there += 1,
                Some("Alive") => sorted.there += 1,
                Some("Suspect") => sorted.suspect.push(voter),
                None if !lists_all => sorted.unknown.push(voter),
                _ => sorted.missing.push(voter),
            }
        }
        sorted
    }

    /// Who does not answer, and how that is known.
    fn absent(&self) -> String {
        let groups = [("missing", &self.missing), ("Suspect", &self.suspect), ("not known", &self.unknown)];
        let groups = groups.into_iter().filter(|(_, group)| !group.is_empty());
        let groups: Vec<_> = groups.map(|(word, group)| format!("{word}: {}", names(group))).collect();
        groups.join("; ")
    }

    /// What to do about it, the worst first.
    fn hint(&self, object: &Located) -> String {
        let (name, kubectl) = (&object.name, object.kubectl());
        if !self.missing.is_empty() {
            let missing = names(&self.missing);
            return format!(
                "start {missing}, or mend its links; how {name} sees it: {kubectl} describe mc {name}"
            );
        }
        if !self.suspect.is_empty() {
            return "who is Suspect is Alive or Down within seconds: run the check again".into();
        }
        format!(
            "the status of {name} lists {} members, voters first: {name} never heard who is not listed, or its daemon is \
             older than that: update it",
            MultiClusterStatus::MAX_MEMBERS
        )
    }
}

fn presence(callsign: &str, object: &Located, voters: &Voters<'_>) -> Finding {
    let Voters { all, there, .. } = *voters;
    if there == all {
        let message = format!("{callsign}: all {all} voters answer; {} may be lost", tolerated(all));
        return Finding::ok(Topic::Voters, message);
    }
    let who = format!("{callsign}: {there} of {all} voters answer {} ({})", object.name, voters.absent());
    let hint = voters.hint(object);
    let needed = majority(all);
    if all - voters.missing.len() < needed {
        return Finding::fail(Topic::Voters, format!("{who}: nobody can lead without {needed}"), hint);
    }
    let outlook = match there.checked_sub(needed) {
        None => format!("nobody can lead without {needed}, and it is not certain that they are there"),
        Some(0) => "with one less nobody can lead".into(),
        Some(spare) => format!("{spare} more may be lost"),
    };
    Finding::warn(Topic::Voters, format!("{who}: {outlook}"), hint)
}

fn names(members: &[&String]) -> String {
    members.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "voters_tests.rs"]
mod tests;
