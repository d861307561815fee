//! Opening a link by dialling.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use flagship_node::{ConnectFailure, LinkEvent, LinkRefusal, RefusalReason};
use flagship_types::{CloseCode, MemberName, PeerAddress};
use flagship_wire::pb::fleet_client::FleetClient;
use flagship_wire::{Frame, Hello, MAX_FRAME_BYTES, hello_frame};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Streaming;
use tonic::body::Body;

use crate::endpoint::{EndpointState, LinkHandle};
use crate::io::{CountedTcp, FailureSlot, RememberingIo};
use crate::limits::{HANDSHAKE_TIMEOUT, MAX_HEADER_BYTES};
use crate::outbox::{Outbox, OutboxStream};
use crate::resolve::{TcpFailure, connect};
use crate::session::{First, announce, check_hello, first_frame, linger_after, run};
use crate::tls::{Explanation, PeerCertificate, Usage, explain};

/// Dials once and, if a link comes of it, carries it to its end.
pub(crate) async fn dial(state: Arc<EndpointState>, address: PeerAddress) {
    let Ok(permit) = state.dials.clone().try_acquire_owned() else {
        let failure = Failure::unanswered("too many attempts to dial are under way".into());
        return report(&state, address, failure).await;
    };
    let attempt = tokio::select! {
        () = state.closed.cancelled() => return,
        attempt = open(&state, &address) => attempt,
    };
    drop(permit);
    match attempt {
        Ok(mut open) => {
            announce(&state, &open.handle, open.hello, Some(address)).await;
            run(&state, &open.handle, &mut open.inbound, true).await;
        }
        Err(failure) => report(&state, address, failure).await,
    }
}

/// A link that has just come up.
struct Open {
    handle: Arc<LinkHandle>,
    hello: Hello,
    inbound: Streaming<Frame>,
    _connection: Connection,
}

/// Why none came up.
struct Failure {
    failure: ConnectFailure,
    sentence: String,
    /// Set if people should know.
    refusal: Option<(RefusalReason, Option<MemberName>)>,
    remote: Option<SocketAddr>,
}

impl Failure {
    fn unanswered(sentence: String) -> Self {
        Self { failure: ConnectFailure::Unanswered, sentence, refusal: None, remote: None }
    }

    fn tls(explanation: Explanation, remote: SocketAddr) -> Self {
        let refusal = Some((explanation.reason, None));
        Self { refusal, remote: Some(remote), ..Self::unanswered(explanation.sentence) }
    }

    fn rejected(code: CloseCode, sentence: String, remote: SocketAddr) -> Self {
        // These end by themselves or are nobody's fault.
        let quiet = matches!(
            code,
            CloseCode::Duplicate
                | CloseCode::ShuttingDown
                | CloseCode::Leaving
                | CloseCode::Standby
                | CloseCode::Unneeded
        );
        let refusal = (!quiet).then_some((RefusalReason::Code(code), None));
        Self { failure: ConnectFailure::Rejected(code), sentence, refusal, remote: Some(remote) }
    }
}

async fn report(state: &EndpointState, address: PeerAddress, failure: Failure) {
    let reason = failure.sentence;
    match failure.refusal {
        Some((label, peer)) => {
            let sentence = format!("no link to {address}: {reason}");
            state.refused(LinkRefusal {
                remote: failure.remote,
                peer,
                dialled: true,
                reason: label,
                sentence,
            });
        }
        None => {
            let label = match failure.failure {
                ConnectFailure::Refused => "refused",
                ConnectFailure::Unanswered => "unanswered",
                ConnectFailure::Rejected(code) => code.as_str(),
            };
            state.shared.counters.handshake(true, label);
        }
    }
    // If the node is gone nobody wants to know.
    let _ = state.events.send(LinkEvent::ConnectFailed { address, failure: failure.failure, reason }).await;
}

async fn open(state: &Arc<EndpointState>, address: &PeerAddress) -> Result<Open, Failure> {
    let tcp = connect(address).await.map_err(|failure| match failure {
        TcpFailure::Refused(sentence) => {
            Failure { failure: ConnectFailure::Refused, ..Failure::unanswered(sentence) }
        }
        TcpFailure::Unanswered(sentence) => Failure::unanswered(sentence),
    })?;
    let failed = |e: io::Error| Failure::unanswered(format!("cannot connect to {address}: {e}"));
    let remote = tcp.peer_addr().map_err(failed)?;
    match timeout(HANDSHAKE_TIMEOUT, handshake(state, tcp, remote)).await {
        Ok(result) => result,
        Err(_) => {
            let sentence = format!(
                "{remote} took the connection and said no Hello in {} s",
                HANDSHAKE_TIMEOUT.as_secs()
            );
            Err(Failure::tls(Explanation { reason: RefusalReason::Handshake, sentence }, remote))
        }
    }
}

async fn handshake(state: &Arc<EndpointState>, tcp: TcpStream, remote: SocketAddr) -> Result<Open, Failure> {
    let name = ServerName::try_from(state.server_name.clone())
        .map_err(|e| Failure::unanswered(format!("cannot name the fleet to the peer: {e}")))?;
    let connector = TlsConnector::from(state.tls.load().client.clone());
    let tls = connector
        .connect(name, CountedTcp::new(tcp, state.shared.counters.clone()))
        .await
        .map_err(|e| Failure::tls(explain(&e, Some(&state.tls.load().info)), remote))?;
    let peer = PeerCertificate::new(tls.get_ref().1.peer_certificates()).map_err(|e| {
        Failure::tls(Explanation { reason: RefusalReason::Tls, sentence: e.to_string() }, remote)
    })?;
    let (io, failure) = RememberingIo::new(tls);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| Failure::tls(cause(state, &failure, &e), remote))?;
    let connection = Connection(tokio::spawn(async move {
        // How it ended is kept in `failure`, and the stream on it ends with it.
        let _ = connection.await;
    }));
    let outbox = Outbox::new(state.shared.counters.clone());
    outbox.push(hello_frame(&state.our_hello()), std::time::Instant::now());
    let origin = hyper::Uri::builder()
        .scheme("https")
        .authority(state.server_name.as_str())
        .path_and_query("/")
        .build()
        .map_err(|e| Failure::unanswered(format!("cannot name the fleet to the peer: {e}")))?;
    let mut client =
        FleetClient::with_origin(OneConnection(sender), origin).max_decoding_message_size(MAX_FRAME_BYTES);
    let inbound = client.link(OutboxStream(outbox.clone())).await;
    let mut inbound = inbound.map_err(|e| Failure::tls(cause(state, &failure, &e), remote))?.into_inner();
    let hello = match first_frame(state, &mut inbound).await {
        First::Hello(hello) => hello,
        First::Close(close) => {
            return Err(Failure::rejected(close.code, format!("it says: {}", close.sentence), remote));
        }
        First::Broken(sentence) => {
            return Err(refuse(&outbox, &mut inbound, CloseCode::ProtocolError, sentence, remote).await);
        }
        First::Ended(status) => {
            let ended =
                status.unwrap_or_else(|| tonic::Status::unavailable("it ended the stream without a Hello"));
            return Err(Failure::tls(cause(state, &failure, &ended), remote));
        }
    };
    if let Err(refusal) = check_hello(state, &peer, &hello) {
        let mut failure = refuse(&outbox, &mut inbound, refusal.code, refusal.sentence, remote).await;
        if refusal.ourselves {
            failure.refusal = None;
        }
        return Err(failure);
    }
    match state.register(&hello, peer, Usage::Server, outbox.clone()) {
        Ok(handle) => Ok(Open { handle, hello, inbound, _connection: connection }),
        Err(code) => {
            let sentence = format!("{} takes no more links ({})", state.member, code.as_str());
            Err(refuse(&outbox, &mut inbound, code, sentence, remote).await)
        }
    }
}

/// Tells the peer why, and waits until it has read it.
async fn refuse(
    outbox: &Outbox,
    inbound: &mut Streaming<Frame>,
    code: CloseCode,
    sentence: String,
    remote: SocketAddr,
) -> Failure {
    outbox.close(code, sentence.clone());
    linger_after(code, outbox, inbound).await;
    Failure::rejected(code, sentence, remote)
}

/// The cause below HTTP/2, if there is one.
fn cause(state: &EndpointState, slot: &FailureSlot, error: &dyn std::error::Error) -> Explanation {
    match slot.take() {
        Some(below) => explain(&below, Some(&state.tls.load().info)),
        None => {
            let sentence = format!("it speaks TLS but does not link: {error}");
            Explanation { reason: RefusalReason::Handshake, sentence }
        }
    }
}

/// Closes the connection when dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One HTTP/2 connection that is never redialled: a channel that redials by itself would hide that the peer's
/// process is gone.
struct OneConnection(SendRequest<Body>);

impl tower::Service<hyper::Request<Body>> for OneConnection {
    type Response = hyper::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
