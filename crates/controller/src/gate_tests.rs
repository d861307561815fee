use std::sync::{Arc, Mutex as StdMutex};

use flagship_k8s_api::{MultiCluster, ObjectState};
use flagship_node::Denied as NodeDenied;
use flagship_payload::{Entry, ObjectId, Progress};
use kube::Api;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::fixtures::{api_server, refusal};
use crate::ports::NoObserver;
use crate::request::Caller;
use crate::status_writer::StatusWriter;

/// What happened, in order; shared by the node and the API server.
type Log = Arc<StdMutex<Vec<String>>>;

/// A node that holds one permit, as the election gives it.
struct FakeNode {
    log: Log,
    /// Leading (`true`) or deleting under a term.
    holds: (bool, Term),
}

#[async_trait::async_trait]
impl Leadership for FakeNode {
    async fn permit(&self, purpose: flagship_node::Purpose) -> Result<WritePermit, NodeDenied> {
        let deletes = purpose == flagship_node::Purpose::Delete;
        self.log.lock().unwrap().push(format!("asked {purpose:?}"));
        match deletes == self.holds.0 {
            true => Err(NodeDenied::Leading),
            false => {
                let not_after = flagship_node::boot_now() + WritePermit::VALIDITY;
                Ok(WritePermit { term: self.holds.1, not_after })
            }
        }
    }
}

#[async_trait::async_trait]
impl Node for FakeNode {
    async fn deletion_begins(&self, term: Term) {
        self.log.lock().unwrap().push(format!("deletion of {term} begins"));
    }
}

struct Bench {
    log: Log,
    tracker: Tracker,
    overtaken: CancellationToken,
    down: Arc<AtomicBool>,
    /// Another process wrote the status.
    taken: Arc<AtomicBool>,
    /// The API server takes requests and does not answer.
    mute: Arc<AtomicBool>,
    status: StatusHandle,
    renewed: watch::Sender<Option<Instant>>,
}

impl Bench {
    /// A process that began, and then another one of the same member did.
    async fn taken_over() -> Self {
        let bench = Self::new().await;
        bench.status.begin().await.unwrap();
        bench.taken.store(true, Ordering::Relaxed);
        bench.log();
        bench
    }

    /// A worker whose payload is one Deployment, over an API server that logs the names in each inventory it stores.
    async fn new() -> Self {
        let (log, down) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let taken = Arc::new(AtomicBool::new(false));
        let (logged, is_down, is_taken) = (Arc::clone(&log), Arc::clone(&down), Arc::clone(&taken));
        let client = api_server(move |method, _, body| {
            if is_down.load(Ordering::Relaxed) {
                return refusal(503, "ServiceUnavailable");
            }
            if is_taken.load(Ordering::Relaxed) {
                return match method {
                    "PATCH" => refusal(409, "Conflict"),
                    _ => (200, object(&[], 8, "pod-2")),
                };
            }
            let inventory = body["status"]["inventory"].as_array().cloned();
            if method == "PATCH" {
                let entries = inventory.clone().unwrap_or_default();
                let names: Vec<_> = entries.iter().filter_map(|entry| entry["name"].as_str()).collect();
                logged.lock().unwrap().push(format!("stored {}", names.join(" ")));
            }
            (200, object(&inventory.unwrap_or_default(), 7, "pod-1"))
        });
        let mute = Arc::new(AtomicBool::new(false));
        let is_mute = Arc::clone(&mute);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (answers, is_mute) = (client.clone(), Arc::clone(&is_mute));
            async move {
                if is_mute.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                answers.send(request).await
            }
        });
        let api: Api<MultiCluster> = Api::namespaced(kube::Client::new(service, "default"), "default");
        let caller = Caller::new(Arc::new(NoObserver));
        let (status, _) = StatusWriter::open(api, caller, "newyork", "u-1", "pod-1").await.unwrap();
        let bench = Self {
            log,
            tracker: Tracker::new(Progress::default()),
            overtaken: CancellationToken::new(),
            down,
            taken,
            mute,
            status,
            renewed: watch::Sender::new(Some(flagship_node::boot_now())),
        };
        bench.know("Deployment", "web");
        bench
    }

    fn know(&self, kind: &str, name: &str) {
        let id = ObjectId {
            group: "apps".into(),
            kind: kind.into(),
            namespace: "default".into(),
            name: name.into(),
        };
        let (version, uid) = ("v1".into(), format!("uid of {name}"));
        let entry = Entry { version, uid, generation: 0, state: ObjectState::Deleting };
        self.tracker.send_modify(|progress| progress.inventory.insert(id, entry));
    }

    fn gate(&self, leads: bool, term: u64) -> NodeGate<FakeNode> {
        let node = FakeNode { log: Arc::clone(&self.log), holds: (leads, Term(term)) };
        let (lease, tracker) = (LeaseWatch::of(&self.renewed), self.tracker.clone());
        NodeGate::new(node, lease, tracker, self.status.clone(), self.overtaken.clone())
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

fn object(inventory: &[Value], epoch: i64, holder: &str) -> Value {
    json!({
        "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
        "metadata": {"name": "newyork", "namespace": "default", "uid": "u-1", "resourceVersion": "1"},
        "spec": {"port": 9990, "callsign": "federation"}, "status": {"inventory": inventory, "epoch": epoch, "holder": holder},
    })
}

#[tokio::test]
async fn a_leader_prunes_and_never_deletes() {
    let bench = Bench::new().await;
    let gate = bench.gate(true, 5).stopping(Term(5));
    assert!(gate.permit(Purpose::Prune).await.is_ok());
    assert!(gate.permit(Purpose::Apply).await.is_ok());
    assert!(matches!(gate.permit(Purpose::Delete).await, Err(Denied::Refused(_))));
    let asked = bench.log().into_iter().filter(|line| line.starts_with("asked")).collect::<Vec<_>>();
    assert_eq!(asked, ["asked Prune", "asked Apply", "asked Delete"]);
}

#[tokio::test]
async fn a_stop_deletes_under_its_own_term_only() {
    let bench = Bench::new().await;
    let gate = bench.gate(false, 6).stopping(Term(5));
    let other = Denied::OtherTerm { work: Term(5), permit: Term(6) };
    assert_eq!(gate.permit(Purpose::Delete).await, Err(other));
    assert!(bench.gate(false, 6).permit(Purpose::Delete).await.is_ok(), "leftovers are of no term");
    assert!(bench.gate(false, 5).stopping(Term(5)).permit(Purpose::Delete).await.is_ok());
}

#[tokio::test]
async fn an_overtaken_stop_does_not_even_ask() {
    let bench = Bench::new().await;
    let gate = bench.gate(false, 5).stopping(Term(5));
    bench.overtaken.cancel();
    for purpose in [Purpose::Delete, Purpose::Apply, Purpose::Prune] {
        assert!(gate.permit(purpose).await.is_err());
    }
    assert_eq!(bench.log(), [""; 0]);
}

#[tokio::test]
async fn the_chain_is_durable_before_the_first_delete() {
    let bench = Bench::new().await;
    let gate = bench.gate(false, 5).stopping(Term(5));
    bench.know("ReplicaSet", "web-1");
    gate.permit(Purpose::Delete).await.unwrap();
    assert_eq!(bench.log(), ["stored web web-1", "deletion of 5 begins", "asked Delete"]);
    gate.permit(Purpose::Delete).await.unwrap();
    assert_eq!(bench.log(), ["asked Delete"], "once is enough");
    bench.know("ReplicaSet", "web-2");
    gate.permit(Purpose::Delete).await.unwrap();
    assert_eq!(bench.log(), ["stored web web-1 web-2", "asked Delete"], "it came up meanwhile");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_deleted() {
    let bench = Bench::new().await;
    let gate = bench.gate(false, 5).stopping(Term(5));
    bench.down.store(true, Ordering::Relaxed);
    assert!(matches!(gate.permit(Purpose::Delete).await, Err(Denied::Refused(_))));
    assert_eq!(bench.log(), [""; 0], "not even begun: the handover may still be called off");
    bench.down.store(false, Ordering::Relaxed);
    gate.permit(Purpose::Delete).await.unwrap();
    assert_eq!(bench.log(), ["stored web", "deletion of 5 begins", "asked Delete"]);
}

/// What a stop that cannot wait asks first.
fn hurried(bench: &Bench) -> [Box<dyn Gate>; 2] {
    let unleased =
        UnleasedGate::new(LeaseWatch::of(&bench.renewed), bench.tracker.clone(), bench.status.clone());
    [Box::new(bench.gate(false, 5).stopping(Term(5)).hurried(true)), Box::new(unleased)]
}

#[tokio::test]
async fn what_has_to_end_at_once_does_not_wait_for_a_record_that_is_refused() {
    let bench = Bench::new().await;
    bench.down.store(true, Ordering::Relaxed);
    for gate in hurried(&bench) {
        assert!(gate.permit(Purpose::Delete).await.is_ok());
    }
    assert_eq!(bench.log(), ["deletion of 5 begins", "asked Delete"]);
    // If it can be recorded, it is.
    bench.down.store(false, Ordering::Relaxed);
    for gate in hurried(&bench) {
        gate.permit(Purpose::Delete).await.unwrap();
    }
    assert_eq!(bench.log(), ["stored web", "deletion of 5 begins", "asked Delete"], "the status has it then");
    assert!(bench.gate(false, 5).hurried(true).permit(Purpose::Apply).await.is_err());
}

#[tokio::test]
async fn what_another_process_serves_is_left_to_it() {
    // Also what has to end at once: that one may have had the lead confirmed.
    let bench = Bench::taken_over().await;
    for gate in hurried(&bench) {
        let denied = gate.permit(Purpose::Delete).await;
        assert!(matches!(&denied, Err(Denied::Refused(why)) if why.contains("pod-2")), "{denied:?}");
    }
    assert_eq!(bench.log(), [""; 0], "nothing began");
}

#[tokio::test]
async fn what_has_to_end_at_once_waits_half_a_second_for_a_record_that_hangs() {
    let bench = Bench::new().await;
    bench.mute.store(true, Ordering::Relaxed);
    for gate in hurried(&bench) {
        let begin = std::time::Instant::now();
        assert!(gate.permit(Purpose::Delete).await.is_ok());
        assert!(begin.elapsed() >= HURRIED_RECORD, "it may yet be answered");
        gate.permit(Purpose::Delete).await.unwrap();
        assert!(begin.elapsed() < HURRIED_RECORD * 2, "only once: {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn what_is_being_deleted_may_only_be_deleted() {
    let renewed = watch::Sender::new(Some(flagship_node::boot_now()));
    let gate = RemovalGate(LeaseWatch::of(&renewed));
    assert!(gate.permit(Purpose::Delete).await.is_ok());
    assert!(gate.permit(Purpose::Apply).await.is_err());
    assert!(gate.permit(Purpose::Prune).await.is_err());
    renewed.send_replace(None);
    assert!(gate.permit(Purpose::Delete).await.is_err(), "another replica removes it");
}

/// The process lost its way to the API server, a replica took the Lease, and the way is back.
#[tokio::test]
async fn nothing_is_written_while_another_process_may_have_the_lease() {
    let bench = Bench::new().await;
    let gate = bench.gate(true, 5);
    let begun = flagship_node::boot_now();
    let permit = gate.permit(Purpose::Apply).await.unwrap();
    assert!(permit.not_after <= begun + WritePermit::VALIDITY + Duration::from_secs(1));
    // Renewed long ago: the permit ends with the lease.
    let ago = flagship_node::boot_now() - Duration::from_millis(1700);
    bench.renewed.send_replace(Some(ago));
    let permit = gate.permit(Purpose::Apply).await.unwrap();
    assert!(permit.not_after <= ago + Duration::from_secs(2));
    bench.renewed.send_replace(Some(ago - Duration::from_millis(400)));
    bench.log();
    assert!(gate.permit(Purpose::Apply).await.is_err());
    assert!(bench.gate(false, 5).stopping(Term(5)).permit(Purpose::Delete).await.is_err());
    assert!(bench.log().is_empty(), "the node is not told of a deletion that cannot begin");
}
