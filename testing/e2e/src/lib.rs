//! What the end-to-end tests share: a fleet of real control planes and daemons, the edits a user makes, and what a
//! user sees. The tests say what must happen; nothing here decides that.

pub mod auditor;
mod edit;
mod http;
pub mod swarm;
mod world;

pub use http::http_get;
pub use world::{Expect, Facts, World, e2e, e2e_from_previous, payload_since};
