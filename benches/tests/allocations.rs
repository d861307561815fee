//! A warm core and its codec allocate nothing for what is sent every second, in fleets of any size. A target of its
//! own, because it counts the allocations of the process.

use allocation_counter::measure;
use flagship_bench::{Crew, FocaNode, Kind, Meter, SIZES, Unmetered};

/// Long enough for every link to be pinged and for every timer to have fired several times.
const ROUNDS: usize = 20;

/// Allocations and calls, by kind.
#[derive(Debug, Default)]
struct Allocations {
    counts: [u64; 5],
    calls: [usize; 5],
}

impl Meter for Allocations {
    fn measure(&mut self, kind: Kind, calls: usize, work: impl FnOnce()) {
        self.counts[kind as usize] += measure(work).count_total;
        self.calls[kind as usize] += calls;
    }
}

#[test]
fn a_warm_core_allocates_nothing_for_beats_echoes_pings_and_timers() {
    for members in SIZES {
        // As many as make every kind of call occur; with 10,000 members each costs seconds in a debug build.
        let mut crew = Crew::warm(members, if members > 1_000 { 1 } else { 2 });
        let mut allocations = Allocations::default();
        for _ in 0..ROUNDS {
            crew.round(&mut allocations);
        }
        crew.assert_calm();
        assert_eq!(allocations.counts, [0; 5], "of {members} members, by kind: {allocations:?}");
        for kind in [Kind::Beat, Kind::Echo, Kind::Ping, Kind::Timer] {
            // With two members the beats carry the echoes, and only pings get one of their own.
            let expected = kind != Kind::Echo || members > 2;
            assert!(
                !expected || allocations.calls[kind as usize] >= ROUNDS / 4,
                "{kind:?} with {members}: {allocations:?}"
            );
        }
    }
}

/// The counter sees what it is there for: links that come up do allocate.
#[test]
fn a_cold_core_allocates() {
    let mut crew = Crew::new(8, 1);
    let mut allocations = Allocations::default();
    crew.round(&mut allocations);
    assert!(allocations.counts[Kind::Other as usize] > 0, "{allocations:?}");
    crew.round(&mut Unmetered);
    // So would a peer that is measured in the same way.
    assert!(measure(|| drop(FocaNode::new(8))).count_total > 0);
}
