//! What the transport does with signatures: signs what a member says, and drops on arrival what does not verify. A
//! signature here is the signer's number: nobody changes what is under one, and a forger can only sign as itself.

use std::sync::Arc;

use flagship_membership::{Accusation, Message, Proof, Record, Signed, SignedStatement, Statement};

use super::fault::Host;
use super::names::Names;

/// A signature of that host's.
pub(super) fn proof(signer: Host) -> Proof {
    Proof { bytes: Box::default(), signature: Box::new((signer as u32).to_le_bytes()), leaf: Arc::default() }
}

/// Signs what a core asks to have signed.
pub(super) fn sign(signer: Host, statement: Statement) -> SignedStatement {
    match statement {
        Statement::Record(record) => SignedStatement::Record(Signed::new(record, proof(signer))),
        Statement::Accusation(accusation) => {
            SignedStatement::Accusation(Signed::new(accusation, proof(signer)))
        }
    }
}

/// Unsigned statements pass: what they are worth is for the core to judge.
fn verifies(names: &Names, proof: Option<&Proof>, who: &flagship_types::MemberName) -> bool {
    let Some(proof) = proof else { return true };
    let signer: Option<[u8; 4]> = (*proof.signature).try_into().ok();
    signer.is_some_and(|signer| names.host(who) == Some(u32::from_le_bytes(signer) as usize))
}

fn record_verifies(names: &Names, record: &Signed<Record>) -> bool {
    verifies(names, record.proof(), &record.member)
}

fn accusation_verifies(names: &Names, accusation: &Signed<Accusation>) -> bool {
    verifies(names, accusation.proof(), &accusation.accuser)
}

/// As the receiver's transport lets it through, and how many statements it dropped. `None`: nothing is left.
pub(super) fn verify(names: &Names, message: Message) -> (Option<Message>, u64) {
    match message {
        Message::Record(record) if !record_verifies(names, &record) => (None, 1),
        Message::Accuse(accusation) if !accusation_verifies(names, &accusation) => (None, 1),
        Message::Delta { mut records, mut accusations } => {
            let before = records.len() + accusations.len();
            records.retain(|record| record_verifies(names, record));
            accusations.retain(|accusation| accusation_verifies(names, accusation));
            let dropped = before - records.len() - accusations.len();
            (Some(Message::Delta { records, accusations }), dropped as u64)
        }
        message => (Some(message), 0),
    }
}

#[cfg(test)]
mod tests {
    use flagship_membership::SelfState;
    use flagship_types::{Epoch, Incarnation};

    use super::*;
    use crate::membership::names::metadata;

    #[test]
    fn what_another_signed_does_not_verify() {
        let names = Names::new(3, 7);
        let record = |signer: Host| {
            let record = Record {
                member: names.name(1).clone(),
                epoch: Epoch(1),
                incarnation: Incarnation(0),
                version: 1,
                status: SelfState::Left,
                metadata: metadata(names.address(1), 1),
            };
            Signed::new(record, proof(signer))
        };
        assert_eq!(verify(&names, Message::Record(record(2))), (None, 1));
        assert!(verify(&names, Message::Record(record(1))).0.is_some());
        let delta = Message::Delta { records: vec![record(2), record(1)], accusations: Vec::new() };
        let (Some(Message::Delta { records, .. }), 1) = verify(&names, delta) else { panic!() };
        assert!(records[0].is_same(&records[0]) && records.len() == 1);
    }
}
