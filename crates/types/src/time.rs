//! Times.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time on the cores' own clock (CLOCK_BOOTTIME in a daemon, virtual time in the simulator), in
/// nanoseconds. Not comparable between processes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// One more than the nanoseconds: an `Option` of it takes no more room, and the cores keep dozens for each link.
pub struct Instant(NonZeroU64);

impl Instant {
    /// The clock's zero.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// From nanoseconds since the clock's zero; the last one of 584 years is taken for the one before.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

/// Times are compared and shifted with every message, so without the 128 bits of [`Duration::as_nanos`].
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self::from_nanos(self.as_nanos().saturating_sub(nanos(rhs)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.as_nanos();
        write!(f, "{}.{:06}s", nanos / 1_000_000_000, nanos % 1_000_000_000 / 1_000)
    }
}

/// Why a duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it as in Kubernetes, for example 500ms, 3s, 1m30s or 1h")]
pub struct DurationError(String);

/// Reads a duration as Kubernetes writes it (Go's form): `500ms`, `3s`, `1m30s`, `1.5h`, `0`. Not negative.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError(text.chars().take(64).collect());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() || rest.len() > 32 {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refuse()),
        };
        total += number * seconds;
        rest = &rest[unit..];
    }
    // To the millisecond: finer is not meant by anybody and would show binary rounding.
    Duration::try_from_secs_f64((total * 1000.0).round() / 1000.0).map_err(|_| refuse())
}

/// Writes a duration as a person reads it: `450ms`, `3.2s`, `1m30s`, `2h5m`.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (seconds, tenths) = (ms / 1000, ms % 1000 / 100);
    match seconds {
        0 => format!("{ms}ms"),
        1..60 if tenths > 0 => format!("{seconds}.{tenths}s"),
        1..60 => format!("{seconds}s"),
        60..3600 if seconds % 60 > 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_kubernetes() {
        let table =
            [("500ms", 500), ("3s", 3000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0), ("0s", 0)];
        for (text, ms) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "3", "-3s", "s", "3 s", "3d", "1e3s", "..s", &"1s".repeat(99)] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_well() {
        let table = [(450, "450ms"), (3200, "3.2s"), (5000, "5s"), (90_000, "1m30s"), (7_500_000, "2h5m")];
        for (ms, text) in table {
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
    }
}
