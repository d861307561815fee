//! One state of a small fleet: what it is made of, where it begins, and its number.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::hash::Hasher;
use std::rc::Rc;
use std::time::Duration;

use flagship_election::{Election, Message, Record};
use flagship_types::{Instant, MemberName, Metadata, Mode, Role, Term};
use siphasher::sip::SipHasher13;

use super::actions::Action;
use super::fleet::{Budget, Fleet};

#[derive(Debug, Clone)]
pub(super) enum Item {
    Message(Message),
    Said(Metadata),
}

/// A member. States that differ in one member share the others.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) core: Option<Election>,
    pub(super) now: Instant,
    pub(super) pending: Option<Record>,
    pub(super) durable: Option<Record>,
    pub(super) metadata: Metadata,
    /// The payload that is there.
    pub(super) payload: Option<Term>,
    /// Found by the present process: it may only be completed.
    pub(super) found_stopping: Option<Term>,
    /// The highest term that was ever durable.
    pub(super) stored_term: Term,
    /// Durable grants: to whom, by term.
    pub(super) grants: BTreeMap<Term, MemberName>,
    /// The number of all this, once it was asked for.
    number: Cell<Option<u64>>,
}

/// A state.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) fleet: Rc<Fleet>,
    nodes: Vec<Rc<Node>>,
    /// What is on its way.
    pub(super) wires: BTreeMap<(usize, usize), VecDeque<Item>>,
    /// Whether the first has a link to the second, by its own view.
    pub(super) linked: Vec<Vec<bool>>,
    /// Whether the first takes the second for Down.
    pub(super) down: Vec<Vec<bool>>,
    pub(super) left: Budget,
    /// Who ran the payload first in a term.
    pub(super) ran: BTreeMap<Term, usize>,
    /// Somebody was taken for Down although it lived, so that two may lead in Availability.
    pub(super) mistaken: bool,
    pub(super) violation: Option<String>,
}

impl State {
    /// All start at once, linked with each other.
    pub fn start(fleet: Fleet, budget: Budget) -> Self {
        let count = fleet.ranks.len();
        let mut state = Self {
            nodes: (0..count).map(|node| Rc::new(Node::new(&fleet, node))).collect(),
            fleet: Rc::new(fleet),
            wires: BTreeMap::new(),
            linked: vec![vec![false; count]; count],
            down: vec![vec![false; count]; count],
            left: budget,
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
            if matches!(action, Action::Timeout(_)) && until(self) {
                return true;
            }
            self.apply(action);
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
        for other in (0..self.count()).filter(|other| *other != leader) {
            self.apply(Action::Notice(other, leader));
        }
        let asks = |state: &Self| {
            let role = |node: usize| state.node(node).core.as_ref().map(Election::role);
            (0..state.count()).any(|node| role(node) == Some(Role::Candidate))
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
            let due = |node: &usize| self.node(*node).core.as_ref().and_then(Election::next_timeout);
            let earliest = (0..self.count()).filter(|node| due(node).is_some()).min_by_key(due)?;
            Some(Action::Timeout(earliest))
        })
    }

    /// Members that lead and run the payload.
    pub fn leaders(&self) -> Vec<usize> {
        let leads = |node: &usize| {
            let node = self.node(*node);
            node.payload.is_some() && node.core.as_ref().is_some_and(|core| core.role() == Role::Leader)
        };
        (0..self.count()).filter(leads).collect()
    }

    /// What does not hold.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    /// To be changed: from now on it is this state's own.
    pub(super) fn node_mut(&mut self, node: usize) -> &mut Node {
        let node = Rc::make_mut(&mut self.nodes[node]);
        node.number.set(None);
        node
    }

    /// In Availability nothing rests on time, so clocks may go as they like.
    pub(super) fn clocks_differ(&self) -> bool {
        self.fleet.config.mode == Mode::Availability
    }

    /// A number of this state. Two states with one number are taken for one.
    pub fn fingerprint(&self) -> u64 {
        let mut text = Text(SipHasher13::new());
        let _ = write!(text, "{:?}{:?}{:?}{:?}", self.wires, self.linked, self.down, self.left);
        let _ = write!(text, "{:?}{}", self.ran, self.mistaken);
        for node in &self.nodes {
            text.0.write_u64(node.number());
        }
        text.0.finish()
    }
}

/// Hashes what is written.
struct Text(SipHasher13);

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
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
            grants: BTreeMap::new(),
            number: Cell::new(None),
        }
    }

    /// The number of everything but counters, which change nothing, and what follows from the rest.
    fn number(&self) -> u64 {
        if let Some(number) = self.number.get() {
            return number;
        }
        let mut text = Text(SipHasher13::new());
        let core = self.core.as_ref().map(Election::without_counters);
        let _ = write!(text, "{:?}{core:?}{:?}{:?}", self.now, self.pending, self.durable);
        let _ = write!(text, "{:?}{:?}{:?}", self.payload, self.found_stopping, self.grants);
        let number = text.0.finish();
        self.number.set(Some(number));
        number
    }
}
