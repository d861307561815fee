//! What `deploy/witness` starts: its flags are flags, its directories are mounted, and its pod may run anywhere.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use flagship_cli::{Cli, Command, WitnessArgs};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, PodSpec, Service, Volume};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/witness").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse(args: &[String]) -> WitnessArgs {
    let command = ["flagship".to_owned()].iter().chain(args).cloned().collect::<Vec<_>>();
    match Cli::try_parse_from(&command).unwrap_or_else(|error| panic!("{command:?}: {error}")).command {
        Command::Witness(args) => *args,
        other => panic!("not a witness: {other:?}"),
    }
}

fn manifests() -> Vec<Value> {
    serde_saphyr::from_multiple(&read("witness.yaml")).unwrap()
}

fn one<T: DeserializeOwned>(kind: &str) -> T {
    let mut found: Vec<Value> = manifests().into_iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    serde_json::from_value(found.remove(0)).unwrap_or_else(|error| panic!("{kind}: {error}"))
}

fn pod() -> (Deployment, PodSpec, Container) {
    let deployment: Deployment = one("Deployment");
    let mut spec = deployment.spec.clone().template.spec.unwrap();
    let container = spec.containers.remove(0);
    assert!(spec.containers.is_empty());
    (deployment, spec, container)
}

#[test]
fn the_deployment_starts_a_witness_with_its_directories() {
    let (_, spec, container) = pod();
    let args = parse(&container.args.clone().unwrap());
    let fleets = args.fleets().unwrap();
    assert_eq!((fleets.len(), fleets[0].seeds.len()), (1, 2));
    let mounts = container.volume_mounts.clone().unwrap();
    let volume = |path: &Path| -> Volume {
        let mount = mounts.iter().find(|mount| Path::new(&mount.mount_path) == path).unwrap();
        spec.volumes.clone().unwrap().into_iter().find(|volume| volume.name == mount.name).unwrap()
    };
    let tls = volume(&args.process.tls_dir).secret.unwrap();
    assert_eq!(tls.secret_name.as_deref(), Some("flagship-tls"), "as flagship pki names it");
    let claim = volume(&args.state_dir).persistent_volume_claim.unwrap();
    let claimed: PersistentVolumeClaim = one("PersistentVolumeClaim");
    assert_eq!(Some(claim.claim_name), claimed.metadata.name, "a record must survive the pod");
    let ports: Vec<_> = container.ports.unwrap().into_iter().map(|port| port.container_port).collect();
    let flags =
        [Some(args.listen), args.process.metrics_bind_address.0, args.process.health_probe_bind_address.0];
    assert_eq!(ports, flags.map(|address| i32::from(address.unwrap().port())));
    let service: Service = one("Service");
    let service = service.spec.unwrap();
    let labels = pod().0.spec.template.metadata.unwrap().labels.unwrap();
    assert!(service.selector.unwrap().iter().all(|label| labels.contains_key(label.0)));
}

#[test]
fn there_is_never_a_second_one() {
    let spec = pod().0.spec;
    assert_eq!(spec.replicas, Some(1));
    assert_eq!(spec.strategy.unwrap().type_.as_deref(), Some("Recreate"));
    let claim: PersistentVolumeClaim = one("PersistentVolumeClaim");
    assert_eq!(claim.spec.unwrap().access_modes.unwrap(), ["ReadWriteOnce"]);
}

/// What the Pod Security Standard `restricted` asks for, which the Namespace enforces.
#[test]
fn the_pod_is_let_in_where_pods_are_restricted() {
    let namespace = &manifests()[0];
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    for object in manifests().iter().skip(1) {
        assert_eq!(object["metadata"]["namespace"], namespace["metadata"]["name"], "{}", object["kind"]);
    }
    let (_, spec, container) = pod();
    assert_eq!(spec.automount_service_account_token, Some(false), "it needs no Kubernetes");
    let of_pod = spec.security_context.unwrap();
    assert_eq!((of_pod.run_as_non_root, of_pod.fs_group), (Some(true), Some(65_532)));
    assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let own = container.security_context.unwrap();
    assert_eq!((own.allow_privilege_escalation, own.read_only_root_filesystem), (Some(false), Some(true)));
    assert_eq!(own.capabilities.unwrap().drop.unwrap(), ["ALL"]);
}

/// The unit's directives, with continued lines joined.
fn unit() -> Vec<(String, String)> {
    let text = read("flagship-witness.service").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn directive(name: &str) -> Vec<String> {
    unit().into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
}

#[test]
fn the_unit_starts_a_witness_with_its_directories() {
    let exec = directive("ExecStart").remove(0);
    let words: Vec<String> = exec
        .replace("%d", "/run/credentials")
        .replace("%S", "/var/lib")
        .split_whitespace()
        .map(Into::into)
        .collect();
    let mut args = words[1..].to_vec();
    // The settings that the head of the file has people write into the environment.
    let command = Cli::command();
    let witness = command.find_subcommand("witness").unwrap();
    let text = read("flagship-witness.service");
    let settings =
        text.lines().filter_map(|line| line.split_once("echo '")?.1.split_once('\'')).map(|(it, _)| it);
    let mut count = 0;
    for (name, value) in settings.map(|setting| setting.split_once('=').unwrap()) {
        let of_name = |arg: &&clap::Arg| arg.get_env().is_some_and(|env| env == name);
        let arg = witness.get_arguments().find(of_name).unwrap_or_else(|| panic!("no flag has {name}"));
        args.push(format!("--{}={value}", arg.get_long().unwrap()));
        count += 1;
    }
    assert_eq!(count, 2);
    let args = parse(&args);
    assert_eq!(args.fleets().unwrap()[0].seeds.len(), 2);
    assert_eq!(args.state_dir, Path::new("/var/lib").join(directive("StateDirectory").remove(0)));
    let credentials = directive("LoadCredential");
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        assert!(credentials.iter().any(|it| it.starts_with(&format!("{file}:"))), "{file}: {credentials:?}");
    }
}

#[test]
fn the_unit_gives_up_what_it_does_not_need() {
    for (name, value) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("StateDirectoryMode", "0700"),
    ] {
        assert_eq!(directive(name), [value], "{name}");
    }
}
