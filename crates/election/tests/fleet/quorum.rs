//! Fleets in mode Quorum.

use std::time::Duration;

use flagship_election::Spec;
use flagship_types::{FleetConfig, Mode};

use super::{Bug, Fleet, ms, name, secs};

pub fn config(voters: &[&str]) -> FleetConfig {
    let mut voters: Vec<_> = voters.iter().map(|v| name(v)).collect();
    voters.sort();
    FleetConfig { mode: Mode::Quorum, voters, ..FleetConfig::default() }
}

/// Three members with these proposals; a leads.
pub fn three(seed: u64, proposal: &FleetConfig) -> Fleet {
    let mut f = Fleet::new(seed, Bug::None);
    f.detect = ms(3200);
    for (n, rank) in [("a", 9), ("b", 5), ("c", 1)] {
        f.add(n, Spec { proposal: proposal.clone(), ..Fleet::spec(rank, true) });
    }
    f.until(secs(12), "a leads", |f| f.running() == ["a"]);
    f.run(secs(5));
    assert_eq!(f.running(), ["a"], "{:?}", f.violations);
    f
}

/// Runs, and fails as soon as two clusters have the payload.
pub fn run_alone(f: &mut Fleet, span: Duration) {
    let end = f.now + span;
    while f.now < end {
        f.run(ms(10));
        if f.running().len() > 1 {
            f.fail(&format!("two payloads: {:?}", f.running()));
        }
    }
    if !f.violations.is_empty() {
        f.fail("violations");
    }
}
