//! Watches MultiClusters and serves each in a task of its own: owns their status, finalizer, local Lease and Events,
//! tells the node what the object says, and carries out what the node directs for the payload. It decides neither who
//! leads nor how members talk, and every payload write asks the node first.

mod advertise;
mod attend;
mod chronicle;
mod commands;
mod departure;
mod discovery;
mod drift;
mod events;
mod farewell;
mod fence;
mod fence_policy;
mod finalizer;
#[cfg(test)]
mod fixtures;
mod gate;
mod gates;
mod happenings;
mod hooks;
mod judge;
mod lease;
mod member;
mod memory;
mod orders;
mod orphan;
mod payload_worker;
mod ports;
mod prepare;
mod progress;
mod protection;
mod request;
mod running;
mod second;
mod service;
mod status;
mod status_writer;
mod stopping;
mod supervisor;
mod tenure;
mod unleased;
mod worker;
mod worst_case;

pub use ports::{JoinError, Joined, Joiner, LeadPhase, MemberStart, Observer, PayloadResult, Probe, Waiting};
pub use supervisor::{Controller, OnShutdown, Options};
