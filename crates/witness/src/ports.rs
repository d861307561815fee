//! What the witness needs from the process that holds it: somebody who gives its nodes links.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use flagship_node::{MachineConfig, NodeEvent, NodeHandle, Store};
use flagship_types::{Callsign, MemberName};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// A witness that takes part in a fleet.
pub struct Joined {
    /// The running node.
    pub node: NodeHandle,
    /// All that it tells, from its first event on.
    pub events: broadcast::Receiver<NodeEvent>,
    /// Ends when the node has ended and its links are closed.
    pub ended: JoinHandle<()>,
    /// Dropped when the node has ended: what shows it in the metrics.
    pub shown: Box<dyn Any + Send + Sync>,
}

/// Joins nodes to their fleets. Implemented at the root over the transport. Errors are sentences for people.
#[async_trait]
pub trait Joiner: Send + Sync {
    /// The members of this fleet that the certificates found are for. An error: none can be read.
    async fn names(&self, callsign: &Callsign) -> Result<Vec<MemberName>, String>;
    /// Starts a node and its links. Returns once it listens; it need not have met anybody.
    async fn join(&self, machine: MachineConfig, store: Arc<dyn Store>) -> Result<Joined, String>;
}
