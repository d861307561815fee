//! Giving a membership up in order: the lead first, then the payload, then the name. When each step is over is
//! decided here; the worker carries them out.

use std::time::Duration;

use flagship_node::{Directive, Snapshot, State};
use flagship_types::Role;
use tokio::time::Instant;

use crate::progress::Progress;

/// How long a daemon that was asked to hand over before it ends waits for that: below the 30 s that Kubernetes
/// gives a pod.
pub(crate) const HANDOVER_TIMEOUT: Duration = Duration::from_secs(25);
/// However long the stop grace is: before that much of the time is left, a planned stop is left to itself.
const LATEST_HURRY: Duration = Duration::from_secs(20);
/// How long a member that gave up the lead stays so that a successor hears the release: the time an old leader
/// would wait before it claims anew.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(3);
/// A member that is to be removed while nobody can say who leads waits this long, then deletes what runs here: it
/// will not be there to lead anyway.
const HOLD_PATIENCE: Duration = Duration::from_secs(60);

/// Why a member gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its object is being deleted.
    Removal,
    /// Its callsign was edited.
    OtherFleet,
    /// The daemon ends, and was configured to hand over first or must not leave its payload running.
    Shutdown,
}

/// A membership that is being given up.
#[derive(Debug)]
pub(crate) struct Departure {
    pub why: Why,
    since: Instant,
    was_leader: bool,
    /// Its node has only just joined: others are met yet.
    meets_heirs: bool,
    stopped_at: Option<Instant>,
    hurried: bool,
}

impl Departure {
    pub(crate) fn new(why: Why, role: Role, now: Instant) -> Self {
        let was_leader = matches!(role, Role::Leader | Role::Stopping);
        Self { why, since: now, was_leader, meets_heirs: false, stopped_at: None, hurried: false }
    }

    /// Of a daemon that ends and whose payload was stopped already: all that is left is to say so.
    pub(crate) fn of_stopped(now: Instant) -> Self {
        Self { meets_heirs: true, ..Self::new(Why::Shutdown, Role::Stopping, now) }
    }

    /// Mode Quorum: whether a planned stop has to become one at once, as the daemon ends before it would be over and
    /// nobody renews the lease then. True once.
    pub(crate) fn has_to_hurry(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        let is_stopping = matches!(snapshot.directive, Directive::Stop { .. });
        let left = HANDOVER_TIMEOUT.saturating_sub(now.duration_since(self.since));
        let has_to = self.why == Why::Shutdown
            && snapshot.quorum
            && is_stopping
            && left <= snapshot.stop_grace.min(LATEST_HURRY);
        has_to && !std::mem::replace(&mut self.hurried, true)
    }

    /// Whether the node may end now.
    pub(crate) fn is_over(&mut self, snapshot: &Snapshot, progress: &Progress, now: Instant) -> bool {
        let waited = now.duration_since(self.since);
        let leads = matches!(snapshot.role, Role::Leader | Role::Stopping);
        let clean =
            snapshot.directive == Directive::Absent && progress.settled && progress.inventory.is_empty();
        if leads || !clean {
            return match self.why {
                Why::Shutdown => waited >= HANDOVER_TIMEOUT,
                Why::Removal | Why::OtherFleet => {
                    snapshot.directive == Directive::Hold && waited >= HOLD_PATIENCE
                }
            };
        }
        let stopped_at = *self.stopped_at.get_or_insert(now);
        !self.was_leader
            || !(self.meets_heirs || has_heirs(snapshot))
            || snapshot.leader.as_ref().is_some_and(|leader| *leader != snapshot.member)
            || now.duration_since(stopped_at) >= SUCCESSOR_WAIT
    }
}

fn has_heirs(snapshot: &Snapshot) -> bool {
    snapshot
        .members
        .iter()
        .any(|member| member.name != snapshot.member && member.linked && member.state == State::Alive)
}

/// Whether somebody could take over right now.
pub(crate) fn can_hand_over(snapshot: &Snapshot) -> bool {
    let fit = |member: &flagship_node::MemberSnapshot| member.health.is_fit();
    let heirs = snapshot.members.iter().filter(|member| member.name != snapshot.member);
    heirs.into_iter().any(|member| member.linked && member.state == State::Alive && fit(member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{peer, snapshot};
    use flagship_types::Term;

    fn done() -> Progress {
        Progress { settled: true, ..Default::default() }
    }

    fn standby() -> Snapshot {
        Snapshot { role: Role::Standby, directive: Directive::Absent, leader: None, ..snapshot() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_leaves_at_once() {
        let now = Instant::now();
        let mut departure = Departure::new(Why::Removal, Role::Standby, now);
        assert!(departure.is_over(&standby(), &done(), now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_stays_until_its_payload_is_gone_and_somebody_follows() {
        let now = Instant::now();
        let mut departure = Departure::new(Why::Removal, Role::Leader, now);
        let hour = now + Duration::from_secs(3600);
        assert!(!departure.is_over(&snapshot(), &done(), hour), "it still leads");
        let mut after = standby();
        assert!(
            !departure.is_over(&after, &Progress::default(), hour),
            "its payload is not known to be gone"
        );
        after.members.push(peer("sheffield", State::Alive));
        assert!(!departure.is_over(&after, &done(), hour), "nobody has heard of the release yet");
        assert!(departure.is_over(&after, &done(), hour + SUCCESSOR_WAIT), "nobody wants it");
        after.leader = Some("sheffield".parse().unwrap());
        assert!(departure.is_over(&after, &done(), hour));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_unsettled_for_ever() {
        let now = Instant::now();
        let unsettled = Snapshot { role: Role::Joining, directive: Directive::Hold, ..snapshot() };
        let mut removal = Departure::new(Why::Removal, Role::Joining, now);
        assert!(!removal.is_over(&unsettled, &Progress::default(), now));
        assert!(removal.is_over(&unsettled, &Progress::default(), now + HOLD_PATIENCE));
        let mut shutdown = Departure::new(Why::Shutdown, Role::Leader, now);
        assert!(shutdown.is_over(&snapshot(), &Progress::default(), now + HANDOVER_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn in_quorum_a_planned_stop_hurries_before_the_daemon_ends() {
        let now = Instant::now();
        let stop = Directive::Stop { term: Term(7), reason: flagship_node::ResignReason::Operator };
        let mut stopping = Snapshot { role: Role::Stopping, directive: stop, ..snapshot() };
        let late = now + HANDOVER_TIMEOUT - stopping.stop_grace;
        let mut departure = Departure::new(Why::Shutdown, Role::Leader, now);
        assert!(!departure.has_to_hurry(&stopping, late), "in Availability it may run on");
        stopping.quorum = true;
        assert!(
            !departure.has_to_hurry(&stopping, late - Duration::from_millis(1)),
            "its pods have their time"
        );
        assert!(!departure.has_to_hurry(&Snapshot { config: stopping.config.clone(), ..standby() }, late));
        assert!(departure.has_to_hurry(&stopping, late));
        assert!(!departure.has_to_hurry(&stopping, late), "it was told");
        stopping.stop_grace = Duration::from_secs(3600);
        let mut removal = Departure::new(Why::Removal, Role::Leader, now);
        assert!(!removal.has_to_hurry(&stopping, late), "the daemon stays");
        let mut patient = Departure::new(Why::Shutdown, Role::Leader, now);
        assert!(!patient.has_to_hurry(&stopping, now), "not before it has begun");
    }

    #[test]
    fn an_unfit_standby_is_no_heir() {
        let mut snapshot = snapshot();
        assert!(!can_hand_over(&snapshot));
        let mut other = peer("sheffield", State::Alive);
        other.health = flagship_types::Health {
            api: true,
            payload_valid: false,
            payload_ready: false,
            gates: true,
            failed: false,
        };
        snapshot.members.push(other.clone());
        assert!(!can_hand_over(&snapshot));
        other.health.payload_valid = true;
        snapshot.members.push(other);
        assert!(can_hand_over(&snapshot));
    }
}
