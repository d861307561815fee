//! Puts Flagship's CRD, namespace, ServiceAccount and RBAC into a cluster, from the same files that a user applies,
//! so that a local daemon runs with exactly the rights that the shipped manifests give it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::time::timeout;

use crate::readiness::until;

/// One call to a local API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a token lives: longer than any local cluster is of use.
const TOKEN_SECONDS: i64 = 30 * 24 * 3600;
/// What a daemon outside of the cluster needs. Its Deployment would ask for an image.
const INSTALLED_KINDS: [&str; 7] = [
    "CustomResourceDefinition",
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];

/// The daemon's identity in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) token: String,
}

/// The manifests of this checkout.
pub(crate) fn deploy_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// Applies the CRD and the rights, and returns the daemon's identity, or `None` if this checkout has no
/// `install.yaml`.
pub(crate) async fn install(client: &Client, deploy: &Path) -> Result<Option<Identity>> {
    let mut account = None;
    for file in [deploy.join("crds/multiclusters.yaml"), deploy.join("install.yaml")] {
        if !file.is_file() {
            continue;
        }
        for object in read_objects(&file)? {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            if !INSTALLED_KINDS.contains(&kind.as_str()) {
                continue;
            }
            let applied =
                apply(client, object).await.with_context(|| format!("install {}", file.display()))?;
            match kind.as_str() {
                "CustomResourceDefinition" => wait_established(client, &applied.name_any()).await?,
                "ServiceAccount" => {
                    account = Some((applied.namespace().unwrap_or_default(), applied.name_any()));
                }
                _ => {}
            }
        }
    }
    let Some((namespace, name)) = account else { return Ok(None) };
    let token = request_token(client, &namespace, &name).await?;
    Ok(Some(Identity { namespace, token }))
}

/// Applies one object server-side.
pub(crate) async fn apply(client: &Client, object: Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object).context("not a Kubernetes object")?;
    let (api, name) = api_of(client, &object)?;
    let params = PatchParams::apply("clusters").force();
    let applied = timeout(CALL_TIMEOUT, api.patch(&object.name_any(), &params, &Patch::Apply(&object)))
        .await
        .with_context(|| format!("apply {name}: no answer"))?;
    applied.with_context(|| format!("apply {name}"))
}

/// Where an object is read and written, and what to call it in messages.
pub(crate) fn api_of(client: &Client, object: &DynamicObject) -> Result<(Api<DynamicObject>, String)> {
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).context("apiVersion")?);
    let api = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, format!("{} {}", types.kind, object.name_any())))
}

/// The documents of a YAML file.
pub(crate) fn read_objects(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("{} is not YAML", path.display()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Waits until the API server serves the kind of a CRD.
pub(crate) async fn wait_established(client: &Client, name: &str) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    until(&format!("CRD {name} is established"), Duration::from_secs(20), async || {
        let crd = timeout(CALL_TIMEOUT, api.get(name)).await.context("read the CRD: no answer")??;
        let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(()))
    })
    .await
}

async fn request_token(client: &Client, namespace: &str, name: &str) -> Result<String> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let call = api.create_token_request(name, &params, &request);
    let made = timeout(CALL_TIMEOUT, call).await.context("request a token: no answer")?;
    let made = made.with_context(|| format!("request a token for ServiceAccount {namespace}/{name}"))?;
    made.status.and_then(|status| status.token).context("the API server made no token")
}
