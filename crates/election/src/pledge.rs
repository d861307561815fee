//! Quorum, as a voter: what it has promised, and to whom. A grant and each renewal promise the lead to one candidate for a
//! lease; whoever is granted it next is told how long the payload of those before may still run.

use std::time::Duration;

use flagship_types::quorum::successor_wait;
use flagship_types::{ConfigVersion, FleetConfig, Instant, MemberName, Mode, Term};

use crate::core::{Election, Gated};
use crate::io::{Claim, Message, Promise, Refusal, Vote};
use crate::planted::PlantedBug;
use crate::stage::Stage;

/// When a voter that cannot promise now is worth asking again.
const RETRY: Duration = Duration::from_millis(150);

/// What this voter's durable promise means in time. All of it is about the holder of `record.vote`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pledge {
    /// Nobody else is granted the lead before.
    pub(crate) until: Instant,
    /// The payloads of those before the holder are gone then.
    pub(crate) owed_until: Instant,
    /// The record version with that vote and promise: until it is durable nothing is said of them.
    pub(crate) stored_in: u64,
    /// Since when the holder asks for less than the promise on record, and how long the longer one still counts.
    relax_at: Option<Instant>,
}

impl Pledge {
    /// Of a process that starts: it does not know when it promised last, so it begins anew.
    pub(crate) fn restored(promise: Option<Promise>, now: Instant) -> Self {
        let (lease, grace) = promise
            .map_or_else(Default::default, |p| (p.lease.min(Promise::LONGEST), stretched(p.stop_grace)));
        // What is owed to those before the holder ended with their leases, and those ended before this one.
        Self { until: now + lease, owed_until: now + grace, stored_in: 0, relax_at: None }
    }
}

impl Pledge {
    /// Nothing is promised to anybody, and nothing owed.
    fn end(&mut self, now: Instant) {
        (self.until, self.owed_until, self.relax_at) = (now, now, None);
    }
}

/// Somebody may have edited the status that it comes from: no number there makes this overflow.
fn stretched(grace: Duration) -> Duration {
    successor_wait(grace.min(Promise::LONGEST))
}

/// A renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) term: Term,
    pub(crate) seq: u64,
    pub(crate) promise: Promise,
}

impl Election {
    /// The configuration that this member goes by, if its mode is Quorum. A leader that replaces it by Availability is
    /// bound by it until the voters know.
    pub(crate) fn quorum(&self) -> Option<&FleetConfig> {
        let in_force = Some(&self.record.config).filter(|config| config.mode == Mode::Quorum);
        in_force.or_else(|| self.leaving())
    }

    /// The Quorum that binds this member, though the configuration it has stored is in mode Availability: no majority of
    /// its voters is known to have stored that. It claims under the old one, and others hear of the new one only as far
    /// as the old one's voters go.
    pub(crate) fn leaving(&self) -> Option<&FleetConfig> {
        let replaced = self.record.replaced.as_deref().filter(|old| old.mode == Mode::Quorum);
        replaced.filter(|_| self.record.config.mode != Mode::Quorum)
    }

    /// Whether Quorum's rules bind this member: the fleet's mode, or the one that this leader is about to replace.
    pub fn is_bound_by_quorum(&self) -> bool {
        self.quorum().is_some()
    }

    /// Whether this member has a vote under the configuration that it goes by.
    pub(crate) fn is_voter(&self) -> bool {
        self.quorum().is_some_and(|config| config.voters.contains(&self.me))
    }

    /// Until when this voter has promised the lead to somebody other than that candidate.
    pub(crate) fn pledged_to_another(&self, candidate: &MemberName) -> Option<Instant> {
        let is_young = self.now.since(self.started) < Duration::from_secs(10);
        if is_young && self.has(PlantedBug::PromiseForgotten) {
            return None;
        }
        // Without a vote on record it is not known whom this member had promised the lead to.
        let is_theirs = self.record.vote.as_ref().is_some_and(|vote| vote.candidate == *candidate);
        let counts = self.record.promise.is_some() && self.pledge.until > self.now;
        (counts && !is_theirs).then_some(self.pledge.until)
    }

    /// Whether the claimant's configuration is one that this voter can grant under. Who has an old one is told the newer.
    pub(crate) fn meet_claimed_config(&mut self, from: &MemberName, claim: &Claim) -> Result<(), Refusal> {
        let own = &self.record.config;
        let is_same = claim.config.same_settings(own) || self.has_no_config();
        if claim.config.version < own.version || (claim.config.version == own.version && !is_same) {
            self.tell_record(from);
            return Err(Refusal::OldConfig);
        }
        match claim.config.mode {
            Mode::Quorum if !claim.config.voters.contains(&self.me) => Err(Refusal::NoVoter),
            Mode::Quorum | Mode::Availability => Ok(()),
        }
    }

    /// A witness that never met a fleet proposes nothing of its own.
    pub(crate) fn has_no_config(&self) -> bool {
        self.spec.witness && self.record.config.version == ConfigVersion(0) && self.record.vote.is_none()
    }

    /// Records the grant of a term to that candidate, and what it is owed to wait.
    pub(crate) fn pledge_to(&mut self, vote: Vote, promise: Promise) {
        let before = self.record.vote.as_ref().filter(|before| before.candidate != vote.candidate);
        let owed = match (before, self.record.promise) {
            // Its lease is over, or this grant would not be given; its payload may not be gone.
            (Some(_), Some(promised)) => self.pledge.until + stretched(promised.stop_grace),
            _ => self.pledge.owed_until,
        };
        self.pledge.owed_until = self.pledge.owed_until.max(owed);
        let still_owes = self.pledge.owed_until > self.now || self.pledge.until > self.now;
        let old = self.record.promise.filter(|_| still_owes);
        let at_least = |new: Duration, old: Option<Duration>| old.map_or(new, |old| new.max(old));
        self.record.promise = Some(Promise {
            lease: at_least(
                promise.lease,
                old.map(|p| p.lease).filter(|_| before_is_same(&self.record.vote, &vote)),
            ),
            stop_grace: at_least(promise.stop_grace, old.map(|p| p.stop_grace)),
        });
        self.record.vote = Some(vote);
        self.pledge.until = self.pledge.until.max(self.now + promise.lease);
        self.pledge.relax_at = None;
    }

    /// This member had a record and lost it: to whom it had promised the lead, and until when, nobody knows. It is silent
    /// for a lease, and whoever is granted the lead next waits for the payload of that one. In a fleet that never had a
    /// leader nobody was promised anything.
    pub(crate) fn pledge_for_the_lost_record(&mut self) {
        let is_new_fleet = self.record.config.version == ConfigVersion(0);
        let Some(config) = self.quorum().filter(|_| !is_new_fleet && self.record.vote.is_none()) else {
            return;
        };
        let (lease, stop_grace) = (config.lease, config.stop_grace);
        self.record.promise = Some(Promise { lease, stop_grace });
        self.pledge.until = self.now + lease;
        self.pledge.owed_until = self.pledge.until + stretched(stop_grace);
    }

    /// How long the payload of those before the holder of the grant may run from now on.
    pub(crate) fn owed(&self) -> Duration {
        if self.has(PlantedBug::GraceNotWaited) {
            return Duration::ZERO;
        }
        self.pledge.owed_until.since(self.now)
    }

    /// The leader asks for another lease. With a term that this voter has not granted yet it asks for that, too.
    pub(crate) fn on_renew(&mut self, from: &MemberName, renewal: Renewal) {
        let Renewal { term, .. } = renewal;
        // In Availability a leader asks before it changes the mode.
        let follows = self.leader_met && self.leader.as_ref() == Some(from) && self.leader_term == term;
        if !self.see(term) || (self.quorum().is_none() && !follows) {
            return;
        }
        match self.may_renew(from, term) {
            Err((refusal, retry_after)) => {
                self.stats.refusals += 1;
                let highest = self.record.vote.as_ref().map_or(Term::NONE, |vote| vote.term);
                self.send(from, Message::Refuse { term, pre: false, refusal, highest, retry_after });
            }
            Ok(()) => self.renew(from, renewal),
        }
    }

    fn may_renew(&self, from: &MemberName, term: Term) -> Result<(), (Refusal, Duration)> {
        if !self.may_vote {
            return Err((Refusal::NoRecord, RETRY));
        }
        if let Some(granted) = self.spent(from, term) {
            return Err((Refusal::Granted { term: granted }, RETRY));
        }
        // Who leads may be the one that a lost record had promised the lead to.
        match self.pledged_to_another(from).filter(|_| self.record.vote.is_some()) {
            Some(until) => Err((Refusal::Leased, until.since(self.now))),
            None if self.stage.has_payload() => Err((Refusal::Leading, RETRY)),
            None => Ok(()),
        }
    }

    fn renew(&mut self, from: &MemberName, renewal: Renewal) {
        let vote = Vote { term: renewal.term, candidate: from.clone() };
        let is_granted = self.record.vote.as_ref() == Some(&vote);
        let on_record = self.record.promise;
        if !is_granted {
            self.stats.grants += 1;
            self.pledge_to(vote, renewal.promise);
            if matches!(self.stage, Stage::Candidate(_)) {
                self.step_back();
            }
        }
        if self.has(PlantedBug::PromiseShortened) {
            (self.record.promise, self.pledge.until) = (None, self.now);
        }
        let promise = self.promise_for(renewal.promise);
        let must_store = !is_granted || on_record != Some(promise);
        self.record.promise = Some(promise);
        self.pledge.until = self.pledge.until.max(self.now + renewal.promise.lease);
        let gated = Gated::Renewed { to: from.clone(), term: renewal.term, seq: renewal.seq };
        // The promise on record may cover it already: then it is told at once.
        if must_store {
            self.pledge.stored_in = self.persist();
            self.persist_then(gated);
        } else if self.is_durable(self.pledge.stored_in) {
            self.tell_renewed(from, renewal.term, renewal.seq);
        } else {
            self.gate_renewal(gated);
        }
    }

    /// The promise to have on record: a smaller one than before only once the larger one has run out, so that a process
    /// that restarts keeps what was promised.
    fn promise_for(&mut self, asked: Promise) -> Promise {
        let Some(old) = self.record.promise else { return asked };
        let worst =
            Promise { lease: old.lease.max(asked.lease), stop_grace: old.stop_grace.max(asked.stop_grace) };
        if worst == asked {
            self.pledge.relax_at = None;
            return asked;
        }
        let runs_out = self.now + old.lease;
        let relax_at = *self.pledge.relax_at.get_or_insert(runs_out.max(self.pledge.owed_until));
        if self.now < relax_at {
            return worst;
        }
        self.pledge.relax_at = None;
        asked
    }

    pub(crate) fn tell_renewed(&mut self, to: &MemberName, term: Term, seq: u64) {
        let config = self.stored_config.version;
        self.send(to, Message::Renewed { term, seq, config });
    }

    /// A leader announced itself, which it does once it has begun: by then the payloads of those before it were gone, and
    /// their leases long over.
    pub(crate) fn note_begun(&mut self, leader: &MemberName, term: Term) {
        let Some(vote) = self.record.vote.as_ref().filter(|_| self.quorum().is_some()) else { return };
        let is_holder = vote.candidate == *leader && vote.term == term;
        if is_holder || term > vote.term {
            self.pledge.owed_until = self.now;
        }
        if term > vote.term && self.record.promise.take().is_some() {
            self.pledge.end(self.now);
            self.persist_if_voter();
        }
    }

    /// An operator vouches for it that nobody else runs the payload: this member, whose vote is its own, owes nobody
    /// anything.
    pub(crate) fn pledge_by_force(&mut self) {
        let Some(config) = self.quorum() else { return };
        let (lease, stop_grace) = (config.lease, config.stop_grace);
        self.record.promise = Some(Promise { lease, stop_grace });
        self.pledge.end(self.now);
        self.pledge.until = self.now + lease;
    }

    /// The holder said that its payload is gone: nothing is promised to it any more, and nothing owed, as it waited for
    /// those before it.
    pub(crate) fn void_pledge(&mut self, holder: &MemberName, term: Term) {
        let is_theirs = self.record.vote.as_ref().is_some_and(|v| v.candidate == *holder && v.term == term);
        if is_theirs && self.record.promise.take().is_some() {
            self.pledge.end(self.now);
            self.persist_if_voter();
        }
    }
}

fn before_is_same(before: &Option<Vote>, vote: &Vote) -> bool {
    before.as_ref().is_some_and(|before| before.candidate == vote.candidate)
}
