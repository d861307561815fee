//! From a late beat to Down: queries among the observers, accusations, the suspicion window (rules 3 to 5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flagship_types::{Epoch, Instant, MemberName};

use crate::config::{
    ANSWER_MARGIN, EXIT_DIALS, MAX_PENDING_ANSWERS, PROOF_BEATS, QUERY_DEADLINE_CAP, QUERY_EXTRA,
};
use crate::members::Member;
use crate::{Accusation, Event, Evidence, LinkId, Membership, Message, Signed, State, Verdict};

/// A question to the co-observers that is under way.
#[derive(Debug)]
pub(crate) struct Query {
    id: u64,
    asked: BTreeSet<MemberName>,
    answers: BTreeMap<MemberName, Verdict>,
    deadline: Instant,
}

/// A query that came to no majority is asked again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requery {
    at: Instant,
    pause: Duration,
}

/// A co-observer waits for our answer.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    id: u64,
    pinged_at: Option<Instant>,
    at: Instant,
}

/// Counts of a query, the asker's own muteness included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    mute: usize,
    heard: usize,
    open: usize,
}

impl Count {
    /// A majority of those that answer. A tie is none.
    fn majority_mute(self) -> bool {
        self.mute * 2 > self.mute + self.heard
    }

    /// No answer that is still open can change it.
    fn decided(self) -> bool {
        self.open == 0 || self.mute > self.heard + self.open || self.heard >= self.mute + self.open
    }

    fn alone(self) -> bool {
        self.mute + self.heard == 1
    }
}

impl Query {
    fn count(&self) -> Count {
        let answered = |want: fn(&Verdict) -> bool| self.answers.values().filter(|v| want(v)).count();
        Count {
            mute: 1 + answered(|v| matches!(v, Verdict::Mute(_))),
            heard: answered(|v| matches!(v, Verdict::Heard(_))),
            open: self.asked.iter().filter(|name| !self.answers.contains_key(*name)).count(),
        }
    }

    fn evidence(&self) -> Option<Evidence> {
        let exit = self.answers.values().any(|v| *v == Verdict::Mute(Evidence::Exit));
        exit.then_some(Evidence::Exit)
    }
}

impl Member {
    /// The next deadline of this member.
    pub(crate) fn next_timeout(&self, beat_interval: Duration) -> Option<Instant> {
        let own = match self.state {
            State::Alive => Some(match (&self.query, self.requery) {
                (Some(query), _) => query.deadline,
                (None, Some(requery)) => requery.at,
                (None, None) => self.late_at(beat_interval),
            }),
            State::Suspect if self.query.is_none() => Some(self.window_from),
            State::Suspect => Some(self.down_at(beat_interval)),
            State::Away => self.away_until,
            State::Down | State::Left => None,
        };
        let answer = self.asked_by.values().map(|pending| pending.at).min();
        [own, answer].into_iter().flatten().min()
    }

    /// When a Suspect is Down: at the end of its window, but never while fresh beats keep coming.
    fn down_at(&self, beat_interval: Duration) -> Instant {
        let end = self.window_from + self.window(beat_interval);
        match self.heard_at {
            Some(heard) if heard > self.since => {
                end.max(heard + beat_interval + self.freshness.slack(beat_interval))
            }
            _ => end,
        }
    }

    /// How long a Suspect may refute. An exit that only others saw does not shorten it: one of them may lie.
    fn window(&self, beat_interval: Duration) -> Duration {
        match self.exited() {
            true => self.freshness.strong_window(),
            false => self.freshness.window(beat_interval, self.accusers.len()),
        }
    }

    /// Whether it can be asked about others.
    fn observes(&self) -> bool {
        self.link.is_some() && matches!(self.state, State::Alive | State::Suspect)
    }

    /// Whether this observer itself does not hear the member.
    fn late(&self, beat_interval: Duration, now: Instant) -> bool {
        self.mute || self.exited() || now >= self.late_at(beat_interval)
    }

    /// Forgets what a proof of life makes void.
    pub(crate) fn calm(&mut self, beat_interval: Duration, now: Instant) {
        self.lost = false;
        self.refused = None;
        self.replica_waits = false;
        self.mute = false;
        if now >= self.late_at(beat_interval) {
            return;
        }
        self.requery = None;
        if self.state == State::Alive {
            self.query = None;
        }
    }

    /// Nothing that was learnt before a pause of this process counts any more.
    pub(crate) fn restart_clocks(&mut self, beat_interval: Duration, now: Instant) {
        let patience = beat_interval + self.freshness.slack(beat_interval);
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
    /// Deadlines of this member that have come.
    pub(crate) fn member_timeout(&mut self, name: &MemberName, now: Instant) {
        let h = self.config.beat_interval;
        self.answer_overdue(name, now);
        let Some(member) = self.members.get_mut(name) else { return };
        match member.state {
            State::Alive => match (&member.query, member.requery) {
                (Some(query), _) if query.deadline <= now => self.conclude(name, true, now),
                (None, Some(requery)) if requery.at <= now => self.ask(name, now),
                (None, None) if member.late_at(h) <= now => {
                    self.stats.beats_late += 1;
                    self.ask(name, now);
                }
                _ => {}
            },
            State::Suspect if member.query.is_none() && member.window_from <= now => {
                self.ask_during_window(name, now);
            }
            State::Suspect if member.query.is_some() && member.down_at(h) <= now => {
                self.end_window(name, now);
            }
            State::Away if member.away_until.is_some_and(|until| until <= now) => {
                let evidence = Some(member.seen_evidence());
                self.stats.downs += 1;
                self.become_state(name, State::Down, evidence, now);
            }
            State::Suspect | State::Away | State::Down | State::Left => {}
        }
    }

    /// A beat is late, or the process is gone: asks the co-observers, and decides if there is nobody to wait for.
    pub(crate) fn ask(&mut self, name: &MemberName, now: Instant) {
        let Some(member) = self.members.get(name) else { return };
        if member.state != State::Alive || member.query.is_some() {
            return;
        }
        let first = member.requery.is_none();
        self.open_query(name, Duration::ZERO, now);
        if first {
            self.event(Event::Querying(name.clone()));
        }
        self.conclude(name, false, now);
    }

    /// Pings the subject and asks all co-observers; they have at least `time`.
    fn open_query(&mut self, name: &MemberName, time: Duration, now: Instant) {
        let h = self.config.beat_interval;
        let Some(member) = self.members.get(name) else { return };
        let (epoch, link) = (member.epoch, member.link);
        let co: Vec<(MemberName, LinkId)> = self
            .members
            .iter()
            .filter(|(other, m)| *other != name && m.observes())
            .filter_map(|(other, m)| m.link.map(|link| (other.clone(), link)))
            .collect();
        let slowest = co.iter().filter_map(|(other, _)| self.members.get(other)).map(|m| m.freshness.rtt());
        let rtt = slowest.chain([member.freshness.rtt()]).max().unwrap_or_default();
        let deadline = time.max(rtt * 2 + QUERY_EXTRA);
        self.next_query += 1;
        let id = self.next_query;
        let recent = now - h * PROOF_BEATS;
        let Some(member) = self.members.get_mut(name) else { return };
        // What co-observers said unasked is as good as an answer, while it is young.
        let accused = member.accusers.iter().filter(|(_, (at, _))| *at >= recent);
        let answers = accused.map(|(by, (_, evidence))| (by.clone(), Verdict::Mute(*evidence))).collect();
        let asked = co.iter().map(|(other, _)| other.clone()).collect();
        member.query = Some(Query { id, asked, answers, deadline: now + deadline });
        self.stats.queries += 1;
        if let Some(link) = link {
            self.ping(link, now);
        }
        for (_, link) in co {
            let subject = name.clone();
            self.send(link, Message::Query { id, subject, epoch, deadline });
        }
    }

    /// Decides a query, if it can be decided: `over` says that nobody is waited for any more.
    fn conclude(&mut self, name: &MemberName, over: bool, now: Instant) {
        let (h, floor) = (self.config.beat_interval, self.config.silence_floor);
        let Some(member) = self.members.get_mut(name) else { return };
        let Some(query) = member.query.as_ref().filter(|_| member.state == State::Alive) else { return };
        let count = query.count();
        let confirmed_exit =
            member.lost && member.refused.as_ref().is_some_and(|(_, times)| *times >= EXIT_DIALS);
        // Alone: nobody else can tell. An exit that was seen twice is not waited with (docs/decisions/0001).
        if count.alone() && count.open == 0 && confirmed_exit {
            return self.suspect(name, Evidence::Exit, now);
        }
        if !over && (count.alone() || !count.decided()) {
            return;
        }
        let alone_at = member.alone_at(h, floor);
        let agreed = match count.alone() {
            true => confirmed_exit || now >= alone_at,
            false => count.majority_mute(),
        };
        if agreed {
            let evidence = query.evidence().unwrap_or(member.seen_evidence());
            return self.suspect(name, evidence, now);
        }
        let slack = member.freshness.slack(h);
        let pause = member.requery.map_or(slack, |last| (last.pause * 2).min(h));
        let mut at = now + pause;
        if count.alone() && alone_at > now {
            at = at.min(alone_at);
        }
        member.query = None;
        member.requery = Some(Requery { at, pause });
    }

    fn suspect(&mut self, name: &MemberName, evidence: Evidence, now: Instant) {
        let h = self.config.beat_interval;
        let Some(member) = self.members.get_mut(name) else { return };
        let recent = now - h * PROOF_BEATS;
        member.accusers.retain(|_, (at, _)| *at >= recent);
        let exit = member.accusers.values().any(|(_, evidence)| *evidence == Evidence::Exit);
        let evidence = if exit { Evidence::Exit } else { evidence };
        let (epoch, incarnation) = (member.epoch, member.incarnation);
        self.stats.suspicions += 1;
        self.become_state(name, State::Suspect, Some(evidence), now);
        let subject = name.clone();
        let accuser = self.config.name.clone();
        let accusation = Accusation { accuser, subject, epoch, incarnation, evidence };
        self.send_all(&Message::Accuse(Signed::unsigned(accusation)));
        self.ask_during_window(name, now);
    }

    /// The observers are asked once more while the window runs: a refutation comes first-hand only, so it may
    /// have reached a co-observer and be held up on its way to us.
    fn ask_during_window(&mut self, name: &MemberName, now: Instant) {
        let Some(member) = self.members.get_mut(name) else { return };
        member.window_from = now;
        let window = member.window(self.config.beat_interval);
        self.open_query(name, window, now);
    }

    /// The window is over without a refutation: Down, unless the others heard the member meanwhile. Then it
    /// refuted where we do not hear it, and has one beat interval before the next window.
    fn end_window(&mut self, name: &MemberName, now: Instant) {
        let h = self.config.beat_interval;
        let Some(member) = self.members.get_mut(name) else { return };
        let count = member.query.take().map(|query| query.count());
        if count.is_some_and(|count| !count.alone() && !count.majority_mute()) {
            member.window_from = now + h;
            member.accusers.clear();
            return;
        }
        let evidence = member.evidence;
        self.stats.downs += 1;
        self.become_state(name, State::Down, evidence, now);
    }

    /// The member's address refused a connection: its host lives, and no process listens.
    pub(crate) fn refused_dial(&mut self, name: &MemberName, now: Instant) {
        self.answer_if_known(name, now);
        let alone = !self.has_co_observer(name);
        let Some(member) = self.members.get(name) else { return };
        if member.state != State::Alive || !member.exited() {
            return;
        }
        let times = member.refused.as_ref().map_or(0, |(_, times)| *times);
        if member.query.is_some() {
            self.conclude(name, false, now);
        } else if times == EXIT_DIALS || (times < EXIT_DIALS && !alone) {
            self.ask(name, now);
        }
    }

    fn has_co_observer(&self, subject: &MemberName) -> bool {
        self.members.iter().any(|(other, m)| other != subject && m.observes())
    }

    /// A co-observer asks what we know.
    pub(crate) fn queried(
        &mut self,
        from: LinkId,
        question: (u64, MemberName, Epoch),
        wait: Duration,
        now: Instant,
    ) {
        let (id, subject, epoch) = question;
        let Some(asker) = self.peer_of(from).cloned() else { return };
        let verdict = match self.members.get(&subject) {
            _ if asker == subject => Some(Verdict::Abstain),
            None => Some(Verdict::Abstain),
            Some(m) if m.epoch < epoch || m.heard_at.is_none() => Some(Verdict::Abstain),
            Some(m) => self.verdict_now(m, now),
        };
        if let Some(verdict) = verdict {
            self.stats.answers += 1;
            return self.send(from, Message::Answer { id, subject, verdict });
        }
        let rtt = self.members.get(&asker).map_or(Duration::ZERO, |m| m.freshness.rtt());
        let wait = wait.min(QUERY_DEADLINE_CAP).saturating_sub(rtt + ANSWER_MARGIN);
        let Some(member) = self.members.get_mut(&subject) else { return };
        let link = member.link;
        if member.asked_by.len() < MAX_PENDING_ANSWERS {
            let pinged_at = link.map(|_| now);
            member.asked_by.insert(asker, PendingAnswer { id, pinged_at, at: now + wait });
        }
        if let Some(link) = link {
            self.ping(link, now);
        }
    }

    /// What can be said of a member without asking it.
    fn verdict_now(&self, member: &Member, now: Instant) -> Option<Verdict> {
        let age = member.heard_at.map(|at| now.since(at));
        match member.state {
            State::Left | State::Away => Some(Verdict::Abstain),
            State::Down => Some(Verdict::Mute(member.evidence.unwrap_or(Evidence::Silence))),
            State::Alive | State::Suspect if member.exited() => Some(Verdict::Mute(Evidence::Exit)),
            State::Alive | State::Suspect => {
                age.filter(|age| *age <= member.freshness.fresh_enough()).map(Verdict::Heard)
            }
        }
    }

    /// Tells those that wait, if there is something to tell now.
    pub(crate) fn answer_if_known(&mut self, name: &MemberName, now: Instant) {
        let Some(member) = self.members.get(name) else { return };
        if member.asked_by.is_empty() {
            return;
        }
        if let Some(verdict) = self.verdict_now(member, now) {
            while let Some((asker, pending)) = self.members.get_mut(name).and_then(|m| m.asked_by.pop_first())
            {
                self.answer(&asker, pending.id, name, verdict);
            }
        }
    }

    /// Answers whose time has come: a ping without an answer is muteness, if there was time for one.
    fn answer_overdue(&mut self, name: &MemberName, now: Instant) {
        let h = self.config.beat_interval;
        loop {
            let Some(member) = self.members.get_mut(name) else { return };
            let due = member.asked_by.iter().find(|(_, pending)| pending.at <= now);
            let Some(asker) = due.map(|(asker, _)| asker.clone()) else { return };
            let Some(pending) = member.asked_by.remove(&asker) else { return };
            let rtt = member.freshness.rtt();
            let time_to_answer = pending.pinged_at.is_some_and(|at| now.since(at) >= rtt + ANSWER_MARGIN);
            let verdict = if time_to_answer || member.late(h, now) {
                member.mute |= time_to_answer;
                Verdict::Mute(member.seen_evidence())
            } else {
                Verdict::Abstain
            };
            self.answer(&asker, pending.id, name, verdict);
        }
    }

    fn answer(&mut self, asker: &MemberName, id: u64, subject: &MemberName, verdict: Verdict) {
        if let Some(link) = self.link_to(asker) {
            self.stats.answers += 1;
            self.send(link, Message::Answer { id, subject: subject.clone(), verdict });
        }
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
        let Some(by) = self.peer_of(from).cloned() else { return };
        let Some(member) = self.members.get_mut(subject) else { return };
        let late = self.config.beat_interval + member.freshness.slack(self.config.beat_interval);
        let Some(query) = member.query.as_mut().filter(|q| q.id == id && q.asked.contains(&by)) else {
            return;
        };
        match verdict {
            // An old hearing is none; an abstention opens the way for the others.
            Verdict::Heard(age) if age > late => query.answers.insert(by, Verdict::Mute(Evidence::Silence)),
            verdict => query.answers.insert(by, verdict),
        };
        self.conclude(subject, false, now);
    }

    /// A co-observer accuses another member. Its word alone changes nothing here: it counts only together with
    /// our own silence from the subject.
    pub(crate) fn accused(&mut self, from: LinkId, accusation: &Accusation, now: Instant) {
        let h = self.config.beat_interval;
        let Some(by) = self.peer_of(from).cloned() else { return };
        let Some(member) = self.members.get_mut(&accusation.subject) else { return };
        let same = (accusation.epoch, accusation.incarnation) == (member.epoch, member.incarnation);
        if !same || by == accusation.subject {
            return;
        }
        match member.state {
            State::Suspect => {
                member.accusers.insert(by, (now, accusation.evidence));
                if accusation.evidence == Evidence::Exit && member.evidence != Some(Evidence::Exit) {
                    member.evidence = Some(Evidence::Exit);
                    self.changed(&accusation.subject);
                }
            }
            State::Alive => {
                member.accusers.insert(by.clone(), (now, accusation.evidence));
                if let Some(query) = member.query.as_mut() {
                    query.answers.insert(by, Verdict::Mute(accusation.evidence));
                    self.conclude(&accusation.subject, false, now);
                } else if member.late(h, now) {
                    self.ask(&accusation.subject, now);
                }
            }
            State::Away | State::Down | State::Left => {}
        }
    }
}

#[cfg(test)]
mod tests {
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
