//! Whole fleets of membership cores in virtual time.

mod checks;
mod detection;
mod hostile;
mod network;
mod recovery;
mod soak;
