//! The state machine's frame: inputs are taken in, the whole state is evaluated, outputs are handed out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use flagship_types::{ConfigVersion, FleetConfig, Health, Instant, MemberName, Mode, Role, Term};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg32;

use crate::io::{
    Ascent, Config, Directive, Event, Input, Message, Output, Record, ResignReason, Restored, Spec, Standing,
    Stats, Vote,
};
use crate::leader_gate::LeaderGate;
use crate::lease::Lease;
use crate::operator::Operator;
use crate::outlook::{Reservation, Vacancy};
use crate::peer::{MAX_PEERS, Paced, Peer};
use crate::planted::PlantedBug;
use crate::pledge::Pledge;
use crate::roster::MAX_FORGOTTEN;
use crate::stage::{Held, Joining, Stage};

/// How long a member that may found a fleet listens and tries its seeds first. A fleet that knows it dials at
/// least every 5 s.
pub const FOUNDING_WAIT: Duration = Duration::from_secs(6);

/// What may wait for a record to become durable. With the API server away nothing does; grants beyond this are
/// dropped, which is what silence means anyway.
const MAX_GATED: usize = 64;
/// Steps of one evaluation. A member passes at most through all its roles.
const MAX_STEPS: usize = 8;

/// What follows once a record version is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gated {
    Grant { to: MemberName, term: Term },
    Renewed { to: MemberName, term: Term, seq: u64 },
    ConfigStored { version: ConfigVersion },
}

/// The election of one member.
#[derive(Debug, Clone)]
pub struct Election {
    pub(crate) me: MemberName,
    pub(crate) spec: Spec,
    pub(crate) health: Health,
    rng: Pcg32,
    pub(crate) now: Instant,
    pub(crate) started: Instant,
    pub(crate) peers: BTreeMap<MemberName, Peer>,
    pub(crate) stage: Stage,
    /// Role changes so far: an evaluation goes on as long as it grows.
    pub(crate) moves: u64,
    /// What is durable, or will be: `durable` says up to which version it is.
    pub(crate) record: Record,
    pub(crate) durable: u64,
    dirty: bool,
    /// This member has a voter record and may vote.
    pub(crate) may_vote: bool,
    /// Started without any known peer: listens before it takes a lead that it does not hold.
    pub(crate) listens: bool,
    pub(crate) retired: Option<ResignReason>,
    /// The followed leader and its term; after a release the term of the lead that ended.
    pub(crate) leader: Option<MemberName>,
    pub(crate) leader_term: Term,
    /// The followed leader was heard of in this process's life. Else its term is no more than a bound: the record has
    /// the highest term seen, not the one under which its leader was followed.
    pub(crate) leader_met: bool,
    /// The last leader: an elector even when it no longer leads.
    pub(crate) former: Option<MemberName>,
    /// The newest term whose promotion went through, as far as was heard: payloads of older ones were fenced off, or ran
    /// out.
    pub(crate) promoted: Term,
    gated: VecDeque<(u64, Gated)>,
    outputs: VecDeque<Output>,
    pub(crate) directive: Directive,
    standing: Standing,
    pub(crate) stored_config: FleetConfig,
    /// When this leader, in Availability, was told of a configuration that another one wrote.
    pub(crate) told_config_at: Option<Instant>,
    /// As a voter in Quorum: what its promise means in time.
    pub(crate) pledge: Pledge,
    /// As a leader in Quorum.
    pub(crate) lease: Lease,
    deadline: Option<Instant>,
    pub(crate) vacancy: Option<Vacancy>,
    pub(crate) reservation: Option<Reservation>,
    /// A claim was granted: its candidate gets the time to announce itself.
    pub(crate) yielding: Option<(MemberName, Instant)>,
    /// No campaign before this.
    pub(crate) campaign_not_before: Option<Instant>,
    pub(crate) round: u64,
    /// The own lead that was released, and to whom, until a higher one is seen.
    pub(crate) released: Option<(Term, Option<MemberName>)>,
    /// Since when this member could take the lead from a worse-ranked leader.
    pub(crate) steady_since: Option<Instant>,
    /// As a standby: the leader refused until then.
    pub(crate) handover_refused: Option<(Instant, String)>,
    /// As a leader: no handover before then, and how long the next pause will be.
    pub(crate) handover_not_before: Option<Instant>,
    pub(crate) handover_backoff: Duration,
    /// To whom an operator gave the lead of this member: it is not asked to give it back.
    pub(crate) ceded_to: Option<MemberName>,
    /// How the payload does while this member leads, and how often it did not.
    pub(crate) gate: LeaderGate,
    /// How this process's last lead began.
    pub(crate) ascent: Option<Ascent>,
    pub(crate) operator: Operator,
    /// Recent meetings with another leader.
    pub(crate) heals: VecDeque<Instant>,
    /// The rival that was last told of.
    pub(crate) split_seen: Option<(MemberName, Term)>,
    pub(crate) stats: Stats,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<PlantedBug>,
}

impl Election {
    /// Starts a member. `seed` decides only jitter.
    pub fn new(config: Config, spec: Spec, restored: Restored, seed: u64, now: Instant) -> Self {
        let mut election = Self::before_start(config, spec, restored, seed, now);
        election.start();
        election
    }

    /// Starts a member with a bug. For the simulator's tests of its own checkers.
    #[cfg(feature = "planted-bugs")]
    pub fn with_bug(
        config: Config,
        spec: Spec,
        restored: Restored,
        seed: u64,
        now: Instant,
        bug: Option<PlantedBug>,
    ) -> Self {
        let forgets = |record| Record { vote: None, promise: None, term: Term::NONE, ..record };
        let restored = match bug {
            Some(PlantedBug::GrantsForgotten) => {
                Restored { record: restored.record.map(forgets), ..restored }
            }
            _ => restored,
        };
        let mut election = Self::before_start(config, spec, restored, seed, now);
        election.planted = bug;
        election.start();
        election
    }

    fn before_start(config: Config, spec: Spec, restored: Restored, seed: u64, now: Instant) -> Self {
        let Restored { record, found_running, known_peers, lapse } = restored;
        let may_vote = record.is_some();
        let listens = known_peers.is_empty();
        let mut record = record.unwrap_or_else(|| {
            Record::new(FleetConfig { version: ConfigVersion(0), ..spec.proposal.clone() })
        });
        record.version = 0;
        // Only who leads replaces one; but who left Quorum is bound by it, leading or not, until the voters know.
        let leaves_quorum = record.config.mode != Mode::Quorum;
        let binds = |old: &FleetConfig| leaves_quorum && old.mode == Mode::Quorum;
        record.replaced = record.replaced.filter(|old| record.held.is_some() || binds(old));
        record.forgotten.truncate(MAX_FORGOTTEN);
        let is_vacant = record.held.or(record.stopping).is_none()
            && record.leader.as_ref().is_none_or(|leader| *leader == config.name);
        record.released = record.released.filter(|term| is_vacant && *term <= record.term);
        let own = |vote: &Vote| vote.candidate == config.name && Some(vote.term) == record.released;
        if record.vote.as_ref().is_some_and(own) {
            // What it promised itself ended with that lead.
            record.promise = None;
        }
        // A payload that runs may be the last copy, whatever the record lacks: only the others can tell. What a
        // user wrote into an annotation is believed no more than a peer.
        let found = found_running.map(|t| if record.term.may_jump_to(t) { t } else { Term::NONE });
        let recorded = record.held.or(record.stopping).map(|term| Held { term, recorded: true });
        let held = recorded.or(found.map(|term| Held { term, recorded: false }));
        record.term = [record.held, record.stopping, found, record.vote.as_ref().map(|v| v.term)]
            .into_iter()
            .flatten()
            .fold(record.term, Term::max);
        if record.config.version == ConfigVersion(0) && !spec.witness {
            // No leader wrote it: it is this object's proposal, which may have changed.
            record.config = FleetConfig { version: ConfigVersion(0), ..spec.proposal.clone() };
        }
        let released = record.released.map(|term| (term, None));
        let pledge = Pledge::restored(record.promise, now);
        let stored_config = record.config.clone();
        let operator = Operator::restored(&stored_config);
        let leader = if held.is_some() { Some(config.name.clone()) } else { record.leader.clone() };
        // An own lead that ended is no lead to follow.
        let leader = leader.filter(|l| held.is_some() || *l != config.name);
        let peers = known_peers.into_iter().filter(|n| *n != config.name && !record.forgotten.contains(n));
        let peers = peers.take(MAX_PEERS).map(|n| (n.clone(), Peer::unresolved(n))).collect();
        let mut election = Self {
            me: config.name,
            spec,
            health: Health::default(),
            rng: Pcg32::seed_from_u64(seed),
            now,
            started: now,
            peers,
            stage: Stage::Joining(Joining { held }),
            moves: 0,
            leader_term: held.map_or(record.term, |h| h.term),
            leader_met: held.is_some(),
            former: leader.clone(),
            promoted: Term::NONE,
            leader,
            record,
            durable: 0,
            dirty: false,
            may_vote,
            listens,
            retired: None,
            gated: VecDeque::new(),
            outputs: VecDeque::new(),
            directive: Directive::Hold,
            standing: unknown_standing(),
            stored_config,
            told_config_at: None,
            pledge,
            lease: Lease::default(),
            deadline: None,
            vacancy: None,
            reservation: None,
            yielding: None,
            campaign_not_before: None,
            round: 0,
            released,
            steady_since: None,
            handover_refused: None,
            handover_not_before: None,
            handover_backoff: crate::handover::FIRST_BACKOFF,
            ceded_to: None,
            gate: LeaderGate::restored(lapse, now),
            ascent: None,
            operator,
            heals: VecDeque::new(),
            split_seen: None,
            stats: Stats::default(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        };
        if held.is_some() {
            election.mark_unconfirmed();
        }
        election
    }

    fn start(&mut self) {
        self.output(Output::Direct(Directive::Hold));
        self.evaluate();
    }

    /// Takes an input in. Outputs are to be polled afterwards.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = self.now.max(now);
        match input {
            // Told at every beat: it changes evidence only, never a decision.
            Input::Heard { member, at } => {
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.heard = Some(peer.heard.map_or(at, |h| h.max(at)));
                }
                return;
            }
            Input::Vouched { member, at } => return self.note_vouched(&member, at),
            Input::Peer(view) => self.on_peer(view),
            Input::Message { from, message } => self.on_message(&from, message),
            Input::Persisted(version) => self.durable = self.durable.max(version.min(self.record.version)),
            Input::Spec(spec) => self.on_spec(spec),
            Input::Health(health) => self.health = health,
            Input::Paused => self.on_paused(),
            Input::Promoted(term) => self.on_promoted(term),
            Input::DeletionBegan(term) => self.on_deletion_began(term),
            Input::PayloadStopped(term) => self.on_payload_stopped(term),
            Input::StopStuck { term, object } => self.on_stop_stuck(term, object),
            Input::StopRefused { term, because } => self.on_stop_refused(term, &because),
            Input::Admit(member) => self.on_admit(&member),
            Input::Forget(member) => self.on_forget(&member),
            Input::Retire(reason) => self.on_retire(reason),
            Input::HandOver { to, reason } => self.on_hand_over(to, reason),
            Input::Pause(pause) => self.on_pause(pause),
            Input::ForceLead { above, stopped } => self.on_force_lead(above, &stopped),
        }
        self.evaluate();
    }

    /// To be called when the deadline of [`Self::next_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.evaluate();
    }

    /// When [`Self::handle_timeout`] has to be called, if nothing happens before.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The next thing to do; to be called until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn evaluate(&mut self) {
        for _ in 0..MAX_STEPS {
            self.deadline = None;
            let moves = self.moves;
            self.open_gates();
            match &self.stage {
                Stage::Joining(joining) => self.step_joining(*joining),
                Stage::Standby => self.step_standby(),
                Stage::Candidate(campaign) => self.step_campaign(*campaign),
                Stage::Leader(lead) => self.step_leader(*lead),
                Stage::Stopping(_) => self.step_stopping(),
            }
            self.step_config();
            self.step_operator();
            self.wake_for_caution();
            self.step_lapse();
            if self.moves == moves {
                break;
            }
        }
        if std::mem::take(&mut self.dirty) {
            let mut record = self.record.clone();
            if self.has(PlantedBug::TermForgotten) {
                record.term = record.held.unwrap_or_default();
            }
            self.outputs.push_back(Output::Persist(record));
        }
        let directive = self.wanted_directive();
        if directive != self.directive {
            self.directive = directive.clone();
            self.output(Output::Direct(directive));
        }
        let standing = self.standing();
        if standing != self.standing {
            self.standing = standing.clone();
            self.output(Output::Publish(standing));
        }
    }

    fn open_gates(&mut self) {
        while self.gated.front().is_some_and(|(version, _)| *version <= self.durable) {
            if let Some((_, gated)) = self.gated.pop_front() {
                self.open(gated);
            }
        }
    }

    fn open(&mut self, gated: Gated) {
        match gated {
            Gated::Grant { to, term } => self.tell_grant(&to, term, false),
            Gated::Renewed { to, term, seq } => self.tell_renewed(&to, term, seq),
            Gated::ConfigStored { version } => self.on_config_stored_here(version),
        }
    }

    fn on_spec(&mut self, spec: Spec) {
        if self.record.config.version == ConfigVersion(0) && !spec.witness {
            self.record.config = FleetConfig { version: ConfigVersion(0), ..spec.proposal.clone() };
            self.stored_config = self.record.config.clone();
        }
        if spec.rank != self.spec.rank {
            // A new rank is a newer wish than the switchover.
            self.ceded_to = None;
        }
        let rank = std::mem::replace(&mut self.spec, spec).rank;
        self.note_own_rank(rank);
    }

    /// The highest term to go on with after somebody named `term`; `None`: too far ahead to be true.
    pub(crate) fn believable(&self, term: Term) -> Option<Term> {
        self.record.term.may_jump_to(term).then(|| self.record.term.max(term))
    }

    /// Notes a term that somebody named. False: it cannot be true, and what came with it is not believed.
    pub(crate) fn see(&mut self, term: Term) -> bool {
        match self.believable(term) {
            Some(term) => {
                self.record.term = term;
                true
            }
            None => {
                self.stats.messages_ignored += 1;
                false
            }
        }
    }

    /// Makes the record durable as it is at the end of this evaluation. Returns its version.
    pub(crate) fn persist(&mut self) -> u64 {
        if !self.dirty {
            self.dirty = true;
            self.record.version += 1;
        }
        self.record.version
    }

    /// Persists, and does `then` once that is durable.
    pub(crate) fn persist_then(&mut self, then: Gated) {
        let version = self.persist();
        // Only the newest configuration counts, so at most one of these waits, whatever else does.
        if let Gated::ConfigStored { .. } = then {
            self.gated.retain(|(_, gated)| !matches!(gated, Gated::ConfigStored { .. }));
            self.gated.push_back((version, then));
        } else if let Gated::Renewed { to, .. } = &then {
            // Of one leader only the newest renewal counts.
            self.gated.retain(|(_, gated)| !matches!(gated, Gated::Renewed { to: of, .. } if of == to));
            self.gated.push_back((version, then));
        } else if let (Gated::Grant { .. }, true) = (&then, self.has(PlantedBug::GrantsUnrecorded)) {
            self.open(then);
        } else if self.gated.len() < MAX_GATED && !self.gated.iter().any(|(_, gated)| *gated == then) {
            self.gated.push_back((version, then));
        }
    }

    /// As [`Self::persist_then`], with the record that is under way already.
    pub(crate) fn gate_renewal(&mut self, renewed: Gated) {
        self.gated.retain(|(_, gated)| !matches!(gated, Gated::Renewed { .. }));
        self.gated.push_back((self.record.version, renewed));
    }

    pub(crate) fn is_durable(&self, version: u64) -> bool {
        self.durable >= version || self.has(PlantedBug::RunsUnrecorded)
    }

    /// Asks to be evaluated again at `at`.
    pub(crate) fn wake(&mut self, at: Instant) {
        if at > self.now {
            self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
        }
    }

    pub(crate) fn send(&mut self, to: &MemberName, message: Message) {
        self.output(Output::Send { to: to.clone(), message });
    }

    /// Sends what is state, at most once per `every` on one link. Without a link it is due when one comes up.
    /// Returns whether it was sent.
    pub(crate) fn send_paced(
        &mut self,
        to: &MemberName,
        kind: Paced,
        every: Duration,
        message: Message,
    ) -> bool {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(to).filter(|p| p.view.linked) else {
            return false;
        };
        let due = peer.due(kind, every, now);
        self.wake(due.err().unwrap_or(now + every));
        if due.is_ok() {
            self.send(to, message);
        }
        due.is_ok()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Up to `most` of random delay.
    pub(crate) fn jitter(&mut self, most: Duration) -> Duration {
        most.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }

    /// Names of the peers that `wanted` picks; a list, so that the caller may send while it walks.
    pub(crate) fn names(&self, wanted: impl Fn(&Peer) -> bool) -> Vec<MemberName> {
        let names: Vec<_> = self.peers.values().filter(|p| wanted(p)).map(|p| p.name().clone()).collect();
        if self.has(PlantedBug::HashOrder) {
            #[allow(clippy::disallowed_types, reason = "the disorder is the bug")]
            let random: std::collections::HashSet<MemberName> = names.into_iter().collect();
            return random.into_iter().collect();
        }
        names
    }
}

/// What others take a member for that has published nothing.
fn unknown_standing() -> Standing {
    let (role, term, config) = (Role::Joining, Term::NONE, ConfigVersion(0));
    let promoted = Term::NONE;
    Standing { role, term, leader: None, config, quorum: false, interrupted: false, failed: false, promoted }
}
