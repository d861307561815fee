//! The voter: judges claims, and gives one grant per term, durable before it is said.

use std::time::Duration;

use flagship_types::{ConfigVersion, MemberName, Mode, Term};

use crate::core::{Election, Gated};
use crate::io::{Claim, Message, Promise, Refusal, ResignReason, Vote};
use crate::outlook::{Outlook, preference_of};
use crate::planted::PlantedBug;
use crate::stage::{Campaign, Phase, Stage};

/// A leader's last beat is not said to be older than this: whoever refuses for that long has heard none at all.
const MAX_BEAT_AGE: Duration = Duration::from_secs(86_400);
/// When to ask again whether a leader is still there: views differ for about a round trip and a window.
const RETRY_SOON: Duration = Duration::from_millis(150);
/// When to ask again a voter that will answer differently only after something has happened.
const RETRY_LATER: Duration = Duration::from_secs(1);
/// How long a better candidate is given to campaign itself.
const BETTER_PATIENCE: Duration = Duration::from_secs(3);
/// How long the candidate that was granted a term has to announce itself before the voter campaigns.
const YIELD: Duration = Duration::from_secs(3);

/// Why not, and when to ask again.
type No = (Refusal, Duration);

impl Election {
    pub(crate) fn on_claim(&mut self, from: &MemberName, claim: &Claim, pre: bool) {
        let met = match self.is_quorum_matter(claim) {
            true => self.meet_claimed_config(from, claim).map_err(|refusal| (refusal, RETRY_LATER)),
            false => Ok(()),
        };
        let judgement = met.and_then(|()| self.judge(from, claim));
        if judgement.as_ref().is_err_and(|(refusal, _)| *refusal == Refusal::TermJump) {
            self.stats.messages_ignored += 1;
        } else if !pre {
            // A claim used its term up, granted or not.
            self.record.term = self.record.term.max(claim.term);
        }
        self.duel(from, claim);
        match judgement {
            Err((refusal, retry_after)) => {
                self.stats.refusals += 1;
                let highest = self.record.term;
                let term = claim.term;
                self.send(from, Message::Refuse { term, pre, refusal, highest, retry_after });
            }
            Ok(()) if pre => self.tell_grant(from, claim.term, true),
            Ok(()) => self.grant(from, claim),
        }
    }

    fn grant(&mut self, to: &MemberName, claim: &Claim) {
        let term = claim.term;
        let vote = Vote { term, candidate: to.clone() };
        let is_new = self.record.vote.as_ref() != Some(&vote);
        self.stats.grants += u64::from(is_new);
        if claim.config.mode == Mode::Quorum {
            if self.has_no_config() {
                self.record.config = claim.config.clone();
            }
            self.adopt_config(&claim.config);
            let promise = Promise { lease: claim.config.lease, stop_grace: claim.config.stop_grace };
            if is_new {
                self.pledge_to(vote, promise);
            }
            self.pledge.until = self.pledge.until.max(self.now + claim.config.lease);
        } else if is_new {
            self.record.vote = Some(vote);
        }
        self.yielding = Some((to.clone(), self.now + YIELD));
        if matches!(self.stage, Stage::Candidate(_)) {
            self.step_back();
        }
        self.pledge.stored_in = self.persist();
        self.persist_then(Gated::Grant { to: to.clone(), term });
    }

    /// Says yes, and what the claimant has to wait for.
    pub(crate) fn tell_grant(&mut self, to: &MemberName, term: Term, pre: bool) {
        let (owed, config) = match self.quorum() {
            Some(config) => (self.owed(), config.version),
            None => (Duration::ZERO, ConfigVersion(0)),
        };
        self.send(to, Message::Grant { term, pre, owed, config });
    }

    /// Whether Quorum's rules are to be held to for this claim: by the claimant's configuration, or by the own.
    fn is_quorum_matter(&self, claim: &Claim) -> bool {
        claim.config.mode == Mode::Quorum || self.quorum().is_some()
    }

    fn judge(&self, from: &MemberName, claim: &Claim) -> Result<(), No> {
        let highest_lead = self.leader_term.max(self.record.held.unwrap_or_default());
        if self.believable(claim.term).is_none() {
            return Err((Refusal::TermJump, RETRY_LATER));
        }
        if self.stage.has_payload() && !self.has(PlantedBug::LeaderIgnored) {
            return Err((Refusal::Leading, RETRY_LATER));
        }
        if !self.may_vote {
            return Err((Refusal::NoRecord, RETRY_SOON));
        }
        if self.has(PlantedBug::GrantsTwice) {
            return Ok(());
        }
        if let Some(term) = self.spent(from, claim.term) {
            return Err((Refusal::Granted { term }, RETRY_SOON));
        }
        if let Some(until) = self.pledged_to_another(from).filter(|_| self.is_quorum_matter(claim)) {
            return Err((Refusal::Leased, until.since(self.now)));
        }
        if self.knows_newer_pause(claim) {
            return Err((Refusal::OldConfig, RETRY_SOON));
        }
        match self.outlook(Some(from)) {
            Outlook::Held(leader) => {
                let heard = self.peers.get(&leader).and_then(|p| p.heard);
                let beat_age = self.now.since(heard.unwrap_or(self.started)).min(MAX_BEAT_AGE);
                return Err((Refusal::LeaderAlive { beat_age }, RETRY_SOON));
            }
            Outlook::Grace(until) => return Err((Refusal::RestartGrace, until.since(self.now))),
            Outlook::Reserved(_, until) => {
                return Err((Refusal::ReservedForSuccessor, until.since(self.now)));
            }
            Outlook::Vacant => {}
        }
        if claim.term <= highest_lead {
            return Err((Refusal::Granted { term: highest_lead }, RETRY_SOON));
        }
        match self.would_do_better(from, claim) {
            true => Err((Refusal::BetterCandidate, RETRY_LATER)),
            false => Ok(()),
        }
    }

    /// The term that this voter already gave away, if it speaks against this claim.
    pub(crate) fn spent(&self, from: &MemberName, term: Term) -> Option<Term> {
        let vote = self.record.vote.as_ref()?;
        let speaks_against = vote.term > term || (vote.term == term && vote.candidate != *from);
        speaks_against.then_some(vote.term)
    }

    /// Whether this member is the better candidate and about to claim itself. It gets some time for that only:
    /// a better candidate that does not come forward must not keep a fleet without a leader.
    fn would_do_better(&self, from: &MemberName, claim: &Claim) -> bool {
        let Some(peer) = self.peers.get(from) else {
            return false;
        };
        let is_better = self.own_preference() > preference_of(peer, claim.rank);
        let is_named = self.reservation.as_ref().is_some_and(|r| r.successor.as_ref() == Some(from));
        let in_time = match self.vacancy.and_then(|v| v.claimable) {
            Some(claimable) => self.now.since(claimable) < BETTER_PATIENCE,
            None => true,
        };
        let may = self.is_eligible() && self.is_healthy() && !self.founding_is_others();
        let backs_off = self.campaign_not_before.is_some_and(|at| at > self.now);
        // A claimant whose payload was found running holds the lead for everybody else.
        let is_free = self.outlook(None) == Outlook::Vacant;
        is_better && !is_named && may && is_free && in_time && !backs_off
    }

    /// Two candidates at once: the worse one steps back, so that the next round has one only.
    fn duel(&mut self, from: &MemberName, claim: &Claim) {
        let Stage::Candidate(campaign) = self.stage else {
            return;
        };
        let Some(peer) = self.peers.get(from) else {
            return;
        };
        if let Some(found) = campaign.found {
            if self.found_is_worse(found, peer) {
                self.stop_payload(found, ResignReason::Superseded, None);
            }
            return;
        }
        let is_believable = self.believable(claim.term).is_some();
        if is_believable && preference_of(peer, claim.rank) > self.own_preference() {
            self.step_back();
        }
    }

    /// A leader asks whether it still leads, so it lives: a candidacy that is not durable, and may never be, is no
    /// reason for it to give its payload up. It ends.
    pub(crate) fn spare_the_asker(&mut self) {
        let Stage::Candidate(campaign) = self.stage else {
            return;
        };
        if campaign.found.is_none() && !self.is_claiming() && !self.has(PlantedBug::CandidacySupersedes) {
            self.step_back();
        }
    }

    /// Asks for grants, and its own is durable.
    fn is_claiming(&self) -> bool {
        match self.stage {
            Stage::Candidate(Campaign { phase: Phase::Claim { after }, .. }) => self.is_durable(after),
            _ => false,
        }
    }

    /// The highest (term, candidate) this member granted or saw leading, for a leader that asks whether it still
    /// leads. An own candidacy that came to nothing says nothing.
    pub(crate) fn highest_known(&self) -> Option<Vote> {
        let lead = self.leader.as_ref().or(self.former.as_ref()).filter(|_| self.leader_met);
        let lead = lead.filter(|_| self.leader_term > Term::NONE);
        let lead = lead.map(|l| Vote { term: self.leader_term, candidate: l.clone() });
        let is_claiming = self.is_claiming() || self.has(PlantedBug::CandidacySupersedes);
        let vote = self.record.vote.clone().filter(|v| v.candidate != self.me || is_claiming);
        match (lead, vote) {
            (Some(lead), Some(vote)) => Some(if outranks(&vote, &lead) { vote } else { lead }),
            (lead, vote) => lead.or(vote),
        }
    }
}

/// Terms compare as (term, candidate); within one term the smaller name stands higher.
pub(crate) fn outranks(a: &Vote, b: &Vote) -> bool {
    a.term > b.term || (a.term == b.term && a.candidate < b.candidate)
}
