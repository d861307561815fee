//! What cores answer, as bytes in one reused buffer.

use flagship_membership::{LinkId, Membership, Output};
use flagship_types::Instant;
use flagship_wire::{PeerMessage, message_frame};

/// One frame that a core sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) seat: usize,
    pub(crate) link: LinkId,
    pub(crate) at: Instant,
    /// Where its bytes end; they begin where those of the one before end.
    pub(crate) end: usize,
}

/// The answers of one batch of calls.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sent: Vec<Sent>,
    /// What is not sent to a peer, events aside: nothing once warm.
    pub(crate) others: Vec<(usize, Instant, Output)>,
}

impl Replies {
    /// Takes all outputs of a core.
    #[inline]
    pub(crate) fn take(&mut self, core: &mut Membership, seat: usize, at: Instant) {
        while let Some(output) = core.poll_output() {
            match output {
                Output::Send { link, message } => {
                    let frame = message_frame(&PeerMessage::Membership(message));
                    let frame = frame.expect("the messages of a calm fleet fit into a frame");
                    frame.encode(&mut self.bytes);
                    self.sent.push(Sent { seat, link, at, end: self.bytes.len() });
                }
                Output::Event(event) => drop(event),
                other => self.others.push((seat, at, other)),
            }
        }
    }

    /// The frames and who sent them.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Sent, &[u8])> {
        let mut start = 0;
        self.sent.iter().map(move |sent| {
            let frame = &self.bytes[start..sent.end];
            start = sent.end;
            (*sent, frame)
        })
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.sent.clear();
        self.others.clear();
    }
}
