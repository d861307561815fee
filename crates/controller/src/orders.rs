//! An operator's orders to this member: pause, resume, switchover, a lead by force. The node decides; here its answer is
//! made into words for the status, the history and an Event.

use flagship_k8s_api::{
    OperatorOrder, OrderAnswer, PAUSE_ANNOTATION, RESUME_ANNOTATION, SWITCHOVER_ANNOTATION, verb,
};
use flagship_node::{Accepted, NodeHandle, Order};
use flagship_types::Pause;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::events::Notice;
use crate::happenings::Happening;

/// Gives the order of this annotation to the node.
pub(crate) async fn carry_out(
    key: &'static str,
    order: &OperatorOrder,
    node: &NodeHandle,
) -> (OrderAnswer, Happening) {
    let answer = node.order(to_node(key, order)).await;
    told(key, order, &answer, Timestamp::now())
}

fn to_node(key: &str, order: &OperatorOrder) -> Order {
    match key {
        PAUSE_ANNOTATION => {
            let most = order.reason.floor_char_boundary(Pause::MAX_REASON);
            let reason = order.reason[..most].to_owned();
            Order::Pause(Some(Pause { since_ms: flagship_node::wall_ms(), reason }))
        }
        RESUME_ANNOTATION => Order::Pause(None),
        SWITCHOVER_ANNOTATION => {
            Order::Switchover { to: order.to.clone().map(|to| to.0), try_only: order.dry_run }
        }
        _ => Order::ForceLead {
            above: order.above(),
            stopped: order.stopped.iter().map(|name| name.0.clone()).collect(),
        },
    }
}

fn told(
    key: &'static str,
    order: &OperatorOrder,
    answer: &Result<Accepted, String>,
    now: Timestamp,
) -> (OrderAnswer, Happening) {
    let verb = verb(key);
    let accepted = answer.is_ok();
    let target = match answer {
        Ok(Accepted::Target(to)) => Some(to.to_string()),
        _ => None,
    };
    let message = match (answer, order.dry_run) {
        (Err(because), _) => because.clone(),
        (Ok(Accepted::Config), _) if key == PAUSE_ANNOTATION => "the fleet is paused".into(),
        (Ok(Accepted::Config), _) => "the fleet goes on".into(),
        (Ok(Accepted::Target(to)), true) => format!("the lead would go to {to}"),
        (Ok(Accepted::Target(to)), false) => format!("the lead goes to {to}"),
        (Ok(Accepted::Term(term)), _) => format!("this member takes the lead under term {term}"),
    };
    let why = if order.reason.is_empty() { String::new() } else { format!(" ({})", order.reason) };
    let notice = match accepted {
        true => Notice::normal("OrderAccepted", format!("an operator asked for {verb}{why}: {message}")),
        false => Notice::warning(
            "OrderRefused",
            format!("an operator asked for {verb}{why}, and nothing was changed: {message}"),
        ),
    };
    // What becomes of a pause is told by everybody, and what would be is no history.
    let is_told = order.dry_run || (accepted && matches!(key, PAUSE_ANNOTATION | RESUME_ANNOTATION));
    let happening = if is_told { Happening::new(notice).event_only() } else { Happening::new(notice) };
    let time = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    (OrderAnswer { id: order.id.clone(), verb: verb.into(), accepted, message, target, time }, happening)
}

#[cfg(test)]
mod tests {
    use flagship_k8s_api::{FORCE_LEAD_ANNOTATION, MemberNameText};
    use flagship_types::Term;

    use super::*;

    fn order(reason: &str) -> OperatorOrder {
        OperatorOrder { id: "7".into(), reason: reason.into(), ..OperatorOrder::default() }
    }

    #[test]
    fn orders_reach_the_node_as_they_were_given() {
        let name = |name: &str| MemberNameText(name.parse().unwrap());
        let Order::Pause(Some(pause)) = to_node(PAUSE_ANNOTATION, &order(&"é".repeat(300))) else {
            panic!()
        };
        assert!(pause.reason.len() <= Pause::MAX_REASON && pause.since_ms > 0);
        assert_eq!(to_node(RESUME_ANNOTATION, &order("")), Order::Pause(None));
        let switchover = OperatorOrder { to: Some(name("sheffield")), dry_run: true, ..order("") };
        let expected = Order::Switchover { to: Some("sheffield".parse().unwrap()), try_only: true };
        assert_eq!(to_node(SWITCHOVER_ANNOTATION, &switchover), expected);
        let force = OperatorOrder { above_term: Some(7), stopped: vec![name("newyork")], ..order("") };
        let expected = Order::ForceLead { above: Term(7), stopped: vec!["newyork".parse().unwrap()] };
        assert_eq!(to_node(FORCE_LEAD_ANNOTATION, &force), expected);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason_and_stays_in_the_history() {
        let because = Err("sheffield leads, or may, and not this member: tell sheffield".into());
        let (answer, happening) = told(PAUSE_ANNOTATION, &order("work"), &because, Timestamp::UNIX_EPOCH);
        assert!(!answer.accepted && answer.id == "7" && answer.message.starts_with("sheffield leads"));
        assert!(happening.notice.warning && happening.history);
        assert_eq!(
            happening.notice.note,
            "an operator asked for pause (work), and nothing was changed: sheffield leads, or may, and not this \
             member: tell sheffield"
        );
    }

    #[test]
    fn a_dry_run_is_no_history() {
        let to = || Ok(Accepted::Target("sheffield".parse().unwrap()));
        let (answer, happening) = told(SWITCHOVER_ANNOTATION, &order("drill"), &to(), Timestamp::UNIX_EPOCH);
        assert!(answer.accepted && answer.target.as_deref() == Some("sheffield") && happening.history);
        let dry = OperatorOrder { dry_run: true, ..order("drill") };
        let (answer, happening) = told(SWITCHOVER_ANNOTATION, &dry, &to(), Timestamp::UNIX_EPOCH);
        assert_eq!(answer.message, "the lead would go to sheffield");
        assert!(!happening.history);
    }
}
