//! The local Lease: of all processes that serve one member in this cluster, one holds it and acts.
//!
//! It protects against a second replica, not against a paused process: that is what terms and permits are for.

use std::time::Duration;

use flagship_k8s_api::{LOCAL_LEASE, LOCAL_LEASE_POLL, NODE_ANNOTATION};
use flagship_types::Instant as BootInstant;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::request::{CallError, Caller, Verb};

/// How long a lease that is not renewed keeps others out.
const DURATION: Duration = LOCAL_LEASE;
/// How often it is renewed: three renewals may be lost.
const RENEWAL: Duration = LOCAL_LEASE_POLL;
/// A renewal that takes longer is given up and tried again.
const RENEWAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// A lease whose renewal is this old by the wall clock is not observed first: no two clocks in one cluster are
/// that far apart and still get certificates and tokens accepted.
const LONG_EXPIRED: Duration = Duration::from_secs(60);

/// How long a Lease lasts, and how often it is renewed or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Whole seconds, at least 1.
    pub duration: Duration,
    pub renewal: Duration,
}

/// Who holds a Lease that this process waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its name.
    pub name: String,
    /// Where it runs, if it said so.
    pub node: Option<String>,
}

/// What to do about a Lease that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// It is ours, or nobody's, or its holder is gone: write our name into it.
    Take,
    /// Somebody else's: look again then.
    Wait(Duration),
}

/// Judges a Lease by how long it was seen unchanged, on our own clock.
fn decide(spec: Option<&LeaseSpec>, holder: &str, unchanged: Duration, now: Timestamp) -> Decision {
    let Some(spec) = spec else { return Decision::Take };
    let other = match spec.holder_identity.as_deref() {
        None | Some("") => return Decision::Take,
        Some(name) => name != holder,
    };
    let age = spec.renew_time.as_ref().and_then(|at| Duration::try_from(now.duration_since(at.0)).ok());
    if !other || age.is_some_and(|age| age > LONG_EXPIRED) {
        return Decision::Take;
    }
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(2);
    // Somebody else's number is not waited for longer than a minute.
    let duration = Duration::from_secs(seconds.clamp(1, 60));
    match duration.checked_sub(unchanged) {
        None | Some(Duration::ZERO) => Decision::Take,
        Some(left) => Decision::Wait(left.min(RENEWAL)),
    }
}

/// One member's Lease, as this process sees it.
pub(crate) struct LocalLease {
    api: Api<Lease>,
    caller: Caller,
    name: String,
    holder: String,
    /// Where this process runs, if it knows.
    node: Option<String>,
    timing: Timing,
    /// The Lease as last read or written.
    seen: Option<Lease>,
    /// When the last write that succeeded was begun.
    renewed: watch::Sender<Option<BootInstant>>,
    /// It was somebody else's when it was looked at.
    waits: watch::Sender<bool>,
    /// Whoever else holds it, as far as that is known.
    elsewhere: watch::Sender<Option<Holder>>,
    /// Who acts, if this is the Lease of the one that waits for that.
    active: Option<watch::Receiver<Option<Holder>>>,
}

/// Whether this process still holds a member's Lease, as far as can be known without asking.
#[derive(Clone)]
pub(crate) struct LeaseWatch(watch::Receiver<Option<BootInstant>>);

impl LeaseWatch {
    /// Until when nobody else can have taken it: its duration, counted from before the last renewal was sent, also
    /// across a pause of the machine. `None`: it is over, and nothing may be written before the next renewal.
    pub(crate) fn held_until(&self) -> Option<BootInstant> {
        self.held_at(flagship_node::boot_now())
    }

    fn held_at(&self, now: BootInstant) -> Option<BootInstant> {
        // The receiver outlives the sender only when the Lease was given up.
        self.0.has_changed().ok()?;
        let until = (*self.0.borrow())? + DURATION;
        (now < until).then_some(until)
    }

    /// Until when nobody else can vote as this member: in the past if another process may have the Lease.
    pub(crate) fn votes_until(&self) -> BootInstant {
        self.held_until().unwrap_or(BootInstant::ZERO)
    }

    /// The same, each time it changes, by a renewal or the loss. `None`: no more.
    pub(crate) async fn next_votes_until(&mut self) -> Option<BootInstant> {
        self.0.changed().await.ok()?;
        Some(self.votes_until())
    }

    /// Of a Lease whose renewals the test tells.
    #[cfg(test)]
    pub(crate) fn of(renewed: &watch::Sender<Option<BootInstant>>) -> Self {
        Self(renewed.subscribe())
    }
}

/// The node of the process that holds a Lease, if it said so.
pub(crate) fn node_of(lease: &Lease) -> Option<String> {
    let node = lease.metadata.annotations.as_ref()?.get(NODE_ANNOTATION)?;
    (!node.is_empty()).then(|| node.clone())
}

/// What a renewal showed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Renewal {
    Held,
    /// The API server did not say. Nobody else can take the lease while it does not answer, or it will show.
    Unknown,
    Lost(String),
}

impl LocalLease {
    pub(crate) fn new(api: Api<Lease>, caller: Caller, name: String, holder: String) -> Self {
        let (renewed, waits, elsewhere) =
            (watch::Sender::new(None), watch::Sender::new(false), watch::Sender::new(None));
        let timing = Timing { duration: DURATION, renewal: RENEWAL };
        let active = None;
        Self { api, caller, name, holder, node: None, timing, seen: None, renewed, waits, elsewhere, active }
    }

    /// Held by a process on this node.
    pub(crate) fn on(self, node: Option<String>) -> Self {
        Self { node, ..self }
    }

    /// With other times than the Lease of the replica that acts.
    pub(crate) fn timed(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Of the one that waits for another Lease, which is `active`'s.
    pub(crate) fn second_to(self, active: watch::Receiver<Option<Holder>>) -> Self {
        Self { active: Some(active), ..self }
    }

    /// Whoever else holds it, as [`Self::acquire`] sees it; `None` if that is not known.
    pub(crate) fn elsewhere(&self) -> watch::Receiver<Option<Holder>> {
        self.elsewhere.subscribe()
    }

    /// How others know whether it is held.
    pub(crate) fn watch(&self) -> LeaseWatch {
        LeaseWatch(self.renewed.subscribe())
    }

    /// Becomes true when [`Self::acquire`] finds that somebody else has it.
    pub(crate) fn waits(&self) -> watch::Receiver<bool> {
        self.waits.subscribe()
    }

    /// Waits until the lease is ours. Cancel by dropping.
    pub(crate) async fn acquire(&mut self) {
        let mut unchanged_since = Instant::now();
        let mut told = false;
        loop {
            let version = self.version();
            let wait = match self.read().await {
                Ok(()) if self.version() != version => {
                    unchanged_since = Instant::now();
                    self.try_take(Duration::ZERO).await
                }
                Ok(()) => self.try_take(unchanged_since.elapsed()).await,
                Err(error) => {
                    warn!(lease = self.name, %error, "cannot read the lease");
                    Some(self.timing.renewal)
                }
            };
            let Some(wait) = wait else {
                info!(lease = self.name, holder = self.holder, "lease taken");
                return;
            };
            if !told {
                info!(
                    lease = self.name,
                    holder = self.holder_seen(),
                    "another process serves this member; waiting"
                );
                told = true;
            }
            if !self.holder_seen().is_empty() {
                self.waits.send_replace(true);
                let node = self.seen.as_ref().and_then(node_of);
                let holder = Some(Holder { name: self.holder_seen().to_owned(), node });
                self.elsewhere.send_if_modified(|known| std::mem::replace(known, holder.clone()) != holder);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the lease if it is free; otherwise how long to wait before looking again.
    async fn try_take(&mut self, unchanged: Duration) -> Option<Duration> {
        let spec = self.seen.as_ref().and_then(|lease| lease.spec.as_ref());
        let unchanged = if self.is_worth_more() { Duration::MAX } else { unchanged };
        match decide(spec, &self.holder, unchanged, Timestamp::now()) {
            Decision::Wait(wait) => Some(wait),
            Decision::Take => match self.write(true).await {
                Ok(()) => None,
                Err(error) => {
                    debug!(lease = self.name, %error, "cannot take the lease");
                    Some(self.timing.renewal)
                }
            },
        }
    }

    /// Whether whoever holds the place of the one that waits leaves it to this process: it acts itself by now, or would be
    /// lost with the node of the one that acts, and this one would not.
    fn is_worth_more(&self) -> bool {
        let Some(active) = self.active.as_ref().and_then(|active| active.borrow().clone()) else {
            return false;
        };
        let held_on = self.seen.as_ref().and_then(node_of);
        let is_beside =
            |node: Option<&String>| node.is_none() || active.node.is_none() || node == active.node.as_ref();
        self.holder_seen() == active.name || (is_beside(held_on.as_ref()) && !is_beside(self.node.as_ref()))
    }

    async fn renew(&mut self) -> Renewal {
        let Err(error) = self.write(false).await else { return Renewal::Held };
        if !error.is_conflict() && !error.is_not_found() {
            return Renewal::Unknown;
        }
        if self.read().await.is_err() {
            return Renewal::Unknown;
        }
        match self.holder_seen() {
            holder if holder == self.holder || holder.is_empty() => match self.write(false).await {
                Ok(()) => Renewal::Held,
                Err(_) => Renewal::Unknown,
            },
            holder => Renewal::Lost(holder.to_owned()),
        }
    }

    /// Whether somebody else takes it within this time. Not known counts as not taken.
    pub(crate) async fn is_taken_within(&mut self, time: Duration) -> bool {
        let taken = async {
            loop {
                self.look().await;
                let holder = self.holder_seen();
                if !holder.is_empty() && holder != self.holder {
                    return;
                }
                tokio::time::sleep(RENEWAL / 2).await;
            }
        };
        tokio::time::timeout(time, taken).await.is_ok()
    }

    /// Reads it, so that it can be removed.
    pub(crate) async fn look(&mut self) {
        if let Err(error) = self.read().await {
            debug!(lease = self.name, %error, "cannot read the lease");
        }
    }

    /// Whether it was this process's when it was last looked at.
    pub(crate) fn is_ours(&self) -> bool {
        self.holder_seen() == self.holder
    }

    /// Lets others have it at once. Best effort: without it they wait until it runs out.
    pub(crate) async fn release(mut self) {
        let Some(mut lease) = self.seen.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let replace = async { self.api.replace(&self.name, &PostParams::default(), &lease).await };
        if let Err(error) = self.caller.call_within(RENEWAL_TIMEOUT, Verb::Update, replace).await {
            debug!(lease = self.name, %error, "lease not released; it runs out");
        }
    }

    /// Removes it: the member is no more. Best effort; one that is not ours, or was taken since the last renewal,
    /// stays.
    pub(crate) async fn remove(mut self) {
        let Some(Lease { metadata, .. }) = self.seen.take() else { return };
        let preconditions = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
        let params = DeleteParams::background().preconditions(preconditions);
        let delete = async { self.api.delete(&self.name, &params).await };
        if let Err(error) = self.caller.call_within(RENEWAL_TIMEOUT, Verb::Delete, delete).await {
            debug!(lease = self.name, %error, "lease not removed");
        }
    }

    /// Renews for as long as it runs, and says through `lost` who took the lease if somebody did. Returns the
    /// lease when `stop` is dropped or set, so that it can be released.
    pub(crate) async fn keep(
        mut self,
        lost: watch::Sender<Option<String>>,
        stop: tokio_util::sync::CancellationToken,
    ) -> Self {
        let mut due = tokio::time::interval(self.timing.renewal);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => return self,
            }
            // Not cancelled in the middle: what was written must be known for the release.
            match self.renew().await {
                Renewal::Held => {}
                Renewal::Unknown => debug!(lease = self.name, "lease not renewed; going on"),
                Renewal::Lost(holder) => {
                    self.renewed.send_replace(None);
                    warn!(lease = self.name, holder, "another process took this member's lease");
                    lost.send_replace(Some(holder));
                    stop.cancelled().await;
                    // Not ours any more: nothing to release.
                    self.seen = None;
                    return self;
                }
            }
        }
    }

    fn version(&self) -> Option<String> {
        self.seen.as_ref().and_then(|lease| lease.metadata.resource_version.clone())
    }

    fn holder_seen(&self) -> &str {
        let spec = self.seen.as_ref().and_then(|lease| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    async fn read(&mut self) -> Result<(), CallError> {
        let get = async { self.api.get_opt(&self.name).await };
        self.seen = self.caller.call_within(RENEWAL_TIMEOUT, Verb::Get, get).await?;
        Ok(())
    }

    /// Writes our name and the time. The resource version of what was seen guards against writing over others.
    async fn write(&mut self, acquired: bool) -> Result<(), CallError> {
        let begun = flagship_node::boot_now();
        let now = MicroTime(Timestamp::now());
        let mut lease = self.seen.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_default();
        let taken_over = spec.holder_identity.as_deref() != Some(&self.holder);
        if acquired && taken_over {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.holder.clone());
        spec.lease_duration_seconds = i32::try_from(self.timing.duration.as_secs()).ok();
        spec.renew_time = Some(now);
        let annotations = lease.metadata.annotations.get_or_insert_default();
        match &self.node {
            Some(node) => annotations.insert(NODE_ANNOTATION.into(), node.clone()),
            None => annotations.remove(NODE_ANNOTATION),
        };
        let params = PostParams::default();
        let written = if self.seen.is_some() {
            let replace = async { self.api.replace(&self.name, &params, &lease).await };
            self.caller.call_within(RENEWAL_TIMEOUT, Verb::Update, replace).await
        } else {
            let create = async { self.api.create(&params, &lease).await };
            self.caller.call_within(RENEWAL_TIMEOUT, Verb::Create, create).await
        };
        match written {
            Ok(lease) => {
                self.seen = Some(lease);
                self.renewed.send_replace(Some(begun));
                Ok(())
            }
            Err(error) => {
                if error.is_not_found() {
                    self.seen = None;
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
pub(crate) mod tests;
