//! What peers say: dispatch of messages, and following the leader that announces itself.

use std::time::Duration;

use flagship_types::{FleetConfig, MemberName, Role, Term};

use crate::core::Election;
use crate::io::{Event, Message, Presence, ResignReason, Vote};
use crate::outlook::Reservation;
use crate::peer::Paced;
use crate::pledge::Renewal;
use crate::stage::Stage;

/// A voter's record is asked for until it is told.
const RECORD_EVERY: Duration = Duration::from_secs(1);

impl Election {
    pub(crate) fn on_message(&mut self, from: &MemberName, message: Message) {
        let is_member = self.peers.get(from).is_some_and(|p| p.view.presence != Presence::Left);
        if !is_member {
            self.stats.messages_ignored += 1;
            return;
        }
        match message {
            Message::PreClaim(claim) => self.on_claim(from, &claim, true),
            Message::Claim(claim) => self.on_claim(from, &claim, false),
            Message::Grant { term, pre, owed, config } => self.on_grant(from, (term, pre), (owed, config)),
            Message::Renew { term, seq, config: _, lease, stop_grace } => {
                self.on_renew(from, Renewal::new(term, seq, lease, stop_grace));
            }
            Message::Renewed { term, seq, config: _ } => self.on_renewed(from, term, seq),
            Message::Refuse { term, pre, refusal, highest, retry_after } => {
                self.on_refuse(from, (term, pre), (refusal, highest), retry_after);
            }
            Message::Announce { term, config } => self.on_announce(from, term, config),
            Message::HandoverRequest { term } => self.on_handover_request(from, term),
            Message::HandoverRefused { term, reason, retry_after } => {
                self.on_handover_refused(from, term, &reason, retry_after);
            }
            Message::Release { term, successor, reason } => self.on_release(from, term, successor, reason),
            Message::ConfirmRequest { term } => {
                self.spare_the_asker();
                let highest = self.highest_known();
                self.send(from, Message::ConfirmReply { term, highest });
            }
            Message::ConfirmReply { term, highest } => self.on_confirm_reply(from, term, highest),
            Message::RecordRequest => self.tell_record(from),
            Message::RecordReply { vote, term, config } => {
                self.on_record_reply(from, vote.as_ref(), term, &config);
            }
            Message::ConfigStored { version } => {
                if let Some(peer) = self.peers.get_mut(from) {
                    peer.config_stored = peer.config_stored.max(version);
                }
            }
        }
    }

    fn on_announce(&mut self, from: &MemberName, term: Term, config: FleetConfig) {
        if !self.see(term) {
            return;
        }
        self.adopt_config(&config);
        self.note_begun(from, term);
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let version = config.version;
        peer.announced = Some((term, config));
        // Announced state tells that it is stored only through this answer.
        self.acknowledge_config(from, version);
        match &self.stage {
            Stage::Joining(joining) => match joining.held {
                Some(held) if held.recorded => self.heed(held.term, &Vote { term, candidate: from.clone() }),
                // What was found without a recorded lead gives way to any live leader.
                Some(held) => self.supersede(held.term, &Vote { term, candidate: from.clone() }),
                None => self.follow(from, term),
            },
            Stage::Leader(lead) if self.is_interrupted() => {
                self.heed(lead.term, &Vote { term, candidate: from.clone() });
            }
            // Two leaders: the evaluation compares them.
            Stage::Leader(_) => {}
            Stage::Standby | Stage::Stopping(_) => self.follow(from, term),
            Stage::Candidate(campaign) => {
                let found = campaign.found;
                match found {
                    Some(held) => self.supersede(held, &Vote { term, candidate: from.clone() }),
                    None => {
                        self.follow(from, term);
                        self.become_standby();
                    }
                }
            }
        }
    }

    /// Follows this leader, unless a newer one is known.
    pub(crate) fn follow(&mut self, leader: &MemberName, term: Term) {
        let is_newer = term > self.leader_term;
        let is_same_term = term == self.leader_term;
        let has_other = self.leader_met
            && self.leader.as_ref().is_some_and(|l| l != leader && l < leader && self.still_leads(l));
        if !is_newer && (!is_same_term || has_other) {
            return;
        }
        let changed = self.leader.as_ref() != Some(leader) || is_newer;
        self.leader = Some(leader.clone());
        self.former = Some(leader.clone());
        self.leader_term = term;
        self.leader_met = true;
        if self.released.is_some() {
            self.note_handed_over();
        }
        self.forget_vacancy();
        if self.ceded_to.as_ref().is_some_and(|to| to != leader) {
            self.ceded_to = None;
        }
        if changed {
            self.record.leader = Some(leader.clone());
            self.persist_if_voter();
            self.event(Event::LeaderChanged { leader: Some(leader.clone()), term });
        }
    }

    fn still_leads(&self, leader: &MemberName) -> bool {
        self.peers.get(leader).is_some_and(|p| p.is_present() && p.holds_lead(Some(self.leader_term)))
    }

    /// A member that may not vote yet has no record to write: half of one would look like a whole one.
    pub(crate) fn persist_if_voter(&mut self) {
        if self.may_vote {
            self.persist();
        }
    }

    fn on_release(
        &mut self,
        from: &MemberName,
        term: Term,
        successor: Option<MemberName>,
        reason: ResignReason,
    ) {
        if !self.see(term) || term < self.leader_term {
            return;
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let role = peer.metadata().map(|m| m.role);
        let held_it = peer.announced.is_some() || matches!(role, Some(Role::Leader | Role::Stopping));
        if !held_it && self.leader.as_ref() != Some(from) {
            // Nobody releases what it did not hold.
            self.stats.messages_ignored += 1;
            return;
        }
        peer.released = peer.released.max(term);
        self.void_pledge(from, term);
        // Valid only for the newest lead, and repeated: the time counts from the first.
        let is_known = self.reservation.as_ref().is_some_and(|r| r.term >= term);
        let is_other = term == self.leader_term && self.leader.as_ref().is_some_and(|l| l != from);
        let leads_itself = self.stage.has_payload();
        if is_known || is_other || leads_itself {
            return;
        }
        self.reservation =
            Some(Reservation { term, successor, reason, until: now + crate::handover::RESERVATION });
        self.leader_term = term;
        self.leader_met = true;
        self.former = Some(from.clone());
        self.vacancy = None;
        if self.leader.take().is_some() {
            self.record.leader = None;
            self.persist_if_voter();
            self.event(Event::LeaderChanged { leader: None, term });
        }
    }

    fn on_record_reply(&mut self, from: &MemberName, vote: Option<&Vote>, term: Term, config: &FleetConfig) {
        let highest = term.max(vote.map_or(Term::NONE, |v| v.term));
        if !self.see(highest) {
            return;
        }
        self.adopt_config(config);
        if let Some(peer) = self.peers.get_mut(from) {
            peer.told = true;
        }
    }

    /// What this voter has granted and seen, and the configuration in force here.
    pub(crate) fn tell_record(&mut self, to: &MemberName) {
        let (vote, term) = (self.record.vote.clone(), self.record.term);
        let config = self.config_told_to(to).clone();
        self.send(to, Message::RecordReply { vote, term, config });
    }

    pub(crate) fn ask_record(&mut self, of: &MemberName) {
        self.send_paced(of, Paced::Record, RECORD_EVERY, Message::RecordRequest);
    }
}
