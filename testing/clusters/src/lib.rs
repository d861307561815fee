//! The cluster harness: real Kubernetes control planes as local processes, each in a network of its own whose paths
//! can be cut, the daemons beside them, and clocks on what happens to the payload; and real kind clusters with the
//! daemon in a pod. It refuses to know how Flagship decides anything: it only starts, breaks, heals and watches.

pub mod assets;
mod balancer;
pub mod cluster;
mod components;
mod credentials;
pub mod daemon;
pub mod demo;
pub mod fleet;
pub mod harness;
mod install;
pub mod isolate;
pub mod kind;
pub mod kubeconfig;
pub mod measure;
mod member;
pub mod network;
pub mod pod;
mod previous;
mod progress;
pub mod readiness;
mod record;
pub mod scratch;
pub mod story;
mod supervisor;
pub mod watch;
pub mod witness;
