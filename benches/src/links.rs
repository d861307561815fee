//! The other end of a link: a peer that beats, echoes and pings as the core itself would.

use std::time::Duration;

use flagship_membership::{Echo, Message};
use flagship_types::{Instant, MemberName};

/// From one end of a link to the other.
pub(crate) const WAY: Duration = Duration::from_millis(20);
/// Beats are up to so much later.
pub(crate) const JITTER: Duration = Duration::from_millis(10);
/// Between two beats.
pub(crate) const H: Duration = Duration::from_secs(1);

/// What a peer keeps of its link to the core.
#[derive(Debug)]
pub(crate) struct PeerEnd {
    pub(crate) name: MemberName,
    /// It is observed by the core's member, and beats.
    pub(crate) beats: bool,
    /// It observes the core's member, and echoes.
    pub(crate) observes: bool,
    pub(crate) up: bool,
    /// Its newest number.
    seq: u64,
    /// The newest number of the core's, and when it came.
    received: Option<(u64, Instant)>,
    /// The newest of its own numbers that came back, and when.
    acked: Option<(u64, Instant)>,
}

impl PeerEnd {
    pub(crate) fn new(name: MemberName, beats: bool, observes: bool) -> Self {
        Self { name, beats, observes, up: false, seq: 0, received: None, acked: None }
    }

    /// The beat that it sends now.
    pub(crate) fn beat(&mut self, view_hash: u32, now: Instant) -> Message {
        self.seq += 1;
        let echo = |(seq, at): (u64, Instant)| Echo { seq, delay: now.since(at) };
        let mutual = self.observes;
        let (echoed, acked) = if mutual { (self.received, None) } else { (None, self.acked) };
        Message::Beat { seq: self.seq, echo: echoed.map(echo), acked: acked.map(echo), view_hash }
    }

    pub(crate) fn ping(&mut self) -> Message {
        self.seq += 1;
        Message::Ping { seq: self.seq }
    }

    /// Takes what the core sent, on its arrival; the answer, if it has one.
    pub(crate) fn take(&mut self, message: &Message, now: Instant) -> Option<Message> {
        match message {
            Message::Beat { seq, .. } => {
                self.received = Some((*seq, now));
                // Where it beats too its beats carry the echo.
                (!self.beats).then_some(Message::Echo(Echo { seq: *seq, delay: Duration::ZERO }))
            }
            Message::Ping { seq } => {
                self.received = Some((*seq, now));
                Some(Message::Echo(Echo { seq: *seq, delay: Duration::ZERO }))
            }
            Message::Echo(echo) => {
                self.acked = Some((echo.seq, now));
                None
            }
            _ => None,
        }
    }
}
