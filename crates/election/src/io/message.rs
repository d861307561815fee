//! What members tell each other.

use std::time::Duration;

use flagship_types::{ConfigVersion, FleetConfig, MemberName, Rank, Term};

use super::{ResignReason, Vote};

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
