//! Bytes that a core holds for each other member, and foca 2 beside it: what the allocator is given back when it is
//! dropped. Records, names and certificates are shared by a process and held by somebody else here.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use allocation_counter::measure;
use flagship_bench::{Crew, FocaNode, Unmetered};

/// Rounds until all links are up and each has been used.
const ROUNDS: usize = 5;

fn held<T>(value: T) -> f64 {
    -(measure(|| drop(value)).bytes_current as f64)
}

fn main() {
    let heads = ["members", "bytes", "per peer", "links", "foca bytes", "per peer"];
    println!("{}", heads.map(|head| format!("{head:>10}")).join(" "));
    for members in [8_usize, 32, 100, 1_000, 10_000] {
        let peers = (members - 1) as f64;
        let mut crew = Crew::new(members, 1);
        for _ in 0..ROUNDS {
            crew.round(&mut Unmetered);
        }
        crew.assert_calm();
        let (links, ..) = crew.degrees();
        // The fleet goes last: what it shares with the core is not the core's.
        let (_fleet, cores) = crew.into_cores();
        let (ours, foca) = (held(cores), held(FocaNode::new(members).into_node()));
        println!(
            "{members:>10} {ours:>10} {:>10.1} {links:>10} {foca:>10} {:>10.1}",
            ours / peers,
            foca / peers
        );
    }
}
