//! A made-up fleet behind made-up API servers.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part of it"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use clap::Parser as _;
use flagship_cli::{Cli, Dispatched, Exit, Stop, dispatch};
use serde_json::{Value, json};

pub async fn flagship(args: &[&str]) -> Result<Exit, Stop> {
    let cli = Cli::try_parse_from([&["flagship"], args].concat()).unwrap();
    match dispatch(cli.command).await? {
        Dispatched::Done(exit) => Ok(exit),
        Dispatched::Run(_) | Dispatched::Witness(_) => panic!("only described"),
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What the API server was asked to write, and what it holds.
#[derive(Default)]
pub struct Api {
    pub objects: Vec<Value>,
    /// Resources that the daemon may not touch.
    pub forbidden: Vec<&'static str>,
    pub patches: Vec<(String, Value)>,
    /// What a daemon does with an annotation: the object, the annotation's key, and its value as JSON.
    pub daemon: Option<Daemon>,
}

/// A made-up daemon.
pub type Daemon = fn(&mut Value, &str, &Value);

pub type Shared = Arc<Mutex<Api>>;

/// A server that holds this object, and its address.
pub async fn serve(object: Value) -> (Shared, String) {
    let api = Shared::new(Mutex::new(Api { objects: vec![object], ..Api::default() }));
    let collection = "/apis/kube-vip.io/v1alpha1/namespaces/default/multiclusters";
    let router = axum::Router::new()
        .route("/version", get(async || ([("date", "Sun, 01 Mar 2026 03:00:00 GMT")], "{}")))
        .route(collection, get(list))
        .route(&format!("{collection}/{{name}}"), patch(annotate).get(read))
        .route("/apis/apps/v1", get(apps))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review))
        .fallback(async || status(404, "NotFound", "nothing here"))
        .with_state(Arc::clone(&api));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (api, format!("http://{address}"))
}

fn status(code: u16, reason: &str, message: &str) -> Response {
    let body = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

async fn list(State(api): State<Shared>) -> Json<Value> {
    let items = api.lock().unwrap().objects.clone();
    Json(
        json!({"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiClusterList", "metadata": {}, "items": items}),
    )
}

async fn annotate(State(api): State<Shared>, UrlPath(name): UrlPath<String>, body: String) -> Json<Value> {
    let patch: Value = serde_json::from_str(&body).unwrap();
    let mut api = api.lock().unwrap();
    if let Some(daemon) = api.daemon {
        let object =
            api.objects.iter_mut().find(|object| object["metadata"]["name"] == name.as_str()).unwrap();
        let annotations: &Value = &patch["metadata"]["annotations"];
        for (key, value) in annotations.as_object().unwrap() {
            daemon(object, key, &serde_json::from_str(value.as_str().unwrap()).unwrap());
        }
    }
    api.patches.push((name.clone(), patch));
    Json(json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}}))
}

async fn read(State(api): State<Shared>, UrlPath(name): UrlPath<String>) -> Json<Value> {
    let api = api.lock().unwrap();
    Json(api.objects.iter().find(|object| object["metadata"]["name"] == name.as_str()).unwrap().clone())
}

async fn apps() -> Json<Value> {
    let deployments = json!({"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment", "verbs": ["get", "list"]});
    Json(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "apps/v1", "resources": [deployments]}),
    )
}

async fn review(State(api): State<Shared>, Json(mut review): Json<Value>) -> Json<Value> {
    assert_eq!(
        review["spec"]["user"],
        "system:serviceaccount:kube-vip-multi-cluster-system:kube-vip-multi-cluster-controller-manager"
    );
    let resource = review["spec"]["resourceAttributes"]["resource"].as_str().unwrap().to_string();
    // Leases only where `deploy/install.yaml` keeps them.
    let namespace = &review["spec"]["resourceAttributes"]["namespace"];
    let there = resource != "leases" || namespace == "kube-vip-multi-cluster-system";
    let allowed = there && !api.lock().unwrap().forbidden.iter().any(|forbidden| *forbidden == resource);
    review["status"] = json!({"allowed": allowed});
    Json(review)
}

pub fn object(name: &str, rank: i64, leading: bool) -> Value {
    let other = if name == "newyork" { "sheffield" } else { "newyork" };
    let payload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: nginx}\n";
    json!({
        "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"callsign": "federation", "port": 9990, "rank": rank, "ready": true, "payload": payload, "serviceAddress": format!("127.0.0.1:{rank}"), "fleet": ["127.0.0.1:1", "127.0.0.1:2"]},
        "status": {
            "leading": leading, "role": if leading { "Leader" } else { "Standby" }, "term": 3, "leader": "newyork",
            "members": [{"name": other, "state": "Alive", "address": "127.0.0.1:1"}, {"name": "paris", "state": "Down"}]
        }
    })
}

/// A kubeconfig with a context per server.
pub fn kubeconfig(dir: &Path, servers: &[(&str, &str)]) -> String {
    let named = |kind: &str, value: &dyn Fn(&str, &str) -> Value| -> Vec<Value> {
        servers.iter().map(|(name, server)| json!({"name": name, kind: value(name, server)})).collect()
    };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": servers[0].0,
        "clusters": named("cluster", &|_, server| json!({"server": server})),
        "users": named("user", &|_, _| json!({})),
        "contexts": named("context", &|name, _| json!({"cluster": name, "user": name})),
    });
    let path = dir.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    text(&path).to_string()
}

pub struct Fleet {
    pub newyork: Shared,
    pub sheffield: Shared,
    pub kubeconfig: String,
    _dir: tempfile::TempDir,
}

pub async fn fleet() -> Fleet {
    let dir = tempfile::tempdir().unwrap();
    let (newyork, one) = serve(object("newyork", 1, true)).await;
    let (sheffield, two) = serve(object("sheffield", 2, false)).await;
    let servers = [("newyork", one.as_str()), ("sheffield", two.as_str()), ("dead", "http://127.0.0.1:1")];
    let kubeconfig = kubeconfig(dir.path(), &servers);
    Fleet { newyork, sheffield, kubeconfig, _dir: dir }
}

pub const BOTH: [&str; 4] = ["--context", "newyork", "--context", "sheffield"];
