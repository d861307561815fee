//! What is in a record's file: JSON for people to read, with a format number for later versions and a checksum, as a
//! vote that was damaged is worse than none.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use flagship_node::{ElectionRecord, KnownMember, Promise, Vote};
use flagship_types::{
    Callsign, ConfigVersion, Epoch, Failback, FleetConfig, MemberName, Mode, Pause, PeerAddress, Term,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// Counts up when the fields change.
const FORMAT: u64 = 1;
/// A record with all its peers takes some 20 KiB; more than this is none.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// The port of an address that was written without one; none is.
const NO_PORT: u16 = 9990;

/// Everything a witness remembers of one fleet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Memory {
    /// The fleet.
    pub(crate) callsign: Callsign,
    /// Who remembers.
    pub(crate) member: MemberName,
    /// The first start that this file knows of: which of the files that a witness had in its life this is.
    pub(crate) begun: Epoch,
    /// The newest start.
    pub(crate) epoch: Epoch,
    /// What the election core must not forget; `None`: it has not said anything yet.
    pub(crate) election: Option<ElectionRecord>,
    /// The other members, and where they were found.
    pub(crate) peers: Vec<KnownMember>,
}

/// Why a text is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Nothing in it: the machine was lost before the file system had written it.
    #[error("is empty")]
    Empty,
    /// More than any record.
    #[error("is longer than {MAX_BYTES} bytes, which no record is")]
    TooLong,
    /// Not JSON, cut off, or other fields than expected.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// Something in it is not as it was written.
    #[error("is damaged: its checksum is that of another content")]
    Checksum,
    /// Of a later version.
    #[error("was written by a later flagship (format {0}, this one knows {FORMAT}): run that version again")]
    Later(u64),
}

/// Read first: it says how to read the rest.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format: u64,
    /// Of the bytes of `fleet`, as they are in the file.
    sha256: String,
    #[serde(borrow)]
    fleet: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetText {
    callsign: String,
    member: String,
    begun: u64,
    epoch: u64,
    election: Option<ElectionText>,
    peers: Vec<PeerText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ElectionText {
    vote: Option<VoteText>,
    promise: Option<PromiseText>,
    held: Option<u64>,
    stopping: Option<u64>,
    term: u64,
    leader: Option<String>,
    configuration: ConfigText,
    forgotten: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VoteText {
    term: u64,
    candidate: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromiseText {
    lease_ms: u64,
    stop_grace_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigText {
    version: u64,
    mode: ModeText,
    voters: Vec<String>,
    lease_ms: u64,
    stop_grace_ms: u64,
    pause: Option<PauseText>,
    failback: FailbackText,
    failback_delay_ms: u64,
    restart_grace_ms: u64,
}

#[derive(Serialize, Deserialize)]
enum ModeText {
    Availability,
    Quorum,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseText {
    since_ms: u64,
    reason: String,
}

#[derive(Serialize, Deserialize)]
enum FailbackText {
    Automatic,
    Manual,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerText {
    name: String,
    epoch: u64,
    address: Option<String>,
}

impl Memory {
    /// As it goes into the file.
    pub(crate) fn to_text(&self) -> Result<String, serde_json::Error> {
        let fleet = serde_json::to_string_pretty(&FleetText::from(self))?;
        let sha256 = checksum(&fleet);
        let fleet = RawValue::from_string(fleet)?;
        let envelope = Envelope { format: FORMAT, sha256, fleet: &fleet };
        Ok(serde_json::to_string_pretty(&envelope)? + "\n")
    }

    /// From the content of a file.
    pub(crate) fn from_bytes(content: &[u8]) -> Result<Self, FormatError> {
        if content.len() > MAX_BYTES {
            return Err(FormatError::TooLong);
        }
        let text = str::from_utf8(content).map_err(damaged)?;
        if text.trim_matches(['\0', ' ', '\n']).is_empty() {
            return Err(FormatError::Empty);
        }
        let head: Head = serde_json::from_str(text).map_err(damaged)?;
        if head.format > FORMAT {
            return Err(FormatError::Later(head.format));
        }
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(damaged)?;
        if envelope.sha256 != checksum(envelope.fleet.get()) {
            return Err(FormatError::Checksum);
        }
        let fleet: FleetText = serde_json::from_str(envelope.fleet.get()).map_err(damaged)?;
        fleet.read()
    }
}

fn damaged(error: impl std::fmt::Display) -> FormatError {
    FormatError::Damaged(error.to_string())
}

fn checksum(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, FormatError> {
    text.parse().map_err(|error: T::Err| damaged(error))
}

/// Rounded up, as on the wire: a promise is never shorter after a restart.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl From<&Memory> for FleetText {
    fn from(memory: &Memory) -> Self {
        let Memory { callsign, member, begun, epoch, election, peers } = memory;
        Self {
            callsign: callsign.as_str().into(),
            member: member.as_str().into(),
            begun: begun.0,
            epoch: epoch.0,
            election: election.as_ref().map(ElectionText::from),
            peers: peers.iter().map(PeerText::from).collect(),
        }
    }
}

impl FleetText {
    fn read(self) -> Result<Memory, FormatError> {
        Ok(Memory {
            callsign: parse(&self.callsign)?,
            member: parse(&self.member)?,
            begun: Epoch(self.begun),
            epoch: Epoch(self.epoch),
            election: self.election.map(ElectionText::read).transpose()?,
            peers: self.peers.into_iter().map(PeerText::read).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&ElectionRecord> for ElectionText {
    fn from(record: &ElectionRecord) -> Self {
        // The version counts within a process.
        let ElectionRecord {
            version: _,
            vote,
            promise,
            held,
            stopping,
            // A witness never leads.
            released: _,
            term,
            leader,
            config,
            forgotten,
            replaced: _,
            chosen: _,
        } = record;
        let text = |name: &MemberName| name.as_str().to_owned();
        Self {
            vote: vote.as_ref().map(|vote| VoteText { term: vote.term.0, candidate: text(&vote.candidate) }),
            promise: promise.map(|Promise { lease, stop_grace }| PromiseText {
                lease_ms: millis(lease),
                stop_grace_ms: millis(stop_grace),
            }),
            held: held.map(|term| term.0),
            stopping: stopping.map(|term| term.0),
            term: term.0,
            leader: leader.as_ref().map(text),
            configuration: ConfigText::from(config),
            forgotten: forgotten.iter().map(text).collect(),
        }
    }
}

impl ElectionText {
    fn read(self) -> Result<ElectionRecord, FormatError> {
        let vote = |vote: VoteText| {
            Ok::<_, FormatError>(Vote { term: Term(vote.term), candidate: parse(&vote.candidate)? })
        };
        Ok(ElectionRecord {
            replaced: None,
            chosen: false,
            version: 0,
            vote: self.vote.map(vote).transpose()?,
            promise: self.promise.map(|promise| Promise {
                lease: Duration::from_millis(promise.lease_ms),
                stop_grace: Duration::from_millis(promise.stop_grace_ms),
            }),
            held: self.held.map(Term),
            stopping: self.stopping.map(Term),
            released: None,
            term: Term(self.term),
            leader: self.leader.as_deref().map(parse).transpose()?,
            config: self.configuration.read()?,
            forgotten: self.forgotten.iter().map(|name| parse(name)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&FleetConfig> for ConfigText {
    fn from(config: &FleetConfig) -> Self {
        let FleetConfig {
            version,
            mode,
            voters,
            lease,
            stop_grace,
            pause,
            failback,
            failback_delay,
            restart_grace,
        } = config;
        Self {
            version: version.0,
            mode: match mode {
                Mode::Availability => ModeText::Availability,
                Mode::Quorum => ModeText::Quorum,
            },
            voters: voters.iter().map(|name| name.as_str().into()).collect(),
            lease_ms: millis(*lease),
            stop_grace_ms: millis(*stop_grace),
            pause: pause
                .as_ref()
                .map(|Pause { since_ms, reason }| PauseText { since_ms: *since_ms, reason: reason.clone() }),
            failback: match failback {
                Failback::Automatic => FailbackText::Automatic,
                Failback::Manual => FailbackText::Manual,
            },
            failback_delay_ms: millis(*failback_delay),
            restart_grace_ms: millis(*restart_grace),
        }
    }
}

impl ConfigText {
    fn read(self) -> Result<FleetConfig, FormatError> {
        Ok(FleetConfig {
            version: ConfigVersion(self.version),
            mode: match self.mode {
                ModeText::Availability => Mode::Availability,
                ModeText::Quorum => Mode::Quorum,
            },
            voters: self.voters.iter().map(|name| parse(name)).collect::<Result<_, _>>()?,
            lease: Duration::from_millis(self.lease_ms),
            stop_grace: Duration::from_millis(self.stop_grace_ms),
            pause: self.pause.map(|PauseText { since_ms, reason }| Pause { since_ms, reason }),
            failback: match self.failback {
                FailbackText::Automatic => Failback::Automatic,
                FailbackText::Manual => Failback::Manual,
            },
            failback_delay: Duration::from_millis(self.failback_delay_ms),
            restart_grace: Duration::from_millis(self.restart_grace_ms),
        })
    }
}

impl From<&KnownMember> for PeerText {
    fn from(peer: &KnownMember) -> Self {
        Self {
            name: peer.name.as_str().into(),
            epoch: peer.epoch.0,
            address: peer.address.as_ref().map(ToString::to_string),
        }
    }
}

impl PeerText {
    fn read(self) -> Result<KnownMember, FormatError> {
        let address = self.address.map(|address| PeerAddress::parse(&address, NO_PORT));
        Ok(KnownMember {
            name: parse(&self.name)?,
            epoch: Epoch(self.epoch),
            address: address.transpose().map_err(damaged)?,
            record: None,
        })
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
