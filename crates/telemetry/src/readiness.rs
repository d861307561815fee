//! Whether this process can do its work: named parts that report for themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parts of the process that have to be ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    parts: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

impl Readiness {
    /// Says that a part is ready, or why not. A part that has never been named is not asked for.
    pub fn set(&self, part: &'static str, state: Result<(), String>) {
        self.lock().insert(part, state);
    }

    /// What is not ready, as `part: reason`.
    pub(crate) fn missing(&self) -> Vec<String> {
        let parts = self.lock();
        if parts.is_empty() {
            return vec!["process: starting".into()];
        }
        let missing = parts.iter().filter_map(|(part, state)| Some((part, state.as_ref().err()?)));
        missing.map(|(part, reason)| format!("{part}: {reason}")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
