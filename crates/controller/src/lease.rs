//! The local Lease: of all processes that serve one member in this cluster, one holds it and acts.
//!
//! It protects against a second replica, not against a paused process: that is what terms and permits are for.

use std::time::Duration;

use flagship_k8s_api::{LOCAL_LEASE, LOCAL_LEASE_POLL};
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

/// How long a lease that is not renewed keeps others out, in seconds as the Lease object has it.
const DURATION_SECONDS: i32 = 2;
/// The same.
const DURATION: Duration = LOCAL_LEASE;
/// How often it is renewed: three renewals may be lost.
const RENEWAL: Duration = LOCAL_LEASE_POLL;
/// A renewal that takes longer is given up and tried again.
const RENEWAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// A lease whose renewal is this old by the wall clock is not observed first: no two clocks in one cluster are
/// that far apart and still get certificates and tokens accepted.
const LONG_EXPIRED: Duration = Duration::from_secs(60);
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
    /// The Lease as last read or written.
    seen: Option<Lease>,
    /// When the last write that succeeded was begun.
    renewed: watch::Sender<Option<BootInstant>>,
    /// It was somebody else's when it was looked at.
    waits: watch::Sender<bool>,
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

    /// Of a Lease whose renewals the test tells.
    #[cfg(test)]
    pub(crate) fn of(renewed: &watch::Sender<Option<BootInstant>>) -> Self {
        Self(renewed.subscribe())
    }
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
        let (renewed, waits) = (watch::Sender::new(None), watch::Sender::new(false));
        Self { api, caller, name, holder, seen: None, renewed, waits }
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
                    Some(RENEWAL)
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
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the lease if it is free; otherwise how long to wait before looking again.
    async fn try_take(&mut self, unchanged: Duration) -> Option<Duration> {
        let spec = self.seen.as_ref().and_then(|lease| lease.spec.as_ref());
        match decide(spec, &self.holder, unchanged, Timestamp::now()) {
            Decision::Wait(wait) => Some(wait),
            Decision::Take => match self.write(true).await {
                Ok(()) => None,
                Err(error) => {
                    debug!(lease = self.name, %error, "cannot take the lease");
                    Some(RENEWAL)
                }
            },
        }
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
        let mut due = tokio::time::interval(RENEWAL);
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
        spec.lease_duration_seconds = Some(DURATION_SECONDS);
        spec.renew_time = Some(now);
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
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::fixtures::{api_server, refusal};
    use crate::ports::NoObserver;

    fn held_by(holder: &str, renewed_ago: Duration) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(2),
            renew_time: Some(MicroTime(Timestamp::now() - renewed_ago)),
            ..Default::default()
        }
    }

    #[test]
    fn the_lease_object_says_what_the_settings_are_checked_against() {
        assert_eq!(u64::try_from(DURATION_SECONDS).unwrap(), DURATION.as_secs());
        assert_eq!(DURATION.subsec_nanos(), 0);
    }

    #[test]
    fn a_restarted_process_retakes_its_own_lease_at_once() {
        let spec = held_by("pod-1", Duration::from_millis(100));
        assert_eq!(decide(Some(&spec), "pod-1", Duration::ZERO, Timestamp::now()), Decision::Take);
        assert_eq!(decide(None, "pod-1", Duration::ZERO, Timestamp::now()), Decision::Take);
        let free = held_by("", Duration::from_millis(100));
        assert_eq!(decide(Some(&free), "pod-1", Duration::ZERO, Timestamp::now()), Decision::Take);
    }

    #[test]
    fn a_live_holder_is_waited_for_and_a_dead_one_replaced() {
        let spec = held_by("pod-2", Duration::from_millis(100));
        let now = Timestamp::now();
        assert!(matches!(decide(Some(&spec), "pod-1", Duration::ZERO, now), Decision::Wait(_)));
        assert!(matches!(decide(Some(&spec), "pod-1", Duration::from_millis(1900), now), Decision::Wait(_)));
        assert_eq!(decide(Some(&spec), "pod-1", Duration::from_secs(2), now), Decision::Take);
    }

    #[test]
    fn clocks_apart_by_seconds_do_not_steal_a_lease() {
        let behind = held_by("pod-2", Duration::from_secs(20));
        assert!(matches!(
            decide(Some(&behind), "pod-1", Duration::ZERO, Timestamp::now()),
            Decision::Wait(_)
        ));
        let ancient = held_by("pod-2", Duration::from_secs(3600));
        assert_eq!(decide(Some(&ancient), "pod-1", Duration::ZERO, Timestamp::now()), Decision::Take);
    }

    /// A Lease on a fake API server that keeps versions.
    fn lease_server(lease: &Arc<Mutex<(u64, Value)>>) -> kube::Client {
        let lease = Arc::clone(lease);
        api_server(move |method, _, body| {
            let mut lease = lease.lock().unwrap();
            if method == "GET" {
                return if lease.1.is_null() { refusal(404, "NotFound") } else { (200, lease.1.clone()) };
            }
            if method == "DELETE" {
                let version = &body["preconditions"]["resourceVersion"];
                if !version.is_null() && *version != json!(lease.0.to_string()) {
                    return refusal(409, "Conflict");
                }
                lease.1 = Value::Null;
                return (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
            }
            if method == "PUT" && body["metadata"]["resourceVersion"] != json!(lease.0.to_string()) {
                return refusal(409, "Conflict");
            }
            lease.0 += 1;
            lease.1 = body;
            lease.1["metadata"]["resourceVersion"] = json!(lease.0.to_string());
            (200, lease.1.clone())
        })
    }

    fn take(lease: &Arc<Mutex<(u64, Value)>>, holder: &str) {
        let mut lease = lease.lock().unwrap();
        lease.0 += 1;
        let version = json!(lease.0.to_string());
        lease.1["metadata"]["resourceVersion"] = version;
        lease.1["spec"]["holderIdentity"] = json!(holder);
    }

    fn local(client: kube::Client, holder: &str) -> LocalLease {
        let caller = Caller::new(Arc::new(NoObserver));
        LocalLease::new(Api::namespaced(client, "default"), caller, "l".into(), holder.into())
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_the_other_waits_and_takes_over() {
        let lease = Arc::new(Mutex::new((0, Value::Null)));
        let client = lease_server(&lease);
        let (mut one, mut two) = (local(client.clone(), "one"), local(client, "two"));
        one.acquire().await;
        let (lost_out, mut lost) = watch::channel(None);
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(one.keep(lost_out, stop.clone()));
        let waits = tokio::time::timeout(Duration::from_secs(20), two.acquire()).await;
        assert!(waits.is_err(), "a lease that is renewed is not taken");
        // Somebody takes it by force: the holder notices at its next renewal, and writes no more.
        take(&lease, "three");
        lost.wait_for(|holder| holder.as_deref() == Some("three")).await.unwrap();
        stop.cancel();
        keeper.await.unwrap().release().await;
        assert_eq!(lease.lock().unwrap().1["spec"]["holderIdentity"], "three", "not ours to release");
    }

    #[tokio::test]
    async fn a_lease_that_was_not_renewed_in_time_may_be_anothers() {
        let lease = Arc::new(Mutex::new((0, Value::Null)));
        let mut one = local(lease_server(&lease), "one");
        let watch = one.watch();
        assert_eq!(watch.held_until(), None, "never taken");
        one.acquire().await;
        assert!(watch.held_until().unwrap() <= flagship_node::boot_now() + DURATION);
        let later = flagship_node::boot_now() + DURATION;
        assert_eq!(watch.held_at(later), None, "it may have been taken since");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(matches!(one.renew().await, Renewal::Held));
        assert!(watch.held_at(later).is_some());
        drop(one);
        assert_eq!(watch.held_until(), None, "given up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_another_process_is_not_removed() {
        let lease = Arc::new(Mutex::new((0, Value::Null)));
        let client = lease_server(&lease);
        let mut one = local(client.clone(), "one");
        one.acquire().await;
        // Taken since the last renewal, and nobody told us: the version protects it.
        take(&lease, "two");
        one.remove().await;
        assert_eq!(lease.lock().unwrap().1["spec"]["holderIdentity"], "two");
        // Known to be lost, then removed.
        let mut one = local(client, "two");
        one.acquire().await;
        take(&lease, "three");
        let (lost_out, mut lost) = watch::channel(None);
        let stop = CancellationToken::new();
        let fresh = one.watch();
        let keeper = tokio::spawn(one.keep(lost_out, stop.clone()));
        lost.wait_for(Option::is_some).await.unwrap();
        assert_eq!(fresh.held_until(), None, "writes end with the lease");
        stop.cancel();
        keeper.await.unwrap().remove().await;
        assert_eq!(lease.lock().unwrap().1["spec"]["holderIdentity"], "three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_free_at_once() {
        let lease = Arc::new(Mutex::new((0, Value::Null)));
        let client = lease_server(&lease);
        let (mut one, mut two) = (local(client.clone(), "one"), local(client, "two"));
        one.acquire().await;
        one.release().await;
        let begin = Instant::now();
        two.acquire().await;
        assert!(begin.elapsed() < Duration::from_millis(10));
        assert_eq!(lease.lock().unwrap().1["spec"]["holderIdentity"], "two");
    }
}
