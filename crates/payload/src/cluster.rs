//! One API server: every request with a timeout, every write with a permit, and the kinds it serves.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use flagship_k8s_api::FIELD_MANAGER;
use flagship_types::Term;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::discovery::Discovery;
use serde_json::Value;
use tokio::sync::watch;

use crate::catalog::Catalog;
use crate::error::ApiError;
use crate::gate::{Denied, Gate, Purpose};
use crate::halt::Endings;
use crate::inventory::Inventory;
use crate::object::{Manifest, ObjectId};
use crate::observer::{Observer, Verb};
use crate::parse::{SourceText, parse};
use crate::plan::{Objection, Objections, Owner, Plan, PlannedObject, Reach, owns_the_unknown};
use crate::sources::SourceError;

/// How long one request may take unless told otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than its permit a write may take to be answered: an API server answers in milliseconds, and one
/// that was not answered may still be carried out after somebody else was given leave.
const LATE_WRITE: Duration = Duration::from_secs(2);
/// Requests under way at once: an API server's fair queue gives one client about as many seats, more would only wait.
const CONCURRENCY: usize = 16;

/// How far the work is: the inventory, and what is being waited for. Kept current while apply and delete run, so that
/// it can be written to the status meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// What was applied and is not known to be gone.
    pub inventory: Inventory,
    /// What is being waited for, as a sentence.
    pub waiting_for: Option<String>,
    /// Pods that had to end at once, should have by now, and that their nodes have not said to be gone.
    pub unconfirmed: Vec<String>,
    /// Of the pods that have to end at once: when they do.
    pub endings: Endings,
}

/// Where progress is kept. One worker at a time.
pub type Tracker = watch::Sender<Progress>;

/// Why a payload could not be planned. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A source could not be read.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The text is no payload.
    #[error("{0}")]
    Parse(#[from] crate::ParseError),
    /// Objects cannot be part of it.
    #[error("{0}")]
    Objections(#[from] Objections),
    /// The API server could not be asked for its kinds.
    #[error("{0}")]
    Api(#[from] ApiError),
}

impl PlanError {
    /// Whether trying again later may help although nobody changes anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(SourceError::Api { error, .. }) | Self::Api(error) => error.is_transient(),
            Self::Source(_) | Self::Parse(_) | Self::Objections(_) => false,
        }
    }
}

/// A connection to one API server. Its client's own retries must be off and its read timeout set.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    call_timeout: Duration,
    observer: Arc<dyn Observer>,
    catalog: Arc<RwLock<Option<Arc<Catalog>>>>,
    /// How often what only reads is asked again while it is not answered.
    ask_again: Option<Duration>,
}

impl Cluster {
    /// Over a client; nothing is asked yet.
    pub fn new(client: kube::Client, call_timeout: Duration, observer: Arc<dyn Observer>) -> Self {
        Self { client, call_timeout, observer, catalog: Arc::default(), ask_again: None }
    }

    /// The same, with calls that give up sooner, of which those that only read are asked again meanwhile.
    pub(crate) fn hurried(&self, call_timeout: Duration, ask_again: Duration) -> Self {
        let call_timeout = call_timeout.min(self.call_timeout);
        Self { call_timeout, ask_again: Some(ask_again), ..self.clone() }
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        self.observer.as_ref()
    }

    /// Runs a request with the timeout, and counts it.
    pub(crate) async fn call<T>(
        &self,
        verb: Verb,
        what: impl std::fmt::Display,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        self.call_within(self.call_timeout, verb, what, request).await
    }

    /// As [`call`](Self::call), for what only reads. In a hurry it is asked again and again while it is not answered, and
    /// the first answer counts: what an API server took while it was mute it may never answer.
    pub(crate) async fn ask<T, F>(
        &self,
        verb: Verb,
        what: impl std::fmt::Display,
        request: impl Fn() -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let first_answer = async {
            let mut asked = FuturesUnordered::from_iter([request()]);
            loop {
                let again = async {
                    match self.ask_again {
                        Some(time) => tokio::time::sleep(time).await,
                        None => std::future::pending().await,
                    }
                };
                // As many as fit into the call's timeout.
                tokio::select! {
                    biased;
                    Some(answer) = asked.next() => return answer,
                    () = again => asked.push(request()),
                }
            }
        };
        self.call(verb, what, first_answer).await
    }

    async fn call_within<T>(
        &self,
        timeout: Duration,
        verb: Verb,
        what: impl std::fmt::Display,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        let after = timeout.min(self.call_timeout);
        let begin = Instant::now();
        let result = match tokio::time::timeout(after, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ApiError::from_kube(verb, what.to_string(), &error)),
            Err(_) => Err(ApiError::Timeout { verb, what: what.to_string(), after }),
        };
        let code = result.as_ref().err().map_or(200, ApiError::code);
        self.observer.request(verb, code, begin.elapsed());
        result
    }

    /// As [`call`](Self::call), for a request about one object that may not be there. A kind that is not served has no
    /// objects: that is a 404 of another form, which the client library does not take for an absent object.
    pub(crate) async fn find<T, F>(
        &self,
        what: impl std::fmt::Display,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, ApiError>
    where
        F: Future<Output = kube::Result<Option<T>>>,
    {
        match self.ask(Verb::Get, what, request).await {
            Err(error) if error.code() == 404 => Ok(None),
            other => other,
        }
    }

    /// For a kind that is known at compile time.
    pub(crate) fn typed<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, resource),
        }
    }

    /// The kinds the cluster serves; asked for once and kept until refreshed.
    pub async fn catalog(&self) -> Result<Arc<Catalog>, ApiError> {
        let known = self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(catalog) => Ok(catalog),
            None => self.refresh_catalog().await,
        }
    }

    /// Asks again which kinds the cluster serves.
    pub async fn refresh_catalog(&self) -> Result<Arc<Catalog>, ApiError> {
        let discovery = || Discovery::new(self.client.clone()).run_aggregated();
        let discovery = self.ask(Verb::Discover, "the served kinds", discovery).await?;
        let catalog = Arc::new(Catalog::from_discovery(&discovery));
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Some(catalog.clone());
        Ok(catalog)
    }

    pub(crate) fn forget_catalog(&self) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads and plans. Kinds that are not known are asked for once more.
    pub async fn plan(&self, sources: &[SourceText], owner: &Owner, reach: Reach) -> Result<Plan, PlanError> {
        let manifests: Vec<Manifest> = parse(sources)?;
        let catalog = self.catalog().await?;
        let first = Plan::build(manifests.clone(), &catalog, owner.clone(), reach);
        let unknown = |one: &Objection| matches!(one, Objection::UnknownKind { .. });
        match first {
            Err(objections) if objections.0.iter().any(unknown) => {
                let catalog = self.refresh_catalog().await?;
                Ok(Plan::build(manifests, &catalog, owner.clone(), reach)?)
            }
            other => Ok(other?),
        }
    }

    pub(crate) async fn read(&self, object: &PlannedObject) -> Result<Option<DynamicObject>, ApiError> {
        let api = self.api(&object.resource, &object.id.namespace);
        self.find(&object.id, || api.get_opt(&object.id.name)).await
    }

    pub(crate) async fn dry_run(
        &self,
        object: &PlannedObject,
        body: &Value,
        force: bool,
    ) -> Result<DynamicObject, ApiError> {
        let api = self.api(&object.resource, &object.id.namespace);
        let params = apply_params(force).dry_run();
        self.call(Verb::DryRun, &object.id, api.patch(&object.id.name, &params, &Patch::Apply(body))).await
    }

    /// Waits for leave to write and checks that it has not lapsed. Call it right before the request; the answer is how
    /// long that may take.
    pub(crate) async fn permitted(
        gate: &dyn Gate,
        purpose: Purpose,
        term: Option<Term>,
    ) -> Result<Duration, Denied> {
        let permit = gate.permit(purpose).await?;
        if let Some(work) = term.filter(|work| *work != permit.term) {
            return Err(Denied::OtherTerm { work, permit: permit.term });
        }
        let now = gate.now();
        match now > permit.not_after {
            true => Err(Denied::Lapsed),
            false => Ok(permit.not_after.since(now) + LATE_WRITE),
        }
    }

    pub(crate) async fn write(
        &self,
        object: &PlannedObject,
        body: &Value,
        force: bool,
        allowed: Duration,
    ) -> Result<DynamicObject, ApiError> {
        let api = self.api(&object.resource, &object.id.namespace);
        let params = apply_params(force);
        let patch = Patch::Apply(body);
        let request = api.patch(&object.id.name, &params, &patch);
        self.call_within(allowed, Verb::Apply, &object.id, request).await
    }

    /// Asks for one deletion, only of that uid, with a grace in seconds or the object's own. Returns whether it is gone
    /// already.
    pub(crate) async fn delete_one(
        &self,
        api: &Api<DynamicObject>,
        id: &ObjectId,
        uid: &str,
        grace: Option<u32>,
        allowed: Duration,
    ) -> Result<bool, ApiError> {
        let params = DeleteParams { grace_period_seconds: grace, ..delete_params(id, uid) };
        match self.call_within(allowed, Verb::Delete, id, api.delete(&id.name, &params)).await {
            Ok(answer) => Ok(answer.right().is_some()),
            Err(error) if error.code() == 404 => Ok(true),
            // Another uid has taken the name, or its deletion is under way: the next look tells which.
            Err(error) if error.code() == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn list_metadata(
        &self,
        resource: &ApiResource,
        namespace: &str,
        selector: Option<&str>,
    ) -> Result<Vec<PartialObjectMeta<DynamicObject>>, ApiError> {
        let params =
            selector.map_or_else(ListParams::default, |selector| ListParams::default().labels(selector));
        let what = match namespace {
            "" => resource.plural.clone(),
            namespace => format!("{} in {namespace}", resource.plural),
        };
        let api = self.api(resource, namespace);
        Ok(self.ask(Verb::List, what, || api.list_metadata(&params)).await?.items)
    }
}

/// Runs requests side by side, a bounded number at once; results come in the order of completion.
pub(crate) async fn side_by_side<T>(requests: Vec<impl Future<Output = T>>) -> Vec<T> {
    futures::stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await
}

fn apply_params(force: bool) -> PatchParams {
    let params = PatchParams::apply(FIELD_MANAGER).validation_strict();
    if force { params.force() } else { params }
}

/// In the background, as the garbage collector serialises foreground deletions. But what a custom resource owns cannot
/// be listed: it stays itself until the garbage collector has seen the end of what it owns and is blocked by.
fn delete_params(id: &ObjectId, uid: &str) -> DeleteParams {
    let params = match owns_the_unknown(&id.group_kind()) {
        true => DeleteParams::foreground(),
        false => DeleteParams::background(),
    };
    params.preconditions(Preconditions { uid: Some(uid.into()), resource_version: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::ApplyOptions;
    use crate::check::Checked;
    use crate::gate::Permit;
    use flagship_types::Instant as Moment;

    /// A worker that is spawned must be able to hold every step.
    #[allow(dead_code, reason = "that it compiles is the test")]
    fn steps_are_send(cluster: &Cluster, plan: &Plan, checked: &Checked, gate: &dyn Gate, tracker: &Tracker) {
        fn send(_: impl Send) {}
        let options = ApplyOptions { force: false, timeout: CALL_TIMEOUT };
        send(cluster.read_sources("", &[]));
        send(cluster.plan(&[], plan.owner(), plan.reach()));
        send(cluster.check(plan, Term(1), false));
        send(cluster.apply(plan, checked, gate, Term(1), options, tracker));
        send(cluster.prune(plan, gate, CALL_TIMEOUT, tracker));
        send(cluster.observe(tracker));
        send(cluster.delete_all(plan.owner(), gate, CALL_TIMEOUT, tracker));
        send(cluster.halt(plan.owner(), gate, crate::PodGrace::within(CALL_TIMEOUT, None), tracker));
    }

    #[test]
    fn only_what_owns_the_unknown_is_deleted_in_the_foreground() {
        let policy = |group: &str, kind: &str| {
            let id = ObjectId {
                group: group.into(),
                kind: kind.into(),
                namespace: "default".into(),
                name: "one".into(),
            };
            let params = serde_json::to_value(delete_params(&id, "u-1")).unwrap();
            assert_eq!(params["preconditions"]["uid"], "u-1");
            params["propagationPolicy"].as_str().unwrap().to_owned()
        };
        assert_eq!(policy("postgresql.cnpg.io", "Cluster"), "Foreground");
        assert_eq!(policy("jobset.x-k8s.io", "JobSet"), "Foreground");
        assert_eq!(policy("", "ConfigMap"), "Background");
        assert_eq!(policy("apps", "Deployment"), "Background");
        assert_eq!(policy("networking.k8s.io", "Ingress"), "Background");
        assert_eq!(policy("apiextensions.k8s.io", "CustomResourceDefinition"), "Background");
    }

    struct At(u64);

    #[async_trait::async_trait]
    impl Gate for At {
        async fn permit(&self, _: Purpose) -> Result<Permit, Denied> {
            Ok(Permit { term: Term(3), not_after: Moment::from_nanos(500) })
        }
        fn now(&self) -> Moment {
            Moment::from_nanos(self.0)
        }
    }

    #[tokio::test]
    async fn a_permit_is_of_its_term_and_lapses() {
        let permitted = |at, term| async move { Cluster::permitted(&At(at), Purpose::Apply, term).await };
        assert_eq!(permitted(500, Some(Term(3))).await, Ok(LATE_WRITE));
        assert_eq!(
            permitted(0, None).await,
            Ok(LATE_WRITE + Duration::from_nanos(500)),
            "what is left of it"
        );
        assert_eq!(permitted(501, Some(Term(3))).await, Err(Denied::Lapsed));
        let other = Denied::OtherTerm { work: Term(2), permit: Term(3) };
        assert_eq!(permitted(0, Some(Term(2))).await, Err(other));
    }
}
