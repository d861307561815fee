//! Payload manifests: reads them as kubectl does, plans, checks, applies, judges and deletes them, and waits until
//! they are gone. It decides neither who leads nor when: every single write asks a [`Gate`] first, and retries are
//! left to the caller.

mod apply;
mod catalog;
mod chain;
mod check;
mod cluster;
mod delete;
mod error;
mod gate;
mod gates;
mod halt;
mod inventory;
mod object;
mod observe;
mod observer;
mod parse;
mod plan;
mod readiness;
mod sources;

pub use apply::{Applied, ApplyOptions};
pub use catalog::{Catalog, Kind};
pub use check::{Action, Checked};
pub use cluster::{CALL_TIMEOUT, Cluster, PlanError, Progress, Tracker};
pub use error::{ApiError, ApplyError, DeleteError, Failure, Failures, ObjectError, Stuck};
pub use gate::{Denied, Gate, Permit, Purpose};
pub use gates::ClosedGate;
pub use halt::{Endings, PodGrace};
pub use inventory::{Entry, Inventory};
pub use object::{GroupKind, Manifest, ObjectId, Place};
pub use observe::Summary;
pub use observer::{Observer, Outcome, Verb};
pub use parse::{MAX_OBJECTS, ParseError, SourceText, parse};
pub use plan::{Objection, Objections, Owner, Plan, PlannedObject, Reach, Stage};
pub use readiness::{Readiness, assess};
pub use sources::SourceError;
