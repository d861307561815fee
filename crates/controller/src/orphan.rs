//! `spec.apply.deletionPolicy: Orphan`: whether a payload may stay behind when its object goes, and letting it stay.

use flagship_k8s_api::{DeletionPolicy, MultiCluster, MultiClusterStatus};
use flagship_node::{Directive, Snapshot, State};
use flagship_payload::Inventory;
use flagship_types::{MemberName, Role};
use tracing::{info, warn};

use crate::events::Notice;
use crate::happenings::Happening;
use crate::judge::objects;
use crate::member::known_members;
use crate::tenure::{RETRY, Tenure};
use crate::worker::End;

/// Names listed in one sentence; the members list has the rest.
const MAX_NAMED: usize = 5;
/// Why nothing is done while the payload is on its way.
const UNDER_WAY: &str = "the object is being deleted and spec.apply.deletionPolicy is Orphan, but the payload is just \
    moving to another member or is claimed by none: it is decided when one of them runs it, or set \
    spec.apply.deletionPolicy to Delete";

/// What follows from the deletion of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removal {
    /// The lead is given up, then the payload, then the name.
    Depart,
    /// The name is given up and the payload stays.
    Orphan,
    /// Nothing, for this reason.
    Blocked(String),
}

/// What becomes of a member whose object is being deleted and of whose payload so many objects are here. A payload that
/// stays behind and a fleet that goes on would be two payloads, so it stays only if nobody is left: members that are
/// down may come back, or lead behind a cut. And a payload that is about to start elsewhere is not there yet: who gives
/// up its name in the middle of a handover gives up the way back, too.
pub(crate) fn removal(policy: DeletionPolicy, snapshot: &Snapshot, here: usize) -> Removal {
    if policy == DeletionPolicy::Delete {
        return Removal::Depart;
    }
    let others = snapshot.members.iter().filter(|other| other.name != snapshot.member);
    let mut others: Vec<_> =
        others.filter(|other| other.state != State::Left).map(|other| other.name.clone()).collect();
    // Another process of this very name.
    others.extend(snapshot.name_in_use.then(|| snapshot.member.clone()));
    match &snapshot.directive {
        Directive::Run { .. } | Directive::Hold if others.is_empty() => Removal::Orphan,
        Directive::Run { .. } | Directive::Hold => Removal::Blocked(cannot_orphan(&others)),
        Directive::Absent if here == 0 && leads_elsewhere(snapshot) => Removal::Depart,
        Directive::Absent | Directive::Stop { .. } => Removal::Blocked(UNDER_WAY.to_owned()),
    }
}

/// Whether another member runs the payload, or is about to with nothing in its way.
fn leads_elsewhere(snapshot: &Snapshot) -> bool {
    let leader = snapshot.leader.as_ref().filter(|leader| **leader != snapshot.member);
    let leader = leader.and_then(|leader| snapshot.members.iter().find(|other| other.name == *leader));
    leader.is_some_and(|leader| leader.state == State::Alive && leader.role == Some(Role::Leader))
}

/// Why the payload cannot stay behind.
fn cannot_orphan(others: &[MemberName]) -> String {
    let mut names = others.iter().take(MAX_NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if others.len() > MAX_NAMED {
        names.push_str(&format!(" and {} more", others.len() - MAX_NAMED));
    }
    format!(
        "the object is being deleted and spec.apply.deletionPolicy is Orphan, but {names} could run the payload a second \
         time, so nothing is done: delete their MultiClusters first (a member that will not come back: flagship fleet \
         forget), or set spec.apply.deletionPolicy to Delete"
    )
}

/// Whether what is here stays when an object goes that takes part in no fleet. An error says why nothing is done yet.
pub(crate) fn keeps(
    object: &MultiCluster,
    status: &MultiClusterStatus,
    own: &MemberName,
    inventory: &Inventory,
) -> Result<bool, String> {
    if inventory.is_empty() || object.spec.apply.deletion_policy != Some(DeletionPolicy::Orphan) {
        return Ok(false);
    }
    if status.stopping.is_some() {
        return Err(UNDER_WAY.to_owned());
    }
    let others: Vec<_> = known_members(status, own).into_iter().map(|other| other.name).collect();
    if others.is_empty() { Ok(true) } else { Err(cannot_orphan(&others)) }
}

impl Tenure {
    /// Lets the object go and leaves the payload as it is.
    pub(crate) async fn release(&mut self) -> Option<End> {
        self.tell_orphaned(self.chronicle.inventory().len());
        let object = self.object.borrow().clone();
        match self.let_go(&object).await {
            Ok(()) => Some(End::Removed),
            Err(error) => {
                warn!(%error, "cannot take the finalizer off; it is tried again");
                self.wait(RETRY).await
            }
        }
    }

    pub(crate) fn tell_orphaned(&mut self, left: usize) {
        let note = format!(
            "the payload stays as it is ({}, spec.apply.deletionPolicy: Orphan); a MultiCluster of this namespace and \
             name will take it over again",
            objects(left)
        );
        info!(objects = left, "the payload stays, the object goes");
        self.chronicle.tell(Happening::new(Notice::normal("PayloadOrphaned", note)).event_only());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{peer, snapshot, spec};
    use flagship_types::Term;

    #[test]
    fn a_payload_stays_behind_only_if_nobody_could_run_it_a_second_time() {
        use DeletionPolicy::{Delete, Orphan};
        let mut leader = snapshot();
        assert_eq!(removal(Delete, &leader, 1), Removal::Depart);
        assert_eq!(removal(Orphan, &leader, 1), Removal::Orphan, "the last member");
        leader.members.push(peer("sheffield", State::Left));
        assert_eq!(removal(Orphan, &leader, 1), Removal::Orphan, "who left does not come back");
        for state in [State::Alive, State::Suspect, State::Away, State::Down] {
            leader.members.pop();
            leader.members.push(peer("sheffield", state));
            let Removal::Blocked(why) = removal(Orphan, &leader, 1) else { panic!("{state:?}") };
            assert!(why.contains("sheffield") && why.contains("deletionPolicy to Delete"), "{why}");
            assert_eq!(removal(Delete, &leader, 1), Removal::Depart);
        }
        leader.directive = Directive::Hold;
        for here in [0, 1] {
            // What is here may not have been found yet.
            assert!(
                matches!(removal(Orphan, &leader, here), Removal::Blocked(_)),
                "nobody can say who leads"
            );
        }
    }

    #[test]
    fn nothing_is_decided_while_the_payload_is_on_its_way() {
        let stop = Directive::Stop { term: Term(7), reason: flagship_node::ResignReason::Handover };
        let mut one = snapshot();
        one.directive = stop.clone();
        assert!(
            matches!(removal(DeletionPolicy::Orphan, &one, 1), Removal::Blocked(_)),
            "half of it is here"
        );
        assert_eq!(removal(DeletionPolicy::Delete, &one, 1), Removal::Depart);
        one.members.push(peer("sheffield", State::Alive));
        for here in [0, 1] {
            let blocked = removal(DeletionPolicy::Orphan, &one, here);
            assert!(matches!(blocked, Removal::Blocked(_)), "sheffield may give up instead of starting it");
        }
        // As the standby sees it: the other one stops, nobody runs it, somebody does.
        one.directive = Directive::Absent;
        one.leader = None;
        assert!(matches!(removal(DeletionPolicy::Orphan, &one, 0), Removal::Blocked(_)));
        one.leader = Some("sheffield".parse().unwrap());
        assert!(matches!(removal(DeletionPolicy::Orphan, &one, 0), Removal::Blocked(_)), "it leads no more");
        one.members[1].role = Some(Role::Leader);
        assert_eq!(removal(DeletionPolicy::Orphan, &one, 0), Removal::Depart);
        assert!(matches!(removal(DeletionPolicy::Orphan, &one, 1), Removal::Blocked(_)), "first this goes");
        one.members[1].state = State::Down;
        assert!(matches!(removal(DeletionPolicy::Orphan, &one, 0), Removal::Blocked(_)));
        one.members.pop();
        let last = removal(DeletionPolicy::Orphan, &one, 0);
        assert!(matches!(last, Removal::Blocked(_)), "it may have been here, and deleted for who left since");
    }

    #[test]
    fn without_a_fleet_the_status_says_who_else_there_is() {
        let mut object = MultiCluster::new("newyork", spec());
        let own = "newyork".parse().unwrap();
        let entry =
            serde_json::from_value(serde_json::json!({"group": "", "version": "v1", "kind": "ConfigMap",
            "namespace": "default", "name": "web", "uid": "u", "generation": 1, "state": "Ready"}));
        let some = Inventory::from_status(&[entry.unwrap()]);
        let mut status = MultiClusterStatus::default();
        assert_eq!(keeps(&object, &status, &own, &some), Ok(false), "the default is to delete");
        object.spec.apply.deletion_policy = Some(DeletionPolicy::Orphan);
        assert_eq!(keeps(&object, &status, &own, &some), Ok(true));
        let member = |name: &str, state: &str| flagship_k8s_api::MemberStatus {
            name: name.into(),
            state: state.into(),
            ..Default::default()
        };
        status.members = vec![member("newyork", "Alive"), member("sheffield", "Left")];
        assert_eq!(keeps(&object, &status, &own, &some), Ok(true));
        status.stopping = Some(7);
        assert!(keeps(&object, &status, &own, &some).is_err(), "half of it is deleted");
        status.stopping = None;
        status.members.push(member("denver", "Down"));
        assert!(keeps(&object, &status, &own, &some).unwrap_err().contains("denver"));
        assert_eq!(keeps(&object, &status, &own, &Inventory::default()), Ok(false), "nothing could stay");
    }
}
