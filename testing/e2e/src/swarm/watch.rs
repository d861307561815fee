//! Who took whom for gone, and when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flagship_node::{NodeEvent, State};
use flagship_types::MemberName;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use super::LOOK;

/// An observer changed its mind to the worse.
#[derive(Debug, Clone)]
struct Alarm {
    observer: MemberName,
    about: MemberName,
    state: State,
    at: Instant,
}

/// All alarms of a swarm. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Alarm>>>);

impl Log {
    /// Notes what one node tells until it ends.
    pub(super) async fn listen(self, observer: MemberName, mut told: broadcast::Receiver<NodeEvent>) {
        loop {
            match told.recv().await {
                Ok(NodeEvent::Member { member, to: state @ (State::Suspect | State::Down), .. }) => {
                    let alarm =
                        Alarm { observer: observer.clone(), about: member, state, at: Instant::now() };
                    self.0.lock().unwrap_or_else(PoisonError::into_inner).push(alarm);
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Suspicions and verdicts since then about members that were not lost, as sentences.
    pub(super) fn alarms_about_others(&self, since: Instant, lost: &[MemberName]) -> Vec<String> {
        let alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |alarm: &&Alarm| {
            alarm.at >= since && !lost.contains(&alarm.about) && !lost.contains(&alarm.observer)
        };
        let sentence = |alarm: &Alarm| {
            let after = alarm.at.duration_since(since).as_secs_f64();
            let (observer, about, state) = (&alarm.observer, &alarm.about, alarm.state.as_str());
            format!("{observer} took {about} for {state} after {after:.2} s")
        };
        alarms.iter().filter(counts).map(sentence).collect()
    }

    fn down_at(&self, about: &MemberName, observer: &MemberName, since: Instant) -> Option<Instant> {
        let alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |alarm: &&Alarm| {
            alarm.about == *about
                && alarm.observer == *observer
                && alarm.state == State::Down
                && alarm.at >= since
        };
        alarms.iter().find(is_it).map(|alarm| alarm.at)
    }

    fn count(&self, about: &MemberName) -> usize {
        let alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.iter().filter(|alarm| alarm.about == *about && alarm.state == State::Down).count()
    }
}

/// How long after `at` each observer held `lost` Down; `None`: not within `limit`.
pub(super) async fn noticed(
    log: &Log,
    lost: &MemberName,
    observers: &[MemberName],
    at: Instant,
    limit: Duration,
) -> Vec<Option<Duration>> {
    while at.elapsed() < limit && log.count(lost) < observers.len() {
        sleep(LOOK).await;
    }
    let took = |observer| log.down_at(lost, observer, at).map(|seen| seen.duration_since(at));
    observers.iter().map(took).collect()
}
