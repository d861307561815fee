//! What happens, and what must not.

use std::collections::VecDeque;

use flagship_election::{
    Config, Directive, Election, Input, Output, PeerView, Permit, Presence, ResignReason, Restored, Standing,
};
use flagship_types::{Health, Mode, Role};

use super::actions::{Action, is_to_delete};
use super::fleet::{NAMES, health, name};
use super::state::{Item, Node, State};

/// So many messages of a pair are on their way at most: TCP would let more wait, an election never sends so many.
const MOST_ON_A_WIRE: usize = 8;

impl State {
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
            Action::Deleted(node) => {
                self.deleted(node);
                self.drain(node);
            }
            Action::Crash(node, landed) => self.crash(node, landed),
            Action::Restart(node) => self.boot(node),
            Action::Notice(a, b) => {
                if self.node(b).core.is_some() && self.linked[b][a] {
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
        let Some(at) = self.node(node).core.as_ref().and_then(Election::next_timeout) else { return };
        for other in 0..self.count() {
            if (other == node || !self.clocks_differ()) && self.node(other).now < at {
                self.node_mut(other).now = at;
            }
        }
        let me = self.node_mut(node);
        let now = me.now;
        if let Some(core) = &mut me.core {
            core.handle_timeout(now);
        }
        self.drain(node);
    }

    fn crash(&mut self, node: usize, landed: bool) {
        self.left.crashes -= 1;
        if landed {
            self.store(node);
        }
        let me = self.node_mut(node);
        (me.core, me.pending) = (None, None);
        for other in 0..self.count() {
            self.linked[node][other] = false;
            self.down[node][other] = false;
            self.wires.remove(&(node, other));
            self.wires.remove(&(other, node));
        }
    }

    /// The worker did as it was told; the core's answer to that is not taken yet. Returns whether anything is gone.
    fn deleted(&mut self, node: usize) -> bool {
        let Some(core) = &self.node(node).core else { return false };
        let had = self.node(node).payload.is_some();
        if let Directive::Stop { term, .. } = *core.directive() {
            self.feed(node, Input::DeletionBegan(term));
            // It may have been called off at the last moment.
            if !self.node(node).core.as_ref().is_some_and(|core| is_to_delete(core, had)) {
                return false;
            }
            self.node_mut(node).payload = None;
            self.feed(node, Input::PayloadStopped(term));
        } else {
            self.node_mut(node).payload = None;
        }
        had
    }

    pub(super) fn boot(&mut self, node: usize) {
        let fleet = self.fleet.clone();
        let known_peers = (0..self.count()).filter(|peer| *peer != node).map(name).collect();
        let me = self.node_mut(node);
        // A member that never stored anything knows nobody either.
        let known_peers = if me.durable.is_some() { known_peers } else { Vec::new() };
        me.found_stopping = me.durable.as_ref().and_then(|record| record.stopping);
        let restored =
            Restored { record: me.durable.clone(), found_running: me.payload, known_peers, lapse: None };
        let (config, spec) = (Config { name: name(node) }, fleet.spec(node));
        #[cfg(not(feature = "planted-bugs"))]
        let core = Election::new(config, spec, restored, node as u64, me.now);
        #[cfg(feature = "planted-bugs")]
        let core = Election::with_bug(config, spec, restored, node as u64, me.now, fleet.planted);
        me.core = Some(core);
        me.metadata = fleet.metadata(node);
        let health = self.health(node);
        self.input(node, Input::Health(health));
    }

    fn health(&self, node: usize) -> Health {
        health(self.node(node).payload.is_some())
    }

    pub(super) fn meet(&mut self, a: usize, b: usize) {
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
        let metadata = linked.then(|| self.node(b).metadata.clone());
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
        self.feed(node, input);
        self.drain(node);
    }

    /// Hands it to the core, whose outputs wait.
    fn feed(&mut self, node: usize, input: Input) {
        let me = self.node_mut(node);
        let now = me.now;
        if let Some(core) = &mut me.core {
            core.handle(input, now);
        }
    }

    /// Does what the core wants, until it wants nothing more.
    fn drain(&mut self, node: usize) {
        loop {
            while let Some(output) = self.node_mut(node).core.as_mut().and_then(Election::poll_output) {
                self.perform(node, output);
            }
            if !self.run(node) && !self.hurry(node) {
                break;
            }
        }
        self.check_leases(node);
        if self.node(node).core.as_ref().is_some_and(|core| core.stats().illegal_moves > 0) {
            self.violated(format!("{} made an illegal move", NAMES[node]));
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        match output {
            Output::Persist(record) => self.node_mut(node).pending = Some(record),
            Output::Send { to, message } => {
                if let Some(to) = (0..self.count()).find(|peer| name(*peer) == to) {
                    self.put(node, to, Item::Message(message));
                }
            }
            Output::Publish(standing) => self.publish(node, standing),
            // The worker looks at the directive itself.
            Output::Direct(_) | Output::Event(_) => {}
        }
    }

    /// A lost lease: the payload is gone at once, as far as time goes here. Returns whether there was one.
    fn hurry(&mut self, node: usize) -> bool {
        let lost = |core: &Election| {
            matches!(core.directive(), Directive::Stop { reason: ResignReason::LeaseLost, .. })
        };
        let me = self.node(node);
        me.payload.is_some() && me.core.as_ref().is_some_and(lost) && self.deleted(node)
    }

    fn check_leases(&mut self, node: usize) {
        let holds = |node: &Node| {
            let core = node.core.as_ref()?;
            let leads = matches!(core.role(), Role::Leader | Role::Stopping);
            core.lease_until().filter(|until| leads && *until > node.now)
        };
        if self.clocks_differ() || holds(self.node(node)).is_none() {
            return;
        }
        let mut others = (0..self.count()).filter(|other| *other != node);
        if let Some(other) = others.find(|other| holds(self.node(*other)).is_some()) {
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
        let metadata = &mut self.node_mut(node).metadata;
        metadata.role = standing.role;
        metadata.term = standing.term;
        metadata.leader = standing.leader;
        metadata.config = standing.config;
        metadata.quorum = standing.quorum;
        metadata.interrupted = standing.interrupted;
        metadata.promoted = standing.promoted;
        self.say(node);
    }

    fn say(&mut self, node: usize) {
        let metadata = self.node(node).metadata.clone();
        for to in (0..self.count()).filter(|to| *to != node) {
            self.put(node, to, Item::Said(metadata.clone()));
        }
    }

    /// The worker applies at once what it may. Returns whether the core was told anything.
    fn run(&mut self, node: usize) -> bool {
        let me = self.node(node);
        let Some(core) = &me.core else { return false };
        let Directive::Run { term, .. } = *core.directive() else { return false };
        if core.permit(me.now) != Some(Permit::Apply { term }) || me.payload == Some(term) {
            return false;
        }
        let held = me.durable.as_ref().and_then(|record| record.held);
        let (found_stopping, is_new) = (me.found_stopping, me.payload.is_none());
        if held.is_none_or(|held| held < term) {
            self.violated(format!("{} writes under term {term}, and has stored {held:?}", NAMES[node]));
        }
        if found_stopping == Some(term) {
            self.violated(format!("{} resumes term {term}, which it found stopping", NAMES[node]));
        }
        let first = *self.ran.entry(term).or_insert(node);
        let quorum = self.fleet.config.mode == Mode::Quorum;
        if first != node && (quorum || !self.mistaken) {
            self.violated(format!("{} and {} run in term {term}", NAMES[first], NAMES[node]));
        }
        let excused = self.mistaken && !quorum;
        if is_new
            && !excused
            && let Some(other) = self.beside(node)
        {
            self.violated(format!("{} starts its payload beside that of {}", NAMES[node], NAMES[other]));
        }
        let me = self.node_mut(node);
        me.payload = Some(term);
        if me.metadata.health.payload_ready {
            return false;
        }
        let health = health(true);
        me.metadata.health = health;
        self.say(node);
        self.feed(node, Input::Health(health));
        true
    }

    /// Another one whose payload is there, and whose process could see to that.
    fn beside(&self, node: usize) -> Option<usize> {
        let quorum = self.fleet.config.mode == Mode::Quorum;
        let runs = |other: &usize| {
            let (me, seen) = (self.node(*other), quorum || !self.down[node][*other]);
            *other != node && me.payload.is_some() && me.core.is_some() && seen
        };
        (0..self.count()).find(runs)
    }

    /// What waits becomes durable. Returns its version.
    fn store(&mut self, node: usize) -> Option<u64> {
        let me = self.node_mut(node);
        let record = me.pending.take()?;
        let version = record.version;
        let mut wrong = None;
        if let Some(vote) = &record.vote {
            let first = me.grants.entry(vote.term).or_insert_with(|| vote.candidate.clone());
            if *first != vote.candidate {
                let (name, term, now) = (NAMES[node], vote.term, &vote.candidate);
                wrong = Some(format!("{name} granted term {term} to {first}, then to {now}"));
            }
        }
        if record.term < me.stored_term {
            wrong = Some(format!("the term that {} stored went back", NAMES[node]));
        }
        me.stored_term = record.term;
        me.durable = Some(record);
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
        Some(version)
    }

    fn violated(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }
}
