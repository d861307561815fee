//! The fleet configuration: the leader adopts its own object's, everybody stores it.

use flagship_types::{ConfigVersion, FleetConfig, MemberName, Role, Term};

use crate::core::{Election, Gated};
use crate::io::{Event, Message, Presence};
use crate::peer::Peer;
use crate::stage::Stage;

/// The largest step of a version that is believed: beyond it a peer is mistaken or hostile, and would freeze the
/// configuration for ever.
const MAX_VERSION_JUMP: u64 = Term::MAX_JUMP << 8;

impl Election {
    /// Takes a newer configuration over.
    pub(crate) fn adopt_config(&mut self, config: &FleetConfig) {
        let own = self.record.config.version;
        if config.version <= own {
            return;
        }
        if config.version.0 - own.0 > MAX_VERSION_JUMP {
            self.stats.messages_ignored += 1;
            return;
        }
        self.record.config = config.clone();
        self.store_config();
    }

    /// This member may vote from now on, and what it knows becomes its record.
    pub(crate) fn gain_vote(&mut self) {
        self.may_vote = true;
        self.record.leader = self.leader.clone().filter(|l| *l != self.me || self.record.held.is_some());
        self.persist_then(Gated::ConfigStored { version: self.record.config.version });
    }

    fn store_config(&mut self) {
        let config = self.record.config.clone();
        if self.may_vote {
            self.persist_then(Gated::ConfigStored { version: config.version });
        }
        self.event(Event::ConfigAdopted(config));
    }

    pub(crate) fn on_config_stored_here(&mut self, version: ConfigVersion) {
        if self.record.config.version == version {
            self.stored_config = self.record.config.clone();
        }
        if let Some(leader) = self.leader.clone().filter(|l| *l != self.me) {
            self.acknowledge_config(&leader, version);
        }
    }

    /// Tells the leader that its configuration is stored here, if it is.
    pub(crate) fn acknowledge_config(&mut self, leader: &MemberName, version: ConfigVersion) {
        if self.stored_config.version == version {
            self.send(leader, Message::ConfigStored { version });
        }
    }

    /// The leader's own object decides; and whoever meets a newer configuration asks for it.
    pub(crate) fn step_config(&mut self) {
        let own = self.record.config.version;
        let is_newer = |p: &Peer| p.is_linked() && p.metadata().is_some_and(|m| m.config > own);
        for peer in self.names(is_newer) {
            self.ask_record(&peer);
        }
        let Stage::Leader(lead) = &self.stage else {
            return;
        };
        let knows_newer = self.peers.values().any(is_newer);
        let next = own.next_in(lead.term);
        let differs = !self.spec.proposal.same_settings(&self.record.config) || own == ConfigVersion(0);
        if let (true, None, Some(version)) = (lead.begun && differs && !knows_newer, lead.hold, next) {
            let pause = self.record.config.pause.clone();
            self.record.config = FleetConfig { version, pause, ..self.spec.proposal.clone() };
            self.store_config();
        }
    }

    /// Somebody else's configuration is in force here, though this member's object proposes another: who leads,
    /// and what is in force. Never for a witness, which proposes nothing.
    pub fn config_conflict(&self) -> Option<(MemberName, FleetConfig)> {
        let leader = self.leader.clone().filter(|l| *l != self.me && !self.spec.witness)?;
        (!self.spec.proposal.same_settings(&self.record.config)).then(|| (leader, self.record.config.clone()))
    }

    /// Members that may lead, are not Down, and have not stored the leader's configuration yet: with any of them
    /// it is not in force. Meant for the leader.
    pub fn config_missing(&self) -> Vec<MemberName> {
        let version = self.record.config.version;
        let counts = |p: &Peer| {
            matches!(p.view.presence, Presence::Present | Presence::Away)
                && p.metadata().is_none_or(|m| m.candidate || m.role == Role::Leader)
        };
        let stored =
            |p: &Peer| p.config_stored.max(p.metadata().map_or(ConfigVersion(0), |m| m.config)) >= version;
        self.names(|p| counts(p) && !stored(p))
    }
}
