//! The one writer of an object's status. What must be durable is written at once and answered; the picture for
//! people is debounced, compared without timestamps, and written only if it differs. Because one task does both,
//! they never race.

use std::time::Duration;

use flagship_k8s_api::{ConditionType, FIELD_MANAGER, MultiCluster, MultiClusterStatus, conditions};
use flagship_node::{DurableRecord, Store, StoreError};
use flagship_types::{Callsign, Epoch};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::memory;
use crate::request::{CALL_TIMEOUT, CallError, Caller, Verb};

/// How long changes of the picture are collected before they are written.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// How long after a failed write of the picture it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Conflicts in a row that one write survives: each means that somebody else changed the object in between.
const MAX_CONFLICTS: u32 = 5;
/// Requests that may wait: one member has one node, which waits for each answer.
const QUEUE: usize = 8;

/// What to say under one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub which: ConditionType,
    /// `None` is Unknown.
    pub status: Option<bool>,
    pub reason: String,
    pub message: String,
}

/// The status as people should see it. Its durable fields are ignored, and its conditions come from `judgements`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Picture {
    pub status: MultiClusterStatus,
    pub judgements: Vec<Judgement>,
}

/// Why the status cannot be written by this process any more, or not now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Try again later.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The object is gone, or another one has its name.
    #[error("the MultiCluster was deleted or replaced by another one of the same name")]
    Gone,
    /// Another process of the same member wrote after this one.
    #[error("process {0:?} serves this member now")]
    TakenOver(String),
}

enum Request {
    Persist(Box<DurableRecord>, oneshot::Sender<Result<(), WriteError>>),
    Begin(Epoch, oneshot::Sender<Result<(), WriteError>>),
    ForgetRecord(oneshot::Sender<Result<(), WriteError>>),
    Flush(oneshot::Sender<Result<(), WriteError>>),
}

/// How the worker and the node reach the writer. Cheap to clone; the writer ends when all are dropped.
#[derive(Clone)]
pub(crate) struct StatusHandle {
    requests: mpsc::Sender<Request>,
    picture: watch::Sender<Picture>,
    callsign: watch::Sender<Option<Callsign>>,
}

impl StatusHandle {
    /// Shows this, soon.
    pub(crate) fn show(&self, picture: Picture) {
        self.picture.send_if_modified(|old| {
            let changed = *old != picture;
            *old = picture;
            changed
        });
    }

    /// The fleet that records belong to from now on.
    pub(crate) fn set_callsign(&self, callsign: &Callsign) {
        self.callsign.send_replace(Some(callsign.clone()));
    }

    /// Stores the epoch of this start, and that this process serves the member.
    pub(crate) async fn begin(&self, epoch: Epoch) -> Result<(), WriteError> {
        self.ask(|reply| Request::Begin(epoch, reply)).await
    }

    /// Forgets what another fleet had agreed on.
    pub(crate) async fn forget_record(&self) -> Result<(), WriteError> {
        self.ask(Request::ForgetRecord).await
    }

    /// Writes the newest picture now.
    pub(crate) async fn flush(&self) -> Result<(), WriteError> {
        self.ask(Request::Flush).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), WriteError>>) -> Request,
    ) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(WriteError::Gone);
        }
        answer.await.unwrap_or(Err(WriteError::Gone))
    }
}

#[async_trait::async_trait]
impl Store for StatusHandle {
    async fn persist(&self, record: &DurableRecord) -> Result<(), StoreError> {
        let record = Box::new(record.clone());
        self.ask(|reply| Request::Persist(record, reply)).await.map_err(|error| StoreError(error.to_string()))
    }
}

/// Writes the status of one object. Lives as long as this process serves the member.
pub(crate) struct StatusWriter {
    api: Api<MultiCluster>,
    caller: Caller,
    name: String,
    uid: String,
    holder: String,
    /// The status and version as the API server last told them.
    server: MultiClusterStatus,
    version: String,
    callsign: watch::Receiver<Option<Callsign>>,
}

impl StatusWriter {
    /// Reads the object and starts the writer. Returns what the status says.
    pub(crate) async fn open(
        api: Api<MultiCluster>,
        caller: Caller,
        name: &str,
        uid: &str,
        holder: &str,
    ) -> Result<(StatusHandle, MultiClusterStatus), WriteError> {
        let (callsign_out, callsign) = watch::channel(None);
        let mut writer = Self {
            api,
            caller,
            name: name.into(),
            uid: uid.into(),
            holder: holder.into(),
            server: MultiClusterStatus::default(),
            version: String::new(),
            callsign,
        };
        writer.read().await?;
        let status = writer.server.clone();
        let (requests, queue) = mpsc::channel(QUEUE);
        let (picture, pictures) = watch::channel(Picture::default());
        tokio::spawn(writer.run(queue, pictures));
        Ok((StatusHandle { requests, picture, callsign: callsign_out }, status))
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Request>, mut pictures: watch::Receiver<Picture>) {
        let mut due: Option<Instant> = None;
        loop {
            let debounce = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                request = queue.recv() => match request {
                    Some(request) => self.serve(request, &mut pictures).await,
                    None => return,
                },
                changed = pictures.changed(), if due.is_none() => {
                    if changed.is_err() {
                        return;
                    }
                    due = Some(Instant::now() + DEBOUNCE);
                }
                () = debounce => {
                    due = self.show(&mut pictures).await.is_err().then(|| Instant::now() + RETRY);
                }
            }
        }
    }

    async fn serve(&mut self, request: Request, pictures: &mut watch::Receiver<Picture>) {
        let (result, reply) = match request {
            Request::Persist(record, reply) => (self.persist(&record).await, reply),
            Request::Begin(epoch, reply) => {
                let change = move |status: &mut MultiClusterStatus, holder: &str| {
                    status.epoch = Some(memory::signed(epoch.0));
                    status.holder = Some(holder.into());
                };
                (self.write(change).await, reply)
            }
            Request::ForgetRecord(reply) => {
                (self.write(|status, _| memory::forget(status)).await, reply)
            }
            Request::Flush(reply) => (self.show(pictures).await, reply),
        };
        if let Err(error) = &result {
            warn!(%error, "status not written");
        }
        // Whoever asked may have been cancelled; the write stands.
        let _ = reply.send(result);
    }

    async fn persist(&mut self, record: &DurableRecord) -> Result<(), WriteError> {
        let callsign = self.callsign.borrow().clone();
        self.write(|status, holder| {
            if let Some(callsign) = &callsign {
                memory::store(status, record, callsign);
            }
            status.holder = Some(holder.into());
        })
        .await
    }

    async fn show(&mut self, pictures: &mut watch::Receiver<Picture>) -> Result<(), WriteError> {
        let picture = pictures.borrow_and_update().clone();
        if picture == Picture::default() {
            return Ok(());
        }
        let result = self.write(|status, _| *status = compose(status, &picture, Timestamp::now())).await;
        if let Err(error) = &result {
            debug!(%error, "picture not written");
        }
        result
    }

    /// Makes a change durable: computed on what the API server has, written with its resource version, and
    /// computed anew after a conflict.
    async fn write(&mut self, change: impl Fn(&mut MultiClusterStatus, &str)) -> Result<(), WriteError> {
        let mut conflicts = 0;
        loop {
            let mut next = self.server.clone();
            change(&mut next, &self.holder);
            if next.same_but_times(&self.server) {
                return Ok(());
            }
            let Err(error) = self.patch(&next).await else { return Ok(()) };
            if error.is_not_found() {
                return Err(WriteError::Gone);
            }
            conflicts += 1;
            if !error.is_conflict() || conflicts > MAX_CONFLICTS {
                // A call without an answer may have had its effect: what the server has is not known any more.
                self.version.clear();
                return Err(error.into());
            }
            self.read().await?;
        }
    }

    async fn patch(&mut self, next: &MultiClusterStatus) -> Result<(), CallError> {
        if self.version.is_empty() {
            // Any version but the right one makes the caller read first.
            return Err(unknown_version());
        }
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": self.version },
            "status": difference(&self.server, next),
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
        let send = async { self.api.patch_status(&self.name, &params, &Patch::Merge(&patch)).await };
        let object = self.caller.call_within(CALL_TIMEOUT, Verb::Patch, send).await?;
        self.learn(object);
        Ok(())
    }

    async fn read(&mut self) -> Result<(), WriteError> {
        let get = async { self.api.get(&self.name).await };
        let object = match self.caller.call(Verb::Get, get).await {
            Err(error) if error.is_not_found() => return Err(WriteError::Gone),
            result => result?,
        };
        if object.uid().as_deref() != Some(&self.uid) {
            return Err(WriteError::Gone);
        }
        let (before, opened) = (self.server.epoch, !self.version.is_empty() || self.server.epoch.is_some());
        let status = object.status.as_ref();
        if let (true, Some(status)) = (opened, status) {
            let other = status.holder.as_ref().filter(|holder| **holder != self.holder);
            if let (Some(other), true) = (other, status.epoch > before) {
                return Err(WriteError::TakenOver(other.clone()));
            }
        }
        self.learn(object);
        Ok(())
    }

    fn learn(&mut self, object: MultiCluster) {
        self.version = object.resource_version().unwrap_or_default();
        self.server = object.status.unwrap_or_default();
    }
}

fn unknown_version() -> CallError {
    CallError::Kube(kube::Error::Api(Box::new(kube::core::Status { code: 409, ..Default::default() })))
}

/// The picture on top of what is durable. Conditions keep the time of their last transition.
fn compose(server: &MultiClusterStatus, picture: &Picture, now: Timestamp) -> MultiClusterStatus {
    let mut next = picture.status.clone();
    memory::copy(server, &mut next);
    next.conditions.clone_from(&server.conditions);
    // A condition that nothing is said of any more goes.
    next.conditions.retain(|old| picture.judgements.iter().any(|new| new.which.as_str() == old.type_));
    for Judgement { which, status, reason, message } in &picture.judgements {
        let generation = next.observed_generation;
        let report = conditions::Report { status: *status, reason, message, generation, now };
        conditions::set(&mut next.conditions, *which, report);
    }
    next
}

/// The fields that differ, as a merge patch: a field that is gone is null.
fn difference(old: &MultiClusterStatus, new: &MultiClusterStatus) -> Value {
    let fields = |status| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        // A status is a struct of strings, numbers and lists: it always serialises to an object.
        Ok(_) | Err(_) => Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        if old.get(&key) != Some(&value) {
            patch.insert(key, whole(old.get(&key), value));
        }
    }
    Value::Object(patch)
}

/// A merge patch merges objects: keys that an object lost have to be named.
fn whole(old: Option<&Value>, mut new: Value) -> Value {
    if let (Some(Value::Object(old)), Value::Object(new)) = (old, &mut new) {
        for key in old.keys() {
            new.entry(key.clone()).or_insert(Value::Null);
        }
    }
    new
}

#[cfg(test)]
#[path = "status_writer_tests.rs"]
mod tests;
