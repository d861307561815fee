//! How old a beat can be at most, and how late one may be.

use std::time::Duration;

use flagship_types::Instant;

use crate::config::{RTT_CAP, RTT_PRIOR, SLACK_CAP, SLACK_FLOOR};

/// Sequence numbers kept per link. At one beat per interval and a few pings this is far more than the three
/// intervals after which an echo proves nothing.
pub(crate) const SENT_LOG: usize = 32;

/// Echoes kept per link: one a beat, and one a round trip at most for who asks on behalf of others.
pub(crate) const ECHO_LOG: usize = 8;

/// When the newest frames on a link were sent, in units of 65 us and rounded down, so that nothing looks younger than
/// it is.
#[derive(Debug)]
pub(crate) struct SentLog<const N: usize> {
    sent: [u32; N],
    last: u64,
}

/// A unit is 2^16 ns; 32 bits of them begin anew after 78 hours, long after an entry has lost its meaning.
const UNIT_BITS: u32 = 16;

/// By how much a remembered time may be too early.
pub(crate) const ROUNDING: Duration = Duration::from_nanos(1 << UNIT_BITS);

#[allow(clippy::cast_possible_truncation, reason = "differences are taken modulo 2^32")]
fn units(at: Instant) -> u32 {
    (at.as_nanos() >> UNIT_BITS) as u32
}

impl<const N: usize> SentLog<N> {
    pub(crate) fn new() -> Self {
        Self { sent: [0; N], last: 0 }
    }

    /// Takes the next sequence number for a frame that is sent now.
    pub(crate) fn stamp(&mut self, now: Instant) -> u64 {
        self.note(self.last + 1, now);
        self.last
    }

    /// A frame that goes by that number is sent now. Numbers only grow; those left out keep an older time.
    pub(crate) fn note(&mut self, seq: u64, now: Instant) {
        self.last = seq;
        self.sent[Self::slot(seq)] = units(now);
    }

    #[allow(clippy::cast_possible_truncation, reason = "below N")]
    fn slot(seq: u64) -> usize {
        (seq % N as u64) as usize
    }

    /// When the newest was sent.
    pub(crate) fn newest(&self, now: Instant) -> Option<Instant> {
        self.sent_at(self.last, now)
    }

    /// When that number was sent; `None` if it never was or is forgotten.
    pub(crate) fn sent_at(&self, seq: u64, now: Instant) -> Option<Instant> {
        let known = seq > 0 && seq <= self.last && self.last - seq < N as u64;
        let ago = u64::from(units(now).wrapping_sub(self.sent[Self::slot(seq)]));
        known.then(|| Instant::from_nanos(((now.as_nanos() >> UNIT_BITS).saturating_sub(ago)) << UNIT_BITS))
    }
}

/// Lateness samples that slack looks back on.
const SAMPLES: u8 = 64;

/// What is known of the way to one member: its round trip and how late its beats come. Small, as there is one for
/// every link.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// In tenths of a millisecond, rounded up; more than [`SLACK_CAP`] makes no difference. Only for who is observed.
    lateness: Option<Box<[u16; SAMPLES as usize]>>,
    next: u8,
    worst: u16,
    /// A sample from before the first of this link, and for how many more it counts.
    prior: (u16, u8),
    /// In microseconds.
    rtt: Option<u32>,
    /// In microseconds, at least; from the beat interval.
    floor: u32,
}

/// A tenth of a millisecond.
const TENTH: Duration = Duration::from_micros(100);

fn tenths(lateness: Duration) -> u16 {
    let lateness = lateness.min(SLACK_CAP);
    let tenths =
        lateness.as_secs() * 10_000 + u64::from(lateness.subsec_nanos().div_ceil(TENTH.subsec_nanos()));
    u16::try_from(tenths).unwrap_or(u16::MAX)
}

fn micros(duration: Duration) -> u32 {
    // Not as_micros: its 128 bits cost as much as the rest.
    u32::try_from(duration.as_secs() * 1_000_000 + u64::from(duration.subsec_micros())).unwrap_or(u32::MAX)
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self { lateness: None, next: 0, worst: 0, prior: (0, 0), rtt: None, floor: micros(SLACK_FLOOR) }
    }

    /// A young link has not yet shown its jitter: it begins with one sample of a tenth of the beat interval, or of what
    /// this member's other links have shown.
    pub(crate) fn begin(&mut self, beat_interval: Duration, others: Duration) {
        self.prior = (tenths((beat_interval / 10).max(others)), SAMPLES);
        self.floor = micros(SLACK_FLOOR.max(beat_interval / 10));
    }

    /// A beat came this long after one interval.
    pub(crate) fn late_by(&mut self, lateness: Duration) {
        let lateness = tenths(lateness);
        let samples = self.lateness.get_or_insert_with(|| Box::new([0; SAMPLES as usize]));
        let gone = std::mem::replace(&mut samples[usize::from(self.next)], lateness);
        self.next = (self.next + 1) % SAMPLES;
        self.prior.1 = self.prior.1.saturating_sub(1);
        if lateness >= self.worst {
            self.worst = lateness;
        } else if gone == self.worst {
            self.worst = samples.iter().copied().max().unwrap_or_default();
        }
    }

    /// The worst lateness that is remembered.
    pub(crate) fn worst(&self) -> Duration {
        TENTH * u32::from(self.worst_tenths())
    }

    fn worst_tenths(&self) -> u16 {
        if self.prior.1 > 0 { self.worst.max(self.prior.0) } else { self.worst }
    }

    /// A round trip was measured.
    pub(crate) fn round_trip(&mut self, sample: Duration) {
        let sample = micros(sample.min(RTT_CAP));
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// The smoothed round trip, if one was measured.
    pub(crate) fn measured_rtt(&self) -> Option<Duration> {
        self.rtt.map(|us| Duration::from_micros(us.into()))
    }

    /// The smoothed round trip, or what is assumed before the first.
    pub(crate) fn rtt(&self) -> Duration {
        self.measured_rtt().unwrap_or(RTT_PRIOR)
    }

    /// How long after one interval a beat may come before it is late (rule 3).
    #[allow(clippy::cast_possible_truncation, reason = "constants of a few seconds")]
    pub(crate) fn slack(&self) -> Duration {
        const CAP: u32 = SLACK_CAP.as_micros() as u32;
        const PRIOR: u32 = RTT_PRIOR.as_micros() as u32;
        let floor = self.floor.max(self.rtt.unwrap_or(PRIOR) * 2).min(CAP);
        // One and a half times so many tenths of a millisecond.
        let slack = u32::from(self.worst_tenths()) * 150;
        Duration::from_micros(slack.clamp(floor, CAP).into())
    }

    /// By how much this way has been less steady than one without losses: zero up to twice the smallest slack.
    pub(crate) fn unsteadiness(&self) -> Duration {
        self.slack().saturating_sub(SLACK_FLOOR * 2)
    }

    /// How young a proof must be to answer a query without a ping.
    pub(crate) fn fresh_enough(&self) -> Duration {
        SLACK_FLOOR.max(self.rtt() * 2)
    }
}

/// The suspicion window on strong evidence (rule 4).
pub(crate) fn strong_window(rtt: Duration) -> Duration {
    SLACK_FLOOR.max(rtt * 4).min(SLACK_CAP)
}

/// The suspicion window on silence, shortened by each accusation beyond the first (rule 4).
pub(crate) fn window(rtt: Duration, slack: Duration, accusers: usize) -> Duration {
    let strong = strong_window(rtt);
    let full = slack.max(rtt * 8).clamp(strong, SLACK_CAP);
    strong + (full - strong) / (1 << accusers.saturating_sub(1).min(8))
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
        assert_eq!(freshness.slack(), ms(100));
        freshness.begin(H, Duration::ZERO);
        assert_eq!(freshness.slack(), ms(150));
        freshness.late_by(ms(600));
        assert_eq!(freshness.slack(), ms(900));
        for _ in 0..63 {
            freshness.late_by(ms(40));
        }
        assert_eq!(freshness.slack(), ms(900));
        freshness.late_by(ms(40));
        assert_eq!(freshness.slack(), ms(100));
        freshness.late_by(ms(60_000));
        assert_eq!(freshness.slack(), SLACK_CAP);
    }

    #[test]
    fn accusations_shorten_the_window_down_to_the_strong_one() {
        let windows: Vec<_> = (0..4).map(|n| window(ms(40), ms(100), n)).collect();
        assert_eq!(windows, [ms(320), ms(320), ms(240), ms(200)]);
        assert!(window(ms(40), ms(100), 1_000) >= strong_window(ms(40)));
        assert!(window(ms(60_000), ms(100), 0) <= SLACK_CAP);
    }

    #[test]
    fn only_remembered_numbers_have_a_time() {
        let mut log = SentLog::<SENT_LOG>::new();
        let at = |second: u32| Instant::ZERO + H * second;
        assert_eq!(log.sent_at(0, at(0)), None);
        for second in 1..=40 {
            assert_eq!(log.stamp(at(second)), u64::from(second));
        }
        for seq in [40, 9] {
            let (found, true_time) = (log.sent_at(seq, at(41)).unwrap(), at(u32::try_from(seq).unwrap()));
            assert!(found <= true_time && true_time.since(found) < Duration::from_micros(66), "{found:?}");
        }
        let unknown = [8, 41, u64::MAX].map(|seq| log.sent_at(seq, at(41)));
        assert_eq!(unknown, [None; 3]);
    }
}
