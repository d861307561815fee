//! How far the payload worker is: what it tells the rest of the member's worker.

use std::collections::BTreeMap;

use flagship_k8s_api::{HookPoint, InventoryEntry};
use flagship_types::{Health, Term};

/// What the payload worker is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Activity {
    /// Nothing: all is as it should be, or nothing may be done.
    #[default]
    Idle,
    /// Bringing the payload into the cluster.
    Applying(Term),
    /// Deleting; waits for these objects.
    Deleting(Option<String>),
}

/// Whether the payload could be applied here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Validity {
    /// Not tried yet, or the API server did not say.
    #[default]
    Unknown,
    /// A dry run passed, or it runs.
    Valid,
    /// It cannot: where and why, and what to do.
    Invalid {
        /// CamelCase.
        reason: &'static str,
        message: String,
    },
}

/// How far the payload worker is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// What is or may be in the cluster.
    pub inventory: Vec<InventoryEntry>,
    pub activity: Activity,
    pub validity: Validity,
    /// The term and generation under which all of it was applied.
    pub applied: Option<(Term, i64)>,
    /// Whether all of it is ready.
    pub ready: bool,
    /// Which objects are not ready, for people.
    pub not_ready: Option<String>,
    /// The last failure, tried again.
    pub error: Option<String>,
    /// The object that does not go although it was deleted long ago.
    pub stuck: Option<String>,
    /// Hooks that have to succeed and did not yet, with what went wrong.
    pub hooks: BTreeMap<HookPoint, String>,
    /// Pods that had to end at once, should have by now, and that their nodes have not said to be gone.
    pub unconfirmed: Vec<String>,
    /// The directive that this is the outcome of is carried out completely.
    pub settled: bool,
}

impl Progress {
    /// This member's fitness to lead.
    pub(crate) fn health(&self, api: bool, gates: bool) -> Health {
        Health {
            api,
            payload_valid: self.validity == Validity::Valid,
            payload_ready: self.applied.is_some() && self.ready,
            gates,
            // The election knows.
            failed: false,
        }
    }
}
