//! Nanoseconds per message: bytes in, the core, bytes out; and foca 2 beside it, per probe.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flagship_bench::{Crew, FocaNode, Kind, Meter, SIZES, Stopwatch};

/// Cores that take turns: more than the nearest cache holds, less than the second.
const CORES: usize = 64;
/// Probes that are timed together.
const PROBES: usize = 20;

/// Runs rounds until there were enough calls of one kind; what so many take.
fn run(crew: &mut Crew, kind: Kind, calls: u64) -> Duration {
    let mut watch = Stopwatch::new();
    while (watch.calls(kind) as u64) < calls || watch.nanos(kind) == 0.0 {
        crew.round(&mut watch);
    }
    Duration::from_secs_f64(watch.nanos(kind) * calls as f64 / 1e9)
}

fn cores(c: &mut Criterion) {
    for members in SIZES {
        let mut crew = Crew::warm(members, CORES);
        for (name, kind) in [
            ("observer: beat in, echo out", Kind::Beat),
            ("subject: echo in", Kind::Echo),
            ("subject: timer, beat out", Kind::Timer),
            ("ping in, echo out", Kind::Ping),
        ] {
            // With two members the beats carry the echoes.
            if kind == Kind::Echo && members == 2 {
                continue;
            }
            c.benchmark_group(name).bench_function(BenchmarkId::from_parameter(members), |b| {
                b.iter_custom(|calls| run(&mut crew, kind, calls));
            });
        }
        crew.assert_calm();
    }
}

/// As [`run`]: the same stopwatch for both.
fn run_foca(node: &mut FocaNode, probes: u64) -> Duration {
    let mut watch = Stopwatch::new();
    while (watch.calls(Kind::Ping) as u64) < probes {
        watch.measure(Kind::Ping, PROBES, || (0..PROBES).for_each(|_| node.probe()));
    }
    Duration::from_secs_f64(watch.nanos(Kind::Ping) * probes as f64 / 1e9)
}

fn foca(c: &mut Criterion) {
    for members in SIZES {
        let mut node = FocaNode::new(members);
        let id = BenchmarkId::from_parameter(members);
        c.benchmark_group("foca: probe in, ack out")
            .bench_function(id, |b| b.iter_custom(|probes| run_foca(&mut node, probes)));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = cores, foca
}
criterion_main!(benches);
