//! Any bytes: they mean to this codec what they mean to the generated code alone; and what is taken is encoded to the same
//! again, in a frame that fits, by both.
#![no_main]

use flagship_types::MemberName;
use flagship_wire::{
    DecodeError, Frame, Incoming, MAX_FRAME_BYTES, close_frame, decode, decode_from, hello_frame, message_frame,
    pb,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// `None` only for a message that does not fit a frame when written out.
fn encode(incoming: &Incoming) -> Option<Frame> {
    match incoming {
        Incoming::Hello(hello) => Some(hello_frame(hello)),
        Incoming::Close(close) => Some(close_frame(close)),
        Incoming::Message(message) => message_frame(message),
    }
}

fn named(refused: &DecodeError) {
    assert!(!refused.field.is_empty() && !refused.problem.is_empty());
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > MAX_FRAME_BYTES {
        return;
    }
    let (frame, generated) = (Frame::decode(bytes), pb::Frame::decode(bytes));
    assert_eq!(frame.is_ok(), generated.is_ok());
    let (Ok(frame), Ok(generated)) = (frame, generated) else { return };
    let generated = Frame::from(generated);
    let sender = MemberName::new("sender").expect("a name");
    assert_eq!(frame.kind(), generated.kind());
    let (anonymous, read) = (decode(frame.clone()), decode_from(frame, &sender));
    assert_eq!(anonymous, decode(generated.clone()));
    assert_eq!(read, decode_from(generated, &sender));
    if let Err(refused) = anonymous {
        named(&refused);
    }
    let incoming = match read {
        Ok(incoming) => incoming,
        Err(refused) => return named(&refused),
    };
    let Some(encoded) = encode(&incoming) else { return };
    let mut bytes = Vec::new();
    encoded.encode(&mut bytes);
    assert!(encoded.encoded_len() == bytes.len() && bytes.len() <= MAX_FRAME_BYTES);
    let generated = pb::Frame::decode(bytes.as_slice()).expect("our own frame is protobuf");
    assert_eq!(generated.encode_to_vec(), bytes, "the generated code would have written it otherwise");
    let read = Frame::decode(bytes.as_slice()).expect("our own frame is a frame");
    assert_eq!(decode_from(read, &sender).expect("our own frame is sound"), incoming);
});
