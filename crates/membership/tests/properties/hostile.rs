//! The steps of a plan, and what the hostile peer says.

use std::time::Duration;

use flagship_membership::{
    Accusation, Echo, Evidence, Input, LinkEnd, LinkId, Message, PeerHello, Record, SelfState, Signed, State,
    Verdict,
};
use flagship_types::{CloseCode, Epoch, MemberName, PeerAddress, Verified};

use crate::steps::{AccusationClaim, Frame, Order, Plan, RecordClaim, Step};
use crate::world::{CORE, Stream, WALL_MS, World, address, metadata, name, signed};

/// Steps of one run: longer ones find no more and cost time.
const MAX_STEPS: usize = 80;

/// Runs a plan to its end, with time for what is under way, and returns the hash of all outputs.
pub(crate) fn run(plan: &Plan) -> u64 {
    let mut world = World::new(plan.setup);
    for step in plan.steps.iter().take(MAX_STEPS) {
        world.step(step);
    }
    let crash = world.peers.iter().filter_map(|p| p.crashed).max();
    world.run(Duration::from_secs(9));
    world.check_deaths(crash);
    world.trace
}

fn pick<T>(of: &[T], index: u8) -> Option<&T> {
    if of.is_empty() { None } else { of.get(usize::from(index) % of.len()) }
}

fn code(index: u8) -> CloseCode {
    CloseCode::ALL[usize::from(index) % CloseCode::ALL.len()]
}

fn duration(index: u8) -> Duration {
    let us = [0, 1, 1_000, 9_000, 25_000, 60_000, 110_000, 900_000, 5_000_000, 604_800_000_000];
    Duration::from_micros(us[usize::from(index) % us.len()])
}

fn state(index: u8) -> State {
    State::ALL[usize::from(index) % State::ALL.len()]
}

fn evidence(exit: bool) -> Evidence {
    if exit { Evidence::Exit } else { Evidence::Silence }
}

fn proven<T>(content: T, proof: bool) -> Signed<T> {
    if proof { signed(content) } else { Signed::unsigned(content) }
}

impl World {
    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(ms) => self.run(Duration::from_millis(u64::from(*ms % 3_000))),
            Step::Pause { ms, frames_first } => {
                self.pause(Duration::from_millis(u64::from(*ms % 12_000)), *frames_first);
            }
            Step::Crash { peer } => self.may_crash(*peer),
            Step::LinkEnds { peer, code: why } => self.may_lose(*peer, *why),
            Step::Late { peer, frame } => {
                let peer = &self.peers[usize::from(*peer) % self.peers.len()];
                // On the stream that it came on, as no other can carry it.
                if let Some((link, message)) = pick(&peer.said, *frame).cloned() {
                    self.deliver(link, message);
                }
            }
            Step::Join { epoch, address, dialled, protocol } => {
                let told = epoch.near(self.hostile.record.epoch.0);
                self.join(Epoch(told), *address, *dialled, *protocol);
            }
            Step::OwnName { epoch, dialled } => {
                let hello = PeerHello {
                    member: name(CORE),
                    epoch: Epoch(epoch.near(self.core.epoch().0)),
                    address: None,
                    view_hash: 0,
                    protocol: 2,
                };
                self.own_name(hello, dialled.then(|| address("10.0.0.1:1")));
            }
            Step::HangUp { code: why } => {
                if let Some(stream) = self.hostile.streams.pop() {
                    let end = why.map_or(LinkEnd::Lost, |why| LinkEnd::Closed(code(why)));
                    self.handle(Input::LinkDown { link: stream.id, end });
                }
            }
            Step::Say(frame) => self.speak(frame, 0),
            Step::Flood { frame, times, every_us } => {
                for i in 0..u32::from(*times) {
                    self.speak(frame, i);
                    self.run(Duration::from_micros(u64::from(*every_us % 2_000)));
                }
            }
            Step::Order(order) => self.order(order),
        }
    }

    /// At most one of the honest dies, so that there are others to tell.
    fn may_crash(&mut self, peer: u8) {
        if self.peers.iter().all(|p| p.crashed.is_none()) && self.all_linked() {
            self.crash(usize::from(peer) % self.peers.len());
        }
    }

    /// One link at a time ends, so that the core is never alone with the hostile peer.
    fn may_lose(&mut self, peer: u8, why: Option<u8>) {
        if self.beats_flow() && self.all_linked() {
            let end = why.map_or(LinkEnd::Lost, |why| LinkEnd::Closed(code(why)));
            self.link_ends(usize::from(peer) % self.peers.len(), end);
        }
    }

    fn all_linked(&self) -> bool {
        let living = self.peers.iter().filter(|p| p.crashed.is_none()).count();
        self.honest_linked() >= living.min(4)
    }

    /// Who died is Down by now, whatever the hostile peer said meanwhile; and everybody who lives is Alive.
    fn check_deaths(&self, crash: Option<flagship_types::Instant>) {
        let undisturbed = self.active && crash.is_none_or(|at| self.quiet_since <= at);
        for peer in self.peers.iter().filter(|p| !p.forgotten && undisturbed) {
            let state = self.core.member(&peer.record.member).map(|m| m.state);
            let wanted = if peer.crashed.is_some() { State::Down } else { State::Alive };
            assert_eq!(state, Some(wanted), "{} died at {:?}", peer.record.member, peer.crashed);
        }
    }

    fn order(&mut self, order: &Order) {
        let input = match order {
            Order::Away => {
                self.active = false;
                Input::Away { grace: Duration::from_secs(30) }
            }
            Order::Leave => {
                self.active = false;
                Input::Leave
            }
            Order::Forget(who) => {
                let who = self.name_of(*who);
                // One of five at most: who is forgotten does not vouch for the others any more.
                if self.peers.iter().any(|p| p.forgotten) {
                    return;
                }
                if let Some(peer) = self.peers.iter_mut().find(|p| p.record.member == who) {
                    peer.forgotten = true;
                }
                Input::Forget(who)
            }
            Order::Required(who) => Input::SetRequired(who.iter().map(|who| self.name_of(*who)).collect()),
            Order::Seeds(seeds) => {
                Input::SetSeeds(seeds.iter().take(16).map(|seed| self.address_of(*seed)).collect())
            }
            Order::Rank(rank) => Input::SetMetadata(metadata((*rank).into(), Some(address("10.0.0.1:1")))),
        };
        self.handle(input);
    }

    fn name_of(&self, index: u8) -> MemberName {
        match index % 16 {
            13 => self.hostile.name.clone(),
            14 => name(CORE),
            15 => name(&format!("ghost-{index}")),
            _ => self.peers[usize::from(index) % self.peers.len()].record.member.clone(),
        }
    }

    fn address_of(&self, index: u8) -> PeerAddress {
        match index % 8 {
            0 => self.peers[usize::from(index / 8) % self.peers.len()].address.clone(),
            1 => address("10.0.0.1:1"),
            _ => address(&format!("10.3.0.{index}:{}", 9_000 + u16::from(index))),
        }
    }

    fn join(&mut self, epoch: Epoch, address: u8, dialled: bool, rings: bool) {
        let link = self.new_link();
        let address = self.address_of(address);
        self.hostile.streams.push(Stream::new(link, self.now));
        self.hostile.record.epoch = self.hostile.record.epoch.max(Epoch(epoch.0.min(WALL_MS * 2)));
        let hello = PeerHello {
            member: self.hostile.name.clone(),
            epoch,
            address: Some(address.clone()),
            view_hash: self.view_hash(),
            protocol: if rings { 2 } else { 1 },
        };
        let dialled = dialled.then_some(address);
        self.handle(Input::LinkUp { link, hello: Verified::checked(hello), dialled });
    }

    /// On its newest stream, so that it need not join in every plan.
    fn speak(&mut self, frame: &Frame, repetition: u32) {
        if self.hostile.streams.is_empty() && self.active {
            self.join(self.hostile.record.epoch, 9, false, true);
        }
        let Some(stream) = self.hostile.streams.last() else { return };
        let link = stream.id;
        let asked_for = self.hostile.digests > 0;
        let message = self.message(frame, repetition);
        // With fewer bits it is none: it is ignored, and the one answer to each digest may still come.
        let is_answer = matches!(message, Message::Digest { answer: true, bits: 4.., .. });
        let deltas = self.deltas();
        self.deliver(link, message);
        if is_answer {
            let told = self.deltas() - deltas;
            assert!(asked_for || told == 0, "{told} deltas for an answer to a digest that was not sent");
            self.hostile.digests = 0;
        }
    }

    pub(crate) fn message(&mut self, frame: &Frame, repetition: u32) -> Message {
        let (seq, acked, received) = self.hostile.streams.last().map_or((0, 0, 0), |s| {
            let newest = |a: &crate::world::Arrivals| a.newest(self.now).map_or(0, |(seq, _)| seq);
            (s.seq, newest(&s.acked), newest(&s.received))
        });
        let echo = |truth: u64, echo: &Option<(crate::steps::Number, u8)>| {
            echo.map(|(number, delay)| Echo { seq: number.near(truth), delay: duration(delay) })
        };
        match frame {
            Frame::Beat { seq: number, echo: e, acked: a, same_view } => Message::Beat {
                seq: self.next_seq(number.near(seq + 1)),
                echo: echo(received, e),
                acked: echo(acked, a),
                view_hash: if *same_view { self.core.view_hash() } else { 7 },
            },
            Frame::Ping { seq: number } => Message::Ping { seq: self.next_seq(number.near(seq + 1)) },
            Frame::Echo { seq: number, delay } => {
                Message::Echo(Echo { seq: number.near(received), delay: duration(*delay) })
            }
            Frame::Query { subject, epoch, deadline } => Message::Query {
                id: repetition.into(),
                subject: self.name_of(*subject),
                epoch: Epoch(epoch.near(self.epoch_of(*subject))),
                // A little less each time.
                deadline: duration(*deadline).saturating_sub(Duration::from_micros(10) * repetition),
            },
            Frame::Answer { id, subject, verdict } => {
                let (asked, about) = self.hostile.query.clone();
                let verdict = match verdict % 5 {
                    0 => Verdict::Heard(duration(verdict / 5)),
                    1 => Verdict::Mute(Evidence::Exit),
                    2 => Verdict::Mute(Evidence::Silence),
                    _ => Verdict::Abstain,
                };
                let subject = about.filter(|_| subject % 4 > 0).unwrap_or_else(|| self.name_of(*subject));
                Message::Answer { id: id.near(asked), subject, verdict }
            }
            Frame::Accuse(claim) => Message::Accuse(self.accusation(claim)),
            Frame::Record(claim) => Message::Record(self.record(claim)),
            Frame::Delta { records, accusations } => Message::Delta {
                records: records.iter().take(32).map(|claim| self.record(claim)).collect(),
                accusations: accusations.iter().take(32).map(|claim| self.accusation(claim)).collect(),
            },
            Frame::Digest { bits, answer, wrong } => {
                let bits = bits % 13;
                let hashes = 0..u16::try_from(1_u32 << bits).unwrap_or(u16::MAX);
                Message::Digest {
                    bits,
                    answer: *answer,
                    buckets: hashes.take((*wrong).into()).map(|n| (n, 5)).collect(),
                }
            }
            Frame::Unobserve => Message::Unobserve,
            Frame::Known { epoch, incarnation, state: held } => Message::Known {
                epoch: Epoch(epoch.near(self.core.epoch().0)),
                incarnation: flagship_types::Incarnation(incarnation.near32(self.core.incarnation().0)),
                state: state(*held),
            },
            Frame::Addresses(entries) => {
                let moved = |at: u8| at.wrapping_add(u8::try_from(repetition).unwrap_or(u8::MAX));
                let entries = entries.iter().take(128);
                Message::Addresses(
                    entries.map(|(who, at)| (self.name_of(*who), self.address_of(moved(*at)))).collect(),
                )
            }
        }
    }

    fn next_seq(&mut self, seq: u64) -> u64 {
        if let Some(stream) = self.hostile.streams.last_mut() {
            stream.seq = stream.seq.max(seq.min(u64::MAX - 1));
        }
        seq
    }

    fn epoch_of(&self, index: u8) -> u64 {
        self.core.member(&self.name_of(index)).map_or(WALL_MS, |m| m.epoch.0)
    }

    fn record(&mut self, claim: &RecordClaim) -> Signed<Record> {
        match claim {
            RecordClaim::Replayed(index) => match pick(&self.records, *index) {
                Some(record) => record.clone(),
                None => signed(self.hostile.record.clone()),
            },
            RecordClaim::Own { epoch, incarnation, version, status, address, signed } => {
                let grace = duration(*status);
                let last = &self.hostile.record;
                let record = Record {
                    member: self.hostile.name.clone(),
                    epoch: Epoch(epoch.near(last.epoch.0)),
                    incarnation: flagship_types::Incarnation(incarnation.near32(last.incarnation.0)),
                    version: version.near(last.version + 1),
                    status: match status % 6 {
                        0 => SelfState::Away { grace },
                        1 => SelfState::Left,
                        _ => SelfState::Alive,
                    },
                    metadata: metadata(99, Some(self.address_of(*address))),
                };
                let day = WALL_MS + 86_000_000;
                if record.epoch.0 < day && record.incarnation.0 < 1 << 24 && record.version < 1 << 32 {
                    self.hostile.record = record.clone();
                }
                let record = proven(record, *signed);
                if *signed && self.records.len() < 512 {
                    self.records.push(record.clone());
                }
                record
            }
        }
    }

    fn accusation(&self, claim: &AccusationClaim) -> Signed<Accusation> {
        let (subject, epoch, incarnation, exit, proof) = match claim {
            AccusationClaim::Own { subject, epoch, incarnation, exit, signed } => {
                (*subject, *epoch, *incarnation, *exit, *signed)
            }
            AccusationClaim::Replayed(index) => match pick(&self.accusations, *index) {
                Some(accusation) => return accusation.clone(),
                None => (*index, crate::steps::Number(0), crate::steps::Number(0), false, true),
            },
        };
        let known =
            self.core.member(&self.name_of(subject)).map_or((WALL_MS, 0), |m| (m.epoch.0, m.incarnation.0));
        let accusation = Accusation {
            accuser: self.hostile.name.clone(),
            subject: self.name_of(subject),
            epoch: Epoch(epoch.near(known.0)),
            incarnation: flagship_types::Incarnation(incarnation.near32(known.1)),
            evidence: evidence(exit),
        };
        proven(accusation, proof)
    }

    /// What the core sends to the hostile peer.
    pub(crate) fn sent_to_hostile(&mut self, link: LinkId, message: Message) {
        let now = self.now;
        let echoes = self.setup.echoes;
        let Some(stream) = self.hostile.streams.iter_mut().find(|s| s.id == link) else { return };
        let answer = match message {
            Message::Beat { seq, .. } | Message::Ping { seq } => {
                stream.received.add(seq, now);
                echoes.then_some(Message::Echo(Echo { seq, delay: Duration::ZERO }))
            }
            Message::Echo(echo) => {
                stream.acked.add(echo.seq, now);
                None
            }
            Message::Query { id, subject, .. } => {
                self.hostile.query = (id, Some(subject.clone()));
                let verdict = match self.setup.answers % 4 {
                    0 => None,
                    1 => Some(Verdict::Mute(Evidence::Exit)),
                    2 => Some(Verdict::Heard(Duration::ZERO)),
                    _ => Some(Verdict::Abstain),
                };
                verdict.map(|verdict| Message::Answer { id, subject, verdict })
            }
            Message::Digest { answer, .. } => {
                self.hostile.digests += usize::from(!answer);
                None
            }
            Message::Delta { .. } => {
                self.hostile.deltas += 1;
                None
            }
            _ => None,
        };
        if let Some(answer) = answer {
            self.answer_later(link, answer);
        }
    }

    fn deltas(&self) -> usize {
        self.hostile.deltas
    }
}
