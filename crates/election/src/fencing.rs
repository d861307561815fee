//! Whose payload may run though nobody hears of it, and who may not be promoted beside that.
//!
//! A leader that is elected has promoted nothing yet: its hook may fail for as long as it leads. So a former leader is
//! not forgotten when another one is followed, only when a later promotion went through: what fences had succeeded then,
//! or the payload ran. Everything is judged by what members last said of themselves, which the fleet keeps passing on
//! also when this process restarts.

use flagship_types::{MemberName, Role, Term};

use crate::core::Election;
use crate::io::Presence;
use crate::peer::Peer;

impl Election {
    /// Quorum: a former leader that is gone without a release and had said last that it could not stop its payload (its
    /// API server did not answer): nobody may be promoted beside that but after a fence or by an operator's word.
    pub(crate) fn unfenced(&self) -> Option<&MemberName> {
        self.unstoppable().filter(|_| !self.spec.fences)
    }

    /// As the leader: who would be promoted beside such a payload if that member got the lead.
    pub(crate) fn unfenced_by(&self, successor: &Peer) -> Option<&MemberName> {
        let fences = successor.metadata().is_some_and(|metadata| metadata.fences);
        self.unstoppable().filter(|name| !fences && *name != successor.name())
    }

    fn unstoppable(&self) -> Option<&MemberName> {
        self.quorum()?;
        self.peers.values().find(|p| p.cannot_stop() && self.has_unfenced_lead(p)).map(Peer::name)
    }

    /// Whose payload may run as far as is known here, this member aside: what a fence has to fence off.
    pub fn may_run_at(&self) -> Vec<MemberName> {
        // Known by name only, as after a restart: it may be whoever led.
        let is_unheard = |p: &Peer| p.metadata().is_none() && p.view.presence != Presence::Left;
        let may =
            |p: &Peer| is_unheard(p) || (self.has_unfenced_lead(p) && !p.says_it_stands_by(self.leader_term));
        self.peers.values().filter(|p| may(p)).map(|p| p.name().clone()).collect()
    }

    /// Whether it held a lead that it did not release, and nobody was promoted since.
    pub(crate) fn has_unfenced_lead(&self, peer: &Peer) -> bool {
        let told = peer.metadata().filter(|_| peer.says_it_holds()).map(|metadata| metadata.term);
        let announced = peer.announced.as_ref().map(|(term, _)| *term);
        // Before the leader was met its term is no more than a bound.
        let followed = self.former.as_ref() == Some(peer.name()) && (self.leader_met || told.is_none());
        let held = told.max(announced).max(followed.then_some(self.leader_term));
        held.is_some_and(|held| held > peer.released && held >= self.promoted)
    }

    /// The promotion of this member under that term went through.
    pub(crate) fn on_promoted(&mut self, term: Term) {
        if term <= self.record.term {
            self.promoted = self.promoted.max(term);
        }
    }

    /// A peer knows of a promotion that went through.
    pub(crate) fn note_promoted(&mut self, told: Term) {
        if self.record.term.may_jump_to(told) {
            self.promoted = self.promoted.max(told);
        }
    }

    /// What the others are told. In Quorum every voter repeats it, as the leader that was promoted may be gone.
    pub(crate) fn told_promoted(&self) -> Term {
        let repeats = self.quorum().is_some() && self.is_voter();
        let tells = repeats || matches!(self.role(), Role::Leader | Role::Stopping);
        if tells { self.promoted } else { Term::NONE }
    }
}

impl Peer {
    /// By its metadata its payload is gone, and it knows of the newest lead.
    fn says_it_stands_by(&self, newest: Term) -> bool {
        let stands_by = |role| matches!(role, Role::Standby | Role::Witness);
        self.metadata().is_some_and(|metadata| stands_by(metadata.role) && metadata.term >= newest)
    }
}
