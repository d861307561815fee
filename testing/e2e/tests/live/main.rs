//! Whole fleets: real control planes, daemons and networks, an auditor over every API server. One program, so that its
//! tests are linked once and take turns among themselves.

mod auditor;
mod bad_input;
mod commands;
mod cuts;
mod failover;
mod fence;
mod fencing;
mod fleets;
mod health;
mod install;
mod lifecycle;
mod operator;
mod orphan;
mod quorum;
mod self_stop;
mod service_ref;
mod swarm;
mod upgrade;
