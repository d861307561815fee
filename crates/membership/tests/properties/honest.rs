//! Honest peers: they beat, echo, answer and refute as they should, and what they signed before is on record.

use std::time::Duration;

use flagship_membership::{
    Accusation, Echo, Evidence, LinkId, Message, Record, SelfState, Signed, State, Verdict, observers_of,
};
use flagship_types::{Epoch, Incarnation, Instant, MemberName, PeerAddress};

use crate::steps::Setup;
use crate::world::{CORE, H, Happening, Stream, WALL_MS, WAY, World, address, metadata, name, signed};

/// An honest peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) record: Record,
    pub(crate) address: PeerAddress,
    pub(crate) protocol: u32,
    pub(crate) streams: Vec<Stream>,
    pub(crate) crashed: Option<Instant>,
    /// The operator forgot it: nothing is promised any more.
    pub(crate) forgotten: bool,
    /// What it sent, and on which stream.
    pub(crate) said: Vec<(LinkId, Message)>,
    pub(crate) heard_at: Option<Instant>,
    pub(crate) believed: (Epoch, Incarnation),
}

impl Peer {
    pub(crate) fn new(i: usize, setup: Setup) -> Self {
        let number = i64::try_from(i).unwrap() + 1;
        let address = address(&format!("10.1.0.{number}:9990"));
        let record = Record {
            member: name(&format!("h{i:02}")),
            epoch: Epoch(WALL_MS - 1_000 * (i as u64 + 1)),
            incarnation: Incarnation(1),
            version: 3,
            status: SelfState::Alive,
            metadata: metadata(number, Some(address.clone())),
        };
        Self {
            believed: (record.epoch, Incarnation(0)),
            record,
            address,
            protocol: if setup.old_peer && i == 0 { 1 } else { 2 },
            streams: Vec::new(),
            crashed: None,
            forgotten: false,
            said: Vec::new(),
            heard_at: None,
        }
    }
}

/// What honest peers signed before the core started: earlier epochs, good-byes of those, accusations that were refuted.
pub(crate) fn archive(peers: &[Peer]) -> (Vec<Signed<Record>>, Vec<Signed<Accusation>>) {
    let (mut records, mut accusations) = (Vec::new(), Vec::new());
    for (i, peer) in peers.iter().enumerate() {
        let earlier = |epoch: u64, version, status| {
            let epoch = Epoch(peer.record.epoch.0 - epoch);
            signed(Record { epoch, incarnation: Incarnation(0), version, status, ..peer.record.clone() })
        };
        let grace = Duration::from_secs(30);
        records.extend([
            earlier(9_000, 7, SelfState::Left),
            earlier(5_000, 4, SelfState::Alive),
            earlier(5_000, 5, SelfState::Away { grace }),
            earlier(0, 2, SelfState::Alive),
            signed(peer.record.clone()),
        ]);
        for by in 1..peers.len() {
            accusations.push(signed(Accusation {
                accuser: peers[(i + by) % peers.len()].record.member.clone(),
                subject: peer.record.member.clone(),
                epoch: peer.record.epoch,
                incarnation: Incarnation(0),
                evidence: if by % 2 == 0 { Evidence::Exit } else { Evidence::Silence },
            }));
        }
    }
    (records, accusations)
}

/// What honest peers do.
impl World {
    fn say(&mut self, i: usize, link: LinkId, wait: Duration, message: Message) {
        let peer = &mut self.peers[i];
        if peer.said.len() >= 64 {
            peer.said.remove(0);
        }
        peer.said.push((link, message.clone()));
        self.after(wait, Happening::ToCore(link, message));
    }

    pub(crate) fn peer_beats(&mut self, i: usize) {
        let (now, view_hash) = (self.now, self.view_hash());
        let peer = &mut self.peers[i];
        if peer.crashed.is_some() {
            return;
        }
        self.order += 1;
        self.queue.insert((now + H, self.order), Happening::Beat(i));
        let Some(stream) = peer.streams.last_mut() else { return };
        let young = |(seq, at): (u64, Instant)| {
            (now.since(at) <= H * 3).then_some(Echo { seq, delay: now.since(at) })
        };
        stream.seq += 1;
        let (seq, id) = (stream.seq, stream.id);
        // One of the two, the younger.
        let (received, acked) = (stream.received.newest(now), stream.acked.newest(now));
        let acked = acked.filter(|a| received.is_none_or(|r| r.1 <= a.1));
        let received = received.filter(|_| acked.is_none());
        let (echo, acked) = (received.and_then(young), acked.and_then(young));
        self.say(i, id, WAY, Message::Beat { seq, echo, acked, view_hash });
    }

    /// The core sent something.
    pub(crate) fn sent(&mut self, link: LinkId, message: Message) {
        if self.hostile.streams.iter().any(|stream| stream.id == link) {
            return self.sent_to_hostile(link, message);
        }
        let Some(i) = self.peers.iter().position(|p| p.streams.iter().any(|s| s.id == link)) else { return };
        if self.peers[i].crashed.is_some() {
            return;
        }
        let there = self.now + WAY;
        let Some(stream) = self.peers[i].streams.iter_mut().find(|s| s.id == link) else { return };
        match message {
            Message::Beat { seq, .. } => stream.received.add(seq, there),
            Message::Ping { seq } => {
                stream.received.add(seq, there);
                self.say(i, link, WAY * 2, Message::Echo(Echo { seq, delay: Duration::ZERO }));
            }
            Message::Echo(echo) => stream.acked.add(echo.seq, there),
            Message::Query { id, subject, .. } => {
                let verdict = self.honest_verdict(&subject);
                self.say(i, link, WAY * 2, Message::Answer { id, subject, verdict });
            }
            Message::Accuse(a) => self.refute(&a.subject.clone(), a.incarnation),
            Message::Delta { accusations, .. } => {
                for a in accusations {
                    self.refute(&a.subject.clone(), a.incarnation);
                }
            }
            Message::Known { incarnation, state: State::Suspect | State::Down | State::Away, .. } => {
                let subject = self.peers[i].record.member.clone();
                self.refute(&subject, incarnation);
            }
            _ => {}
        }
    }

    fn honest_verdict(&self, subject: &MemberName) -> Verdict {
        let peer = self.peers.iter().find(|p| p.record.member == *subject);
        match peer.map(|p| p.crashed) {
            Some(Some(crashed)) if self.now >= crashed + H * 11 / 10 => Verdict::Mute(Evidence::Silence),
            Some(Some(crashed)) => Verdict::Heard(self.now.since(crashed)),
            Some(None) => Verdict::Heard(Duration::from_millis(50)),
            None => Verdict::Abstain,
        }
    }

    /// What reached one honest peer reaches the accused; its refutation comes on all links.
    fn refute(&mut self, subject: &MemberName, against: Incarnation) {
        let Some(i) = self.peers.iter().position(|p| p.record.member == *subject) else { return };
        let peer = &mut self.peers[i];
        if peer.crashed.is_some() || against < peer.record.incarnation {
            return;
        }
        peer.record.incarnation = peer.record.incarnation.next();
        peer.record.version += 1;
        let record = signed(peer.record.clone());
        self.records.push(record.clone());
        self.flood(Some(i), &Message::Record(record));
    }

    /// The hostile peer answers by itself.
    pub(crate) fn answer_later(&mut self, link: LinkId, answer: Message) {
        self.after(WAY * 2, Happening::ToCore(link, answer));
    }

    fn flood(&mut self, first: Option<usize>, message: &Message) {
        for k in 0..self.peers.len() {
            if self.peers[k].crashed.is_some() || (first != Some(k) && self.peers[k].protocol < 2) {
                continue;
            }
            if let Some(link) = self.peers[k].streams.last().map(|s| s.id) {
                let wait = if first == Some(k) { WAY * 2 } else { WAY * 4 };
                self.after(wait, Happening::ToCore(link, message.clone()));
            }
        }
    }

    /// The honest observers of a dead peer accuse it, until the core believes it.
    pub(crate) fn observers_accuse(&mut self, i: usize) {
        let subject = self.peers[i].record.clone();
        let state = self.core.member(&subject.member).map(|m| m.state);
        if self.peers[i].forgotten || state == Some(State::Down) {
            return;
        }
        let live = self.peers.iter().filter(|p| p.crashed.is_none()).map(|p| p.record.member.clone());
        let live: Vec<MemberName> = live.chain([name(CORE), self.hostile.name.clone()]).collect();
        for accuser in observers_of(&subject.member, &live) {
            if self.peers.iter().any(|p| p.record.member == accuser) {
                let accusation = signed(Accusation {
                    accuser,
                    subject: subject.member.clone(),
                    epoch: subject.epoch,
                    incarnation: subject.incarnation,
                    evidence: Evidence::Silence,
                });
                self.accusations.push(accusation.clone());
                self.flood(None, &Message::Accuse(accusation));
            }
        }
        self.after(H, Happening::Accuse(i));
    }
}
