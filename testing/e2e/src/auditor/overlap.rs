//! Arithmetic on intervals: for how long two clusters had something at once, and for how long none had.

use std::fmt;
use std::time::{Duration, Instant};

use super::ledger::{Interval, Known, Presence};

/// For how long something was so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not at all.
    Never,
    /// For this long, at least.
    For(Duration),
    /// It was not seen, and may have been so for up to this long while a watch had a gap.
    Unknown(Duration),
}

impl Verdict {
    fn new(certain: Duration, possible: Duration) -> Self {
        match (certain.is_zero(), possible.is_zero()) {
            (false, _) => Self::For(certain),
            (true, true) => Self::Never,
            (true, false) => Self::Unknown(possible),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => write!(f, "never"),
            Self::For(time) => write!(f, "for {:.2} s", time.as_secs_f64()),
            Self::Unknown(time) => {
                write!(f, "unknown (a gap in a watch; at most {:.2} s)", time.as_secs_f64())
            }
        }
    }
}

/// What was alive where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Two clusters had objects of the payload.
    pub objects: Verdict,
    /// Two clusters had pods of it.
    pub pods: Verdict,
    /// Two clusters had objects or pods: also the one these and the other those.
    pub anything: Verdict,
    /// In all, no cluster had any object of it, from when one had for the first time.
    pub nobody: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "objects in two clusters {}; pods in two clusters {}; anything in two clusters {}; nothing anywhere for {:.2} s",
            self.objects,
            self.pods,
            self.anything,
            self.nobody.as_secs_f64()
        )
    }
}

/// Of what was alive in each cluster, between these two times.
pub(super) fn report(clusters: &[Presence], since: Instant, now: Instant) -> Report {
    let two = |of: fn(&Presence) -> Vec<&Known>| {
        let measure = |which: fn(&Known) -> &[Interval]| {
            let each = clusters.iter().map(|presence| {
                let all = of(presence).into_iter().flat_map(which).copied();
                merged(all, since, now)
            });
            held_by(2, &each.collect::<Vec<_>>())
        };
        Verdict::new(measure(|known| &known.certain), measure(|known| &known.possible))
    };
    let objects: Vec<_> = clusters
        .iter()
        .map(|presence| merged(presence.objects.certain.iter().copied(), since, now))
        .collect();
    let first = objects.iter().filter_map(|intervals| intervals.first()).map(|(from, _)| *from).min();
    let lived = first.map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
    Report {
        objects: two(|presence| vec![&presence.objects]),
        pods: two(|presence| vec![&presence.pods]),
        anything: two(|presence| vec![&presence.objects, &presence.pods]),
        nobody: lived.saturating_sub(held_by(1, &objects)),
    }
}

/// In order, apart from each other, and within these two times.
fn merged(
    intervals: impl Iterator<Item = Interval>,
    since: Instant,
    now: Instant,
) -> Vec<(Instant, Instant)> {
    let cut = |(from, to): Interval| (from.max(since), to.unwrap_or(now).min(now));
    let mut all: Vec<_> = intervals.map(cut).filter(|(from, to)| from < to).collect();
    all.sort();
    let mut apart: Vec<(Instant, Instant)> = Vec::new();
    for (from, to) in all {
        match apart.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => apart.push((from, to)),
        }
    }
    apart
}

/// For how long at least so many clusters had something. Each one's intervals are apart from each other.
fn held_by(least: usize, clusters: &[Vec<(Instant, Instant)>]) -> Duration {
    let edges = |(from, to): &(Instant, Instant)| [(*from, true), (*to, false)];
    let mut edges: Vec<(Instant, bool)> = clusters.iter().flatten().flat_map(edges).collect();
    edges.sort();
    let (mut total, mut held, mut last) = (Duration::ZERO, 0usize, None);
    for (at, begins) in edges {
        if held >= least {
            total += last.map_or(Duration::ZERO, |last| at - last);
        }
        held = if begins { held + 1 } else { held.saturating_sub(1) };
        last = Some(at);
    }
    total
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
