//! Streams that behave as TCP does: in order, sent again when lost, given up when nothing is acknowledged.

use std::collections::VecDeque;

use flagship_membership::{Input, LinkEnd, LinkId, Message, PeerHello};
use flagship_types::{CloseCode, PeerAddress, Verified};

use super::fault::Host;
use super::happening::{EndOf, Happening};
use super::process::Process;
use super::signing::verify;
use super::trace::What;
use super::world::World;
use crate::clock::{Nanos, ms};

/// Unacknowledged for this long: the sender gives the stream up (TCP_USER_TIMEOUT).
pub(super) const USER_TIMEOUT: Nanos = ms(5_000);

/// What a stream carries.
#[derive(Debug)]
pub(super) enum Wire {
    /// The acceptor's Hello: the first frame to the dialler.
    Hello(Box<(PeerHello, PeerAddress)>),
    Frame(Message),
    Close(CloseCode),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct StreamEnd {
    pub(super) host: Host,
    /// The process that holds it.
    pub(super) open: bool,
    /// That process knows of it.
    pub(super) up: bool,
}

/// One direction: towards the end with the same index.
#[derive(Debug, Default)]
struct Way {
    /// On their way, in order; each has its event.
    flying: VecDeque<Wire>,
    last_arrival: Nanos,
    /// Lost, or sent after something that was lost.
    stalled: VecDeque<Wire>,
    /// Since when something is not acknowledged.
    unacknowledged: Option<Nanos>,
    retry_after: Nanos,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) generation: u32,
    pub(super) ends: [StreamEnd; 2],
    ways: [Way; 2],
}

fn link_id(slot: u32, generation: u32, end: u8) -> LinkId {
    LinkId(u64::from(generation) << 32 | u64::from(slot) << 1 | u64::from(end))
}

impl World {
    /// A stream between a dialler (end 0) and an acceptor (end 1), both holding it.
    pub(super) fn open_stream(&mut self, dialler: Host, acceptor: Host) -> u32 {
        let end = |host| StreamEnd { host, open: true, up: false };
        let ends = [end(dialler), end(acceptor)];
        let slot = match self.free_streams.pop() {
            Some(slot) => {
                let stream = &mut self.streams[slot as usize];
                stream.ends = ends;
                stream.ways = Default::default();
                slot
            }
            None => {
                self.streams.push(Stream { generation: 1, ends, ways: Default::default() });
                (self.streams.len() - 1) as u32
            }
        };
        self.members[dialler].streams.push(slot);
        self.members[acceptor].streams.push(slot);
        slot
    }

    /// The link of an end, as its process knows it.
    pub(super) fn link_of(&self, slot: u32, end: u8) -> LinkId {
        link_id(slot, self.streams[slot as usize].generation, end)
    }

    /// The open end behind a link of that host.
    pub(super) fn end_of(&self, host: Host, link: LinkId) -> Option<(u32, u8)> {
        let (slot, end) = ((link.0 & 0xffff_ffff) as u32 >> 1, (link.0 & 1) as u8);
        let stream = self.streams.get(slot as usize)?;
        let held = &stream.ends[usize::from(end)];
        (u64::from(stream.generation) == link.0 >> 32 && held.open && held.host == host)
            .then_some((slot, end))
    }

    /// Sends towards an end.
    pub(super) fn transmit(&mut self, slot: u32, end: u8, wire: Wire) {
        let (from, to) = self.way_hosts(slot, end);
        let way = &mut self.streams[slot as usize].ways[usize::from(end)];
        if !way.stalled.is_empty() {
            way.stalled.push_back(wire);
            return;
        }
        let passes = !self.paths.blocked(from, to) && !self.paths.lost(&mut self.rng);
        let gone = self.members[to].process == Process::Silent;
        if passes && !gone {
            self.fly(slot, end, wire);
            if !self.paths.blocked(to, from) {
                return;
            }
        } else {
            self.tally.segments_lost += 1;
            self.streams[slot as usize].ways[usize::from(end)].stalled.push_back(wire);
        }
        let first = self.paths.first_retry(from, to);
        let now = self.now;
        let way = &mut self.streams[slot as usize].ways[usize::from(end)];
        if way.unacknowledged.is_none() {
            way.unacknowledged = Some(now);
            way.retry_after = first;
            let end = self.name_end(slot, end);
            self.queue.push(now + first, Happening::Retry(end));
        }
    }

    fn way_hosts(&self, slot: u32, end: u8) -> (Host, Host) {
        let ends = &self.streams[slot as usize].ends;
        (ends[1 - usize::from(end)].host, ends[usize::from(end)].host)
    }

    fn name_end(&self, slot: u32, end: u8) -> EndOf {
        EndOf { slot, generation: self.streams[slot as usize].generation, end }
    }

    /// On its way, behind what was sent before.
    fn fly(&mut self, slot: u32, end: u8, wire: Wire) {
        let (from, to) = self.way_hosts(slot, end);
        let delay = self.paths.delay(from, to, &mut self.rng);
        let way = &mut self.streams[slot as usize].ways[usize::from(end)];
        way.last_arrival = way.last_arrival.max(self.now + delay);
        way.flying.push_back(wire);
        let at = way.last_arrival;
        let end = self.name_end(slot, end);
        self.queue.push(at, Happening::Arrive(end));
    }

    /// Whether the stream is still the one that was meant.
    fn is_current(&self, end: EndOf) -> bool {
        self.streams[end.slot as usize].generation == end.generation
    }

    /// What was not acknowledged is sent again, with twice the wait; after 5 s its sender gives the stream up.
    pub(super) fn retry(&mut self, end: EndOf) {
        if !self.is_current(end) {
            return;
        }
        let (from, to) = self.way_hosts(end.slot, end.end);
        let way = &self.streams[end.slot as usize].ways[usize::from(end.end)];
        let Some(since) = way.unacknowledged else { return };
        if matches!(self.members[from].process, Process::Silent) {
            return;
        }
        if self.now >= since + USER_TIMEOUT {
            let way = &mut self.streams[end.slot as usize].ways[usize::from(end.end)];
            way.unacknowledged = None;
            way.stalled.clear();
            self.lose(end.slot, 1 - end.end);
            return;
        }
        self.tally.retransmissions += 1;
        let lost = self.paths.blocked(from, to) || self.paths.lost(&mut self.rng);
        let passes = !lost && self.members[to].process != Process::Silent;
        if passes {
            let stalled =
                std::mem::take(&mut self.streams[end.slot as usize].ways[usize::from(end.end)].stalled);
            let probe = stalled.is_empty();
            for wire in stalled {
                self.fly(end.slot, end.end, wire);
            }
            let acknowledged = !self.paths.blocked(to, from);
            if acknowledged {
                self.streams[end.slot as usize].ways[usize::from(end.end)].unacknowledged = None;
                // A host that lost the stream with its process resets what reaches it again.
                if probe && !self.streams[end.slot as usize].ends[usize::from(end.end)].open {
                    self.send_reset(end.slot, 1 - end.end);
                }
                return;
            }
        }
        let way = &mut self.streams[end.slot as usize].ways[usize::from(end.end)];
        way.retry_after *= 2;
        let at = (self.now + way.retry_after).min(since + USER_TIMEOUT);
        self.queue.push(at, Happening::Retry(end));
    }

    /// At the end of a hold-up what waited goes on at once, not at TCP's next try.
    pub(super) fn release(&mut self, from: Host, to: Host) {
        let slots = self.members[from].streams.clone();
        for slot in slots {
            let stream = &self.streams[slot as usize];
            let Some(end) = stream.ends.iter().position(|end| end.host == to) else { continue };
            if stream.ways[end].unacknowledged.is_some() && !stream.ways[end].stalled.is_empty() {
                let end = self.name_end(slot, end as u8);
                self.queue.push(self.now, Happening::Retry(end));
            }
        }
    }

    /// The next frame reaches an end.
    pub(super) fn arrive(&mut self, end: EndOf) {
        if !self.is_current(end) {
            return;
        }
        let stream = &mut self.streams[end.slot as usize];
        let Some(wire) = stream.ways[usize::from(end.end)].flying.pop_front() else { return };
        let held = stream.ends[usize::from(end.end)];
        let host = held.host;
        if !held.open {
            if !matches!(wire, Wire::Close(_)) {
                self.send_reset(end.slot, 1 - end.end);
            }
            return;
        }
        let link = self.link_of(end.slot, end.end);
        match wire {
            Wire::Hello(hello) => {
                self.streams[end.slot as usize].ends[usize::from(end.end)].up = true;
                let (hello, address) = *hello;
                self.dial_answered(end.slot, host);
                self.link_up(host, link, hello, Some(address));
            }
            Wire::Frame(message) => {
                self.tally.delivered += 1;
                let sender = self.way_hosts(end.slot, end.end).0;
                let (message, dropped) = verify(&self.names, message);
                self.tally.forged_dropped += dropped;
                let Some(message) = message else { return };
                self.deliver(host, sender, link, message);
            }
            Wire::Close(code) => {
                self.close_end(end.slot, end.end);
                let input = Input::LinkDown { link, end: LinkEnd::Closed(code) };
                self.note(host, || What::LinkDown(LinkEnd::Closed(code)));
                self.input(host, input);
            }
        }
    }

    fn deliver(&mut self, host: Host, sender: Host, link: LinkId, message: Message) {
        if let Some(liar) = &mut self.members[host].liar {
            liar.remember(&message, &mut self.rng);
        }
        self.give(host, Some(sender), Input::Message { link, message: Verified::first_hand(message) });
    }

    pub(super) fn link_up(
        &mut self,
        host: Host,
        link: LinkId,
        hello: PeerHello,
        dialled: Option<PeerAddress>,
    ) {
        self.tally.links_up += 1;
        let (peer, ours) = (self.names.host(&hello.member), dialled.is_some());
        self.note(host, || What::LinkUp { peer, dialled: ours });
        if let (Some(checks), Some(peer)) = (&mut self.checks, peer) {
            checks.linked(host, peer, self.now);
        }
        self.input(host, Input::LinkUp { link, hello: Verified::first_hand(hello), dialled });
    }

    /// A process closes a stream and says why.
    pub(super) fn disconnect(&mut self, host: Host, link: LinkId, code: CloseCode) {
        let Some((slot, end)) = self.end_of(host, link) else { return };
        self.note(host, || What::Closed(code));
        self.transmit(slot, 1 - end, Wire::Close(code));
        self.close_end(slot, end);
    }

    /// Its process holds this end no more. With both ends gone the slot is free for another stream.
    pub(super) fn close_end(&mut self, slot: u32, end: u8) {
        let stream = &mut self.streams[slot as usize];
        let held = &mut stream.ends[usize::from(end)];
        if !held.open {
            return;
        }
        held.open = false;
        let (host, both) = (held.host, stream.ends.iter().all(|end| !end.open));
        let streams = &mut self.members[host].streams;
        if let Some(i) = streams.iter().position(|held| *held == slot) {
            streams.swap_remove(i);
        }
        if both {
            self.streams[slot as usize].generation += 1;
            self.free_streams.push(slot);
        }
    }

    /// An end is lost without a word of the peer's.
    pub(super) fn lose(&mut self, slot: u32, end: u8) {
        let held = self.streams[slot as usize].ends[usize::from(end)];
        if !held.open {
            return;
        }
        let link = self.link_of(slot, end);
        self.close_end(slot, end);
        if held.up {
            self.note(held.host, || What::LinkDown(LinkEnd::Lost));
            self.input(held.host, Input::LinkDown { link, end: LinkEnd::Lost });
        } else {
            self.dial_lost(slot, held.host);
        }
    }

    /// A host answers a segment of a stream that it does not know with a reset, which is not sent twice.
    pub(super) fn send_reset(&mut self, slot: u32, to: u8) {
        let (from, receiver) = self.way_hosts(slot, to);
        let gone = self.members[from].process == Process::Silent;
        if gone || self.paths.blocked(from, receiver) || self.paths.lost(&mut self.rng) {
            return;
        }
        let at = self.now + self.paths.delay(from, receiver, &mut self.rng);
        let at = at.max(self.streams[slot as usize].ways[usize::from(to)].last_arrival);
        let end = self.name_end(slot, to);
        self.queue.push(at, Happening::Reset(end));
    }

    pub(super) fn reset_arrives(&mut self, end: EndOf) {
        if self.is_current(end) {
            self.lose(end.slot, end.end);
        }
    }

    /// All its ends are gone with its process.
    pub(super) fn abandon_streams(&mut self, host: Host, reset: bool) {
        let slots = self.members[host].streams.clone();
        for slot in slots {
            let Some(end) = self.streams[slot as usize].ends.iter().position(|end| end.host == host) else {
                continue;
            };
            let end = end as u8;
            // What its kernel still had to send goes with it.
            let way = &mut self.streams[slot as usize].ways[usize::from(1 - end)];
            way.stalled.clear();
            way.unacknowledged = None;
            if reset && self.streams[slot as usize].ends[usize::from(1 - end)].open {
                self.send_reset(slot, 1 - end);
            }
            self.close_end(slot, end);
        }
    }

    /// Something in the path resets all streams between two members; how many.
    pub(super) fn reset_between(&mut self, a: Host, b: Host) -> usize {
        let slots: Vec<u32> = self.members[a].streams.clone();
        let between = slots.into_iter().filter(|slot| {
            let ends = &self.streams[*slot as usize].ends;
            ends.iter().all(|end| end.open && end.up) && ends.iter().any(|end| end.host == b)
        });
        let between: Vec<u32> = between.collect();
        for slot in &between {
            self.lose(*slot, 0);
            // The first to hear of it may have closed the other already.
            self.lose(*slot, 1);
        }
        between.len()
    }
}
