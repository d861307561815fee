//! Counters of a run, and who holds whom Down.

use std::collections::BTreeSet;

use flagship_membership::{Message, State};

use super::checks::Seen;
use super::fault::Host;
use crate::clock::Nanos;

/// A verdict: a viewer holds a subject Down from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// When.
    pub at: Nanos,
    /// Who says so.
    pub viewer: Host,
    /// Of whom.
    pub subject: Host,
}

/// What a run counted.
#[derive(Debug)]
pub struct Tally {
    /// Events of the simulation.
    pub happenings: u64,
    /// Outputs of cores.
    pub outputs: u64,
    /// Frames that reached their end.
    pub delivered: u64,
    /// Links that came up, counted at both ends.
    pub links_up: u64,
    /// Dials begun.
    pub dials: u64,
    /// Segments that were lost, by chance or in a cut.
    pub segments_lost: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Frames the transport dropped because their signature does not verify.
    pub forged_dropped: u64,
    /// Lies told.
    pub lies: u64,
    /// Processes that stalled because somebody has their name.
    pub stalled: u64,
    /// Frames sent.
    pub frames: u64,
    /// Their encoded bytes, if asked for.
    pub bytes: Option<u64>,
    /// All verdicts, in order of time.
    pub downs: Vec<Verdict>,
    /// Who is held Down now: (subject, viewer).
    held_down: BTreeSet<(Host, Host)>,
}

impl Tally {
    pub(super) fn new(bytes: bool) -> Self {
        Self {
            happenings: 0,
            outputs: 0,
            delivered: 0,
            links_up: 0,
            dials: 0,
            segments_lost: 0,
            retransmissions: 0,
            forged_dropped: 0,
            lies: 0,
            stalled: 0,
            frames: 0,
            bytes: bytes.then_some(0),
            downs: Vec::new(),
            held_down: BTreeSet::new(),
        }
    }

    pub(super) fn count(&mut self, message: &Message) {
        self.frames += 1;
        if let Some(bytes) = &mut self.bytes {
            *bytes += encoded_len(message);
        }
    }

    pub(super) fn seen(&mut self, seen: &Seen) {
        let pair = (seen.subject, seen.viewer);
        match seen.state {
            State::Down => {
                if self.held_down.insert(pair) {
                    self.downs.push(Verdict { at: seen.at, viewer: seen.viewer, subject: seen.subject });
                }
            }
            _ => {
                self.held_down.remove(&pair);
            }
        }
    }

    /// Whether one holds another Down now.
    pub fn holds_down(&self, viewer: Host, subject: Host) -> bool {
        self.held_down.contains(&(subject, viewer))
    }

    /// How many hold this one Down now.
    pub fn viewers_holding_down(&self, subject: Host) -> usize {
        self.held_down.range((subject, 0)..(subject + 1, 0)).count()
    }
}

/// Bytes of the message's frame on the wire, without the transport's own framing.
fn encoded_len(message: &Message) -> u64 {
    let message = flagship_wire::PeerMessage::Membership(message.clone());
    flagship_wire::message_frame(&message).map_or(0, |frame| frame.encoded_len() as u64)
}
