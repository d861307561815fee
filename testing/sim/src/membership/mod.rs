//! Fleets of 2 to 10,000 membership cores in virtual time: fault plans as data, checkers for the invariants of
//! DESIGN section 4, a hunt over seeds, and the report of DESIGN section 11.
#![allow(clippy::cast_possible_truncation, reason = "hosts, slots and faults are few: far below 2^32")]

#[cfg(feature = "planted-bugs")]
mod bugs;
pub mod checks;
mod dials;
pub mod fault;
mod faults;
mod happening;
mod lies;
mod look;
mod model;
mod names;
pub mod ours;
pub mod plans;
mod ports;
mod process;
pub mod report;
mod rings;
pub mod rows;
pub mod run;
mod shrink;
mod signing;
mod streams;
mod tally;
pub mod trace;
mod world;

pub use model::Cores;
pub use tally::{Tally, Verdict};
pub use world::{Record, World};
