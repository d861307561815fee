//! Opening a link by accepting.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use flagship_node::{LinkRefusal, RefusalReason};
use flagship_types::{CloseCode, MemberName};
use flagship_wire::pb::fleet_server::{Fleet, FleetServer};
use flagship_wire::{Frame, MAX_FRAME_BYTES, hello_frame};
use futures::StreamExt;
use futures::stream::BoxStream;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::endpoint::{EndpointState, STANDBY_SENTENCE, refused_for_all};
use crate::io::{CountedTcp, RememberingIo};
use crate::limits::{CLOSE_LINGER, HANDSHAKE_TIMEOUT, MAX_HEADER_BYTES};
use crate::listener::Routes;
use crate::outbox::{Outbox, OutboxStream};
use crate::session::{First, announce, check_hello, first_frame, linger, linger_after, run};
use crate::stats::Counters;
use crate::tls::{
    CertificateInfo, Explanation, PeerCertificate, Usage, explain, is_anonymous, is_broken, is_server_name,
};

/// A fatal TLS alert "unrecognized name", as it stands on the wire before any key is agreed on.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];

/// The most bytes read from a refused peer so that it can read why.
const DRAIN_BYTES: u64 = 64 * 1024;

/// Why a member may begin TLS and never finish it: its first packet is small, the next ones are not.
const LOST_PACKETS: &str = "if that goes on, packets as large as a certificate do not get through: compare the MTU of both hosts and of what is between them";

/// Serves one incoming connection to its end.
pub(crate) async fn serve(
    routes: Arc<Routes>,
    counters: Arc<Counters>,
    tcp: TcpStream,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut begun = None;
    let tcp = CountedTcp::new(tcp, counters.clone());
    let (state, tls) = match timeout_at(deadline, tls_handshake(&routes, tcp, remote, &mut begun)).await {
        Ok(Ok(done)) => done,
        Ok(Err(Refused { endpoints, explanation })) => {
            if let Some(Explanation { reason, sentence }) = explanation {
                let sentence = format!("refused a connection from {remote}: {sentence}");
                refused_for_all(&endpoints, &counters, remote, reason, &sentence);
            }
            return;
        }
        Err(_) => {
            let (endpoints, reason, sentence) = match begun {
                Some(state) => (vec![state], RefusalReason::Handshake, unfinished(remote)),
                None => (routes.all(), RefusalReason::Anonymous, silence(remote)),
            };
            return refused_for_all(&endpoints, &counters, remote, reason, &sentence);
        }
    };
    let peer = match PeerCertificate::new(tls.get_ref().1.peer_certificates()) {
        Ok(peer) => peer,
        Err(e) => {
            let sentence = format!("refused a connection from {remote}: {e}");
            return refused_for_all(&[state], &counters, remote, RefusalReason::Tls, &sentence);
        }
    };
    let arrival = Arc::new(Arrival {
        state: state.clone(),
        peer,
        remote,
        taken: AtomicBool::new(false),
        answered: CancellationToken::new(),
        finished: CancellationToken::new(),
    });
    carry(tls, &arrival, deadline, permit).await;
}

fn silence(remote: SocketAddr) -> String {
    format!("{remote} connected and said nothing for {} s: dropped", HANDSHAKE_TIMEOUT.as_secs())
}

fn unfinished(remote: SocketAddr) -> String {
    let limit = HANDSHAKE_TIMEOUT.as_secs();
    format!("{remote} began TLS as a member does and did not finish it in {limit} s: dropped; {LOST_PACKETS}")
}

/// A failed handshake. Without an explanation it is nothing to tell: a probe that connects and goes.
struct Refused {
    endpoints: Vec<Arc<EndpointState>>,
    explanation: Option<Explanation>,
}

/// `begun` is set once the other end has asked for a fleet as only members do.
async fn tls_handshake(
    routes: &Routes,
    tcp: CountedTcp,
    remote: SocketAddr,
    begun: &mut Option<Arc<EndpointState>>,
) -> Result<(Arc<EndpointState>, TlsStream<CountedTcp>), Refused> {
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), tcp);
    let start = match pin!(&mut acceptor).await {
        Ok(start) => start,
        Err(e) => {
            if let Some(io) = acceptor.take_io() {
                drain(io).await;
            }
            let explanation = (!has_gone(&e)).then(|| failed(&e, None, false));
            return Err(Refused { endpoints: routes.all(), explanation });
        }
    };
    let asked = start.client_hello().server_name().map(str::to_owned);
    let of_a_fleet = asked.as_deref().is_some_and(is_server_name);
    let found = routes.find(asked.as_deref());
    let Some(state) = found else {
        let mut io = start.io;
        // It may be gone already; then nobody needs the alert.
        let _ = io.write_all(&UNRECOGNIZED_NAME).await;
        drain(io).await;
        let sentence =
            "it asked for a fleet that has no member at this address: compare spec.callsign on both sides";
        let reason = match of_a_fleet {
            true => RefusalReason::Code(CloseCode::WrongCallsign),
            false => RefusalReason::Anonymous,
        };
        let explanation = Some(Explanation { reason, sentence: sentence.into() });
        return Err(Refused { endpoints: routes.all(), explanation });
    };
    *begun = of_a_fleet.then(|| state.clone());
    let other_fleet = asked.as_deref() != Some(state.server_name.as_str());
    let config = state.tls.load().server.clone();
    match start.into_stream(config).into_fallible().await {
        Ok(tls) => Ok((state, tls)),
        Err((e, io)) => {
            drain(io).await;
            let mut explanation = failed(&e, Some(&state.tls.load().info), of_a_fleet);
            if other_fleet {
                explanation.sentence.push_str(&format!(
                    " (and it asked for another fleet than {}: compare spec.callsign on both sides)",
                    state.callsign
                ));
            }
            debug!(%remote, error = %e, "TLS handshake failed");
            Err(Refused { endpoints: vec![state], explanation: Some(explanation) })
        }
    }
}

/// The other end closed the connection, or its machine did.
fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Explains a handshake that failed on the side that was dialled.
fn failed(error: &io::Error, own: Option<&CertificateInfo>, asked_for_a_fleet: bool) -> Explanation {
    let mut explanation = explain(error, own);
    if is_anonymous(error, asked_for_a_fleet) {
        explanation.reason = RefusalReason::Anonymous;
    } else if is_broken(error) {
        explanation.sentence.push_str(&format!(", as a member that had begun it; {LOST_PACKETS}"));
    }
    explanation
}

/// Reads what is under way before the connection goes: unread bytes would reset it and lose the alert.
async fn drain(mut io: CountedTcp) {
    let read = async {
        io.shutdown().await?;
        tokio::io::copy(&mut (&mut io).take(DRAIN_BYTES), &mut tokio::io::sink()).await
    };
    let _ = timeout(CLOSE_LINGER, read).await;
}

/// Speaks HTTP/2 on a connection until its one stream ends.
async fn carry(
    tls: TlsStream<CountedTcp>,
    arrival: &Arc<Arrival>,
    deadline: Instant,
    permit: OwnedSemaphorePermit,
) {
    let (io, failure) = RememberingIo::new(tls);
    let service = FleetServer::new(LinkService(arrival.clone())).max_decoding_message_size(MAX_FRAME_BYTES);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(1)
        .max_header_list_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {
            // A peer that ends here says why itself: it did not like our certificate or address.
            if let Some(e) = failure.take() && !arrival.taken.load(Relaxed) {
                arrival.went_away(&e);
            }
            return;
        }
        () = arrival.answered.cancelled() => {}
        () = sleep_until(deadline) => {
            let limit = HANDSHAKE_TIMEOUT.as_secs();
            let sentence = format!("{} finished TLS and said no Hello in {limit} s: dropped", arrival.remote);
            return arrival.refused(RefusalReason::Handshake, None, sentence);
        }
    }
    drop(permit);
    tokio::select! {
        // The stream on it ends with the connection, and reports how.
        _ = connection.as_mut() => return,
        () = arrival.finished.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(CLOSE_LINGER, connection).await;
}

/// One incoming connection.
struct Arrival {
    state: Arc<EndpointState>,
    peer: PeerCertificate,
    remote: SocketAddr,
    /// Its one stream has been opened.
    taken: AtomicBool,
    /// The Hello has been answered.
    answered: CancellationToken,
    /// Nothing more is to be sent.
    finished: CancellationToken,
}

impl Arrival {
    /// It ended before it opened a stream. That its certificate is good is all that `flagship check` wants to know, so
    /// an end without a reason is nothing to tell people.
    fn went_away(&self, error: &io::Error) {
        let Explanation { reason, sentence } = explain(error, Some(&self.state.tls.load().info));
        let sentence = format!("{} went away: {sentence}", self.remote);
        if has_gone(error) {
            self.state.shared.counters.handshake(false, reason.as_str());
            return debug!(sentence, "no link");
        }
        self.refused(reason, None, sentence);
    }

    fn refused(&self, reason: RefusalReason, peer: Option<MemberName>, sentence: String) {
        self.state.refused(LinkRefusal { remote: Some(self.remote), peer, dialled: false, reason, sentence });
    }

    async fn session(&self, mut inbound: Streaming<Frame>, outbox: Arc<Outbox>) {
        let state = &self.state;
        let hello = match first_frame(state, &mut inbound).await {
            First::Hello(hello) => hello,
            First::Close(_) | First::Ended(_) => return,
            First::Broken(sentence) => {
                return self.refuse(&outbox, &mut inbound, CloseCode::ProtocolError, sentence, None).await;
            }
        };
        let proven = self.peer.leaf.trust_domain_for(&hello.callsign, &hello.member).is_some();
        let name = proven.then(|| hello.member.clone());
        if let Err(refusal) = check_hello(state, &self.peer, &hello) {
            if refusal.ourselves {
                // The dialling side, which is us, recognises the Hello and is quiet about it.
                outbox.push(hello_frame(&state.our_hello()), std::time::Instant::now());
                outbox.close(refusal.code, refusal.sentence);
                self.answered.cancel();
                return linger(&outbox, &mut inbound).await;
            }
            return self.refuse(&outbox, &mut inbound, refusal.code, refusal.sentence, name).await;
        }
        if state.stands_by {
            return self.stand_by(&outbox, &mut inbound).await;
        }
        // Before the link is in the table, so that nothing can be queued ahead of it.
        outbox.push(hello_frame(&state.our_hello()), std::time::Instant::now());
        match state.register(&hello, self.peer.clone(), Usage::Client, outbox.clone()) {
            Ok(handle) => {
                self.answered.cancel();
                announce(state, &handle, hello, None).await;
                run(state, &handle, &mut inbound, false).await;
            }
            Err(code) => {
                let sentence = format!("{} takes no more links ({})", state.member, code.as_str());
                self.refuse(&outbox, &mut inbound, code, sentence, name).await;
            }
        }
    }

    /// Sends a proper peer away without a Hello, which would tell an epoch: another replica has the member's. It is
    /// nothing to tell people; the peer dials again.
    async fn stand_by(&self, outbox: &Outbox, inbound: &mut Streaming<Frame>) {
        let code = CloseCode::Standby;
        outbox.close(code, STANDBY_SENTENCE.to_owned());
        self.answered.cancel();
        self.state.shared.counters.handshake(false, code.as_str());
        linger_after(code, outbox, inbound).await;
    }

    async fn refuse(
        &self,
        outbox: &Outbox,
        inbound: &mut Streaming<Frame>,
        code: CloseCode,
        sentence: String,
        peer: Option<MemberName>,
    ) {
        outbox.close(code, sentence.clone());
        self.answered.cancel();
        let sentence = format!("refused a link from {}: {sentence}", self.remote);
        self.refused(RefusalReason::Code(code), peer, sentence);
        linger_after(code, outbox, inbound).await;
    }
}

/// The gRPC service on one connection: one call, then no more.
struct LinkService(Arc<Arrival>);

#[tonic::async_trait]
impl Fleet for LinkService {
    type LinkStream = BoxStream<'static, Result<Frame, Status>>;

    async fn link(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::LinkStream>, Status> {
        if self.0.taken.swap(true, Relaxed) {
            return Err(Status::resource_exhausted("one link per connection"));
        }
        let outbox = Outbox::new(self.0.state.shared.counters.clone());
        let frames = OutboxStream(outbox.clone()).map(Ok).boxed();
        let arrival = self.0.clone();
        let inbound = request.into_inner();
        self.0.state.tasks.spawn(async move {
            arrival.session(inbound, outbox.clone()).await;
            outbox.end();
            arrival.answered.cancel();
            arrival.finished.cancel();
        });
        Ok(Response::new(frames))
    }
}
