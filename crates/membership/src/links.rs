//! Streams to peers: which one stays, beats and their echoes, and when a silent one is given up.

use std::time::Duration;

use flagship_types::{Epoch, Instant, MemberName, PeerAddress};

use crate::config::{MAX_LINKS_PER_PEER, PROOF_BEATS, QUERY_EXTRA, STALE_FLOOR};
use crate::contest::Contest;
use crate::freshness::SentLog;
use crate::{CloseCode, Echo, Event, LinkEnd, LinkId, Membership, Message, PeerHello, Standing, State};

/// A stream to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: MemberName,
    /// The epoch of the process at its other end.
    pub(crate) epoch: Epoch,
    /// Our epoch when it came up.
    pub(crate) own_epoch: Epoch,
    pub(crate) dialled: Option<PeerAddress>,
    pub(crate) up_at: Instant,
    /// The newest proof on this stream.
    fresh_at: Instant,
    sent: SentLog,
    /// The highest sequence number received, and when.
    received: Option<(u64, Instant)>,
    last_beat: Instant,
    next_beat: Instant,
    /// This link's place among all links within one beat interval.
    phase: Duration,
    /// Another process of that name seems to be heard: this one waits until then for the other's proof of life.
    pub(crate) contested: Option<Contest>,
}

impl Link {
    pub(crate) fn new(
        hello: &PeerHello,
        own_epoch: Epoch,
        dialled: Option<PeerAddress>,
        now: Instant,
    ) -> Self {
        Self {
            peer: hello.member.clone(),
            epoch: hello.epoch,
            own_epoch,
            dialled,
            up_at: now,
            fresh_at: now,
            sent: SentLog::new(),
            received: None,
            last_beat: now,
            next_beat: now,
            phase: Duration::ZERO,
            contested: None,
        }
    }
}

/// The first point after `after` that lies at `phase` within a raster of `step` from `origin`.
fn next_in_phase(origin: Instant, step: Duration, phase: Duration, after: Instant) -> Instant {
    let first = origin + phase;
    let step = step.max(Duration::from_nanos(1));
    let steps = after.since(first).as_nanos() / step.as_nanos();
    let nanos = u64::try_from((steps + 1) * step.as_nanos()).unwrap_or(u64::MAX);
    // `since` is zero before the first point, which is then the next.
    if after < first { first } else { first + Duration::from_nanos(nanos) }
}

impl Membership {
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
            self.dials.connected(address, &hello.member);
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
        let name = &hello.member;
        match self.members.get(name).map(|m| (m.epoch, m.link)) {
            None => self.admit(hello, now),
            Some((epoch, Some(old))) if hello.epoch != epoch => {
                return self.contest(id, old, hello, dialled, now);
            }
            Some((epoch, None)) if hello.epoch > epoch => self.enter_epoch(name, hello.epoch, now),
            Some((_, Some(old))) => {
                if !self.keep_new(old, &dialled, name, now) {
                    self.stats.links_duplicate += 1;
                    return self.disconnect(id, CloseCode::Duplicate);
                }
            }
            Some((_, None)) => {}
        }
        self.links.insert(id, Link::new(hello, self.epoch, dialled, now));
        self.adopt(id, hello.address.as_ref(), now);
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
        let known = self.members.get(&hello.member).is_some_and(super::members::Member::counts);
        if !known && self.is_full() {
            self.stats.refused_full += 1;
            return Some(CloseCode::Full);
        }
        None
    }

    /// Two streams to the same process. Both sides must come to the same result: the one dialled by the smaller
    /// name stays, unless the old one is silent. If both were dialled by the same side, that side decides.
    fn keep_new(
        &mut self,
        old_id: LinkId,
        dialled: &Option<PeerAddress>,
        name: &MemberName,
        now: Instant,
    ) -> bool {
        let h = self.config.beat_interval;
        let Some(old) = self.links.get(&old_id) else { return true };
        let slack = self.members.get(name).map_or(Duration::ZERO, |m| m.freshness.slack(h));
        let silent = now >= old.fresh_at + h + slack;
        let (old_ours, new_ours) = (old.dialled.is_some(), dialled.is_some());
        if !silent && old_ours == new_ours {
            if new_ours {
                return false;
            }
            // The dialler closes one of them; until then the newer is used and the older kept.
            let spare = self.links.iter().find(|(id, link)| link.peer == *name && **id != old_id);
            let spare = spare.map(|(id, _)| *id);
            if let Some(spare) = spare.filter(|_| self.links_of(name) >= MAX_LINKS_PER_PEER) {
                self.stats.links_duplicate += 1;
                self.disconnect(spare, CloseCode::Duplicate);
                self.drop_link(spare);
            }
            return true;
        }
        let new_by_smaller = new_ours == (self.config.name < *name);
        if silent || new_by_smaller {
            self.stats.links_duplicate += 1;
            self.disconnect(old_id, CloseCode::Duplicate);
            self.drop_link(old_id);
            return true;
        }
        false
    }

    pub(crate) fn links_of(&self, name: &MemberName) -> usize {
        self.links.values().filter(|link| link.peer == *name).count()
    }

    /// Makes a stream the one in use, and says on it who we are.
    pub(crate) fn adopt(&mut self, id: LinkId, announced: Option<&PeerAddress>, now: Instant) {
        let h = self.config.beat_interval;
        let Some(link) = self.links.get(&id) else { return };
        let (name, epoch, dialled) = (link.peer.clone(), link.epoch, link.dialled.clone());
        let Some(member) = self.members.get_mut(&name) else { return };
        member.link = Some(id);
        member.freshness.begin(h);
        let address = announced.cloned().or_else(|| member.address.clone()).or(dialled);
        let news = address.filter(|address| member.address.as_ref() != Some(address));
        self.refusers.remove(&name);
        self.dials.forget_hint(&name);
        self.dials_dirty = true;
        self.restagger = true;
        if epoch == member.epoch {
            // The handshake was a round trip: its peer lives.
            self.heard(&name, now, false, now);
        }
        let record = self.own_record();
        self.send(id, record);
        let others: Vec<_> = self
            .members
            .iter()
            .filter(|(other, m)| **other != name && m.counts())
            .filter_map(|(other, m)| m.address.clone().map(|address| (other.clone(), address)))
            .collect();
        if !others.is_empty() {
            self.send(id, Message::Addresses(others));
        }
        if let Some(address) = news {
            self.set_address(&name, &address);
        }
        self.tell_known(&name, id);
        self.ping(id, now);
        self.changed(&name);
    }

    /// Tells a peer what is held against it, so that it can go on from there (rule 9).
    pub(crate) fn tell_known(&mut self, name: &MemberName, id: LinkId) {
        let (Some(member), Some(link)) = (self.members.get(name), self.links.get(&id)) else { return };
        let held = matches!(member.state, State::Suspect | State::Down | State::Left);
        if held || link.epoch < member.epoch {
            let (epoch, incarnation, state) = (member.epoch, member.incarnation, member.state);
            self.send(id, Message::Known { epoch, incarnation, state });
        }
    }

    /// A stream ended.
    pub(crate) fn link_down(&mut self, id: LinkId, end: LinkEnd, now: Instant) {
        let Some(link) = self.links.remove(&id) else { return };
        let h = self.config.beat_interval;
        let name = link.peer.clone();
        self.restagger = true;
        self.dials_dirty = true;
        let mut immediate = false;
        let in_use = self.members.get(&name).is_some_and(|m| m.link == Some(id));
        if in_use {
            self.detach(&name, end == LinkEnd::Lost, link.dialled.clone());
            immediate = end == LinkEnd::Lost && now >= link.up_at + h;
        }
        match end {
            LinkEnd::Lost => self.redial(&name, immediate),
            LinkEnd::Closed(CloseCode::NameInUse) => {
                self.refused_name(name.clone(), link.own_epoch, now);
                self.redial_late(&name, now);
            }
            LinkEnd::Closed(
                CloseCode::WrongCallsign
                | CloseCode::IdentityMismatch
                | CloseCode::ProtocolTooOld
                | CloseCode::Full
                | CloseCode::CertificateRevoked,
            ) => self.redial_late(&name, now),
            LinkEnd::Closed(_) => self.redial(&name, false),
        }
        if in_use {
            self.use_another_link(&name, now);
            self.changed(&name);
        }
    }

    /// Forgets a stream that we closed ourselves.
    pub(crate) fn drop_link(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        self.restagger = true;
        self.dials_dirty = true;
        if self.members.get(&link.peer).is_some_and(|m| m.link == Some(id)) {
            self.detach(&link.peer, false, None);
        }
    }

    fn detach(&mut self, name: &MemberName, lost: bool, via: Option<PeerAddress>) {
        if let Some(member) = self.members.get_mut(name) {
            member.link = None;
            member.lost = lost;
            member.lost_via = via;
            member.refused = None;
            member.replica_waits = false;
        }
    }

    fn use_another_link(&mut self, name: &MemberName, now: Instant) {
        let other = self.links.iter().find(|(_, link)| link.peer == *name);
        match other.map(|(id, link)| (*id, link.contested.is_some())) {
            Some((id, true)) => self.win_contest(id, now),
            Some((id, false)) => {
                if let Some(member) = self.members.get_mut(name) {
                    member.link = Some(id);
                    member.lost = false;
                }
                self.ping(id, now);
            }
            None => {}
        }
    }

    /// Sends a beat on each link where one is due, closes silent ones, decides contests.
    pub(crate) fn link_timeouts(&mut self, now: Instant) {
        // Taken and given back, so that a beat allocates nothing.
        let mut due = std::mem::take(&mut self.due);
        due.clear();
        due.extend(self.links.iter().filter(|(_, link)| self.link_timeout(link) <= now).map(|(id, _)| *id));
        for id in due.drain(..) {
            let Some(link) = self.links.get(&id) else { continue };
            if link.contested.as_ref().is_some_and(|contest| contest.until <= now) {
                self.win_contest(id, now);
            } else if self.stale_at(link) <= now {
                self.give_up(id, now);
            } else {
                self.beat_if_due(id, now);
            }
        }
        self.due = due;
    }

    fn in_use(&self, link: &Link) -> bool {
        link.contested.is_none() && self.members.get(&link.peer).is_some_and(|m| m.state != State::Left)
    }

    fn stale_at(&self, link: &Link) -> Instant {
        let h = self.config.beat_interval;
        let slack = self.members.get(&link.peer).map_or(Duration::ZERO, |m| m.freshness.slack(h));
        link.fresh_at + (h + slack).max(STALE_FLOOR)
    }

    /// The next deadline of a link.
    pub(crate) fn link_timeout(&self, link: &Link) -> Instant {
        match &link.contested {
            Some(contest) => contest.until,
            None if self.in_use(link) => link.next_beat.min(self.stale_at(link)),
            None => self.stale_at(link),
        }
    }

    /// Nothing fresh for too long: closed and dialled anew, as a healed cut may leave a stream that waits for TCP.
    fn give_up(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let (name, dialled) = (link.peer.clone(), link.dialled.clone());
        let in_use = self.members.get(&name).is_some_and(|m| m.link == Some(id));
        self.stats.links_stale += 1;
        self.disconnect(id, CloseCode::Stale);
        self.drop_link(id);
        if in_use {
            // It ended without a word of the peer's.
            self.detach(&name, true, dialled);
            self.redial(&name, true);
            self.use_another_link(&name, now);
            self.changed(&name);
        }
    }

    fn beat_if_due(&mut self, id: LinkId, now: Instant) {
        let (origin, h) = (self.beat_origin, self.config.beat_interval);
        let view_hash = self.view_hash;
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.contested.is_some() || link.next_beat > now {
            return;
        }
        let seq = link.sent.stamp(now);
        let echo = link.received.map(|(seq, at)| Echo { seq, delay: now.since(at) });
        link.last_beat = now;
        link.next_beat = next_in_phase(origin, h, link.phase, now);
        self.stats.beats_sent += 1;
        self.send(id, Message::Beat { seq, echo, acked: None, view_hash });
    }

    pub(crate) fn ping(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let seq = link.sent.stamp(now);
        self.send(id, Message::Ping { seq });
    }

    /// Spreads the links' beats over the interval, in the order of names. A link's next beat never comes later
    /// than one interval after its last.
    pub(crate) fn stagger(&mut self) {
        self.restagger = false;
        let (origin, h) = (self.beat_origin, self.config.beat_interval);
        let links = self.members.values().filter_map(|m| m.link);
        let links: Vec<LinkId> = links.collect();
        let k = u32::try_from(links.len()).unwrap_or(u32::MAX).max(1);
        for (place, id) in (0..k).zip(links) {
            if let Some(link) = self.links.get_mut(&id) {
                link.phase = h * place / k;
                link.next_beat = next_in_phase(origin, h, link.phase, link.last_beat);
            }
        }
    }

    /// Whether the frame with this number is new on its stream; if so it is the one to echo.
    pub(crate) fn receive(&mut self, id: LinkId, seq: u64, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        if link.received.is_some_and(|(last, _)| seq <= last) {
            self.stats.frames_replayed += 1;
            return false;
        }
        link.received = Some((seq, now));
        true
    }

    /// An echo came back. The frame that carries it was sent after our frame had arrived and waited there: that
    /// bounds its age, however long it was on its way or whoever held it back.
    pub(crate) fn echoed(&mut self, id: LinkId, echo: Echo, beat: bool, now: Instant) {
        let h = self.config.beat_interval;
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(sent_at) = link.sent.sent_at(echo.seq).filter(|at| now.since(*at) <= h * PROOF_BEATS) else {
            self.stats.beats_unproven += 1;
            return;
        };
        let at = (sent_at + echo.delay).min(now);
        if at <= link.fresh_at {
            return;
        }
        link.fresh_at = at;
        let (name, epoch) = (link.peer.clone(), link.epoch);
        let Some(member) = self.members.get_mut(&name) else { return };
        member.freshness.round_trip(now.since(at));
        if epoch == member.epoch {
            self.heard(&name, at, beat, now);
        }
        self.tell_known(&name, id);
    }

    /// Proof that a member lived at `at`.
    fn heard(&mut self, name: &MemberName, at: Instant, beat: bool, now: Instant) {
        let h = self.config.beat_interval;
        let Some(member) = self.members.get_mut(name) else { return };
        if let Some(last) = member.heard_at {
            if at <= last {
                return;
            }
            if beat && member.state == State::Alive {
                member.freshness.late_by(now.since(last).saturating_sub(h));
            }
        }
        member.heard_at = Some(at);
        member.clock = member.clock.max(at);
        member.calm(h, now);
        let back = beat && member.state == State::Away && at > member.since;
        self.event(Event::Heard { member: name.clone(), at });
        self.answer_if_known(name, now);
        self.refuse_contested(name, at, now);
        if back {
            self.become_state(name, State::Alive, None, now);
        }
    }

    /// After a pause of this process: what the peers sent meanwhile waits in the sockets.
    pub(crate) fn restart_links(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            link.fresh_at = link.fresh_at.max(now);
            link.next_beat = link.next_beat.max(now);
            if let Some(contest) = &mut link.contested {
                contest.until = contest.until.max(now + QUERY_EXTRA);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_stay_in_phase() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let (step, phase) = (Duration::from_secs(1), Duration::from_millis(500));
        let table = [(0, 600), (599, 600), (600, 1_600), (601, 1_600), (1_599, 1_600), (9_700, 10_600)];
        for (after, next) in table {
            assert_eq!(next_in_phase(at(100), step, phase, at(after)), at(next), "{after}");
        }
    }
}
