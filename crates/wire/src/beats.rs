//! What is sent every second, by hand: the bytes are those of the generated code, which takes four times as long. It
//! reads exactly what it writes, fields in order and once; everything else is left to the generated code.

use flagship_membership::{Echo, Message};

use crate::fields::{from_micros, micros};

/// Tags: field number and wire type.
const MEMBERSHIP: u8 = 0x1a;
const BEAT: u8 = 0x0a;
const PING: u8 = 0x12;
const ECHO: u8 = 0x1a;
const SEQ: u8 = 0x08;
const DELAY: u8 = 0x10;
const BEAT_ECHO: u8 = 0x12;
const VIEW_HASH: u8 = 0x1d;
const ACKED: u8 = 0x22;

/// The envelopes of frame and message: a tag and a length of one byte each.
const ENVELOPES: usize = 4;
/// The longest beat: two echoes of 22 bytes in envelopes, a number and a hash.
const LONGEST: usize = ENVELOPES + 11 + 5 + 2 * 24;

/// What is sent every second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Regular {
    Beat { seq: u64, echo: Option<Echo>, acked: Option<Echo>, view_hash: u32 },
    Ping { seq: u64 },
    Echo(Echo),
}

impl Regular {
    #[inline]
    pub(crate) fn of(message: &Message) -> Option<Self> {
        Some(match *message {
            Message::Beat { seq, echo, acked, view_hash } => Self::Beat { seq, echo, acked, view_hash },
            Message::Ping { seq } => Self::Ping { seq },
            Message::Echo(echo) => Self::Echo(echo),
            _ => return None,
        })
    }

    /// Reads a frame; `None` if it must be left to the generated code.
    #[inline]
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let [MEMBERSHIP, outer, kind, inner, body @ ..] = frame else { return None };
        // Lengths of one byte, and nothing after what they span.
        let spans = *inner < 0x80 && usize::from(*inner) == body.len() && *outer == *inner + 2;
        let mut reader = Reader(if spans { body } else { return None });
        let regular = match *kind {
            BEAT => Self::Beat {
                seq: reader.number(SEQ)?,
                echo: reader.nested(BEAT_ECHO)?,
                view_hash: reader.fixed(VIEW_HASH)?,
                acked: reader.nested(ACKED)?,
            },
            PING => Self::Ping { seq: reader.number(SEQ)? },
            ECHO => Self::Echo(reader.echo()?),
            _ => return None,
        };
        reader.0.is_empty().then_some(regular)
    }
}

impl From<Regular> for Message {
    #[inline]
    fn from(regular: Regular) -> Self {
        match regular {
            Regular::Beat { seq, echo, acked, view_hash } => Self::Beat { seq, echo, acked, view_hash },
            Regular::Ping { seq } => Self::Ping { seq },
            Regular::Echo(echo) => Self::Echo(echo),
        }
    }
}

/// A frame's bytes: short enough for lengths of one byte.
pub(crate) struct Written {
    bytes: [u8; LONGEST],
    end: usize,
}

impl Written {
    #[inline]
    pub(crate) fn new(regular: &Regular) -> Self {
        let mut written = Self { bytes: [0; LONGEST], end: ENVELOPES };
        let kind = match regular {
            Regular::Beat { seq, echo, acked, view_hash } => {
                written.number(SEQ, *seq);
                written.nested(BEAT_ECHO, echo.as_ref());
                if *view_hash != 0 {
                    written.byte(VIEW_HASH);
                    view_hash.to_le_bytes().into_iter().for_each(|byte| written.byte(byte));
                }
                written.nested(ACKED, acked.as_ref());
                BEAT
            }
            Regular::Ping { seq } => {
                written.number(SEQ, *seq);
                PING
            }
            Regular::Echo(echo) => {
                written.echo(echo);
                ECHO
            }
        };
        let len = written.length_from(ENVELOPES);
        written.bytes[..ENVELOPES].copy_from_slice(&[MEMBERSHIP, len + 2, kind, len]);
        written
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most LONGEST")]
    fn length_from(&self, start: usize) -> u8 {
        (self.end - start) as u8
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.end] = byte;
        self.end += 1;
    }

    /// A field that is left out if it is zero.
    #[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn number(&mut self, tag: u8, mut value: u64) {
        if value == 0 {
            return;
        }
        self.byte(tag);
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn echo(&mut self, echo: &Echo) {
        self.number(SEQ, echo.seq);
        self.number(DELAY, micros(echo.delay));
    }

    fn nested(&mut self, tag: u8, echo: Option<&Echo>) {
        let Some(echo) = echo else { return };
        self.byte(tag);
        let length = self.end;
        self.byte(0);
        self.echo(echo);
        self.bytes[length] = self.length_from(length + 1);
    }
}

/// Inlined it lives in registers: reading takes a sixth less.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    #[inline(always)]
    fn tag(&mut self, tag: u8) -> bool {
        match self.0 {
            [first, rest @ ..] if *first == tag => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn number(&mut self, tag: u8) -> Option<u64> {
        if !self.tag(tag) {
            return Some(0);
        }
        let (mut value, mut shift) = (0, 0);
        // Nine bytes hold 63 bits: no number that is met in practice has more.
        while shift < 63 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Some(value);
            }
            shift += 7;
        }
        None
    }

    fn fixed(&mut self, tag: u8) -> Option<u32> {
        if !self.tag(tag) {
            return Some(0);
        }
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    #[inline(always)]
    fn echo(&mut self) -> Option<Echo> {
        let seq = self.number(SEQ)?;
        // A delay that is refused is refused by the generated code's way, which says why.
        Some(Echo { seq, delay: from_micros("echo.delay_us", self.number(DELAY)?).ok()? })
    }

    #[inline(always)]
    fn nested(&mut self, tag: u8) -> Option<Option<Echo>> {
        if !self.tag(tag) {
            return Some(None);
        }
        let (len, rest) = self.0.split_first()?;
        let (inside, rest) = rest.split_at_checked(usize::from(*len))?;
        let mut inside = Reader(inside);
        let echo = inside.echo()?;
        self.0 = rest;
        inside.0.is_empty().then_some(Some(echo))
    }
}
