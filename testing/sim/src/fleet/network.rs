//! Streams as TCP gives them: ordered, delayed, and silent for a while when a path is cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flagship_types::Instant;
use flagship_wire::PeerMessage;

/// A host's number.
pub(crate) type HostId = usize;

/// What unacknowledged data waits before its sender gives the stream up (TCP_USER_TIMEOUT).
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection attempt waits for an answer.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest a sender waits between retransmissions within the user timeout, so the longest a healed path
/// stays silent for a stream that survived.
const RETRANSMISSION: Duration = Duration::from_millis(1500);

/// One end of a stream, as seen by its host.
#[derive(Debug)]
pub(crate) struct End {
    pub host: HostId,
    /// The process that holds it: a restarted process has none of its predecessor's streams.
    pub process: u64,
    pub open: bool,
    /// Sent while the path was cut; delivered when it heals in time.
    pub stalled: VecDeque<PeerMessage>,
    /// Since when data is not acknowledged.
    pub unacked_since: Option<Instant>,
    /// When the last frame arrives, so that later ones do not overtake it.
    pub last_arrival: Instant,
}

/// A stream between two ends; its number is the link's at both.
#[derive(Debug)]
pub(crate) struct Stream {
    pub ends: [End; 2],
}

/// All paths and streams.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub streams: BTreeMap<u64, Stream>,
    cut: BTreeSet<(HostId, HostId)>,
    next: u64,
}

impl Network {
    pub(crate) fn cut(&mut self, from: HostId, to: HostId) {
        self.cut.insert((from, to));
    }

    pub(crate) fn heal(&mut self, from: HostId, to: HostId) {
        self.cut.remove(&(from, to));
    }

    pub(crate) fn open(&self, from: HostId, to: HostId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Data needs one direction, its acknowledgement the other.
    pub(crate) fn both_open(&self, a: HostId, b: HostId) -> bool {
        self.open(a, b) && self.open(b, a)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.cut.is_empty()
    }

    pub(crate) fn connect(&mut self, ends: [(HostId, u64); 2]) -> u64 {
        self.next += 1;
        let end = |(host, process)| End {
            host,
            process,
            open: true,
            stalled: VecDeque::new(),
            unacked_since: None,
            last_arrival: Instant::ZERO,
        };
        self.streams.insert(self.next, Stream { ends: ends.map(end) });
        self.next
    }

    /// How long after a heal a stalled stream moves again.
    pub(crate) fn retransmission(&self, fraction: f64) -> Duration {
        RETRANSMISSION.mul_f64(fraction)
    }
}

impl Stream {
    /// Which end this host's process has; `None` if it has none.
    pub(crate) fn end_of(&self, host: HostId, process: u64) -> Option<usize> {
        self.ends.iter().position(|end| end.host == host && end.process == process)
    }
}
