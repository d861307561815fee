//! The process's links: which members are attached, on which ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use flagship_node::{LinkEvent, Links, LocalHello, Signer};
use flagship_types::{Callsign, CloseCode, Epoch, MemberName};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{Instrument, debug_span};

use crate::endpoint::{EndpointLinks, EndpointState, Shared};
use crate::limits::{BIND_PATIENCE, CLOSE_LINGER, EVENT_QUEUE, MAX_HANDSHAKES};
use crate::listener::{self, Lease, Listener};
use crate::reload::watch;
use crate::stats::TransportStats;
use crate::tls::{CertificateInfo, TlsDirectory, TlsError, TlsFiles, TlsMaterial};

/// What holds for all members of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportOptions {
    /// `--tls-dir`: ca.crt, tls.crt and tls.key (crl.pem if there), or `<callsign>/<member>/` with these.
    pub tls_dir: PathBuf,
    /// How long after its expiry a peer's certificate is still taken, with a warning.
    pub expired_certificate_grace: Duration,
}

impl TransportOptions {
    /// Long enough for a weekend without anybody at work.
    pub const DEFAULT_GRACE: Duration = Duration::from_secs(72 * 3600);
}

/// Where a member listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// `None`: every address of this host.
    pub address: Option<IpAddr>,
    /// The port; 0 takes any, which is for tests.
    pub port: u16,
}

/// A member to be attached.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What it says first. Callsign and member stay as they are here until it is detached.
    pub hello: LocalHello,
    /// Where it listens.
    pub listen: Listen,
}

/// Why a member could not be attached. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its port cannot be had.
    #[error("cannot listen on {address}: {source}: {}", advice(source))]
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another member of the fleet is served by this process.
    #[error(
        "this daemon serves member {present} of fleet {callsign} already: one member per callsign and daemon"
    )]
    CallsignTaken {
        /// The fleet.
        callsign: Callsign,
        /// Who is there.
        present: MemberName,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this port; choose another spec.port (a witness: --listen)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this host does not have that address; correct spec.address (a witness: --listen) or leave it empty"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege; choose a higher spec.port (a witness: --listen)"
        }
        _ => "correct spec.address and spec.port (a witness: --listen)",
    }
}

/// A member's links. Taken apart by who uses it.
pub struct Attachment {
    /// For the node.
    pub links: Arc<dyn Links>,
    /// For the node: signs with the key of the certificate in use.
    pub signer: Arc<dyn Signer>,
    /// For the node.
    pub events: mpsc::Receiver<LinkEvent>,
    /// Where it listens.
    pub local: SocketAddr,
    /// Ends it; keep it as long as the member lives.
    pub detach: Detach,
}

/// Ends a member's links: with a code by [`Detach::close`], as [`CloseCode::Leaving`] when dropped.
pub struct Detach {
    state: Arc<EndpointState>,
    _lease: Lease,
}

impl Detach {
    /// Tells all peers why, frees the port, and waits (about a second at most) until they have read it.
    pub async fn close(self, code: CloseCode) {
        self.state.shut(code);
        // A peer that does not read is left behind.
        let _ = timeout(CLOSE_LINGER, self.state.tasks.wait()).await;
    }
}

impl Drop for Detach {
    fn drop(&mut self) {
        self.state.shut(CloseCode::Leaving);
    }
}

/// A member's place on its port while another replica acts for it: proper peers are refused with
/// [`CloseCode::Standby`]. Free again when dropped, unless [`Transport::attach`] took the place meanwhile.
pub struct Waiting {
    state: Arc<EndpointState>,
    local: SocketAddr,
    _lease: Lease,
}

impl Waiting {
    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.state.shut(CloseCode::Standby);
    }
}

/// Not secret, only different from that of every other process.
fn random_instance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The keys of a `RandomState` are the standard library's own source of randomness.
    std::collections::hash_map::RandomState::new().build_hasher().finish().max(1)
}

/// The links of all members of a process. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    places: Arc<Mutex<Places>>,
    /// Read without waiting for an attachment under way.
    attached: Arc<std::sync::Mutex<HashMap<Callsign, Weak<EndpointState>>>>,
}

#[derive(Default)]
struct Places {
    listeners: HashMap<SocketAddr, Weak<Listener>>,
}

impl Places {
    fn has_port(&self, port: u16) -> bool {
        self.listeners.keys().any(|place| place.port() == port)
    }
}

impl Transport {
    /// Nothing is read or bound yet.
    pub fn new(options: TransportOptions) -> Self {
        let shared = Shared {
            options,
            counters: Arc::default(),
            next_link: AtomicU64::new(1),
            instance: random_instance(),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        };
        Self { shared: Arc::new(shared), places: Arc::default(), attached: Arc::default() }
    }

    /// Reads the member's certificates, binds its port and begins to accept. Must be called within a tokio
    /// runtime. After an error (no certificate yet, port taken) it may be tried again at any time.
    pub async fn attach(&self, endpoint: Endpoint) -> Result<Attachment, AttachError> {
        let mut places = self.places.lock().await;
        let Endpoint { hello, listen } = endpoint;
        if let Some(present) = self.present(&hello.callsign) {
            return Err(AttachError::CallsignTaken { callsign: hello.callsign, present });
        }
        let (files, material) = self.load(hello.callsign.clone(), hello.member.clone()).await?;
        let listener = self.listener(&mut places, listen, BIND_PATIENCE).await?;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let span = debug_span!("links", callsign = %hello.callsign, member = %hello.member);
        let callsign = hello.callsign.clone();
        let state = Arc::new(EndpointState::new(self.shared.clone(), hello, material, events));
        tokio::spawn(watch(Arc::downgrade(&state), state.closed.clone(), files).instrument(span));
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.retain(|_, state| state.strong_count() > 0);
        attached.insert(callsign, Arc::downgrade(&state));
        let links = Arc::new(EndpointLinks(state.clone()));
        Ok(Attachment {
            signer: links.clone(),
            links,
            events: receiver,
            local: listener.local,
            detach: Detach { _lease: Lease::new(listener, state.clone()), state },
        })
    }

    /// Answers for a member that another replica serves, until this one attaches it: from then on the same port leads
    /// to the attached member, without a gap, and the answer may be dropped. A port that is taken is not waited for.
    pub async fn wait(
        &self,
        callsign: Callsign,
        member: MemberName,
        listen: Listen,
    ) -> Result<Waiting, AttachError> {
        let mut places = self.places.lock().await;
        if let Some(present) = self.present(&callsign) {
            return Err(AttachError::CallsignTaken { callsign, present });
        }
        let (files, material) = self.load(callsign.clone(), member.clone()).await?;
        let listener = self.listener(&mut places, listen, Duration::ZERO).await?;
        let span = debug_span!("waiting", %callsign, %member);
        // Neither epoch nor address is ever told, and nobody hears of what is refused here.
        let hello = LocalHello { callsign, member, epoch: Epoch(0), address: None, view_hash: 0 };
        let (unheard, _) = mpsc::channel(1);
        let state = EndpointState::new(self.shared.clone(), hello, material, unheard);
        let state = Arc::new(state.standing_by());
        tokio::spawn(watch(Arc::downgrade(&state), state.closed.clone(), files).instrument(span));
        Ok(Waiting { local: listener.local, _lease: Lease::new(listener, state.clone()), state })
    }

    /// Whether [`Self::attach`] would find usable certificates and a free port, for a member that is attached already
    /// and would listen elsewhere. A port that its own listener keeps busy counts as free, if the host has the address.
    /// Nothing is changed; a new port is taken for a moment.
    pub async fn probe(
        &self,
        callsign: Callsign,
        member: MemberName,
        listen: Listen,
    ) -> Result<(), AttachError> {
        let mut places = self.places.lock().await;
        self.load(callsign, member).await?;
        places.listeners.retain(|_, listener| listener.strong_count() > 0);
        let Listen { address, port } = listen;
        let exact = SocketAddr::new(address.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), port);
        let probed = match listener::probe(address, port) {
            // Ours keeps it busy; what it cannot tell is whether the address is one of this host's.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && places.has_port(port) => {
                address.map_or(Ok(()), |_| listener::probe(address, 0))
            }
            probed => probed,
        };
        probed.map_err(|source| AttachError::Bind { address: exact, source })
    }

    /// The members of a fleet that the certificates under `--tls-dir` are for, by name; nothing else of them is checked.
    pub async fn members(&self, callsign: Callsign) -> Result<Vec<MemberName>, TlsError> {
        let directory = TlsDirectory(self.shared.options.tls_dir.clone());
        let read = spawn_blocking(move || directory.members(&callsign)).await;
        read.map_err(|error| self.cannot_read(error))?
    }

    fn cannot_read(&self, error: tokio::task::JoinError) -> TlsError {
        TlsError::Read { file: self.shared.options.tls_dir.clone(), source: io::Error::other(error) }
    }

    /// Reads and checks a member's certificates.
    async fn load(
        &self,
        callsign: Callsign,
        member: MemberName,
    ) -> Result<(TlsFiles, TlsMaterial), TlsError> {
        let directory = TlsDirectory(self.shared.options.tls_dir.clone());
        let grace = self.shared.options.expired_certificate_grace;
        let loaded = spawn_blocking(move || {
            let files = directory.read(&callsign, &member)?;
            let mut material = TlsMaterial::new(&files, &callsign, &member, grace, SystemTime::now())?;
            match material.unsigned.take() {
                Some(problem) => Err(problem),
                None => Ok((files, material)),
            }
        });
        loaded.await.map_err(|error| self.cannot_read(error))?
    }

    /// Who serves a fleet here; a member that was detached and still says good-bye does not count.
    fn present(&self, callsign: &Callsign) -> Option<MemberName> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let state = attached.get(callsign)?.upgrade()?;
        (!state.closed.is_cancelled()).then(|| state.member.clone())
    }

    /// A port that is bound already, if its address covers the wanted one; else a new one.
    async fn listener(
        &self,
        places: &mut Places,
        listen: Listen,
        patience: Duration,
    ) -> Result<Arc<Listener>, AttachError> {
        places.listeners.retain(|_, listener| listener.strong_count() > 0);
        let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let shared =
            listen.address.into_iter().chain(everywhere).find_map(|ip| {
                places.listeners.get(&SocketAddr::new(ip, listen.port)).and_then(Weak::upgrade)
            });
        if let Some(listener) = shared {
            return Ok(listener);
        }
        let (counters, handshakes) = (self.shared.counters.clone(), self.shared.handshakes.clone());
        let address = SocketAddr::new(listen.address.unwrap_or(everywhere[0]), listen.port);
        let listener = Listener::bind(listen.address, listen.port, patience, counters, handshakes)
            .await
            .map_err(|source| AttachError::Bind { address, source })?;
        places.listeners.insert(listener.local, Arc::downgrade(&listener));
        Ok(listener)
    }

    fn states(&self) -> Vec<Arc<EndpointState>> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let states = attached.values().filter_map(Weak::upgrade);
        states.filter(|state| !state.closed.is_cancelled()).collect()
    }

    /// The certificates in use, one per attached member.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.states().iter().map(|state| state.tls.load().info.clone()).collect()
    }

    /// The counters.
    pub fn stats(&self) -> TransportStats {
        self.shared.counters.snapshot(self.states().iter().map(|state| state.link_count()).sum())
    }
}
