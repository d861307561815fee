//! Who leads a fleet, and under which term: claims, grants, handover, healing. Sans-IO: inputs and the time go
//! in, outputs come out; it knows no sockets, no failure detection and no Kubernetes.
//!
//! Every input ends in one evaluation of the whole state (`Election::evaluate`), which also collects the next
//! deadline. So nothing depends on the order in which news arrive, and a lost message is asked for again.

mod accession;
mod ascent;
mod campaign;
mod config;
mod core;
mod electors;
mod fencing;
mod follow;
mod handover;
mod heal;
mod io;
mod leader_gate;
mod lease;
mod operator;
mod outlook;
mod peer;
mod planted;
mod pledge;
mod quorum;
mod restart;
mod roster;
mod stage;
mod standing;
mod switchover;
mod voter;

pub use crate::core::{Election, FOUNDING_WAIT};
pub use campaign::{FALLBACK_DELAY, MAX_NEEDED};
pub use electors::{ABSTAIN_AFTER, MAX_OTHER_ELECTORS};
pub use handover::RESERVATION;
pub use io::{
    Ascent, AscentReason, Claim, Config, Directive, Event, Input, Lapse, Message, Output, PeerView, Permit,
    Phases, Presence, Promise, Record, Refusal, ResignReason, Restored, Spec, Standing, Stats, Vote,
};
pub use peer::MAX_PEERS;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
