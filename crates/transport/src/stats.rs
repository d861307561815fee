//! Counters, read by the metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use flagship_wire::{Frame, FrameKind};

/// Frames of one kind in one direction since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCount {
    /// What kind.
    pub kind: FrameKind,
    /// Sent or received.
    pub sent: bool,
    /// How many.
    pub frames: u64,
    /// Their encoded length, TLS and HTTP/2 aside.
    pub bytes: u64,
}

/// Attempts to open a link with one result since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeCount {
    /// Whether this side dialled.
    pub dialled: bool,
    /// `ok`, `refused` and `unanswered` (TCP), or a [`flagship_node::RefusalReason`].
    pub result: &'static str,
    /// How many.
    pub count: u64,
}

/// All counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransportStats {
    /// By direction and result; those that never happened are left out.
    pub handshakes: Vec<HandshakeCount>,
    /// By kind and direction.
    pub frames: Vec<FrameCount>,
    /// Bytes written to all connections, handshakes, TLS and HTTP/2 included.
    pub wire_sent: u64,
    /// Bytes read from all connections, in the same way.
    pub wire_received: u64,
    /// Links that are up.
    pub links: usize,
    /// Messages dropped because a link's queue was full.
    pub queue_full: u64,
    /// Beats replaced by a newer one before they were sent.
    pub beats_coalesced: u64,
    /// Messages dropped because they would not fit into a frame.
    pub oversized: u64,
    /// Messages not sent because the peer's protocol does not know them.
    pub unspoken: u64,
    /// Records and accusations whose signature was checked and found good, each once.
    pub statements_verified: u64,
    /// Records and accusations that were dropped because nothing good vouched for them.
    pub statements_refused: u64,
}

#[derive(Default)]
struct Pair {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// The live counters.
#[derive(Default)]
pub(crate) struct Counters {
    // Results are a bounded set of static labels.
    handshakes: Mutex<BTreeMap<(bool, &'static str), u64>>,
    frames: [[Pair; FrameKind::ALL.len()]; 2],
    pub(crate) wire_sent: AtomicU64,
    pub(crate) wire_received: AtomicU64,
    pub(crate) queue_full: AtomicU64,
    pub(crate) beats_coalesced: AtomicU64,
    pub(crate) oversized: AtomicU64,
    pub(crate) unspoken: AtomicU64,
    pub(crate) statements_verified: AtomicU64,
    pub(crate) statements_refused: AtomicU64,
}

impl Counters {
    pub(crate) fn handshake(&self, dialled: bool, result: &'static str) {
        let mut counts = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((dialled, result)).or_default() += 1;
    }

    pub(crate) fn frame(&self, sent: bool, frame: &Frame) {
        let pair = &self.frames[usize::from(sent)][frame.kind() as usize];
        pair.frames.fetch_add(1, Relaxed);
        pair.bytes.fetch_add(frame.encoded_len() as u64, Relaxed);
    }

    pub(crate) fn snapshot(&self, links: usize) -> TransportStats {
        let counts = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        let handshakes = counts.iter().map(|((dialled, result), count)| HandshakeCount {
            dialled: *dialled,
            result,
            count: *count,
        });
        let frames = [false, true].into_iter().flat_map(|sent| {
            FrameKind::ALL.map(|kind| {
                let pair = &self.frames[usize::from(sent)][kind as usize];
                FrameCount { kind, sent, frames: pair.frames.load(Relaxed), bytes: pair.bytes.load(Relaxed) }
            })
        });
        TransportStats {
            handshakes: handshakes.collect(),
            frames: frames.collect(),
            wire_sent: self.wire_sent.load(Relaxed),
            wire_received: self.wire_received.load(Relaxed),
            links,
            queue_full: self.queue_full.load(Relaxed),
            beats_coalesced: self.beats_coalesced.load(Relaxed),
            oversized: self.oversized.load(Relaxed),
            unspoken: self.unspoken.load(Relaxed),
            statements_verified: self.statements_verified.load(Relaxed),
            statements_refused: self.statements_refused.load(Relaxed),
        }
    }
}
