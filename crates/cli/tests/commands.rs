//! Commands from the command line to the exit code: files in a temporary directory, and a made-up API server.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

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

async fn flagship(args: &[&str]) -> Result<Exit, Stop> {
    let cli = Cli::try_parse_from([&["flagship"], args].concat()).unwrap();
    match dispatch(cli.command).await? {
        Dispatched::Done(exit) => Ok(exit),
        Dispatched::Run(_) | Dispatched::Witness(_) => panic!("only described"),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn make_certificates(out: &str) -> [&str; 10] {
    ["pki", "init", "--fleet", "federation", "--member", "newyork", "--member", "sheffield", "--out", out]
}

#[tokio::test]
async fn certificates_from_nothing_to_shown() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    let make = make_certificates(text(&out));
    assert_eq!(flagship(&make).await.unwrap(), Exit::Success);
    for file in
        ["ca.crt", "ca.key", "newyork/tls.crt", "newyork/tls.key", "newyork/ca.crt", "sheffield/secret.yaml"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    let manifest = std::fs::read_to_string(out.join("newyork/secret.yaml")).unwrap();
    assert!(
        manifest.contains("name: flagship-tls")
            && manifest.contains("namespace: kube-vip-multi-cluster-system")
    );
    let again = flagship(&make).await.unwrap_err();
    assert_eq!(again.exit, Exit::Failure);
    assert!(again.message.contains("exists already"), "{}", again.message);
    assert_eq!(flagship(&["pki", "show", text(&out)]).await.unwrap(), Exit::Success);

    let add = |fleet| ["pki", "add-member", "--fleet", fleet, "--member", "paris", "--out", text(&out)];
    let wrong = flagship(&add("other")).await.unwrap_err();
    assert!(wrong.message.contains("not of fleet other"), "{}", wrong.message);
    assert!(!out.join("paris").exists());
    assert_eq!(flagship(&add("federation")).await.unwrap(), Exit::Success);
    assert!(out.join("paris/secret.yaml").is_file());
}

#[tokio::test]
async fn certificate_commands_that_cannot_work_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("nothing");
    let add = ["pki", "add-member", "--fleet", "f", "--member", "paris", "--out", text(&nothing)];
    let error = flagship(&add).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    assert!(error.message.contains("flagship pki init"), "{}", error.message);
    let error = flagship(&["pki", "show", text(&nothing)]).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    let twice = ["pki", "init", "--fleet", "f", "--member", "a", "--member", "a", "--out", text(&nothing)];
    assert!(flagship(&twice).await.unwrap_err().message.contains("named twice"));
    let garbage = dir.path().join("x.crt");
    std::fs::write(&garbage, [0xff, 0, 1]).unwrap();
    assert_eq!(flagship(&["pki", "show", text(&garbage)]).await.unwrap_err().exit, Exit::Failure);
}

#[tokio::test]
async fn definitions_and_completions_are_printed() {
    assert_eq!(flagship(&["crd"]).await.unwrap(), Exit::Success);
    assert_eq!(flagship(&["completion", "bash"]).await.unwrap(), Exit::Success);
}

/// What the API server was asked to write, and what it holds.
#[derive(Default)]
struct Api {
    objects: Vec<Value>,
    /// Resources that the daemon may not touch.
    forbidden: Vec<&'static str>,
    patches: Vec<(String, Value)>,
}

type Shared = Arc<Mutex<Api>>;

/// A server that holds this object, and its address.
async fn serve(object: Value) -> (Shared, String) {
    let api = Shared::new(Mutex::new(Api { objects: vec![object], ..Api::default() }));
    let collection = "/apis/kube-vip.io/v1alpha1/namespaces/default/multiclusters";
    let router = axum::Router::new()
        .route("/version", get(async || ([("date", "Sun, 01 Mar 2026 03:00:00 GMT")], "{}")))
        .route(collection, get(list))
        .route(&format!("{collection}/{{name}}"), patch(annotate))
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
    let patch = serde_json::from_str(&body).unwrap();
    api.lock().unwrap().patches.push((name.clone(), patch));
    Json(json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}}))
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

fn object(name: &str, rank: i64, leading: bool) -> Value {
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
fn kubeconfig(dir: &Path, servers: &[(&str, &str)]) -> String {
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

struct Fleet {
    newyork: Shared,
    sheffield: Shared,
    kubeconfig: String,
    _dir: tempfile::TempDir,
}

async fn fleet() -> Fleet {
    let dir = tempfile::tempdir().unwrap();
    let (newyork, one) = serve(object("newyork", 1, true)).await;
    let (sheffield, two) = serve(object("sheffield", 2, false)).await;
    let servers = [("newyork", one.as_str()), ("sheffield", two.as_str()), ("dead", "http://127.0.0.1:1")];
    let kubeconfig = kubeconfig(dir.path(), &servers);
    Fleet { newyork, sheffield, kubeconfig, _dir: dir }
}

const BOTH: [&str; 4] = ["--context", "newyork", "--context", "sheffield"];

#[tokio::test]
async fn status_exit_codes() {
    let fleet = fleet().await;
    let run = async |args: &[&str]| {
        flagship(&[&["status", "--kubeconfig", &fleet.kubeconfig], args].concat()).await.unwrap()
    };
    assert_eq!(run(&BOTH).await, Exit::Success);
    for output in ["wide", "json", "yaml"] {
        assert_eq!(run(&["-o", output]).await, Exit::Success);
    }
    assert_eq!(run(&["--context", "newyork", "--context", "dead"]).await, Exit::Unreachable);
    assert_eq!(run(&["--context", "nobody"]).await, Exit::Unreachable);
    // No such namespace in the made-up server is answered as by a cluster without the definition.
    assert_eq!(run(&["-n", "elsewhere"]).await, Exit::Unreachable);
    fleet.newyork.lock().unwrap().objects.clear();
    assert_eq!(run(&["--context", "newyork"]).await, Exit::NotFound);
}

#[tokio::test]
async fn a_missing_kubeconfig_is_said_and_no_panic() {
    let exit = flagship(&["status", "--kubeconfig", "/nonexistent/kubeconfig"]).await.unwrap();
    assert_eq!(exit, Exit::Unreachable);
}

#[tokio::test]
async fn check_passes_on_a_sound_fleet_and_fails_on_missing_rights() {
    let fleet = fleet().await;
    let certs = tempfile::tempdir().unwrap();
    let out = text(certs.path());
    flagship(&make_certificates(out)).await.unwrap();
    let args = [&["check", "--kubeconfig", &fleet.kubeconfig, "--tls-dir", out], BOTH.as_slice()].concat();
    assert_eq!(flagship(&args).await.unwrap(), Exit::Success);
    fleet.sheffield.lock().unwrap().forbidden.push("deployments");
    assert_eq!(flagship(&args).await.unwrap(), Exit::Failure);
    fleet.sheffield.lock().unwrap().forbidden.clear();
    assert_eq!(flagship(&[args.as_slice(), &["-o", "json"]].concat()).await.unwrap(), Exit::Success);
    let dead = [args.as_slice(), &["--context", "dead"]].concat();
    assert_eq!(flagship(&dead).await.unwrap(), Exit::Failure);
}

#[tokio::test]
async fn forget_tells_all_members_but_the_one_that_is_gone() {
    let fleet = fleet().await;
    let args = [
        &["fleet", "forget", "paris", "--reason", "burnt \"down\"", "--kubeconfig", &fleet.kubeconfig],
        BOTH.as_slice(),
    ]
    .concat();
    assert_eq!(flagship(&args).await.unwrap(), Exit::Success);
    for (api, name) in [(&fleet.newyork, "newyork"), (&fleet.sheffield, "sheffield")] {
        let patches = api.lock().unwrap().patches.clone();
        let [(patched, patch)] = patches.as_slice() else { panic!("{patches:?}") };
        assert_eq!(patched, name);
        let value = patch["metadata"]["annotations"]["kube-vip.io/forget"].as_str().unwrap();
        let command = flagship_k8s_api::Command::parse(value).unwrap();
        assert_eq!((command.member.as_str(), command.reason.as_str()), ("paris", "burnt \"down\""));
    }
    let args = ["fleet", "forget", "newyork", "--reason", "sold", "--kubeconfig", &fleet.kubeconfig];
    let error = flagship(&args).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    assert!(error.message.contains("only newyork itself was found"), "{}", error.message);
    let args = ["fleet", "admit", "atlantis", "--reason", "found", "--kubeconfig", &fleet.kubeconfig];
    let error = flagship(&args).await.unwrap_err();
    assert!(error.message.contains("flagship status"), "{}", error.message);
}

#[tokio::test]
async fn a_forgotten_member_can_be_admitted_and_forgotten_again() {
    let fleet = fleet().await;
    // As the survivor writes it: no row any more.
    fleet.newyork.lock().unwrap().objects[0]["status"]["members"] = json!([]);
    fleet.newyork.lock().unwrap().objects[0]["status"]["forgotten"] = json!(["sheffield"]);
    for verb in ["admit", "forget"] {
        let args = ["fleet", verb, "sheffield", "--reason", "x", "--kubeconfig", &fleet.kubeconfig];
        assert_eq!(flagship(&args).await.unwrap(), Exit::Success, "{verb}");
    }
    assert_eq!(fleet.newyork.lock().unwrap().patches.len(), 2);
}

#[tokio::test]
async fn a_member_of_two_fleets_has_to_be_named_with_its_fleet() {
    let fleet = fleet().await;
    let mut other = object("london", 3, false);
    other["spec"]["callsign"] = json!("second");
    fleet.newyork.lock().unwrap().objects.push(other);
    let args = ["fleet", "admit", "paris", "--reason", "back", "--kubeconfig", &fleet.kubeconfig];
    let error = flagship(&args).await.unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.contains("federation, second"), "{}", error.message);
    assert_eq!(flagship(&[args.as_slice(), &["--fleet", "second"]].concat()).await.unwrap(), Exit::Success);
    assert_eq!(fleet.newyork.lock().unwrap().patches[0].0, "london");
}
