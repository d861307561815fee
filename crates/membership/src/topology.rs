//! What this member has to do with each other one: whom it observes, who observes it, and which links it keeps
//! (rule 1).

use std::collections::BTreeMap;
use std::time::Duration;

use flagship_types::{Instant, PeerAddress};

use crate::config::{
    MAX_DEAD_LINKS, MAX_REQUIRED, MAX_STAND_INS, MESH_MAX, MESH_MIN, PROBE_FLOOR, RELEASE_BEATS, RTT_PRIOR,
};
use crate::members::Duty;
use crate::rings::Slot;
use crate::table::SELF;
use crate::{Membership, Message, Standing, State};

impl Membership {
    /// Works out the duties anew and acts on what changed. Depends on the view alone, so that all who believe the same
    /// come to the same.
    pub(crate) fn refresh_duties(&mut self, now: Instant) {
        self.duties_dirty = false;
        let counted = self.table.counted();
        self.mesh = if self.mesh { counted <= MESH_MAX } else { counted < MESH_MIN };
        let mut wanted =
            if self.standing == Standing::Active { self.wanted_duties() } else { BTreeMap::new() };
        let known: Vec<Slot> = self.table.details().map(|(slot, _)| slot).collect();
        for slot in known {
            let new = wanted.remove(&slot).unwrap_or_default();
            self.change_duty(slot, new, now);
        }
        for (slot, new) in wanted {
            self.table.attend(slot, now);
            self.change_duty(slot, new, now);
        }
        self.spare_new_subjects(now);
        self.dials_dirty = true;
        self.restagger = true;
        self.reweigh_hearsay(now);
    }

    fn wanted_duties(&self) -> BTreeMap<Slot, Duty> {
        let mut duties: BTreeMap<Slot, Duty> = BTreeMap::new();
        for observer in self.table.observers(SELF).as_slice() {
            let duty = duties.entry(*observer).or_default();
            (duty.observes, duty.linked) = (true, true);
        }
        // Without anybody who is Suspect the stand-ins of a member are its observers: not worked out twice.
        let doubts = self.table.details().any(|(slot, _)| self.table.state(slot) == State::Suspect);
        let (mut dead, mut stand_ins) = (0, 0);
        for subject in self.table.candidates() {
            let state = self.table.state(subject);
            if subject == SELF || state == State::Left {
                continue;
            }
            // Observers that are Suspect may be gone with the subject: whoever comes after them begins to watch. Else
            // members that died together could stay each other's observers for ever.
            let mut observers = self.table.observers(subject);
            if doubts && !observers.contains(SELF) && stand_ins < MAX_STAND_INS {
                observers = self.table.stand_ins(subject);
                stand_ins += usize::from(observers.contains(SELF));
            }
            if !observers.contains(SELF) {
                continue;
            }
            if state == State::Down {
                // Kept in sight for healing, as far as there is room.
                dead += 1;
                if dead <= MAX_DEAD_LINKS {
                    duties.entry(subject).or_default().linked = true;
                }
                continue;
            }
            let duty = duties.entry(subject).or_default();
            (duty.observed, duty.linked) = (true, true);
            for fellow in observers.as_slice().iter().filter(|fellow| **fellow != SELF) {
                duties.entry(*fellow).or_default().linked = true;
            }
        }
        for slot in self.required.iter().filter_map(|name| self.table.slot(name)).take(MAX_REQUIRED) {
            if slot != SELF && self.table.state(slot) != State::Left {
                let duty = duties.entry(slot).or_default();
                (duty.required, duty.linked) = (true, true);
            }
        }
        if self.mesh {
            for slot in self.table.slots().filter(|slot| *slot != SELF) {
                if self.table.state(slot) != State::Left {
                    duties.entry(slot).or_default().linked = true;
                }
            }
        }
        duties
    }

    fn change_duty(&mut self, slot: Slot, mut new: Duty, now: Instant) {
        let h = self.config.beat_interval;
        // Medians over all peers: worked out for the few whose duty changes, not for all at every change of the view.
        let begins = new.observed && self.table.get(slot).is_some_and(|m| !m.duty.observed);
        let probe = if begins { self.probe_time() } else { Duration::ZERO };
        let on_rings = !self.mesh;
        let resumed = self.resumed_at;
        let Some(member) = self.table.get_mut(slot) else { return };
        let old = member.duty;
        new.linked |= member.probing_until.is_some_and(|until| until > now);
        member.duty = new;
        let link = member.link;
        if begins {
            if on_rings && member.heard_at.is_none() {
                // Time to reach it, then its silence counts.
                let patience = h + member.freshness.slack();
                member.clock = (now + probe) - patience;
            }
            member.observed_since = now;
            let after_pause = resumed.map_or(now, |at| at + h + member.freshness.slack());
            member.not_late_before = member.not_late_before.max(now + probe).max(after_pause);
            member.beaten = false;
            if let Some(link) = link {
                self.ping(link, now);
            }
        }
        if old.observed && !new.observed {
            let state = self.table.state(slot);
            if let Some(member) = self.table.get_mut(slot).filter(|_| state == State::Alive) {
                member.query = None;
                member.requery = None;
            }
        }
        self.follow_duty(slot);
        if let Some(id) = link {
            self.change_link_duty(id, old, new, now);
        }
        self.dials_dirty |= old.linked != new.linked;
        let idle = self.table.get(slot).is_some_and(crate::members::Member::is_idle);
        if idle && self.table.state(slot) == State::Alive {
            self.table.disregard(slot);
        }
    }

    /// What a duty means for the link in use, noted with it: asked at every beat.
    pub(crate) fn follow_duty(&mut self, slot: Slot) {
        let Some(member) = self.table.get(slot) else { return };
        let (duty, watched) = (member.duty, member.is_watched());
        let Some(link) = member.link.and_then(|id| self.link_mut(id)) else { return };
        link.ours = duty.observes || duty.required || !link.speaks_rings();
        link.theirs = watched || duty.required || !link.speaks_rings();
    }

    fn change_link_duty(&mut self, id: crate::LinkId, old: Duty, new: Duty, now: Instant) {
        let h = self.config.beat_interval;
        let (beats, beat) = (new.observes || new.required, old.observes || old.required);
        let slack = if beat && !beats { self.typical_slack() } else { Duration::ZERO };
        let Some(link) = self.link_mut(id) else { return };
        let speaks_rings = link.speaks_rings();
        link.unneeded_since = if new.linked { None } else { link.unneeded_since.or(Some(now)) };
        let (active, was_active) = (beats || new.observed, beat || old.observed);
        if active && !was_active {
            // It was quiet; from now on silence means something.
            link.fresh_at = link.fresh_at.max(now);
        }
        if beats && !beat {
            link.next_beat = now;
            link.beats_until = None;
        }
        if beat && !beats {
            link.beats_until = Some(now + (slack * 2).max(h));
        }
        if old.observes && !new.observes && speaks_rings {
            self.send(id, Message::Unobserve);
        }
    }

    /// How long a new observer tries to reach a subject before it counts as mute.
    pub(crate) fn probe_time(&self) -> Duration {
        (self.typical_rtt() * 8).max(self.typical_slack() * 2).max(PROBE_FLOOR)
    }

    /// The subject has another observer in our place and stops beating. Our view will follow; if it does not, it is the
    /// subject that was wrong, or that is gone by now, and its silence counts.
    pub(crate) fn released(&mut self, slot: Slot, now: Instant) {
        let patience = self.config.beat_interval * RELEASE_BEATS;
        let state = self.table.state(slot);
        let Some(member) = self.table.get_mut(slot) else { return };
        member.not_late_before = member.not_late_before.max(now + patience);
        // If it beats here again later, the gap says nothing of the way.
        member.beaten = false;
        if state == State::Alive {
            member.query = None;
            member.requery = None;
        }
        if let Some(link) = member.link.and_then(|id| self.link_mut(id)) {
            link.fresh_at = link.fresh_at.max(now);
        }
    }

    /// Round trip to the middle one of the peers: what is assumed of ways that were not measured.
    pub(crate) fn typical_rtt(&self) -> Duration {
        self.median(|m| m.freshness.measured_rtt()).unwrap_or(RTT_PRIOR)
    }

    /// Slack of the middle one of the observed members.
    pub(crate) fn typical_slack(&self) -> Duration {
        let h = self.config.beat_interval;
        self.median(|m| m.duty.observed.then(|| m.freshness.slack())).unwrap_or(h / 10)
    }

    /// The worst lateness of the middle one of the observed members.
    pub(crate) fn typical_lateness(&self) -> Duration {
        self.median(|m| m.duty.observed.then(|| m.freshness.worst())).unwrap_or_default()
    }

    fn median(&self, value: impl Fn(&crate::members::Member) -> Option<Duration>) -> Option<Duration> {
        let mut values: Vec<Duration> = self.table.details().filter_map(|(_, m)| value(m)).collect();
        let middle = values.len() / 2;
        (!values.is_empty()).then(|| *values.select_nth_unstable(middle).1)
    }

    /// Where a member is dialled.
    pub(crate) fn address_of(&self, slot: Slot) -> Option<&PeerAddress> {
        let noted = self.table.get(slot).and_then(|m| m.address.as_ref());
        noted.or(self.table.record(slot).metadata.address.as_ref())
    }
}
