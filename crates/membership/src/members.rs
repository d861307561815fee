//! What is believed of each other member, and the picture of it that others may look at.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::time::Duration;

use flagship_types::{Epoch, Incarnation, Instant, MemberName, Metadata, PeerAddress};
use siphasher::sip::SipHasher24;

use crate::freshness::Freshness;
use crate::suspicion::{PendingAnswer, Query, Requery};
use crate::{Evidence, LinkId, State};

/// What is believed of another member.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Incarnation,
    pub(crate) version: u64,
    pub(crate) state: State,
    pub(crate) since: Instant,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) address: Option<PeerAddress>,
    /// The stream in use.
    pub(crate) link: Option<LinkId>,
    /// The newest proof of life.
    pub(crate) heard_at: Option<Instant>,
    /// Lateness counts from here: the newest proof, or what stands in for it (the start of this process).
    pub(crate) clock: Instant,
    /// Nothing is late before this, whatever the clock says.
    pub(crate) not_late_before: Instant,
    /// The suspicion window counts from here.
    pub(crate) window_from: Instant,
    pub(crate) freshness: Freshness,
    /// Its link ended without a word and nothing was heard since.
    pub(crate) lost: bool,
    /// Where that link had been dialled: only this address's refusals count. `None`: the peer had dialled.
    pub(crate) lost_via: Option<PeerAddress>,
    /// The address that refuses connections since the link is gone, and how often it did.
    pub(crate) refused: Option<(PeerAddress, u32)>,
    /// A waiting replica answered at one of its addresses since the link is gone: several processes are behind it, so
    /// that a refusal says nothing about the one that acts (docs/decisions/0013).
    pub(crate) replica_waits: bool,
    /// A ping on behalf of a co-observer stayed without an answer.
    pub(crate) mute: bool,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) query: Option<Query>,
    pub(crate) requery: Option<Requery>,
    /// Co-observers that wait for our answer about this member.
    pub(crate) asked_by: BTreeMap<MemberName, PendingAnswer>,
    /// Co-observers that accused this member in its epoch and incarnation, and when.
    pub(crate) accusers: BTreeMap<MemberName, (Instant, Evidence)>,
    pub(crate) away_until: Option<Instant>,
    /// Its one announced pause of this epoch is used up.
    pub(crate) away_used: bool,
    /// The older epoch of another process with its name that was refused last, and how often in a row.
    pub(crate) refused_epoch: Option<(Epoch, u32)>,
    /// An operator said that it will not come back.
    pub(crate) forgotten: bool,
}

impl Member {
    pub(crate) fn new(epoch: Epoch, address: Option<PeerAddress>, now: Instant) -> Self {
        Self {
            epoch,
            incarnation: Incarnation(0),
            version: 0,
            state: State::Alive,
            since: now,
            metadata: None,
            address,
            link: None,
            heard_at: None,
            clock: now,
            not_late_before: Instant::ZERO,
            window_from: now,
            freshness: Freshness::new(),
            lost: false,
            lost_via: None,
            refused: None,
            replica_waits: false,
            mute: false,
            evidence: None,
            query: None,
            requery: None,
            asked_by: BTreeMap::new(),
            accusers: BTreeMap::new(),
            away_until: None,
            away_used: false,
            refused_epoch: None,
            forgotten: false,
        }
    }

    /// The only way to another state: what belonged to the old one ends with it.
    pub(crate) fn become_state(&mut self, state: State, evidence: Option<Evidence>, now: Instant) {
        self.state = state;
        self.since = now;
        self.window_from = now;
        self.evidence = evidence;
        self.query = None;
        self.requery = None;
        self.away_until = None;
        if state == State::Alive {
            self.accusers.clear();
            self.mute = false;
        }
    }

    /// When the next beat is late (rule 3).
    pub(crate) fn late_at(&self, beat_interval: Duration) -> Instant {
        (self.clock + beat_interval + self.freshness.slack(beat_interval)).max(self.not_late_before)
    }

    /// From when on a lone observer may suspect (rule 5).
    pub(crate) fn alone_at(&self, beat_interval: Duration, silence_floor: Duration) -> Instant {
        let patience = self.freshness.slack(beat_interval).max(silence_floor);
        (self.clock + beat_interval + patience).max(self.not_late_before)
    }

    /// What its silence looks like from here.
    pub(crate) fn seen_evidence(&self) -> Evidence {
        match self.refused {
            Some(_) => Evidence::Exit,
            None => Evidence::Silence,
        }
    }

    /// Strong evidence: its link ended without a word and its address refuses connections since.
    pub(crate) fn exited(&self) -> bool {
        self.lost && self.refused.is_some()
    }

    /// Whether it takes up one of the places of the mesh.
    pub(crate) fn counts(&self) -> bool {
        self.state != State::Left
    }
}

/// What this member believes of a member, itself included.
#[derive(Debug, Clone, Copy)]
pub struct MemberView<'a> {
    /// Its name.
    pub name: &'a MemberName,
    /// Its state in this view.
    pub state: State,
    /// Its start.
    pub epoch: Epoch,
    /// Its refutation within the epoch.
    pub incarnation: Incarnation,
    /// What it last said of itself in this epoch; `None` if it was not heard yet.
    pub metadata: Option<&'a Metadata>,
    /// The stream in use; `None` for this member itself.
    pub link: Option<LinkId>,
    /// Where it is dialled.
    pub address: Option<&'a PeerAddress>,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// When it was proven alive last, on the local clock; `None` if never, or for this member itself.
    pub heard_at: Option<Instant>,
    /// What a suspicion or Down rests on.
    pub evidence: Option<Evidence>,
    /// Since when it is in this state.
    pub since: Instant,
    /// Its link is gone, and a replica answered that waits to take over. No evidence, but its cluster lives.
    pub replica_waits: bool,
}

impl<'a> MemberView<'a> {
    pub(crate) fn of(name: &'a MemberName, member: &'a Member) -> Self {
        Self {
            name,
            state: member.state,
            epoch: member.epoch,
            incarnation: member.incarnation,
            metadata: member.metadata.as_ref(),
            link: member.link,
            address: member.address.as_ref(),
            rtt: member.freshness.measured_rtt(),
            heard_at: member.heard_at,
            evidence: member.evidence,
            since: member.since,
            replica_waits: member.replica_waits,
        }
    }
}

/// Keys of the view hash: part of the protocol.
const VIEW_HASH_KEYS: (u64, u64) = (0x666c_6167_7368_6970, 0x7669_6577_2d68_6173);

/// Hash of a view: SipHash-2-4 over name, epoch, incarnation and state of every member in the order of names.
pub(crate) fn view_hash<'a>(views: impl Iterator<Item = (&'a MemberName, Epoch, Incarnation, State)>) -> u32 {
    let mut hasher = SipHasher24::new_with_keys(VIEW_HASH_KEYS.0, VIEW_HASH_KEYS.1);
    for (name, epoch, incarnation, state) in views {
        // Written piece by piece in a fixed byte order, so that machines agree. Names hold no zero byte.
        hasher.write(name.as_str().as_bytes());
        hasher.write(&[0]);
        hasher.write(&epoch.0.to_le_bytes());
        hasher.write(&incarnation.0.to_le_bytes());
        hasher.write(&[state as u8]);
    }
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_hash_is_fixed() {
        let (a, b) = (MemberName::new("newyork").unwrap(), MemberName::new("sheffield").unwrap());
        let hash = |state| {
            let views = [(&a, Epoch(1), Incarnation(0), State::Alive), (&b, Epoch(2), Incarnation(3), state)];
            view_hash(views.into_iter())
        };
        assert_ne!(hash(State::Alive), hash(State::Suspect));
        // Other releases compute it too: a change here is a change of the protocol.
        assert_eq!(hash(State::Alive), 223_230_648);
    }
}
