//! Fields that occur in several messages.

use std::time::Duration;

use flagship_types::{MemberName, PeerAddress};

use crate::DecodeError;

pub(crate) fn member(field: &'static str, name: &str) -> Result<MemberName, DecodeError> {
    MemberName::new(name).map_err(|e| DecodeError::new(field, e.to_string()))
}

pub(crate) fn optional_member(field: &'static str, name: &str) -> Result<Option<MemberName>, DecodeError> {
    if name.is_empty() { Ok(None) } else { member(field, name).map(Some) }
}

pub(crate) fn address(field: &'static str, text: &str) -> Result<PeerAddress, DecodeError> {
    // A sender always writes the port; zero as the default makes an address without one an error.
    let address = PeerAddress::parse(text, 0).map_err(|e| DecodeError::new(field, e.to_string()))?;
    if address.port() == 0 {
        return Err(DecodeError::new(field, "has no port: host:port was expected"));
    }
    Ok(address)
}

pub(crate) fn optional_address(field: &'static str, text: &str) -> Result<Option<PeerAddress>, DecodeError> {
    if text.is_empty() { Ok(None) } else { address(field, text).map(Some) }
}

pub(crate) fn text_of<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Rounded down: for a delay that is subtracted from an age, which then errs towards older.
pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}

/// Rounded up: for an age, so that nothing seems fresher than it is.
pub(crate) fn micros_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// Rounded up: a wait never ends early, and nothing seems fresher than it is.
pub(crate) fn millis_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The longest duration a peer may name. Longer ones are mistakes, and sums of them could overflow.
const MAX_DURATION: Duration = flagship_types::FleetConfig::LONGEST;

#[inline]
pub(crate) fn from_micros(field: &'static str, us: u64) -> Result<Duration, DecodeError> {
    bounded(field, Duration::from_micros(us))
}

pub(crate) fn from_millis(field: &'static str, ms: u64) -> Result<Duration, DecodeError> {
    bounded(field, Duration::from_millis(ms))
}

#[inline]
fn bounded(field: &'static str, duration: Duration) -> Result<Duration, DecodeError> {
    if duration > MAX_DURATION { Err(too_long(field, duration)) } else { Ok(duration) }
}

#[cold]
fn too_long(field: &'static str, duration: Duration) -> DecodeError {
    DecodeError::new(field, format!("{} s is longer than a week", duration.as_secs()))
}
