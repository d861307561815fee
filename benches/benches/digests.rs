//! Two members whose views differ by one member: digests and deltas until they agree.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flagship_bench::DigestPair;

fn digests(c: &mut Criterion) {
    for members in [100, 1_000, 10_000] {
        let pair = DigestPair::new(members);
        c.benchmark_group("digest: one member is missing").bench_function(
            BenchmarkId::from_parameter(members),
            |b| {
                b.iter_custom(|times| (0..times).map(|_| pair.exchange().spent).sum());
            },
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300));
    targets = digests
}
criterion_main!(benches);
