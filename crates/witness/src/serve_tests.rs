use std::sync::Mutex;

use async_trait::async_trait;
use flagship_node::{
    ElectionRecord, LinkEvent, LinkId, Links, LocalHello, PeerMessage, Proof, Restored, Statement, Store,
};
use flagship_types::{CloseCode, Epoch};
use tokio::sync::mpsc;

use super::*;

/// Links to nobody.
struct Alone;

impl Links for Alone {
    fn connect(&self, _: &PeerAddress) {}
    fn send(&self, _: LinkId, _: PeerMessage) {}
    fn close(&self, _: LinkId, _: CloseCode) {}
    fn set_hello(&self, _: LocalHello) {}
}

/// Joins nodes to nobody, from the second attempt on.
#[derive(Default)]
struct Second {
    names: Vec<&'static str>,
    epochs: Mutex<Vec<Epoch>>,
    /// Kept, as a node without links ends.
    links: Mutex<Vec<mpsc::Sender<LinkEvent>>>,
    stop: CancellationToken,
}

#[async_trait]
impl Joiner for Second {
    async fn names(&self, _: &Callsign) -> Result<Vec<MemberName>, String> {
        Ok(self.names.iter().map(|name| name.parse().unwrap()).collect())
    }

    async fn join(&self, machine: MachineConfig, store: Arc<dyn Store>) -> Result<Joined, String> {
        let attempts = {
            let mut epochs = self.epochs.lock().unwrap();
            epochs.push(machine.epoch);
            epochs.len()
        };
        if attempts < 2 {
            return Err("the port is taken".into());
        }
        let (sender, receiver) = mpsc::channel(1);
        self.links.lock().unwrap().push(sender);
        let signer: Arc<dyn flagship_node::Signer> = Arc::new(|_: &Statement| None::<Proof>);
        let (node, events, ended) = flagship_node::spawn(machine, Arc::new(Alone), signer, receiver, store);
        self.stop.cancel();
        Ok(Joined { node, events, ended, shown: Box::new(()) })
    }
}

fn settings(member: Option<&str>) -> Settings {
    Settings {
        fleets: vec![FleetSettings {
            callsign: "federation".parse().unwrap(),
            member: member.map(|name| name.parse().unwrap()),
            seeds: Vec::new(),
            admit: None,
        }],
        address: None,
        beat_interval: Duration::from_secs(1),
        silence_floor: Duration::from_secs(3),
    }
}

fn seat(dir: &Path, settings: Settings, joiner: &Arc<Second>) -> Seat {
    let Witness { settings, files } = Witness::open(settings, dir).unwrap();
    Seat {
        fleet: settings.fleets[0].clone(),
        settings: Arc::new(settings),
        file: Arc::clone(&files[0]),
        joiner: Arc::<Second>::clone(joiner),
        stop: joiner.stop.clone(),
        teller: Teller::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_that_failed_is_tried_again_with_the_same_start() {
    let dir = tempfile::tempdir().unwrap();
    let joiner = Arc::new(Second { names: vec!["witness"], ..Second::default() });
    let witness = Witness::open(settings(None), dir.path()).unwrap();
    let joiner_for = Arc::<Second>::clone(&joiner);
    witness.run(joiner_for, joiner.stop.clone()).await.unwrap();
    let epochs = joiner.epochs.lock().unwrap().clone();
    assert_eq!(epochs.len(), 2);
    assert_eq!(epochs[0], epochs[1], "nobody saw the first one");
    // It was stored, under the name in the certificate.
    let start = seat(dir.path(), settings(None), &joiner).begin("witness".parse().unwrap()).await.unwrap();
    assert!(start.epoch > epochs[1]);
}

#[tokio::test]
async fn an_operator_vouches_for_one_record_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut seat = seat(dir.path(), settings(None), &Arc::default());
    let start = seat.begin("witness".parse().unwrap()).await.unwrap();
    assert!(!seat.may_vote_at_once(&start));
    seat.fleet.admit = Some(start.begun.0 - 1);
    assert!(!seat.may_vote_at_once(&start), "it was said of a record that is lost");
    seat.fleet.admit = Some(start.begun.0);
    assert!(seat.may_vote_at_once(&start));
    let later = seat.begin("witness".parse().unwrap()).await.unwrap();
    assert!(seat.may_vote_at_once(&later), "it may be started more than once");
    let record =
        ElectionRecord { term: flagship_types::Term(1), ..ElectionRecord::new(FleetConfig::default()) };
    let restored = Restored { record: Some(record), ..Restored::default() };
    assert!(!seat.may_vote_at_once(&Start { restored, ..later }), "it has its record");
}

#[tokio::test]
async fn its_name_is_the_one_given_or_the_only_one_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let member = async |given, names: &[&'static str]| {
        let joiner = Arc::new(Second { names: names.to_vec(), ..Second::default() });
        seat(dir.path(), settings(given), &joiner).member().await.map(|name| name.to_string())
    };
    assert_eq!(member(None, &["witness"]).await, Ok("witness".into()));
    assert_eq!(member(Some("third"), &["a", "third"]).await, Ok("third".into()));
    let none = member(None, &[]).await.unwrap_err();
    assert!(
        none.contains("flagship pki add-member --fleet federation --member witness --out DIR;"),
        "{none}"
    );
    let several = member(None, &["a", "b"]).await.unwrap_err();
    assert!(several.contains("for a and b: say which with --name federation=NAME"), "{several}");
}
