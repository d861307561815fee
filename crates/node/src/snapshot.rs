//! A picture of one member for status, metrics and people: taken in the node's loop, read without locks.

use std::time::Duration;

use flagship_election::{Ascent, Directive, Lapse};
use flagship_membership::State;
use flagship_types::{
    Callsign, Epoch, FleetConfig, Health, Instant, MemberName, PeerAddress, Rank, Role, Term,
};

/// One member's picture of its fleet.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The fleet.
    pub callsign: Callsign,
    /// This member.
    pub member: MemberName,
    /// This start.
    pub epoch: Epoch,
    /// When the picture was taken, on [`crate::boot_now`]'s clock.
    pub taken_at: Instant,
    /// This member's role.
    pub role: Role,
    /// The term of the followed leader, or the own.
    pub term: Term,
    /// The leader this member follows; itself, if it leads.
    pub leader: Option<MemberName>,
    /// How this member came to lead; `None`: it does not, or did before this process started.
    pub ascent: Option<Ascent>,
    /// Who gets the lead, or has it already, while this member gives it up.
    pub successor: Option<MemberName>,
    /// Whose payload may run as far as is known here, this member aside: what a fence has to fence off before this
    /// member is promoted.
    pub may_run_at: Vec<MemberName>,
    /// That this member's payload failed under its lead, for the next process.
    pub lapse: Option<Lapse>,
    /// What the payload worker has to do.
    pub directive: Directive,
    /// The fleet configuration in force.
    pub config: FleetConfig,
    /// Whether Quorum's rules bind this member: the fleet's mode, or the one that it replaces as the leader.
    pub quorum: bool,
    /// Mode Quorum: within this time after it lost its lease the payload has to be gone here. Shorter than the
    /// configuration says as long as the voters know an older one.
    pub stop_grace: Duration,
    /// How long a leader whose process ended is waited for here: longer than the configuration says while splits recur.
    pub restart_grace: Duration,
    /// How long a member is silent before this one suspects it alone: longer than its setting while splits recur.
    pub silence_floor: Duration,
    /// Whose settings are in force and which, if this member's own object says otherwise.
    pub config_conflict: Option<String>,
    /// Why the voters that this leader's object asks for do not become those of the fleet, as a clause.
    pub voters_refused: Option<String>,
    /// Voters, and members that may lead and are not Down, that have not stored this configuration yet. On the leader;
    /// else empty.
    pub config_missing: Vec<MemberName>,
    /// What the election waits for, as a sentence; `None` if for nothing.
    pub waiting_for: Option<String>,
    /// All members known, this one included, ordered by name; without those that an operator declared gone.
    pub members: Vec<MemberSnapshot>,
    /// Other members that claim the lead at the same time.
    pub other_leaders: Vec<MemberName>,
    /// Another process with this member's name is alive: nothing is written.
    pub name_in_use: bool,
    /// This member's process paused and what it missed is being asked.
    pub interrupted: bool,
    /// Counters of the membership core.
    pub membership: flagship_membership::Stats,
    /// Counters of the election core.
    pub election: flagship_election::Stats,
}

/// One member in the picture.
#[derive(Debug, Clone)]
pub struct MemberSnapshot {
    /// Its name.
    pub name: MemberName,
    /// What it is believed to be.
    pub state: State,
    /// Since when, on [`crate::boot_now`]'s clock.
    pub since: Instant,
    /// Whether there is a link (true for this member itself).
    pub linked: bool,
    /// Where it can be dialled.
    pub address: Option<PeerAddress>,
    /// Smoothed round trip time.
    pub rtt: Option<Duration>,
    /// The last proof of life.
    pub heard_at: Option<Instant>,
    /// Its rank, if it was heard.
    pub rank: Option<Rank>,
    /// Its role, if it was heard.
    pub role: Option<Role>,
    /// Its term, if it was heard.
    pub term: Term,
    /// Its fitness.
    pub health: Health,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it may lead, as far as it said.
    pub candidate: bool,
    /// Whether it fences an earlier leader off before it is promoted, as far as it said.
    pub fences: bool,
    /// Whether it has stored that the fleet is in mode Quorum, as far as it said.
    pub quorum: bool,
    /// Why an operator could not move the lead to it now, as a sentence. On the leader and about others; else `None`.
    pub unfit: Option<String>,
}
