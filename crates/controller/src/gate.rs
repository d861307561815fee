//! Joins the payload's question "may I write?" to the node's answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flagship_node::{Command, Leadership, NodeHandle, WritePermit};
use flagship_payload::{Denied, Gate, Permit, Purpose};
use flagship_types::{Instant, Term};

/// How long the node may take to answer. Its loop turns every 250 ms; a node that is held up longer gives no leave.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the node before every single write.
pub(crate) struct NodeGate {
    node: NodeHandle,
    /// The term that is being stopped; the node hears of the first delete before it gives leave for it.
    stopping: Option<Term>,
    began: AtomicBool,
}

impl NodeGate {
    /// For applying, and for deleting what an earlier lead left behind.
    pub(crate) fn new(node: NodeHandle) -> Self {
        Self { node, stopping: None, began: AtomicBool::new(false) }
    }

    /// For the stop of a term.
    pub(crate) fn stopping(node: NodeHandle, term: Term) -> Self {
        Self { stopping: Some(term), ..Self::new(node) }
    }
}

#[async_trait::async_trait]
impl Gate for NodeGate {
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied> {
        if let (Some(term), Purpose::Delete) = (self.stopping, purpose)
            && !self.began.swap(true, Ordering::Relaxed)
        {
            // Commands are handled in order: the permit below comes after there is no way back.
            self.node.tell(Command::DeletionBegan(term)).await;
        }
        let purpose = match purpose {
            Purpose::Apply => flagship_node::Purpose::Apply,
            Purpose::Prune | Purpose::Delete => flagship_node::Purpose::Delete,
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.node.permit(purpose)).await {
            Ok(Ok(WritePermit { term, not_after })) => Ok(Permit { term, not_after }),
            Ok(Err(why)) => Err(Denied::Refused(why.to_string())),
            Err(_) => Err(Denied::Refused("the node does not answer".into())),
        }
    }

    fn now(&self) -> Instant {
        flagship_node::boot_now()
    }
}

/// For what is left of an object that is being deleted and takes part in no fleet any more: nobody else may ever
/// need it, and the local Lease is held.
pub(crate) struct RemovalGate;

#[async_trait::async_trait]
impl Gate for RemovalGate {
    async fn permit(&self, purpose: Purpose) -> Result<Permit, Denied> {
        match purpose {
            Purpose::Delete => Ok(Permit { term: Term::NONE, not_after: self.now() + WritePermit::VALIDITY }),
            Purpose::Apply | Purpose::Prune => {
                Err(Denied::Refused("the MultiCluster is being deleted".into()))
            }
        }
    }

    fn now(&self) -> Instant {
        flagship_node::boot_now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_being_deleted_may_only_be_deleted() {
        assert!(RemovalGate.permit(Purpose::Delete).await.is_ok());
        assert!(RemovalGate.permit(Purpose::Apply).await.is_err());
        assert!(RemovalGate.permit(Purpose::Prune).await.is_err());
    }
}
