//! A fleet in virtual time: elections, a failure detector, links, API servers and payload workers, all modelled.
#![allow(dead_code, missing_docs, unreachable_pub)]

mod checks;
pub mod cluster;
pub mod pair;
pub mod quorum;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flagship_election::{Directive, Election, Event, Input, Message, Output, PeerView, Presence, Spec};
use flagship_types::{ConfigVersion, FleetConfig, Instant, MemberName, Metadata, Rank, Role, Term};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg32;

pub use cluster::Node;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub fn name(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

/// A bug put between the core and its world, which a checker has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Says that a record is durable though it was not written.
    ForgetsRecords,
    /// Says at once that the payload is gone, and deletes it later.
    ReleasesBeforeStop,
    /// Refusals become grants.
    GrantsTwice,
    /// The worker never deletes.
    NeverStops,
    /// Every member tells the others that its payload is ready.
    ClaimsReadiness,
    /// A process that starts does not look for a payload.
    OverlooksPayload,
    /// Starts the payload as soon as the member asks for the lead.
    RunsEarly,
}

/// What happens next. `life` says for which process it is meant.
#[derive(Debug, Clone)]
enum Ev {
    Deliver {
        to: MemberName,
        life: u64,
        from: MemberName,
        from_life: u64,
        message: Message,
    },
    /// Both ends see the link.
    LinkUp {
        a: MemberName,
        b: MemberName,
        state: u64,
    },
    LinkDown {
        a: MemberName,
        b: MemberName,
        state: u64,
    },
    Exited {
        observer: MemberName,
        subject: MemberName,
        state: u64,
    },
    Down {
        observer: MemberName,
        subject: MemberName,
        state: u64,
    },
    Metadata {
        observer: MemberName,
        life: u64,
        subject: MemberName,
        version: u64,
        metadata: Metadata,
    },
    Beats,
    Persist {
        node: MemberName,
        life: u64,
    },
    Work {
        node: MemberName,
        life: u64,
        order: u64,
        step: Step,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    Finish,
    Ready,
    Stuck,
}

#[derive(Debug, Default)]
struct Pair {
    /// Changes whenever something happens to the pair; older events about it are void.
    state: u64,
    up_since: Option<Instant>,
    /// When contact was last lost.
    lost: Instant,
}

pub struct Fleet {
    pub now: Instant,
    queue: BTreeMap<(Instant, u64), Ev>,
    seq: u64,
    pub rng: Pcg32,
    pub nodes: BTreeMap<MemberName, Node>,
    pairs: BTreeMap<(MemberName, MemberName), Pair>,
    /// Directed cuts.
    cuts: BTreeSet<(MemberName, MemberName)>,
    /// Of 1000 messages so many are lost.
    pub loss: u32,
    pub bug: Bug,
    pub log: Vec<String>,
    pub violations: Vec<String>,
    pub events: Vec<(Instant, MemberName, Event)>,
    votes: BTreeMap<(MemberName, Term), MemberName>,
    pub detect: Duration,
}

impl Fleet {
    pub fn new(seed: u64, bug: Bug) -> Self {
        let mut fleet = Self {
            now: Instant::ZERO + secs(100),
            queue: BTreeMap::new(),
            seq: 0,
            rng: Pcg32::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            pairs: BTreeMap::new(),
            cuts: BTreeSet::new(),
            loss: 0,
            bug,
            log: Vec::new(),
            violations: Vec::new(),
            events: Vec::new(),
            votes: BTreeMap::new(),
            detect: ms(4500),
        };
        fleet.after(secs(1), Ev::Beats);
        fleet
    }

    pub fn below(&mut self, n: u64) -> u64 {
        u64::from(self.rng.next_u32()) % n.max(1)
    }

    fn between(&mut self, low: u64, high: u64) -> Duration {
        ms(low + self.below(high - low + 1))
    }

    fn after(&mut self, delay: Duration, ev: Ev) {
        self.seq += 1;
        self.queue.insert((self.now + delay, self.seq), ev);
    }

    pub fn say(&mut self, line: &str) {
        let line = format!("{:?} {line}", self.now);
        self.log.push(line);
    }

    pub fn spec(rank: i64, ready: bool) -> Spec {
        let proposal = FleetConfig::default();
        Spec {
            rank: Rank(rank),
            ready,
            candidate: true,
            witness: false,
            fences: false,
            suspended: false,
            proposal,
            promote_timeout: None,
        }
    }

    pub fn add(&mut self, node: &str, spec: Spec) {
        let name = name(node);
        self.nodes.insert(name.clone(), Node::new(name.clone(), spec));
        self.start(node);
    }

    pub fn input(&mut self, node: &MemberName, input: Input) {
        let now = self.now;
        if let Some(core) = &mut self.nodes.get_mut(node).unwrap().core {
            core.handle(input, now);
        }
        self.drain(node);
    }

    fn health(&mut self, node: &MemberName) {
        let health = self.nodes[node].health();
        self.input(node, Input::Health(health));
        self.spread(node);
    }

    /// The member's metadata goes to all that it is linked to.
    fn spread(&mut self, node: &MemberName) {
        let bug = self.bug;
        let me = self.nodes.get_mut(node).unwrap();
        let Some(mut metadata) = me.metadata() else { return };
        metadata.health.payload_ready |= bug == Bug::ClaimsReadiness;
        me.metadata_version += 1;
        let version = me.metadata_version;
        for other in self.others(node) {
            let life = self.nodes[&other].life;
            let up = self.pair(node, &other).up_since.is_some();
            if up && !self.cuts.contains(&(node.clone(), other.clone())) {
                let delay = self.between(20, 60);
                let (observer, subject, metadata) = (other, node.clone(), metadata.clone());
                self.after(delay, Ev::Metadata { observer, life, subject, version, metadata });
            }
        }
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timers = self
                .nodes
                .values()
                .filter(|n| !n.frozen)
                .filter_map(|n| Some((n.core.as_ref()?.next_timeout()?, n.name.clone())));
            let timer = timers.min();
            let head = self.queue.keys().next().copied();
            let next = match (timer.as_ref().map(|t| t.0), head.map(|h| h.0)) {
                (Some(t), Some(h)) => t.min(h),
                (t, h) => t.or(h).unwrap_or(end),
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if let Some(key) = head.filter(|h| h.0 <= next) {
                let ev = self.queue.remove(&key).unwrap();
                self.perform(ev);
            } else if let Some((_, node)) = timer {
                let now = self.now;
                self.nodes.get_mut(&node).unwrap().core.as_mut().unwrap().handle_timeout(now);
                self.drain(&node);
            }
            assert!(self.log.len() < 200_000, "runs away: {:?}", &self.log[self.log.len() - 30..]);
        }
        self.now = end;
    }

    /// Runs until it is so; returns how long that took.
    pub fn until(&mut self, most: Duration, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !is_so(self) {
            if self.now.since(start) >= most {
                self.fail(&format!("not within {most:?}: {what}"));
            }
            self.run(ms(10));
        }
        self.now.since(start)
    }

    pub fn fail(&self, why: &str) -> ! {
        let dull = ["Announce {", "ConfigStored {", "RecordRe", "HandoverRe"];
        let lines: Vec<_> =
            self.log.iter().filter(|l| !dull.iter().any(|d| l.contains(d))).cloned().collect();
        let end = lines.iter().position(|l| l.contains("VIOLATION")).map_or(lines.len(), |at| at + 1);
        let tail = end.saturating_sub(100);
        panic!("{why}\n{}\n{:#?}", lines[tail..end].join("\n"), self.violations);
    }

    fn perform(&mut self, ev: Ev) {
        match ev {
            Ev::Deliver { ref to, life, ref from, from_life, ref message } => {
                let cut = self.cuts.contains(&(from.clone(), to.clone()));
                let up = self.pair(from, to).up_since.is_some();
                let node = &self.nodes[to];
                if cut
                    || !up
                    || node.life != life
                    || node.core.is_none()
                    || self.nodes[from].life != from_life
                {
                    return;
                }
                if node.frozen {
                    self.nodes.get_mut(to).unwrap().inbox.push(ev);
                    return;
                }
                let (to, from, message) = (to.clone(), from.clone(), message.clone());
                self.input(&to, Input::Message { from, message });
            }
            Ev::LinkUp { a, b, state } => self.link_up(&a, &b, state),
            Ev::LinkDown { a, b, state } => {
                if self.pair(&a, &b).state == state {
                    self.pair(&a, &b).up_since = None;
                    self.view(&a, &b, |v| v.linked = false);
                    self.view(&b, &a, |v| v.linked = false);
                }
            }
            Ev::Exited { observer, subject, state } if self.pair(&observer, &subject).state == state => {
                self.view(&observer, &subject, |v| {
                    v.linked = false;
                    v.exited = true;
                });
            }
            Ev::Down { observer, subject, state } if self.pair(&observer, &subject).state == state => {
                if self.pair(&observer, &subject).up_since.is_none() {
                    self.say(&format!("{observer}: {subject} is Down"));
                    self.view(&observer, &subject, |v| v.presence = Presence::Down);
                }
            }
            Ev::Exited { .. } | Ev::Down { .. } => {}
            Ev::Metadata { observer, life, subject, version, metadata } => {
                let node = self.nodes.get_mut(&observer).unwrap();
                let seen = node.metadata_seen.entry(subject.clone()).or_default();
                if node.life == life && *seen < version {
                    *seen = version;
                    self.view(&observer, &subject, |v| v.metadata = Some(metadata));
                }
            }
            Ev::Beats => self.beats(),
            Ev::Persist { node, life } => self.persist_done(&node, life),
            Ev::Work { node, life, order, step } => self.work(&node, life, order, step),
        }
    }

    fn link_up(&mut self, a: &MemberName, b: &MemberName, state: u64) {
        let alive = |n: &Node| n.core.is_some() && !n.frozen;
        if self.pair(a, b).state != state
            || self.is_cut(a, b)
            || !alive(&self.nodes[a])
            || !alive(&self.nodes[b])
        {
            return;
        }
        let (now, bug) = (self.now, self.bug);
        self.pair(a, b).up_since.get_or_insert(now);
        for (observer, subject) in [(a, b), (b, a)] {
            let of = self.nodes.get_mut(subject).unwrap();
            let (mut metadata, version) = (of.metadata(), of.metadata_version);
            if let Some(metadata) = metadata.as_mut().filter(|_| bug == Bug::ClaimsReadiness) {
                metadata.health.payload_ready = true;
            }
            let me = self.nodes.get_mut(observer).unwrap();
            me.known.insert(subject.clone());
            me.metadata_seen.insert(subject.clone(), version);
            self.view(observer, subject, |v| {
                *v = PeerView {
                    presence: Presence::Present,
                    linked: true,
                    exited: false,
                    metadata,
                    ..v.clone()
                };
            });
        }
    }

    fn view(&mut self, observer: &MemberName, subject: &MemberName, change: impl FnOnce(&mut PeerView)) {
        let node = self.nodes.get_mut(observer).unwrap();
        let view = node.views.entry(subject.clone()).or_insert_with(|| PeerView {
            name: subject.clone(),
            presence: Presence::Present,
            metadata: None,
            exited: false,
            linked: false,
        });
        change(view);
        let view = view.clone();
        // A frozen process learns of it when it goes on; its own view is made then.
        if !node.frozen {
            self.input(observer, Input::Peer(view));
        }
    }

    fn beats(&mut self) {
        self.after(secs(1), Ev::Beats);
        let at = self.now - ms(50);
        for observer in self.nodes.keys().cloned().collect::<Vec<_>>() {
            for member in self.others(&observer) {
                let beats =
                    self.pair(&observer, &member).up_since.is_some() && !self.is_cut(&observer, &member);
                if beats && !self.nodes[&observer].frozen && !self.nodes[&member].frozen {
                    self.input(&observer, Input::Heard { member, at });
                }
            }
        }
    }

    fn drain(&mut self, node: &MemberName) {
        loop {
            let me = self.nodes.get_mut(node).unwrap();
            let Some(output) = me.core.as_mut().and_then(Election::poll_output) else {
                return;
            };
            self.check_output(node, &output);
            self.act(node, output);
        }
    }

    fn act(&mut self, node: &MemberName, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Persist(record) => {
                let me = self.nodes.get_mut(node).unwrap();
                me.pending.push_back(record);
                let first = me.pending.len() == 1;
                if first || self.bug == Bug::ForgetsRecords {
                    let delay = if self.bug == Bug::ForgetsRecords { ms(0) } else { self.between(5, 50) };
                    self.after(delay, Ev::Persist { node: node.clone(), life });
                }
            }
            Output::Send { to, message } => self.transmit(node, &to, message),
            Output::Direct(directive) => {
                self.say(&format!("{node} {directive:?}"));
                self.order(node, &directive);
            }
            Output::Publish(standing) => {
                self.say(&format!("{node} {standing:?}"));
                self.nodes.get_mut(node).unwrap().standing = Some(standing);
                self.spread(node);
            }
            Output::Event(event) => {
                self.say(&format!("{node} {event:?}"));
                self.events.push((self.now, node.clone(), event));
            }
        }
    }

    pub fn transmit(&mut self, from: &MemberName, to: &MemberName, mut message: Message) {
        if let (Bug::GrantsTwice, Message::Refuse { term, pre, .. }) = (self.bug, &message) {
            message =
                Message::Grant { term: *term, pre: *pre, owed: Duration::ZERO, config: ConfigVersion(0) };
            self.check_output(from, &Output::Send { to: to.clone(), message: message.clone() });
        }
        if let (Bug::RunsEarly, Message::Claim(claim)) = (self.bug, &message) {
            self.check_write(from, claim.term);
        }
        if !matches!(message, Message::Release { .. } | Message::ConfirmRequest { .. }) {
            self.say(&format!("{from} -> {to} {message:?}"));
        }
        let lost = self.below(1000) < u64::from(self.loss);
        if lost || !self.nodes.contains_key(to) {
            return;
        }
        let life = self.nodes[to].life;
        let from_life = self.nodes[from].life;
        let (to, from) = (to.clone(), from.clone());
        self.after(ms(20), Ev::Deliver { to, life, from, from_life, message });
    }

    pub fn leaders(&self) -> Vec<&Node> {
        self.nodes.values().filter(|n| n.role() == Some(Role::Leader)).collect()
    }

    pub fn directive(&self, node: &str) -> Option<&Directive> {
        Some(self.nodes[&name(node)].core.as_ref()?.directive())
    }

    /// Where payloads are.
    pub fn running(&self) -> Vec<&str> {
        self.nodes.values().filter(|n| n.payload.exists.is_some()).map(|n| n.name.as_str()).collect()
    }
}
