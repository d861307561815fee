//! What happened to one member: kept as the history of its status, told as Events and log lines.

use std::time::Duration;

use flagship_k8s_api::{HistoryEntry, InventoryEntry, LeadPhases, MultiClusterStatus, OrderAnswer};
use flagship_node::{AscentReason, ElectionEvent, NodeEvent, Snapshot};
use flagship_types::{MemberName, Term, format_duration};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::events::{Notice, Publisher, Throttle};
use crate::happenings::{self, Happening};
use crate::memory::signed;
use crate::ports::LeadPhase;
use crate::progress::Progress;
use crate::status::Stall;

/// A lead that was seen, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lead {
    leader: MemberName,
    term: Term,
    since: Timestamp,
}

/// A lead of this member whose payload is on its way.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    term: Term,
    /// When it was elected, and how long that was after the cause.
    elected: (Instant, Duration),
    created: bool,
}

/// History and Events of one member.
pub(crate) struct Chronicle {
    member: MemberName,
    events: Publisher,
    throttle: Throttle,
    /// Only its history, inventory and last order are used.
    kept: MultiClusterStatus,
    restored: bool,
    lead: Option<Lead>,
    beginning: Option<Beginning>,
}

impl Chronicle {
    pub(crate) fn new(member: MemberName, events: Publisher) -> Self {
        let kept = MultiClusterStatus::default();
        Self {
            member,
            events,
            throttle: Throttle::default(),
            kept,
            restored: false,
            lead: None,
            beginning: None,
        }
    }

    /// Goes on from what the status says. What this process has seen itself is newer.
    pub(crate) fn restore(&mut self, status: &MultiClusterStatus) {
        if std::mem::replace(&mut self.restored, true) {
            return;
        }
        self.kept.history.clone_from(&status.history);
        self.kept.inventory.clone_from(&status.inventory);
        self.kept.last_order.clone_from(&status.last_order);
        let term = status.held_term.and_then(|term| u64::try_from(term).ok()).map(Term);
        if let (true, Some(term), Some(since)) = (status.leading, term, &status.lead_since) {
            self.lead = Some(Lead { leader: self.member.clone(), term, since: since.0 });
        }
    }

    /// Something happened.
    pub(crate) fn tell(&mut self, happening: Happening) {
        let Happening { notice, term, history, throttle, lead } = happening;
        let note = match throttle {
            None => notice.note,
            Some(key) => match self.throttle.sentence(&key, &notice.note, Instant::now()) {
                Some(note) => note,
                None => return,
            },
        };
        let notice = Notice { note, ..notice };
        if history {
            let entry = HistoryEntry {
                time: Time(whole_second(Timestamp::now())),
                kind: notice.reason.into(),
                term: signed(term.0),
                message: notice.note.clone(),
                reason: lead.as_ref().map(|lead| lead.reason.as_str().into()),
                phases: lead.as_ref().map(|lead| happenings::phases_of(&lead.phases)),
            };
            self.kept.record(entry);
        }
        if notice.warning {
            warn!(reason = notice.reason, "{}", notice.note);
        } else {
            info!(reason = notice.reason, "{}", notice.note);
        }
        self.events.publish(notice);
    }

    /// The node told something.
    pub(crate) fn tell_node(&mut self, event: &NodeEvent) {
        if let NodeEvent::Election(ElectionEvent::Elected { term, ascent, .. }) = event {
            let elected = (Instant::now(), ascent.phases.elected);
            self.beginning = (ascent.reason != AscentReason::Found).then_some(Beginning {
                term: *term,
                elected,
                created: false,
            });
        }
        if let Some(happening) = happenings::of_node(event, &self.member) {
            self.tell(happening);
        }
    }

    /// The payload worker went on: notes when the payload of a lead that began is there, and when it is ready. Returns
    /// what was reached just now, and how long after the cause of the change.
    pub(crate) fn follow(&mut self, progress: &Progress) -> Vec<(LeadPhase, Duration)> {
        let Some(Beginning { term, elected: (at, took), created }) = self.beginning else {
            return Vec::new();
        };
        // A lead may go on under a higher term.
        if progress.applied.is_none_or(|(applied, _)| applied < term) {
            return Vec::new();
        }
        let after = took + at.elapsed();
        let mut reached = Vec::new();
        if !created {
            reached.push((LeadPhase::PayloadCreated, after));
        }
        if progress.ready {
            reached.push((LeadPhase::PayloadReady, after));
        }
        self.beginning = (!progress.ready).then_some(Beginning { term, elected: (at, took), created: true });
        self.amend(term, &reached);
        reached
    }

    /// Adds to what the history says of the election for this term.
    fn amend(&mut self, term: Term, reached: &[(LeadPhase, Duration)]) {
        let term = signed(term.0);
        let is_it = |entry: &&mut HistoryEntry| entry.term == term && entry.phases.is_some();
        let Some(entry) = self.kept.history.iter_mut().rev().find(is_it) else { return };
        for (phase, after) in reached {
            let mut phases: LeadPhases = entry.phases.unwrap_or_default();
            let (field, word) = match phase {
                LeadPhase::PayloadCreated => (&mut phases.payload_created_ms, "payload created"),
                LeadPhase::PayloadReady => (&mut phases.payload_ready_ms, "payload ready"),
            };
            *field = Some(happenings::whole_ms(*after));
            entry.phases = Some(phases);
            entry.message = format!("{}, {word} after {}", entry.message, format_duration(*after));
        }
    }

    /// The answer to an operator's order.
    pub(crate) fn answer(&mut self, answer: OrderAnswer) {
        self.kept.last_order = Some(answer);
    }

    /// Whether the order with this id was answered already.
    pub(crate) fn answered(&self, id: &str) -> bool {
        self.kept.last_order.as_ref().is_some_and(|answer| answer.id == id)
    }

    pub(crate) fn last_order(&self) -> Option<&OrderAnswer> {
        self.kept.last_order.as_ref()
    }

    /// Nothing goes on until somebody changes something.
    pub(crate) fn stalled(&mut self, stall: &Stall) {
        let note = format!("{}: {}", stall.reason, stall.message);
        self.tell(Happening::new(Notice::warning("Stalled", note)).event_only());
    }

    pub(crate) fn history(&self) -> &[HistoryEntry] {
        &self.kept.history
    }

    /// The inventory that was shown last.
    pub(crate) fn inventory(&self) -> &[InventoryEntry] {
        &self.kept.inventory
    }

    pub(crate) fn set_inventory(&mut self, inventory: Vec<InventoryEntry>) {
        self.kept.inventory = inventory;
    }

    /// Since when the leader in the picture leads, as far as this member has seen it.
    pub(crate) fn leader_since(&mut self, snapshot: &Snapshot) -> Option<Timestamp> {
        let leader = snapshot.leader.as_ref()?;
        if let Some(lead) =
            self.lead.as_ref().filter(|lead| lead.leader == *leader && lead.term == snapshot.term)
        {
            return Some(lead.since);
        }
        let lead =
            Lead { leader: leader.clone(), term: snapshot.term, since: whole_second(Timestamp::now()) };
        Some(self.lead.insert(lead).since)
    }
}

/// Kubernetes keeps seconds: anything finer would differ after the first read.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
