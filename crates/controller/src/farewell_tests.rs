use std::sync::{Arc, Mutex};
use std::time::Duration;

use flagship_node::{LinkEvent, LinkId, Links, LocalHello, PeerHello, PeerMessage};
use flagship_types::{CloseCode, Epoch, PeerAddress, Term, Verified};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::fixtures::{api_server, context, refusal, unsigned};
use crate::ports::{JoinError, Joined, Joiner, MemberStart, Probe, Waiting};
use crate::unleased::tests::{Refuses, Server, bench};
use crate::worker::Worker;

/// Starts nodes; sheffield is linked to each from the start. Remembers what is sent to it.
#[derive(Clone, Default)]
struct WithSheffield {
    sent: Arc<Mutex<Vec<PeerMessage>>>,
    links: Arc<Mutex<Vec<mpsc::Sender<LinkEvent>>>>,
}

impl Links for WithSheffield {
    fn connect(&self, _: &PeerAddress) {}
    fn send(&self, _: LinkId, message: PeerMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn close(&self, _: LinkId, _: CloseCode) {}
    fn set_hello(&self, _: LocalHello) {}
}

#[async_trait::async_trait]
impl Joiner for WithSheffield {
    async fn join(&self, start: MemberStart) -> Result<Joined, JoinError> {
        let (links, link_events) = mpsc::channel(8);
        let epoch = Epoch(flagship_node::wall_ms());
        let member = "sheffield".parse().unwrap();
        let hello = PeerHello { member, epoch, address: None, view_hash: 0, protocol: 2 };
        let hello = Verified::first_hand(hello);
        links.send(LinkEvent::Up { link: LinkId(1), hello, dialled: None }).await.unwrap();
        self.links.lock().unwrap().push(links);
        let this = Arc::new(self.clone());
        let (node, events, ended) =
            flagship_node::spawn(start.machine, this, Arc::new(unsigned), link_events, start.store);
        Ok(Joined { node, events, ended })
    }

    async fn wait_at(&self, _: Probe) -> Result<Waiting, JoinError> {
        Err(JoinError::Listen("not in this test".into()))
    }

    async fn probe(&self, _: Probe) -> Result<(), JoinError> {
        Ok(())
    }
}

impl WithSheffield {
    /// The terms that were released.
    fn released(&self) -> Vec<Term> {
        let sent = self.sent.lock().unwrap();
        let term = |message: &PeerMessage| match message {
            PeerMessage::Election(flagship_node::ElectionMessage::Release { term, .. }) => Some(*term),
            _ => None,
        };
        sent.iter().filter_map(term).collect()
    }
}

/// A daemon that ends in mode Quorum, whose Lease nobody took.
async fn farewell(server: &Server, stop: bool) -> (WithSheffield, Result<(), RunsAgain>) {
    let joiner = WithSheffield::default();
    let mut bench = bench(server).await;
    bench.tenure.context = Arc::new(context(server.client(), Arc::new(joiner.clone())));
    bench.tenure.context.shutdown.cancel();
    if stop {
        bench.tenure.stop_unleased("the test says so").await.unwrap();
    }
    let lost = watch::Sender::new(None);
    let released = bench.tenure.release_lead(lost.subscribe()).await;
    (joiner, released)
}

#[tokio::test]
async fn the_lead_of_a_payload_that_was_stopped_without_a_node_is_released() {
    let server = Server::after_a_lead("Quorum");
    let (joiner, _) = farewell(&server, true).await;
    let released = joiner.released();
    assert!(!released.is_empty() && released.iter().all(|term| *term == Term(7)), "{released:?}");
    let status = server.status.lock().unwrap().clone();
    assert_eq!(
        (&status["heldTerm"], &status["stopping"]),
        (&Value::Null, &Value::Null),
        "and that is stored"
    );
}

#[tokio::test]
async fn nothing_is_released_while_the_payload_is_there_or_without_a_lead() {
    let server = Server::after_a_lead("Quorum");
    let (joiner, released) = farewell(&server, false).await;
    assert_eq!(released, Err(RunsAgain), "it has to be stopped again");
    assert!(server.runs() && joiner.links.lock().unwrap().is_empty(), "a node would have to lead it");
    assert_eq!(server.status.lock().unwrap()["heldTerm"], json!(7));

    let server = Server::after_a_lead("Quorum");
    server.status.lock().unwrap()["heldTerm"] = Value::Null;
    let (joiner, _) = farewell(&server, true).await;
    assert!(joiner.links.lock().unwrap().is_empty(), "there is nothing to say");
}

/// The server's objects, and the local Lease, which is free.
fn with_a_lease(server: &Server) -> kube::Client {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l", "namespace": "default", "resourceVersion": "1"},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 2},
    });
    let (server, lease) = (server.clone(), Mutex::new(lease));
    api_server(move |method, path, mut body| {
        if !path.contains("/leases") {
            return server.answer(method, path, body);
        }
        if server.is_mute() {
            return refusal(500, "InternalError");
        }
        let mut lease = lease.lock().unwrap();
        if method == "PUT" {
            if body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] {
                return refusal(409, "Conflict");
            }
            let version: u64 = lease["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            body["metadata"]["resourceVersion"] = json!((version + 1).to_string());
            *lease = body;
        }
        (200, lease.clone())
    })
}

/// A daemon that ends in mode Quorum over this server, whose payload nobody else serves. The server answers until then.
async fn leaving(server: &Server, answers: Option<Refuses>, limit: Duration) -> WithSheffield {
    let joiner = WithSheffield::default();
    let mut bench = bench(server).await;
    let context = Arc::new(context(with_a_lease(server), Arc::new(joiner.clone())));
    context.shutdown.cancel();
    bench.tenure.context = Arc::clone(&context);
    let (identity, object) = (bench.tenure.identity.clone(), bench.tenure.object.clone());
    let worker = Worker { context, identity, object, gone: CancellationToken::new() };
    let caller = bench.tenure.caller.clone();
    server.refuse(answers);
    let leaving = worker.leave(&mut bench.tenure, &caller);
    tokio::time::timeout(limit, leaving).await.expect("within what the pod has");
    joiner
}

#[tokio::test]
async fn a_daemon_that_nobody_relieves_stops_its_payload_and_releases_the_lead() {
    let server = Server::after_a_lead("Quorum");
    let joiner = leaving(&server, None, Duration::from_secs(15)).await;
    // What is written after that is the dry run of a member that may lead, which this server takes for a write.
    assert_eq!(server.deletions(), 1);
    assert!(joiner.released().contains(&Term(7)), "{:?}", joiner.released());
}

#[tokio::test]
async fn a_daemon_that_ends_waits_for_an_api_server_that_does_not_answer() {
    // When it is mute: before it has said whether something runs here, and before the Lease was taken.
    for at_once in [true, false] {
        let server = Server::after_a_lead("Quorum");
        let outage = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.refuse(Some(Refuses::All));
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert!(server.runs(), "nobody could stop it");
            server.refuse(None);
        };
        let mute = at_once.then_some(Refuses::All);
        let (joiner, ()) = tokio::join!(leaving(&server, mute, Duration::from_secs(30)), outage);
        assert_eq!(server.deletions(), 1, "mute at once: {at_once}");
        assert!(joiner.released().contains(&Term(7)), "{:?}", joiner.released());
    }
}
