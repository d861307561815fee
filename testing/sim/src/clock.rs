//! Each host's own clock: virtual time, running a little faster or slower.

use flagship_types::Instant;

/// Nanoseconds of virtual time, the same for all.
pub(crate) type Nanos = u64;

/// Milliseconds as virtual time.
pub(crate) const fn ms(ms: u64) -> Nanos {
    ms * 1_000_000
}

/// A duration as virtual time.
pub(crate) fn nanos(duration: std::time::Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A boot-time clock.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    now: Stretch,
    /// Before the last change of its rate.
    before: Vec<Stretch>,
}

/// A time of one rate.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Both at its start.
    global: Nanos,
    local: Nanos,
    /// Local thousandths of a second per second.
    rate: u64,
}

impl Clock {
    /// A right clock that shows `local` at the start.
    pub(crate) fn new(local: Nanos) -> Self {
        Self { now: Stretch { global: 0, local, rate: 1000 }, before: Vec::new() }
    }

    /// From now on it runs faster by so many thousandths, or slower.
    pub(crate) fn set_rate(&mut self, permille: i32, now: Nanos) {
        let rate = u64::try_from(1000 + i64::from(permille)).unwrap_or(1).max(1);
        self.before.push(self.now);
        self.now = Stretch { global: now, local: self.now.local(now), rate };
    }

    /// What it shows.
    pub(crate) fn read(&self, now: Nanos) -> Instant {
        Instant::from_nanos(self.now.local(now))
    }

    /// When it will show, or did show, that. Rounded up.
    pub(crate) fn when(&self, shows: Instant) -> Nanos {
        let mut stretches = std::iter::once(&self.now).chain(self.before.iter().rev());
        let first = self.before.first().unwrap_or(&self.now);
        stretches.find(|stretch| stretch.local <= shows.as_nanos()).unwrap_or(first).when(shows)
    }
}

impl Stretch {
    fn local(&self, now: Nanos) -> Nanos {
        let passed = now - self.global;
        self.local + if self.rate == 1000 { passed } else { scale(passed, self.rate, 1000) }
    }

    fn when(&self, shows: Instant) -> Nanos {
        let ahead = shows.as_nanos().saturating_sub(self.local);
        if self.rate == 1000 {
            return self.global.saturating_add(ahead);
        }
        let up = (u128::from(ahead) * 1000).div_ceil(u128::from(self.rate));
        self.global.saturating_add(u64::try_from(up).unwrap_or(u64::MAX))
    }
}

fn scale(value: u64, by: u64, of: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(of)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_what_it_showed() {
        let mut clock = Clock::new(ms(500));
        clock.set_rate(50, ms(1_000));
        clock.set_rate(0, ms(2_000));
        for now in [ms(0), ms(400), ms(1_000), ms(3_000)] {
            let mut then = Clock::new(ms(500));
            if now >= ms(1_000) {
                then.set_rate(50, ms(1_000));
            }
            if now >= ms(2_000) {
                then.set_rate(0, ms(2_000));
            }
            assert_eq!(clock.when(then.read(now)), now);
        }
    }

    #[test]
    fn a_timer_of_a_drifting_clock_is_never_early() {
        for permille in [-50, -7, 0, 13, 50] {
            let mut clock = Clock::new(ms(500));
            clock.set_rate(permille, ms(3));
            for shows in (0..10_000_000_000).step_by(333_333_331) {
                let shows = clock.read(ms(4)) + std::time::Duration::from_nanos(shows);
                let when = clock.when(shows);
                assert!(clock.read(when) >= shows, "{permille}");
                assert!(clock.read(when - 2) < shows, "{permille}: late");
            }
        }
    }
}
