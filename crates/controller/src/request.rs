//! Every call to the API server goes through here: one timeout, one place that counts, one that knows whether
//! the API server answers.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flagship_k8s_api::LOCAL_LEASE;
use jiff::Timestamp;

use crate::ports::Observer;

/// The longest any single call may take. Long enough for a loaded API server, short enough that a mute one is
/// noticed before people do.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A member whose last answer is older than this says that its API server is down: as long as its Lease lasts, which is
/// renewed four times in that.
pub(crate) const REACH_WINDOW: Duration = LOCAL_LEASE;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer in time; the call may have had its effect.
    #[error("the API server did not answer within {}", flagship_types::format_duration(*.0))]
    Timeout(Duration),
    /// An error answer, or the connection failed.
    #[error("{}", sentence(.0))]
    Kube(#[from] kube::Error),
}

impl CallError {
    /// The HTTP status of the answer; 0 if there was none.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Kube(kube::Error::Api(status)) => status.code,
            Self::Kube(_) | Self::Timeout(_) => 0,
        }
    }

    /// Whether the object changed under us.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == 409
    }

    /// Whether the object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == 404
    }
}

/// The API server's own message, or what happened to the connection.
fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        other => format!("cannot reach the API server: {other}"),
    }
}

/// What a call does, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Create,
    Update,
    Patch,
    Delete,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// When the API server last answered this member.
#[derive(Debug, Default)]
struct Reach {
    answered: Option<Instant>,
    failing_since: Option<Timestamp>,
    error: Option<String>,
}

/// What is known of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reachability {
    /// It answered lately.
    Up,
    /// It does not answer since then, and this was the last error.
    Down { since: Timestamp, error: String },
}

/// Makes calls on behalf of one member. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller {
    observer: Arc<dyn Observer>,
    reach: Arc<Mutex<Reach>>,
}

impl Caller {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, reach: Arc::default() }
    }

    /// Makes one call within [`CALL_TIMEOUT`].
    pub(crate) async fn call<T>(
        &self,
        verb: Verb,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        self.call_within(CALL_TIMEOUT, verb, request).await
    }

    /// Makes one call within `limit`.
    pub(crate) async fn call_within<T>(
        &self,
        limit: Duration,
        verb: Verb,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let result = match tokio::time::timeout(limit, request).await {
            Ok(result) => result.map_err(CallError::from),
            Err(_) => Err(CallError::Timeout(limit)),
        };
        let code = result.as_ref().map_or_else(CallError::code, |_| 200);
        self.observer.api_request(verb.as_str(), code);
        self.note(code, result.as_ref().err().map(ToString::to_string));
        result
    }

    /// Whether the API server answers this member.
    pub(crate) fn reachability(&self) -> Reachability {
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = reach.answered.is_some_and(|at| at.elapsed() <= REACH_WINDOW);
        match reach.failing_since {
            Some(since) if !recent => Reachability::Down {
                since,
                error: reach.error.clone().unwrap_or_else(|| "no answer yet".into()),
            },
            _ => Reachability::Up,
        }
    }

    fn note(&self, code: u16, error: Option<String>) {
        let mut reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        // An API server that answers "unavailable" or "timeout" cannot be written to either.
        if code > 0 && code < 500 {
            *reach = Reach { answered: Some(Instant::now()), failing_since: None, error: None };
        } else {
            reach.failing_since.get_or_insert_with(Timestamp::now);
            reach.error = error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::NoObserver;

    fn answer(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }))
    }

    #[tokio::test]
    async fn error_answers_still_show_that_the_server_is_there() {
        let caller = Caller::new(Arc::new(NoObserver));
        let conflict = caller.call(Verb::Get, async { Err::<(), _>(answer(409)) }).await.unwrap_err();
        assert!(conflict.is_conflict());
        assert_eq!(caller.reachability(), Reachability::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mute_server_is_a_timeout_and_down() {
        let caller = Caller::new(Arc::new(NoObserver));
        let error = caller.call(Verb::Get, std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout(_)));
        assert!(matches!(caller.reachability(), Reachability::Down { .. }));
        caller.call(Verb::Get, async { Ok(()) }).await.unwrap();
        assert_eq!(caller.reachability(), Reachability::Up);
    }

    #[tokio::test]
    async fn an_unavailable_server_is_down() {
        let caller = Caller::new(Arc::new(NoObserver));
        let _ = caller.call(Verb::Get, async { Err::<(), _>(answer(503)) }).await;
        assert!(matches!(caller.reachability(), Reachability::Down { .. }));
    }
}
