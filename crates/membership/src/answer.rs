//! What this member answers when a co-observer asks about a subject (rule 3).

use std::time::Duration;

use flagship_types::{Epoch, Instant, MemberName};

use crate::config::{ANSWER_MARGIN, MAX_PENDING_ANSWERS, PROOF_BEATS, QUERY_DEADLINE_CAP};
use crate::members::Member;
use crate::rings::Slot;
use crate::table::SELF;
use crate::{Evidence, LinkId, Membership, Message, PlantedBug, State, Verdict};

/// A co-observer waits for our answer.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    id: u64,
    pinged_at: Option<Instant>,
    pub(crate) at: Instant,
}

impl Membership {
    /// A co-observer asks what we know.
    pub(crate) fn queried(
        &mut self,
        from: LinkId,
        (id, subject, epoch): (u64, MemberName, Epoch),
        wait: Duration,
        now: Instant,
    ) {
        let Some(asker) = self.peer_slot(from) else { return };
        let slot = self.table.slot(&subject).filter(|slot| *slot != asker && *slot != SELF);
        let verdict = match slot {
            None => Some(Verdict::Abstain),
            Some(slot) if self.table.record(slot).epoch < epoch => Some(Verdict::Abstain),
            Some(slot) => self.verdict_now(slot, now).or_else(|| self.never_heard(slot, now)),
        };
        if let Some(verdict) = verdict {
            self.stats.answers += 1;
            return self.send(from, Message::Answer { id, subject, verdict });
        }
        let Some(slot) = slot else { return };
        let rtt = self.rtt_of(asker);
        let wait = wait.min(QUERY_DEADLINE_CAP).saturating_sub(rtt + ANSWER_MARGIN);
        let way = self.rtt_of(slot);
        let member = self.table.attend(slot, now);
        let link = member.link;
        // One ping serves all who ask within its round trip: more would wash the numbers of our beats out of the log.
        let under_way = member.pinged_for_others.filter(|at| now.since(*at) < way + ANSWER_MARGIN);
        let pinged_at = under_way.or(link.map(|_| now));
        let room = member.asked_by.len() < MAX_PENDING_ANSWERS;
        match member.asked_by.get_mut(&asker) {
            // Asked anew before the answer: that comes when it was due.
            Some(pending) => pending.id = id,
            None if room => {
                member.asked_by.insert(asker, PendingAnswer { id, pinged_at, at: now + wait });
            }
            None => return,
        }
        if let Some(link) = link.filter(|_| under_way.is_none()) {
            member.pinged_for_others = Some(now);
            self.ping(link, now);
        }
    }

    /// Who has never heard the subject cannot tell. On rings it begins to try, as it stands in for an observer, and its
    /// word counts once it had the time; in a mesh everybody had that time, and who never got through has a broken way.
    fn never_heard(&mut self, slot: Slot, now: Instant) -> Option<Verdict> {
        let h = self.config.beat_interval;
        let on_rings = !self.mesh;
        let probe = self.probe_time();
        let probes = self.table.details().filter(|(_, m)| m.probing_until.is_some()).count();
        let member = self.table.get(slot);
        if member.is_some_and(|m| m.heard_at.is_some()) {
            return None;
        }
        if self.has(PlantedBug::OthersAnswerMute) {
            return Some(Verdict::Mute(Evidence::Silence));
        }
        let resumed = self.resumed_at.is_some_and(|at| now < at + h * 2);
        if on_rings
            && !resumed
            && member.is_some_and(|m| (m.probing_until.is_some() || m.duty.observed) && m.late(h, now))
        {
            let evidence = member.map_or(Evidence::Silence, Member::seen_evidence);
            if let Some(member) = self.table.get_mut(slot) {
                member.mute = true;
            }
            return Some(Verdict::Mute(evidence));
        }
        if on_rings && probes < MAX_PENDING_ANSWERS {
            let member = self.table.attend(slot, now);
            if member.probing_until.is_none() && !member.duty.observed {
                let patience = h + member.freshness.slack();
                member.clock = member.clock.max((now + probe) - patience);
                member.not_late_before = now + probe;
                self.duties_dirty = true;
            }
            if let Some(member) = self.table.get_mut(slot) {
                member.probing_until = Some(now + h * PROOF_BEATS);
            }
        }
        Some(Verdict::Abstain)
    }

    /// What can be said of a member without asking it.
    fn verdict_now(&self, slot: Slot, now: Instant) -> Option<Verdict> {
        let member = self.table.get(slot);
        match self.table.state(slot) {
            State::Left | State::Away => Some(Verdict::Abstain),
            State::Down => Some(Verdict::Mute(member.and_then(|m| m.evidence).unwrap_or(Evidence::Silence))),
            State::Alive | State::Suspect => {
                let member = member?;
                let age = now.since(member.heard_at?);
                match member.exited() {
                    true => Some(Verdict::Mute(Evidence::Exit)),
                    false => (age <= member.freshness.fresh_enough()).then_some(Verdict::Heard(age)),
                }
            }
        }
    }

    /// Tells those that wait, if there is something to tell now.
    pub(crate) fn answer_if_known(&mut self, slot: Slot, now: Instant) {
        if self.table.get(slot).is_none_or(|m| m.asked_by.is_empty()) {
            return;
        }
        if let Some(verdict) = self.verdict_now(slot, now) {
            while let Some((asker, pending)) = self.table.get_mut(slot).and_then(|m| m.asked_by.pop_first()) {
                self.answer(asker, pending.id, slot, verdict);
            }
        }
    }

    /// Answers whose time has come: a ping without an answer is muteness, if there was time for one; else what was heard
    /// before counts, as long as the next beat is not late.
    pub(crate) fn answer_overdue(&mut self, slot: Slot, now: Instant) {
        let h = self.config.beat_interval;
        let resumed = self.resumed_at;
        loop {
            let rtt = self.rtt_of(slot);
            let Some(member) = self.table.get_mut(slot) else { return };
            let due = member.asked_by.iter().find(|(_, pending)| pending.at <= now);
            let Some(asker) = due.map(|(asker, _)| *asker) else { return };
            let Some(pending) = member.asked_by.remove(&asker) else { return };
            // Where beats come late an echo may as well: a stalled stream is no silence.
            let patience = rtt + ANSWER_MARGIN + member.freshness.unsteadiness();
            let time_to_answer = pending.pinged_at.is_some_and(|at| now.since(at) >= patience);
            // After a pause of ours nothing that is missing counts yet (rule 8).
            let resumed = resumed.is_some_and(|at| now < at + h + member.freshness.slack());
            let late = member.late(h, now);
            let verdict = match (member.heard_at, (time_to_answer || late) && (!resumed || member.exited())) {
                (_, true) => {
                    member.mute |= time_to_answer;
                    Verdict::Mute(member.seen_evidence())
                }
                (Some(heard), false) if !late => Verdict::Heard(now.since(heard)),
                _ => Verdict::Abstain,
            };
            self.answer(asker, pending.id, slot, verdict);
        }
    }

    fn answer(&mut self, asker: Slot, id: u64, subject: Slot, verdict: Verdict) {
        if let Some(link) = self.table.get(asker).and_then(|m| m.link) {
            self.stats.answers += 1;
            let subject = self.table.name(subject).clone();
            self.send(link, Message::Answer { id, subject, verdict });
        }
    }
}
