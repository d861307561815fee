//! Whether the objects of a fleet fit together: names, addresses, settings, payload.

use std::collections::{BTreeMap, BTreeSet};

use flagship_k8s_api::{ConditionType, MultiCluster, MultiClusterStatus, Settings, conditions};
use flagship_payload::Manifest;
use jiff::Timestamp;

use super::report::{Finding, Topic};
use crate::liveness::{Cause, Renewal, Silence, Witness, explain, forgot, next, silence, start};
use crate::style::counted;

/// An object, where it was found, and its payload as far as it could be read.
pub(crate) struct Located {
    pub(crate) context: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) object: MultiCluster,
    pub(crate) payload: Result<Vec<Manifest>, String>,
    pub(crate) renewal: Renewal,
    /// Where its daemon keeps its Lease, if that is known.
    pub(crate) lease_namespace: Option<String>,
    /// How a command for its cluster begins.
    pub(crate) cluster: String,
}

impl Located {
    /// How a command for its namespace begins.
    pub(crate) fn kubectl(&self) -> String {
        format!("{} -n {}", self.cluster, self.namespace)
    }

    pub(crate) fn callsign(&self) -> &str {
        self.object.spec.callsign.as_deref().unwrap_or_default()
    }

    fn witness(&self) -> Witness<'_> {
        Witness { name: &self.name, status: self.object.status.as_ref(), renewal: self.renewal }
    }

    /// Set if its status is no news, as far as all objects of its fleet tell.
    pub(crate) fn silence(&self, objects: &[Self]) -> Option<Silence> {
        let fleet = objects.iter().filter(|other| other.callsign() == self.callsign());
        let fleet: Vec<Witness<'_>> = fleet.map(Self::witness).collect();
        silence(&self.witness(), &fleet)
    }

    /// Whether its daemon is known to run, whatever others believe.
    pub(crate) fn runs(&self) -> bool {
        self.renewal == Renewal::Recent
    }

    /// Whether it was told that another one is gone for good.
    pub(crate) fn forgot(&self, other: &Self) -> bool {
        self.object.status.as_ref().is_some_and(|status| forgot(status, &other.name))
    }

    /// Whether a member whose word counts was told that this one is gone for good.
    pub(crate) fn is_forgotten(&self, objects: &[Self]) -> bool {
        let fleet =
            objects.iter().filter(|other| other.callsign() == self.callsign() && other.name != self.name);
        let mut fresh = fleet.filter(|other| other.silence(objects).is_none());
        fresh.any(|other| other.forgot(self))
    }
}

/// Every finding about the objects, fleet by fleet.
pub(crate) fn check(objects: &[Located]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fleets: BTreeMap<&str, Vec<(&Located, Settings)>> = BTreeMap::new();
    for object in objects {
        match object.object.located_settings() {
            Ok(settings) => fleets.entry(object.callsign()).or_default().push((object, settings)),
            Err(errors) => findings.extend(errors.iter().map(|error| {
                Finding::fail(Topic::Objects, format!("{}: {error}", object.name), edit(object))
            })),
        }
        findings.extend(state(object, object.silence(objects)));
    }
    for (callsign, members) in &fleets {
        findings.extend(names(callsign, members));
        findings.extend(meeting(callsign, members));
        findings.extend(settings(callsign, members));
        findings.extend(voters(callsign, members));
        findings.extend(payloads(callsign, members));
        findings.extend(leaders(callsign, members, objects));
        findings.extend(heirs(callsign, members, objects));
    }
    findings
}

fn edit(object: &Located) -> String {
    format!("{} edit mc {}", object.kubectl(), object.name)
}

fn describe(object: &Located) -> String {
    format!("{} describe mc {}", object.kubectl(), object.name)
}

fn state(object: &Located, silence: Option<Silence>) -> Vec<Finding> {
    let mut findings = match (&object.object.status, silence) {
        (None, _) => {
            let message = format!("{}: no daemon has written a status", object.name);
            vec![Finding::fail(Topic::Objects, message, start(&object.cluster))]
        }
        (Some(status), Some(silence)) => {
            let message = explain(&object.name, status, silence, Timestamp::now());
            let hint = next(silence, &object.cluster);
            vec![match silence.cause {
                Cause::TakenOver => Finding::warn(Topic::Objects, message, hint),
                Cause::Lost { .. } | Cause::Stopped => Finding::fail(Topic::Objects, message, hint),
            }]
        }
        (Some(status), None) => said(object, status),
    };
    if let Err(error) = &object.payload {
        findings.push(Finding::fail(
            Topic::Objects,
            format!("{}: payload: {error}", object.name),
            edit(object),
        ));
    }
    findings
}

/// Reasons of a Ready condition that is not true, which waiting does not cure: a failover would stop there.
const UNFIT: [&str; 5] = ["GateClosed", "FailedAsLeader", "HookBlocks", "HookFailed", "NotReadyInTime"];

/// What its daemon says is wrong.
fn said(object: &Located, status: &MultiClusterStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(stalled) =
        conditions::get(&status.conditions, ConditionType::Stalled).filter(|c| c.status == "True")
    {
        let message = format!("{}: stalled: {}: {}", object.name, stalled.reason, stalled.message);
        findings.push(Finding::fail(Topic::Objects, message, describe(object)));
    }
    if let Some(unfit) = conditions::get(&status.conditions, ConditionType::Ready)
        .filter(|c| UNFIT.contains(&c.reason.as_str()))
    {
        let message = format!("{}: {}: {}", object.name, unfit.reason, unfit.message);
        findings.push(Finding::warn(Topic::Objects, message, describe(object)));
    }
    if let Some(conflict) =
        conditions::get(&status.conditions, ConditionType::ConfigInForce).filter(|c| c.status == "False")
    {
        let message = format!("{}: other election settings are in force: {}", object.name, conflict.message);
        findings.push(Finding::warn(Topic::Objects, message, edit(object)));
    }
    findings
}

type Members<'a> = [(&'a Located, Settings)];

fn names(callsign: &str, members: &Members<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let [(only, _)] = members {
        let message = format!("{callsign}: only {} was found: there is nothing to fail over to", only.name);
        let hint = "give the context of every cluster: flagship check --context A --context B";
        findings.push(Finding::warn(Topic::Objects, message, hint));
    }
    for (at, (one, settings)) in members.iter().enumerate() {
        for (other, others) in &members[..at] {
            if other.name == one.name {
                let message = format!(
                    "{callsign}: two members are called {} ({} and {})",
                    one.name, other.context, one.context
                );
                let hint = format!(
                    "make one of them anew under another name: {} delete mc {}",
                    one.kubectl(),
                    one.name
                );
                findings.push(Finding::fail(Topic::Objects, message, hint));
            } else if others.rank == settings.rank {
                let first = other.name.as_str().min(&one.name);
                let message = format!(
                    "{callsign}: {} and {} both have rank {}: in an election {first} is preferred",
                    other.name, one.name, settings.rank
                );
                findings.push(Finding::ok(Topic::Objects, message));
            }
        }
    }
    findings
}

/// Whether the members can find each other at all.
fn meeting(callsign: &str, members: &Members<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let advertised: BTreeSet<String> = members
        .iter()
        .filter_map(|(_, settings)| settings.advertised.as_ref())
        .map(ToString::to_string)
        .collect();
    for (object, settings) in members {
        for (at, seed) in settings.seeds.iter().enumerate() {
            if !advertised.contains(&seed.to_string()) {
                let message =
                    format!("{}: spec.fleet[{at}] {seed} is no found member's serviceAddress", object.name);
                findings.push(Finding::warn(Topic::Objects, message, edit(object)));
            }
        }
    }
    let lonely = members.len() > 1 && members.iter().all(|(_, settings)| settings.seeds.is_empty());
    if lonely {
        let message = format!("{callsign}: no member names another in spec.fleet: they never meet");
        let hint = match (members.iter().find(|(_, s)| s.advertised.is_some()), members.last()) {
            (Some((_, to)), Some((from, _))) => {
                let address = to.advertised.as_ref().map(ToString::to_string).unwrap_or_default();
                let patch = format!(r#"{{"spec":{{"fleet":["{address}"]}}}}"#);
                format!("{} patch mc {} --type merge -p '{patch}'", from.kubectl(), from.name)
            }
            _ => "set spec.serviceAddress of one member and name it in spec.fleet of the others".into(),
        };
        findings.push(Finding::fail(Topic::Objects, message, hint));
    }
    let silent: Vec<&Located> =
        members.iter().filter(|(_, s)| s.advertised.is_none()).map(|(o, _)| *o).collect();
    if let [first, second, ..] = silent.as_slice() {
        let message = format!(
            "{callsign}: {} and {} have no serviceAddress: neither can dial the other",
            first.name, second.name
        );
        let patch = r#"{"spec":{"serviceAddress":"ADDRESS"}}"#;
        let hint = format!("{} patch mc {} --type merge -p '{patch}'", second.kubectl(), second.name);
        findings.push(Finding::fail(Topic::Objects, message, hint));
    }
    if !members.iter().any(|(_, settings)| settings.ready) {
        let message =
            format!("{callsign}: no member has ready: true: after a start of all of them nobody may begin");
        let hint = members.first().map(|(object, _)| {
            format!(
                "{} patch mc {} --type merge -p '{}'",
                object.kubectl(),
                object.name,
                r#"{"spec":{"ready":true}}"#
            )
        });
        findings.push(Finding::warn(Topic::Objects, message, hint.unwrap_or_default()));
    }
    findings
}

fn settings(callsign: &str, members: &Members<'_>) -> Vec<Finding> {
    let Some(((first, reference), others)) = members.split_first() else { return Vec::new() };
    let different: Vec<&str> = others
        .iter()
        .filter(|(_, settings)| !settings.proposal.same_settings(&reference.proposal))
        .map(|(object, _)| object.name.as_str())
        .collect();
    if different.is_empty() {
        return vec![Finding::ok(
            Topic::Objects,
            format!("{callsign}: {}, equal election settings", counted(members.len(), "object")),
        )];
    }
    let message = format!(
        "{callsign}: {} and {} differ in spec.election: the leader's settings are in force",
        first.name,
        different.join(", ")
    );
    vec![Finding::warn(Topic::Objects, message, format!("make them equal: {}", edit(first)))]
}

/// An even number of voters, once for a fleet.
fn voters(callsign: &str, members: &Members<'_>) -> Option<Finding> {
    let mut warned = members
        .iter()
        .filter_map(|(object, settings)| settings.warns_of_even_voters().map(|warning| (object, warning)));
    let (object, warning) = warned.next()?;
    let hint = format!("in every object of the fleet: {}", edit(object));
    Some(Finding::warn(Topic::Objects, format!("{callsign}: {}: {warning}", object.name), hint))
}

fn payloads(callsign: &str, members: &Members<'_>) -> Vec<Finding> {
    let bodies = |object: &Located| {
        let manifests = object.payload.as_ref().ok()?;
        Some(manifests.iter().map(|manifest| manifest.body.clone()).collect::<Vec<_>>())
    };
    let Some(((first, _), others)) = members.split_first() else { return Vec::new() };
    let Some(reference) = bodies(first) else { return Vec::new() };
    let readable = others.iter().filter_map(|(object, _)| Some((*object, bodies(object)?)));
    let different: Vec<&str> =
        readable.filter(|(_, body)| *body != reference).map(|(object, _)| object.name.as_str()).collect();
    if different.is_empty() {
        return vec![Finding::ok(
            Topic::Objects,
            format!("{callsign}: equal payloads, {} each", counted(reference.len(), "object")),
        )];
    }
    let message =
        format!("{callsign}: the payload of {} differs from that of {}", different.join(", "), first.name);
    vec![Finding::warn(
        Topic::Objects,
        message,
        "a failover will change the workload; if that is not meant, make them equal",
    )]
}

/// Whether anybody could take over, by the leader's word.
fn heirs(callsign: &str, members: &Members<'_>, objects: &[Located]) -> Vec<Finding> {
    let statuses =
        || members.iter().filter_map(|(object, _)| Some((*object, object.object.status.as_ref()?)));
    let newest = statuses()
        .filter_map(|(_, status)| status.configuration.as_ref())
        .max_by_key(|config| config.version);
    let mut findings = Vec::new();
    if let Some(pause) = newest.and_then(|config| config.pause.as_ref()) {
        let message =
            format!("{callsign}: an operator paused the fleet ({}): nobody takes over", pause.reason);
        findings.push(Finding::fail(Topic::Objects, message, "flagship resume"));
    }
    let leader = statuses().find(|(object, status)| status.leading && object.silence(objects).is_none());
    let unfit =
        leader.into_iter().flat_map(|(_, status)| &status.members).filter_map(|row| row.unfit.as_ref());
    findings.extend(unfit.map(|unfit| {
        Finding::warn(
            Topic::Objects,
            format!("{callsign}: a member could not take the lead: {unfit}"),
            "flagship explain",
        )
    }));
    findings
}

fn leaders(callsign: &str, members: &Members<'_>, objects: &[Located]) -> Vec<Finding> {
    let leads = |(object, _): &&(&Located, Settings)| {
        let says_so = object.object.status.as_ref().is_some_and(|status| status.leading);
        says_so && object.silence(objects).is_none()
    };
    let leading: Vec<&str> = members.iter().filter(leads).map(|(object, _)| object.name.as_str()).collect();
    match leading.as_slice() {
        [one] => vec![Finding::ok(Topic::Objects, format!("{callsign}: {one} leads"))],
        [] => {
            let message = format!("{callsign}: none of the members found leads");
            vec![Finding::warn(Topic::Objects, message, "flagship status -w shows what they wait for")]
        }
        several => {
            let message = format!("{callsign}: {} lead at the same time", several.join(" and "));
            vec![Finding::fail(
                Topic::Objects,
                message,
                "restore the network between them (see links); they then settle it alone",
            )]
        }
    }
}
