//! Replicas of one member: whether a second one can stop the payload in time when the first has died.

use std::time::Duration;

use flagship_types::quorum::{
    SELF_STOP_PERCENT, STOP_MARGIN, SUCCESSOR_WAIT_PERCENT, pods_time, self_stop_after, successor_wait,
};

use crate::settings::FieldError;
use crate::status::exact_duration;

/// How long a member's local Lease that is not renewed keeps other replicas out.
pub const LOCAL_LEASE: Duration = Duration::from_secs(2);
/// How often a replica renews its Lease, or looks whether it may take that of another.
pub const LOCAL_LEASE_POLL: Duration = Duration::from_millis(500);

/// Refuses a lease and a stop grace with which a second replica comes too late. The voters may have renewed the lease
/// right before the active replica died: then the other one takes the local Lease over, learns of nothing but that the
/// lease is not renewed either, and the payload's pods have to end, all before a successor may start.
pub(crate) fn check(lease: Duration, stop_grace: Duration) -> Result<(), FieldError> {
    let take_over = LOCAL_LEASE + LOCAL_LEASE_POLL;
    let (notice, pods) = (self_stop_after(lease), pods_time(stop_grace));
    let (needed, allowed) = (take_over + notice + pods, lease + successor_wait(stop_grace));
    if needed <= allowed {
        return Ok(());
    }
    let missing = needed - allowed;
    // Of a second more of the lease, what is above the self-stop's share is won; of one more of the stop grace, what the
    // successor waits beyond it.
    let longer_lease = lease + missing * 100 / (100 - SELF_STOP_PERCENT);
    let longer_grace = stop_grace + missing * 100 / (SUCCESSOR_WAIT_PERCENT - 100);
    let [take_over, notice, pods, needed, allowed, longer_lease, longer_grace] =
        [take_over, notice, pods, needed, allowed, longer_lease, longer_grace]
            .map(|time| exact_duration(rounded_up(time)));
    let [lease, stop_grace] = [lease, stop_grace].map(exact_duration);
    let message = format!(
        "with {lease} and spec.election.stopGrace {stop_grace} a second replica cannot stop the payload in time when the \
         first one dies: {take_over} to take the local Lease over + {notice} to notice ({SELF_STOP_PERCENT} % of \
         leaseDuration) + {pods} for the pods to end (stopGrace - {}) = {needed}, and another cluster starts after \
         {allowed} (leaseDuration + {SUCCESSOR_WAIT_PERCENT} % of stopGrace): raise leaseDuration to {longer_lease} or stopGrace to {longer_grace}",
        exact_duration(STOP_MARGIN)
    );
    Err(FieldError::new("spec.election.leaseDuration", message))
}

/// To the millisecond, so that what is shown would do.
fn rounded_up(time: Duration) -> Duration {
    time + Duration::from_nanos(999_999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ElectionSpec, Mode, MultiClusterSpec};

    fn checked(lease_ms: u64, stop_grace_ms: u64) -> Result<(), FieldError> {
        check(Duration::from_millis(lease_ms), Duration::from_millis(stop_grace_ms))
    }

    #[test]
    fn the_edge_is_where_both_sides_are_equal() {
        // 2.5 + 0.8 D + S - 2 = D + 1.05 S, so 0.5 = 0.2 D + 0.05 S.
        for (lease, stop_grace) in [(3_000, 10_000), (1_000, 6_000), (1_750, 3_000)] {
            assert_eq!(checked(lease, stop_grace), Ok(()), "{lease} {stop_grace}");
        }
        for (lease, stop_grace) in [(1_000, 5_999), (1_749, 3_000), (1_000, 3_000)] {
            assert!(checked(lease, stop_grace).is_err(), "{lease} {stop_grace}");
        }
    }

    #[test]
    fn the_refusal_shows_the_sum_and_what_would_do() {
        let error = checked(1_000, 3_000).unwrap_err();
        assert_eq!(error.path, "spec.election.leaseDuration");
        assert_eq!(
            error.message,
            "with 1s and spec.election.stopGrace 3s a second replica cannot stop the payload in time when the first one \
             dies: 2500ms to take the local Lease over + 800ms to notice (80 % of leaseDuration) + 1s for the pods to end \
             (stopGrace - 2s) = 4300ms, and another cluster starts after 4150ms (leaseDuration + 105 % of stopGrace): raise \
             leaseDuration to 1750ms or stopGrace to 6s"
        );
        assert_eq!(checked(1_750, 3_000), Ok(()));
        assert_eq!(checked(1_000, 6_000), Ok(()));
    }

    #[test]
    fn the_spec_is_refused_in_quorum_only() {
        let spec = |mode, voters: &[&str]| MultiClusterSpec {
            port: 9990,
            callsign: Some("federation".into()),
            election: ElectionSpec {
                mode,
                voters: voters.iter().map(ToString::to_string).collect(),
                lease_duration: Some("1s".into()),
                stop_grace: Some("3s".into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let wrong = spec(Some(Mode::Quorum), &["a", "b", "c"]).settings().unwrap_err();
        let paths: Vec<_> = wrong.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["spec.election.leaseDuration"]);
        assert!(spec(None, &[]).settings().is_ok(), "there is no lease to lose");
    }
}
