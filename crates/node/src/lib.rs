//! One member: a task that feeds links and a clock into the two cores and carries out what they ask for. It
//! defines the ports (links, signer, durable store, leadership) and knows neither gRPC nor Kubernetes.

mod clock;
mod driver;
mod handle;
mod machine;
mod picture;
mod ports;
mod signing;
mod snapshot;

pub use clock::{PauseDetector, boot_now, wall_ms};
pub use driver::spawn;
pub use flagship_election::{
    Ascent, AscentReason, Directive, Event as ElectionEvent, Lapse, Message as ElectionMessage, Phases,
    Promise, Record as ElectionRecord, Refusal, ResignReason, Restored, Spec as ElectionSpec, Vote,
};
pub use flagship_membership::Stats as MembershipStats;
pub use flagship_membership::{
    ConnectFailure, Evidence, KnownMember, LinkEnd, LinkId, PeerHello, Proof, State, Statement,
};
pub use flagship_wire::PeerMessage;
pub use handle::{Accepted, Command, NodeEvent, NodeHandle, NodeSpec, Order};
pub use machine::{Machine, MachineConfig, MachineOutput};
pub use ports::{
    Denied, DurableRecord, Leadership, LinkEvent, LinkRefusal, LinkWarning, Links, LocalHello, Purpose,
    RefusalReason, Signer, Store, StoreError, WritePermit,
};
pub use snapshot::{MemberSnapshot, Snapshot};
