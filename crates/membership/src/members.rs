//! What is kept of a member that this one has to do with, and the picture of a member that others may look at.

use std::collections::BTreeMap;
use std::time::Duration;

use flagship_types::{
    ConfigVersion, Epoch, Health, Incarnation, Instant, MemberName, Metadata, PeerAddress, Rank, Role, Term,
};

use crate::answer::PendingAnswer;
use crate::freshness::Freshness;
use crate::query::{Query, Requery};
use crate::rings::Slot;
use crate::timers::Armed;
use crate::{Accusation, Evidence, LinkId, Record, SelfState, Signed, State};

/// What is kept of a member that is linked, observed, or not plainly Alive. What is rare lies in a box of its own.
#[derive(Debug)]
// In this order: what a beat touches lies in as few cache lines as it can.
#[repr(C)]
pub(crate) struct Member {
    /// Those of its record, here because every beat asks for them.
    pub(crate) name: MemberName,
    pub(crate) epoch: Epoch,
    /// The newest proof of life.
    pub(crate) heard_at: Option<Instant>,
    /// Lateness counts from here: the newest proof, or what stands in for it (the start of the observation).
    pub(crate) clock: Instant,
    /// Since when it is observed here.
    pub(crate) observed_since: Instant,
    /// A beat came since then: the gap before the first says nothing of the way.
    pub(crate) beaten: bool,
    /// Nothing is late before this, whatever the clock says.
    pub(crate) not_late_before: Instant,
    pub(crate) freshness: Freshness,
    pub(crate) duty: Duty,
    /// Its link ended without a word and nothing was heard since.
    pub(crate) lost: bool,
    /// A waiting replica answered at one of its addresses since the link is gone: several processes are behind it, so
    /// that a refusal says nothing about the one that acts (docs/decisions/0013).
    pub(crate) replica_waits: bool,
    /// A ping on behalf of a co-observer stayed without an answer.
    pub(crate) mute: bool,
    pub(crate) touched: bool,
    pub(crate) armed: Armed,
    pub(crate) query: Option<Box<Query>>,
    pub(crate) requery: Option<Box<Requery>>,
    /// The address that refuses connections since the link is gone, and how often it did.
    pub(crate) refused: Option<Box<(PeerAddress, u32)>>,
    /// Co-observers that wait for our answer about this member.
    pub(crate) asked_by: BTreeMap<Slot, PendingAnswer>,
    /// When its state changed last.
    pub(crate) since: Instant,
    /// Where it is dialled, if its own record does not say so.
    pub(crate) address: Option<PeerAddress>,
    /// The stream in use.
    pub(crate) link: Option<LinkId>,
    /// Somebody asked about it, so it is tried to be reached until then although no duty asks for it.
    pub(crate) probing_until: Option<Instant>,
    /// The suspicion window counts from here.
    pub(crate) window_from: Instant,
    /// Where that link had been dialled: only this address's refusals count. `None`: the peer had dialled.
    pub(crate) lost_via: Option<Box<PeerAddress>>,
    /// It is Suspect by this member's own finding, a majority of those asked agreeing, and not by others' word.
    pub(crate) first_hand: bool,
    /// The window of others' accusations is over; a majority among them makes it Down at once.
    pub(crate) window_over: bool,
    /// It is Suspect by what a snapshot or a digest told: nobody waits for the verdict, and its refutation may have to
    /// find a way that is just being mended.
    pub(crate) told_late: bool,
    /// The round trip and the slack that its suspicion window was made for.
    pub(crate) way: Option<Box<(Duration, Duration)>>,
    pub(crate) evidence: Option<Evidence>,
    /// When it was pinged last because others asked.
    pub(crate) pinged_for_others: Option<Instant>,
    /// Who accused this member in its epoch and incarnation, this one included. At most `MAX_ACCUSERS`.
    pub(crate) accusers: BTreeMap<Slot, Accuser>,
    pub(crate) away_until: Option<Instant>,
    /// Its one announced pause of this epoch is used up.
    pub(crate) away_used: bool,
    /// The older epoch of another process with its name that was refused last, and how often in a row.
    pub(crate) refused_epoch: Option<Box<(Epoch, u32)>>,
    /// An operator said that it will not come back.
    pub(crate) forgotten: bool,
}

/// What this member and another have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Duty {
    /// It is observed by this member.
    pub(crate) observed: bool,
    /// It observes this member.
    pub(crate) observes: bool,
    /// A link is to be kept: for one of the two above, for queries, or for election.
    pub(crate) linked: bool,
    /// Election wants the link: beats go both ways, so that both know how fresh the other is.
    pub(crate) required: bool,
}

/// An accusation that is in force.
#[derive(Debug, Clone)]
pub(crate) struct Accuser {
    pub(crate) at: Instant,
    pub(crate) statement: Signed<Accusation>,
}

impl Member {
    pub(crate) fn new(record: &Record, now: Instant) -> Self {
        Self {
            name: record.member.clone(),
            epoch: record.epoch,
            since: now,
            address: None,
            link: None,
            duty: Duty::default(),
            observed_since: now,
            beaten: false,
            probing_until: None,
            heard_at: None,
            clock: now,
            not_late_before: Instant::ZERO,
            window_from: now,
            freshness: Freshness::new(),
            lost: false,
            lost_via: None,
            refused: None,
            replica_waits: false,
            first_hand: false,
            window_over: false,
            told_late: false,
            way: None,
            mute: false,
            evidence: None,
            query: None,
            requery: None,
            asked_by: BTreeMap::new(),
            pinged_for_others: None,
            accusers: BTreeMap::new(),
            away_until: None,
            away_used: false,
            refused_epoch: None,
            forgotten: false,
            armed: Armed::default(),
            touched: false,
        }
    }

    /// What belonged to the old state ends with it.
    pub(crate) fn begin_state(&mut self, state: State, evidence: Option<Evidence>, now: Instant) {
        self.since = now;
        self.window_from = now;
        self.evidence = evidence;
        self.first_hand = false;
        self.window_over = false;
        self.told_late = false;
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
        (self.clock + beat_interval + self.freshness.slack()).max(self.not_late_before)
    }

    /// From when on a lone observer may suspect (rule 5).
    pub(crate) fn alone_at(&self, beat_interval: Duration, silence_floor: Duration) -> Instant {
        let patience = self.freshness.slack().max(silence_floor);
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

    /// Another member is forgotten: what it said about this one goes with it.
    pub(crate) fn forget(&mut self, other: Slot) {
        self.asked_by.remove(&other);
        self.accusers.remove(&other);
        if let Some(query) = &mut self.query {
            query.forget(other);
        }
    }

    /// Whether nothing is kept here that is of use.
    pub(crate) fn is_idle(&self) -> bool {
        let Duty { observed, observes, linked, required } = self.duty;
        let wanted = observed || observes || linked || required || self.link.is_some();
        !wanted && self.accusers.is_empty() && self.asked_by.is_empty() && !self.away_used
    }
}

/// The record of a member of which only the name, the epoch and perhaps an address are known. Never sent.
pub(crate) fn placeholder(member: MemberName, epoch: Epoch, address: Option<PeerAddress>) -> Signed<Record> {
    let metadata = Metadata {
        address,
        rank: Rank(0),
        candidate: false,
        health: Health::default(),
        role: Role::Joining,
        term: Term::NONE,
        leader: None,
        config: ConfigVersion(0),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    };
    let status = SelfState::Alive;
    Signed::unsigned(Record { member, epoch, incarnation: Incarnation(0), version: 0, status, metadata })
}

/// Whether a record is the owner's word and not a [`placeholder`].
pub(crate) fn is_said(record: &Record) -> bool {
    record.version > 0
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
    /// When it was proven alive last, first-hand and on the local clock; `None` if never, or for this member itself.
    pub heard_at: Option<Instant>,
    /// What a suspicion or Down rests on.
    pub evidence: Option<Evidence>,
    /// Since when it is in this state, as far as this member had to do with it.
    pub since: Instant,
    /// Its link is gone, and a replica answered that waits to take over. No evidence, but its cluster lives.
    pub replica_waits: bool,
}
