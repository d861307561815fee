//! One member's cluster: its API server, its payload and the worker that converges to the directive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flagship_election::{
    Config, Directive, Election, Input, Lapse, PeerView, Permit, Record, Restored, Spec, Standing,
};
use flagship_types::{Health, Instant, MemberName, Metadata, Role, Term};

use super::{Bug, Ev, Fleet, Step, ms};

#[derive(Debug, Clone, Default)]
pub struct Payload {
    pub exists: Option<Term>,
    pub ready: bool,
    /// Created so often: a payload that was not touched keeps the number.
    pub created: u32,
    pub ready_until: Instant,
}

pub struct Node {
    pub name: MemberName,
    pub spec: Spec,
    pub core: Option<Election>,
    /// Which process.
    pub life: u64,
    pub frozen: bool,
    pub api: bool,
    pub valid: bool,
    pub gates: bool,
    /// What its status has of a failure as a leader.
    pub lapse: Option<Lapse>,
    pub durable: Option<Record>,
    pub pending: VecDeque<Record>,
    pub payload: Payload,
    pub stuck: bool,
    /// Its beforePromote hook fails.
    pub blocked: bool,
    /// Its pods do not get ready.
    pub broken: bool,
    /// How long a delete takes.
    pub delete_ms: u64,
    pub started: Instant,
    pub known: BTreeSet<MemberName>,
    pub standing: Option<Standing>,
    pub highest_stored: Term,
    pub(super) views: BTreeMap<MemberName, PeerView>,
    pub(super) metadata_version: u64,
    pub(super) metadata_seen: BTreeMap<MemberName, u64>,
    pub(super) inbox: Vec<Ev>,
    pub(super) order: u64,
    /// When it began to stop, it had a good copy and saw no other.
    pub(super) last_copy: bool,
}

impl Node {
    pub fn new(name: MemberName, spec: Spec) -> Self {
        Self {
            name,
            spec,
            core: None,
            life: 0,
            frozen: false,
            api: true,
            valid: true,
            gates: true,
            lapse: None,
            durable: None,
            pending: VecDeque::new(),
            payload: Payload::default(),
            stuck: false,
            blocked: false,
            broken: false,
            delete_ms: 300,
            started: Instant::ZERO,
            known: BTreeSet::new(),
            standing: None,
            highest_stored: Term::NONE,
            views: BTreeMap::new(),
            metadata_version: 0,
            metadata_seen: BTreeMap::new(),
            inbox: Vec::new(),
            order: 0,
            last_copy: false,
        }
    }

    pub(super) fn start(&mut self, seed: u64, now: Instant, bug: Bug) {
        assert!(self.core.is_none());
        self.life += 1;
        self.started = now;
        let found_running = self.payload.exists.filter(|_| bug != Bug::OverlooksPayload);
        let known_peers =
            if self.durable.is_some() { self.known.iter().cloned().collect() } else { Vec::new() };
        let restored =
            Restored { record: self.durable.clone(), found_running, known_peers, lapse: self.lapse };
        let mut core =
            Election::new(Config { name: self.name.clone() }, self.spec.clone(), restored, seed, now);
        core.handle(Input::Health(self.health()), now);
        self.core = Some(core);
    }

    pub(super) fn crash(&mut self, last_write_arrived: bool) {
        self.lapse = self.core.as_ref().and_then(Election::lapse);
        self.core = None;
        self.life += 1;
        self.frozen = false;
        self.standing = None;
        self.views.clear();
        self.metadata_seen.clear();
        self.inbox.clear();
        self.order += 1;
        if let Some(record) = self.pending.pop_front().filter(|_| last_write_arrived && self.api) {
            self.store(record);
        }
        self.pending.clear();
    }

    pub(super) fn store(&mut self, record: Record) {
        self.highest_stored = self.highest_stored.max(record.term);
        self.durable = Some(record);
    }

    pub(super) fn persist_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Its pods are ready.
    pub fn is_ready(&self) -> bool {
        self.payload.ready && !self.broken
    }

    pub fn health(&self) -> Health {
        let failed = self.standing.as_ref().is_some_and(|s| s.failed);
        let (api, payload_valid, payload_ready) = (self.api, self.valid, self.is_ready());
        Health { api, payload_valid, payload_ready, gates: self.gates, failed }
    }

    pub fn role(&self) -> Option<Role> {
        self.core.as_ref().map(Election::role)
    }

    pub fn caution(&self) -> u32 {
        self.core.as_ref().map_or(1, Election::caution)
    }

    pub fn metadata(&self) -> Option<Metadata> {
        let (core, standing) = (self.core.as_ref()?, self.standing.as_ref()?);
        Some(Metadata {
            address: None,
            rank: self.spec.rank,
            candidate: core.candidate(),
            health: self.health(),
            role: standing.role,
            term: standing.term,
            leader: standing.leader.clone(),
            config: standing.config,
            interrupted: standing.interrupted,
            fences: self.spec.fences,
            quorum: standing.quorum,
            promoted: standing.promoted,
        })
    }
}

impl Fleet {
    pub(super) fn persist_done(&mut self, node: &MemberName, life: u64) {
        let forgets = self.bug == Bug::ForgetsRecords;
        let me = self.nodes.get_mut(node).unwrap();
        if me.life != life || !me.api {
            return;
        }
        if me.frozen {
            return self.after(ms(100), Ev::Persist { node: node.clone(), life });
        }
        // A slow store takes the newest record: all before it are in it.
        let Some(record) = me.pending.drain(..).next_back() else {
            return;
        };
        let version = record.version;
        if !forgets {
            me.store(record.clone());
        }
        self.check_stored(node, &record);
        self.input(node, Input::Persisted(version));
    }

    pub(super) fn order(&mut self, node: &MemberName, directive: &Directive) {
        let me = self.nodes.get_mut(node).unwrap();
        me.order += 1;
        let (life, order) = (me.life, me.order);
        if matches!(directive, Directive::Hold) {
            return;
        }
        if let (Bug::ReleasesBeforeStop, Directive::Stop { term, .. }) = (self.bug, directive) {
            let term = *term;
            self.input(node, Input::DeletionBegan(term));
            self.input(node, Input::PayloadStopped(term));
            return;
        }
        let delay = self.between(10, 60);
        self.after(delay, Ev::Work { node: node.clone(), life, order, step: Step::Begin });
    }

    pub(super) fn work(&mut self, node: &MemberName, life: u64, order: u64, step: Step) {
        let now = self.now;
        let bug = self.bug;
        let me = self.nodes.get_mut(node).unwrap();
        if me.life != life || me.order != order {
            return;
        }
        let Some(core) = me.core.as_ref() else { return };
        let directive = core.directive().clone();
        let permit = core.permit(now);
        let retry = Ev::Work { node: node.clone(), life, order, step };
        if me.frozen || !me.api {
            return self.after(ms(200), retry);
        }
        let is_new = me.payload.exists.is_none();
        match (directive, step) {
            (Directive::Run { .. }, Step::Begin) if is_new && me.blocked => self.after(ms(200), retry),
            (Directive::Run { term, .. }, Step::Begin) => {
                if permit != Some(Permit::Apply { term }) {
                    return self.after(ms(200), retry);
                }
                if me.spec.fences && is_new {
                    self.input(node, Input::Promoted(term));
                }
                self.check_write(node, term);
                let me = self.nodes.get_mut(node).unwrap();
                me.payload.created += u32::from(is_new);
                me.payload.exists = Some(term);
                if is_new {
                    self.say(&format!("{node} payload created under {term}"));
                }
                let delay = self.between(200, 800);
                self.after(delay, Ev::Work { node: node.clone(), life, order, step: Step::Ready });
            }
            (Directive::Run { term, .. }, Step::Ready) => {
                if !std::mem::replace(&mut me.payload.ready, true) {
                    self.health(node);
                }
                if self.nodes[node].is_ready() {
                    self.input(node, Input::Promoted(term));
                }
            }
            (Directive::Stop { term, .. }, Step::Begin) => {
                if permit != Some(Permit::Delete { term }) {
                    return self.after(ms(200), retry);
                }
                if bug == Bug::NeverStops {
                    return;
                }
                self.input(node, Input::DeletionBegan(term));
                self.begin_delete(node, life, order);
            }
            (Directive::Absent, Step::Begin) if me.payload.exists.is_some() => {
                if !matches!(permit, Some(Permit::Delete { .. })) {
                    return self.after(ms(200), retry);
                }
                self.check_cleared(node);
                self.begin_delete(node, life, order);
            }
            (Directive::Stop { term, .. }, Step::Finish) if !me.stuck => {
                me.payload.exists = None;
                self.say(&format!("{node} payload gone"));
                self.input(node, Input::PayloadStopped(term));
            }
            (Directive::Absent, Step::Finish) => me.payload.exists = None,
            (Directive::Stop { .. }, Step::Finish) => {
                self.after(ms(3000), Ev::Work { node: node.clone(), life, order, step: Step::Stuck });
                self.after(ms(500), retry);
            }
            (Directive::Stop { term, .. }, Step::Stuck) if me.stuck => {
                self.input(node, Input::StopStuck { term, object: "Service default/web".into() });
            }
            _ => {}
        }
    }

    fn begin_delete(&mut self, node: &MemberName, life: u64, order: u64) {
        let now = self.now;
        let me = self.nodes.get_mut(node).unwrap();
        if me.payload.ready {
            me.payload.ready = false;
            me.payload.ready_until = now;
            self.health(node);
        }
        let delay = ms(self.nodes[node].delete_ms);
        self.after(delay, Ev::Work { node: node.clone(), life, order, step: Step::Finish });
    }
}
