//! Two replicas of one member's daemon and their local Lease, after `lease.rs`, `worker.rs` and `status_writer.rs` of the
//! controller: the one that holds the Lease has a node, the other one waits and takes it when it was not renewed for 2 s.
//!
//! A [`Host`](super::host::Host)'s own fields are about the replica that acts; what happens to the other one happens while
//! the two have changed places. So a process that was stopped, or cannot reach its API server, goes on as the same member
//! until it finds out that it is not the one any more.

use std::time::Duration;

use flagship_types::{CloseCode, Instant};
use rand::RngExt;

use super::host::{Host as Cluster, Replica};
use super::world::{Event, World};
use crate::clock::{Nanos, ms};
use crate::paths::Host;

/// How long a Lease that is not renewed keeps others out.
const DURATION: Duration = Duration::from_secs(2);
/// How often it is renewed, or looked at.
const RENEWAL: Nanos = ms(500);
/// For so long the replica that acts takes another one for ready that is not any more (`second.rs`).
const SECOND_SEEN: Nanos = ms(6_000);
/// How long a member whose name another process uses is silent before it joins again (`attend.rs`): in general, after it
/// took over from another replica or with one beside it, and with a payload here.
const NAME_IN_USE_AGAIN: Nanos = ms(60_000);
const RELIEVED_AGAIN: Nanos = ms(10_000);
const RUNNING_AGAIN: Nanos = ms(2_000);
/// Losses of the acting replica that are remembered.
const MAX_LOSSES: usize = 8;

/// What happens between a daemon and the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeaseEvent {
    /// The daemon's turn: it renews the Lease, or looks at it.
    Tick,
    /// A write reaches the API server, begun at that time of the daemon's clock. To take it: if it still has this version.
    Write { begun: Instant, take: Option<u64> },
    /// The daemon learns what came of it.
    Answer { begun: Instant, held: bool },
    /// The epoch is stored and the status read: the new holder joins.
    Serve,
    /// The status says that another process serves the member.
    Deposed,
    /// A process that was told that its name is in use starts anew.
    Rejoin { process: u64 },
}

/// The Lease as the API server has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalLease {
    /// A pod.
    pub(crate) holder: Option<u64>,
    version: u64,
    /// Which pod stored an epoch last: no other one's record is stored any more.
    served_by: Option<u64>,
    pods: u64,
    /// Since when one of the two ran and reached the API server all the time.
    covered_since: Option<Nanos>,
    /// When the replica that acted ended without a word, was stopped or cut off.
    losses: Vec<Nanos>,
}

/// A daemon around a process. Of two, one has a node.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// Which of the two places it has.
    pub(crate) slot: usize,
    /// Its identity as a holder: a restarted container is the same one.
    pod: u64,
    pub(crate) up: bool,
    /// Counts its starts: events of an earlier one are ignored.
    life: u64,
    /// Its node reaches the API server.
    pub(crate) reaches_api: bool,
    pub(crate) reach_changed: Nanos,
    /// It took the Lease and did not find it lost yet.
    serving: bool,
    /// It waited for it: somebody else had it.
    relieves: bool,
    /// When the last renewal that was answered had begun.
    held: Option<Instant>,
    /// The Lease's version when it last looked, and since when that is so.
    seen: Option<(u64, Instant)>,
    /// When it was last able to act.
    lost: Nanos,
}

impl Daemon {
    pub(crate) fn new(slot: usize) -> Self {
        Self {
            slot,
            pod: slot as u64,
            up: false,
            life: 0,
            reaches_api: true,
            reach_changed: 0,
            serving: false,
            relieves: false,
            held: None,
            seen: None,
            lost: 0,
        }
    }
}

impl Replica {
    fn is_able(&self) -> bool {
        self.daemon.up && !self.frozen && self.daemon.reaches_api
    }
}

impl Cluster {
    /// Until when nobody else can have the local Lease, and so vote or write as this member. `None`: there is one replica.
    pub(crate) fn votes_until(&self) -> Option<Instant> {
        self.other.as_ref()?;
        Some(self.daemon.held.map_or(Instant::ZERO, |begun| begun + DURATION))
    }

    fn is_able(&self) -> bool {
        self.daemon.up && !self.frozen && self.daemon.reaches_api
    }

    /// Whether the replica that acts takes another one for ready.
    pub(crate) fn sees_second(&self, now: Nanos) -> bool {
        let ready = |other: &Replica| other.is_able() || now < other.daemon.lost + SECOND_SEEN;
        self.other.as_deref().is_some_and(ready)
    }
}

impl World {
    /// The two replicas of a host change places.
    pub(crate) fn turn_over(&mut self, id: Host) {
        let host = &mut self.hosts[id];
        let Some(other) = &mut host.other else { return };
        std::mem::swap(&mut host.daemon, &mut other.daemon);
        std::mem::swap(&mut host.process, &mut other.process);
        std::mem::swap(&mut host.number, &mut other.number);
        std::mem::swap(&mut host.frozen, &mut other.frozen);
        std::mem::swap(&mut host.waiting, &mut other.waiting);
    }

    /// The host of two replicas that an event is about.
    pub(super) fn replicated_host(&self, event: &Event) -> Option<Host> {
        let host = match event {
            Event::Wake { host, .. }
            | Event::Stored { host, .. }
            | Event::StoreAgain { host, .. }
            | Event::Answered { host, .. }
            | Event::Work { host, .. }
            | Event::Written { host, .. }
            | Event::Exit { host, .. }
            | Event::Edited { host, .. }
            | Event::Unleased { host, .. }
            | Event::Lease { host, .. }
            | Event::Look { host }
            | Event::Connected { from: host, .. } => *host,
            Event::Arrive { link, end } => self.owner_of(*link, *end)?.0,
            Event::Retry { link, end } => self.owner_of(*link, 1 - *end)?.0,
            Event::Begin(_) | Event::End(_) => return None,
        };
        self.hosts[host].other.is_some().then_some(host)
    }

    /// Has the host's own fields be about the replica that an event is for.
    pub(super) fn turn_to(&mut self, id: Host, event: &Event) {
        let number = match event {
            Event::Lease { slot, .. } => return self.turn_to_slot(id, *slot),
            Event::Wake { process, .. }
            | Event::Stored { process, .. }
            | Event::StoreAgain { process, .. }
            | Event::Answered { process, .. }
            | Event::Work { process, .. }
            | Event::Written { process, .. }
            | Event::Exit { process, .. }
            | Event::Edited { process, .. }
            | Event::Unleased { process, .. }
            | Event::Connected { process, .. } => Some(*process),
            Event::Arrive { link, end } => self.owner_of(*link, *end).map(|owner| owner.1),
            Event::Retry { link, end } => self.owner_of(*link, 1 - *end).map(|owner| owner.1),
            Event::Look { .. } | Event::Begin(_) | Event::End(_) => None,
        };
        let is_others = self.hosts[id].other.as_ref().is_some_and(|other| Some(other.number) == number);
        if is_others && Some(self.hosts[id].number) != number {
            self.turn_over(id);
        }
    }

    pub(super) fn turn_to_slot(&mut self, id: Host, slot: usize) {
        if self.hosts[id].daemon.slot != slot {
            self.turn_over(id);
        }
    }

    /// Has the host's own fields be about the replica that acts: who serves and holds the Lease, else who serves, else who
    /// holds it.
    pub(super) fn turn_to_acting(&mut self, id: Host) {
        let host = &self.hosts[id];
        let Some(other) = host.other.as_deref() else { return };
        let rank = |serves: bool, daemon: &Daemon| {
            let holds = host.lease.holder == Some(daemon.pod);
            (serves && holds, serves, holds, daemon.up)
        };
        if rank(other.process.is_some(), &other.daemon) > rank(host.process.is_some(), &host.daemon) {
            self.turn_over(id);
        }
    }

    /// Both daemons start. The first one takes the Lease, which nobody has.
    pub(super) fn start_replicas(&mut self, id: Host) {
        for slot in [1, 0] {
            self.turn_to_slot(id, slot);
            if !self.hosts[id].daemon.up {
                self.daemon_starts(id, true);
            }
        }
        let now = self.hosts[id].clock.read(self.now);
        let host = &mut self.hosts[id];
        host.lease.holder = Some(host.daemon.pod);
        host.lease.version += 1;
        (host.daemon.serving, host.daemon.held) = (true, Some(now));
        self.join_as_holder(id);
    }

    /// The daemon starts: as another pod, or again as the one that it was.
    pub(super) fn daemon_starts(&mut self, id: Host, as_another: bool) {
        let host = &mut self.hosts[id];
        if as_another {
            host.lease.pods += 1;
            // The places' first pods have their numbers.
            host.daemon.pod = host.lease.pods + 1;
        }
        let daemon = &mut host.daemon;
        (daemon.up, daemon.serving, daemon.held, daemon.seen) = (true, false, None, None);
        daemon.relieves = false;
        daemon.life += 1;
        let wait = self.draw(RENEWAL);
        self.lease_soon(id, wait, LeaseEvent::Tick);
        self.note_cover(id, false);
    }

    /// The process of a host with two replicas ended, or there was none, and the daemon with it.
    pub(super) fn daemon_died(&mut self, id: Host) {
        let host = &mut self.hosts[id];
        if host.other.is_none() {
            return;
        }
        let daemon = &mut host.daemon;
        (daemon.up, daemon.serving, daemon.held) = (false, false, None);
        daemon.life += 1;
        host.frozen = false;
        host.waiting.clear();
        self.note_cover(id, true);
    }

    /// A daemon that ends in order lets others have the Lease at once.
    pub(super) fn release_local_lease(&mut self, id: Host) {
        let host = &mut self.hosts[id];
        if host.other.is_some() && host.reaches_api() && host.lease.holder == Some(host.daemon.pod) {
            host.lease.holder = None;
            host.lease.version += 1;
        }
    }

    /// All replicas end: the last one takes the Lease back. Whether it could.
    pub(super) fn takes_lease_back(&mut self, id: Host) -> bool {
        let host = &mut self.hosts[id];
        let now = host.clock.read(self.now);
        let own = host.daemon.pod;
        if host.other.is_none() || (host.daemon.serving && host.lease.holder == Some(own)) {
            return true;
        }
        if host.daemon.up || host.lease.holder.is_some_and(|holder| holder != own) {
            return false;
        }
        if host.reaches_api() {
            host.lease.holder = Some(own);
            host.lease.version += 1;
            self.daemon_starts(id, false);
            let daemon = &mut self.hosts[id].daemon;
            (daemon.serving, daemon.held) = (true, Some(now));
        }
        true
    }

    fn lease_soon(&mut self, id: Host, after: Nanos, what: LeaseEvent) {
        let Daemon { slot, life, .. } = self.hosts[id].daemon;
        self.push(self.now + after, Event::Lease { host: id, slot, life, what });
    }

    /// A request of a daemon takes so long; now and then the API server is busy.
    fn request_takes(&mut self) -> Nanos {
        let most = if self.rng.random_range(0..8) == 0 { 600 } else { 18 };
        ms(2) + self.rng.random_range(0..ms(most))
    }

    pub(super) fn lease_event(&mut self, id: Host, life: u64, what: LeaseEvent) {
        if let LeaseEvent::Write { begun, take } = what {
            // It was sent, whatever became of its daemon.
            return self.lease_written(id, life, begun, take);
        }
        if self.hosts[id].daemon.life != life {
            return;
        }
        if self.hosts[id].frozen {
            let slot = self.hosts[id].daemon.slot;
            return self.hosts[id].waiting.push_back(Event::Lease { host: id, slot, life, what });
        }
        match what {
            LeaseEvent::Tick => {
                self.lease_tick(id);
                self.lease_soon(id, RENEWAL, LeaseEvent::Tick);
            }
            LeaseEvent::Answer { begun, held } => self.lease_answered(id, begun, held),
            LeaseEvent::Serve => self.join_as_holder(id),
            // What the status shows to people is written with each change, and so it is found out.
            LeaseEvent::Deposed if self.is_deposed(id) => self.end_tenure(id),
            LeaseEvent::Deposed => {}
            LeaseEvent::Rejoin { process }
                if self.hosts[id].number == process && self.hosts[id].process.is_some() =>
            {
                self.close_streams(id, Some(CloseCode::ShuttingDown));
                self.hosts[id].process = None;
                let takes = self.request_takes() + self.request_takes();
                self.lease_soon(id, takes, LeaseEvent::Serve);
            }
            LeaseEvent::Rejoin { .. } => {}
            LeaseEvent::Write { .. } => {}
        }
    }

    fn lease_tick(&mut self, id: Host) {
        if !self.hosts[id].reaches_api() {
            // Not renewed; going on. Nobody can take it while no API server answers.
            return self.refused_write(id);
        }
        let host = &mut self.hosts[id];
        let begun = host.clock.read(self.now);
        let LocalLease { holder, version, .. } = host.lease;
        let take = if host.daemon.serving {
            None
        } else {
            let since = match host.daemon.seen {
                Some((seen, since)) if seen == version => since,
                _ => begun,
            };
            host.daemon.seen = Some((version, since));
            let is_free = holder.is_none_or(|holder| holder == host.daemon.pod);
            host.daemon.relieves |= !is_free;
            if !is_free && begun.since(since) < DURATION {
                return;
            }
            Some(version)
        };
        let takes = self.request_takes();
        self.lease_soon(id, takes, LeaseEvent::Write { begun, take });
    }

    fn lease_written(&mut self, id: Host, life: u64, begun: Instant, take: Option<u64>) {
        let host = &mut self.hosts[id];
        if !host.reaches_api() || host.daemon.life != life {
            return;
        }
        let own = host.daemon.pod;
        let held = match take {
            Some(version) => host.lease.version == version,
            None => host.lease.holder.is_none_or(|holder| holder == own),
        };
        if held {
            host.lease.holder = Some(own);
            host.lease.version += 1;
        }
        if held || take.is_none() {
            self.lease_soon(id, ms(1), LeaseEvent::Answer { begun, held });
        }
    }

    fn lease_answered(&mut self, id: Host, begun: Instant, held: bool) {
        if !held {
            return self.end_tenure(id);
        }
        let daemon = &mut self.hosts[id].daemon;
        daemon.held = Some(begun);
        if std::mem::replace(&mut daemon.serving, true) {
            return self.with_machine(id, |machine, _| machine.held_until(begun + DURATION));
        }
        let name = self.hosts[id].spec.name;
        let slot = self.hosts[id].daemon.slot;
        self.log(format_args!("{name} replica {slot} takes the local Lease"));
        // Reads the status and stores its epoch.
        let takes = self.request_takes() + self.request_takes();
        self.lease_soon(id, takes, LeaseEvent::Serve);
    }

    pub(super) fn join_as_holder(&mut self, id: Host) {
        let host = &mut self.hosts[id];
        if !host.daemon.serving || host.process.is_some() {
            return;
        }
        if !host.reaches_api() {
            return self.lease_soon(id, RENEWAL, LeaseEvent::Serve);
        }
        host.lease.served_by = Some(host.daemon.pod);
        self.serve(id);
    }

    /// Whether a record that reaches the API server now is stored: not that of a process after which another one began.
    pub(super) fn may_store(&self, id: Host) -> bool {
        let host = &self.hosts[id];
        host.reaches_api() && (host.other.is_none() || host.lease.served_by == Some(host.daemon.pod))
    }

    /// The API server would tell the process that another one serves the member.
    pub(super) fn is_deposed(&self, id: Host) -> bool {
        let host = &self.hosts[id];
        host.other.is_some() && host.reaches_api() && host.lease.served_by != Some(host.daemon.pod)
    }

    /// The daemon noticed something, and writes the status, as it does 0.3 s later.
    pub(super) fn shows_soon(&mut self, id: Host) {
        let takes = ms(300) + self.request_takes();
        self.lease_soon(id, takes, LeaseEvent::Deposed);
    }

    /// The process finds that another one serves the member.
    pub(super) fn deposed(&mut self, id: Host) {
        self.lease_soon(id, ms(1), LeaseEvent::Deposed);
    }

    /// The others hear another process of this name.
    pub(super) fn name_in_use(&mut self, id: Host) {
        if self.hosts[id].other.is_none() {
            return;
        }
        let runs = self.hosts[id].payload.exists(self.now);
        let host = &self.hosts[id];
        let again = match host.daemon.relieves || host.sees_second(self.now) {
            _ if runs => RUNNING_AGAIN,
            true => RELIEVED_AGAIN,
            false => NAME_IN_USE_AGAIN,
        };
        let process = self.hosts[id].number;
        self.lease_soon(id, again, LeaseEvent::Rejoin { process });
    }

    /// Another replica has the Lease: the node ends, its links are closed, the payload stays as it is.
    fn end_tenure(&mut self, id: Host) {
        let daemon = &mut self.hosts[id].daemon;
        (daemon.serving, daemon.held, daemon.seen) = (false, None, None);
        let slot = daemon.slot;
        if self.hosts[id].process.is_some() {
            let name = self.hosts[id].spec.name;
            self.log(format_args!("{name} replica {slot} finds that it is not the one any more"));
            self.close_streams(id, Some(CloseCode::ShuttingDown));
            self.hosts[id].process = None;
        }
    }

    /// Whether the Service brings who dials to the replica that does not act.
    pub(super) fn picks_other(&mut self, to: Host) -> bool {
        let host = &self.hosts[to];
        let Some(other) = host.other.as_deref() else { return false };
        match (host.daemon.up, other.daemon.up) {
            (true, true) => self.rng.random_range(0..2) == 0,
            (up, other_up) => other_up && !up,
        }
    }

    /// The present replica became able to act, or unable.
    pub(super) fn note_cover(&mut self, id: Host, lost: bool) {
        let now = self.now;
        let host = &mut self.hosts[id];
        let Some(other) = host.other.as_deref() else { return };
        if lost {
            host.daemon.lost = now;
            if host.lease.holder == Some(host.daemon.pod) {
                host.lease.losses.push(now);
                let old = host.lease.losses.len().saturating_sub(MAX_LOSSES);
                host.lease.losses.drain(..old);
            }
        }
        let is_covered = host.is_able() || other.is_able();
        host.lease.covered_since = match host.lease.covered_since {
            since @ Some(_) if is_covered => since,
            _ => is_covered.then_some(now),
        };
    }

    /// For so long one of two replicas ran and reached the API server at any moment, and no more than one was lost that
    /// acted: the payload was stopped in time if it had to be.
    pub(crate) fn was_covered(&self, id: Host, time: Nanos) -> bool {
        let host = &self.hosts[id];
        let since = self.now.saturating_sub(time);
        let covered = host.lease.covered_since.is_some_and(|at| at <= since);
        let losses = host.lease.losses.iter().filter(|at| **at >= since).count();
        host.other.is_some() && covered && losses <= 1 && host.api_up && host.api_changed <= since
    }
}
