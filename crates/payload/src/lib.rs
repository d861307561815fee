//! Payload manifests.
mod object;
mod parse;
pub use object::{GroupKind, Manifest, ObjectId, Place};
pub use parse::{MAX_OBJECTS, ParseError, SourceText, parse};
