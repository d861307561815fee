//! Beats, pings and echoes: proofs of life and how old they can be (rule 2).
//!
//! An observer needs to know that a beat is young however long it was on its way. It sends an echo for every beat, the
//! subject's next beat tells how long ago that echo came, and the observer knows when it sent it. Where both sides
//! beat, the beats themselves carry the echoes.

use std::time::Duration;

use flagship_types::{Epoch, Instant};

use crate::config::{PROOF_BEATS, QUERY_EXTRA, QUIET_BEATS};
use crate::links::Link;
use crate::rings::Slot;
use crate::{Echo, Event, LinkId, Membership, Message, PlantedBug, State};

/// The first point after `after` that lies at `phase` within a raster of `step` from `origin`.
fn next_in_phase(origin: Instant, step: Duration, phase: Duration, after: Instant) -> Instant {
    let first = origin + phase;
    let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
    let gone = after.as_nanos().saturating_sub(first.as_nanos());
    if after < first { first } else { after + Duration::from_nanos(step - gone % step) }
}

/// The frame that told us was sent after ours had arrived, and after that had waited there: then at the earliest,
/// however long it was on its way or whoever held it back. Ours must be young, as the wait is the peer's word.
fn proof(sent_at: Instant, waited: Duration, oldest: Instant, now: Instant) -> Option<Instant> {
    (sent_at >= oldest).then(|| (sent_at + waited).min(now))
}

impl Membership {
    /// Sends the beat or, on a quiet stream that we dialled, the ping whose time has come.
    pub(crate) fn beat_if_due(&mut self, id: LinkId, now: Instant) {
        let (origin, h) = (self.beat_origin, self.config.beat_interval);
        let view_hash = self.table.view_hash();
        let Some(link) = self.links.get(&id).filter(|l| l.contested.is_none() && l.next_beat <= now) else {
            return;
        };
        let (beats, dialled, both_beat) =
            (link.sends_beats(), link.dialled.is_some(), link.ours && link.theirs);
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
        let others = self.links.iter().filter(|(_, l)| l.sends_beats() && !observers.contains(l.peer));
        let others: Vec<LinkId> = others.map(|(id, _)| *id).collect();
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

    /// A beat came. A link is looked up once for it, as that is most of what a beat costs.
    pub(crate) fn beat(
        &mut self,
        id: LinkId,
        (seq, echo, acked): (u64, Option<Echo>, Option<Echo>),
        view_hash: u32,
        now: Instant,
    ) {
        let oldest = self.oldest_proof(now);
        let bugs = [PlantedBug::ReceiptProvesLife, PlantedBug::EchoDelayIgnored].map(|bug| self.has(bug));
        let Some(link) = self.receive(id, seq, now) else { return };
        // Where we beat too our beats carry the echo.
        let answers = !link.sends_beats();
        if answers {
            link.echoed.note(seq, now);
        }
        let from_echo = echo.and_then(|e| proof(link.sent.sent_at(e.seq, now)?, e.delay, oldest, now));
        let from_ack = acked.and_then(|e| proof(link.echoed.sent_at(e.seq, now)?, e.delay, oldest, now));
        let at = match bugs {
            [true, _] => Some(now),
            [_, true] => link.sent.newest(now),
            [false, false] => from_echo.max(from_ack),
        };
        link.fresh_at = link.fresh_at.max(at.unwrap_or(link.fresh_at));
        let (slot, epoch, differs) = (link.peer, link.epoch, link.differs_since.is_some());
        self.stats.beats_received += 1;
        if answers {
            self.send(id, Message::Echo(Echo { seq, delay: Duration::ZERO }));
        }
        self.prove(id, (slot, epoch), at, true, now);
        if differs || view_hash != self.table.view_hash() {
            self.compare_views(id, view_hash, now);
        }
    }

    /// A ping came.
    pub(crate) fn pinged(&mut self, id: LinkId, seq: u64, now: Instant) {
        if let Some(link) = self.receive(id, seq, now) {
            link.echoed.note(seq, now);
            self.send(id, Message::Echo(Echo { seq, delay: Duration::ZERO }));
        }
    }

    /// The stream, if its peer may speak and the frame with this number is new on it; then it is the one to echo.
    fn receive(&mut self, id: LinkId, seq: u64, now: Instant) -> Option<&mut Link> {
        let link = self.links.get_mut(&id).filter(|link| link.may_beat(self.standing));
        let Some(link) = link else {
            self.stats.frames_ignored += 1;
            return None;
        };
        link.received_at = now;
        if link.received.is_some_and(|(last, _)| seq <= last) {
            self.stats.frames_replayed += 1;
            return None;
        }
        link.received = Some((seq, now));
        Some(link)
    }

    /// One of our numbers came back at once.
    pub(crate) fn echoed(&mut self, id: LinkId, echo: Echo, now: Instant) {
        let (oldest, bug) = (self.oldest_proof(now), self.has(PlantedBug::EchoDelayIgnored));
        let link = self.links.get_mut(&id).filter(|link| link.may_beat(self.standing));
        let Some(link) = link else {
            self.stats.frames_ignored += 1;
            return;
        };
        link.received_at = now;
        if link.acked.is_none_or(|(seq, _)| seq < echo.seq) {
            link.acked = Some((echo.seq, now));
        }
        let sent_at = link.sent.sent_at(echo.seq, now);
        let at = if bug {
            link.sent.newest(now)
        } else {
            sent_at.and_then(|sent_at| proof(sent_at, echo.delay, oldest, now))
        };
        link.fresh_at = link.fresh_at.max(at.unwrap_or(link.fresh_at));
        let peer = (link.peer, link.epoch);
        self.prove(id, peer, at, false, now);
    }

    /// What was sent before this proves nothing.
    fn oldest_proof(&self, now: Instant) -> Instant {
        now - self.config.beat_interval * PROOF_BEATS
    }

    /// A stream's peer, in the epoch of its Hello, lived at that time.
    fn prove(
        &mut self,
        id: LinkId,
        (slot, epoch): (Slot, Epoch),
        at: Option<Instant>,
        beat: bool,
        now: Instant,
    ) {
        let Some(at) = at else {
            self.stats.beats_unproven += 1;
            return;
        };
        let current = self.heard((slot, epoch), at, Some(beat), now);
        if !current || self.table.state(slot) != State::Alive {
            self.tell_known(slot, id);
        }
    }

    /// Proof that a member lived at `at` in that epoch: by a beat, by an echo, or (`None`) by a handshake, which measures
    /// no way. Nothing, and false, if another epoch is known of it.
    pub(crate) fn heard(
        &mut self,
        (slot, epoch): (Slot, Epoch),
        at: Instant,
        by_beat: Option<bool>,
        now: Instant,
    ) -> bool {
        let h = self.config.beat_interval;
        let beat = by_beat == Some(true);
        let state = self.table.state(slot);
        let Some(member) = self.table.get_later(slot).filter(|member| member.epoch == epoch) else {
            return self.table.record(slot).epoch == epoch;
        };
        if let Some(last) = member.heard_at {
            if at <= last {
                return true;
            }
            if beat && member.is_watched() {
                // What is forgiven is not learnt from either: a start, or timers of our own that were late.
                if member.beaten && now >= member.not_late_before && state == State::Alive {
                    member.freshness.late_by(now.since(last).saturating_sub(h));
                }
                member.beaten = true;
            }
        }
        if by_beat.is_some() {
            member.freshness.round_trip(now.since(at));
        }
        self.heard_anybody_at = self.heard_anybody_at.max(at);
        member.heard_at = Some(at);
        member.clock = member.clock.max(at);
        let late_at = member.late_at(h);
        member.calm(state, now >= late_at);
        let quiet = member.asked_by.is_empty() && self.contests == 0;
        let plain = quiet && state == State::Alive && !member.armed.is_after(late_at);
        let back = beat && state == State::Away && at > member.since;
        let name = member.name.clone();
        self.event(Event::Heard { member: name, at });
        if plain {
            return true;
        }
        // Its deadline may come sooner than the one that was entered.
        self.table.get_mut(slot);
        self.answer_if_known(slot, now);
        self.refuse_contested(slot, at, now);
        if back {
            self.become_state(slot, State::Alive, None, now);
        }
        true
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
