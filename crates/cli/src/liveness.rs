//! Whether a member's daemon still runs. What a dead one wrote last stands in its object for as long as nobody
//! starts it again, and is no news: it may say that it leads while another does.

use std::time::Duration;

use flagship_k8s_api::{MemberStatus, MultiClusterStatus, ObjectState};
use flagship_types::format_duration;
use jiff::Timestamp;

use crate::style::counted;

/// A daemon renews its Lease twice a second, and others may take it after 2 s; the rest is for clocks that differ
/// a little within one cluster.
const RENEWED_WITHIN: Duration = Duration::from_secs(3);

/// When a daemon last renewed its Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Just now.
    Recent,
    /// At that time, and that is too long ago.
    Old(Timestamp),
    /// The Lease is not there, or may not be read.
    Unknown,
}

impl Renewal {
    /// Both times by the clocks of one cluster.
    pub(crate) fn at(renewed: Timestamp, now: Timestamp) -> Self {
        let age = Duration::try_from(now.duration_since(renewed)).unwrap_or_default();
        if age <= RENEWED_WITHIN { Self::Recent } else { Self::Old(renewed) }
    }
}

/// A member of a fleet as it was found in its cluster.
#[derive(Clone, Copy)]
pub(crate) struct Witness<'a> {
    pub(crate) name: &'a str,
    pub(crate) status: Option<&'a MultiClusterStatus>,
    pub(crate) renewal: Renewal,
}

/// A daemon that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Its last sign of life, as far as known.
    pub(crate) since: Option<Timestamp>,
}

/// Whether the daemon of `one` is down, by its Lease and by what the others of its fleet say of it. Two members that
/// are only cut off from each other are both up: each renews its Lease, and each holds the other Down.
pub(crate) fn silence(one: &Witness<'_>, fleet: &[Witness<'_>]) -> Option<Silence> {
    let status = one.status?;
    let others = fleet.iter().filter(|other| other.name != one.name);
    // What a dead daemon says of others is no news, either.
    let others = others.filter(|other| !matches!(other.renewal, Renewal::Old(_)));
    let rows: Vec<(&str, &MemberStatus)> = others
        .flat_map(|other| {
            other.status.into_iter().flat_map(|status| &status.members).map(|row| (other.name, row))
        })
        .filter(|(_, row)| row.name == one.name)
        .collect();
    match one.renewal {
        Renewal::Recent => None,
        Renewal::Old(since) => {
            rows.iter().all(|(_, row)| row.state != "Alive").then_some(Silence { since: Some(since) })
        }
        Renewal::Unknown => {
            let newest = fleet.iter().filter_map(|other| other.status?.term).max();
            let behind = status.term < newest;
            // Somebody who is cut off says so; somebody who is dead still says what was true before.
            let hears = |name: &str| {
                status.members.iter().any(|member| member.name == name && member.state == "Alive")
            };
            let (_, row) = rows.iter().find(|(by, row)| row.state == "Down" && behind && hears(by))?;
            Some(Silence { since: row.since.as_ref().map(|time| time.0) })
        }
    }
}

/// What a dead daemon means.
pub(crate) fn explain(name: &str, status: &MultiClusterStatus, silence: Silence, now: Timestamp) -> String {
    let ago = silence
        .since
        .map(|since| format!(" (last sign of life {} ago)", age(now, since)))
        .unwrap_or_default();
    let left = status.inventory.iter().filter(|entry| entry.state != ObjectState::Pending).count();
    let payload = match left {
        0 => String::new(),
        left => format!("; {} of the payload may run there until it is back", counted(left, "object")),
    };
    format!("the daemon of {name} is down{ago}: what its status says is old{payload}")
}

/// How to start a daemon: what has to be typed depends on how it is run.
pub(crate) fn start(context: &str) -> String {
    format!(
        "Start it where it ran, with the flags it had: flagship run --kubeconfig FILE --tls-dir DIR; if it is a pod, \
         see: kubectl --context {context} -n kube-vip-multi-cluster-system get pods"
    )
}

/// Whole seconds: in a table that is drawn anew every second, tenths only flicker.
pub(crate) fn age(now: Timestamp, since: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(since.as_second());
    match u64::try_from(seconds).unwrap_or_default() {
        0 => "0s".into(),
        seconds => format_duration(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(term: i64, sees: &[(&str, &str)]) -> MultiClusterStatus {
        let row = |(name, state): &(&str, &str)| MemberStatus {
            name: (*name).into(),
            state: (*state).into(),
            ..MemberStatus::default()
        };
        let members = sees.iter().map(row).collect();
        MultiClusterStatus { term: Some(term), leading: true, members, ..MultiClusterStatus::default() }
    }

    fn dead(a: &(MultiClusterStatus, Renewal), b: &(MultiClusterStatus, Renewal)) -> (bool, bool) {
        let fleet = [
            Witness { name: "a", status: Some(&a.0), renewal: a.1 },
            Witness { name: "b", status: Some(&b.0), renewal: b.1 },
        ];
        (silence(&fleet[0], &fleet).is_some(), silence(&fleet[1], &fleet).is_some())
    }

    #[test]
    fn the_dead_are_told_from_those_that_are_cut_off() {
        let now: Timestamp = "2026-03-01T03:00:00Z".parse().unwrap();
        let at = |time: &str| Renewal::at(format!("2026-03-01T{time}Z").parse().unwrap(), now);
        let (recent, old, unknown) = (at("02:59:58"), at("02:59:50"), Renewal::Unknown);
        assert!(recent == Renewal::Recent && matches!(old, Renewal::Old(_)));
        // The API server's clock has whole seconds: a renewal may seem to be of the future.
        assert_eq!(at("03:00:01"), Renewal::Recent);
        let (killed, cut) = (|| status(7, &[("b", "Alive")]), || status(7, &[("b", "Down")]));
        let leader = || status(8, &[("a", "Down")]);
        assert_eq!(dead(&(killed(), old), &(leader(), recent)), (true, false));
        assert_eq!(dead(&(killed(), unknown), &(leader(), unknown)), (true, false));
        assert_eq!(dead(&(cut(), recent), &(leader(), recent)), (false, false));
        assert_eq!(dead(&(cut(), unknown), &(leader(), unknown)), (false, false));
        // It renewed just before it was killed, or it only cannot write: it is not called dead.
        assert_eq!(dead(&(killed(), recent), &(leader(), recent)), (false, false));
        assert_eq!(dead(&(killed(), old), &(status(7, &[("a", "Alive")]), recent)), (false, false));
        // Both were killed while each heard the other.
        assert_eq!(dead(&(killed(), old), &(status(7, &[("a", "Alive")]), old)), (true, true));
    }
}
