//! What an operator asks for by an annotation: read, carried out once, taken off the object.

use flagship_k8s_api::{
    ADMIT_ANNOTATION, Command, FORCE_LEAD_ANNOTATION, FORGET_ANNOTATION, MultiCluster, OperatorOrder,
    PAUSE_ANNOTATION, RESUME_ANNOTATION, SWITCHOVER_ANNOTATION,
};
use flagship_types::MemberName;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};

use crate::request::{CallError, Caller, Verb};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Admit {
        member: MemberName,
        reason: String,
    },
    Forget {
        member: MemberName,
        reason: String,
    },
    /// For the node, which answers.
    Operator(OperatorOrder),
}

/// An annotation with what it says.
#[derive(Debug)]
pub(crate) struct Annotation {
    pub key: &'static str,
    pub value: String,
    /// What is asked for, or why that is not known: a sentence.
    pub order: Result<Order, String>,
}

/// The command annotations on the object.
pub(crate) fn read(object: &MultiCluster) -> Vec<Annotation> {
    let annotation = |key: &'static str| {
        let value = object.annotations().get(key)?;
        Some(Annotation { key, value: value.clone(), order: order(key, value) })
    };
    let known = [
        ADMIT_ANNOTATION,
        FORGET_ANNOTATION,
        PAUSE_ANNOTATION,
        RESUME_ANNOTATION,
        SWITCHOVER_ANNOTATION,
        FORCE_LEAD_ANNOTATION,
    ];
    known.into_iter().filter_map(annotation).collect()
}

fn order(key: &str, value: &str) -> Result<Order, String> {
    if key != ADMIT_ANNOTATION && key != FORGET_ANNOTATION {
        return OperatorOrder::parse(key, value).map(Order::Operator).map_err(|error| error.to_string());
    }
    let Command { member, reason } = Command::parse(value).map_err(|error| error.to_string())?;
    let member = MemberName::new(&member).map_err(|error| error.to_string())?;
    Ok(if key == ADMIT_ANNOTATION {
        Order::Admit { member, reason }
    } else {
        Order::Forget { member, reason }
    })
}

/// Takes an annotation off. Fails with a conflict if the object changed meanwhile; the watch will show it again.
pub(crate) async fn remove(
    api: &Api<MultiCluster>,
    caller: &Caller,
    object: &MultiCluster,
    key: &str,
) -> Result<(), CallError> {
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": object.resource_version(), "annotations": { key: null } }
    });
    let (name, params) = (object.name_any(), PatchParams::default());
    let send = async { api.patch_metadata(&name, &params, &Patch::Merge(&patch)).await };
    caller.call(Verb::Patch, send).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(key: &str, value: &str) -> MultiCluster {
        let mut object = MultiCluster::default();
        object.annotations_mut().insert(key.into(), value.into());
        object
    }

    #[test]
    fn orders_are_read() {
        assert!(read(&MultiCluster::default()).is_empty());
        let object = annotated(FORGET_ANNOTATION, r#"{"member":"sheffield","reason":"scrapped"}"#);
        let found = read(&object);
        let member = MemberName::new("sheffield").unwrap();
        assert_eq!(found[0].key, FORGET_ANNOTATION);
        assert_eq!(*found[0].order.as_ref().unwrap(), Order::Forget { member, reason: "scrapped".into() });
    }

    #[test]
    fn an_operators_order_is_read() {
        let object = annotated(SWITCHOVER_ANNOTATION, r#"{"id":"1","to":"sheffield"}"#);
        let found = read(&object);
        let Ok(Order::Operator(order)) = &found[0].order else { panic!("{found:?}") };
        assert_eq!((found[0].key, order.id.as_str()), (SWITCHOVER_ANNOTATION, "1"));
        assert!(read(&annotated(PAUSE_ANNOTATION, "yes"))[0].order.is_err());
    }

    #[test]
    fn garbage_is_an_error_and_not_an_order() {
        for value in ["", "{}", "sheffield", r#"{"member":"a/b","reason":""}"#] {
            assert!(read(&annotated(ADMIT_ANNOTATION, value))[0].order.is_err(), "{value}");
        }
    }
}
