//! What has to be there before a member can join: a valid spec, the finalizer, a stored start, and the knowledge of what
//! runs here already. What stands in the way is shown where people look.

use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{FieldError, MultiCluster, MultiClusterStatus, Settings};
use flagship_node::ElectionRecord;
use flagship_payload::Inventory;
use flagship_types::Term;
use tracing::{debug, info, warn};

use crate::discovery::{self, DiscoveryError};
use crate::finalizer;
use crate::memory;
use crate::request::CallError;
use crate::status::Stall;
use crate::status_writer::{Start, StatusHandle, StatusWriter, WriteError};
use crate::tenure::{MAX_RETRY, RETRY, Tenure};
use crate::worker::Identity;

/// Who the daemon of deploy/install.yaml is.
const ACCOUNT: &str = "kube-vip-multi-cluster-system:kube-vip-multi-cluster-controller-manager";

/// What can be done about an object right now.
pub(crate) enum Prepared {
    /// Join with this.
    Ready(Box<Ready>),
    /// Nothing, before something changes or the time is over.
    Wait(Duration),
    /// It is being deleted and cannot join: only what it left behind is to be removed.
    Leftovers,
    /// It was deleted, and our finalizer is off.
    Done,
}

/// Everything that joining needs.
pub(crate) struct Ready {
    pub object: Arc<MultiCluster>,
    pub settings: Settings,
    pub start: Start,
    /// What an earlier process stored.
    pub record: Option<ElectionRecord>,
    pub inventory: Inventory,
    pub found: Option<Term>,
}

/// Why preparing failed; tried again.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("cannot set the finalizer: {0}")]
    Finalizer(CallError),
    #[error("cannot read or write the status: {0}")]
    Status(#[from] WriteError),
    #[error("cannot find out what runs here: {0}")]
    Inventory(#[from] DiscoveryError),
    #[error("what an earlier process stored is damaged: {0}")]
    Record(#[from] FieldError),
}

impl PrepareError {
    /// What to show if somebody has to do something first; `None` if it may pass by itself.
    fn stall(&self, Identity { namespace, name, .. }: &Identity) -> Option<Stall> {
        let (code, remedy) = match self {
            Self::Finalizer(error) | Self::Status(WriteError::Call(error)) => {
                (error.code(), "the ClusterRole in deploy/install.yaml has that right".to_owned())
            }
            Self::Status(_) => return None,
            Self::Record(_) => {
                let message = format!("{self}. {}", record_remedy(namespace, name));
                return Some(Stall { reason: "DamagedStatus".into(), message });
            }
            Self::Inventory(error) => (error.code(), payload_rights(namespace, &error.to_string())),
        };
        let message = format!("this member cannot start: {self}. {remedy}");
        (code == 403).then(|| Stall { reason: "Forbidden".into(), message })
    }
}

/// What to do about a record that cannot be read. Without one the member asks the others before it votes; half of one
/// would be a guess.
fn record_remedy(namespace: &str, name: &str) -> String {
    format!(
        "Until it is mended this member takes no part in its fleet: it would vote and lead by a guess. Write the right value \
         (the other members' status.configuration is the same at the same version), or have this member forget its record \
         and ask the others for theirs: kubectl patch multicluster {name} --namespace {namespace} --subresource=status \
         --type=merge --patch '{FORGET_RECORD}'"
    )
}

/// Everything that is read as one record.
const FORGET_RECORD: &str = r#"{"status":{"configuration":null,"replacedConfiguration":null,"vote":null,"term":null,"heldTerm":null,"stopping":null,"releasedTerm":null}}"#;

/// How the daemon gets what it needs for payloads in a namespace.
fn payload_rights(namespace: &str, refusal: &str) -> String {
    format!(
        "The role edit has the usual kinds (others: deploy/extra/payload-kinds.yaml): kubectl create rolebinding \
         kube-vip-multi-cluster-payloads --namespace {namespace} --clusterrole=edit {}",
        subject(refusal)
    )
}

/// Whom to give it to: who was refused, as the API server calls it.
fn subject(refusal: &str) -> String {
    let user = refusal.split_once("User \"").and_then(|(_, rest)| rest.split_once('"')).map(|(user, _)| user);
    // It goes into a command that people copy.
    let plain = |user: &&str| {
        !user.is_empty() && user.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c))
    };
    match user.filter(plain).map(|user| user.strip_prefix("system:serviceaccount:").ok_or(user)) {
        Some(Ok(account)) => format!("--serviceaccount={account}"),
        Some(Err(user)) => format!("--user={user}"),
        None => format!("--serviceaccount={ACCOUNT}"),
    }
}

impl Tenure {
    /// Does what can be done now.
    pub(crate) async fn prepare(&mut self) -> Prepared {
        match self.try_prepare().await {
            Ok(prepared) => {
                self.retry = RETRY;
                prepared
            }
            Err(PrepareError::Status(WriteError::Gone)) => {
                // The watch will say so; until then there is nothing to do.
                debug!("the object is gone");
                Prepared::Wait(MAX_RETRY)
            }
            Err(error) => {
                warn!(%error, "cannot start this member yet");
                if let Some(stall) = error.stall(&self.identity) {
                    let object = self.object.borrow().clone();
                    self.stalled(&object, stall);
                }
                if matches!(error, PrepareError::Record(_)) && finalizer::is_deleting(&self.object.borrow()) {
                    return Prepared::Leftovers;
                }
                let time = self.retry;
                self.retry = (time * 2).min(MAX_RETRY);
                Prepared::Wait(time)
            }
        }
    }

    async fn try_prepare(&mut self) -> Result<Prepared, PrepareError> {
        let object = self.object.borrow_and_update().clone();
        if finalizer::is_deleting(&object) && !finalizer::is_set(&object) {
            return Ok(Prepared::Done);
        }
        let status = self.open_status().await?;
        let settings = match object.spec.settings() {
            Ok(settings) => settings,
            Err(wrong) => {
                self.stalled(&object, invalid_spec(&wrong));
                let leaving = finalizer::is_deleting(&object);
                return Ok(if leaving { Prepared::Leftovers } else { Prepared::Wait(Duration::MAX) });
            }
        };
        finalizer::add(&self.api, &self.caller, &object).await.map_err(PrepareError::Finalizer)?;
        let start = match self.unused.take() {
            Some(start) => start,
            None => {
                // As long as it cannot be read, nothing is written for it.
                memory::restore(&status.read().await?, &settings.callsign)?;
                status.begin().await?
            }
        };
        let record = memory::restore(&start.status, &settings.callsign)?;
        self.chronicle.restore(&start.status);
        let (inventory, found) = match self.discover(&start.status).await {
            Ok(discovered) => discovered,
            Err(error) => {
                self.unused = Some(start);
                return Err(error.into());
            }
        };
        if start.status.callsign.as_deref().is_some_and(|fleet| fleet != settings.callsign.as_str()) {
            info!(
                was = start.status.callsign,
                "the callsign changed: what the other fleet agreed on is forgotten"
            );
            status.forget_record().await?;
        }
        let settings = self.located(settings).await;
        Ok(Prepared::Ready(Box::new(Ready { object, settings, start, record, inventory, found })))
    }

    pub(crate) async fn open_status(&mut self) -> Result<StatusHandle, WriteError> {
        if let Some(status) = &self.status {
            return Ok(status.clone());
        }
        let Identity { name, uid, .. } = &self.identity;
        let holder = &self.context.options.holder;
        let (handle, status) =
            StatusWriter::open(self.api.clone(), self.caller.clone(), name, uid, holder).await?;
        self.chronicle.restore(&status);
        self.interruption.usurper = Some(handle.usurper());
        self.status = Some(handle.clone());
        Ok(handle)
    }

    /// What is in the cluster: what the status says, and what carries the label, with the newest term on it.
    pub(crate) async fn discover(
        &self,
        status: &MultiClusterStatus,
    ) -> Result<(Inventory, Option<Term>), DiscoveryError> {
        let mut inventory = Inventory::from_status(&status.inventory);
        let object = self.object.borrow().clone();
        let owner = self.owner();
        let (found, term) = discovery::discover(&self.context, &object, &owner, &inventory).await?;
        inventory.unite(&found);
        Ok((inventory, (!found.is_empty()).then_some(term)))
    }
}

/// Fields listed in one condition.
const MAX_FIELDS: usize = 5;

/// What is wrong with a spec, with the fields' paths.
pub(crate) fn invalid_spec(wrong: &[FieldError]) -> Stall {
    let mut message = wrong.iter().take(MAX_FIELDS).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if wrong.len() > MAX_FIELDS {
        message.push_str(&format!("; and {} more", wrong.len() - MAX_FIELDS));
    }
    Stall { reason: "InvalidSpec".into(), message }
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "earlier_statuses_tests.rs"]
mod earlier_statuses;
