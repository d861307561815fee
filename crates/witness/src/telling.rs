//! What a node tells, as log lines. A daemon writes Events and a history too; a witness has its log.

use std::collections::BTreeMap;
use std::time::Duration;

use flagship_node::{ElectionEvent, Evidence, NodeEvent, RefusalReason, State};
use flagship_types::{MemberName, format_duration};
use tokio::time::Instant;
use tracing::{info, warn};

/// How often the same thing is said. Peers can make most of it happen as often as they like.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Things remembered as said. When there are more, the ones that may be said again are forgotten first.
const MAX_SAID: usize = 64;

/// Says things, and the same thing not too often.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    said: BTreeMap<String, Instant>,
}

impl Teller {
    /// Something about the node.
    pub(crate) fn tell(&mut self, event: &NodeEvent, own: &MemberName) {
        let Some((warning, sentence)) = sentence(event, own) else { return };
        if !self.is_due(&sentence, Instant::now()) {
            return;
        }
        match warning {
            true => warn!("{sentence}"),
            false => info!("{sentence}"),
        }
    }

    /// Something that keeps a fleet from having its witness.
    pub(crate) fn tell_trouble(&mut self, sentence: &str) {
        if self.is_due(sentence, Instant::now()) {
            tracing::error!("{sentence}");
        }
    }

    fn is_due(&mut self, sentence: &str, now: Instant) -> bool {
        self.said.retain(|_, at| now.duration_since(*at) < SAY_AGAIN);
        if self.said.contains_key(sentence) {
            return false;
        }
        if self.said.len() >= MAX_SAID {
            self.said.pop_first();
        }
        self.said.insert(sentence.to_owned(), now);
        true
    }
}

/// Whether it is a warning, and what to say; `None` if nothing.
fn sentence(event: &NodeEvent, own: &MemberName) -> Option<(bool, String)> {
    Some(match event {
        NodeEvent::Member { member, from, to, evidence } => of_member(member, *from, *to, *evidence)?,
        NodeEvent::Election(event) => of_election(event)?,
        NodeEvent::LinkUp(_) => return None,
        // The node logs it.
        NodeEvent::LinkRefused(refusal) if refusal.reason == RefusalReason::Anonymous => return None,
        NodeEvent::LinkRefused(refusal) => (true, refusal.sentence.clone()),
        NodeEvent::LinkWarning(warning) => (true, warning.sentence.clone()),
        NodeEvent::NameInUse => (
            true,
            format!(
                "another process that calls itself {own} is alive in this fleet: this one says nothing until it is gone"
            ),
        ),
        NodeEvent::Paused(missed) => {
            (true, format!("this process did not run for {}", format_duration(*missed)))
        }
        NodeEvent::StoreFailed(error) => {
            (true, format!("cannot store what must be durable, so this witness does not vote: {error}"))
        }
    })
}

fn of_member(
    member: &MemberName,
    from: Option<State>,
    to: State,
    evidence: Option<Evidence>,
) -> Option<(bool, String)> {
    Some(match (from, to) {
        (_, State::Down) => {
            let how = match evidence {
                Some(Evidence::Exit) => "its process ended while its host lives",
                Some(Evidence::Silence) | None => "nothing is heard of it",
            };
            (true, format!("{member} is down: {how}"))
        }
        (_, State::Left) => (false, format!("{member} left the fleet")),
        (_, State::Away) => (false, format!("{member} announced a pause, as for a restart")),
        (Some(State::Down), State::Alive) => (false, format!("{member} is back")),
        (Some(State::Left), State::Alive) => {
            (false, format!("{member} is a member again; it had left, or been forgotten"))
        }
        (None, State::Alive) => (false, format!("{member} joined the fleet")),
        (_, State::Alive | State::Suspect) => return None,
    })
}

fn of_election(event: &ElectionEvent) -> Option<(bool, String)> {
    Some(match event {
        ElectionEvent::LeaderChanged { leader: Some(leader), term } => {
            (false, format!("{leader} leads under term {term}"))
        }
        ElectionEvent::LeaderChanged { leader: None, term } => {
            (false, format!("nobody leads; the last term known is {term}"))
        }
        ElectionEvent::ConfigAdopted(config) => {
            (false, format!("fleet configuration {} is in force here", config.version))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_and_little_is_remembered() {
        let mut teller = Teller::default();
        let start = Instant::now();
        assert!(teller.is_due("a", start));
        assert!(!teller.is_due("a", start + SAY_AGAIN / 2));
        assert!(teller.is_due("b", start + SAY_AGAIN / 2));
        assert!(teller.is_due("a", start + SAY_AGAIN));
        for number in 0..10 * MAX_SAID {
            assert!(teller.is_due(&format!("c{number}"), start + SAY_AGAIN));
        }
        assert_eq!(teller.said.len(), MAX_SAID);
    }

    #[test]
    fn what_happens_to_members_reads_well() {
        let own: MemberName = "witness".parse().unwrap();
        let event =
            |from, to, evidence| NodeEvent::Member { member: "newyork".parse().unwrap(), from, to, evidence };
        let down = event(Some(State::Suspect), State::Down, Some(Evidence::Exit));
        assert_eq!(
            sentence(&down, &own),
            Some((true, "newyork is down: its process ended while its host lives".into()))
        );
        assert_eq!(sentence(&event(Some(State::Alive), State::Suspect, None), &own), None);
        let back = "newyork is a member again; it had left, or been forgotten";
        assert_eq!(sentence(&event(Some(State::Left), State::Alive, None), &own), Some((false, back.into())));
        assert_eq!(
            sentence(&event(None, State::Alive, None), &own),
            Some((false, "newyork joined the fleet".into()))
        );
    }
}
