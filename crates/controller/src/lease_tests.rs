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
    assert_eq!(DURATION.subsec_nanos(), 0, "a Lease has whole seconds");
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
    assert!(matches!(decide(Some(&behind), "pod-1", Duration::ZERO, Timestamp::now()), Decision::Wait(_)));
    let ancient = held_by("pod-2", Duration::from_secs(3600));
    assert_eq!(decide(Some(&ancient), "pod-1", Duration::ZERO, Timestamp::now()), Decision::Take);
}

/// A Lease on a fake API server that keeps versions.
pub(crate) fn lease_server(lease: &Arc<Mutex<(u64, Value)>>) -> kube::Client {
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
    assert_eq!(watch.votes_until(), watch.held_until().unwrap());
    let mut voting = one.watch();
    let renewed = voting.votes_until();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(matches!(one.renew().await, Renewal::Held));
    assert!(voting.next_votes_until().await.unwrap() > renewed, "a vote lasts as long as the Lease");
    one.renewed.send_replace(None);
    assert_eq!(voting.next_votes_until().await, Some(BootInstant::ZERO), "another process votes");
    drop(one);
    assert_eq!((watch.held_until(), watch.votes_until()), (None, BootInstant::ZERO), "given up");
    assert_eq!(voting.next_votes_until().await, None);
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
