//! The same refusal is told to people once in a while, not at every attempt.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Different notices remembered; more at a time are not told (they are still counted).
const MAX_REMEMBERED: usize = 256;

/// Remembers which notice was given when.
#[derive(Default)]
pub(crate) struct Notices {
    given: Mutex<HashMap<String, Instant>>,
}

impl Notices {
    /// Whether the notice with this key may be given now: at most once per `every`.
    pub(crate) fn may_give(&self, key: String, every: Duration) -> bool {
        let now = Instant::now();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get(&key).is_some_and(|at| now.duration_since(*at) < every) {
            return false;
        }
        if given.len() >= MAX_REMEMBERED {
            given.retain(|_, at| now.duration_since(*at) < every);
        }
        if given.len() >= MAX_REMEMBERED {
            return false;
        }
        given.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_given_once_per_interval_and_memory_is_bounded() {
        let notices = Notices::default();
        let hour = Duration::from_secs(3600);
        assert!(notices.may_give("a".into(), hour));
        assert!(!notices.may_give("a".into(), hour));
        assert!(notices.may_give("a".into(), Duration::ZERO));
        for i in 0..2 * MAX_REMEMBERED {
            notices.may_give(i.to_string(), hour);
        }
        assert!(!notices.may_give("new".into(), hour));
        assert!(notices.given.lock().unwrap().len() <= MAX_REMEMBERED);
    }
}
