//! What is counted for one running member: from its events, from changes of its picture, and by those who do
//! its work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flagship_node::{Ascent, AscentReason, ElectionEvent, NodeEvent, Phases, Snapshot};
use flagship_types::{MemberName, Role};
use prometheus_client::metrics::histogram::Histogram;

use crate::metric::{
    APPLY_DURATION, CERTIFICATE_EXPIRY, DELETE_DURATION, ELECTIONS, EVENTS_LOST, FAILOVER_DURATION,
    HANDSHAKES, LEAD_PHASE, LEADER_CHANGES, LEADER_SECONDS, LINK_RTT, PAUSES, PAYLOAD_OBJECTS,
    RECONCILE_ERRORS, SPLIT_BRAIN_SECONDS, SPLITS, STORE_FAILURES,
};
use crate::metric::{DURATION_BUCKETS, Metric, RTT_BUCKETS};
use crate::page::Page;

/// Peers with a series of their own: a full mesh has at most 7, and a large fleet links to a few times its
/// observers. What is beyond is in the totals only.
pub(crate) const MAX_PEER_SERIES: usize = 64;

/// How an apply or a delete of the whole payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All of it was done.
    Success,
    /// It failed and is tried again.
    Failure,
    /// It was given up because the lead moved.
    Superseded,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Superseded];

    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Superseded => "superseded",
        }
    }
}

/// What a change of the lead to this member has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The failure was known.
    Detected,
    /// The old leader said that its payload is gone.
    PredecessorStopped,
    /// This member had won the lead.
    Elected,
    /// All objects of the payload were written.
    PayloadCreated,
    /// All of them were ready.
    PayloadReady,
}

impl Phase {
    const ALL: [Self; 5] =
        [Self::Detected, Self::PredecessorStopped, Self::Elected, Self::PayloadCreated, Self::PayloadReady];

    fn as_str(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::PredecessorStopped => "predecessor_stopped",
            Self::Elected => "elected",
            Self::PayloadCreated => "payload_created",
            Self::PayloadReady => "payload_ready",
        }
    }
}

/// Time during which something held, measured on the monotonic clock.
#[derive(Debug, Default)]
struct Stopwatch {
    total: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    fn set(&mut self, holds: bool, now: Instant) {
        self.total = self.read(now);
        self.since = holds.then_some(now);
    }

    fn read(&self, now: Instant) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[derive(Debug)]
struct Counts {
    /// By metric and the value of its last label; `""` where it has none.
    tallies: BTreeMap<(&'static str, &'static str), u64>,
    leading: Stopwatch,
    split: Stopwatch,
    round_trips: BTreeMap<MemberName, Histogram>,
    certificate_expiry: Option<f64>,
    payload: u64,
}

/// The counts of one running member. Cheap to clone; what is recorded after its guard was dropped is not shown.
#[derive(Debug, Clone)]
pub struct MemberRecorder {
    counts: Arc<Mutex<Counts>>,
    failovers: Histogram,
    applies: [Histogram; 3],
    deletes: [Histogram; 3],
    phases: [Histogram; 5],
}

impl MemberRecorder {
    pub(crate) fn new() -> Self {
        let durations = || Histogram::new(DURATION_BUCKETS);
        // Series that exist from the start let a rate see the first event.
        let known = [
            (
                ELECTIONS,
                ["elected", "failover", "resumed", "refused", "unanswered", "handover_failed"].as_slice(),
            ),
            (HANDSHAKES, &["ok"]),
            (LEADER_CHANGES, &[""]),
            (SPLITS, &[""]),
            (PAUSES, &[""]),
            (STORE_FAILURES, &[""]),
            (RECONCILE_ERRORS, &[""]),
            (EVENTS_LOST, &[""]),
        ];
        let tallies = known
            .into_iter()
            .flat_map(|(metric, values)| values.iter().map(|value| ((metric.name, *value), 0)));
        let counts = Counts {
            tallies: tallies.collect(),
            leading: Stopwatch::default(),
            split: Stopwatch::default(),
            round_trips: BTreeMap::new(),
            certificate_expiry: None,
            payload: 0,
        };
        Self {
            counts: Arc::new(Mutex::new(counts)),
            failovers: durations(),
            applies: [durations(), durations(), durations()],
            deletes: [durations(), durations(), durations()],
            phases: [durations(), durations(), durations(), durations(), durations()],
        }
    }

    /// The whole payload was applied, or not.
    pub fn applied(&self, took: Duration, outcome: Outcome) {
        self.applies[outcome as usize].observe(took.as_secs_f64());
    }

    /// A lead that began here reached this phase, so long after the cause of the change.
    pub fn lead_phase(&self, phase: Phase, after: Duration) {
        self.phases[phase as usize].observe(after.as_secs_f64());
    }

    /// The whole payload was deleted, pods included, or not.
    pub fn deleted(&self, took: Duration, outcome: Outcome) {
        self.deletes[outcome as usize].observe(took.as_secs_f64());
    }

    /// Work for this member failed and is tried again.
    pub fn reconcile_error(&self) {
        self.count(RECONCILE_ERRORS, "", 1);
    }

    /// How many objects of the payload exist here, whenever that changed.
    pub fn payload_objects(&self, objects: u64) {
        self.lock().payload = objects;
    }

    /// When the certificate in use expires; `None` if there is none.
    pub fn certificate_expiry(&self, not_after: Option<SystemTime>) {
        self.lock().certificate_expiry = not_after.map(|time| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_secs_f64(),
            Err(before) => -before.duration().as_secs_f64(),
        });
    }

    pub(crate) fn event(&self, event: &NodeEvent) {
        match event {
            NodeEvent::Election(event) => self.election(event),
            NodeEvent::LinkUp(_) => self.count(HANDSHAKES, "ok", 1),
            NodeEvent::LinkRefused(refusal) => self.count(HANDSHAKES, refusal.reason.as_str(), 1),
            NodeEvent::Paused(_) => self.count(PAUSES, "", 1),
            NodeEvent::StoreFailed(_) => self.count(STORE_FAILURES, "", 1),
            _ => {}
        }
    }

    fn election(&self, event: &ElectionEvent) {
        if let ElectionEvent::Elected { ascent, .. } = event {
            self.elected(ascent);
        }
        match event {
            ElectionEvent::Elected { took, failover: true, .. } => {
                self.count(ELECTIONS, "failover", 1);
                self.failovers.observe(took.as_secs_f64());
            }
            ElectionEvent::Elected { failover: false, .. } => self.count(ELECTIONS, "elected", 1),
            ElectionEvent::Resumed { .. } => self.count(ELECTIONS, "resumed", 1),
            ElectionEvent::ClaimFailed { refusal: Some(_), .. } => self.count(ELECTIONS, "refused", 1),
            ElectionEvent::ClaimFailed { refusal: None, .. } => self.count(ELECTIONS, "unanswered", 1),
            ElectionEvent::HandoverFailed { .. } => self.count(ELECTIONS, "handover_failed", 1),
            ElectionEvent::LeaderChanged { leader: Some(_), .. } => self.count(LEADER_CHANGES, "", 1),
            ElectionEvent::SplitSeen { .. } => self.count(SPLITS, "", 1),
            _ => {}
        }
    }

    fn elected(&self, ascent: &Ascent) {
        // Before the first lead there was nothing to lose.
        if ascent.reason == AscentReason::Founding {
            return;
        }
        let Phases { detected, predecessor_stopped, elected } = ascent.phases;
        let reached = [
            (Phase::Detected, detected),
            (Phase::PredecessorStopped, predecessor_stopped),
            (Phase::Elected, Some(elected)),
        ];
        for (phase, after) in reached {
            if let Some(after) = after {
                self.lead_phase(phase, after);
            }
        }
    }

    pub(crate) fn events_lost(&self, how_many: u64) {
        self.count(EVENTS_LOST, "", how_many);
    }

    /// The picture changed.
    pub(crate) fn observe(&self, snapshot: &Snapshot, now: Instant) {
        let mut counts = self.lock();
        counts.leading.set(snapshot.role == Role::Leader, now);
        counts.split.set(!snapshot.other_leaders.is_empty(), now);
    }

    /// A second went by: one sample of every link's round trip time.
    pub(crate) fn sample_round_trips(&self, snapshot: &Snapshot) {
        let mut counts = self.lock();
        counts.round_trips.retain(|peer, _| snapshot.members.iter().any(|member| member.name == *peer));
        for peer in snapshot.members.iter().filter(|member| member.linked && member.name != snapshot.member) {
            let Some(rtt) = peer.rtt else { continue };
            if counts.round_trips.len() >= MAX_PEER_SERIES && !counts.round_trips.contains_key(&peer.name) {
                continue;
            }
            let histogram =
                counts.round_trips.entry(peer.name.clone()).or_insert_with(|| Histogram::new(RTT_BUCKETS));
            histogram.observe(rtt.as_secs_f64());
        }
    }

    pub(crate) fn put(&self, page: &mut Page, callsign: &str, member: &str, now: Instant) {
        let counts = self.lock();
        for ((metric, value), count) in &counts.tallies {
            let Some(metric) = crate::metric::METRICS.iter().find(|known| known.name == *metric) else {
                continue;
            };
            let labels = [callsign, member, value];
            page.put(metric, &labels[..metric.labels.len()], *count);
        }
        page.put(LEADER_SECONDS, &[callsign, member], counts.leading.read(now).as_secs_f64());
        page.put(SPLIT_BRAIN_SECONDS, &[callsign, member], counts.split.read(now).as_secs_f64());
        for (peer, histogram) in &counts.round_trips {
            page.put(LINK_RTT, &[callsign, member, peer.as_str()], histogram);
        }
        if let Some(expiry) = counts.certificate_expiry {
            page.put(CERTIFICATE_EXPIRY, &[callsign, member], expiry);
        }
        page.put(PAYLOAD_OBJECTS, &[callsign, member], counts.payload);
        page.put(FAILOVER_DURATION, &[callsign, member], &self.failovers);
        for phase in Phase::ALL {
            page.put(LEAD_PHASE, &[callsign, member, phase.as_str()], &self.phases[phase as usize]);
        }
        for outcome in Outcome::ALL {
            let labels = [callsign, member, outcome.as_str()];
            page.put(APPLY_DURATION, &labels, &self.applies[outcome as usize]);
            page.put(DELETE_DURATION, &labels, &self.deletes[outcome as usize]);
        }
    }

    fn count(&self, metric: &'static Metric, value: &'static str, by: u64) {
        *self.lock().tallies.entry((metric.name, value)).or_insert(0) += by;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are complete after every statement, so a panic elsewhere leaves them usable.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopwatch_adds_up_and_reads_while_it_runs() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut watch = Stopwatch::default();
        assert_eq!(watch.read(at(5)), Duration::ZERO);
        watch.set(true, at(5));
        assert_eq!(watch.read(at(7)), Duration::from_secs(2));
        watch.set(true, at(8));
        watch.set(false, at(9));
        watch.set(false, at(20));
        assert_eq!(watch.read(at(30)), Duration::from_secs(4));
    }
}
