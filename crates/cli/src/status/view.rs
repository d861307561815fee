//! What the clusters say, put together by fleet.

use std::collections::{BTreeMap, BTreeSet};

use flagship_k8s_api::{ConditionType, MemberStatus, MultiCluster, ObjectState, conditions};
use jiff::Timestamp;
use serde::Serialize;

/// What a cluster answered.
pub(crate) struct Answer {
    pub(crate) context: String,
    /// Its objects, or why there are none.
    pub(crate) objects: Result<Vec<MultiCluster>, String>,
}

/// Everything that `flagship status` knows. The shape of `-o json` and `-o yaml`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusView {
    /// Fleets, by callsign.
    pub(crate) fleets: Vec<FleetView>,
    /// Clusters that could not be asked.
    pub(crate) unreachable: Vec<UnreachableView>,
    /// Clusters that answered and hold no MultiCluster where it was looked.
    pub(crate) empty: Vec<String>,
}

/// A cluster that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UnreachableView {
    /// Its context.
    pub(crate) context: String,
    /// Why, and what to do.
    pub(crate) reason: String,
}

/// One fleet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetView {
    /// Its name; empty for objects without one.
    pub(crate) callsign: String,
    /// Who leads by its own account; more than one is a split, none may be an election.
    pub(crate) leaders: Vec<LeaderView>,
    /// Whom the members follow, if none of the clusters asked holds the leader.
    pub(crate) followed: Option<String>,
    /// The highest term seen.
    pub(crate) term: i64,
    /// What does not fit together, worst first.
    pub(crate) alarms: Vec<String>,
    /// The members.
    pub(crate) members: Vec<MemberView>,
    /// What happened lately, oldest first.
    pub(crate) history: Vec<HistoryView>,
}

/// A member that says it leads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LeaderView {
    /// Its name.
    pub(crate) member: String,
    /// Under which term.
    pub(crate) term: i64,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberView {
    /// Its name.
    pub(crate) member: String,
    /// The context that holds its object; `None`: known from others only.
    pub(crate) context: Option<String>,
    /// The object's namespace.
    pub(crate) namespace: Option<String>,
    /// Its role by its own account, else by that of others.
    pub(crate) role: Option<String>,
    /// Its rank.
    pub(crate) rank: Option<i64>,
    /// Its own word on whether all is well.
    pub(crate) ready: Option<bool>,
    /// Objects of the payload that are ready, and all.
    pub(crate) payload: Option<PayloadView>,
    /// How the leader (or whoever knows) sees it.
    pub(crate) seen: Option<SeenView>,
    /// Where others reach it.
    pub(crate) address: Option<String>,
    /// Whom it follows.
    pub(crate) leader: Option<String>,
    /// Its term.
    pub(crate) term: Option<i64>,
    /// Who serves it.
    pub(crate) holder: Option<String>,
    /// Conditions that are not fine.
    pub(crate) conditions: Vec<ConditionView>,
}

/// How much of the payload is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PayloadView {
    /// Ready objects.
    pub(crate) ready: usize,
    /// All objects in the inventory.
    pub(crate) total: usize,
}

/// How others see a member.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SeenView {
    /// Who sees it so.
    pub(crate) by: String,
    /// Alive, Suspect, Away, Down or Left.
    pub(crate) state: String,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
}

/// A condition that is not fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ConditionView {
    /// Which.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its status.
    pub(crate) status: String,
    /// Why, in one word.
    pub(crate) reason: String,
    /// Why, in a sentence.
    pub(crate) message: String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HistoryView {
    /// When.
    pub(crate) time: Timestamp,
    /// Who says so.
    pub(crate) member: String,
    /// What, in one word.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Under which term.
    pub(crate) term: i64,
    /// A sentence.
    pub(crate) message: String,
}

/// History shown per fleet: what fits on a screen beside the members.
const MAX_HISTORY: usize = 8;

struct Found<'a> {
    context: &'a str,
    name: String,
    object: &'a MultiCluster,
}

impl StatusView {
    pub(crate) fn new(answers: &[Answer]) -> Self {
        let mut fleets: BTreeMap<String, Vec<Found<'_>>> = BTreeMap::new();
        let mut unreachable = Vec::new();
        let mut empty = Vec::new();
        for answer in answers {
            match &answer.objects {
                Err(reason) => {
                    unreachable
                        .push(UnreachableView { context: answer.context.clone(), reason: reason.clone() });
                }
                Ok(objects) if objects.is_empty() => empty.push(answer.context.clone()),
                Ok(objects) => {
                    for object in objects {
                        let name = object.metadata.name.clone().unwrap_or_default();
                        let callsign = object.spec.callsign.clone().unwrap_or_default();
                        fleets.entry(callsign).or_default().push(Found {
                            context: &answer.context,
                            name,
                            object,
                        });
                    }
                }
            }
        }
        let fleets = fleets.into_iter().map(|(callsign, found)| fleet(callsign, &found)).collect();
        Self { fleets, unreachable, empty }
    }
}

fn fleet(callsign: String, found: &[Found<'_>]) -> FleetView {
    let leaders: Vec<LeaderView> = found.iter().filter_map(leader).collect();
    let followed = followed(found, &leaders);
    // Whoever leads is asked first about the others, then the rest in the order of their names.
    let authority = leaders.iter().max_by_key(|leader| leader.term).map(|leader| leader.member.clone());
    let mut members: Vec<MemberView> =
        found.iter().map(|one| member(one, found, authority.as_deref())).collect();
    members.extend(known_from_others(found, authority.as_deref()));
    members.sort_by(|a, b| b.rank.cmp(&a.rank).then_with(|| a.member.cmp(&b.member)));
    let mut history: Vec<HistoryView> = found.iter().flat_map(history).collect();
    history.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.member.cmp(&b.member)));
    history.drain(..history.len().saturating_sub(MAX_HISTORY));
    let term = found.iter().filter_map(|one| one.object.status.as_ref()?.term).max().unwrap_or_default();
    let alarms = alarms(&callsign, found, &leaders, &members);
    FleetView { callsign, leaders, followed, term, alarms, members, history }
}

fn leader(found: &Found<'_>) -> Option<LeaderView> {
    let status = found.object.status.as_ref()?;
    let leads = status.leading || status.role.as_deref() == Some("Leader");
    let term = status.held_term.or(status.term).unwrap_or_default();
    leads.then(|| LeaderView {
        member: found.name.clone(),
        term,
        since: status.lead_since.as_ref().map(|time| time.0),
    })
}

fn followed(found: &[Found<'_>], leaders: &[LeaderView]) -> Option<String> {
    if !leaders.is_empty() {
        return None;
    }
    let newest =
        found.iter().filter_map(|one| one.object.status.as_ref()).max_by_key(|status| status.term)?;
    newest.leader.clone().filter(|leader| !found.iter().any(|one| one.name == *leader))
}

fn member(found: &Found<'_>, all: &[Found<'_>], authority: Option<&str>) -> MemberView {
    let object = found.object;
    let status = object.status.clone().unwrap_or_default();
    let has_status = object.status.is_some();
    let total = status.inventory.len();
    let ready = status.inventory.iter().filter(|entry| entry.state == ObjectState::Ready).count();
    let own_address = object
        .located_settings()
        .ok()
        .and_then(|settings| settings.advertised)
        .map(|address| address.to_string());
    MemberView {
        member: found.name.clone(),
        context: Some(found.context.into()),
        namespace: object.metadata.namespace.clone(),
        role: status.role,
        rank: Some(object.spec.rank),
        ready: has_status.then(|| conditions::is_true(&status.conditions, ConditionType::Ready)),
        payload: (total > 0).then_some(PayloadView { ready, total }),
        seen: seen(&found.name, all, authority).map(|(seen, _)| seen),
        address: own_address,
        leader: status.leader,
        term: status.term,
        holder: status.holder,
        conditions: troubles(object),
    }
}

/// How the authority, else the first other member that knows it, sees a member.
fn seen(name: &str, all: &[Found<'_>], authority: Option<&str>) -> Option<(SeenView, MemberStatus)> {
    let others = all.iter().filter(|one| one.name != name);
    let mut others: Vec<&Found<'_>> = others.collect();
    others.sort_by_key(|one| (Some(one.name.as_str()) != authority, one.name.clone()));
    others.into_iter().find_map(|one| {
        let status = one.object.status.as_ref()?;
        let row = status.members.iter().find(|member| member.name == name)?;
        let since = row.since.as_ref().map(|time| time.0);
        Some((SeenView { by: one.name.clone(), state: row.state.clone(), since }, row.clone()))
    })
}

fn known_from_others(found: &[Found<'_>], authority: Option<&str>) -> Vec<MemberView> {
    let statuses = found.iter().filter_map(|one| one.object.status.as_ref());
    let names: BTreeSet<&str> =
        statuses.flat_map(|status| &status.members).map(|member| member.name.as_str()).collect();
    let unknown = names.into_iter().filter(|name| !found.iter().any(|one| one.name == *name));
    let views = unknown.filter_map(|name| {
        let (seen, row) = seen(name, found, authority)?;
        Some(MemberView {
            member: name.into(),
            context: None,
            namespace: None,
            role: row.role,
            rank: row.rank,
            ready: None,
            payload: None,
            seen: Some(seen),
            address: row.address,
            leader: None,
            term: None,
            holder: None,
            conditions: Vec::new(),
        })
    });
    views.collect()
}

/// Conditions that somebody should read. Availability mode is never SplitBrainProtected: no news.
fn troubles(object: &MultiCluster) -> Vec<ConditionView> {
    let Some(status) = &object.status else {
        return vec![ConditionView {
            kind: "Ready".into(),
            status: "Unknown".into(),
            reason: "NoStatus".into(),
            message: "no daemon has written a status: is flagship running in this cluster?".into(),
        }];
    };
    let leads = status.leading;
    let fine_when = |kind: &str| match kind {
        "Stalled" | "Reconciling" => Some("False"),
        "Ready" | "Joined" | "ConfigInForce" => Some("True"),
        "PayloadApplied" if leads => Some("True"),
        _ => None,
    };
    let bad = status
        .conditions
        .iter()
        .filter(|condition| fine_when(&condition.type_).is_some_and(|fine| condition.status != fine));
    let views = bad.map(|condition| ConditionView {
        kind: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    });
    views.collect()
}

fn history(found: &Found<'_>) -> Vec<HistoryView> {
    let entries = found.object.status.iter().flat_map(|status| &status.history);
    let views = entries.map(|entry| HistoryView {
        time: entry.time.0,
        member: found.name.clone(),
        kind: entry.kind.clone(),
        term: entry.term,
        message: entry.message.clone(),
    });
    views.collect()
}

fn alarms(
    callsign: &str,
    found: &[Found<'_>],
    leaders: &[LeaderView],
    members: &[MemberView],
) -> Vec<String> {
    let mut alarms = Vec::new();
    if callsign.is_empty() {
        alarms.push("no callsign: set spec.callsign to the name of the fleet".into());
        return alarms;
    }
    if leaders.len() > 1 {
        let names: Vec<String> =
            leaders.iter().map(|leader| format!("{} (term {})", leader.member, leader.term)).collect();
        alarms.push(format!(
            "TWO LEADERS AT ONCE: {}. The payload runs in both clusters until they meet again",
            names.join(" and ")
        ));
    }
    for (at, one) in found.iter().enumerate() {
        if let Some(other) = found[..at].iter().find(|other| other.name == one.name) {
            alarms.push(format!(
                "ONE NAME TWICE: {} in {} and in {}; rename one of the two objects",
                one.name, other.context, one.context
            ));
        }
    }
    if let [leader] = leaders {
        let follows_another = |member: &&MemberView| {
            member.context.is_some()
                && member.member != leader.member
                && member.leader.as_ref().is_some_and(|l| *l != leader.member)
        };
        for member in members.iter().filter(follows_another) {
            let followed = member.leader.as_deref().unwrap_or_default();
            alarms.push(format!("{} follows {followed}, not {}", member.member, leader.member));
        }
    }
    alarms
}
