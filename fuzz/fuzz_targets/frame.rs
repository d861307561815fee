//! Any bytes: what protobuf reads and the codec takes is encoded to the same again, in a frame that fits.
#![no_main]

use flagship_types::MemberName;
use flagship_wire::{
    DecodeError, Incoming, MAX_FRAME_BYTES, close_frame, decode, decode_from, hello_frame, message_frame, pb,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// `None` only for a message that does not fit a frame when written out.
fn encode(incoming: &Incoming) -> Option<pb::Frame> {
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
    let Ok(frame) = pb::Frame::decode(bytes) else { return };
    let sender = MemberName::new("sender").expect("a name");
    if let Err(refused) = decode(frame.clone()) {
        named(&refused);
    }
    let incoming = match decode_from(frame, &sender) {
        Ok(incoming) => incoming,
        Err(refused) => return named(&refused),
    };
    let Some(encoded) = encode(&incoming) else { return };
    assert!(encoded.encoded_len() <= MAX_FRAME_BYTES);
    let read = pb::Frame::decode(encoded.encode_to_vec().as_slice()).expect("our own frame is protobuf");
    let again = decode_from(read, &sender).expect("our own frame is sound");
    assert_eq!(again, incoming);
});
