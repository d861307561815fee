//! Streams to peers: which one stays, and when a silent one is given up.

use std::time::Duration;

use flagship_types::{Epoch, Instant, PeerAddress};

use crate::config::{
    DIGEST_INTERVAL, MAX_LINKS_PER_PEER, PROTOCOL_RINGS, QUIET_BEATS, SLACK_CAP, STALE_FLOOR, UNNEEDED_AFTER,
};
use crate::contest::Contest;
use crate::freshness::{ECHO_LOG, SENT_LOG, SentLog};
use crate::rings::Slot;
use crate::timers::Armed;
use crate::{CloseCode, LinkEnd, LinkId, Membership, Message, PeerHello, PlantedBug, Standing, State};

/// A stream to a peer.
#[derive(Debug)]
// In this order: what a beat touches lies in as few cache lines as it can.
#[repr(C)]
pub(crate) struct Link {
    pub(crate) peer: Slot,
    /// Our beats are wanted on it: by an observer, by election, or by a build from before rings.
    pub(crate) ours: bool,
    /// The peer's are.
    pub(crate) theirs: bool,
    pub(crate) touched: bool,
    /// The epoch of the process at its other end.
    pub(crate) epoch: Epoch,
    /// The newest proof on this stream, or the moment from which one is expected.
    pub(crate) fresh_at: Instant,
    /// When anything came on it.
    pub(crate) received_at: Instant,
    /// The highest number received in a beat or ping, and when.
    pub(crate) received: Option<(u64, Instant)>,
    /// Our echoes, by the number of the peer's frame that they answer.
    pub(crate) echoed: SentLog<ECHO_LOG>,
    /// The peer was told that it is no observer any more; beats go on until then, as its view may be older.
    pub(crate) beats_until: Option<Instant>,
    /// Another process of that name seems to be heard: this one waits until then for the other's proof of life.
    pub(crate) contested: Option<Contest>,
    /// Since when the peer's view hash differs from ours.
    pub(crate) differs_since: Option<Instant>,
    /// The newest of our numbers that was echoed, and when.
    pub(crate) acked: Option<(u64, Instant)>,
    /// Our beats and pings.
    pub(crate) sent: SentLog<SENT_LOG>,
    /// Our epoch when it came up.
    pub(crate) own_epoch: Epoch,
    /// What both ends speak.
    pub(crate) protocol: u32,
    pub(crate) dialled: Option<PeerAddress>,
    pub(crate) up_at: Instant,
    pub(crate) last_beat: Instant,
    pub(crate) next_beat: Instant,
    /// This link's place among all that beat within one interval.
    pub(crate) phase: Duration,
    /// Since when nobody here needs it.
    pub(crate) unneeded_since: Option<Instant>,
    /// Once there was one.
    pub(crate) digests: Option<Box<Digests>>,
    pub(crate) armed: Armed,
}

/// The digests on a stream.
#[derive(Debug)]
pub(crate) struct Digests {
    /// When one was sent last.
    pub(crate) sent_at: Option<Instant>,
    /// How long the next one waits.
    pub(crate) pause: Duration,
    /// One of so many bits was not answered yet.
    pub(crate) waits: Option<u8>,
    /// When the peer's last one was worked out.
    pub(crate) seen_at: Option<Instant>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { sent_at: None, pause: DIGEST_INTERVAL, waits: None, seen_at: None }
    }
}

impl Link {
    pub(crate) fn new(
        peer: Slot,
        hello: &PeerHello,
        own_epoch: Epoch,
        dialled: Option<PeerAddress>,
        now: Instant,
    ) -> Self {
        Self {
            peer,
            epoch: hello.epoch,
            own_epoch,
            protocol: hello.protocol,
            dialled,
            up_at: now,
            fresh_at: now,
            received_at: now,
            sent: SentLog::new(),
            echoed: SentLog::new(),
            received: None,
            acked: None,
            last_beat: now,
            next_beat: now,
            ours: hello.protocol < PROTOCOL_RINGS,
            theirs: hello.protocol < PROTOCOL_RINGS,
            phase: Duration::ZERO,
            beats_until: None,
            unneeded_since: None,
            differs_since: None,
            digests: None,
            contested: None,
            armed: Armed::default(),
            touched: false,
        }
    }

    /// Whether we beat on it.
    pub(crate) fn sends_beats(&self) -> bool {
        self.ours || self.beats_until.is_some()
    }

    /// Whether its peer's beats, pings and echoes count.
    pub(crate) fn may_beat(&self, standing: Standing) -> bool {
        self.contested.is_none() && standing == Standing::Active
    }

    /// Whether beats go on it either way.
    pub(crate) fn is_beating(&self) -> bool {
        self.theirs || self.sends_beats()
    }

    /// Whether signed statements, digests and the like are understood at the other end.
    pub(crate) fn speaks_rings(&self) -> bool {
        self.protocol >= PROTOCOL_RINGS
    }
}

impl Membership {
    /// A stream, to be changed.
    pub(crate) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        let link = self.links.get_mut(&id)?;
        if !link.touched {
            link.touched = true;
            self.touched_links.push(id);
        }
        Some(link)
    }

    /// A stream came up: takes it, refuses it, or decides which of two stays.
    pub(crate) fn link_up(
        &mut self,
        id: LinkId,
        hello: &PeerHello,
        dialled: Option<PeerAddress>,
        now: Instant,
    ) {
        if self.links.contains_key(&id) {
            return;
        }
        if let Some(address) = &dialled {
            let took = self.dials.connected(address, &hello.member, now);
            self.dial_took(took);
            self.dials_dirty = true;
        }
        if hello.member == self.config.name && self.standing == Standing::Active {
            return self.met_own_name(id, hello, dialled.as_ref(), now);
        }
        if let Some(code) = self.refusal(hello, now) {
            if let Some(address) = &dialled {
                self.dials.rejected(address, false, now);
            }
            return self.disconnect(id, code);
        }
        let slot = match self.table.slot(&hello.member) {
            None => self.admit(hello, now),
            Some(slot) => {
                let epoch = self.table.record(slot).epoch;
                let old = self.table.attend(slot, now).link;
                // Of the process at the other end, which may go on under a newer one than its Hello said.
                let linked = old.and_then(|old| self.links.get(&old)).map(|link| link.epoch);
                match old {
                    Some(old) if linked != Some(hello.epoch) => {
                        return self.contest(id, slot, old, hello, dialled, now);
                    }
                    Some(old) if !self.keep_new(old, &dialled, slot, now) => {
                        self.stats.links_duplicate += 1;
                        return self.disconnect(id, CloseCode::Duplicate);
                    }
                    None if hello.epoch > epoch => self.enter_epoch(slot, hello.epoch, now),
                    Some(_) | None => {}
                }
                slot
            }
        };
        self.links.insert(id, Box::new(Link::new(slot, hello, self.epoch, dialled, now)));
        self.adopt(id, hello.address.as_ref(), Some(hello.view_hash), now);
    }

    fn refusal(&mut self, hello: &PeerHello, now: Instant) -> Option<CloseCode> {
        match self.standing {
            Standing::Active => {}
            Standing::Left => return Some(CloseCode::Leaving),
            Standing::Away | Standing::Stalled => return Some(CloseCode::ShuttingDown),
        }
        if !self.plausible(hello.epoch, now) {
            self.stats.refused_records += 1;
            return Some(CloseCode::ProtocolError);
        }
        let known = self.table.slot(&hello.member).is_some_and(|slot| self.table.state(slot) != State::Left);
        if !known && self.is_full() {
            self.stats.refused_full += 1;
            return Some(CloseCode::Full);
        }
        None
    }

    /// Two streams to the same process. Both sides must come to the same result: the one dialled by the smaller
    /// name stays, unless the old one is silent. If both were dialled by the same side, that side decides.
    fn keep_new(&mut self, old_id: LinkId, dialled: &Option<PeerAddress>, slot: Slot, now: Instant) -> bool {
        let h = self.config.beat_interval;
        let Some(old) = self.links.get(&old_id) else { return true };
        let slack = self.table.get(slot).map_or(Duration::ZERO, |m| m.freshness.slack());
        let silent = old.is_beating() && now >= old.fresh_at + h + slack;
        let (old_ours, new_ours) = (old.dialled.is_some(), dialled.is_some());
        if self.has(PlantedBug::LinksPileUp) {
            return true;
        }
        if !silent && old_ours == new_ours {
            if new_ours {
                return false;
            }
            // The dialler closes one of them; until then the newer is used and the older kept.
            let spare = self.links.iter().find(|(id, link)| link.peer == slot && **id != old_id);
            let spare = spare.map(|(id, _)| *id);
            if let Some(spare) = spare.filter(|_| self.links_of(slot) >= MAX_LINKS_PER_PEER) {
                self.stats.links_duplicate += 1;
                self.disconnect(spare, CloseCode::Duplicate);
                self.drop_link(spare);
            }
            return true;
        }
        let new_by_smaller = new_ours == (self.config.name < *self.table.name(slot));
        if silent || new_by_smaller {
            self.stats.links_duplicate += 1;
            self.disconnect(old_id, CloseCode::Duplicate);
            self.drop_link(old_id);
            return true;
        }
        false
    }

    pub(crate) fn links_of(&self, slot: Slot) -> usize {
        self.links.values().filter(|link| link.peer == slot).count()
    }

    /// Makes a stream the one in use, and says on it who we are.
    pub(crate) fn adopt(
        &mut self,
        id: LinkId,
        announced: Option<&PeerAddress>,
        view_hash: Option<u32>,
        now: Instant,
    ) {
        let h = self.config.beat_interval;
        let prior = self.typical_lateness();
        let Some(link) = self.link_mut(id) else { return };
        let (slot, epoch, dialled, up_at) = (link.peer, link.epoch, link.dialled.clone(), link.up_at);
        let ours = dialled.is_some();
        let known = self.table.record(slot).metadata.address.clone();
        let member = self.table.attend(slot, now);
        member.link = Some(id);
        member.freshness.begin(h, prior);
        let address = announced.cloned().or_else(|| member.address.clone()).or(known.clone()).or(dialled);
        let news = address.filter(|address| member.address.as_ref().or(known.as_ref()) != Some(address));
        let name = self.table.name(slot).clone();
        self.refusers.remove(&name);
        self.dials.forget_hint(&name);
        self.follow_duty(slot);
        self.dials_dirty = true;
        self.duties_dirty = true;
        self.restagger = true;
        // What ended while this process did not run may be any age.
        if self.resumed_at.is_none_or(|at| up_at >= at + h) {
            // The handshake was a round trip: its peer lived then.
            self.heard((slot, epoch), up_at, None, now);
        }
        let record = self.own_record();
        self.send(id, Message::Record(record));
        self.introduce_others(id, slot);
        if let Some(address) = news {
            self.set_address(slot, &address);
        }
        self.tell_known(slot, id);
        self.ping(id, now);
        // One digest is enough: its answer goes both ways.
        if ours && view_hash.is_some_and(|theirs| theirs != self.table.view_hash()) {
            self.send_digest(id, now);
        }
        self.changed(slot);
    }

    /// In a mesh everybody is told where the others are, as not all of them may have said it themselves yet.
    fn introduce_others(&mut self, id: LinkId, slot: Slot) {
        if !self.mesh {
            return;
        }
        let others = self.table.slots().filter(|s| *s != slot && *s != crate::table::SELF);
        let counted = others.filter(|s| self.table.state(*s) != State::Left);
        let known: Vec<_> =
            counted.filter_map(|s| Some((self.table.name(s).clone(), self.address_of(s)?.clone()))).collect();
        if !known.is_empty() {
            self.send(id, Message::Addresses(known));
        }
    }

    /// Tells a peer what is held against it, so that it can go on from there (rule 9).
    pub(crate) fn tell_known(&mut self, slot: Slot, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let (state, record) = (self.table.state(slot), self.table.record(slot));
        let held = matches!(state, State::Suspect | State::Down | State::Left);
        if held || link.epoch < record.epoch {
            let known = Message::Known { epoch: record.epoch, incarnation: record.incarnation, state };
            self.send(id, known);
        }
    }

    /// A stream ended.
    pub(crate) fn link_down(&mut self, id: LinkId, end: LinkEnd, now: Instant) {
        let Some(link) = self.take_link(id) else { return };
        let h = self.config.beat_interval;
        let slot = link.peer;
        self.restagger = true;
        self.dials_dirty = true;
        let mut immediate = false;
        let in_use = self.table.get(slot).is_some_and(|m| m.link == Some(id));
        if in_use {
            self.detach(slot, end == LinkEnd::Lost, link.dialled.clone());
            immediate = end == LinkEnd::Lost && now >= link.up_at + h;
        }
        match end {
            LinkEnd::Lost => self.redial(slot, immediate),
            LinkEnd::Closed(CloseCode::NameInUse) => {
                self.refused_name(slot, link.own_epoch, now);
                self.redial_late(slot, now);
            }
            LinkEnd::Closed(
                CloseCode::WrongCallsign
                | CloseCode::IdentityMismatch
                | CloseCode::ProtocolTooOld
                | CloseCode::Full
                | CloseCode::CertificateRevoked,
            ) => self.redial_late(slot, now),
            LinkEnd::Closed(_) => self.redial(slot, false),
        }
        if in_use {
            self.use_another_link(slot, now);
            self.changed(slot);
        }
    }

    fn take_link(&mut self, id: LinkId) -> Option<Box<Link>> {
        let link = self.links.remove(&id)?;
        self.contests = self.contests.saturating_sub(usize::from(link.contested.is_some()));
        Some(link)
    }

    /// Forgets a stream that we closed ourselves.
    pub(crate) fn drop_link(&mut self, id: LinkId) {
        let Some(link) = self.take_link(id) else { return };
        self.restagger = true;
        self.dials_dirty = true;
        if self.table.get(link.peer).is_some_and(|m| m.link == Some(id)) {
            self.detach(link.peer, false, None);
        }
    }

    fn detach(&mut self, slot: Slot, lost: bool, via: Option<PeerAddress>) {
        self.duties_dirty = true;
        if let Some(member) = self.table.get_mut(slot) {
            member.link = None;
            member.lost = lost;
            member.lost_via = via.map(Box::new);
            member.refused = None;
            member.replica_waits = false;
        }
    }

    fn use_another_link(&mut self, slot: Slot, now: Instant) {
        let other = self.links.iter().find(|(_, link)| link.peer == slot);
        match other.map(|(id, link)| (*id, link.contested.is_some())) {
            Some((id, true)) => self.win_contest(id, now),
            Some((id, false)) => {
                if let Some(member) = self.table.get_mut(slot) {
                    member.link = Some(id);
                    member.lost = false;
                }
                self.follow_duty(slot);
                self.ping(id, now);
            }
            None => {}
        }
    }

    /// A stream's deadline came: the end of a contest, silence, idleness, or the next beat.
    pub(crate) fn link_timeout(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        if link.contested.as_ref().is_some_and(|contest| contest.until <= now) {
            self.win_contest(id, now);
        } else if self.stale_at(link) <= now {
            self.give_up(id, now);
        } else if self.close_at(link).is_some_and(|at| at <= now) {
            let slot = link.peer;
            self.stats.links_unneeded += 1;
            self.disconnect(id, CloseCode::Unneeded);
            self.drop_link(id);
            self.changed(slot);
        } else {
            self.beat_if_due(id, now);
        }
        // Entered anew whatever happened.
        self.link_mut(id);
    }

    fn in_use(&self, link: &Link) -> bool {
        link.contested.is_none() && self.table.state(link.peer) != State::Left
    }

    /// When a stream is given up: where beats go, at the pace of beats; else at that of the pings.
    fn stale_at(&self, link: &Link) -> Instant {
        let h = self.config.beat_interval;
        let quiet = h * QUIET_BEATS;
        let stale = match link.dialled {
            _ if link.is_beating() => link.fresh_at + (h + SLACK_CAP).max(STALE_FLOOR),
            Some(_) => link.fresh_at + quiet + STALE_FLOOR,
            None => link.received_at + quiet + STALE_FLOOR * 2,
        };
        stale.max(self.links_settle_at())
    }

    /// When a stream that nobody needs is closed, by the side that dialled it.
    fn close_at(&self, link: &Link) -> Option<Instant> {
        let idle = link.dialled.is_some() && link.contested.is_none() && link.speaks_rings();
        link.unneeded_since
            .filter(|_| idle && !self.mesh && !self.has(PlantedBug::LinksPileUp))
            .map(|since| since + UNNEEDED_AFTER)
    }

    /// The next deadline of a link.
    pub(crate) fn link_deadline(&self, link: &Link) -> Instant {
        let stale = self.stale_at(link);
        match &link.contested {
            Some(contest) => contest.until,
            None if self.in_use(link) => {
                let beat = (link.sends_beats() || link.dialled.is_some()).then_some(link.next_beat);
                [beat, self.close_at(link)].into_iter().flatten().fold(stale, Instant::min)
            }
            None => stale,
        }
    }

    /// Nothing fresh for too long: closed and dialled anew, as a healed cut may leave a stream that waits for TCP.
    fn give_up(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let (slot, dialled) = (link.peer, link.dialled.clone());
        let in_use = self.table.get(slot).is_some_and(|m| m.link == Some(id));
        self.stats.links_stale += 1;
        self.disconnect(id, CloseCode::Stale);
        self.drop_link(id);
        if in_use {
            // It ended without a word of the peer's.
            self.detach(slot, true, dialled);
            self.redial(slot, true);
            self.use_another_link(slot, now);
            self.changed(slot);
        }
    }
}
