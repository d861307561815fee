//! What frames mean: Hellos, good-byes and messages for the cores.

use flagship_types::{Callsign, CloseCode, Epoch, MemberName, PeerAddress};

use crate::beats::Regular;
use crate::codec::Content;
use crate::fields::{member, optional_address, text_of};
use crate::membership::to_message;
use crate::pb::frame::Kind;
use crate::{DecodeError, Frame, PeerMessage, pb};

/// The largest frame in either direction: 64 times the largest record, and small enough that a hostile peer
/// costs little.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// The longest sentence for people in a frame. Longer ones are cut.
pub const MAX_SENTENCE_BYTES: usize = 1024;

/// The oldest protocol version spoken: that of the builds before signed statements and rings.
pub const PROTOCOL_MIN: u32 = 1;

/// The newest protocol version spoken.
pub const PROTOCOL_MAX: u32 = 2;

/// Who speaks: the first frame each way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version the sender speaks.
    pub protocol_min: u32,
    /// The newest protocol version the sender speaks.
    pub protocol_max: u32,
    /// Its fleet.
    pub callsign: Callsign,
    /// Its name.
    pub member: MemberName,
    /// Its start.
    pub epoch: Epoch,
    /// Where it can be dialled.
    pub address: Option<PeerAddress>,
    /// Hash of its view.
    pub view_hash: u32,
    /// Random per process, so that a process that dialled itself notices. Never zero.
    pub instance: u64,
}

impl Hello {
    /// Whether both speak a common version of the protocol.
    pub fn speaks_our_protocol(&self) -> bool {
        self.protocol_min <= PROTOCOL_MAX && self.protocol_max >= PROTOCOL_MIN
    }

    /// The newest version that both speak, if there is one.
    pub fn common_protocol(&self) -> u32 {
        self.protocol_max.min(PROTOCOL_MAX)
    }
}

/// The last frame of a link that is refused or closed on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub code: CloseCode,
    /// What happened and what to do, for people.
    pub sentence: String,
}

/// A frame that made sense.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// Who speaks.
    Hello(Hello),
    /// Good-bye.
    Close(Close),
    /// For a core.
    Message(PeerMessage),
}

/// Reads a frame of whoever it is. Refuses everything that does not fit the cores' types.
pub fn decode(frame: Frame) -> Result<Incoming, DecodeError> {
    read(frame, None)
}

/// Reads a frame of a link's peer, who is the accuser of an accusation that names none: one without a proof, and any
/// of a build that speaks protocol 1. Refuses everything that does not fit the cores' types.
#[inline]
pub fn decode_from(frame: Frame, sender: &MemberName) -> Result<Incoming, DecodeError> {
    read(frame, Some(sender))
}

#[inline]
fn read(frame: Frame, sender: Option<&MemberName>) -> Result<Incoming, DecodeError> {
    match frame.0 {
        Content::Regular(regular) => Ok(Incoming::Message(PeerMessage::Membership(regular.into()))),
        Content::Other(frame) => read_generated(*frame, sender),
    }
}

fn read_generated(frame: pb::Frame, sender: Option<&MemberName>) -> Result<Incoming, DecodeError> {
    Ok(match frame.kind.ok_or_else(|| DecodeError::missing("frame.kind"))? {
        Kind::Hello(hello) => Incoming::Hello(hello.try_into()?),
        Kind::Close(close) => Incoming::Close(close.try_into()?),
        Kind::Membership(message) => Incoming::Message(PeerMessage::Membership(to_message(message, sender)?)),
        Kind::Election(message) => Incoming::Message(PeerMessage::Election(message.try_into()?)),
    })
}

/// The frame of a message, or `None` if it would be larger than [`MAX_FRAME_BYTES`].
#[inline]
pub fn message_frame(message: &PeerMessage) -> Option<Frame> {
    let regular = match message {
        PeerMessage::Membership(message) => Regular::of(message),
        PeerMessage::Election(_) => None,
    };
    match regular {
        Some(regular) => Some(Frame(Content::Regular(regular))),
        None => generated_frame(message),
    }
}

fn generated_frame(message: &PeerMessage) -> Option<Frame> {
    let kind = match message {
        PeerMessage::Membership(message) => Kind::Membership(message.into()),
        PeerMessage::Election(message) => Kind::Election(message.into()),
    };
    let frame = Frame::from(pb::Frame { kind: Some(kind) });
    (frame.encoded_len() <= MAX_FRAME_BYTES).then_some(frame)
}

/// The frame of a Hello.
pub fn hello_frame(hello: &Hello) -> Frame {
    let hello = pb::Hello {
        protocol_min: hello.protocol_min,
        protocol_max: hello.protocol_max,
        callsign: hello.callsign.to_string(),
        member: hello.member.to_string(),
        epoch: hello.epoch.0,
        address: text_of(hello.address.as_ref()),
        view_hash: hello.view_hash,
        instance: hello.instance,
    };
    pb::Frame { kind: Some(Kind::Hello(hello)) }.into()
}

/// The frame of a Close; a sentence that is too long is cut.
pub fn close_frame(close: &Close) -> Frame {
    let close =
        pb::Close { code: pb::CloseCode::from(close.code).into(), sentence: shorten(&close.sentence) };
    pb::Frame { kind: Some(Kind::Close(close)) }.into()
}

/// Cuts to [`MAX_SENTENCE_BYTES`] and removes control characters, which could forge log lines.
pub(crate) fn shorten(sentence: &str) -> String {
    let mut end = sentence.len().min(MAX_SENTENCE_BYTES);
    while !sentence.is_char_boundary(end) {
        end -= 1;
    }
    sentence[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl TryFrom<pb::Hello> for Hello {
    type Error = DecodeError;

    fn try_from(hello: pb::Hello) -> Result<Self, DecodeError> {
        if hello.protocol_min > hello.protocol_max {
            return Err(DecodeError::new("hello.protocol_min", "is greater than protocol_max"));
        }
        if hello.instance == 0 {
            return Err(DecodeError::missing("hello.instance"));
        }
        Ok(Self {
            protocol_min: hello.protocol_min,
            protocol_max: hello.protocol_max,
            callsign: Callsign::new(&hello.callsign)
                .map_err(|e| DecodeError::new("hello.callsign", e.to_string()))?,
            member: member("hello.member", &hello.member)?,
            epoch: Epoch(hello.epoch),
            address: optional_address("hello.address", &hello.address)?,
            view_hash: hello.view_hash,
            instance: hello.instance,
        })
    }
}

impl TryFrom<pb::Close> for Close {
    type Error = DecodeError;

    fn try_from(close: pb::Close) -> Result<Self, DecodeError> {
        let code = match close.code() {
            pb::CloseCode::WrongCallsign => CloseCode::WrongCallsign,
            pb::CloseCode::NameInUse => CloseCode::NameInUse,
            pb::CloseCode::IdentityMismatch => CloseCode::IdentityMismatch,
            pb::CloseCode::ProtocolTooOld => CloseCode::ProtocolTooOld,
            pb::CloseCode::Full => CloseCode::Full,
            pb::CloseCode::ShuttingDown => CloseCode::ShuttingDown,
            pb::CloseCode::Duplicate => CloseCode::Duplicate,
            pb::CloseCode::Leaving => CloseCode::Leaving,
            pb::CloseCode::ProtocolError => CloseCode::ProtocolError,
            pb::CloseCode::CertificateRevoked => CloseCode::CertificateRevoked,
            pb::CloseCode::Stale => CloseCode::Stale,
            pb::CloseCode::Standby => CloseCode::Standby,
            pb::CloseCode::Unneeded => CloseCode::Unneeded,
            pb::CloseCode::Unspecified => {
                return Err(DecodeError::new("close.code", format!("{} is not a known value", close.code)));
            }
        };
        Ok(Self { code, sentence: shorten(&close.sentence) })
    }
}

impl From<CloseCode> for pb::CloseCode {
    fn from(code: CloseCode) -> Self {
        match code {
            CloseCode::WrongCallsign => Self::WrongCallsign,
            CloseCode::NameInUse => Self::NameInUse,
            CloseCode::IdentityMismatch => Self::IdentityMismatch,
            CloseCode::ProtocolTooOld => Self::ProtocolTooOld,
            CloseCode::Full => Self::Full,
            CloseCode::ShuttingDown => Self::ShuttingDown,
            CloseCode::Duplicate => Self::Duplicate,
            CloseCode::Leaving => Self::Leaving,
            CloseCode::ProtocolError => Self::ProtocolError,
            CloseCode::CertificateRevoked => Self::CertificateRevoked,
            CloseCode::Stale => Self::Stale,
            CloseCode::Standby => Self::Standby,
            CloseCode::Unneeded => Self::Unneeded,
        }
    }
}
