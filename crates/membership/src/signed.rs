//! Statements of members and the signatures that vouch for them. The core reads the content and passes the proof
//! on as it came; making and checking signatures is the transport side's work.

use std::ops::Deref;
use std::sync::Arc;

use crate::{Accusation, Record};

/// A signature and what it covers. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// The statement as it was signed.
    pub bytes: Box<[u8]>,
    /// The signature over it.
    pub signature: Box<[u8]>,
    /// The signer's certificate, DER. Shared, as one member's statements carry the same.
    pub leaf: Arc<[u8]>,
}

#[derive(Debug, PartialEq)]
struct Inner<T> {
    content: T,
    proof: Option<Proof>,
}

/// A statement with its proof. Cheap to clone: one copy serves the whole process.
#[derive(Debug, PartialEq)]
pub struct Signed<T>(Arc<Inner<T>>);

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Signed<T> {
    /// A statement that anybody can check.
    pub fn new(content: T, proof: Proof) -> Self {
        Self(Arc::new(Inner { content, proof: Some(proof) }))
    }

    /// A statement without a signature: believed of the peer that says it on its own link, never passed on.
    pub fn unsigned(content: T) -> Self {
        Self(Arc::new(Inner { content, proof: None }))
    }

    /// What vouches for it beyond the link it came on.
    pub fn proof(&self) -> Option<&Proof> {
        self.0.proof.as_ref()
    }

    /// About how many bytes it takes in a frame.
    pub fn size_hint(&self) -> usize {
        let proof = |p: &Proof| p.bytes.len() + p.signature.len() + p.leaf.len();
        self.proof().map_or(0, proof) + 64
    }

    /// Whether both are one and the same copy.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.content
    }
}

/// What a member says and everybody may have to check.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// What it says of itself.
    Record(Record),
    /// That it does not hear another.
    Accusation(Accusation),
}

/// A statement that was signed.
#[derive(Debug, Clone, PartialEq)]
pub enum SignedStatement {
    /// See [`Statement::Record`].
    Record(Signed<Record>),
    /// See [`Statement::Accusation`].
    Accusation(Signed<Accusation>),
}
