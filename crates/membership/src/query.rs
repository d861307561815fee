//! A late beat, and what the co-observers say to it (rule 3).

use std::time::Duration;

use flagship_types::{Instant, MemberName};

use crate::config::{EXIT_DIALS, MAX_ASKED, PROOF_BEATS, QUERY_EXTRA};
use crate::members::Member;
use crate::rings::{OBSERVERS, Slot};
use crate::table::SELF;
use crate::{Event, Evidence, LinkId, Membership, Message, PlantedBug, State, Verdict};

/// A question to the co-observers that is under way.
#[derive(Debug)]
pub(crate) struct Query {
    id: u64,
    /// Whom, and on which ring. At most `MAX_ASKED`.
    asked: Vec<(Slot, usize)>,
    answers: Vec<(Slot, Verdict)>,
    /// Who was asked and did not answer in time.
    silent: Vec<Slot>,
    /// Who did not answer the query before: not asked again before others.
    passed_over: Vec<Slot>,
    /// How often the silent ones were replaced.
    waves: usize,
    /// The pause before this query; zero for the first.
    pause: Duration,
    pub(crate) deadline: Instant,
}

/// A query that came to no majority is asked again.
#[derive(Debug)]
pub(crate) struct Requery {
    pub(crate) at: Instant,
    pause: Duration,
    /// Who did not answer: others are asked in their places at once.
    silent: Vec<Slot>,
}

/// Counts of a query, the asker's own muteness included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    mute: usize,
    heard: usize,
    open: usize,
}

impl Count {
    /// A majority of those that answer. A tie is none.
    pub(crate) fn majority_mute(self) -> bool {
        self.mute * 2 > self.mute + self.heard
    }

    /// No answer that is still open can change it.
    fn decided(self) -> bool {
        self.open == 0 || self.mute > self.heard + self.open || self.heard >= self.mute + self.open
    }

    pub(crate) fn alone(self) -> bool {
        self.mute + self.heard == 1
    }
}

impl Query {
    pub(crate) fn count(&self) -> Count {
        let answered = |want: fn(&Verdict) -> bool| self.answers.iter().filter(|(_, v)| want(v)).count();
        Count {
            mute: 1 + answered(|v| matches!(v, Verdict::Mute(_))),
            heard: answered(|v| matches!(v, Verdict::Heard(_))),
            open: self.asked.iter().filter(|(slot, _)| !self.has_answered(*slot)).count(),
        }
    }

    pub(crate) fn forget(&mut self, slot: Slot) {
        self.asked.retain(|(asked, _)| *asked != slot);
        self.answers.retain(|(by, _)| *by != slot);
        self.silent.retain(|who| *who != slot);
        self.passed_over.retain(|who| *who != slot);
    }

    fn has_answered(&self, slot: Slot) -> bool {
        self.silent.contains(&slot) || self.told(slot)
    }

    fn told(&self, slot: Slot) -> bool {
        self.answers.iter().any(|(by, _)| *by == slot)
    }

    pub(crate) fn answer(&mut self, by: Slot, verdict: Verdict) {
        match self.answers.iter_mut().find(|(slot, _)| *slot == by) {
            Some((_, old)) => *old = verdict,
            None => self.answers.push((by, verdict)),
        }
    }

    fn saw_exit(&self) -> bool {
        self.answers.iter().any(|(_, v)| *v == Verdict::Mute(Evidence::Exit))
    }
}

impl Member {
    /// Whether it can be asked about others: not one that is silent itself.
    fn can_be_asked(&self, beat_interval: Duration, now: Instant) -> bool {
        self.link.is_some() && !(self.is_watched() && self.late(beat_interval, now))
    }

    /// Whether this observer itself does not hear the member.
    pub(crate) fn late(&self, beat_interval: Duration, now: Instant) -> bool {
        self.mute || self.exited() || now >= self.late_at(beat_interval)
    }

    /// Forgets what a proof of life makes void.
    pub(crate) fn calm(&mut self, state: State, late: bool) {
        self.lost = false;
        self.refused = None;
        self.replica_waits = false;
        self.mute = false;
        if late {
            return;
        }
        self.requery = None;
        if state == State::Alive {
            self.query = None;
        }
    }

    /// Nothing that was learnt before a pause of this process counts any more.
    pub(crate) fn restart_clocks(&mut self, beat_interval: Duration, now: Instant) {
        let patience = beat_interval + self.freshness.slack();
        self.not_late_before = now + patience;
        self.window_from = now;
        self.query = None;
        self.requery = None;
        self.mute = false;
        self.asked_by.clear();
        self.away_until = self.away_until.map(|until| until.max(now + patience));
    }
}

impl Membership {
    /// A beat is late, or the process is gone: asks the co-observers, and decides if there is nobody to wait for.
    pub(crate) fn ask(&mut self, slot: Slot, now: Instant) {
        if !self.may_suspect(slot) {
            return;
        }
        let Some(member) = self.table.get(slot).filter(|m| m.query.is_none()) else { return };
        let first = member.requery.is_none();
        self.open_query(slot, Duration::ZERO, now);
        if first {
            let name = self.table.name(slot).clone();
            self.event(Event::Querying(name));
        }
        if self.has(PlantedBug::OwnWordSuffices) {
            return self.suspect(slot, Evidence::Silence, false, now);
        }
        self.conclude(slot, false, now);
    }

    /// Whether a verdict of this member's is wanted: not where it has come to one.
    fn may_suspect(&self, slot: Slot) -> bool {
        match self.table.state(slot) {
            State::Alive => true,
            State::Suspect => self.table.get(slot).is_some_and(|m| !m.first_hand),
            State::Away | State::Down | State::Left => false,
        }
    }

    /// Pings the subject and asks its other observers; they have at least `time`.
    pub(crate) fn open_query(&mut self, slot: Slot, time: Duration, now: Instant) {
        let h = self.config.beat_interval;
        self.next_query += 1;
        let id = self.next_query;
        let recent = now - h * PROOF_BEATS;
        let Some(member) = self.table.get_mut(slot) else { return };
        // What co-observers said unasked is as good as an answer, while it is young.
        let accused = member.accusers.iter().filter(|(by, a)| **by != SELF && a.at >= recent);
        let answers = accused.map(|(by, a)| (*by, Verdict::Mute(a.statement.evidence))).collect();
        let silent = member.requery.take().map(|requery| (requery.silent, requery.pause));
        let (passed_over, pause) = silent.unwrap_or_default();
        let (asked, deadline) = (Vec::new(), now + time);
        let silent = Vec::new();
        let query = Query { id, asked, answers, passed_over, silent, waves: 0, pause, deadline };
        member.query = Some(Box::new(query));
        let link = member.link;
        self.stats.queries += 1;
        if let Some(link) = link {
            self.ping(link, now);
        }
        let observers = self.table.observers(slot);
        for (ring, observer) in observers.as_slice().iter().enumerate() {
            if *observer != SELF {
                self.ask_one(slot, ring, now);
            }
        }
    }

    /// Asks the next member on a ring that was not asked yet and can be. Who stands on that ring and has no link to us
    /// is passed over: it could not answer in time. False if there is nobody.
    fn ask_one(&mut self, slot: Slot, ring: usize, now: Instant) -> bool {
        let Some(query) = self.table.get(slot).and_then(|m| m.query.as_ref()) else { return false };
        if query.asked.len() >= MAX_ASKED {
            return false;
        }
        let h = self.config.beat_interval;
        let asked = |s: Slot| query.asked.iter().any(|(asked, _)| *asked == s);
        let can = |s: &Slot| {
            let member = self.table.get(*s).filter(|_| *s != SELF && !asked(*s));
            member.is_some_and(|m| m.can_be_asked(h, now))
        };
        // Who stayed silent before is asked again if there is nobody else.
        let fresh = |s: &Slot| can(s) && !query.passed_over.contains(s);
        let first = self.table.live_after(ring, slot, None).find(fresh);
        let next = first.or_else(|| self.table.live_after(ring, slot, None).find(can));
        let Some(next) = next else { return false };
        let Some(asked) = self.table.get(next) else { return false };
        let Some(link) = asked.link else { return false };
        let wait = self.rtt_of(next).max(self.rtt_of(slot)) * 2 + QUERY_EXTRA;
        let (subject, epoch) = (self.table.name(slot).clone(), self.table.record(slot).epoch);
        let Some(query) = self.table.get_mut(slot).and_then(|m| m.query.as_mut()) else { return false };
        query.asked.push((next, ring));
        query.deadline = query.deadline.max(now + wait);
        let deadline = query.deadline.since(now);
        let id = query.id;
        self.send(link, Message::Query { id, subject, epoch, deadline });
        true
    }

    pub(crate) fn rtt_of(&self, slot: Slot) -> Duration {
        let measured = self.table.get(slot).and_then(|m| m.freshness.measured_rtt());
        measured.unwrap_or_else(|| self.typical_rtt())
    }

    /// The next one on its ring takes the place of who cannot tell. Whether anybody was asked by that.
    fn replace(&mut self, slot: Slot, who: Slot, now: Instant) -> bool {
        let query = self.table.get(slot).and_then(|m| m.query.as_ref());
        let ring = query.and_then(|q| q.asked.iter().find(|(asked, _)| *asked == who)).map(|(_, ring)| *ring);
        ring.is_some_and(|ring| self.ask_one(slot, ring.min(OBSERVERS - 1), now))
    }

    /// The deadline of a query came: whoever stayed silent is replaced, by more each time, as many may be gone; then it is
    /// decided.
    pub(crate) fn query_over(&mut self, slot: Slot, now: Instant) {
        let Some(query) = self.table.get(slot).and_then(|m| m.query.as_ref()) else { return };
        let silent: Vec<Slot> =
            query.asked.iter().map(|(s, _)| *s).filter(|s| !query.has_answered(*s)).collect();
        let (undecided, times) = (query.count().alone(), query.waves + 1);
        if let Some(query) = self.table.get_mut(slot).and_then(|m| m.query.as_mut()) {
            query.silent.extend(&silent);
            query.waves = times;
        }
        let mut asked = false;
        for who in silent.into_iter().filter(|_| undecided) {
            for _ in 0..times {
                asked |= self.replace(slot, who, now);
            }
        }
        if !asked {
            self.conclude(slot, true, now);
        }
    }

    /// Decides a query, if it can be decided: `over` says that nobody is waited for any more.
    pub(crate) fn conclude(&mut self, slot: Slot, over: bool, now: Instant) {
        let (h, floor) = (self.config.beat_interval, self.config.silence_floor);
        if !self.may_suspect(slot) {
            return;
        }
        let Some(member) = self.table.get(slot) else { return };
        let Some(query) = member.query.as_ref() else { return };
        let count = query.count();
        let (alone, decided) = (count.alone(), count.decided());
        let confirmed_exit =
            member.lost && member.refused.as_deref().is_some_and(|(_, times)| *times >= EXIT_DIALS);
        // Alone: nobody else can tell. An exit that was seen twice is not waited with (docs/decisions/0001).
        if alone && count.open == 0 && confirmed_exit {
            return self.suspect(slot, Evidence::Exit, true, now);
        }
        if !over && (alone || !decided) {
            return;
        }
        let mut alone_at = member.alone_at(h, floor);
        if member.heard_at.is_none() && !self.mesh {
            // The last survivor of many has waited for all of them at once.
            alone_at = alone_at.min(member.not_late_before.max(self.heard_anybody_at + h + floor));
        }
        let agreed = match alone {
            true if self.has(PlantedBug::SilenceFloorIgnored) => true,
            true => confirmed_exit || (now >= alone_at && !self.somebody_could_tell(slot, now)),
            false => count.majority_mute(),
        };
        if agreed {
            let evidence = if query.saw_exit() { Evidence::Exit } else { member.seen_evidence() };
            return self.suspect(slot, evidence, alone, now);
        }
        let slack = member.freshness.slack();
        // Where nobody could tell somebody may soon; where others hear it there is time.
        let longest = if alone { h / 4 } else { h };
        let pause = (query.pause * 2).max(slack).min(longest);
        let mut at = now + pause;
        if alone && alone_at > now {
            at = at.min(alone_at);
        }
        if let Some(member) = self.table.get_mut(slot) {
            let query = member.query.take();
            let silent = query.map(|q| [q.silent, q.passed_over].concat()).unwrap_or_default();
            member.requery = Some(Box::new(Requery { at, pause, silent }));
        }
    }

    /// Whether somebody beats that could tell and did not: it did not answer yet, or its link has just been lost.
    fn somebody_could_tell(&self, subject: Slot, now: Instant) -> bool {
        let h = self.config.beat_interval;
        let Some(query) = self.table.get(subject).and_then(|m| m.query.as_ref()) else { return false };
        let owes = |slot: Slot, member: &Member| {
            member.link.is_none() || query.silent.contains(&slot) || query.passed_over.contains(&slot)
        };
        self.table.details().any(|(slot, m)| {
            slot != subject && m.is_watched() && m.heard_lately(h, now) && owes(slot, m) && !query.told(slot)
        })
    }

    /// The member's address refused a connection: its host lives, and no process listens.
    pub(crate) fn refused_dial(&mut self, slot: Slot, now: Instant) {
        self.answer_if_known(slot, now);
        let alone = !self.has_co_observer(slot);
        let may = self.may_suspect(slot);
        let Some(member) = self.table.get(slot).filter(|m| may && m.exited() && m.duty.observed) else {
            return;
        };
        let times = member.refused.as_deref().map_or(0, |(_, times)| *times);
        if member.query.is_some() {
            self.conclude(slot, false, now);
        } else if times == EXIT_DIALS || (times < EXIT_DIALS && !alone) {
            self.ask(slot, now);
        }
    }

    fn has_co_observer(&self, subject: Slot) -> bool {
        self.table.details().any(|(slot, m)| slot != subject && m.link.is_some() && self.table.is_live(slot))
    }

    /// A co-observer answered our query.
    pub(crate) fn answered(
        &mut self,
        from: LinkId,
        id: u64,
        subject: &MemberName,
        verdict: Verdict,
        now: Instant,
    ) {
        let h = self.config.beat_interval;
        let (Some(by), Some(slot)) = (self.peer_slot(from), self.table.slot(subject)) else { return };
        let Some(member) = self.table.get_mut(slot) else { return };
        let late = h + member.freshness.slack();
        let asked = |q: &&mut Query| q.id == id && q.asked.iter().any(|(slot, _)| *slot == by);
        let Some(query) = member.query.as_deref_mut().filter(asked) else { return };
        let vouched = match verdict {
            // An old hearing is none.
            Verdict::Heard(age) if age > late => {
                query.answer(by, Verdict::Mute(Evidence::Silence));
                None
            }
            verdict => {
                query.answer(by, verdict);
                if let Verdict::Heard(age) = verdict { Some(now - age) } else { None }
            }
        };
        if let Some(at) = vouched {
            self.event(Event::Vouched { member: subject.clone(), at });
        }
        if verdict == Verdict::Abstain {
            self.replace(slot, by, now);
        }
        self.conclude(slot, false, now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_majority_of_those_that_answer_decides_and_a_tie_does_not() {
        for mute in 1..8 {
            for heard in 0..8 {
                let count = Count { mute, heard, open: 0 };
                assert_eq!(count.majority_mute(), mute > heard);
                assert!(count.decided());
            }
        }
    }

    #[test]
    fn a_query_is_decided_when_no_open_answer_can_turn_it() {
        for mute in 1..6 {
            for heard in 0..6 {
                for open in 0..6 {
                    let count = Count { mute, heard, open };
                    let outcomes: BTreeSet<bool> = (0..=open)
                        .map(|n| Count { mute: mute + n, heard: heard + open - n, open: 0 }.majority_mute())
                        .collect();
                    assert_eq!(count.decided(), outcomes.len() == 1, "{count:?}");
                }
            }
        }
    }
}
