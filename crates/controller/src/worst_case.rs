//! How long nobody leads at the most if the leader fails now: from the settings in force and from who is there.

use std::time::Duration;

use flagship_k8s_api::{Settings, WorstCaseStatus};
use flagship_node::{MemberSnapshot, Snapshot, State};
use flagship_types::quorum::{has_majority, successor_wait};
use flagship_types::{FleetConfig, MemberName, Mode, Role};

use crate::tenure::AWAY_GRACE;

/// The most that a beat may be late before it counts as missing.
const SLACK_CAP: Duration = Duration::from_secs(2);
/// The longest time in which who is suspected may answer.
const WINDOW_CAP: Duration = Duration::from_secs(2);
/// A round trip is reckoned with this, and longer ones in steps of it, so that the number does not flicker.
const RTT_STEP: Duration = Duration::from_millis(100);
/// The other observers are asked for two round trips and this.
const QUERY_EXTRA: Duration = Duration::from_millis(50);
/// What the election itself takes.
const ELECTION: Duration = Duration::from_secs(1);

/// What the time depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conditions {
    beat_interval: Duration,
    silence_floor: Duration,
    /// Longer than the configuration says while splits recur, as the floor is.
    restart_grace: Duration,
    /// Only one member watches the leader.
    one_observer: bool,
    rtt: Duration,
}

/// `None`: nobody would take over.
pub(crate) fn of(snapshot: &Snapshot, settings: &Settings) -> Option<WorstCaseStatus> {
    let leader = snapshot.leader.as_ref()?;
    let others: Vec<&MemberSnapshot> = (snapshot.members.iter())
        .filter(|member| member.name != *leader && matches!(member.state, State::Alive | State::Suspect))
        .collect();
    others.iter().find(|member| member.role != Some(Role::Witness))?;
    let is_left = |voter: &MemberName| others.iter().any(|other| other.name == *voter);
    if snapshot.config.mode == Mode::Quorum && !has_majority(&snapshot.config.voters, is_left) {
        return None;
    }
    let conditions = Conditions {
        beat_interval: settings.beat_interval,
        silence_floor: snapshot.silence_floor.max(settings.silence_floor),
        restart_grace: snapshot.restart_grace,
        one_observer: others.len() == 1,
        rtt: snapshot.members.iter().filter_map(|member| member.rtt).max().unwrap_or(RTT_STEP),
    };
    let crash = crash(conditions, &snapshot.config);
    Some(WorstCaseStatus { crash: seconds(crash), announced_restart: seconds(crash + AWAY_GRACE) })
}

/// From the leader's last beat to a new leader that may start its payload.
fn crash(conditions: Conditions, config: &FleetConfig) -> Duration {
    let Conditions { beat_interval, silence_floor, restart_grace, one_observer, rtt } = conditions;
    let late = if one_observer { SLACK_CAP.max(silence_floor) } else { SLACK_CAP };
    let steps = rtt.as_millis().div_ceil(RTT_STEP.as_millis()).max(1);
    let query = RTT_STEP * 2 * u32::try_from(steps).unwrap_or(u32::MAX) + QUERY_EXTRA;
    let elected = beat_interval + late + query + WINDOW_CAP + restart_grace + ELECTION;
    match config.mode {
        Mode::Availability => elected,
        Mode::Quorum => elected.max(config.lease) + successor_wait(config.stop_grace),
    }
}

/// Rounded up.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{peer, settings, snapshot};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const DEFAULTS: Conditions = Conditions {
        beat_interval: Duration::from_secs(1),
        silence_floor: Duration::from_secs(3),
        restart_grace: Duration::from_secs(3),
        one_observer: false,
        rtt: Duration::from_millis(20),
    };

    fn quorum() -> FleetConfig {
        let voters = ["newyork", "sheffield", "witness"].map(|name| name.parse().unwrap()).into();
        FleetConfig { mode: Mode::Quorum, voters, ..Default::default() }
    }

    #[test]
    fn as_worked_out_by_hand() {
        let available = FleetConfig::default();
        // 1 + 2 + 0.25 + 2 + 3 + 1.
        assert_eq!(crash(DEFAULTS, &available), ms(9_250));
        // 1 + 3 + 0.25 + 2 + 3 + 1.
        let alone = Conditions { one_observer: true, ..DEFAULTS };
        assert_eq!(crash(alone, &available), ms(10_250));
        // 0.5 + 2 + 0.25 + 2 + 0 + 1, the floor being below the slack.
        let quick = Conditions {
            beat_interval: ms(500),
            silence_floor: ms(100),
            restart_grace: Duration::ZERO,
            ..alone
        };
        assert_eq!(crash(quick, &available), ms(5_750));
        // Two round trips of 230 ms, taken for 300 ms, and 50 ms.
        assert_eq!(crash(Conditions { rtt: ms(230), ..DEFAULTS }, &available), ms(9_650));
        // max(9.25, 3) + 10.5.
        assert_eq!(crash(DEFAULTS, &quorum()), ms(19_750));
        // max(9.25, 30) + 21.
        let patient = FleetConfig { lease: ms(30_000), stop_grace: ms(20_000), ..quorum() };
        assert_eq!(crash(DEFAULTS, &patient), ms(51_000));
    }

    #[test]
    fn who_is_there_counts() {
        let mut fleet = snapshot();
        let says =
            |fleet: &Snapshot| of(fleet, &settings()).map(|worst| (worst.crash, worst.announced_restart));
        assert_eq!(says(&fleet), None, "nobody else");
        fleet.members.push(peer("sheffield", State::Alive));
        assert_eq!(says(&fleet), Some((11, 41)), "one observer, rounded up");
        fleet.members.push(peer("paris", State::Suspect));
        assert_eq!(says(&fleet), Some((10, 40)));
        fleet.members[2].state = State::Down;
        assert_eq!(says(&fleet), Some((11, 41)));
        // After a split the next failure is waited for longer: 1 + 6 + 0.25 + 2 + 6 + 1.
        (fleet.silence_floor, fleet.restart_grace) = (ms(6_000), ms(6_000));
        assert_eq!(says(&fleet), Some((17, 47)));
        fleet.leader = None;
        assert_eq!(says(&fleet), None, "nobody to fail");
    }

    #[test]
    fn without_a_majority_or_with_witnesses_only_nobody_takes_over() {
        let mut fleet = snapshot();
        let says = |fleet: &Snapshot| of(fleet, &settings()).map(|worst| worst.crash);
        fleet.config = quorum();
        let witness = MemberSnapshot { role: Some(Role::Witness), ..peer("witness", State::Alive) };
        fleet.members.push(witness);
        assert_eq!(says(&fleet), None, "a witness never leads");
        fleet.members.push(peer("sheffield", State::Alive));
        assert_eq!(says(&fleet), Some(20));
        fleet.members[1].state = State::Down;
        assert_eq!(says(&fleet), None, "one of three voters is no majority");
    }
}
