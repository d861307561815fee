//! The HTTP servers: connections, requests and the time they may take are bounded, as anyone may connect.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once: some scrapers, kubelet and load balancers; each costs a task and a small buffer.
const MAX_CONNECTIONS: usize = 128;
/// A client that has not sent its request's head by then is not one of ours. Also bounds idle keep-alive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Nothing served here takes longer than some milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest head: hyper's own default of about 400 KiB is far more than a GET needs.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// After a failed accept (no file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long answers that are under way at the end may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the servers could not start. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} for {what}: {source}; choose another with {flag}, or 0 to switch it off"
    )]
    Bind {
        /// What would be served there.
        what: &'static str,
        /// The flag that sets the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Serves until told to stop, then lets answers under way finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        // Taken before the accept: beyond the limit, connections wait in the kernel's backlog.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = connection(stream, router.clone(), stop.clone());
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let service = service_fn(move |request| answer(router.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// Bodies are never read: hyper closes a connection whose request brings one that nobody wants.
async fn answer(router: Router, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let answer = tower::ServiceExt::oneshot(router, request);
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(response) => response,
        Err(_) => Ok((StatusCode::SERVICE_UNAVAILABLE, "the answer took too long\n").into_response()),
    }
}
