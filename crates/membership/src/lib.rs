//! Who is alive in a fleet, and what each member says of itself: failure detection by observers, refutation,
//! joining and leaving. Sans-IO: inputs and the time go in, outputs come out; it knows no sockets, no
//! elections and no Kubernetes.

mod answer;
mod beats;
mod config;
mod contest;
mod dial;
mod freshness;
mod growth;
mod identity;
mod io;
mod join;
mod links;
mod members;
mod planted;
mod query;
mod rings;
mod signed;
mod spread;
mod stats;
mod suspicion;
mod table;
mod timers;
mod topology;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use flagship_types::{CloseCode, Epoch, Incarnation, Instant, MemberName, Metadata};
use litemap::LiteMap;

pub use config::{Config, KnownMember, MAX_MEMBERS};
use config::{KEPT_OUTPUTS, MAX_OUTPUTS};
use dial::Dials;
use growth::Growth;
use identity::Standing;
pub use io::{
    Accusation, ConnectFailure, Echo, Event, Evidence, Input, LinkEnd, LinkId, Message, Output, PeerHello,
    Record, SelfState, State, Verdict,
};
use links::Link;
pub use members::MemberView;
use members::{is_said, placeholder};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(not(feature = "planted-bugs"))]
use planted::PlantedBug;
use rings::Slot;
pub use rings::{OBSERVERS, observers_of, ring_hash};
pub use signed::{Proof, Signed, SignedStatement, Statement};
use spread::Batch;
pub use stats::Stats;
use table::{SELF, Table};
use timers::{Timers, Who};

/// The membership core of one member.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    started: Instant,
    standing: Standing,
    epoch: Epoch,
    incarnation: Incarnation,
    version: u64,
    status: SelfState,
    /// When incarnation or epoch were raised last.
    raised_at: Option<Instant>,
    refute_due: Option<Instant>,
    /// When the epoch was raised on a peer's word last, and how long the next such raise waits.
    epoch_raised: Option<(Instant, Duration)>,
    /// Everybody, this member included. At most `MAX_MEMBERS`, and `MAX_LEFT` that are gone.
    table: Table,
    /// At most `MAX_LINKS_PER_PEER` for each member.
    links: LiteMap<LinkId, Box<Link>>,
    /// Links that are contested.
    contests: usize,
    /// Everybody is linked with everybody.
    mesh: bool,
    /// Whom election wants linked.
    required: BTreeSet<MemberName>,
    timers: Timers,
    dials: Dials,
    growth: Growth,
    batch: Batch,
    dials_dirty: bool,
    duties_dirty: bool,
    restagger: bool,
    touched_links: Vec<LinkId>,
    /// Peers that say that another process has our name.
    refusers: BTreeSet<MemberName>,
    next_query: u64,
    beat_origin: Instant,
    /// When slack was widened last because our own timers were late (rule 8).
    widened_at: Option<Instant>,
    /// When anybody was heard last.
    heard_anybody_at: Instant,
    /// When this process ran again after its last pause.
    resumed_at: Option<Instant>,
    outputs: VecDeque<Output>,
    stats: Stats,
}

impl Membership {
    /// A core that begins now. `known` are members from before; `metadata` is what this one says of itself.
    pub fn new(config: Config, metadata: Metadata, known: Vec<KnownMember>, seed: u64, now: Instant) -> Self {
        let mut dials = Dials::new(seed);
        // Members that start together do not beat together.
        let beat_origin = now + dials.draw(config.beat_interval);
        let mut core = Self {
            started: now,
            standing: Standing::Active,
            epoch: config.epoch,
            incarnation: Incarnation(0),
            version: 0,
            status: SelfState::Alive,
            raised_at: None,
            refute_due: None,
            epoch_raised: None,
            table: Table::new(placeholder(config.name.clone(), config.epoch, None)),
            links: LiteMap::new(),
            contests: 0,
            mesh: true,
            required: BTreeSet::new(),
            timers: Timers::default(),
            dials,
            growth: Growth::new(1, now),
            batch: Batch::default(),
            dials_dirty: true,
            duties_dirty: true,
            restagger: false,
            touched_links: Vec::new(),
            refusers: BTreeSet::new(),
            next_query: 0,
            beat_origin,
            widened_at: None,
            heard_anybody_at: now,
            resumed_at: None,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            config,
        };
        core.declare(metadata);
        core.table.extend(core.first_view(known));
        core.growth = Growth::new(core.table.counted(), now);
        core.settle(now);
        core
    }

    /// What is known at the start, each member once.
    fn first_view(&self, known: Vec<KnownMember>) -> Vec<Signed<Record>> {
        let left = |known: &KnownMember| known.record.as_ref().is_some_and(|r| r.status == SelfState::Left);
        let others = known.into_iter().filter(|known| known.name != self.config.name && !left(known));
        let record = |known: KnownMember| match known.record {
            Some(record) if record.member == known.name && record.epoch >= known.epoch => record,
            _ => placeholder(known.name, known.epoch, known.address),
        };
        let mut records: Vec<_> = others.take(MAX_MEMBERS - 1).map(record).collect();
        records.sort_by(|a, b| a.member.cmp(&b.member));
        records.dedup_by(|a, b| a.member == b.member);
        records
    }

    /// Takes an input. Outputs wait in [`Self::poll_output`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.notice_pause(now);
        match input {
            Input::Message { link, message } => self.message(link, message.into_inner(), now),
            other => self.order(other, now),
        }
        self.settle(now);
    }

    /// An input of those that are rare: apart, so that a beat does not pass through what they need.
    #[inline(never)]
    fn order(&mut self, input: Input, now: Instant) {
        match input {
            Input::LinkUp { link, hello, dialled } => self.link_up(link, hello.get(), dialled, now),
            Input::LinkDown { link, end } => self.link_down(link, end, now),
            Input::ConnectFailed { address, failure } => self.connect_failed(&address, failure, now),
            Input::Message { link, message } => self.message(link, message.into_inner(), now),
            Input::SetMetadata(metadata) => self.set_metadata(metadata),
            Input::SetSeeds(seeds) => {
                self.dials.set_seeds(seeds);
                self.dials_dirty = true;
            }
            Input::SetRequired(required) => {
                self.duties_dirty |= self.required != required;
                self.required = required;
            }
            Input::Signed(SignedStatement::Record(record)) => self.declared(record),
            Input::Signed(SignedStatement::Accusation(accusation)) => self.accuse(accusation, now),
            Input::Renewed => self.spread_record(),
            Input::Leave => self.leave(),
            Input::Away { grace } => self.go_away(grace),
            Input::Forget(name) => self.forget(&name, now),
            Input::SetSilenceFloor(floor) => self.config.silence_floor = floor,
        }
    }

    /// Does what is due. Called at [`Self::next_timeout`]; earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.notice_pause(now);
        if self.standing != Standing::Active {
            return;
        }
        if self.refute_due.is_some_and(|due| due <= now) {
            self.refute_now(now);
        }
        if self.batch.due.is_some_and(|due| due <= now) {
            self.flush_batch();
        }
        while let Some((at, who)) = self.timers.pop(now) {
            match who {
                Who::Member(slot) => {
                    if self.table.get_mut(slot).is_some_and(|member| member.armed.fires(at)) {
                        self.member_timeout(slot, now);
                    }
                }
                Who::Link(id) => {
                    if self.links.get_mut(&id).is_some_and(|link| link.armed.fires(at)) {
                        self.link_timeout(id, now);
                    }
                }
            }
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.standing != Standing::Active {
            return None;
        }
        let due = [self.timers.next(), self.refute_due, self.batch.due, self.dials.next_timeout()];
        due.into_iter().flatten().min()
    }

    /// The next thing to do, in order.
    #[inline]
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.outputs.capacity() > KEPT_OUTPUTS {
            self.outputs.shrink_to(KEPT_OUTPUTS);
        }
        self.outputs.pop_front()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What is believed of one member; of this member itself, what it says of itself.
    pub fn member(&self, name: &MemberName) -> Option<MemberView<'_>> {
        self.table.slot(name).map(|slot| self.view(slot))
    }

    /// All members, this one first, then the others in the order of names.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        let mut others: Vec<Slot> = self.table.slots().filter(|slot| *slot != SELF).collect();
        others.sort_unstable_by_key(|slot| self.table.name(*slot));
        std::iter::once(SELF).chain(others).map(|slot| self.view(slot))
    }

    /// The stream in use to a member.
    pub fn link_to(&self, name: &MemberName) -> Option<LinkId> {
        self.table.slot(name).and_then(|slot| self.table.get(slot)).and_then(|member| member.link)
    }

    /// The streams in use.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.table.details().filter_map(|(_, member)| member.link)
    }

    /// The member at the other end of a stream; `None` if it is not in use, contested included.
    pub fn peer_of(&self, link: LinkId) -> Option<&MemberName> {
        self.peer_slot(link).map(|slot| self.table.name(slot))
    }

    /// This member's epoch: the one given, or a later one after [`Event::EpochRaised`].
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// This member's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Hash of this view: equal in members that believe the same. Suspicions do not count, as they pass.
    pub fn view_hash(&self) -> u32 {
        self.table.view_hash()
    }

    /// Members that did not leave, this one included.
    pub fn size(&self) -> usize {
        self.table.counted()
    }

    fn peer_slot(&self, link: LinkId) -> Option<Slot> {
        self.links.get(&link).filter(|link| link.contested.is_none()).map(|link| link.peer)
    }

    fn own_state(&self) -> State {
        match self.status {
            SelfState::Alive => State::Alive,
            SelfState::Away { .. } => State::Away,
            SelfState::Left => State::Left,
        }
    }

    fn view(&self, slot: Slot) -> MemberView<'_> {
        let (record, member) = (self.table.record(slot), self.table.get(slot));
        MemberView {
            name: &record.member,
            state: if slot == SELF { self.own_state() } else { self.table.state(slot) },
            epoch: record.epoch,
            incarnation: record.incarnation,
            metadata: is_said(record).then_some(&record.metadata),
            link: member.and_then(|m| m.link),
            address: self.address_of(slot),
            rtt: member.and_then(|m| m.freshness.measured_rtt()),
            heard_at: member.and_then(|m| m.heard_at),
            evidence: member.and_then(|m| m.evidence),
            since: member.map_or(self.started, |m| m.since),
            replica_waits: member.is_some_and(|m| m.replica_waits),
        }
    }

    fn message(&mut self, id: LinkId, message: Message, now: Instant) {
        match message {
            Message::Beat { seq, echo, acked, view_hash } => {
                self.beat(id, (seq, echo, acked), view_hash, now);
            }
            Message::Ping { seq } => self.pinged(id, seq, now),
            Message::Echo(echo) => self.echoed(id, echo, now),
            other => self.news(id, other, now),
        }
    }

    /// A message of those that are not sent every second.
    #[inline(never)]
    fn news(&mut self, id: LinkId, message: Message, now: Instant) {
        let contested = self.links.get(&id).map(|link| link.contested.is_some());
        let may_speak =
            contested == Some(false) || matches!((contested, &message), (Some(_), Message::Record(_)));
        if !may_speak || self.standing != Standing::Active {
            self.stats.frames_ignored += 1;
            return;
        }
        match message {
            // Those that are.
            Message::Beat { .. } | Message::Ping { .. } | Message::Echo(_) => self.message(id, message, now),
            Message::Query { id: query, subject, epoch, deadline } => {
                self.queried(id, (query, subject, epoch), deadline, now);
            }
            Message::Answer { id: query, subject, verdict } => {
                self.answered(id, query, &subject, verdict, now);
            }
            Message::Accuse(accusation) => self.accused(id, &accusation, false, now),
            Message::Record(record) => self.record(id, record, now),
            Message::Delta { records, accusations } => {
                for record in records {
                    self.record(id, record, now);
                }
                for accusation in &accusations {
                    self.accused(id, accusation, true, now);
                }
            }
            Message::Digest { bits, answer, buckets } => self.digest(id, bits, answer, &buckets, now),
            Message::Unobserve => {
                if let Some(slot) = self.peer_slot(id) {
                    self.released(slot, now);
                }
            }
            Message::Known { epoch, incarnation, state } => self.told(id, epoch, incarnation, state, now),
            Message::Addresses(addresses) => self.addresses(addresses),
        }
    }

    /// Rule 8: own timers that fire late say that it is this process that was slow. After a pause all clocks
    /// begin anew, as the peers' frames wait in the sockets; a small delay is forgiven once per silence floor,
    /// so that a starved machine still detects.
    #[inline]
    fn notice_pause(&mut self, now: Instant) {
        // Nothing is overdue when a message comes, as a rule.
        if let Some(due) = self.next_timeout().filter(|due| *due < now) {
            self.were_late(now.since(due), now);
        }
    }

    #[inline(never)]
    fn were_late(&mut self, late: Duration, now: Instant) {
        let h = self.config.beat_interval;
        if late <= h / 4 || self.has(PlantedBug::PauseForgotten) {
            return;
        }
        let recently = self.widened_at.is_some_and(|at| now < at + self.config.silence_floor);
        self.stats.own_timers_late += 1;
        self.growth_is_slow(now);
        self.spare_new_subjects(now);
        if late > h {
            self.stats.pauses += 1;
        } else if recently {
            return;
        }
        self.widened_at = Some(now);
        for (_, member) in self.table.details_mut() {
            if late > h {
                member.restart_clocks(h, now);
            } else {
                member.not_late_before = member.not_late_before.max(now + member.freshness.slack());
            }
        }
        if late > h {
            self.resumed_at = Some(now);
            self.restart_links(now);
            self.dials.restart(now);
            self.refute_due = self.refute_due.map(|due| due.max(now));
        }
    }

    /// After every input: duties, dials, beats and deadlines follow what changed.
    #[inline]
    fn settle(&mut self, now: Instant) {
        let changed = self.duties_dirty || self.restagger || self.dials_dirty;
        let touched = !self.table.touched.is_empty() || !self.touched_links.is_empty();
        if changed || touched || self.dials.next_timeout().is_some_and(|due| due <= now) {
            self.follow_changes(now);
        }
    }

    fn follow_changes(&mut self, now: Instant) {
        if self.duties_dirty {
            self.refresh_duties(now);
        }
        if self.restagger {
            self.stagger();
        }
        if self.dials_dirty {
            self.refresh_dials(now);
        }
        while let Some(address) = self.dials.take_due(now) {
            self.stats.dials += 1;
            self.output(Output::Connect { address });
        }
        self.enter_deadlines();
    }

    /// Enters the deadlines of what was touched.
    fn enter_deadlines(&mut self) {
        let h = self.config.beat_interval;
        while let Some(slot) = self.table.touched.pop() {
            let state = self.table.state(slot);
            if let Some(member) = self.table.untouch(slot) {
                let deadline = member.next_timeout(state, h);
                self.timers.arm(Who::Member(slot), &mut member.armed, deadline);
            }
        }
        while let Some(id) = self.touched_links.pop() {
            let Some(link) = self.links.get(&id) else { continue };
            let deadline = self.link_deadline(link);
            if let Some(link) = self.links.get_mut(&id) {
                link.touched = false;
                self.timers.arm(Who::Link(id), &mut link.armed, Some(deadline));
            }
        }
    }

    #[inline]
    fn output(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push_back(output);
        } else {
            self.stats.queue_full += 1;
        }
    }

    #[inline]
    fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    #[inline]
    fn send(&mut self, link: LinkId, message: Message) {
        self.output(Output::Send { link, message });
    }

    fn disconnect(&mut self, link: LinkId, code: CloseCode) {
        self.output(Output::Disconnect { link, code });
    }

    fn is_full(&self) -> bool {
        self.table.counted() >= MAX_MEMBERS
    }
}
