//! What `flagship status` shows, as a shape.

mod compose;

use flagship_k8s_api::{MultiCluster, WorstCaseStatus};
use jiff::Timestamp;
use serde::Serialize;

use crate::liveness::Renewal;

pub(super) use compose::MILD;

/// What a cluster answered.
pub(crate) struct Answer {
    pub(crate) context: String,
    /// How a command for it begins.
    pub(crate) kubectl: String,
    /// Its objects, each with its daemon's Lease, or why there are none.
    pub(crate) objects: Result<Vec<(MultiCluster, Renewal)>, String>,
}

/// Everything that `flagship status` knows. The shape of `-o json` and `-o yaml`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusView {
    /// Fleets, by callsign.
    pub(crate) fleets: Vec<FleetView>,
    /// Clusters that could not be asked.
    pub(crate) unreachable: Vec<UnreachableView>,
    /// Clusters that answered and hold no MultiCluster where it was looked.
    pub(crate) empty: Vec<String>,
}

/// A cluster that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UnreachableView {
    /// Its context.
    pub(crate) context: String,
    /// Why, and what to do.
    pub(crate) reason: String,
}

/// One fleet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetView {
    /// Its name; empty for objects without one.
    pub(crate) callsign: String,
    /// Who leads by its own account; more than one is a split, none may be an election.
    pub(crate) leaders: Vec<LeaderView>,
    /// Whom the members follow, if none of the clusters asked holds the leader.
    pub(crate) followed: Option<String>,
    /// Who led last, if none of the clusters asked leads and none says whom it follows.
    pub(crate) led_last: Option<LedLastView>,
    /// The highest term seen.
    pub(crate) term: i64,
    /// Set while an operator has paused the fleet.
    pub(crate) pause: Option<PauseView>,
    /// What does not fit together, worst first.
    pub(crate) alarms: Vec<String>,
    /// The members.
    pub(crate) members: Vec<MemberView>,
    /// What happened lately, oldest first.
    pub(crate) history: Vec<HistoryView>,
}

/// A member that says it leads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LeaderView {
    /// Its name.
    pub(crate) member: String,
    /// Under which term.
    pub(crate) term: i64,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
}

/// An operator stopped everything that moves the lead by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PauseView {
    /// Since when.
    pub(crate) since: Option<Timestamp>,
    /// Why.
    pub(crate) reason: String,
}

/// Who led last by its own record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LedLastView {
    /// Its name.
    pub(crate) member: String,
    /// Under which term.
    pub(crate) term: i64,
    /// Objects of its payload that were applied and are not known to be gone.
    pub(crate) payload_objects: usize,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberView {
    /// Its name.
    pub(crate) member: String,
    /// The context that holds its object; `None`: known from others only.
    pub(crate) context: Option<String>,
    /// The object's namespace.
    pub(crate) namespace: Option<String>,
    /// Its role by its own account, else by that of others.
    pub(crate) role: Option<String>,
    /// Its rank.
    pub(crate) rank: Option<i64>,
    /// Its own word on whether all is well.
    pub(crate) ready: Option<bool>,
    /// Objects of the payload that are ready, and all.
    pub(crate) payload: Option<PayloadView>,
    /// How the leader (or whoever knows) sees it.
    pub(crate) seen: Option<SeenView>,
    /// Where others reach it.
    pub(crate) address: Option<String>,
    /// Whom it follows.
    pub(crate) leader: Option<String>,
    /// Its term.
    pub(crate) term: Option<i64>,
    /// Who serves it.
    pub(crate) holder: Option<String>,
    /// How long nobody leads at the most if the leader fails now, as this member reckons.
    pub(crate) worst_case_failover: Option<WorstCaseStatus>,
    /// Its daemon is down, cannot write, or is being replaced: role, readiness, term and conditions are what was
    /// written last.
    pub(crate) daemon_down: bool,
    /// It led when it last wrote, and may do so still.
    pub(crate) may_lead: bool,
    /// An operator said that it will not come back.
    pub(crate) forgotten: bool,
    /// Conditions that are not fine.
    pub(crate) conditions: Vec<ConditionView>,
}

/// How much of the payload is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PayloadView {
    /// Ready objects.
    pub(crate) ready: usize,
    /// All objects in the inventory.
    pub(crate) total: usize,
}

/// How others see a member.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SeenView {
    /// Who sees it so.
    pub(crate) by: String,
    /// Alive, Suspect, Away, Down or Left.
    pub(crate) state: String,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
}

/// A condition that is not fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ConditionView {
    /// Which.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its status.
    pub(crate) status: String,
    /// Why, in one word.
    pub(crate) reason: String,
    /// Why, in a sentence.
    pub(crate) message: String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HistoryView {
    /// When.
    pub(crate) time: Timestamp,
    /// Who says so.
    pub(crate) member: String,
    /// What, in one word.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Under which term.
    pub(crate) term: i64,
    /// A sentence.
    pub(crate) message: String,
}
