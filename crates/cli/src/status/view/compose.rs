//! The answers of the clusters, put together by fleet: who leads, who is silent, what does not fit together.

use std::collections::{BTreeMap, BTreeSet};

use flagship_k8s_api::{
    ConditionType, MULTICLUSTER_LABEL, MemberStatus, MultiCluster, MultiClusterStatus, ObjectState,
    conditions, owner_label,
};
use flagship_types::Role;
use jiff::Timestamp;

use super::{
    Answer, ConditionView, FleetView, HistoryView, LeaderView, LedLastView, MemberView, PauseView,
    PayloadView, SeenView, StatusView, UnreachableView,
};
use crate::liveness::{
    Renewal, Silence, Witness, age, explain, forgot, left_behind, next, says_it_leads, silence, start,
};

/// History shown per fleet: what fits on a screen beside the members.
const MAX_HISTORY: usize = 8;
/// The reason of a member that is Ready because it is left alone.
const SUSPENDED: &str = "Suspended";

/// Reasons of a configuration that is in force, and not known to all yet, or no better than with one voter less.
const LESS_THAN_GOOD: [&str; 2] = ["NotStoredByAll", "EvenVoters"];
/// Reasons to know of, not to worry.
pub(in crate::status) const MILD: [&str; 3] = [SUSPENDED, LESS_THAN_GOOD[0], LESS_THAN_GOOD[1]];

struct Found<'a> {
    context: &'a str,
    kubectl: &'a str,
    name: String,
    object: &'a MultiCluster,
    renewal: Renewal,
    /// Set if its status is no news.
    silence: Option<Silence>,
    /// By the word of another member of its fleet.
    forgotten: bool,
}

impl Found<'_> {
    fn witness(&self) -> Witness<'_> {
        Witness { name: &self.name, status: self.object.status.as_ref(), renewal: self.renewal }
    }

    /// Its status, unless that is no news.
    fn fresh(&self) -> Option<&MultiClusterStatus> {
        self.object.status.as_ref().filter(|_| self.silence.is_none())
    }
}

impl StatusView {
    pub(crate) fn new(answers: &[Answer], now: Timestamp) -> Self {
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
                    for (object, renewal) in objects {
                        let name = object.metadata.name.clone().unwrap_or_default();
                        let callsign = object.spec.callsign.clone().unwrap_or_default();
                        fleets.entry(callsign).or_default().push(Found {
                            context: &answer.context,
                            kubectl: &answer.kubectl,
                            name,
                            object,
                            renewal: *renewal,
                            silence: None,
                            forgotten: false,
                        });
                    }
                }
            }
        }
        let fleets = fleets.into_iter().map(|(callsign, found)| fleet(callsign, found, now)).collect();
        Self { fleets, unreachable, empty }
    }
}

fn fleet(callsign: String, mut found: Vec<Found<'_>>, now: Timestamp) -> FleetView {
    mark(&mut found);
    let found = found.as_slice();
    let leaders: Vec<LeaderView> = found.iter().filter_map(leader).collect();
    let followed = followed(found, &leaders);
    let led_last = if leaders.is_empty() && followed.is_none() { led_last(found) } else { None };
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
    let pause = pause(found);
    let mut alarms = alarms(&callsign, found, &leaders, &members, now);
    if let Some(pause) = &pause {
        alarms.insert(0, paused(pause, now));
    }
    FleetView { callsign, leaders, followed, led_last, term, pause, alarms, members, history }
}

/// The pause that the newest configuration has, whoever stored it.
fn pause(found: &[Found<'_>]) -> Option<PauseView> {
    let configs = found.iter().filter_map(|one| one.object.status.as_ref()?.configuration.as_ref());
    let newest = configs.max_by_key(|config| config.version)?;
    let pause = newest.pause.as_ref()?;
    Some(PauseView { since: Timestamp::from_millisecond(pause.since_ms).ok(), reason: pause.reason.clone() })
}

fn paused(pause: &PauseView, now: Timestamp) -> String {
    let since = pause
        .since
        .map(|since| format!(" since {} ({} ago)", since.strftime("%Y-%m-%d %H:%M:%SZ"), age(now, since)));
    format!(
        "PAUSED by an operator{}: {}. No failure, rank or health moves the lead until: flagship resume",
        since.unwrap_or_default(),
        pause.reason
    )
}

/// Finds out whose status is no news, and who was forgotten by those whose status is.
fn mark(found: &mut [Found<'_>]) {
    let witnesses: Vec<Witness<'_>> = found.iter().map(Found::witness).collect();
    let silences: Vec<Option<Silence>> = witnesses.iter().map(|one| silence(one, &witnesses)).collect();
    for (one, silence) in found.iter_mut().zip(silences) {
        one.silence = silence;
    }
    let forgotten: Vec<bool> = found.iter().map(|one| is_forgotten(&one.name, found)).collect();
    for (one, forgotten) in found.iter_mut().zip(forgotten) {
        one.forgotten = forgotten;
    }
}

fn is_forgotten(name: &str, found: &[Found<'_>]) -> bool {
    let mut others = found.iter().filter(|one| one.name != name).filter_map(Found::fresh);
    others.any(|status| forgot(status, name))
}

/// The newest of those that led when they last wrote and whose stop was not carried out.
fn led_last(found: &[Found<'_>]) -> Option<LedLastView> {
    let led = found.iter().filter_map(|one| {
        let status = one.object.status.as_ref()?;
        let payload_objects = left_behind(status);
        Some(LedLastView { member: one.name.clone(), term: status.held_term?, payload_objects })
    });
    led.max_by_key(|led| led.term)
}

fn leader(found: &Found<'_>) -> Option<LeaderView> {
    let status = found.fresh()?;
    let term = status.held_term.or(status.term).unwrap_or_default();
    says_it_leads(status).then(|| LeaderView {
        member: found.name.clone(),
        term,
        since: status.lead_since.as_ref().map(|time| time.0),
    })
}

fn followed(found: &[Found<'_>], leaders: &[LeaderView]) -> Option<String> {
    if !leaders.is_empty() {
        return None;
    }
    let newest = found.iter().filter_map(Found::fresh).max_by_key(|status| status.term)?;
    newest.leader.clone().filter(|leader| !found.iter().any(|one| one.name == *leader))
}

fn member(found: &Found<'_>, all: &[Found<'_>], authority: Option<&str>) -> MemberView {
    let object = found.object;
    let status = object.status.clone().unwrap_or_default();
    let may_lead = found.silence.is_some_and(|silence| silence.may_lead(&status));
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
        // What a dead daemon said last of others is old.
        seen: seen(&found.name, all, authority)
            .map(|(seen, _)| seen)
            .filter(|seen| all.iter().any(|one| one.name == seen.by && one.silence.is_none())),
        address: own_address,
        leader: status.leader,
        term: status.term,
        holder: status.holder,
        worst_case_failover: status.worst_case_failover_seconds.filter(|_| found.silence.is_none()),
        daemon_down: found.silence.is_some(),
        may_lead,
        forgotten: found.forgotten,
        conditions: troubles(object, found.kubectl),
    }
}

/// How the authority, else the first other member that knows it, sees a member.
fn seen(name: &str, all: &[Found<'_>], authority: Option<&str>) -> Option<(SeenView, MemberStatus)> {
    let others = all.iter().filter(|one| one.name != name);
    let mut others: Vec<&Found<'_>> = others.collect();
    // The dead are asked last: what they say is old.
    others.sort_by_key(|one| (Some(one.name.as_str()) != authority, one.silence.is_some(), one.name.clone()));
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
            // A witness never leads: its rank is nothing.
            rank: row.rank.filter(|_| row.role.as_deref() != Some(Role::Witness.as_str())),
            role: row.role,
            ready: None,
            payload: None,
            seen: Some(seen),
            address: row.address,
            leader: None,
            term: None,
            holder: None,
            worst_case_failover: None,
            daemon_down: false,
            may_lead: false,
            forgotten: is_forgotten(name, found),
            conditions: Vec::new(),
        })
    });
    views.collect()
}

/// Conditions that somebody should read. Availability mode is never SplitBrainProtected: no news, unlike in Quorum.
fn troubles(object: &MultiCluster, kubectl: &str) -> Vec<ConditionView> {
    let Some(status) = &object.status else {
        return vec![ConditionView {
            kind: "Ready".into(),
            status: "Unknown".into(),
            reason: "NoStatus".into(),
            message: format!(
                "no daemon has written a status: is flagship running in this cluster? {}",
                start(kubectl)
            ),
        }];
    };
    let leads = status.leading;
    let quorum = status.configuration.as_ref().is_some_and(|config| config.mode == "Quorum");
    let fine_when = |kind: &str| match kind {
        "Stalled" | "Reconciling" => Some("False"),
        "Ready" | "Joined" | "ConfigInForce" | "Fenced" => Some("True"),
        "SplitBrainProtected" if quorum => Some("True"),
        "PayloadApplied" if leads => Some("True"),
        _ => None,
    };
    // Who was suspended on purpose is fine, and must not be forgotten; nor what can be better.
    let bad = status.conditions.iter().filter(|condition| {
        (condition.type_ == "Ready" && condition.reason == SUSPENDED)
            || LESS_THAN_GOOD.contains(&condition.reason.as_str())
            || fine_when(&condition.type_).is_some_and(|fine| condition.status != fine)
    });
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
    now: Timestamp,
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
    alarms.extend(found.iter().filter_map(|one| old_news(one, now)));
    alarms.extend(found.iter().filter_map(|one| forgotten_and_alive(one, found)));
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
                && !member.daemon_down
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

/// An operator's word that turns out to be wrong: it is taken back by itself, if nothing keeps the two apart.
fn forgotten_and_alive(one: &Found<'_>, found: &[Found<'_>]) -> Option<String> {
    let by = |other: &&Found<'_>| {
        other.name != one.name && other.fresh().is_some_and(|status| forgot(status, &one.name))
    };
    let by: Vec<&str> = found.iter().filter(by).map(|other| other.name.as_str()).collect();
    (one.renewal == Renewal::Recent && !by.is_empty()).then(|| {
        format!(
            "{} was forgotten by {}, and its daemon runs: it is a member again as soon as one of them reaches the other; what \
             keeps them apart is shown by: flagship check",
            one.name,
            by.join(", ")
        )
    })
}

/// What the status of a silent daemon may hide. Whoever forgot it knows that it is gone, but not its payload.
fn old_news(one: &Found<'_>, now: Timestamp) -> Option<String> {
    let (silence, status) = (one.silence?, one.object.status.as_ref()?);
    let what = explain(&one.name, status, silence, now);
    if !one.forgotten {
        return Some(format!("{what}. {}", next(silence, one.kubectl)));
    }
    let namespace = one.object.metadata.namespace.as_deref().unwrap_or_default();
    let label = owner_label(namespace, &one.name);
    (silence.may_lead(status) || left_behind(status) > 0).then(|| {
        format!(
            "{what}. It was forgotten, so nobody waits for it; what it applied and still runs is shown by: {} get all -A -l \
             {MULTICLUSTER_LABEL}={label}",
            one.kubectl
        )
    })
}
