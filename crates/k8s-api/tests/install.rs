//! What a user applies: `deploy/install.yaml` holds exactly its sources, names one version of everything, and goes
//! away in an order that harms no payload.
//!
//! `UPDATE=1 cargo test -p flagship-k8s-api` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use flagship_types::{Callsign, MemberIdentity, MemberName, TrustDomain};
use serde_json::{Value, json};

const HEAD: &str = "\
# Everything that Flagship needs in a cluster: kubectl apply -f deploy/install.yaml
#
# Made from the files that deploy/kustomization.yaml lists: UPDATE=1 cargo test -p flagship-k8s-api
# Do not `kubectl delete -f` it while there are MultiClusters: docs/install.md says how Flagship is removed.
";
/// What `kubectl apply` copies into an annotation, all of which together may have this size.
const ANNOTATIONS_MAX: usize = 256 * 1024;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The files that make up the installation, in their order.
fn sources() -> Vec<String> {
    let kustomization = &documents(&read("deploy/kustomization.yaml"))[0];
    assert_eq!(kustomization["sortOptions"]["order"], "fifo", "kubectl would sort them otherwise");
    let resources = kustomization["resources"].as_array().expect("resources");
    resources.iter().map(|file| format!("deploy/{}", file.as_str().expect("a file"))).collect()
}

fn installed() -> Vec<Value> {
    documents(&read("deploy/install.yaml"))
}

fn of_kind(kind: &str) -> Value {
    let all = installed();
    let mut found = all.into_iter().filter(|document| document["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    one
}

#[test]
fn install_yaml_holds_its_sources() {
    let texts: Vec<String> = sources().iter().map(|file| read(file)).collect();
    let joined: Vec<&str> = texts.iter().map(|text| text.trim_start_matches("---\n").trim_end()).collect();
    let made = format!("{HEAD}{}\n", joined.join("\n---\n"));
    let path = root().join("deploy/install.yaml");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let wanted: Vec<Value> = texts.iter().flat_map(|text| documents(text)).collect();
    assert_eq!(documents(&made), wanted, "joining the files changed them");
    let stale = "deploy/install.yaml is stale: UPDATE=1 cargo test -p flagship-k8s-api";
    assert_eq!(installed(), wanted, "{stale}");
    assert!(read("deploy/install.yaml") == made, "{stale}");
}

#[test]
fn the_names_are_those_of_the_proof_of_concept() {
    let deployment = of_kind("Deployment");
    assert_eq!(of_kind("Namespace")["metadata"]["name"], "kube-vip-multi-cluster-system");
    assert_eq!(deployment["metadata"]["namespace"], "kube-vip-multi-cluster-system");
    assert_eq!(deployment["metadata"]["name"], "kube-vip-multi-cluster-controller-manager");
    let template = &deployment["spec"]["template"];
    // What `kubectl expose deployment --selector=` of the guide names.
    for labels in [
        &deployment["metadata"]["labels"],
        &template["metadata"]["labels"],
        &deployment["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(labels["control-plane"], "controller-manager");
    }
    let port = json!({"name": "fleet", "containerPort": 9990});
    assert!(template["spec"]["containers"][0]["ports"].as_array().unwrap().contains(&port));
    let secret = &template["spec"]["volumes"][0]["projected"]["sources"][0]["secret"];
    assert_eq!(*secret, json!({"name": "flagship-tls", "optional": true}));
}

#[test]
fn the_crd_is_deleted_last_when_the_daemon_has_no_rights_any_more() {
    let kinds: Vec<Value> = installed().iter().map(|document| document["kind"].clone()).collect();
    assert_eq!(kinds.first(), Some(&json!("Namespace")), "what is in it is applied after it");
    assert_eq!(kinds.last(), Some(&json!("CustomResourceDefinition")), "kubectl deletes in the file's order");
}

#[test]
fn no_right_is_a_wildcard_and_none_is_given_everywhere_but_the_daemons_own() {
    for document in installed() {
        for rule in document["rules"].as_array().into_iter().flatten() {
            assert!(!rule.to_string().contains('*'), "{rule}");
        }
        if document["kind"] == "ClusterRoleBinding" {
            assert_eq!(document["roleRef"]["name"], "kube-vip-multi-cluster-controller-manager");
        }
    }
    let own = of_kind("ClusterRole");
    for rule in own["rules"].as_array().expect("rules") {
        let resources = rule["resources"].to_string();
        assert!(!resources.contains("secrets") && !resources.contains("pods"), "{rule}");
    }
}

#[test]
fn kubectl_apply_takes_every_document() {
    for document in installed() {
        let size = document.to_string().len();
        assert!(size < ANNOTATIONS_MAX / 2, "{} has {size} bytes", document["kind"]);
    }
}

#[test]
fn one_image_and_one_rust() {
    let deployment = of_kind("Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let image = container["image"].as_str().unwrap();
    assert_eq!(image, concat!("flagship:", env!("CARGO_PKG_VERSION")));
    // Otherwise the kubelet would ask a registry for an image that was loaded.
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert!(read("Makefile").contains(&format!("\nLOCAL := {image}\n")), "the Makefile has another image");
    let toolchain = read("rust-toolchain.toml");
    let rust = toolchain.split("channel = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let dockerfile = read("Dockerfile");
    assert!(
        dockerfile.contains(&format!("FROM rust:{rust}-")),
        "the Dockerfile has another Rust than {rust}"
    );
    assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={rust} ")));
    // The same user in the image and in the pod.
    let user = &deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"];
    for file in ["Dockerfile", "deploy/Dockerfile.scratch"] {
        assert!(read(file).contains(&format!("\nUSER {user}:{user}\n")), "{file}");
    }
}

#[test]
fn undeploy_takes_the_daemon_and_nothing_that_a_payload_needs() {
    let makefile = read("Makefile");
    let undeploy = makefile.split("\nundeploy:").nth(1).and_then(|rest| rest.lines().nth(1)).unwrap();
    assert_eq!(undeploy, "\t$(KUBECTL) delete --ignore-not-found -f deploy/manager.yaml");
    let kinds: Vec<Value> =
        documents(&read("deploy/manager.yaml")).iter().map(|d| d["kind"].clone()).collect();
    assert_eq!(kinds, ["PriorityClass", "Deployment"]);
}

/// Runs `deploy/uninstall.sh` with a kubectl that answers like this and writes down what it is told to delete.
fn uninstall(kubectl: &str) -> (Output, String) {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = format!("uninstall-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(run);
    fs::create_dir_all(&dir).expect("make a directory");
    let (script, log) = (dir.join("kubectl"), dir.join("log"));
    let text =
        format!("#!/bin/sh\ncase \"$*\" in\ndelete*) echo \"$*\" >>{} ;;\n{kubectl}\nesac\n", log.display());
    fs::write(&script, text).expect("write a script");
    let output = Command::new("sh")
        .arg(root().join("deploy/uninstall.sh"))
        .env("KUBECTL", format!("sh {}", script.display()))
        .output()
        .expect("run sh");
    let deleted = fs::read_to_string(&log).unwrap_or_default();
    fs::remove_dir_all(&dir).expect("remove the directory");
    (output, deleted)
}

#[test]
fn uninstall_refuses_while_there_is_a_multicluster_and_says_what_to_do() {
    let (output, deleted) = uninstall(
        "'get crd'*) echo customresourcedefinition/multiclusters.kube-vip.io ;;\n\
         'get multiclusters'*) echo default newyork; echo shop leeds ;;",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), deleted.as_str()), (Some(1), ""), "{said}");
    for command in [
        "delete multicluster --namespace default newyork\n",
        "delete multicluster --namespace shop leeds\n",
        "--patch '{\"spec\":{\"apply\":{\"deletionPolicy\":\"Orphan\"}}}'\n",
    ] {
        assert!(said.contains(command), "{command} is not in {said}");
    }
}

#[test]
fn uninstall_deletes_nothing_when_it_cannot_ask() {
    for kubectl in [
        "*) echo no connection >&2; exit 1 ;;",
        "'get crd'*) echo customresourcedefinition/x ;;\n*) echo forbidden >&2; exit 1 ;;",
        "'get crd'*) ;;\n*) echo bindings are forbidden >&2; exit 1 ;;",
    ] {
        let (output, deleted) = uninstall(kubectl);
        assert_eq!((output.status.success(), deleted.as_str()), (false, ""), "{kubectl}");
    }
}

#[test]
fn uninstall_deletes_the_crd_last() {
    for kubectl in
        ["'get crd'*) ;;", "'get crd'*) echo customresourcedefinition/x ;;\n'get multiclusters'*) ;;"]
    {
        let (output, deleted) = uninstall(kubectl);
        assert!(output.status.success(), "{output:?}");
        let at = |file: &str| deleted.find(file).unwrap_or_else(|| panic!("{file} is not in {deleted}"));
        let order = ["/manager.yaml", "/rbac.yaml", "/namespace.yaml", "/crds/multiclusters.yaml"].map(at);
        assert!(order.is_sorted(), "{deleted}");
    }
}

#[test]
fn uninstall_takes_the_daemons_rights_in_all_namespaces_and_shows_those_that_it_leaves() {
    let account = "kube-vip-multi-cluster-controller-manager";
    let (output, deleted) = uninstall(&format!(
        "'get crd'*) ;;\n\
         'get rolebindings'*) echo kube-vip-multi-cluster-system {account}; echo shop extra; \
           echo shop kube-vip-multi-cluster-payloads; echo default kube-vip-multi-cluster-payloads ;;\n\
         'get clusterrolebindings'*) echo {account}; echo kinds-everywhere ;;"
    ));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for namespace in ["shop", "default"] {
        let line =
            format!("rolebinding --ignore-not-found --namespace {namespace} kube-vip-multi-cluster-payloads");
        assert!(deleted.contains(&line), "{deleted}");
    }
    let left: Vec<&str> = said.lines().filter_map(|line| line.split(" delete ").nth(1)).collect();
    assert_eq!(left, ["rolebinding --namespace shop extra", "clusterrolebinding kinds-everywhere"]);
    assert!(!deleted.contains("extra") && !deleted.contains("kinds-everywhere"), "{deleted}");
}

#[test]
fn uninstall_leaves_the_crd_to_a_multicluster_that_was_made_meanwhile() {
    // There is a log when something has been deleted.
    let (output, deleted) = uninstall(
        "'get crd'*) echo customresourcedefinition/x ;;\n\
         'get multiclusters'*) if [ -e \"${0%kubectl}log\" ]; then echo shop late; fi ;;",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the CRD stays") && said.contains("\n  shop late\n"), "{said}");
    assert!(deleted.contains("/namespace.yaml") && !deleted.contains("/crds/"), "{deleted}");
}

/// Durations as cert-manager takes them, in hours.
fn hours(duration: &Value) -> u32 {
    let text = duration.as_str().and_then(|text| text.strip_suffix('h')).expect("hours");
    text.parse().expect("a number of hours")
}

/// As far as can be said without cert-manager; docs/install.md says what was tried with it.
#[test]
fn the_cert_manager_example_makes_what_the_daemon_wants() {
    let all = documents(&read("deploy/examples/cert-manager.yaml"));
    let one = |kind: &str, name: &str| {
        let found =
            all.iter().find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    };
    for document in &all {
        assert_eq!(document["apiVersion"], "cert-manager.io/v1");
        assert_eq!(document["metadata"]["namespace"], of_kind("Deployment")["metadata"]["namespace"]);
    }
    let (authority, member) = (one("Certificate", "flagship-ca"), one("Certificate", "flagship-tls"));
    for certificate in [authority, member] {
        let key = &certificate["spec"]["privateKey"];
        assert_eq!((&key["algorithm"], &key["size"]), (&json!("ECDSA"), &json!(256)));
        let issuer = &certificate["spec"]["issuerRef"];
        assert_eq!((&issuer["kind"], &issuer["group"]), (&json!("Issuer"), &json!("cert-manager.io")));
        one("Issuer", issuer["name"].as_str().expect("a name"));
    }
    assert_eq!(authority["spec"]["isCA"], true);
    assert_eq!(authority["spec"]["privateKey"]["rotationPolicy"], "Never", "both CAs would not be trusted");
    let issuer = one("Issuer", member["spec"]["issuerRef"]["name"].as_str().expect("a name"));
    assert_eq!(issuer["spec"]["ca"]["secretName"], authority["spec"]["secretName"]);

    // The URI is what `flagship pki` writes for the member of testing/manifests.
    let object = &documents(&read("testing/manifests/newyork.yaml"))[0];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let identity = MemberIdentity {
        trust_domain: TrustDomain::new("flagship").expect("a trust domain"),
        callsign: Callsign::new(&text(&object["spec"]["callsign"])).expect("a callsign"),
        member: MemberName::new(&text(&object["metadata"]["name"])).expect("a name"),
    };
    assert_eq!(member["spec"]["uris"], json!([identity.to_string()]));
    for usage in ["digital signature", "client auth", "server auth"] {
        assert!(member["spec"]["usages"].as_array().expect("usages").contains(&json!(usage)), "{usage}");
    }
    let mounted =
        &of_kind("Deployment")["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"][0]["secret"];
    assert_eq!(member["spec"]["secretName"], mounted["name"]);
    // Renewed before the daemon warns, at 30 % of its life.
    let spec = &member["spec"];
    assert!(hours(&spec["renewBefore"]) * 10 > hours(&spec["duration"]) * 3, "{spec}");
}

#[test]
fn an_upgrade_keeps_the_number_of_replicas() {
    assert_eq!(of_kind("Deployment")["spec"].get("replicas"), None, "kubectl apply would reset it");
}

/// With the old ReplicaSet's pods counted, too, every other rollout ended with both replicas on one of two nodes.
#[test]
fn a_rollout_spreads_the_new_replicas_over_nodes_by_themselves() {
    let spread = &of_kind("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"];
    let [only] = spread.as_array().expect("a constraint").as_slice() else { panic!("{spread}") };
    assert_eq!(only["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(only["matchLabelKeys"], json!(["pod-template-hash"]));
}
