//! The payload room against a real API server with a controller manager: what its own tests, which have no cluster,
//! cannot show. One control plane for all of it, because starting one takes longer than all the rest.

#![allow(clippy::unwrap_used, reason = "a test; clippy exempts only its test functions")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flagship_payload::{
    ApplyError, ApplyOptions, CALL_TIMEOUT, Cluster, DeleteError, Denied, Gate, ObjectError, Owner, Permit,
    Plan, PlanError, Progress, Purpose, Reach, SourceText, Tracker,
};
use flagship_types::Term;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

#[test]
fn payloads_on_a_real_control_plane() {
    clusters::isolate::test("payloads_on_a_real_control_plane", || async {
        let scratch = clusters::scratch::Scratch::create()?;
        let harness = clusters::harness::Harness::open(scratch.path(), clusters::network::Mode::Namespaces)?;
        let options = clusters::cluster::Options::new("payload", std::net::Ipv4Addr::new(172, 18, 100, 150));
        let cluster = harness.start(options).await?;
        let client = cluster.client().await?;
        update_prune_drift_conflict_and_resume(&client).await;
        what_others_made_is_left_alone(&client).await;
        workloads_are_gone_with_their_last_pod(&client).await;
        a_hundred_objects_and_a_stuck_one(&client).await;
        definitions_namespaces_and_what_lives_in_them(&client).await;
        drop(cluster);
        harness.remove("payload").await
    });
}

struct Open {
    term: Term,
    left: AtomicUsize,
}

impl Open {
    fn new(term: u64) -> Self {
        Self { term: Term(term), left: AtomicUsize::new(usize::MAX) }
    }
}

#[async_trait::async_trait]
impl Gate for Open {
    async fn permit(&self, _: Purpose) -> Result<Permit, Denied> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(Denied::Refused("the test says so".into()));
        }
        self.left.store(left - 1, Ordering::SeqCst);
        Ok(Permit { term: self.term, not_after: self.now() })
    }
    fn now(&self) -> flagship_types::Instant {
        flagship_types::Instant::ZERO
    }
}

struct Bench {
    client: kube::Client,
    cluster: Cluster,
    owner: Owner,
    tracker: Tracker,
}

const OPTIONS: ApplyOptions = ApplyOptions { force: false, timeout: Duration::from_secs(20) };
const TIMEOUT: Duration = Duration::from_secs(60);

impl Bench {
    async fn new(client: &kube::Client, namespace: &str) -> Self {
        let client = client.clone();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let metadata = ObjectMeta { name: Some(namespace.into()), ..Default::default() };
        let _ =
            namespaces.create(&PostParams::default(), &Namespace { metadata, ..Default::default() }).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        let cluster = Cluster::new(client.clone(), CALL_TIMEOUT, Arc::new(()));
        let owner = Owner { namespace: namespace.into(), name: "newyork".into() };
        Self { client, cluster, owner, tracker: Tracker::new(Progress::default()) }
    }

    async fn plan(&self, yaml: &str, cross_namespace: bool) -> Result<Plan, PlanError> {
        let text = SourceText { origin: "spec.payload".into(), text: yaml.into() };
        self.cluster.plan(&[text], &self.owner, Reach { cross_namespace }).await
    }

    /// Plans, checks and applies; returns (created, updated, kept).
    async fn run(&self, yaml: &str, term: u64) -> (usize, usize, usize) {
        let plan = self.plan(yaml, true).await.unwrap();
        let checked = self.cluster.check(&plan, Term(term), false).await.unwrap();
        let gate = Open::new(term);
        let applied =
            self.cluster.apply(&plan, &checked, &gate, Term(term), OPTIONS, &self.tracker).await.unwrap();
        self.cluster.prune(&plan, &gate, TIMEOUT, &self.tracker).await.unwrap();
        (applied.created, applied.updated, applied.kept)
    }

    async fn delete_all(&self) -> Result<usize, DeleteError> {
        self.cluster.delete_all(&self.owner, &Open::new(1), TIMEOUT, &self.tracker).await
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.owner.namespace)
    }

    async fn pods(&self) -> usize {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.owner.namespace);
        pods.list(&ListParams::default()).await.unwrap().items.len()
    }
}

fn config_map(name: &str, value: &str) -> String {
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {value:?}}}\n")
}

const WEB: &str = "---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec: {containers: [{name: nginx, image: 'nginx:latest', ports: [{containerPort: 80}]}]}
";

async fn update_prune_drift_conflict_and_resume(client: &kube::Client) {
    let bench = Bench::new(client, "pt-update").await;
    let maps = bench.config_maps();
    let one = config_map("a", "1") + &config_map("b", "1");
    assert_eq!(bench.run(&one, 1).await, (2, 0, 0));
    let before = maps.get("a").await.unwrap();
    assert_eq!(bench.run(&one, 2).await, (0, 0, 2), "a new term alone touches nothing");
    assert_eq!(maps.get("a").await.unwrap().metadata.resource_version, before.metadata.resource_version);

    let two = config_map("a", "2") + &config_map("c", "1");
    assert_eq!(bench.run(&two, 3).await, (1, 1, 0));
    assert!(maps.get_opt("b").await.unwrap().is_none(), "b left the payload");
    let a = maps.get("a").await.unwrap();
    assert_eq!(
        (a.data.unwrap()["k"].as_str(), a.metadata.annotations.unwrap()["kube-vip.io/term"].as_str()),
        ("2", "3")
    );

    let other = PatchParams { field_manager: Some("somebody".into()), ..Default::default() };
    maps.patch("a", &other, &Patch::Merge(json!({"data": {"k": "drift", "more": "x"}}))).await.unwrap();
    assert_eq!(bench.run(&two, 3).await, (0, 1, 1), "drift is taken back");
    let data = maps.get("a").await.unwrap().data.unwrap();
    assert_eq!((data["k"].as_str(), data["more"].as_str()), ("2", "x"));

    let more =
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: '2', more: mine}\n".to_owned();
    let plan = bench.plan(&more, false).await.unwrap();
    let failures = bench.cluster.check(&plan, Term(3), false).await.unwrap_err();
    assert!(
        matches!(&failures.0[0].error, ObjectError::Conflict { managers, .. } if managers == "somebody"),
        "{failures}"
    );
    eprintln!("{failures}");
    assert!(
        !bench.cluster.check(&plan, Term(3), true).await.unwrap().is_clean(),
        "with force it would be taken over"
    );

    let found = bench.cluster.discover_owned(&bench.owner, Reach::default(), &plan.kinds()).await.unwrap();
    assert_eq!(found.ids(), bench.tracker.borrow().inventory.ids(), "a lost status is found again by label");
    assert_eq!(bench.delete_all().await, Ok(2));
    assert!(bench.tracker.borrow().inventory.is_empty());
}

async fn what_others_made_is_left_alone(client: &kube::Client) {
    let bench = Bench::new(client, "pt-others").await;
    let maps = bench.config_maps();
    let metadata = ObjectMeta { name: Some("theirs".into()), ..Default::default() };
    let _ = maps.create(&PostParams::default(), &ConfigMap { metadata, ..Default::default() }).await.unwrap();
    let plan = bench.plan(&(config_map("theirs", "1") + &config_map("ours", "1")), false).await.unwrap();
    let failures = bench.cluster.check(&plan, Term(1), false).await.unwrap_err();
    eprintln!("{failures}");
    assert!(matches!(failures.0[..], [ref one] if matches!(one.error, ObjectError::NotOurs { .. })));
    // Written down but never ours, as after a crash before the first write.
    let checked = bench
        .cluster
        .check(&bench.plan(&config_map("ours", "1"), false).await.unwrap(), Term(1), false)
        .await;
    let gate = Open::new(1);
    gate.left.store(0, Ordering::SeqCst);
    let plan = bench.plan(&config_map("ours", "1"), false).await.unwrap();
    let denied = bench.cluster.apply(&plan, &checked.unwrap(), &gate, Term(1), OPTIONS, &bench.tracker).await;
    assert!(matches!(denied, Err(ApplyError::Denied(Denied::Refused(_)))), "{denied:?}");
    let metadata = ObjectMeta { name: Some("ours".into()), ..Default::default() };
    let _ = maps.create(&PostParams::default(), &ConfigMap { metadata, ..Default::default() }).await.unwrap();
    assert_eq!(bench.delete_all().await, Ok(0));
    assert!(maps.get_opt("ours").await.unwrap().is_some() && maps.get_opt("theirs").await.unwrap().is_some());
    for name in ["ours", "theirs"] {
        maps.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let wrong_term = bench.cluster.check(&plan, Term(2), false).await.unwrap();
    let denied =
        bench.cluster.apply(&plan, &wrong_term, &Open::new(1), Term(2), OPTIONS, &bench.tracker).await;
    assert!(matches!(denied, Err(ApplyError::Denied(Denied::OtherTerm { .. }))), "{denied:?}");
}

async fn workloads_are_gone_with_their_last_pod(client: &kube::Client) {
    let bench = Bench::new(client, "pt-work").await;
    assert_eq!(bench.run(WEB, 1).await, (1, 0, 0));
    let begin = Instant::now();
    let summary = loop {
        let summary = bench.cluster.observe(&bench.tracker).await.unwrap();
        if summary.is_ready() || begin.elapsed() > TIMEOUT {
            break summary;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    eprintln!("ready after {:?}: {summary:?}", begin.elapsed());
    assert!(summary.is_ready() && bench.pods().await == 3);
    assert_eq!(bench.run(WEB, 2).await, (0, 0, 1), "defaults are no drift");

    // Called off before the first delete: the ReplicaSet must survive the prune that follows.
    let gate = Open::new(2);
    gate.left.store(0, Ordering::SeqCst);
    let denied = bench.cluster.delete_all(&bench.owner, &gate, TIMEOUT, &bench.tracker).await;
    assert!(matches!(denied, Err(DeleteError::Denied(_))), "{denied:?}");
    assert_eq!(bench.tracker.borrow().inventory.len(), 2, "the ReplicaSet is written down");
    assert_eq!(bench.run(WEB, 2).await, (0, 0, 1));
    assert_eq!((bench.tracker.borrow().inventory.len(), bench.pods().await), (1, 3));

    // Interrupted after the Deployment: another process goes on from the stored inventory.
    let gate = Open::new(2);
    gate.left.store(2, Ordering::SeqCst);
    let denied = bench.cluster.delete_all(&bench.owner, &gate, TIMEOUT, &bench.tracker).await;
    assert!(matches!(denied, Err(DeleteError::Denied(_))), "{denied:?}");
    eprintln!("{:?}", bench.tracker.borrow().inventory.to_status());
    let begin = Instant::now();
    let deleted = tokio::spawn(async move { (bench.delete_all().await, bench) });
    let (gone, bench) = deleted.await.unwrap();
    eprintln!("{gone:?} in {:?}", begin.elapsed());
    assert_eq!((gone.unwrap(), bench.pods().await), (2, 0));

    assert_eq!(bench.run(WEB, 3).await, (1, 0, 0));
    while bench.pods().await < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begin = Instant::now();
    let gone = bench.delete_all().await.unwrap();
    eprintln!("{gone} with 3 pods in {:?}", begin.elapsed());
    assert_eq!(bench.pods().await, 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.pods().await, 0, "nothing comes back");
}

async fn a_hundred_objects_and_a_stuck_one(client: &kube::Client) {
    let bench = Bench::new(client, "pt-hundred").await;
    let yaml: String = (0..100).map(|n| config_map(&format!("m{n}"), "1")).collect();
    let begin = Instant::now();
    assert_eq!(bench.run(&yaml, 1).await, (100, 0, 0));
    eprintln!("100 ConfigMaps checked and applied in {:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(bench.delete_all().await, Ok(100));
    eprintln!("100 ConfigMaps deleted in {:?}", begin.elapsed());

    assert_eq!(bench.run(&config_map("held", "1"), 1).await, (1, 0, 0));
    let held = json!({"metadata": {"finalizers": ["example.org/wait"]}});
    bench.config_maps().patch("held", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    let stuck =
        bench.cluster.delete_all(&bench.owner, &Open::new(1), Duration::from_secs(1), &bench.tracker).await;
    let stuck = stuck.unwrap_err().to_string();
    eprintln!("{stuck}");
    assert!(stuck.contains("ConfigMap pt-hundred/held (held by finalizer example.org/wait)"), "{stuck}");
    let free = json!({"metadata": {"finalizers": null}});
    bench.config_maps().patch("held", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(bench.delete_all().await, Ok(1));
}

async fn definitions_namespaces_and_what_lives_in_them(client: &kube::Client) {
    let bench = Bench::new(client, "pt-crd").await;
    let yaml = "
apiVersion: example.org/v1
kind: Gadget
metadata: {name: g, namespace: pt-made}
spec: {size: 3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m, namespace: pt-made}
---
apiVersion: v1
kind: Namespace
metadata: {name: pt-made}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets, singular: gadget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
";
    assert_eq!(bench.run(yaml, 1).await, (4, 0, 0));
    assert_eq!(bench.run(yaml, 2).await, (0, 0, 4));
    let begin = Instant::now();
    assert_eq!(bench.delete_all().await, Ok(4));
    eprintln!("CRD and Namespace gone in {:?}", begin.elapsed());
    let gadget = "{apiVersion: example.org/v1, kind: Gadget, metadata: {name: g}}";
    let stale = bench.plan(gadget, true).await.unwrap();
    eprintln!("{}", bench.cluster.check(&stale, Term(1), false).await.unwrap_err());
    eprintln!("{}", bench.plan(gadget, true).await.unwrap_err());
    assert_eq!(bench.run(yaml, 3).await, (4, 0, 0));
    assert_eq!(bench.delete_all().await, Ok(4));
    let unknown_field = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dta: {}}";
    let plan = bench.plan(unknown_field, false).await.unwrap();
    let strict = bench.cluster.check(&plan, Term(1), false).await.unwrap_err();
    eprintln!("{strict} {}", strict.is_transient());
    assert!(strict.to_string().contains("dta") && !strict.is_transient());
}
