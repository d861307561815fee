//! From an address to an open TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use flagship_types::PeerAddress;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::limits::{CONNECT_TIMEOUT, MAX_ADDRESSES_PER_NAME};

/// Why there is no TCP connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TcpFailure {
    /// Every address behind the name refused: the host lives, nothing listens. Strong evidence, so nothing else
    /// may end up here.
    Refused(String),
    /// Anything else.
    Unanswered(String),
}

/// Dials once. A name is resolved anew every time.
pub(crate) async fn connect(address: &PeerAddress) -> Result<TcpStream, TcpFailure> {
    let addresses = resolve(address).await.map_err(TcpFailure::Unanswered)?;
    let mut refused = None;
    let mut unanswered = None;
    for ip in addresses {
        match connect_to(ip).await {
            Ok(stream) => return Ok(stream),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => refused = Some(refusal(ip)),
            Err(e) => unanswered = Some(format!("cannot connect to {ip}: {e}")),
        }
    }
    Err(match (unanswered, refused) {
        (None, Some(sentence)) => TcpFailure::Refused(sentence),
        (Some(sentence), _) => TcpFailure::Unanswered(sentence),
        (None, None) => TcpFailure::Unanswered(format!("{} has no address", address.host())),
    })
}

fn refusal(address: SocketAddr) -> String {
    format!("{address} refuses connections: no daemon listens there")
}

async fn resolve(address: &PeerAddress) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = address.host().parse::<IpAddr>() {
        return Ok(vec![(ip, address.port()).into()]);
    }
    let host = address.host();
    match timeout(CONNECT_TIMEOUT, lookup_host((host, address.port()))).await {
        Ok(Ok(addresses)) => Ok(addresses.take(MAX_ADDRESSES_PER_NAME).collect()),
        Ok(Err(e)) => Err(format!("cannot resolve {host}: {e}: correct spec.fleet or the DNS record")),
        Err(_) => {
            Err(format!("cannot resolve {host}: no answer from DNS in {} s", CONNECT_TIMEOUT.as_secs()))
        }
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let no_answer =
        || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", CONNECT_TIMEOUT.as_secs()));
    let stream = timeout(CONNECT_TIMEOUT, socket.connect(address)).await.map_err(|_| no_answer())??;
    // On one host the kernel may pick the dialled port as the source port and connect the socket to itself:
    // nothing listens there.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    prepare(&stream)?;
    Ok(stream)
}

/// What both ends of every connection need.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Without it the first message waits 40 ms for an acknowledgement.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(crate::limits::TCP_USER_TIMEOUT))?;
    Ok(())
}
