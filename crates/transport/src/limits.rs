//! The bounds of everything that could grow or take for ever.

use std::time::Duration;

/// How long a TCP connection may take to open, and a name to resolve.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// From an open TCP connection to the other's Hello. A peer that says nothing is dropped after this.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Incoming handshakes under way at once, in all fleets: each costs some 10 KiB and a millisecond of CPU.
pub const MAX_HANDSHAKES: usize = 256;

/// Attempts to dial under way at once, for one member: a core dials each peer once at a time.
pub(crate) const MAX_DIALS: usize = 256;

/// Links of one member. Above 8 members no member has many; duplicates live for a moment.
pub const MAX_LINKS: usize = 1024;

/// Messages that wait on one link; beats come on top and coalesce. A healthy link drains within a round trip.
pub const LINK_QUEUE: usize = 256;

/// A queue that is still full after this long belongs to a peer that does not read: the link is closed.
pub const QUEUE_FULL_LIMIT: Duration = Duration::from_secs(2);

/// Events that wait for the node. When it is full links are not read, which pushes back on the peers.
pub(crate) const EVENT_QUEUE: usize = 1024;

/// How long a closed link waits for the last frame to be read by the peer.
pub const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// The same for a peer whose bytes made no sense, so that its end cannot be seen.
pub(crate) const BROKEN_LINGER: Duration = Duration::from_millis(200);

/// How long unacknowledged bytes may be under way before the kernel gives the connection up. Without it a link
/// over a healed cut waits for TCP's backoff: 49 s after a cut of 60 s.
#[cfg(target_os = "linux")]
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the certificate files are looked at. A mounted Secret takes a minute to change anyway.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Addresses tried per name and attempt.
pub(crate) const MAX_ADDRESSES_PER_NAME: usize = 4;

/// How long to try for a port that another member has just released.
pub(crate) const BIND_PATIENCE: Duration = Duration::from_secs(1);

/// HTTP/2 headers of one call: there is nothing but the gRPC ones in them.
pub(crate) const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// The largest certificate file: some hundred authorities.
pub(crate) const MAX_TLS_FILE_BYTES: u64 = 1 << 20;
