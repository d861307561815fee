//! A stream after its TLS handshake: the Hellos, then messages until it ends.

use std::sync::Arc;
use std::time::SystemTime;

use flagship_node::{LinkEnd, LinkEvent, LinkRefusal, PeerHello, RefusalReason};
use flagship_types::{CloseCode, MemberName, PeerAddress, Verified};
use flagship_wire::{Frame, Hello, Incoming, decode, decode_from};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::endpoint::{EndpointState, LinkHandle};
use crate::limits::{BROKEN_LINGER, CLOSE_LINGER};
use crate::outbox::Outbox;
use crate::statements::vouched;
use crate::tls::{PeerCertificate, renewal};

/// Why a Hello was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelloRefusal {
    pub(crate) code: CloseCode,
    pub(crate) sentence: String,
    /// A process that dials itself is nothing to tell people about.
    pub(crate) ourselves: bool,
}

/// Compares what a peer says of itself with what its certificate proves and with what we are.
pub(crate) fn check_hello(
    state: &EndpointState,
    peer: &PeerCertificate,
    hello: &Hello,
) -> Result<(), HelloRefusal> {
    let refuse = |code, sentence| Err(HelloRefusal { code, sentence, ourselves: false });
    let name = &hello.member;
    if !hello.speaks_our_protocol() {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        let sentence = format!(
            "{name} speaks protocol {min} to {max}, {} speaks {} to {}: update the older daemon",
            state.member,
            flagship_wire::PROTOCOL_MIN,
            flagship_wire::PROTOCOL_MAX
        );
        return refuse(CloseCode::ProtocolTooOld, sentence);
    }
    if hello.callsign != state.callsign {
        let sentence = format!(
            "{name} belongs to fleet {}, {} to fleet {}: check spec.callsign and spec.fleet",
            hello.callsign, state.member, state.callsign
        );
        return refuse(CloseCode::WrongCallsign, sentence);
    }
    match peer.leaf.trust_domain_for(&hello.callsign, name) {
        None => {
            let sentence = format!(
                "it says it is {name} of fleet {}, its certificate is for {}: mount the certificate of {name}",
                hello.callsign,
                peer.names()
            );
            return refuse(CloseCode::IdentityMismatch, sentence);
        }
        Some(theirs) if *theirs != state.tls.load().info.trust_domain => {
            let ours = &state.tls.load().info.trust_domain;
            let sentence = format!("the certificate of {name} is of trust domain {theirs}, not {ours}");
            return refuse(CloseCode::IdentityMismatch, sentence);
        }
        Some(_) => {}
    }
    if hello.instance == state.shared.instance && *name == state.member {
        let sentence = format!("{name} dialled itself");
        return Err(HelloRefusal { code: CloseCode::IdentityMismatch, sentence, ourselves: true });
    }
    Ok(())
}

/// The first frame of a stream.
pub(crate) enum First {
    Hello(Hello),
    Close(flagship_wire::Close),
    /// Neither; the sentence says what came instead.
    Broken(String),
    /// The stream ended.
    Ended(Option<Status>),
}

pub(crate) async fn first_frame(state: &EndpointState, inbound: &mut Streaming<Frame>) -> First {
    match next(state, inbound, None).await {
        Next::Frame(Incoming::Hello(hello)) => First::Hello(hello),
        Next::Frame(Incoming::Close(close)) => First::Close(close),
        Next::Frame(Incoming::Message(_)) => First::Broken("its first frame is no Hello".into()),
        Next::Broken(sentence) => First::Broken(sentence),
        Next::Ended(status) => First::Ended(status),
    }
}

enum Next {
    Frame(Incoming),
    Broken(String),
    Ended(Option<Status>),
}

async fn next(state: &EndpointState, inbound: &mut Streaming<Frame>, sender: Option<&MemberName>) -> Next {
    match inbound.message().await {
        Ok(Some(frame)) => {
            state.shared.counters.frame(false, &frame);
            let read = match sender {
                Some(sender) => decode_from(frame, sender),
                None => decode(frame),
            };
            match read {
                Ok(incoming) => Next::Frame(incoming),
                Err(e) => Next::Broken(format!("it sent a frame that is refused: {e}")),
            }
        }
        Ok(None) => Next::Ended(None),
        Err(status) if status.code() == Code::OutOfRange => {
            Next::Broken(format!("it sent a frame of more than {} bytes", flagship_wire::MAX_FRAME_BYTES))
        }
        Err(status) if status.message().contains("failed to decode Protobuf message") => {
            Next::Broken(format!("it sent bytes that are no frame: {}", status.message()))
        }
        Err(status) => Next::Ended(Some(status)),
    }
}

/// Tells the node that a link is up, and people if its certificate has expired.
pub(crate) async fn announce(
    state: &EndpointState,
    handle: &LinkHandle,
    hello: Hello,
    dialled: Option<PeerAddress>,
) {
    state.shared.counters.handshake(dialled.is_some(), "ok");
    if handle.peer.expired(SystemTime::now()) {
        let grace = flagship_types::format_duration(state.shared.options.expired_certificate_grace);
        let sentence = format!(
            "the certificate of {} has expired: it is let in until {grace} after that; renew it with: {}",
            handle.member,
            renewal(&state.callsign, &handle.member, None)
        );
        state.warn("peer-expired", Some(handle.member.clone()), sentence);
    }
    let protocol = handle.protocol;
    let Hello { member, epoch, address, view_hash, .. } = hello;
    let hello = Verified::first_hand(PeerHello { member, epoch, address, view_hash, protocol });
    // If the node is gone the link notices at its first message or at the detachment.
    let _ = state.events.send(LinkEvent::Up { link: handle.id, hello, dialled }).await;
}

/// Carries messages to the node until the link ends, and tells the node how.
pub(crate) async fn run(
    state: &Arc<EndpointState>,
    handle: &LinkHandle,
    inbound: &mut Streaming<Frame>,
    dialled: bool,
) {
    let ended = receive(state, handle, inbound).await;
    let known = state.forget(handle.id).is_some();
    let end = match ended {
        Ended::ByUs => match handle.forced.get() {
            Some((code, sentence)) => {
                tell(state, handle, dialled, *code, sentence);
                LinkEnd::Closed(*code)
            }
            None => return linger(&handle.outbox, inbound).await,
        },
        Ended::Broken(sentence) => {
            let code = CloseCode::ProtocolError;
            tell(state, handle, dialled, code, &sentence);
            handle.outbox.close(code, sentence);
            LinkEnd::Closed(code)
        }
        Ended::ByPeer(code) => {
            handle.outbox.end();
            LinkEnd::Closed(code)
        }
        Ended::Lost => {
            handle.outbox.end();
            LinkEnd::Lost
        }
    };
    // Not in the table any more: the node closed it at this very moment and expects to hear nothing.
    if known {
        let _ = state.events.send(LinkEvent::Down { link: handle.id, end }).await;
    }
    match end {
        LinkEnd::Closed(code) => linger_after(code, &handle.outbox, inbound).await,
        LinkEnd::Lost => {}
    }
}

fn tell(state: &EndpointState, handle: &LinkHandle, dialled: bool, code: CloseCode, sentence: &str) {
    let sentence = format!("closed the link to {}: {sentence}", handle.member);
    let (peer, reason) = (Some(handle.member.clone()), RefusalReason::Code(code));
    state.tell_refusal(LinkRefusal { remote: None, peer, dialled, reason, sentence });
}

enum Ended {
    ByUs,
    ByPeer(CloseCode),
    Broken(String),
    Lost,
}

async fn receive(state: &EndpointState, handle: &LinkHandle, inbound: &mut Streaming<Frame>) -> Ended {
    loop {
        let next = tokio::select! {
            biased;
            () = handle.ending.cancelled() => return Ended::ByUs,
            next = next(state, inbound, Some(&handle.member)) => next,
        };
        let message = match next {
            Next::Frame(Incoming::Message(message)) => message,
            Next::Frame(Incoming::Close(close)) => return Ended::ByPeer(close.code),
            Next::Frame(Incoming::Hello(_)) => return Ended::Broken("it said Hello twice".into()),
            Next::Broken(sentence) => return Ended::Broken(sentence),
            Next::Ended(_) => return Ended::Lost,
        };
        let Some(message) = vouched(state, &handle.member, message).await else { continue };
        let event = LinkEvent::Message { link: handle.id, message: Verified::checked(message) };
        // Waiting here stops the reading, which pushes back on the peer through HTTP/2's window.
        tokio::select! {
            () = handle.ending.cancelled() => return Ended::ByUs,
            sent = state.events.send(event) => if sent.is_err() {
                handle.outbox.close(CloseCode::ShuttingDown, "the member has ended".into());
                return Ended::ByUs;
            },
        }
    }
}

/// Lets the peer read the last frame: a connection dropped with unread bytes is reset, which loses it.
pub(crate) async fn linger(outbox: &Outbox, inbound: &mut Streaming<Frame>) {
    let read = async {
        while let Ok(Some(_)) = inbound.message().await {}
        outbox.drained().await;
    };
    // Either way the connection goes now.
    let _ = timeout(CLOSE_LINGER, read).await;
}

/// The same after a Close with this code: where the peer's bytes made no sense its end cannot be waited for.
pub(crate) async fn linger_after(code: CloseCode, outbox: &Outbox, inbound: &mut Streaming<Frame>) {
    if code != CloseCode::ProtocolError {
        return linger(outbox, inbound).await;
    }
    let _ = timeout(CLOSE_LINGER, outbox.drained()).await;
    sleep(BROKEN_LINGER).await;
}
