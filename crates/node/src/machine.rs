//! The two cores of one member, joined, without IO: what the driver runs on a real clock and real links, and
//! the simulator in virtual time.

mod routing;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flagship_election::{self as election, Directive, Election, ResignReason, Restored};
use flagship_membership::{self as membership, KnownMember, Membership, State};
use flagship_types::{
    Callsign, CloseCode, Epoch, Health, Instant, MemberName, Metadata, PeerAddress, Role, Term, Verified,
};
use flagship_wire::PeerMessage;

use crate::handle::{Accepted, NodeEvent, NodeSpec, Order};
use crate::ports::{Denied, DurableRecord, LinkEvent, LocalHello, Purpose, Signer, WritePermit};

/// What a member starts with.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// The fleet.
    pub callsign: Callsign,
    /// This member.
    pub member: MemberName,
    /// This start; stored already.
    pub epoch: Epoch,
    /// The wall clock at the start, in milliseconds: epochs far ahead of it are not believed.
    pub wall_ms: u64,
    /// What the object says.
    pub spec: NodeSpec,
    /// What an earlier process left.
    pub restored: Restored,
    /// Members known from an earlier process.
    pub known: Vec<KnownMember>,
    /// Beat interval, h.
    pub beat_interval: Duration,
    /// How long a single observer waits before it suspects.
    pub silence_floor: Duration,
    /// Seeds both cores' random numbers.
    pub seed: u64,
    /// Until when no other process can vote as this member, see [`Machine::held_until`]. `None`: no other ever can, as
    /// with a witness.
    pub votes_until: Option<Instant>,
}

/// What the machine wants done.
#[derive(Debug)]
pub enum MachineOutput {
    /// Dial once.
    Connect(PeerAddress),
    /// Close with a code.
    Close(flagship_membership::LinkId, CloseCode),
    /// Send.
    Send(flagship_membership::LinkId, PeerMessage),
    /// Make durable, then call [`Machine::persisted`] with the version of its election record.
    Persist(DurableRecord),
    /// The payload worker's directive changed.
    Direct(Directive),
    /// New streams say this from now on.
    Hello(LocalHello),
    /// For people.
    Event(NodeEvent),
}

/// One member without IO.
pub struct Machine {
    pub(crate) callsign: Callsign,
    pub(crate) member: MemberName,
    pub(crate) membership: Membership,
    pub(crate) election: Election,
    pub(crate) metadata: Metadata,
    signer: Arc<dyn Signer>,
    /// The members that election needs links to, as membership was last told.
    required: BTreeSet<MemberName>,
    /// The election took in something that may have changed whom it needs.
    needs_changed: bool,
    record: Option<election::Record>,
    /// The last state told of each member, so that an event names what changed. As many as there are members.
    told: std::collections::BTreeMap<MemberName, State>,
    silence_floor: Duration,
    caution: u32,
    pub(crate) name_in_use: bool,
    pub(crate) interrupted: bool,
    /// Whether anything worth showing changed since it was last asked.
    dirty: bool,
    outputs: VecDeque<MachineOutput>,
    /// When news of who leads are told by a member that cannot.
    tell_at: Option<Instant>,
    /// This member's place among those that tell, of 256.
    place: u8,
    /// As in [`MachineConfig::votes_until`].
    votes_until: Option<Instant>,
    votes_withheld: u64,
}

impl Machine {
    /// Starts a member. Nothing is sent before the first [`Machine::poll_output`].
    pub fn new(config: MachineConfig, signer: Arc<dyn Signer>, now: Instant) -> Self {
        Self::start(config, signer, now, Election::new)
    }

    /// Starts a member with a bug in its election. For the simulator's tests of its own checkers.
    #[cfg(feature = "planted-bugs")]
    pub fn with_bug(
        config: MachineConfig,
        signer: Arc<dyn Signer>,
        now: Instant,
        bug: Option<election::PlantedBug>,
    ) -> Self {
        Self::start(config, signer, now, |config, spec, restored, seed, now| {
            Election::with_bug(config, spec, restored, seed, now, bug)
        })
    }

    /// Plants a bug in its membership. For the same tests.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: membership::PlantedBug) {
        self.membership.plant(bug);
    }

    fn start(
        config: MachineConfig,
        signer: Arc<dyn Signer>,
        now: Instant,
        elect: impl FnOnce(election::Config, election::Spec, Restored, u64, Instant) -> Election,
    ) -> Self {
        let metadata = Metadata {
            address: config.spec.address.clone(),
            rank: config.spec.election.rank,
            candidate: config.spec.election.may_lead(),
            health: Health::default(),
            role: Role::Joining,
            term: Term::NONE,
            leader: None,
            config: config.restored.record.as_ref().map_or_else(Default::default, |r| r.config.version),
            interrupted: false,
            fences: config.spec.election.fences,
            quorum: false,
            promoted: Term::NONE,
        };
        let core = membership::Config {
            beat_interval: config.beat_interval,
            silence_floor: config.silence_floor,
            ..membership::Config::new(config.member.clone(), config.epoch, config.wall_ms)
        };
        let record = config.restored.record.clone();
        let forgotten = record.as_ref().map(|record| record.forgotten.as_slice()).unwrap_or_default();
        // The status is written after the record, so that it may still list who is forgotten.
        let known = config.known.into_iter().filter(|known| !forgotten.contains(&known.name)).collect();
        let membership = Membership::new(core, metadata.clone(), known, config.seed, now);
        let election = elect(
            election::Config { name: config.member.clone() },
            config.spec.election.clone(),
            config.restored,
            config.seed.rotate_left(32),
            now,
        );
        let mut machine = Self {
            callsign: config.callsign,
            member: config.member,
            membership,
            election,
            metadata,
            signer,
            required: BTreeSet::new(),
            needs_changed: true,
            record,
            told: std::collections::BTreeMap::new(),
            silence_floor: config.silence_floor,
            caution: 1,
            name_in_use: false,
            interrupted: false,
            dirty: true,
            outputs: VecDeque::new(),
            tell_at: None,
            // A multiplication that mixes, as neighbours may have neighbouring seeds.
            place: config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0],
            votes_until: config.votes_until,
            votes_withheld: 0,
        };
        machine.membership.handle(membership::Input::SetSeeds(config.spec.seeds), now);
        machine.settle(now);
        machine
    }

    /// Something happened on a link.
    pub fn link_event(&mut self, event: LinkEvent, now: Instant) {
        use membership::Input;
        match event {
            LinkEvent::Up { link, hello, dialled } => {
                self.emit(NodeEvent::LinkUp(hello.get().member.clone()));
                self.membership.handle(Input::LinkUp { link, hello, dialled }, now);
            }
            LinkEvent::Down { link, end } => self.membership.handle(Input::LinkDown { link, end }, now),
            LinkEvent::ConnectFailed { address, failure, reason: _ } => {
                self.membership.handle(Input::ConnectFailed { address, failure }, now);
            }
            LinkEvent::Message { link, message } => self.message(link, message, now),
            LinkEvent::Renewed => self.membership.handle(Input::Renewed, now),
            LinkEvent::Refused(refusal) => self.emit(NodeEvent::LinkRefused(refusal)),
            LinkEvent::Warning(warning) => self.emit(NodeEvent::LinkWarning(warning)),
        }
        self.settle(now);
    }

    fn message(&mut self, link: flagship_membership::LinkId, message: Verified<PeerMessage>, now: Instant) {
        match message.into_inner() {
            PeerMessage::Membership(message) => {
                let message = Verified::checked(message);
                self.membership.handle(membership::Input::Message { link, message }, now);
            }
            // A stream that membership gave up has no peer any more, and no say in an election.
            PeerMessage::Election(message) => {
                if let Some(from) = self.membership.peer_of(link).cloned() {
                    self.needs_changed = true;
                    self.election.handle(election::Input::Message { from, message }, now);
                }
            }
        }
    }

    /// The record with this version is durable.
    pub fn persisted(&mut self, version: u64, now: Instant) {
        self.tell_election(election::Input::Persisted(version), now);
    }

    /// The object changed.
    pub fn spec(&mut self, spec: NodeSpec, now: Instant) {
        self.membership.handle(membership::Input::SetSeeds(spec.seeds), now);
        self.metadata.address = spec.address;
        self.metadata.rank = spec.election.rank;
        self.metadata.candidate = spec.election.may_lead() && self.election.retired().is_none();
        self.metadata.fences = spec.election.fences;
        self.publish(now);
        self.outputs.push_back(MachineOutput::Hello(self.hello()));
        self.tell_election(election::Input::Spec(spec.election), now);
    }

    /// The fitness to lead changed.
    pub fn health(&mut self, health: Health, now: Instant) {
        let health = Health { failed: self.metadata.health.failed, ..health };
        if self.metadata.health != health {
            self.metadata.health = health;
            self.publish(now);
            self.tell_election(election::Input::Health(health), now);
        }
    }

    /// This process did not run for a while.
    pub fn paused(&mut self, missed: Duration, now: Instant) {
        self.emit(NodeEvent::Paused(missed));
        self.tell_election(election::Input::Paused, now);
    }

    /// The promotion under that term went through: nothing of older ones needs a fence any more.
    pub fn promoted(&mut self, term: Term, now: Instant) {
        self.tell_election(election::Input::Promoted(term), now);
    }

    /// The worker is about to delete the first object.
    pub fn deletion_began(&mut self, term: Term, now: Instant) {
        self.tell_election(election::Input::DeletionBegan(term), now);
    }

    /// The payload is gone.
    pub fn payload_stopped(&mut self, term: Term, now: Instant) {
        self.tell_election(election::Input::PayloadStopped(term), now);
    }

    /// Deleting is stuck.
    pub fn stop_stuck(&mut self, term: Term, object: String, now: Instant) {
        self.tell_election(election::Input::StopStuck { term, object }, now);
        // A lead that could not be given away is kept.
        if self.metadata.candidate != self.election.candidate() {
            self.metadata.candidate = self.election.candidate();
            self.publish(now);
            self.settle(now);
        }
    }

    /// A hook objects to the stop.
    pub fn stop_refused(&mut self, term: Term, because: String, now: Instant) {
        self.tell_election(election::Input::StopRefused { term, because }, now);
    }

    /// Operator's word for a member without a record.
    pub fn admit(&mut self, member: MemberName, now: Instant) {
        self.tell_election(election::Input::Admit(member), now);
    }

    /// Operator's word that a member is gone for good.
    pub fn forget(&mut self, member: MemberName, now: Instant) {
        self.membership.handle(membership::Input::Forget(member.clone()), now);
        self.tell_election(election::Input::Forget(member), now);
    }

    /// Gives the lead away for good. The others are told at once that nobody has to wait for this member to ask for it.
    pub fn retire(&mut self, reason: ResignReason, now: Instant) {
        self.metadata.candidate = false;
        self.publish(now);
        self.tell_election(election::Input::Retire(reason), now);
    }

    /// Hands the lead over to another member.
    pub fn hand_over(&mut self, to: Option<MemberName>, reason: ResignReason, now: Instant) {
        self.tell_election(election::Input::HandOver { to, reason }, now);
    }

    /// Carries an operator's order out, or says why not.
    pub fn order(&mut self, order: Order, now: Instant) -> Result<Accepted, String> {
        use election::Input;
        let (accepted, input) = match order {
            Order::Pause(pause) => {
                self.election.may_pause(pause.as_ref())?;
                (Accepted::Config, Input::Pause(pause))
            }
            Order::Switchover { to, try_only } => {
                let reason = ResignReason::Switchover;
                let to = self.election.hand_over_target(to.as_ref(), reason)?;
                if try_only {
                    return Ok(Accepted::Target(to));
                }
                (Accepted::Target(to.clone()), Input::HandOver { to: Some(to), reason })
            }
            Order::ForceLead { above, stopped } => {
                let term = self.election.may_force_lead(above, &stopped)?;
                (Accepted::Term(term), Input::ForceLead { above, stopped })
            }
        };
        self.tell_election(input, now);
        Ok(accepted)
    }

    /// The local Lease is this process's until then. In mode Quorum it votes no longer: a replica that took the Lease
    /// votes as the same member, and two of its votes could make two majorities.
    pub fn held_until(&mut self, until: Instant) {
        self.votes_until = self.votes_until.map(|_| until);
    }

    /// How many votes were not sent because another process may vote as this member.
    pub fn votes_withheld(&self) -> u64 {
        self.votes_withheld
    }

    /// Announces a pause.
    pub fn away(&mut self, grace: Duration, now: Instant) {
        self.membership.handle(membership::Input::Away { grace }, now);
        self.settle(now);
    }

    /// Leaves the fleet for good.
    pub fn leave(&mut self, now: Instant) {
        self.membership.handle(membership::Input::Leave, now);
        self.settle(now);
    }

    /// The deadline came.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.membership.handle_timeout(now);
        if self.tell_at.is_some_and(|at| at <= now) {
            self.publish(now);
        }
        self.settle(now);
        self.needs_changed |= self.election.next_timeout().is_some_and(|at| at <= now);
        self.election.handle_timeout(now);
        self.settle(now);
    }

    /// When [`Machine::handle_timeout`] has to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due = [self.membership.next_timeout(), self.election.next_timeout(), self.tell_at];
        due.into_iter().flatten().min()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<MachineOutput> {
        self.outputs.pop_front()
    }

    /// Whether a write is allowed now. The caller has checked that the clocks show no pause.
    pub fn permit(&self, purpose: Purpose, now: Instant) -> Result<WritePermit, Denied> {
        if self.name_in_use {
            return Err(Denied::Unsettled);
        }
        let valid = now + WritePermit::VALIDITY;
        // In Quorum nothing is written after the lease, whenever leave was given.
        let leased = self.election.lease_until().filter(|_| purpose != Purpose::Delete);
        let not_after = leased.map_or(valid, |until| until.min(valid));
        match (self.election.permit(now), purpose) {
            (Some(election::Permit::Apply { term }), Purpose::Apply | Purpose::Prune)
            | (Some(election::Permit::Delete { term }), Purpose::Delete) => {
                Ok(WritePermit { term, not_after })
            }
            // A stop that was called off may still be under way in the worker.
            (Some(election::Permit::Apply { .. }), Purpose::Delete) => Err(Denied::Leading),
            (Some(election::Permit::Delete { .. }), Purpose::Apply | Purpose::Prune) => {
                Err(Denied::NotLeading)
            }
            (None, _) => Err(Denied::Unsettled),
        }
    }

    /// What a new stream says.
    pub fn hello(&self) -> LocalHello {
        LocalHello {
            callsign: self.callsign.clone(),
            member: self.member.clone(),
            epoch: self.membership.epoch(),
            address: self.metadata.address.clone(),
            view_hash: self.membership.view_hash(),
        }
    }

    /// The directive in force.
    pub fn directive(&self) -> &Directive {
        self.election.directive()
    }

    /// The membership core, to look at.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The election core, to look at.
    pub fn election(&self) -> &Election {
        &self.election
    }

    /// The streams to all peers.
    pub fn links(&self) -> Vec<flagship_membership::LinkId> {
        self.membership.members().filter_map(|view| view.link).collect()
    }

    /// Whether anything worth showing changed since the last call.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// A member whose name somebody else uses touches nothing.
    pub(crate) fn effective_directive(&self) -> Directive {
        if self.name_in_use { Directive::Hold } else { self.election.directive().clone() }
    }

    fn tell_election(&mut self, input: election::Input, now: Instant) {
        self.needs_changed = true;
        self.election.handle(input, now);
        self.settle(now);
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
pub(crate) mod tests;
