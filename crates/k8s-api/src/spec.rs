//! What a MultiCluster asks for.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::MultiClusterStatus;
use crate::health::HealthSpec;
use crate::hooks::HooksSpec;

/// Go's form of a duration, without sign: `500ms`, `3s`, `1m30s`, `0`.
pub(crate) const DURATION: &str = r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h))+)$";

/// One member of a fleet: the cluster this object is in. All members with the same callsign elect one leader; the
/// payload runs in the leader's cluster only.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "kube-vip.io",
    version = "v1alpha1",
    kind = "MultiCluster",
    plural = "multiclusters",
    shortname = "mc",
    shortname = "vipmc",
    namespaced,
    status = "MultiClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A member of a fleet of clusters, of which exactly one runs the payload.",
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.term"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.memberCounts.summary"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Worst Failover",
        type_ = "integer",
        json_path = ".status.worstCaseFailoverSeconds.crash",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MultiClusterSpec {
    /// The address the daemon listens on for this member: an IPv4 or IPv6 address or a DNS name. All addresses if empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260))]
    pub address: Option<String>,
    /// The port the daemon listens on, and the one it tells the other members.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Where the other members reach this one: an IPv4 or IPv6 address or a DNS name, with or without a port. If
    /// this and serviceRef are empty, only this member can dial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260))]
    pub service_address: Option<String>,
    /// The Service of type LoadBalancer in front of the daemon, whose address the other members are told and which is
    /// followed when that changes. If serviceAddress is given too, that one is used and this is not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceRef>,
    /// Members to join through: IPv4 or IPv6 addresses or DNS names, with or without a port. One that answers is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 260)))]
    #[x_kube(
        validation = Rule::new("self.all(a, size(a.trim()) > 0)").message("an address is empty: remove the entry, or write an IP address or DNS name"),
        merge_strategy = ListMerge::Atomic
    )]
    pub fleet: Vec<String>,
    /// The name of the fleet. White space, control characters and / % ? # are not allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^[^\s\x00-\x1f\x7f/%?#]*$"))]
    pub callsign: Option<String>,
    /// Higher leads; the lexically smaller name breaks ties.
    #[serde(default)]
    pub rank: i64,
    /// Whether this member may found the fleet alone. Any member may lead once it has joined.
    #[serde(default)]
    pub ready: bool,
    /// Whether this member may lead. Default true. With false it hands the lead over, if it has it and another member
    /// is fit, and takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<bool>,
    /// Whether this object is left alone. A payload that runs here stays as it is: it is neither applied nor corrected,
    /// and rank, health and switchovers do not move the lead. A suspended standby takes no lead. What keeps two payloads
    /// from running at once is done all the same: whoever was replaced deletes its payload.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// What the leader applies: one or more Kubernetes objects as YAML or JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_048_576))]
    pub payload: Option<String>,
    /// More payload, from keys of Secrets and ConfigMaps in the object's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub payload_from: Vec<PayloadFrom>,
    /// When the lead moves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub election: ElectionSpec,
    /// How the members watch each other.
    #[serde(default, skip_serializing_if = "is_default")]
    pub membership: MembershipSpec,
    /// How the payload is applied.
    #[serde(default, skip_serializing_if = "is_default")]
    pub apply: ApplySpec,
    /// When this member is well enough to lead.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: HealthSpec,
    /// Who is told, over HTTP, when the lead comes to this member and when it goes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hooks: HooksSpec,
}

/// The port of a member that names none.
pub(crate) const DEFAULT_PORT: i64 = 9990;

fn default_port() -> i64 {
    DEFAULT_PORT
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A key of a Secret or of a ConfigMap: exactly one of the two.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message("give exactly one of secretKeyRef and configMapKeyRef")
)]
pub struct PayloadFrom {
    /// A key of a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of an object in the MultiCluster's namespace.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A name as Kubernetes wants it for Services and Namespaces: a DNS label.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
pub(crate) const OPTIONAL_DNS_LABEL: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$";

/// A Service of type LoadBalancer. Of its ports the one is taken whose targetPort is spec.port, else the one that is
/// named fleet (itself or its targetPort), else the one that is spec.port, else the only one
/// unless it names another number.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceRef {
    /// The Service's name.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// The Service's namespace. If empty, the object's own. Only the address is read, so that any namespace is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = OPTIONAL_DNS_LABEL))]
    pub namespace: Option<String>,
}

/// When the lead moves. The leader's settings are in force for the whole fleet.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.mode) && self.mode == 'Quorum' ? has(self.voters) && self.voters.size() > 0 : !has(self.voters) || self.voters.size() == 0")
        .message("give the names of the voters with mode Quorum, and with no other mode"),
)]
pub struct ElectionSpec {
    /// What a partition does. Availability, the default: each part has a leader. Quorum: only the part with a majority
    /// of the voters has one, and a leader that loses their contact stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The members, witnesses among them, whose majority grants the lead. With mode Quorum only; an odd number. The
    /// leader changes the fleet's voters one at a time until they are these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub voters: Vec<String>,
    /// For how long a voter promises the lead; a leader that they do not renew stops after 80 % of it. Mode Quorum.
    /// Default 3s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')").message("from 1s to 10m"))]
    pub lease_duration: Option<String>,
    /// How long a leader's cluster may take to stop the payload once its lease is lost: pods get 2s less than this to
    /// end. Its successor waits that long. Mode Quorum. Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('3s') && duration(self) <= duration('1h')").message("from 3s to 1h"))]
    pub stop_grace: Option<String>,
    /// What else keeps a process from writing that does not lead any more: None, the default, or AdmissionPolicy, by
    /// which the API server refuses the writes of an old holder or term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing: Option<Fencing>,
    /// How long a leader whose daemon ended while its cluster lives may take to restart before it is replaced.
    /// Default 3s; 0 replaces it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('10m')").message("at most 10m"))]
    pub restart_grace: Option<String>,
    /// Whether a member of higher rank takes the lead back by itself. Default Automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
    /// How long a member of higher rank must have been healthy before it takes the lead back. Default 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('168h')").message("at most 168h"))]
    pub failback_delay: Option<String>,
}

/// What a partition does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Mode {
    /// Each part has a leader.
    Availability,
    /// Only the part with a majority of the voters has one.
    Quorum,
}

/// What else keeps a process from writing that does not lead any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Fencing {
    /// Nothing but its own checks.
    None,
    /// The API server, by a ValidatingAdmissionPolicy.
    AdmissionPolicy,
}

/// Whether a member of higher rank takes the lead back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Failback {
    /// Rank decides.
    Automatic,
    /// Only an operator or a failure moves the lead.
    Manual,
}

/// How the members watch each other.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MembershipSpec {
    /// How often this member shows that it lives. Default 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('10s')").message("from 100ms to 10s"))]
    pub beat_interval: Option<String>,
    /// The least silence after which a member with only one observer is suspected. Default 3s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('10m')").message("from 100ms to 10m"))]
    pub silence_floor: Option<String>,
}

/// How the payload is applied.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplySpec {
    /// Whether objects that left the payload are deleted.
    #[serde(default = "yes")]
    pub prune: bool,
    /// Whether objects that flagship did not create, and fields that others set, are taken over.
    #[serde(default)]
    pub force: bool,
    /// How long an apply or a delete may take before the status says what it waits for. Default 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("from 1s to 24h"))]
    pub timeout: Option<String>,
    /// What becomes of a payload that runs here when this object is deleted. Default Delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// What becomes of a payload that runs here when this object is deleted. Delete, the default: it is deleted before the
/// object goes, and another member takes over. Orphan: it stays, which is possible for the last member only: as long as
/// another one is known that could run it a second time, the deletion waits and this member goes on as before. What
/// stays keeps its labels, so that a MultiCluster of the same namespace and name takes it over again untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted first.
    Delete,
    /// It stays, if nobody else can run it.
    Orphan,
}

impl Default for ApplySpec {
    fn default() -> Self {
        Self { prune: true, force: false, timeout: None, deletion_policy: None }
    }
}

fn yes() -> bool {
    true
}
