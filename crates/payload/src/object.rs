//! Objects of a payload and their identity.

use std::fmt;

use serde_json::{Map, Value};

/// Which object: what Kubernetes itself tells objects apart by. The version is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() && self.group != "apps" && self.group != "batch" {
            write!(f, ".{}", self.group)?;
        }
        match self.namespace.as_str() {
            "" => write!(f, " {}", self.name),
            namespace => write!(f, " {namespace}/{}", self.name),
        }
    }
}

/// A group and a kind, as in `Deployment.apps`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKind {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
}

impl ObjectId {
    /// Group and kind alone.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind { group: self.group.clone(), kind: self.kind.clone() }
    }
}

/// Where in which source an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The source, as in `spec.payload`.
    pub origin: String,
    /// The document in it, from 1, empty ones counted.
    pub document: usize,
    /// The line on which the document begins, from 1.
    pub line: usize,
    /// The place within a `List`, from 1; `None` outside of one.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {} (line {})", self.origin, self.document, self.line)?;
        match self.item {
            None => Ok(()),
            Some(item) => write!(f, ", item {item} of its list"),
        }
    }
}

/// An object as the payload has it: it has an apiVersion, a kind and a name, and nothing is known of its cluster yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// API group; empty for the core group.
    pub group: String,
    /// API version without the group.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, if it names one.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// The whole object.
    pub body: Map<String, Value>,
    /// Where it stands.
    pub place: Place,
}

impl Manifest {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }
}
