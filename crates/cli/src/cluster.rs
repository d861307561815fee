//! The clusters that are asked: contexts of a kubeconfig, each call bounded in time.

use std::future::Future;
use std::time::Duration;

use flagship_k8s_api::MultiCluster;
use futures::future::join_all;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};

use crate::args::ClusterArgs;
use crate::leases::{MAX_LEASES, Sightings, Told, look};

/// No single call takes longer: at 3 a.m. an answer about the other clusters matters more.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects read per cluster: far more fleets than anybody has.
const MAX_OBJECTS: u32 = 1000;

/// Contexts named in an error: enough to see a typing mistake.
const MAX_NAMED: usize = 10;

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
    /// How every command for this cluster begins that is to be typed.
    pub(crate) kubectl: String,
    /// Its Leases as they were seen so far.
    pub(crate) sightings: Sightings,
}

/// An object, and what the Lease of its daemon tells.
pub(crate) struct Member {
    pub(crate) object: MultiCluster,
    pub(crate) lease: Told,
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
        let (kubectl, server) = (&self.kubectl, &self.server);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Err(_) => Err(ClusterError::new(
                format!("no answer within {}s from {server}", CALL_TIMEOUT.as_secs()),
                format!("see: {kubectl} version"),
            )),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ClusterError::new(
                format!("{server}: {}", reason(&error)),
                format!("see: {kubectl} get mc -A"),
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
            let install = format!("flagship crd | {} apply --server-side -f -", self.kubectl);
            ClusterError::new(
                "the cluster does not know MultiClusters",
                format!("install them with: {install}"),
            )
        })
    }

    /// The same, each with what its daemon's Lease tells.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, ClusterError> {
        let objects = self.objects().await?;
        let told = join_all(objects.iter().take(MAX_LEASES).map(|object| look(self, object))).await;
        let told = told.into_iter().chain(std::iter::repeat_with(Told::nothing));
        Ok(objects.into_iter().zip(told).map(|(object, lease)| Member { object, lease }).collect())
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
        Ok(config) => cluster(args, &context, kubectl(args, Some(&context)), config),
        Err(error) => {
            let what =
                format!("context {context} of {} cannot be used: {}", origin(args), with_causes(&error));
            Err(ClusterError::new(what, format!("see: {} version", kubectl(args, Some(&context)))))
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
        return vec![(context.clone(), cluster(args, &context, kubectl(args, None), config))];
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

/// How a command for a cluster begins; in a pod there are no contexts.
fn kubectl(args: &ClusterArgs, context: Option<&str>) -> String {
    let mut command = String::from("kubectl");
    let file = args.kubeconfig.as_ref().map(|file| file.display().to_string());
    for (flag, value) in [("--kubeconfig", file.as_deref()), ("--context", context)] {
        if let Some(value) = value {
            command = format!("{command} {flag} {}", quoted(value));
        }
    }
    command
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:+=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn cluster(
    args: &ClusterArgs,
    context: &str,
    kubectl: String,
    mut config: Config,
) -> Result<Cluster, ClusterError> {
    config.default_retry = false;
    config.connect_timeout = Some(CALL_TIMEOUT);
    config.read_timeout = Some(CALL_TIMEOUT);
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
    let client = Client::try_from(config).map_err(|error| {
        let what = format!("context {context} of {} cannot be used: {}", origin(args), reason(&error));
        ClusterError::new(what, format!("see: {kubectl} version"))
    })?;
    let namespace = (!args.all_namespaces).then_some(namespace);
    Ok(Cluster {
        context: context.into(),
        client,
        namespace,
        server,
        kubectl,
        sightings: Sightings::default(),
    })
}

/// For the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn cluster_at(server: &str) -> Cluster {
        let config = Config::new(server.parse().unwrap());
        cluster(&ClusterArgs::default(), "newyork", "kubectl --context newyork".into(), config).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_cluster_as_it_was_named() {
        let args =
            |file: Option<&str>| ClusterArgs { kubeconfig: file.map(Into::into), ..ClusterArgs::default() };
        assert_eq!(kubectl(&args(None), None), "kubectl");
        assert_eq!(kubectl(&args(None), Some("newyork")), "kubectl --context newyork");
        assert_eq!(
            kubectl(&args(Some("a/b")), Some("newyork")),
            "kubectl --kubeconfig a/b --context newyork"
        );
        assert_eq!(kubectl(&args(Some("my files/it's")), None), r"kubectl --kubeconfig 'my files/it'\''s'");
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
                "newyork: context newyork of FILE (--kubeconfig) cannot be used: failed to load the cluster of context: gone; \
                 see: kubectl --kubeconfig FILE --context newyork version",
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
