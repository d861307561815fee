//! Carries out the node's directive for the payload: a state to converge to, always the newest. This file is the
//! loop that steps and tries again, the only place with retries; the steps are in `running` and `stopping`.

use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flagship_k8s_api::{HookPoint, Settings};
use flagship_node::{Directive, NodeHandle};
use flagship_payload::{Cluster, Inventory, Owner, PodGrace, Tracker};
use flagship_types::{MemberName, Term};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug};

use crate::discovery;
use crate::drift::Drift;
use crate::gate::{NodeGate, RemovalGate};
use crate::happenings::Happening;
use crate::hooks::{Background, Told};
use crate::lease::LeaseWatch;
use crate::progress::{Activity, Progress, Validity};
use crate::request::Caller;
use crate::status_writer::StatusHandle;
use crate::stopping::ends_at_once;
use crate::tenure::AbortOnDrop;
use crate::worker::Context;

/// Happenings that may wait for the member's task, which never waits long.
const HAPPENINGS: usize = 32;
/// How long a step that was overtaken may go on, so that writes under way are known before the next step looks at
/// the cluster. Its gate gives no leave for new ones. What arrives later still is found by label, by a stop at its end
/// and by a standby when it becomes one and every few minutes.
const GRACE: Duration = Duration::from_secs(1);
/// The same, if what runs has to end at once: a step that ends it looks for what arrives late by itself.
const HASTY_GRACE: Duration = Duration::from_millis(100);
/// The pause after a failed step, at first and at most.
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(5);
/// The most, while what runs has to end at once: an API server that is back is to be asked at once, too.
const HASTY_RETRY: Duration = Duration::from_millis(500);
/// How long one round of removing leftovers waits; the caller goes on with the next.
pub(crate) const CLEAR_TIMEOUT: Duration = Duration::from_secs(30);

/// What the payload worker reads of the object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub generation: i64,
    pub settings: Settings,
}

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next step at once.
    Go,
    /// Nothing before something changes, or this time is over.
    Rest(Duration),
    /// It failed: try again, a little later each time.
    Retry,
}

/// The worker.
pub(crate) struct PayloadWorker {
    pub(crate) context: Arc<Context>,
    pub(crate) caller: Caller,
    pub(crate) cluster: Cluster,
    pub(crate) owner: Owner,
    pub(crate) node: NodeHandle,
    pub(crate) tracker: Tracker,
    pub(crate) progress: watch::Sender<Progress>,
    status: StatusHandle,
    lease: LeaseWatch,
    happenings: mpsc::Sender<Happening>,
    /// What the hooks know of the lead.
    pub(crate) told: Mutex<Told>,
    pub(crate) background: Background,
    /// It applied the payload once, and so held the lead.
    pub(crate) ran: AtomicBool,
    /// Since when the payload of a term has to end at once.
    pub(crate) hurried: Mutex<Option<(Term, Instant)>>,
    directive: watch::Receiver<Directive>,
    targets: watch::Receiver<Target>,
}

impl PayloadWorker {
    /// Starts the worker. It ends with its handle, or with the node.
    pub(crate) fn spawn(
        context: Arc<Context>,
        owner: Owner,
        node: NodeHandle,
        status: StatusHandle,
        lease: LeaseWatch,
        targets: watch::Receiver<Target>,
        inventory: Inventory,
    ) -> (AbortOnDrop, watch::Receiver<Progress>, mpsc::Receiver<Happening>) {
        let (happenings, heard) = mpsc::channel(HAPPENINGS);
        let first = Progress { inventory: inventory.to_status(), ..Progress::default() };
        let (progress, seen) = watch::channel(first);
        let tracker = watch::Sender::new(flagship_payload::Progress { inventory, ..Default::default() });
        let caller = Caller::new(Arc::clone(&context.observer));
        let (background, deliver) = Background::new(
            Arc::clone(&context),
            caller.clone(),
            owner.namespace.clone(),
            progress.clone(),
            happenings.clone(),
        );
        let worker = Self {
            caller,
            cluster: discovery::cluster(&context),
            directive: node.directive(),
            tracker: tracker.clone(),
            progress: progress.clone(),
            context,
            owner,
            node,
            status,
            lease,
            happenings,
            told: Mutex::default(),
            background,
            ran: AtomicBool::new(false),
            hurried: Mutex::default(),
            targets,
        };
        let forward = forward(tracker.subscribe(), progress);
        let task = async move {
            tokio::select! {
                () = worker.run() => {}
                () = forward => {}
                () = deliver => {}
            }
        };
        (AbortOnDrop(tokio::spawn(task.in_current_span())), seen, heard)
    }

    async fn run(mut self) {
        let mut retry = RETRY;
        // Not a field: watches can be sent to another thread, but not shared with it.
        let mut drift = None;
        loop {
            let directive = self.directive.borrow_and_update().clone();
            let target = self.targets.borrow_and_update().clone();
            if !matches!(directive, Directive::Run { .. }) {
                drift = None;
            }
            self.begin(&directive);
            let mut changes = Changes { directive: self.directive.clone(), targets: self.targets.clone() };
            let overtaken = CancellationToken::new();
            let next = {
                let mut step = pin!(self.step(&directive, &target, &overtaken, &mut drift));
                tokio::select! {
                    biased;
                    next = &mut step => Some(next),
                    () = changes.wait() => {
                        overtaken.cancel();
                        let grace = if self.is_hasty(&self.directive.borrow()) { HASTY_GRACE } else { GRACE };
                        tokio::time::timeout(grace, step).await.ok()
                    }
                }
            };
            if self.directive.has_changed().is_err() {
                return;
            }
            let pause = match next {
                _ if overtaken.is_cancelled() => continue,
                None | Some(Next::Go) => {
                    retry = RETRY;
                    continue;
                }
                Some(Next::Rest(time)) => {
                    retry = RETRY;
                    time
                }
                Some(Next::Retry) => {
                    let most = if self.is_hasty(&directive) { HASTY_RETRY } else { MAX_RETRY };
                    let time = retry.min(most);
                    retry = (retry * 2).min(MAX_RETRY);
                    time
                }
            };
            tokio::select! {
                () = changes.wait() => retry = RETRY,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A new directive is not carried out yet.
    fn begin(&self, directive: &Directive) {
        let running = matches!(directive, Directive::Run { .. } | Directive::Hold);
        let stopping = matches!(directive, Directive::Stop { .. });
        self.report(|progress| {
            progress.settled = false;
            if !running {
                progress.applied = None;
                progress.ready = false;
                progress.not_ready = None;
                progress.hooks.remove(&HookPoint::BeforePromote);
                progress.hooks.remove(&HookPoint::AfterPromote);
            }
            if !stopping {
                progress.stuck = None;
            }
        });
    }

    async fn step(
        &self,
        directive: &Directive,
        target: &Target,
        overtaken: &CancellationToken,
        drift: &mut Option<Drift>,
    ) -> Next {
        match directive {
            Directive::Hold => {
                self.report(|progress| progress.activity = Activity::Idle);
                Next::Rest(Duration::MAX)
            }
            Directive::Absent => self.be_absent(target, overtaken).await,
            Directive::Run { .. } if target.settings.suspend => self.leave_alone(overtaken).await,
            Directive::Run { term, resumed } => {
                self.be_running(*term, *resumed, target, overtaken, drift).await
            }
            Directive::Stop { term, reason } => self.stop(*term, *reason, target, overtaken).await,
        }
    }

    /// Whether what runs has to end at once.
    fn is_hasty(&self, directive: &Directive) -> bool {
        let Directive::Stop { reason, .. } = directive else { return false };
        ends_at_once(*reason, self.node.snapshot().quorum)
    }

    /// The gate of one step. It closes when the step is overtaken.
    pub(crate) fn gate(&self, overtaken: &CancellationToken) -> NodeGate {
        let (lease, tracker) = (self.lease.clone(), self.tracker.clone());
        NodeGate::new(self.node.clone(), lease, tracker, self.status.clone(), overtaken.clone())
    }

    /// Changes what others see of the progress.
    pub(crate) fn report(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_if_modified(|progress| {
            let old = progress.clone();
            change(progress);
            *progress != old
        });
    }

    /// Shows an error that is tried again, and counts it.
    pub(crate) fn failed(&self, target: &Target, error: &impl ToString) -> Next {
        let error = error.to_string();
        debug!(error, "payload step failed");
        self.context.observer.reconcile_error(&target.settings.callsign, &self.member());
        self.report(|progress| progress.error = Some(error));
        Next::Retry
    }

    /// Tells what happened; dropped if nobody listens fast enough.
    pub(crate) fn tell(&self, happening: Happening) {
        if self.happenings.try_send(happening).is_err() {
            debug!("a happening was dropped");
        }
    }

    pub(crate) fn member(&self) -> MemberName {
        self.node.snapshot().member.clone()
    }

    pub(crate) fn validity(&self) -> Validity {
        self.progress.borrow().validity.clone()
    }
}

/// What overtakes a step.
struct Changes {
    directive: watch::Receiver<Directive>,
    targets: watch::Receiver<Target>,
}

impl Changes {
    /// Until either changes, or ends.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.directive.changed() => {}
            _ = self.targets.changed() => {}
        }
    }
}

/// Copies the payload's own progress into what the member's task sees, as it changes.
async fn forward(
    mut tracked: watch::Receiver<flagship_payload::Progress>,
    progress: watch::Sender<Progress>,
) {
    while tracked.changed().await.is_ok() {
        let now = tracked.borrow_and_update().clone();
        progress.send_if_modified(|progress| {
            let old = progress.clone();
            progress.inventory = now.inventory.to_status();
            progress.unconfirmed = now.unconfirmed;
            match &mut progress.activity {
                Activity::Deleting(waiting) => *waiting = now.waiting_for,
                Activity::Applying(_) | Activity::Idle => progress.not_ready = now.waiting_for,
            }
            *progress != old
        });
    }
}

/// Deletes the inventory of an object that is being deleted and takes part in no fleet. With `pods` what runs has to end
/// within that, as somebody else may start it. One round; the caller repeats it after an error, which is a sentence.
pub(crate) async fn clear(
    context: &Context,
    owner: &Owner,
    lease: LeaseWatch,
    tracker: &Tracker,
    pods: Option<PodGrace>,
) -> Result<(), String> {
    let cluster = discovery::cluster(context);
    let gate = RemovalGate(lease);
    if let Some(pods) = pods
        && let Ok(halted) =
            tokio::time::timeout(CLEAR_TIMEOUT, cluster.halt(owner, &gate, pods, tracker)).await
    {
        halted.map_err(|error| error.to_string())?;
    }
    // Names what does not go.
    let deleted = cluster.delete_all(owner, &gate, CLEAR_TIMEOUT, tracker).await;
    deleted.map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "payload_worker_tests.rs"]
pub(crate) mod tests;
