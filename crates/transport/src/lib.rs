//! Links between members: gRPC streams over mutual TLS, with identities, certificate reload and back-pressure;
//! it implements [`flagship_node::Links`]. It decides nothing about members or elections, and believes nothing
//! of a peer but what its certificate proves.

mod accept;
mod dial;
mod endpoint;
mod io;
mod limits;
mod listener;
mod notices;
mod outbox;
mod reload;
mod resolve;
mod session;
mod statements;
mod stats;
mod tls;
mod transport;

pub use flagship_wire::FrameKind;
pub use limits::{
    CLOSE_LINGER, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, LINK_QUEUE, MAX_HANDSHAKES, MAX_LINKS,
    QUEUE_FULL_LIMIT, RELOAD_INTERVAL,
};
pub use stats::{FrameCount, HandshakeCount, TransportStats};
pub use tls::{CertificateInfo, TlsError};
pub use transport::{
    AttachError, Attachment, Detach, Endpoint, Listen, Transport, TransportOptions, Waiting,
};
