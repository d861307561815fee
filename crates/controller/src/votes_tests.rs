//! A replica votes as its member for as long as it has the local Lease, and the node knows that by what it is told.

use std::sync::Mutex;

use flagship_k8s_api::{ConfigurationStatus, MultiClusterStatus};
use flagship_node::{LinkEvent, LinkId, Links, LocalHello, PeerHello, PeerMessage};
use flagship_payload::Inventory;
use flagship_types::{CloseCode, ConfigVersion, Epoch, FleetConfig, Mode, PeerAddress, Verified};
use flagship_wire::pb;
use flagship_wire::pb::election_message::Kind;
use serde_json::json;

use super::tests::{Bench, bench_over, object};
use super::*;
use crate::fixtures::{NoStore, api_server, context, unsigned};
use crate::memory;
use crate::ports::{JoinError, Joiner, Probe};

/// Tells what is sent.
struct Told(mpsc::UnboundedSender<PeerMessage>);

impl Links for Told {
    fn connect(&self, _: &PeerAddress) {}
    fn send(&self, _: LinkId, message: PeerMessage) {
        // Fails only when the test is over.
        let _ = self.0.send(message);
    }
    fn close(&self, _: LinkId, _: CloseCode) {}
    fn set_hello(&self, _: LocalHello) {}
}

/// Starts one real node, with these links.
struct Spawns(Mutex<Option<Wires>>);

/// What is sent, and what is heard.
type Wires = (Arc<dyn Links>, mpsc::Receiver<LinkEvent>);

#[async_trait::async_trait]
impl Joiner for Spawns {
    async fn join(&self, start: MemberStart) -> Result<Joined, JoinError> {
        let (links, heard) = self.0.lock().unwrap().take().unwrap();
        let (node, events, ended) =
            flagship_node::spawn(start.machine, links, Arc::new(unsigned), heard, Arc::new(NoStore));
        Ok(Joined { node, events, ended })
    }

    async fn wait_at(&self, _: Probe) -> Result<Waiting, JoinError> {
        Err(JoinError::Listen("not in this test".into()))
    }

    async fn probe(&self, _: Probe) -> Result<(), JoinError> {
        Ok(())
    }
}

/// sheffield, which leads under term 7.
struct Leader {
    link: mpsc::Sender<LinkEvent>,
    told: mpsc::UnboundedReceiver<PeerMessage>,
    seq: u64,
}

impl Leader {
    async fn meet(&self) {
        let member = "sheffield".parse().unwrap();
        let epoch = Epoch(flagship_node::wall_ms());
        let hello = PeerHello { member, epoch, address: None, view_hash: 0, protocol: 2 };
        let hello = Verified::first_hand(hello);
        self.link.send(LinkEvent::Up { link: LinkId(1), hello, dialled: None }).await.unwrap();
    }

    /// Asks for another lease. Whether that is promised.
    async fn renews(&mut self) -> bool {
        self.seq += 1;
        let (term, seq, config_version) = (7, self.seq, 1797);
        let asked = pb::Renew { term, seq, config_version, lease_ms: 3_000, stop_grace_ms: 10_000 };
        let message = Verified::checked(message(Kind::Renew(asked)));
        self.link.send(LinkEvent::Message { link: LinkId(1), message }).await.unwrap();
        let promised = message_of(pb::Renewed { term, seq, config_version });
        let answered = async { while self.told.recv().await.unwrap() != promised {} };
        tokio::time::timeout(Duration::from_millis(300), answered).await.is_ok()
    }
}

fn message_of(renewed: pb::Renewed) -> PeerMessage {
    message(Kind::Renewed(renewed))
}

fn message(kind: Kind) -> PeerMessage {
    let election = pb::ElectionMessage { kind: Some(kind) };
    let frame = pb::Frame { kind: Some(pb::frame::Kind::Election(election)) };
    match flagship_wire::decode(frame.into()).unwrap() {
        flagship_wire::Incoming::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

/// What newyork, a voter that is never a candidate, has granted.
fn voted() -> MultiClusterStatus {
    let config = FleetConfig {
        version: ConfigVersion(1797),
        mode: Mode::Quorum,
        voters: ["denver", "newyork", "sheffield"].map(|name| name.parse().unwrap()).to_vec(),
        ..Default::default()
    };
    let vote = json!({"term": 7, "candidate": "sheffield", "configVersion": 1797, "leaseDuration": "3s", "stopGrace": "10s"});
    MultiClusterStatus {
        configuration: Some(ConfigurationStatus::from(&config)),
        vote: Some(serde_json::from_value(vote).unwrap()),
        term: Some(7),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_vote_begins_with_a_renewal_of_the_local_lease_and_ends_with_its_loss() {
    let api = || {
        api_server(|_, _, _| {
            let mut stored = serde_json::to_value(&*object(9990, 1)).unwrap();
            stored["metadata"]["resourceVersion"] = json!("1");
            (200, stored)
        })
    };
    let Bench { mut tenure, object: _object, .. } = bench_over(api());
    let ((link, heard), (tells, told)) = (mpsc::channel(8), mpsc::unbounded_channel());
    let joiner = Spawns(Mutex::new(Some((Arc::new(Told(tells)), heard))));
    tenure.context = Arc::new(context(api(), Arc::new(joiner)));
    // The API server has not answered for a while.
    let renewed = watch::Sender::new(Some(flagship_node::boot_now() - flagship_k8s_api::LOCAL_LEASE * 2));
    tenure.holds(LeaseWatch::of(&renewed));
    let mut object = (*object(9990, 1)).clone();
    object.spec.candidate = Some(false);
    let settings = object.spec.settings().unwrap();
    let start = Start { epoch: Epoch(flagship_node::wall_ms()), status: voted() };
    let record = memory::restore(&start.status, &settings.callsign).unwrap();
    let (object, inventory) = (Arc::new(object), Inventory::default());
    let ready = Ready { object, settings, start, record, inventory, found: None };
    let Ok(_member) = tenure.join(ready).await else { panic!("it joins") };

    let mut leader = Leader { link, told, seq: 0 };
    leader.meet().await;
    for _ in 0..2 {
        assert!(!leader.renews().await, "another replica may have the Lease");
    }
    let begin = Instant::now();
    // Not over before the test is.
    renewed.send_replace(Some(flagship_node::boot_now() + Duration::from_secs(3600)));
    while !leader.renews().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "the node is not told of renewals");
    }
    renewed.send_replace(None);
    let lost = Instant::now();
    while leader.renews().await {
        // Later than that it may be silent because it takes this link, which has no beats, for dead.
        assert!(lost.elapsed() < Duration::from_secs(1), "the node is not told of the loss");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
