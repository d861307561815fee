//! Bytes that a core holds for each other member, and foca 2 beside it: what the allocator is given back when it is
//! dropped. Records, names and certificates are shared by a process and held by somebody else here. And how often the
//! allocator is called for a warm message.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use allocation_counter::measure;
use flagship_bench::{Crew, FocaNode, Kind, Meter};

/// Rounds after the warm-up.
const ROUNDS: usize = 20;
const PROBES: usize = 1_000;

/// Counts allocations and calls.
#[derive(Default)]
struct Allocations {
    count: u64,
    calls: usize,
}

impl Meter for Allocations {
    fn measure(&mut self, _: Kind, calls: usize, work: impl FnOnce()) {
        self.count += measure(work).count_total;
        self.calls += calls;
    }
}

fn held<T>(value: T) -> f64 {
    -(measure(|| drop(value)).bytes_current as f64)
}

fn main() {
    let heads = ["members", "bytes", "per peer", "links", "allocs", "foca bytes", "per peer", "allocs"];
    println!("{}", heads.map(|head| format!("{head:>10}")).join(" "));
    for members in [8_usize, 32, 100, 1_000, 10_000] {
        let mut crew = Crew::warm(members, 1);
        let mut warm = Allocations::default();
        for _ in 0..ROUNDS {
            crew.round(&mut warm);
        }
        crew.assert_calm();
        let (links, ..) = crew.degrees();
        // The fleet goes last: what it shares with the core is not the core's.
        let (_fleet, cores) = crew.into_cores();
        let mut node = FocaNode::new(members);
        let probes = measure(|| (0..PROBES).for_each(|_| node.probe())).count_total;
        let (ours, foca) = (held(cores), held(node.into_node()));
        let peers = (members - 1) as f64;
        let (ours_each, foca_each) = (ours / peers, foca / peers);
        let allocations = [warm.count as f64 / warm.calls as f64, probes as f64 / PROBES as f64];
        println!(
            "{members:>10} {ours:>10} {ours_each:>10.1} {links:>10} {:>10.2} {foca:>10} {foca_each:>10.1} {:>10.2}",
            allocations[0], allocations[1]
        );
    }
}
