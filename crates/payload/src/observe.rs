//! Looking at what was applied: how it is, and what of it a lost status forgot.

use std::collections::BTreeSet;

use flagship_k8s_api::{MULTICLUSTER_LABEL, ObjectState};
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use crate::catalog::Catalog;
use crate::check::is_ours;
use crate::cluster::{Cluster, Tracker, side_by_side};
use crate::error::ApiError;
use crate::inventory::{Entry, Inventory};
use crate::object::{GroupKind, ObjectId};
use crate::plan::{Owner, Reach};
use crate::readiness::{Readiness, assess};

/// How the payload is as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Objects that are ready.
    pub ready: usize,
    /// All objects.
    pub total: usize,
    /// The first that is not ready yet, and why.
    pub waiting_for: Option<String>,
    /// The first that says itself that it has failed, and why.
    pub failed: Option<String>,
    /// Objects that are not there, are being deleted by somebody else, or were replaced: apply again.
    pub lost: Vec<ObjectId>,
}

impl Summary {
    /// Whether everything is there and ready.
    pub fn is_ready(&self) -> bool {
        self.ready == self.total
    }
}

impl Cluster {
    /// Reads every object of the tracker's inventory and sets its state there. What is being deleted keeps its state.
    pub async fn observe(&self, tracker: &Tracker) -> Result<Summary, ApiError> {
        let catalog = self.catalog().await?;
        let inventory = tracker.borrow().inventory.clone();
        let looked_at = inventory.iter().filter(|(_, entry)| entry.state != ObjectState::Deleting);
        let looks: Vec<_> = looked_at.map(|(id, entry)| self.look(&catalog, id, entry)).collect();
        let mut looks: Vec<_> = side_by_side(looks).await.into_iter().collect::<Result<_, _>>()?;
        looks.sort_by_key(|(id, ..)| *id);
        let mut summary = Summary { total: looks.len(), ..Summary::default() };
        let mut states = Vec::new();
        for (id, entry, live) in looks {
            let uid = live.as_ref().and_then(|live| live.metadata.uid.clone());
            let deleted = live.as_ref().is_some_and(|live| live.metadata.deletion_timestamp.is_some());
            if deleted || uid.as_ref() != Some(&entry.uid) {
                summary.lost.push(id.clone());
            }
            let readiness = match live {
                None => Readiness::InProgress("it is not there".into()),
                Some(live) => assess(&id.group_kind(), &serde_json::to_value(&live).unwrap_or(Value::Null)),
            };
            let state = match readiness {
                Readiness::Ready => {
                    summary.ready += 1;
                    ObjectState::Ready
                }
                Readiness::InProgress(why) => {
                    summary.waiting_for.get_or_insert_with(|| format!("{id}: {why}"));
                    if entry.state == ObjectState::Pending {
                        ObjectState::Pending
                    } else {
                        ObjectState::Applied
                    }
                }
                Readiness::Failed(why) => {
                    summary.failed.get_or_insert_with(|| format!("{id}: {why}"));
                    ObjectState::Failed
                }
            };
            if state != entry.state {
                states.push((id.clone(), state));
            }
        }
        let waiting_for = summary.failed.clone().or(summary.waiting_for.clone());
        tracker.send_if_modified(|progress| {
            let changed = !states.is_empty() || progress.waiting_for != waiting_for;
            states.drain(..).for_each(|(id, state)| progress.inventory.set_state(&id, state));
            progress.waiting_for = waiting_for;
            changed
        });
        Ok(summary)
    }

    async fn look<'a>(
        &self,
        catalog: &Catalog,
        id: &'a ObjectId,
        entry: &'a Entry,
    ) -> Result<(&'a ObjectId, &'a Entry, Option<DynamicObject>), ApiError> {
        let api = self.api(&resource_of(catalog, id, &entry.version), &id.namespace);
        Ok((id, entry, self.find(id, || api.get_opt(&id.name)).await?))
    }

    /// Finds what this MultiCluster applied, by label and field manager, among the given kinds (those of the payload
    /// and of the inventory): a status may be lost, objects are not.
    pub async fn discover_owned(
        &self,
        owner: &Owner,
        reach: Reach,
        kinds: &BTreeSet<GroupKind>,
    ) -> Result<Inventory, ApiError> {
        let catalog = self.catalog().await?;
        let label = owner.label();
        let selector = format!("{MULTICLUSTER_LABEL}={label}");
        let mut found = Inventory::default();
        // A kind that is not served has no objects.
        let served: Vec<_> = kinds.iter().filter_map(|kind| Some((kind, catalog.preferred(kind)?))).collect();
        let lists = served.iter().filter(|(_, known)| known.namespaced || reach.cross_namespace).map(
            |(kind, known)| {
                let everywhere = !known.namespaced || reach.cross_namespace;
                let namespace = if everywhere { "" } else { owner.namespace.as_str() };
                let selector = selector.as_str();
                async move {
                    (*kind, *known, self.list_metadata(&known.resource, namespace, Some(selector)).await)
                }
            },
        );
        for (kind, known, items) in side_by_side(lists.collect::<Vec<_>>()).await {
            let ours = items?.into_iter().filter(|item| is_ours(&item.metadata, &label));
            for metadata in ours.map(|item| item.metadata) {
                let id = ObjectId {
                    group: kind.group.clone(),
                    kind: kind.kind.clone(),
                    namespace: metadata.namespace.unwrap_or_default(),
                    name: metadata.name.unwrap_or_default(),
                };
                let deleting = metadata.deletion_timestamp.is_some();
                let state = if deleting { ObjectState::Deleting } else { ObjectState::Applied };
                let version = known.resource.version.clone();
                let (uid, generation) =
                    (metadata.uid.unwrap_or_default(), metadata.generation.unwrap_or_default());
                found.insert(id, Entry { version, uid, generation, state });
            }
        }
        Ok(found)
    }
}

/// How an object is addressed: in the version it was written in, else in the one the cluster prefers; for a kind
/// that is not served any more by the usual plural, so that the API server itself says that it is gone.
pub(crate) fn resource_of(catalog: &Catalog, id: &ObjectId, version: &str) -> ApiResource {
    let known = catalog.get(&id.group, version, &id.kind).or_else(|| catalog.preferred(&id.group_kind()));
    known.map(|known| known.resource.clone()).unwrap_or_else(|| {
        ApiResource::from_gvk(&GroupVersionKind {
            group: id.group.clone(),
            version: version.into(),
            kind: id.kind.clone(),
        })
    })
}
