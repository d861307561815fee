//! Attending to a member whose node runs: everything that changes, from the object, the node, the payload worker or
//! the API server, is answered here, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{DeletionPolicy, MultiCluster, Settings};
use flagship_node::{Command, Directive, NodeEvent, ResignReason, Snapshot};
use flagship_types::{Health, Role, Term};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinError as TaskError;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use crate::advertise::service_changed;
use crate::commands::{self, Annotation, Order};
use crate::departure::{Departure, Why, can_hand_over};
use crate::events::Notice;
use crate::finalizer;
use crate::gates::Gates;
use crate::happenings::{self, Happening};
use crate::member::{Change, change, node_spec, runs_under_a_lease};
use crate::orders;
use crate::orphan::{Removal, removal};
use crate::payload_worker::Target;
use crate::ports::Probe;
use crate::prepare::invalid_spec;
use crate::request::Reachability;
use crate::second::Second;
use crate::status::Stall;
use crate::supervisor::OnShutdown;
use crate::tenure::{Member, Tenure};
use crate::worker::End;

/// How often is looked at what nobody announces: whether the API server answers, and the time.
const TICK: Duration = Duration::from_millis(500);

/// How often settings that a new node could not start with are tried again: what is in the way may go by itself.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// How long a member whose name another process uses is silent before it joins again; the others refuse it for as long
/// as they hear that one. Short enough that a mistake that was corrected is over while somebody still looks.
const NAME_IN_USE_AGAIN: Duration = Duration::from_secs(60);
/// The same after this process took over from another replica, or with one beside it: the others may hear that one for as
/// long as it does not find out that it is not the one any more, as its node reaches everybody but the API server.
const RELIEVED_AGAIN: Duration = Duration::from_secs(10);
/// The same while something of the payload is here. Mode Quorum: should that other process end, nobody renews the lease for
/// it, and another cluster starts its own once the stop grace is over. This one has to have joined by then, and has the
/// time of a lease yet to hear that it leads.
const RUNNING_AGAIN: Duration = Duration::from_secs(2);

/// How much of what a panic says goes into the history.
const MAX_PANIC_CHARS: usize = 300;

/// The reason of the condition that says why a payload cannot stay behind.
const CANNOT_ORPHAN: &str = "CannotOrphan";

/// Why a member is not attended to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its settings need a new node, or it has to ask anew whether another process has its name.
    Rejoin,
    /// It gave up what it had.
    Departed(Why),
    /// Its object is being deleted and the payload is to stay.
    Orphaned,
    /// Nobody carries out the node's directives any more.
    WorkerEnded,
    /// From outside.
    Interrupted(End),
    /// Its node ended by itself.
    Ended,
}

/// What is remembered while attending.
#[derive(Default)]
struct Attention {
    departure: Option<Departure>,
    health: Option<Health>,
    api_down: bool,
    stopping: Option<Term>,
    running: Option<Term>,
    objects: Option<usize>,
    gates: Gates,
    /// The generation that no node could start with, and when that is tried again.
    refused: Option<(Option<i64>, Instant)>,
    name_in_use_since: Option<Instant>,
    /// Commands already carried out whose annotations may still be there.
    obeyed: BTreeMap<&'static str, String>,
}

/// How long a member whose name is in use waits before it asks again.
fn name_in_use_again(runs: bool, has_other: bool) -> Duration {
    match (runs, has_other) {
        (true, _) => RUNNING_AGAIN,
        (false, true) => RELIEVED_AGAIN,
        (false, false) => NAME_IN_USE_AGAIN,
    }
}

/// The happening of [`Outcome::Ended`].
pub(crate) fn ended() -> Happening {
    Happening::new(Notice::warning("NodeEnded", "this member's node ended unexpectedly; it is started again"))
}

/// The happening of [`Outcome::WorkerEnded`].
fn worker_ended(ended: &Result<(), TaskError>) -> Happening {
    let why = match ended {
        Ok(()) => String::new(),
        Err(error) => format!(" ({})", error.to_string().chars().take(MAX_PANIC_CHARS).collect::<String>()),
    };
    let note = format!(
        "the task that applies and deletes this member's payload ended unexpectedly{why}; it is started again"
    );
    Happening::new(Notice::warning("PayloadWorkerEnded", note))
}

impl Tenure {
    /// Until the node has to end.
    pub(crate) async fn attend(&mut self, member: &mut Member) -> Outcome {
        self.attend_with(member, Attention::default()).await
    }

    /// The same, for a member that is given up from the start.
    pub(crate) async fn attend_departing(&mut self, member: &mut Member, departure: Departure) -> Outcome {
        member.node.tell(Command::Retire(ResignReason::Operator)).await;
        self.attend_with(member, Attention { departure: Some(departure), ..Attention::default() }).await
    }

    async fn attend_with(&mut self, member: &mut Member, mut attention: Attention) -> Outcome {
        let (mut changed, mut directive) = (member.node.changed(), member.node.directive());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What changed while it joined.
        self.object.mark_changed();
        directive.mark_changed();
        loop {
            if let Some(outcome) = self.look(member, &mut attention).await {
                return outcome;
            }
            tokio::select! {
                biased;
                end = self.interruption.wait() => {
                    if let Some(outcome) = self.interrupted(end, member, &mut attention).await {
                        return outcome;
                    }
                }
                _ = &mut member.ended => return Outcome::Ended,
                ended = &mut member.payload.0 => {
                    // It also ends with the node, whose links are closed a little later.
                    let with_node = directive.has_changed().is_err();
                    if with_node {
                        return Outcome::Ended;
                    }
                    self.chronicle.tell(worker_ended(&ended));
                    return Outcome::WorkerEnded;
                }
                seen = self.object.changed() => {
                    if seen.is_err() {
                        return Outcome::Interrupted(End::Gone);
                    }
                    if let Some(outcome) = self.edited(member, &mut attention).await {
                        return outcome;
                    }
                }
                event = member.events.recv() => self.heard(event),
                Some(happening) = member.happenings.recv() => self.chronicle.tell(happening),
                Ok(()) = directive.changed() => self.directed(&directive.borrow_and_update().clone(), &mut attention),
                Ok(()) = member.progress.changed() => {}
                Ok(()) = member.gates.changed() => {}
                Ok(()) = member.fence.changed() => {}
                () = service_changed(&mut self.service) => self.relocate(member).await,
                Ok(()) = changed.changed() => {}
                _ = tick.tick() => {
                    if attention.refused.is_some_and(|(_, again)| again <= Self::now()) {
                        attention.refused = None;
                        self.object.mark_changed();
                    }
                }
            }
        }
    }

    /// Everything that follows from how things are now.
    async fn look(&mut self, member: &mut Member, attention: &mut Attention) -> Option<Outcome> {
        let snapshot = member.node.snapshot();
        let progress = member.progress.borrow().clone();
        self.look_at_api(attention);
        let gates = member.gates.borrow().clone();
        self.tell_gates(&gates, attention);
        let health = progress.health(!attention.api_down, gates.hold());
        if attention.health != Some(health) {
            attention.health = Some(health);
            member.node.tell(Command::Health(health)).await;
        }
        for (phase, after) in self.chronicle.follow(&progress) {
            let callsign = &member.settings.callsign;
            self.context.observer.lead_phase(callsign, &self.identity.member, phase, after);
        }
        let objects = progress.inventory.len();
        if attention.objects.replace(objects) != Some(objects) {
            let callsign = &member.settings.callsign;
            self.context.observer.payload_objects(callsign, &self.identity.member, objects);
        }
        let departure = attention.departure.as_mut();
        let over = departure.and_then(|departure| {
            departure.is_over(&snapshot, &progress, Self::now()).then_some(Outcome::Departed(departure.why))
        });
        let hurry = attention
            .departure
            .as_mut()
            .is_some_and(|departure| departure.has_to_hurry(&snapshot, Self::now()));
        if hurry {
            let note = "the daemon ends before the payload would be gone, so that its pods are ended at once";
            self.chronicle.tell(Happening::new(Notice::warning("StopHurried", note)).under(snapshot.term));
            member.node.tell(Command::Retire(ResignReason::LeaseLost)).await;
        }
        self.show(Some(member), self.shown_generation(member));
        if over.is_none() && self.asks_for_its_name(snapshot.name_in_use, member, attention).await {
            return Some(Outcome::Rejoin);
        }
        // Whether it may go can change without an edit.
        let leaving = attention.departure.is_none() && finalizer::is_deleting(&self.object.borrow());
        if leaving { self.remove(member, attention).await } else { over }
    }

    /// Tells when the gates open and close; that another object of them is to blame changes no more than the status.
    fn tell_gates(&mut self, gates: &Gates, attention: &mut Attention) {
        let was_closed = attention.gates.closed().is_some();
        match gates.closed() {
            Some(closed) if !was_closed => {
                let note = format!("this member is not fit to lead: {closed}");
                self.chronicle.tell(Happening::new(Notice::warning("GateClosed", note)));
            }
            None if was_closed && gates.hold() => {
                self.chronicle.tell(Happening::new(Notice::normal("GatesOpen", "all gates hold again")));
            }
            Some(_) | None => {}
        }
        if *gates != Gates::Unknown {
            attention.gates = gates.clone();
        }
    }

    /// The object is being deleted.
    async fn remove(&mut self, member: &Member, attention: &mut Attention) -> Option<Outcome> {
        if attention.departure.as_ref().is_some_and(|departure| departure.why == Why::Removal) {
            // Decided once: what the others do meanwhile does not change what was begun.
            return None;
        }
        let policy = self.object.borrow().spec.apply.deletion_policy.unwrap_or(DeletionPolicy::Delete);
        match removal(policy, &member.node.snapshot(), self.chronicle.inventory().len()) {
            Removal::Depart => {
                self.stall = self.stall.take().filter(|stall| stall.reason != CANNOT_ORPHAN);
                self.depart(Why::Removal, ResignReason::Removal, member, attention).await;
                None
            }
            Removal::Orphan => Some(Outcome::Orphaned),
            Removal::Blocked(message) => {
                self.goes_on(Stall { reason: CANNOT_ORPHAN.into(), message });
                None
            }
        }
    }

    /// Whether a member whose name somebody else uses starts anew, to find out whether that is still so.
    async fn asks_for_its_name(&mut self, in_use: bool, member: &Member, attention: &mut Attention) -> bool {
        if !in_use || attention.departure.is_some() {
            return false;
        }
        let since = *attention.name_in_use_since.get_or_insert_with(Self::now);
        let runs = attention.objects.is_some_and(|objects| objects > 0);
        since.elapsed() >= name_in_use_again(runs, self.relieves || self.has_second())
            && self.can_rejoin(&member.settings, member.generation, attention).await
    }

    /// Whether a new node could start with these settings. If not, that is shown, and the node that runs goes on, as
    /// with a spec that is not valid: a leader that stopped first would leave its payload running beside another's.
    async fn can_rejoin(
        &mut self,
        settings: &Settings,
        generation: Option<i64>,
        attention: &mut Attention,
    ) -> bool {
        if attention.refused.is_some_and(|(which, again)| which == generation && Self::now() < again) {
            return false;
        }
        let probe = Probe {
            callsign: settings.callsign.clone(),
            member: self.identity.member.clone(),
            listen: settings.listen.clone(),
            port: settings.port,
        };
        let Err(error) = self.context.joiner.probe(probe).await else { return true };
        attention.refused = Some((generation, Self::now() + PROBE_AGAIN));
        let message = format!("{error}. Until then this member goes on with the settings that it had");
        self.goes_on(Stall { reason: error.reason().into(), message });
        false
    }

    /// Shows why the newest settings are not used.
    fn goes_on(&mut self, stall: Stall) {
        if self.stall.as_ref() != Some(&stall) {
            self.chronicle.stalled(&stall);
        }
        self.stall = Some(stall);
    }

    /// The generation that the status is about: the newest one, also if its spec was refused.
    fn shown_generation(&self, member: &Member) -> Option<i64> {
        self.object.borrow().metadata.generation.or(member.generation)
    }

    fn look_at_api(&mut self, attention: &mut Attention) {
        match (self.caller.reachability(), attention.api_down) {
            (Reachability::Down { since, error }, false) => {
                attention.api_down = true;
                let note = format!(
                    "the API server does not answer since {}, so nothing is written: {error}",
                    since.strftime("%H:%M:%SZ")
                );
                self.chronicle.tell(Happening::new(Notice::warning("ApiUnreachable", note)));
            }
            (Reachability::Up, true) => {
                attention.api_down = false;
                self.chronicle
                    .tell(Happening::new(Notice::normal("ApiBack", "the API server answers again")));
            }
            (Reachability::Down { .. }, true) | (Reachability::Up, false) => {}
        }
    }

    async fn interrupted(&mut self, end: End, member: &Member, attention: &mut Attention) -> Option<Outcome> {
        let snapshot = member.node.snapshot();
        let leads = matches!(snapshot.role, Role::Leader | Role::Stopping);
        let hand_over = self.context.options.on_shutdown == OnShutdown::Handover
            && leads
            && snapshot.config.pause.is_none()
            && !member.settings.suspend
            && can_hand_over(&snapshot);
        if end != End::Shutdown || !(hand_over || self.must_not_run_on(&snapshot)) {
            return Some(Outcome::Interrupted(end));
        }
        info!("giving the lead up before this daemon ends");
        // It is on its way; waiting for it again would return at once for ever.
        self.interruption.shutdown = tokio_util::sync::CancellationToken::new();
        self.depart(Why::Shutdown, ResignReason::Operator, member, attention).await;
        None
    }

    /// Mode Quorum: whether a payload may be here that nobody would renew the lease for once this daemon has ended.
    /// Another replica takes the member over as it is. Neither a pause nor `suspend` can promise that there is only one.
    fn must_not_run_on(&self, snapshot: &Snapshot) -> bool {
        runs_under_a_lease(snapshot) && !self.has_second()
    }

    /// Whether another replica is ready to act.
    fn has_second(&self) -> bool {
        matches!(*self.second_seen.borrow(), Second::On { .. } | Second::Beside { .. })
    }

    async fn depart(&mut self, why: Why, reason: ResignReason, member: &Member, attention: &mut Attention) {
        if attention.departure.as_ref().is_none_or(|departure| departure.why != why) {
            let role = member.node.snapshot().role;
            info!(?why, ?role, "this member gives up");
            attention.departure = Some(Departure::new(why, role, Self::now()));
            member.node.tell(Command::Retire(reason)).await;
        }
    }

    /// The object changed.
    async fn edited(&mut self, member: &mut Member, attention: &mut Attention) -> Option<Outcome> {
        let object = self.object.borrow_and_update().clone();
        if attention.departure.as_ref().is_some_and(|departure| departure.why == Why::Shutdown) {
            // The daemon ends, and the next one reads it.
            return None;
        }
        if finalizer::is_deleting(&object) {
            return self.remove(member, attention).await;
        }
        if !finalizer::is_set(&object)
            && let Err(error) = finalizer::add(&self.api, &self.caller, &object).await
        {
            warn!(%error, "somebody took the finalizer off, and it cannot be set again");
        }
        self.obey(&object, member, attention).await;
        if object.metadata.generation == member.generation {
            return None;
        }
        let settings = match object.spec.settings() {
            Ok(settings) => settings,
            Err(wrong) => {
                // It goes on with the settings that were good.
                self.goes_on(invalid_spec(&wrong));
                return None;
            }
        };
        let settings = match change(&member.settings, &settings) {
            Change::Rejoin | Change::OtherFleet => settings,
            Change::Tell | Change::Nothing => self.located(settings).await,
        };
        let what = change(&member.settings, &settings);
        if what == Change::Rejoin && !self.can_rejoin(&settings, object.metadata.generation, attention).await
        {
            return None;
        }
        self.stall = None;
        info!(?what, generation = object.metadata.generation, "the object was edited");
        match what {
            Change::Rejoin => return Some(Outcome::Rejoin),
            Change::OtherFleet => {
                self.depart(Why::OtherFleet, ResignReason::Removal, member, attention).await;
                return None;
            }
            Change::Tell => member.node.tell(Command::Spec(node_spec(&settings))).await,
            Change::Nothing => {}
        }
        member.generation = object.metadata.generation;
        member.settings = settings.clone();
        member.fenced.send_replace(settings.fenced);
        member.target.send_replace(Target { generation: member.generation.unwrap_or(0), settings });
        None
    }

    /// Carries out what annotations ask for, once, and takes them off.
    async fn obey(&mut self, object: &Arc<MultiCluster>, member: &Member, attention: &mut Attention) {
        let annotations = commands::read(object);
        attention.obeyed.retain(|key, _| annotations.iter().any(|annotation| annotation.key == *key));
        for annotation in annotations {
            if attention.obeyed.get(annotation.key) != Some(&annotation.value) {
                self.carry_out(&annotation, member).await;
                attention.obeyed.insert(annotation.key, annotation.value);
            }
            if let Err(error) = commands::remove(&self.api, &self.caller, object, annotation.key).await {
                // The watch shows the object again, and it is tried again.
                warn!(key = annotation.key, %error, "annotation not removed yet");
            }
        }
    }

    async fn carry_out(&mut self, annotation: &Annotation, member: &Member) {
        let happening = match &annotation.order {
            Err(error) => {
                Happening::new(Notice::warning("CommandRefused", format!("{}: {error}", annotation.key)))
            }
            // An earlier process of this member carried it out.
            Ok(Order::Operator(order)) if self.chronicle.answered(&order.id) => return,
            Ok(Order::Operator(order)) => {
                let (answer, happening) = orders::carry_out(annotation.key, order, &member.node).await;
                self.chronicle.answer(answer);
                happening
            }
            Ok(Order::Admit { member: who, reason }) => {
                member.node.tell(Command::Admit(who.clone())).await;
                Happening::new(Notice::normal("Admitted", format!("an operator admitted {who}: {reason}")))
            }
            Ok(Order::Forget { member: who, reason }) if *who == self.identity.member => {
                let note = format!("{who} cannot forget itself ({reason}): delete its MultiCluster instead");
                Happening::new(Notice::warning("CommandRefused", note))
            }
            Ok(Order::Forget { member: who, reason }) => {
                member.node.tell(Command::Forget(who.clone())).await;
                let note = format!(
                    "{who} is forgotten, nobody waits for it any more: an operator declared it gone ({reason})"
                );
                Happening::new(Notice::normal("Forgotten", note))
            }
        };
        self.chronicle.tell(happening);
    }

    /// Everything that was told and not read yet.
    pub(crate) fn hear_the_rest(&mut self, member: &mut Member) {
        loop {
            match member.events.try_recv() {
                Ok(event) => self.heard(Ok(event)),
                Err(TryRecvError::Lagged(lost)) => self.heard(Err(RecvError::Lagged(lost))),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        while let Ok(happening) = member.happenings.try_recv() {
            self.chronicle.tell(happening);
        }
    }

    fn heard(&mut self, event: Result<NodeEvent, RecvError>) {
        match event {
            Ok(event) => self.chronicle.tell_node(&event),
            Err(RecvError::Lagged(lost)) => warn!(lost, "events of the node were lost"),
            // Its end is seen on its task.
            Err(RecvError::Closed) => {}
        }
    }

    fn directed(&mut self, directive: &Directive, attention: &mut Attention) {
        match directive {
            Directive::Stop { term, reason } if attention.stopping.replace(*term) != Some(*term) => {
                self.chronicle.tell(happenings::stopping(*term, *reason));
            }
            Directive::Run { term, resumed }
                if attention.running.replace(*term) != Some(*term) && *resumed =>
            {
                self.chronicle.tell(happenings::resumed(*term));
            }
            Directive::Stop { .. } | Directive::Run { .. } | Directive::Hold | Directive::Absent => {}
        }
    }
}
