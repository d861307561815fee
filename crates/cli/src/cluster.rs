//! The clusters that are asked: contexts of a kubeconfig, each call bounded in time.

use std::future::Future;
use std::time::Duration;

use flagship_k8s_api::{MultiCluster, lease_name};
use futures::future::join_all;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, ObjectList};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};

use crate::args::ClusterArgs;
use crate::liveness::Renewal;

/// No single call takes longer: at 3 a.m. an answer about the other clusters matters more.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects read per cluster: far more fleets than anybody has.
const MAX_OBJECTS: u32 = 1000;

/// Contexts named in an error: enough to see a typing mistake.
const MAX_NAMED: usize = 10;
/// Leases asked for per cluster, one request each: more members than that are judged by what others say of them.
const MAX_LEASES: usize = 32;

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// Context, or `in-cluster`.
    pub(crate) context: String,
    pub(crate) client: Client,
    /// The namespace that is looked at; `None`: all.
    pub(crate) namespace: Option<String>,
    /// The API server's address.
    pub(crate) server: String,
}

/// Why a cluster could not be asked: what happened, and what to do next.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}; {next}")]
pub(crate) struct ClusterError {
    pub(crate) what: String,
    pub(crate) next: String,
}

impl ClusterError {
    fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }
}

impl Cluster {
    /// Waits for a call, but not for ever.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        let (context, server) = (&self.context, &self.server);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Err(_) => Err(ClusterError::new(
                format!("no answer within {}s from {server}", CALL_TIMEOUT.as_secs()),
                format!("see: kubectl --context {context} version"),
            )),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ClusterError::new(
                format!("{server}: {}", reason(&error)),
                format!("see: kubectl --context {context} get mc -A"),
            )),
        }
    }

    /// The MultiClusters of the namespace that is looked at.
    pub(crate) async fn objects(&self) -> Result<Vec<MultiCluster>, ClusterError> {
        let api: Api<MultiCluster> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let params = ListParams::default().limit(MAX_OBJECTS);
        let list = async {
            match api.list(&params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                other => other.map(|list| Some(list.items)),
            }
        };
        self.call(list).await?.ok_or_else(|| {
            let install =
                format!("flagship crd | kubectl --context {} apply --server-side -f -", self.context);
            ClusterError::new(
                "the cluster does not know MultiClusters",
                format!("install them with: {install}"),
            )
        })
    }

    /// The same, and for each whether its daemon renews its Lease.
    pub(crate) async fn members(&self) -> Result<Vec<(MultiCluster, Renewal)>, ClusterError> {
        let objects = self.objects().await?;
        let renewals = join_all(objects.iter().take(MAX_LEASES).map(|object| self.renewal(object))).await;
        let rest = std::iter::repeat(Renewal::Unknown);
        Ok(objects.into_iter().zip(renewals.into_iter().chain(rest)).collect())
    }

    async fn renewal(&self, object: &MultiCluster) -> Renewal {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let name = lease_name(namespace, object.metadata.name.as_deref().unwrap_or_default());
        // `run --lease-namespace` may have put it anywhere; not everybody may look everywhere.
        for at in [String::new(), format!("namespaces/{namespace}/")] {
            let path = format!(
                "/apis/coordination.k8s.io/v1/{at}leases?fieldSelector=metadata.name%3D{name}&limit={MAX_LEASES}"
            );
            if let Some(renewal) = self.newest(&path).await {
                return renewal;
            }
        }
        Renewal::Unknown
    }

    /// The youngest renewal of the Leases there, by the API server's own clock; `None`: not known.
    async fn newest(&self, path: &str) -> Option<Renewal> {
        let request = http::Request::get(path).body(Body::empty()).ok()?;
        let read = async {
            let response = self.client.send(request).await?;
            let answered = response.status().is_success();
            let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
            let date = date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
            let body = response.into_body().collect_bytes().await?;
            Ok((answered, date, body))
        };
        let (answered, date, body) = self.call(read).await.ok()?;
        let leases: ObjectList<Lease> = answered.then(|| serde_json::from_slice(&body).ok()).flatten()?;
        let renewed = leases.items.into_iter().filter_map(|lease| lease.spec?.renew_time).map(|time| time.0);
        Some(Renewal::at(renewed.max()?, date.unwrap_or_else(Timestamp::now)))
    }
}

/// The innermost cause says what a person can act on; the outer layers only that a request failed.
pub(crate) fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A context and what became of it.
pub(crate) type Connection = (String, Result<Cluster, ClusterError>);

/// Prepares all clusters asked for. Nothing is sent yet.
pub(crate) async fn connect(args: &ClusterArgs) -> Vec<Connection> {
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match kubeconfig {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => return without_kubeconfig(args, &error),
    };
    let contexts = match args.contexts.as_slice() {
        [] => vec![kubeconfig.current_context.clone().unwrap_or_default()],
        given => given.to_vec(),
    };
    join_all(contexts.into_iter().map(|context| with_context(args, kubeconfig.clone(), context))).await
}

/// Where the kubeconfig comes from, for people.
fn origin(args: &ClusterArgs) -> String {
    match (&args.kubeconfig, std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty())) {
        (Some(path), _) => format!("{} (--kubeconfig)", path.display()),
        (None, Some(value)) => format!("{} ($KUBECONFIG)", value.display()),
        (None, None) => "~/.kube/config ($KUBECONFIG is not set)".into(),
    }
}

async fn with_context(args: &ClusterArgs, kubeconfig: Kubeconfig, context: String) -> Connection {
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|known| known.name.as_str()).collect();
    if context.is_empty() {
        let what = format!("{} has no current context", origin(args));
        return ("?".into(), Err(ClusterError::new(what, choose_context(&known))));
    }
    if !known.contains(&context.as_str()) {
        let what = format!("no context {context} in {}", origin(args));
        let next = choose_context(&known);
        return (context, Err(ClusterError::new(what, next)));
    }
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let cluster = match Config::from_custom_kubeconfig(kubeconfig, &options).await {
        Ok(config) => cluster(args, &context, config),
        Err(error) => {
            let what =
                format!("context {context} of {} cannot be used: {}", origin(args), with_causes(&error));
            Err(ClusterError::new(what, format!("see: kubectl --context {context} version")))
        }
    };
    (context, cluster)
}

fn choose_context(known: &[&str]) -> String {
    match known {
        [] => "it has no contexts at all: name another file with --kubeconfig FILE".into(),
        known => {
            let named = known.get(..MAX_NAMED).unwrap_or(known).join(", ");
            let more = if known.len() > MAX_NAMED { ", … (kubectl config get-contexts)" } else { "" };
            format!("it has: {named}{more}; give one with --context CONTEXT")
        }
    }
}

/// An error and its causes, each once: some layers repeat the next one, and some do not.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

/// In a pod there is no kubeconfig, and the service account is what is meant.
fn without_kubeconfig(args: &ClusterArgs, error: &KubeconfigError) -> Vec<Connection> {
    let wanted = !args.contexts.is_empty() || args.kubeconfig.is_some();
    if let Some(config) = Config::incluster().ok().filter(|_| !wanted) {
        let context = String::from("in-cluster");
        return vec![(context.clone(), cluster(args, &context, config))];
    }
    let why = match error {
        KubeconfigError::ReadConfig(error, path) => format!("{}: {error}", path.display()),
        error => with_causes(error),
    };
    let pod = if wanted { "" } else { ", and this is no pod with a service account" };
    let error = ClusterError::new(
        format!("no kubeconfig: tried {}: {why}{pod}", origin(args)),
        "name the file with --kubeconfig FILE or in $KUBECONFIG",
    );
    let contexts = match args.contexts.as_slice() {
        [] => vec!["?".into()],
        given => given.to_vec(),
    };
    contexts.into_iter().map(|context| (context, Err(error.clone()))).collect()
}

fn cluster(args: &ClusterArgs, context: &str, mut config: Config) -> Result<Cluster, ClusterError> {
    config.default_retry = false;
    config.connect_timeout = Some(CALL_TIMEOUT);
    config.read_timeout = Some(CALL_TIMEOUT);
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
    let client = Client::try_from(config).map_err(|error| {
        let what = format!("context {context} of {} cannot be used: {}", origin(args), reason(&error));
        ClusterError::new(what, format!("see: kubectl --context {context} version"))
    })?;
    let namespace = (!args.all_namespaces).then_some(namespace);
    Ok(Cluster { context: context.into(), client, namespace, server })
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::extract::RawQuery;
    use axum::http::StatusCode;
    use axum::routing::get;
    use serde_json::{Value, json};

    use super::*;

    fn cluster_at(server: &str) -> Cluster {
        let config = Config::new(server.parse().unwrap());
        cluster(&ClusterArgs::default(), "newyork", config).unwrap()
    }

    /// An API server with one MultiCluster, whose Lease may be looked for in the whole cluster or not.
    async fn served(lease: Value, everywhere: bool) -> Renewal {
        let leases = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {}, "items": [lease]});
        let list = move |RawQuery(query): RawQuery| {
            let query = query.unwrap_or_default();
            assert!(query.starts_with("fieldSelector=metadata.name%3Dflagship.default.newyork&"), "{query}");
            let leases = leases.clone();
            async move { ([("date", "Sun, 01 Mar 2026 03:00:00 GMT")], Json(leases)) }
        };
        let object = json!({"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
            "metadata": {"name": "newyork", "namespace": "default"}, "spec": {"port": 9990, "rank": 5}});
        let objects = json!({"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiClusterList", "metadata": {}, "items": [object]});
        let own = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
        let router = axum::Router::new()
            .route(
                "/apis/kube-vip.io/v1alpha1/namespaces/default/multiclusters",
                get(async move || Json(objects)),
            )
            .route(if everywhere { "/apis/coordination.k8s.io/v1/leases" } else { own }, get(list))
            .fallback(async || StatusCode::FORBIDDEN);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let members = cluster_at(&format!("http://{address}")).members().await.unwrap();
        let [(_, renewal)] = members.as_slice() else { panic!("{} members", members.len()) };
        *renewal
    }

    fn lease(renewed: &str) -> Value {
        json!({"metadata": {"name": "flagship.default.newyork"},
            "spec": {"holderIdentity": "x", "renewTime": format!("2026-03-01T{renewed}Z")}})
    }

    #[tokio::test]
    async fn leases_are_found_and_judged_by_the_clusters_own_clock() {
        for everywhere in [true, false] {
            assert_eq!(served(lease("02:59:59.500000"), everywhere).await, Renewal::Recent);
            let old = Renewal::Old("2026-03-01T02:59:00Z".parse().unwrap());
            assert_eq!(served(lease("02:59:00.000000"), everywhere).await, old);
        }
        assert_eq!(served(json!({"metadata": {}, "spec": {}}), true).await, Renewal::Unknown);
        assert_eq!(served(json!("garbage"), true).await, Renewal::Unknown);
    }

    async fn refused(kubeconfig: &str, contexts: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        if !kubeconfig.is_empty() {
            std::fs::write(&path, kubeconfig).unwrap();
        }
        let contexts = contexts.iter().map(ToString::to_string).collect();
        let args = ClusterArgs { kubeconfig: Some(path.clone()), contexts, ..ClusterArgs::default() };
        let said: Vec<String> = connect(&args)
            .await
            .into_iter()
            .filter_map(|(context, cluster)| Some(format!("{context}: {}", cluster.err()?)))
            .collect();
        said.join("\n").replace(&path.display().to_string(), "FILE")
    }

    #[tokio::test]
    async fn what_was_tried_is_named_and_what_to_do() {
        let two = "contexts: [{name: newyork, context: {cluster: gone}}, {name: paris}]";
        let cases = [
            (
                refused("", &["a", "b"]).await,
                "a: no kubeconfig: tried FILE (--kubeconfig): FILE: No such file or directory (os error 2); name \
                 the file with --kubeconfig FILE or in $KUBECONFIG\nb: no kubeconfig: ",
            ),
            (
                refused(two, &["nobody"]).await,
                "nobody: no context nobody in FILE (--kubeconfig); it has: newyork, paris; give one with --context CONTEXT",
            ),
            (
                refused(two, &[]).await,
                "?: FILE (--kubeconfig) has no current context; it has: newyork, paris; give one with --context CONTEXT",
            ),
            (
                refused("contexts: []", &["x"]).await,
                "it has no contexts at all: name another file with --kubeconfig",
            ),
            (
                refused(two, &["newyork"]).await,
                "newyork: context newyork of FILE (--kubeconfig) cannot be used: failed to load the cluster of context: gone",
            ),
            (
                refused("contexts: 3", &[]).await,
                "tried FILE (--kubeconfig): failed to parse kubeconfig YAML: ",
            ),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{expected}\n{said}");
        }
    }
}
