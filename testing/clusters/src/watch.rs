//! Watches the payload and the members on one API server, over a path that no fault cuts, and notes when things came
//! and went. The times of all watches of one process are of one clock, so they can be compared.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;

/// A watch that failed is tried again after this time: short, because it is the precision of what is seen.
const RETRY: Duration = Duration::from_millis(50);
/// More comings and goings than the longest series has; the oldest are forgotten beyond it.
const MAX_SIGHTINGS: usize = 50_000;

/// Which objects count as the payload.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Where they are.
    pub namespace: String,
    /// Name of the Deployment.
    pub deployment: String,
    /// Labels of its pods.
    pub pod_labels: String,
}

impl Default for Payload {
    /// The payload of `testing/manifests`.
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            deployment: "nginx-deployment2".to_owned(),
            pod_labels: "app=nginx".to_owned(),
        }
    }
}

/// What kind of object was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The payload's Deployment.
    Deployment,
    /// One of its pods.
    Pod,
}

/// An object that is there now.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// `metadata.generation`: unchanged means that nobody wrote its spec.
    pub generation: i64,
    /// All replicas ready, or the pod Ready.
    pub ready: bool,
    /// When it was first seen.
    pub since: Instant,
}

/// Something came or went.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// When it was seen.
    pub at: Instant,
    /// What it was.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it came (or was there at the start); otherwise it went.
    pub came: bool,
}

/// A time in which at least one object of the payload was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// When the first one came.
    pub from: Instant,
    /// When the last one had gone; `None` if one is still there.
    pub to: Option<Instant>,
}

/// All that is known of one cluster.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The payload's objects by uid.
    pub objects: BTreeMap<String, Object>,
    /// Everything that came and went, in order.
    pub sightings: Vec<Sighting>,
    /// When the payload was there, in order.
    pub presences: Vec<Presence>,
    /// The MultiCluster objects by name.
    pub members: BTreeMap<String, Value>,
}

impl State {
    /// Whether anything of the payload is there.
    #[must_use]
    pub fn present(&self) -> bool {
        !self.objects.is_empty()
    }

    /// The Deployment and its uid, if it is there.
    #[must_use]
    pub fn deployment(&self) -> Option<(&str, &Object)> {
        let found = self.objects.iter().find(|(_, object)| object.kind == Kind::Deployment);
        found.map(|(uid, object)| (uid.as_str(), object))
    }

    /// How many pods are there, and how many of them are Ready.
    #[must_use]
    pub fn pods(&self) -> (usize, usize) {
        let pods = self.objects.values().filter(|object| object.kind == Kind::Pod);
        pods.fold((0, 0), |(all, ready), pod| (all + 1, ready + usize::from(pod.ready)))
    }

    /// When a Deployment came, at or after a time.
    #[must_use]
    pub fn deployment_created_since(&self, since: Instant) -> Option<Instant> {
        let came = |s: &&Sighting| s.came && s.kind == Kind::Deployment && s.at >= since;
        self.sightings.iter().find(came).map(|sighting| sighting.at)
    }

    /// A field of a member's status.
    #[must_use]
    pub fn status<'a>(&'a self, member: &str, field: &str) -> &'a Value {
        static NOTHING: Value = Value::Null;
        self.members.get(member).map_or(&NOTHING, |object| &object["status"][field])
    }

    fn saw(&mut self, uid: &str, kind: Kind, name: String, generation: i64, ready: bool) {
        let at = Instant::now();
        if let Some(known) = self.objects.get_mut(uid) {
            (known.generation, known.ready) = (generation, ready);
            return;
        }
        if self.objects.is_empty() {
            self.presences.push(Presence { from: at, to: None });
        }
        self.note(Sighting { at, kind, name: name.clone(), uid: uid.to_owned(), came: true });
        self.objects.insert(uid.to_owned(), Object { kind, name, generation, ready, since: at });
    }

    fn lost(&mut self, uid: &str) {
        let at = Instant::now();
        let Some(object) = self.objects.remove(uid) else { return };
        self.note(Sighting { at, kind: object.kind, name: object.name, uid: uid.to_owned(), came: false });
        if self.objects.is_empty()
            && let Some(last) = self.presences.last_mut()
        {
            last.to = Some(at);
        }
    }

    fn note(&mut self, sighting: Sighting) {
        if self.sightings.len() >= MAX_SIGHTINGS {
            self.sightings.drain(..MAX_SIGHTINGS / 2);
        }
        self.sightings.push(sighting);
    }
}

/// A running watch. It ends with this value.
#[derive(Debug)]
pub struct Watch {
    state: watch::Receiver<State>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Starts to watch. What is there already counts as having come now.
    ///
    /// # Errors
    /// If there is no client for the cluster.
    pub async fn start(cluster: &Cluster, payload: &Payload) -> Result<Self> {
        Ok(Self::over(cluster.watch_client().await?, payload))
    }

    /// The same over a client for any cluster, whose read timeout is longer than a watch is silent.
    #[must_use]
    pub fn over(client: Client, payload: &Payload) -> Self {
        let (sender, state) = watch::channel(State::default());
        let mut tasks = JoinSet::new();
        let (deployments, pods, members) = sources(client, payload);
        tasks.spawn(follow(deployments.0, deployments.1, sender.clone(), see_deployment, lose_payload));
        tasks.spawn(follow(pods.0, pods.1, sender.clone(), see_pod, lose_payload));
        tasks.spawn(follow(members, watcher::Config::default(), sender, see_member, lose_member));
        Self { state, _tasks: tasks }
    }

    /// All that is known now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state as it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the state fulfils a condition, and returns it.
    ///
    /// # Errors
    /// After `limit`, with `what` and the last state's payload.
    pub async fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl FnMut(&State) -> bool,
    ) -> Result<State> {
        let mut state = self.state.clone();
        match tokio::time::timeout(limit, state.wait_for(condition)).await {
            Ok(found) => Ok(found.context("the watch has ended")?.clone()),
            Err(_) => {
                let last = self.state();
                let statuses: Vec<_> =
                    last.members.iter().map(|(name, object)| (name, &object["status"])).collect();
                anyhow::bail!(
                    "waited {} s in vain: {what}. Payload there: {} (pods, ready: {:?}); status: {}",
                    limit.as_secs(),
                    last.deployment().is_some(),
                    last.pods(),
                    serde_json::to_string(&statuses).unwrap_or_default()
                )
            }
        }
    }
}

/// For how long, since a time, both clusters had something of the payload. What is still there counts until now.
#[must_use]
pub fn overlap(one: &State, other: &State, since: Instant) -> Duration {
    let now = Instant::now();
    let mut total = Duration::ZERO;
    for a in &one.presences {
        for b in &other.presences {
            let from = a.from.max(b.from).max(since);
            let to = a.to.unwrap_or(now).min(b.to.unwrap_or(now));
            total += to.saturating_duration_since(from);
        }
    }
    total
}

type Source<K> = (Api<K>, watcher::Config);

fn sources(client: Client, payload: &Payload) -> (Source<Deployment>, Source<Pod>, Api<DynamicObject>) {
    let deployments = watcher::Config::default().fields(&format!("metadata.name={}", payload.deployment));
    let pods = watcher::Config::default().labels(&payload.pod_labels);
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-vip.io", "v1alpha1", "MultiCluster"));
    (
        (Api::namespaced(client.clone(), &payload.namespace), deployments),
        (Api::namespaced(client.clone(), &payload.namespace), pods),
        Api::all_with(client, &kind),
    )
}

/// Keeps one kind of objects in the state for ever. After an interruption it sees what went meanwhile as gone then.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    state: watch::Sender<State>,
    see: fn(&mut State, &K),
    lose: fn(&mut State, &K),
) where
    K: ResourceExt + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut known: BTreeMap<String, K> = BTreeMap::new();
    let mut listed: BTreeMap<String, K> = BTreeMap::new();
    let mut events = Box::pin(watcher::watcher(api, config));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => {
                state.send_modify(|state| see(state, &object));
                known.insert(object.uid().unwrap_or_default(), object);
            }
            Ok(Event::Delete(object)) => {
                known.remove(&object.uid().unwrap_or_default());
                state.send_modify(|state| lose(state, &object));
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(object.uid().unwrap_or_default(), object);
            }
            Ok(Event::InitDone) => {
                let gone = known.iter().filter(|(uid, _)| !listed.contains_key(*uid));
                state.send_modify(|state| {
                    gone.for_each(|(_, object)| lose(state, object));
                    listed.values().for_each(|object| see(state, object));
                });
                known = std::mem::take(&mut listed);
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

fn see_deployment(state: &mut State, object: &Deployment) {
    let wanted = object.spec.replicas.unwrap_or(1);
    let ready = object.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let generation = object.metadata.generation.unwrap_or(0);
    state.saw(
        &object.uid().unwrap_or_default(),
        Kind::Deployment,
        object.name_any(),
        generation,
        ready >= wanted,
    );
}

fn see_pod(state: &mut State, object: &Pod) {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let generation = object.metadata.generation.unwrap_or(0);
    state.saw(&object.uid().unwrap_or_default(), Kind::Pod, object.name_any(), generation, ready);
}

fn lose_payload<K: ResourceExt>(state: &mut State, object: &K) {
    state.lost(&object.uid().unwrap_or_default());
}

fn see_member(state: &mut State, object: &DynamicObject) {
    state.members.insert(object.name_any(), object.data.clone());
}

fn lose_member(state: &mut State, object: &DynamicObject) {
    state.members.remove(&object.name_any());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(start: Instant, from: u64, to: Option<u64>) -> Presence {
        let at = |ms| start + Duration::from_millis(ms);
        Presence { from: at(from), to: to.map(at) }
    }

    #[test]
    fn overlap_is_the_time_that_both_have_something() {
        let start = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let of = |presences| State { presences, ..State::default() };
        let one = of(vec![presence(start, 0, Some(1000)), presence(start, 3000, Some(4000))]);
        let mut other = of(vec![presence(start, 1000, Some(3000))]);
        assert_eq!(overlap(&one, &other, start), Duration::ZERO, "stop before start");
        other.presences = vec![presence(start, 900, Some(3500))];
        assert_eq!(overlap(&one, &other, start), Duration::from_millis(600));
        assert_eq!(overlap(&other, &one, start + Duration::from_millis(2000)), Duration::from_millis(500));
    }

    #[test]
    fn the_payload_is_present_until_its_last_object_has_gone() {
        let mut state = State::default();
        state.saw("d", Kind::Deployment, "web".to_owned(), 1, false);
        state.saw("p", Kind::Pod, "web-1".to_owned(), 0, true);
        state.lost("d");
        assert!(state.present() && state.deployment().is_none());
        assert_eq!(state.pods(), (1, 1));
        state.lost("p");
        state.lost("p");
        assert!(!state.present());
        assert_eq!(state.presences.len(), 1);
        assert!(state.presences[0].to.is_some());
        assert_eq!(state.sightings.len(), 4);
    }
}
