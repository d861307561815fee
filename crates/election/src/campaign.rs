//! The standby that waits for the lead, and the candidate that asks for it: pre-claim, claim, retry.

use std::collections::BTreeSet;
use std::time::Duration;

use flagship_types::quorum::has_majority;
use flagship_types::{ConfigVersion, Instant, MemberName, Role, Term};

use crate::core::{Election, FOUNDING_WAIT};
use crate::electors::{Elector, Tally, select, tally};
use crate::io::{Claim, Event, Message, Presence, Promise, Refusal, ResignReason, Vote};
use crate::outlook::{Outlook, Vacancy};
use crate::peer::{Ask, Paced, Peer};
use crate::planted::PlantedBug;
use crate::stage::{Campaign, Phase, Stage};

/// How much longer each candidate waits than the next better one, which campaigns at once.
pub const FALLBACK_DELAY: Duration = Duration::from_secs(1);

/// Links asked for at once: all electors, and a batch of those whose records or answers are still missing.
pub const MAX_NEEDED: usize = 32;

/// A claim is state and repeated; one round trip is far shorter.
const CLAIM_EVERY: Duration = Duration::from_millis(500);
/// How long a candidate waits for its own vote to become durable before it lets others try.
const VOTE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a candidate that could not or would not go on lets others try.
const STEP_BACK: Duration = Duration::from_secs(1);
/// A refusal by a mistaken or hostile peer holds nobody up for longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);
const MIN_RETRY_AFTER: Duration = Duration::from_millis(10);
/// A voter that is mistaken or hostile makes nobody wait longer than the longest stop grace that can be configured.
const MAX_OWED: Duration = Duration::from_secs(3780);
/// Keeps equal candidates apart.
const JITTER: Duration = Duration::from_millis(100);

impl Election {
    pub(crate) fn step_standby(&mut self) {
        self.repeat_release();
        match self.outlook(None) {
            Outlook::Held(_) => {
                self.vacancy = None;
                self.step_failback();
            }
            Outlook::Grace(until) | Outlook::Reserved(_, until) => {
                self.note_vacancy().claimable = None;
                self.wake(until);
            }
            Outlook::Vacant => self.step_vacant(),
        }
    }

    fn note_vacancy(&mut self) -> &mut Vacancy {
        if self.vacancy.is_none() {
            self.steady_since = None;
            let presence = self.former.as_ref().and_then(|f| self.peers.get(f)).map(|p| p.view.presence);
            let failover = presence == Some(Presence::Down) && self.leader == self.former;
            let jitter = self.jitter(JITTER);
            self.vacancy = Some(Vacancy { since: self.now, claimable: None, failover, jitter });
        }
        self.vacancy.as_mut().expect("just set")
    }

    fn step_vacant(&mut self) {
        let now = self.now;
        let vacancy = self.note_vacancy();
        let claimable = *vacancy.claimable.get_or_insert(now);
        let vacancy = *vacancy;
        if let Some(until) = self.pledged_to_another(&self.me).filter(|_| self.is_voter()) {
            return self.wake(until);
        }
        let Some(from) = self.campaign_time(claimable, vacancy.jitter) else {
            return;
        };
        if now < from {
            self.wake(from);
            return;
        }
        self.reclaim();
        let (released, found) = (self.release_rested_on(), None);
        let (vacant_since, failover) = (vacancy.since, vacancy.failover);
        self.begin_campaign(vacant_since, failover, released, found);
    }

    /// When this member may campaign for a lead that is free since `claimable`; `None`: not by itself.
    fn campaign_time(&self, claimable: Instant, jitter: Duration) -> Option<Instant> {
        let is_barred = self.is_held_back() || self.unfenced().is_some();
        if !self.is_eligible() || !self.may_vote || self.founding_is_others() || is_barred {
            return None;
        }
        let mut from = claimable;
        let is_named = self.reservation.as_ref().is_some_and(|r| r.successor.as_ref() == Some(&self.me));
        // Who released in vain claims anew at once: it is known to have been able to lead.
        let in_turn = is_named || self.released.is_some();
        let position = self.position();
        if position > 0 && !in_turn {
            from = from + FALLBACK_DELAY * position + jitter;
        }
        if self.is_founding() || (self.listens && !self.peers.values().any(|p| p.metadata().is_some())) {
            from = from.max(self.started + FOUNDING_WAIT);
        }
        let yields =
            self.yielding.as_ref().filter(|(to, _)| self.peers.get(to).is_some_and(Peer::is_present));
        let not_before = [self.campaign_not_before, yields.map(|(_, until)| *until)];
        Some(not_before.into_iter().flatten().fold(from, Instant::max))
    }

    /// No lead was ever held in this fleet, as far as is known.
    pub(crate) fn is_founding(&self) -> bool {
        self.record.term == Term::NONE
    }

    /// There is no fleet yet, and this member may not found one.
    pub(crate) fn founding_is_others(&self) -> bool {
        self.is_founding() && !self.spec.ready
    }

    fn release_rested_on(&self) -> Option<Term> {
        let term = self.leader_term;
        self.peers.values().any(|p| p.released == term && term > Term::NONE).then_some(term)
    }

    pub(crate) fn begin_campaign(
        &mut self,
        vacant_since: Instant,
        failover: bool,
        released: Option<Term>,
        found: Option<Term>,
    ) {
        self.stats.campaigns += 1;
        self.round += 1;
        let (phase, phase_since, round) = (Phase::Pre, self.now, self.round);
        let (term, config) = (self.record.term.next(), self.record.config.version);
        self.become_candidate(Campaign {
            config,
            term,
            phase,
            phase_since,
            round,
            vacant_since,
            failover,
            released,
            found,
        });
    }

    pub(crate) fn step_campaign(&mut self, campaign: Campaign) {
        // Whoever has not heard of the release grants for after the payload's time only.
        self.repeat_release();
        if let Some(reason) = self.retired {
            return match campaign.found {
                Some(term) => self.stop_payload(term, reason, None),
                None => self.become_standby(),
            };
        }
        if campaign.found.is_some() && self.is_unleased_too_long() {
            return self.stop_payload(campaign.found.unwrap_or_default(), ResignReason::LeaseLost, None);
        }
        let outlook = self.outlook(None);
        if campaign.found.is_none()
            && (outlook != Outlook::Vacant || !self.spec.may_lead() || self.is_held_back())
        {
            return self.become_standby();
        }
        if self.step_forced(campaign) {
            return;
        }
        if self.quorum().is_some() && !self.is_config_of(campaign) {
            return self.follow_config(campaign);
        }
        match campaign.phase {
            Phase::Refused => self.step_refused(campaign),
            Phase::Claim { after } if !self.is_durable(after) => {
                let until = campaign.phase_since + VOTE_PATIENCE;
                match campaign.found {
                    None if self.now >= until => self.step_back(),
                    _ => self.wake(until),
                }
            }
            Phase::Pre | Phase::Claim { .. } => self.step_round(campaign),
        }
    }

    /// Quorum: whether it asks under the configuration that is stored here; grants under another count for nothing.
    fn is_config_of(&self, campaign: Campaign) -> bool {
        let version = self.record.config.version;
        campaign.config == version && self.stored_config.version == version
    }

    /// A newer configuration arrived: asks anew once it is stored.
    fn follow_config(&mut self, campaign: Campaign) {
        let config = self.record.config.version;
        if self.stored_config.version == config {
            self.next_phase(Campaign {
                term: self.record.term.next(),
                phase: Phase::Pre,
                config,
                ..campaign
            });
        } else if campaign.found.is_none() {
            self.step_back();
        }
    }

    /// Lets others try for a while.
    pub(crate) fn step_back(&mut self) {
        let until = self.now + STEP_BACK + self.jitter(JITTER);
        self.campaign_not_before = Some(until);
        self.become_standby();
    }

    fn step_refused(&mut self, campaign: Campaign) {
        let refusals = self.electors().into_iter().filter_map(|e| self.peers.get(&e)?.ask.refused_until);
        // In Quorum one voter more may be enough.
        let until = match self.quorum() {
            // Who split the votes would do so again when those promises end, all at the same time: the best goes first.
            Some(_) => {
                let jitter = self.vacancy.map_or(Duration::ZERO, |vacancy| vacancy.jitter);
                refusals.min().map(|until| until + (FALLBACK_DELAY + jitter) * self.position())
            }
            None => refusals.max(),
        };
        let until = until.unwrap_or(self.now);
        if until > self.now {
            return self.wake(until);
        }
        self.next_phase(Campaign { term: self.record.term.next(), phase: Phase::Pre, ..campaign });
    }

    fn next_phase(&mut self, campaign: Campaign) {
        self.round += 1;
        self.moves += 1;
        self.stage = Stage::Candidate(Campaign { round: self.round, phase_since: self.now, ..campaign });
    }

    /// Everybody whose grant counts, as things stand: in Quorum a majority of them is enough.
    pub(crate) fn electors(&self) -> Vec<MemberName> {
        if let Some(config) = self.quorum() {
            return config.voters.iter().filter(|voter| **voter != self.me).cloned().collect();
        }
        let leader = self.former.as_ref();
        let counts = |p: &&Peer| {
            (p.is_present() || self.has(PlantedBug::DownMustGrant))
                && (Some(p.name()) == leader || p.metadata().is_none() || p.is_candidate())
        };
        select(self.peers.values().filter(counts).map(|p| (p.name(), p.rank())), leader)
    }

    /// Members that this one has to be linked to whatever else links it: those whose grants it needs, the leader, and
    /// those it has to ask first. At most [`MAX_NEEDED`]. Who never leads asks nobody and needs nobody; whoever needs
    /// it dials.
    pub fn needed(&self) -> BTreeSet<MemberName> {
        let is_interrupted = self.is_interrupted();
        let holds = is_interrupted || matches!(self.role(), Role::Leader | Role::Stopping);
        if !self.is_eligible() && !holds && self.released.is_none() {
            return BTreeSet::new();
        }
        let leader = self.leader.iter().filter(|leader| **leader != self.me).cloned();
        let mut needed: BTreeSet<_> = self.electors().into_iter().chain(leader).collect();
        let is_asked =
            |p: &&Peer| p.is_present() && ((!self.may_vote && !p.told) || (is_interrupted && p.unconfirmed));
        for peer in self.peers.values().filter(is_asked) {
            if needed.len() >= MAX_NEEDED {
                break;
            }
            needed.insert(peer.name().clone());
        }
        needed
    }

    fn step_round(&mut self, campaign: Campaign) {
        let claim = Claim {
            term: campaign.term,
            rank: self.spec.rank,
            // Who is on the way out of Quorum is elected as the voters know it.
            config: self.leaving().unwrap_or(&self.stored_config).clone(),
            released: campaign.released,
        };
        let is_pre = campaign.phase == Phase::Pre;
        let electors = self.electors();
        let mut asked = Vec::with_capacity(electors.len());
        for name in electors {
            let elector = self.ask(&name, campaign.round, || match is_pre {
                true => Message::PreClaim(claim.clone()),
                false => Message::Claim(claim.clone()),
            });
            asked.extend(elector);
        }
        let tally = match self.quorum() {
            Some(_) => self.tally_quorum(campaign),
            None => tally(&asked, self.now),
        };
        match tally {
            Tally::Open(next) => {
                if let Some(next) = next {
                    self.wake(next);
                }
            }
            Tally::Won if is_pre => self.claim(campaign),
            Tally::Won => self.win(campaign),
        }
    }

    /// Quorum: a majority of the voters, this one included if it is one, has granted.
    fn tally_quorum(&self, campaign: Campaign) -> Tally {
        let granted = |voter: &MemberName| {
            let own = *voter == self.me && self.may_vote;
            own || self.peers.get(voter).is_some_and(|p| p.ask.round == campaign.round && p.ask.granted)
        };
        match self.quorum().is_some_and(|config| has_majority(&config.voters, granted)) {
            true => Tally::Won,
            false => Tally::Open(None),
        }
    }

    /// Quorum: whether a majority may yet grant in this round, of those who can be asked now and have not refused.
    fn may_be_granted(&self) -> bool {
        let may = |voter: &MemberName| {
            let open = |p: &Peer| p.is_linked() && p.ask.refused_until.is_none();
            *voter == self.me || self.peers.get(voter).is_some_and(open)
        };
        self.quorum().is_some_and(|config| has_majority(&config.voters, may))
    }

    /// Asks an elector that has not answered in this round, and says how it stands.
    fn ask(&mut self, name: &MemberName, round: u64, message: impl FnOnce() -> Message) -> Option<Elector> {
        let peer = self.peers.get_mut(name)?;
        if peer.ask.round != round {
            peer.ask = Ask { round, ..Ask::default() };
            peer.hasten(Paced::Claim);
        }
        if !peer.ask.granted && self.send_paced(name, Paced::Claim, CLAIM_EVERY, message()) {
            let now = self.now;
            self.peers.get_mut(name)?.ask.since.get_or_insert(now);
        }
        let seen = self.record.term;
        let peer = self.peers.get(name)?;
        let may_abstain = peer.metadata().is_some_and(|m| m.role == Role::Standby && m.term <= seen);
        Some(Elector { granted: peer.ask.granted, may_abstain, asked: peer.ask.since })
    }

    /// Everybody would grant: votes for itself and asks in earnest.
    fn claim(&mut self, campaign: Campaign) {
        // A term that somebody else used meanwhile is not claimed.
        if campaign.term <= self.record.term {
            return self.next_phase(Campaign { term: self.record.term.next(), ..campaign });
        }
        let vote = Vote { term: campaign.term, candidate: self.me.clone() };
        match self.quorum().filter(|_| self.is_voter()) {
            Some(config) => {
                let promise = Promise { lease: config.lease, stop_grace: config.stop_grace };
                self.pledge_to(vote, promise);
            }
            None => self.record.vote = Some(vote),
        }
        self.record.term = campaign.term;
        let after = self.persist();
        self.next_phase(Campaign { phase: Phase::Claim { after }, ..campaign });
    }

    pub(crate) fn on_grant(
        &mut self,
        from: &MemberName,
        (term, pre): (Term, bool),
        (owed, config): (Duration, ConfigVersion),
    ) {
        let owed_until = self.now + owed.min(MAX_OWED);
        let Stage::Candidate(campaign) = self.stage else {
            return;
        };
        let is_claimed = match (self.quorum(), self.leaving()) {
            (None, _) => true,
            (Some(_), None) => config == campaign.config,
            (Some(_), Some(old)) => config == old.version,
        };
        let is_asked = match campaign.phase {
            Phase::Pre => pre,
            Phase::Claim { .. } => !pre,
            Phase::Refused => false,
        };
        let peer = self.peers.get_mut(from).filter(|p| p.ask.round == campaign.round);
        let is_current = term == campaign.term && is_claimed;
        if let Some(peer) = peer.filter(|_| is_asked && is_current) {
            peer.ask.granted = true;
            peer.ask.owed_until = Some(owed_until);
        }
    }

    pub(crate) fn on_refuse(
        &mut self,
        from: &MemberName,
        (term, pre): (Term, bool),
        (refusal, highest): (Refusal, Term),
        retry_after: Duration,
    ) {
        if !self.see(highest) {
            return;
        }
        let Stage::Candidate(campaign) = self.stage else {
            return;
        };
        if term != campaign.term || pre != (campaign.phase == Phase::Pre) {
            return;
        }
        if let Refusal::LeaderAlive { beat_age } = refusal {
            self.note_heard_by_voter(from, beat_age);
        }
        let is_quorum = self.quorum().is_some();
        let until = self.now + retry_after.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
        let Some(peer) = self.peers.get_mut(from).filter(|p| p.ask.round == campaign.round) else {
            return;
        };
        if refusal == Refusal::NoRecord && !is_quorum {
            // It remembers nothing that a grant could contradict, so it has no say.
            peer.ask.granted = true;
            return;
        }
        let leads = refusal == Refusal::Leading && peer.announced.is_some();
        if let (Some(found), true) = (campaign.found, leads) {
            // What was found without a recorded lead gives way to any live leader.
            return self.stop_payload(found, ResignReason::Superseded, None);
        }
        peer.ask.refused_until = Some(until);
        if is_quorum && self.may_be_granted() {
            return;
        }
        if campaign.phase != Phase::Refused {
            self.stage =
                Stage::Candidate(Campaign { phase: Phase::Refused, phase_since: self.now, ..campaign });
            self.moves += 1;
        }
        if !pre {
            self.stats.claims_refused += 1;
            self.event(Event::ClaimFailed { term, by: from.clone(), refusal: Some(refusal) });
        }
    }
}
