//! Invariants 3 and 7: no Down without a majority of those that answered, Leave, an expired Away or the rule of the
//! lone observer; and a refutation wins. Counted anew from the messages that passed by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flagship_membership::{Evidence, State, Verdict};

use super::{Seen, Violation};
use crate::clock::{Nanos, ms};
use crate::membership::fault::{Fault, Host, Plan};

/// The beat interval.
const H: Nanos = ms(1_000);
/// So many observers' words make a Down: a majority of three.
const QUORUM: usize = 2;
/// A word unasked counts this long as an answer: three beat intervals, and a clock that is 6 % slow.
const WORD_LASTS: Nanos = ms(3_200);
/// Who heard the subject this short ago is not mute by anybody's slack.
const SURELY_HEARD: Duration = Duration::from_millis(1_100);

/// What the checker has to know of the settings.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What a lone observer waits beyond one beat interval.
    pub silence_floor: Nanos,
    /// How much faster a clock may run, in thousandths.
    pub drift_permille: u64,
}

impl Rule {
    pub(in crate::membership) fn of(plan: &Plan) -> Self {
        let drift = plan.faults.iter().map(|timed| match timed.fault {
            Fault::Drift { permille, .. } => u64::from(permille.unsigned_abs()),
            _ => 0,
        });
        Self { silence_floor: ms(3_000), drift_permille: drift.max().unwrap_or(0) }
    }

    fn shortened(&self, time: Nanos) -> Nanos {
        time - time * self.drift_permille / 1_000 - ms(1)
    }
}

/// What one viewer was told about one subject.
#[derive(Debug, Default)]
struct Ballot {
    query: Option<u64>,
    /// When the query is over at the latest: the next may have nobody to ask, and nobody else hears of it then.
    query_until: Nanos,
    asked: BTreeSet<Host>,
    answers: BTreeMap<Host, Verdict>,
    /// Words unasked: whose, about which (epoch, incarnation), and when.
    words: BTreeMap<(Host, (u64, u32)), Nanos>,
    heard: Option<Nanos>,
    /// For which (epoch, incarnation) a suspicion was right.
    right: Option<(u64, u32)>,
    /// The pause that was announced under this (epoch, incarnation), and when it ends.
    away: Option<((u64, u32), Nanos)>,
    newest: Option<(u64, u32)>,
}

/// What a view must hold after a frame: this subject at least so high, and if that was news to it, not suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Whom.
    pub subject: Host,
    /// Epoch and incarnation.
    pub told: (u64, u32),
    /// Whether the record came alone, and was higher than what the view showed.
    pub news: bool,
}

/// All ballots.
#[derive(Debug, Default)]
pub struct Ballots {
    ballots: BTreeMap<(Host, Host), Ballot>,
    /// After the frame that is being handled the receiver must hold these subjects at least so high.
    pub expected: Vec<Expected>,
}

impl Ballots {
    fn of(&mut self, viewer: Host, subject: Host) -> &mut Ballot {
        self.ballots.entry((viewer, subject)).or_default()
    }

    /// A process starts anew: whatever it was told is gone.
    pub fn restarted(&mut self, viewer: Host) {
        self.ballots.retain(|(v, _), _| *v != viewer);
    }

    /// The viewer asks one of its co-observers, from now until then, even if it is too slow to send it before that.
    pub fn asked(&mut self, (viewer, of): (Host, Host), subject: Host, query: u64, until: Nanos) {
        let ballot = self.of(viewer, subject);
        if ballot.query != Some(query) {
            ballot.query = Some(query);
            ballot.query_until = 0;
            ballot.asked.clear();
            ballot.answers.clear();
        }
        ballot.asked.insert(of);
        ballot.query_until = ballot.query_until.max(until);
    }

    /// An answer reaches the viewer. With the last one its query is over, at once.
    pub fn answered(
        &mut self,
        (by, viewer): (Host, Host),
        subject: Host,
        (query, verdict): (u64, Verdict),
        now: Nanos,
    ) {
        let ballot = self.of(viewer, subject);
        if ballot.query == Some(query) && ballot.asked.contains(&by) {
            ballot.answers.insert(by, verdict);
            if ballot.is_decided() {
                ballot.query_until = ballot.query_until.min(now);
            }
        }
    }

    /// A member is about to answer Mute in a fleet that is a full mesh. Who has never heard the subject cannot tell,
    /// unless it holds it Down by others' word.
    pub fn answers_mute(
        &mut self,
        by: Host,
        subject: Host,
        holds: Option<State>,
        at: Nanos,
    ) -> Option<Violation> {
        let never = self.of(by, subject).heard.is_none() && holds != Some(State::Down);
        let text =
            || format!("m{by} says that it does not hear m{subject}, which it never heard: it cannot tell");
        never.then(|| Violation { invariant: 3, at, text: text() })
    }

    /// An accusation reached the viewer.
    pub fn accused(&mut self, (by, viewer): (Host, Host), subject: Host, what: (u64, u32), now: Nanos) {
        self.of(viewer, subject).words.insert((by, what), now);
    }

    /// A proof of life that was sent then.
    pub fn heard(&mut self, viewer: Host, subject: Host, when: Nanos) {
        let ballot = self.of(viewer, subject);
        ballot.heard = ballot.heard.max(Some(when));
    }

    /// A record that the viewer has to read.
    pub fn record(&mut self, viewer: Host, owner: Host, what: (u64, u32), news: bool, honest: bool) {
        if honest && viewer != owner {
            self.expected.push(Expected { subject: owner, told: what, news });
            let ballot = self.of(viewer, owner);
            ballot.newest = ballot.newest.max(Some(what));
        }
    }

    /// An announced pause.
    pub fn away(&mut self, viewer: Host, owner: Host, what: (u64, u32), until: Nanos) {
        let ballot = self.of(viewer, owner);
        // Told by several, it counts from the first.
        if ballot.away.is_none_or(|(about, _)| about != what) {
            ballot.away = Some((what, until));
        }
    }

    /// Checks a finding: the viewer is about to accuse the subject.
    pub fn finding(
        &mut self,
        (viewer, subject): (Host, Host),
        what: (u64, u32),
        evidence: Evidence,
        at: Nanos,
        rule: Rule,
    ) -> Option<Violation> {
        let ballot = self.of(viewer, subject);
        let wrong = ballot.wrong(what, evidence, at, rule);
        if wrong.is_none() {
            ballot.right = Some(what);
        }
        wrong.map(|why| Violation { invariant: 3, at, text: format!("m{viewer} accuses m{subject}: {why}") })
    }

    /// Checks a view. `near` tells whether an accuser observes the subject, or may have.
    pub fn seen(&mut self, seen: Seen, rule: Rule, near: impl Fn(Host) -> bool) -> Vec<Violation> {
        let what = (seen.epoch, seen.incarnation);
        let ballot = self.of(seen.viewer, seen.subject);
        let violation = |invariant, text: String| {
            let Seen { at, viewer, subject, state, .. } = seen;
            let text = format!("m{viewer} holds m{subject} {}: {text}", state.as_str());
            vec![Violation { invariant, at, text }]
        };
        match seen.state {
            State::Down if ballot.newest.is_some_and(|newest| newest.0 == what.0 && newest.1 > what.1) => {
                violation(7, format!("it had refuted that: {:?} after {what:?}", ballot.newest))
            }
            State::Down => {
                let paused = ballot.away.is_some_and(|(_, until)| seen.at >= rule.shortened(until));
                let accusers = ballot.words.keys().filter(|(_, about)| *about == what).map(|(by, _)| *by);
                let (near, far): (Vec<Host>, Vec<Host>) = accusers.partition(|by| near(*by));
                match near.len() {
                    _ if ballot.right == Some(what) || paused => Vec::new(),
                    QUORUM.. => Vec::new(),
                    _ => {
                        let why = "no finding of its own, no pause";
                        violation(3, format!("{why}; observers that accuse it: {near:?}, others: {far:?}"))
                    }
                }
            }
            State::Alive | State::Suspect | State::Away | State::Left => Vec::new(),
        }
    }
}

impl Ballot {
    /// Whether nobody is waited for any more: all have answered, or so many hear it that the others cannot outvote
    /// them.
    fn is_decided(&self) -> bool {
        let surely = |verdict: &&Verdict| matches!(verdict, Verdict::Heard(age) if *age <= SURELY_HEARD);
        let heard = self.answers.values().filter(surely).count();
        self.answers.len() == self.asked.len() || heard > self.asked.len() - heard + self.words.len()
    }

    /// Why a suspicion is not right, if so.
    fn wrong(&self, what: (u64, u32), evidence: Evidence, now: Nanos, rule: Rule) -> Option<String> {
        let mut mute = 1;
        let mut heard = 0;
        let young = |at: Nanos| at + WORD_LASTS >= now;
        let words = self.words.iter().filter(|((_, about), at)| *about == what && young(**at));
        let words: Vec<Host> = words.map(|((by, _), _)| *by).collect();
        for (by, verdict) in self.answers.iter().filter(|_| now <= self.query_until) {
            match verdict {
                _ if words.contains(by) => {}
                Verdict::Mute(_) => mute += 1,
                Verdict::Heard(age) if *age <= SURELY_HEARD => heard += 1,
                Verdict::Heard(_) => mute += 1,
                Verdict::Abstain => {}
            }
        }
        mute += words.len();
        if mute <= heard {
            return Some(format!("{mute} do not hear it, {heard} do"));
        }
        if mute > 1 || heard > 0 || evidence == Evidence::Exit {
            return None;
        }
        let silent = self.heard.map(|heard| now.saturating_sub(heard));
        let floor = rule.shortened(H + rule.silence_floor);
        silent
            .filter(|silent| *silent < floor)
            .map(|silent| format!("nobody else answered, and it was heard {} ms ago", silent / ms(1)))
    }
}

/// Whether a view took a refutation: after a record of an honest owner it is at least as high as that. Another epoch is
/// another process, and those are told apart on their own links (docs/decisions/0010).
pub fn refutation_held(
    (viewer, subject): (Host, Host),
    (told, news): ((u64, u32), bool),
    view: (u64, u32, State),
    at: Nanos,
) -> Option<Violation> {
    let (epoch, incarnation, state) = view;
    let held = matches!(state, State::Suspect | State::Down);
    let lower = incarnation < told.1 || (news && incarnation == told.1);
    (epoch == told.0 && lower && held).then(|| Violation {
        invariant: 7,
        at,
        text: format!(
            "m{viewer} holds m{subject} {} at {:?} after its record of {told:?} arrived",
            state.as_str(),
            (epoch, incarnation)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u8; 0] = [];

    const RULE: Rule = Rule { silence_floor: ms(3_000), drift_permille: 0 };

    fn seen(state: State) -> Seen {
        let at = ms(10_000);
        Seen { at, viewer: 0, subject: 1, epoch: 7, incarnation: 0, state, term: None, evidence: None }
    }

    fn asked(answers: &[Verdict]) -> Ballots {
        let mut ballots = Ballots::default();
        ballots.heard(0, 1, ms(8_500));
        for by in 0..answers.len() {
            ballots.asked((0, by + 2), 1, 5, ms(10_050));
        }
        for (by, verdict) in answers.iter().enumerate() {
            ballots.answered((by + 2, 0), 1, (5, *verdict), ms(10_000));
        }
        ballots
    }

    fn found(mut ballots: Ballots, state: State) -> Vec<u8> {
        if state == State::Suspect {
            let found = ballots.finding((0, 1), (7, 0), Evidence::Silence, ms(10_000), RULE);
            return found.iter().map(|violation| violation.invariant).collect();
        }
        ballots.seen(seen(state), RULE, |by| by < 9).iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn a_suspicion_without_a_majority_is_found() {
        let heard = Verdict::Heard(Duration::from_millis(20));
        let mute = Verdict::Mute(Evidence::Silence);
        assert_eq!(found(asked(&[mute]), State::Suspect), NONE);
        assert_eq!(found(asked(&[mute, heard]), State::Suspect), NONE);
        assert_eq!(found(asked(&[heard]), State::Suspect), [3]);
        assert_eq!(found(asked(&[mute, heard, heard]), State::Suspect), [3]);
        assert_eq!(found(asked(&[]), State::Suspect), [3], "alone, after 1.5 s");
        assert_eq!(found(asked(&[Verdict::Abstain]), State::Suspect), [3], "alone, after 1.5 s");
        let mut late = asked(&[heard]);
        late.answered((2, 0), 1, (4, mute), ms(10_000));
        assert_eq!(found(late, State::Suspect), [3], "an answer to another query");
        let mut unasked = asked(&[heard]);
        unasked.answered((3, 0), 1, (5, mute), ms(10_000));
        assert_eq!(found(unasked, State::Suspect), [3], "an answer of one that was not asked");
    }

    #[test]
    fn a_word_of_who_cannot_tell_is_found() {
        let mut ballots = Ballots::default();
        assert!(ballots.answers_mute(0, 1, Some(State::Alive), 0).is_some());
        assert!(ballots.answers_mute(0, 1, Some(State::Down), 0).is_none());
        ballots.heard(0, 1, 0);
        assert!(ballots.answers_mute(0, 1, Some(State::Alive), 0).is_none());
    }

    #[test]
    fn a_lone_observer_may_suspect_after_the_floor() {
        let mut ballots = Ballots::default();
        ballots.heard(0, 1, ms(5_900));
        assert_eq!(found(ballots, State::Suspect), NONE);
    }

    #[test]
    fn an_answer_counts_for_its_own_query_only() {
        let answered = |at| {
            let mut ballots = Ballots::default();
            ballots.heard(0, 1, ms(5_900));
            ballots.asked((0, 2), 1, 5, ms(10_050));
            ballots.answered((2, 0), 1, (5, Verdict::Heard(Duration::from_millis(20))), at);
            found(ballots, State::Suspect)
        };
        assert_eq!(answered(ms(10_000)), [3]);
        assert_eq!(answered(ms(9_500)), NONE, "that query was over: this is the word of a lone observer");
    }

    #[test]
    fn a_down_out_of_nothing_is_found() {
        assert_eq!(found(asked(&[]), State::Down), [3]);
        let mut paused = asked(&[]);
        paused.away(0, 1, (7, 0), ms(9_999));
        assert_eq!(found(paused, State::Down), NONE);
        let mut paused = asked(&[]);
        paused.away(0, 1, (7, 0), ms(10_500));
        assert_eq!(found(paused, State::Down), [3]);
    }

    #[test]
    fn two_accusers_make_a_down_if_they_observe_the_subject() {
        let accused = |by: &[Host], about| {
            let mut ballots = Ballots::default();
            for by in by {
                ballots.accused((*by, 0), 1, about, ms(9_000));
            }
            found(ballots, State::Down)
        };
        assert_eq!(accused(&[2, 3], (7, 0)), NONE);
        assert_eq!(accused(&[2], (7, 0)), [3]);
        assert_eq!(accused(&[2, 9], (7, 0)), [3], "9 does not observe it");
        assert_eq!(accused(&[2, 3], (7, 1)), [3], "another incarnation");
    }

    #[test]
    fn a_refutation_that_loses_is_found() {
        let mut ballots = asked(&[Verdict::Mute(Evidence::Silence)]);
        assert_eq!(ballots.finding((0, 1), (7, 0), Evidence::Silence, ms(10_000), RULE), None);
        ballots.record(0, 1, (7, 1), true, true);
        assert_eq!(found(ballots, State::Down), [7]);
        let held = |news, view| refutation_held((0, 1), ((7, 1), news), view, 0).is_some();
        assert!(held(false, (7, 0, State::Suspect)) && held(true, (7, 1, State::Suspect)));
        assert!(!held(true, (7, 1, State::Alive)) && !held(false, (7, 1, State::Suspect)));
    }
}
