//! The task that runs a machine on real clocks, links and storage.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use flagship_election::Directive;
use flagship_types::{CloseCode, Instant};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{Instrument, debug, info, warn};

use crate::clock::{PauseDetector, boot_now, wall_ms};
use crate::handle::{Command, NodeEvent, NodeHandle};
use crate::machine::{Machine, MachineConfig, MachineOutput};
use crate::ports::{DurableRecord, LinkEvent, Links, RefusalReason, Signer, Store};
use crate::snapshot::Snapshot;

/// The loop turns at least this often, so that a pause is noticed soon after it ended.
const TICK: Duration = Duration::from_millis(250);
/// Commands that may wait. Senders wait when it is full, so nothing is lost.
const COMMAND_QUEUE: usize = 64;
/// Events a slow reader may lag behind before it loses the oldest.
const EVENT_QUEUE: usize = 256;
/// How old round trip times and ages in the picture may be.
const PICTURE_INTERVAL: Duration = Duration::from_secs(1);

/// Starts a node. It ends after [`Command::Shutdown`], or when the links end. The receiver has all of its events from
/// the first one on.
pub fn spawn(
    config: MachineConfig,
    links: Arc<dyn Links>,
    signer: Arc<dyn Signer>,
    link_events: mpsc::Receiver<LinkEvent>,
    store: Arc<dyn Store>,
) -> (NodeHandle, broadcast::Receiver<NodeEvent>, JoinHandle<()>) {
    let span = tracing::info_span!("node", callsign = %config.callsign, member = %config.member);
    let now = boot_now();
    let machine = Machine::new(config, signer, now);
    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (events, from_the_start) = broadcast::channel(EVENT_QUEUE);
    let (directive, directive_seen) = watch::channel(machine.directive().clone());
    let (changes, changed) = watch::channel(0);
    let snapshot = Arc::new(ArcSwap::from_pointee(machine.snapshot(now)));
    let (records, persisted) = spawn_persister(store, events.clone());
    let handle = NodeHandle {
        commands,
        snapshot: Arc::clone(&snapshot),
        changed,
        directive: directive_seen,
        events: events.clone(),
    };
    let driver = Driver { machine, links, records, events, directive, changes, snapshot, pictured_at: now };
    let task = tokio::spawn(driver.run(command_queue, link_events, persisted).instrument(span));
    (handle, from_the_start, task)
}

struct Driver {
    machine: Machine,
    links: Arc<dyn Links>,
    records: watch::Sender<Option<DurableRecord>>,
    events: broadcast::Sender<NodeEvent>,
    directive: watch::Sender<Directive>,
    changes: watch::Sender<u64>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    pictured_at: Instant,
}

/// What woke the loop.
enum Wake {
    Timer,
    Link(LinkEvent),
    Command(Command),
    Persisted(u64),
    Ended,
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut link_events: mpsc::Receiver<LinkEvent>,
        mut persisted: mpsc::Receiver<u64>,
    ) {
        let mut pauses = PauseDetector::new(boot_now(), wall_ms());
        self.links.set_hello(self.machine.hello());
        loop {
            self.perform();
            let now = boot_now();
            let due = self.machine.next_timeout().map_or(now + TICK, |at| at.min(now + TICK)).max(now);
            let wake = tokio::select! {
                event = link_events.recv() => event.map_or(Wake::Ended, Wake::Link),
                command = commands.recv() => command.map_or(Wake::Ended, Wake::Command),
                Some(version) = persisted.recv() => Wake::Persisted(version),
                () = tokio::time::sleep(due.since(now)) => Wake::Timer,
            };
            let now = boot_now();
            // Before anything else, even before the answer that woke us: did we sleep through something?
            let tolerated = self.machine.election().pause_tolerance();
            if let Some(missed) = pauses.observe((now, wall_ms()), due, tolerated) {
                debug!(?missed, "this process did not run");
                self.machine.paused(missed, now);
            }
            match wake {
                Wake::Timer => {}
                Wake::Link(event) => self.link_event(event, now),
                Wake::Command(Command::Shutdown) | Wake::Ended => break,
                Wake::Command(command) => self.command(command, now),
                Wake::Persisted(version) => self.machine.persisted(version, now),
            }
            if self.machine.next_timeout().is_some_and(|at| at <= now) {
                self.machine.handle_timeout(now);
            }
        }
        self.perform();
        for link in self.machine.links() {
            self.links.close(link, CloseCode::ShuttingDown);
        }
        info!("node ends");
    }

    fn link_event(&mut self, event: LinkEvent, now: Instant) {
        match &event {
            LinkEvent::Up { hello, dialled, .. } => {
                info!(peer = %hello.get().member, ?dialled, "link up");
            }
            LinkEvent::Down { link, end } => {
                let peer = self.machine.membership().peer_of(*link);
                info!(?peer, ?end, "link down");
            }
            LinkEvent::ConnectFailed { address, reason, .. } => debug!(%address, reason, "cannot connect"),
            // Nobody makes an Event of it.
            LinkEvent::Refused(refusal) if refusal.reason == RefusalReason::Anonymous => {
                warn!(reason = refusal.reason.as_str(), "{}", refusal.sentence);
            }
            // Told as events, whose reader logs them.
            LinkEvent::Refused(_)
            | LinkEvent::Warning(_)
            | LinkEvent::Renewed
            | LinkEvent::Message { .. } => {}
        }
        self.machine.link_event(event, now);
    }

    fn command(&mut self, command: Command, now: Instant) {
        let machine = &mut self.machine;
        match command {
            Command::Spec(spec) => machine.spec(spec, now),
            Command::Health(health) => machine.health(health, now),
            Command::Promoted(term) => machine.promoted(term, now),
            Command::DeletionBegan(term) => machine.deletion_began(term, now),
            Command::PayloadStopped(term) => machine.payload_stopped(term, now),
            Command::StopStuck { term, object } => machine.stop_stuck(term, object, now),
            Command::StopRefused { term, because } => machine.stop_refused(term, because, now),
            Command::Admit(member) => machine.admit(member, now),
            Command::Forget(member) => machine.forget(member, now),
            Command::Retire(reason) => machine.retire(reason, now),
            Command::HandOver { to, reason } => machine.hand_over(to, reason, now),
            Command::Order { order, reply } => {
                // The asker may have given up; the order stands.
                let _ = reply.send(machine.order(order, now));
            }
            Command::HeldUntil(until) => machine.held_until(until),
            Command::Away(grace) => machine.away(grace, now),
            Command::Leave => machine.leave(now),
            Command::Permit { purpose, reply } => {
                // The asker may have given up; then nobody needs the permit.
                let _ = reply.send(machine.permit(purpose, now));
            }
            // Handled by the loop.
            Command::Shutdown => {}
        }
    }

    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                MachineOutput::Connect(address) => self.links.connect(&address),
                MachineOutput::Close(link, code) => self.links.close(link, code),
                MachineOutput::Send(link, message) => self.links.send(link, message),
                MachineOutput::Hello(hello) => self.links.set_hello(hello),
                MachineOutput::Persist(record) => {
                    self.records.send_replace(Some(record));
                }
                MachineOutput::Direct(directive) => {
                    info!(?directive, "payload directive");
                    self.directive.send_replace(directive);
                }
                MachineOutput::Event(event) => {
                    debug!(?event, "event");
                    // No reader is fine.
                    let _ = self.events.send(event);
                }
            }
        }
        self.picture();
    }

    fn picture(&mut self) {
        let now = boot_now();
        let dirty = self.machine.take_dirty();
        if dirty || now.since(self.pictured_at) >= PICTURE_INTERVAL {
            self.snapshot.store(Arc::new(self.machine.snapshot(now)));
            self.pictured_at = now;
        }
        if dirty {
            self.changes.send_modify(|version| *version = version.wrapping_add(1));
        }
    }
}

/// Persists records one after the other, always the newest, until each is durable. Because a record replaces the
/// one before as a whole, skipping an older one loses nothing.
fn spawn_persister(
    store: Arc<dyn Store>,
    events: broadcast::Sender<NodeEvent>,
) -> (watch::Sender<Option<DurableRecord>>, mpsc::Receiver<u64>) {
    let (records, mut newest) = watch::channel(None::<DurableRecord>);
    let (done, persisted) = mpsc::channel(COMMAND_QUEUE);
    let run = async move {
        while newest.changed().await.is_ok() {
            let mut backoff = backoff();
            loop {
                let Some(record) = newest.borrow_and_update().clone() else { break };
                match store.persist(&record).await {
                    Ok(()) => {
                        if done.send(record.election.version).await.is_err() {
                            return;
                        }
                        break;
                    }
                    Err(error) => {
                        debug!(%error, "cannot store what must be durable");
                        let _ = events.send(NodeEvent::StoreFailed(error.to_string()));
                        let wait = backoff.next().unwrap_or(MAX_STORE_BACKOFF);
                        // A newer record is worth an earlier try; a closed channel ends the node.
                        tokio::select! {
                            () = tokio::time::sleep(wait) => {}
                            changed = newest.changed() => if changed.is_err() { return } else { newest.mark_changed() },
                        }
                    }
                }
            }
        }
    };
    tokio::spawn(run.in_current_span());
    (records, persisted)
}

/// The longest pause between two tries to store: an election may wait for it.
const MAX_STORE_BACKOFF: Duration = Duration::from_secs(2);

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_STORE_BACKOFF)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
