//! The names under which flagship marks objects in a cluster.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The one field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "flagship";
/// Label on every payload object: which MultiCluster applied it. Its value is [`owner_label`].
pub const MULTICLUSTER_LABEL: &str = "kube-vip.io/multicluster";
/// Annotation on every payload object: the term under which it was last written.
pub const TERM_ANNOTATION: &str = "kube-vip.io/term";
/// Annotation on every payload object: a hash of what was applied, to tell drift from an edited payload.
pub const APPLIED_ANNOTATION: &str = "kube-vip.io/applied-hash";
/// How a refusal begins by which the API server keeps a process from writing that does not lead any more.
pub const FENCING_MARK: &str = "flagship fencing:";
/// Annotation on a Lease: the node of the process that holds it.
pub const NODE_ANNOTATION: &str = "kube-vip.io/node";
/// Finalizer of a MultiCluster whose payload may still run.
pub const FINALIZER: &str = "kube-vip.io/payload";
/// Annotation on a MultiCluster: an operator admits a member without a voter record. Its value is a [`Command`].
pub const ADMIT_ANNOTATION: &str = "kube-vip.io/admit";
/// Annotation on a MultiCluster: an operator says a member will not come back. Its value is a [`Command`].
pub const FORGET_ANNOTATION: &str = "kube-vip.io/forget";

/// The longest label value Kubernetes takes.
const LABEL_VALUE_MAX: usize = 63;
/// The longest name of an object.
const NAME_MAX: usize = 253;
/// Hexadecimal digits of SHA-256 that tell apart names too long for a label: 64 bits.
const HASH_DIGITS: usize = 16;

/// The value of [`MULTICLUSTER_LABEL`] for the payload of one MultiCluster: `<namespace>.<name>`, or where that is
/// longer than a label value may be, its beginning, `_` and 16 hexadecimal digits of its SHA-256.
///
/// Different objects get different values: a namespace holds no dot, and no Kubernetes name holds an underscore.
pub fn owner_label(namespace: &str, name: &str) -> String {
    let full = format!("{namespace}.{name}");
    if full.len() <= LABEL_VALUE_MAX {
        return full;
    }
    let digest = Sha256::digest(full.as_bytes());
    let hash: String = digest.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    let begin: String = full.chars().take(LABEL_VALUE_MAX - HASH_DIGITS - 1).collect();
    format!("{begin}_{hash}")
}

/// The name of the Lease that a member's daemon renews. A namespace has no dot, so no two members share one.
pub fn lease_name(namespace: &str, member: &str) -> String {
    let full = format!("flagship.{namespace}.{member}");
    if full.len() <= NAME_MAX {
        return full;
    }
    // The label of the owner is unique and short, but may hold an underscore, which names may not.
    format!("flagship-{}", owner_label(namespace, member).replace('_', "-"))
}

/// The name of the Lease by which a second replica says that it waits for the first one's.
pub fn second_lease_name(namespace: &str, member: &str) -> String {
    // No namespace has a dot, so that nobody's Lease of the other kind begins like this.
    let full = format!("second.{}", lease_name(namespace, member));
    if full.len() <= NAME_MAX {
        return full;
    }
    format!("second.flagship-{}", owner_label(namespace, member).replace('_', "-"))
}

/// What an operator asked for by an annotation: `{"member": "...", "reason": "..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The member it is about.
    pub member: String,
    /// Why, in the operator's words; shown in the Event and the history.
    pub reason: String,
}

/// Why the value of a command annotation was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not the expected JSON.
    #[error(
        "annotation is not {{\"member\": \"NAME\", \"reason\": \"WHY\"}}: {0}; set it with `flagship fleet`"
    )]
    Json(#[from] serde_json::Error),
    /// The member's name is no name.
    #[error("annotation names no member: {0}; set it with `flagship fleet`")]
    Member(#[from] flagship_types::NameError),
    /// Longer than anything `flagship fleet` writes.
    #[error("annotation has {0} bytes: at most {max} are read", max = Command::MAX_BYTES)]
    TooLong(usize),
}

impl Command {
    /// The longest value that is read: a name and a reason of a few sentences.
    pub const MAX_BYTES: usize = 4096;

    /// Reads an annotation's value.
    pub fn parse(value: &str) -> Result<Self, CommandError> {
        if value.len() > Self::MAX_BYTES {
            return Err(CommandError::TooLong(value.len()));
        }
        let command: Self = serde_json::from_str(value)?;
        flagship_types::MemberName::new(&command.member)?;
        Ok(command)
    }

    /// The annotation's value.
    pub fn to_value(&self) -> String {
        serde_json::json!({ "member": self.member, "reason": self.reason }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_valid_labels_and_told_apart() {
        assert_eq!(owner_label("default", "newyork"), "default.newyork");
        assert_ne!(owner_label("a", "newyork"), owner_label("b", "newyork"));
        let long = "x".repeat(253);
        let one = owner_label("default", &long);
        let two = owner_label("default", &format!("{}y", "x".repeat(252)));
        assert_eq!(one.len(), LABEL_VALUE_MAX);
        assert_ne!(one, two);
        assert!(one.starts_with("default.xxx") && one.contains('_'));
        let fits = "x".repeat(LABEL_VALUE_MAX - "default.".len());
        assert_eq!(owner_label("default", &fits), format!("default.{fits}"));
    }

    #[test]
    fn leases_are_told_apart_and_short_enough() {
        assert_eq!(lease_name("default", "newyork"), "flagship.default.newyork");
        assert_ne!(lease_name("a", "b.c"), lease_name("a-b", "c"));
        let long = lease_name("default", &"x".repeat(253));
        assert!(long.len() <= NAME_MAX && !long.contains('_'), "{long}");
        assert_eq!(second_lease_name("default", "newyork"), "second.flagship.default.newyork");
        let long = second_lease_name("default", &"x".repeat(253));
        assert!(long.len() <= NAME_MAX && long.starts_with("second."), "{long}");
    }

    #[test]
    fn commands_round_trip_and_refuse_garbage() {
        let command = Command { member: "sheffield".into(), reason: "burnt \"down\"".into() };
        assert_eq!(Command::parse(&command.to_value()).unwrap(), command);
        for bad in ["", "true", "{}", r#"{"member":"","reason":"x"}"#, r#"{"member":"a/b","reason":"x"}"#] {
            assert!(Command::parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(Command::parse(&"x".repeat(5000)), Err(CommandError::TooLong(5000))));
    }
}
