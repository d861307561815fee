//! What is read and written by hand: the bytes are those of the generated code, and any bytes mean the same to both.
#![allow(clippy::unwrap_used, reason = "a fixture's unwrap fails the test as it should")]

use std::time::Duration;

use bytes::Buf as _;
use flagship_membership::{Echo, Message};
use flagship_types::MemberName;
use flagship_wire::{Frame, FrameKind, PeerMessage, decode, decode_from, message_frame, pb};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

/// Of all lengths that a number can have in a frame.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..=64_u32).prop_map(|(number, bits)| number.checked_shr(bits).unwrap_or(0))
}

/// Also those that are refused: longer than a week.
fn delay() -> impl Strategy<Value = Duration> {
    number().prop_map(Duration::from_micros)
}

fn echo() -> impl Strategy<Value = Echo> {
    (number(), delay()).prop_map(|(seq, delay)| Echo { seq, delay })
}

fn regular() -> impl Strategy<Value = Message> {
    let view_hash = prop_oneof![1 => Just(0), 4 => any::<u32>()];
    prop_oneof![
        3 => (number(), option::of(echo()), option::of(echo()), view_hash)
            .prop_map(|(seq, echo, acked, view_hash)| Message::Beat { seq, echo, acked, view_hash }),
        1 => number().prop_map(|seq| Message::Ping { seq }),
        2 => echo().prop_map(Message::Echo),
    ]
}

fn generated(message: &Message) -> pb::Frame {
    pb::Frame { kind: Some(pb::frame::Kind::Membership(message.into())) }
}

fn written(message: &Message) -> Vec<u8> {
    let frame = message_frame(&PeerMessage::Membership(message.clone())).unwrap();
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    assert_eq!(bytes.len(), frame.encoded_len());
    bytes
}

/// Both take the bytes or neither, and they mean the same.
fn same(bytes: &[u8]) -> Result<(), TestCaseError> {
    let sender = MemberName::new("sender").unwrap();
    match (Frame::decode(bytes), pb::Frame::decode(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            let theirs = Frame::from(theirs);
            prop_assert_eq!(ours.kind(), theirs.kind());
            prop_assert_eq!(decode(ours.clone()), decode(theirs.clone()));
            prop_assert_eq!(decode_from(ours, &sender), decode_from(theirs, &sender));
        }
        (Err(ours), Err(theirs)) => prop_assert_eq!(ours.to_string(), theirs.to_string()),
        (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
    }
    Ok(())
}

/// A field of a beat, an echo or an envelope, or what is none of them: in any order, twice, or of another type.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let varint = (any::<bool>(), number()).prop_map(|(padded, mut value)| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0] | if padded { 0x80 } else { 0 });
        bytes.extend(padded.then_some(0));
        bytes
    });
    let tag = prop::sample::select(vec![0x08, 0x10, 0x12, 0x1a, 0x1d, 0x22, 0x28, 0x0a]);
    (tag, varint, vec(any::<u8>(), 0..6)).prop_map(|(tag, varint, inside)| {
        let length = u8::try_from(inside.len()).unwrap();
        match tag & 7 {
            0 => [&[tag], varint.as_slice()].concat(),
            2 => [&[tag, length], inside.as_slice()].concat(),
            _ => [&[tag], inside.as_slice()].concat(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn the_bytes_are_those_of_the_generated_code(message in regular()) {
        let bytes = written(&message);
        prop_assert_eq!(&bytes, &generated(&message).encode_to_vec());
        prop_assert_eq!(pb::Frame::decode(bytes.as_slice()).unwrap(), generated(&message));
        same(&bytes)?;
    }

    #[test]
    fn damaged_beats_mean_the_same(
        message in regular(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in vec(any::<u8>(), 0..3),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = written(&message);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(tail);
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        same(&bytes)?;
    }

    #[test]
    fn fields_in_any_order_mean_the_same(kind in 1..=3_u8, fields in vec(field(), 0..6)) {
        let body = fields.concat();
        let inner = [&[kind << 3 | 2, u8::try_from(body.len()).unwrap()], body.as_slice()].concat();
        let bytes = [&[0x1a, u8::try_from(inner.len()).unwrap()], inner.as_slice()].concat();
        same(&bytes)?;
    }

    #[test]
    fn any_bytes_mean_the_same(bytes in vec(any::<u8>(), 0..100)) {
        same(&bytes)?;
    }

    #[test]
    fn a_frame_in_pieces_means_the_same(message in regular(), cut in any::<prop::sample::Index>()) {
        let bytes = written(&message);
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut pieces = first.chain(second);
        let pieced = Frame::decode(&mut pieces).unwrap();
        prop_assert_eq!(pieces.remaining(), 0);
        prop_assert_eq!(decode(pieced), decode(Frame::decode(bytes.as_slice()).unwrap()));
    }
}

#[test]
fn kinds_of_frames() {
    let beat = Message::Beat { seq: 1, echo: None, acked: None, view_hash: 7 };
    for (message, kind) in [(beat, FrameKind::Beat), (Message::Ping { seq: 1 }, FrameKind::Membership)] {
        assert_eq!(Frame::from(generated(&message)).kind(), kind);
        assert_eq!(message_frame(&PeerMessage::Membership(message)).unwrap().kind(), kind);
    }
}
