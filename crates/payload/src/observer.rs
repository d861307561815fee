//! What others may want to count.

use std::time::Duration;

use crate::object::ObjectId;

/// What a request did, as in RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many.
    List,
    /// Read which kinds are served.
    Discover,
    /// Server-side apply, written.
    Apply,
    /// Server-side apply, not written.
    DryRun,
    /// Delete.
    Delete,
}

impl Verb {
    /// The word shown to users and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Discover => "discover",
            Self::Apply => "apply",
            Self::DryRun => "dry-run",
            Self::Delete => "delete",
        }
    }
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was not there, now it is.
    Created,
    /// It differed, now it does not.
    Updated,
    /// It left the payload and is gone.
    Pruned,
    /// It is gone because the payload must not be here.
    Deleted,
}

/// Is told what happens. Every method has an empty default; none may block.
pub trait Observer: Send + Sync {
    /// A request ended. `code` is the HTTP status, 0 if there was no answer in time.
    fn request(&self, verb: Verb, code: u16, took: Duration) {
        let _ = (verb, code, took);
    }
    /// An object was changed.
    fn object(&self, id: &ObjectId, outcome: Outcome) {
        let _ = (id, outcome);
    }
}

/// Nobody wants to know.
impl Observer for () {}
