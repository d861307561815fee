//! The one place that reads clocks: CLOCK_BOOTTIME for the cores, the wall clock beside it to notice pauses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flagship_types::Instant;
use nix::time::{ClockId, clock_gettime};

/// Now, on the clock that goes on while the machine sleeps.
pub fn boot_now() -> Instant {
    // CLOCK_BOOTTIME exists since Linux 2.6.39 and macOS has no such clock; its monotonic clock is the next best.
    #[cfg(target_os = "linux")]
    let id = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let id = ClockId::CLOCK_MONOTONIC;
    let time = clock_gettime(id).expect("the clock id is supported on this platform");
    Instant::from_nanos(Duration::from(time).as_nanos().try_into().unwrap_or(u64::MAX))
}

/// Milliseconds since the Unix epoch, by the wall clock.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Notices that the process was not running: late timers, or a wall clock that went another way than the boot clock.
#[derive(Debug)]
pub struct PauseDetector {
    boot: Instant,
    wall_ms: u64,
}

impl PauseDetector {
    /// Starts now.
    pub fn new(boot: Instant, wall_ms: u64) -> Self {
        Self { boot, wall_ms }
    }

    /// Called at every turn of the loop with both clocks and the time at which the loop had meant to run at the
    /// latest. Returns how long was missed, if that is more than what is tolerated.
    pub fn observe(
        &mut self,
        (boot, wall_ms): (Instant, u64),
        due: Instant,
        tolerated: Duration,
    ) -> Option<Duration> {
        let ran = boot.since(self.boot);
        let wall = Duration::from_millis(wall_ms.saturating_sub(self.wall_ms));
        let back = Duration::from_millis(self.wall_ms.saturating_sub(wall_ms));
        let apart = wall.abs_diff(ran).max(back);
        let late = boot.since(due);
        (self.boot, self.wall_ms) = (boot, wall_ms);
        let missed = apart.max(late);
        (missed > tolerated).then_some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_loop_in_time_is_no_pause() {
        let mut detector = PauseDetector::new(at(0), 1_000_000);
        assert_eq!(detector.observe((at(250), 1_000_251), at(250), SECOND), None);
        assert_eq!(
            detector.observe((at(1_400), 1_001_400), at(500), SECOND),
            None,
            "0.9 s late is tolerated"
        );
    }

    #[test]
    fn a_late_timer_is_a_pause() {
        let mut detector = PauseDetector::new(at(0), 1_000_000);
        assert_eq!(
            detector.observe((at(10_000), 1_010_000), at(250), SECOND),
            Some(Duration::from_millis(9_750))
        );
        assert_eq!(detector.observe((at(10_100), 1_010_100), at(10_250), SECOND), None, "told once");
    }

    #[test]
    fn clocks_that_diverge_are_a_pause() {
        let mut forward = PauseDetector::new(at(0), 1_000_000);
        assert_eq!(forward.observe((at(250), 1_005_250), at(250), SECOND), Some(Duration::from_secs(5)));
        let mut backward = PauseDetector::new(at(0), 1_000_000);
        assert!(backward.observe((at(250), 990_000), at(250), SECOND).is_some());
    }
}
