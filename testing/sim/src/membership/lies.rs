//! What a lying member says, under its own name and in others'.

use std::collections::VecDeque;
use std::time::Duration;

use flagship_membership::{
    Accusation, Evidence, LinkId, Membership, Message, Record, SelfState, Signed, State, Verdict,
};
use flagship_types::{Epoch, Incarnation, MemberName};
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::fault::Lie;
use super::names::{Names, address, metadata};
use super::signing::proof;

/// Messages kept for replays.
const MEMORY: usize = 64;

/// A member that lies.
#[derive(Debug)]
pub(super) struct Liar {
    lies: Vec<Lie>,
    memory: VecDeque<Message>,
    /// Lies told so far.
    pub(super) told: u64,
}

impl Liar {
    pub(super) fn new(lies: Vec<Lie>) -> Self {
        Self { lies, memory: VecDeque::new(), told: 0 }
    }

    fn has(&self, lie: Lie) -> bool {
        self.lies.contains(&lie)
    }

    /// Something it received or sent, to be said again later.
    pub(super) fn remember(&mut self, message: &Message, rng: &mut Pcg64Mcg) {
        if self.has(Lie::Replay) && rng.random_range(0..4) == 0 {
            if self.memory.len() == MEMORY {
                self.memory.remove(rng.random_range(0..MEMORY));
            }
            self.memory.push_back(message.clone());
        }
    }

    /// What it makes of what its core wants to say; `None`: it says nothing.
    pub(super) fn tamper(&mut self, message: Message, rng: &mut Pcg64Mcg) -> Option<Message> {
        self.remember(&message, rng);
        let verdict = if self.has(Lie::AnswerMute) {
            Verdict::Mute(Evidence::Exit)
        } else {
            Verdict::Heard(Duration::ZERO)
        };
        match message {
            Message::Answer { id, subject, .. }
                if self.has(Lie::AnswerMute) || self.has(Lie::AnswerHeard) =>
            {
                self.told += 1;
                Some(Message::Answer { id, subject, verdict })
            }
            Message::Delta { .. } if self.has(Lie::StaleDigest) => {
                self.told += 1;
                None
            }
            message => Some(message),
        }
    }

    /// The lies it tells unasked, and to whom.
    pub(super) fn invent(
        &mut self,
        core: &Membership,
        names: &Names,
        rng: &mut Pcg64Mcg,
    ) -> Vec<(LinkId, Message)> {
        let peers: Vec<(MemberName, LinkId)> =
            core.members().filter_map(|view| Some((view.name.clone(), view.link?))).collect();
        let Some((victim, _)) = (!peers.is_empty()).then(|| peers[rng.random_range(0..peers.len())].clone())
        else {
            return Vec::new();
        };
        let mut said = Vec::new();
        for lie in self.lies.clone() {
            let Some(message) = self.lie(lie, core, names, &victim, rng) else { continue };
            // To all, or to one of them only.
            let only = rng.random_range(0..2 * peers.len());
            let to = peers.iter().enumerate().filter(|(i, _)| only >= peers.len() || *i == only);
            said.extend(to.map(|(_, (_, link))| (*link, message.clone())));
        }
        self.told += said.len() as u64;
        said
    }

    fn lie(
        &self,
        lie: Lie,
        core: &Membership,
        names: &Names,
        victim: &MemberName,
        rng: &mut Pcg64Mcg,
    ) -> Option<Message> {
        let view = core.member(victim)?;
        let own = core.members().next()?;
        let me = names.host(own.name)?;
        let far = [0, 1, 2, 1 << 15, 1 << 16, (1 << 16) + 1, u32::MAX - view.incarnation.0];
        let ahead = far[rng.random_range(0..far.len())];
        let incarnation = Incarnation(view.incarnation.0.saturating_add(ahead));
        match lie {
            Lie::Accuse => {
                let evidence = if rng.random() { Evidence::Exit } else { Evidence::Silence };
                let (subject, epoch) = (victim.clone(), view.epoch);
                let incarnation = view.incarnation;
                // Mostly under its own name; else in another's, or without a signature.
                let accuser = match rng.random_range(0..4) {
                    0 => core.members().map(|view| view.name.clone()).nth(1)?,
                    _ => own.name.clone(),
                };
                let accusation = Accusation { accuser, subject, epoch, incarnation, evidence };
                Some(Message::Accuse(sealed(accusation, me, rng)))
            }
            Lie::AnswerMute | Lie::AnswerHeard => {
                // Also unasked, for queries that it can guess.
                let verdict = match lie {
                    Lie::AnswerMute => Verdict::Mute(Evidence::Exit),
                    _ => Verdict::Heard(Duration::ZERO),
                };
                Some(Message::Answer { id: rng.random_range(0..30), subject: victim.clone(), verdict })
            }
            Lie::Forge => {
                let status = [SelfState::Alive, SelfState::Left, SelfState::Away { grace: Duration::ZERO }];
                let status = status[rng.random_range(0..3)];
                let epoch = Epoch(view.epoch.0 + rng.random_range(0..2) * 1_000);
                let host = names.host(victim)?;
                let metadata = metadata(&address(11, host), 9_999);
                let (member, version) = (victim.clone(), 1_000);
                let record = Record { member, epoch, incarnation, version, status, metadata };
                let record = sealed(record, me, rng);
                match rng.random() {
                    true => Some(Message::Record(record)),
                    false => Some(Message::Delta { records: vec![record], accusations: Vec::new() }),
                }
            }
            Lie::Replay => {
                let n = self.memory.len();
                (n > 0).then(|| self.memory[rng.random_range(0..n)].clone())
            }
            Lie::Hold => {
                let state = State::ALL[rng.random_range(0..5)];
                let epoch =
                    Epoch(view.epoch.0.saturating_add([0, 0, 1, u64::MAX / 2][rng.random_range(0..4)]));
                Some(Message::Known { epoch, incarnation, state })
            }
            Lie::Huge => {
                let day = 24 * 3600 * 1000;
                let epochs = [0, 0, 1, 60_000, 2 * day, u64::MAX / 2];
                let epoch = Epoch(own.epoch.0.saturating_add(epochs[rng.random_range(0..epochs.len())]));
                let incarnation = Incarnation(own.incarnation.0.saturating_add(ahead));
                let (member, metadata) = (own.name.clone(), own.metadata?.clone());
                let (version, status) = (rng.random_range(0..1_000), SelfState::Alive);
                let record = Record { member, epoch, incarnation, version, status, metadata };
                Some(Message::Record(Signed::new(record, proof(me))))
            }
            Lie::Ghosts => {
                let ghost = |i: usize| {
                    let name = MemberName::new(&format!("ghost-{i}")).expect("a valid name");
                    (name, address(11, i))
                };
                let first = rng.random_range(0..1_000);
                Some(Message::Addresses((first..first + 16).map(ghost).collect()))
            }
            Lie::StaleDigest => {
                let bits = rng.random_range(3..=13);
                let numbers = 0..1_u16.checked_shl(bits).unwrap_or(0).min(64);
                let buckets = numbers.map(|number| (number, rng.random())).collect();
                Some(Message::Digest { bits: bits as u8, answer: rng.random(), buckets })
            }
        }
    }
}

/// Under its own signature, or none.
fn sealed<T>(content: T, me: usize, rng: &mut Pcg64Mcg) -> Signed<T> {
    match rng.random() {
        true => Signed::new(content, proof(me)),
        false => Signed::unsigned(content),
    }
}
