//! A witness from its start to its end: one task per fleet, each of which joins, attends and joins again. What is wrong
//! with the records ends the process before anything begins; what is wrong with one fleet's certificates or with the
//! port is tried again, and the other fleets have their witness meanwhile.

use std::any::Any;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flagship_node::{
    Command, ElectionSpec, KnownMember, MachineConfig, NodeEvent, NodeHandle, NodeSpec, Snapshot, State,
    wall_ms,
};
use flagship_types::{Callsign, FleetConfig, MemberName, PeerAddress, Rank};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use crate::error::StateError;
use crate::file::{FileStore, FleetFile, Start};
use crate::ports::{Joined, Joiner};
use crate::state_dir::StateDir;
use crate::telling::Teller;

/// How long after a failure a join is tried again. Certificates that are brought in are found this soon.
const RETRY: Duration = Duration::from_secs(5);
/// What a process that ends asks the others to wait for it.
const AWAY_GRACE: Duration = Duration::from_secs(30);
/// What a node that is started again asks for: it takes well under a second.
const REJOIN_GRACE: Duration = Duration::from_secs(10);
/// How long a node may take to close its links. Then it is left behind.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Changes of who is there are gathered for so long: members come in groups.
const GATHER: Duration = Duration::from_secs(1);
/// How long after a failed write of the peers it is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(30);
/// How long another process may have this witness's name before it is asked anew whether it still has.
const NAME_IN_USE_AGAIN: Duration = Duration::from_secs(60);
/// The picture is looked at at least this often, as time alone changes nothing in it.
const LOOK: Duration = Duration::from_secs(5);
/// Peers remembered: enough to find the fleet again, and to know all who may vote.
const MAX_PEERS: usize = 64;

/// A fleet to be a witness of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetSettings {
    /// The fleet.
    pub callsign: Callsign,
    /// The witness's name there; `None`: the one in its certificate.
    pub member: Option<MemberName>,
    /// Where members may be found. The ones met before are remembered.
    pub seeds: Vec<PeerAddress>,
    /// An operator vouches for the witness with the record that began then, though it does not know its votes.
    pub admit: Option<u64>,
}

/// What a witness is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its fleets, each once.
    pub fleets: Vec<FleetSettings>,
    /// Where members can dial it, if they are to be told.
    pub address: Option<PeerAddress>,
    /// How often it shows that it lives.
    pub beat_interval: Duration,
    /// The least silence after which it suspects a member that nobody else watches.
    pub silence_floor: Duration,
}

/// Why a witness ended.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A task failed in a way that is a mistake in this program.
    #[error("the task of a fleet ended badly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A witness whose records have been read.
pub struct Witness {
    settings: Settings,
    files: Vec<Arc<FleetFile>>,
}

impl Witness {
    /// Takes the state directory and reads the records of all fleets. Blocks.
    pub fn open(settings: Settings, state_dir: &Path) -> Result<Self, StateError> {
        let dir = Arc::new(StateDir::open(state_dir)?);
        let open =
            |fleet: &FleetSettings| FleetFile::open(Arc::clone(&dir), fleet.callsign.clone()).map(Arc::new);
        let files = settings.fleets.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { settings, files })
    }

    /// Serves all fleets until `stop`; announces its absence then.
    pub async fn run(self, joiner: Arc<dyn Joiner>, stop: CancellationToken) -> Result<(), WitnessError> {
        let mut seats = JoinSet::new();
        let settings = Arc::new(self.settings);
        for (fleet, file) in settings.fleets.iter().zip(self.files) {
            let span = info_span!("witness", callsign = %fleet.callsign);
            let seat = Seat {
                settings: Arc::clone(&settings),
                fleet: fleet.clone(),
                file,
                joiner: Arc::clone(&joiner),
                stop: stop.clone(),
                teller: Teller::default(),
            };
            seats.spawn(seat.serve().instrument(span));
        }
        while let Some(ended) = seats.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// The witness's place in one fleet.
struct Seat {
    settings: Arc<Settings>,
    fleet: FleetSettings,
    file: Arc<FleetFile>,
    joiner: Arc<dyn Joiner>,
    stop: CancellationToken,
    teller: Teller,
}

/// A node that runs.
struct Running {
    node: NodeHandle,
    events: broadcast::Receiver<NodeEvent>,
    ended: JoinHandle<()>,
    _shown: Box<dyn Any + Send + Sync>,
    /// The peers that the file has.
    remembered: Vec<KnownMember>,
    remember_at: Option<Instant>,
    name_in_use_since: Option<Instant>,
}

/// Why a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The process was told to.
    Stopped,
    /// It has to ask anew whether another process has its name.
    Renamed,
    /// By itself.
    Ended,
}

impl Seat {
    async fn serve(mut self) {
        let stop = self.stop.clone();
        // An epoch that was stored for a join that failed is used for the next one.
        let mut unused = None;
        loop {
            let joined = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                joined = self.join(&mut unused) => joined,
            };
            match joined {
                Ok(running) => {
                    if self.attend(running).await == Outcome::Stopped {
                        return;
                    }
                }
                Err(sentence) => self.teller.tell_trouble(&format!(
                    "fleet {} has no witness here: {sentence}. It is tried again every {}",
                    self.fleet.callsign,
                    flagship_types::format_duration(RETRY)
                )),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(RETRY) => {}
            }
        }
    }

    /// Starts a node, with a start that is stored before anybody can see it.
    async fn join(&self, unused: &mut Option<(MemberName, Start)>) -> Result<Running, String> {
        let member = self.member().await?;
        let start = match unused.take().filter(|(name, _)| *name == member) {
            Some((_, start)) => start,
            None => self.begin(member.clone()).await?,
        };
        let machine = self.machine(&member, &start);
        let store = Arc::new(FileStore(Arc::clone(&self.file)));
        match self.joiner.join(machine, store).await {
            Ok(Joined { node, events, ended, shown }) => {
                if self.may_vote_at_once(&start) {
                    node.tell(Command::Admit(member.clone())).await;
                }
                info!(%member, epoch = %start.epoch, record = start.restored.record.is_some(), "this witness takes part");
                Ok(Running {
                    node,
                    events,
                    ended,
                    _shown: shown,
                    remembered: start.known,
                    remember_at: None,
                    name_in_use_since: None,
                })
            }
            Err(sentence) => {
                *unused = Some((member, start));
                Err(sentence)
            }
        }
    }

    /// Whether an operator vouches for this very record. The word for an earlier one says nothing, so that a flag that
    /// was left behind does not vouch for a record that was lost later.
    fn may_vote_at_once(&self, start: &Start) -> bool {
        if start.restored.record.is_some() {
            return false;
        }
        let (callsign, begun) = (&self.fleet.callsign, start.begun.0);
        match self.fleet.admit {
            Some(admitted) if admitted == begun => {
                warn!(begun, "this witness does not know what it voted, and an operator vouches for it");
                return true;
            }
            Some(admitted) => {
                warn!("--admit {callsign}={admitted} is about another record than this one, {begun}");
            }
            None => {}
        }
        info!(
            "no record of votes yet: it votes when every other voter has told what it knows. If one of them is gone for \
             good, and no vote was lost here that counts, start it with --admit {callsign}={begun}"
        );
        false
    }

    /// Its name: the one that was given, else the one in the certificate.
    async fn member(&self) -> Result<MemberName, String> {
        if let Some(member) = &self.fleet.member {
            return Ok(member.clone());
        }
        let callsign = &self.fleet.callsign;
        let mut names = self.joiner.names(callsign).await?;
        match (names.pop(), names.as_slice()) {
            (Some(name), []) => Ok(name),
            (None, _) => Err(format!(
                "there is no certificate for it. DIR being where the fleet's ca.key is kept: flagship pki add-member --fleet {callsign} --member witness --out DIR; then copy DIR/witness/* to the directory given with --tls-dir, or to {callsign}/witness/ in it"
            )),
            (Some(last), others) => {
                let names: Vec<_> = others.iter().chain([&last]).map(MemberName::as_str).collect();
                Err(format!(
                    "its certificates are for {}: say which with --name {callsign}=NAME",
                    names.join(" and ")
                ))
            }
        }
    }

    async fn begin(&self, member: MemberName) -> Result<Start, String> {
        let file = Arc::clone(&self.file);
        let begun = tokio::task::spawn_blocking(move || file.begin(&member, wall_ms())).await;
        begun.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn machine(&self, member: &MemberName, start: &Start) -> MachineConfig {
        let mut seed = DefaultHasher::new();
        (member.as_str(), start.epoch.0).hash(&mut seed);
        MachineConfig {
            callsign: self.fleet.callsign.clone(),
            member: member.clone(),
            epoch: start.epoch,
            wall_ms: wall_ms(),
            spec: self.spec(),
            restored: start.restored.clone(),
            known: start.known.clone(),
            beat_interval: self.settings.beat_interval,
            silence_floor: self.settings.silence_floor,
            seed: seed.finish(),
            // Nobody else votes from its state directory.
            votes_until: None,
        }
    }

    /// It never leads and never founds a fleet.
    fn spec(&self) -> NodeSpec {
        // It has no object: what it proposes is not looked at.
        let proposal = FleetConfig::default();
        NodeSpec {
            election: ElectionSpec {
                rank: Rank(0),
                ready: false,
                candidate: false,
                suspended: false,
                witness: true,
                fences: false,
                proposal,
                promote_timeout: None,
            },
            address: self.settings.address.clone(),
            seeds: self.fleet.seeds.clone(),
        }
    }

    /// Until the node has ended.
    async fn attend(&mut self, mut running: Running) -> Outcome {
        let mut changed = running.node.changed();
        let mut tick = tokio::time::interval(LOOK);
        let stop = self.stop.clone();
        let outcome = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break Outcome::Stopped,
                _ = &mut running.ended => break Outcome::Ended,
                event = running.events.recv() => self.event(event, &running),
                () = at(running.remember_at) => self.remember(&mut running).await,
                Ok(()) = changed.changed() => {}
                _ = tick.tick() => {}
            }
            if self.look(&mut running) {
                break Outcome::Renamed;
            }
        };
        self.end(outcome, running).await;
        outcome
    }

    fn event(&mut self, event: Result<NodeEvent, RecvError>, running: &Running) {
        match event {
            Ok(event) => self.teller.tell(&event, &running.node.snapshot().member),
            Err(RecvError::Lagged(lost)) => warn!(lost, "some of what happened is not in this log"),
            // The node's end is seen on its task.
            Err(RecvError::Closed) => {}
        }
    }

    /// Looks at the picture. Returns whether it is time to ask again for the name.
    fn look(&self, running: &mut Running) -> bool {
        let snapshot = running.node.snapshot();
        if running.remember_at.is_none() && peers(&snapshot, &running.remembered) != running.remembered {
            running.remember_at = Some(Instant::now() + GATHER);
        }
        if !snapshot.name_in_use {
            running.name_in_use_since = None;
            return false;
        }
        running.name_in_use_since.get_or_insert_with(Instant::now).elapsed() >= NAME_IN_USE_AGAIN
    }

    async fn remember(&self, running: &mut Running) {
        running.remember_at = None;
        let peers = peers(&running.node.snapshot(), &running.remembered);
        let (file, written) = (Arc::clone(&self.file), peers.clone());
        let result = tokio::task::spawn_blocking(move || file.remember(written)).await;
        match result
            .map_err(|error| error.to_string())
            .and_then(|result| result.map_err(|error| error.to_string()))
        {
            Ok(()) => running.remembered = peers,
            Err(error) => {
                warn!(error, "cannot store who is in the fleet; it is tried again");
                running.remember_at = Some(Instant::now() + WRITE_AGAIN);
            }
        }
    }

    async fn end(&mut self, outcome: Outcome, mut running: Running) {
        match outcome {
            Outcome::Stopped => self.close(AWAY_GRACE, &mut running).await,
            Outcome::Renamed => self.close(REJOIN_GRACE, &mut running).await,
            Outcome::Ended => warn!("the node ended unexpectedly; it is started again"),
        }
        while let Ok(event) = running.events.try_recv() {
            self.event(Ok(event), &running);
        }
    }

    async fn close(&self, grace: Duration, running: &mut Running) {
        running.node.tell(Command::Away(grace)).await;
        running.node.tell(Command::Shutdown).await;
        if timeout(CLOSE_TIMEOUT, &mut running.ended).await.is_err() {
            warn!("the node did not end in time; it is left behind");
            running.ended.abort();
        }
    }
}

/// At a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Whom to remember: everybody but this witness and who left, the ones that are here first. Whose address is not known
/// now keeps the one from before.
fn peers(snapshot: &Snapshot, before: &[KnownMember]) -> Vec<KnownMember> {
    let mut members: Vec<_> = snapshot
        .members
        .iter()
        .filter(|member| member.name != snapshot.member && member.state != State::Left)
        .collect();
    members.sort_by_key(|member| (member.state != State::Alive, member.address.is_none()));
    members.truncate(MAX_PEERS);
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let known = |name: &MemberName| before.iter().find(|known| known.name == *name);
    let remember = |member: &flagship_node::MemberSnapshot| KnownMember {
        name: member.name.clone(),
        epoch: member.epoch,
        address: member.address.clone().or_else(|| known(&member.name)?.address.clone()),
        record: None,
    };
    members.into_iter().map(remember).collect()
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
