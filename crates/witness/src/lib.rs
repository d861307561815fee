//! A voter that never leads and needs no Kubernetes: it runs ordinary nodes, one per fleet, and keeps what each must
//! remember in a file of its state directory. It makes no links of its own and applies no payload.

mod error;
mod file;
mod format;
mod ports;
mod serve;
mod state_dir;
mod telling;

pub use error::StateError;
pub use ports::{Joined, Joiner};
pub use serve::{FleetSettings, Settings, Witness, WitnessError};
