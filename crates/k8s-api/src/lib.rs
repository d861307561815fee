//! The MultiCluster resource: its types, its CRD, its conditions and the names it uses on other objects. It talks
//! to no API server and decides nothing; what an object asks for is turned into checked settings here and obeyed elsewhere.

pub mod conditions;
#[allow(unreachable_pub, reason = "as below")]
mod configuration;
mod crd;
#[allow(unreachable_pub, reason = "as below")]
mod health;
#[allow(unreachable_pub, reason = "as below")]
mod hooks;
mod marks;
#[allow(unreachable_pub, reason = "as below")]
mod orders;
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
pub use configuration::{ConfigurationStatus, PauseStatus};
pub use crd::{crd, crd_yaml};
pub use health::{GateKey, GateRef, HealthSettings, HealthSpec, MAX_GATES};
pub use hooks::{FailurePolicy, Hook, HookPoint, HookSettings, HookSpec, HooksSpec};
pub use marks::{
    ADMIT_ANNOTATION, APPLIED_ANNOTATION, Command, CommandError, FENCING_MARK, FIELD_MANAGER, FINALIZER,
    FORGET_ANNOTATION, MULTICLUSTER_LABEL, NODE_ANNOTATION, TERM_ANNOTATION, lease_name, owner_label,
    second_lease_name,
};
pub use orders::{
    FORCE_LEAD_ANNOTATION, MemberNameText, OperatorOrder, OrderAnswer, OrderError, PAUSE_ANNOTATION,
    RESUME_ANNOTATION, SWITCHOVER_ANNOTATION, verb,
};
pub use replicas::{LOCAL_LEASE, LOCAL_LEASE_POLL};
pub use settings::{ApplySettings, FieldError, PayloadSource, ServiceKey, Settings, SourceKind};
pub use spec::{
    ApplySpec, DeletionPolicy, ElectionSpec, Failback, Fencing, KeyRef, MembershipSpec, Mode, MultiCluster,
    MultiClusterSpec, PayloadFrom, ServiceRef,
};
pub use status::{
    FailedLead, HistoryEntry, InventoryEntry, LeadPhases, MemberCounts, MemberStatus, MultiClusterStatus,
    ObjectState, VoteStatus, WorstCaseStatus, exact_duration,
};
