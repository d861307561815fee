//! What a member left in its cluster: found again by label, also if the status forgot it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{FIELD_MANAGER, MultiCluster, TERM_ANNOTATION};
use flagship_payload::{ApiError, CALL_TIMEOUT, Cluster, GroupKind, Inventory, Owner, Reach, Verb, parse};
use flagship_types::Term;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt};

use crate::ports::Observer;
use crate::request::{CallError, Caller};
use crate::worker::Context;

/// Where the kinds of the payload are noted on the object itself, so that a lost status does not hide them. The key
/// is that of kubectl's ApplySets.
const KINDS_ANNOTATION: &str = "applyset.kubernetes.io/contains-group-kinds";
/// Objects that are read for their term: they all carry the same one, but for those written while it changed.
const MAX_TERMS_READ: usize = 20;
/// Kinds that are believed from an annotation that anybody may have edited.
const MAX_NOTED_KINDS: usize = 100;

/// The payload's requests, counted with all others.
struct Counter(Arc<dyn Observer>);

impl flagship_payload::Observer for Counter {
    fn request(&self, verb: Verb, code: u16, _took: Duration) {
        self.0.api_request(verb.as_str(), code);
    }
}

/// Why it could not be found out what is in the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscoveryError {
    /// Objects could not be listed.
    #[error(transparent)]
    List(#[from] ApiError),
    /// An object's term could not be read.
    #[error(transparent)]
    Read(#[from] CallError),
}

impl DiscoveryError {
    /// HTTP status of the answer, 0 without one.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::List(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }
}

/// A connection for payloads.
pub(crate) fn cluster(context: &Context) -> Cluster {
    let counter = Arc::new(Counter(Arc::clone(&context.observer)));
    Cluster::new(context.client.clone(), CALL_TIMEOUT, counter)
}

/// What payloads may reach.
pub(crate) fn reach(context: &Context) -> Reach {
    Reach { cross_namespace: context.options.allow_cross_namespace }
}

/// Finds what carries this MultiCluster's label, among the kinds of its inventory, of its payload and of its
/// annotation, with the newest term on it.
pub(crate) async fn discover(
    context: &Context,
    object: &MultiCluster,
    owner: &Owner,
    known: &Inventory,
) -> Result<(Inventory, Term), DiscoveryError> {
    let cluster = cluster(context);
    let mut kinds = known.kinds();
    kinds.extend(noted_kinds(object));
    kinds.extend(payload_kinds(&cluster, object, owner).await);
    let found = cluster.discover_owned(owner, reach(context), &kinds).await?;
    let term = newest_term(context, &cluster, &found).await?;
    Ok((found, term))
}

/// The kinds of the payload as it is now. One that cannot be read has none: the other two know what was applied.
async fn payload_kinds(cluster: &Cluster, object: &MultiCluster, owner: &Owner) -> BTreeSet<GroupKind> {
    let Ok(settings) = object.spec.settings() else { return BTreeSet::new() };
    let Ok(texts) = cluster.read_sources(&owner.namespace, &settings.sources).await else {
        return BTreeSet::new();
    };
    let manifests = parse(&texts).unwrap_or_default();
    manifests.into_iter().map(|manifest| GroupKind { group: manifest.group, kind: manifest.kind }).collect()
}

async fn newest_term(
    context: &Context,
    cluster: &Cluster,
    found: &Inventory,
) -> Result<Term, DiscoveryError> {
    let catalog = cluster.catalog().await?;
    let caller = Caller::new(Arc::clone(&context.observer));
    let mut newest = Term::NONE;
    for (id, _) in found.iter().take(MAX_TERMS_READ) {
        let Some(kind) = catalog.preferred(&id.group_kind()) else { continue };
        let api: Api<DynamicObject> = match kind.namespaced {
            true => Api::namespaced_with(context.client.clone(), &id.namespace, &kind.resource),
            false => Api::all_with(context.client.clone(), &kind.resource),
        };
        let get = async { api.get_metadata_opt(&id.name).await };
        let live = caller.call(crate::request::Verb::Get, get).await?;
        let term = live.as_ref().and_then(|live| live.annotations().get(TERM_ANNOTATION)?.parse().ok());
        newest = newest.max(Term(term.unwrap_or(0)));
    }
    Ok(newest)
}

/// The kinds noted on the object, as `ConfigMap,Deployment.apps`.
fn noted_kinds(object: &MultiCluster) -> BTreeSet<GroupKind> {
    let noted = object.annotations().get(KINDS_ANNOTATION).map(String::as_str).unwrap_or_default();
    let kind = |text: &str| {
        let (kind, group) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        (!kind.is_empty()).then(|| GroupKind { group: group.into(), kind: kind.into() })
    };
    noted.split(',').filter_map(kind).take(MAX_NOTED_KINDS).collect()
}

fn note(kinds: &BTreeSet<GroupKind>) -> String {
    let one = |kind: &GroupKind| match kind.group.as_str() {
        "" => kind.kind.clone(),
        group => format!("{}.{group}", kind.kind),
    };
    kinds.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The kinds noted on the object as the API server has it now.
async fn read_noted(
    api: &Api<MultiCluster>,
    owner: &Owner,
    caller: &Caller,
) -> Result<BTreeSet<GroupKind>, CallError> {
    let get = async { api.get_metadata(&owner.name).await };
    let object = caller.call(crate::request::Verb::Get, get).await?;
    let mut marked = MultiCluster::default();
    if let Some(noted) = object.annotations().get(KINDS_ANNOTATION) {
        marked.annotations_mut().insert(KINDS_ANNOTATION.into(), noted.clone());
    }
    Ok(noted_kinds(&marked))
}

/// Finds what carries this MultiCluster's label among the kinds noted on it: also what was created after the
/// inventory had become empty, by a write that arrived late.
pub(crate) async fn sweep(
    context: &Context,
    cluster: &Cluster,
    owner: &Owner,
    caller: &Caller,
) -> Result<Inventory, String> {
    let api: Api<MultiCluster> = Api::namespaced(context.client.clone(), &owner.namespace);
    let kinds = read_noted(&api, owner, caller).await.map_err(|error| error.to_string())?;
    if kinds.is_empty() {
        return Ok(Inventory::default());
    }
    cluster.discover_owned(owner, reach(context), &kinds).await.map_err(|error| error.to_string())
}

/// Notes kinds on the object before their first object is written. Kinds that are there stay: what was applied under
/// them may still be in the cluster.
pub(crate) async fn note_kinds(
    context: &Context,
    owner: &Owner,
    caller: &Caller,
    kinds: BTreeSet<GroupKind>,
) -> Result<(), CallError> {
    let api: Api<MultiCluster> = Api::namespaced(context.client.clone(), &owner.namespace);
    let mut all = read_noted(&api, owner, caller).await?;
    let before = all.len();
    all.extend(kinds);
    if all.len() == before {
        return Ok(());
    }
    let patch = serde_json::json!({ "metadata": { "annotations": { KINDS_ANNOTATION: note(&all) } } });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    let send = async { api.patch_metadata(&owner.name, &params, &Patch::Merge(&patch)).await };
    caller.call(crate::request::Verb::Patch, send).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_noted_and_read_back() {
        let kind = |group: &str, kind: &str| GroupKind { group: group.into(), kind: kind.into() };
        let kinds = BTreeSet::from([kind("apps", "Deployment"), kind("", "ConfigMap"), kind("a.b.c", "D")]);
        let mut object = MultiCluster::default();
        object.annotations_mut().insert(KINDS_ANNOTATION.into(), note(&kinds));
        assert_eq!(noted_kinds(&object), kinds);
        assert!(note(&kinds).contains("Deployment.apps"));
    }

    #[test]
    fn nonsense_is_bounded() {
        let mut object = MultiCluster::default();
        assert!(noted_kinds(&object).is_empty());
        object.annotations_mut().insert(KINDS_ANNOTATION.into(), ",, .,".into());
        assert!(noted_kinds(&object).is_empty());
        let many = (0..5000).map(|n| format!("K{n}")).collect::<Vec<_>>().join(",");
        object.annotations_mut().insert(KINDS_ANNOTATION.into(), many);
        assert_eq!(noted_kinds(&object).len(), MAX_NOTED_KINDS);
    }
}
