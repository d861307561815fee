//! Objects that are not part of the payload and that have to be ready before it may come here.

use std::sync::Arc;

use flagship_k8s_api::GateKey;
use serde_json::Value;

use crate::catalog::Catalog;
use crate::cluster::{Cluster, side_by_side};
use crate::error::ApiError;
use crate::object::{GroupKind, ObjectId};
use crate::plan::Reach;
use crate::readiness::{Readiness, assess};

/// A gate that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedGate {
    /// The field that asks for it: `spec.health.gates[0]`.
    pub path: String,
    /// What it is about and what is wrong, as a sentence.
    pub why: String,
}

impl std::fmt::Display for ClosedGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl Cluster {
    /// Looks at the objects that gates name, and returns those that do not hold, in their order. What the API server
    /// refuses to say closes a gate, as somebody has to do something about it; an error is one that may pass by itself.
    pub async fn look_at_gates(
        &self,
        gates: &[GateKey],
        home: &str,
        reach: Reach,
    ) -> Result<Vec<ClosedGate>, ApiError> {
        let catalog = self.catalog_for(gates).await?;
        let catalog = catalog.as_ref();
        let looks: Vec<_> = gates
            .iter()
            .enumerate()
            .map(|(at, gate)| async move { (at, self.look_at_gate(catalog, gate, home, reach).await) })
            .collect();
        let mut looks = side_by_side(looks).await;
        looks.sort_by_key(|(at, _)| *at);
        let mut closed = Vec::new();
        for (at, look) in looks {
            let why = match look {
                Ok(why) => why,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => Some(error.to_string()),
            };
            closed.extend(why.map(|why| ClosedGate { path: gates[at].path.clone(), why }));
        }
        Ok(closed)
    }

    /// Why the gate does not hold; `None`: it does.
    async fn look_at_gate(
        &self,
        catalog: &Catalog,
        gate: &GateKey,
        home: &str,
        reach: Reach,
    ) -> Result<Option<String>, ApiError> {
        let Some(kind) = catalog.get(&gate.group, &gate.version, &gate.kind) else {
            return Ok(Some(format!("this cluster serves no kind {} in {}", gate.kind, api_version(gate))));
        };
        let namespace = match kind.namespaced {
            true => gate.namespace.clone().unwrap_or_else(|| home.to_owned()),
            false => String::new(),
        };
        let (group, name) = (gate.group.clone(), gate.name.clone());
        let id = ObjectId { group, kind: gate.kind.clone(), namespace, name };
        if id.namespace != home && !reach.cross_namespace {
            return Ok(Some(format!(
                "{id} is not in the MultiCluster's namespace {home}: start flagship with --allow-cross-namespace"
            )));
        }
        let api = self.api(&kind.resource, &id.namespace);
        let Some(live) = self.find(&id, || api.get_opt(&id.name)).await? else {
            return Ok(Some(format!("{id} does not exist")));
        };
        let group_kind = GroupKind { group: gate.group.clone(), kind: gate.kind.clone() };
        let live = serde_json::to_value(&live).unwrap_or(Value::Null);
        Ok(match assess(&group_kind, &live) {
            Readiness::Ready => None,
            Readiness::InProgress(why) => Some(format!("{id} is not ready: {why}")),
            Readiness::Failed(why) => Some(format!("{id} has failed: {why}")),
        })
    }

    /// The served kinds; asked for anew if one is not among them, as it may have come lately.
    async fn catalog_for(&self, gates: &[GateKey]) -> Result<Arc<Catalog>, ApiError> {
        let catalog = self.catalog().await?;
        let knows = |gate: &GateKey| catalog.get(&gate.group, &gate.version, &gate.kind).is_some();
        match gates.iter().all(knows) {
            true => Ok(catalog),
            false => self.refresh_catalog().await,
        }
    }
}

fn api_version(gate: &GateKey) -> String {
    match gate.group.as_str() {
        "" => gate.version.clone(),
        group => format!("{group}/{}", gate.version),
    }
}
