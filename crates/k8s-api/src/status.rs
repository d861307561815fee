//! What a daemon says of its MultiCluster.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions;
use crate::configuration::ConfigurationStatus;
use crate::orders::OrderAnswer;

/// What the daemon of this cluster knows and did. `term`, `epoch`, `vote`, `heldTerm`, `chosen`, `stopping`,
/// `releasedTerm`, `holder`, `callsign`, `forgotten` and `configuration` are its memory across restarts; all else is for
/// people.
///
/// Words that a later version may add to (roles, states) are strings here, so that an older daemon can still read them.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MultiClusterStatus {
    /// The `metadata.generation` this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The address of the leader, with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_address: Option<String>,
    /// Whether all is well with this member (the condition Ready).
    #[serde(default)]
    pub ready: bool,
    /// Whether this member leads.
    #[serde(default)]
    pub leading: bool,
    /// The port the daemon listens on for this member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Joining, Standby, Candidate, Leader or Stopping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The member that leads, as far as this one knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The highest term this member has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// Since when this member leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead_since: Option<Time>,
    /// The other members and this one, at most 32: voters first, then the leader and whoever is not well, then by rank.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub members: Vec<MemberStatus>,
    /// How many members there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_counts: Option<MemberCounts>,
    /// How long nobody leads at the most if the leader fails now, by the settings in force and as the fleet is. Absent if
    /// nobody could take over, or no majority of the voters would be left to grant it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_case_failover_seconds: Option<WorstCaseStatus>,
    /// What was applied here and is not known to be gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub inventory: Vec<InventoryEntry>,
    /// The last 20 things that happened, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub history: Vec<HistoryEntry>,
    /// The start of this member that wrote last, in milliseconds of the wall clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The fleet that the memory in this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callsign: Option<String>,
    /// The highest term this member granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote: Option<VoteStatus>,
    /// The term under which this member leads, or led when it last wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_term: Option<i64>,
    /// The term whose payload is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopping: Option<i64>,
    /// The term of the lead that this member gave up, until a newer one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_term: Option<i64>,
    /// An operator's switchover gave this member the lead that it holds: rank does not move it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
    /// The process that serves this member: the uid of its pod, or its host name and process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Members an operator declared gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub forgotten: Vec<String>,
    /// That this member gave the lead away because its payload did not get or stay ready; absent if it never did, or was
    /// well for an hour since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_lead: Option<FailedLead>,
    /// The fleet configuration stored here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
    /// The fleet configuration before that one, while this member leads and majorities of both have not stored the new one
    /// yet. It binds as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_configuration: Option<ConfigurationStatus>,
    /// Voters, and members that may lead and are not Down, that have not stored the leader's configuration yet, at most
    /// 32. Told by the leader only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub configuration_missing: Vec<String>,
    /// The answer to the last order that an operator gave through this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_order: Option<OrderAnswer>,
    /// Ready, Reconciling, Stalled, Joined, Leading, PayloadApplied, SplitBrainProtected, ConfigInForce, Fenced,
    /// Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One member as this one sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Alive, Suspect, Away, Down or Left.
    pub state: String,
    /// Joining, Standby, Candidate, Leader or Stopping; absent if it was never heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its rank; absent if it was never heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<i64>,
    /// Where it can be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Since when it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why the lead could not be moved to it now. Told by the leader only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// Its start, in milliseconds of its wall clock: what an older start of it says is not believed after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
}

/// A member whose payload did not get or stay ready while it led.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedLead {
    /// How often in a row.
    pub times: i64,
    /// Until when it is neither a successor nor asks for the lead back; past times count no more than absent ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// How many members there are, this one included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberCounts {
    /// Alive out of all that have not left, as in `2/3`.
    pub summary: String,
    /// Alive.
    pub alive: i64,
    /// Suspect.
    #[serde(default)]
    pub suspect: i64,
    /// Away.
    #[serde(default)]
    pub away: i64,
    /// Down.
    #[serde(default)]
    pub down: i64,
}

impl MemberCounts {
    /// From the numbers, with the summary.
    pub fn new(alive: i64, suspect: i64, away: i64, down: i64) -> Self {
        let mut counts = Self { summary: String::new(), alive, suspect, away, down };
        counts.summary = format!("{alive}/{}", counts.all());
        counts
    }

    /// All that have not left.
    pub fn all(&self) -> i64 {
        [self.alive, self.suspect, self.away, self.down].into_iter().fold(0, i64::saturating_add)
    }
}

/// How long nobody leads at the most, in seconds, rounded up. Counts to the election of the new leader and to the end of
/// the old one's payload where that is waited for; how long the payload takes to become ready comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorstCaseStatus {
    /// The leader's daemon or cluster is suddenly gone.
    pub crash: i64,
    /// It announced a restart, as for an upgrade, and does not come back.
    pub announced_restart: i64,
}

/// One object of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryEntry {
    /// API group; empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// API version without the group.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for cluster-scoped objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its uid when it was last applied or seen; empty before that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Its generation when it was last applied; 0 for kinds without one.
    #[serde(default)]
    pub generation: i64,
    /// How it is.
    pub state: ObjectState,
}

/// How a payload object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum ObjectState {
    /// About to be applied: it may or may not exist.
    Pending,
    /// Applied, not ready yet.
    Applied,
    /// Applied and ready.
    Ready,
    /// Applied, and it says itself that it has failed.
    Failed,
    /// Being deleted: it, or what it owns, may still run.
    Deleting,
    /// A state of a later version.
    Unknown,
}

impl ObjectState {
    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Applied => "Applied",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<String> for ObjectState {
    fn from(word: String) -> Self {
        let all = [Self::Pending, Self::Applied, Self::Ready, Self::Failed, Self::Deleting];
        all.into_iter().find(|state| state.as_str() == word).unwrap_or(Self::Unknown)
    }
}

impl From<ObjectState> for String {
    fn from(state: ObjectState) -> Self {
        state.as_str().into()
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When.
    pub time: Time,
    /// What, in one word (the reason of the Event).
    #[serde(rename = "type")]
    pub kind: String,
    /// Under which term; 0 if under none.
    #[serde(default)]
    pub term: i64,
    /// A sentence.
    pub message: String,
    /// Of a lead that began: why, in one word. Founded, Regained, Rank, Crash, Silence, Handover, Switchover, Removal,
    /// Unhealthy, Found or Forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a lead that began: how long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<LeadPhases>,
}

/// How long the steps of a change of the lead took, in milliseconds. Each counts from the cause: the last sign of life of
/// a leader that failed, or the moment at which it was seen to stop; without either, from when the lead was known to be
/// free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeadPhases {
    /// The failure was known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_ms: Option<i64>,
    /// The old leader said that its payload is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor_stopped_ms: Option<i64>,
    /// This member had won the lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elected_ms: Option<i64>,
    /// All objects of the payload were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_created_ms: Option<i64>,
    /// All of them were ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_ready_ms: Option<i64>,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VoteStatus {
    /// The term.
    pub term: i64,
    /// Who got it.
    pub candidate: String,
    /// The configuration that was stored here then.
    #[serde(default)]
    pub config_version: i64,
    /// Mode Quorum: nobody else is elected for so long after each renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_duration: Option<String>,
    /// Mode Quorum: how long the leader's payload may run after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<String>,
}

/// To the millisecond and readable again: two members must store the same configuration.
pub fn exact_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms % 1000 {
        0 => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

impl MultiClusterStatus {
    /// The most members listed.
    pub const MAX_MEMBERS: usize = 32;
    /// The most history kept.
    pub const MAX_HISTORY: usize = 20;
    /// The most objects a payload may have: beyond it the object grows too large for its status to be written.
    pub const MAX_INVENTORY: usize = 1000;

    /// Whether everybody it counts is listed, too. Who left is listed and not counted.
    pub fn lists_all_members(&self) -> bool {
        let Some(counts) = &self.member_counts else {
            return self.members.len() < Self::MAX_MEMBERS;
        };
        let listed = self.members.iter().filter(|member| member.state != "Left").count();
        usize::try_from(counts.all()).is_ok_and(|all| listed >= all)
    }

    /// Whether both say the same, timestamps aside: a write that changes only times would cause itself.
    pub fn same_but_times(&self, other: &Self) -> bool {
        let strip = |status: &Self| {
            let mut status = status.clone();
            status.lead_since = None;
            if let Some(failed) = &mut status.failed_lead {
                failed.until = None;
            }
            status.conditions = conditions::without_times(&status.conditions);
            for member in &mut status.members {
                member.since = None;
            }
            for entry in &mut status.history {
                entry.time = Time(jiff::Timestamp::UNIX_EPOCH);
            }
            status
        };
        strip(self) == strip(other)
    }

    /// Adds what happened and drops the oldest beyond [`Self::MAX_HISTORY`].
    pub fn record(&mut self, entry: HistoryEntry) {
        let message = conditions::bounded(&entry.message);
        self.history.push(HistoryEntry { message, ..entry });
        let surplus = self.history.len().saturating_sub(Self::MAX_HISTORY);
        self.history.drain(..surplus);
    }
}
