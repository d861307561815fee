use super::*;
use crate::catalog::Kind;
use crate::inventory::{Entry, Inventory};
use crate::parse::{SourceText, parse};
use flagship_k8s_api::ObjectState;

fn kind(group: &str, kind: &str, namespaced: bool) -> Kind {
    let api_version = if group.is_empty() { "v1".into() } else { format!("{group}/v1") };
    let plural = format!("{}s", kind.to_lowercase());
    let resource =
        ApiResource { group: group.into(), version: "v1".into(), api_version, kind: kind.into(), plural };
    Kind { resource, namespaced }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (group, name, namespaced) in [
        ("", "ConfigMap", true),
        ("", "Namespace", false),
        ("apps", "Deployment", true),
        ("kube-vip.io", "MultiCluster", true),
        ("apiextensions.k8s.io", "CustomResourceDefinition", false),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", false),
    ] {
        catalog.add(kind(group, name, namespaced));
    }
    catalog
}

fn plan(yaml: &str, cross_namespace: bool) -> Result<Plan, Objections> {
    let manifests = parse(&[SourceText { origin: "spec.payload".into(), text: yaml.into() }]).unwrap();
    let owner = Owner { namespace: "default".into(), name: "newyork".into() };
    Plan::build(manifests, &catalog(), owner, Reach { cross_namespace })
}

const EVERYTHING: &str = "
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: hook, namespace: x}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: null, annotations: {a: b}}}
---
{apiVersion: example.org/v2, kind: Gadget, metadata: {name: g}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets}
  versions: [{name: v1, served: false}, {name: v2, served: true}]
";

#[test]
fn stages_come_in_order_and_keep_the_payloads_within() {
    let plan = plan(EVERYTHING, true).unwrap();
    let order: Vec<String> = plan.objects().iter().map(|object| object.id.to_string()).collect();
    let expected = [
        "Namespace shop",
        "CustomResourceDefinition.apiextensions.k8s.io gadgets.example.org",
        "Gadget.example.org default/g",
        "ConfigMap default/b",
        "ConfigMap default/a",
        "Deployment shop/web",
        "ValidatingWebhookConfiguration.admissionregistration.k8s.io hook",
    ];
    assert_eq!(order, expected);
    let comes_later: Vec<bool> =
        plan.objects().iter().map(|object| plan.makes_room_for(&object.id)).collect();
    assert_eq!(comes_later, [false, false, true, false, false, true, false]);
    assert_eq!(plan.watch_kinds().len(), 6);
}

#[test]
fn label_annotation_and_namespace_are_put_in_and_the_template_is_left_alone() {
    let plan = plan(EVERYTHING, true).unwrap();
    let body = plan.objects()[5].body(Term(7));
    let expected = serde_json::json!({
        "name": "web",
        "namespace": "shop",
        "labels": { "kube-vip.io/multicluster": "default.newyork" },
        "annotations": { "a": "b", "kube-vip.io/term": "7", "kube-vip.io/applied-hash": plan.objects()[5].hash() },
    });
    assert_eq!(body["metadata"], expected);
    assert!(body.get("spec").is_none());
    let hook = plan.objects()[6].body(Term(7));
    assert!(hook["metadata"].get("namespace").is_none());
}

#[test]
fn what_is_out_of_reach_is_refused_with_a_way_out() {
    let all = plan(EVERYTHING, false).unwrap_err();
    assert_eq!(all.0.len(), 4);
    let text = all.to_string();
    assert!(text.contains("Deployment shop/web is not in the MultiCluster's namespace default"), "{text}");
    assert!(text.contains("cluster-scoped") && text.contains("--allow-cross-namespace"), "{text}");
    let own = plan("{apiVersion: v1, kind: Namespace, metadata: {name: default}}", true).unwrap_err();
    assert!(matches!(own.0[..], [Objection::HoldsItself { .. }]));
    let crd = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: multiclusters.kube-vip.io}}";
    assert!(matches!(plan(crd, true).unwrap_err().0[..], [Objection::HoldsItself { .. }]));
    let itself = "{apiVersion: kube-vip.io/v1, kind: MultiCluster, metadata: {name: newyork}}";
    assert!(matches!(plan(itself, false).unwrap_err().0[..], [Objection::HoldsItself { .. }]));
}

#[test]
fn unknown_kinds_and_duplicates_are_named() {
    let wrong = "
{apiVersion: v1, kind: Deployment, metadata: {name: a}}
---
{apiVersion: v1, kind: Deplyoment, metadata: {name: a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: default}}
";
    let text = plan(wrong, false).unwrap_err().to_string();
    assert!(text.contains("it serves Deployment in apps/v1"), "{text}");
    assert!(text.contains("no kind Deplyoment in v1: correct kind and apiVersion"), "{text}");
    assert!(
        text.contains(
            "document 4 (line 7): ConfigMap default/a is there already, in spec.payload, document 3"
        ),
        "{text}"
    );
}

#[test]
fn what_left_the_payload_is_stale() {
    let plan = plan("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", false).unwrap();
    let id = |name: &str| ObjectId {
        group: String::new(),
        kind: "ConfigMap".into(),
        namespace: "default".into(),
        name: name.into(),
    };
    let entry = |uid: &str, state| Entry { version: "v1".into(), uid: uid.into(), generation: 0, state };
    let mut inventory = Inventory::default();
    inventory.insert(id("a"), entry("1", ObjectState::Ready));
    inventory.insert(id("old"), entry("2", ObjectState::Ready));
    assert_eq!(inventory.not_in(&plan), [id("old")]);
    let mut found = Inventory::default();
    found.insert(id("old"), entry("3", ObjectState::Applied));
    found.insert(id("lost"), entry("4", ObjectState::Applied));
    inventory.unite(&found);
    assert_eq!(inventory.not_in(&plan), [id("lost"), id("old")]);
    assert_eq!(inventory.get(&id("old")).unwrap().uid, "3", "what is there wins over what was written down");
    let stored = inventory.to_status();
    assert_eq!(Inventory::from_status(&stored), inventory);
}

#[test]
fn only_spec_changes_and_deletion_unsettle() {
    let id = ObjectId {
        group: "apps".into(),
        kind: "Deployment".into(),
        namespace: "d".into(),
        name: "web".into(),
    };
    let mut inventory = Inventory::default();
    let entry = Entry { version: "v1".into(), uid: "1".into(), generation: 4, state: ObjectState::Ready };
    inventory.insert(id.clone(), entry);
    assert!(inventory.is_settled(&id, "1", Some(4), false));
    assert!(!inventory.is_settled(&id, "1", Some(5), false));
    assert!(!inventory.is_settled(&id, "2", Some(4), false));
    assert!(!inventory.is_settled(&id, "1", Some(4), true));
    assert!(!inventory.is_settled(&id, "1", None, false), "a ConfigMap has no generation: look closer");
}
