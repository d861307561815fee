//! What an apply would do, found out by server-side dry runs before the first write.

use flagship_k8s_api::{APPLIED_ANNOTATION, FIELD_MANAGER, MULTICLUSTER_LABEL, TERM_ANNOTATION};
use flagship_types::Term;
use kube::api::DynamicObject;
use kube::core::ObjectMeta;
use serde_json::Value;

use crate::cluster::{Cluster, side_by_side};
use crate::error::{ApiError, Failure, Failures, ObjectError};
use crate::plan::{Plan, PlannedObject};

/// What has to be done about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is not there.
    Create,
    /// It is there, ours (or taken over), and differs.
    Update {
        /// The uid that was seen.
        uid: String,
        /// Whether fields that others have set since are taken back.
        force: bool,
    },
    /// It is there as it should be; the term of its last write does not count.
    Keep {
        /// Its uid.
        uid: String,
        /// Its generation.
        generation: i64,
    },
    /// It is there and being deleted: it must be gone before it can be created.
    AwaitDeletion,
    /// Its kind or its namespace comes with the payload and is not there yet: it cannot be checked before.
    Later,
}

/// What an apply would do, object by object, in the plan's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub(crate) actions: Vec<Action>,
}

impl Checked {
    /// Whether there is nothing to do: the cluster is as the plan wants it.
    pub fn is_clean(&self) -> bool {
        self.actions.iter().all(|action| matches!(action, Action::Keep { .. }))
    }

    /// What has to be done, in the order of [`Plan::objects`].
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }
}

impl Cluster {
    /// Finds out what an apply would do and whether the API server would take all of it. Writes nothing; a standby
    /// does it to know whether it could lead. `term` is the one new writes would get.
    pub async fn check(&self, plan: &Plan, term: Term, force: bool) -> Result<Checked, Failures> {
        let objects = plan.objects().iter().enumerate();
        let requests: Vec<_> = objects
            .map(|(at, object)| async move { (at, self.check_one(plan, object, term, force).await) })
            .collect();
        let mut actions = vec![Action::Later; plan.objects().len()];
        let mut failures = Vec::new();
        for (at, result) in side_by_side(requests).await {
            match result {
                Ok(action) => actions[at] = action,
                Err(error) => failures.push((at, error)),
            }
        }
        if failures.is_empty() {
            return Ok(Checked { actions });
        }
        if failures.iter().any(|(_, error)| matches!(error, ObjectError::Api(error) if error.code() == 404)) {
            // A kind has gone that was known before: the next plan has to ask again.
            self.forget_catalog();
        }
        failures.sort_by_key(|(at, _)| *at);
        let named =
            failures.into_iter().map(|(at, error)| Failure { id: plan.objects()[at].id.clone(), error });
        Err(Failures(named.collect()))
    }

    pub(crate) async fn check_one(
        &self,
        plan: &Plan,
        object: &PlannedObject,
        term: Term,
        force: bool,
    ) -> Result<Action, ObjectError> {
        let live = self.read(object).await?;
        if let Some(live) = &live {
            if live.metadata.deletion_timestamp.is_some() {
                return Ok(Action::AwaitDeletion);
            }
            if !force && !is_ours(&live.metadata, &plan.owner().label()) {
                return Err(ObjectError::NotOurs { by: who(&live.metadata) });
            }
        }
        // The same payload was applied to it before: whoever set one of these fields since did so behind our back.
        // What an edited payload adds may belong to somebody else by right, and is asked for without force.
        let metadata = live.as_ref().map(|live| &live.metadata);
        let force = force
            || metadata
                .is_some_and(|metadata| annotation(metadata, APPLIED_ANNOTATION) == Some(object.hash()));
        // Compared under the term it was last written in: a new term alone is no reason to touch a running payload.
        let written = metadata.and_then(written_term).unwrap_or(term);
        let result = match self.dry_run(object, &object.body(written), force).await {
            Ok(result) => result,
            Err(error) => return blocked(plan, object, error),
        };
        Ok(match live {
            None => Action::Create,
            Some(live) => {
                let uid = live.metadata.uid.clone().unwrap_or_default();
                let generation = live.metadata.generation.unwrap_or_default();
                match manages(&live.metadata) && same(&live, &result) {
                    true => Action::Keep { uid, generation },
                    false => Action::Update { uid, force },
                }
            }
        })
    }
}

/// A dry run that failed: because of what the payload itself will bring, or for good.
fn blocked(plan: &Plan, object: &PlannedObject, error: ApiError) -> Result<Action, ObjectError> {
    if error.code() == 404 && plan.makes_room_for(&object.id) {
        return Ok(Action::Later);
    }
    Err(refusal(error))
}

/// A refusal with the other managers' names, where it is a conflict of fields.
pub(crate) fn refusal(error: ApiError) -> ObjectError {
    match error {
        ApiError::Refused { code: 409, reason, message, .. }
            if reason == "Conflict" && message.contains("conflict with") =>
        {
            let mut managers: Vec<&str> =
                message.split("conflict with ").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
            managers.sort_unstable();
            managers.dedup();
            let managers = if managers.is_empty() { "others".into() } else { managers.join(", ") };
            ObjectError::Conflict { managers, message }
        }
        error => ObjectError::Api(error),
    }
}

/// Whether this MultiCluster made it: its label and our field manager. Either alone proves nothing, as controllers
/// copy labels (of a Service to its EndpointSlices) and other MultiClusters use the same field manager.
pub(crate) fn is_ours(metadata: &ObjectMeta, label: &str) -> bool {
    let labelled = metadata.labels.as_ref().and_then(|labels| labels.get(MULTICLUSTER_LABEL));
    labelled.is_some_and(|value| value == label) && manages(metadata)
}

fn manages(metadata: &ObjectMeta) -> bool {
    let managers = metadata.managed_fields.iter().flatten();
    managers.into_iter().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    })
}

/// The longest list of managers in a message.
const MAX_MANAGERS: usize = 3;

fn who(metadata: &ObjectMeta) -> String {
    let labelled = metadata.labels.as_ref().and_then(|labels| labels.get(MULTICLUSTER_LABEL));
    if let Some(other) = labelled.filter(|_| manages(metadata)) {
        return format!(" (it belongs to the MultiCluster {other})");
    }
    let mut managers: Vec<&str> =
        metadata.managed_fields.iter().flatten().filter_map(|e| e.manager.as_deref()).collect();
    managers.sort_unstable();
    managers.dedup();
    managers.truncate(MAX_MANAGERS);
    match managers.is_empty() {
        true => String::new(),
        false => format!(" (but by {})", managers.join(", ")),
    }
}

fn written_term(metadata: &ObjectMeta) -> Option<Term> {
    annotation(metadata, TERM_ANNOTATION)?.parse().ok().map(Term)
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether a dry run would change nothing that counts.
fn same(live: &DynamicObject, result: &DynamicObject) -> bool {
    let strip = |object: &DynamicObject| {
        let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
        }
        value
    };
    strip(live) == strip(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Verb;
    use serde_json::json;

    fn metadata(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn ours_needs_the_label_and_the_manager() {
        let manager = |name: &str| json!([{"manager": name, "operation": "Apply"}]);
        let label = json!({"kube-vip.io/multicluster": "default.newyork"});
        let ours = |value| is_ours(&metadata(value), "default.newyork");
        assert!(ours(json!({"labels": label, "managedFields": manager("flagship")})));
        assert!(!ours(json!({"labels": label, "managedFields": manager("kubectl")})));
        assert!(!ours(json!({"managedFields": manager("flagship")})));
        let other =
            json!({"labels": {"kube-vip.io/multicluster": "a.b"}, "managedFields": manager("flagship")});
        assert!(!ours(other.clone()));
        assert_eq!(who(&metadata(other)), " (it belongs to the MultiCluster a.b)");
        assert_eq!(
            who(&metadata(json!({"managedFields": manager("kubectl-create")}))),
            " (but by kubectl-create)"
        );
    }

    #[test]
    fn conflicts_name_the_other_managers() {
        let message = "Apply failed with 2 conflicts: conflict with \"kubectl\" using apps/v1: .spec.replicas\nconflict with \"hpa\" using apps/v1: .spec.replicas";
        let (what, reason) = ("Deployment default/web".into(), "Conflict".into());
        let error = ApiError::Refused {
            verb: Verb::DryRun,
            what,
            code: 409,
            reason,
            message: message.into(),
            hint: "",
        };
        match refusal(error) {
            ObjectError::Conflict { managers, .. } => assert_eq!(managers, "hpa, kubectl"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn only_what_counts_is_compared() {
        let object = |value: Value| serde_json::from_value::<DynamicObject>(value).unwrap();
        let base = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "1"}, "data": {"k": "v"}});
        let mut other = base.clone();
        other["metadata"]["resourceVersion"] = json!("2");
        assert!(same(&object(base.clone()), &object(other.clone())));
        other["data"]["k"] = json!("w");
        assert!(!same(&object(base), &object(other)));
    }
}
