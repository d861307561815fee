//! Tells HTTP endpoints when the lead comes to this member and when it goes. The steps that wait for an answer are here;
//! what is delivered, how it is signed and how it is sent are in the files beside.

mod background;
mod delivery;
mod post;
mod signature;

use std::time::Duration;

use flagship_k8s_api::{Hook, HookPoint, KeyRef};
use flagship_node::{Command, ResignReason};
use flagship_types::{MemberName, Term, format_duration};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::Instant;

pub(crate) use background::{Background, Due};

use crate::events::Notice;
use crate::happenings::Happening;
use crate::hooks::delivery::{Delivery, Occasion};
use crate::hooks::post::post;
use crate::payload_worker::{PayloadWorker, Target};
use crate::request::{Caller, Verb};

/// The pause after the first failed attempt, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What the hooks were told of the lead that this member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// beforePromote is done with: the payload may be written.
    promoting: bool,
    /// afterPromote was sent, or there is nothing to tell.
    promoted: bool,
    /// The node knows that the promotion went through.
    through: bool,
    /// beforePromote failed: what is here is no payload that was asked for, whatever it is.
    blocked: bool,
    /// Which stop beforeDemote was called for.
    demoting: Option<Term>,
}

/// Delivers, with as many attempts as the hook has. The error is a sentence.
async fn deliver(
    client: &kube::Client,
    caller: &Caller,
    namespace: &str,
    hook: &Hook,
    delivery: &Delivery,
) -> Result<(), String> {
    let mut pause = PAUSE;
    let mut left = hook.retries;
    loop {
        let error = match attempt(client, caller, namespace, hook, delivery).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if left == 0 {
            let times = match hook.retries {
                0 => String::new(),
                retries => format!(" ({} attempts)", retries + 1),
            };
            return Err(format!("spec.hooks.{}: {error}{times}", delivery.point));
        }
        left -= 1;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn attempt(
    client: &kube::Client,
    caller: &Caller,
    namespace: &str,
    hook: &Hook,
    delivery: &Delivery,
) -> Result<(), String> {
    // Read each time: a key that was changed counts at once.
    let key = match &hook.secret {
        Some(secret) => Some(read_key(client, caller, namespace, secret).await?),
        None => None,
    };
    post(hook, delivery, key.as_deref()).await.map_err(|error| error.to_string())
}

async fn read_key(
    client: &kube::Client,
    caller: &Caller,
    namespace: &str,
    secret: &KeyRef,
) -> Result<Vec<u8>, String> {
    let KeyRef { name, key } = secret;
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let get = async { api.get_opt(name).await };
    let found = caller.call(Verb::Get, get).await.map_err(|error| format!("secretRef: {error}"))?;
    let found = found.ok_or_else(|| format!("secretRef: Secret {namespace}/{name} does not exist"))?;
    let value = found.data.unwrap_or_default().remove(key).map(|value| value.0);
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("secretRef: Secret {namespace}/{name} has no key {key:?}, or an empty one"))
}

impl PayloadWorker {
    fn occasion(&self, point: HookPoint, term: Term, reason: &'static str, target: &Target) -> Occasion {
        Occasion {
            callsign: target.settings.callsign.as_str().to_owned(),
            member: self.member().to_string(),
            event: point.as_str(),
            term: term.0,
            reason,
            predecessor: None,
            may_run_at: None,
            successor: None,
            namespace: self.owner.namespace.clone(),
            name: self.owner.name.clone(),
        }
    }

    fn promotion(&self, point: HookPoint, term: Term, target: &Target) -> Delivery {
        let snapshot = self.node.snapshot();
        let ascent = snapshot.ascent.as_ref();
        let reason = ascent.map_or("Resumed", |ascent| ascent.reason.as_str());
        let predecessor = ascent.and_then(|ascent| ascent.predecessor.as_ref()).map(ToString::to_string);
        let may_run_at = (point == HookPoint::BeforePromote)
            .then(|| snapshot.may_run_at.iter().map(ToString::to_string).collect());
        let occasion = Occasion { predecessor, may_run_at, ..self.occasion(point, term, reason, target) };
        Delivery::new(point, &occasion)
    }

    fn demotion(&self, point: HookPoint, term: Term, reason: ResignReason, target: &Target) -> Delivery {
        let successor: Option<MemberName> = self.node.snapshot().successor.clone();
        let successor = successor.map(|name| name.to_string());
        Delivery::new(point, &Occasion { successor, ..self.occasion(point, term, reason.as_str(), target) })
    }

    /// Delivers and tells how that went.
    async fn call_hook(&self, hook: &Hook, delivery: &Delivery, term: Term) -> Result<(), String> {
        let began = Instant::now();
        let result = deliver(&self.context.client, &self.caller, &self.owner.namespace, hook, delivery).await;
        match &result {
            Ok(()) => self.tell(delivered(delivery.point, term, began.elapsed())),
            Err(error) => self.tell(failed(delivery.point, term, error)),
        }
        result
    }

    /// Before the first write of a lead: asks beforePromote. A payload that is here already was asked for.
    pub(crate) async fn before_promote(
        &self,
        term: Term,
        resumed: bool,
        target: &Target,
    ) -> Result<(), String> {
        let told = self.told();
        if told.promoting {
            return Ok(());
        }
        let runs_already = resumed && !told.blocked && !self.tracker.borrow().inventory.is_empty();
        if runs_already {
            self.note_told(|told| *told = Told { promoting: true, promoted: true, ..Told::default() });
            return Ok(());
        }
        let point = HookPoint::BeforePromote;
        if let Some(hook) = target.settings.hooks.at(point) {
            let result = self.call_hook(hook, &self.promotion(point, term, target), term).await;
            match result {
                Err(error) if hook.must_succeed => {
                    self.report(|progress| {
                        progress.hooks.insert(point, error.clone());
                    });
                    self.note_told(|told| told.blocked = true);
                    return Err(error);
                }
                Ok(()) if hook.must_succeed => self.promotion_is_through(term).await,
                Ok(()) | Err(_) => {}
            }
        }
        self.report(|progress| {
            progress.hooks.remove(&point);
        });
        self.note_told(|told| *told = Told { promoting: true, through: told.through, ..Told::default() });
        Ok(())
    }

    /// What fences has succeeded, or the payload runs: payloads of older terms need no fence any more. Said once.
    pub(crate) async fn promotion_is_through(&self, term: Term) {
        if !self.told().through {
            self.node.tell(Command::Promoted(term)).await;
            self.note_told(|told| told.through = true);
        }
    }

    /// The payload is ready: sends afterPromote, once for each promotion, beside everything else.
    pub(crate) fn after_promote(&self, term: Term, target: &Target) {
        let told = self.told();
        if !told.promoting || told.promoted {
            return;
        }
        self.note_told(|told| told.promoted = true);
        let point = HookPoint::AfterPromote;
        if let Some(hook) = target.settings.hooks.at(point) {
            self.background.send(Due {
                hook: hook.clone(),
                delivery: self.promotion(point, term, target),
                term,
            });
        }
    }

    /// Before the first delete of a stop: asks beforeDemote, once. `false`: the stop was refused, and the node decides.
    ///
    /// Only what can wait waits: while somebody else leads already, and when an earlier process had begun, the hook is
    /// told while the payload is being deleted.
    pub(crate) async fn before_demote(&self, term: Term, reason: ResignReason, target: &Target) -> bool {
        let told = self.told();
        if told.demoting == Some(term) || !self.has_promoted(reason) {
            return true;
        }
        let point = HookPoint::BeforeDemote;
        let Some(hook) = target.settings.hooks.at(point) else { return true };
        let delivery = self.demotion(point, term, reason, target);
        // If this stop is called off, who was told of it is told that the lead stays.
        self.note_told(|told| *told = Told { demoting: Some(term), ..Told::default() });
        let waits = reason.is_handover() || matches!(reason, ResignReason::Removal | ResignReason::Operator);
        if !waits {
            let hook = Hook { must_succeed: false, ..hook.clone() };
            self.background.send(Due { hook, delivery, term });
            return true;
        }
        let result = self.call_hook(hook, &delivery, term).await;
        match result {
            Err(because) if hook.must_succeed && reason.is_handover() => {
                self.node.tell(Command::StopRefused { term, because }).await;
                false
            }
            Ok(()) | Err(_) => true,
        }
    }

    /// The payload is gone: sends afterDemote beside everything else.
    pub(crate) fn after_demote(&self, term: Term, reason: ResignReason, target: &Target, had_payload: bool) {
        let tells = had_payload || self.has_promoted(reason) || self.told().demoting == Some(term);
        self.note_told(|told| *told = Told::default());
        let point = HookPoint::AfterDemote;
        if let Some(hook) = target.settings.hooks.at(point).filter(|_| tells) {
            let delivery = self.demotion(point, term, reason, target);
            self.background.send(Due { hook: hook.clone(), delivery, term });
        }
    }

    /// There is something to demote: a promotion that was blocked never happened.
    fn has_promoted(&self, reason: ResignReason) -> bool {
        self.told().promoting
            || reason == ResignReason::Unfinished
            || !self.tracker.borrow().inventory.is_empty()
    }

    fn told(&self) -> Told {
        *self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note_told(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

fn delivered(point: HookPoint, term: Term, took: Duration) -> Happening {
    let note = format!("the hook {point} was told of term {term} in {}", format_duration(took));
    Happening::new(Notice::normal("HookCalled", note)).event_only()
}

fn failed(point: HookPoint, term: Term, error: &str) -> Happening {
    let note = format!("the hook {point} failed under term {term}: {error}");
    Happening::new(Notice::warning("HookFailed", note)).under(term).throttled(format!("hook/{point}/{error}"))
}

#[cfg(test)]
pub(crate) mod receiver;
#[cfg(test)]
mod tests;
