//! Whether a member's daemon still runs. What a dead one wrote last stands in its object for as long as nobody
//! starts it again, and is no news: it may say that it leads while another does.

use std::time::Duration;

use flagship_k8s_api::{MemberStatus, MultiClusterStatus, ObjectState};
use flagship_types::format_duration;
use jiff::Timestamp;

use crate::leases::HOME;
use crate::style::counted;

/// What the Lease of a daemon tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It is renewed by the process that wrote the status.
    Recent,
    /// It is not renewed any more; last at that time, by the daemon's clock.
    Old(Option<Timestamp>),
    /// Its holder gave it up, as at an orderly stop; renewed last at that time.
    Stopped(Option<Timestamp>),
    /// Another process renews it than the one that wrote the status.
    TakenOver,
    /// The Lease is not there, or may not be read, or is not known to be the daemon's.
    Unknown,
}

/// Whether a Lease is renewed, as far as it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It is.
    Renewed,
    /// Nobody knows yet: it has to be looked at again.
    Open,
    /// It did not change for longer than it is held without that.
    Expired,
}

/// A Lease as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) namespace: String,
    /// Empty: nobody holds it.
    pub(crate) holder: String,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) sign: Sign,
}

/// What the Leases of a member tell, whose status `holder` wrote. Unless they were looked for everywhere, one of another
/// holder may have been left behind, and the daemon keep its own elsewhere. `None`: they must be looked at again.
pub(crate) fn judge(readings: &[Reading], holder: Option<&str>, everywhere: bool) -> Option<Renewal> {
    let held = || readings.iter().filter(|reading| !reading.holder.is_empty());
    let renewed = || held().filter(|reading| reading.sign == Sign::Renewed);
    if renewed().any(|reading| holder.is_none_or(|holder| holder == reading.holder)) {
        return Some(Renewal::Recent);
    }
    if held().any(|reading| reading.sign == Sign::Open) {
        return None;
    }
    if renewed().next().is_some() {
        return Some(Renewal::TakenOver);
    }
    let newest = readings.iter().max_by_key(|reading| reading.renewed).filter(|_| everywhere);
    let own = held().find(|reading| Some(reading.holder.as_str()) == holder);
    Some(match newest.or(own) {
        None => Renewal::Unknown,
        Some(lease) if lease.holder.is_empty() => Renewal::Stopped(lease.renewed),
        Some(lease) => Renewal::Old(lease.renewed),
    })
}

/// A member of a fleet as it was found in its cluster.
#[derive(Clone, Copy)]
pub(crate) struct Witness<'a> {
    pub(crate) name: &'a str,
    pub(crate) status: Option<&'a MultiClusterStatus>,
    pub(crate) renewal: Renewal,
}

impl<'a> Witness<'a> {
    /// What it says of others, unless that is known to be old.
    fn word(&self) -> Option<&'a MultiClusterStatus> {
        self.status.filter(|_| matches!(self.renewal, Renewal::Recent | Renewal::Unknown))
    }
}

/// Why a status is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its daemon is down, or cannot write: the two look alike from here.
    Lost {
        /// Others of its fleet were asked, and none hears it.
        unheard: bool,
    },
    /// Its daemon stopped in order.
    Stopped,
    /// Another process serves the member now, and did not write yet.
    TakenOver,
}

/// A daemon whose status is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Its last sign of life, as far as known.
    pub(crate) since: Option<Timestamp>,
    pub(crate) cause: Cause,
}

impl Silence {
    /// Whether it may be that the daemon runs and leads: it said so last, and nobody knows better.
    pub(crate) fn may_lead(self, status: &MultiClusterStatus) -> bool {
        matches!(self.cause, Cause::Lost { .. }) && says_it_leads(status)
    }
}

/// Whether a member leads by its own account.
pub(crate) fn says_it_leads(status: &MultiClusterStatus) -> bool {
    status.leading || status.role.as_deref() == Some("Leader")
}

/// Whether an operator declared `name` gone, by the word of this member. A word about a member that came back is taken
/// back by those that hear it.
pub(crate) fn forgot(status: &MultiClusterStatus, name: &str) -> bool {
    status.forgotten.iter().any(|forgotten| forgotten == name)
        && !status.members.iter().any(|row| row.name == name && row.state == "Alive")
}

/// Whether the status of `one` is old, by its Lease and by what the others of its fleet say of it. Two members that
/// are only cut off from each other are both up: each renews its Lease, and each holds the other Down.
pub(crate) fn silence(one: &Witness<'_>, fleet: &[Witness<'_>]) -> Option<Silence> {
    let status = one.status?;
    let others = || {
        fleet
            .iter()
            .filter(|other| other.name != one.name)
            .filter_map(|other| Some((other.name, other.word()?)))
    };
    let row =
        |status: &'_ MultiClusterStatus| status.members.iter().find(|row| row.name == one.name).cloned();
    match one.renewal {
        Renewal::Recent => None,
        Renewal::TakenOver => Some(Silence { since: None, cause: Cause::TakenOver }),
        Renewal::Stopped(since) => Some(Silence { since, cause: Cause::Stopped }),
        Renewal::Old(since) => {
            let rows: Vec<MemberStatus> = others().filter_map(|(_, status)| row(status)).collect();
            let heard = rows.iter().any(|row| row.state == "Alive");
            let unheard = !rows.is_empty() || others().any(|(_, status)| forgot(status, one.name));
            (!heard).then_some(Silence { since, cause: Cause::Lost { unheard } })
        }
        Renewal::Unknown => {
            let newest = fleet.iter().filter_map(|other| other.status?.term).max();
            // Somebody who is cut off says so; somebody who is dead still says what was true before.
            let hears =
                |name: &str| status.members.iter().any(|row| row.name == name && row.state == "Alive");
            let since = others().filter(|(by, _)| hears(by)).find_map(|(_, other)| {
                let down = row(other).filter(|row| row.state == "Down");
                let since = down.as_ref().and_then(|row| row.since.as_ref()).map(|time| time.0);
                // A member that was forgotten has no row any more.
                (down.is_some() || forgot(other, one.name)).then_some(since)
            });
            let since = since.filter(|_| status.term < newest)?;
            Some(Silence { since, cause: Cause::Lost { unheard: true } })
        }
    }
}

/// Objects of the payload that were applied and are not known to be gone.
pub(crate) fn left_behind(status: &MultiClusterStatus) -> usize {
    status.inventory.iter().filter(|entry| entry.state != ObjectState::Pending).count()
}

/// What a status that is no news means.
pub(crate) fn explain(name: &str, status: &MultiClusterStatus, silence: Silence, now: Timestamp) -> String {
    let what = match silence.cause {
        Cause::TakenOver => {
            return format!(
                "another process takes over the daemon's work for {name}: its status is still that of the one before"
            );
        }
        Cause::Stopped => "was stopped",
        Cause::Lost { unheard: false } => "is down, or cut off from its API server",
        Cause::Lost { unheard: true } => "is down, or cut off from its API server and from the others",
    };
    let ago = silence
        .since
        .map(|since| format!(" (last sign of life {} ago)", age(now, since)))
        .unwrap_or_default();
    let left = left_behind(status);
    let objects = counted(left, "object");
    let place = match silence.cause {
        Cause::Lost { unheard: true } => "in both clusters",
        _ => "there",
    };
    let payload = match (silence.may_lead(status), left) {
        (true, 0) => format!(". It led and MAY STILL LEAD: its payload may run {place}"),
        (true, _) => format!(". It led and MAY STILL LEAD: its payload ({objects}) may run {place}"),
        (false, 0) => String::new(),
        (false, _) => format!("; {objects} of the payload may run there until it is back"),
    };
    format!("the daemon of {name} {what}{ago}: what its status says is old{payload}")
}

/// What to do about it.
pub(crate) fn next(silence: Silence, kubectl: &str) -> String {
    match silence.cause {
        Cause::TakenOver => "Look again in a few seconds".into(),
        Cause::Stopped => start(kubectl),
        Cause::Lost { .. } => {
            format!(
                "If it runs, mend its network (its log says what it does not reach); if not, start it {}",
                how(kubectl)
            )
        }
    }
}

/// How to start a daemon.
pub(crate) fn start(kubectl: &str) -> String {
    format!("Start it {}", how(kubectl))
}

/// What has to be typed depends on how it is run.
fn how(kubectl: &str) -> String {
    format!(
        "where it ran, with the flags it had: flagship run --kubeconfig FILE --tls-dir DIR; if it is a pod, see: \
         {kubectl} -n {HOME} get pods"
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
#[path = "liveness_tests.rs"]
mod tests;
