//! What an operator asks of a fleet: each verb finds the member that has to decide, writes an annotation on its object,
//! reads the answer in its status and shows what follows. Nothing is decided here.

pub(crate) mod args;
pub(crate) mod explain;
pub(crate) mod force;
pub(crate) mod history;
pub(crate) mod pause;
mod scene;
pub(crate) mod switchover;
