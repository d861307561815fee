//! A virtual-time simulator of whole fleets: real nodes without IO on simulated hosts, streams, storage and
//! payloads, with faults and checkers. A run is a pure function of its seed; it tests, it implements nothing.

mod check;
mod host;
mod network;
mod payload;
mod plan;
mod streams;
mod world;

pub use check::{Violation, Violations};
pub use host::{HostSpec, PayloadState};
pub use plan::{Fault, Plan};
pub use world::{World, secs};
