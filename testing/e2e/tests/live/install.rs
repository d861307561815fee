//! What `deploy/install.yaml` does to a real cluster: which rights it gives, that its pod is let in, that applying it
//! again changes nothing, and that deleting it deletes no payload, but lets another member start it a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clusters::cluster::Cluster;
use clusters::fleet::{Member, Plan};
use flagship_e2e::auditor::Verdict;
use flagship_e2e::{Expect, World, e2e};
use k8s_openapi::api::authorization::v1::{
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectRulesReviewStatus,
};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;

const MINUTE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);
const SYSTEM: &str = "kube-vip-multi-cluster-system";
/// How long a fleet waits for a daemon that announced its end.
const AWAY: Duration = Duration::from_secs(30);

fn one() -> Result<Vec<Plan>> {
    Ok(vec![Plan::from_manifest("newyork")?])
}

/// The documents of `deploy/install.yaml`, in its order.
fn installed() -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/install.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn of_kind(kind: &str) -> Result<Value> {
    installed()?.into_iter().find(|document| document["kind"] == kind).context("a kind of install.yaml")
}

/// Where objects of a document's kind and namespace are.
fn api_of(client: &Client, document: &Value) -> Result<(String, Api<DynamicObject>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let api = match document["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((text(&document["metadata"]["name"]), api))
}

/// `kubectl apply --server-side`; with `dry`, as far as admission.
async fn apply(client: &Client, document: &Value, dry: bool) -> Result<DynamicObject> {
    let (name, api) = api_of(client, document)?;
    let params = PatchParams { dry_run: dry, ..PatchParams::apply("kubectl").force() };
    let patch = Patch::Apply(document);
    let call = timeout(CALL, api.patch(&name, &params, &patch));
    call.await.context("apply: no answer")?.with_context(|| format!("apply {} {name}", document["kind"]))
}

/// The API as the daemon's ServiceAccount.
async fn as_the_daemon(cluster: &Cluster) -> Result<Client> {
    ensure!(cluster.daemon_is_restricted(), "the daemon of this cluster has an administrator's rights");
    let kubeconfig = Kubeconfig::read_from(cluster.daemon_kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// `kubectl auth can-i --list` of the daemon in a namespace: one line for each resource and URL.
async fn rights(client: &Client, namespace: &str) -> Result<BTreeSet<String>> {
    let api: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.into()) };
    let review = SelfSubjectRulesReview { spec, ..Default::default() };
    let params = PostParams::default();
    let review = timeout(CALL, api.create(&params, &review)).await.context("rules review: no answer")??;
    let status = review.status.context("a review without an answer")?;
    ensure!(!status.incomplete, "the API server does not know all rules: {:?}", status.evaluation_error);
    Ok(lines(&status))
}

fn lines(status: &SubjectRulesReviewStatus) -> BTreeSet<String> {
    let mut verbs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut allow =
        |what: String, rule: &[String]| verbs.entry(what).or_default().extend(rule.iter().cloned());
    for rule in &status.resource_rules {
        let names = match rule.resource_names.as_deref().unwrap_or_default() {
            [] => vec![String::new()],
            names => names.iter().map(|name| format!(" [{name}]")).collect(),
        };
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
                let dot = if group.is_empty() { "" } else { "." };
                let slash = if sub.is_empty() { "" } else { "/" };
                for name in &names {
                    allow(format!("{resource}{dot}{group}{slash}{sub}{name}"), &rule.verbs);
                }
            }
        }
    }
    for rule in &status.non_resource_rules {
        for url in rule.non_resource_urls.iter().flatten() {
            allow(url.clone(), &rule.verbs);
        }
    }
    let line = |(what, verbs): (String, BTreeSet<String>)| {
        format!("{what}: {}", verbs.into_iter().collect::<Vec<_>>().join(" "))
    };
    verbs.into_iter().map(line).collect()
}

/// `UPDATE=1 cargo test -p flagship-e2e --test live install` writes the file anew.
#[test]
fn the_daemon_may_do_this_and_no_more() {
    e2e("the_daemon_may_do_this_and_no_more", one(), async |world| {
        let client = as_the_daemon(&world.member("newyork").cluster).await?;
        // Nobody binds roles to it there.
        let everywhere = rights(&client, "kube-system").await?;
        let mut text = String::from("# In every namespace\n");
        everywhere.iter().for_each(|line| text.extend([line, "\n"]));
        for namespace in [SYSTEM, "default"] {
            writeln!(text, "\n# More in {namespace}")?;
            rights(&client, namespace).await?.difference(&everywhere).for_each(|l| text.extend([l, "\n"]));
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/golden/rights.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text)?;
        }
        let golden = std::fs::read_to_string(&path).context("read the golden file")?;
        let (golden, text): (BTreeSet<&str>, BTreeSet<&str>) =
            (golden.lines().collect(), text.lines().collect());
        ensure!(
            golden == text,
            "the daemon's rights are not those of {}: new {:#?}, gone {:#?}. If that is meant: UPDATE=1",
            path.display(),
            text.difference(&golden),
            golden.difference(&text)
        );
        Ok(())
    });
}

#[test]
fn the_pod_is_admitted_as_restricted_and_a_second_apply_changes_nothing() {
    e2e("the_pod_is_admitted_as_restricted_and_a_second_apply_changes_nothing", one(), async |world| {
        let client = world.member("newyork").cluster.client().await?;
        // The harness leaves out what a daemon outside of the cluster does not need.
        apply(&client, &of_kind("PriorityClass")?, false).await?;
        let mut pod = of_kind("Deployment")?["spec"]["template"].take();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("one-of-the-deployment");
        pod["metadata"]["namespace"] = json!(SYSTEM);
        apply(&client, &pod, true).await?;
        // The same admission does refuse.
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        let refused = apply(&client, &pod, true).await.err().context("a pod of root's rights was let in")?;
        ensure!(format!("{refused:#}").contains("restricted"), "refused for another reason: {refused:#}");

        for document in installed()? {
            apply(&client, &document, false).await?;
        }
        for document in installed()? {
            let (name, api) = api_of(&client, &document)?;
            let before = timeout(CALL, api.get(&name)).await.context("get: no answer")??;
            let after = apply(&client, &document, false).await?;
            // The status is the controllers' and changes meanwhile.
            let part = |object: &DynamicObject| {
                let mut data = object.data.clone();
                data.as_object_mut().map(|data| data.remove("status"));
                (object.metadata.generation, object.labels().clone(), data)
            };
            ensure!(part(&before) == part(&after), "the second apply changed {} {name}", document["kind"]);
        }
        // Nor what `kubectl scale` has set.
        let deployment = of_kind("Deployment")?;
        let (name, api) = api_of(&client, &deployment)?;
        let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
        timeout(CALL, api.patch_scale(&name, &PatchParams::default(), &two)).await.context("scale")??;
        let applied = apply(&client, &deployment, false).await?;
        ensure!(applied.data["spec"]["replicas"] == 2, "an upgrade reset the number of replicas");
        Ok(())
    });
}

/// What `kubectl delete -f deploy/install.yaml` asks for, in its order: the next is asked for at once.
async fn delete_install_yaml(client: &Client) -> Result<()> {
    for document in installed()? {
        let (name, api) = api_of(client, &document)?;
        let deleted = timeout(CALL, api.delete(&name, &DeleteParams::background())).await;
        match deleted.context("delete: no answer")? {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => bail!("delete {} {name}: {error}", document["kind"]),
        }
    }
    Ok(())
}

/// MultiClusters in a namespace, by an administrator.
async fn objects(member: &Member, namespace: &str) -> Result<Api<DynamicObject>> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-vip.io", "v1alpha1", "MultiCluster"));
    Ok(Api::namespaced_with(member.cluster.client().await?, namespace, &kind))
}

/// That the member's object is asked to go and cannot.
async fn in_deletion(member: &Member, namespace: &str) -> Result<()> {
    let objects = objects(member, namespace).await?;
    let left = timeout(CALL, objects.get(member.name())).await.context("get: no answer")??;
    ensure!(left.metadata.deletion_timestamp.is_some(), "the CRD was not deleted with its objects");
    ensure!(left.finalizers().iter().any(|finalizer| finalizer == "kube-vip.io/payload"));
    Ok(())
}

#[test]
fn deleting_install_yaml_under_a_running_daemon_deletes_no_payload() {
    e2e("deleting_install_yaml_under_a_running_daemon_deletes_no_payload", one(), async |world| {
        let newyork = world.member("newyork");
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        let before = world.facts("newyork")?;
        delete_install_yaml(&newyork.cluster.client().await?).await?;
        // The object is asked to go, its finalizer keeps it, and the daemon may not touch anything any more.
        world.nothing_moves("newyork", &before, Duration::from_secs(20)).await?;
        in_deletion(newyork, "default").await?;
        // docs/install.md: how the payload is kept for good.
        newyork.patch(&json!({"metadata": {"finalizers": []}})).await?;
        newyork.watch.wait("the object is gone", MINUTE, |state| state.members.is_empty()).await?;
        world.nothing_moves("newyork", &before, Duration::from_secs(2)).await
    });
}

/// Uid and generation of what a payload is made of, in a namespace.
async fn payload_in(client: &Client, namespace: &str) -> Result<BTreeSet<(String, Option<i64>)>> {
    let mut found = BTreeSet::new();
    for (group, kind) in [("apps", "Deployment"), ("", "Pod")] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let all = timeout(CALL, api.list(&ListParams::default())).await.context("list: no answer")??;
        for object in all {
            ensure!(object.metadata.deletion_timestamp.is_none(), "{kind} {} is deleted", object.name_any());
            found.insert((object.uid().unwrap_or_default(), object.metadata.generation));
        }
    }
    Ok(found)
}

/// There the daemon keeps its right to delete, as `kubectl delete -f` does not know the RoleBinding. What it may not
/// do any more is to note that it stops, and it deletes nothing before that is noted.
#[test]
fn deleting_install_yaml_deletes_no_payload_where_the_daemon_keeps_its_rights() {
    let name = "deleting_install_yaml_deletes_no_payload_where_the_daemon_keeps_its_rights";
    e2e(name, one(), async |world| {
        let (namespace, binding) = ("shop", "kube-vip-multi-cluster-payloads");
        let newyork = world.member("newyork");
        let client = newyork.cluster.client().await?;
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        apply(&client, &made, false).await?;
        // The command of docs/install.md for another namespace makes what install.yaml has for `default`.
        let is_binding = |document: &Value| document["metadata"]["name"] == binding;
        let mut rights = installed()?.into_iter().find(is_binding).context("the RoleBinding for default")?;
        rights["metadata"]["namespace"] = json!(namespace);
        apply(&client, &rights, false).await?;
        let mut object = newyork.plan.object.clone();
        object["metadata"]["namespace"] = json!(namespace);
        apply(&client, &object, false).await?;

        let objects = objects(newyork, namespace).await?;
        let deadline = Instant::now() + MINUTE;
        loop {
            let member = timeout(CALL, objects.get("newyork")).await.context("get: no answer")??;
            // The Deployment and its three pods.
            let whole = payload_in(&client, namespace).await?.len() == 4;
            if whole && member.data["status"]["leading"] == true {
                break;
            }
            ensure!(Instant::now() < deadline, "no payload in {namespace}: {}", member.data["status"]);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Until nobody writes to it any more.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = payload_in(&client, namespace).await?;
        delete_install_yaml(&client).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        ensure!(payload_in(&client, namespace).await? == before, "the payload was touched");
        in_deletion(newyork, namespace).await?;
        let (_, bindings) = api_of(&client, &rights)?;
        timeout(CALL, bindings.get(binding)).await.context("get: no answer")?.context("its rights there")?;
        Ok(())
    });
}

/// newyork leads, sheffield stands by.
fn two() -> Result<Vec<Plan>> {
    let mut plans = World::two()?;
    plans[1].set("rank", json!(1));
    Ok(plans)
}

/// A warning that docs/install.md gives, not something to wish for: the payload runs twice.
#[test]
fn warning_deleting_install_yaml_lets_another_member_start_the_payload_a_second_time() {
    let name = "warning_deleting_install_yaml_lets_another_member_start_the_payload_a_second_time";
    e2e(name, two(), async |world| {
        world.expect(Expect::Overlap("docs/install.md warns of it"));
        let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        sheffield.apply().await?;
        let follows = |state: &clusters::watch::State| state.status("sheffield", "leader") == "newyork";
        sheffield.watch.wait("sheffield follows", MINUTE, follows).await?;
        let before = world.facts("newyork")?;
        let client = newyork.cluster.client().await?;
        let uids = payload_in(&client, "default").await?;

        delete_install_yaml(&client).await?;
        // The Deployment goes with the rest, and this happens to its pod.
        newyork.daemon.terminate(&newyork.cluster, MINUTE).await?;
        let ended = Instant::now();
        // Nobody takes over while it may come back.
        world.nothing_moves("newyork", &before, AWAY - Duration::from_secs(8)).await?;
        sheffield.wait_created(ended, MINUTE).await?;
        sheffield.wait_leading(MINUTE).await?;
        ensure!(matches!(world.audit(ended).anything, Verdict::For(_)), "the warning is out of date");
        ensure!(payload_in(&client, "default").await? == uids, "the payload here was touched");
        in_deletion(newyork, "default").await
    });
}
