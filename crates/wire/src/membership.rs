//! Membership's messages to protobuf and back.

use flagship_membership::{Echo, Evidence, Message, Record, SelfState, State, Verdict};
use flagship_types::{ConfigVersion, Epoch, Health, Incarnation, MemberName, Metadata, Rank, Role, Term};
use prost::Message as _;

use crate::fields::{
    address, from_micros, member, micros, micros_up, optional_address, optional_member, text_of,
};
use crate::pb::membership_message::Kind;
use crate::statement::{from_accusation, from_delta, from_record, to_accusation, to_delta, to_record};
use crate::{DecodeError, pb};

/// The longest encoded metadata: it is spread to every member, so its owner must keep it short.
pub const MAX_METADATA_BYTES: usize = 1024;

/// The most addresses in one message: more members than a mesh of 8 or its rings link to are told in batches.
const MAX_ADDRESSES: usize = 128;

/// The finest digest: 4,096 buckets, which fill less than half of a frame.
pub const MAX_DIGEST_BITS: u8 = 12;

impl From<&Message> for pb::MembershipMessage {
    fn from(message: &Message) -> Self {
        let kind = match message {
            Message::Beat { seq, echo, acked, view_hash } => Kind::Beat(pb::Beat {
                seq: *seq,
                echo: echo.map(Into::into),
                acked: acked.map(Into::into),
                view_hash: *view_hash,
            }),
            Message::Ping { seq } => Kind::Ping(pb::Ping { seq: *seq }),
            Message::Echo(echo) => Kind::Echo((*echo).into()),
            Message::Query { id, subject, epoch, deadline } => Kind::Query(pb::Query {
                id: *id,
                subject: subject.to_string(),
                epoch: epoch.0,
                deadline_us: micros(*deadline),
            }),
            Message::Answer { id, subject, verdict } => Kind::Answer(pb::Answer {
                id: *id,
                subject: subject.to_string(),
                verdict: Some((*verdict).into()),
            }),
            Message::Accuse(accusation) => Kind::Accusation(from_accusation(accusation, true)),
            Message::Record(record) => Kind::Record(from_record(record)),
            Message::Delta { records, accusations } => Kind::Delta(from_delta(records, accusations)),
            Message::Digest { bits, answer, buckets } => {
                let (buckets, hashes) =
                    buckets.iter().map(|(number, hash)| (u32::from(*number), *hash)).unzip();
                Kind::Digest(pb::Digest { bits: (*bits).into(), answer: *answer, buckets, hashes })
            }
            Message::Unobserve => Kind::Unobserve(pb::Unobserve {}),
            Message::Known { epoch, incarnation, state } => Kind::Known(pb::Known {
                epoch: epoch.0,
                incarnation: incarnation.0,
                state: pb::State::from(*state).into(),
            }),
            Message::Addresses(addresses) => Kind::Addresses(pb::Addresses {
                members: addresses
                    .iter()
                    .map(|(name, address)| pb::MemberAddress {
                        member: name.to_string(),
                        address: address.to_string(),
                    })
                    .collect(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

/// Reads a message. `sender`: who accuses if an accusation does not say.
pub(crate) fn to_message(
    message: pb::MembershipMessage,
    sender: Option<&MemberName>,
) -> Result<Message, DecodeError> {
    Ok(match message.kind.ok_or_else(|| DecodeError::missing("membership.kind"))? {
        Kind::Beat(beat) => Message::Beat {
            seq: beat.seq,
            echo: beat.echo.map(Echo::try_from).transpose()?,
            acked: beat.acked.map(Echo::try_from).transpose()?,
            view_hash: beat.view_hash,
        },
        Kind::Ping(ping) => Message::Ping { seq: ping.seq },
        Kind::Echo(echo) => Message::Echo(echo.try_into()?),
        Kind::Query(query) => Message::Query {
            id: query.id,
            subject: member("query.subject", &query.subject)?,
            epoch: Epoch(query.epoch),
            deadline: from_micros("query.deadline_us", query.deadline_us)?,
        },
        Kind::Answer(answer) => Message::Answer {
            id: answer.id,
            subject: member("answer.subject", &answer.subject)?,
            verdict: answer.verdict.ok_or_else(|| DecodeError::missing("answer.verdict"))?.try_into()?,
        },
        Kind::Accusation(accusation) => Message::Accuse(to_accusation(accusation, sender)?),
        Kind::Record(record) => Message::Record(to_record(record)?),
        Kind::Delta(delta) => to_delta(delta, sender)?,
        Kind::Digest(digest) => to_digest(&digest)?,
        Kind::Unobserve(_) => Message::Unobserve,
        Kind::Known(known) => Message::Known {
            epoch: Epoch(known.epoch),
            incarnation: Incarnation(known.incarnation),
            state: known.state().try_into()?,
        },
        Kind::Addresses(addresses) => Message::Addresses(from_addresses(&addresses)?),
    })
}

fn to_digest(digest: &pb::Digest) -> Result<Message, DecodeError> {
    let bits = u8::try_from(digest.bits).ok().filter(|bits| *bits <= MAX_DIGEST_BITS).ok_or_else(|| {
        DecodeError::new("digest.bits", format!("is {}, at most {MAX_DIGEST_BITS}", digest.bits))
    })?;
    let (count, most) = (digest.buckets.len(), 1_u32 << bits);
    if count > most as usize {
        return Err(DecodeError::new("digest.buckets", format!("has {count} entries, at most {most}")));
    }
    if digest.hashes.len() != count {
        let problem = format!("has {} entries, not {count} as buckets", digest.hashes.len());
        return Err(DecodeError::new("digest.hashes", problem));
    }
    let bucket = |(number, hash): (&u32, &u32)| {
        let number = u16::try_from(*number).ok().filter(|number| u32::from(*number) < most);
        number.map(|number| (number, *hash))
    };
    let buckets = digest.buckets.iter().zip(&digest.hashes).map(bucket).collect::<Option<_>>();
    let buckets = buckets.ok_or_else(|| {
        DecodeError::new("digest.buckets", format!("names a bucket that is not below {most}"))
    })?;
    Ok(Message::Digest { bits, answer: digest.answer, buckets })
}

fn from_addresses(
    addresses: &pb::Addresses,
) -> Result<Vec<(MemberName, flagship_types::PeerAddress)>, DecodeError> {
    let count = addresses.members.len();
    if count > MAX_ADDRESSES {
        return Err(DecodeError::new(
            "addresses.members",
            format!("has {count} entries, at most {MAX_ADDRESSES}"),
        ));
    }
    let entry = |entry: &pb::MemberAddress| {
        Ok((
            member("addresses.members.member", &entry.member)?,
            address("addresses.members.address", &entry.address)?,
        ))
    };
    addresses.members.iter().map(entry).collect()
}

impl From<Echo> for pb::Echo {
    fn from(echo: Echo) -> Self {
        Self { seq: echo.seq, delay_us: micros(echo.delay) }
    }
}

impl TryFrom<pb::Echo> for Echo {
    type Error = DecodeError;

    fn try_from(echo: pb::Echo) -> Result<Self, DecodeError> {
        Ok(Self { seq: echo.seq, delay: from_micros("echo.delay_us", echo.delay_us)? })
    }
}

impl From<Verdict> for pb::answer::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Heard(age) => Self::HeardUs(micros_up(age)),
            Verdict::Mute(evidence) => Self::Mute(pb::Evidence::from(evidence).into()),
            Verdict::Abstain => Self::Abstain(true),
        }
    }
}

impl TryFrom<pb::answer::Verdict> for Verdict {
    type Error = DecodeError;

    fn try_from(verdict: pb::answer::Verdict) -> Result<Self, DecodeError> {
        Ok(match verdict {
            pb::answer::Verdict::HeardUs(us) => Self::Heard(from_micros("answer.heard_us", us)?),
            pb::answer::Verdict::Mute(evidence) => Self::Mute(from_evidence("answer.mute", evidence)?),
            pb::answer::Verdict::Abstain(_) => Self::Abstain,
        })
    }
}

impl From<Evidence> for pb::Evidence {
    fn from(evidence: Evidence) -> Self {
        match evidence {
            Evidence::Exit => Self::Exit,
            Evidence::Silence => Self::Silence,
        }
    }
}

pub(crate) fn from_evidence(field: &'static str, evidence: i32) -> Result<Evidence, DecodeError> {
    match pb::Evidence::try_from(evidence) {
        Ok(pb::Evidence::Exit) => Ok(Evidence::Exit),
        Ok(pb::Evidence::Silence) => Ok(Evidence::Silence),
        Ok(pb::Evidence::Unspecified) | Err(_) => Err(unknown(field, evidence)),
    }
}

fn unknown(field: &'static str, value: i32) -> DecodeError {
    DecodeError::new(field, format!("{value} is not a known value"))
}

impl From<State> for pb::State {
    fn from(state: State) -> Self {
        match state {
            State::Alive => Self::Alive,
            State::Suspect => Self::Suspect,
            State::Away => Self::Away,
            State::Down => Self::Down,
            State::Left => Self::Left,
        }
    }
}

impl TryFrom<pb::State> for State {
    type Error = DecodeError;

    fn try_from(state: pb::State) -> Result<Self, DecodeError> {
        Ok(match state {
            pb::State::Alive => Self::Alive,
            pb::State::Suspect => Self::Suspect,
            pb::State::Away => Self::Away,
            pb::State::Down => Self::Down,
            pb::State::Left => Self::Left,
            pb::State::Unspecified => return Err(unknown("known.state", 0)),
        })
    }
}

impl From<&Record> for pb::Record {
    fn from(record: &Record) -> Self {
        let status = match record.status {
            SelfState::Alive => pb::record::Status::Alive(true),
            SelfState::Away { grace } => pb::record::Status::AwayGraceUs(micros(grace)),
            SelfState::Left => pb::record::Status::Left(true),
        };
        Self {
            member: record.member.to_string(),
            epoch: record.epoch.0,
            incarnation: record.incarnation.0,
            version: record.version,
            status: Some(status),
            metadata: Some((&record.metadata).into()),
            signed_at_ms: 0,
        }
    }
}

impl TryFrom<pb::Record> for Record {
    type Error = DecodeError;

    fn try_from(record: pb::Record) -> Result<Self, DecodeError> {
        let status = match record.status.ok_or_else(|| DecodeError::missing("record.status"))? {
            pb::record::Status::Alive(_) => SelfState::Alive,
            pb::record::Status::AwayGraceUs(us) => {
                SelfState::Away { grace: from_micros("record.away_grace_us", us)? }
            }
            pb::record::Status::Left(_) => SelfState::Left,
        };
        Ok(Self {
            member: member("record.member", &record.member)?,
            epoch: Epoch(record.epoch),
            incarnation: Incarnation(record.incarnation),
            version: record.version,
            status,
            metadata: record.metadata.ok_or_else(|| DecodeError::missing("record.metadata"))?.try_into()?,
        })
    }
}

impl From<&Metadata> for pb::Metadata {
    fn from(metadata: &Metadata) -> Self {
        let Health { api, payload_valid, payload_ready, gates, failed } = metadata.health;
        Self {
            address: text_of(metadata.address.as_ref()),
            rank: metadata.rank.0,
            candidate: metadata.candidate,
            health: Some(pb::Health { api, payload_valid, payload_ready, gates_fail: !gates, failed }),
            role: pb::Role::from(metadata.role).into(),
            term: metadata.term.0,
            leader: text_of(metadata.leader.as_ref()),
            config_version: metadata.config.0,
            interrupted: metadata.interrupted,
            fences: metadata.fences,
            quorum: metadata.quorum,
            promoted: metadata.promoted.0,
        }
    }
}

impl TryFrom<pb::Metadata> for Metadata {
    type Error = DecodeError;

    fn try_from(metadata: pb::Metadata) -> Result<Self, DecodeError> {
        let len = metadata.encoded_len();
        if len > MAX_METADATA_BYTES {
            return Err(DecodeError::new(
                "metadata",
                format!("has {len} bytes, at most {MAX_METADATA_BYTES}"),
            ));
        }
        let health = metadata.health.unwrap_or_default();
        Ok(Self {
            role: from_role(metadata.role())?,
            address: optional_address("metadata.address", &metadata.address)?,
            rank: Rank(metadata.rank),
            candidate: metadata.candidate,
            health: Health {
                api: health.api,
                payload_valid: health.payload_valid,
                payload_ready: health.payload_ready,
                gates: !health.gates_fail,
                failed: health.failed,
            },
            term: Term(metadata.term),
            leader: optional_member("metadata.leader", &metadata.leader)?,
            config: ConfigVersion(metadata.config_version),
            interrupted: metadata.interrupted,
            fences: metadata.fences,
            quorum: metadata.quorum,
            promoted: Term(metadata.promoted),
        })
    }
}

impl From<Role> for pb::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Joining => Self::Joining,
            Role::Standby => Self::Standby,
            Role::Candidate => Self::Candidate,
            Role::Leader => Self::Leader,
            Role::Stopping => Self::Stopping,
            Role::Witness => Self::Witness,
        }
    }
}

fn from_role(role: pb::Role) -> Result<Role, DecodeError> {
    Ok(match role {
        pb::Role::Joining => Role::Joining,
        pb::Role::Standby => Role::Standby,
        pb::Role::Candidate => Role::Candidate,
        pb::Role::Leader => Role::Leader,
        pb::Role::Stopping => Role::Stopping,
        pb::Role::Witness => Role::Witness,
        pb::Role::Unspecified => return Err(unknown("metadata.role", 0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_knows_no_gates_has_none_that_fail() {
        // What protocol 1 sends of a member: neither field is there.
        let old = pb::Health { api: true, payload_valid: true, ..pb::Health::default() };
        let old =
            pb::Metadata { role: pb::Role::Standby.into(), health: Some(old), ..pb::Metadata::default() };
        let read = Metadata::try_from(old.clone()).unwrap();
        assert!(read.health.gates && !read.health.failed && read.health.is_fit(), "{:?}", read.health);
        let unfit = Metadata { health: Health { gates: false, failed: true, ..read.health }, ..read };
        let sent = pb::Metadata::from(&unfit).health.unwrap();
        assert!(sent.gates_fail && sent.failed);
    }
}
