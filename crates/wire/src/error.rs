//! Why a frame was refused.

/// A frame does not say what it must. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct DecodeError {
    /// Which field, as the `.proto` files name it.
    pub field: &'static str,
    /// What was expected and what was found.
    pub problem: String,
}

impl DecodeError {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }

    pub(crate) fn missing(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}
