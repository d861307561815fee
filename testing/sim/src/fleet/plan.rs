//! Faults, and random plans of them.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Something that goes wrong, or right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process ends; its host lives and refuses connections.
    Kill(usize),
    /// The process starts (again).
    Start(usize),
    /// SIGSTOP.
    Freeze(usize),
    /// SIGCONT.
    Thaw(usize),
    /// Drops everything from the first to the second, without a sound.
    Cut(usize, usize),
    /// Ends that.
    Heal(usize, usize),
    /// The API server stops answering.
    ApiDown(usize),
    /// It answers again.
    ApiUp(usize),
}

/// Faults in time, relative to the start of the plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// When, what.
    pub faults: Vec<(Duration, Fault)>,
}

impl Plan {
    /// Up to `episodes` random faults on `hosts` hosts, each ended again before the plan ends.
    pub fn random(hosts: usize, episodes: usize, rng: &mut impl Rng) -> Self {
        let mut faults = Vec::new();
        let mut at = Duration::from_secs(1);
        for _ in 0..episodes {
            at += Duration::from_millis(rng.random_range(100..8_000));
            let length = Duration::from_millis(
                *[300, 2_000, 4_500, 7_000, 15_000, 40_000].get(rng.random_range(0..6)).unwrap_or(&300),
            );
            let a = rng.random_range(0..hosts);
            let b = (a + rng.random_range(1..hosts)) % hosts;
            let pairs: Vec<(Fault, Fault)> = match rng.random_range(0..7) {
                0 | 1 => vec![(Fault::Kill(a), Fault::Start(a))],
                2 => vec![(Fault::Freeze(a), Fault::Thaw(a))],
                3 => vec![(Fault::Cut(a, b), Fault::Heal(a, b))],
                4 => vec![(Fault::ApiDown(a), Fault::ApiUp(a))],
                // The whole cluster cut off.
                _ => (0..hosts)
                    .filter(|other| *other != a)
                    .flat_map(|o| {
                        [(Fault::Cut(a, o), Fault::Heal(a, o)), (Fault::Cut(o, a), Fault::Heal(o, a))]
                    })
                    .collect(),
            };
            for (begin, end) in pairs {
                faults.push((at, begin));
                faults.push((at + length, end));
            }
        }
        faults.sort_by_key(|(at, _)| *at);
        Self { faults }
    }

    /// When the last fault ends.
    pub fn length(&self) -> Duration {
        self.faults.last().map_or(Duration::ZERO, |(at, _)| *at)
    }
}
