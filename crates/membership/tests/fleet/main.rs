//! Whole fleets of membership cores in virtual time.

mod detection;
mod hostile;
mod network;
mod recovery;
