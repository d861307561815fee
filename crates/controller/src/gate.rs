//! Joins the payload's question "may I write?" to the node's answer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flagship_node::{Command, Leadership, NodeHandle, WritePermit};
use flagship_payload::{Denied, Entry, Gate, Inventory, Permit, Purpose, Tracker};
use flagship_types::{Instant, Term, format_duration};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::lease::LeaseWatch;
use crate::status_writer::{StatusHandle, WriteError};

/// How long what runs and has to end at once waits for the record of what is deleted.
pub(crate) const HURRIED_RECORD: Duration = Duration::from_millis(500);
/// How long the node may take to answer. Its loop turns every 250 ms; a node that is held up longer gives no leave.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// What the gate needs of the node.
#[async_trait::async_trait]
pub(crate) trait Node: Leadership {
    /// Tells it that the next permit begins the deletion of this term's payload.
    async fn deletion_begins(&self, term: Term);
}

#[async_trait::async_trait]
impl Node for NodeHandle {
    async fn deletion_begins(&self, term: Term) {
        self.tell(Command::DeletionBegan(term)).await;
    }
}

/// Asks the node before every single write of one step of the payload worker.
pub(crate) struct NodeGate<N = NodeHandle> {
    node: N,
    /// Another process of this member has a node of its own.
    lease: LeaseWatch,
    /// The directive of the step was replaced: no more leave, whatever the node would say to the next step.
    overtaken: CancellationToken,
    chain: ChainRecord,
    /// The term that is being stopped; the node hears of the first delete before it gives leave for it.
    stopping: Option<Term>,
    began: AtomicBool,
}

impl<N: Node> NodeGate<N> {
    /// For applying, and for deleting what an earlier lead left behind.
    pub(crate) fn new(
        node: N,
        lease: LeaseWatch,
        tracker: Tracker,
        status: StatusHandle,
        overtaken: CancellationToken,
    ) -> Self {
        let (chain, began) = (ChainRecord::new(tracker, status), AtomicBool::new(false));
        Self { node, lease, overtaken, chain, stopping: None, began }
    }

    /// For the stop of a term.
    pub(crate) fn stopping(self, term: Term) -> Self {
        Self { stopping: Some(term), ..self }
    }

    /// What it deletes has to end at once, or in its own time.
    pub(crate) fn hurried(mut self, hurried: bool) -> Self {
        self.chain.hurried = hurried;
        self
    }

    /// Until when the step may write without the node's word.
    fn still_wanted(&self) -> Result<Instant, Denied> {
        match self.overtaken.is_cancelled() {
            true => Err(Denied::Refused("another directive came".into())),
            false => held_until(&self.lease),
        }
    }
}

/// The API server forgets a workload at once and its pods much later. If this process dies in between, only what the
/// status has of the chain of owners tells the next one whose the pods are.
struct ChainRecord {
    tracker: Tracker,
    status: StatusHandle,
    /// What is deleted has to end at once: somebody else starts it soon, which is worse than a restart that does not know.
    hurried: bool,
    /// The uids in the inventory that the status is known to have, or that were not waited for. As many as that has.
    durable: Mutex<BTreeSet<String>>,
}

impl ChainRecord {
    fn new(tracker: Tracker, status: StatusHandle) -> Self {
        Self { tracker, status, hurried: false, durable: Mutex::default() }
    }

    /// Writes it, unless the status is known to have it.
    async fn keep(&self) -> Result<(), Denied> {
        let mut durable = self.durable.lock().await;
        let inventory = self.tracker.borrow().inventory.clone();
        let uids = uids(&inventory);
        if uids.is_subset(&durable) {
            return Ok(());
        }
        let record = self.status.record(inventory.to_status());
        let recorded = if self.hurried {
            tokio::time::timeout(HURRIED_RECORD, record).await.ok()
        } else {
            Some(record.await)
        };
        let why = match recorded {
            Some(Ok(())) => None,
            // What has to end at once is up to that one, and it may lead: what runs may be its own.
            Some(Err(error @ WriteError::TakenOver(_))) => return Err(Denied::Refused(error.to_string())),
            Some(Err(error)) => Some(error.to_string()),
            None => Some(format!("not within {}", format_duration(HURRIED_RECORD))),
        };
        match why {
            Some(why) if self.hurried => {
                let unknown = |entry: &Entry| !durable.contains(&entry.uid);
                let objects: Vec<_> =
                    inventory.iter().filter(|(_, entry)| unknown(entry)).map(|(id, _)| id).collect();
                warn!(
                    why,
                    objects = objects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                    "deleted at once, before it is recorded: should this process end now, the next one may not know of these"
                );
            }
            Some(why) => {
                return Err(Denied::Refused(format!(
                    "what is to be deleted could not be recorded first: {why}"
                )));
            }
            None => {}
        }
        *durable = uids;
        Ok(())
    }
}

fn held_until(lease: &LeaseWatch) -> Result<Instant, Denied> {
    lease.held_until().ok_or_else(|| {
        Denied::Refused("the local Lease was not renewed in time: another process may have it".into())
    })
}

fn uids(inventory: &Inventory) -> BTreeSet<String> {
    inventory.iter().map(|(_, entry)| entry.uid.clone()).collect()
}

#[async_trait::async_trait]
impl<N: Node> Gate for NodeGate<N> {
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied> {
        self.still_wanted()?;
        if purpose == Purpose::Delete {
            self.chain.keep().await?;
            self.still_wanted()?;
        }
        let stopping = self.stopping.filter(|_| purpose == Purpose::Delete);
        if let Some(term) = stopping
            && !self.began.load(Ordering::Relaxed)
        {
            // Commands are handled in order: if the permit below comes, there was no way back any more.
            self.node.deletion_begins(term).await;
        }
        let asked = match purpose {
            Purpose::Apply => flagship_node::Purpose::Apply,
            Purpose::Prune => flagship_node::Purpose::Prune,
            Purpose::Delete => flagship_node::Purpose::Delete,
        };
        let WritePermit { term, not_after } =
            match tokio::time::timeout(ANSWER_TIMEOUT, self.node.permit(asked)).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(why)) => return Err(Denied::Refused(why.to_string())),
                Err(_) => return Err(Denied::Refused("the node does not answer".into())),
            };
        if let Some(work) = stopping {
            if work != term {
                return Err(Denied::OtherTerm { work, permit: term });
            }
            self.began.store(true, Ordering::Relaxed);
        }
        Ok(Permit { term, not_after: not_after.min(self.still_wanted()?) })
    }

    fn now(&self) -> Instant {
        flagship_node::boot_now()
    }
}

/// For what is left of an object that is being deleted and takes part in no fleet any more: nobody else may ever
/// need it, and the local Lease is held.
pub(crate) struct RemovalGate(pub LeaseWatch);

#[async_trait::async_trait]
impl Gate for RemovalGate {
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied> {
        permit_to_delete(&self.0, purpose, "the MultiCluster is being deleted")
    }

    fn now(&self) -> Instant {
        flagship_node::boot_now()
    }
}

/// For stopping a payload that nobody holds the fleet's lease for: deleting it takes no lead, only the local Lease.
pub(crate) struct UnleasedGate {
    lease: LeaseWatch,
    chain: ChainRecord,
}

impl UnleasedGate {
    pub(crate) fn new(lease: LeaseWatch, tracker: Tracker, status: StatusHandle) -> Self {
        Self { lease, chain: ChainRecord { hurried: true, ..ChainRecord::new(tracker, status) } }
    }
}

#[async_trait::async_trait]
impl Gate for UnleasedGate {
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied> {
        self.chain.keep().await?;
        permit_to_delete(&self.lease, purpose, "nobody holds the lease for this payload")
    }

    fn now(&self) -> Instant {
        flagship_node::boot_now()
    }
}

fn permit_to_delete(lease: &LeaseWatch, purpose: Purpose, why_nothing_else: &str) -> Result<Permit, Denied> {
    match purpose {
        Purpose::Delete => {
            let not_after = (flagship_node::boot_now() + WritePermit::VALIDITY).min(held_until(lease)?);
            Ok(Permit { term: Term::NONE, not_after })
        }
        Purpose::Apply | Purpose::Prune => Err(Denied::Refused(why_nothing_else.into())),
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
