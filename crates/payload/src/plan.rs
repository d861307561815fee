//! What to apply and in which order, decided from the manifests and the cluster's kinds alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flagship_k8s_api::{APPLIED_ANNOTATION, MULTICLUSTER_LABEL, TERM_ANNOTATION, owner_label};
use flagship_types::Term;
use kube::core::ApiResource;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::catalog::{Catalog, defined_by};
use crate::object::{GroupKind, Manifest, ObjectId, Place};

/// The MultiCluster whose payload it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Owner {
    /// The value of the label on everything it applies.
    pub fn label(&self) -> String {
        owner_label(&self.namespace, &self.name)
    }
}

/// What a plan may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Objects of other namespaces than the MultiCluster's and of no namespace are allowed (`--allow-cross-namespace`).
    pub cross_namespace: bool,
}

/// When an object is applied. Deleting goes the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// What others live in or are instances of.
    Foundation,
    /// What workloads need: everything else.
    Support,
    /// What runs.
    Workload,
    /// What judges later writes: it would judge the payload itself while its own server does not run yet.
    Webhook,
}

impl Stage {
    /// All, in the order of applying.
    pub const ALL: [Self; 4] = [Self::Foundation, Self::Support, Self::Workload, Self::Webhook];

    /// The stage of a kind.
    pub fn of(kind: &GroupKind) -> Self {
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("apiextensions.k8s.io", "CustomResourceDefinition") | ("", "Namespace") => Self::Foundation,
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => Self::Workload,
            ("batch", "Job" | "CronJob") | ("", "Pod" | "ReplicationController") => Self::Workload,
            ("admissionregistration.k8s.io", _) | ("apiregistration.k8s.io", "APIService") => Self::Webhook,
            _ => Self::Support,
        }
    }
}

/// Whether objects of a kind may own something that runs and cannot be listed: custom resources, which only their own
/// controllers understand. The groups of Kubernetes itself have no dot or end in `.k8s.io`; what those own is known.
pub(crate) fn owns_the_unknown(kind: &GroupKind) -> bool {
    kind.group.contains('.') && !kind.group.ends_with(".k8s.io")
}

/// An object with everything that is needed to write it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedObject {
    /// Which.
    pub id: ObjectId,
    /// How its kind is addressed.
    pub resource: ApiResource,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
    /// When.
    pub stage: Stage,
    /// Where it stands in the payload.
    pub place: Place,
    hash: String,
    body: Map<String, Value>,
}

impl PlannedObject {
    /// Of what the payload says of it, whatever the term; stands in its annotation.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    /// The object as it is written under a term: the user's, with namespace, label and annotations.
    pub fn body(&self, term: Term) -> Value {
        let mut body = self.body.clone();
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            put(metadata, "annotations", TERM_ANNOTATION, term.to_string());
        }
        Value::Object(body)
    }
}

fn put(metadata: &mut Map<String, Value>, map: &str, key: &str, value: String) {
    let entry = metadata.entry(map).or_insert(Value::Null);
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(key.into(), value.into());
    }
}

/// Why an object cannot be part of the plan. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// The cluster does not know it.
    #[error("{place}: this cluster serves no kind {kind} in {api_version}: {hint}")]
    UnknownKind {
        /// Where.
        place: Place,
        /// The apiVersion asked for.
        api_version: String,
        /// The kind asked for.
        kind: String,
        /// What to do.
        hint: String,
    },
    /// It lives elsewhere than the MultiCluster.
    #[error(
        "{place}: {id} is not in the MultiCluster's namespace {own}: remove its namespace, or start flagship with --allow-cross-namespace"
    )]
    OtherNamespace {
        /// Where.
        place: Place,
        /// Which.
        id: ObjectId,
        /// The MultiCluster's namespace.
        own: String,
    },
    /// It lives in no namespace.
    #[error(
        "{place}: {id} is cluster-scoped, which counts as another namespace than {own}: start flagship with --allow-cross-namespace"
    )]
    ClusterScoped {
        /// Where.
        place: Place,
        /// Which.
        id: ObjectId,
        /// The MultiCluster's namespace.
        own: String,
    },
    /// It is there twice.
    #[error("{second}: {id} is there already, in {first}: remove one of them")]
    Duplicate {
        /// Which.
        id: ObjectId,
        /// Where first.
        first: Place,
        /// Where again.
        second: Place,
    },
    /// Deleting it with the payload would delete the MultiCluster itself.
    #[error(
        "{place}: {id} holds the MultiCluster itself, which would go with it when the lead moves: take it out of the payload"
    )]
    HoldsItself {
        /// Where.
        place: Place,
        /// Which.
        id: ObjectId,
    },
}

/// All objections to a payload; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objections(pub Vec<Objection>);

/// Objections spelt out in one message.
const SHOWN: usize = 5;

impl fmt::Display for Objections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::error::write_some(f, &self.0, SHOWN)
    }
}

impl std::error::Error for Objections {}

/// What to apply, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    owner: Owner,
    reach: Reach,
    objects: Vec<PlannedObject>,
    made_kinds: BTreeSet<GroupKind>,
}

impl Plan {
    /// Decides. `catalog` holds the cluster's kinds; those of the payload's own CRDs are added here.
    pub fn build(
        manifests: Vec<Manifest>,
        catalog: &Catalog,
        owner: Owner,
        reach: Reach,
    ) -> Result<Self, Objections> {
        let mut catalog = catalog.clone();
        let mut made_kinds = BTreeSet::new();
        for kind in manifests.iter().flat_map(defined_by) {
            made_kinds
                .insert(GroupKind { group: kind.resource.group.clone(), kind: kind.resource.kind.clone() });
            catalog.add(kind);
        }
        let mut objections = Vec::new();
        let mut places: BTreeMap<ObjectId, Place> = BTreeMap::new();
        let mut objects = Vec::new();
        for manifest in manifests {
            let object = match planned(manifest, &catalog, &owner) {
                Ok(object) => object,
                Err(objection) => {
                    objections.push(*objection);
                    continue;
                }
            };
            let (place, id) = (object.place.clone(), object.id.clone());
            objections.extend(out_of_reach(&object, &owner, reach));
            match places.get(&id).cloned() {
                Some(first) => objections.push(Objection::Duplicate { id, first, second: place }),
                None => {
                    places.insert(id, place);
                    objects.push(object);
                }
            }
        }
        if !objections.is_empty() {
            return Err(Objections(objections));
        }
        // Stable: within a stage the payload's own order stays.
        objects.sort_by_key(|object| object.stage);
        Ok(Self { owner, reach, objects, made_kinds })
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// What it may reach.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// All objects, in the order of applying.
    pub fn objects(&self) -> &[PlannedObject] {
        &self.objects
    }

    /// Whether the plan has this object.
    pub fn contains(&self, id: &ObjectId) -> bool {
        self.objects.iter().any(|object| object.id == *id)
    }

    /// The kinds of its objects.
    pub fn kinds(&self) -> BTreeSet<GroupKind> {
        self.objects.iter().map(|object| object.id.group_kind()).collect()
    }

    /// Whether the payload itself brings the kind of this object, or the namespace it lives in.
    pub(crate) fn makes_room_for(&self, id: &ObjectId) -> bool {
        let is_its_namespace = |other: &ObjectId| {
            other.group.is_empty()
                && other.kind == "Namespace"
                && !id.namespace.is_empty()
                && other.name == id.namespace
        };
        self.made_kinds.contains(&id.group_kind())
            || self.objects.iter().any(|object| is_its_namespace(&object.id))
    }

    /// What to watch for drift and readiness: each kind, in each namespace it is used in (`None`:
    /// cluster-scoped). Watch with the selector `kube-vip.io/multicluster=<owner's label>`.
    pub fn watch_kinds(&self) -> Vec<(ApiResource, Option<String>)> {
        let mut seen = BTreeSet::new();
        let mut kinds = Vec::new();
        for object in &self.objects {
            let namespace = Some(object.id.namespace.clone()).filter(|_| object.namespaced);
            if seen.insert((object.id.group_kind(), namespace.clone())) {
                kinds.push((object.resource.clone(), namespace));
            }
        }
        kinds
    }
}

fn planned(manifest: Manifest, catalog: &Catalog, owner: &Owner) -> Result<PlannedObject, Box<Objection>> {
    let Some(known) = catalog.get(&manifest.group, &manifest.version, &manifest.kind) else {
        return Err(Box::new(unknown(manifest, catalog)));
    };
    let Manifest { group, kind, name, namespace, mut body, place, .. } = manifest;
    let namespace = match known.namespaced {
        true => namespace.unwrap_or_else(|| owner.namespace.clone()),
        false => String::new(),
    };
    let metadata = body.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        match known.namespaced {
            true => metadata.insert("namespace".into(), namespace.clone().into()),
            // kubectl ignores it, too.
            false => metadata.remove("namespace"),
        };
        put(metadata, "labels", MULTICLUSTER_LABEL, owner.label());
    }
    let hash = hash(&body);
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        put(metadata, "annotations", APPLIED_ANNOTATION, hash.clone());
    }
    let id = ObjectId { group, kind, namespace, name };
    let stage = Stage::of(&id.group_kind());
    let (resource, namespaced) = (known.resource.clone(), known.namespaced);
    Ok(PlannedObject { id, resource, namespaced, stage, place, hash, body })
}

/// 64 bits, as hexadecimal digits. Keys of a JSON map come sorted, so the same object has the same hash.
fn hash(body: &Map<String, Value>) -> String {
    let digest = Sha256::digest(serde_json::to_vec(body).unwrap_or_default());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn unknown(manifest: Manifest, catalog: &Catalog) -> Objection {
    let elsewhere = catalog.api_versions_of(&manifest.kind);
    let hint = match elsewhere.is_empty() {
        false => format!("it serves {} in {}", manifest.kind, elsewhere.join(", ")),
        true => "correct kind and apiVersion, or install its CRD (which may be part of the payload)".into(),
    };
    Objection::UnknownKind {
        api_version: manifest.api_version(),
        kind: manifest.kind,
        place: manifest.place,
        hint,
    }
}

fn out_of_reach(object: &PlannedObject, owner: &Owner, reach: Reach) -> Option<Objection> {
    let (place, id, own) = (object.place.clone(), object.id.clone(), owner.namespace.clone());
    let its_crd = id.kind == "CustomResourceDefinition" && id.name == "multiclusters.kube-vip.io";
    let its_namespace = id.group.is_empty() && id.kind == "Namespace" && id.name == own;
    let itself = id.group == "kube-vip.io"
        && id.kind == "MultiCluster"
        && id.namespace == own
        && id.name == owner.name;
    match object.namespaced {
        _ if its_crd || its_namespace || itself => Some(Objection::HoldsItself { place, id }),
        _ if reach.cross_namespace => None,
        false => Some(Objection::ClusterScoped { place, id, own }),
        true if id.namespace != own => Some(Objection::OtherNamespace { place, id, own }),
        true => None,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
