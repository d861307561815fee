//! What goes into the core and what comes out of it.

use std::time::Duration;

use flagship_types::{ConfigVersion, FleetConfig, Health, Instant, MemberName, Metadata, Rank, Role, Term};

/// What the core is told.
#[derive(Debug, Clone)]
pub enum Input {
    /// What membership believes of a peer; told at every change.
    Peer(PeerView),
    /// Proof that a peer was alive at that time.
    Heard {
        /// Who.
        member: MemberName,
        /// When at the earliest its newest proven beat was sent.
        at: Instant,
    },
    /// Somebody else says that it heard a peer at that time. Only how long a failure took is counted from it.
    Vouched {
        /// Who was heard.
        member: MemberName,
        /// When.
        at: Instant,
    },
    /// A message from a peer, authenticated by its link.
    Message {
        /// Who sent it.
        from: MemberName,
        /// What it says.
        message: Message,
    },
    /// The record with this version is durable; so are all before it.
    Persisted(u64),
    /// The member's object changed.
    Spec(Spec),
    /// This member's fitness to lead changed.
    Health(Health),
    /// This process or its machine paused (clocks diverged, or a timer fired far too late).
    Paused,
    /// The payload worker is about to delete the first object for the stop of this term: no way back by abort.
    DeletionBegan(Term),
    /// The payload of this term is gone, pods included.
    PayloadStopped(Term),
    /// Deleting is stuck past its timeout; the worker has been told nothing yet.
    StopStuck {
        /// Of which term.
        term: Term,
        /// The object that does not go.
        object: String,
    },
    /// Nothing was deleted for the stop of this term yet, and a hook of this side objects to it.
    StopRefused {
        /// Of which term.
        term: Term,
        /// A sentence for people.
        because: String,
    },
    /// An operator vouches for a member that has no record, so that it may vote.
    Admit(MemberName),
    /// An operator says that a member will not come back: nobody waits for it.
    Forget(MemberName),
    /// An operator pauses the fleet, or resumes it. For the leader; with nobody leading, whoever is told to resume asks
    /// for the lead. Answered by [`Event::PauseChanged`] or [`Event::PauseRefused`].
    Pause(Option<flagship_types::Pause>),
    /// An operator has this member lead without the grants of those that cannot be asked. Answered by
    /// [`Event::Forcing`] or [`Event::ForceRefused`].
    ForceLead {
        /// The highest term that the operator knows.
        above: Term,
        /// Whom the operator stopped: everybody that is not reachable and might lead.
        stopped: Vec<MemberName>,
    },
    /// Give the lead away and do not take it again: the object is being deleted, or the daemon was asked to.
    Retire(ResignReason),
    /// As the leader: move the lead to another member and stay in the fleet. Answered by [`Event::HandOverAccepted`]
    /// or [`Event::HandOverRefused`] before the next output that depends on it.
    HandOver {
        /// To whom; `None`: the best healthy candidate.
        to: Option<MemberName>,
        /// Why: [`ResignReason::Switchover`] or [`ResignReason::Unhealthy`].
        reason: ResignReason,
    },
}

/// A peer as membership sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerView {
    /// Who.
    pub name: MemberName,
    /// How it is.
    pub presence: Presence,
    /// Its metadata; `None` if it was never heard in this process's life.
    pub metadata: Option<Metadata>,
    /// Whether the newest sign about it was that its process ended while its host lives.
    pub exited: bool,
    /// Whether there is a link to it right now.
    pub linked: bool,
}

/// How a peer is, in the words that matter to an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Alive or Suspect: it has to be reckoned with.
    Present,
    /// Announced a pause.
    Away,
    /// Down: nobody waits for it, but it may come back.
    Down,
    /// Left or forgotten: it is no member any more.
    Left,
}

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Higher leads.
    pub rank: Rank,
    /// May found the fleet alone.
    pub ready: bool,
    /// May lead.
    pub candidate: bool,
    /// What runs is left alone: this member takes no lead, and keeps the one that it has as long as it may.
    pub suspended: bool,
    /// Votes and never leads; it has no object and proposes nothing.
    pub witness: bool,
    /// What is called before a promotion makes sure that the predecessor's payload does not run: it needs no word of
    /// the predecessor that it can stop.
    pub fences: bool,
    /// The fleet settings this object proposes (its version is ignored).
    pub proposal: FleetConfig,
    /// How long the payload may be not ready here before the lead goes to a healthy standby; `None`: for ever.
    pub promote_timeout: Option<Duration>,
}

impl Spec {
    /// May take a lead that it does not hold. A witness never does, whatever else is said of it.
    pub fn may_lead(&self) -> bool {
        self.candidate && !self.suspended && !self.witness
    }
}

/// What the core wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Make this durable, then say `Persisted(version)`. What depends on it follows only after that.
    Persist(Record),
    /// Send this to a peer; lost if there is no link.
    Send {
        /// To whom.
        to: MemberName,
        /// What.
        message: Message,
    },
    /// What the payload worker has to do from now on changed.
    Direct(Directive),
    /// The election's part of the own metadata changed.
    Publish(Standing),
    /// Something others want to know.
    Event(Event),
}

/// What the payload worker has to do: a state to converge to, not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// Touch nothing: it is not known yet whether this member leads.
    Hold,
    /// The payload must not be here. Nothing was applied under a lead that is being given up.
    Absent,
    /// Apply the payload and keep it.
    Run {
        /// Under which term.
        term: Term,
        /// Whether the payload already ran here under this term or an earlier one, and must not be disturbed.
        resumed: bool,
    },
    /// Delete the payload and wait until it is gone, then say `PayloadStopped`.
    Stop {
        /// Of which term.
        term: Term,
        /// Why.
        reason: ResignReason,
    },
}

/// Why a leader gives up its payload. Demotion happens for one of these only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResignReason {
    /// A newer leader exists and this one was interrupted, or lost the comparison after a partition.
    Superseded,
    /// A better candidate asked for the lead.
    Handover,
    /// An operator moved the lead to another member.
    Switchover,
    /// The payload did not get or stay ready here, and another member is healthy.
    Unhealthy,
    /// The object says that this member may not lead any more.
    NotCandidate,
    /// The object is being deleted, or the member leaves.
    Removal,
    /// An operator, or SIGTERM with `--on-shutdown handover`.
    Operator,
    /// The process found a stop that an earlier process of this member had begun.
    Unfinished,
    /// Quorum: a majority of the voters did not renew the lease in time. The payload has to be gone within the stop
    /// grace: workloads at once, then their pods.
    LeaseLost,
}

impl ResignReason {
    /// Whether the lead goes to a named member, and stays here if that one cannot take it.
    pub fn is_handover(self) -> bool {
        matches!(self, Self::Handover | Self::Switchover | Self::Unhealthy | Self::NotCandidate)
    }

    /// The word shown to users and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "Superseded",
            Self::Handover => "Handover",
            Self::Switchover => "Switchover",
            Self::Unhealthy => "Unhealthy",
            Self::NotCandidate => "NotCandidate",
            Self::Removal => "Removal",
            Self::Operator => "Operator",
            Self::Unfinished => "Unfinished",
            Self::LeaseLost => "LeaseLost",
        }
    }
}

/// The election's part of a member's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Role.
    pub role: Role,
    /// Term of the followed leader, or the own.
    pub term: Term,
    /// The followed leader, or this member.
    pub leader: Option<MemberName>,
    /// Stored configuration.
    pub config: ConfigVersion,
    /// Whether any higher term supersedes this leader.
    pub interrupted: bool,
    /// For [`Health::failed`].
    pub failed: bool,
}

/// What a member makes durable: to its object's status. One record, replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts up within this process; says which `Persisted` belongs to it.
    pub version: u64,
    /// The highest term granted, and to whom; `None`: never voted.
    pub vote: Option<Vote>,
    /// Quorum: what came with that vote, and with those before it whose payload may still run. A voter that restarts
    /// votes for nobody else for as long as it had promised.
    pub promise: Option<Promise>,
    /// The term under which this member leads or was leading when it last wrote.
    pub held: Option<Term>,
    /// The term whose payload is being deleted: a process that finds it only completes the stop.
    pub stopping: Option<Term>,
    /// The highest term this member has seen.
    pub term: Term,
    /// The leader it follows, for the status.
    pub leader: Option<MemberName>,
    /// The fleet configuration in force here.
    pub config: FleetConfig,
    /// As a leader: the configuration before that one, until majorities of both have stored the new one. It binds as long,
    /// also a process that restarts meanwhile.
    pub replaced: Option<Box<FleetConfig>>,
    /// An operator's switchover gave this member the lead that it holds: rank does not move it.
    pub chosen: bool,
    /// Members an operator declared gone.
    pub forgotten: Vec<MemberName>,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// In which term.
    pub term: Term,
    /// To whom.
    pub candidate: MemberName,
}

/// One frame's worth of election.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Would you grant this? Moves nobody's term.
    PreClaim(Claim),
    /// Grant me this term.
    Claim(Claim),
    /// Yes, to a claim (durable) or a pre-claim (not a promise).
    Grant {
        /// Which term.
        term: Term,
        /// Whether it answers a pre-claim.
        pre: bool,
        /// Quorum: an earlier leader's payload may run for so long yet.
        owed: Duration,
        /// Quorum: the configuration under which it is given.
        config: ConfigVersion,
    },
    /// No, because.
    Refuse {
        /// Which term was asked for.
        term: Term,
        /// Whether it answers a pre-claim.
        pre: bool,
        /// Because.
        refusal: Refusal,
        /// The highest term the refuser knows.
        highest: Term,
        /// When asking again makes sense.
        retry_after: Duration,
    },
    /// I lead. State, repeated on every new link and change; also carries the configuration in force.
    Announce {
        /// My term.
        term: Term,
        /// The configuration in force.
        config: FleetConfig,
    },
    /// The receiver, who leads, is asked to hand over.
    HandoverRequest {
        /// The lead that is asked for.
        term: Term,
    },
    /// Not now.
    HandoverRefused {
        /// The lead that was asked for.
        term: Term,
        /// A sentence for people.
        reason: String,
        /// When asking again makes sense.
        retry_after: Duration,
    },
    /// My payload of this term is gone. State, repeated until a higher term is seen.
    Release {
        /// The term that ended.
        term: Term,
        /// Who is to take over; `None`: whoever is best.
        successor: Option<MemberName>,
        /// Why it was given up.
        reason: ResignReason,
    },
    /// I restarted and led under this term: do I still?
    ConfirmRequest {
        /// The term that was held.
        term: Term,
    },
    /// What the answerer knows.
    ConfirmReply {
        /// The term that was asked about.
        term: Term,
        /// The highest (term, candidate) the answerer granted or saw leading.
        highest: Option<Vote>,
    },
    /// I have no voter record: tell me yours.
    RecordRequest,
    /// The answerer's record.
    RecordReply {
        /// The highest grant; `None`: never voted.
        vote: Option<Vote>,
        /// The highest term seen.
        term: Term,
        /// The configuration in force.
        config: FleetConfig,
    },
    /// The receiver's announced configuration is stored here.
    ConfigStored {
        /// Which.
        version: ConfigVersion,
    },
    /// Quorum: promise me the lead for another lease. Sent by the leader to every voter, about every second.
    Renew {
        /// The lead.
        term: Term,
        /// Which renewal: counts up within the process.
        seq: u64,
        /// The configuration it rests on.
        config: ConfigVersion,
        /// For so long from when it arrives.
        lease: Duration,
        /// So long the leader may take to stop its payload once it has lost the lease.
        stop_grace: Duration,
    },
    /// Quorum: promised.
    Renewed {
        /// The lead.
        term: Term,
        /// Which renewal.
        seq: u64,
        /// The configuration that the voter has stored.
        config: ConfigVersion,
    },
}

/// What a candidate asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The term.
    pub term: Term,
    /// The candidate's rank.
    pub rank: Rank,
    /// The configuration it has stored, and stands under.
    pub config: FleetConfig,
    /// The release it rests on, if any.
    pub released: Option<Term>,
}

/// Why a claim was refused. It names its evidence and lapses with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The voter heard the leader this long ago.
    LeaderAlive {
        /// Age of the leader's last proven beat.
        beat_age: Duration,
    },
    /// The voter granted this or a higher term already.
    Granted {
        /// Which.
        term: Term,
    },
    /// The leader's process ended, its host lives: it gets the time to restart.
    RestartGrace,
    /// The voter is a better candidate and claims itself.
    BetterCandidate,
    /// The lead was released to somebody else, who has a little time.
    ReservedForSuccessor,
    /// The voter itself leads.
    Leading,
    /// The voter has no record and may not vote yet.
    NoRecord,
    /// The term is too far ahead to be true.
    TermJump,
    /// Quorum: the voter promised the lead to another, for as long as it says.
    Leased,
    /// Quorum: the voter stored a newer configuration than the claimant's, or another one that nobody led under.
    OldConfig,
    /// Quorum: the refuser is no voter under that configuration.
    NoVoter,
}

/// What a voter promised whom it granted the lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Promise {
    /// D: nobody else is granted the lead for so long after each renewal.
    pub lease: Duration,
    /// S: and nobody else may run the payload for 1.05 times as long after that.
    pub stop_grace: Duration,
}

impl Promise {
    /// No D and no S is longer. What a person may have written into a status is cut to this, so that no number there
    /// overflows.
    pub const LONGEST: Duration = Duration::from_secs(7 * 86_400);
}

/// What others want to know: history, Events, metrics, logs.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The role changed.
    RoleChanged {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The term; of a stop that is over, the one whose payload is gone.
        term: Term,
    },
    /// Another member leads now, as far as this one knows.
    LeaderChanged {
        /// Who.
        leader: Option<MemberName>,
        /// Under which term.
        term: Term,
    },
    /// This member took the lead.
    Elected {
        /// Under which term.
        term: Term,
        /// Since the lead was known to be free.
        took: Duration,
        /// Whether the predecessor failed (else: founding, handover).
        failover: bool,
        /// Who released the lead, and still lives.
        handed_over_by: Option<MemberName>,
        /// How it came to lead.
        ascent: Ascent,
    },
    /// A restarted leader goes on.
    Resumed {
        /// Its term.
        term: Term,
    },
    /// A claim did not succeed.
    ClaimFailed {
        /// Which term.
        term: Term,
        /// By whom it was refused or not answered, and why.
        by: MemberName,
        /// `None`: no answer.
        refusal: Option<Refusal>,
    },
    /// [`Input::HandOver`] is being carried out: the payload stops, then `to` gets the lead.
    HandOverAccepted {
        /// The term that ends.
        term: Term,
        /// The successor.
        to: MemberName,
        /// Why the lead moves.
        reason: ResignReason,
    },
    /// [`Input::HandOver`] changed nothing.
    HandOverRefused {
        /// To whom the lead was to go; `None`: nobody was named.
        to: Option<MemberName>,
        /// Why the lead was to move.
        reason: ResignReason,
        /// What speaks against it: a sentence for people.
        because: String,
    },
    /// A handover ended without moving the lead.
    HandoverFailed {
        /// The term that stays.
        term: Term,
        /// A sentence for people.
        reason: String,
    },
    /// Another leader exists at the same time (after a partition).
    SplitSeen {
        /// The other one.
        other: MemberName,
        /// Its term.
        term: Term,
    },
    /// The configuration in force changed.
    ConfigAdopted(FleetConfig),
    /// The fleet was paused, or goes on.
    PauseChanged {
        /// The pause in force; `None`: none.
        pause: Option<flagship_types::Pause>,
    },
    /// [`Input::Pause`] changed nothing.
    PauseRefused {
        /// It was a pause; else the end of one.
        pause: bool,
        /// What speaks against it: a sentence for people.
        because: String,
    },
    /// [`Input::ForceLead`] is being carried out.
    Forcing {
        /// The term that is taken.
        term: Term,
        /// Whom the operator says to have stopped.
        stopped: Vec<MemberName>,
    },
    /// [`Input::ForceLead`] changed nothing.
    ForceRefused {
        /// What speaks against it: a sentence for people.
        because: String,
    },
}

/// What the core is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This member.
    pub name: MemberName,
}

/// What a process finds when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The record that an earlier process of this member made durable; `None`: none was found.
    pub record: Option<Record>,
    /// Payload objects with this member's label are in the cluster, and the highest term they are annotated
    /// with (`Term(0)`: not annotated). Unless the record says that this member led or was stopping, everybody is
    /// asked who leads before it is touched; if nobody does, it is kept and led under a fresh term.
    pub found_running: Option<Term>,
    /// The members known from before. Each is reckoned with until membership says what became of it.
    pub known_peers: Vec<MemberName>,
    /// What an earlier process knew of its failures as a leader.
    pub lapse: Option<Lapse>,
}

/// How this member came to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ascent {
    /// Under which term it was elected. A term that was raised since has the same ascent.
    pub term: Term,
    /// Who led before, as far as was known.
    pub predecessor: Option<MemberName>,
    /// Why that one does not lead any more.
    pub reason: AscentReason,
    /// How long it took.
    pub phases: Phases,
}

/// How long the steps of a change of the lead took. Each counts from the cause: the last sign of life of a leader that
/// failed, or the moment at which it was seen to stop; without either, from when the lead was known to be free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// The failure was known.
    pub detected: Option<Duration>,
    /// The old leader said that its payload is gone.
    pub predecessor_stopped: Option<Duration>,
    /// The lead was won.
    pub elected: Duration,
}

/// Why the lead was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AscentReason {
    /// There was no leader before, or none that is known.
    Founding,
    /// This member led before, lost the lead, and nobody else is known to have led since.
    Regained,
    /// The leader's process ended while its host lives.
    Crash,
    /// Nothing was heard of the leader any more.
    Silence,
    /// The leader gave way to a higher rank.
    Rank,
    /// An operator moved the lead.
    Switchover,
    /// The leader's payload was not ready in time.
    Unhealthy,
    /// The leader's object was deleted, or it left the fleet.
    Removal,
    /// The leader gave it up for another reason.
    Handover,
    /// The payload was found running here.
    Found,
    /// An operator took the lead by force.
    Forced,
}

impl AscentReason {
    /// The word shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Founding => "Founded",
            Self::Regained => "Regained",
            Self::Crash => "Crash",
            Self::Silence => "Silence",
            Self::Rank => "Rank",
            Self::Switchover => "Switchover",
            Self::Unhealthy => "Unhealthy",
            Self::Removal => "Removal",
            Self::Handover => "Handover",
            Self::Found => "Found",
            Self::Forced => "Forced",
        }
    }
}

/// A member that gave the lead away because its payload did not get or stay ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lapse {
    /// How often in a row.
    pub times: u32,
    /// How much longer it counts as failed; zero: it does not any more, but the next time it will for longer.
    pub left: Duration,
}

/// Which payload writes the election allows now. The driver adds its own checks and limits the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permit {
    /// Create and change.
    Apply {
        /// Under which term.
        term: Term,
    },
    /// Delete.
    Delete {
        /// Under which term.
        term: Term,
    },
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Campaigns begun.
    pub campaigns: u64,
    /// Campaigns won.
    pub elected: u64,
    /// Claims (not pre-claims) that were refused.
    pub claims_refused: u64,
    /// Grants given to others.
    pub grants: u64,
    /// Claims and pre-claims of others refused.
    pub refusals: u64,
    /// Handovers that moved the lead away from here.
    pub handovers: u64,
    /// Handovers that did not.
    pub handovers_failed: u64,
    /// Meetings with another leader after a partition.
    pub heals: u64,
    /// Messages ignored: the sender is no member, or what it says cannot be true.
    pub messages_ignored: u64,
    /// Peers not taken up because there are too many.
    pub peers_refused: u64,
    /// Role changes that the code asked for and that are not legal. Always zero, or there is a bug.
    pub illegal_moves: u64,
}
