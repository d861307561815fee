//! The payload must not be here: stop it under a term that is given up, or remove what an earlier lead left behind.
//! A standby also finds out whether it could lead.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flagship_node::{Command, ResignReason};
use flagship_payload::{DeleteError, PodGrace, Stuck};
use flagship_types::{Term, format_duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::discovery;
use crate::events::Notice;
use crate::gate::NodeGate;
use crate::happenings::Happening;
use crate::judge::objects;
use crate::payload_worker::{Next, PayloadWorker, Target};
use crate::ports::PayloadResult;
use crate::progress::{Activity, Validity};
use crate::running::reason;

/// How often a standby tries its payload, to know whether it could lead: quotas, policies and CRDs change without
/// a word to it.
const VALIDATE: Duration = Duration::from_secs(180);
/// How often a payload that cannot be applied here is tried again.
const REVALIDATE: Duration = Duration::from_secs(30);

/// How long the node has to call off a stop that a hook refused.
const REFUSED_STOP: Duration = Duration::from_secs(1);

/// Whether what runs has to end at once. Mode Quorum: somebody else's payload starts when the stop grace is over,
/// whatever became of this one. A stop that an earlier process had begun may have been for that reason, and a leader that
/// was superseded has lost its lease without having noticed.
pub(crate) fn ends_at_once(reason: ResignReason, quorum: bool) -> bool {
    match reason {
        ResignReason::LeaseLost => true,
        ResignReason::Unfinished | ResignReason::Superseded => quorum,
        ResignReason::Handover
        | ResignReason::Switchover
        | ResignReason::Unhealthy
        | ResignReason::NotCandidate
        | ResignReason::Removal
        | ResignReason::Operator => false,
    }
}

impl PayloadWorker {
    /// Deletes the payload of a term and says so once the API server has confirmed that all of it is gone.
    pub(crate) async fn stop(
        &self,
        term: Term,
        reason: ResignReason,
        target: &Target,
        overtaken: &CancellationToken,
    ) -> Next {
        if self.progress.borrow().settled {
            // Said already; the node decides what comes next.
            return Next::Rest(Duration::MAX);
        }
        let pods = self.pods_grace(term, reason);
        let may_stop = tokio::select! {
            biased;
            // Another stop, which may not be able to wait.
            () = overtaken.cancelled() => return Next::Go,
            may_stop = self.before_demote(term, reason, target) => may_stop,
        };
        if !may_stop {
            // If the node cannot call the stop off, it goes on.
            return Next::Rest(REFUSED_STOP);
        }
        let began = Instant::now();
        let before = self.tracker.borrow().inventory.len();
        let gate = self.gate(overtaken).stopping(term).hurried(pods.is_some());
        match self.delete(&gate, target, pods).await {
            Ok(()) => {
                let took = began.elapsed();
                let note = format!(
                    "payload of term {term} deleted: {} in {}",
                    objects(before),
                    format_duration(took)
                );
                self.tell(Happening::new(Notice::normal("PayloadDeleted", note)).under(term));
                self.report(|progress| progress.settled = true);
                self.node.tell(Command::PayloadStopped(term)).await;
                self.after_demote(term, reason, target, before > 0);
                Next::Rest(Duration::MAX)
            }
            Err(DeleteError::Stuck { stuck, waited }) => {
                let object = name(&stuck);
                self.stuck(&object, waited);
                self.node.tell(Command::StopStuck { term, object }).await;
                Next::Retry
            }
            // Not a failure: this stop is not wanted any more.
            Err(DeleteError::Denied(_)) if overtaken.is_cancelled() => Next::Go,
            Err(error) => {
                let error = error.to_string();
                if pods.is_some() && self.progress.borrow().error.as_ref() != Some(&error) {
                    warn!(error, %term, "the payload has to end at once and does not yet; it is tried again");
                }
                self.failed(target, &error)
            }
        }
    }

    /// How long pods may take to end, if what runs has to end at once. However often that is tried, it counts from the
    /// first time that this term's payload had to: somebody else's does not start later because an API server was mute.
    pub(crate) fn pods_grace(&self, term: Term, reason: ResignReason) -> Option<PodGrace> {
        let snapshot = self.node.snapshot();
        if !ends_at_once(reason, snapshot.quorum) {
            return None;
        }
        let mut hurried = self.hurried.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *hurried {
            Some((of, since)) if of == term => since,
            Some(_) | None => hurried.insert((term, Instant::now())).1,
        };
        // A lead that this process found and never had confirmed was renewed by the one before it, nobody knows when.
        let since = self.ran.load(Ordering::Relaxed).then_some(since);
        Some(PodGrace::within(snapshot.stop_grace, since))
    }

    /// Makes sure that nothing of the payload is here, neither known nor arrived since; then tries whether it could be.
    pub(crate) async fn be_absent(&self, target: &Target, overtaken: &CancellationToken) -> Next {
        match discovery::sweep(&self.context, &self.cluster, &self.owner, &self.caller).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => self.tracker.send_modify(|progress| progress.inventory.unite(&found)),
            // What is known is removed all the same; this is tried again with the next look.
            Err(error) => warn!(error, "cannot look for what arrived late"),
        }
        let left = self.tracker.borrow().inventory.len();
        if left > 0 {
            info!(objects = left, "removing what an earlier lead left behind");
            let gate = self.gate(overtaken);
            match self.delete(&gate, target, None).await {
                Ok(()) => {
                    let note = format!("what an earlier lead had left behind is gone: {}", objects(left));
                    self.tell(Happening::new(Notice::normal("LeftoversDeleted", note)));
                }
                Err(DeleteError::Stuck { stuck, waited }) => {
                    self.stuck(&name(&stuck), waited);
                    return Next::Retry;
                }
                Err(DeleteError::Denied(_)) if overtaken.is_cancelled() => return Next::Go,
                Err(error) => return self.failed(target, &error),
            }
        }
        self.report(|progress| {
            progress.settled = true;
            progress.activity = Activity::Idle;
            progress.stuck = None;
            progress.error = None;
        });
        self.validate(target).await
    }

    /// Deletes the whole inventory, then looks once more by label: a write that was under way when the lead was given
    /// up may have arrived after its object was found missing. With `pods`, what runs ends first and within that.
    async fn delete(
        &self,
        gate: &NodeGate,
        target: &Target,
        pods: Option<PodGrace>,
    ) -> Result<(), DeleteError> {
        self.report(|progress| progress.activity = Activity::Deleting(None));
        let began = Instant::now();
        let kinds = self.tracker.borrow().inventory.kinds();
        let mut result = self.delete_known(gate, target, pods).await;
        if result.is_ok() && !kinds.is_empty() {
            let found =
                self.cluster.discover_owned(&self.owner, discovery::reach(&self.context), &kinds).await?;
            if !found.is_empty() {
                warn!(objects = found.len(), "objects of the payload appeared while it was deleted");
                self.tracker.send_modify(|progress| progress.inventory.unite(&found));
                result = self.delete_known(gate, target, pods).await;
            }
        }
        let counted = match &result {
            Ok(()) => PayloadResult::Success,
            Err(DeleteError::Denied(_)) => PayloadResult::Superseded,
            Err(_) => PayloadResult::Failure,
        };
        let callsign = &target.settings.callsign;
        self.context.observer.payload_deleted(callsign, &self.member(), counted, began.elapsed());
        if result.is_ok() {
            self.report(|progress| {
                progress.activity = Activity::Idle;
                progress.stuck = None;
                progress.error = None;
            });
        }
        result
    }

    async fn delete_known(
        &self,
        gate: &NodeGate,
        target: &Target,
        pods: Option<PodGrace>,
    ) -> Result<(), DeleteError> {
        if let Some(pods) = pods {
            self.cluster.halt(&self.owner, gate, pods, &self.tracker).await?;
        }
        let timeout = target.settings.apply.timeout;
        self.cluster.delete_all(&self.owner, gate, timeout, &self.tracker).await.map(|_| ())
    }

    fn stuck(&self, object: &str, waited: Duration) {
        if self.progress.borrow().stuck.as_deref() != Some(object) {
            let note = format!("{object} was deleted {} ago and is not gone", format_duration(waited));
            self.tell(Happening::new(Notice::warning("DeleteStuck", note)));
        }
        self.report(|progress| progress.stuck = Some(object.to_owned()));
    }

    /// Finds out by a dry run whether the payload could be applied here.
    async fn validate(&self, target: &Target) -> Next {
        let plan = match self.plan_of(target).await {
            Ok(plan) => plan,
            Err(error) if error.is_transient() => return self.not_validated(target, &error),
            Err(error) => {
                self.invalid(reason(&error), &error.to_string());
                return Next::Rest(REVALIDATE);
            }
        };
        let term = self.node.snapshot().term;
        match self.cluster.check(&plan, term, target.settings.apply.force).await {
            Ok(_) => {
                self.valid();
                Next::Rest(VALIDATE)
            }
            Err(failures) if failures.is_transient() => self.not_validated(target, &failures),
            Err(failures) => {
                self.invalid("PayloadRefused", &failures.to_string());
                Next::Rest(REVALIDATE)
            }
        }
    }

    /// The API server did not say. What it said before holds for the time being.
    fn not_validated(&self, target: &Target, error: &impl ToString) -> Next {
        match self.validity() {
            Validity::Unknown | Validity::Invalid { .. } => self.failed(target, error),
            Validity::Valid => Next::Retry,
        }
    }
}

/// The objects that do not go, for people.
fn name(stuck: &[Stuck]) -> String {
    stuck.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_lease_hurries() {
        for (reason, in_quorum, in_availability) in [
            (ResignReason::LeaseLost, true, true),
            (ResignReason::Unfinished, true, false),
            (ResignReason::Superseded, true, false),
            (ResignReason::Handover, false, false),
            (ResignReason::Removal, false, false),
            (ResignReason::Operator, false, false),
        ] {
            assert_eq!(ends_at_once(reason, true), in_quorum, "{reason:?}");
            assert_eq!(ends_at_once(reason, false), in_availability, "{reason:?}");
        }
    }
}
