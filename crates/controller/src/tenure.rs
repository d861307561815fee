//! The time in which this process serves one member: prepare, join, attend, and again if the object's settings ask
//! for it. The states follow each other from the top down in [`Tenure::serve`].

use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{MultiCluster, Settings};
use flagship_node::{Command, NodeEvent, NodeHandle};
use flagship_payload::{Endings, Owner};
use flagship_types::MemberName;
use jiff::Timestamp;
use kube::Api;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, debug, info, warn};

use crate::attend::{Outcome, ended};
use crate::chronicle::Chronicle;
use crate::departure::Why;
use crate::events::{Notice, Publisher};
use crate::fence::{Fence, Fencing};
use crate::finalizer;
use crate::gates::{self, Gates};
use crate::happenings::Happening;
use crate::judge;
use crate::lease::LeaseWatch;
use crate::member::{machine_config, runs_under_a_lease};
use crate::orphan;
use crate::payload_worker::{self, PayloadWorker, Target};
use crate::ports::{Joined, MemberStart, Waiting};
use crate::prepare::{Prepared, Ready};
use crate::progress::Progress;
use crate::request::{CallError, Caller};
use crate::second::{self, Second};
use crate::service::ServiceWatch;
use crate::status::{Stall, View, picture};
use crate::status_writer::{Start, StatusHandle};
use crate::unleased::Promised;
use crate::worker::{Context, End, Identity, Interruption, Worker};

/// How long after a failed step it is tried again, at first and at most.
pub(crate) const RETRY: Duration = Duration::from_millis(500);
pub(crate) const MAX_RETRY: Duration = Duration::from_secs(5);
/// What a daemon that ends asks the others to wait for it, the default of the Away announcement.
pub(crate) const AWAY_GRACE: Duration = Duration::from_secs(30);
/// What a member that rejoins asks for: it takes well under a second.
const REJOIN_GRACE: Duration = Duration::from_secs(10);
/// How long a node may take to close its links. Then it is left behind.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the last write of the status may take when the daemon ends.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

/// A member whose node runs.
pub(crate) struct Member {
    pub node: NodeHandle,
    pub events: broadcast::Receiver<NodeEvent>,
    pub ended: JoinHandle<()>,
    pub settings: Settings,
    /// The generation whose settings are in use.
    pub generation: Option<i64>,
    pub target: watch::Sender<Target>,
    pub progress: watch::Receiver<Progress>,
    pub happenings: mpsc::Receiver<Happening>,
    pub payload: AbortOnDrop,
    pub gates: watch::Receiver<Gates>,
    /// Looks at the gates.
    pub _gate_watch: AbortOnDrop,
    /// Whether the API server is to check writes, and what came of that.
    pub fenced: watch::Sender<bool>,
    pub fence: watch::Receiver<Fence>,
    pub _fencing: AbortOnDrop,
    /// Tells the node until when it may vote.
    pub _votes: AbortOnDrop,
}

/// A task that does not outlive its owner.
pub(crate) struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Member {
    /// A node never outlives its worker, however that ends: with nobody to carry out its directives it must not lead.
    fn drop(&mut self) {
        if !self.ended.is_finished() {
            let node = self.node.clone();
            tokio::spawn(async move { node.tell(Command::Shutdown).await });
        }
    }
}

/// Tells a node with each renewal of the local Lease until when it may vote as this member.
async fn vote_while_held(mut lease: LeaseWatch, node: NodeHandle) {
    while let Some(until) = lease.next_votes_until().await {
        node.tell(Command::HeldUntil(until)).await;
    }
}

/// The time in which this process holds the member's Lease.
pub(crate) struct Tenure {
    pub(crate) context: Arc<Context>,
    pub(crate) identity: Identity,
    pub(crate) object: watch::Receiver<Arc<MultiCluster>>,
    pub(crate) interruption: Interruption,
    pub(crate) caller: Caller,
    pub(crate) api: Api<MultiCluster>,
    pub(crate) chronicle: Chronicle,
    pub(crate) stall: Option<Stall>,
    pub(crate) status: Option<StatusHandle>,
    /// A stored start that no node has used, because it could not join.
    pub(crate) unused: Option<Start>,
    pub(crate) lease: LeaseWatch,
    /// The Service that says where others reach this member.
    pub(crate) service: Option<ServiceWatch>,
    pub(crate) retry: Duration,
    /// Answers who dials the member until it has joined, or waits for a person.
    pub(crate) waiting: Option<Waiting>,
    /// Whether another replica is ready to act.
    pub(crate) second_seen: watch::Sender<Second>,
    /// This process waited for the Lease: another replica had it.
    pub(crate) relieves: bool,
    /// Since when no node of this process can have kept a lease for what runs here. `None`: one does, or nothing runs.
    pub(crate) unled_since: Option<Instant>,
    /// Until when a node of this process led, under its lease. `None`: none did, or it had given the lead up.
    pub(crate) led_until: Option<Instant>,
    /// The last node of this process knew of nothing here that needs a lease.
    pub(crate) left_nothing: bool,
    /// When pods end that had to while no node of this process was there to stop them.
    pub(crate) endings: Endings,
}

impl Tenure {
    pub(crate) fn new(
        worker: &Worker,
        caller: Caller,
        events: Publisher,
        interruption: Interruption,
        lease: LeaseWatch,
    ) -> Self {
        let context = Arc::clone(&worker.context);
        let api = Api::namespaced(context.client.clone(), &worker.identity.namespace);
        let second_seen = watch::Sender::new(second::at_first(context.options.node.as_ref()));
        Self {
            context,
            identity: worker.identity.clone(),
            object: worker.object.clone(),
            interruption,
            caller,
            api,
            chronicle: Chronicle::new(worker.identity.member.clone(), events),
            stall: None,
            status: None,
            unused: None,
            left_nothing: false,
            lease,
            service: None,
            retry: RETRY,
            waiting: None,
            second_seen,
            relieves: false,
            unled_since: Some(Instant::now()),
            led_until: None,
            endings: Endings::default(),
        }
    }

    /// Until the end of the tenure.
    pub(crate) async fn serve(&mut self) -> End {
        loop {
            let mut interruption = self.interruption.clone();
            let prepared = tokio::select! {
                biased;
                end = interruption.wait() => return end,
                prepared = self.prepare() => prepared,
            };
            let step = match prepared {
                Prepared::Done => Some(End::Removed),
                Prepared::Leftovers => self.remove_leftovers().await,
                Prepared::Wait(time) => self.wait_unjoined(time).await,
                Prepared::Ready(ready) => match self.join(*ready).await {
                    Ok(member) => self.run(member).await,
                    // It cannot hand anything over if it cannot join.
                    Err(_) if finalizer::is_deleting(&self.object.borrow()) => self.remove_leftovers().await,
                    Err(time) => self.wait_unjoined(time).await,
                },
            };
            if let Some(end) = step {
                return end;
            }
        }
    }

    /// Waits for an edit of the object, or for the time to try again. Its status does not count: we write that.
    pub(crate) async fn wait(&mut self, time: Duration) -> Option<End> {
        let edited = |object: &MultiCluster| (object.metadata.generation, finalizer::is_deleting(object));
        let now = edited(&self.object.borrow());
        tokio::select! {
            biased;
            end = self.interruption.wait() => Some(end),
            gone = async { self.object.wait_for(|object| edited(object) != now).await.is_err() } => gone.then_some(End::Gone),
            () = tokio::time::sleep(time) => None,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner { namespace: self.identity.namespace.clone(), name: self.identity.name.clone() }
    }

    /// Starts the node and the payload worker. On failure: how long to wait before the next try.
    pub(crate) async fn join(&mut self, ready: Ready) -> Result<Member, Duration> {
        let Ready { object, settings, start, record, inventory, found } = ready;
        let status = self.open_status().await.map_err(|_| self.retry)?;
        let mut machine = machine_config(&settings, self.member(), &start, record, found);
        machine.votes_until = Some(self.lease.votes_until());
        let store = status.store(&settings.callsign);
        let (listen, port) = (settings.listen.clone(), settings.port);
        let joined = self.context.joiner.join(MemberStart { machine, listen, port, store }).await;
        let Joined { node, events, ended } = match joined {
            Ok(joined) => joined,
            Err(error) => {
                let stall = Stall { reason: error.reason().into(), message: error.to_string() };
                self.stalled(&object, stall);
                self.unused = Some(start);
                return Err(MAX_RETRY);
            }
        };
        self.unled_since = None;
        // It answers at the same place itself.
        self.waiting = None;
        self.stall = None;
        self.context.observer.member_joined(&settings.callsign, self.member(), &node);
        let generation = object.metadata.generation;
        let first = Target { generation: generation.unwrap_or(0), settings: settings.clone() };
        let (target, targets) = watch::channel(first);
        let context = Arc::clone(&self.context);
        let (gate_watch, gates) = gates::watch(Arc::clone(&context), self.owner(), targets.clone());
        let (payload, progress, happenings) = PayloadWorker::spawn(
            context,
            self.owner(),
            node.clone(),
            status,
            self.lease.clone(),
            targets,
            inventory,
        );
        let (fenced, wanted) = watch::channel(settings.fenced);
        let (told, fence) = watch::channel(if settings.fenced { Fence::Pending } else { Fence::Off });
        let _votes = AbortOnDrop(tokio::spawn(vote_while_held(self.lease.clone(), node.clone())));
        let (fencing, lease) = (self.fencing(), self.lease.clone());
        let keep = async move { fencing.keep(lease, wanted, told).await };
        let _fencing = AbortOnDrop(tokio::spawn(keep.in_current_span()));
        Ok(Member {
            node,
            events,
            ended,
            settings,
            generation,
            target,
            progress,
            happenings,
            payload,
            gates,
            _gate_watch: gate_watch,
            fenced,
            fence,
            _fencing,
            _votes,
        })
    }

    fn fencing(&self) -> Fencing {
        Fencing {
            client: self.context.client.clone(),
            caller: self.caller.clone(),
            identity: self.identity.clone(),
            holder: self.context.options.holder.clone(),
        }
    }

    /// Lets the object go: the API server's check first, which would be left without anybody to take it down.
    pub(crate) async fn let_go(&self, object: &MultiCluster) -> Result<(), CallError> {
        self.fencing().take_down().await?;
        finalizer::remove(&self.api, &self.caller, object).await
    }

    pub(crate) fn member(&self) -> &MemberName {
        &self.identity.member
    }

    /// Attends to the member, and to what follows from how that ended.
    async fn run(&mut self, mut member: Member) -> Option<End> {
        let outcome = self.attend(&mut member).await;
        info!(?outcome, "this member's node ends");
        self.follow(outcome, member).await
    }

    pub(crate) async fn follow(&mut self, outcome: Outcome, member: Member) -> Option<End> {
        let callsign = member.settings.callsign.clone();
        let outcome = match outcome {
            // Nothing is started again. That the daemon ends was noticed before, and is not told twice.
            Outcome::Rejoin | Outcome::WorkerEnded | Outcome::Ended
                if self.context.shutdown.is_cancelled() =>
            {
                Outcome::Interrupted(End::Shutdown)
            }
            other => other,
        };
        match outcome {
            Outcome::Ended => {
                self.chronicle.tell(ended());
                self.close(member).await;
                self.flush().await;
                self.wait(RETRY).await
            }
            Outcome::WorkerEnded => {
                member.node.tell(Command::Away(REJOIN_GRACE)).await;
                self.close(member).await;
                self.flush().await;
                self.wait(RETRY).await
            }
            Outcome::Rejoin => {
                member.node.tell(Command::Away(REJOIN_GRACE)).await;
                self.close(member).await;
                // What the next node starts from is read from the status.
                self.flush().await;
                None
            }
            Outcome::Interrupted(End::Shutdown) | Outcome::Departed(Why::Shutdown) => {
                self.left_nothing = !runs_under_a_lease(&member.node.snapshot());
                member.node.tell(Command::Away(AWAY_GRACE)).await;
                self.close(member).await;
                self.flush().await;
                Some(End::Shutdown)
            }
            Outcome::Interrupted(end) => {
                self.close(member).await;
                self.context.observer.member_gone(&callsign, &self.identity.member);
                Some(end)
            }
            Outcome::Departed(Why::OtherFleet) => {
                member.node.tell(Command::Leave).await;
                self.close(member).await;
                self.context.observer.member_gone(&callsign, &self.identity.member);
                self.flush().await;
                None
            }
            Outcome::Orphaned => {
                // Before the node gives anything up: nothing of the payload is to be deleted any more.
                member.payload.0.abort();
                member.node.tell(Command::Leave).await;
                self.close(member).await;
                self.context.observer.member_gone(&callsign, &self.identity.member);
                self.release().await
            }
            Outcome::Departed(Why::Removal) => {
                member.node.tell(Command::Leave).await;
                self.close(member).await;
                self.context.observer.member_gone(&callsign, &self.identity.member);
                self.remove_leftovers().await
            }
        }
    }

    /// Stops all payload writes, then the node. The payload stays as it is.
    async fn close(&mut self, mut member: Member) {
        member.payload.0.abort();
        member.node.tell(Command::Shutdown).await;
        // Its end may have been seen already, and is not to be waited for twice.
        if !member.ended.is_finished()
            && tokio::time::timeout(CLOSE_TIMEOUT, &mut member.ended).await.is_err()
        {
            warn!("the node did not end in time; it is left behind");
            member.ended.abort();
        }
        let snapshot = member.node.snapshot();
        // A process that was paused may have lost its lease meanwhile.
        let led = member.progress.borrow().applied.is_some() && !snapshot.interrupted;
        self.led_until = led.then(Self::now);
        self.unled_since = Some(Self::now());
        self.hear_the_rest(&mut member);
    }

    pub(crate) async fn flush(&self) {
        let Some(status) = &self.status else { return };
        match tokio::time::timeout(FLUSH_TIMEOUT, status.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the last status was not written"),
            Err(_) => debug!("the last status was not written in time"),
        }
    }

    /// Deletes whatever is still here of an object that is being deleted, without a node: it has left its fleet or
    /// cannot be in one. Then takes the finalizer off.
    pub(crate) async fn remove_leftovers(&mut self) -> Option<End> {
        let mut interruption = self.interruption.clone();
        let removed = tokio::select! {
            biased;
            end = interruption.wait() => return Some(end),
            removed = self.try_remove_leftovers() => removed,
        };
        match removed {
            Ok(()) => Some(End::Removed),
            Err(error) => {
                let note = format!("cannot remove what this member left behind: {error}; it is tried again");
                self.chronicle.tell(Happening::new(Notice::warning("RemovalFailed", note)).event_only());
                self.wait(MAX_RETRY).await
            }
        }
    }

    async fn try_remove_leftovers(&mut self) -> Result<(), String> {
        let status = self.open_status().await.map_err(|error| error.to_string())?;
        let stored = status.read().await.map_err(|error| error.to_string())?;
        let (inventory, _) = self.discover(&stored).await.map_err(|error| error.to_string())?;
        let object = self.object.borrow().clone();
        // Nobody leads here any more, and the process that the status names may be one before this one.
        self.fencing().take_down().await.map_err(|error| error.to_string())?;
        if orphan::keeps(&object, &stored, self.member(), &inventory)? {
            self.tell_orphaned(inventory.len());
        } else if !inventory.is_empty() {
            let pods = Promised::of(&stored).map(|promised| self.pods_left(promised.stop_grace));
            let tracker = self.tracker(inventory);
            let cleared =
                payload_worker::clear(&self.context, &self.owner(), self.lease.clone(), &tracker, pods).await;
            self.endings = tracker.borrow().endings.clone();
            cleared?;
        }
        self.let_go(&object).await.map_err(|error| error.to_string())
    }

    /// Shows that nothing goes on before somebody changes something.
    pub(crate) fn stalled(&mut self, object: &MultiCluster, mut stall: Stall) {
        // Who dials again soon would dial in vain.
        self.waiting = None;
        let left = self.chronicle.inventory().len();
        if left > 0 {
            stall.message.push_str("; meanwhile the payload that runs here (");
            stall.message.push_str(&judge::objects(left));
            stall.message.push_str(") stays, and others may start theirs");
        }
        if self.stall.as_ref() != Some(&stall) {
            self.chronicle.stalled(&stall);
        }
        self.stall = Some(stall);
        self.show(None, object.metadata.generation);
    }

    /// Shows the newest picture.
    pub(crate) fn show(&mut self, member: Option<&Member>, generation: Option<i64>) {
        let Some(status) = &self.status else { return };
        let fence = member.map(|member| member.fence.borrow().clone()).unwrap_or_default();
        let snapshot = member.map(|member| member.node.snapshot());
        let progress = member.map(|member| member.progress.borrow().clone());
        // Without a worker nobody knows more of the payload than the status says already.
        let progress = progress.unwrap_or_else(|| Progress {
            inventory: self.chronicle.inventory().to_vec(),
            ..Progress::default()
        });
        let gates = member.map(|member| member.gates.borrow().clone()).unwrap_or_default();
        let leader_since = snapshot.as_ref().and_then(|snapshot| self.chronicle.leader_since(snapshot));
        let view = View {
            namespace: &self.identity.namespace,
            member: &self.identity.member,
            generation,
            settings: member.map(|member| &member.settings),
            snapshot: snapshot.as_deref(),
            progress: &progress,
            gates: &gates,
            reach: self.caller.reachability(),
            stall: self.stall.as_ref(),
            second: &self.second_seen.borrow().clone(),
            fence: &fence,
            service: self.service.as_ref().and_then(ServiceWatch::trouble),
            removal: finalizer::is_deleting(&self.object.borrow()),
            history: self.chronicle.history(),
            last_order: self.chronicle.last_order(),
            leader_since,
            wall: Timestamp::now(),
            boot: flagship_node::boot_now(),
        };
        status.show(picture(&view));
        self.chronicle.set_inventory(progress.inventory);
    }

    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
#[path = "tenure_tests.rs"]
pub(crate) mod tests;
#[cfg(test)]
#[path = "votes_tests.rs"]
mod votes_tests;
