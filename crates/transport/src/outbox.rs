//! What waits to be sent on one link: bounded, in order, with at most one beat.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use flagship_types::CloseCode;
use flagship_wire::{Close, Frame, FrameKind, close_frame};
use futures::Stream;
use futures::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

use crate::limits::{LINK_QUEUE, QUEUE_FULL_LIMIT};
use crate::stats::Counters;

/// The queue of one link.
pub(crate) struct Outbox {
    state: Mutex<State>,
    waker: AtomicWaker,
    /// Everything up to the Close was taken by the stream.
    drained: CancellationToken,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Frame>,
    /// Whether one of the queue's frames is a beat.
    beat: bool,
    /// Since when messages had to be dropped.
    full_since: Option<Instant>,
    /// Nothing more is taken; the stream ends when the queue is empty.
    closed: bool,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It will be sent, or a newer beat instead of it.
    Queued,
    /// It was dropped: the queue is full, or closed.
    Dropped,
    /// It was dropped, and the queue has been full for too long.
    StayedFull,
}

impl Outbox {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            drained: CancellationToken::new(),
            counters,
        })
    }

    pub(crate) fn push(&self, frame: Frame, now: Instant) -> Pushed {
        let pushed = self.push_locked(frame, now);
        self.waker.wake();
        pushed
    }

    fn push_locked(&self, frame: Frame, now: Instant) -> Pushed {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Pushed::Dropped;
        }
        let overdue = state.full_since.is_some_and(|since| now.duration_since(since) >= QUEUE_FULL_LIMIT);
        if frame.kind() == FrameKind::Beat {
            let waiting = state.beat.then(|| state.queue.iter_mut().find(|f| f.kind() == FrameKind::Beat));
            match waiting.flatten() {
                // It keeps its place: a beat that went ahead of a record would show a view without it.
                Some(older) => {
                    *older = frame;
                    self.counters.beats_coalesced.fetch_add(1, Relaxed);
                }
                None => {
                    state.queue.push_back(frame);
                    state.beat = true;
                }
            }
            return if overdue { Pushed::StayedFull } else { Pushed::Queued };
        }
        if state.queue.len() >= LINK_QUEUE + usize::from(state.beat) {
            state.full_since.get_or_insert(now);
            self.counters.queue_full.fetch_add(1, Relaxed);
            return if overdue { Pushed::StayedFull } else { Pushed::Dropped };
        }
        state.queue.push_back(frame);
        Pushed::Queued
    }

    /// Ends the queue with a Close. What waits is sent before it, unless the link is stale and would not take it.
    /// Only the first call counts.
    pub(crate) fn close(&self, code: CloseCode, sentence: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.closed {
            if code == CloseCode::Stale {
                state.queue.clear();
            }
            state.queue.push_back(close_frame(&Close { code, sentence }));
            state.closed = true;
        }
        drop(state);
        self.waker.wake();
    }

    /// Ends the queue without a word, because the peer has gone; one that is closed stays as it is.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.closed {
            state.queue.clear();
            state.closed = true;
        }
        drop(state);
        self.waker.wake();
    }

    /// Waits until a closed queue was taken by the stream.
    pub(crate) async fn drained(&self) {
        self.drained.cancelled().await;
    }

    fn pop(&self) -> Option<Option<Frame>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(frame) = state.queue.pop_front() else {
            if state.closed {
                self.drained.cancel();
            }
            return state.closed.then_some(None);
        };
        if frame.kind() == FrameKind::Beat {
            state.beat = false;
        }
        state.full_since = None;
        self.counters.frame(true, &frame);
        Some(Some(frame))
    }
}

/// The frames of an [`Outbox`] as the gRPC call takes them.
pub(crate) struct OutboxStream(pub(crate) Arc<Outbox>);

impl Stream for OutboxStream {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(next) = self.0.pop() {
            return Poll::Ready(next);
        }
        self.0.waker.register(cx.waker());
        // Once more: a push between the first look and the registration woke nobody.
        self.0.pop().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flagship_membership::Message;
    use flagship_wire::{PeerMessage, message_frame, pb};
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn beat(seq: u64) -> Frame {
        let beat = Message::Beat { seq, echo: None, acked: None, view_hash: 1 };
        message_frame(&PeerMessage::Membership(beat)).unwrap()
    }

    fn message() -> Frame {
        pb::Frame { kind: Some(pb::frame::Kind::Election(pb::ElectionMessage::default())) }.into()
    }

    fn drain(outbox: &Arc<Outbox>) -> Vec<Frame> {
        let mut stream = OutboxStream(outbox.clone());
        std::iter::from_fn(|| stream.next().now_or_never().flatten()).collect()
    }

    #[test]
    fn only_the_newest_beat_waits_and_order_is_kept() {
        let outbox = Outbox::new(Arc::default());
        let now = Instant::now();
        for frame in [message(), beat(1), beat(2), message(), beat(3)] {
            assert_eq!(outbox.push(frame, now), Pushed::Queued);
        }
        assert_eq!(drain(&outbox), [message(), beat(3), message()]);
        assert_eq!(outbox.counters.beats_coalesced.load(Relaxed), 2);
        outbox.push(beat(4), now);
        assert_eq!(drain(&outbox), [beat(4)]);
    }

    #[test]
    fn a_full_queue_drops_and_a_queue_that_stays_full_says_so() {
        let outbox = Outbox::new(Arc::default());
        let now = Instant::now();
        for _ in 0..LINK_QUEUE {
            assert_eq!(outbox.push(message(), now), Pushed::Queued);
        }
        assert_eq!(outbox.push(message(), now), Pushed::Dropped);
        assert_eq!(outbox.push(beat(1), now), Pushed::Queued, "a beat has its own place");
        let later = now + QUEUE_FULL_LIMIT - Duration::from_millis(1);
        assert_eq!(outbox.push(message(), later), Pushed::Dropped);
        assert_eq!(outbox.push(beat(2), now + QUEUE_FULL_LIMIT), Pushed::StayedFull);
        assert_eq!(outbox.counters.queue_full.load(Relaxed), 2);
        assert_eq!(drain(&outbox).len(), LINK_QUEUE + 1);
        assert_eq!(outbox.push(message(), now + QUEUE_FULL_LIMIT), Pushed::Queued, "drained: no longer full");
    }

    #[test]
    fn close_is_the_last_frame() {
        let outbox = Outbox::new(Arc::default());
        outbox.push(message(), Instant::now());
        outbox.close(CloseCode::Leaving, "gone".into());
        outbox.close(CloseCode::Full, "too late".into());
        assert_eq!(outbox.push(message(), Instant::now()), Pushed::Dropped);
        let frames = drain(&outbox);
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1], close_frame(&Close { code: CloseCode::Leaving, sentence: "gone".into() }));
    }
}
