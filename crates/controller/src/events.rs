//! Kubernetes Events of one MultiCluster: queued so that publishing delays nobody, throttled so that a peer
//! that knocks every second does not fill etcd.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::request::{Caller, Verb};

/// Events that may wait for the API server. More than this in one outage is noise: the newest are dropped.
const QUEUE: usize = 64;
/// Kubernetes takes notes of at most 1 KiB.
const MAX_NOTE_BYTES: usize = 1000;
/// The same thing is said again after this time at the earliest, then with how often it happened meanwhile.
const REPEAT_AFTER: Duration = Duration::from_secs(300);
/// Things told apart by the throttle. Peers choose what fills it, so it is small and the oldest goes first.
const MAX_KEYS: usize = 64;

/// One Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub warning: bool,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

impl Notice {
    pub(crate) fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: false, reason, note: note.into() }
    }

    pub(crate) fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: true, reason, note: note.into() }
    }
}

/// Says things about one object. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Notice>,
}

impl Publisher {
    /// Starts the task that publishes; it ends when the last publisher is dropped.
    pub(crate) fn spawn(recorder: Recorder, caller: Caller, about: ObjectReference) -> Self {
        let (queue, mut notices) = mpsc::channel::<Notice>(QUEUE);
        tokio::spawn(async move {
            while let Some(notice) = notices.recv().await {
                let event = event(&notice);
                let publish = async { recorder.publish(&event, &about).await };
                if let Err(error) = caller.call(Verb::Create, publish).await {
                    debug!(reason = notice.reason, %error, "event not published");
                }
            }
        });
        Self { queue }
    }

    /// Publishes, or drops the notice if the queue is full: the history in the status keeps what matters.
    pub(crate) fn publish(&self, notice: Notice) {
        if let Err(error) = self.queue.try_send(notice) {
            debug!(%error, "event dropped");
        }
    }
}

fn event(notice: &Notice) -> Event {
    // kube's recorder counts events with equal reason and action as one series and keeps the first note, so
    // different sentences need different actions.
    let mut hasher = DefaultHasher::new();
    notice.note.hash(&mut hasher);
    Event {
        type_: if notice.warning { EventType::Warning } else { EventType::Normal },
        reason: notice.reason.into(),
        note: Some(bounded(&notice.note)),
        action: format!("{}-{:08x}", notice.reason, hasher.finish() >> 32),
        secondary: None,
    }
}

fn bounded(note: &str) -> String {
    if note.len() <= MAX_NOTE_BYTES {
        return note.into();
    }
    let end = (0..=MAX_NOTE_BYTES - 3).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &note[..end])
}

/// Lets the first of equal things through, and later ones every [`REPEAT_AFTER`] with a count.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    said: Instant,
    since: u64,
}

impl Throttle {
    /// Whether to say it now; then with how many that were swallowed since the last time.
    pub(crate) fn admit(&mut self, key: &str, now: Instant) -> Option<u64> {
        if let Some(seen) = self.seen.get_mut(key) {
            if now.duration_since(seen.said) < REPEAT_AFTER {
                seen.since += 1;
                return None;
            }
            seen.said = now;
            return Some(std::mem::take(&mut seen.since));
        }
        if self.seen.len() >= MAX_KEYS {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.said).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(key.to_owned(), Seen { said: now, since: 0 });
        Some(0)
    }

    /// As [`Self::admit`], with the count put into the sentence.
    pub(crate) fn sentence(&mut self, key: &str, sentence: &str, now: Instant) -> Option<String> {
        Some(match self.admit(key, now)? {
            0 => sentence.to_owned(),
            more => format!("{sentence} ({more} more like this since the last such event)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_not_said() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.sentence("tls", "no", start), Some("no".into()));
        for second in 1..300 {
            assert_eq!(throttle.sentence("tls", "no", start + Duration::from_secs(second)), None);
        }
        assert_eq!(throttle.sentence("expired", "old", start), Some("old".into()));
        let again = throttle.sentence("tls", "no", start + REPEAT_AFTER).unwrap();
        assert!(again.contains("299 more"), "{again}");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_throttle() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        for stranger in 0..10_000u32 {
            throttle.admit(&format!("peer-{stranger}"), start + Duration::from_millis(stranger.into()));
        }
        assert_eq!(throttle.seen.len(), MAX_KEYS);
    }

    #[test]
    fn different_sentences_are_different_events() {
        let one = event(&Notice::normal("Elected", "term 1"));
        let two = event(&Notice::normal("Elected", "term 2"));
        assert_ne!(one.action, two.action);
        assert_eq!(one.action, event(&Notice::normal("Elected", "term 1")).action);
        assert!(one.action.len() <= 128);
    }

    #[test]
    fn notes_are_cut_at_a_character() {
        let cut = bounded(&"é".repeat(2000));
        assert!(cut.len() <= MAX_NOTE_BYTES && cut.ends_with('…'));
    }
}
