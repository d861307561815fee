//! What one core says is carried to the other, to the links and to the driver.

use std::time::Duration;

use flagship_election::{self as election, Directive};
use flagship_membership::{self as membership, Evidence, MemberView, State};
use flagship_types::{Instant, MemberName, Role};
use flagship_wire::PeerMessage;
use tracing::debug;

use super::{Machine, MachineOutput};
use crate::handle::NodeEvent;
use crate::ports::DurableRecord;
use crate::signing::sign;

/// How long what all members of a fleet have to say at the same time is spread over, for each of them: who leads is news
/// to all, and each that says so is told to all. Those that may lead say it at once, the others have time.
pub(super) const TELLING_TIME: Duration = Duration::from_millis(50);

/// The longest such time.
const TELLING_CAP: Duration = Duration::from_secs(30);

/// Caution makes nobody wait longer than this for a lone observer's verdict.
const MAX_FLOOR: Duration = Duration::from_secs(60);

/// In a fleet of so few there is nothing to spread.
const FEW: usize = 8;

impl Machine {
    /// Carries outputs from core to core until both are quiet. Each output is taken once, and a core answers an
    /// input with finitely many, so this ends.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.membership.poll_output() {
                self.route_membership(output, now);
            } else if let Some(output) = self.election.poll_output() {
                self.route_election(output, now);
            } else if std::mem::take(&mut self.needs_changed) {
                self.require_links(now);
            } else {
                break;
            }
        }
        self.widen_with_caution(now);
    }

    /// Tells membership whom election needs, if that changed.
    fn require_links(&mut self, now: Instant) {
        let needed = self.election.needed();
        if needed != self.required {
            self.required.clone_from(&needed);
            self.membership.handle(membership::Input::SetRequired(needed), now);
        }
    }

    fn route_membership(&mut self, output: membership::Output, now: Instant) {
        use membership::{Event, Output};
        match output {
            Output::Connect { address } => self.outputs.push_back(MachineOutput::Connect(address)),
            Output::Disconnect { link, code } => self.outputs.push_back(MachineOutput::Close(link, code)),
            Output::Send { link, message } => {
                self.outputs.push_back(MachineOutput::Send(link, PeerMessage::Membership(message)));
            }
            Output::Sign(statement) => {
                let signed = sign(self.signer.as_ref(), *statement);
                self.membership.handle(membership::Input::Signed(signed), now);
            }
            Output::Event(Event::Heard { member, at }) => {
                self.election.handle(election::Input::Heard { member, at }, now);
            }
            Output::Event(Event::Vouched { member, at }) => {
                self.election.handle(election::Input::Vouched { member, at }, now);
            }
            Output::Event(Event::Changed(member)) => self.member_changed(member, now),
            Output::Event(Event::Querying(_) | Event::Refuted(_)) => self.dirty = true,
            Output::Event(Event::EpochRaised(_)) => {
                // Said before it is stored, on purpose: the own record spreads under it already, and a stream that
                // still names the old epoch is refused, so waiting for the API server would cut this member off.
                // No promise depends on it. If the store is lost, the next process begins below what peers know,
                // is told so, and raises its epoch again.
                self.outputs.push_back(MachineOutput::Hello(self.hello()));
                self.persist();
            }
            Output::Event(Event::NameInUse { .. }) => {
                self.name_in_use = true;
                self.outputs.push_back(MachineOutput::Direct(Directive::Hold));
                self.emit(NodeEvent::NameInUse);
            }
        }
    }

    fn member_changed(&mut self, name: MemberName, now: Instant) {
        self.dirty = true;
        if name == self.member {
            return;
        }
        let Some(view) = self.membership.member(&name) else {
            self.told.remove(&name);
            return;
        };
        let (to, evidence) = (view.state, view.evidence);
        let peer = peer_view(&view);
        let from = self.told.insert(name.clone(), to);
        // The operator who had it forgotten knows.
        if from != Some(to) && !self.is_forgotten(&name, to) {
            self.emit(NodeEvent::Member { member: name, from, to, evidence });
        }
        self.needs_changed = true;
        self.election.handle(election::Input::Peer(peer), now);
    }

    fn route_election(&mut self, output: election::Output, now: Instant) {
        use election::Output;
        match output {
            Output::Persist(record) => {
                self.record = Some(record);
                self.persist();
            }
            Output::Send { to, message } if self.is_anothers_vote(&message, now) => {
                debug!(%to, ?message, "not sent: another process may vote as this member");
                self.votes_withheld += 1;
            }
            Output::Send { to, message } => {
                if let Some(link) = self.membership.link_to(&to) {
                    self.outputs.push_back(MachineOutput::Send(link, PeerMessage::Election(message)));
                }
            }
            Output::Direct(directive) => {
                self.dirty = true;
                if !self.name_in_use {
                    self.outputs.push_back(MachineOutput::Direct(directive));
                }
            }
            Output::Publish(standing) => {
                // Who acts, or was interrupted, says so at once.
                let quiet = |role| matches!(role, Role::Joining | Role::Standby | Role::Witness);
                let waits = quiet(standing.role)
                    && quiet(self.metadata.role)
                    && standing.failed == self.metadata.health.failed
                    && standing.interrupted == self.metadata.interrupted;
                self.interrupted = standing.interrupted;
                self.metadata.role = standing.role;
                self.metadata.term = standing.term;
                self.metadata.leader = standing.leader;
                self.metadata.config = standing.config;
                self.metadata.quorum = standing.quorum;
                self.metadata.interrupted = standing.interrupted;
                self.metadata.health.failed = standing.failed;
                self.metadata.promoted = standing.promoted;
                self.publish_in_turn(waits, now);
            }
            Output::Event(event) => self.emit(NodeEvent::Election(event)),
        }
    }

    /// Whether others would count this as the vote of a member whose votes another process may give now. A record tells
    /// what that one may have voted since, too. The own vote for itself goes to nobody.
    fn is_anothers_vote(&self, message: &election::Message, now: Instant) -> bool {
        use election::Message;
        let is_vote = match message {
            Message::Renewed { .. } => true,
            Message::Grant { .. } | Message::RecordReply { .. } => self.election.is_bound_by_quorum(),
            _ => false,
        };
        is_vote && self.votes_until.is_some_and(|until| now >= until)
    }

    /// Tells what the election says of this member: at once if it may lead or must not wait, else when its turn comes.
    pub(super) fn publish_in_turn(&mut self, may_wait: bool, now: Instant) {
        let members = self.membership.size();
        if !may_wait || self.metadata.candidate || members <= FEW {
            return self.publish(now);
        }
        self.dirty = true;
        let times = u32::try_from(members).unwrap_or(u32::MAX);
        let turn = TELLING_TIME.saturating_mul(times).min(TELLING_CAP) * u32::from(self.place) / 256;
        self.tell_at.get_or_insert(now + turn);
    }

    pub(super) fn publish(&mut self, now: Instant) {
        self.dirty = true;
        self.tell_at = None;
        self.membership.handle(membership::Input::SetMetadata(self.metadata.clone()), now);
    }

    /// The epoch and the newest election record, as one.
    fn persist(&mut self) {
        if let Some(record) = &self.record {
            let record = DurableRecord { epoch: self.membership.epoch(), election: record.clone() };
            self.outputs.push_back(MachineOutput::Persist(record));
        }
    }

    /// After a needless take-over the election asks for patience; a lone observer is patient with it.
    fn widen_with_caution(&mut self, now: Instant) {
        let caution = self.election.caution();
        if caution != self.caution {
            self.caution = caution;
            let floor = self.silence_floor_in_force();
            self.membership.handle(membership::Input::SetSilenceFloor(floor), now);
        }
    }

    /// The silence floor: longer than the setting while splits recur.
    pub(crate) fn silence_floor_in_force(&self) -> Duration {
        self.silence_floor.saturating_mul(self.caution).min(MAX_FLOOR.max(self.silence_floor))
    }

    pub(super) fn emit(&mut self, event: NodeEvent) {
        self.dirty = true;
        self.outputs.push_back(MachineOutput::Event(event));
    }
}

pub(super) fn peer_view(view: &MemberView<'_>) -> election::PeerView {
    election::PeerView {
        name: view.name.clone(),
        presence: match view.state {
            State::Alive | State::Suspect => election::Presence::Present,
            State::Away => election::Presence::Away,
            State::Down => election::Presence::Down,
            State::Left => election::Presence::Left,
        },
        metadata: view.metadata.cloned(),
        // With a waiting replica the cluster lives as well: it takes over within the restart grace.
        exited: view.evidence == Some(Evidence::Exit) || (view.evidence.is_some() && view.replica_waits),
        linked: view.link.is_some(),
    }
}
