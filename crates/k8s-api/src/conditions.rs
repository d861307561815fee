//! Conditions by the rules of kstatus: Reconciling and Stalled are present only when true; a healthy standby is Ready.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The longest message: a few sentences. Longer ones are cut, as every status write carries them.
pub const MAX_MESSAGE_CHARS: usize = 1024;
/// The longest reason, as Kubernetes has it.
const MAX_REASON_CHARS: usize = 1024;

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// All is well with this member, leader or not.
    Ready,
    /// Work is going on. Present only when true.
    Reconciling,
    /// Nothing goes on until somebody changes something. Present only when true.
    Stalled,
    /// Linked to the fleet, or alone in it by right.
    Joined,
    /// This member leads.
    Leading,
    /// The whole payload is applied here.
    PayloadApplied,
    /// Two clusters can never run the payload at once.
    SplitBrainProtected,
    /// The API server refuses what a process writes that does not lead any more. Present only when asked for.
    Fenced,
    /// The fleet uses what this object's election settings say.
    ConfigInForce,
    /// An operator stopped everything that moves the lead by itself. Present only when true.
    Paused,
}

impl ConditionType {
    /// The condition's type in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Joined => "Joined",
            Self::Leading => "Leading",
            Self::PayloadApplied => "PayloadApplied",
            Self::SplitBrainProtected => "SplitBrainProtected",
            Self::Fenced => "Fenced",
            Self::ConfigInForce => "ConfigInForce",
            Self::Paused => "Paused",
        }
    }

    fn only_when_true(self) -> bool {
        matches!(self, Self::Reconciling | Self::Stalled | Self::Paused)
    }
}

/// What to say of a condition.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// True or False; `None` is Unknown.
    pub status: Option<bool>,
    /// One CamelCase word for programs.
    pub reason: &'a str,
    /// A sentence for people; cut at [`MAX_MESSAGE_CHARS`].
    pub message: &'a str,
    /// The generation this is about.
    pub generation: Option<i64>,
    /// When it is said; kept as transition time only if the status changed.
    pub now: Timestamp,
}

/// Sets a condition, keeping the time of its last transition if its status stays. Reconciling and Stalled are
/// removed instead when they are not true. Returns whether anything but a time changed.
pub fn set(conditions: &mut Vec<Condition>, which: ConditionType, report: Report<'_>) -> bool {
    if which.only_when_true() && report.status != Some(true) {
        return remove(conditions, which);
    }
    let status = match report.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = conditions.iter().position(|condition| condition.type_ == which.as_str());
    let since = old
        .map(|at| &conditions[at])
        .filter(|old| old.status == status)
        .map(|old| old.last_transition_time.clone());
    let new = Condition {
        type_: which.as_str().into(),
        status: status.into(),
        reason: valid_reason(report.reason),
        message: bounded(report.message),
        observed_generation: report.generation,
        last_transition_time: since.unwrap_or(Time(report.now)),
    };
    match old {
        Some(at) if conditions[at] == new => false,
        Some(at) => {
            conditions[at] = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// Removes a condition. Returns whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, which: ConditionType) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != which.as_str());
    conditions.len() != before
}

/// The condition, if it is set.
pub fn get(conditions: &[Condition], which: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == which.as_str())
}

/// Whether the condition is there and true.
pub fn is_true(conditions: &[Condition], which: ConditionType) -> bool {
    get(conditions, which).is_some_and(|condition| condition.status == "True")
}

/// Whether both say the same, times and order aside.
pub fn same_but_times(one: &[Condition], other: &[Condition]) -> bool {
    without_times(one) == without_times(other)
}

pub(crate) fn without_times(conditions: &[Condition]) -> Vec<Condition> {
    let mut all = conditions.to_vec();
    for condition in &mut all {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    all.sort_by(|a, b| a.type_.cmp(&b.type_));
    all
}

/// The message, cut at [`MAX_MESSAGE_CHARS`].
pub fn bounded(message: &str) -> String {
    if message.chars().count() <= MAX_MESSAGE_CHARS {
        return message.into();
    }
    let kept: String = message.chars().take(MAX_MESSAGE_CHARS - 1).collect();
    format!("{kept}…")
}

/// A reason that the schema of a Condition takes: an identifier that begins with a letter.
fn valid_reason(reason: &str) -> String {
    let word: String = reason
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .skip_while(|c| !c.is_ascii_alphabetic())
        .take(MAX_REASON_CHARS)
        .collect();
    if word.is_empty() { "Unspecified".into() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: Option<bool>, message: &str, second: i64) -> Report<'_> {
        let now = Timestamp::from_second(second).unwrap();
        Report { status, reason: "Because", message, generation: Some(1), now }
    }

    fn since(conditions: &[Condition], which: ConditionType) -> i64 {
        get(conditions, which).unwrap().last_transition_time.0.as_second()
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut all = Vec::new();
        assert!(set(&mut all, ConditionType::Ready, report(Some(true), "a", 1)));
        assert!(!set(&mut all, ConditionType::Ready, report(Some(true), "a", 2)));
        assert!(set(&mut all, ConditionType::Ready, report(Some(true), "b", 3)));
        assert_eq!(since(&all, ConditionType::Ready), 1);
        assert!(set(&mut all, ConditionType::Ready, report(None, "b", 4)));
        assert_eq!(since(&all, ConditionType::Ready), 4);
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn stalled_and_reconciling_are_absent_unless_true() {
        let mut all = Vec::new();
        assert!(!set(&mut all, ConditionType::Stalled, report(Some(false), "", 1)));
        assert!(all.is_empty());
        assert!(set(&mut all, ConditionType::Stalled, report(Some(true), "x", 1)));
        assert!(is_true(&all, ConditionType::Stalled));
        assert!(set(&mut all, ConditionType::Stalled, report(None, "", 2)));
        assert!(all.is_empty());
    }

    #[test]
    fn comparison_ignores_times_and_order() {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        set(&mut one, ConditionType::Ready, report(Some(true), "a", 1));
        set(&mut one, ConditionType::Joined, report(Some(true), "a", 1));
        set(&mut two, ConditionType::Joined, report(Some(true), "a", 9));
        set(&mut two, ConditionType::Ready, report(Some(true), "a", 9));
        assert!(same_but_times(&one, &two));
        set(&mut two, ConditionType::Ready, report(Some(true), "b", 9));
        assert!(!same_but_times(&one, &two));
    }

    #[test]
    fn messages_and_reasons_are_bounded() {
        let long = "é".repeat(5000);
        assert_eq!(bounded(&long).chars().count(), MAX_MESSAGE_CHARS);
        assert_eq!(bounded("short"), "short");
        assert_eq!(valid_reason("1 bad-reason!"), "badreason");
        assert_eq!(valid_reason("…"), "Unspecified");
    }
}
