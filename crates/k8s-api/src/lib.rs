//! The MultiCluster resource: its types, its CRD, its conditions and the names it uses on other objects. It talks
//! to no API server and decides nothing; what an object asks for is turned into checked settings here and obeyed elsewhere.

pub mod conditions;
mod crd;
mod marks;
mod replicas;
mod settings;
#[allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema repeats each struct, with its `pub`, inside a function; several columns are of one type"
)]
mod spec;
#[allow(unreachable_pub, reason = "as above")]
mod status;

pub use conditions::ConditionType;
pub use crd::{crd, crd_yaml};
pub use marks::{
    ADMIT_ANNOTATION, APPLIED_ANNOTATION, Command, CommandError, FENCING_MARK, FIELD_MANAGER, FINALIZER,
    FORGET_ANNOTATION, MULTICLUSTER_LABEL, NODE_ANNOTATION, TERM_ANNOTATION, lease_name, owner_label,
    second_lease_name,
};
pub use replicas::{LOCAL_LEASE, LOCAL_LEASE_POLL};
pub use settings::{ApplySettings, FieldError, PayloadSource, ServiceKey, Settings, SourceKind};
pub use spec::{
    ApplySpec, DeletionPolicy, ElectionSpec, Failback, Fencing, KeyRef, MembershipSpec, Mode, MultiCluster,
    MultiClusterSpec, PayloadFrom, ServiceRef,
};
pub use status::{
    ConfigurationStatus, HistoryEntry, InventoryEntry, MemberCounts, MemberStatus, MultiClusterStatus,
    ObjectState, PauseStatus, VoteStatus, WorstCaseStatus, exact_duration,
};
