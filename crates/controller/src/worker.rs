//! One task per MultiCluster object, so that a slow one delays nobody: takes the member's local Lease, serves the
//! member while it holds it, and gives it back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{MultiCluster, lease_name, second_lease_name};
use flagship_types::MemberName;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::events::Recorder;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use crate::events::Publisher;
use crate::farewell::RunsAgain;
use crate::lease::{Holder, LocalLease};
use crate::ports::{Joiner, Observer, Probe, Waiting};
use crate::request::Caller;
use crate::second;
use crate::supervisor::Options;
use crate::tenure::{RETRY, Tenure};

/// How often a replica that waits looks for certificates that are not there or of no use.
const CERTIFICATE_RETRY: Duration = Duration::from_secs(5);

/// How long a daemon that ends waits for another replica to take its Lease: they look twice a second.
const RELIEF: Duration = Duration::from_millis(1500);

/// What all workers share.
pub(crate) struct Context {
    pub client: Client,
    pub options: Options,
    pub joiner: Arc<dyn Joiner>,
    pub observer: Arc<dyn Observer>,
    pub recorder: Recorder,
    /// The daemon ends.
    pub shutdown: CancellationToken,
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub member: MemberName,
}

impl Identity {
    /// Of an object as the API server has it. `None`: it has no uid or no valid name, so no API server sent it.
    pub(crate) fn of(object: &MultiCluster) -> Option<Self> {
        let name = object.name_any();
        let member = MemberName::new(&name).ok()?;
        Some(Self { namespace: object.namespace()?, name, uid: object.uid()?, member })
    }
}

/// Why a process stops serving a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Another process serves it now.
    LeaseLost,
    /// The object vanished without us: nothing here is ours any more.
    Gone,
    /// The object was deleted in order and the finalizer is off.
    Removed,
    /// The daemon ends.
    Shutdown,
}

/// What ends a tenure from outside. Clones wait independently.
#[derive(Clone)]
pub(crate) struct Interruption {
    pub gone: CancellationToken,
    pub shutdown: CancellationToken,
    pub lost: watch::Receiver<Option<String>>,
    /// Set by another process that wrote the status after this one, lease or not.
    pub usurper: Option<watch::Receiver<Option<String>>>,
}

impl Interruption {
    /// Waits for the first reason to stop. Shutdown comes last: it can wait until the other is dealt with.
    pub(crate) async fn wait(&mut self) -> End {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => End::Gone,
            () = lost(&mut self.lost) => End::LeaseLost,
            () = usurped(&mut self.usurper) => End::LeaseLost,
            () = self.shutdown.cancelled() => End::Shutdown,
        }
    }
}

/// Until somebody else wrote the status.
async fn usurped(usurper: &mut Option<watch::Receiver<Option<String>>>) {
    match usurper {
        Some(usurper) => lost(usurper).await,
        None => std::future::pending().await,
    }
}

/// Until somebody else holds the lease.
async fn lost(holder: &mut watch::Receiver<Option<String>>) {
    let told = holder.wait_for(Option::is_some).await.is_ok();
    if !told {
        // The keeper only ends with the tenure.
        std::future::pending::<()>().await;
    }
}

/// Serves one object for as long as it exists.
pub(crate) struct Worker {
    pub context: Arc<Context>,
    pub identity: Identity,
    pub object: watch::Receiver<Arc<MultiCluster>>,
    /// Set when the object is gone.
    pub gone: CancellationToken,
}

impl Worker {
    pub(crate) async fn run(self) {
        let Identity { namespace, name, .. } = &self.identity;
        let span = tracing::info_span!("member", %namespace, %name);
        self.serve().instrument(span).await;
    }

    async fn serve(self) {
        let caller = Caller::new(Arc::clone(&self.context.observer));
        let about = self.object.borrow().object_ref(&());
        let events = Publisher::spawn(self.context.recorder.clone(), caller.clone(), about);
        loop {
            let mut lease = self.lease(&caller);
            let waiting = tokio::select! {
                biased;
                () = self.gone.cancelled() => return second::forget(self.second_lease(&caller)).await,
                // The next one that waits is seen at once.
                () = self.context.shutdown.cancelled() => return second::make_room(self.second_lease(&caller)).await,
                waiting = self.acquire(&mut lease, &caller) => waiting,
            };
            let (held, relieves) = (lease.watch(), *lease.waits().borrow());
            let (lost_out, lost) = watch::channel(None);
            let stop = CancellationToken::new();
            // If this task ends in any way, the lease is not renewed any more.
            let stop_with_us = stop.clone().drop_guard();
            let keeper = tokio::spawn(lease.keep(lost_out, stop).in_current_span());
            let interruption = Interruption {
                gone: self.gone.clone(),
                shutdown: self.context.shutdown.clone(),
                lost,
                usurper: None,
            };
            let mut tenure = Tenure::new(&self, caller.clone(), events.clone(), interruption, held);
            tenure.waiting = waiting;
            tenure.relieves = relieves;
            let end = {
                let look_out = self.look_out(&caller, tenure.second_seen.clone());
                tokio::select! {
                    end = tenure.serve() => end,
                    never = look_out => match never {},
                }
            };
            info!(?end, "stopped serving this member");
            drop(stop_with_us);
            match (keeper.await, end) {
                (Ok(lease), End::Removed | End::Gone) => {
                    second::forget(self.second_lease(&caller)).await;
                    lease.remove().await;
                }
                (Ok(lease), End::Shutdown) => {
                    lease.release().await;
                    self.leave(&mut tenure, &caller).await;
                }
                (Ok(_), End::LeaseLost) => continue,
                (Err(error), _) => warn!(%error, "the task that renews the lease failed; the lease runs out"),
            }
            return;
        }
    }

    /// The daemon ends and the Lease is free. Mode Quorum: what still runs here is stopped, unless another replica takes
    /// the member over; one that acts would have it too late.
    pub(crate) async fn leave(&self, tenure: &mut Tenure, caller: &Caller) {
        if !leaves_payload(tenure).await {
            return;
        }
        let mut lease = self.lease(caller);
        let elsewhere = lease.elsewhere();
        let is_relieved = lease.is_taken_within(RELIEF).await
            || tokio::select! {
                // As long as an API server that does not answer makes it.
                () = lease.acquire() => false,
                () = self.taken_by_another(elsewhere) => true,
            };
        if is_relieved {
            info!("another replica serves this member now; the payload runs on");
            return;
        }
        tenure.holds(lease.watch());
        let (lost_out, mut lost_to) = watch::channel(None);
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(lease.keep(lost_out, stop.clone()).in_current_span());
        loop {
            let stopping = async {
                while let Err(error) =
                    tenure.stop_unleased("the daemon ends and no other replica takes over").await
                {
                    warn!(error, "the payload is not stopped yet; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            };
            let is_stopped = tokio::select! {
                () = stopping => true,
                () = lost(&mut lost_to) => false,
            };
            if !is_stopped {
                info!("another replica took over meanwhile");
                break;
            }
            match tenure.release_lead(lost_to.clone()).await {
                Ok(()) => break,
                Err(RunsAgain) => warn!("something of the payload is here again; it is stopped again"),
            }
        }
        stop.cancel();
        if let Ok(lease) = keeper.await {
            lease.release().await;
        }
    }

    /// Until somebody else is seen to hold the Lease.
    async fn taken_by_another(&self, mut elsewhere: watch::Receiver<Option<Holder>>) {
        let own = &self.context.options.holder;
        let is_another = |holder: &Option<Holder>| holder.as_ref().is_some_and(|holder| holder.name != *own);
        if elsewhere.wait_for(is_another).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the Lease, and meanwhile answers who dials the member and says that it waits. What answers is to be
    /// kept until the member has joined.
    async fn acquire(&self, lease: &mut LocalLease, caller: &Caller) -> Option<Waiting> {
        let (mut waiting, mut waits) = (None, lease.waits());
        let visibly = second::wait_visibly(self.second_lease(caller), lease.elsewhere());
        let answer = async {
            // A replica that finds the Lease free is about to act itself.
            if waits.wait_for(|waits| *waits).await.is_ok() {
                self.answer(&mut waiting).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = lease.acquire() => {}
            () = answer => {}
            () = visibly => {}
        }
        if *lease.waits().borrow() {
            // On the side: the member is not to wait for it.
            tokio::spawn(second::make_room(self.second_lease(caller)).in_current_span());
        }
        waiting
    }

    /// Answers where the settings in force would have the member listen; returns when the object is gone.
    async fn answer(&self, waiting: &mut Option<Waiting>) {
        let mut object = self.object.clone();
        let mut place = None;
        let mut again = false;
        loop {
            let wanted = self.place(&object.borrow_and_update());
            if wanted != place || again {
                // The old place first: the new one may be the same port.
                *waiting = None;
                again = false;
                if let Some(probe) = wanted.clone() {
                    match self.context.joiner.wait_at(probe).await {
                        Ok(answer) => *waiting = Some(answer),
                        Err(error) => {
                            debug!(%error, "not answering while another replica acts");
                            // A port is left to who has it, also when that one lets it go for a moment.
                            again = error.is_about_certificates();
                        }
                    }
                }
                place = wanted;
            }
            tokio::select! {
                changed = object.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(CERTIFICATE_RETRY), if again => {}
            }
        }
    }

    /// Where the member would listen. `None`: its spec is invalid.
    fn place(&self, object: &MultiCluster) -> Option<Probe> {
        let settings = object.spec.settings().ok()?;
        let (callsign, listen, port) = (settings.callsign, settings.listen, settings.port);
        Some(Probe { callsign, member: self.identity.member.clone(), listen, port })
    }

    fn lease(&self, caller: &Caller) -> LocalLease {
        let Identity { namespace, name, .. } = &self.identity;
        self.lease_called(lease_name(namespace, name), caller)
    }

    fn second_lease(&self, caller: &Caller) -> LocalLease {
        let Identity { namespace, name, .. } = &self.identity;
        self.lease_called(second_lease_name(namespace, name), caller).timed(second::TIMING)
    }

    fn lease_called(&self, name: String, caller: &Caller) -> LocalLease {
        let options = &self.context.options;
        LocalLease::new(self.leases(), caller.clone(), name, options.holder.clone()).on(options.node.clone())
    }

    fn leases(&self) -> Api<Lease> {
        let home = self.context.options.lease_namespace.as_deref().unwrap_or(&self.identity.namespace);
        Api::namespaced(self.context.client.clone(), home)
    }

    /// Looks for another replica for as long as it is polled; never ends.
    async fn look_out(&self, caller: &Caller, told: watch::Sender<second::Second>) -> Infallible {
        let Identity { namespace, name, .. } = &self.identity;
        let (name, options) = (second_lease_name(namespace, name), &self.context.options);
        let (own, here) = (options.holder.clone(), options.node.clone());
        second::look_out(self.leases(), caller.clone(), name, own, here, told).await
    }
}

/// Whether a payload that needs a lease runs on here when nobody goes on. Unless the node of this process knew that none
/// does, the API server is asked until it says so: a process that ends before that may leave one behind for good.
async fn leaves_payload(tenure: &mut Tenure) -> bool {
    match tokio::time::timeout(RELIEF, tenure.may_have_unleased()).await {
        Ok(leaves) => leaves,
        Err(_) if tenure.left_nothing => {
            warn!("the API server does not answer; nothing that needs a lease ran here when it last did");
            false
        }
        Err(_) => {
            warn!("the API server does not say whether a payload runs on here; asking until it does");
            tenure.may_have_unleased().await
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
