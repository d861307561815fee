//! Whether the objects that `spec.health.gates` names are there and ready: looked at every few seconds in a task of its
//! own, leader or not, since a standby has to know before it is asked.

use std::sync::Arc;
use std::time::Duration;

use flagship_payload::Owner;
use tokio::sync::watch;
use tracing::{Instrument, debug};

use crate::discovery;
use crate::payload_worker::Target;
use crate::tenure::AbortOnDrop;
use crate::worker::Context;

/// How often they are looked at: soon enough for a failover, and at most 16 small requests.
const LOOK: Duration = Duration::from_secs(5);
/// The same while the API server does not say.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Gates told in one sentence.
const MAX_NAMED: usize = 3;

/// How the gates are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Gates {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// All hold, or there are none.
    Open,
    /// Those that do not, each a sentence that begins with its field.
    Closed(Vec<String>),
}

impl Gates {
    pub(crate) fn hold(&self) -> bool {
        *self == Self::Open
    }

    /// Those that do not hold, for people.
    pub(crate) fn closed(&self) -> Option<String> {
        let Self::Closed(all) = self else { return None };
        let mut text = all.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
        if all.len() > MAX_NAMED {
            text.push_str(&format!("; and {} more", all.len() - MAX_NAMED));
        }
        Some(text)
    }
}

/// Starts to look. It ends with its handle, or with the targets.
pub(crate) fn watch(
    context: Arc<Context>,
    owner: Owner,
    targets: watch::Receiver<Target>,
) -> (AbortOnDrop, watch::Receiver<Gates>) {
    let (out, seen) = watch::channel(Gates::default());
    let task = look(context, owner, targets, out).in_current_span();
    (AbortOnDrop(tokio::spawn(task)), seen)
}

async fn look(
    context: Arc<Context>,
    owner: Owner,
    mut targets: watch::Receiver<Target>,
    out: watch::Sender<Gates>,
) {
    let cluster = discovery::cluster(&context);
    let mut looked_at = None;
    loop {
        let gates = targets.borrow_and_update().settings.health.gates.clone();
        // What was said of other gates says nothing of these.
        if looked_at.as_ref() != Some(&gates) {
            out.send_if_modified(|known| std::mem::take(known) != Gates::Unknown);
        }
        let closed = cluster.look_at_gates(&gates, &owner.namespace, discovery::reach(&context)).await;
        looked_at = Some(gates);
        let pause = match closed {
            Ok(closed) => {
                let now = match closed.as_slice() {
                    [] => Gates::Open,
                    closed => Gates::Closed(closed.iter().map(ToString::to_string).collect()),
                };
                out.send_if_modified(|known| {
                    let changed = *known != now;
                    *known = now;
                    changed
                });
                LOOK
            }
            Err(error) => {
                // That it does not answer makes the member unfit by itself.
                debug!(%error, "cannot look at the gates");
                LOOK_AGAIN
            }
        };
        tokio::select! {
            changed = targets.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
