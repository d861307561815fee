//! The invariants of DESIGN section 4 as checkers. They are fed what views show, what passes by on the wire and
//! what truly happened, and know nothing else of the core.
//!
//! | invariant | checker |
//! |---|---|
//! | 1 incarnation raised only by the owner | [`owners`] |
//! | 2 a member's record only grows | [`owners`] |
//! | 3 no Down without a majority, Leave, expired Away or rule 5 | [`ballots`] |
//! | 4 no Down in the view of members connected to a majority of the subject's timely observers | [`truth`] |
//! | 5 every crash is Down at every survivor within the computed bound | [`settling`] |
//! | 6 views equal after quiet | [`settling`] |
//! | 7 refutation wins | [`ballots`] |
//! | 8 a healed partition returns full views | [`settling`] |
//! | 9 links and queues bounded | [`settling`] |
//! | 10 replayed or late frames never extend life | [`truth`] |
//! | 11 a slow observer causes no Down between healthy members | [`truth`] |
//! | 12 same seed, same trace | [`super::run`] (two runs) |
//! | 13 no frame of one member changes another's record or makes it Down | [`owners`], [`truth`] |

pub mod ballots;
pub mod owners;
pub mod settling;
pub mod truth;

use flagship_membership::{
    Accusation, Evidence, Input, Membership, Message, Record, SelfState, Signed, State,
};
use flagship_types::MemberName;

use crate::clock::{Nanos, ms, nanos};
pub use crate::model::Violation;

use super::fault::{Host, Plan};
use super::names::Names;
use super::world::{WALL_MS, World};
use ballots::{Ballots, Rule};
use owners::Owners;
use truth::Truth;

/// What one member's view shows of another, after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Nanos,
    /// Whose view.
    pub viewer: Host,
    /// Of whom.
    pub subject: Host,
    /// The subject's epoch.
    pub epoch: u64,
    /// Its incarnation.
    pub incarnation: u32,
    /// Its state.
    pub state: State,
    /// The term in its metadata: what it last said of itself.
    pub term: Option<u64>,
    /// What a suspicion or Down rests on.
    pub evidence: Option<Evidence>,
}

/// An accuser counts among the first so many live members after the subject on some ring: its observers, and those
/// who may have taken their places: as many as a query asks, twice, as views change between the verdict and this
/// check.
const REACH: usize = 24;

/// More are not kept.
const MAX_VIOLATIONS: usize = 32;

/// All checkers that run along.
pub struct Checks {
    pub(super) truth: Truth,
    owners: Owners,
    ballots: Ballots,
    found: Vec<Violation>,
}

impl Checks {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut owners = Owners::new(plan.members);
        if plan.warm {
            // Known to the others from before, whether it is there yet or not.
            let there = (0..plan.members).filter(|host| !plan.joins_later(*host));
            there.for_each(|host| owners.started(host, WALL_MS));
        }
        Self {
            truth: Truth::new(plan.members, Rule::of(plan).drift_permille),
            owners,
            ballots: Ballots::default(),
            found: Vec::new(),
        }
    }

    /// What was found so far.
    pub fn found(&self) -> &[Violation] {
        &self.found
    }

    fn add(&mut self, found: impl IntoIterator<Item = Violation>) {
        for violation in found {
            if self.found.len() < MAX_VIOLATIONS {
                self.found.push(violation);
            }
        }
    }

    // What truly happens.

    pub(super) fn started(&mut self, host: Host, epoch: u64, now: Nanos) {
        self.truth.started(host, now);
        self.owners.started(host, epoch);
        self.ballots.restarted(host);
    }

    pub(super) fn stopped(&mut self, host: Host, now: Nanos) {
        self.truth.stopped(host, now);
    }

    /// It goes on. Who stood still can know; who was only kept from reading and sending cannot.
    pub(super) fn resumed(&mut self, host: Host, stood_still: bool, now: Nanos) {
        self.truth.resumed(host, stood_still, now);
    }

    pub(super) fn lies(&mut self, host: Host) {
        self.owners.lies(host);
    }

    pub(super) fn is_liar(&self, host: Host) -> bool {
        self.owners.is_liar(host)
    }

    pub(super) fn said_good_bye(&mut self, host: Host, input: &Input, _now: Nanos) {
        match input {
            Input::Leave => self.owners.said_left(host),
            Input::Away { .. } => self.owners.said_away(host),
            _ => {}
        }
    }

    pub(super) fn said_term(&mut self, host: Host, term: u64) {
        self.owners.said_term(host, term);
    }

    pub(super) fn owner_is_at(&mut self, host: Host, epoch: u64, incarnation: u32) {
        self.owners.is_at(host, epoch, incarnation);
    }

    // What passes by.

    /// A member is about to answer that it does not hear another, in a full mesh.
    pub(super) fn answers_mute(&mut self, by: Host, subject: Host, holds: Option<State>, now: Nanos) {
        let found = self.ballots.answers_mute(by, subject, holds, now);
        self.add(found);
    }

    pub(super) fn said(
        &mut self,
        names: &Names,
        (from, to): (Host, Host),
        honest: bool,
        message: &Message,
        now: Nanos,
    ) {
        if let Message::Query { id, subject, deadline, .. } = message
            && honest
            && let Some(subject) = names.host(subject)
        {
            // With room for a slow clock.
            let until = now + nanos(*deadline) * 107 / 100 + ms(1);
            self.ballots.asked((from, to), subject, *id, until);
        }
    }

    pub(super) fn delivered(
        &mut self,
        names: &Names,
        (from, to): (Host, Host),
        reads: bool,
        message: &Message,
        now: Nanos,
    ) {
        match message {
            Message::Answer { id, subject, verdict } => {
                if let Some(subject) = names.host(subject) {
                    self.ballots.answered((from, to), subject, (*id, *verdict), now);
                }
            }
            Message::Accuse(accusation) => self.accusation(names, (from, to), accusation, now),
            Message::Record(record) if reads => self.record(names, (from, to), record, true, now),
            Message::Delta { records, accusations } => {
                for record in records.iter().filter(|_| reads) {
                    self.record(names, (from, to), record, false, now);
                }
                for accusation in accusations {
                    self.accusation(names, (from, to), accusation, now);
                }
            }
            _ => {}
        }
    }

    /// One that the receiver may believe: signed, or said by the accuser itself.
    fn accusation(
        &mut self,
        names: &Names,
        (from, to): (Host, Host),
        accusation: &Signed<Accusation>,
        now: Nanos,
    ) {
        let (accuser, subject) = (names.host(&accusation.accuser), names.host(&accusation.subject));
        let (Some(accuser), Some(subject)) = (accuser, subject) else { return };
        if accusation.proof().is_some() || accuser == from {
            let what = (accusation.epoch.0, accusation.incarnation.0);
            self.ballots.accused((accuser, to), subject, what, now);
        }
    }

    /// One that the receiver has to believe, or that it may act upon.
    fn record(
        &mut self,
        names: &Names,
        (from, to): (Host, Host),
        record: &Signed<Record>,
        alone: bool,
        now: Nanos,
    ) {
        let Some(owner) = names.host(&record.member) else { return };
        if record.proof().is_some() || owner == from {
            let what = (record.epoch.0, record.incarnation.0);
            let last = self.owners.last(to, owner).map(|seen| (seen.epoch, seen.incarnation));
            let news = alone && last.is_some_and(|last| last.0 == what.0 && last.1 < what.1);
            self.ballots.record(to, owner, what, news, !self.owners.is_liar(owner));
            if let SelfState::Away { grace } = record.status {
                self.ballots.away(to, owner, what, now + nanos(grace));
            }
        }
    }

    /// A core comes to the finding that it does not hear another.
    pub(super) fn finding(&mut self, world: &World, host: Host, accusation: &Accusation) {
        let Some(subject) = world.names.host(&accusation.subject) else { return };
        if !self.owners.is_liar(host) {
            let what = (accusation.epoch.0, accusation.incarnation.0);
            if accusation.evidence == Evidence::Silence {
                let found = self.truth.woke_long_ago(host, subject, world.now);
                self.add(found);
            }
            let rule = Rule::of(&world.plan);
            let found = self.ballots.finding((host, subject), what, accusation.evidence, world.now, rule);
            self.add(found);
        }
    }

    /// A core has dealt with the frame that was delivered last.
    pub(super) fn handled(&mut self, world: &World, host: Host) {
        if self.ballots.expected.is_empty() {
            return;
        }
        let expected = std::mem::take(&mut self.ballots.expected);
        let Some(core) = world.core(host).filter(|_| !self.owners.is_liar(host)) else { return };
        // Who said good-bye does not listen any more.
        let speaks = core.member(world.names.name(host)).is_some_and(|own| own.state == State::Alive);
        for expected in expected.into_iter().filter(|_| speaks) {
            let subject = expected.subject;
            let Some(view) = core.member(world.names.name(subject)) else { continue };
            let now = (view.epoch.0, view.incarnation.0, view.state);
            let found =
                ballots::refutation_held((host, subject), (expected.told, expected.news), now, world.now);
            self.add(found);
        }
    }

    /// A stream is up at this end.
    pub(super) fn linked(&mut self, viewer: Host, peer: Host, now: Nanos) {
        self.truth.linked(viewer, peer, now);
    }

    pub(super) fn heard(&mut self, viewer: Host, subject: Host, when: Nanos, now: Nanos) {
        self.ballots.heard(viewer, subject, when);
        if !self.owners.is_liar(viewer) && !self.owners.is_liar(subject) {
            let found = self.truth.proves_life(viewer, subject, when, now);
            self.add(found);
        }
    }

    // What views show.

    /// A view shows somebody who does not exist.
    pub(super) fn ghost(&mut self, viewer: Host, core: Option<&Membership>, name: &MemberName) {
        let shown = core.is_some_and(|core| core.member(name).is_some());
        if shown && !self.owners.is_liar(viewer) {
            let text = format!("m{viewer} believes in {name}, who does not exist");
            self.add([Violation { invariant: 13, at: 0, text }]);
        }
    }

    pub(super) fn seen(&mut self, world: &World, seen: Seen) {
        if self.owners.is_liar(seen.viewer) {
            return;
        }
        let found = self.owners.seen(seen);
        self.add(found);
        let near = |accuser: Host| {
            let live =
                |host: Host| matches!(world.state(seen.viewer, host), Some(State::Alive | State::Suspect));
            accuser == seen.viewer
                || !live(accuser)
                || world.rings.is_near(accuser, seen.subject, REACH, |host| host == accuser || live(host))
        };
        let rule = Rule::of(&world.plan);
        let found = self.ballots.seen(seen, rule, near);
        self.add(found);
        if seen.state == State::Down && !self.owners.is_liar(seen.subject) {
            let found = truth::wrongly_down(self, world, seen);
            self.add(found);
        }
    }
}
