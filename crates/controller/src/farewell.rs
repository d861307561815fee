//! Mode Quorum: the daemon ends, no other replica took over, and the payload was stopped without a node. The lead is
//! still on record, and the others wait for the return that was announced to them. So a node joins once more, only to
//! complete that stop, as any process does that finds one: it releases the lead, and whoever is best takes it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attend::Outcome;
use crate::departure::{Departure, Why};
use crate::memory;
use crate::prepare::Prepared;
use crate::second;
use crate::tenure::{Member, RETRY, Tenure};

/// How long the release may take to be heard: links come up within a second, the record of the stop and a successor's
/// claim are a few writes. What was not heard by then is on record, and said again by the next process.
const FAREWELL: Duration = Duration::from_secs(8);

/// Something of the payload is there again: what was on its way when it was stopped, or was not found then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RunsAgain;

impl Tenure {
    /// Releases the lead of a payload that is gone, if one is on record. `lost`: another process has the local Lease.
    ///
    /// # Errors
    /// Nothing was released, as the payload is not gone.
    pub(crate) async fn release_lead(
        &mut self,
        lost: watch::Receiver<Option<String>>,
    ) -> Result<(), RunsAgain> {
        self.interruption.lost = lost;
        // It is on its way; waiting for it again would end this at once.
        self.interruption.shutdown = CancellationToken::new();
        // Nobody relieves this process any more: what was seen is over.
        self.second_seen.send_replace(second::at_first(self.context.options.node.as_ref()));
        let until = Instant::now() + FAREWELL;
        let Ok(joined) = tokio::time::timeout_at(until, self.join_to_release()).await else {
            warn!("this member cannot join to release its lead; the others wait until it counts as gone");
            return Ok(());
        };
        let Some(mut member) = joined? else { return Ok(()) };
        let departure = Departure::of_stopped(Self::now());
        let attended = tokio::time::timeout_at(until, self.attend_departing(&mut member, departure)).await;
        let outcome = match attended {
            Ok(Outcome::Interrupted(end)) => Outcome::Interrupted(end),
            Ok(_) => Outcome::Departed(Why::Shutdown),
            Err(_) => {
                warn!("nobody took the lead that was given up; the next process says so again");
                Outcome::Departed(Why::Shutdown)
            }
        };
        self.follow(outcome, member).await;
        Ok(())
    }

    /// A node for the lead that is on record; `None`: there is none.
    async fn join_to_release(&mut self) -> Result<Option<Member>, RunsAgain> {
        loop {
            let Some(status) = self.status.clone() else { return Ok(None) };
            match status.read().await.map(|status| memory::held(&status)) {
                Ok(None) => return Ok(None),
                Ok(Some(term)) => match self.prepare().await {
                    Prepared::Ready(ready) if !ready.inventory.is_empty() => return Err(RunsAgain),
                    Prepared::Ready(ready) => {
                        if let Ok(member) = self.join(*ready).await {
                            info!(%term, "the payload is gone: releasing the lead before this daemon ends");
                            return Ok(Some(member));
                        }
                    }
                    Prepared::Wait(_) => {}
                    Prepared::Done | Prepared::Leftovers => return Ok(None),
                },
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
#[path = "farewell_tests.rs"]
mod tests;
