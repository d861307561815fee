//! The CustomResourceDefinition, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use crate::MultiCluster;

/// The CRD of MultiClusters.
pub fn crd() -> CustomResourceDefinition {
    MultiCluster::crd()
}

/// The CRD as YAML, as it stands in `deploy/crds/multiclusters.yaml`.
pub fn crd_yaml() -> Result<String, serde_saphyr::ser_error::Error> {
    let body = serde_saphyr::to_string(&crd())?;
    Ok(format!("# Generated from crates/k8s-api by `flagship crd`. Do not edit.\n{body}"))
}
