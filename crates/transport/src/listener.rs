//! Ports, shared by the members that use the same address.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use flagship_node::RefusalReason;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, debug, debug_span, warn};

use crate::accept::serve;
use crate::endpoint::{EndpointState, refused_for_all};
use crate::limits::MAX_HANDSHAKES;
use crate::resolve::prepare;
use crate::stats::Counters;

/// Connections that the kernel holds for us.
const BACKLOG: i32 = 1024;

/// After a failed accept: usually the process is out of file descriptors, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which member answers to which server name on one port.
#[derive(Default)]
pub(crate) struct Routes(RwLock<BTreeMap<String, Arc<EndpointState>>>);

impl Routes {
    pub(crate) fn all(&self) -> Vec<Arc<EndpointState>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The fleet that was asked for. Where only one fleet listens it answers to everybody, because then both
    /// sides learn in detail what does not match.
    pub(crate) fn find(&self, server_name: Option<&str>) -> Option<Arc<EndpointState>> {
        let routes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let only = || routes.values().next().filter(|_| routes.len() == 1);
        server_name.and_then(|name| routes.get(name)).or_else(only).cloned()
    }

    fn insert(&self, state: &Arc<EndpointState>) {
        let mut routes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        routes.insert(state.server_name.clone(), state.clone());
    }

    fn remove(&self, state: &Arc<EndpointState>) {
        let mut routes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Its successor may have taken the name already.
        if routes.get(&state.server_name).is_some_and(|present| Arc::ptr_eq(present, state)) {
            routes.remove(&state.server_name);
        }
    }
}

/// A bound port; released when the last member on it goes.
pub(crate) struct Listener {
    pub(crate) local: SocketAddr,
    routes: Arc<Routes>,
    _running: DropGuard,
}

/// A member's place on a port.
pub(crate) struct Lease {
    pub(crate) listener: Arc<Listener>,
    state: Arc<EndpointState>,
}

impl Lease {
    pub(crate) fn new(listener: Arc<Listener>, state: Arc<EndpointState>) -> Self {
        listener.routes.insert(&state);
        Self { listener, state }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.listener.routes.remove(&self.state);
    }
}

impl Listener {
    /// Binds and begins to accept. Waits so long for a port that was just released.
    pub(crate) async fn bind(
        address: Option<IpAddr>,
        port: u16,
        patience: Duration,
        counters: Arc<Counters>,
        handshakes: Arc<Semaphore>,
    ) -> io::Result<Arc<Self>> {
        let patience = Instant::now() + patience;
        let socket = loop {
            match bind(address, port) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                    sleep(Duration::from_millis(50)).await;
                }
                other => break other?,
            }
        };
        let (routes, stop) = (Arc::new(Routes::default()), CancellationToken::new());
        let local = socket.local_addr()?;
        let span = debug_span!("listener", %local);
        tokio::spawn(accept(socket, routes.clone(), counters, handshakes, stop.clone()).instrument(span));
        Ok(Arc::new(Self { local, routes, _running: stop.drop_guard() }))
    }
}

/// Whether [`Listener::bind`] could have a port now. Takes it for a moment; waits for nothing.
pub(crate) fn probe(address: Option<IpAddr>, port: u16) -> io::Result<()> {
    bind(address, port).map(drop)
}

/// Without an address: every address of both families, or of IPv4 where there is no IPv6.
fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match address {
        Some(address) => bind_to((address, port).into()),
        None => match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => bind_to((Ipv4Addr::UNSPECIFIED, port).into()),
            other => other,
        },
    }
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // A restarted daemon must not wait for its old connections to time out.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

async fn accept(
    socket: TcpListener,
    routes: Arc<Routes>,
    counters: Arc<Counters>,
    handshakes: Arc<Semaphore>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        let (tcp, remote) = match accepted {
            Ok((tcp, remote)) => (tcp, SocketAddr::new(remote.ip().to_canonical(), remote.port())),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = prepare(&tcp) {
            debug!(%remote, %error, "the connection went away at once");
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            let sentence =
                format!("refused a connection from {remote}: {MAX_HANDSHAKES} handshakes are under way");
            refused_for_all(&routes.all(), &counters, remote, RefusalReason::Handshake, &sentence);
            continue;
        };
        let span = debug_span!("incoming", %remote);
        tokio::spawn(serve(routes.clone(), counters.clone(), tcp, remote, permit).instrument(span));
    }
}
