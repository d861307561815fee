//! The one writer of an object's status. What must be durable is written at once and answered; the picture for
//! people is debounced, compared without timestamps, and written only if it differs. Because one task does both,
//! they never race.

use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{
    ConditionType, FIELD_MANAGER, InventoryEntry, MultiCluster, MultiClusterStatus, conditions,
};
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
use crate::request::{CallError, Caller, Verb};

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
    /// Others change the object all the time. Try again later.
    #[error(
        "the MultiCluster was changed by others {MAX_CONFLICTS} times in a row while its status was written"
    )]
    Contended,
    /// Another process of the same member wrote after this one.
    #[error("process {0:?} serves this member now")]
    TakenOver(String),
}

enum Request {
    Persist(Callsign, Box<DurableRecord>, oneshot::Sender<Result<(), WriteError>>),
    Begin(oneshot::Sender<Result<Start, WriteError>>),
    Read(oneshot::Sender<Result<MultiClusterStatus, WriteError>>),
    ForgetRecord(oneshot::Sender<Result<(), WriteError>>),
    Flush(oneshot::Sender<Result<(), WriteError>>),
    Record(Vec<InventoryEntry>, oneshot::Sender<Result<(), WriteError>>),
    BeginStop(oneshot::Sender<Result<(), WriteError>>),
}

/// What a member starts with.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The epoch, stored.
    pub epoch: Epoch,
    /// The status it stands in.
    pub status: MultiClusterStatus,
}

/// How the worker and the node reach the writer. Cheap to clone; the writer ends when all are dropped.
#[derive(Clone)]
pub(crate) struct StatusHandle {
    requests: mpsc::Sender<Request>,
    picture: watch::Sender<Picture>,
    usurper: watch::Receiver<Option<String>>,
}

impl StatusHandle {
    /// Tells which other process wrote after this one, once one did: this one must not write any more.
    pub(crate) fn usurper(&self) -> watch::Receiver<Option<String>> {
        self.usurper.clone()
    }

    /// Shows this, soon.
    pub(crate) fn show(&self, picture: Picture) {
        self.picture.send_if_modified(|old| {
            let changed = *old != picture;
            *old = picture;
            changed
        });
    }

    /// Where the node of this member in this fleet stores its records.
    pub(crate) fn store(&self, callsign: &Callsign) -> Arc<dyn Store> {
        Arc::new(MemberStore { status: self.clone(), callsign: callsign.clone() })
    }

    /// Stores a new epoch, and that this process serves the member.
    pub(crate) async fn begin(&self) -> Result<Start, WriteError> {
        self.ask(Request::Begin).await
    }

    /// Forgets what another fleet had agreed on.
    pub(crate) async fn forget_record(&self) -> Result<(), WriteError> {
        self.ask(Request::ForgetRecord).await
    }

    /// What the status says now.
    pub(crate) async fn read(&self) -> Result<MultiClusterStatus, WriteError> {
        self.ask(Request::Read).await
    }

    /// Writes the newest picture now.
    pub(crate) async fn flush(&self) -> Result<(), WriteError> {
        self.ask(Request::Flush).await
    }

    /// Makes the inventory durable, whatever the picture says, and shows it from then on. On an error it may or may
    /// not have been stored.
    pub(crate) async fn record(&self, inventory: Vec<InventoryEntry>) -> Result<(), WriteError> {
        self.picture.send_if_modified(|picture| {
            // Without a picture there is nothing yet that could write an older inventory.
            let changed = *picture != Picture::default() && picture.status.inventory != inventory;
            if changed {
                picture.status.inventory.clone_from(&inventory);
            }
            changed
        });
        self.ask(|reply| Request::Record(inventory, reply)).await
    }

    /// Makes durable that the payload of the term that is held is being stopped: whoever finds that only completes it.
    pub(crate) async fn begin_stop(&self) -> Result<(), WriteError> {
        self.ask(Request::BeginStop).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, WriteError>>) -> Request,
    ) -> Result<T, WriteError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(WriteError::Gone);
        }
        answer.await.unwrap_or(Err(WriteError::Gone))
    }
}

/// A member's durable memory: the status of its object.
struct MemberStore {
    status: StatusHandle,
    callsign: Callsign,
}

#[async_trait::async_trait]
impl Store for MemberStore {
    async fn persist(&self, record: &DurableRecord) -> Result<(), StoreError> {
        let (callsign, record) = (self.callsign.clone(), Box::new(record.clone()));
        let stored = self.status.ask(|reply| Request::Persist(callsign, record, reply)).await;
        stored.map_err(|error| StoreError(error.to_string()))
    }
}

/// Writes the status of one object. Lives as long as this process serves the member.
pub(crate) struct StatusWriter {
    api: Api<MultiCluster>,
    caller: Caller,
    name: String,
    uid: String,
    holder: String,
    /// The status as the API server last told it.
    server: MultiClusterStatus,
    /// The object's version then; `None` if a write went unanswered, so that it is not known any more.
    version: Option<String>,
    /// The start that this process stored; a higher one by another process means that we are not the one any more.
    began: Option<i64>,
    usurper: watch::Sender<Option<String>>,
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
        let mut writer = Self {
            api,
            caller,
            name: name.into(),
            uid: uid.into(),
            holder: holder.into(),
            server: MultiClusterStatus::default(),
            version: None,
            began: None,
            usurper: watch::Sender::new(None),
        };
        let usurper = writer.usurper.subscribe();
        writer.read().await?;
        let status = writer.server.clone();
        let (requests, queue) = mpsc::channel(QUEUE);
        let (picture, pictures) = watch::channel(Picture::default());
        tokio::spawn(writer.run(queue, pictures));
        Ok((StatusHandle { requests, picture, usurper }, status))
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
            Request::Persist(callsign, record, reply) => {
                (self.write(|status| memory::store(status, &record, &callsign)).await, reply)
            }
            Request::Begin(reply) => {
                // Whoever asked may have been cancelled; the write stands.
                let _ = reply.send(self.begin().await);
                return;
            }
            Request::Read(reply) => {
                let read = self.read().await.map(|()| self.server.clone());
                // As above.
                let _ = reply.send(read);
                return;
            }
            Request::ForgetRecord(reply) => (self.write(memory::forget).await, reply),
            Request::BeginStop(reply) => (self.write(memory::begin_stop).await, reply),
            Request::Flush(reply) => (self.show(pictures).await, reply),
            Request::Record(inventory, reply) => {
                (self.write(|status| status.inventory.clone_from(&inventory)).await, reply)
            }
        };
        if let Err(error) = &result {
            warn!(%error, "status not written");
        }
        // Whoever asked may have been cancelled; the write stands.
        let _ = reply.send(result);
    }

    async fn begin(&mut self) -> Result<Start, WriteError> {
        let (holder, wall_ms) = (self.holder.clone(), flagship_node::wall_ms());
        self.write(|status| {
            status.epoch = Some(memory::signed(memory::next_epoch(status, wall_ms).0));
            status.holder = Some(holder.clone());
        })
        .await?;
        self.began = self.server.epoch;
        let epoch = Epoch(self.server.epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(wall_ms));
        Ok(Start { epoch, status: self.server.clone() })
    }

    async fn show(&mut self, pictures: &mut watch::Receiver<Picture>) -> Result<(), WriteError> {
        let picture = pictures.borrow_and_update().clone();
        if picture == Picture::default() {
            return Ok(());
        }
        let result = self.write(|status| *status = compose(status, &picture, Timestamp::now())).await;
        if let Err(error) = &result {
            debug!(%error, "picture not written");
        }
        result
    }

    /// Makes a change durable: computed on what the API server has, written with its resource version, and
    /// computed anew after a conflict.
    async fn write(&mut self, change: impl Fn(&mut MultiClusterStatus)) -> Result<(), WriteError> {
        for _ in 0..MAX_CONFLICTS {
            if self.version.is_none() {
                self.read().await?;
            }
            let mut next = self.server.clone();
            change(&mut next);
            if next.same_but_times(&self.server) {
                return Ok(());
            }
            match self.patch(&next).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => return Err(WriteError::Gone),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Contended)
    }

    async fn patch(&mut self, next: &MultiClusterStatus) -> Result<(), CallError> {
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": self.version },
            "status": difference(&self.server, next),
        });
        // Unanswered or refused, this version is not to be built on.
        self.version = None;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
        let send = async { self.api.patch_status(&self.name, &params, &Patch::Merge(&patch)).await };
        let object = self.caller.call(Verb::Patch, send).await?;
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
        if let (Some(status), Some(began)) = (&object.status, self.began) {
            let other = status.holder.as_ref().filter(|holder| **holder != self.holder);
            if let (Some(other), true) = (other, status.epoch > Some(began)) {
                self.usurper.send_replace(Some(other.clone()));
                return Err(WriteError::TakenOver(other.clone()));
            }
        }
        self.learn(object);
        Ok(())
    }

    fn learn(&mut self, object: MultiCluster) {
        self.version = object.resource_version();
        self.server = object.status.unwrap_or_default();
    }
}

/// The picture on top of what is durable. Conditions keep the time of their last transition.
fn compose(server: &MultiClusterStatus, picture: &Picture, now: Timestamp) -> MultiClusterStatus {
    let mut next = picture.status.clone();
    memory::copy(server, &mut next);
    next.failed_lead = match next.failed_lead {
        None => server.failed_lead.clone(),
        Some(failed) => Some(failed).filter(|failed| failed.times > 0),
    };
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
            let value = whole(old.get(&key), value);
            patch.insert(key, value);
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
