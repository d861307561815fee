//! What is sent every second costs no heap: a target of its own, because it counts the allocations of the process.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

use std::time::Duration;

use flagship_membership::{Echo, Message};
use flagship_wire::{Frame, Incoming, PeerMessage, decode_from, message_frame};

fn messages() -> [Message; 4] {
    let echo = Echo { seq: 10_000, delay: Duration::from_micros(960_000) };
    [
        Message::Beat { seq: 10_000, echo: None, acked: Some(echo), view_hash: 0xdead_beef },
        Message::Beat { seq: 10_000, echo: Some(echo), acked: None, view_hash: 0xdead_beef },
        Message::Ping { seq: 10_001 },
        Message::Echo(echo),
    ]
}

#[test]
fn beats_pings_and_echoes_allocate_nothing() {
    let sender = "newyork".parse().unwrap();
    for message in messages() {
        let message = PeerMessage::Membership(message);
        let mut buffer = Vec::with_capacity(128);
        let counted = allocation_counter::measure(|| {
            for _ in 0..100 {
                buffer.clear();
                message_frame(&message).unwrap().encode(&mut buffer);
                let frame = Frame::decode(buffer.as_slice()).unwrap();
                assert_eq!(decode_from(frame, &sender), Ok(Incoming::Message(message.clone())));
            }
        });
        assert_eq!(counted.count_total, 0, "{message:?}");
    }
}

/// The counter sees what it is there for.
#[test]
fn a_query_allocates() {
    let (subject, epoch) = ("paris".parse().unwrap(), flagship_types::Epoch(1));
    let query = Message::Query { id: 1, subject, epoch, deadline: Duration::from_millis(90) };
    let message = PeerMessage::Membership(query);
    let counted = allocation_counter::measure(|| drop(message_frame(&message)));
    assert!(counted.count_total > 0);
}
