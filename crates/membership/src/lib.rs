//! Who is alive in a fleet, and what each member says of itself: failure detection by observers, refutation,
//! joining and leaving. Sans-IO: inputs and the time go in, outputs come out; it knows no sockets, no
//! elections and no Kubernetes.

mod config;
mod contest;
mod dial;
mod freshness;
mod identity;
mod io;
mod join;
mod links;
mod members;
mod signed;
mod stats;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flagship_types::{CloseCode, Epoch, Incarnation, Instant, MemberName, Metadata};

pub use config::{Config, KnownMember};
use config::{MAX_LEFT, MAX_MEMBERS, MAX_OUTPUTS};
use dial::Dials;
use identity::Standing;
pub use io::{
    Accusation, ConnectFailure, Echo, Event, Evidence, Input, LinkEnd, LinkId, Message, Output, PeerHello,
    Record, SelfState, State, Verdict,
};
use links::Link;
pub use members::MemberView;
pub use signed::{Proof, Signed, SignedStatement, Statement};
use members::{Member, view_hash};
pub use stats::Stats;

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
    metadata: Metadata,
    /// When incarnation or epoch were raised last.
    raised_at: Option<Instant>,
    refute_above: Incarnation,
    refute_due: Option<Instant>,
    /// All others. At most `MAX_MEMBERS` less this one, and `MAX_LEFT` that are gone.
    members: BTreeMap<MemberName, Member>,
    /// At most `MAX_LINKS_PER_PEER` for each member.
    links: BTreeMap<LinkId, Link>,
    dials: Dials,
    dials_dirty: bool,
    restagger: bool,
    /// Peers that say that another process has our name.
    refusers: BTreeSet<MemberName>,
    next_query: u64,
    view_hash: u32,
    beat_origin: Instant,
    /// When slack was widened last because our own timers were late (rule 8).
    widened_at: Option<Instant>,
    outputs: VecDeque<Output>,
    due: Vec<LinkId>,
    due_members: Vec<MemberName>,
    stats: Stats,
}

impl Membership {
    /// A core that begins now. `known` are members from before; `metadata` is what this one says of itself.
    pub fn new(config: Config, metadata: Metadata, known: Vec<KnownMember>, seed: u64, now: Instant) -> Self {
        let mut dials = Dials::new(seed);
        // Members that start together do not beat together.
        let beat_origin = now + dials.draw(config.beat_interval);
        let others = known.into_iter().filter(|known| known.name != config.name);
        let members = others
            .take(MAX_MEMBERS - 1)
            .map(|known| (known.name, Member::new(known.epoch, known.address, now)))
            .collect();
        let mut core = Self {
            started: now,
            standing: Standing::Active,
            epoch: config.epoch,
            incarnation: Incarnation(0),
            version: 1,
            status: SelfState::Alive,
            metadata,
            raised_at: None,
            refute_above: Incarnation(0),
            refute_due: None,
            members,
            links: BTreeMap::new(),
            dials,
            dials_dirty: true,
            restagger: false,
            refusers: BTreeSet::new(),
            next_query: 0,
            view_hash: 0,
            beat_origin,
            widened_at: None,
            outputs: VecDeque::new(),
            due: Vec::new(),
            due_members: Vec::new(),
            stats: Stats::default(),
            config,
        };
        core.rehash();
        core.settle(now);
        core
    }

    /// Takes an input. Outputs wait in [`Self::poll_output`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.notice_pause(now);
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
            Input::SetRequired(_) | Input::Signed(_) => {}
            Input::Leave => self.leave(),
            Input::Away { grace } => self.go_away(grace),
            Input::Forget(name) => self.forget(&name, now),
            Input::SetSilenceFloor(floor) => self.config.silence_floor = floor,
        }
        self.settle(now);
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
        self.link_timeouts(now);
        let h = self.config.beat_interval;
        let mut due = std::mem::take(&mut self.due_members);
        due.clear();
        let overdue = |m: &Member| m.next_timeout(h).is_some_and(|at| at <= now);
        due.extend(self.members.iter().filter(|(_, m)| overdue(m)).map(|(name, _)| name.clone()));
        for name in due.drain(..) {
            self.member_timeout(&name, now);
        }
        self.due_members = due;
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.standing != Standing::Active {
            return None;
        }
        let h = self.config.beat_interval;
        let links = self.links.values().map(|link| self.link_timeout(link)).min();
        let members = self.members.values().filter_map(|m| m.next_timeout(h)).min();
        [self.refute_due, links, members, self.dials.next_timeout()].into_iter().flatten().min()
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What is believed of one member; of this member itself, what it says of itself.
    pub fn member(&self, name: &MemberName) -> Option<MemberView<'_>> {
        match *name == self.config.name {
            true => Some(self.own_view()),
            false => self.members.get_key_value(name).map(|(name, member)| MemberView::of(name, member)),
        }
    }

    /// All members, this one first, then the others in the order of names.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        let others = self.members.iter().map(|(name, member)| MemberView::of(name, member));
        std::iter::once(self.own_view()).chain(others)
    }

    /// The stream in use to a member.
    pub fn link_to(&self, name: &MemberName) -> Option<LinkId> {
        self.members.get(name).and_then(|member| member.link)
    }

    /// The member at the other end of a stream; `None` if it is not in use, contested included.
    pub fn peer_of(&self, link: LinkId) -> Option<&MemberName> {
        self.links.get(&link).filter(|link| link.contested.is_none()).map(|link| &link.peer)
    }

    /// This member's epoch: the one given, or a later one after [`Event::EpochRaised`].
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// This member's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Hash of this view: equal in members that believe the same.
    pub fn view_hash(&self) -> u32 {
        self.view_hash
    }

    fn own_state(&self) -> State {
        match self.status {
            SelfState::Alive => State::Alive,
            SelfState::Away { .. } => State::Away,
            SelfState::Left => State::Left,
        }
    }

    fn own_view(&self) -> MemberView<'_> {
        MemberView {
            name: &self.config.name,
            state: self.own_state(),
            epoch: self.epoch,
            incarnation: self.incarnation,
            metadata: Some(&self.metadata),
            link: None,
            address: self.metadata.address.as_ref(),
            rtt: None,
            heard_at: None,
            evidence: None,
            since: self.started,
            replica_waits: false,
        }
    }

    fn message(&mut self, id: LinkId, message: Message, now: Instant) {
        let contested = self.links.get(&id).map(|link| link.contested.is_some());
        let may_speak =
            contested == Some(false) || matches!((contested, &message), (Some(_), Message::Record(_)));
        if !may_speak || self.standing != Standing::Active {
            self.stats.frames_ignored += 1;
            return;
        }
        match message {
            Message::Beat { seq, echo, acked: _, view_hash: _ } => {
                if self.receive(id, seq, now) {
                    self.stats.beats_received += 1;
                    match echo {
                        Some(echo) => self.echoed(id, echo, true, now),
                        None => self.stats.beats_unproven += 1,
                    }
                }
            }
            Message::Ping { seq } => {
                if self.receive(id, seq, now) {
                    self.send(id, Message::Echo(Echo { seq, delay: std::time::Duration::ZERO }));
                }
            }
            Message::Echo(echo) => self.echoed(id, echo, false, now),
            Message::Query { id: query, subject, epoch, deadline } => {
                self.queried(id, (query, subject, epoch), deadline, now);
            }
            Message::Answer { id: query, subject, verdict } => {
                self.answered(id, query, &subject, verdict, now);
            }
            Message::Accuse(accusation) if accusation.subject == self.config.name => {
                if accusation.epoch == self.epoch {
                    self.refute(id, accusation.incarnation, now);
                }
            }
            Message::Accuse(accusation) => self.accused(id, &accusation, now),
            Message::Record(record) => self.record(id, (*record).clone(), now),
            Message::Known { epoch, incarnation, state } => self.told(id, epoch, incarnation, state, now),
            Message::Addresses(addresses) => self.addresses(addresses),
            Message::Delta { .. } | Message::Digest { .. } | Message::Unobserve => {}
        }
    }

    /// Rule 8: own timers that fire late say that it is this process that was slow. After a pause all clocks
    /// begin anew, as the peers' frames wait in the sockets; a small delay is forgiven once per silence floor,
    /// so that a starved machine still detects.
    fn notice_pause(&mut self, now: Instant) {
        let h = self.config.beat_interval;
        let Some(late) = self.next_timeout().map(|due| now.since(due)) else { return };
        if late <= h / 4 {
            return;
        }
        let recently = self.widened_at.is_some_and(|at| now < at + self.config.silence_floor);
        self.stats.own_timers_late += 1;
        if late > h {
            self.stats.pauses += 1;
        } else if recently {
            return;
        }
        self.widened_at = Some(now);
        for member in self.members.values_mut() {
            if late > h {
                member.restart_clocks(h, now);
            } else {
                member.not_late_before = member.not_late_before.max(now + member.freshness.slack(h));
            }
        }
        if late > h {
            self.restart_links(now);
            self.dials.restart(now);
            self.refute_due = self.refute_due.map(|due| due.max(now));
        }
    }

    /// After every input: dials and beats follow what changed.
    fn settle(&mut self, now: Instant) {
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
    }

    fn output(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push_back(output);
        } else {
            self.stats.queue_full += 1;
        }
    }

    fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    fn send(&mut self, link: LinkId, message: Message) {
        self.output(Output::Send { link, message });
    }

    /// Sends to every member that has a link.
    fn send_all(&mut self, message: &Message) {
        let links: Vec<LinkId> = self.members.values().filter_map(|m| m.link).collect();
        for link in links {
            self.send(link, message.clone());
        }
    }

    fn disconnect(&mut self, link: LinkId, code: CloseCode) {
        self.output(Output::Disconnect { link, code });
    }

    fn rehash(&mut self) {
        let own = (&self.config.name, self.epoch, self.incarnation, self.own_state());
        let others = self.members.iter().map(|(name, m)| (name, m.epoch, m.incarnation, m.state));
        // In the order of names, this member in its place.
        let before = others.clone().take_while(|(name, ..)| **name < self.config.name);
        let after = others.skip_while(|(name, ..)| **name < self.config.name);
        self.view_hash = view_hash(before.chain([own]).chain(after));
    }

    fn changed(&mut self, name: &MemberName) {
        self.rehash();
        self.event(Event::Changed(name.clone()));
    }

    /// The only way to another state of a member.
    fn become_state(&mut self, name: &MemberName, state: State, evidence: Option<Evidence>, now: Instant) {
        let Some(member) = self.members.get_mut(name) else { return };
        member.become_state(state, evidence, now);
        self.dials_dirty = true;
        self.changed(name);
        // Of those that left, the longest gone is forgotten.
        let left = self.members.iter().filter(|(_, m)| m.state == State::Left);
        if state == State::Left
            && left.clone().count() > MAX_LEFT
            && let Some(oldest) = left.min_by_key(|(_, m)| m.since).map(|(name, _)| name.clone())
        {
            self.members.remove(&oldest);
            self.changed(&oldest);
        }
    }

    fn is_full(&self) -> bool {
        self.members.values().filter(|m| m.counts()).count() + 1 >= MAX_MEMBERS
    }
}
