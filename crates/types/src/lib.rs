//! The words of flagship as types: names, ranks, terms, epochs, addresses and times, each of which can
//! only hold a valid value. This crate does no IO, reads no clock and knows no protocol.

mod address;
mod close;
mod identity;
mod metadata;
mod name;
mod number;
pub mod quorum;
mod time;
mod verified;

pub use address::{AddressError, PeerAddress};
pub use close::CloseCode;
pub use identity::{IdentityError, MemberIdentity, TrustDomain};
pub use metadata::{Failback, FleetConfig, Health, Metadata, Mode, Pause, Role};
pub use name::{Callsign, MemberName, NameError};
pub use number::{ConfigVersion, Epoch, Incarnation, Rank, Term};
pub use time::{DurationError, Instant, format_duration, parse_duration};
pub use verified::Verified;
