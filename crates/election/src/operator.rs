//! What an operator asks of the fleet: a pause and its end, a lead by force, and a member that may not lead any more
//! or is left alone. Everything here says no with a sentence for people, and then changes nothing.

use flagship_types::{FleetConfig, MemberName, Mode, Pause, Rank, Role, Term};

use crate::core::Election;
use crate::io::{Claim, Event, Presence, ResignReason, Vote};
use crate::outlook::Outlook;
use crate::peer::Peer;
use crate::stage::{Campaign, Phase, Stage};

/// Members named in one sentence: it goes into a status.
const MAX_NAMED: usize = 8;

/// What is remembered of an operator's orders.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operator {
    /// The pause that was last told of.
    told: Option<Pause>,
    /// The fleet was resumed here while nobody led: this member may ask for the lead, and ends the pause once it leads.
    lifted: bool,
    /// The term that is being taken by force.
    forcing: Option<Term>,
    /// Why the lead stays here although this member may not lead any more.
    stays: Option<String>,
}

impl Operator {
    /// A pause that was in force before this process started is no news.
    pub(crate) fn restored(config: &FleetConfig) -> Self {
        Self { told: config.pause.clone(), ..Self::default() }
    }
}

impl Election {
    /// The pause in force here.
    pub(crate) fn pause(&self) -> Option<&Pause> {
        self.record.config.pause.as_ref()
    }

    /// Why nothing moves the lead by itself now, as a sentence.
    pub(crate) fn pause_says(&self) -> Option<String> {
        self.pause().map(|pause| format!("an operator paused the fleet ({})", pause.reason))
    }

    /// Whether this member could carry the order out now; else a sentence that says why not. Changes nothing.
    pub fn may_pause(&self, pause: Option<&Pause>) -> Result<(), String> {
        match &self.stage {
            Stage::Leader(lead) => {
                let version = self.record.config.version.next_in(lead.term);
                match (self.is_unhindered(lead) && self.retired.is_none(), version, pause, self.pause()) {
                    (false, ..) => Err("this member is not sure of its own lead yet; try again in a moment".to_owned()),
                    (_, _, None, None) => Err("the fleet is not paused".to_owned()),
                    (_, None, ..) => Err("the fleet configuration was changed too often under this term; a switchover begins a new one".to_owned()),
                    _ => Ok(()),
                }
            }
            Stage::Stopping(_) => Err("this member is giving up the lead; tell its successor".to_owned()),
            Stage::Joining(_) | Stage::Standby | Stage::Candidate(_) => self.may_lift(pause),
        }
    }

    /// As a member that does not lead.
    fn may_lift(&self, pause: Option<&Pause>) -> Result<(), String> {
        if let Outlook::Held(leader) = self.outlook(None) {
            return Err(format!("{leader} leads, or may, and not this member: tell {leader}"));
        }
        match pause {
            Some(_) => Err("nobody leads, so nobody can pause the fleet".to_owned()),
            None if self.pause().is_none() => Err("the fleet is not paused".to_owned()),
            None if !self.is_eligible() => Err("nobody leads, and this member is no candidate".to_owned()),
            None => Ok(()),
        }
    }

    pub(crate) fn on_pause(&mut self, pause: Option<Pause>) {
        if let Err(because) = self.may_pause(pause.as_ref()) {
            return self.event(Event::PauseRefused { pause: pause.is_some(), because });
        }
        match &self.stage {
            Stage::Leader(lead) => {
                let term = lead.term;
                self.write_pause(term, pause);
            }
            _ => self.operator.lifted = true,
        }
    }

    /// As the leader: a new version of the configuration, that all others store.
    fn write_pause(&mut self, term: Term, mut pause: Option<Pause>) {
        let config = &self.record.config;
        let Some(version) = config.version.next_in(term) else {
            return;
        };
        if let (Some(new), Some(old)) = (&mut pause, &config.pause) {
            // Another reason for the same pause.
            new.since_ms = old.since_ms;
        }
        self.record.config = FleetConfig { version, pause, ..config.clone() };
        self.store_config();
    }

    /// What follows from orders, whatever the role.
    pub(crate) fn step_operator(&mut self) {
        match &self.stage {
            Stage::Leader(lead) if self.operator.lifted && self.is_unhindered(lead) => {
                let term = lead.term;
                self.operator.lifted = false;
                if self.pause().is_some() {
                    self.write_pause(term, None);
                }
            }
            // Somebody else came to lead first. The pause is still in force, and that one is to be told.
            Stage::Standby if self.operator.lifted => {
                self.operator.lifted =
                    !matches!(self.outlook(None), Outlook::Held(_)) && self.pause().is_some();
            }
            _ => {}
        }
        if !matches!(&self.stage, Stage::Candidate(campaign) if self.is_forcing(campaign.term)) {
            self.operator.forcing = None;
        }
        if self.operator.told != self.record.config.pause {
            self.operator.told.clone_from(&self.record.config.pause);
            self.event(Event::PauseChanged { pause: self.operator.told.clone() });
        }
    }

    /// Whether a pause keeps this member from asking for a free lead. It does not if the leader itself gave it up, as
    /// it does under a pause for an operator only; nor if this member led last, as then the lead does not move.
    pub(crate) fn is_held_back(&self) -> bool {
        if self.pause().is_none() || self.operator.lifted || self.operator.forcing.is_some() {
            return false;
        }
        let given_up = self.reservation.as_ref().is_some_and(|reservation| {
            reservation.term == self.leader_term && reservation.reason != ResignReason::LeaseLost
        });
        !given_up && self.former.as_ref() != Some(&self.me)
    }

    /// The last leader is gone, and this member does not ask for the lead: who led is not to be taken for who leads, as
    /// that may last. It is told as long as a failover is on its way.
    pub(crate) fn is_left_alone(&self) -> bool {
        let waits = self.is_held_back() || !self.is_eligible();
        waits && matches!(self.stage, Stage::Standby) && self.outlook(None) == Outlook::Vacant
    }

    /// As a voter: the claimant does not know yet that the fleet is paused. It will not claim once it does.
    pub(crate) fn knows_newer_pause(&self, claim: &Claim) -> bool {
        self.pause().is_some() && claim.config.version < self.record.config.version
    }

    /// As the leader: hands over once its object says that it may not lead any more.
    pub(crate) fn step_uncandidate(&mut self) {
        let Stage::Leader(lead) = &self.stage else {
            return;
        };
        let (lead, reason) = (*lead, ResignReason::NotCandidate);
        if self.spec.candidate || !self.is_unhindered(&lead) {
            self.operator.stays = None;
            return;
        }
        match self.hand_over_target(None, reason) {
            Ok(to) => {
                self.operator.stays = None;
                self.event(Event::HandOverAccepted { term: lead.term, to: to.clone(), reason });
                self.stop_payload(lead.term, reason, Some(to));
            }
            Err(because) => {
                if let Some(until) = self.handover_not_before {
                    self.wake(until);
                }
                if self.operator.stays.as_ref() != Some(&because) {
                    self.operator.stays = Some(because.clone());
                    self.event(Event::HandOverRefused { to: None, reason, because });
                }
            }
        }
    }

    /// Why a leader that may not lead any more still does.
    pub(crate) fn uncandidate_waits(&self) -> Option<String> {
        let because = self.operator.stays.as_ref()?;
        Some(format!("spec.candidate is false, and the lead stays here: {because}"))
    }

    /// The term that this member would take by force; else a sentence that says why it does not. Changes nothing.
    ///
    /// `above` is the highest term that the operator knows, and `stopped` are the members that he says are stopped for
    /// good: exactly those that are not reachable and might lead.
    pub fn may_force_lead(&self, above: Term, stopped: &[MemberName]) -> Result<Term, String> {
        match &self.stage {
            Stage::Leader(_) => return Err("this member leads already".to_owned()),
            Stage::Stopping(_) => {
                return Err("this member is deleting its payload; try again when it is gone".to_owned());
            }
            Stage::Joining(_) | Stage::Standby | Stage::Candidate(_) => {}
        }
        if !self.is_eligible() {
            return Err("this member is no candidate: look at spec.candidate and spec.suspend of its object"
                .to_owned());
        }
        if !self.may_vote {
            return Err("this member lost its voter record, so it may have granted any term: admit it first"
                .to_owned());
        }
        let known = self.highest_term();
        if above < known {
            return Err(format!(
                "term {above} is not the highest: this member knows term {known}; look again at who led under it"
            ));
        }
        if self.believable(above.next()).is_none() {
            return Err(format!("term {above} is too far above {known}, the highest that this member knows"));
        }
        self.judge_stopped(stopped)?;
        Ok(above.next())
    }

    /// Whether the operator named whom he has to, and nobody else.
    fn judge_stopped(&self, stopped: &[MemberName]) -> Result<(), String> {
        for name in stopped {
            if *name == self.me {
                return Err(format!("{name} is to lead: it cannot be among those that are stopped"));
            }
            match self.peers.get(name).map(|peer| peer.view.presence) {
                None => return Err(format!("no member of this fleet is called {name}")),
                Some(Presence::Present) => {
                    return Err(format!(
                        "{name} is not stopped: it was heard lately, or is not known to be down yet"
                    ));
                }
                Some(Presence::Away | Presence::Down | Presence::Left) => {}
            }
        }
        let is_named = |peer: &Peer| stopped.contains(peer.name());
        let holds = |peer: &Peer| peer.is_present() && peer.holds_lead(self.followed_term(peer));
        if let Some(leader) = self.peers.values().find(|peer| holds(peer)) {
            return Err(format!(
                "{} leads, or may, and is alive: move the lead with a switchover",
                leader.name()
            ));
        }
        let unreachable = |peer: &Peer| matches!(peer.view.presence, Presence::Away | Presence::Down);
        let missing = self.names(|peer| unreachable(peer) && might_lead(peer) && !is_named(peer));
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter().take(MAX_NAMED).map(ToString::to_string).collect::<Vec<_>>().join(",");
        Err(format!(
            "these might lead where this member cannot see them: {names}; stop each of them for good, then name all of them"
        ))
    }

    fn highest_term(&self) -> Term {
        let voted = self.record.vote.as_ref().map_or(Term::NONE, |vote| vote.term);
        self.record.term.max(self.leader_term).max(voted)
    }

    pub(crate) fn on_force_lead(&mut self, above: Term, stopped: &[MemberName]) {
        let term = match self.may_force_lead(above, stopped) {
            Ok(term) => term,
            Err(because) => return self.event(Event::ForceRefused { because }),
        };
        self.event(Event::Forcing { term, stopped: stopped.to_vec() });
        let led = self.leader_term;
        for name in stopped {
            if let Some(peer) = self.peers.get_mut(name) {
                // The operator's word is as good as the member's own that its payload is gone.
                let own = peer.metadata().map_or(Term::NONE, |metadata| metadata.term);
                peer.released = peer.released.max(own).max(led);
                peer.announced = None;
            }
        }
        if self.record.config.mode == Mode::Quorum {
            // It leads by its own vote. The other voters come back one at a time, as with any change of voters.
            if let Some(version) = self.record.config.version.next_in(term) {
                let voters = vec![self.me.clone()];
                self.record.config = FleetConfig { version, voters, ..self.record.config.clone() };
                self.store_config();
            }
        } else if self.leaving().is_some() {
            // Nobody whom the old voters elected is left, so nothing binds it any more.
            self.record.replaced = None;
            if let Some(version) = self.record.config.version.next_in(term) {
                self.record.config.version = version;
                self.store_config();
            }
        }
        self.record.vote = Some(Vote { term, candidate: self.me.clone() });
        self.pledge_by_force();
        self.record.term = term;
        let after = self.persist();
        self.operator.forcing = Some(term);
        self.reservation = None;
        self.round += 1;
        let found = match &self.stage {
            Stage::Joining(joining) => joining.held.map(|held| held.term),
            Stage::Candidate(campaign) => campaign.found,
            _ => None,
        };
        let campaign = Campaign {
            config: self.record.config.version,
            term,
            phase: Phase::Claim { after },
            phase_since: self.now,
            round: self.round,
            vacant_since: self.vacancy.map_or(self.now, |vacancy| vacancy.since),
            failover: false,
            released: None,
            found,
        };
        match &self.stage {
            Stage::Candidate(_) => {
                self.stage = Stage::Candidate(campaign);
                self.moves += 1;
            }
            _ => self.become_candidate(campaign),
        }
    }

    pub(crate) fn is_forcing(&self, term: Term) -> bool {
        self.operator.forcing == Some(term)
    }

    /// Takes the lead once the own vote is durable, without anybody's grant. Returns whether the campaign is of that kind.
    pub(crate) fn step_forced(&mut self, campaign: Campaign) -> bool {
        if !self.is_forcing(campaign.term) || self.retired.is_some() {
            return false;
        }
        match campaign.phase {
            Phase::Claim { after } if self.is_durable(after) => self.win(campaign),
            // The API server has to answer first, however long that takes; a leader that comes up ends it.
            Phase::Claim { .. } => {}
            Phase::Pre | Phase::Refused => return false,
        }
        true
    }

    /// The object changed: another rank is a newer wish than where an operator had put the lead.
    pub(crate) fn note_own_rank(&mut self, before: Rank) {
        if before != self.spec.rank {
            self.forget_choice();
        }
    }

    /// Rank decides again where the lead is.
    pub(crate) fn forget_choice(&mut self) {
        if std::mem::take(&mut self.record.chosen) {
            self.persist_if_voter();
        }
    }

    /// Why a request for the lead is refused for an operator's sake; `None`: it is not.
    pub(crate) fn operator_refuses(&self) -> Option<&'static str> {
        if self.pause().is_some() {
            return Some("an operator paused the fleet");
        }
        if self.spec.suspended {
            return Some("the leader's object is suspended (spec.suspend)");
        }
        let chosen = self.record.chosen && self.spec.candidate;
        chosen.then_some("an operator moved the lead here, and rank does not move it back")
    }

    /// Why that member could not take the lead from this one if an operator asked for it now, as a sentence; `None`: it
    /// could, or this member does not lead, or does not reckon with that one at all.
    pub fn unfit(&self, member: &MemberName) -> Option<String> {
        let reckoned = matches!(self.stage, Stage::Leader(_)) && self.peers.contains_key(member);
        reckoned.then(|| self.judge_target(member, ResignReason::Switchover).err()).flatten()
    }
}

/// Whether its payload may run, or run again, where nobody here sees it.
fn might_lead(peer: &Peer) -> bool {
    peer.metadata().is_none_or(|metadata| match metadata.role {
        Role::Witness => false,
        Role::Leader | Role::Stopping => true,
        Role::Joining | Role::Standby | Role::Candidate => metadata.candidate,
    })
}
