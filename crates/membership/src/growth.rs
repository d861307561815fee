//! A view that grows by much at once, as at the start: links wait until it has come to rest, and get time to come up.
//!
//! Each new member changes the observers of some others. Links made for a view that is about to change are made for
//! nothing, and each costs both ends a TLS handshake.

use std::time::Duration;

use flagship_types::{Instant, MemberName};

use crate::config::{
    FIRST_DIAL_WAIT, GROWTH_CAP, GROWTH_PAUSE, MAX_STRETCH, SETTLE_CAP, SETTLE_TIME, SWIFT_DIAL,
};
use crate::dial::Wanted;
use crate::members::Member;
use crate::rings::Slot;
use crate::{Membership, State};

/// How the view has grown lately.
#[derive(Debug)]
pub(crate) struct Growth {
    /// Members before the last run of new ones.
    before: usize,
    /// When that run began, and when its last one was told.
    began: Instant,
    last: Instant,
    /// When the last one was told of the last run that changed much.
    much: Option<Instant>,
    /// When the first of all runs began after which there was no rest.
    unsettled_since: Instant,
    /// When this process was slow last after that.
    slow: Instant,
    /// So many times as long as on an idle machine everything takes.
    stretch: u32,
}

impl Growth {
    /// A view of so many members that has not grown yet.
    pub(crate) fn new(members: usize, now: Instant) -> Self {
        Self {
            before: members,
            began: now,
            last: now,
            much: None,
            unsettled_since: now,
            slow: Instant::ZERO,
            stretch: 1,
        }
    }

    /// One more member; `members` with it.
    fn note(&mut self, members: usize, now: Instant) {
        let rested = now >= self.last + GROWTH_PAUSE * self.stretch;
        // Newcomers one by one are no growth by much, however long they come.
        if rested || now >= self.began + GROWTH_CAP * self.stretch {
            (self.before, self.began) = (members.saturating_sub(1), now);
            self.stretch = 1;
        }
        self.last = now;
        // The first ones of all; else more than one or two, and more than an eighth.
        let much = if self.before <= 1 { 0 } else { (self.before / 8).max(2) };
        if members.saturating_sub(self.before) > much {
            if now >= self.settles() {
                self.unsettled_since = self.began;
            }
            self.much = Some(now);
        }
    }

    /// A link came up that took so long.
    fn took(&mut self, dial: Duration) {
        let swift = SWIFT_DIAL.as_millis();
        let times = u32::try_from(dial.as_millis() / swift).unwrap_or(MAX_STRETCH);
        self.stretch = self.stretch.max(times).min(MAX_STRETCH);
    }

    /// Until when links wait for the view to come to rest.
    fn rests(&self) -> Instant {
        let Some(last) = self.much else { return Instant::ZERO };
        (last + GROWTH_PAUSE * self.stretch).min(self.unsettled_since + GROWTH_CAP * self.stretch)
    }

    /// Until when links that are new are given time: until this process has kept up with them for a while.
    fn settles(&self) -> Instant {
        let Some(last) = self.much else { return Instant::ZERO };
        (last.max(self.slow) + SETTLE_TIME).min(self.unsettled_since + SETTLE_CAP)
    }
}

impl Membership {
    /// A member was told of that was not known.
    pub(crate) fn view_grew(&mut self, now: Instant) {
        let members = self.table.counted();
        self.growth.note(members, now);
    }

    /// A dial led to a link and took so long.
    pub(crate) fn dial_took(&mut self, took: Duration) {
        self.growth.took(took);
    }

    /// Our own timers were late.
    pub(crate) fn growth_is_slow(&mut self, now: Instant) {
        if now < self.growth.settles() {
            self.growth.slow = now;
        }
    }

    /// Where the view has just grown by much: until when silence does not count of those that are observed only since
    /// then. Their beats and our own work may have to wait for hundreds of handshakes.
    pub(crate) fn spare_new_subjects(&mut self, now: Instant) {
        let (until, since) = (self.growth.settles(), self.growth.unsettled_since);
        if self.mesh || now >= until {
            return;
        }
        for (_, member) in self.table.details_mut() {
            if member.duty.observed && member.observed_since >= since && member.not_late_before < until {
                member.not_late_before = until;
            }
        }
    }

    /// A link is not given up for silence before this.
    pub(crate) fn links_settle_at(&self) -> Instant {
        if self.mesh { Instant::ZERO } else { self.growth.settles() }
    }

    /// When a member may be dialled that has no link.
    pub(crate) fn dial_of(&self, slot: Slot, member: &Member, now: Instant) -> Wanted {
        let new = member.heard_at.is_none() && member.probing_until.is_none();
        match new && self.table.state(slot) == State::Alive {
            true => self.first_dial_of(self.table.name(slot), member.since, now),
            false => Wanted::now(now),
        }
    }

    /// When a member may be dialled that was never heard: the view may be about to change, or it is the other one's turn,
    /// so that not both make a link of the same pair. Who cannot dial itself is linked after that wait.
    pub(crate) fn first_dial_of(&self, name: &MemberName, since: Instant, now: Instant) -> Wanted {
        if now >= self.growth.settles() {
            return Wanted::now(now);
        }
        let from = since.max(self.growth.rests());
        let wait = match self.config.name < *name {
            true => Duration::ZERO,
            // Few handshakes are made in a mesh, so that little is lost by one too many.
            false if self.mesh => FIRST_DIAL_WAIT / 4,
            false => FIRST_DIAL_WAIT * self.growth.stretch,
        };
        Wanted { earliest: from + wait, patient: true, pace: None }
    }

    /// When a seed may be dialled that has led to nobody yet: one after the other until there is a link, whose snapshot
    /// may tell of the others.
    pub(crate) fn seed_dial_of(&self, turn: Instant, linked: bool) -> Wanted {
        Wanted::now(if linked { self.growth.rests() } else { turn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_view_rests_when_nobody_new_was_told_for_a_while_and_at_the_cap_at_the_latest() {
        let mut growth = Growth::new(0, at(0));
        for (members, ms) in (2..).zip([100, 150, 200, 350]) {
            growth.note(members, at(ms));
        }
        assert_eq!(growth.rests(), at(350) + GROWTH_PAUSE);
        let steps: Vec<u64> = (2..30).map(|step| step * 200).collect();
        for (members, ms) in (6..).zip(&steps) {
            growth.note(members, at(*ms));
        }
        assert_eq!(growth.rests(), at(0) + GROWTH_CAP);
        assert_eq!(growth.settles(), at(steps[steps.len() - 1]) + SETTLE_TIME);
    }

    #[test]
    fn newcomers_without_end_do_not_make_anybody_wait_without_end() {
        let mut growth = Growth::new(100, at(0));
        for (members, second) in (101..).zip(1..1_000) {
            growth.stretch = MAX_STRETCH;
            growth.note(members, at(second * 1_900));
        }
        assert_eq!(
            (growth.rests(), growth.settles()),
            (Instant::ZERO, Instant::ZERO),
            "one every 2 s is not much"
        );
        let mut growth = Growth::new(2, at(0));
        for members in 3..10_000_u64 {
            growth.note(usize::try_from(members).unwrap(), at(members * 100));
            assert!(growth.settles() <= growth.unsettled_since + SETTLE_CAP);
        }
        assert!(growth.settles() < at(100_000), "ten more each second are not much for hundreds");
    }

    #[test]
    fn where_links_take_long_the_view_gets_more_time() {
        let mut growth = Growth::new(0, at(0));
        growth.note(2, at(100));
        for (took, times) in [(20, 1), (450, 2), (20, 2), (60_000, MAX_STRETCH)] {
            growth.took(Duration::from_millis(took));
            assert_eq!(growth.rests(), at(100) + GROWTH_PAUSE * times);
        }
    }

    #[test]
    fn one_that_joins_many_makes_nobody_wait() {
        let mut growth = Growth::new(0, at(0));
        growth.note(100, at(100));
        let begun = (at(100) + GROWTH_PAUSE, at(100) + SETTLE_TIME);
        growth.note(101, at(60_000));
        growth.note(102, at(60_000));
        assert_eq!((growth.rests(), growth.settles()), begun);
        for members in 103..120 {
            growth.note(members, at(60_100));
        }
        let (rests, settles) = (at(60_100) + GROWTH_PAUSE, at(60_100) + SETTLE_TIME);
        assert_eq!((growth.rests(), growth.settles()), (rests, settles), "a seventh more does");
    }
}
