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
        let is_followed = |p: &Peer| [&self.leader, &self.former].contains(&&Some(p.name().clone()));
        let votes = |p: &Peer| self.quorum().is_some_and(|config| config.voters.contains(p.name()));
        // Whoever counts or is counted from is kept while it is down, too: what it last said decides who may follow it.
        let is_spare = |p: &&Peer| !votes(p) && !is_followed(p);
        let watches =
            |p: &&Peer| is_spare(p) && p.metadata().is_some() && !p.is_candidate() && !p.says_it_holds();
        let left = || self.peers.values().find(|p| p.view.presence == Presence::Left);
        // Who may run the payload yet is forgotten last.
        let down = || {
            let down = self.peers.values().filter(is_spare).filter(|p| p.view.presence == Presence::Down);
            down.min_by_key(|p| self.has_unfenced_lead(p))
        };
        let watcher = || self.peers.values().find(watches);
        let is_voter = self.quorum().is_some_and(|config| config.voters.contains(&newcomer.name));
        let counts =
            is_voter || newcomer.metadata.as_ref().is_some_and(|m| m.candidate || m.role == Role::Leader);
        let gone = left().or_else(down).or_else(|| counts.then(watcher).flatten()).map(|p| p.name().clone());
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

#[cfg(test)]
mod tests {
    use flagship_types::{FleetConfig, Instant, MemberName, Rank, Term};

    use crate::peer::MAX_PEERS;
    use crate::{Config, Election, Input, PeerView, Presence, Record, Restored, Spec};

    fn name(text: &str) -> MemberName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_former_leader_that_is_down_makes_no_room_for_others() {
        let spec = Spec {
            rank: Rank(1),
            ready: true,
            candidate: true,
            witness: false,
            fences: false,
            suspended: false,
            proposal: FleetConfig::default(),
            promote_timeout: None,
        };
        let record =
            Record { term: Term(3), leader: Some(name("lead")), ..Record::new(FleetConfig::default()) };
        let restored = Restored { record: Some(record), ..Restored::default() };
        let mut election = Election::new(Config { name: name("me") }, spec, restored, 1, Instant::ZERO);
        let view = |peer: &str, presence| PeerView {
            name: name(peer),
            presence,
            metadata: None,
            exited: false,
            linked: false,
        };
        let mut meet =
            |peer: &str, presence| election.handle(Input::Peer(view(peer, presence)), Instant::ZERO);
        // By name it is the first one that is down.
        meet("lead", Presence::Down);
        for number in 1..MAX_PEERS {
            meet(&format!("member-{number}"), Presence::Down);
        }
        meet("one-more", Presence::Present);
        assert_eq!(election.peers.len(), MAX_PEERS);
        assert!(election.peers.contains_key(&name("one-more")), "somebody else made room");
        assert!(election.peers.contains_key(&name("lead")));
    }
}
