//! Two members as the examples have them, and what is asked of them.

use std::time::Duration;

use super::{Bug, Fleet, ms, secs};

/// newyork (rank 5, may found) and sheffield (rank 10), with sheffield leading.
pub fn pair() -> Fleet {
    let mut f = Fleet::new(1, Bug::None);
    f.add("newyork", Fleet::spec(5, true));
    f.until(secs(9), "newyork leads alone", |f| f.running() == ["newyork"]);
    f.run(secs(2));
    f.add("sheffield", Fleet::spec(10, false));
    f.until(secs(10), "sheffield leads", |f| f.running() == ["sheffield"]);
    f.run(secs(3));
    settled(&mut f, "sheffield");
    f
}

pub fn settled(f: &mut Fleet, leader: &str) {
    f.check_quiet();
    if !f.violations.is_empty() || f.leaders().first().map(|n| n.name.as_str()) != Some(leader) {
        f.fail(&format!("{leader} should lead alone"));
    }
}

pub fn created(f: &Fleet) -> Vec<u32> {
    f.nodes.values().map(|n| n.payload.created).collect()
}

pub fn overlap(f: &mut Fleet, span: Duration) -> bool {
    let mut both = false;
    let end = f.now + span;
    while f.now < end {
        f.run(ms(20));
        both |= f.running().len() > 1;
    }
    both
}
