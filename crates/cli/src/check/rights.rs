//! Whether the daemon's service account may do what flagship and the payload need, asked of the API server itself.

use std::collections::BTreeSet;

use flagship_k8s_api::HookPoint;
use flagship_payload::Manifest;
use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};

use super::objects::Located;
use super::report::{Finding, Topic};
use crate::cluster::{Cluster, ClusterError};

/// What applying, watching and deleting an object needs.
const PAYLOAD_VERBS: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];
/// What serving an object needs.
const OWN_VERBS: [&str; 4] = ["get", "list", "watch", "patch"];

/// One question: may the daemon do these things with this resource there?
struct Question {
    group: String,
    resource: String,
    subresource: Option<&'static str>,
    namespace: String,
    verbs: &'static [&'static str],
}

impl Question {
    fn name(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let sub = self.subresource.map(|sub| format!("/{sub}")).unwrap_or_default();
        format!("{}{group}{sub}", self.resource)
    }
}

/// Everything about the rights for the objects of one cluster.
pub(crate) async fn check(cluster: &Cluster, objects: &[&Located], account: &str) -> Vec<Finding> {
    let Some((namespace, name)) = account.split_once(':') else {
        return vec![Finding::fail(
            Topic::Rights,
            format!("{account:?} is no service account"),
            "--service-account NAMESPACE:NAME",
        )];
    };
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let mut findings = Vec::new();
    let mut questions = Vec::new();
    let namespaces: BTreeSet<&str> = objects.iter().map(|object| object.namespace.as_str()).collect();
    for namespace in namespaces {
        let mut own = |group: &str, resource: &str, subresource, verbs| {
            let (group, resource, namespace) = (group.into(), resource.into(), namespace.into());
            questions.push(Question { group, resource, subresource, namespace, verbs });
        };
        own("kube-vip.io", "multiclusters", None, OWN_VERBS.as_slice());
        own("kube-vip.io", "multiclusters", Some("status"), &["patch"]);
        own("events.k8s.io", "events", None, &["create", "patch"]);
        if has_workloads(objects, namespace) {
            // A stop ends only when the pods are gone, and they are looked for through their owners.
            own("", "pods", None, &["get", "list"]);
            own("apps", "replicasets", None, &["get", "list"]);
        }
    }
    questions.extend(lease_homes(objects, namespace).into_iter().map(|namespace| Question {
        group: "coordination.k8s.io".into(),
        resource: "leases".into(),
        subresource: None,
        namespace,
        verbs: &["get", "create", "update"],
    }));
    let (gates, unknown) = gates(cluster, objects).await;
    questions.extend(gates);
    findings.extend(unknown);
    questions.extend(hook_keys(objects));
    for (manifest, namespace) in kinds(objects) {
        match resource(cluster, &manifest.group, &manifest.version, &manifest.kind).await {
            Ok(Some((resource, scope))) => questions.push(Question {
                group: resource.group,
                resource: resource.plural,
                subresource: None,
                namespace: if scope == Scope::Namespaced { namespace } else { String::new() },
                verbs: &PAYLOAD_VERBS,
            }),
            Ok(None) if brings_crds(objects) => {
                let message = format!(
                    "{}: {} {} is not known yet; the payload brings definitions",
                    cluster.context,
                    manifest.api_version(),
                    manifest.kind
                );
                findings.push(Finding::ok(Topic::Rights, message));
            }
            Ok(None) => {
                let message = format!(
                    "{}: the cluster does not know {} {}",
                    cluster.context,
                    manifest.api_version(),
                    manifest.kind
                );
                let hint = format!("{} api-resources | grep {}", cluster.kubectl, manifest.kind);
                findings.push(Finding::fail(Topic::Rights, message, hint));
            }
            Err(error) => {
                let message = format!("{}: {} could not be looked up", cluster.context, manifest.kind);
                findings.push(Finding::warn(Topic::Rights, message, error.to_string()));
            }
        }
    }
    findings.extend(join_all(questions.iter().map(|question| ask(cluster, &user, account, question))).await);
    findings
}

/// Where the daemon keeps the Leases of its members: where one was found, else in its own namespace, as
/// `deploy/install.yaml` has it.
fn lease_homes(objects: &[&Located], daemon: &str) -> BTreeSet<String> {
    objects.iter().map(|object| object.lease_namespace.clone().unwrap_or_else(|| daemon.into())).collect()
}

fn has_workloads(objects: &[&Located], namespace: &str) -> bool {
    let own = objects.iter().filter(|object| object.namespace == namespace);
    own.flat_map(|object| object.payload.iter().flatten())
        .any(|manifest| matches!(manifest.group.as_str(), "apps" | "batch"))
}

/// One manifest of every kind and namespace in the payloads.
fn kinds<'a>(objects: &[&'a Located]) -> Vec<(&'a Manifest, String)> {
    let mut seen = BTreeSet::new();
    let manifests = objects.iter().flat_map(|object| {
        object.payload.iter().flatten().map(|manifest| {
            (manifest, manifest.namespace.clone().unwrap_or_else(|| object.namespace.clone()))
        })
    });
    manifests
        .filter(|(manifest, namespace)| {
            seen.insert((manifest.api_version(), manifest.kind.clone(), namespace.clone()))
        })
        .collect()
}

/// What reading the objects of `spec.health.gates` needs, and gates of kinds that the cluster does not know.
async fn gates(cluster: &Cluster, objects: &[&Located]) -> (Vec<Question>, Vec<Finding>) {
    let (mut questions, mut findings) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for object in objects {
        let gates = object.object.spec.settings().map(|settings| settings.health.gates).unwrap_or_default();
        for gate in gates {
            let namespace = gate.namespace.clone().unwrap_or_else(|| object.namespace.clone());
            if !seen.insert((gate.group.clone(), gate.version.clone(), gate.kind.clone(), namespace.clone()))
            {
                continue;
            }
            match resource(cluster, &gate.group, &gate.version, &gate.kind).await {
                Ok(Some((resource, scope))) => questions.push(Question {
                    group: resource.group,
                    resource: resource.plural,
                    subresource: None,
                    namespace: if scope == Scope::Namespaced { namespace } else { String::new() },
                    verbs: &["get"],
                }),
                Ok(None) => {
                    let message = format!(
                        "{}: {}: the cluster does not know the kind {}",
                        object.name, gate.path, gate.kind
                    );
                    let hint = format!("{} api-resources | grep {}", cluster.kubectl, gate.kind);
                    findings.push(Finding::fail(Topic::Rights, message, hint));
                }
                Err(error) => {
                    let message = format!("{}: {} could not be looked up", object.name, gate.path);
                    findings.push(Finding::warn(Topic::Rights, message, error.to_string()));
                }
            }
        }
    }
    (questions, findings)
}

/// What reading the keys that sign deliveries to hooks needs.
fn hook_keys(objects: &[&Located]) -> Vec<Question> {
    let signs = |object: &&&Located| {
        let hooks = object.object.spec.settings().map(|settings| settings.hooks).unwrap_or_default();
        HookPoint::ALL.iter().any(|point| hooks.at(*point).is_some_and(|hook| hook.secret.is_some()))
    };
    let namespaces: BTreeSet<&str> =
        objects.iter().filter(signs).map(|object| object.namespace.as_str()).collect();
    let question = |namespace: &str| Question {
        group: String::new(),
        resource: "secrets".into(),
        subresource: None,
        namespace: namespace.into(),
        verbs: &["get"],
    };
    namespaces.into_iter().map(question).collect()
}

fn brings_crds(objects: &[&Located]) -> bool {
    objects
        .iter()
        .flat_map(|object| object.payload.iter().flatten())
        .any(|manifest| manifest.kind == "CustomResourceDefinition")
}

async fn resource(
    cluster: &Cluster,
    group: &str,
    version: &str,
    kind: &str,
) -> Result<Option<(ApiResource, Scope)>, ClusterError> {
    let kind = GroupVersionKind::gvk(group, version, kind);
    let found = async {
        match pinned_kind(&cluster.client, &kind).await {
            Ok((resource, capabilities)) => Ok(Some((resource, capabilities.scope))),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(kube::Error::Discovery(_)) => Ok(None),
            Err(error) => Err(error),
        }
    };
    cluster.call(found).await
}

async fn ask(cluster: &Cluster, user: &str, account: &str, question: &Question) -> Finding {
    let mut denied = Vec::new();
    for verb in question.verbs {
        match allowed(cluster, user, question, verb).await {
            Ok(true) => {}
            Ok(false) => denied.push(*verb),
            Err(error) => {
                let message = format!("{}: the rights of {account} are not known", cluster.context);
                return Finding::warn(
                    Topic::Rights,
                    message,
                    format!("you need the right to create subjectaccessreviews: {error}"),
                );
            }
        }
    }
    let place = match question.namespace.as_str() {
        "" => "cluster-wide".to_string(),
        namespace => format!("in {namespace}"),
    };
    let name = question.name();
    if denied.is_empty() {
        return Finding::ok(Topic::Rights, format!("{}: the daemon may use {name} {place}", cluster.context));
    }
    let message = format!("{}: {account} may not {} {name} {place}", cluster.context, denied.join(", "));
    Finding::fail(Topic::Rights, message, grant(cluster, account, question, &denied))
}

/// Kinds that the built-in role `edit` covers in full.
fn is_in_edit(group: &str, resource: &str) -> bool {
    let resources: &[&str] = match group {
        "" => &[
            "configmaps",
            "persistentvolumeclaims",
            "pods",
            "replicationcontrollers",
            "secrets",
            "serviceaccounts",
            "services",
        ],
        "apps" => &["daemonsets", "deployments", "replicasets", "statefulsets"],
        "autoscaling" => &["horizontalpodautoscalers"],
        "batch" => &["cronjobs", "jobs"],
        "networking.k8s.io" => &["ingresses", "networkpolicies"],
        "policy" => &["poddisruptionbudgets"],
        _ => &[],
    };
    resources.contains(&resource)
}

/// The commands that give the rights: for all of a namespace's payloads at once where `edit` does that, as
/// docs/install.md has it.
fn grant(cluster: &Cluster, account: &str, question: &Question, denied: &[&str]) -> String {
    let role = format!("flagship-{}", question.name().replace('/', "-"));
    let verbs = denied.join(",");
    let resource = question.name();
    let kubectl = &cluster.kubectl;
    match question.namespace.as_str() {
        "" => format!(
            "{kubectl} create clusterrole {role} --verb={verbs} --resource={resource} && {kubectl} create clusterrolebinding {role} --clusterrole={role} --serviceaccount={account}"
        ),
        namespace if is_in_edit(&question.group, &question.resource) => format!(
            "{kubectl} create rolebinding kube-vip-multi-cluster-payloads --namespace {namespace} --clusterrole=edit --serviceaccount={account}"
        ),
        namespace => format!(
            "{kubectl} -n {namespace} create role {role} --verb={verbs} --resource={resource} && {kubectl} -n {namespace} create rolebinding {role} --role={role} --serviceaccount={account}"
        ),
    }
}

async fn allowed(
    cluster: &Cluster,
    user: &str,
    question: &Question,
    verb: &str,
) -> Result<bool, ClusterError> {
    let attributes = ResourceAttributes {
        group: Some(question.group.clone()),
        resource: Some(question.resource.clone()),
        subresource: question.subresource.map(Into::into),
        namespace: Some(question.namespace.clone()),
        verb: Some(verb.into()),
        ..ResourceAttributes::default()
    };
    // A real request carries these groups; role bindings may name them.
    let namespace = user.split(':').nth(2).unwrap_or_default();
    let groups = [
        "system:serviceaccounts".to_string(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_string(),
    ];
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.into()),
            groups: Some(groups.into()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = cluster.call(api.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hint_binds_edit_where_that_is_enough() {
        let cluster = crate::cluster::testing::cluster_at("http://127.0.0.1:1");
        let hint = |group: &str, resource: &str, namespace: &str| {
            let (group, resource, namespace) = (group.into(), resource.into(), namespace.into());
            let question = Question { group, resource, subresource: None, namespace, verbs: &["get"] };
            grant(&cluster, "system:daemon", &question, &["get"])
        };
        let edit = "kubectl --context newyork create rolebinding kube-vip-multi-cluster-payloads --namespace shop \
                    --clusterrole=edit --serviceaccount=system:daemon";
        assert_eq!(hint("apps", "deployments", "shop"), edit);
        assert_eq!(hint("", "pods", "shop"), edit);
        assert!(
            hint("cilium.io", "networkpolicies", "shop")
                .contains("-n shop create role flagship-networkpolicies")
        );
        assert!(hint("coordination.k8s.io", "leases", "shop").contains("--resource=leases"));
        assert!(hint("", "namespaces", "").contains("create clusterrole "));
        let documented = include_str!("../../../../docs/install.md").replace("\\\n  ", "");
        let documented = documented.replace("NAMESPACE", "shop");
        let words = edit.replace(" --context newyork", "");
        let begin = words.split(" --serviceaccount").next().unwrap();
        assert!(documented.contains(begin), "{begin}");
    }
}
