//! Frames as a link carries them, and the codec of the gRPC service. What is sent every second is read and written by
//! hand, everything else by the generated code.

use bytes::{Buf, BufMut};
use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::beats::{Regular, Written};
use crate::pb;
use crate::pb::frame::Kind;
use crate::pb::membership_message::Kind as MembershipKind;

/// One message on a link: protobuf's, whose bytes it has, but with beats, pings and echoes in the core's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame(pub(crate) Content);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// A beat, a ping or an echo.
    Regular(Regular),
    /// Anything. A beat only if it was not written as this build does.
    Other(Box<pb::Frame>),
}

/// What kind of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameKind {
    /// First frame each way.
    Hello,
    /// Last frame.
    Close,
    /// A beat.
    Beat,
    /// Any other message of membership.
    Membership,
    /// A message of election.
    Election,
}

impl FrameKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Hello, Self::Close, Self::Beat, Self::Membership, Self::Election];

    /// A metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Close => "close",
            Self::Beat => "beat",
            Self::Membership => "membership",
            Self::Election => "election",
        }
    }
}

impl From<pb::Frame> for Frame {
    fn from(frame: pb::Frame) -> Self {
        Self(Content::Other(Box::new(frame)))
    }
}

impl Frame {
    /// Reads all of `bytes`.
    #[inline]
    pub fn decode(mut bytes: impl Buf) -> Result<Self, prost::DecodeError> {
        let len = bytes.remaining();
        // tonic hands frames over in one piece.
        if bytes.chunk().len() == len
            && let Some(regular) = Regular::read(bytes.chunk())
        {
            bytes.advance(len);
            return Ok(Self(Content::Regular(regular)));
        }
        pb::Frame::decode(bytes).map(Self::from)
    }

    /// Appends its bytes to a buffer that grows.
    ///
    /// # Panics
    ///
    /// If the buffer does not grow.
    #[inline]
    pub fn encode(&self, bytes: &mut impl BufMut) {
        match &self.0 {
            Content::Regular(regular) => bytes.put_slice(Written::new(regular).as_slice()),
            Content::Other(frame) => frame.encode(bytes).expect("the buffer grows"),
        }
    }

    /// How many bytes it has.
    pub fn encoded_len(&self) -> usize {
        match &self.0 {
            Content::Regular(regular) => Written::new(regular).as_slice().len(),
            Content::Other(frame) => frame.encoded_len(),
        }
    }

    /// What it is.
    pub fn kind(&self) -> FrameKind {
        let frame = match &self.0 {
            Content::Regular(Regular::Beat { .. }) => return FrameKind::Beat,
            Content::Regular(_) => return FrameKind::Membership,
            Content::Other(frame) => frame,
        };
        match &frame.kind {
            Some(Kind::Hello(_)) => FrameKind::Hello,
            // A frame without a kind is refused; until then it is counted as the last one.
            Some(Kind::Close(_)) | None => FrameKind::Close,
            Some(Kind::Membership(message)) if matches!(message.kind, Some(MembershipKind::Beat(_))) => {
                FrameKind::Beat
            }
            Some(Kind::Membership(_)) => FrameKind::Membership,
            Some(Kind::Election(_)) => FrameKind::Election,
        }
    }
}

/// The codec of the service. Its client and server are generated with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.encode(bytes);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        // The code that gRPC names for it.
        Frame::decode(bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}
