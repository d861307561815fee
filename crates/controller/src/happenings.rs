//! What happens to a member, in words: for the history in its status and for Kubernetes Events.

use std::time::Duration;

use flagship_k8s_api::LeadPhases;
use flagship_node::{
    Ascent, AscentReason, ElectionEvent, Evidence, LinkRefusal, NodeEvent, Phases, Refusal, RefusalReason,
    ResignReason, State,
};
use flagship_types::{FleetConfig, MemberName, Mode, Role, Term, format_duration};

use crate::events::Notice;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    pub notice: Notice,
    pub term: Term,
    /// Whether it belongs into the history of 20, which must not be flushed out by trifles.
    pub history: bool,
    /// If set, equal keys are throttled: peers can make it happen as often as they like.
    pub throttle: Option<String>,
    /// Of a lead that began: how.
    pub lead: Option<Ascent>,
}

impl Happening {
    pub(crate) fn new(notice: Notice) -> Self {
        Self { notice, term: Term::NONE, history: true, throttle: None, lead: None }
    }

    pub(crate) fn under(self, term: Term) -> Self {
        Self { term, ..self }
    }

    pub(crate) fn throttled(self, key: String) -> Self {
        Self { throttle: Some(key), ..self }
    }

    pub(crate) fn event_only(self) -> Self {
        Self { history: false, ..self }
    }
}

/// What to say about something the node told; `None` if nothing.
pub(crate) fn of_node(event: &NodeEvent, own: &MemberName) -> Option<Happening> {
    match event {
        NodeEvent::Member { member, from, to, evidence } => of_member(member, *from, *to, *evidence),
        NodeEvent::Election(event) => of_election(event, own),
        NodeEvent::LinkUp(_) => None,
        // Anybody can knock, `flagship check` does too.
        NodeEvent::LinkRefused(refusal) if refusal.reason == RefusalReason::Anonymous => None,
        NodeEvent::LinkRefused(refusal) => Some(of_refusal(refusal)),
        NodeEvent::LinkWarning(warning) => {
            let about = warning.peer.as_ref().map_or_else(|| own.to_string(), ToString::to_string);
            let notice = Notice::warning("Certificate", warning.sentence.clone());
            Some(
                Happening::new(notice)
                    .event_only()
                    .throttled(format!("warning/{about}/{}", warning.sentence)),
            )
        }
        NodeEvent::NameInUse => {
            let note = format!(
                "another process that calls itself {own} is alive in this fleet: nothing is written until it is gone; \
                 give one of the two MultiClusters another name, and that a certificate: {}",
                certificate_for_new_name("CALLSIGN")
            );
            Some(Happening::new(Notice::warning("NameInUse", note)).throttled("name-in-use".into()))
        }
        NodeEvent::Paused(missed) => {
            let note = format!(
                "this process did not run for {}: asking who leads before anything is written",
                format_duration(*missed)
            );
            Some(Happening::new(Notice::warning("Paused", note)).throttled("paused".into()))
        }
        NodeEvent::StoreFailed(error) => {
            let note =
                format!("cannot store what must be durable, so nothing that depends on it happens: {error}");
            Some(Happening::new(Notice::warning("StoreFailed", note)).event_only().throttled("store".into()))
        }
    }
}

fn of_member(
    member: &MemberName,
    from: Option<State>,
    to: State,
    evidence: Option<Evidence>,
) -> Option<Happening> {
    let (notice, history) = match (from, to) {
        (_, State::Down) => {
            let how = match evidence {
                Some(Evidence::Exit) => "its process ended while its host lives",
                Some(Evidence::Silence) | None => "nothing is heard of it",
            };
            (Notice::warning("MemberDown", format!("{member} is down: {how}")), true)
        }
        (_, State::Left) => (Notice::normal("MemberLeft", format!("{member} left the fleet")), true),
        (_, State::Away) => {
            (Notice::normal("MemberAway", format!("{member} announced a pause, as for a restart")), false)
        }
        (Some(State::Down), State::Alive) => {
            (Notice::normal("MemberBack", format!("{member} is back")), true)
        }
        (Some(State::Left), State::Alive) => {
            let note = format!("{member} is a member again; it had left, or been forgotten");
            (Notice::normal("MemberBack", note), true)
        }
        (None, State::Alive) => (Notice::normal("MemberJoined", format!("{member} joined the fleet")), false),
        (_, State::Alive | State::Suspect) => return None,
    };
    let key = format!("{}/{member}", notice.reason);
    let happening = Happening::new(notice).throttled(key);
    Some(if history { happening } else { happening.event_only() })
}

fn of_election(event: &ElectionEvent, own: &MemberName) -> Option<Happening> {
    let (notice, term) = match event {
        ElectionEvent::Elected { term, ascent, .. } => {
            let notice = Notice::normal("Elected", elected(own, ascent));
            return Some(Happening { lead: Some(ascent.clone()), ..Happening::new(notice).under(*term) });
        }
        ElectionEvent::LeaderChanged { leader: Some(leader), term } if leader != own => {
            (Notice::normal("LeaderChanged", format!("{leader} leads under term {term}")), *term)
        }
        ElectionEvent::RoleChanged { from: Role::Stopping, to: Role::Standby, term } => (
            Notice::normal(
                "SteppedDown",
                format!("{own} gave up the lead of term {term}; its payload is gone"),
            ),
            *term,
        ),
        // That it goes on is told when its payload worker is told: this event may come before anybody listens.
        ElectionEvent::LeaderChanged { .. }
        | ElectionEvent::RoleChanged { .. }
        | ElectionEvent::Resumed { .. } => {
            return None;
        }
        ElectionEvent::ClaimFailed { term, by, refusal } => {
            let why = refusal.map_or_else(
                || "did not answer".into(),
                |refusal| format!("refused, because {}", because(refusal)),
            );
            let note = format!("{own} asked for the lead under term {term} and did not get it: {by} {why}");
            let notice = Notice::normal("ClaimFailed", note);
            return Some(Happening::new(notice).under(*term).throttled(format!("claim/{by}")));
        }
        ElectionEvent::HandOverAccepted { term, to, reason } => {
            let note = format!("{own} hands the lead of term {term} over to {to} ({})", reason.as_str());
            (Notice::normal("HandingOver", note), *term)
        }
        ElectionEvent::HandOverRefused { to, reason, because } => {
            let to = to.as_ref().map_or("another member".to_owned(), ToString::to_string);
            let note = format!("the lead is not handed over to {to} ({}): {because}", reason.as_str());
            return Some(Happening::new(Notice::warning("HandOverRefused", note)).event_only());
        }
        ElectionEvent::HandoverFailed { term, reason } => {
            let note = format!("handover did not happen, {own} keeps term {term}: {reason}");
            (Notice::warning("HandoverFailed", note), *term)
        }
        ElectionEvent::PauseChanged { pause: Some(pause) } => {
            let note = format!(
                "an operator paused the fleet ({}): nothing moves the lead by itself until: flagship resume",
                pause.reason
            );
            (Notice::warning("FleetPaused", note), Term::NONE)
        }
        ElectionEvent::PauseChanged { pause: None } => {
            (Notice::normal("FleetResumed", "the fleet is not paused any more"), Term::NONE)
        }
        ElectionEvent::Forcing { term, stopped } => {
            let names = stopped.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let note = format!(
                "an operator has {own} lead under term {term} without the grants of others; stopped by his word: {}",
                if names.is_empty() { "nobody" } else { &names }
            );
            (Notice::warning("ForcingLead", note), *term)
        }
        ElectionEvent::PauseRefused { because, .. } | ElectionEvent::ForceRefused { because } => {
            let note = format!("an operator's order was not carried out: {because}");
            (Notice::warning("OrderRefused", note), Term::NONE)
        }
        ElectionEvent::SplitSeen { other, term } => {
            let note = format!(
                "{other} leads too, under term {term}, after a partition: one of the two gives up its payload now"
            );
            (Notice::warning("SplitBrain", note), *term)
        }
        ElectionEvent::ConfigAdopted(config) => {
            let mode = election_mode(config);
            let note = format!("fleet configuration {} is in force here: {mode}", config.version);
            return Some(Happening::new(Notice::normal("ConfigAdopted", note)).event_only());
        }
    };
    Some(Happening::new(notice).under(term))
}

/// The mode, and who votes.
pub(crate) fn election_mode(config: &FleetConfig) -> String {
    match config.mode {
        Mode::Availability => "mode Availability".to_owned(),
        Mode::Quorum => {
            let voters = config.voters.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ");
            format!("mode Quorum, voters {voters}")
        }
    }
}

/// How a lead began.
fn elected(own: &MemberName, ascent: &Ascent) -> String {
    let former = ascent.predecessor.as_ref().map_or_else(|| "the leader".to_owned(), ToString::to_string);
    let why = match ascent.reason {
        AscentReason::Founding => "nobody led before".to_owned(),
        AscentReason::Regained => "it had lost the lead, and nobody else had it since".to_owned(),
        AscentReason::Crash => format!("the process of {former} ended"),
        AscentReason::Silence => format!("nothing was heard of {former} any more"),
        AscentReason::Rank => format!("{former} gave way to the higher rank"),
        AscentReason::Switchover => format!("an operator moved the lead from {former}"),
        AscentReason::Unhealthy => format!("the payload of {former} was not ready in time"),
        AscentReason::Removal => format!("{former} was removed"),
        AscentReason::Handover => format!("{former} handed the lead over"),
        AscentReason::Found => "its payload was found running here".to_owned(),
        AscentReason::Forced => "an operator forced it".to_owned(),
    };
    let Phases { detected, predecessor_stopped, elected } = ascent.phases;
    let reached =
        [("detected", detected), ("predecessor stopped", predecessor_stopped), ("elected", Some(elected))];
    let reached = reached
        .into_iter()
        .filter_map(|(what, after)| Some(format!("{what} after {}", format_duration(after?))));
    let (term, reason) = (ascent.term, ascent.reason.as_str());
    format!("{own} leads under term {term} ({reason}): {why}; {}", reached.collect::<Vec<_>>().join(", "))
}

/// For the status.
pub(crate) fn phases_of(phases: &Phases) -> LeadPhases {
    LeadPhases {
        detected_ms: phases.detected.map(whole_ms),
        predecessor_stopped_ms: phases.predecessor_stopped.map(whole_ms),
        elected_ms: Some(whole_ms(phases.elected)),
        payload_created_ms: None,
        payload_ready_ms: None,
    }
}

pub(crate) fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Why a voter refused, as a clause about it.
fn because(refusal: Refusal) -> String {
    match refusal {
        Refusal::LeaderAlive { beat_age } => {
            format!("it heard the leader {} before", format_duration(beat_age))
        }
        Refusal::Granted { term } => format!("it granted term {term} already"),
        Refusal::RestartGrace => "the leader's process ended and has a little time to restart".into(),
        Refusal::BetterCandidate => "it is the better candidate and asks itself".into(),
        Refusal::ReservedForSuccessor => "the lead was released to somebody else".into(),
        Refusal::Leading => "it leads itself".into(),
        Refusal::NoRecord => "it has no voter record and may not vote yet".into(),
        Refusal::TermJump => "the term is too far ahead to be true".into(),
        Refusal::Leased => "it promised the lead to another, and that promise still runs".into(),
        Refusal::OldConfig => "it has stored another fleet configuration than the candidate's".into(),
        Refusal::NoVoter => "it is no voter under the candidate's fleet configuration".into(),
    }
}

/// What makes a certificate for a member that is given another name.
pub(crate) fn certificate_for_new_name(callsign: &str) -> String {
    format!(
        "flagship pki add-member --fleet {callsign} --member NEW-NAME --out DIR; DIR is where the fleet's ca.key is kept"
    )
}

fn of_refusal(refusal: &LinkRefusal) -> Happening {
    let who = match (&refusal.peer, &refusal.remote) {
        (Some(peer), _) => peer.to_string(),
        // Without the port: it differs with every attempt.
        (None, Some(remote)) => remote.ip().to_string(),
        (None, None) => "unknown".into(),
    };
    let key = format!("link/{}/{who}/{}", refusal.reason.as_str(), refusal.dialled);
    Happening::new(Notice::warning("LinkRefused", refusal.sentence.clone())).event_only().throttled(key)
}

/// A restarted leader goes on.
pub(crate) fn resumed(term: Term) -> Happening {
    let note = format!("this member goes on leading under term {term}; its payload was not touched");
    Happening::new(Notice::normal("Resumed", note)).under(term)
}

/// A stop begins.
pub(crate) fn stopping(term: Term, reason: ResignReason) -> Happening {
    let why = match reason {
        ResignReason::Superseded => "a newer leader exists",
        ResignReason::Handover => "a better member takes over",
        ResignReason::Switchover => "an operator moves the lead to another member",
        ResignReason::Unhealthy => "it was not ready in time, and another member is healthy",
        ResignReason::NotCandidate => "its spec.candidate is false, and another member is fit",
        ResignReason::Removal => "this MultiCluster is being deleted or leaves the fleet",
        ResignReason::Operator => "the daemon is to end, and nobody else here goes on",
        ResignReason::Unfinished => "an earlier process had begun to",
        ResignReason::LeaseLost => "a majority of the voters did not renew its lease in time",
    };
    let note = format!("deleting the payload of term {term} ({}): {why}", reason.as_str());
    Happening::new(Notice::normal("Stopping", note)).under(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> MemberName {
        name.parse().unwrap()
    }

    #[test]
    fn an_election_reads_well() {
        let ms = Duration::from_millis;
        let phases = Phases { detected: Some(ms(900)), predecessor_stopped: None, elected: ms(1200) };
        let event = ascended(AscentReason::Crash, Some("sheffield"), phases);
        let happening = of_node(&NodeEvent::Election(event), &name("newyork")).unwrap();
        assert_eq!(
            happening.notice.note,
            "newyork leads under term 7 (Crash): the process of sheffield ended; detected after 900ms, elected after 1.2s"
        );
        assert!(happening.history && happening.throttle.is_none());
        let phases = phases_of(&happening.lead.unwrap().phases);
        assert_eq!(
            (phases.detected_ms, phases.elected_ms, phases.payload_ready_ms),
            (Some(900), Some(1200), None)
        );
    }

    fn ascended(reason: AscentReason, from: Option<&str>, phases: Phases) -> ElectionEvent {
        let (term, took) = (Term(7), Duration::from_millis(1200));
        let ascent = Ascent { term, predecessor: from.map(name), reason, phases };
        ElectionEvent::Elected { term, took, failover: false, handed_over_by: None, ascent }
    }

    fn note(event: ElectionEvent) -> String {
        of_node(&NodeEvent::Election(event), &name("newyork")).unwrap().notice.note
    }

    #[test]
    fn a_handover_is_not_a_free_lead() {
        let ms = Duration::from_millis;
        let phases = Phases { detected: None, predecessor_stopped: Some(ms(700)), elected: ms(750) };
        let told = note(ascended(AscentReason::Switchover, Some("sheffield"), phases));
        assert_eq!(
            told,
            "newyork leads under term 7 (Switchover): an operator moved the lead from sheffield; predecessor stopped after \
             700ms, elected after 750ms"
        );
        assert!(
            note(ascended(AscentReason::Founding, None, phases)).contains("(Founded): nobody led before")
        );
    }

    #[test]
    fn a_refused_claim_is_told_in_words() {
        let all = [
            Refusal::LeaderAlive { beat_age: Duration::from_millis(300) },
            Refusal::Granted { term: Term(8) },
            Refusal::RestartGrace,
            Refusal::BetterCandidate,
            Refusal::ReservedForSuccessor,
            Refusal::Leading,
            Refusal::NoRecord,
            Refusal::TermJump,
            Refusal::Leased,
            Refusal::OldConfig,
            Refusal::NoVoter,
        ];
        for refusal in all {
            let (term, by) = (Term(7), name("sheffield"));
            let told = note(ElectionEvent::ClaimFailed { term, by, refusal: Some(refusal) });
            let word = format!("{refusal:?}");
            let word = word.split(' ').next().unwrap();
            assert!(told.contains("sheffield refused, because ") && !told.contains(word), "{told}");
            assert!(!told.contains(['{', '(']), "{told}");
        }
    }

    #[test]
    fn who_shows_no_certificate_is_no_event() {
        let refusal = |reason| LinkRefusal {
            remote: Some(([172, 18, 0, 9], 4711).into()),
            peer: None,
            dialled: false,
            reason,
            sentence: "it closed the connection".into(),
        };
        let own = name("newyork");
        assert_eq!(of_node(&NodeEvent::LinkRefused(refusal(RefusalReason::Anonymous)), &own), None);
        for reason in [RefusalReason::Tls, RefusalReason::Expired, RefusalReason::Handshake] {
            assert!(of_node(&NodeEvent::LinkRefused(refusal(reason)), &own).is_some());
        }
    }

    #[test]
    fn trifles_are_not_told() {
        let own = name("newyork");
        let event = ElectionEvent::LeaderChanged { leader: Some(own.clone()), term: Term(7) };
        assert_eq!(of_node(&NodeEvent::Election(event), &own), None);
        let (member, to) = (name("sheffield"), State::Suspect);
        let suspect = NodeEvent::Member { member, from: Some(State::Alive), to, evidence: None };
        assert_eq!(of_node(&suspect, &own), None);
    }

    #[test]
    fn who_comes_back_is_told_also_after_it_was_forgotten() {
        let own = name("newyork");
        for (from, told) in [
            (State::Down, "sheffield is back"),
            (State::Left, "sheffield is a member again; it had left, or been forgotten"),
        ] {
            let (member, to) = (name("sheffield"), State::Alive);
            let event = NodeEvent::Member { member, from: Some(from), to, evidence: None };
            let happening = of_node(&event, &own).unwrap();
            assert_eq!((happening.notice.reason, happening.notice.note.as_str()), ("MemberBack", told));
            assert!(happening.history);
        }
    }

    #[test]
    fn refusals_are_told_apart_by_who_and_why_not_by_port() {
        let refusal = |port| LinkRefusal {
            remote: Some(([172, 18, 0, 9], port).into()),
            peer: None,
            dialled: false,
            reason: RefusalReason::Tls,
            sentence: "plain text on a TLS port".into(),
        };
        let keys: Vec<_> = [4711, 4712].map(|port| of_refusal(&refusal(port)).throttle).into();
        assert_eq!(keys[0], keys[1]);
        assert!(!of_refusal(&refusal(1)).history, "strangers do not fill the history");
    }
}
