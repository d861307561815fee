//! A bounded model check of the election core: every interleaving of messages, losses, timeouts, writes, crashes and
//! restarts up to a depth, over the real [`flagship_election::Election`].
//!
//! Each member has its own clock, which moves only when a timeout of its own fires: so any timeout may come before or
//! after anything that happens elsewhere, which covers every drift. Messages of a pair arrive in order, at any time, or
//! are lost. What a member says of itself travels with its messages. A crash loses what was not durable; a write under way
//! has landed, or not. Others learn of a crash at any time, or never. In Quorum, whose promises rest on time, clocks are one.

mod actions;
mod fleet;
mod search;
mod state;
mod steps;

pub use actions::Action;
pub use fleet::{Budget, Fleet};
pub use search::{Found, Search, explore};
pub use state::State;
