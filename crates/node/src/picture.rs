//! How a machine looks from outside.

use std::time::Duration;

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
            may_run_at: self.election.may_run_at(),
            lapse: self.election.lapse(),
            directive: self.effective_directive(),
            config: self.election.config().clone(),
            quorum: self.election.is_bound_by_quorum(),
            stop_grace: self.election.stop_grace(),
            restart_grace: self.election.restart_grace(),
            silence_floor: self.silence_floor_in_force(),
            config_conflict: self
                .election
                .config_conflict()
                .map(|(leader, in_force, wanted)| conflict(&leader, in_force, wanted)),
            voters_refused: self.election.voters_refused(),
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
            fences: metadata.is_some_and(|m| m.fences),
            quorum: metadata.is_some_and(|m| m.quorum),
            unfit: self.election.unfit(view.name),
        }
    }
}

/// Which settings of the object are not in force, and what is instead.
fn conflict(leader: &MemberName, in_force: &FleetConfig, wanted: &FleetConfig) -> String {
    let names = |config: &FleetConfig| match config.voters.as_slice() {
        [] => "none".to_owned(),
        voters => voters.iter().map(MemberName::as_str).collect::<Vec<_>>().join("+"),
    };
    let time =
        |of: fn(&FleetConfig) -> Duration| (format_duration(of(in_force)), format_duration(of(wanted)));
    let settings = [
        ("mode", (format!("{:?}", in_force.mode), format!("{:?}", wanted.mode))),
        ("voters", (names(in_force), names(wanted))),
        ("leaseDuration", time(|config| config.lease)),
        ("stopGrace", time(|config| config.stop_grace)),
        ("failback", (format!("{:?}", in_force.failback), format!("{:?}", wanted.failback))),
        ("failbackDelay", time(|config| config.failback_delay)),
        ("restartGrace", time(|config| config.restart_grace)),
    ];
    let differ: Vec<String> = (settings.into_iter().filter(|(_, (theirs, own))| theirs != own))
        .map(|(field, (theirs, own))| format!("{field} {theirs} (here {own})"))
        .collect();
    format!(
        "the election settings of {leader}, who leads, are in force and differ from this object's: {}",
        differ.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use flagship_types::Mode;

    use super::*;

    #[test]
    fn a_conflict_names_the_settings_that_differ_and_no_others() {
        let voters = ["newyork", "sheffield", "witness"].map(|name| name.parse().unwrap()).to_vec();
        let quorum = FleetConfig { mode: Mode::Quorum, voters, ..FleetConfig::default() };
        let wanted = FleetConfig { failback_delay: Duration::from_secs(7), ..FleetConfig::default() };
        assert_eq!(
            conflict(&"sheffield".parse().unwrap(), &quorum, &wanted),
            "the election settings of sheffield, who leads, are in force and differ from this object's: mode Quorum (here \
             Availability), voters newyork+sheffield+witness (here none), failbackDelay 1s (here 7s)"
        );
    }
}
