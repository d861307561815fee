//! Waits for conditions instead of sleeping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::sleep;

/// How often a condition is looked at. API servers here are local and idle, so this costs little.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until the condition gives a value, at most `limit` long.
///
/// # Errors
/// At the end of `limit` with `what`, or at once with the condition's own error, which means that waiting is futile.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        if started.elapsed() >= limit {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        sleep(LOOK_EVERY).await;
    }
}
