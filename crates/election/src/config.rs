//! The fleet configuration: the leader adopts its own object's, everybody stores it.

use flagship_types::quorum::has_majority;
use flagship_types::{ConfigVersion, FleetConfig, MemberName, Mode, Role, Term};

use crate::core::{Election, Gated};
use crate::heal::{MEETING_PATIENCE, says_it_leads};
use crate::io::{Event, Message, Presence};
use crate::peer::Peer;
use crate::planted::PlantedBug;
use crate::quorum::{Change, next_change};
use crate::stage::Stage;

/// The largest step of a version that is believed: beyond it a peer is mistaken or hostile, and would freeze the
/// configuration for ever.
const MAX_VERSION_JUMP: u64 = Term::MAX_JUMP << 8;

impl Election {
    /// Takes a newer configuration over.
    pub(crate) fn adopt_config(&mut self, config: &FleetConfig) {
        let own = self.record.config.version;
        let keeps_own = self.has(PlantedBug::OwnHealRule) && matches!(self.stage, Stage::Leader(_));
        if config.version <= own || keeps_own {
            return;
        }
        if config.version.0 - own.0 > MAX_VERSION_JUMP {
            self.stats.messages_ignored += 1;
            return;
        }
        let before = self.quorum().cloned();
        let was_bound = before.is_some();
        self.record.config = config.clone();
        // Others get it only once it cannot be undone: `config_told_to`.
        let is_left = |old: &FleetConfig| config.mode != Mode::Quorum && old.voters.contains(&self.me);
        self.record.replaced = before.filter(is_left).map(Box::new);
        let leads_freely = matches!(self.stage, Stage::Leader(_)) && config.mode != Mode::Quorum;
        self.told_config_at = leads_freely.then_some(self.now);
        if self.stage.has_payload() && !was_bound {
            // Another leader's: the voters have to say soon that this one leads.
            self.doubt_lease_since(self.now);
        }
        self.store_config();
    }

    /// This member may vote from now on, and what it knows becomes its record.
    pub(crate) fn gain_vote(&mut self) {
        self.may_vote = true;
        self.pledge_for_the_lost_record();
        self.record.leader = self.leader.clone().filter(|l| *l != self.me || self.record.held.is_some());
        self.persist_then(Gated::ConfigStored { version: self.record.config.version });
    }

    pub(crate) fn store_config(&mut self) {
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
            return self.step_leaving();
        };
        // Of two leaders that meet neither proposes: the newer configuration of those there are decides which one stays. It
        // may come through others before the leader that wrote it is met.
        let knows_newer = self.peers.values().any(|p| is_newer(p) || says_it_leads(p));
        if !lead.begun || lead.hold.is_some() || knows_newer {
            return;
        }
        let term = lead.term;
        if let Some(until) = self.told_config_at.map(|at| at + MEETING_PATIENCE).filter(|at| *at > self.now) {
            return self.wake(until);
        }
        if self.record.replaced.as_deref().is_some_and(|old| self.is_committed(old)) {
            self.record.replaced = None;
            self.persist_if_voter();
        }
        let Some(version) = own.next_in(term) else {
            return;
        };
        if self.leaving().is_some() && own.term() != term {
            // As with every change in Quorum: another leader since may have written a newer one, which nobody here knows.
            self.record.config.version = version;
            return self.store_config();
        }
        if self.record.replaced.is_some() {
            return;
        }
        if let Some(next) = self.next_config(term) {
            let next = FleetConfig { version, pause: self.record.config.pause.clone(), ..next };
            let old = std::mem::replace(&mut self.record.config, next);
            let binds = self.touches_quorum(&old) && !self.has(PlantedBug::ModeAtOnce);
            self.record.replaced = binds.then(|| Box::new(old));
            self.store_config();
        }
    }

    /// As a voter that does not lead: Quorum is left once a majority of its voters is known to have stored that. An
    /// operator's word that a voter is gone for good is enough in its place.
    fn step_leaving(&mut self) {
        let Some(old) = self.leaving() else { return };
        let rest = old.voters.iter().filter(|voter| !self.record.forgotten.contains(voter)).cloned();
        let known = FleetConfig { voters: rest.collect(), ..old.clone() };
        if self.is_committed(&known) {
            self.record.replaced = None;
            self.persist_if_voter();
        }
    }

    /// The configuration that this member tells that one. On the way out of Quorum only the voters are told, and only what
    /// is durable here: whoever goes by Availability before a majority of them does may lead beside one that they elect.
    pub(crate) fn config_told_to(&self, member: &MemberName) -> &FleetConfig {
        let is_stored = self.stored_config.version == self.record.config.version;
        match self.leaving() {
            Some(old) if !(is_stored && old.voters.contains(member)) => old,
            _ => &self.record.config,
        }
    }

    fn touches_quorum(&self, old: &FleetConfig) -> bool {
        [old.mode, self.record.config.mode].contains(&Mode::Quorum)
    }

    /// Whether majorities of the voters before and after have stored the configuration in force here: the next change
    /// may be built on it, and nobody can be elected by voters that know neither.
    fn is_committed(&self, old: &FleetConfig) -> bool {
        let new = &self.record.config;
        // A newer one is another leader's, who may not know this one.
        let stored = |voter: &MemberName| match *voter == self.me {
            true => self.stored_config.version == new.version,
            false => self.peers.get(voter).is_some_and(|p| stored_version(p) == new.version),
        };
        let by = |config: &FleetConfig| config.mode != Mode::Quorum || has_majority(&config.voters, stored);
        by(old) && by(new)
    }

    /// The next configuration on the way to what the own object proposes; `None`: that is in force, or cannot be.
    fn next_config(&self, term: Term) -> Option<FleetConfig> {
        let (own, wanted) = (&self.record.config, &self.spec.proposal);
        // What an earlier leader wrote may be stored by too few: this one's changes are built on its own.
        if own.mode == Mode::Quorum && own.version.term() != term {
            return Some(own.clone());
        }
        if wanted.same_settings(own) && own.version > ConfigVersion(0) {
            return None;
        }
        let voters = self.next_voters().ok()?;
        let next = FleetConfig { voters, ..wanted.clone() };
        let is_new = !next.same_settings(own) || own.version == ConfigVersion(0);
        is_new.then_some(next)
    }

    /// The voters after the next step; `Err`: why there is none, though the object asks for it.
    fn next_voters(&self) -> Result<Vec<MemberName>, String> {
        let (own, wanted) = (&self.record.config, &self.spec.proposal);
        match (own.mode, wanted.mode) {
            (Mode::Availability, Mode::Availability) => Ok(Vec::new()),
            (Mode::Quorum, Mode::Availability) => {
                match has_majority(&own.voters, |voter| self.answers(voter)) {
                    true => Ok(Vec::new()),
                    false => {
                        let missing = names_of(own.voters.iter().filter(|v| !self.answers(v)));
                        Err(format!(
                            "mode Quorum is left once a majority of its voters knows of it, and {missing} did not answer"
                        ))
                    }
                }
            }
            (Mode::Availability, Mode::Quorum) => {
                // They promise before anybody goes by the new mode: else a cut at the wrong moment would leave a leader
                // that no lease binds beside one that a majority elected.
                match has_majority(&wanted.voters, |voter| self.answers(voter)) {
                    true => Ok(wanted.voters.clone()),
                    false => {
                        let missing = names_of(wanted.voters.iter().filter(|v| !self.answers(v)));
                        Err(format!(
                            "mode Quorum needs the promise of a majority of its voters, and {missing} did not give it"
                        ))
                    }
                }
            }
            (Mode::Quorum, Mode::Quorum) if self.has(PlantedBug::VotersAllAtOnce) => {
                Ok(wanted.voters.clone())
            }
            (Mode::Quorum, Mode::Quorum) => {
                match next_change(&own.voters, &wanted.voters, |voter| self.answers(voter)) {
                    Ok(Some(change)) => Ok(change.apply(&own.voters)),
                    Ok(None) => Ok(own.voters.clone()),
                    Err(Change::Add(name)) => {
                        Err(format!("adding {name} to the voters would leave no majority that answers"))
                    }
                    Err(Change::Remove(name)) => {
                        Err(format!("removing {name} from the voters would leave no majority that answers"))
                    }
                }
            }
        }
    }

    /// Why the voters that this leader's object asks for do not become those of the fleet: the change would lose the
    /// majority. `None`: nothing is refused.
    pub fn voters_refused(&self) -> Option<String> {
        matches!(self.stage, Stage::Leader(_)).then(|| self.next_voters().err())?
    }

    /// Somebody else's configuration is in force here, though this member's object proposes another: who leads,
    /// what is in force, and what the object proposes. Never for a witness, which proposes nothing.
    pub fn config_conflict(&self) -> Option<(MemberName, &FleetConfig, &FleetConfig)> {
        let leader = self.leader.clone().filter(|l| *l != self.me && !self.spec.witness)?;
        let (own, wanted) = (&self.record.config, &self.spec.proposal);
        (!wanted.same_settings(own)).then_some((leader, own, wanted))
    }

    /// Who has not stored the leader's configuration yet, of the voters, wherever they are, and of the members that may
    /// lead and are not Down. Meant for the leader.
    pub fn config_missing(&self) -> Vec<MemberName> {
        let version = self.record.config.version;
        let voters = match self.record.config.mode {
            Mode::Quorum => self.record.config.voters.as_slice(),
            Mode::Availability => &[],
        };
        let may_lead = |p: &Peer| {
            matches!(p.view.presence, Presence::Present | Presence::Away)
                && p.metadata().is_none_or(|m| m.candidate || m.role == Role::Leader)
        };
        let stored = |p: &Peer| stored_version(p) >= version;
        let mut missing = self.names(|p| (may_lead(p) || voters.contains(p.name())) && !stored(p));
        // A voter that was never met.
        let unknown = voters.iter().filter(|voter| **voter != self.me && !self.peers.contains_key(*voter));
        missing.extend(unknown.cloned());
        missing.sort();
        missing
    }
}

/// The newest configuration that a peer is known to have stored.
fn stored_version(peer: &Peer) -> ConfigVersion {
    peer.config_stored.max(peer.metadata().map_or(ConfigVersion(0), |m| m.config))
}

fn names_of<'a>(names: impl Iterator<Item = &'a MemberName>) -> String {
    names.map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}
