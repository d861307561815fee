//! The members that run in this process: added when their node starts, gone when their guard is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use flagship_node::{NodeEvent, NodeHandle, Snapshot, State};
use flagship_types::{Callsign, MemberName, Role};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::member::{MAX_PEER_SERIES, MemberRecorder};
use crate::metric::{
    BEATS, CONFIG_CONFLICT, CONFIG_VERSION, DOWNS, FALSE_SUSPICIONS, GRANTS, HANDOVERS, INTERRUPTED,
    LINK_HEARD, LINK_UP, MEMBERS, NAME_IN_USE, PAUSED, REFUTATIONS, ROLE, STALE_LINKS, SUSPICIONS, TERM,
};
use crate::page::Page;

/// How often round trip times are sampled: once per default beat.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

const ROLES: [Role; 6] =
    [Role::Joining, Role::Standby, Role::Candidate, Role::Leader, Role::Stopping, Role::Witness];

/// What telemetry reads of a node.
pub(crate) struct Source {
    pub(crate) snapshot: Box<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) events: broadcast::Receiver<NodeEvent>,
}

impl From<NodeHandle> for Source {
    fn from(handle: NodeHandle) -> Self {
        let (changed, events) = (handle.changed(), handle.events());
        Self { snapshot: Box::new(move || handle.snapshot()), changed, events }
    }
}

struct Member {
    number: u64,
    snapshot: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    changed: watch::Receiver<u64>,
    recorder: MemberRecorder,
}

#[derive(Default)]
struct Members {
    added: u64,
    /// By fleet and name. A daemon runs one member per callsign; the key has both so that a change of one is seen.
    running: BTreeMap<(Callsign, MemberName), Member>,
}

/// The members that run in this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Fleets {
    members: Arc<RwLock<Members>>,
}

impl fmt::Debug for Fleets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.read().running.keys()).finish()
    }
}

/// A member's place in the registry; it and its series go when this is dropped.
#[must_use = "the member is shown only as long as its guard lives"]
#[derive(Debug)]
pub struct Running {
    fleets: Fleets,
    key: (Callsign, MemberName),
    number: u64,
    recorder: MemberRecorder,
    task: JoinHandle<()>,
}

impl Running {
    /// Where this member's work is recorded.
    pub fn recorder(&self) -> MemberRecorder {
        self.recorder.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        let mut members = self.fleets.write();
        // A successor with the same name may have been added already.
        if members.running.get(&self.key).is_some_and(|member| member.number == self.number) {
            members.running.remove(&self.key);
        }
    }
}

/// What `/leader/<callsign>` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) member: MemberName,
    pub(crate) role: Role,
    pub(crate) leader: Option<MemberName>,
    pub(crate) term: u64,
    /// Whether the payload belongs here now.
    pub(crate) leads: bool,
}

impl Fleets {
    /// Shows a member from now on. Must be called within a Tokio runtime.
    pub fn add(&self, handle: NodeHandle) -> Running {
        self.add_source(handle.into())
    }

    pub(crate) fn add_source(&self, source: Source) -> Running {
        let Source { snapshot, changed, events } = source;
        let snapshot: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync> = snapshot.into();
        let first = snapshot();
        let key = (first.callsign.clone(), first.member.clone());
        let recorder = MemberRecorder::new();
        recorder.observe(&first, Instant::now());
        let task = tokio::spawn(follow(Arc::clone(&snapshot), changed.clone(), events, recorder.clone()));
        let mut members = self.write();
        members.added += 1;
        let number = members.added;
        members.running.insert(key.clone(), Member { number, snapshot, changed, recorder: recorder.clone() });
        drop(members);
        Running { fleets: self.clone(), key, number, recorder, task }
    }

    /// Where the work of a running member is recorded; `None` if it does not run.
    pub fn recorder(&self, callsign: &Callsign, member: &MemberName) -> Option<MemberRecorder> {
        self.read().running.get(&(callsign.clone(), member.clone())).map(|member| member.recorder.clone())
    }

    /// Who leads this fleet, as its member in this process sees it; `None` if no member of it runs here.
    pub(crate) fn leadership(&self, callsign: &str) -> Option<Leadership> {
        let members = self.read();
        let mut of_fleet = members.running.iter().filter(|((fleet, _), _)| fleet.as_str() == callsign);
        let ((_, name), member) = of_fleet.next()?;
        let snapshot = (member.snapshot)();
        // A node whose task ended holds nothing any more, whatever its last picture shows.
        let runs = member.changed.has_changed().is_ok();
        Some(Leadership {
            member: name.clone(),
            role: snapshot.role,
            leader: snapshot.leader.clone(),
            term: snapshot.term.0,
            leads: runs && snapshot.role == Role::Leader && !snapshot.name_in_use,
        })
    }

    /// Members whose node ended though nobody removed them.
    pub(crate) fn ended(&self) -> Vec<String> {
        let members = self.read();
        let ended = members.running.iter().filter(|(_, member)| member.changed.has_changed().is_err());
        ended.map(|((callsign, name), _)| format!("{name} of fleet {callsign}")).collect()
    }

    pub(crate) fn put(&self, page: &mut Page, now: Instant) {
        for ((callsign, name), member) in &self.read().running {
            let (callsign, name) = (callsign.as_str(), name.as_str());
            put_snapshot(page, callsign, name, &(member.snapshot)());
            member.recorder.put(page, callsign, name, now);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Members> {
        // The map is complete after every statement, so a panic elsewhere leaves it usable.
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Members> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(
    snapshot: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    mut changed: watch::Receiver<u64>,
    mut events: broadcast::Receiver<NodeEvent>,
    recorder: MemberRecorder,
) {
    let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => recorder.event(&event),
                Err(broadcast::error::RecvError::Lagged(lost)) => recorder.events_lost(lost),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            alive = changed.changed() => {
                if alive.is_err() {
                    return;
                }
                recorder.observe(&snapshot(), Instant::now());
            }
            _ = tick.tick() => recorder.sample_round_trips(&snapshot()),
        }
    }
}

fn put_snapshot(page: &mut Page, callsign: &str, member: &str, snapshot: &Snapshot) {
    let own = [callsign, member];
    for role in ROLES {
        page.put(ROLE, &[callsign, member, role.as_str()], snapshot.role == role);
    }
    page.put(TERM, &own, snapshot.term.0);
    for state in State::ALL {
        let number = snapshot.members.iter().filter(|member| member.state == state).count();
        page.put(MEMBERS, &[callsign, member, state.as_str()], u64::try_from(number).unwrap_or(u64::MAX));
    }
    page.put(CONFIG_VERSION, &own, snapshot.config.version.0);
    page.put(CONFIG_CONFLICT, &own, snapshot.config_conflict.is_some());
    page.put(PAUSED, &own, snapshot.config.pause.is_some());
    page.put(NAME_IN_USE, &own, snapshot.name_in_use);
    page.put(INTERRUPTED, &own, snapshot.interrupted);
    for peer in snapshot.members.iter().filter(|peer| peer.name != snapshot.member).take(MAX_PEER_SERIES) {
        let labels = [callsign, member, peer.name.as_str()];
        page.put(LINK_UP, &labels, peer.linked);
        if let Some(heard) = peer.heard_at {
            // Against the picture's own time: the age as the node saw it.
            page.put(LINK_HEARD, &labels, snapshot.taken_at.since(heard).as_secs_f64());
        }
    }
    put_stats(page, callsign, member, snapshot);
}

fn put_stats(page: &mut Page, callsign: &str, member: &str, snapshot: &Snapshot) {
    let own = [callsign, member];
    let (membership, election) = (&snapshot.membership, &snapshot.election);
    for (result, beats) in [
        ("sent", membership.beats_sent),
        ("received", membership.beats_received),
        ("late", membership.beats_late),
    ] {
        page.put(BEATS, &[callsign, member, result], beats);
    }
    page.put(SUSPICIONS, &own, membership.suspicions);
    page.put(FALSE_SUSPICIONS, &own, membership.false_suspicions);
    page.put(REFUTATIONS, &own, membership.refutations);
    page.put(DOWNS, &own, membership.downs);
    page.put(STALE_LINKS, &own, membership.links_stale);
    page.put(GRANTS, &own, election.grants);
    page.put(HANDOVERS, &own, election.handovers);
}
