//! Encode and decode alone, bytes to the core's own types and back.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flagship_bench::Fleet;
use flagship_membership::{Echo, Message};
use flagship_wire::{Frame, PeerMessage, decode_from, message_frame};

fn messages(fleet: &Fleet) -> [(&'static str, Message); 4] {
    let echo = Echo { seq: 100_000, delay: Duration::from_micros(960_000) };
    [
        ("beat", Message::Beat { seq: 100_000, echo: None, acked: Some(echo), view_hash: 0xdead_beef }),
        ("echo", Message::Echo(echo)),
        ("ping", Message::Ping { seq: 100_000 }),
        ("record", Message::Record(fleet.record(1).clone())),
    ]
}

fn codec(c: &mut Criterion) {
    let fleet = Fleet::new(2);
    let sender = fleet.names()[1].clone();
    for (name, message) in messages(&fleet) {
        let message = PeerMessage::Membership(message);
        let (mut bytes, mut buffer) = (Vec::new(), Vec::new());
        message_frame(&message).expect("it fits into a frame").encode(&mut bytes);
        c.benchmark_group("encode").bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                buffer.clear();
                let frame = message_frame(std::hint::black_box(&message)).expect("it fits into a frame");
                frame.encode(&mut buffer);
            });
        });
        c.benchmark_group("decode").bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let frame = Frame::decode(std::hint::black_box(bytes.as_slice())).expect("a frame");
                decode_from(frame, &sender)
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = codec
}
criterion_main!(benches);
