//! Leave to write. Whoever knows whether this member leads implements [`Gate`]; every single write asks it.

use flagship_types::{Instant, Term};

/// What a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Create or update an object of the payload: only under a held term.
    Apply,
    /// Delete what left the payload: only under a held term.
    Prune,
    /// Delete the payload because it must not be here.
    Delete,
}

impl Purpose {
    /// The word shown to users and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Prune => "prune",
            Self::Delete => "delete",
        }
    }
}

/// Leave for one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The term under which the write happens.
    pub term: Term,
    /// When it lapses, on the clock of [`Gate::now`].
    pub not_after: Instant,
}

/// Why a write may not happen. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// This member may not do that now.
    #[error("not permitted now: {0}")]
    Refused(String),
    /// The permit lapsed before the request could be sent.
    #[error("the permit lapsed before the request could be sent: this process was held up")]
    Lapsed,
    /// The permit is for another term than the work at hand.
    #[error("the work belongs to term {work}, the permit to term {permit}")]
    OtherTerm {
        /// Of the plan.
        work: Term,
        /// Of the permit.
        permit: Term,
    },
}

/// Gives leave to write, one write at a time, and has the clock on which it lapses.
///
/// An implementor that must store something before a write (the inventory before the delete that makes what it owns
/// unfindable) does so before it answers: the tracker has every object before leave to delete it is asked for.
#[async_trait::async_trait]
pub trait Gate: Send + Sync {
    /// Leave for one write, asked for right before it. May wait for what it depends on.
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied>;
    /// The clock of the permits: one that goes on while the machine sleeps.
    fn now(&self) -> Instant;
}
