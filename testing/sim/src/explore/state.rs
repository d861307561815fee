//! One state of a small fleet, and what can happen in it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::hash::Hasher;
use std::time::Duration;

use flagship_election::ResignReason;
use flagship_election::{
    Config, Directive, Election, Input, Message, Output, PeerView, Permit, Presence, Record, Restored, Spec,
    Standing,
};
use flagship_types::{FleetConfig, Health, Instant, MemberName, Metadata, Mode, Rank, Role, Term};
use siphasher::sip::SipHasher13;

/// A small fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Members with their ranks. The first one may found alone.
    pub ranks: Vec<i64>,
    /// Which of them votes and never leads.
    pub witness: Option<usize>,
    /// What all objects propose.
    pub config: FleetConfig,
    /// A bug in every core.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<flagship_election::PlantedBug>,
}

/// How often what is not bounded by itself may happen on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Crashes.
    pub crashes: u8,
    /// Messages lost.
    pub losses: u8,
    /// Members taken for Down although they live.
    pub mistakes: u8,
}

/// Something that may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The next of what the first sent to the second arrives.
    Deliver(usize, usize),
    /// It does not.
    Lose(usize, usize),
    /// The member's earliest timeout fires.
    Timeout(usize),
    /// Its record becomes durable, and it learns so.
    Stored(usize),
    /// Its payload is gone, as it was told to see to.
    Deleted(usize),
    /// Its process ends; a write under way has landed (`true`) or not.
    Crash(usize, bool),
    /// It starts again.
    Restart(usize),
    /// The first takes the second for Down.
    Notice(usize, usize),
    /// The two have a link (again) and see each other.
    Meet(usize, usize),
}

#[derive(Debug, Clone)]
enum Item {
    Message(Message),
    Said(Metadata),
}

#[derive(Debug, Clone)]
struct Node {
    core: Option<Election>,
    now: Instant,
    pending: Option<Record>,
    durable: Option<Record>,
    metadata: Metadata,
    /// The payload that is there.
    payload: Option<Term>,
    /// Found by the present process: it may only be completed.
    found_stopping: Option<Term>,
    /// The highest term that was ever durable.
    stored_term: Term,
}

/// A state.
#[derive(Debug, Clone)]
pub struct State {
    fleet: std::rc::Rc<Fleet>,
    nodes: Vec<Node>,
    /// What is on its way.
    wires: BTreeMap<(usize, usize), VecDeque<Item>>,
    /// Whether the first has a link to the second, by its own view.
    linked: Vec<Vec<bool>>,
    /// Whether the first takes the second for Down.
    down: Vec<Vec<bool>>,
    left: Budget,
    /// Durable grants: (voter, term) to whom.
    grants: BTreeMap<(usize, Term), MemberName>,
    /// Who ran the payload first in a term.
    ran: BTreeMap<Term, usize>,
    /// Somebody was taken for Down although it lived, so that two may lead in Availability.
    mistaken: bool,
    violation: Option<String>,
}

/// So many messages of a pair are on their way at most: TCP would let more wait, an election never sends so many.
const MOST_ON_A_WIRE: usize = 8;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn name(node: usize) -> MemberName {
    MemberName::new(NAMES[node]).expect("valid")
}

impl State {
    /// All start at once, linked with each other.
    pub fn start(fleet: Fleet, budget: Budget) -> Self {
        let count = fleet.ranks.len();
        let mut state = Self {
            nodes: (0..count).map(|node| Node::new(&fleet, node)).collect(),
            fleet: std::rc::Rc::new(fleet),
            wires: BTreeMap::new(),
            linked: vec![vec![false; count]; count],
            down: vec![vec![false; count]; count],
            left: budget,
            grants: BTreeMap::new(),
            ran: BTreeMap::new(),
            mistaken: false,
            violation: None,
        };
        for node in 0..count {
            state.boot(node);
        }
        for a in 0..count {
            for b in a + 1..count {
                state.meet(a, b);
            }
        }
        state
    }

    /// Lets everything happen in order, without faults, until `until` holds. False: it did not within `steps`.
    pub fn settle(&mut self, steps: usize, until: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..steps {
            let Some(action) = self.orderly() else { return until(self) };
            if !matches!(action, Action::Timeout(_)) || !until(self) {
                self.apply(action);
            } else {
                return true;
            }
        }
        false
    }

    /// The leader is gone, everybody else knows, and the first of them is about to ask for the lead.
    pub fn lose_leader(&mut self, steps: usize) -> bool {
        let [leader] = self.leaders()[..] else { return false };
        let crashes = self.left.crashes;
        self.left.crashes = 1;
        self.apply(Action::Crash(leader, false));
        self.left.crashes = crashes;
        for other in (0..self.nodes.len()).filter(|other| *other != leader) {
            self.apply(Action::Notice(other, leader));
        }
        let asks = |state: &Self| {
            let role = |node: &Node| node.core.as_ref().map(Election::role);
            state.nodes.iter().any(|node| role(node) == Some(Role::Candidate))
        };
        for _ in 0..steps {
            if asks(self) {
                return true;
            }
            let Some(action) = self.orderly() else { return false };
            self.apply(action);
        }
        false
    }

    /// What an undisturbed fleet does next: all that is on its way, then the earliest timeout.
    fn orderly(&self) -> Option<Action> {
        let actions = self.actions();
        let calm =
            |action: &&Action| matches!(action, Action::Deliver(..) | Action::Stored(_) | Action::Deleted(_));
        let next = actions.iter().find(calm).copied();
        next.or_else(|| {
            let due = |node: usize| self.nodes[node].core.as_ref().and_then(Election::next_timeout);
            let earliest =
                (0..self.nodes.len()).filter(|node| due(*node).is_some()).min_by_key(|n| due(*n))?;
            Some(Action::Timeout(earliest))
        })
    }

    /// Members that lead and run the payload.
    pub fn leaders(&self) -> Vec<usize> {
        let leads = |node: &usize| {
            let node = &self.nodes[*node];
            node.payload.is_some() && node.core.as_ref().is_some_and(|core| core.role() == Role::Leader)
        };
        (0..self.nodes.len()).filter(leads).collect()
    }

    /// What does not hold.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// All that may happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut out = Vec::new();
        for ((from, to), wire) in &self.wires {
            if let Some(first) = wire.front() {
                out.push(Action::Deliver(*from, *to));
                if self.left.losses > 0 && matches!(first, Item::Message(_)) {
                    out.push(Action::Lose(*from, *to));
                }
            }
        }
        // Where clocks are one, a write takes no time, though anything else may come before it.
        let writing = self.nodes.iter().any(|node| node.core.is_some() && node.pending.is_some());
        let earliest = self.nodes.iter().filter_map(|n| n.core.as_ref()?.next_timeout()).min();
        for (i, node) in self.nodes.iter().enumerate() {
            let Some(core) = &node.core else {
                out.push(Action::Restart(i));
                continue;
            };
            if node.pending.is_some() {
                out.push(Action::Stored(i));
            }
            let due = core.next_timeout();
            if due.is_some() && (self.clocks_differ() || (due == earliest && !writing)) {
                out.push(Action::Timeout(i));
            }
            if node.payload.is_some() && deletes(core) {
                out.push(Action::Deleted(i));
            }
            if self.left.crashes > 0 {
                out.push(Action::Crash(i, false));
                if node.pending.is_some() {
                    out.push(Action::Crash(i, true));
                }
            }
        }
        self.pairs(&mut out);
        out
    }

    fn pairs(&self, out: &mut Vec<Action>) {
        let count = self.nodes.len();
        for a in 0..count {
            for b in 0..count {
                if a == b || self.nodes[a].core.is_none() {
                    continue;
                }
                let lives = self.nodes[b].core.is_some();
                if !self.down[a][b] && (!lives || !self.linked[b][a] || self.left.mistakes > 0) {
                    out.push(Action::Notice(a, b));
                }
                if a < b && lives && !(self.linked[a][b] && self.linked[b][a]) {
                    out.push(Action::Meet(a, b));
                }
            }
        }
    }

    /// In Availability nothing rests on time, so clocks may go as they like.
    fn clocks_differ(&self) -> bool {
        self.fleet.config.mode == Mode::Availability
    }

    /// Makes it happen.
    pub fn apply(&mut self, action: Action) {
        match action {
            Action::Deliver(from, to) => self.deliver(from, to),
            Action::Lose(from, to) => {
                self.left.losses -= 1;
                self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front);
            }
            Action::Timeout(node) => self.timeout(node),
            Action::Stored(node) => {
                if let Some(version) = self.store(node) {
                    self.input(node, Input::Persisted(version));
                }
            }
            Action::Deleted(node) => self.deleted(node),
            Action::Crash(node, landed) => {
                self.left.crashes -= 1;
                if landed {
                    self.store(node);
                }
                self.nodes[node].core = None;
                self.nodes[node].pending = None;
                for other in 0..self.nodes.len() {
                    self.linked[node][other] = false;
                    self.down[node][other] = false;
                    self.wires.remove(&(node, other));
                    self.wires.remove(&(other, node));
                }
            }
            Action::Restart(node) => self.boot(node),
            Action::Notice(a, b) => {
                if self.nodes[b].core.is_some() && self.linked[b][a] {
                    self.left.mistakes -= 1;
                    self.mistaken = true;
                }
                self.linked[a][b] = false;
                self.down[a][b] = true;
                self.wires.remove(&(a, b));
                self.tell_view(a, b);
            }
            Action::Meet(a, b) => self.meet(a, b),
        }
        self.wires.retain(|_, wire| !wire.is_empty());
    }

    fn timeout(&mut self, node: usize) {
        let Some(at) = self.nodes[node].core.as_ref().and_then(Election::next_timeout) else { return };
        let differ = self.clocks_differ();
        for (i, other) in self.nodes.iter_mut().enumerate() {
            if i == node || !differ {
                other.now = other.now.max(at);
            }
        }
        let now = self.nodes[node].now;
        if let Some(core) = &mut self.nodes[node].core {
            core.handle_timeout(now);
        }
        self.drain(node);
    }

    fn deleted(&mut self, node: usize) {
        let Some(core) = &self.nodes[node].core else { return };
        let directive = core.directive().clone();
        if let Directive::Stop { term, .. } = directive {
            let payload = self.nodes[node].payload.take();
            self.input(node, Input::DeletionBegan(term));
            if !self.nodes[node].core.as_ref().is_some_and(deletes) {
                self.nodes[node].payload = payload;
                return;
            }
            self.input(node, Input::PayloadStopped(term));
        } else {
            self.nodes[node].payload = None;
        }
    }

    fn boot(&mut self, node: usize) {
        let count = self.nodes.len();
        let spec = self.fleet.spec(node);
        let known_peers = (0..count).filter(|peer| *peer != node).map(name).collect();
        let me = &mut self.nodes[node];
        // A member that never stored anything knows nobody either.
        let known_peers = if me.durable.is_some() { known_peers } else { Vec::new() };
        me.found_stopping = me.durable.as_ref().and_then(|record| record.stopping);
        let restored =
            Restored { record: me.durable.clone(), found_running: me.payload, known_peers, lapse: None };
        let config = Config { name: name(node) };
        #[cfg(not(feature = "planted-bugs"))]
        let core = Election::new(config, spec, restored, node as u64, me.now);
        #[cfg(feature = "planted-bugs")]
        let core = Election::with_bug(config, spec, restored, node as u64, me.now, self.fleet.planted);
        me.core = Some(core);
        me.metadata = self.fleet.metadata(node);
        self.input(node, Input::Health(self.health(node)));
    }

    fn health(&self, node: usize) -> Health {
        health(self.nodes[node].payload.is_some())
    }

    fn meet(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.wires.remove(&(from, to));
            self.linked[from][to] = true;
            self.down[from][to] = false;
        }
        self.tell_view(a, b);
        self.tell_view(b, a);
    }

    /// Tells `a` how it sees `b`.
    fn tell_view(&mut self, a: usize, b: usize) {
        let presence = if self.down[a][b] { Presence::Down } else { Presence::Present };
        let linked = self.linked[a][b];
        let metadata = linked.then(|| self.nodes[b].metadata.clone());
        let view = PeerView { name: name(b), presence, metadata, exited: self.down[a][b], linked };
        self.input(a, Input::Peer(view));
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let Some(item) = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return };
        if !self.linked[to][from] {
            return;
        }
        match item {
            Item::Message(message) => self.input(to, Input::Message { from: name(from), message }),
            Item::Said(metadata) => {
                let (presence, linked) = (Presence::Present, true);
                let metadata = Some(metadata);
                let view = PeerView { name: name(from), presence, metadata, exited: false, linked };
                self.input(to, Input::Peer(view));
            }
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        let now = self.nodes[node].now;
        if let Some(core) = &mut self.nodes[node].core {
            core.handle(input, now);
        }
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].core.as_mut().and_then(Election::poll_output) {
            match output {
                Output::Persist(record) => self.nodes[node].pending = Some(record),
                Output::Send { to, message } => {
                    if let Some(to) = (0..self.nodes.len()).find(|peer| name(*peer) == to) {
                        self.put(node, to, Item::Message(message));
                    }
                }
                Output::Direct(_) => self.run(node),
                Output::Publish(standing) => self.publish(node, standing),
                Output::Event(_) => {}
            }
        }
        self.run(node);
        self.hurry(node);
        self.check_leases(node);
        let illegal = self.nodes[node].core.as_ref().is_some_and(|core| core.stats().illegal_moves > 0);
        if illegal {
            self.violated(format!("{} made an illegal move", NAMES[node]));
        }
    }

    /// A lost lease: the payload is gone at once, as far as time goes here.
    fn hurry(&mut self, node: usize) {
        let lost = |core: &Election| {
            matches!(core.directive(), Directive::Stop { reason: ResignReason::LeaseLost, .. })
        };
        if self.nodes[node].payload.is_some() && self.nodes[node].core.as_ref().is_some_and(lost) {
            self.deleted(node);
        }
    }

    fn check_leases(&mut self, node: usize) {
        let holds = |node: &Node| {
            let core = node.core.as_ref()?;
            let leads = matches!(core.role(), Role::Leader | Role::Stopping);
            core.lease_until().filter(|until| leads && *until > node.now)
        };
        if self.clocks_differ() || holds(&self.nodes[node]).is_none() {
            return;
        }
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        if let Some(other) = others.into_iter().find(|other| holds(&self.nodes[*other]).is_some()) {
            self.violated(format!("{} and {} both have a lease", NAMES[node], NAMES[other]));
        }
    }

    fn put(&mut self, from: usize, to: usize, item: Item) {
        if !self.linked[from][to] || !self.linked[to][from] {
            return;
        }
        let wire = self.wires.entry((from, to)).or_default();
        // Only the newest word of a member about itself counts.
        if let (Item::Said(_), Some(Item::Said(_))) = (&item, wire.back()) {
            wire.pop_back();
        }
        if wire.len() < MOST_ON_A_WIRE {
            wire.push_back(item);
        }
    }

    fn publish(&mut self, node: usize, standing: Standing) {
        let metadata = &mut self.nodes[node].metadata;
        metadata.role = standing.role;
        metadata.term = standing.term;
        metadata.leader = standing.leader;
        metadata.config = standing.config;
        metadata.interrupted = standing.interrupted;
        self.say(node);
    }

    fn say(&mut self, node: usize) {
        let metadata = self.nodes[node].metadata.clone();
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            self.put(node, to, Item::Said(metadata.clone()));
        }
    }

    /// The worker applies at once what it may.
    fn run(&mut self, node: usize) {
        let me = &self.nodes[node];
        let Some(core) = &me.core else { return };
        let Directive::Run { term, .. } = *core.directive() else { return };
        if core.permit(me.now) != Some(Permit::Apply { term }) || me.payload == Some(term) {
            return;
        }
        let held = me.durable.as_ref().and_then(|record| record.held);
        if held.is_none_or(|held| held < term) {
            self.violated(format!("{} writes under term {term}, and has stored {held:?}", NAMES[node]));
        }
        if self.nodes[node].found_stopping == Some(term) {
            self.violated(format!("{} resumes term {term}, which it found stopping", NAMES[node]));
        }
        let first = *self.ran.entry(term).or_insert(node);
        let quorum = self.fleet.config.mode == Mode::Quorum;
        if first != node && (quorum || !self.mistaken) {
            self.violated(format!("{} and {} run in term {term}", NAMES[first], NAMES[node]));
        }
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        let beside = others.into_iter().find(|other| {
            let other_node = &self.nodes[*other];
            let seen = quorum || !self.down[node][*other];
            other_node.payload.is_some() && other_node.core.is_some() && seen
        });
        let excused = self.mistaken && !quorum;
        if let (Some(other), true) = (beside, self.nodes[node].payload.is_none() && !excused) {
            self.violated(format!("{} starts its payload beside that of {}", NAMES[node], NAMES[other]));
        }
        self.nodes[node].payload = Some(term);
        if !self.nodes[node].metadata.health.payload_ready {
            let health = self.health(node);
            self.nodes[node].metadata.health = health;
            self.say(node);
            self.input(node, Input::Health(health));
        }
    }

    /// What waits becomes durable. Returns its version.
    fn store(&mut self, node: usize) -> Option<u64> {
        let record = self.nodes[node].pending.take()?;
        let version = record.version;
        if let Some(vote) = &record.vote {
            let first = self.grants.entry((node, vote.term)).or_insert_with(|| vote.candidate.clone());
            if *first != vote.candidate {
                let text = format!(
                    "{} granted term {} to {first}, then to {}",
                    NAMES[node], vote.term, vote.candidate
                );
                self.violated(text);
            }
        }
        if record.term < self.nodes[node].stored_term {
            self.violated(format!("the term that {} stored went back", NAMES[node]));
        }
        self.nodes[node].stored_term = record.term;
        self.nodes[node].durable = Some(record);
        Some(version)
    }

    fn violated(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// A number of this state. Two states with one number are taken for one.
    pub fn fingerprint(&self) -> u64 {
        struct Text(SipHasher13);
        impl std::fmt::Write for Text {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut text = Text(SipHasher13::new());
        // The text of everything but counters, which change nothing.
        let _ = write!(text, "{:?}{:?}{:?}{:?}", self.wires, self.linked, self.down, self.left);
        for node in &self.nodes {
            let core = node.core.as_ref().map(Election::without_counters);
            let _ = write!(text, "{core:?}{:?}{:?}{:?}", node.pending, node.durable, node.payload);
        }
        text.0.finish()
    }
}

fn health(payload_ready: bool) -> Health {
    Health { api: true, payload_valid: true, payload_ready, gates: true, failed: false }
}

/// Told to see that the payload is not there, and permitted to.
fn deletes(core: &Election) -> bool {
    matches!(core.directive(), Directive::Stop { .. } | Directive::Absent)
}

impl Fleet {
    /// Members of these ranks, in Availability.
    pub fn new(ranks: &[i64]) -> Self {
        // A handover to a better rank, and a restart, take no time of their own.
        let config = FleetConfig {
            failback_delay: Duration::ZERO,
            restart_grace: Duration::from_secs(3),
            ..FleetConfig::default()
        };
        Self {
            ranks: ranks.to_vec(),
            witness: None,
            config,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// The same in Quorum: all vote, the last one may be a witness.
    pub fn in_quorum(self, witness: bool) -> Self {
        let count = self.ranks.len();
        let voters = (0..count).map(name).collect();
        let config = FleetConfig { mode: Mode::Quorum, voters, ..self.config };
        Self { config, witness: witness.then_some(count - 1), ..self }
    }

    fn spec(&self, node: usize) -> Spec {
        Spec {
            rank: Rank(self.ranks[node]),
            ready: node == 0,
            candidate: self.witness != Some(node),
            witness: self.witness == Some(node),
            suspended: false,
            fences: false,
            promote_timeout: None,
            proposal: self.config.clone(),
        }
    }

    fn metadata(&self, node: usize) -> Metadata {
        Metadata {
            address: None,
            rank: Rank(self.ranks[node]),
            candidate: self.witness != Some(node),
            health: health(false),
            role: Role::Joining,
            term: Term::NONE,
            leader: None,
            config: flagship_types::ConfigVersion(0),
            interrupted: false,
        }
    }
}

impl Node {
    fn new(fleet: &Fleet, node: usize) -> Self {
        Self {
            core: None,
            now: Instant::ZERO + Duration::from_secs(100),
            pending: None,
            durable: None,
            metadata: fleet.metadata(node),
            payload: None,
            found_stopping: None,
            stored_term: Term::NONE,
        }
    }
}
