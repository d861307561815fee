//! Two members whose views differ by one member meet: what it costs until they agree.

use std::time::{Duration, Instant as Clock};

use flagship_membership::{
    Input, LinkId, Membership, Message, Output, PeerHello, SignedStatement, Statement,
};
use flagship_types::{Instant, Verified};

use crate::Fleet;
use crate::crew::{read, written};
use crate::fleet::sign;

const NOW: Instant = Instant::from_nanos(3_600_000_000_000);
const LINK: LinkId = LinkId(1);

/// Two members of a fleet of whom one misses a third, about to be linked.
#[derive(Debug)]
pub struct DigestPair {
    fleet: Fleet,
}

/// What the exchange cost, both sides together, with the codec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DigestCost {
    /// Bytes of digests and deltas.
    pub bytes: usize,
    /// Digests and deltas.
    pub messages: usize,
    /// Time in both cores and codecs.
    pub spent: Duration,
}

impl DigestPair {
    /// A fleet of that many members.
    pub fn new(members: usize) -> Self {
        Self { fleet: Fleet::new(members) }
    }

    /// Links them and carries digests and deltas to and fro until there are none.
    pub fn exchange(&self) -> DigestCost {
        let missing = self.fleet.names().len() - 1;
        let mut sides = [self.fleet.core(0, &[], NOW), self.fleet.core(1, &[missing], NOW)];
        sides.iter_mut().for_each(|core| drop(outputs(core)));
        let hashes = sides.each_ref().map(Membership::view_hash);
        assert_ne!(hashes[0], hashes[1], "one of them knows more");
        for (side, other) in [(0, 1), (1, 0)] {
            let record = self.fleet.record(other);
            let address = record.metadata.address.clone();
            let hello = PeerHello {
                member: record.member.clone(),
                epoch: record.epoch,
                address: address.clone(),
                view_hash: hashes[other],
                protocol: 2,
            };
            // The first one dialled.
            let dialled = address.filter(|_| side == 0);
            let hello = Verified::first_hand(hello);
            sides[side].handle(Input::LinkUp { link: LINK, hello, dialled }, NOW);
        }
        let mut cost = DigestCost::default();
        // Only the first is to ask: digests and deltas of the other are answers.
        let mut flying: Vec<(usize, Vec<u8>)> = Vec::new();
        for side in [0, 1] {
            flying.extend(self.frames(&mut sides[side]).into_iter().map(|bytes| (1 - side, bytes)));
        }
        while let Some((to, bytes)) = (!flying.is_empty()).then(|| flying.remove(0)) {
            cost.bytes += bytes.len();
            cost.messages += 1;
            let start = Clock::now();
            let message = Verified::checked(read(&bytes, &self.fleet.names()[1 - to]));
            sides[to].handle(Input::Message { link: LINK, message }, NOW);
            let replies = self.frames(&mut sides[to]);
            cost.spent += start.elapsed();
            flying.extend(replies.into_iter().map(|bytes| (1 - to, bytes)));
        }
        assert_eq!(sides[0].view_hash(), sides[1].view_hash(), "they agree");
        cost
    }

    /// Digests and deltas that a core sends; it goes without links to the others.
    fn frames(&self, core: &mut Membership) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for output in outputs(core) {
            if let Output::Send {
                message: message @ (Message::Digest { .. } | Message::Delta { .. }), ..
            } = output
            {
                frames.push(written(message));
            }
        }
        frames
    }
}

/// All outputs; what is to be signed is signed.
fn outputs(core: &mut Membership) -> Vec<Output> {
    let mut outputs = Vec::new();
    while let Some(output) = core.poll_output() {
        match output {
            Output::Sign(statement) => {
                let Statement::Record(record) = *statement else { panic!("nobody is accused") };
                core.handle(Input::Signed(SignedStatement::Record(sign(record))), NOW);
            }
            other => outputs.push(other),
        }
    }
    outputs
}
