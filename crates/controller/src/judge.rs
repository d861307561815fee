//! The conditions of a MultiCluster: for each, whether it holds, and a sentence that tells a tired person why.

use flagship_k8s_api::{ConditionType, HookPoint};
use flagship_node::{Directive, MemberSnapshot, Snapshot, State};
use flagship_types::{MemberName, Role};
use jiff::Timestamp;

use crate::happenings;
use crate::member;
use crate::progress::{Activity, Validity};
use crate::protection::{config_in_force, fenced, split_brain_protected};
use crate::request::Reachability;
use crate::status::{View, leads};
use crate::status_writer::Judgement;

/// Names listed in one sentence; the members list has the rest.
const MAX_NAMED: usize = 5;

/// All conditions. Reconciling and Stalled are kept only if true.
pub(crate) fn all(view: &View<'_>) -> Vec<Judgement> {
    let stalled = stalled(view);
    let reconciling = reconciling(view);
    let mut all = vec![
        ready(view, stalled.as_ref(), reconciling.as_ref()),
        joined(view),
        leading(view),
        payload_applied(view),
        split_brain_protected(view),
        config_in_force(view),
    ];
    all.extend(fenced(view.fence));
    all.extend(stalled);
    all.extend(reconciling);
    all.extend(paused_fleet(view));
    all
}

/// An operator stopped everything that moves the lead by itself: nobody who looks at any member may miss it.
fn paused_fleet(view: &View<'_>) -> Option<Judgement> {
    let snapshot = view.snapshot?;
    let pause = snapshot.config.pause.as_ref()?;
    let since = i64::try_from(pause.since_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let since = since.map(|at| format!(" since {}", at.strftime("%Y-%m-%d %H:%M:%SZ"))).unwrap_or_default();
    let missing = match snapshot.config_missing.as_slice() {
        [] => String::new(),
        missing => format!("; not stored yet by {}", names(&missing.iter().collect::<Vec<_>>())),
    };
    let message = format!(
        "an operator paused the fleet{since} ({}): no failure, rank or health moves the lead until: flagship resume{missing}",
        pause.reason
    );
    Some(judgement(ConditionType::Paused, true, "Operator", message))
}

/// Whether this says that all is well.
pub(crate) fn is_ready(judgement: &Judgement) -> bool {
    judgement.which == ConditionType::Ready && judgement.status == Some(true)
}

pub(crate) fn judgement(
    which: ConditionType,
    status: bool,
    reason: &str,
    message: impl Into<String>,
) -> Judgement {
    Judgement { which, status: Some(status), reason: reason.into(), message: message.into() }
}

pub(crate) fn unknown(which: ConditionType, reason: &str, message: impl Into<String>) -> Judgement {
    Judgement { status: None, ..judgement(which, false, reason, message) }
}

fn stalled(view: &View<'_>) -> Option<Judgement> {
    let stalled = |reason: &str, message: String| judgement(ConditionType::Stalled, true, reason, message);
    if let Some(stall) = view.stall {
        return Some(stalled(&stall.reason, stall.message.clone()));
    }
    if view.snapshot.is_some_and(|snapshot| snapshot.name_in_use) {
        let message = format!(
            "another process that calls itself {} is alive in this fleet, so this one writes nothing and asks \
             again every minute: give one of the two MultiClusters another name, and that a certificate: \
             {}",
            view.member,
            happenings::certificate_for_new_name(view.settings.map_or("CALLSIGN", |s| s.callsign.as_str()))
        );
        return Some(stalled("NameInUse", message));
    }
    if !view.progress.unconfirmed.is_empty() {
        let message = format!(
            "the lease is lost and it cannot be confirmed that these have ended: {}. They should have, but their nodes do \
             not say so. As long as this member is not heard another cluster takes over when the stop grace is over, whether \
             they have or not; one that hears it waits until they are gone. Look at these nodes: when it is certain that one \
             is off, delete its Node object, and its pods go too. They are not deleted by force here, which would only hide \
             that they may still run",
            names(&view.progress.unconfirmed.iter().collect::<Vec<_>>())
        );
        return Some(stalled("PodsUnconfirmed", message));
    }
    if let Some(object) = &view.progress.stuck {
        let message = format!(
            "{object} was deleted but does not go: look at its finalizers and at what they wait for. Nobody else \
             takes the lead before it is gone"
        );
        return Some(stalled("DeleteStuck", message));
    }
    match &view.progress.validity {
        Validity::Invalid { reason, message } => Some(stalled(reason, message.clone())),
        Validity::Valid | Validity::Unknown => {
            let trouble = view.service.filter(|trouble| trouble.stalled)?;
            Some(stalled(trouble.reason, trouble.message.clone()))
        }
    }
}

fn reconciling(view: &View<'_>) -> Option<Judgement> {
    let going = |reason: &str, message: String| judgement(ConditionType::Reconciling, true, reason, message);
    if view.stall.is_some() || (suspended(view).is_some() && leads(view) && !view.removal) {
        return None;
    }
    let unlocated = view.service.filter(|trouble| !trouble.stalled);
    if view.removal {
        return Some(going("Removing", "the object is being deleted: payload first, finalizer last".into()));
    }
    if let Some((point, error)) = view.progress.hooks.first_key_value() {
        return Some(match point {
            HookPoint::BeforePromote => {
                going("HookBlocks", format!("nothing is written before this hook succeeds: {error}"))
            }
            _ => going("HookFailed", format!("{error}; it is tried again")),
        });
    }
    match (&view.progress.activity, view.snapshot.map(|snapshot| snapshot.role)) {
        (Activity::Deleting(Some(waiting)), _) => Some(going("Deleting", format!("waiting for {waiting}"))),
        (Activity::Deleting(None), _) => Some(going("Deleting", "deleting the payload".into())),
        (_, None | Some(Role::Joining)) => {
            let also = unlocated.map(|trouble| format!("; {}", trouble.message)).unwrap_or_default();
            Some(going("Joining", format!("{}{also}", waiting(view))))
        }
        (_, Some(Role::Candidate)) => Some(going("Electing", waiting(view))),
        (_, Some(Role::Stopping)) => Some(going("Stopping", "giving up the lead".into())),
        (Activity::Applying(term), Some(Role::Leader)) => {
            Some(going("Applying", format!("applying the payload under term {term}")))
        }
        (_, Some(Role::Leader)) if !view.progress.ready => {
            let waiting = view.progress.not_ready.as_deref().unwrap_or("the payload");
            // The time is over, and nobody else can lead either.
            match view.snapshot.and_then(|snapshot| snapshot.waiting_for.as_ref()) {
                Some(stays) => Some(going("NotReadyInTime", format!("{stays}; not ready: {waiting}"))),
                None => Some(going("Progressing", format!("not ready yet: {waiting}"))),
            }
        }
        (Activity::Idle | Activity::Applying(_), Some(Role::Leader | Role::Standby | Role::Witness)) => {
            unlocated.map(|trouble| going(trouble.reason, trouble.message.clone()))
        }
    }
}

fn ready(view: &View<'_>, stalled: Option<&Judgement>, reconciling: Option<&Judgement>) -> Judgement {
    let which = ConditionType::Ready;
    if let Some(stalled) = stalled {
        return judgement(which, false, &stalled.reason, stalled.message.clone());
    }
    if let Reachability::Down { since, error } = &view.reach {
        let message = format!("the API server does not answer since {}: {error}", clock(*since));
        return judgement(which, false, "ApiUnreachable", message);
    }
    if let Some(error) = &view.progress.error {
        return judgement(which, false, "PayloadFailed", format!("{error}; it is tried again"));
    }
    if let Some(reconciling) = reconciling {
        return judgement(which, false, &reconciling.reason, reconciling.message.clone());
    }
    if let Some(suspended) = suspended(view) {
        return judgement(which, true, "Suspended", suspended);
    }
    if leads(view) {
        return judgement(which, true, "Leading", "the payload runs here and is ready");
    }
    if let Some(closed) = view.gates.closed() {
        return judgement(which, false, "GateClosed", format!("not fit to lead: {closed}"));
    }
    if let Some(lapse) =
        view.snapshot.and_then(|snapshot| snapshot.lapse).filter(|lapse| !lapse.left.is_zero())
    {
        let times = lapse.times;
        let message = format!(
            "this member led and its payload did not get or stay ready ({times} in a row): for a while it is no              successor. status.failedLead says until when; a switchover to it by name is possible all the same"
        );
        return judgement(which, false, "FailedAsLeader", message);
    }
    let leader = view.snapshot.and_then(|snapshot| snapshot.leader.as_ref());
    match leader {
        Some(leader) => judgement(which, true, "Standby", format!("standing by for {leader}")),
        None => judgement(which, false, "NoLeader", waiting(view)),
    }
}

/// What suspending this object means now.
fn suspended(view: &View<'_>) -> Option<&'static str> {
    let suspend = view.settings.is_some_and(|settings| settings.suspend);
    suspend.then(|| match leads(view) {
        true => {
            "spec.suspend is true: the payload that runs here is left as it is, and the lead is not moved"
        }
        false => "spec.suspend is true: this member takes no lead",
    })
}

fn joined(view: &View<'_>) -> Judgement {
    let which = ConditionType::Joined;
    let (Some(snapshot), Some(settings)) = (view.snapshot, view.settings) else {
        return judgement(which, false, "NotStarted", "this member does not take part in its fleet yet");
    };
    let others = || snapshot.members.iter().filter(|other| other.name != snapshot.member);
    let linked: Vec<_> = others().filter(|other| other.linked).map(|other| &other.name).collect();
    let unlinked = |away: bool| {
        let is_so = move |state| state != State::Left && (state == State::Away) == away;
        others().filter(move |other| !other.linked && is_so(other.state)).map(|other| &other.name)
    };
    let (apart, away): (Vec<_>, Vec<_>) = (unlinked(false).collect(), unlinked(true).collect());
    if !away.is_empty() {
        return judgement(which, !linked.is_empty(), "Away", paused(&linked, &apart, &away));
    }
    match (linked.is_empty(), apart.is_empty()) {
        (false, true) => judgement(which, true, "Linked", format!("linked to {}", names(&linked))),
        (false, false) => {
            let message = format!("linked to {}, not to {}", names(&linked), names(&apart));
            judgement(which, true, "PartlyLinked", message)
        }
        (true, false) => {
            let message = format!(
                "no link to {}: it is dialled, and this member listens on {}; to find out why, with one --context for \
                 each cluster: flagship check -n {} --context CONTEXT",
                names(&apart),
                member::listening(settings),
                view.namespace
            );
            judgement(which, false, "NoLink", message)
        }
        (true, true) if settings.seeds.is_empty() => {
            let message = format!("no other member is known; listening on {}", member::listening(settings));
            judgement(which, true, "Alone", message)
        }
        (true, true) => {
            let seeds: Vec<_> = settings.seeds.iter().collect();
            let message = format!("nobody answers at {} (spec.fleet); it is dialled for ever", names(&seeds));
            judgement(which, false, "NoSeedAnswers", message)
        }
    }
}

/// Who is away said so itself: that is neither a fault nor a verdict.
fn paused<T: std::fmt::Display>(linked: &[&T], apart: &[&T], away: &[&T]) -> String {
    let mut message = format!("{} announced a pause, as for a restart, and is waited for", names(away));
    if !linked.is_empty() {
        message.push_str(&format!("; linked to {}", names(linked)));
    }
    if !apart.is_empty() {
        message.push_str(&format!("; no link to {}", names(apart)));
    }
    message
}

fn leading(view: &View<'_>) -> Judgement {
    let which = ConditionType::Leading;
    let Some(snapshot) = view.snapshot else {
        return judgement(which, false, "NotStarted", "this member does not take part in its fleet yet");
    };
    let since = view.leader_since.map(|at| format!(" since {}", clock(at))).unwrap_or_default();
    let interrupted = match snapshot.interrupted {
        true => "; it paused or restarted meanwhile and gives way to anybody who took the lead since",
        false => "",
    };
    match (snapshot.role, &snapshot.leader) {
        (Role::Leader, _) if !snapshot.other_leaders.is_empty() => {
            let others = names(&snapshot.other_leaders.iter().collect::<Vec<_>>());
            let message =
                format!("this member leads under term {}{since}, and so does {others}", snapshot.term);
            judgement(which, true, "SplitBrain", message)
        }
        (Role::Leader, _) => {
            let message = format!("this member leads under term {}{since}{interrupted}", snapshot.term);
            judgement(which, true, "Elected", message)
        }
        (Role::Stopping, _) => {
            // The picture's term is the successor's, once that is known.
            let term = match snapshot.directive {
                Directive::Stop { term, .. } => term,
                _ => snapshot.term,
            };
            let message =
                format!("this member gives up the lead of term {term}; its payload is being deleted");
            judgement(which, true, "Stopping", message)
        }
        (_, Some(leader)) => {
            let message = format!(
                "{leader} leads under term {}{since}; this member has rank {}{}",
                snapshot.term,
                rank(snapshot, &snapshot.member),
                match snapshot.members.iter().find(|member| member.name == *leader).and_then(|m| m.rank) {
                    Some(rank) => format!(", {leader} {rank}"),
                    None => String::new(),
                }
            );
            judgement(which, false, "Standby", message)
        }
        (_, None) => judgement(which, false, "NoLeader", waiting(view)),
    }
}

fn payload_applied(view: &View<'_>) -> Judgement {
    let which = ConditionType::PayloadApplied;
    let progress = view.progress;
    let left = progress.inventory.len();
    if let (Validity::Invalid { reason, message }, true) = (&progress.validity, progress.applied.is_none()) {
        return judgement(which, false, reason, message.clone());
    }
    if view.snapshot.is_some_and(|snapshot| snapshot.role == Role::Stopping) {
        return judgement(which, false, "Deleting", format!("being deleted, {} left", objects(left)));
    }
    if let (true, Some(suspended)) = (leads(view), suspended(view)) {
        return judgement(which, left > 0, "Suspended", format!("{suspended}; {}", objects(left)));
    }
    match (leads(view), progress.applied) {
        (true, Some((term, generation))) if view.generation.is_none_or(|now| now == generation) => {
            let message = match (progress.ready, &progress.not_ready) {
                (true, _) | (false, None) => format!("{} applied under term {term}", objects(left)),
                (false, Some(waiting)) => {
                    format!("{} applied under term {term}; not ready yet: {waiting}", objects(left))
                }
            };
            judgement(which, true, "Applied", message)
        }
        (true, Some((_, generation))) => {
            let message = format!("generation {generation} is applied, the object is newer");
            judgement(which, false, "Outdated", message)
        }
        (true, None) => {
            let message = progress.error.clone().unwrap_or_else(|| "not applied yet".into());
            judgement(which, false, "NotYet", message)
        }
        (false, _) if left > 0 => {
            let message = format!("{} of an earlier lead still here", objects(left));
            judgement(which, false, "LeftBehind", message)
        }
        (false, _) => judgement(which, false, "NotLeading", "the payload runs in the leader's cluster only"),
    }
}

/// A number of objects, for people.
pub(crate) fn objects(count: usize) -> String {
    match count {
        1 => "1 object".into(),
        count => format!("{count} objects"),
    }
}

/// What the member waits for: the election says it in whole sentences.
fn waiting(view: &View<'_>) -> String {
    let Some(snapshot) = view.snapshot else { return "starting".into() };
    snapshot.waiting_for.clone().unwrap_or_else(|| "finding out who leads".into())
}

fn rank(snapshot: &Snapshot, name: &MemberName) -> String {
    let member: Option<&MemberSnapshot> = snapshot.members.iter().find(|member| member.name == *name);
    member.and_then(|member| member.rank).map_or_else(|| "unknown".into(), |rank| rank.to_string())
}

pub(crate) fn names<T: std::fmt::Display>(all: &[&T]) -> String {
    let mut text = all.iter().take(MAX_NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if all.len() > MAX_NAMED {
        text.push_str(&format!(" and {} more", all.len() - MAX_NAMED));
    }
    text
}

/// The time of day, to be compared with logs.
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}
