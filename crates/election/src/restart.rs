//! The start of a process, and the pause of one: who led asks before it goes on.

use std::time::Duration;

use flagship_types::{MemberName, Term};

use crate::core::{Election, FOUNDING_WAIT};
use crate::io::{Event, Message, Presence, ResignReason, Vote};
use crate::peer::{Paced, Peer};
use crate::planted::PlantedBug;
use crate::stage::{Held, Joining, Lead, Stage, Stopping};
use crate::voter::outranks;

/// How often a leader that restarted or paused asks again.
const CONFIRM_EVERY: Duration = Duration::from_millis(500);
/// After a pause the own view of the others is old: somebody held Down may just not have been heard. Who lives
/// dials at least every 5 s.
const PAUSE_SETTLE: Duration = Duration::from_secs(6);

impl Election {
    pub(crate) fn step_joining(&mut self, joining: Joining) {
        match joining.held {
            Some(held) if self.record.stopping.is_some() && !self.has(PlantedBug::ResumesStopping) => {
                self.finish_old_stop(held);
            }
            Some(held) => self.step_resuming(held),
            None if self.may_vote || self.retired.is_some() => self.become_standby(),
            None => self.step_fresh(),
        }
    }

    /// An earlier process began to stop: this one only completes it.
    fn finish_old_stop(&mut self, held: Held) {
        let term = self.record.stopping.unwrap_or(held.term);
        let reason = self.retired.unwrap_or(ResignReason::Unfinished);
        let (since, after) = (self.now, self.durable);
        self.doubt_lease_since(self.started);
        self.become_stopping(Stopping {
            term,
            reason,
            successor: None,
            since,
            after,
            directed: true,
            began: true,
            stopped: false,
            stuck: None,
        });
    }

    fn step_fresh(&mut self) {
        self.step_voter_record();
        let found_at = self.started + FOUNDING_WAIT;
        if self.may_vote {
            return self.become_standby();
        }
        if self.peers.values().any(Peer::is_present) {
            return;
        }
        if self.now < found_at {
            self.wake(found_at);
        } else if self.spec.ready && self.untold_voters().is_empty() {
            self.gain_vote();
            self.become_standby();
        }
    }

    /// A member without a voter record may vote once every present member told it theirs.
    pub(crate) fn step_voter_record(&mut self) {
        if self.may_vote {
            return;
        }
        if self.has(PlantedBug::RecordNotAwaited) {
            return self.gain_vote();
        }
        let untold = self.untold_voters();
        for peer in self.names(|p| !p.told && (p.is_present() || untold.contains(p.name()))) {
            self.ask_record(&peer);
        }
        let mut present = self.peers.values().filter(|p| p.is_present()).peekable();
        let all_told = present.peek().is_some() && present.all(|p| p.told);
        if self.untold_voters().is_empty() && (all_told || self.is_only_voter()) {
            self.gain_vote();
        }
    }

    /// Quorum: the other voters whose records this member has yet to hear. Whoever of them is gone may be the one that
    /// knows what this member has granted.
    pub(crate) fn untold_voters(&self) -> Vec<MemberName> {
        let Some(config) = self.quorum() else { return Vec::new() };
        let untold = |v: &&MemberName| **v != self.me && !self.peers.get(*v).is_some_and(|p| p.told);
        config.voters.iter().filter(untold).cloned().collect()
    }

    fn is_only_voter(&self) -> bool {
        self.quorum().is_some_and(|config| config.voters == [self.me.clone()])
    }

    fn step_resuming(&mut self, held: Held) {
        if let Some(reason) = self.retired {
            return self.stop_payload(held.term, reason, None);
        }
        self.step_voter_record();
        if self.quorum().is_some() && self.resume_lease(held) {
            return;
        }
        self.ask_unconfirmed(held.term);
        let alone = !self.peers.values().any(Peer::is_present);
        let settled = self.started + FOUNDING_WAIT;
        if !held.recorded && alone && self.now < settled {
            return self.wake(settled);
        }
        if self.peers.values().any(|p| p.is_present() && p.unconfirmed) || (!self.may_vote && !alone) {
            return;
        }
        if !held.recorded {
            if !self.may_vote {
                self.gain_vote();
            }
            return self.begin_campaign(self.now, false, None, Some(held.term));
        }
        self.resume(held);
    }

    /// Quorum: what counts is a majority that renews the lease, in time. Returns whether that is all there is to do now.
    fn resume_lease(&mut self, held: Held) -> bool {
        self.doubt_lease_since(self.started);
        if !held.recorded {
            let is_late = self.is_unleased_too_long();
            if is_late && !self.has(PlantedBug::UnconfirmedRunsOn) {
                self.stop_payload(held.term, ResignReason::LeaseLost, None);
            }
            return is_late;
        }
        if !self.keep_lease(held.term) && !self.has(PlantedBug::UnconfirmedRunsOn) {
            self.stop_payload(held.term, ResignReason::LeaseLost, None);
        } else if self.is_promised(held.term) && self.lease_until().is_some() {
            self.resume(held);
        }
        true
    }

    fn resume(&mut self, held: Held) {
        self.follow_self(held.term);
        let (term, after) = (held.term, self.durable);
        self.become_leader(Lead { resumed: true, ..Lead::new(term, after, self.now) });
        self.event(Event::Resumed { term });
    }

    /// Asks whoever has not said yet whether a higher term than `held` exists.
    pub(crate) fn ask_unconfirmed(&mut self, held: Term) {
        for peer in self.names(|p| p.unconfirmed && p.is_linked()) {
            self.send_paced(&peer, Paced::Confirm, CONFIRM_EVERY, Message::ConfirmRequest { term: held });
        }
    }

    pub(crate) fn on_confirm_reply(&mut self, from: &MemberName, term: Term, highest: Option<Vote>) {
        let held = match &self.stage {
            Stage::Joining(Joining { held: Some(held) }) => held.term,
            Stage::Leader(lead) => lead.term,
            Stage::Joining(_) | Stage::Standby | Stage::Candidate(_) | Stage::Stopping(_) => return,
        };
        if term != held || highest.as_ref().is_some_and(|h| !self.see(h.term)) {
            return;
        }
        let Some(peer) = self.peers.get_mut(from).filter(|p| p.unconfirmed) else {
            return;
        };
        peer.unconfirmed = false;
        if let Some(highest) = highest {
            self.heed(held, &highest);
        }
    }

    /// As a leader that was interrupted: stops if this stands higher than the lead it held.
    pub(crate) fn heed(&mut self, held: Term, other: &Vote) {
        let own = Vote { term: held, candidate: self.me.clone() };
        if other.candidate != self.me && outranks(other, &own) {
            self.supersede(held, other);
        }
    }

    /// Nobody has confirmed the own lead any more.
    pub(crate) fn mark_unconfirmed(&mut self) {
        for peer in self.peers.values_mut() {
            peer.unconfirmed = true;
            peer.hasten(Paced::Confirm);
        }
    }

    pub(crate) fn on_paused(&mut self) {
        self.gate.restart();
        match &self.stage {
            Stage::Leader(lead) => {
                let hold = Some(self.now);
                self.stage = Stage::Leader(Lead { hold, ..*lead });
                // In Quorum the voters' word is enough.
                match self.quorum() {
                    Some(_) => self.doubt_lease_since(self.now),
                    None => self.mark_unconfirmed(),
                }
            }
            Stage::Joining(_) => {
                self.doubt_lease_since(self.now);
                self.mark_unconfirmed();
            }
            // What was asked before the pause may have been answered long ago.
            Stage::Candidate(campaign) if campaign.found.is_none() => self.step_back(),
            Stage::Stopping(_) => self.doubt_lease_since(self.now),
            Stage::Candidate(_) | Stage::Standby => {}
        }
    }

    /// Everybody present has said that no higher term exists; in Quorum, a majority has renewed the lease since.
    pub(crate) fn hold_is_over(&mut self, lead: &Lead) -> bool {
        if self.quorum().is_some() {
            return self.lease_until().is_some() && self.is_promised(lead.term);
        }
        let open = |p: &Peer| p.unconfirmed && p.view.presence != Presence::Left;
        if self.peers.values().any(|p| open(p) && p.is_present()) {
            return false;
        }
        let settled = lead.hold.unwrap_or(self.now) + PAUSE_SETTLE;
        let all_said = !self.peers.values().any(open);
        if !all_said && self.now < settled {
            self.wake(settled);
            return false;
        }
        true
    }
}
