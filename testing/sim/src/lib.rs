//! Virtual-time simulators: `fleet` runs whole members (a few), `membership` runs up to 10,000 membership cores.
//! A run is a pure function of its seed; they test, they implement nothing.

#[cfg(feature = "planted-bugs")]
pub mod bugs;
mod clock;
pub mod explore;
pub mod fleet;
pub mod hunt;
pub mod membership;
pub mod model;
mod paths;
pub mod peers;
mod queue;
pub mod shrink;

pub use fleet::{Act, HostSpec, PayloadState, World, secs};
