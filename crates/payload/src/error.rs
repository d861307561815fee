//! What can go wrong between a plan and a cluster.

use std::fmt;
use std::time::Duration;

use flagship_k8s_api::FENCING_MARK;

use crate::gate::Denied;
use crate::object::ObjectId;
use crate::observer::Verb;

/// A request to the API server that did not succeed. Whether a write happened is unknown after a timeout or a broken
/// connection, otherwise it did not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No answer in time.
    #[error("the API server did not answer within {}: {verb} {what}", flagship_types::format_duration(*.after), verb = .verb.as_str())]
    Timeout {
        /// What was asked.
        verb: Verb,
        /// About what.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// An answer that is a refusal.
    #[error("{verb} {what}: {message} ({code}){hint}", verb = .verb.as_str())]
    Refused {
        /// What was asked.
        verb: Verb,
        /// About what.
        what: String,
        /// HTTP status.
        code: u16,
        /// Kubernetes' word for it.
        reason: String,
        /// The server's sentence.
        message: String,
        /// What to do, with the separator before it; empty if the sentence says it.
        hint: &'static str,
    },
    /// No connection, or an answer that makes no sense.
    #[error("cannot talk to the API server: {verb} {what}: {message}", verb = .verb.as_str())]
    Transport {
        /// What was asked.
        verb: Verb,
        /// About what.
        what: String,
        /// The causes.
        message: String,
    },
}

/// The longest message of a server that is passed on: a validation error of a large object lists every field.
const MAX_MESSAGE_CHARS: usize = 600;

/// How an API server begins to say that an applied object has a field its schema does not know.
const UNTYPED: &str = "failed to create typed patch object";

impl ApiError {
    pub(crate) fn from_kube(verb: Verb, what: String, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Transport { verb, what, message: causes(error) };
        };
        let hint = match (status.code, verb) {
            _ if status.message.contains(FENCING_MARK) => "",
            (401, _) => "; check the daemon's kubeconfig or ServiceAccount token",
            (403, _) => "; give flagship's ServiceAccount this verb in a Role or ClusterRole",
            _ => "",
        };
        let message = status.message.chars().take(MAX_MESSAGE_CHARS).collect();
        Self::Refused { verb, what, code: status.code, reason: status.reason.clone(), message, hint }
    }

    /// HTTP status, 0 without an answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Timeout { .. } | Self::Transport { .. } => 0,
        }
    }

    /// Whether asking again later may help although nobody changes anything.
    pub fn is_transient(&self) -> bool {
        // A field the schema does not have is answered as if the server were at fault.
        let says = |text| matches!(self, Self::Refused { message, .. } if message.contains(text));
        // The API server judges by a status that it read a moment ago, and a lead that is new may not be in it yet.
        says(FENCING_MARK) || (!says(UNTYPED) && matches!(self.code(), 0 | 408 | 409 | 410 | 429 | 500..))
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// Why one object cannot be applied. It was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The API server says so.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// It exists and somebody else made it.
    #[error(
        "exists and was not created by this MultiCluster{by}: delete or rename it, or set spec.apply.force to take it over"
    )]
    NotOurs {
        /// Who, with the words around it; empty if unknown.
        by: String,
    },
    /// Somebody else sets the same fields.
    #[error(
        "has fields that {managers} set, too ({message}): take them out of the payload, or set spec.apply.force to take them over"
    )]
    Conflict {
        /// Who.
        managers: String,
        /// The server's sentence.
        message: String,
    },
}

impl ObjectError {
    /// Whether asking again later may help although nobody changes anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_transient())
    }
}

/// What is wrong with which object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// Which.
    pub id: ObjectId,
    /// What.
    pub error: ObjectError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            // It names the object by itself.
            ObjectError::Api(error) => error.fmt(f),
            error => write!(f, "{} {error}", self.id),
        }
    }
}

/// Everything that is wrong; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures(pub Vec<Failure>);

/// Failures spelt out in one message.
const SHOWN: usize = 5;

impl Failures {
    /// Whether all of them may pass by themselves.
    pub fn is_transient(&self) -> bool {
        self.0.iter().all(|failure| failure.error.is_transient())
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_some(f, &self.0, SHOWN)
    }
}

impl std::error::Error for Failures {}

pub(crate) fn write_some<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    all: &[T],
    shown: usize,
) -> fmt::Result {
    for (at, one) in all.iter().take(shown).enumerate() {
        write!(f, "{}{one}", if at > 0 { "; " } else { "" })?;
    }
    match all.len().saturating_sub(shown) {
        0 => Ok(()),
        more => write!(f, "; and {more} more"),
    }
}

/// Why an apply stopped. What was written is in the inventory; the rest was not touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A write was not permitted.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// Objects were refused.
    #[error("{0}")]
    Objects(#[from] Failures),
    /// Something else could not be asked.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// What had to come first did not.
    #[error("waited {} for {what}: {why}", flagship_types::format_duration(*.waited))]
    NotInTime {
        /// For what.
        what: String,
        /// Why not.
        why: String,
        /// How long.
        waited: Duration,
    },
}

impl ApplyError {
    /// Whether trying again later may help although nobody changes anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Denied(_) | Self::NotInTime { .. } => true,
            Self::Objects(failures) => failures.is_transient(),
            Self::Api(error) => error.is_transient(),
        }
    }
}

/// Why a delete stopped. What is gone is gone from the inventory, what is not is still in it, as `Deleting` if its
/// deletion was asked for. Running it again goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// A write was not permitted.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// The API server could not be asked, or refused.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// Something does not go.
    #[error("not gone after {}: {}", flagship_types::format_duration(*.waited), Stuck::list(.stuck))]
    Stuck {
        /// What, at most [`Stuck::MAX`] of them.
        stuck: Vec<Stuck>,
        /// How long was waited.
        waited: Duration,
    },
}

/// An object that does not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub what: String,
    /// Its finalizers: each waits for a controller that removes it.
    pub finalizers: Vec<String>,
}

impl Stuck {
    /// The most that are named.
    pub const MAX: usize = 5;

    fn list(all: &[Self]) -> String {
        let one = |stuck: &Self| stuck.to_string();
        all.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.finalizers.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{} (held by finalizer {})", self.what, self.finalizers.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_by_the_fence_passes_and_names_no_right() {
        let refused = |message: &str| {
            let status = kube::core::Status { code: 403, message: message.into(), ..Default::default() };
            ApiError::from_kube(
                Verb::Apply,
                "ConfigMap default/one".into(),
                &kube::Error::Api(Box::new(status)),
            )
        };
        let fenced =
            refused(&format!("ValidatingAdmissionPolicy denied: {FENCING_MARK} newyork does not lead"));
        assert!(fenced.is_transient());
        assert!(!fenced.to_string().contains("Role"), "{fenced}");
        let forbidden = refused("configmaps is forbidden");
        assert!(!forbidden.is_transient());
        assert!(forbidden.to_string().contains("ClusterRole"), "{forbidden}");
    }
}
