//! How a machine looks from outside.

use flagship_membership::{MemberView, State};
use flagship_types::{FleetConfig, Health, Instant, MemberName, Role, Term, format_duration};

use crate::machine::Machine;
use crate::snapshot::{MemberSnapshot, Snapshot};

impl Machine {
    /// The picture for status and metrics.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let leader = self.election.leader();
        let members: Vec<_> =
            (self.membership.members().filter(|view| !self.is_forgotten(view.name, view.state)))
                .map(|view| self.member_snapshot(&view))
                .collect();
        let other_leaders = members
            .iter()
            .filter(|m| m.name != self.member && m.linked && m.role == Some(Role::Leader))
            .filter(|_| self.election.role() == Role::Leader)
            .map(|m| m.name.clone())
            .collect();
        Snapshot {
            callsign: self.callsign.clone(),
            member: self.member.clone(),
            epoch: self.membership.epoch(),
            taken_at: now,
            role: self.election.role(),
            term: leader.as_ref().map_or(self.election.term(), |(_, term)| *term),
            leader: leader.map(|(name, _)| name),
            ascent: self.election.ascent().cloned(),
            successor: self.election.successor().cloned(),
            lapse: self.election.lapse(),
            directive: self.effective_directive(),
            config: self.election.config().clone(),
            stop_grace: self.election.stop_grace(),
            config_conflict: self
                .election
                .config_conflict()
                .map(|(leader, config)| conflict(&leader, &config)),
            config_missing: match self.election.role() {
                Role::Leader => self.election.config_missing(),
                _ => Vec::new(),
            },
            waiting_for: self.election.waiting_for(now),
            members,
            other_leaders,
            name_in_use: self.name_in_use,
            interrupted: self.interrupted,
            membership: *self.membership.stats(),
            election: *self.election.stats(),
        }
    }

    /// An operator declared it gone, and it did not come back since: it is no member any more, nor one that left. In
    /// every other state it was heard of since, at least from others, and what becomes of it is told.
    pub(crate) fn is_forgotten(&self, name: &MemberName, state: State) -> bool {
        state == State::Left && self.election.record().forgotten.contains(name)
    }

    fn member_snapshot(&self, view: &MemberView<'_>) -> MemberSnapshot {
        let own = *view.name == self.member;
        let metadata = if own { Some(&self.metadata) } else { view.metadata };
        MemberSnapshot {
            name: view.name.clone(),
            state: view.state,
            since: view.since,
            linked: own || view.link.is_some(),
            address: view.address.cloned(),
            rtt: view.rtt,
            heard_at: view.heard_at,
            rank: metadata.map(|m| m.rank),
            role: metadata.map(|m| m.role),
            term: metadata.map_or(Term::NONE, |m| m.term),
            health: metadata.map_or_else(Health::default, |m| m.health),
            epoch: view.epoch,
            candidate: metadata.is_some_and(|m| m.candidate),
            unfit: self.election.unfit(view.name),
        }
    }
}

fn conflict(leader: &MemberName, config: &FleetConfig) -> String {
    format!(
        "the settings of {leader}, who leads, are in force and differ from this object's: failback {:?} after {}, restartGrace {}",
        config.failback,
        format_duration(config.failback_delay),
        format_duration(config.restart_grace)
    )
}
