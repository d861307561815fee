//! Virtual-time simulators: `fleet` runs whole members (a few), `membership` runs up to 10,000 membership cores.
//! A run is a pure function of its seed; they test, they implement nothing.

pub mod fleet;
pub mod membership;
pub mod peers;

pub use fleet::{Fault, HostSpec, PayloadState, Plan, Violation, Violations, World, secs};
