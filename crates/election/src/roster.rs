//! Who is reckoned with: peers come and go, and operators vouch for them or declare them gone.

use flagship_types::{MemberName, Role};

use crate::core::Election;
use crate::io::{PeerView, Presence};
use crate::peer::{MAX_PEERS, Peer};
use crate::stage::Stage;

/// Members declared gone that are remembered; the oldest is dropped.
pub(crate) const MAX_FORGOTTEN: usize = 64;

impl Election {
    pub(crate) fn on_peer(&mut self, mut view: PeerView) {
        if view.name == self.me {
            return;
        }
        if let Some(at) = self.record.forgotten.iter().position(|f| *f == view.name) {
            if view.presence == Presence::Present && view.linked {
                // Membership took it back, and it may lead: it is met like any other.
                self.record.forgotten.remove(at);
                self.persist_if_voter();
            } else {
                view.presence = Presence::Left;
            }
        }
        let name = view.name.clone();
        if !self.peers.contains_key(&name) && !self.make_room(&view) {
            self.stats.peers_refused += 1;
            return;
        }
        if let Some(metadata) = view.metadata.as_ref().filter(|_| view.presence != Presence::Left) {
            self.record.term = self.believable(metadata.term).unwrap_or(self.record.term);
            self.note_promoted(metadata.promoted);
        }
        let linked = name.clone();
        let is_asking = match &self.stage {
            Stage::Joining(joining) => joining.held.is_some(),
            Stage::Leader(lead) => lead.hold.is_some(),
            Stage::Standby | Stage::Candidate(_) | Stage::Stopping(_) => false,
        };
        let now = self.now;
        let peer = self.peers.entry(name).or_insert_with(|| {
            let mut peer = Peer::new(PeerView { linked: false, ..view.clone() });
            peer.unconfirmed = is_asking;
            peer
        });
        let before = peer.metadata().map(|metadata| metadata.rank);
        let is_linked_now = peer.update(view, now);
        let rank = peer.metadata().map(|metadata| metadata.rank);
        if is_linked_now {
            self.hasten_renewal(&linked);
        }
        if before.is_some() && before != rank {
            self.forget_choice();
        }
    }

    /// Room for one more peer, if need be at the cost of one that left or is down; for one that may lead also of one
    /// that only watches.
    fn make_room(&mut self, newcomer: &PeerView) -> bool {
        if self.peers.len() < MAX_PEERS {
            return true;
        }
        let of =
            |presence| self.peers.values().find(|p| p.view.presence == presence).map(|p| p.name().clone());
        let is_followed = |p: &Peer| [&self.leader, &self.former].contains(&&Some(p.name().clone()));
        let votes = |p: &Peer| self.quorum().is_some_and(|config| config.voters.contains(p.name()));
        let watches = |p: &&Peer| {
            !votes(p) && p.metadata().is_some() && !p.is_candidate() && !p.says_it_holds() && !is_followed(p)
        };
        let watcher = || self.peers.values().find(watches).map(|p| p.name().clone());
        let is_voter = self.quorum().is_some_and(|config| config.voters.contains(&newcomer.name));
        let counts =
            is_voter || newcomer.metadata.as_ref().is_some_and(|m| m.candidate || m.role == Role::Leader);
        // Who may run the payload yet is forgotten last.
        let harmless = |p: &&Peer| p.view.presence == Presence::Down && !self.has_unfenced_lead(p);
        let harmless = || self.peers.values().find(harmless).map(|p| p.name().clone());
        let gone = of(Presence::Left).or_else(harmless).or_else(|| of(Presence::Down));
        let gone = gone.or_else(|| counts.then(watcher).flatten());
        gone.is_some_and(|gone| self.peers.remove(&gone).is_some())
    }

    pub(crate) fn on_admit(&mut self, member: &MemberName) {
        if *member == self.me {
            self.gain_vote();
        }
        if let Some(at) = self.record.forgotten.iter().position(|f| f == member) {
            self.record.forgotten.remove(at);
            self.persist_if_voter();
            if let Some(peer) = self.peers.get_mut(member) {
                peer.view.presence = Presence::Down;
            }
        }
    }

    pub(crate) fn on_forget(&mut self, member: &MemberName) {
        if *member == self.me || self.record.forgotten.contains(member) {
            return;
        }
        if self.record.forgotten.len() == MAX_FORGOTTEN {
            self.record.forgotten.remove(0);
        }
        self.record.forgotten.push(member.clone());
        if let Some(peer) = self.peers.get_mut(member) {
            let now = self.now;
            peer.update(PeerView { presence: Presence::Left, linked: false, ..peer.view.clone() }, now);
        }
        self.persist_if_voter();
    }
}
