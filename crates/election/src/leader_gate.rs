//! A leader whose payload does not get or stay ready gives the lead to a healthy standby, and is not trusted with it
//! again for a while.

use std::time::Duration;

use flagship_types::Instant;

use crate::core::Election;
use crate::io::{Event, Lapse, ResignReason};
use crate::stage::Lead;

/// The shortest time for which a member counts as failed. Else it is twice the promote timeout: with less, two members
/// that both fail would give each other the lead at every timeout.
const LEAST_LAPSE: Duration = Duration::from_secs(60);
/// The longest, unless twice the promote timeout is more. So often may a fleet in which nobody is well try in vain.
const LAST_LAPSE: Duration = Duration::from_secs(3600);
/// A payload that was ready here for so long is well again: the next failure counts as the first.
const FORGIVE: Duration = Duration::from_secs(3600);

/// What is remembered of the payload's readiness under this member's lead.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaderGate {
    /// Since when it is not ready, with an API server that answers.
    unready_since: Option<Instant>,
    /// Since when it is.
    ready_since: Option<Instant>,
    /// Lost leads in a row.
    times: u32,
    /// This member counts as failed until then.
    failed_until: Option<Instant>,
    /// Why the lead stays although the time is over.
    stays: Option<String>,
}

impl LeaderGate {
    pub(crate) fn restored(lapse: Option<Lapse>, now: Instant) -> Self {
        let times = lapse.map_or(0, |lapse| lapse.times);
        // Whoever wrote it: not longer than it can be.
        let left = lapse.map(|lapse| lapse.left.min(LAST_LAPSE)).filter(|left| !left.is_zero());
        Self { times, failed_until: left.map(|left| now + left), ..Self::default() }
    }

    /// The clock starts anew: another lead, or time passed that nobody saw.
    pub(crate) fn restart(&mut self) {
        self.unready_since = None;
        self.ready_since = None;
        self.stays = None;
    }
}

impl Election {
    /// What is remembered of failures as a leader, for the next process.
    pub fn lapse(&self) -> Option<Lapse> {
        let left = self.gate.failed_until.map_or(Duration::ZERO, |until| until.since(self.now));
        (self.gate.times > 0).then_some(Lapse { times: self.gate.times, left })
    }

    /// The payload failed under this member's lead, and that is not long ago.
    pub(crate) fn has_failed(&self) -> bool {
        self.gate.failed_until.is_some_and(|until| until > self.now)
    }

    /// As a leader: looks whether the payload is ready in time.
    pub(crate) fn step_leader_gate(&mut self, lead: &Lead) {
        if self.health.payload_ready {
            return self.payload_is_ready();
        }
        self.gate.ready_since = None;
        // Without the API server nobody knows how the payload is, and nobody could stop it.
        let Some(timeout) = self.spec.promote_timeout.filter(|_| self.health.api) else {
            self.gate.restart();
            return;
        };
        let due = *self.gate.unready_since.get_or_insert(self.now) + timeout;
        if self.now < due {
            self.gate.stays = None;
            return self.wake(due);
        }
        if !self.is_unhindered(lead) {
            return;
        }
        let reason = ResignReason::Unhealthy;
        match self.hand_over_target(None, reason) {
            Ok(to) => {
                self.event(Event::HandOverAccepted { term: lead.term, to: to.clone(), reason });
                self.stop_payload(lead.term, reason, Some(to));
            }
            Err(because) => {
                // A pause ends by itself; everything else comes as news of a peer.
                if let Some(until) = self.handover_not_before {
                    self.wake(until);
                }
                if self.gate.stays.as_ref() != Some(&because) {
                    self.gate.stays = Some(because.clone());
                    self.event(Event::HandOverRefused { to: None, reason, because });
                }
            }
        }
    }

    fn payload_is_ready(&mut self) {
        self.gate.unready_since = None;
        self.gate.stays = None;
        self.gate.failed_until = None;
        let well = *self.gate.ready_since.get_or_insert(self.now) + FORGIVE;
        if self.gate.times > 0 && self.now < well {
            self.wake(well);
        } else {
            self.gate.times = 0;
        }
    }

    /// The lead was given away because the payload was not ready: longer each time.
    pub(crate) fn note_lapse(&mut self) {
        let first = (self.spec.promote_timeout.unwrap_or_default() * 2).max(LEAST_LAPSE);
        let most = LAST_LAPSE.max(first);
        let doubled = first.saturating_mul(1 << self.gate.times.min(16));
        self.gate.times = self.gate.times.saturating_add(1);
        self.gate.failed_until = Some(self.now + doubled.min(most));
    }

    /// A failure is over by itself, and the others are told then.
    pub(crate) fn step_lapse(&mut self) {
        match self.gate.failed_until {
            Some(until) if until > self.now => self.wake(until),
            _ => self.gate.failed_until = None,
        }
    }

    /// Why a leader whose payload is not ready keeps the lead, once the time is over.
    pub(crate) fn leader_gate_waits(&self) -> Option<String> {
        let because = self.gate.stays.as_ref()?;
        Some(format!("the payload is not ready in time, and the lead stays here: {because}"))
    }
}
