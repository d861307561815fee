//! One member's end of all its links.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use flagship_node::{
    LinkEvent, LinkId, LinkRefusal, LinkWarning, Links, LocalHello, Proof, RefusalReason, Signer, Statement,
};
use flagship_types::{Callsign, CloseCode, MemberName, PeerAddress};
use flagship_wire::{Hello, PROTOCOL_MAX, PROTOCOL_MIN, PeerMessage, message_frame};
use rustls::pki_types::UnixTime;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::limits::{MAX_DIALS, MAX_LINKS};
use crate::notices::Notices;
use crate::outbox::{Outbox, Pushed};
use crate::stats::Counters;
use crate::tls::{PeerCertificate, TlsMaterial, Usage, server_name};
use crate::transport::TransportOptions;

/// The same refusal is told once a minute: a peer dials every few seconds.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// The same warning is told once an hour.
const WARNING_INTERVAL: Duration = Duration::from_secs(3600);

/// What all endpoints of a process share.
pub(crate) struct Shared {
    pub(crate) options: TransportOptions,
    pub(crate) counters: Arc<Counters>,
    pub(crate) next_link: AtomicU64,
    /// Random per process; see `Hello.instance`.
    pub(crate) instance: u64,
    pub(crate) handshakes: Arc<Semaphore>,
}

/// One link that is up.
pub(crate) struct LinkHandle {
    pub(crate) id: LinkId,
    pub(crate) member: MemberName,
    /// The newest protocol that both ends speak.
    pub(crate) protocol: u32,
    pub(crate) peer: PeerCertificate,
    /// Which end the peer is.
    pub(crate) usage: Usage,
    pub(crate) outbox: Arc<Outbox>,
    /// This side ends the link.
    pub(crate) ending: CancellationToken,
    /// Set if it was not the node that wanted it: then the node is told.
    pub(crate) forced: OnceLock<(CloseCode, String)>,
}

impl LinkHandle {
    fn close(&self, code: CloseCode) {
        // The nearest that an older build knows: the link goes and nothing is wrong.
        let code = match code {
            CloseCode::Unneeded if self.protocol < 2 => CloseCode::Duplicate,
            code => code,
        };
        self.outbox.close(code, sentence(code).to_owned());
        self.ending.cancel();
    }

    /// Ends the link for a reason of the transport; the node is told.
    pub(crate) fn force(&self, code: CloseCode, sentence: String) {
        // Only the first reason counts.
        let _ = self.forced.set((code, sentence.clone()));
        self.outbox.close(code, sentence);
        self.ending.cancel();
    }
}

/// What a replica says that waits for its member's local Lease.
pub(crate) const STANDBY_SENTENCE: &str =
    "this replica waits; another one of the same cluster acts: dial again";

/// What a Close says when the node closes a link.
fn sentence(code: CloseCode) -> &'static str {
    match code {
        CloseCode::WrongCallsign => "this member belongs to another fleet",
        CloseCode::NameInUse => {
            "another process with your name is alive: give one of the two another metadata.name"
        }
        CloseCode::IdentityMismatch => "your certificate is for another member",
        CloseCode::ProtocolTooOld => "no protocol version in common: update the older daemon",
        CloseCode::Full => "this member takes no more links",
        CloseCode::ShuttingDown => "the daemon is shutting down",
        CloseCode::Duplicate => "another link between us stays",
        CloseCode::Leaving => "this member leaves, or its settings changed",
        CloseCode::ProtocolError => "the protocol was broken",
        CloseCode::CertificateRevoked => "your certificate is no longer trusted",
        CloseCode::Stale => "nothing fresh was heard for too long",
        CloseCode::Standby => STANDBY_SENTENCE,
        CloseCode::Unneeded => "neither of us observes the other any more",
    }
}

/// The links under one lock, with the mark that no more are taken.
#[derive(Default)]
pub(crate) struct LinkTable {
    links: HashMap<LinkId, Arc<LinkHandle>>,
    closed: Option<CloseCode>,
}

/// One member's end of all its links.
pub(crate) struct EndpointState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) callsign: Callsign,
    pub(crate) member: MemberName,
    pub(crate) server_name: String,
    pub(crate) tls: ArcSwap<TlsMaterial>,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    pub(crate) tasks: TaskTracker,
    /// The member has been detached.
    pub(crate) closed: CancellationToken,
    pub(crate) dials: Arc<Semaphore>,
    /// Another replica acts: nobody is taken, and every proper peer is told to dial again.
    pub(crate) stands_by: bool,
    hello: ArcSwap<LocalHello>,
    links: Mutex<LinkTable>,
    notices: Notices,
    runtime: tokio::runtime::Handle,
}

impl EndpointState {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(
        shared: Arc<Shared>,
        hello: LocalHello,
        tls: TlsMaterial,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        Self {
            shared,
            callsign: hello.callsign.clone(),
            member: hello.member.clone(),
            server_name: server_name(&hello.callsign),
            tls: ArcSwap::from_pointee(tls),
            events,
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            dials: Arc::new(Semaphore::new(MAX_DIALS)),
            stands_by: false,
            hello: ArcSwap::from_pointee(hello),
            links: Mutex::default(),
            notices: Notices::default(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// The same member while another replica acts.
    pub(crate) fn standing_by(self) -> Self {
        Self { stands_by: true, ..self }
    }

    /// What a new stream says first.
    pub(crate) fn our_hello(&self) -> Hello {
        let hello = self.hello.load();
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            callsign: self.callsign.clone(),
            member: self.member.clone(),
            epoch: hello.epoch,
            address: hello.address.clone(),
            view_hash: hello.view_hash,
            instance: self.shared.instance,
        }
    }

    fn table(&self) -> MutexGuard<'_, LinkTable> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link_count(&self) -> usize {
        self.table().links.len()
    }

    /// Takes a link into the table, or says with which code to refuse it.
    pub(crate) fn register(
        &self,
        hello: &Hello,
        peer: PeerCertificate,
        usage: Usage,
        outbox: Arc<Outbox>,
    ) -> Result<Arc<LinkHandle>, CloseCode> {
        let id = LinkId(self.shared.next_link.fetch_add(1, Relaxed));
        let (ending, forced) = (CancellationToken::new(), OnceLock::new());
        let (member, protocol) = (hello.member.clone(), hello.common_protocol());
        let handle = LinkHandle { id, member, protocol, peer, usage, outbox, ending, forced };
        let handle = Arc::new(handle);
        {
            let mut table = self.table();
            if let Some(code) = table.closed {
                return Err(code);
            }
            if table.links.len() >= MAX_LINKS {
                return Err(CloseCode::Full);
            }
            table.links.insert(id, handle.clone());
        }
        // After it is in the table, where a reload looks: one of the two sees the other's change.
        if !self.trusts(&handle) {
            self.forget(id);
            return Err(CloseCode::CertificateRevoked);
        }
        Ok(handle)
    }

    fn trusts(&self, handle: &LinkHandle) -> bool {
        self.tls.load().trust.still_trusts(&handle.peer.chain, handle.usage, UnixTime::now())
    }

    pub(crate) fn forget(&self, id: LinkId) -> Option<Arc<LinkHandle>> {
        self.table().links.remove(&id)
    }

    /// Closes the links of peers whose authority or certificate is no longer trusted.
    pub(crate) fn drop_untrusted(&self) {
        let links: Vec<_> = self.table().links.values().cloned().collect();
        for handle in links.iter().filter(|handle| !self.trusts(handle)) {
            let sentence = format!(
                "the certificate of {} is no longer trusted: its authority was removed from ca.crt, or crl.pem revokes it",
                handle.member
            );
            handle.force(CloseCode::CertificateRevoked, sentence);
        }
    }

    /// Closes everything with a code and takes nothing new.
    pub(crate) fn shut(&self, code: CloseCode) {
        let links: Vec<_> = {
            let mut table = self.table();
            table.closed.get_or_insert(code);
            table.links.drain().collect()
        };
        for (_, handle) in links {
            handle.close(code);
        }
        self.closed.cancel();
        self.tasks.close();
    }

    /// Counts a refusal and tells people, once a minute.
    pub(crate) fn refused(&self, refusal: LinkRefusal) {
        self.shared.counters.handshake(refusal.dialled, refusal.reason.as_str());
        self.tell_refusal(refusal);
    }

    /// Tells people of a refusal that is counted elsewhere.
    pub(crate) fn tell_refusal(&self, refusal: LinkRefusal) {
        let (reason, sentence) = (refusal.reason.as_str(), &refusal.sentence);
        debug!(callsign = %self.callsign, member = %self.member, reason, sentence, "link refused");
        let ip = refusal.remote.map(|remote| remote.ip());
        let key = format!("{ip:?} {:?} {} {reason}", refusal.peer, refusal.dialled);
        if self.notices.may_give(key, REFUSAL_INTERVAL) {
            // Never waits: the node may be busy because of just these refusals.
            let _ = self.events.try_send(LinkEvent::Refused(refusal));
        }
    }

    /// Tells people of something that needs them soon, once an hour.
    pub(crate) fn warn(&self, kind: &str, peer: Option<MemberName>, sentence: String) {
        if self.notices.may_give(format!("{kind} {peer:?}"), WARNING_INTERVAL) {
            let _ = self.events.try_send(LinkEvent::Warning(LinkWarning { peer, sentence }));
        }
    }
}

/// Counts a refusal for which no member is to blame and tells those who share the port.
pub(crate) fn refused_for_all(
    endpoints: &[Arc<EndpointState>],
    counters: &Counters,
    remote: SocketAddr,
    reason: RefusalReason,
    sentence: &str,
) {
    counters.handshake(false, reason.as_str());
    if endpoints.is_empty() {
        warn!(%remote, reason = reason.as_str(), sentence, "connection refused");
    }
    for endpoint in endpoints {
        let sentence = sentence.to_owned();
        endpoint.tell_refusal(LinkRefusal {
            remote: Some(remote),
            peer: None,
            dialled: false,
            reason,
            sentence,
        });
    }
}

/// [`Links`] of one member.
pub(crate) struct EndpointLinks(pub(crate) Arc<EndpointState>);

impl Signer for EndpointLinks {
    fn sign(&self, statement: &Statement) -> Option<Proof> {
        self.0.tls.load().signer.sign(statement, SystemTime::now())
    }
}

impl Links for EndpointLinks {
    fn connect(&self, address: &PeerAddress) {
        let dial = crate::dial::dial(self.0.clone(), address.clone());
        self.0.tasks.spawn_on(dial, &self.0.runtime);
    }

    fn send(&self, link: LinkId, message: PeerMessage) {
        let Some(handle) = self.0.table().links.get(&link).cloned() else { return };
        if message.protocol(&self.0.member) > handle.protocol {
            self.0.shared.counters.unspoken.fetch_add(1, Relaxed);
            debug!(peer = %handle.member, "a message that the peer's build does not know was not sent");
            return;
        }
        let Some(frame) = message_frame(&message) else {
            self.0.shared.counters.oversized.fetch_add(1, Relaxed);
            warn!(peer = %handle.member, "a message does not fit into a frame and was dropped");
            return;
        };
        if handle.outbox.push(frame, Instant::now()) == Pushed::StayedFull {
            let sentence = format!("{} did not read for too long: its queue stayed full", handle.member);
            handle.force(CloseCode::Stale, sentence);
        }
    }

    fn close(&self, link: LinkId, code: CloseCode) {
        if let Some(handle) = self.0.forget(link) {
            handle.close(code);
        }
    }

    fn set_hello(&self, hello: LocalHello) {
        self.0.hello.store(Arc::new(hello));
    }
}
