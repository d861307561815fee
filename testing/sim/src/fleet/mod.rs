//! Whole members in virtual time: real nodes without IO (membership and election) on simulated hosts, streams,
//! storage and payloads; fault plans as data, checkers for the invariants of DESIGN section 5, a hunt over seeds.

#[cfg(feature = "planted-bugs")]
mod bugs;
mod checks;
pub mod fault;
mod faults;
mod host;
mod local_lease;
mod model;
mod payload;
pub mod plans;
mod process;
mod records;
mod replicas;
pub mod run;
mod shrink;
mod streams;
mod traffic;
mod world;

pub use faults::Act;
pub use host::HostSpec;
pub use model::Fleet;
pub use payload::{PayloadState, secs};
pub use world::{Record, World};
