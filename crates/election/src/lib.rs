//! Who leads a fleet, and under which term: claims, grants, handover, healing. Sans-IO: inputs and the time go
//! in, outputs come out; it knows no sockets, no failure detection and no Kubernetes.

mod io;

pub use io::{
    Claim, Directive, Event, Input, Message, Output, PeerView, Presence, Record, Refusal, ResignReason, Spec, Standing,
    Vote,
};
