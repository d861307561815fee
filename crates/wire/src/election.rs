//! Election's messages to protobuf and back.

use flagship_election::{Claim, Message, Refusal, Vote};
use flagship_types::{ConfigVersion, Failback, FleetConfig, Mode, Rank, Term};

use crate::fields::{from_millis, member, millis_up, optional_member, text_of};
use crate::frame::shorten;
use crate::pb::election_message::Kind;
use crate::{DecodeError, pb};

impl From<&Message> for pb::ElectionMessage {
    fn from(message: &Message) -> Self {
        let kind = match message {
            Message::PreClaim(claim) => Kind::PreClaim(claim.into()),
            Message::Claim(claim) => Kind::Claim(claim.into()),
            Message::Grant { term, pre } => Kind::Grant(pb::Grant { term: term.0, pre: *pre }),
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
            Message::Release { term, successor } => {
                Kind::Release(pb::Release { term: term.0, successor: text_of(successor.as_ref()) })
            }
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
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::ElectionMessage> for Message {
    type Error = DecodeError;

    fn try_from(message: pb::ElectionMessage) -> Result<Self, DecodeError> {
        Ok(match message.kind.ok_or_else(|| DecodeError::missing("election.kind"))? {
            Kind::PreClaim(claim) => Self::PreClaim(claim.into()),
            Kind::Claim(claim) => Self::Claim(claim.into()),
            Kind::Grant(grant) => Self::Grant { term: Term(grant.term), pre: grant.pre },
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
        })
    }
}

impl From<&Claim> for pb::Claim {
    fn from(claim: &Claim) -> Self {
        Self {
            term: claim.term.0,
            rank: claim.rank.0,
            config_version: claim.config.0,
            released: claim.released.map(|term| term.0),
        }
    }
}

impl From<pb::Claim> for Claim {
    fn from(claim: pb::Claim) -> Self {
        Self {
            term: Term(claim.term),
            rank: Rank(claim.rank),
            config: ConfigVersion(claim.config_version),
            released: claim.released.map(Term),
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
        }
    }
}

impl TryFrom<pb::FleetConfig> for FleetConfig {
    type Error = DecodeError;

    fn try_from(config: pb::FleetConfig) -> Result<Self, DecodeError> {
        let unknown = |field, value: i32| DecodeError::new(field, format!("{value} is not a known value"));
        Ok(Self {
            version: ConfigVersion(config.version),
            mode: match config.mode() {
                pb::Mode::Availability => Mode::Availability,
                pb::Mode::Unspecified => return Err(unknown("config.mode", config.mode)),
            },
            failback: match config.failback() {
                pb::Failback::Automatic => Failback::Automatic,
                pb::Failback::Manual => Failback::Manual,
                pb::Failback::Unspecified => return Err(unknown("config.failback", config.failback)),
            },
            failback_delay: from_millis("config.failback_delay_ms", config.failback_delay_ms)?,
            restart_grace: from_millis("config.restart_grace_ms", config.restart_grace_ms)?,
        })
    }
}
