//! Statements of this member on their way out: signed if there is a key that others believe.

use flagship_membership::{Signed, SignedStatement, Statement};

use crate::ports::Signer;

/// The statement with its proof, or without one.
pub(crate) fn sign(signer: &dyn Signer, statement: Statement) -> SignedStatement {
    let proof = signer.sign(&statement);
    match (statement, proof) {
        (Statement::Record(record), Some(proof)) => SignedStatement::Record(Signed::new(record, proof)),
        (Statement::Record(record), None) => SignedStatement::Record(Signed::unsigned(record)),
        (Statement::Accusation(accusation), Some(proof)) => {
            SignedStatement::Accusation(Signed::new(accusation, proof))
        }
        (Statement::Accusation(accusation), None) => {
            SignedStatement::Accusation(Signed::unsigned(accusation))
        }
    }
}
