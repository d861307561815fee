//! Values that several tests use.

use std::sync::Arc;

use flagship_k8s_api::{MultiClusterSpec, Settings};
use flagship_node::{
    Directive, DurableRecord, LinkId, Links, LocalHello, MemberSnapshot, PeerMessage, Snapshot, State, Store,
    StoreError,
};
use flagship_types::{
    CloseCode, Epoch, FleetConfig, Health, Instant, MemberName, PeerAddress, Rank, Role, Term,
};
use kube::Client;
use kube::client::Body;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::ports::{Joiner, NoObserver};
use crate::supervisor::{OnShutdown, Options};
use crate::worker::Context;

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

fn name(name: &str) -> MemberName {
    name.parse().unwrap()
}

/// Another member of the same fleet, linked.
pub(crate) fn peer(who: &str, state: State) -> MemberSnapshot {
    MemberSnapshot {
        name: name(who),
        state,
        since: Instant::ZERO,
        linked: state == State::Alive,
        address: Some(PeerAddress::parse("172.18.100.200:9990", 9990).unwrap()),
        rtt: None,
        heard_at: None,
        rank: Some(Rank(10)),
        role: Some(Role::Standby),
        term: Term(7),
        health: Health::default(),
        epoch: Epoch(4711),
        candidate: true,
        fences: false,
        quorum: true,
        unfit: None,
    }
}

/// Nobody is linked.
pub(crate) struct NoLinks;

impl Links for NoLinks {
    fn connect(&self, _: &PeerAddress) {}
    fn send(&self, _: LinkId, _: PeerMessage) {}
    fn close(&self, _: LinkId, _: CloseCode) {}
    fn set_hello(&self, _: LocalHello) {}
}

/// Nobody has to believe it.
pub(crate) fn unsigned(_: &flagship_node::Statement) -> Option<flagship_node::Proof> {
    None
}

/// Everything is durable at once.
pub(crate) struct NoStore;

#[async_trait::async_trait]
impl Store for NoStore {
    async fn persist(&self, _: &DurableRecord) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What the workers of a daemon share that is the replica `pod-1`.
pub(crate) fn context(client: Client, joiner: Arc<dyn Joiner>) -> Context {
    let recorder = Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None });
    let options = Options {
        namespace: None,
        lease_namespace: None,
        allow_cross_namespace: false,
        holder: "pod-1".into(),
        node: Some("n1".into()),
        on_shutdown: OnShutdown::Hold,
    };
    let shutdown = CancellationToken::new();
    Context { client, options, joiner, observer: Arc::new(NoObserver), recorder, shutdown }
}

/// newyork, alone in its fleet, leads under term 7.
pub(crate) fn snapshot() -> Snapshot {
    let own = MemberSnapshot {
        address: Some(PeerAddress::parse("172.18.100.100:9990", 9990).unwrap()),
        rank: Some(Rank(5)),
        role: Some(Role::Leader),
        ..peer("newyork", State::Alive)
    };
    Snapshot {
        callsign: "federation".parse().unwrap(),
        member: name("newyork"),
        epoch: Epoch(4711),
        taken_at: Instant::ZERO,
        role: Role::Leader,
        term: Term(7),
        leader: Some(name("newyork")),
        directive: Directive::Run { term: Term(7), resumed: false },
        config: FleetConfig::default(),
        stop_grace: FleetConfig::default().stop_grace,
        restart_grace: FleetConfig::default().restart_grace,
        silence_floor: std::time::Duration::from_secs(3),
        ascent: None,
        may_run_at: Vec::new(),
        successor: None,
        lapse: None,
        config_conflict: None,
        voters_refused: None,
        config_missing: Vec::new(),
        quorum: false,
        waiting_for: None,
        members: vec![own],
        other_leaders: Vec::new(),
        name_in_use: false,
        interrupted: false,
        membership: Default::default(),
        election: Default::default(),
    }
}

/// An API server that answers every request by what `answer` makes of its method, path and JSON body: a status code
/// and a body.
pub(crate) fn api_server(
    answer: impl Fn(&str, &str, Value) -> (u16, Value) + Send + Sync + 'static,
) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let (code, body) = answer(parts.method.as_str(), parts.uri.path(), body);
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "default")
}

/// The body of an error answer.
pub(crate) fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let message = format!("because {reason}");
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

/// The Services of a fake API server: the newest version and the one Service, if it is there.
pub(crate) type Services = tokio::sync::watch::Sender<(u64, Option<Value>)>;

/// A Service of this type, port and ingress.
#[expect(clippy::needless_pass_by_value, reason = "takes what `json!` makes, straight from the test")]
pub(crate) fn service(kind: &str, ports: Value, ingress: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "front", "namespace": "system", "uid": "s"},
        "spec": {"type": kind, "ports": ports},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// Puts, replaces or (with `None`) deletes the Service.
pub(crate) fn put(services: &Services, service: Option<Value>) {
    services.send_modify(|(version, now)| (*version, *now) = (*version + 1, service));
}

/// An API server with one Service, which it lists and lets watch; everything else is an empty object.
pub(crate) fn service_api(services: &Services) -> Client {
    let state = services.subscribe();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let mut state = state.clone();
        async move {
            let uri = request.uri().clone();
            let query = uri.query().unwrap_or_default();
            let body = match (uri.path().ends_with("/services"), query.contains("watch=true")) {
                (false, _) => json!({}),
                (true, false) => list(&state.borrow()),
                (true, true) => {
                    assert!(query.contains("fieldSelector=metadata.name"), "{query}");
                    let parameter = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
                    let seen: u64 = parameter.unwrap().parse().unwrap();
                    event(&state.wait_for(|(version, _)| *version > seen).await.unwrap())
                }
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        }
    });
    Client::new(service, "default")
}

fn list((version, service): &(u64, Option<Value>)) -> Value {
    let items: Vec<_> = service.iter().map(|service| versioned(service, *version)).collect();
    json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn event((version, now): &(u64, Option<Value>)) -> Value {
    let gone = || service("LoadBalancer", json!([]), json!([]));
    let kind = if now.is_some() { "MODIFIED" } else { "DELETED" };
    json!({"type": kind, "object": versioned(&now.clone().unwrap_or_else(gone), *version)})
}

fn versioned(service: &Value, version: u64) -> Value {
    let mut service = service.clone();
    service["metadata"]["resourceVersion"] = json!(version.to_string());
    service
}
