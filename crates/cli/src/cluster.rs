//! The clusters that are asked: contexts of a kubeconfig, each call bounded in time.

use std::future::Future;
use std::time::Duration;

use flagship_k8s_api::MultiCluster;
use futures::future::join_all;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::args::ClusterArgs;

/// No single call takes longer: at 3 a.m. an answer about the other clusters matters more.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects read per cluster: far more fleets than anybody has.
const MAX_OBJECTS: u32 = 1000;

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

/// Why a cluster could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("{reason}; see the contexts with: kubectl config get-contexts")]
    Context { reason: String },
    #[error("no answer within {}s from {server}; see: kubectl --context {context} version", CALL_TIMEOUT.as_secs())]
    Timeout { context: String, server: String },
    #[error("{server}: {reason}; see: kubectl --context {context} get mc -A")]
    Call { context: String, server: String, reason: String },
    #[error(
        "the cluster does not know MultiClusters; install them with: flagship crd | kubectl --context {context} apply --server-side -f -"
    )]
    NoCrd { context: String },
}

impl Cluster {
    /// Waits for a call, but not for ever.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        let (context, server) = (self.context.clone(), self.server.clone());
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Err(_) => Err(ClusterError::Timeout { context, server }),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ClusterError::Call { context, server, reason: reason(&error) }),
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
        self.call(list).await?.ok_or_else(|| ClusterError::NoCrd { context: self.context.clone() })
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
        Err(error) => return vec![without_kubeconfig(args, &error)],
    };
    let contexts = match args.contexts.as_slice() {
        [] => vec![kubeconfig.current_context.clone().unwrap_or_default()],
        given => given.to_vec(),
    };
    join_all(contexts.into_iter().map(|context| with_context(args, kubeconfig.clone(), context))).await
}

async fn with_context(args: &ClusterArgs, kubeconfig: Kubeconfig, context: String) -> Connection {
    if context.is_empty() {
        let reason = "the kubeconfig has no current context: name one with --context".into();
        return ("?".into(), Err(ClusterError::Context { reason }));
    }
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let cluster = match Config::from_custom_kubeconfig(kubeconfig, &options).await {
        Ok(config) => cluster(args, &context, config),
        Err(error) => Err(ClusterError::Context { reason: error.to_string() }),
    };
    (context, cluster)
}

/// In a pod there is no kubeconfig, and the service account is what is meant.
fn without_kubeconfig(args: &ClusterArgs, error: &kube::config::KubeconfigError) -> Connection {
    let context = String::from("in-cluster");
    let wanted = !args.contexts.is_empty() || args.kubeconfig.is_some();
    match Config::incluster().ok().filter(|_| !wanted) {
        Some(config) => (context.clone(), cluster(args, &context, config)),
        None => {
            let reason = format!("no kubeconfig: {error}; name one with --kubeconfig or $KUBECONFIG");
            (
                args.contexts.first().cloned().unwrap_or_else(|| "?".into()),
                Err(ClusterError::Context { reason }),
            )
        }
    }
}

fn cluster(args: &ClusterArgs, context: &str, mut config: Config) -> Result<Cluster, ClusterError> {
    config.default_retry = false;
    config.connect_timeout = Some(CALL_TIMEOUT);
    config.read_timeout = Some(CALL_TIMEOUT);
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
    let client = Client::try_from(config)
        .map_err(|error| ClusterError::Context { reason: format!("{context}: {}", reason(&error)) })?;
    let namespace = (!args.all_namespaces).then_some(namespace);
    Ok(Cluster { context: context.into(), client, namespace, server })
}
