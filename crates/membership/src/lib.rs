//! Who is alive in a fleet, and what each member says of itself: failure detection by observers, refutation,
//! joining and leaving. Sans-IO: inputs and the time go in, outputs come out; it knows no sockets, no
//! elections and no Kubernetes.

mod io;

pub use io::{
    Accusation, ConnectFailure, Echo, Event, Evidence, Input, LinkEnd, LinkId, Message, Output, PeerHello, Record,
    SelfState, State, Verdict,
};
