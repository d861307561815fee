//! Which kinds a cluster serves: what discovery said, and what the payload's own CRDs will add.

use std::collections::BTreeMap;

use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope};
use serde_json::Value;

use crate::object::{GroupKind, Manifest};

/// A served kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// How it is addressed.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// All kinds of a cluster in all their versions, the preferred version of each first.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    kinds: BTreeMap<GroupKind, Vec<Kind>>,
}

impl Catalog {
    /// From a finished discovery.
    pub fn from_discovery(discovery: &Discovery) -> Self {
        let mut catalog = Self::default();
        for group in discovery.groups() {
            let preferred = group.preferred_version_or_latest();
            let others = group.versions().filter(|version| *version != preferred);
            for version in std::iter::once(preferred).chain(others) {
                for (resource, capabilities) in group.versioned_resources(version) {
                    let namespaced = capabilities.scope == Scope::Namespaced;
                    catalog.add(Kind { resource, namespaced });
                }
            }
        }
        catalog
    }

    /// Adds a kind after those that are known.
    pub fn add(&mut self, kind: Kind) {
        let key = GroupKind { group: kind.resource.group.clone(), kind: kind.resource.kind.clone() };
        let versions = self.kinds.entry(key).or_default();
        if !versions.iter().any(|known| known.resource.version == kind.resource.version) {
            versions.push(kind);
        }
    }

    /// The kind in that version.
    pub fn get(&self, group: &str, version: &str, kind: &str) -> Option<&Kind> {
        self.versions(group, kind).iter().find(|known| known.resource.version == version)
    }

    /// The kind in the version the cluster prefers.
    pub fn preferred(&self, kind: &GroupKind) -> Option<&Kind> {
        self.versions(&kind.group, &kind.kind).first()
    }

    /// Every `apiVersion` that serves a kind of this name, whatever its group: for a hint.
    pub fn api_versions_of(&self, kind: &str) -> Vec<String> {
        let named = self.kinds.iter().filter(|(key, _)| key.kind == kind);
        named
            .flat_map(|(_, versions)| versions.iter().map(|known| known.resource.api_version.clone()))
            .collect()
    }

    fn versions(&self, group: &str, kind: &str) -> &[Kind] {
        let key = GroupKind { group: group.into(), kind: kind.into() };
        self.kinds.get(&key).map_or(&[], Vec::as_slice)
    }
}

/// The kinds that a manifest defines; none if it is no CRD.
pub(crate) fn defined_by(crd: &Manifest) -> Vec<Kind> {
    if crd.kind != "CustomResourceDefinition" || crd.group != "apiextensions.k8s.io" {
        return Vec::new();
    }
    let Some(spec) = crd.body.get("spec") else { return Vec::new() };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let fields = (text(&spec["group"]), text(&spec["names"]["kind"]), text(&spec["names"]["plural"]));
    let (Some(group), Some(kind), Some(plural)) = fields else { return Vec::new() };
    let namespaced = spec["scope"] == "Namespaced";
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served =
        versions.filter(|version| version["served"] == true).filter_map(|version| text(&version["name"]));
    served
        .map(|version| {
            let api_version = format!("{group}/{version}");
            let (group, kind, plural) = (group.clone(), kind.clone(), plural.clone());
            Kind { resource: ApiResource { group, version, api_version, kind, plural }, namespaced }
        })
        .collect()
}
