//! What is delivered to a hook: one event with an id of its own, the same in every attempt.

use aws_lc_rs::rand;
use bytes::Bytes;
use flagship_k8s_api::HookPoint;
use jiff::Timestamp;
use serde::Serialize;

/// The body, in JSON. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Occasion {
    /// The fleet.
    pub callsign: String,
    /// Who sends this: the member that promotes or demotes.
    pub member: String,
    /// `beforePromote`, `afterPromote`, `beforeDemote` or `afterDemote`.
    pub event: &'static str,
    /// The term that begins or ends. It only grows: a lower one than seen before is old news.
    pub term: u64,
    /// Why: how the lead came to this member (`Resumed`: an earlier process of it was elected), or the reason to resign.
    pub reason: &'static str,
    /// Promotion: who led before, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<String>,
    /// beforePromote: whose payload may run yet, as far as is known here. What fences fences all of them off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_run_at: Option<Vec<String>>,
    /// Demotion: who takes over or leads already, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// The MultiCluster's namespace.
    pub namespace: String,
    /// The MultiCluster's name.
    pub name: String,
}

/// An occasion on its way to a hook. Attempts of one delivery are alike to the byte, so that a receiver can tell them from two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub point: HookPoint,
    pub id: String,
    pub body: Bytes,
}

impl Delivery {
    /// A new delivery, which happened now.
    pub(crate) fn new(point: HookPoint, occasion: &Occasion) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            #[serde(flatten)]
            occasion: &'a Occasion,
            timestamp: String,
            delivery_id: &'a str,
        }
        let id = new_id();
        let timestamp = Timestamp::now().to_string();
        let body = Body { occasion, timestamp, delivery_id: &id };
        // A struct of strings and numbers always serialises.
        let body = serde_json::to_vec(&body).unwrap_or_default().into();
        Self { point, id, body }
    }
}

/// A random UUID.
fn new_id() -> String {
    let mut bytes = [0u8; 16];
    // It fails only on a system without randomness, on which TLS would not work either.
    let _ = rand::fill(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_who_what_when_and_why() {
        let occasion = Occasion {
            callsign: "federation".into(),
            member: "newyork".into(),
            event: HookPoint::BeforePromote.as_str(),
            term: 8,
            reason: "Failover",
            predecessor: Some("sheffield".into()),
            may_run_at: Some(vec!["sheffield".into()]),
            successor: None,
            namespace: "default".into(),
            name: "newyork".into(),
        };
        let delivery = Delivery::new(HookPoint::BeforePromote, &occasion);
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
        let fields: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec![
            "callsign",
            "member",
            "event",
            "term",
            "reason",
            "predecessor",
            "mayRunAt",
            "namespace",
            "name",
            "timestamp",
            "deliveryId",
        ];
        expected.sort_unstable();
        assert_eq!(fields, expected);
        assert_eq!((&body["event"], &body["term"]), (&"beforePromote".into(), &8.into()));
        assert_eq!(body["deliveryId"], delivery.id);
        assert!(body["timestamp"].as_str().unwrap().parse::<Timestamp>().is_ok());
        assert_ne!(Delivery::new(HookPoint::BeforePromote, &occasion).id, delivery.id);
        assert_eq!(delivery.id.len(), 36);
    }
}
