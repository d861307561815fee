//! From a finding to Down: accusations, the window in which the subject may refute, and the verdict (rules 4 and 5).

use std::time::Duration;

use flagship_types::Instant;

use crate::config::{ACCUSER_REACH, MAX_ACCUSERS, PROOF_BEATS, QUORUM, SLACK_CAP};
use crate::freshness::{strong_window, window};
use crate::members::{Accuser, Member, is_said};
use crate::rings::{OBSERVERS, Slot};
use crate::table::SELF;
use crate::{
    Accusation, Event, Evidence, LinkId, Membership, Message, Output, PlantedBug, Signed, State, Statement,
    Verdict,
};

impl Member {
    /// The next deadline of this member.
    pub(crate) fn next_timeout(&self, state: State, beat_interval: Duration) -> Option<Instant> {
        let answer = self.asked_by.values().map(|pending| pending.at).min();
        let own = match state {
            State::Alive => self.finding_at(beat_interval),
            State::Suspect if self.first_hand => match self.query {
                Some(_) => Some(self.down_at(beat_interval)),
                None => Some(self.window_from),
            },
            State::Suspect => {
                let finding = self.finding_at(beat_interval);
                Some(finding.map_or(self.down_at(beat_interval), |at| at.min(self.down_at(beat_interval))))
            }
            State::Away => self.away_until,
            State::Down | State::Left => None,
        };
        [own, answer, self.probing_until].into_iter().flatten().min()
    }

    /// When the next step towards a finding of our own is due.
    fn finding_at(&self, beat_interval: Duration) -> Option<Instant> {
        match (&self.query, &self.requery) {
            (Some(query), _) => Some(query.deadline),
            (None, Some(requery)) => Some(requery.at),
            (None, None) => self.is_watched().then(|| self.late_at(beat_interval)),
        }
    }

    /// Whether its silence is noticed here.
    pub(crate) fn is_watched(&self) -> bool {
        self.duty.observed
    }

    /// Whether the newest proof is no older than a beat may be.
    pub(crate) fn heard_lately(&self, beat_interval: Duration, now: Instant) -> bool {
        let patience = beat_interval + self.freshness.slack();
        self.heard_at.is_some_and(|at| now < at + patience)
    }

    /// When a Suspect is Down: at the end of its window, but never while fresh beats keep coming.
    fn down_at(&self, beat_interval: Duration) -> Instant {
        let end = self.window_from + self.window();
        match self.heard_at {
            Some(heard) if heard > self.since && self.is_watched() => {
                end.max(heard + beat_interval + self.freshness.slack())
            }
            _ => end,
        }
    }

    /// How long a Suspect may refute. An exit that one other saw does not shorten it: it may lie.
    fn window(&self) -> Duration {
        let (rtt, slack) = self.way.as_deref().copied().unwrap_or_default();
        if self.told_late {
            return SLACK_CAP;
        }
        let exits = self.accusers.values().filter(|a| a.statement.evidence == Evidence::Exit);
        match self.exited() || exits.count() >= QUORUM {
            true => strong_window(rtt),
            false => window(rtt, slack, self.accusers.len()),
        }
    }
}

impl Membership {
    /// Deadlines of this member that have come.
    pub(crate) fn member_timeout(&mut self, slot: Slot, now: Instant) {
        let h = self.config.beat_interval;
        self.answer_overdue(slot, now);
        let state = self.table.state(slot);
        let Some(member) = self.table.get_mut(slot) else { return };
        if member.probing_until.is_some_and(|until| until <= now) {
            member.probing_until = None;
            self.duties_dirty = true;
        }
        match state {
            State::Alive => self.find(slot, now),
            State::Suspect if !member.first_hand => {
                let over = member.down_at(h) <= now;
                self.find(slot, now);
                if over {
                    self.end_of_hearsay(slot, now);
                }
            }
            State::Suspect if member.query.is_none() && member.window_from <= now => {
                self.ask_during_window(slot, now, now);
            }
            State::Suspect if member.query.is_some() && member.down_at(h) <= now => {
                self.end_window(slot, now);
            }
            State::Away if member.away_until.is_some_and(|until| until <= now) => {
                let evidence = Some(member.seen_evidence());
                self.stats.downs += 1;
                self.become_state(slot, State::Down, evidence, now);
            }
            State::Suspect | State::Away | State::Down | State::Left => {}
        }
    }

    /// The next step towards a finding of our own: a query begins, is asked again, or ends.
    fn find(&mut self, slot: Slot, now: Instant) {
        let h = self.config.beat_interval;
        let Some(member) = self.table.get(slot) else { return };
        match (&member.query, &member.requery) {
            (Some(query), _) if query.deadline <= now => self.query_over(slot, now),
            (None, Some(requery)) if requery.at <= now => self.ask(slot, now),
            (None, None) if member.is_watched() && member.late_at(h) <= now => {
                self.stats.beats_late += 1;
                self.ask(slot, now);
            }
            _ => {}
        }
    }

    /// Our own finding: a majority of those that answered does not hear it, or nobody else could tell.
    pub(crate) fn suspect(&mut self, slot: Slot, evidence: Evidence, alone: bool, now: Instant) {
        let h = self.config.beat_interval;
        let recent = now - h * PROOF_BEATS;
        let Some(member) = self.table.get_mut(slot) else { return };
        member.accusers.retain(|_, a| a.at >= recent);
        let exit = member.accusers.values().any(|a| a.statement.evidence == Evidence::Exit);
        let evidence = if exit { Evidence::Exit } else { evidence };
        self.stats.suspicions += 1;
        self.stats.suspicions_alone += u64::from(alone);
        self.become_state(slot, State::Suspect, Some(evidence), now);
        self.measure_way(slot);
        if let Some(member) = self.table.get_mut(slot) {
            member.first_hand = true;
        }
        if self.has(PlantedBug::AccuserRaisesIncarnation) {
            let mut record = (**self.table.record(slot)).clone();
            record.incarnation = record.incarnation.next();
            self.table.set_record(slot, Signed::unsigned(record));
        }
        let record = self.table.record(slot);
        let accusation = Accusation {
            accuser: self.config.name.clone(),
            subject: record.member.clone(),
            epoch: record.epoch,
            incarnation: record.incarnation,
            evidence,
        };
        self.output(Output::Sign(Box::new(Statement::Accusation(accusation))));
        let from = self.accused_since(slot).unwrap_or(now);
        self.ask_during_window(slot, from, now);
    }

    /// Since when others accuse it in such a number that we would hold it Down on their word alone. A refutation had that
    /// long to arrive here: who is the last to miss the member need not wait anew. Not from before we heard it last, as
    /// it may not have known of them then.
    fn accused_since(&self, slot: Slot) -> Option<Instant> {
        if self.accusers_that_count(slot) < QUORUM {
            return None;
        }
        let member = self.table.get(slot)?;
        let mut times: Vec<Instant> = member.accusers.values().map(|a| a.at).collect();
        times.sort_unstable();
        Some(times.get(QUORUM - 1)?.max(&member.heard_at?).to_owned())
    }

    /// How far accusation and refutation have to go: over the way to the subject, or as far as others are.
    fn measure_way(&mut self, slot: Slot) {
        let (rtt, slack) = (self.typical_rtt(), self.typical_slack());
        if let Some(member) = self.table.get_mut(slot) {
            let own_rtt = member.freshness.measured_rtt().unwrap_or_default();
            let own_slack = if member.is_watched() { member.freshness.slack() } else { slack };
            member.way = Some(Box::new((rtt.max(own_rtt), slack.max(own_slack))));
        }
    }

    /// Our accusation comes back signed: it goes to everybody.
    pub(crate) fn accuse(&mut self, statement: Signed<Accusation>, now: Instant) {
        let Some(slot) = self.table.slot(&statement.subject) else { return };
        let record = self.table.record(slot);
        let same = (statement.epoch, statement.incarnation) == (record.epoch, record.incarnation);
        if !same || self.table.state(slot) != State::Suspect {
            return;
        }
        if let Some(member) = self.table.get_mut(slot) {
            member.accusers.insert(SELF, Accuser { at: now, statement: statement.clone() });
        }
        self.send_all(&Message::Accuse(statement));
    }

    /// The observers are asked once more while the window runs: a refutation may have reached one of them and be held up
    /// on its way to us.
    fn ask_during_window(&mut self, slot: Slot, from: Instant, now: Instant) {
        let Some(member) = self.table.get_mut(slot) else { return };
        member.window_from = from;
        let rest = (from + member.window()).since(now);
        self.open_query(slot, rest, now);
    }

    /// The window is over without a refutation: Down, unless the others heard the member meanwhile. Then it refuted where
    /// we do not hear it, and has one beat interval before the next window.
    fn end_window(&mut self, slot: Slot, now: Instant) {
        let h = self.config.beat_interval;
        let Some(member) = self.table.get_mut(slot) else { return };
        let count = member.query.take().map(|query| query.count());
        if count.is_some_and(|count| !count.alone() && !count.majority_mute()) {
            member.window_from = now + h;
            member.accusers.clear();
            return;
        }
        self.condemn(slot, now);
    }

    fn condemn(&mut self, slot: Slot, now: Instant) {
        let evidence = self.table.get(slot).and_then(|m| m.evidence);
        self.stats.downs += 1;
        self.become_state(slot, State::Down, evidence, now);
    }

    /// The window of a member that only others accuse is over: Down if they are a majority of its observers, else it
    /// stays Suspect, and it is told once more, as its refutation or the others' word must have got lost.
    fn end_of_hearsay(&mut self, slot: Slot, now: Instant) {
        let h = self.config.beat_interval;
        if self.table.get(slot).is_none_or(|m| m.first_hand || now < m.down_at(h)) {
            return;
        }
        if self.accusers_that_count(slot) >= QUORUM {
            return self.condemn(slot, now);
        }
        let Some(member) = self.table.get_mut(slot) else { return };
        member.window_over = true;
        member.window_from = now + h;
        let statements: Vec<_> = member.accusers.values().map(|a| a.statement.clone()).collect();
        for statement in statements {
            self.forward_accusation(&statement, None);
        }
    }

    /// The view changed, and with it whose accusation counts.
    pub(crate) fn reweigh_hearsay(&mut self, now: Instant) {
        let waits = |(slot, m): &(Slot, &Member)| {
            m.window_over && !m.first_hand && self.table.state(*slot) == State::Suspect
        };
        let waiting: Vec<Slot> = self.table.details().filter(waits).map(|(slot, _)| slot).collect();
        for slot in waiting {
            if self.accusers_that_count(slot) >= QUORUM {
                self.condemn(slot, now);
            }
        }
    }

    /// Accusers that observe the subject, or did, or took the place of one who does.
    fn accusers_that_count(&self, slot: Slot) -> usize {
        let Some(member) = self.table.get(slot) else { return 0 };
        if self.has(PlantedBug::LoneWordBelieved) {
            return QUORUM;
        }
        // It may be gone itself by now.
        let near = |who: Slot| {
            let counts = |ring| self.table.live_after(ring, slot, Some(who)).take(ACCUSER_REACH);
            who == SELF || (0..OBSERVERS).any(|ring| counts(ring).any(|other| other == who))
        };
        member.accusers.keys().filter(|who| near(**who)).count()
    }

    /// An accusation, of whomever. One member's word changes nothing where the subject is heard, and makes it Suspect
    /// elsewhere; only a majority of its observers makes it Down.
    pub(crate) fn accused(
        &mut self,
        from: LinkId,
        statement: &Signed<Accusation>,
        told_late: bool,
        now: Instant,
    ) {
        if statement.subject == self.config.name {
            if statement.epoch == self.epoch {
                self.refute(from, statement.incarnation, now);
            }
            return;
        }
        let by_peer = self.peer_of(from).is_some_and(|peer| *peer == statement.accuser);
        let slots = (self.table.slot(&statement.accuser), self.table.slot(&statement.subject));
        let (Some(by), Some(slot)) = slots else { return };
        let record = self.table.record(slot);
        let same = statement.epoch == record.epoch
            && (statement.incarnation == record.incarnation || self.has(PlantedBug::WindowNotRestarted));
        // Of whom nothing was heard in this epoch it is not known which accusations it has refuted.
        // And an unsigned word cannot be passed on, so the subject might never hear of it: only a build that knows no
        // signatures is believed without, and only of a member whom we can tell ourselves.
        let linked = self.table.get(slot).is_some_and(|member| member.link.is_some());
        let unsigned = by_peer && linked && self.links.get(&from).is_some_and(|link| !link.speaks_rings());
        let believed = is_said(record) && (statement.proof().is_some() || unsigned);
        if !same || !believed || by == slot || by == SELF {
            return;
        }
        let state = self.table.state(slot);
        if matches!(state, State::Away | State::Left) || !self.note_accuser(slot, by, statement, now) {
            return;
        }
        self.forward_accusation(statement, Some(from));
        let was = self.table.state(slot);
        self.weigh(slot, by, statement.evidence, now);
        let became = was == State::Alive && self.table.state(slot) == State::Suspect;
        if let Some(member) = self.table.get_mut(slot).filter(|m| told_late && became && !m.first_hand) {
            member.told_late = true;
        }
    }

    /// Whether this is news.
    fn note_accuser(&mut self, slot: Slot, by: Slot, statement: &Signed<Accusation>, now: Instant) -> bool {
        let h = self.config.beat_interval;
        let member = self.table.attend(slot, now);
        let old = member.accusers.get(&by);
        let stronger = |old: &Accuser| {
            old.statement.evidence == Evidence::Silence && statement.evidence == Evidence::Exit
        };
        let stale = |old: &Accuser| now.since(old.at) > h * PROOF_BEATS;
        let room = member.accusers.len() < MAX_ACCUSERS;
        if old.map_or(!room, |old| !stronger(old) && !stale(old)) {
            return false;
        }
        member.accusers.insert(by, Accuser { at: now, statement: statement.clone() });
        true
    }

    fn weigh(&mut self, slot: Slot, by: Slot, evidence: Evidence, now: Instant) {
        let h = self.config.beat_interval;
        let state = self.table.state(slot);
        let Some(member) = self.table.get_mut(slot) else { return };
        match state {
            State::Suspect => {
                let over = member.window_over && !member.first_hand;
                if evidence == Evidence::Exit && member.evidence != Some(Evidence::Exit) {
                    member.evidence = Some(Evidence::Exit);
                    self.changed(slot);
                }
                if over && self.accusers_that_count(slot) >= QUORUM {
                    self.condemn(slot, now);
                }
            }
            // Who hears it, or found it mute on behalf of an observer, goes by its own finding.
            State::Alive if member.mute || (member.is_watched() && member.heard_lately(h, now)) => {
                if let Some(query) = member.query.as_mut() {
                    query.answer(by, Verdict::Mute(evidence));
                    self.conclude(slot, false, now);
                } else if member.late(h, now) {
                    self.ask(slot, now);
                }
            }
            State::Alive => {
                let link = member.link;
                self.become_state(slot, State::Suspect, Some(evidence), now);
                self.measure_way(slot);
                if let Some(link) = link {
                    self.tell_known(slot, link);
                }
            }
            State::Away | State::Down | State::Left => {}
        }
    }

    /// The only way to another state of a member.
    pub(crate) fn become_state(
        &mut self,
        slot: Slot,
        state: State,
        evidence: Option<Evidence>,
        now: Instant,
    ) {
        self.table.attend(slot, now).begin_state(state, evidence, now);
        self.table.set_state(slot, state);
        self.dials_dirty = true;
        self.duties_dirty = true;
        self.changed(slot);
        if state == State::Left {
            self.forget_oldest_left();
        }
    }

    pub(crate) fn changed(&mut self, slot: Slot) {
        let name = self.table.name(slot).clone();
        self.event(Event::Changed(name));
    }
}
