//! From what is known of a member to the status that people read. Pure, and stable: nothing in it that changes
//! by the second, as every difference is a write.

use std::collections::BTreeMap;

use flagship_k8s_api::{HistoryEntry, MemberCounts, MemberStatus, MultiClusterStatus, OrderAnswer, Settings};
use flagship_node::{MemberSnapshot, Snapshot, State};
use flagship_types::{Instant, MemberName, Role};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::fence::Fence;
use crate::gates::Gates;
use crate::judge;
use crate::memory::{self, signed};
use crate::progress::Progress;
use crate::request::Reachability;
use crate::second::Second;
use crate::service::Trouble;
use crate::status_writer::Picture;
use crate::worst_case;

/// Why nothing goes on until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stall {
    pub reason: String,
    pub message: String,
}

/// Everything the status is made of.
pub(crate) struct View<'a> {
    pub namespace: &'a str,
    pub member: &'a MemberName,
    pub generation: Option<i64>,
    /// The settings in use; `None` if there never were usable ones.
    pub settings: Option<&'a Settings>,
    /// `None` while no node runs.
    pub snapshot: Option<&'a Snapshot>,
    pub progress: &'a Progress,
    pub gates: &'a Gates,
    pub reach: Reachability,
    pub stall: Option<&'a Stall>,
    /// Whether another replica of this daemon is ready to act.
    pub second: &'a Second,
    /// Whether the API server checks writes, too.
    pub fence: &'a Fence,
    /// Why it is not known, or not sure, where others reach this member.
    pub service: Option<&'a Trouble>,
    /// The object is being deleted.
    pub removal: bool,
    pub history: &'a [HistoryEntry],
    /// The answer to the last order that an operator gave through this object.
    pub last_order: Option<&'a OrderAnswer>,
    /// Since when the leader that is followed leads, as far as was seen here.
    pub leader_since: Option<Timestamp>,
    pub wall: Timestamp,
    pub boot: Instant,
}

/// The status for people.
pub(crate) fn picture(view: &View<'_>) -> Picture {
    let judgements = judge::all(view);
    let ready = judgements.iter().any(judge::is_ready);
    let role = view.snapshot.map_or(Role::Joining, |snapshot| snapshot.role);
    let leader = view.snapshot.and_then(|snapshot| snapshot.leader.as_ref());
    let leading = leads(view);
    let status = MultiClusterStatus {
        observed_generation: view.generation,
        leader_address: leader.and_then(|leader| address_of(view, leader)),
        ready,
        leading,
        port: view.settings.map(|settings| settings.port.into()),
        role: Some(role.as_str().into()),
        leader: leader.map(ToString::to_string),
        failed_lead: view.snapshot.map(|snapshot| memory::failed_lead(snapshot.lapse, view.wall)),
        lead_since: view.leader_since.filter(|_| leading).map(Time),
        members: view.snapshot.map(|snapshot| members(snapshot, view.wall, view.boot)).unwrap_or_default(),
        member_counts: view.snapshot.map(counts),
        worst_case_failover_seconds: view
            .snapshot
            .zip(view.settings)
            .and_then(|(snapshot, settings)| worst_case::of(snapshot, settings)),
        inventory: view.progress.inventory.clone(),
        history: view.history.to_vec(),
        configuration_missing: view.snapshot.map(missing).unwrap_or_default(),
        last_order: view.last_order.cloned(),
        ..Default::default()
    };
    Picture { status, judgements }
}

/// Whether this member leads, its stop included: its payload may still run.
pub(crate) fn leads(view: &View<'_>) -> bool {
    view.snapshot.is_some_and(|snapshot| matches!(snapshot.role, Role::Leader | Role::Stopping))
}

fn address_of(view: &View<'_>, leader: &MemberName) -> Option<String> {
    if leader == view.member {
        return view.settings.and_then(|settings| settings.advertised.as_ref()).map(ToString::to_string);
    }
    let snapshot = view.snapshot?;
    let member = snapshot.members.iter().find(|member| member.name == *leader)?;
    member.address.as_ref().map(ToString::to_string)
}

fn counts(snapshot: &Snapshot) -> MemberCounts {
    let mut count: BTreeMap<State, i64> = BTreeMap::new();
    for member in &snapshot.members {
        *count.entry(member.state).or_default() += 1;
    }
    let of = |state| count.get(&state).copied().unwrap_or(0);
    MemberCounts::new(of(State::Alive), of(State::Suspect), of(State::Away), of(State::Down))
}

/// Who has yet to store the configuration of this member, which leads.
fn missing(snapshot: &Snapshot) -> Vec<String> {
    let missing = snapshot.config_missing.iter().take(MultiClusterStatus::MAX_MEMBERS);
    missing.map(ToString::to_string).collect()
}

/// At most [`MultiClusterStatus::MAX_MEMBERS`]: voters first, as whether a majority is there is read from it, and a witness
/// has no rank; then whoever leads or is not well, then by rank. Shown by name.
fn members(snapshot: &Snapshot, wall: Timestamp, boot: Instant) -> Vec<MemberStatus> {
    let mut members: Vec<&MemberSnapshot> = snapshot.members.iter().collect();
    let weight = |member: &MemberSnapshot| {
        let plain = member.role != Some(Role::Leader) && member.state == State::Alive;
        let votes = snapshot.config.voters.contains(&member.name);
        (!votes, plain, std::cmp::Reverse(member.rank), member.name.clone())
    };
    members.sort_by_key(|member| weight(member));
    members.truncate(MultiClusterStatus::MAX_MEMBERS);
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members.into_iter().map(|member| member_status(member, wall, boot)).collect()
}

fn member_status(member: &MemberSnapshot, wall: Timestamp, boot: Instant) -> MemberStatus {
    // Whole seconds: finer would show the jitter between two clocks.
    let since =
        (wall.checked_sub(boot.since(member.since))).and_then(|at| Timestamp::from_second(at.as_second()));
    MemberStatus {
        name: member.name.to_string(),
        state: member.state.as_str().into(),
        role: member.role.map(|role| role.as_str().into()),
        rank: member.rank.map(|rank| rank.0),
        address: member.address.as_ref().map(ToString::to_string),
        since: since.ok().map(Time),
        epoch: Some(signed(member.epoch.0)).filter(|epoch| *epoch > 0),
        unfit: member.unfit.clone(),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
pub(crate) mod tests;
