//! What the transport does with signatures: seals what a member sends, drops on arrival what it forged.

use flagship_membership::Message;

use super::fault::Host;
use super::names::Names;

/// A message on a stream.
#[derive(Debug)]
pub(super) struct Sealed(Message);

/// As the sender's transport gives it away.
pub(super) fn seal(_sender: Host, message: Message) -> Sealed {
    Sealed(message)
}

/// As the receiver's transport lets it through: `None` if it does not verify.
pub(super) fn open(names: &Names, sender: Host, sealed: Sealed) -> Option<Message> {
    let Sealed(message) = sealed;
    match &message {
        Message::Record(record) if names.host(&record.member) != Some(sender) => None,
        _ => Some(message),
    }
}
