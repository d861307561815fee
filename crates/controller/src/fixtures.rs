//! Values that several tests use.

use flagship_k8s_api::{MultiClusterSpec, Settings};

/// The spec of the member newyork, as in testing/manifests.
pub(crate) fn spec() -> MultiClusterSpec {
    MultiClusterSpec {
        port: 9990,
        callsign: Some("federation".into()),
        rank: 5,
        ready: true,
        service_address: Some("172.18.100.100".into()),
        fleet: vec!["172.18.100.200:9990".into()],
        payload: Some("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\n".into()),
        ..Default::default()
    }
}

/// The same, checked.
pub(crate) fn settings() -> Settings {
    spec().settings().unwrap()
}
