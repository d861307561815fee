//! Deliveries that nobody waits for: one at a time, and a newer one ends the attempts of an older one.

use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{Hook, HookPoint};
use flagship_types::Term;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;

use super::delivery::Delivery;
use super::{deliver, delivered, failed};
use crate::happenings::Happening;
use crate::progress::Progress;
use crate::request::Caller;
use crate::worker::Context;

/// Deliveries that may wait: a lead that comes and goes makes four.
const QUEUE: usize = 4;
/// The pause between rounds of attempts at a hook that has to succeed.
const ROUND: Duration = Duration::from_secs(30);

/// A delivery that is due.
#[derive(Debug)]
pub(crate) struct Due {
    pub hook: Hook,
    pub delivery: Delivery,
    pub term: Term,
}

/// Where deliveries are put.
pub(crate) struct Background(mpsc::Sender<Due>);

impl Background {
    /// A queue, and what empties it.
    pub(crate) fn new(
        context: Arc<Context>,
        caller: Caller,
        namespace: String,
        progress: watch::Sender<Progress>,
        happenings: mpsc::Sender<Happening>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (send, due) = mpsc::channel(QUEUE);
        (Self(send), Runner { context, caller, namespace, progress, happenings, due }.run())
    }

    pub(crate) fn send(&self, due: Due) {
        if let Err(error) = self.0.try_send(due) {
            debug!(%error, "a delivery to a hook was dropped: too many wait");
        }
    }
}

struct Runner {
    context: Arc<Context>,
    caller: Caller,
    namespace: String,
    progress: watch::Sender<Progress>,
    happenings: mpsc::Sender<Happening>,
    due: mpsc::Receiver<Due>,
}

impl Runner {
    async fn run(mut self) {
        let mut next = self.due.recv().await;
        while let Some(due) = next.take() {
            next = self.serve(due).await;
        }
        // Nobody sends any more; the worker says when all ends.
        std::future::pending::<()>().await;
    }

    /// Until it is delivered or given up; returns the next one.
    async fn serve(&mut self, due: Due) -> Option<Due> {
        let Due { hook, delivery, term } = due;
        let point = delivery.point;
        loop {
            let began = Instant::now();
            let round = deliver(&self.context.client, &self.caller, &self.namespace, &hook, &delivery).await;
            let error = match round {
                Ok(()) => {
                    self.trouble(point, None);
                    self.tell(delivered(point, term, began.elapsed()));
                    return self.due.recv().await;
                }
                Err(error) => error,
            };
            self.tell(failed(point, term, &error));
            if !hook.must_succeed {
                return self.due.recv().await;
            }
            self.trouble(point, Some(error));
            tokio::select! {
                newer = self.due.recv() => {
                    // What it was about is over.
                    self.trouble(point, None);
                    return newer;
                }
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    fn trouble(&self, point: HookPoint, error: Option<String>) {
        self.progress.send_if_modified(|progress| match error {
            Some(error) => progress.hooks.insert(point, error.clone()) != Some(error),
            None => progress.hooks.remove(&point).is_some(),
        });
    }

    fn tell(&self, happening: Happening) {
        if self.happenings.try_send(happening).is_err() {
            debug!("a happening was dropped");
        }
    }
}
