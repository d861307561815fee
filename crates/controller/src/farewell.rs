//! Mode Quorum: the daemon ends, no other replica took over, and the payload was stopped without a node. The lead is
//! still on record, and the others wait for the return that was announced to them. So a node joins once more, only to
//! complete that stop, as any process does that finds one: it releases the lead, and whoever is best takes it.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attend::Outcome;
use crate::departure::{Departure, Why};
use crate::memory;
use crate::prepare::Prepared;
use crate::second;
use crate::tenure::Tenure;

/// How long the release may take to be heard: links come up within a second, the record of the stop and a successor's
/// claim are a few writes. Together with a stop within the default stop grace it fits into the 40 s that deploy/install.yaml
/// gives the pod.
const FAREWELL: Duration = Duration::from_secs(8);

impl Tenure {
    /// Releases the lead of a payload that is gone, if one is on record. `lost`: another process has the local Lease.
    pub(crate) async fn release_lead(&mut self, lost: watch::Receiver<Option<String>>) {
        self.interruption.lost = lost;
        // It is on its way; waiting for it again would end this at once.
        self.interruption.shutdown = CancellationToken::new();
        // Nobody relieves this process any more: what was seen is over.
        self.second_seen.send_replace(second::at_first(self.context.options.node.as_ref()));
        if tokio::time::timeout(FAREWELL, self.try_release_lead()).await.is_err() {
            warn!("nobody took the lead that was given up; the others wait until this member counts as gone");
        }
    }

    async fn try_release_lead(&mut self) {
        let Some(status) = self.status.clone() else { return };
        let held = status.read().await.ok().and_then(|status| memory::held(&status));
        let (Some(term), Prepared::Ready(ready)) = (held, self.prepare().await) else { return };
        // What is there again was not stopped by this process, and is not for a process that ends to judge.
        if !ready.inventory.is_empty() {
            return warn!("something of the payload is here again; the lead is not released");
        }
        let Ok(mut member) = self.join(*ready).await else { return };
        info!(%term, "the payload is gone: releasing the lead before this daemon ends");
        let departure = Departure::of_stopped(Self::now());
        let outcome = self.attend_departing(&mut member, departure).await;
        let outcome = match outcome {
            Outcome::Interrupted(end) => Outcome::Interrupted(end),
            _ => Outcome::Departed(Why::Shutdown),
        };
        self.follow(outcome, member).await;
    }
}

#[cfg(test)]
#[path = "farewell_tests.rs"]
mod tests;
