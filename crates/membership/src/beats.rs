//! Beats, pings and echoes: proofs of life and how old they can be (rule 2).
//!
//! An observer needs to know that a beat is young however long it was on its way. It sends an echo for every beat, the
//! subject's next beat tells how long ago that echo came, and the observer knows when it sent it. Where both sides
//! beat, the beats themselves carry the echoes.

use std::time::Duration;

use flagship_types::Instant;

use crate::config::{PROOF_BEATS, QUERY_EXTRA, QUIET_BEATS};
use crate::links::Link;
use crate::rings::Slot;
use crate::{Echo, Event, LinkId, Membership, Message, PlantedBug, State};

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
    /// Whether we beat on a stream: to our observers, where election wants to know how fresh we are, and to a build
    /// from before rings, whose members all observe each other.
    pub(crate) fn sends_beats(&self, link: &Link) -> bool {
        let duty = self.table.get(link.peer).map(|m| m.duty).unwrap_or_default();
        duty.observes || duty.required || !link.speaks_rings() || link.beats_until.is_some()
    }

    /// Whether beats go on a stream either way.
    pub(crate) fn is_beating(&self, link: &Link) -> bool {
        let duty = self.table.get(link.peer).map(|m| m.duty).unwrap_or_default();
        (duty.observed && !duty.released) || self.sends_beats(link)
    }

    /// Sends the beat or, on a quiet stream that we dialled, the ping whose time has come.
    pub(crate) fn beat_if_due(&mut self, id: LinkId, now: Instant) {
        let (origin, h) = (self.beat_origin, self.config.beat_interval);
        let view_hash = self.table.view_hash();
        let Some(link) = self.links.get(&id).filter(|l| l.contested.is_none() && l.next_beat <= now) else {
            return;
        };
        let (beats, dialled) = (self.sends_beats(link), link.dialled.is_some());
        let both_beat = !link.speaks_rings() || self.is_mutual(link);
        let Some(link) = self.link_mut(id) else { return };
        if !beats {
            link.next_beat = now + h * QUIET_BEATS;
            if dialled {
                self.ping(id, now);
            }
            return;
        }
        if link.beats_until.is_some_and(|until| until <= now) {
            link.beats_until = None;
        }
        let young = |at: &(u64, Instant)| now.since(at.1) <= h * PROOF_BEATS;
        let echo = |(seq, at): (u64, Instant)| Echo { seq, delay: now.since(at) };
        let received = link.received.filter(young);
        // One of the two is enough, and the younger proves more.
        let acked = link.acked.filter(young).filter(|a| !both_beat && received.is_none_or(|r| r.1 <= a.1));
        let received = received.filter(|_| acked.is_none());
        let beat = Message::Beat {
            seq: link.sent.stamp(now),
            echo: received.map(echo),
            acked: acked.map(echo),
            view_hash,
        };
        link.last_beat = now;
        link.next_beat = next_in_phase(origin, h, link.phase, now);
        self.stats.beats_sent += 1;
        self.send(id, beat);
    }

    /// Whether the peer beats as well, as far as we know.
    fn is_mutual(&self, link: &Link) -> bool {
        let duty = self.table.get(link.peer).map(|m| m.duty).unwrap_or_default();
        duty.required || (duty.observed && !duty.released && duty.observes)
    }

    /// Asks for an echo.
    pub(crate) fn ping(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.link_mut(id) else { return };
        let seq = link.sent.stamp(now);
        self.send(id, Message::Ping { seq });
    }

    /// Spreads the beats over the interval: over the observers in the order of rings, so that one of them is due soon
    /// after any moment, and over those that election wants. A link's next beat never comes later than one interval
    /// after its last.
    pub(crate) fn stagger(&mut self) {
        self.restagger = false;
        let (origin, h) = (self.beat_origin, self.config.beat_interval);
        let observers = self.table.observers(crate::table::SELF);
        let link_of = |slot: Slot| self.table.get(slot).and_then(|m| m.link);
        let first: Vec<LinkId> = observers.as_slice().iter().filter_map(|slot| link_of(*slot)).collect();
        let beating = |(id, link): (&LinkId, &Link)| {
            (self.sends_beats(link) && !observers.contains(link.peer)).then_some(*id)
        };
        let others: Vec<LinkId> = self.links.iter().filter_map(beating).collect();
        for group in [first, others] {
            let k = u32::try_from(group.len()).unwrap_or(u32::MAX).max(1);
            for (place, id) in (0..k).zip(group) {
                if let Some(link) = self.link_mut(id) {
                    link.phase = h * place / k;
                    link.next_beat = link.next_beat.min(next_in_phase(origin, h, link.phase, link.last_beat));
                }
            }
        }
    }

    /// A beat came.
    pub(crate) fn beat(
        &mut self,
        id: LinkId,
        (seq, echo, acked): (u64, Option<Echo>, Option<Echo>),
        view_hash: u32,
        now: Instant,
    ) {
        if !self.receive(id, seq, now) {
            return;
        }
        self.stats.beats_received += 1;
        let Some(link) = self.links.get(&id) else { return };
        // Where we beat too our beats carry the echo.
        let answers = link.speaks_rings() && !self.sends_beats(link);
        if answers {
            self.echo(id, seq, now);
        }
        if self.has(PlantedBug::ReceiptProvesLife) {
            self.prove(id, Some(now), Duration::ZERO, true, now);
        }
        match (echo, acked) {
            (None, None) => self.stats.beats_unproven += 1,
            (echo, acked) => {
                if let Some(echo) = echo {
                    self.echoed(id, echo, true, now);
                }
                if let Some(acked) = acked {
                    self.acked(id, acked, now);
                }
            }
        }
        self.compare_views(id, view_hash, now);
    }

    /// A ping came.
    pub(crate) fn pinged(&mut self, id: LinkId, seq: u64, now: Instant) {
        if self.receive(id, seq, now) {
            self.echo(id, seq, now);
        }
    }

    fn echo(&mut self, id: LinkId, seq: u64, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.echoed.note(seq, now);
        self.send(id, Message::Echo(Echo { seq, delay: Duration::ZERO }));
    }

    /// Whether the frame with this number is new on its stream; if so it is the one to echo.
    fn receive(&mut self, id: LinkId, seq: u64, now: Instant) -> bool {
        let Some(link) = self.link_mut(id) else { return false };
        link.received_at = now;
        if link.received.is_some_and(|(last, _)| seq <= last) {
            self.stats.frames_replayed += 1;
            return false;
        }
        link.received = Some((seq, now));
        true
    }

    /// One of our numbers came back. The frame that carries it was sent after ours had arrived and waited there: that
    /// bounds its age, however long it was on its way or whoever held it back.
    pub(crate) fn echoed(&mut self, id: LinkId, echo: Echo, beat: bool, now: Instant) {
        let Some(link) = self.link_mut(id) else { return };
        link.received_at = now;
        if link.acked.is_none_or(|(seq, _)| seq < echo.seq) && !beat {
            link.acked = Some((echo.seq, now));
        }
        let newest = link.sent.newest(now);
        let sent_at = link.sent.sent_at(echo.seq, now);
        let sent_at = if self.has(PlantedBug::EchoDelayIgnored) { newest } else { sent_at };
        self.prove(id, sent_at, echo.delay, beat, now);
    }

    /// One of our echoes is reported to have come: the beat that says so was sent so long after it.
    fn acked(&mut self, id: LinkId, acked: Echo, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let sent_at = link.echoed.sent_at(acked.seq, now);
        self.prove(id, sent_at, acked.delay, true, now);
    }

    fn prove(&mut self, id: LinkId, sent_at: Option<Instant>, delay: Duration, beat: bool, now: Instant) {
        let h = self.config.beat_interval;
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(sent_at) = sent_at.filter(|at| now.since(*at) <= h * PROOF_BEATS) else {
            self.stats.beats_unproven += 1;
            return;
        };
        let at = (sent_at + delay).min(now);
        if at <= link.fresh_at {
            return;
        }
        link.fresh_at = at;
        let (slot, epoch) = (link.peer, link.epoch);
        let Some(member) = self.table.get_mut(slot) else { return };
        member.freshness.round_trip(now.since(at));
        if epoch == self.table.record(slot).epoch {
            self.heard(slot, at, beat, now);
        }
        self.tell_known(slot, id);
    }

    /// Proof that a member lived at `at`.
    pub(crate) fn heard(&mut self, slot: Slot, at: Instant, beat: bool, now: Instant) {
        let h = self.config.beat_interval;
        let state = self.table.state(slot);
        let Some(member) = self.table.get_mut(slot) else { return };
        if let Some(last) = member.heard_at {
            if at <= last {
                return;
            }
            if beat && state == State::Alive && member.is_watched() && last >= member.watched_since {
                member.freshness.late_by(now.since(last).saturating_sub(h));
            }
        }
        member.heard_at = Some(at);
        member.clock = member.clock.max(at);
        member.duty.released &= !beat;
        member.calm(state, h, now);
        let waited_for = !member.asked_by.is_empty();
        let back = beat && state == State::Away && at > member.since;
        let name = self.table.name(slot).clone();
        self.event(Event::Heard { member: name, at });
        if waited_for {
            self.answer_if_known(slot, now);
        }
        if self.contests > 0 {
            self.refuse_contested(slot, at, now);
        }
        if back {
            self.become_state(slot, State::Alive, None, now);
        }
    }

    /// After a pause of this process: what the peers sent meanwhile waits in the sockets.
    pub(crate) fn restart_links(&mut self, now: Instant) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.link_mut(id) else { continue };
            link.fresh_at = link.fresh_at.max(now);
            link.received_at = link.received_at.max(now);
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
