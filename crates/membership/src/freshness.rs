//! How old a beat can be at most, and how late one may be.

use std::time::Duration;

use flagship_types::Instant;

use crate::config::{RTT_CAP, RTT_PRIOR, SLACK_CAP, SLACK_FLOOR};

/// Sequence numbers kept per link. At one beat per interval and a few pings this is far more than the three
/// intervals after which an echo proves nothing.
const SENT_LOG: usize = 32;

/// When the newest frames on a link were sent.
#[derive(Debug)]
pub(crate) struct SentLog {
    sent: [Instant; SENT_LOG],
    last: u64,
}

impl SentLog {
    pub(crate) fn new() -> Self {
        Self { sent: [Instant::ZERO; SENT_LOG], last: 0 }
    }

    /// Takes the next sequence number for a frame that is sent now.
    pub(crate) fn stamp(&mut self, now: Instant) -> u64 {
        self.last += 1;
        self.sent[slot(self.last)] = now;
        self.last
    }

    /// When that number was sent; `None` if it never was or is forgotten.
    pub(crate) fn sent_at(&self, seq: u64) -> Option<Instant> {
        let known = seq > 0 && seq <= self.last && self.last - seq < SENT_LOG as u64;
        known.then(|| self.sent[slot(seq)])
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below SENT_LOG")]
fn slot(seq: u64) -> usize {
    (seq % SENT_LOG as u64) as usize
}

/// Lateness samples that slack looks back on.
const SAMPLES: usize = 64;

/// What is known of the way to one member: its round trip and how late its beats come.
#[derive(Debug)]
pub(crate) struct Freshness {
    lateness: [Duration; SAMPLES],
    next: usize,
    worst: Duration,
    rtt: Option<Duration>,
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self { lateness: [Duration::ZERO; SAMPLES], next: 0, worst: Duration::ZERO, rtt: None }
    }

    /// A young link has not yet shown its jitter: it begins with one sample of a tenth of the beat interval.
    pub(crate) fn begin(&mut self, beat_interval: Duration) {
        self.late_by(beat_interval / 10);
    }

    /// A beat came this long after one interval.
    pub(crate) fn late_by(&mut self, lateness: Duration) {
        let gone = std::mem::replace(&mut self.lateness[self.next], lateness);
        self.next = (self.next + 1) % SAMPLES;
        if lateness >= self.worst {
            self.worst = lateness;
        } else if gone == self.worst {
            self.worst = self.lateness.iter().copied().max().unwrap_or_default();
        }
    }

    /// A round trip was measured.
    pub(crate) fn round_trip(&mut self, sample: Duration) {
        let sample = sample.min(RTT_CAP);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// The smoothed round trip, if one was measured.
    pub(crate) fn measured_rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The smoothed round trip, or what is assumed before the first.
    pub(crate) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(RTT_PRIOR)
    }

    /// How long after one interval a beat may come before it is late (rule 3).
    pub(crate) fn slack(&self, beat_interval: Duration) -> Duration {
        let floor = SLACK_FLOOR.max(self.rtt() * 2).max(beat_interval / 10).min(SLACK_CAP);
        (self.worst * 3 / 2).clamp(floor, SLACK_CAP)
    }

    /// How young a proof must be to answer a query without a ping.
    pub(crate) fn fresh_enough(&self) -> Duration {
        SLACK_FLOOR.max(self.rtt() * 2)
    }

    /// The suspicion window on strong evidence (rule 4).
    pub(crate) fn strong_window(&self) -> Duration {
        SLACK_FLOOR.max(self.rtt() * 4).min(SLACK_CAP)
    }

    /// The suspicion window on silence, shortened by each independent accusation (rule 4).
    pub(crate) fn window(&self, beat_interval: Duration, accusers: usize) -> Duration {
        let strong = self.strong_window();
        let full = self.slack(beat_interval).max(self.rtt() * 8).clamp(strong, SLACK_CAP);
        strong + (full - strong) / (1 << accusers.min(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn slack_follows_the_worst_of_the_last_64() {
        let mut freshness = Freshness::new();
        freshness.round_trip(ms(40));
        assert_eq!(freshness.slack(H), ms(100));
        freshness.begin(H);
        assert_eq!(freshness.slack(H), ms(150));
        freshness.late_by(ms(600));
        assert_eq!(freshness.slack(H), ms(900));
        for _ in 0..63 {
            freshness.late_by(ms(40));
        }
        assert_eq!(freshness.slack(H), ms(900));
        freshness.late_by(ms(40));
        assert_eq!(freshness.slack(H), ms(100));
        freshness.late_by(ms(60_000));
        assert_eq!(freshness.slack(H), SLACK_CAP);
    }

    #[test]
    fn accusations_shorten_the_window_down_to_the_strong_one() {
        let mut freshness = Freshness::new();
        freshness.round_trip(ms(40));
        let windows: Vec<_> = (0..3).map(|n| freshness.window(H, n)).collect();
        assert_eq!(windows, [ms(320), ms(240), ms(200)]);
        assert!(freshness.window(H, 1_000) >= freshness.strong_window());
        freshness.round_trip(ms(60_000));
        assert!(freshness.window(H, 0) <= SLACK_CAP);
    }

    #[test]
    fn only_remembered_numbers_have_a_time() {
        let mut log = SentLog::new();
        assert_eq!(log.sent_at(0), None);
        for second in 1..=40 {
            assert_eq!(log.stamp(Instant::ZERO + H * second), u64::from(second));
        }
        assert_eq!(log.sent_at(40), Some(Instant::ZERO + H * 40));
        assert_eq!(log.sent_at(9), Some(Instant::ZERO + H * 9));
        assert_eq!((log.sent_at(8), log.sent_at(41), log.sent_at(u64::MAX)), (None, None, None));
    }
}
