//! Watches the objects of a payload and says when one is not as it was applied, or says something new of itself.

use std::collections::{BTreeMap, BTreeSet};

use flagship_k8s_api::MULTICLUSTER_LABEL;
use flagship_payload::{Inventory, ObjectId, Plan};
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use kube::api::DynamicObject;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use tracing::debug;

/// What a watched object showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    /// Nothing new.
    Nothing,
    /// It changed, but not in what was applied: its status, say.
    Changed,
    /// It may not be as it was applied.
    Drifted,
}

/// One event, without the object's body.
enum Seen {
    Object {
        id: ObjectId,
        uid: String,
        generation: Option<i64>,
        version: String,
        deleted: bool,
    },
    /// All objects of one kind were listed anew.
    Listed {
        watch: usize,
    },
    Relisting {
        watch: usize,
    },
    Failed,
}

type Stream = SelectAll<BoxStream<'static, (usize, Seen)>>;

/// The watches on a payload's kinds. They go on while the payload is applied anew, so that nothing is missed.
pub(crate) struct Drift {
    /// The newest plan that was applied while these watches went on.
    plan: Plan,
    kinds: Vec<(ApiResource, Option<String>)>,
    events: Stream,
    /// The last version seen of each object: objects without a generation are judged by it. As many as the payload
    /// has objects, and what else carries its label.
    versions: BTreeMap<ObjectId, String>,
    /// What a list under way has shown so far, by watch.
    listing: BTreeMap<usize, BTreeSet<ObjectId>>,
}

impl Drift {
    /// Starts watching what a plan asks for.
    pub(crate) fn watch(client: &Client, plan: &Plan) -> Self {
        let kinds = plan.watch_kinds();
        let selector = format!("{MULTICLUSTER_LABEL}={}", plan.owner().label());
        let streams = kinds.iter().enumerate().map(|(watch, (resource, namespace))| {
            let api: Api<PartialObjectMeta<DynamicObject>> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
                None => Api::all_with(client.clone(), resource),
            };
            let config = watcher::Config::default().labels(&selector);
            let resource = resource.clone();
            let events = watch_objects(api, config).default_backoff();
            events.into_stream().map(move |event| (watch, seen(watch, &resource, event))).boxed()
        });
        let events = futures::stream::select_all(streams.collect::<Vec<_>>());
        Self { plan: plan.clone(), kinds, events, versions: BTreeMap::new(), listing: BTreeMap::new() }
    }

    /// Whether these watches are the right ones for a plan. If so, it is theirs from now on.
    pub(crate) fn take_over(&mut self, plan: &Plan) -> bool {
        let fits = self.kinds == plan.watch_kinds();
        if fits {
            self.plan = plan.clone();
        }
        fits
    }

    /// The plan whose objects are watched.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The next sight. Never ends; cancel by dropping.
    pub(crate) async fn next(&mut self, inventory: &Inventory) -> Sight {
        match self.events.next().await {
            Some((watch, seen)) => self.judge(watch, seen, inventory),
            // A payload that is watched has at least one kind, and its watch never ends.
            None => std::future::pending().await,
        }
    }

    fn judge(&mut self, watch: usize, seen: Seen, inventory: &Inventory) -> Sight {
        match seen {
            Seen::Failed => Sight::Nothing,
            Seen::Relisting { watch } => {
                self.listing.insert(watch, BTreeSet::new());
                Sight::Nothing
            }
            Seen::Listed { watch } => self.missing(watch, inventory),
            Seen::Object { id, uid, generation, version, deleted } => {
                if let Some(listing) = self.listing.get_mut(&watch) {
                    listing.insert(id.clone());
                }
                // Copies of the label on what controllers make (EndpointSlices) are none of ours.
                let Some(known) = inventory.get(&id) else { return Sight::Nothing };
                if deleted {
                    self.versions.remove(&id);
                    return Sight::Drifted;
                }
                let old = self.versions.insert(id.clone(), version.clone());
                if old.as_ref() == Some(&version) {
                    return Sight::Nothing;
                }
                let settled = match generation {
                    Some(_) => inventory.is_settled(&id, &uid, generation, false),
                    // Its first sight is what was just applied.
                    None => old.is_none() && known.uid == uid,
                };
                if settled { Sight::Changed } else { Sight::Drifted }
            }
        }
    }

    /// A list is complete: what it does not show was deleted while nobody watched.
    fn missing(&mut self, watch: usize, inventory: &Inventory) -> Sight {
        let (Some(listed), Some((resource, namespace))) =
            (self.listing.remove(&watch), self.kinds.get(watch))
        else {
            return Sight::Nothing;
        };
        let here = |id: &ObjectId| {
            let kind = id.group == resource.group && id.kind == resource.kind;
            kind && id.namespace == *namespace.as_deref().unwrap_or_default()
        };
        let lost = inventory.iter().any(|(id, _)| here(id) && !listed.contains(id));
        if lost { Sight::Drifted } else { Sight::Changed }
    }
}

fn seen(
    watch: usize,
    resource: &ApiResource,
    event: Result<Event<PartialObjectMeta<DynamicObject>>, watcher::Error>,
) -> Seen {
    let (object, deleted) = match event {
        Ok(Event::Init) => return Seen::Relisting { watch },
        Ok(Event::InitDone) => return Seen::Listed { watch },
        Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
        Ok(Event::Delete(object)) => (object, true),
        Err(error) => {
            debug!(kind = resource.kind, %error, "watch of the payload interrupted");
            return Seen::Failed;
        }
    };
    let metadata = object.metadata;
    let id = ObjectId {
        group: resource.group.clone(),
        kind: resource.kind.clone(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
    };
    Seen::Object {
        id,
        uid: metadata.uid.unwrap_or_default(),
        generation: metadata.generation,
        version: metadata.resource_version.unwrap_or_default(),
        deleted: deleted || metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use flagship_k8s_api::ObjectState;
    use flagship_payload::{Catalog, Entry, Owner, Reach};

    use super::*;

    fn id(kind: &str) -> ObjectId {
        ObjectId { group: String::new(), kind: kind.into(), namespace: "default".into(), name: "one".into() }
    }

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        for (kind, generation) in [("ConfigMap", 0), ("Counted", 3)] {
            let entry =
                Entry { version: "v1".into(), uid: "u".into(), generation, state: ObjectState::Applied };
            inventory.insert(id(kind), entry);
        }
        inventory
    }

    fn drift() -> Drift {
        let gvk = kube::core::GroupVersionKind::gvk("", "v1", "ConfigMap");
        let kinds = vec![(ApiResource::from_gvk(&gvk), Some("default".into()))];
        let owner = Owner { namespace: "default".into(), name: "newyork".into() };
        let plan = Plan::build(Vec::new(), &Catalog::default(), owner, Reach::default()).unwrap();
        Drift { plan, kinds, events: SelectAll::new(), versions: BTreeMap::new(), listing: BTreeMap::new() }
    }

    fn object(kind: &str, uid: &str, generation: Option<i64>, version: &str, deleted: bool) -> Seen {
        Seen::Object { id: id(kind), uid: uid.into(), generation, version: version.into(), deleted }
    }

    #[test]
    fn status_changes_are_no_drift_and_spec_changes_are() {
        let (mut drift, inventory) = (drift(), inventory());
        let mut judge = |seen| drift.judge(0, seen, &inventory);
        assert_eq!(judge(object("Counted", "u", Some(3), "1", false)), Sight::Changed);
        assert_eq!(judge(object("Counted", "u", Some(3), "2", false)), Sight::Changed);
        assert_eq!(judge(object("Counted", "u", Some(3), "2", false)), Sight::Nothing, "seen already");
        assert_eq!(judge(object("Counted", "u", Some(4), "3", false)), Sight::Drifted);
        assert_eq!(judge(object("Counted", "v", Some(3), "4", false)), Sight::Drifted, "replaced");
        assert_eq!(judge(object("Counted", "u", Some(3), "5", true)), Sight::Drifted, "deleted");
    }

    #[test]
    fn objects_without_generation_drift_with_every_change() {
        let (mut drift, inventory) = (drift(), inventory());
        let mut judge = |seen| drift.judge(0, seen, &inventory);
        assert_eq!(judge(object("ConfigMap", "u", None, "1", false)), Sight::Changed);
        assert_eq!(judge(object("ConfigMap", "u", None, "2", false)), Sight::Drifted);
        assert_eq!(judge(object("Secret", "u", None, "1", false)), Sight::Nothing, "not ours");
    }

    #[test]
    fn what_vanished_while_nobody_watched_is_missed() {
        let (mut drift, inventory) = (drift(), inventory());
        let mut judge = |seen| drift.judge(0, seen, &inventory);
        judge(Seen::Relisting { watch: 0 });
        judge(object("ConfigMap", "u", None, "1", false));
        assert_eq!(judge(Seen::Listed { watch: 0 }), Sight::Changed);
        judge(Seen::Relisting { watch: 0 });
        assert_eq!(judge(Seen::Listed { watch: 0 }), Sight::Drifted);
    }
}
