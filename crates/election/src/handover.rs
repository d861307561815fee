//! Moving a running payload: a better standby asks, the leader stops first, then releases its lead.

use std::time::Duration;

use flagship_types::{Failback, MemberName, Role, Term};

use crate::core::Election;
use crate::io::{Event, Message, ResignReason};
use crate::outlook::{Reservation, preference_of};
use crate::peer::{Paced, Peer};
use crate::stage::{Lead, Stage, Stopping};

/// How long a released lead waits for its successor to announce itself.
pub const RESERVATION: Duration = Duration::from_secs(3);

/// The first pause after a handover that did not move the lead; it doubles each time.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_secs(60);
const LAST_BACKOFF: Duration = Duration::from_secs(3600);
/// How long a leader tries to make a stop durable before it calls it off.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a leader that lost its lease tries to make that durable before it deletes its payload all the same. A process
/// that restarts in between asks a majority, as after any restart.
const LOST_PATIENCE: Duration = Duration::from_millis(500);
const REQUEST_EVERY: Duration = Duration::from_secs(1);
const RELEASE_EVERY: Duration = Duration::from_millis(500);
/// When asking a leader again makes sense after a refusal that may end at any time.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl Election {
    /// As a standby: asks a worse-ranked leader for the lead once this member has been fit for long enough.
    pub(crate) fn step_failback(&mut self) {
        let Some((leader, term)) = self.replaceable_leader() else {
            self.steady_since = None;
            return;
        };
        let since = *self.steady_since.get_or_insert(self.now);
        let refused = self.handover_refused.as_ref().map(|(until, _)| *until);
        let from = (since + self.fleet_config().failback_delay).max(refused.unwrap_or_default());
        if self.now < from {
            return self.wake(from);
        }
        self.send_paced(&leader, Paced::Handover, REQUEST_EVERY, Message::HandoverRequest { term });
    }

    /// The leader, if this member is to take the lead from it.
    fn replaceable_leader(&self) -> Option<(MemberName, Term)> {
        let leader = self.leader.as_ref().and_then(|l| self.peers.get(l)).filter(|p| p.is_linked())?;
        let metadata = leader.metadata().filter(|m| m.role == Role::Leader)?;
        if self.ceded_to.as_ref() == Some(leader.name()) {
            return None;
        }
        let is_better = self.spec.rank > metadata.rank || !metadata.candidate;
        let is_fit = self.is_eligible() && self.is_healthy() && self.may_vote;
        let own = self.own_preference();
        let is_best = |p: &Peer| {
            p.name() == leader.name()
                || !p.is_present()
                || !p.is_healthy()
                || preference_of(p, p.rank()) < own
        };
        let automatic = self.fleet_config().failback == Failback::Automatic && self.pause().is_none();
        let is_fit = is_fit && self.unfenced().is_none();
        let replaces = is_better && is_fit && automatic && self.peers.values().all(is_best);
        replaces.then(|| (leader.name().clone(), self.leader_term))
    }

    pub(crate) fn on_handover_refused(
        &mut self,
        from: &MemberName,
        term: Term,
        reason: &str,
        retry_after: Duration,
    ) {
        if self.leader.as_ref() == Some(from) && self.leader_term == term {
            let pause = retry_after.clamp(Duration::from_millis(100), LAST_BACKOFF);
            // Shown to people, so it has to stay short whoever sent it.
            self.handover_refused = Some((self.now + pause, reason.chars().take(256).collect()));
        }
    }

    pub(crate) fn on_handover_request(&mut self, from: &MemberName, term: Term) {
        // A leader that is already stopping answers with its release.
        let Stage::Leader(lead) = &self.stage else {
            return;
        };
        match self.may_hand_over(lead, from, term) {
            Ok(()) => self.stop_payload(lead.term, ResignReason::Handover, Some(from.clone())),
            Err((reason, retry_after)) => {
                let reason = reason.to_owned();
                self.send(from, Message::HandoverRefused { term, reason, retry_after });
            }
        }
    }

    /// Whether a member that asks for the lead gets it.
    fn may_hand_over(
        &self,
        lead: &Lead,
        to: &MemberName,
        term: Term,
    ) -> Result<(), (&'static str, Duration)> {
        let no = |reason| Err((reason, ASK_AGAIN));
        if term != lead.term || !self.is_unhindered(lead) {
            return no("the leader is not sure of its own lead yet");
        }
        if !self.health.api {
            return no("the leader cannot reach its API server, so it cannot stop its payload");
        }
        if let Some(because) = self.operator_refuses() {
            return no(because);
        }
        let config = self.fleet_config();
        if config.failback == Failback::Manual {
            return no("failback is Manual");
        }
        let Some(metadata) = self
            .peers
            .get(to)
            .filter(|p| is_good_successor(p, ResignReason::Handover))
            .and_then(Peer::metadata)
        else {
            return no("the leader does not see the asking member as a healthy candidate");
        };
        if metadata.rank <= self.spec.rank && self.spec.candidate {
            return no("the asking member does not have the higher rank");
        }
        if self.peers.get(to).is_some_and(|to| self.unfenced_by(to).is_some()) {
            return no(
                "an earlier leader could not stop its payload, and the asking member has no hook that fences",
            );
        }
        match self.handover_not_before {
            Some(until) if until > self.now => Err(("the last handover failed", until.since(self.now))),
            _ => Ok(()),
        }
    }

    /// Begins to give the payload of this term up. Nothing is deleted before `stopping` is durable.
    pub(crate) fn stop_payload(&mut self, term: Term, reason: ResignReason, successor: Option<MemberName>) {
        self.record.held = Some(term);
        self.record.stopping = Some(term);
        let after = self.persist_step();
        let (since, directed, began, stopped) = (self.now, false, false, false);
        let stopping =
            Stopping { term, reason, successor, since, after, directed, began, stopped, stuck: None };
        self.become_stopping(stopping);
    }

    /// Persists what the next step depends on. Without a voter record there is nothing to keep: a process that
    /// finds the payload without a record asks again who leads.
    fn persist_step(&mut self) -> u64 {
        if self.may_vote { self.persist() } else { self.durable }
    }

    pub(crate) fn step_stopping(&mut self) {
        self.step_voter_record();
        self.keep_lease_while_stopping();
        let Stage::Stopping(stopping) = &self.stage else {
            return;
        };
        let is_durable = self.durable >= stopping.after;
        if stopping.stopped {
            if is_durable {
                self.finish_stop();
            }
            return;
        }
        // A lease that is lost waits for no API server that cannot store that: others count from its end.
        let is_late =
            stopping.reason == ResignReason::LeaseLost && self.now >= stopping.since + LOST_PATIENCE;
        if stopping.reason == ResignReason::LeaseLost && !is_durable && !is_late {
            self.wake(stopping.since + LOST_PATIENCE);
        }
        let Stage::Stopping(stopping) = &mut self.stage else {
            return;
        };
        stopping.directed |= is_durable || is_late;
        if !stopping.reason.is_handover() || stopping.began {
            return;
        }
        let (directed, until, successor) =
            (stopping.directed, stopping.since + STOP_PATIENCE, stopping.successor.clone());
        let reason = stopping.reason;
        let is_good =
            successor.and_then(|s| self.peers.get(&s)).is_some_and(|p| is_good_successor(p, reason));
        if !is_good {
            self.call_off("the successor is not healthy any more");
        } else if !directed && self.now >= until {
            self.call_off("the stop could not be recorded: the API server does not answer");
        } else if !directed {
            self.wake(until);
        }
    }

    /// Quorum: as long as the payload is not gone, nobody else may begin: the lease is renewed, and once it is lost what
    /// was to be deleted with all its time has to go at once.
    fn keep_lease_while_stopping(&mut self) {
        let Stage::Stopping(stopping) = &self.stage else {
            return;
        };
        let (term, is_over) = (stopping.term, stopping.stopped || stopping.reason == ResignReason::LeaseLost);
        if is_over || self.keep_lease(term) {
            return;
        }
        if let Stage::Stopping(stopping) = &mut self.stage {
            stopping.reason = ResignReason::LeaseLost;
            stopping.successor = None;
        }
    }

    /// Goes on leading under the same term, unless another leader came up meanwhile.
    fn call_off(&mut self, reason: &str) {
        let Stage::Stopping(stopping) = &self.stage else {
            return;
        };
        let term = stopping.term;
        if self.has_other_lead(term) {
            return;
        }
        self.handover_failed(term, reason.to_owned());
        self.record.stopping = None;
        let after = self.persist();
        self.become_leader(Lead::new(term, after, self.now));
    }

    /// Somebody else leads that this member follows instead of its own lead.
    fn has_other_lead(&self, own: Term) -> bool {
        let is_other = self.leader.as_ref().is_some_and(|l| *l != self.me);
        self.leader_term > own || (self.leader_term == own && is_other)
    }

    fn handover_failed(&mut self, term: Term, reason: String) {
        self.stats.handovers_failed += 1;
        self.handover_not_before = Some(self.now + self.handover_backoff);
        self.handover_backoff = (self.handover_backoff * 2).min(LAST_BACKOFF);
        self.event(Event::HandoverFailed { term, reason });
    }

    pub(crate) fn note_handed_over(&mut self) {
        self.stats.handovers += 1;
        self.handover_backoff = FIRST_BACKOFF;
        self.handover_not_before = None;
    }

    pub(crate) fn on_deletion_began(&mut self, term: Term) {
        if let Stage::Stopping(stopping) = &mut self.stage {
            stopping.began |= stopping.directed && stopping.term == term;
        }
    }

    pub(crate) fn on_payload_stopped(&mut self, term: Term) {
        let Stage::Stopping(stopping) = &mut self.stage else {
            return;
        };
        if stopping.term != term || !stopping.directed || stopping.stopped {
            return;
        }
        stopping.stopped = true;
        self.record.held = None;
        self.record.stopping = None;
        self.record.released = (!self.has_other_lead(term) && term > Term::NONE).then_some(term);
        if self.record.leader.as_ref() == Some(&self.me) {
            self.record.leader = None;
        }
        let after = self.persist_step();
        if let Stage::Stopping(stopping) = &mut self.stage {
            stopping.after = after;
        }
    }

    fn finish_stop(&mut self) {
        let Stage::Stopping(stopping) = &self.stage else {
            return;
        };
        let (term, reason, successor) = (stopping.term, stopping.reason, stopping.successor.clone());
        match reason {
            ResignReason::Switchover => self.ceded_to.clone_from(&successor),
            ResignReason::Unhealthy => self.note_lapse(),
            _ => {}
        }
        if self.leader.as_ref() == Some(&self.me) {
            self.leader = None;
        }
        self.vacancy = None;
        if !self.has_other_lead(term) && term > Term::NONE {
            self.released = Some((term, successor.clone()));
            let me = self.me.clone();
            self.void_pledge(&me, term);
            self.reservation = Some(Reservation { term, successor, reason, until: self.now + RESERVATION });
            self.event(Event::LeaderChanged { leader: None, term });
        }
        for peer in self.peers.values_mut() {
            peer.hasten(Paced::Release);
        }
        self.become_standby();
    }

    /// Says again that the payload is gone, until a higher lead is seen.
    pub(crate) fn repeat_release(&mut self) {
        let Some((term, successor)) = self.released.clone() else {
            return;
        };
        let reason = self.reservation.as_ref().map_or(ResignReason::Handover, |r| r.reason);
        for peer in self.names(Peer::is_linked) {
            let release = Message::Release { term, successor: successor.clone(), reason };
            self.send_paced(&peer, Paced::Release, RELEASE_EVERY, release);
        }
    }

    /// The successor did not come forward: this member claims anew, and the next handover waits.
    pub(crate) fn reclaim(&mut self) {
        if let Some((term, Some(successor))) = self.released.clone() {
            self.released = Some((term, None));
            self.handover_failed(term, format!("{successor} did not announce itself as the new leader"));
        }
    }

    pub(crate) fn on_stop_stuck(&mut self, term: Term, object: String) {
        let Stage::Stopping(stopping) = &mut self.stage else {
            return;
        };
        if stopping.term != term || stopping.stopped {
            return;
        }
        let may_go_on = stopping.reason.is_handover() || stopping.reason == ResignReason::Operator;
        let reason = format!("{object} does not go away");
        stopping.stuck = Some(object);
        if may_go_on && !self.has_other_lead(term) {
            // An operator's wish was for a handover, not for an outage.
            self.retired = None;
            self.call_off(&reason);
        }
    }

    /// Only a move that somebody wished for can be refused, and only while nothing is deleted.
    pub(crate) fn on_stop_refused(&mut self, term: Term, because: &str) {
        let Stage::Stopping(stopping) = &self.stage else {
            return;
        };
        if stopping.term == term && stopping.reason.is_handover() && !stopping.began && !stopping.stopped {
            self.call_off(because);
        }
    }

    pub(crate) fn on_retire(&mut self, reason: ResignReason) {
        self.retired = Some(reason);
        if let Stage::Stopping(stopping) = &mut self.stage {
            let is_ours = stopping.reason.is_handover() || stopping.reason == ResignReason::Operator;
            // Whatever it was for: it has to end at once now.
            if is_ours || reason == ResignReason::LeaseLost {
                stopping.reason = reason;
                stopping.successor = None;
            }
        }
    }
}

/// Whether that peer can take the lead. An operator who moves it knows more than what went wrong lately.
pub(crate) fn is_good_successor(peer: &Peer, reason: ResignReason) -> bool {
    let is_fit = match reason {
        ResignReason::Switchover => peer.is_able(),
        _ => peer.is_healthy(),
    };
    peer.is_linked() && is_fit
}
