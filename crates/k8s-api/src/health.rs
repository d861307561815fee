//! When a member is well enough to lead: `spec.health`.

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::settings::{FieldError, duration};
use crate::spec::{DURATION, OPTIONAL_DNS_LABEL};

/// The most gates: each is a request to the API server every few seconds.
pub const MAX_GATES: usize = 16;
/// Longer than Kubernetes takes to move pods off a node that is lost: some 45 s to notice, and 300 s that pods tolerate it.
const DEFAULT_PROMOTE_TIMEOUT: Duration = Duration::from_secs(600);

/// When a member is well enough to lead.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthSpec {
    /// Objects of this cluster that have to be there and ready before this member is given the lead of a healthy one:
    /// what the payload needs and does not bring, as an ingress controller or a database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub gates: Vec<GateRef>,
    /// How long the payload may be not ready here, after this member took the lead or later, before the lead goes to a
    /// healthy standby. Default 10m; 0: it stays for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) == duration('0s') || (duration(self) >= duration('1s') && duration(self) <= duration('24h'))").message("0, or from 1s to 24h"))]
    pub promote_timeout: Option<String>,
}

/// An object that has to be there and ready.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateRef {
    /// As in a manifest: `v1`, `apps/v1`.
    #[schemars(
        length(min = 1, max = 317),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[a-z0-9]+$")
    )]
    pub api_version: String,
    /// As in a manifest: `Deployment`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace. If empty, the object's own; another one, and a kind that has no namespaces, needs
    /// --allow-cross-namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = OPTIONAL_DNS_LABEL))]
    pub namespace: Option<String>,
}

/// [`HealthSpec`], checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// What has to be there and ready.
    pub gates: Vec<GateKey>,
    /// How long a leader's payload may be not ready; `None`: for ever.
    pub promote_timeout: Option<Duration>,
}

/// An object that has to be there and ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateKey {
    /// API group; empty for the core group.
    pub group: String,
    /// API version without the group.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; `None`: the MultiCluster's own, or none for a kind that has none.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// The field that asks for it: `spec.health.gates[0]`.
    pub path: String,
}

impl HealthSpec {
    pub(crate) fn settings(&self, wrong: &mut Vec<FieldError>) -> HealthSettings {
        if self.gates.len() > MAX_GATES {
            let message = format!("has {} entries, at most {MAX_GATES} are possible", self.gates.len());
            wrong.push(FieldError::new("spec.health.gates", message));
        }
        let gates = self.gates.iter().enumerate().filter_map(|(at, gate)| gate.key(at, wrong)).collect();
        let promote_timeout = match self.promote_timeout.as_deref() {
            None => Some(DEFAULT_PROMOTE_TIMEOUT),
            Some(text) if flagship_types::parse_duration(text).is_ok_and(|time| time.is_zero()) => None,
            Some(_) => Some(duration(
                "spec.health.promoteTimeout",
                &self.promote_timeout,
                DEFAULT_PROMOTE_TIMEOUT,
                Duration::from_secs(1)..=Duration::from_secs(86_400),
                wrong,
            )),
        };
        HealthSettings { gates, promote_timeout }
    }
}

impl GateRef {
    fn key(&self, at: usize, wrong: &mut Vec<FieldError>) -> Option<GateKey> {
        let path = format!("spec.health.gates[{at}]");
        let (group, version) = self.api_version.rsplit_once('/').unwrap_or(("", &self.api_version));
        for (field, text) in [("apiVersion", version), ("kind", &self.kind), ("name", &self.name)] {
            if text.is_empty() || text.contains(['/', '%', '?', '#']) || text.chars().any(char::is_whitespace)
            {
                let message =
                    format!("{text:?} cannot be used: write apiVersion, kind and name as in a manifest");
                wrong.push(FieldError::new(format!("{path}.{field}"), message));
                return None;
            }
        }
        Some(GateKey {
            group: group.into(),
            version: version.into(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone().filter(|namespace| !namespace.is_empty()),
            name: self.name.clone(),
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(api_version: &str, kind: &str, name: &str) -> GateRef {
        GateRef { api_version: api_version.into(), kind: kind.into(), name: name.into(), namespace: None }
    }

    fn check(spec: &HealthSpec) -> (HealthSettings, Vec<String>) {
        let mut wrong = Vec::new();
        let settings = spec.settings(&mut wrong);
        (settings, wrong.into_iter().map(|error| error.path).collect())
    }

    #[test]
    fn a_group_is_what_stands_before_the_slash() {
        let gates = vec![gate("v1", "Service", "db"), gate("apps/v1", "Deployment", "ingress")];
        let (settings, wrong) = check(&HealthSpec { gates, promote_timeout: None });
        assert!(wrong.is_empty(), "{wrong:?}");
        let seen: Vec<_> = settings.gates.iter().map(|g| (g.group.as_str(), g.version.as_str())).collect();
        assert_eq!(seen, [("", "v1"), ("apps", "v1")]);
        assert_eq!(settings.gates[1].path, "spec.health.gates[1]");
        assert_eq!(settings.promote_timeout, Some(Duration::from_secs(600)));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let gates = vec![gate("apps/", "Deployment", "x"), gate("v1", "Pod", "../y")];
        let (_, wrong) = check(&HealthSpec { gates, promote_timeout: Some("25h".into()) });
        assert_eq!(
            wrong,
            ["spec.health.gates[0].apiVersion", "spec.health.gates[1].name", "spec.health.promoteTimeout"]
        );
    }

    #[test]
    fn zero_is_for_ever() {
        for zero in ["0", "0s", "0ms"] {
            let (settings, wrong) =
                check(&HealthSpec { promote_timeout: Some(zero.into()), ..Default::default() });
            assert!(settings.promote_timeout.is_none() && wrong.is_empty(), "{zero}");
        }
    }
}
