//! What is measured, and by what.

use std::time::{Duration, Instant};

/// A kind of call into the core, its codec included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The core observes: a beat's bytes come in, the bytes of its echo go out.
    Beat,
    /// The core is a subject: the bytes of its beat's echo come in.
    Echo,
    /// The bytes of a ping come in, those of its echo go out.
    Ping,
    /// A timer: the bytes of a beat go out, or nothing is due.
    Timer,
    /// All else: links that come up, and what is said then. Not seen once warm.
    Other,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Beat, Self::Echo, Self::Ping, Self::Timer, Self::Other];
}

/// Measures calls.
pub trait Meter {
    /// Runs `work`, which makes that many calls of one kind.
    fn measure(&mut self, kind: Kind, calls: usize, work: impl FnOnce());
}

/// Measures nothing.
#[derive(Debug, Default)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn measure(&mut self, _: Kind, _: usize, work: impl FnOnce()) {
        work();
    }
}

/// Fewer calls than this are not measured for the figure: reading the clock would be a part of it.
const ENOUGH: usize = 8;

/// Measures time. Reading the clock takes as long as a part of a beat, so calls are measured by the dozen and the
/// reading is taken off; and the median of all dozens is the figure, as on a machine with other work to do every so
/// many of them contain a pause of milliseconds.
#[derive(Debug)]
pub struct Stopwatch {
    /// Nanoseconds per call of each batch.
    nanos: [Vec<f64>; 5],
    calls: [usize; 5],
    reading: Duration,
}

impl Stopwatch {
    /// A stopwatch that knows how long it takes to read the clock.
    pub fn new() -> Self {
        let mut readings: Vec<Duration> = (0..1_000).map(|_| Instant::now().elapsed()).collect();
        let reading = *readings.select_nth_unstable(500).1;
        Self { nanos: Default::default(), calls: [0; 5], reading }
    }

    /// Calls of one kind.
    pub fn calls(&self, kind: Kind) -> usize {
        self.calls[kind as usize]
    }

    /// What a call of one kind takes, in ns; 0 if there was none.
    pub fn nanos(&self, kind: Kind) -> f64 {
        let mut nanos = self.nanos[kind as usize].clone();
        let middle = nanos.len() / 2;
        if nanos.is_empty() { 0.0 } else { *nanos.select_nth_unstable_by(middle, f64::total_cmp).1 }
    }
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter for Stopwatch {
    fn measure(&mut self, kind: Kind, calls: usize, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        let spent = start.elapsed().saturating_sub(self.reading);
        self.calls[kind as usize] += calls;
        if calls >= ENOUGH {
            self.nanos[kind as usize].push(spent.as_secs_f64() * 1e9 / calls as f64);
        }
    }
}
