//! What happened to one member: kept as the history of its status, told as Events and log lines.

use flagship_k8s_api::{HistoryEntry, InventoryEntry, MultiClusterStatus};
use flagship_node::{NodeEvent, Snapshot};
use flagship_types::{MemberName, Term};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::events::{Notice, Publisher, Throttle};
use crate::happenings::{self, Happening};
use crate::memory::signed;
use crate::status::Stall;

/// A lead that was seen, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lead {
    leader: MemberName,
    term: Term,
    since: Timestamp,
}

/// History and Events of one member.
pub(crate) struct Chronicle {
    member: MemberName,
    events: Publisher,
    throttle: Throttle,
    /// Only its history and inventory are used.
    kept: MultiClusterStatus,
    restored: bool,
    lead: Option<Lead>,
}

impl Chronicle {
    pub(crate) fn new(member: MemberName, events: Publisher) -> Self {
        let kept = MultiClusterStatus::default();
        Self { member, events, throttle: Throttle::default(), kept, restored: false, lead: None }
    }

    /// Goes on from what the status says. What this process has seen itself is newer.
    pub(crate) fn restore(&mut self, status: &MultiClusterStatus) {
        if std::mem::replace(&mut self.restored, true) {
            return;
        }
        self.kept.history.clone_from(&status.history);
        self.kept.inventory.clone_from(&status.inventory);
        let term = status.held_term.and_then(|term| u64::try_from(term).ok()).map(Term);
        if let (true, Some(term), Some(since)) = (status.leading, term, &status.lead_since) {
            self.lead = Some(Lead { leader: self.member.clone(), term, since: since.0 });
        }
    }

    /// Something happened.
    pub(crate) fn tell(&mut self, happening: Happening) {
        let Happening { notice, term, history, throttle } = happening;
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
        if let Some(happening) = happenings::of_node(event, &self.member) {
            self.tell(happening);
        }
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
