use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{api_server, context, refusal};
use crate::ports::{JoinError, Joined, MemberStart};

/// What a worker asked its joiner for.
#[derive(Default)]
struct Asked {
    /// The ports where it waited, in order.
    waited: Vec<u16>,
    /// Where it answers now.
    answering: Option<u16>,
    /// Where it answered at each attempt to join.
    joined: Vec<Option<u16>>,
    /// Until when each node might vote.
    votes: Vec<Option<flagship_types::Instant>>,
    refuses: Option<JoinError>,
}

#[derive(Clone, Default)]
struct FakeJoiner(Arc<Mutex<Asked>>);

/// Stops answering when dropped.
struct Answer(Arc<Mutex<Asked>>);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.lock().unwrap().answering = None;
    }
}

#[async_trait::async_trait]
impl Joiner for FakeJoiner {
    async fn join(&self, start: MemberStart) -> Result<Joined, JoinError> {
        let mut asked = self.0.lock().unwrap();
        asked.votes.push(start.machine.votes_until);
        let answering = asked.answering;
        asked.joined.push(answering);
        Err(JoinError::Listen("not in this test".into()))
    }

    async fn wait_at(&self, place: Probe) -> Result<Waiting, JoinError> {
        let mut asked = self.0.lock().unwrap();
        assert_eq!(asked.answering, None, "the old place is given up first");
        asked.waited.push(place.port);
        if let Some(error) = &asked.refuses {
            return Err(error.clone());
        }
        asked.answering = Some(place.port);
        Ok(Waiting::new(Answer(Arc::clone(&self.0))))
    }

    async fn probe(&self, _: Probe) -> Result<(), JoinError> {
        Ok(())
    }
}

fn object(port: i32) -> Value {
    json!({
        "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
        "metadata": {
            "name": "newyork", "namespace": "default", "uid": "u-1", "resourceVersion": "1", "generation": port,
            "finalizers": [flagship_k8s_api::FINALIZER],
        },
        "spec": {"port": port, "callsign": "federation"}, "status": {},
    })
}

fn read(object: Value) -> Arc<MultiCluster> {
    Arc::new(serde_json::from_value(object).unwrap())
}

/// A worker over an API server with one object and its Lease, which `holder` has.
struct Bench {
    joiner: FakeJoiner,
    edit: watch::Sender<Arc<MultiCluster>>,
    lease: Arc<Mutex<Value>>,
    /// How often somebody looked at the place of the one that waits.
    places: Arc<AtomicUsize>,
    gone: CancellationToken,
    worker: Worker,
}

/// A write by somebody.
fn bump(lease: &mut Value) {
    let version: u64 = lease["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    lease["metadata"]["resourceVersion"] = json!((version + 1).to_string());
}

fn bench(holder: &str) -> Bench {
    let lease = Arc::new(Mutex::new(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l", "namespace": "default", "resourceVersion": "1"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 2},
    })));
    let (stored, places) = (Arc::clone(&lease), Arc::new(AtomicUsize::new(0)));
    let looks = Arc::clone(&places);
    let client = api_server(move |method, path, body| {
        let mut lease = stored.lock().unwrap();
        match method {
            _ if path.contains("/multiclusters/newyork") => (200, object(9990)),
            _ if path == "/api" => (200, json!({"kind": "APIVersions", "versions": []})),
            _ if path == "/apis" => (200, json!({"kind": "APIGroupList", "groups": []})),
            // The place of the one that waits is never to be had.
            _ if path.ends_with(&second_lease_name("default", "newyork")) => {
                looks.fetch_add(1, Ordering::Relaxed);
                refusal(403, "Forbidden")
            }
            "GET" if path.contains("/leases/") => {
                if lease["spec"]["holderIdentity"] != json!("pod-1") {
                    // Another holder renews it all the time.
                    bump(&mut lease);
                }
                (200, lease.clone())
            }
            "PUT" if path.contains("/leases/") => {
                if body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] {
                    return refusal(409, "Conflict");
                }
                *lease = body;
                bump(&mut lease);
                (200, lease.clone())
            }
            _ => refusal(404, "NotFound"),
        }
    });
    let joiner = FakeJoiner::default();
    let (edit, seen) = watch::channel(read(object(9990)));
    let context = context(client, Arc::new(joiner.clone()));
    let identity = Identity::of(&seen.borrow()).unwrap();
    let gone = CancellationToken::new();
    let worker = Worker { context: Arc::new(context), identity, object: seen, gone: gone.clone() };
    Bench { joiner, edit, lease, places, gone, worker }
}

async fn until(joiner: &FakeJoiner, wanted: impl Fn(&Asked) -> bool) {
    let wait = async {
        while !wanted(&joiner.0.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time");
}

#[tokio::test(start_paused = true)]
async fn a_replica_answers_while_it_waits_and_until_it_has_joined() {
    let Bench { joiner, edit, lease, gone, worker, .. } = bench("pod-2");
    let running = tokio::spawn(worker.run());
    until(&joiner, |asked| asked.answering == Some(9990)).await;
    // What the other one writes into the status is no reason to do anything.
    edit.send_modify(|object| Arc::make_mut(object).metadata.resource_version = Some("2".into()));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(joiner.0.lock().unwrap().waited, [9990]);
    edit.send_replace(read(object(8080)));
    until(&joiner, |asked| asked.answering == Some(8080)).await;
    assert!(joiner.0.lock().unwrap().joined.is_empty(), "it waits");

    lease.lock().unwrap()["spec"]["holderIdentity"] = json!("");
    until(&joiner, |asked| !asked.joined.is_empty()).await;
    assert_eq!(joiner.0.lock().unwrap().joined, [Some(8080)], "without a gap");
    // This one cannot join: whoever dials again would dial in vain.
    until(&joiner, |asked| asked.answering.is_none()).await;

    // Another one takes the Lease: it waits again, and answers.
    lease.lock().unwrap()["spec"]["holderIdentity"] = json!("pod-3");
    bump(&mut lease.lock().unwrap());
    until(&joiner, |asked| asked.answering == Some(8080)).await;
    gone.cancel();
    running.await.unwrap();
    assert_eq!(joiner.0.lock().unwrap().answering, None);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_finds_the_lease_free_does_not_answer_first() {
    let Bench { joiner, edit: _edit, lease: _lease, gone, worker, .. } = bench("");
    let running = tokio::spawn(worker.run());
    until(&joiner, |asked| !asked.joined.is_empty()).await;
    let seen = {
        let asked = joiner.0.lock().unwrap();
        (asked.waited.len(), asked.joined[0])
    };
    assert_eq!(seen, (0, None));
    let votes = joiner.0.lock().unwrap().votes[0].expect("a vote is bound to the Lease");
    let now = flagship_node::boot_now();
    assert!(votes > now && votes <= now + flagship_k8s_api::LOCAL_LEASE, "{votes:?} at {now:?}");
    gone.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn certificates_are_looked_for_again_and_a_taken_port_is_left_alone() {
    let Bench { joiner, edit: _edit, lease: _lease, gone, worker, .. } = bench("pod-2");
    joiner.0.lock().unwrap().refuses = Some(JoinError::NoCertificate("none".into()));
    let running = tokio::spawn(worker.run());
    until(&joiner, |asked| asked.waited.len() == 3).await;
    joiner.0.lock().unwrap().refuses = None;
    until(&joiner, |asked| asked.answering == Some(9990)).await;
    gone.cancel();
    running.await.unwrap();

    let Bench { joiner, edit: _edit, lease: _lease, gone, worker, .. } = bench("pod-2");
    joiner.0.lock().unwrap().refuses = Some(JoinError::Listen("taken".into()));
    let running = tokio::spawn(worker.run());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(joiner.0.lock().unwrap().waited.len(), 1);
    gone.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiting_replica_that_ends_looks_whether_it_has_a_place_to_leave() {
    let Bench { joiner, edit: _edit, lease: _lease, places, worker, .. } = bench("pod-2");
    let shutdown = worker.context.shutdown.clone();
    let running = tokio::spawn(worker.run());
    until(&joiner, |asked| asked.answering.is_some()).await;
    let before = places.load(Ordering::Relaxed);
    shutdown.cancel();
    running.await.unwrap();
    assert!(
        places.load(Ordering::Relaxed) > before,
        "the next one that waits would not be seen until it runs out"
    );
}
