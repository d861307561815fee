//! Whole members in virtual time: real nodes without IO (membership and election) on simulated hosts, streams,
//! storage and payloads, with faults and checkers.

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
