//! What this member says of itself: its record, its refutations, its epoch and its name (rules 7 and 9).

use flagship_types::{Epoch, Incarnation, Instant, Metadata, PeerAddress};

use crate::config::{
    AWAY_CAP, MAX_EPOCH_AHEAD_MS, RAISE_MARGIN_MS, RAISE_PAUSE, RAISE_PAUSE_CAP, REFUTE_INTERVAL,
};
use crate::rings::Slot;
use crate::table::SELF;
use crate::{
    CloseCode, Event, LinkId, Membership, Message, Output, PeerHello, PlantedBug, Record, SelfState, Signed,
    State, Statement,
};

/// Whether this member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Beats, observes, dials.
    Active,
    /// Announced a pause: silent, so that no beat ends it.
    Away,
    /// Said good-bye.
    Left,
    /// Another process has this name: silent until the process (or the core) is started anew.
    Stalled,
}

impl Membership {
    /// This member's record as it is now, signed or not.
    pub(crate) fn own_record(&self) -> Signed<Record> {
        self.table.record(SELF).clone()
    }

    pub(crate) fn set_metadata(&mut self, metadata: Metadata) {
        let known = &self.table.record(SELF).metadata;
        if *known == metadata {
            return;
        }
        self.dials_dirty |= known.address != metadata.address;
        self.declare(metadata);
    }

    /// Says the own record anew, under a new version. It goes to everyone once it is signed.
    pub(crate) fn spread_record(&mut self) {
        let metadata = self.table.record(SELF).metadata.clone();
        self.declare(metadata);
    }

    pub(crate) fn declare(&mut self, metadata: Metadata) {
        self.version += 1;
        let record = Record {
            member: self.config.name.clone(),
            epoch: self.epoch,
            incarnation: self.incarnation,
            version: self.version,
            status: self.status,
            metadata,
        };
        self.table.set_record(SELF, Signed::unsigned(record.clone()));
        self.output(Output::Sign(Box::new(Statement::Record(record))));
    }

    /// The own record comes back signed.
    pub(crate) fn declared(&mut self, record: Signed<Record>) {
        if *record != **self.table.record(SELF) {
            return;
        }
        self.table.set_record(SELF, record.clone());
        self.send_all(&Message::Record(record));
    }

    pub(crate) fn go_away(&mut self, grace: std::time::Duration) {
        if self.standing != Standing::Active {
            return;
        }
        self.status = SelfState::Away { grace: grace.min(AWAY_CAP) };
        self.spread_record();
        self.become_standing(Standing::Away);
    }

    pub(crate) fn leave(&mut self) {
        if !matches!(self.standing, Standing::Active | Standing::Away) {
            return;
        }
        self.status = SelfState::Left;
        self.spread_record();
        self.become_standing(Standing::Left);
    }

    fn become_standing(&mut self, standing: Standing) {
        self.standing = standing;
        self.refute_due = None;
        self.dials_dirty = true;
        self.duties_dirty = true;
    }

    /// Whether an epoch can be true: not more than a day ahead of the wall clock.
    pub(crate) fn plausible(&self, epoch: Epoch, now: Instant) -> bool {
        let run = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        epoch.0 <= self.config.wall_ms.saturating_add(run).saturating_add(MAX_EPOCH_AHEAD_MS)
    }

    /// A peer says what it believes of us.
    pub(crate) fn told(
        &mut self,
        from: LinkId,
        epoch: Epoch,
        incarnation: Incarnation,
        state: State,
        now: Instant,
    ) {
        if epoch < self.epoch {
            // It has not read our record yet, or lost it.
            let record = self.own_record();
            return self.send(from, Message::Record(record));
        }
        if epoch > self.epoch || state == State::Left {
            return self.raise_epoch(epoch, now);
        }
        match state {
            State::Suspect | State::Down | State::Away => self.refute(from, incarnation, now),
            State::Alive | State::Left => {}
        }
    }

    /// Goes on under a higher incarnation than the one that is held against us.
    pub(crate) fn refute(&mut self, from: LinkId, against: Incarnation, now: Instant) {
        if against < self.incarnation {
            let record = self.own_record();
            return self.send(from, Message::Record(record));
        }
        // Nobody can know one that we did not issue.
        if against > self.incarnation {
            self.stats.refused_records += 1;
            return;
        }
        let due = self.raised_at.map_or(now, |at| at + REFUTE_INTERVAL);
        if due <= now {
            self.refute_now(now);
        } else {
            self.refute_due = Some(due);
        }
    }

    pub(crate) fn refute_now(&mut self, now: Instant) {
        self.refute_due = None;
        self.raised_at = Some(now);
        self.incarnation = self.incarnation.next();
        self.stats.refutations += 1;
        self.spread_record();
    }

    /// Goes on from the epoch that a peer knows, for example after a clock that jumped back (rule 9).
    fn raise_epoch(&mut self, known: Epoch, now: Instant) {
        if self.has(PlantedBug::EpochNotRaised) {
            return;
        }
        let next = Epoch(known.0.saturating_add(1));
        // Peers whose clocks are a little behind have to find it plausible too.
        if !self.plausible(Epoch(next.0.saturating_add(RAISE_MARGIN_MS)), now) {
            self.stats.refused_records += 1;
            return;
        }
        // Whoever still holds the old epoch says so again with our next beat. Each raise looks like a new process to the
        // others, so a peer that asks for one after the other waits longer and longer.
        if let Some((at, pause)) = self.epoch_raised {
            if now < at + pause {
                return;
            }
            let calm = now >= at + RAISE_PAUSE_CAP * 10;
            self.epoch_raised =
                Some((now, if calm { RAISE_PAUSE } else { (pause * 2).min(RAISE_PAUSE_CAP) }));
        } else {
            self.epoch_raised = Some((now, RAISE_PAUSE));
        }
        self.raised_at = Some(now);
        self.refute_due = None;
        self.epoch = next;
        self.incarnation = Incarnation(0);
        self.stats.epochs_raised += 1;
        self.event(Event::EpochRaised(next));
        self.spread_record();
    }

    /// The peer of this stream has our name. With our epoch it is ourselves. Otherwise the peers decide which of
    /// the two stays, by which one they hear; a process that none of them hears gives way to one that started
    /// before it.
    pub(crate) fn met_own_name(
        &mut self,
        link: LinkId,
        hello: &PeerHello,
        dialled: Option<&PeerAddress>,
        now: Instant,
    ) {
        if let Some(address) = dialled {
            self.dials.rejected(address, true, now);
        }
        let ourselves = hello.epoch == self.epoch;
        let code = if ourselves { CloseCode::Duplicate } else { CloseCode::NameInUse };
        self.disconnect(link, code);
        if hello.epoch < self.epoch && self.hear_us(now) == 0 {
            self.stall(hello.epoch);
        }
    }

    /// How many peers hear this process, as far as it can tell.
    fn hear_us(&self, now: Instant) -> usize {
        let h = self.config.beat_interval;
        let hears = |m: &crate::members::Member| m.link.is_some() && (now < m.late_at(h) || !m.is_watched());
        self.table.details().filter(|(_, m)| hears(m)).count()
    }

    /// A peer refused us because it hears another process with our name. One peer's word is not enough as long as
    /// more peers hear us; with two members there is no other word to wait for.
    pub(crate) fn refused_name(&mut self, by: Slot, said_epoch: Epoch, now: Instant) {
        // It refused an epoch that we have left behind: the next Hello carries the newer one.
        if said_epoch < self.epoch || self.standing != Standing::Active {
            return;
        }
        let name = self.table.name(by).clone();
        self.refusers.insert(name);
        if self.refusers.len() > self.hear_us(now) {
            self.stall(self.epoch);
        }
    }

    fn stall(&mut self, epoch: Epoch) {
        if self.standing != Standing::Active {
            return;
        }
        self.become_standing(Standing::Stalled);
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.disconnect(link, CloseCode::ShuttingDown);
            self.drop_link(link);
        }
        self.event(Event::NameInUse { epoch });
    }
}
