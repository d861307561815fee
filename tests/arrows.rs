//! The arrows between the rooms: who may depend on whom (docs/architecture.md), read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The allowed arrows. Everything may use `flagship-types`; the root package joins all rooms and nobody uses it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("flagship-types", &[]),
    ("flagship-membership", &[]),
    ("flagship-election", &[]),
    ("flagship-wire", &["flagship-membership", "flagship-election"]),
    ("flagship-node", &["flagship-wire", "flagship-membership", "flagship-election"]),
    ("flagship-transport", &["flagship-node", "flagship-wire"]),
    ("flagship-pki", &[]),
    ("flagship-k8s-api", &[]),
    ("flagship-payload", &["flagship-k8s-api"]),
    ("flagship-controller", &["flagship-payload", "flagship-k8s-api", "flagship-node"]),
    ("flagship-witness", &["flagship-node"]),
    ("flagship-telemetry", &["flagship-node"]),
    ("flagship-cli", &["flagship-k8s-api", "flagship-payload", "flagship-pki"]),
    ("clusters", &[]),
    ("sim", &["flagship-node", "flagship-wire", "flagship-membership", "flagship-election"]),
    // The swarm runs many real nodes in one process, as the root does with one.
    (
        "flagship-e2e",
        &["clusters", "flagship-k8s-api", "flagship-node", "flagship-transport", "flagship-pki"],
    ),
    ("flagship-bench", &["flagship-wire", "flagship-membership"]),
];
/// More that tests of a room may use: the transport's connect with certificates and sign records, the controller's
/// implement the port `Links`, whose messages are the wire's.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("flagship-transport", &["flagship-pki", "flagship-membership"]),
    ("flagship-controller", &["flagship-wire"]),
];
const ROOT: &str = "flagship";
/// Crates that must not even be reachable, by any path of normal and build dependencies.
const UNREACHABLE: &[(&str, &[&str])] =
    &[("flagship-types", FROM_CORES), ("flagship-membership", FROM_CORES), ("flagship-election", FROM_CORES)];
const FROM_CORES: &[&str] = &[
    "tokio",
    "tonic",
    "kube",
    "kube-client",
    "k8s-openapi",
    "prometheus-client",
    "hyper",
    "rustls",
    "jiff",
    "chrono",
];
/// Crates that must not be direct dependencies.
const NOT_DIRECT: &[(&str, &[&str])] = &[
    ("flagship-node", &["tonic", "kube", "prometheus-client"]),
    ("flagship-controller", &["tonic", "prometheus-client"]),
    ("flagship-witness", &["tonic", "kube", "k8s-openapi", "prometheus-client"]),
    ("flagship-telemetry", &["tonic", "kube"]),
    ("flagship-transport", &["kube"]),
    ("flagship-wire", &["tokio", "kube"]),
    ("flagship-payload", &["tonic"]),
    ("flagship-k8s-api", &["tonic"]),
    ("flagship-pki", &["tonic", "kube"]),
];

/// What the rules are about.
#[derive(Default)]
struct Graph {
    members: BTreeSet<String>,
    /// Direct normal and build dependencies of every package.
    built: BTreeMap<String, BTreeSet<String>>,
    /// Direct dev-dependencies of the workspace's members.
    tested: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn direct<'a>(
        map: &'a BTreeMap<String, BTreeSet<String>>,
        package: &str,
    ) -> impl Iterator<Item = &'a str> {
        map.get(package).into_iter().flatten().map(String::as_str)
    }

    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = Self::direct(&self.built, from).collect();
        while let Some(package) = open.pop() {
            if seen.insert(package) {
                open.extend(Self::direct(&self.built, package));
            }
        }
        seen
    }

    /// Every broken rule, as a sentence.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for member in self.members.iter().filter(|member| *member != ROOT) {
            let Some(allowed) = entry(ALLOWED, member) else {
                found.push(format!(
                    "{member} is not in the list of rooms: add it to docs/architecture.md and here"
                ));
                continue;
            };
            let in_tests = entry(ALLOWED_IN_TESTS, member).unwrap_or_default();
            let may = |to: &str| to == "flagship-types" || to == member || allowed.contains(&to);
            let room = |to: &&str| self.members.contains(*to);
            let built = Self::direct(&self.built, member).filter(room).filter(|to| !may(to));
            let tested = Self::direct(&self.tested, member)
                .filter(room)
                .filter(|to| !may(to) && !in_tests.contains(to));
            found.extend(built.chain(tested).map(|to| format!("{member} must not depend on {to}")));
            let reached = self.reachable(member);
            for banned in entry(UNREACHABLE, member).unwrap_or_default() {
                if reached.contains(banned) {
                    found.push(format!("{member} must not reach {banned}"));
                }
            }
            for banned in entry(NOT_DIRECT, member).unwrap_or_default() {
                if Self::direct(&self.built, member).any(|to| to == *banned) {
                    found.push(format!("{member} must not depend on {banned}"));
                }
            }
        }
        found.extend(
            ALLOWED
                .iter()
                .filter(|(room, _)| !self.members.contains(*room))
                .map(|(room, _)| format!("{room} is in the list of rooms and not in the workspace")),
        );
        found
    }
}

fn entry(table: &[(&str, &'static [&'static str])], package: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(name, _)| *name == package).map(|(_, list)| *list)
}

/// The whole graph for this machine. A path dependency is known by its package's name.
fn read(metadata: &Metadata) -> Graph {
    let name = |id| metadata[id].name.to_string();
    let mut graph =
        Graph { members: metadata.workspace_members.iter().map(name).collect(), ..Graph::default() };
    let resolve = metadata.resolve.as_ref().expect("metadata is read with dependencies");
    for node in &resolve.nodes {
        for dependency in &node.deps {
            let tested_only =
                dependency.dep_kinds.iter().all(|kind| kind.kind == DependencyKind::Development);
            let map = if tested_only { &mut graph.tested } else { &mut graph.built };
            map.entry(name(&node.id)).or_default().insert(name(&dependency.pkg));
        }
    }
    graph
}

fn host() -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo).arg("-vV").output().expect("cargo runs");
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host").into()
}

#[test]
fn rooms_use_only_what_they_may() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(["--filter-platform".into(), host()])
        .exec()
        .expect("cargo metadata");
    let violations = read(&metadata).violations();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

fn sound() -> Graph {
    let rooms = ALLOWED.iter().map(|(room, _)| (*room).to_string());
    let built =
        ALLOWED.iter().map(|(room, to)| ((*room).to_string(), to.iter().map(ToString::to_string).collect()));
    Graph { members: rooms.chain([ROOT.to_string()]).collect(), built: built.collect(), ..Graph::default() }
}

fn with(plant: impl FnOnce(&mut Graph)) -> Vec<String> {
    let mut graph = sound();
    plant(&mut graph);
    graph.violations()
}

fn arrow(from: &str, to: &str) -> impl FnOnce(&mut Graph) {
    let (from, to) = (from.to_string(), to.to_string());
    move |graph| {
        graph.built.entry(from).or_default().insert(to);
    }
}

#[test]
fn planted_arrows_are_found() {
    assert_eq!(sound().violations(), Vec::<String>::new());
    let direct = [
        ("flagship-membership", "flagship-election"),
        ("flagship-election", "flagship-membership"),
        ("flagship-types", "flagship-node"),
        ("flagship-cli", "flagship-node"),
        ("flagship-telemetry", "flagship-controller"),
        ("flagship-controller", "flagship-transport"),
        ("flagship-e2e", "flagship-cli"),
        ("flagship-node", "flagship"),
        ("clusters", "flagship-controller"),
        ("flagship-witness", "flagship-transport"),
        ("flagship-witness", "flagship-controller"),
        ("flagship-witness", "kube"),
        ("flagship-node", "tonic"),
        ("flagship-controller", "tonic"),
    ];
    for (from, to) in direct {
        assert_eq!(with(arrow(from, to)), [format!("{from} must not depend on {to}")]);
    }
}

#[test]
fn what_a_core_reaches_through_others_is_found() {
    let violations = with(|graph| {
        arrow("flagship-election", "innocent")(graph);
        arrow("innocent", "harmless")(graph);
        arrow("harmless", "tokio")(graph);
    });
    assert_eq!(violations, ["flagship-election must not reach tokio"]);
}

#[test]
fn tests_of_a_room_are_held_to_the_same_rules() {
    let tested = |from: &str, to: &str| {
        let (from, to) = (from.to_string(), to.to_string());
        with(move |graph| {
            graph.tested.entry(from).or_default().insert(to);
        })
    };
    assert_eq!(
        tested("flagship-payload", "flagship-node"),
        ["flagship-payload must not depend on flagship-node"]
    );
    assert_eq!(tested("flagship-transport", "flagship-pki"), Vec::<String>::new());
}

#[test]
fn unknown_and_missing_rooms_are_found() {
    let violations = with(|graph| {
        graph.members.insert("flagship-utils".into());
        graph.members.remove("sim");
    });
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations[0].contains("flagship-utils is not in the list"));
    assert!(violations[1].contains("sim is in the list of rooms and not in the workspace"));
}
