//! What the API server is told to refuse, as objects. Pure.

use flagship_k8s_api::{FENCING_MARK, MULTICLUSTER_LABEL, TERM_ANNOTATION, lease_name, owner_label};
use serde_json::{Value, json};

use crate::worker::Identity;

/// The claim by which the API server says from which pod a request comes.
pub(crate) const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The name of both objects. They live outside of namespaces, and no two MultiClusters share it.
pub(crate) fn name(identity: &Identity) -> String {
    lease_name(&identity.namespace, &identity.name)
}

/// Which requests are judged: writes of the payload's objects by the daemon. Never all objects: whoever selects those
/// can lock a cluster. Nobody else's requests: the garbage collector, the controllers and people go on as they are. Not
/// by field manager, which a delete does not have. No dry runs: a standby tries its payload without leading.
fn requests(identity: &Identity, daemon: &str) -> (Value, Value) {
    let label = owner_label(&identity.namespace, &identity.name);
    let constraints = json!({
        "matchPolicy": "Equivalent",
        "objectSelector": {"matchLabels": {(MULTICLUSTER_LABEL): label}},
        "resourceRules": [{
            "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": "*",
            "operations": ["CREATE", "UPDATE", "DELETE"],
        }],
    });
    let conditions = json!([
        {"name": "flagship-writes", "expression": format!("request.userInfo.username == {}", quoted(daemon))},
        {"name": "not-a-dry-run", "expression": "!has(request.dryRun) || !request.dryRun"},
    ]);
    (constraints, conditions)
}

/// The policy: who may write is in the status of the MultiCluster, which is its parameter.
pub(crate) fn policy(identity: &Identity, daemon: &str) -> Value {
    let (constraints, conditions) = requests(identity, daemon);
    let which = format!("MultiCluster {}/{}", identity.namespace, identity.name);
    let pod = format!(
        "has(request.userInfo.extra) && '{POD_UID}' in request.userInfo.extra \
         && size(request.userInfo.extra['{POD_UID}']) > 0 ? string(request.userInfo.extra['{POD_UID}'][0]) : ''"
    );
    let term = format!(
        "has(object.metadata.annotations) && '{TERM_ANNOTATION}' in object.metadata.annotations \
         ? int(object.metadata.annotations['{TERM_ANNOTATION}']) : 0"
    );
    let spec = json!({
        // Whatever goes wrong in judging, a write that nobody answers for is not made.
        "failurePolicy": "Fail",
        "paramKind": {"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster"},
        "matchConstraints": constraints,
        "matchConditions": conditions,
        "variables": [
            // Empty outside of a cluster: then only the term can be judged.
            {"name": "pod", "expression": pod},
            {"name": "term", "expression": term},
            {"name": "held", "expression": "has(params.status) && has(params.status.heldTerm) ? params.status.heldTerm : 0"},
            {"name": "stopping", "expression": "has(params.status) && has(params.status.stopping)"},
        ],
        "validations": [
            {
                "expression": "variables.pod == '' || !has(params.status) || !has(params.status.holder) \
                               || params.status.holder == variables.pod",
                "messageExpression": format!(
                    "'{FENCING_MARK} pod ' + variables.pod + ' does not serve {which} any more, ' + params.status.holder + ' does'"
                ),
                "message": format!("{FENCING_MARK} another process serves {which}"),
                "reason": "Forbidden",
            },
            {
                // Deleting needs no lead: it is what follows when there is none.
                "expression": "request.operation == 'DELETE' || (variables.held > 0 && !variables.stopping \
                               && variables.term >= variables.held)",
                "messageExpression": format!(
                    "'{FENCING_MARK} {which} ' + (variables.held == 0 ? 'does not lead' : variables.stopping ? \
                     'is giving up the lead' : 'leads under term ' + string(variables.held)) + ', this write is of term ' \
                     + string(variables.term)"
                ),
                "message": format!("{FENCING_MARK} {which} does not lead under the term of this write"),
                "reason": "Forbidden",
            },
        ],
    });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata(identity),
        "spec": spec,
    })
}

/// The binding, without which a policy does nothing.
pub(crate) fn binding(identity: &Identity) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata(identity),
        "spec": {
            "policyName": name(identity),
            "paramRef": {
                "name": identity.name, "namespace": identity.namespace,
                // Without its MultiCluster nobody could write what is left, or take it away.
                "parameterNotFoundAction": "Allow",
            },
            "validationActions": ["Deny"],
        },
    })
}

fn metadata(identity: &Identity) -> Value {
    let of = format!("{}/{}", identity.namespace, identity.name);
    json!({
        "name": name(identity),
        "labels": {"app.kubernetes.io/managed-by": "flagship"},
        // There are no owner references from outside of a namespace into one.
        "annotations": {"kube-vip.io/fence-of": of},
    })
}

/// As a string of CEL.
fn quoted(text: &str) -> String {
    let escaped: String =
        text.chars().flat_map(|c| matches!(c, '\\' | '\'').then_some('\\').into_iter().chain([c])).collect();
    format!("'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            namespace: "default".into(),
            name: "newyork".into(),
            uid: "u".into(),
            member: "newyork".parse().unwrap(),
        }
    }

    #[test]
    fn only_labelled_objects_and_only_the_daemon() {
        let policy = policy(&identity(), "system:serviceaccount:a:b");
        let spec = &policy["spec"];
        let selector = &spec["matchConstraints"]["objectSelector"]["matchLabels"];
        assert_eq!(*selector, json!({"kube-vip.io/multicluster": "default.newyork"}));
        assert_eq!(
            spec["matchConditions"][0]["expression"],
            "request.userInfo.username == 'system:serviceaccount:a:b'"
        );
        assert_eq!(spec["paramKind"]["kind"], "MultiCluster");
        let binding = binding(&identity());
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
        assert_eq!(binding["spec"]["paramRef"]["parameterNotFoundAction"], "Allow");
        assert_eq!(binding["spec"]["paramRef"]["namespace"], "default");
    }

    #[test]
    fn a_name_ends_no_string() {
        assert_eq!(quoted(r"it's \ one"), r"'it\'s \\ one'");
    }
}
