//! What was applied and is not known to be gone.

use std::collections::{BTreeMap, BTreeSet};

use flagship_k8s_api::{InventoryEntry, ObjectState};

use crate::object::{GroupKind, ObjectId};
use crate::plan::Plan;

/// What is known of one applied object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The API version it was written in.
    pub version: String,
    /// Its uid; empty if it was never seen.
    pub uid: String,
    /// Its generation when it was applied; 0 for kinds without one.
    pub generation: i64,
    /// How it is.
    pub state: ObjectState,
}

/// Everything that was applied and is not known to be gone. Bounded by
/// [`MAX_OBJECTS`](crate::MAX_OBJECTS) planned objects, plus what an earlier payload left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    entries: BTreeMap<ObjectId, Entry>,
}

impl Inventory {
    /// As the status has it.
    pub fn from_status(status: &[InventoryEntry]) -> Self {
        let entries = status.iter().map(|entry| {
            let InventoryEntry { group, version, kind, namespace, name, uid, generation, state } =
                entry.clone();
            (ObjectId { group, kind, namespace, name }, Entry { version, uid, generation, state })
        });
        Self { entries: entries.collect() }
    }

    /// For the status, always in the same order.
    pub fn to_status(&self) -> Vec<InventoryEntry> {
        let entries = self.entries.iter().map(|(id, entry)| {
            let ObjectId { group, kind, namespace, name } = id.clone();
            let Entry { version, uid, generation, state } = entry.clone();
            InventoryEntry { group, version, kind, namespace, name, uid, generation, state }
        });
        entries.collect()
    }

    /// Adds or replaces an entry.
    pub fn insert(&mut self, id: ObjectId, entry: Entry) {
        self.entries.insert(id, entry);
    }

    /// Removes an entry: the object is gone, or was never ours.
    pub fn remove(&mut self, id: &ObjectId) {
        self.entries.remove(id);
    }

    /// What is known of an object.
    pub fn get(&self, id: &ObjectId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// All entries, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectId, &Entry)> {
        self.entries.iter()
    }

    /// Sets the state of an entry, if there is one.
    pub fn set_state(&mut self, id: &ObjectId, state: ObjectState) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.state = state;
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The kinds of its objects.
    pub fn kinds(&self) -> BTreeSet<GroupKind> {
        self.entries.keys().map(ObjectId::group_kind).collect()
    }

    /// The ids of all its objects.
    pub fn ids(&self) -> Vec<ObjectId> {
        self.entries.keys().cloned().collect()
    }

    /// Takes in what was found in the cluster, which wins where both know an object. The state of a known object stays.
    pub fn unite(&mut self, found: &Self) {
        for (id, seen) in &found.entries {
            match self.entries.get_mut(id) {
                Some(known) => *known = Entry { state: known.state, ..seen.clone() },
                None => self.insert(id.clone(), seen.clone()),
            }
        }
    }

    /// What is here and not in the plan: to be pruned.
    pub fn not_in(&self, plan: &Plan) -> Vec<ObjectId> {
        let planned: BTreeSet<&ObjectId> = plan.objects().iter().map(|object| &object.id).collect();
        // One object may be served by two groups, as Ingress once was: it is the same one if its uid is.
        let kept = planned.iter().filter_map(|id| self.entries.get(id)).map(|entry| entry.uid.as_str());
        let kept: BTreeSet<&str> = kept.filter(|uid| !uid.is_empty()).collect();
        let stale = self
            .entries
            .iter()
            .filter(|(id, entry)| !planned.contains(id) && !kept.contains(entry.uid.as_str()));
        stale.map(|(id, _)| id.clone()).collect()
    }

    /// Whether an object seen on a watch is as it was applied, as far as uid, generation and deletion tell. Kinds
    /// without a generation never count as settled: check them against the plan. Status changes do not unsettle.
    pub fn is_settled(&self, id: &ObjectId, uid: &str, generation: Option<i64>, deleted: bool) -> bool {
        let same = |entry: &Entry| !deleted && entry.uid == uid && generation == Some(entry.generation);
        self.entries.get(id).is_some_and(same)
    }
}
