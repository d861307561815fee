//! What an operator asks of a fleet through an annotation on one member's object, and the answer in its status.

use flagship_types::{MemberName, Term};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Annotation on the leader's MultiCluster: pause the fleet. Its value is an [`OperatorOrder`].
pub const PAUSE_ANNOTATION: &str = "kube-vip.io/pause";
/// Annotation on the leader's MultiCluster, or with nobody leading on a candidate's: end the pause.
pub const RESUME_ANNOTATION: &str = "kube-vip.io/resume";
/// Annotation on the leader's MultiCluster: move the lead.
pub const SWITCHOVER_ANNOTATION: &str = "kube-vip.io/switchover";
/// Annotation on the MultiCluster that is to lead: take the lead without the grants of others.
pub const FORCE_LEAD_ANNOTATION: &str = "kube-vip.io/force-lead";

/// Members that one order may name: more than a fleet has that may lead.
const MAX_STOPPED: usize = 64;

/// The value of an order's annotation, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorOrder {
    /// Told again with the answer, so that who asked knows it from others; anything that is not used twice.
    pub id: String,
    /// Why, in the operator's words; shown in the Event and the history.
    #[serde(default)]
    pub reason: String,
    /// A switchover: to this member; absent: to the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberNameText>,
    /// A switchover: only say who would get the lead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// A lead by force: the highest term that the operator knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above_term: Option<u64>,
    /// A lead by force: whom the operator stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<MemberNameText>,
}

/// A member's name in an annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberNameText(pub MemberName);

impl TryFrom<String> for MemberNameText {
    type Error = flagship_types::NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        MemberName::new(&text).map(Self)
    }
}

impl From<MemberNameText> for String {
    fn from(name: MemberNameText) -> Self {
        name.0.to_string()
    }
}

/// Why the value of an order's annotation was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Not the expected JSON.
    #[error("annotation is not an order: {0}; give it with `flagship {1}`")]
    Json(serde_json::Error, &'static str),
    /// Longer than anything flagship writes.
    #[error("annotation has {0} bytes: at most {max} are read", max = OperatorOrder::MAX_BYTES)]
    TooLong(usize),
    /// More names than a fleet has members that may lead.
    #[error("annotation names {0} stopped members: at most {MAX_STOPPED} are read")]
    TooMany(usize),
    /// The term is missing.
    #[error("annotation has no aboveTerm: give it with `flagship fleet force-lead --above-term N`")]
    NoTerm,
}

impl OperatorOrder {
    /// The longest value that is read.
    pub const MAX_BYTES: usize = 20_000;

    /// Reads the value of this annotation.
    pub fn parse(key: &str, value: &str) -> Result<Self, OrderError> {
        if value.len() > Self::MAX_BYTES {
            return Err(OrderError::TooLong(value.len()));
        }
        let order: Self = serde_json::from_str(value).map_err(|error| OrderError::Json(error, verb(key)))?;
        if order.stopped.len() > MAX_STOPPED {
            return Err(OrderError::TooMany(order.stopped.len()));
        }
        if key == FORCE_LEAD_ANNOTATION && order.above_term.is_none() {
            return Err(OrderError::NoTerm);
        }
        Ok(order)
    }

    /// The highest term that the operator knows.
    pub fn above(&self) -> Term {
        Term(self.above_term.unwrap_or_default())
    }

    /// The annotation's value.
    pub fn to_value(&self) -> String {
        // A struct of strings, numbers and lists always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What is typed to give the order of this annotation.
pub fn verb(key: &str) -> &'static str {
    match key {
        PAUSE_ANNOTATION => "pause",
        RESUME_ANNOTATION => "resume",
        SWITCHOVER_ANNOTATION => "switchover",
        _ => "fleet force-lead",
    }
}

/// The answer to an operator's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderAnswer {
    /// What the order had as its id.
    pub id: String,
    /// pause, resume, switchover or fleet force-lead.
    pub verb: String,
    /// Whether it is carried out. If not, nothing was changed.
    pub accepted: bool,
    /// A sentence: what follows, or what speaks against it.
    pub message: String,
    /// A switchover: to whom. Absent if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When.
    pub time: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_round_trip_and_refuse_garbage() {
        let name = |name: &str| MemberNameText(MemberName::new(name).unwrap());
        let order = OperatorOrder {
            id: "1-2".into(),
            reason: "burnt \"down\"".into(),
            to: Some(name("sheffield")),
            dry_run: true,
            above_term: Some(7),
            stopped: vec![name("newyork")],
        };
        assert_eq!(OperatorOrder::parse(FORCE_LEAD_ANNOTATION, &order.to_value()).unwrap(), order);
        for bad in
            ["", "true", "{}", r#"{"id":1}"#, r#"{"id":"x","to":"a/b"}"#, r#"{"id":"x","stopped":["A"]}"#]
        {
            let error = OperatorOrder::parse(SWITCHOVER_ANNOTATION, bad).unwrap_err().to_string();
            assert!(error.contains("flagship switchover"), "{bad}: {error}");
        }
        let none = OperatorOrder::parse(FORCE_LEAD_ANNOTATION, r#"{"id":"x"}"#);
        assert!(matches!(none, Err(OrderError::NoTerm)));
        assert!(OperatorOrder::parse(PAUSE_ANNOTATION, r#"{"id":"x"}"#).is_ok());
        let long = "x".repeat(OperatorOrder::MAX_BYTES + 1);
        assert!(matches!(OperatorOrder::parse(PAUSE_ANNOTATION, &long), Err(OrderError::TooLong(_))));
        let many = OperatorOrder { stopped: vec![name("a"); MAX_STOPPED + 1], ..order };
        assert!(matches!(
            OperatorOrder::parse(FORCE_LEAD_ANNOTATION, &many.to_value()),
            Err(OrderError::TooMany(_))
        ));
    }
}
