//! Writing a plan, stage by stage.

use std::time::{Duration, Instant};

use flagship_k8s_api::ObjectState;
use flagship_types::Term;
use serde_json::Value;

use crate::check::{Action, Checked, refusal};
use crate::cluster::{Cluster, Tracker, side_by_side};
use crate::error::{ApiError, ApplyError, DeleteError, Failure, Failures, ObjectError};
use crate::gate::{Denied, Gate, Purpose};
use crate::inventory::Entry;
use crate::object::ObjectId;
use crate::observer::Outcome;
use crate::plan::{Plan, PlannedObject, Stage};
use crate::readiness::{Readiness, assess};

/// How an apply is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Take over objects and fields of others.
    pub force: bool,
    /// How long to wait for CRDs to be established and for leftovers to be gone.
    pub timeout: Duration,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Objects that were not there.
    pub created: usize,
    /// Objects that differed.
    pub updated: usize,
    /// Objects that were not touched.
    pub kept: usize,
}

/// Between two looks at what is being waited for.
const POLL: Duration = Duration::from_millis(100);

/// What became of one object of a stage.
enum Written {
    Done(Entry, Option<Outcome>),
    Denied(Denied),
    Failed(ObjectError),
}

impl Cluster {
    /// Writes what [`check`](Self::check) found to differ, stage by stage. Each write asks the gate first, and must be
    /// of `term`. Every object of the plan is in the tracker's inventory before the first write. On an error the
    /// rest of the stage under way may have been written; no later stage was begun. Dropping the future stops it.
    pub async fn apply(
        &self,
        plan: &Plan,
        checked: &Checked,
        gate: &dyn Gate,
        term: Term,
        options: ApplyOptions,
        tracker: &Tracker,
    ) -> Result<Applied, ApplyError> {
        announce(plan, checked, tracker);
        let mut applied = Applied::default();
        for stage in Stage::ALL {
            let indices = plan.objects().iter().enumerate().filter(|(_, object)| object.stage == stage);
            let work: Vec<(&PlannedObject, Action)> =
                indices.map(|(at, object)| (object, checked.actions[at].clone())).collect();
            if work.is_empty() {
                continue;
            }
            let writes = work
                .into_iter()
                .map(|(object, action)| self.write_one(plan, object, action, gate, term, options));
            let results = side_by_side(writes.collect::<Vec<_>>()).await;
            self.account(results, tracker, &mut applied)?;
            if stage == Stage::Foundation {
                self.await_established(plan, options.timeout, tracker).await?;
            }
        }
        tracker.send_if_modified(|progress| progress.waiting_for.take().is_some());
        Ok(applied)
    }

    /// Deletes what is in the tracker's inventory and not in the plan, and waits until it is gone.
    pub async fn prune(
        &self,
        plan: &Plan,
        gate: &dyn Gate,
        timeout: Duration,
        tracker: &Tracker,
    ) -> Result<usize, DeleteError> {
        let stale = tracker.borrow().inventory.not_in(plan);
        self.delete(&stale, plan.owner(), gate, Purpose::Prune, timeout, tracker).await
    }

    fn account(
        &self,
        results: Vec<(&PlannedObject, Written)>,
        tracker: &Tracker,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        let mut failures = Vec::new();
        let mut denied = None;
        for (object, written) in results {
            match written {
                Written::Done(entry, outcome) => {
                    match outcome {
                        Some(Outcome::Created) => applied.created += 1,
                        Some(_) => applied.updated += 1,
                        None => applied.kept += 1,
                    }
                    if let Some(outcome) = outcome {
                        self.observer().object(&object.id, outcome);
                        tracing::info!(object = %object.id, ?outcome, "applied");
                    }
                    tracker.send_modify(|progress| {
                        let known = progress.inventory.get(&object.id).filter(|known| known.uid == entry.uid);
                        // Readiness of what was not touched is still known.
                        if outcome.is_some() || known.is_none() {
                            progress.inventory.insert(object.id.clone(), entry);
                        }
                    });
                }
                Written::Denied(why) => denied = Some(why),
                Written::Failed(error) => failures.push(Failure { id: object.id.clone(), error }),
            }
        }
        match (denied, failures.is_empty()) {
            (Some(why), _) => Err(why.into()),
            (None, false) => Err(Failures(failures).into()),
            (None, true) => Ok(()),
        }
    }

    async fn write_one<'a>(
        &self,
        plan: &Plan,
        object: &'a PlannedObject,
        action: Action,
        gate: &dyn Gate,
        term: Term,
        options: ApplyOptions,
    ) -> (&'a PlannedObject, Written) {
        let written = self.try_write(plan, object, action, gate, term, options).await;
        (object, written.unwrap_or_else(Written::Failed))
    }

    async fn try_write(
        &self,
        plan: &Plan,
        object: &PlannedObject,
        action: Action,
        gate: &dyn Gate,
        term: Term,
        options: ApplyOptions,
    ) -> Result<Written, ObjectError> {
        let action = self.settle(plan, object, action, term, options).await?;
        let (uid, outcome, force) = match action {
            Action::Keep { uid, generation } => {
                return Ok(Written::Done(entry(object, uid, generation), None));
            }
            Action::Update { uid, force } => (Some(uid), Outcome::Updated, force),
            Action::Create | Action::AwaitDeletion | Action::Later => (None, Outcome::Created, options.force),
        };
        let mut body = object.body(term);
        if let (Some(uid), Some(metadata)) = (uid, body.get_mut("metadata").and_then(Value::as_object_mut)) {
            // Refused with 409 if another object has taken the name since the check.
            metadata.insert("uid".into(), uid.into());
        }
        let allowed = match Self::permitted(gate, Purpose::Apply, Some(term)).await {
            Ok(allowed) => allowed,
            Err(denied) => return Ok(Written::Denied(denied)),
        };
        let live = self.write(object, &body, force, allowed).await.map_err(refusal)?;
        let (uid, generation) =
            (live.metadata.uid.unwrap_or_default(), live.metadata.generation.unwrap_or_default());
        Ok(Written::Done(entry(object, uid, generation), Some(outcome)))
    }

    /// Waits until an object that is being deleted is gone, and checks now what could not be checked before.
    async fn settle(
        &self,
        plan: &Plan,
        object: &PlannedObject,
        mut action: Action,
        term: Term,
        options: ApplyOptions,
    ) -> Result<Action, ObjectError> {
        let begin = Instant::now();
        loop {
            match action {
                Action::Later | Action::AwaitDeletion => {}
                settled => return Ok(settled),
            }
            action = self.check_one(plan, object, term, options.force).await?;
            if matches!(action, Action::Later | Action::AwaitDeletion) {
                if begin.elapsed() > options.timeout {
                    return Err(ObjectError::Api(ApiError::Timeout {
                        verb: crate::observer::Verb::Get,
                        what: format!(
                            "{} (it is still being deleted, or what it lives in is not there)",
                            object.id
                        ),
                        after: options.timeout,
                    }));
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Waits until the plan's CRDs are established and their kinds served.
    async fn await_established(
        &self,
        plan: &Plan,
        timeout: Duration,
        tracker: &Tracker,
    ) -> Result<(), ApplyError> {
        let begin = Instant::now();
        let crds: Vec<_> =
            plan.objects().iter().filter(|object| object.id.kind == "CustomResourceDefinition").collect();
        for crd in &crds {
            loop {
                let live = self
                    .read(crd)
                    .await?
                    .and_then(|live| serde_json::to_value(live).ok())
                    .unwrap_or(Value::Null);
                let why = match assess(&crd.id.group_kind(), &live) {
                    Readiness::Ready => break,
                    Readiness::InProgress(why) | Readiness::Failed(why) => why,
                };
                let sentence = format!("{}: {why}", crd.id);
                tracker.send_modify(|progress| progress.waiting_for = Some(sentence));
                pause(begin, timeout, &crd.id, &why).await?;
            }
        }
        if crds.is_empty() { Ok(()) } else { self.await_served(plan, begin, timeout).await }
    }

    /// Waits until discovery knows every kind of the plan.
    async fn await_served(&self, plan: &Plan, begin: Instant, timeout: Duration) -> Result<(), ApplyError> {
        loop {
            let catalog = self.refresh_catalog().await?;
            let missing = plan.objects().iter().find(|object| {
                let resource = &object.resource;
                catalog.get(&resource.group, &resource.version, &resource.kind).is_none()
            });
            let Some(missing) = missing else { return Ok(()) };
            pause(begin, timeout, &missing.id, "its kind is not served although its CRD is established")
                .await?;
        }
    }
}

/// A moment's sleep, or an error once the timeout is over.
async fn pause(begin: Instant, timeout: Duration, id: &ObjectId, why: &str) -> Result<(), ApplyError> {
    let waited = begin.elapsed();
    if waited > timeout {
        return Err(ApplyError::NotInTime { what: id.to_string(), why: why.into(), waited });
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

fn entry(object: &PlannedObject, uid: String, generation: i64) -> Entry {
    Entry { version: object.resource.version.clone(), uid, generation, state: ObjectState::Applied }
}

/// Puts every planned object into the inventory, so that a crash between a write and its answer loses none.
fn announce(plan: &Plan, checked: &Checked, tracker: &Tracker) {
    tracker.send_modify(|progress| {
        for (object, action) in plan.objects().iter().zip(checked.actions()) {
            let known = progress.inventory.get(&object.id).cloned();
            let new = match (known, action) {
                (Some(known), Action::Keep { uid, generation }) if known.uid == *uid => {
                    // Its readiness is still known.
                    Entry { generation: *generation, ..known }
                }
                (_, Action::Keep { uid, generation }) => entry(object, uid.clone(), *generation),
                (_, Action::Update { uid, .. }) => {
                    Entry { state: ObjectState::Pending, ..entry(object, uid.clone(), 0) }
                }
                (Some(known), _) => Entry { state: ObjectState::Pending, ..known },
                (None, _) => Entry { state: ObjectState::Pending, ..entry(object, String::new(), 0) },
            };
            progress.inventory.insert(object.id.clone(), new);
        }
    });
}
