//! The payload runs here: plan, dry run, apply, prune, then watch it and correct what drifts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flagship_payload::{Applied, ApplyError, ApplyOptions, DeleteError, Plan, PlanError, Summary};
use flagship_types::{Term, format_duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::discovery;
use crate::drift::{Drift, Sight};
use crate::events::Notice;
use crate::happenings::Happening;
use crate::payload_worker::{Next, PayloadWorker, Target};
use crate::ports::PayloadResult;
use crate::progress::{Activity, Validity};

/// How often a payload is compared as a whole, for what no watch shows: Secrets and ConfigMaps it is read from, and
/// kinds without a generation.
const RESYNC: Duration = Duration::from_secs(60);
/// How often a payload that was refused is tried again although nobody changed it: a quota may have been raised.
const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// How long events of one object are collected before it is looked at. A Deployment's status changes in bursts.
const GATHER: Duration = Duration::from_millis(150);
/// The least time between two corrections: somebody who sets a field back every time must not keep us busy.
const DRIFT_PAUSE: Duration = Duration::from_secs(1);

/// How often a payload that is left alone is looked at.
const SUSPENDED_LOOK: Duration = Duration::from_secs(5);

/// Why the payload is not watched any more.
enum Woken {
    Overtaken,
    Drifted,
    Resync,
}

/// Why a payload was not applied.
enum Refusal {
    /// It cannot be, before somebody changes something. Nothing was written.
    Invalid(&'static str, String),
    /// The same, but found only while it was written.
    Halfway(String),
    /// Not now.
    Failed(String),
    /// A hook has to succeed first. It was told and is shown.
    Blocked(String),
    /// The lead was given up, or is not settled.
    Denied(String),
}

impl PayloadWorker {
    /// Brings the payload in and keeps it. Returns when something is to be done anew.
    pub(crate) async fn be_running(
        &self,
        term: Term,
        resumed: bool,
        target: &Target,
        overtaken: &CancellationToken,
        drift: &mut Option<Drift>,
    ) -> Next {
        let plan = match self.bring_in(term, resumed, target, overtaken).await {
            Ok(plan) => plan,
            Err(Refusal::Invalid(reason, message)) => {
                self.report(|progress| progress.activity = Activity::Idle);
                self.invalid(reason, &message);
                return self.keep_last(term, target, overtaken, drift).await;
            }
            Err(Refusal::Halfway(message)) => {
                self.report(|progress| progress.activity = Activity::Idle);
                self.invalid("PayloadRefused", &message);
                return Next::Rest(REFUSED_RETRY);
            }
            Err(Refusal::Failed(error)) => return self.failed(target, &error),
            Err(Refusal::Blocked(error)) => {
                info!(error, "nothing is written before the hook succeeds");
                return Next::Retry;
            }
            Err(Refusal::Denied(why)) => {
                info!(why, "payload writes are not permitted now");
                return Next::Retry;
            }
        };
        let applied_at = Instant::now();
        match self.stay(&plan, term, target, overtaken, drift).await {
            Woken::Overtaken | Woken::Resync => {}
            Woken::Drifted => {
                tokio::select! {
                    () = tokio::time::sleep_until(applied_at + DRIFT_PAUSE) => {}
                    () = overtaken.cancelled() => {}
                }
            }
        }
        Next::Go
    }

    /// The object is suspended: what runs is looked at and not touched.
    pub(crate) async fn leave_alone(&self, overtaken: &CancellationToken) -> Next {
        self.report(|progress| {
            progress.activity = Activity::Idle;
            progress.error = None;
        });
        tokio::select! {
            biased;
            () = overtaken.cancelled() => {}
            looked = self.observe() => if let Err(error) = looked {
                info!(error, "a suspended payload cannot be looked at now");
            }
        }
        Next::Rest(SUSPENDED_LOOK)
    }

    /// The payload was refused after an edit: what ran before it goes on running, and is kept as it was applied, until
    /// the new one is tried again.
    async fn keep_last(
        &self,
        term: Term,
        target: &Target,
        overtaken: &CancellationToken,
        drift: &mut Option<Drift>,
    ) -> Next {
        let Some(kept) = drift else { return Next::Rest(REFUSED_RETRY) };
        let plan = kept.plan().clone();
        let again = Instant::now() + REFUSED_RETRY;
        while let Woken::Drifted = self.stay_watching(kept, (term, target), again, overtaken).await {
            if let Err(error) = self.correct(&plan, term, target, overtaken).await {
                info!(error, "the payload that runs drifted and is not corrected yet");
            }
            tokio::select! {
                () = tokio::time::sleep(DRIFT_PAUSE) => {}
                () = overtaken.cancelled() => {}
            }
        }
        Next::Go
    }

    async fn correct(
        &self,
        plan: &Plan,
        term: Term,
        target: &Target,
        overtaken: &CancellationToken,
    ) -> Result<(), String> {
        let apply = target.settings.apply;
        let options = ApplyOptions { force: apply.force, timeout: apply.timeout };
        let checked =
            self.cluster.check(plan, term, apply.force).await.map_err(|failures| failures.to_string())?;
        let gate = self.gate(overtaken);
        let applied = self.cluster.apply(plan, &checked, &gate, term, options, &self.tracker).await;
        applied.map(|_| ()).map_err(|error| error.to_string())
    }

    /// From the object to the cluster. Writes only what differs.
    async fn bring_in(
        &self,
        term: Term,
        resumed: bool,
        target: &Target,
        overtaken: &CancellationToken,
    ) -> Result<Plan, Refusal> {
        let plan = self.plan(target).await?;
        let apply = target.settings.apply;
        let checked =
            self.cluster.check(&plan, term, apply.force).await.map_err(|failures| {
                match failures.is_transient() {
                    true => Refusal::Failed(failures.to_string()),
                    false => Refusal::Invalid("PayloadRefused", failures.to_string()),
                }
            })?;
        self.valid();
        // Asked before anything of the payload is written. Each write asks the node for a permit all the same.
        tokio::select! {
            biased;
            () = overtaken.cancelled() => return Err(Refusal::Denied("another directive came".into())),
            asked = self.before_promote(term, resumed, target) => asked.map_err(Refusal::Blocked)?,
        }
        let first = self.progress.borrow().applied.map(|(term, _)| term) != Some(term);
        let clean = checked.is_clean();
        if !clean {
            discovery::note_kinds(&self.context, &self.owner, &self.caller, plan.kinds())
                .await
                .map_err(|error| Refusal::Failed(error.to_string()))?;
            self.report(|progress| {
                progress.activity = Activity::Applying(term);
                progress.ready = false;
            });
        }
        let began = Instant::now();
        let gate = self.gate(overtaken);
        let options = ApplyOptions { force: apply.force, timeout: apply.timeout };
        // With nothing to write it only completes the inventory.
        let result = self.cluster.apply(&plan, &checked, &gate, term, options, &self.tracker).await;
        let pruned = match &result {
            Ok(_) if apply.prune => self.cluster.prune(&plan, &gate, apply.timeout, &self.tracker).await,
            Ok(_) | Err(_) => Ok(0),
        };
        if !clean {
            self.count_apply(target, &result, began.elapsed());
        }
        self.report(|progress| progress.activity = Activity::Idle);
        let applied = result.map_err(refusal)?;
        let pruned = pruned.map_err(prune_refusal)?;
        self.ran.store(true, Ordering::Relaxed);
        self.report(|progress| {
            progress.applied = Some((term, target.generation));
            progress.error = None;
        });
        self.tell_applied(term, applied, pruned, first, resumed, began.elapsed());
        Ok(plan)
    }

    /// Reads the sources and plans.
    pub(crate) async fn plan_of(&self, target: &Target) -> Result<Plan, PlanError> {
        let texts = self.cluster.read_sources(&self.owner.namespace, &target.settings.sources).await?;
        self.cluster.plan(&texts, &self.owner, discovery::reach(&self.context)).await
    }

    async fn plan(&self, target: &Target) -> Result<Plan, Refusal> {
        self.plan_of(target).await.map_err(|error| match error.is_transient() {
            true => Refusal::Failed(error.to_string()),
            false => Refusal::Invalid(reason(&error), error.to_string()),
        })
    }

    fn count_apply(&self, target: &Target, result: &Result<Applied, ApplyError>, took: Duration) {
        let result = match result {
            Ok(_) => PayloadResult::Success,
            Err(ApplyError::Denied(_)) => PayloadResult::Superseded,
            Err(_) => PayloadResult::Failure,
        };
        self.context.observer.payload_applied(&target.settings.callsign, &self.member(), result, took);
    }

    fn tell_applied(
        &self,
        term: Term,
        applied: Applied,
        pruned: usize,
        first: bool,
        resumed: bool,
        took: Duration,
    ) {
        let Applied { created, updated, kept } = applied;
        let written = created + updated + pruned;
        if written == 0 {
            if first && resumed {
                info!(%term, objects = kept, "the payload runs as it should; nothing was touched");
            }
            return;
        }
        let mut note =
            format!("payload applied under term {term} in {}: {created} created", format_duration(took));
        for (count, what) in [(updated, "updated"), (pruned, "pruned"), (kept, "unchanged")] {
            if count > 0 {
                note.push_str(&format!(", {count} {what}"));
            }
        }
        self.tell(Happening::new(Notice::normal("PayloadApplied", note)).under(term));
    }

    /// Watches the payload until something has to be done about it.
    async fn stay(
        &self,
        plan: &Plan,
        term: Term,
        target: &Target,
        overtaken: &CancellationToken,
        kept: &mut Option<Drift>,
    ) -> Woken {
        let resync = Instant::now() + RESYNC;
        let mut drift = match kept.take() {
            Some(mut drift) => match drift.take_over(plan) {
                true => drift,
                false => Drift::watch(&self.context.client, plan),
            },
            None => Drift::watch(&self.context.client, plan),
        };
        let woken = self.stay_watching(&mut drift, (term, target), resync, overtaken).await;
        *kept = Some(drift);
        woken
    }

    async fn stay_watching(
        &self,
        drift: &mut Drift,
        (term, target): (Term, &Target),
        resync: Instant,
        overtaken: &CancellationToken,
    ) -> Woken {
        let mut look_at = Some(Instant::now());
        loop {
            let inventory = self.tracker.borrow().inventory.clone();
            let look = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = overtaken.cancelled() => return Woken::Overtaken,
                () = tokio::time::sleep_until(resync) => return Woken::Resync,
                () = look => {
                    look_at = None;
                    match self.look(term, target).await {
                        Ok(true) => {}
                        Ok(false) => return Woken::Drifted,
                        // Asked again soon: an API server that is away for a while comes back without an event.
                        Err(_) => look_at = Some(Instant::now() + DRIFT_PAUSE),
                    }
                }
                sight = drift.next(&inventory) => match sight {
                    Sight::Nothing => {}
                    Sight::Changed => look_at = look_at.or_else(|| Some(Instant::now() + GATHER)),
                    Sight::Drifted => return Woken::Drifted,
                },
            }
        }
    }

    /// Reads how the payload is. `false`: some of it is not there.
    async fn look(&self, term: Term, target: &Target) -> Result<bool, String> {
        let summary = self.observe().await?;
        if summary.is_ready() {
            self.promotion_is_through(term).await;
            self.after_promote(term, target);
        }
        Ok(summary.lost.is_empty())
    }

    async fn observe(&self) -> Result<Summary, String> {
        let summary = self.cluster.observe(&self.tracker).await.map_err(|error| error.to_string())?;
        let first = !self.progress.borrow().ready && summary.is_ready();
        self.report(|progress| {
            progress.ready = summary.is_ready();
            progress.not_ready = summary.failed.clone().or(summary.waiting_for.clone());
        });
        if first {
            info!(objects = summary.total, "the payload is ready");
        }
        Ok(summary)
    }

    /// The payload could be applied here.
    pub(crate) fn valid(&self) {
        self.report(|progress| {
            progress.validity = Validity::Valid;
            progress.error = None;
        });
    }

    /// The payload cannot be applied here before somebody changes something.
    pub(crate) fn invalid(&self, reason: &'static str, message: &str) {
        let new = Validity::Invalid { reason, message: message.into() };
        if self.validity() != new {
            let note = format!("the payload cannot be applied: {message}");
            self.tell(Happening::new(Notice::warning(reason, note)).event_only());
        }
        self.report(|progress| {
            progress.validity = new;
            progress.error = None;
        });
    }
}

/// The reason of the Stalled condition.
pub(crate) fn reason(error: &PlanError) -> &'static str {
    match error {
        PlanError::Source(_) => "PayloadSource",
        PlanError::Parse(_) => "InvalidPayload",
        PlanError::Objections(_) => "PayloadObjection",
        PlanError::Api(_) => "PayloadRefused",
    }
}

fn refusal(error: ApplyError) -> Refusal {
    match error {
        ApplyError::Denied(why) => Refusal::Denied(why.to_string()),
        error if error.is_transient() => Refusal::Failed(error.to_string()),
        error => Refusal::Halfway(error.to_string()),
    }
}

fn prune_refusal(error: DeleteError) -> Refusal {
    match error {
        DeleteError::Denied(why) => Refusal::Denied(why.to_string()),
        error => Refusal::Failed(format!("cannot prune: {error}")),
    }
}
