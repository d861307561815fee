//! What the benchmarks measure: membership cores of fleets of any size, warm and on virtual time, their peers played
//! at the other ends of their links. It says nothing of its own about speed; its programs do.

mod crew;
mod digest;
mod fleet;
mod links;
mod meter;
mod peer;
mod replies;
mod seat;

pub use crew::Crew;
pub use digest::{DigestCost, DigestPair};
pub use fleet::Fleet;
pub use meter::{Kind, Meter, Stopwatch, Unmetered};
pub use peer::FocaNode;

/// The fleets that are measured.
pub const SIZES: [usize; 6] = [2, 8, 32, 100, 1_000, 10_000];
