//! Election's messages to protobuf and back.

use std::time::Duration;

use flagship_election::{Claim, Message, Refusal, ResignReason, Vote};
use flagship_types::{ConfigVersion, Failback, FleetConfig, MemberName, Mode, Pause, Rank, Term};

use crate::fields::{from_millis, member, millis_up, optional_member, text_of};
use crate::frame::shorten;
use crate::pb::election_message::Kind;
use crate::{DecodeError, pb};

impl From<&Message> for pb::ElectionMessage {
    fn from(message: &Message) -> Self {
        let kind = match message {
            Message::PreClaim(claim) => Kind::PreClaim(claim.into()),
            Message::Claim(claim) => Kind::Claim(claim.into()),
            Message::Grant { term, pre, owed, config } => Kind::Grant(pb::Grant {
                term: term.0,
                pre: *pre,
                owed_ms: millis_up(*owed),
                config_version: config.0,
            }),
            Message::Refuse { term, pre, refusal, highest, retry_after } => Kind::Refuse(pb::Refuse {
                term: term.0,
                pre: *pre,
                highest: highest.0,
                retry_after_ms: millis_up(*retry_after),
                ..(*refusal).into()
            }),
            Message::Announce { term, config } => {
                Kind::Announce(pb::Announce { term: term.0, config: Some(config.into()) })
            }
            Message::HandoverRequest { term } => Kind::HandoverRequest(pb::HandoverRequest { term: term.0 }),
            Message::HandoverRefused { term, reason, retry_after } => {
                Kind::HandoverRefused(pb::HandoverRefused {
                    term: term.0,
                    reason: shorten(reason),
                    retry_after_ms: millis_up(*retry_after),
                })
            }
            Message::Release { term, successor, reason } => Kind::Release(pb::Release {
                term: term.0,
                successor: text_of(successor.as_ref()),
                reason: pb::Resignation::from(*reason).into(),
            }),
            Message::ConfirmRequest { term } => Kind::ConfirmRequest(pb::ConfirmRequest { term: term.0 }),
            Message::ConfirmReply { term, highest } => Kind::ConfirmReply(pb::ConfirmReply {
                term: term.0,
                highest: highest.as_ref().map(Into::into),
            }),
            Message::RecordRequest => Kind::RecordRequest(pb::RecordRequest {}),
            Message::RecordReply { vote, term, config } => Kind::RecordReply(pb::RecordReply {
                vote: vote.as_ref().map(Into::into),
                term: term.0,
                config: Some(config.into()),
            }),
            Message::ConfigStored { version } => Kind::ConfigStored(pb::ConfigStored { version: version.0 }),
            Message::Renew { term, seq, config, lease, stop_grace } => Kind::Renew(pb::Renew {
                term: term.0,
                seq: *seq,
                config_version: config.0,
                lease_ms: millis_up(*lease),
                stop_grace_ms: millis_up(*stop_grace),
            }),
            Message::Renewed { term, seq, config } => {
                Kind::Renewed(pb::Renewed { term: term.0, seq: *seq, config_version: config.0 })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::ElectionMessage> for Message {
    type Error = DecodeError;

    fn try_from(message: pb::ElectionMessage) -> Result<Self, DecodeError> {
        Ok(match message.kind.ok_or_else(|| DecodeError::missing("election.kind"))? {
            Kind::PreClaim(claim) => Self::PreClaim(claim.try_into()?),
            Kind::Claim(claim) => Self::Claim(claim.try_into()?),
            Kind::Grant(grant) => Self::Grant {
                term: Term(grant.term),
                pre: grant.pre,
                owed: from_millis("grant.owed_ms", grant.owed_ms)?,
                config: ConfigVersion(grant.config_version),
            },
            Kind::Refuse(refuse) => Self::Refuse {
                term: Term(refuse.term),
                pre: refuse.pre,
                highest: Term(refuse.highest),
                retry_after: from_millis("refuse.retry_after_ms", refuse.retry_after_ms)?,
                refusal: from_refuse(&refuse)?,
            },
            Kind::Announce(announce) => {
                let config = announce.config.ok_or_else(|| DecodeError::missing("announce.config"))?;
                Self::Announce { term: Term(announce.term), config: config.try_into()? }
            }
            Kind::HandoverRequest(request) => Self::HandoverRequest { term: Term(request.term) },
            Kind::HandoverRefused(refused) => Self::HandoverRefused {
                term: Term(refused.term),
                retry_after: from_millis("handover_refused.retry_after_ms", refused.retry_after_ms)?,
                reason: shorten(&refused.reason),
            },
            Kind::Release(release) => Self::Release {
                term: Term(release.term),
                successor: optional_member("release.successor", &release.successor)?,
                reason: release.reason().into(),
            },
            Kind::ConfirmRequest(request) => Self::ConfirmRequest { term: Term(request.term) },
            Kind::ConfirmReply(reply) => Self::ConfirmReply {
                term: Term(reply.term),
                highest: reply.highest.map(Vote::try_from).transpose()?,
            },
            Kind::RecordRequest(_) => Self::RecordRequest,
            Kind::RecordReply(reply) => {
                let config = reply.config.ok_or_else(|| DecodeError::missing("record_reply.config"))?;
                Self::RecordReply {
                    vote: reply.vote.map(Vote::try_from).transpose()?,
                    term: Term(reply.term),
                    config: config.try_into()?,
                }
            }
            Kind::ConfigStored(stored) => Self::ConfigStored { version: ConfigVersion(stored.version) },
            Kind::Renew(renew) => Self::Renew {
                term: Term(renew.term),
                seq: renew.seq,
                config: ConfigVersion(renew.config_version),
                lease: from_millis("renew.lease_ms", renew.lease_ms)?,
                stop_grace: from_millis("renew.stop_grace_ms", renew.stop_grace_ms)?,
            },
            Kind::Renewed(renewed) => Self::Renewed {
                term: Term(renewed.term),
                seq: renewed.seq,
                config: ConfigVersion(renewed.config_version),
            },
        })
    }
}

impl From<&Claim> for pb::Claim {
    fn from(claim: &Claim) -> Self {
        Self {
            term: claim.term.0,
            rank: claim.rank.0,
            config_version: claim.config.version.0,
            released: claim.released.map(|term| term.0),
            // Who speaks an earlier protocol asks for no more than the version.
            config: Some((&claim.config).into()),
        }
    }
}

impl TryFrom<pb::Claim> for Claim {
    type Error = DecodeError;

    fn try_from(claim: pb::Claim) -> Result<Self, DecodeError> {
        // An earlier build names the version only, and knows no mode but Availability.
        let named = || FleetConfig { version: ConfigVersion(claim.config_version), ..FleetConfig::default() };
        Ok(Self {
            term: Term(claim.term),
            rank: Rank(claim.rank),
            released: claim.released.map(Term),
            config: claim.config.map(FleetConfig::try_from).transpose()?.unwrap_or_else(named),
        })
    }
}

impl From<ResignReason> for pb::Resignation {
    fn from(reason: ResignReason) -> Self {
        match reason {
            ResignReason::Superseded => Self::Superseded,
            ResignReason::Handover => Self::Handover,
            ResignReason::Switchover => Self::Switchover,
            ResignReason::Unhealthy => Self::Unhealthy,
            ResignReason::NotCandidate => Self::NotCandidate,
            ResignReason::Removal => Self::Removal,
            ResignReason::Operator => Self::Operator,
            ResignReason::Unfinished => Self::Unfinished,
            ResignReason::LeaseLost => Self::LeaseLost,
        }
    }
}

impl From<pb::Resignation> for ResignReason {
    fn from(reason: pb::Resignation) -> Self {
        match reason {
            // It is for people: a reason that only a later build knows must not lose the release.
            pb::Resignation::Unspecified | pb::Resignation::Operator => Self::Operator,
            pb::Resignation::Superseded => Self::Superseded,
            pb::Resignation::Handover => Self::Handover,
            pb::Resignation::Switchover => Self::Switchover,
            pb::Resignation::Unhealthy => Self::Unhealthy,
            pb::Resignation::NotCandidate => Self::NotCandidate,
            pb::Resignation::Removal => Self::Removal,
            pb::Resignation::Unfinished => Self::Unfinished,
            pb::Resignation::LeaseLost => Self::LeaseLost,
        }
    }
}

/// Fills the fields that say why; the others are left at their defaults.
impl From<Refusal> for pb::Refuse {
    fn from(refusal: Refusal) -> Self {
        let mut refuse = Self::default();
        let code = match refusal {
            Refusal::LeaderAlive { beat_age } => {
                refuse.beat_age_ms = millis_up(beat_age);
                pb::Refusal::LeaderAlive
            }
            Refusal::Granted { term } => {
                refuse.granted_term = term.0;
                pb::Refusal::Granted
            }
            Refusal::RestartGrace => pb::Refusal::RestartGrace,
            Refusal::BetterCandidate => pb::Refusal::BetterCandidate,
            Refusal::ReservedForSuccessor => pb::Refusal::ReservedForSuccessor,
            Refusal::Leading => pb::Refusal::Leading,
            Refusal::NoRecord => pb::Refusal::NoRecord,
            Refusal::TermJump => pb::Refusal::TermJump,
            Refusal::Leased => pb::Refusal::Leased,
            Refusal::OldConfig => pb::Refusal::OldConfig,
            Refusal::NoVoter => pb::Refusal::NoVoter,
        };
        refuse.set_refusal(code);
        refuse
    }
}

fn from_refuse(refuse: &pb::Refuse) -> Result<Refusal, DecodeError> {
    Ok(match refuse.refusal() {
        pb::Refusal::LeaderAlive => {
            Refusal::LeaderAlive { beat_age: from_millis("refuse.beat_age_ms", refuse.beat_age_ms)? }
        }
        pb::Refusal::Granted => Refusal::Granted { term: Term(refuse.granted_term) },
        pb::Refusal::RestartGrace => Refusal::RestartGrace,
        pb::Refusal::BetterCandidate => Refusal::BetterCandidate,
        pb::Refusal::ReservedForSuccessor => Refusal::ReservedForSuccessor,
        pb::Refusal::Leading => Refusal::Leading,
        pb::Refusal::NoRecord => Refusal::NoRecord,
        pb::Refusal::TermJump => Refusal::TermJump,
        pb::Refusal::Leased => Refusal::Leased,
        pb::Refusal::OldConfig => Refusal::OldConfig,
        pb::Refusal::NoVoter => Refusal::NoVoter,
        pb::Refusal::Unspecified => {
            return Err(DecodeError::new(
                "refuse.refusal",
                format!("{} is not a known value", refuse.refusal),
            ));
        }
    })
}

impl From<&Vote> for pb::Vote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.term.0, candidate: vote.candidate.to_string() }
    }
}

impl TryFrom<pb::Vote> for Vote {
    type Error = DecodeError;

    fn try_from(vote: pb::Vote) -> Result<Self, DecodeError> {
        Ok(Self { term: Term(vote.term), candidate: member("vote.candidate", &vote.candidate)? })
    }
}

impl From<&FleetConfig> for pb::FleetConfig {
    fn from(config: &FleetConfig) -> Self {
        let mode = match config.mode {
            Mode::Availability => pb::Mode::Availability,
            Mode::Quorum => pb::Mode::Quorum,
        };
        let failback = match config.failback {
            Failback::Automatic => pb::Failback::Automatic,
            Failback::Manual => pb::Failback::Manual,
        };
        Self {
            version: config.version.0,
            mode: mode.into(),
            failback: failback.into(),
            failback_delay_ms: millis_up(config.failback_delay),
            restart_grace_ms: millis_up(config.restart_grace),
            voters: config.voters.iter().map(ToString::to_string).collect(),
            lease_ms: millis_up(config.lease),
            stop_grace_ms: millis_up(config.stop_grace),
            pause: config.pause.as_ref().map(|pause| pb::Pause {
                since_ms: pause.since_ms,
                reason: cut(&pause.reason, Pause::MAX_REASON),
            }),
        }
    }
}

impl TryFrom<pb::FleetConfig> for FleetConfig {
    type Error = DecodeError;

    fn try_from(config: pb::FleetConfig) -> Result<Self, DecodeError> {
        let default = Self::default();
        let unknown = |field, value: i32| DecodeError::new(field, format!("{value} is not a known value"));
        let mode = match config.mode() {
            pb::Mode::Availability => Mode::Availability,
            pb::Mode::Quorum => Mode::Quorum,
            pb::Mode::Unspecified => return Err(unknown("config.mode", config.mode)),
        };
        Ok(Self {
            version: ConfigVersion(config.version),
            mode,
            failback: match config.failback() {
                pb::Failback::Automatic => Failback::Automatic,
                pb::Failback::Manual => Failback::Manual,
                pb::Failback::Unspecified => return Err(unknown("config.failback", config.failback)),
            },
            failback_delay: from_millis("config.failback_delay_ms", config.failback_delay_ms)?,
            restart_grace: from_millis("config.restart_grace_ms", config.restart_grace_ms)?,
            voters: voters(mode, &config.voters)?,
            lease: lasting("config.lease_ms", config.lease_ms, default.lease)?,
            stop_grace: lasting("config.stop_grace_ms", config.stop_grace_ms, default.stop_grace)?,
            pause: config.pause.map(|pause| Pause {
                since_ms: pause.since_ms,
                reason: cut(&pause.reason, Pause::MAX_REASON),
            }),
        })
    }
}

/// A configuration of an earlier build has none of these.
fn lasting(field: &'static str, ms: u64, default: Duration) -> Result<Duration, DecodeError> {
    if ms == 0 { Ok(default) } else { from_millis(field, ms) }
}

/// Whoever stored a Quorum that nobody votes in could not start again: a status is refused for it.
fn voters(mode: Mode, names: &[String]) -> Result<Vec<MemberName>, DecodeError> {
    let field = "config.voters";
    if mode == Mode::Quorum && names.is_empty() {
        let message = format!("is empty, in mode Quorum 1 to {} names are expected", FleetConfig::MAX_VOTERS);
        return Err(DecodeError::new(field, message));
    }
    if names.len() > FleetConfig::MAX_VOTERS {
        let message = format!("has {} names, at most {} are allowed", names.len(), FleetConfig::MAX_VOTERS);
        return Err(DecodeError::new(field, message));
    }
    let voters = names.iter().map(|name| member(field, name)).collect::<Result<Vec<_>, _>>()?;
    match voters.is_sorted_by(|a, b| a < b) {
        true => Ok(voters),
        false => Err(DecodeError::new(field, "is not sorted, or has a name twice")),
    }
}

/// As much of a text as fits, for people to read.
fn cut(text: &str, bytes: usize) -> String {
    let mut text = shorten(text);
    text.truncate(text.floor_char_boundary(bytes));
    text
}
