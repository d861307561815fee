//! Edits as a user makes them, and what `kubectl describe` would show.

use std::time::Duration;

use anyhow::{Context, Result};
use clusters::fleet::Member;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use crate::world::World;

const CALL: Duration = Duration::from_secs(10);

impl World {
    /// `kubectl patch --type=merge` of a member's MultiCluster.
    pub async fn patch(&self, member: &Member, patch: Value) -> Result<()> {
        member.patch(&patch).await
    }

    /// Events of a member's object, as `REASON: message`.
    pub async fn events(&self, member: &Member) -> Result<Vec<String>> {
        let api: Api<Event> = Api::namespaced(member.cluster.client().await?, "default");
        let of = format!("involvedObject.name={}", member.name());
        let params = ListParams::default().fields(&of);
        let list = tokio::time::timeout(CALL, api.list(&params));
        let events = list.await.context("list events: no answer")?.context("list events")?;
        let line = |event: Event| {
            format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
        };
        Ok(events.items.into_iter().map(line).collect())
    }

    /// Waits until an Event of the member's object holds this text.
    pub async fn event(&self, member: &Member, text: &str) -> Result<()> {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let events = self.events(member).await?;
            if events.iter().any(|event| event.contains(text)) {
                return Ok(());
            }
            anyhow::ensure!(std::time::Instant::now() < deadline, "no Event with {text:?} among {events:#?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// An object of any kind in the default namespace; `None` if it is not there.
    pub async fn get(
        &self,
        member: &Member,
        api_version: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(member.cluster.client().await?, "default", &resource);
        let call = tokio::time::timeout(CALL, api.get_opt(name));
        call.await.context("get: no answer")?.with_context(|| format!("get {kind} {name}"))
    }
}
