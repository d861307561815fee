//! What the status claims about two payloads at once: whether it can happen, what the API server checks against it, and
//! whether the settings that decide it are in force.

use flagship_k8s_api::{ConditionType, Settings};
use flagship_node::{MemberSnapshot, Snapshot, State};
use flagship_types::{MemberName, Mode, Role};

use crate::fence::Fence;
use crate::happenings;
use crate::judge::{judgement, names, unknown};
use crate::second::Second;
use crate::status::View;
use crate::status_writer::Judgement;

/// Whether two clusters can run the payload at once.
pub(crate) fn split_brain_protected(view: &View<'_>) -> Judgement {
    let which = ConditionType::SplitBrainProtected;
    if let Some(snapshot) = view.snapshot.filter(|snapshot| !snapshot.other_leaders.is_empty()) {
        let others = names(&snapshot.other_leaders.iter().collect::<Vec<_>>());
        let message = format!("{others} leads too: one of the two gives up its payload now");
        return judgement(which, false, "SplitBrain", message);
    }
    let Some(snapshot) = view.snapshot else {
        return judgement(which, false, "NotStarted", "this member does not take part in its fleet yet");
    };
    if snapshot.config.mode == Mode::Availability {
        let message = "the fleet runs in Availability mode: members that cannot reach each other each elect a leader, and \
                       both payloads run until they meet again. To be protected: spec.election.mode Quorum with an odd \
                       number of spec.election.voters (a witness may be one), and two replicas of the daemon";
        return judgement(which, false, "Availability", message);
    }
    let unbound = others_without(snapshot, |member| member.quorum);
    if !unbound.is_empty() {
        let message = format!(
            "not known to have stored that the fleet is in mode Quorum: {}. Until then a lead there may need no majority, \
             and a payload may run there",
            names(&unbound)
        );
        return judgement(which, false, "NotStoredByAll", message);
    }
    let granted = "a majority of the voters grants the lead";
    let alone = "a payload that runs here goes on while another cluster takes over";
    let remedy = remedy(snapshot);
    match view.second {
        Second::On { node } => {
            let message = format!(
                "{granted}, and should this replica die or hang, the one on node {node} goes on or stops the payload in time. Not if both are lost or no API server answers here"
            );
            judgement(which, true, "SecondReplica", message)
        }
        Second::Missing { .. } | Second::Beside { .. } | Second::Unknown if is_fenced_off(snapshot) => {
            let message = format!(
                "{granted}, and every other member that may lead is promoted only after its spec.hooks.beforePromote has \
                 fenced this one off"
            );
            judgement(which, true, "FencingHook", message)
        }
        Second::Missing { here } => {
            let message = format!(
                "{granted}, but should the only replica of the daemon here, on node {here}, die or hang, {alone}: run a \
                 second one on another node (kubectl --namespace kube-vip-multi-cluster-system scale deployment \
                 kube-vip-multi-cluster-controller-manager --replicas=2). {remedy}"
            );
            judgement(which, false, "OneReplica", message)
        }
        Second::Beside { here: Some(here) } => {
            let message = format!(
                "{granted}, and should this replica die or hang, the other one goes on or stops the payload in time. But as \
                 far as is known both are on node {here}, and should that die or hang, {alone}: let one of the two run on \
                 another node, and give each its node's name in NODE_NAME, as deploy/manager.yaml does. {remedy}"
            );
            judgement(which, false, "OneNode", message)
        }
        Second::Beside { here: None } => {
            let message = format!(
                "{granted}, and a second replica of the daemon is ready, but whether on another node is not known, and \
                 should both run on one that dies or hangs, {alone}: give each its node's name in NODE_NAME, as \
                 deploy/manager.yaml does. {remedy}"
            );
            judgement(which, false, "NodeUnknown", message)
        }
        Second::Unknown => {
            let message = format!(
                "{granted}, but whether a second replica of the daemon is ready is not known, and should this one die or \
                 hang without one, {alone}: give the daemon its node's name in NODE_NAME, as deploy/manager.yaml does. \
                 {remedy}"
            );
            judgement(which, false, "NodeUnknown", message)
        }
    }
}

/// Whether somebody else may lead, and everybody who may fences this member off before.
fn is_fenced_off(snapshot: &Snapshot) -> bool {
    others_that_may_lead(snapshot).next().is_some() && unfenced(snapshot).is_empty()
}

/// What helps without a second replica of the daemon, and who stands in its way.
fn remedy(snapshot: &Snapshot) -> String {
    let remedy = "Or fence the old leader off before another one is promoted (spec.hooks.beforePromote of each other member)";
    let unfenced = unfenced(snapshot);
    match unfenced.len() < others_that_may_lead(snapshot).count() {
        true => format!("{remedy}: {} would be promoted without", names(&unfenced)),
        false => remedy.to_owned(),
    }
}

/// Who may be promoted while the payload goes on here, not knowing of it.
fn unfenced(snapshot: &Snapshot) -> Vec<&MemberName> {
    others_without(snapshot, |member| member.fences)
}

/// Those others that may lead and are not known to be so.
fn others_without(snapshot: &Snapshot, is_so: impl Fn(&MemberSnapshot) -> bool) -> Vec<&MemberName> {
    let others = others_that_may_lead(snapshot);
    others.filter(|(_, member)| !member.is_some_and(&is_so)).map(|(name, _)| name).collect()
}

/// Who may lead beside or after this member, and what is known of it. One that is not alive may come back other than it
/// went, and of one that was not heard yet nothing is known: both may. A witness never does.
fn others_that_may_lead(snapshot: &Snapshot) -> impl Iterator<Item = (&MemberName, Option<&MemberSnapshot>)> {
    let is_listed = |name: &MemberName| snapshot.members.iter().any(|member| member.name == *name);
    let may_lead = |member: &&MemberSnapshot| match (member.state, member.role) {
        (State::Left, _) | (_, Some(Role::Witness)) => false,
        (State::Alive, Some(role)) => member.candidate || role == Role::Leader,
        _ => true,
    };
    let members = snapshot.members.iter().filter(may_lead).map(|member| (&member.name, Some(member)));
    let unheard = snapshot.config.voters.iter().filter(move |voter| !is_listed(voter));
    let all = members.chain(unheard.map(|voter| (voter, None)));
    all.filter(|(name, _)| **name != snapshot.member)
}

/// Only if it is asked for.
pub(crate) fn fenced(fence: &Fence) -> Option<Judgement> {
    let which = ConditionType::Fenced;
    match fence {
        Fence::Off => None,
        Fence::Pending => {
            Some(judgement(which, false, "NotYet", "the admission policy is being written to the API server"))
        }
        Fence::Up { tells_processes: true } => {
            let message = "the API server refuses writes to the payload by another process of this member than the one that \
                           serves it, and of an older term";
            Some(judgement(which, true, "AdmissionPolicy", message))
        }
        Fence::Up { tells_processes: false } => {
            let message = "the API server refuses writes to the payload of an older term. It cannot tell processes of this \
                           member apart, as this daemon's token is of no pod";
            Some(judgement(which, true, "TermOnly", message))
        }
        Fence::Missing { reason, message } => Some(judgement(which, false, reason, message.clone())),
    }
}

/// Whether the fleet goes by what this object asks for.
pub(crate) fn config_in_force(view: &View<'_>) -> Judgement {
    let which = ConditionType::ConfigInForce;
    let Some(snapshot) = view.snapshot else {
        return unknown(which, "NotStarted", "this member does not take part in its fleet yet");
    };
    if let Some(conflict) = &snapshot.config_conflict {
        return judgement(which, false, "Differs", conflict.clone());
    }
    if let Some(because) = &snapshot.voters_refused {
        let message = format!(
            "spec.election of this object, which leads, is not in force yet: {because}. Until that changes: {}",
            happenings::election_mode(&snapshot.config)
        );
        return judgement(which, false, "VotersRefused", message);
    }
    let equal = "the fleet uses this object's election settings";
    // What is asked for, not what is in force: on the way there the voters are an even number at every second step.
    let even = view.settings.and_then(Settings::warns_of_even_voters);
    let warning = even.as_ref().map(|even| format!(". But {even}")).unwrap_or_default();
    match snapshot.config_missing.as_slice() {
        [] if even.is_some() => judgement(which, true, "EvenVoters", format!("{equal}{warning}")),
        [] => judgement(which, true, "Equal", equal),
        missing => {
            let missing = names(&missing.iter().collect::<Vec<_>>());
            let message = format!("{equal}; not stored yet by {missing}{warning}");
            judgement(which, true, "NotStoredByAll", message)
        }
    }
}

#[cfg(test)]
#[path = "protection_tests.rs"]
mod tests;
