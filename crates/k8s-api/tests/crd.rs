//! The CRD's YAML does not drift from the types, and says what the design asks for.

use std::path::Path;

use flagship_k8s_api::{MultiCluster, MultiClusterStatus, crd, crd_yaml};
use serde_json::{Value, json};

fn schema() -> Value {
    let value = serde_json::to_value(crd()).expect("a CRD is JSON");
    value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone()
}

/// `UPDATE=1 cargo test -p flagship-k8s-api` writes the file anew.
#[test]
fn the_yaml_in_deploy_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds/multiclusters.yaml");
    let yaml = crd_yaml().unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &yaml).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == yaml, "{} is stale: run UPDATE=1 cargo test -p flagship-k8s-api", path.display());
}

#[test]
fn the_yaml_reads_back_as_the_crd() {
    let read: Value = serde_saphyr::from_str(&crd_yaml().unwrap()).unwrap();
    assert_eq!(read, serde_json::to_value(crd()).unwrap());
}

#[test]
fn names_columns_and_subresource() {
    let crd = serde_json::to_value(crd()).unwrap();
    assert_eq!(crd["metadata"]["name"], "multiclusters.kube-vip.io");
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["mc", "vipmc"]));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert_eq!(version["subresources"], json!({ "status": {} }));
    let columns: Vec<_> =
        version["additionalPrinterColumns"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Role", "Leader", "Term", "Members", "Ready", "Worst Failover", "Age"]);
    let wide: Vec<_> =
        version["additionalPrinterColumns"].as_array().unwrap().iter().map(|c| c["priority"] == 1).collect();
    assert_eq!(wide, [false, false, false, false, false, true, false]);
}

#[test]
fn every_string_and_list_of_the_spec_is_bounded() {
    fn walk(path: &str, schema: &Value, loose: &mut Vec<String>) {
        let kind = schema["type"].as_str().unwrap_or_default();
        let bounded = match kind {
            "string" => schema.get("maxLength").is_some() || schema.get("enum").is_some(),
            "array" => schema.get("maxItems").is_some(),
            _ => true,
        };
        if !bounded {
            loose.push(path.into());
        }
        walk_children(path, schema, loose);
    }
    fn walk_children(path: &str, schema: &Value, loose: &mut Vec<String>) {
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, loose);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), property, loose);
        }
    }
    let mut loose = Vec::new();
    walk("spec", &schema()["spec"], &mut loose);
    assert_eq!(loose, Vec::<String>::new());
}

#[test]
fn limits_and_merge_strategies() {
    let schema = schema();
    let spec = &schema["spec"]["properties"];
    assert_eq!(
        schema["spec"].get("required"),
        None,
        "the proof of concept's manifests may leave anything out"
    );
    assert_eq!(
        (&spec["port"]["minimum"], &spec["port"]["maximum"], &spec["port"]["default"]),
        (&json!(1.0), &json!(65535.0), &json!(9990))
    );
    assert_eq!(spec["rank"]["format"], "int64");
    assert_eq!((&spec["fleet"]["maxItems"], &spec["fleet"]["items"]["maxLength"]), (&json!(64), &json!(260)));
    assert_eq!(spec["callsign"]["maxLength"], 128);
    assert_eq!(spec["payload"]["maxLength"], 1 << 20);
    assert!(spec["fleet"]["x-kubernetes-validations"][0]["rule"].is_string());
    assert!(spec["payloadFrom"]["items"]["x-kubernetes-validations"][0]["rule"].is_string());
    let status = &schema["status"]["properties"];
    assert_eq!(status["inventory"]["x-kubernetes-list-type"], "atomic");
    assert_eq!(status["conditions"]["x-kubernetes-list-type"], "map");
    assert_eq!(status["conditions"]["x-kubernetes-list-map-keys"], json!(["type"]));
}

#[test]
fn the_proof_of_concepts_manifest_reads() {
    let manifest = "
apiVersion: kube-vip.io/v1alpha1
kind: MultiCluster
metadata:
  labels:
    app.kubernetes.io/name: multicluster
    app.kubernetes.io/managed-by: kustomize
  name: sheffield
spec:
  address: \"\"
  port: 9990
  serviceAddress: 172.18.100.200
  fleet: [172.18.100.100:9990]
  callsign: federation
  rank: 10
  ready: false
  payload: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: a}
";
    let object: MultiCluster = serde_saphyr::from_str(manifest).unwrap();
    let settings = object.spec.settings().unwrap();
    assert_eq!(settings.callsign.as_str(), "federation");
    assert_eq!((settings.listen, settings.port, settings.rank.0, settings.ready), (None, 9990, 10, false));
    assert_eq!(settings.advertised.unwrap().to_string(), "172.18.100.200:9990");
    assert_eq!(settings.seeds[0].to_string(), "172.18.100.100:9990");
    assert!(settings.apply.prune && !settings.apply.force);
    assert_eq!(settings.sources.len(), 1);
}

#[test]
fn what_the_schema_lets_through_is_named_by_its_path() {
    let spec = json!({
        "port": 70000,
        "fleet": ["10.0.0.1", "10.0.0.1:x", "not a host"],
        "election": { "restartGrace": "soon" },
        "membership": { "beatInterval": "1h" },
        "payloadFrom": [{}],
    });
    let spec: flagship_k8s_api::MultiClusterSpec = serde_json::from_value(spec).unwrap();
    let wrong = spec.settings().unwrap_err();
    let paths: Vec<&str> = wrong.iter().map(|error| error.path.as_str()).collect();
    let expected = [
        "spec.port",
        "spec.callsign",
        "spec.fleet[1]",
        "spec.fleet[2]",
        "spec.election.restartGrace",
        "spec.membership.beatInterval",
        "spec.payloadFrom[0]",
    ];
    assert_eq!(paths, expected);
    assert!(wrong.iter().all(|error| error.message.len() > 10), "{wrong:?}");
}

#[test]
fn a_service_is_looked_at_only_without_an_address() {
    let settings = |address: Option<&str>, namespace: Option<&str>| {
        let spec = json!({"callsign": "f", "serviceAddress": address,
            "serviceRef": {"name": "multi-cluster-service", "namespace": namespace}});
        serde_json::from_value::<flagship_k8s_api::MultiClusterSpec>(spec).unwrap().settings().unwrap()
    };
    assert_eq!(settings(Some("10.0.0.1"), Some("x")).service, None, "serviceAddress wins");
    let service = settings(None, Some("x")).service.unwrap();
    assert_eq!((service.namespace.as_deref(), service.name.as_str()), (Some("x"), "multi-cluster-service"));
    for (address, namespace) in [(None, None), (Some(""), Some("")), (Some("  "), None)] {
        let settings = settings(address, namespace);
        assert_eq!(settings.service.map(|service| service.namespace), Some(None), "empty is absent");
        assert_eq!(settings.advertised, None);
    }
    let schema = schema();
    let reference = &schema["spec"]["properties"]["serviceRef"];
    assert_eq!(reference["required"], json!(["name"]));
    assert_eq!(reference["properties"]["name"]["maxLength"], 63);
    assert_eq!(reference["properties"]["namespace"]["maxLength"], 63);
    let policy = &schema["spec"]["properties"]["apply"]["properties"]["deletionPolicy"];
    assert_eq!(policy["enum"], json!(["Delete", "Orphan"]));
}

#[test]
fn from_outside_the_status_says_where_the_service_is() {
    let object = |address: &str| -> MultiCluster {
        serde_json::from_value(json!({
            "apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster", "metadata": {"name": "newyork"},
            "spec": {"callsign": "f", "serviceAddress": address, "serviceRef": {"name": "front"}},
            "status": {"members": [
                {"name": "sheffield", "state": "Alive", "address": "10.0.0.9:9990"},
                {"name": "newyork", "state": "Alive", "address": "10.0.0.1:443"},
            ]},
        }))
        .unwrap()
    };
    let at = |object: MultiCluster| object.located_settings().unwrap().advertised.map(|at| at.to_string());
    assert_eq!(at(object("")).as_deref(), Some("10.0.0.1:443"));
    assert_eq!(at(object("10.0.0.2")).as_deref(), Some("10.0.0.2:9990"), "serviceAddress wins");
    assert_eq!(at(MultiCluster { status: None, ..object("") }), None);
}

#[test]
fn a_status_compares_without_times_and_keeps_twenty_entries() {
    use flagship_k8s_api::HistoryEntry;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let at = |second| Time(jiff::Timestamp::from_second(second).unwrap());
    let entry = |second| HistoryEntry {
        time: at(second),
        kind: "Elected".into(),
        term: 1,
        message: "m".into(),
        reason: None,
        phases: None,
    };
    let (mut one, mut two) = (MultiClusterStatus::default(), MultiClusterStatus::default());
    one.record(entry(1));
    two.record(entry(2));
    (one.lead_since, two.lead_since) = (Some(at(1)), None);
    assert!(one.same_but_times(&two));
    two.term = Some(2);
    assert!(!one.same_but_times(&two));
    (0..30).for_each(|second| one.record(entry(second)));
    assert_eq!((one.history.len(), one.history[0].time.0.as_second()), (20, 10));
}

#[test]
fn the_configuration_survives_the_status() {
    use flagship_k8s_api::ConfigurationStatus;
    let config = flagship_types::FleetConfig {
        version: flagship_types::ConfigVersion(7),
        restart_grace: std::time::Duration::from_millis(1250),
        failback: flagship_types::Failback::Manual,
        ..Default::default()
    };
    assert_eq!(ConfigurationStatus::from(&config).parse("status.configuration"), Ok(config));
}

#[test]
fn a_configuration_that_no_daemon_wrote_is_refused_by_field() {
    use flagship_k8s_api::{ConfigurationStatus, PauseStatus};
    let config = flagship_types::FleetConfig {
        mode: flagship_types::Mode::Quorum,
        voters: vec!["newyork".parse().unwrap()],
        ..Default::default()
    };
    let damaged = |damage: fn(&mut ConfigurationStatus)| {
        let mut stored = ConfigurationStatus::from(&config);
        damage(&mut stored);
        stored.parse("status.configuration").unwrap_err().to_string()
    };
    type Damage = fn(&mut ConfigurationStatus);
    let table: [(&str, Damage); 11] = [
        ("version: is -1", |stored| stored.version = -1),
        ("mode: \"Anarchy\" is no mode: Availability or Quorum", |stored| stored.mode = "Anarchy".into()),
        ("voters: has 0 names: in mode Quorum 1 to 9", |stored| stored.voters.clear()),
        ("voters: has 10 names", |stored| stored.voters = (0..10).map(|n| format!("v{n}")).collect()),
        ("voters[0]: ", |stored| stored.voters[0] = "New York".into()),
        ("leaseDuration: \"3 s\" is not a duration", |stored| stored.lease_duration = Some("3 s".into())),
        ("leaseDuration: \"169h\" is too long", |stored| stored.lease_duration = Some("169h".into())),
        ("stopGrace: ", |stored| stored.stop_grace = Some(String::new())),
        ("pause.sinceMs: is -5", |stored| {
            stored.pause = Some(PauseStatus { since_ms: -5, reason: String::new() });
        }),
        ("failback: \"never\" is unknown: Automatic or Manual", |stored| stored.failback = "never".into()),
        ("restartGrace: ", |stored| stored.restart_grace = "soon".into()),
    ];
    for (expected, damage) in table {
        let error = damaged(damage);
        assert!(error.starts_with(&format!("status.configuration.{expected}")), "{error}");
    }
}
