//! Streams that behave as TCP does: in order, sent again when lost, given up when nothing is acknowledged.

use std::collections::{BTreeMap, VecDeque};

use flagship_node::{ConnectFailure, LinkEnd, LinkEvent, LinkId, Machine, PeerHello};
use flagship_types::{CloseCode, PeerAddress, Verified};
use flagship_wire::PeerMessage;

use super::world::{Event, World};
use crate::clock::{Nanos, ms};
use crate::paths::Host;

/// What unacknowledged data waits before its sender gives the stream up (TCP_USER_TIMEOUT).
const USER_TIMEOUT: Nanos = ms(5_000);
/// How long a connection attempt waits for an answer.
const CONNECT_TIMEOUT: Nanos = ms(2_000);

/// What a stream carries.
#[derive(Debug)]
pub(crate) enum Wire {
    Frame(PeerMessage),
    /// A close with a code; without one a reset.
    Close(Option<CloseCode>),
}

/// One end of a stream, as seen by its host.
#[derive(Debug)]
struct End {
    host: Host,
    /// The process that holds it: a restarted process has none of its predecessor's streams.
    process: u64,
    open: bool,
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
struct Stream {
    ends: [End; 2],
    ways: [Way; 2],
}

/// All streams, by the number that is their link's at both ends.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    all: BTreeMap<u64, Stream>,
    last: u64,
}

impl World {
    /// The open end that this link is at that host's present process.
    fn end_of(&self, host: Host, link: u64) -> Option<usize> {
        let stream = self.streams.all.get(&link)?;
        let number = self.hosts[host].number;
        stream.ends.iter().position(|end| end.host == host && end.process == number && end.open)
    }

    /// Whose end of a stream that is: the host and its process's number.
    pub(super) fn owner_of(&self, link: u64, end: usize) -> Option<(Host, u64)> {
        let end = &self.streams.all.get(&link)?.ends[end];
        Some((end.host, end.process))
    }

    pub(crate) fn send(&mut self, from: Host, link: LinkId, message: PeerMessage) {
        if let Some(end) = self.end_of(from, link.0) {
            self.transmit(link.0, 1 - end, Wire::Frame(message));
        }
    }

    /// The process closes a link.
    pub(crate) fn close(&mut self, host: Host, link: LinkId, code: CloseCode) {
        if let Some(end) = self.end_of(host, link.0) {
            self.close_end(link.0, end, Some(code));
        }
    }

    fn close_end(&mut self, link: u64, end: usize, code: Option<CloseCode>) {
        if let Some(stream) = self.streams.all.get_mut(&link) {
            stream.ends[end].open = false;
            self.transmit(link, 1 - end, Wire::Close(code));
            self.drop_if_over(link);
        }
    }

    /// The host resets all streams of its process, which ended.
    pub(crate) fn reset_streams(&mut self, host: Host) {
        self.close_streams(host, None);
    }

    /// All streams of the present process end.
    pub(super) fn close_streams(&mut self, host: Host, code: Option<CloseCode>) {
        let links: Vec<u64> = self.streams.all.keys().copied().collect();
        for link in links {
            if let Some(end) = self.end_of(host, link) {
                self.close_end(link, end, code);
            }
        }
    }

    fn way_hosts(&self, link: u64, end: usize) -> Option<(Host, Host)> {
        let ends = &self.streams.all.get(&link)?.ends;
        Some((ends[1 - end].host, ends[end].host))
    }

    fn transmit(&mut self, link: u64, end: usize, wire: Wire) {
        let Some((from, to)) = self.way_hosts(link, end) else { return };
        let Some(stream) = self.streams.all.get_mut(&link) else { return };
        if !stream.ways[end].stalled.is_empty() {
            stream.ways[end].stalled.push_back(wire);
            return;
        }
        let passes = !self.paths.blocked(from, to) && !self.paths.lost(&mut self.rng);
        if passes && !self.hosts[to].silent {
            self.fly(link, end, wire);
            if !self.paths.blocked(to, from) {
                return;
            }
        } else if let Some(stream) = self.streams.all.get_mut(&link) {
            stream.ways[end].stalled.push_back(wire);
        }
        let first = self.paths.first_retry(from, to);
        let now = self.now;
        let Some(stream) = self.streams.all.get_mut(&link) else { return };
        let way = &mut stream.ways[end];
        if way.unacknowledged.is_none() {
            way.unacknowledged = Some(now);
            way.retry_after = first;
            self.push(now + first, Event::Retry { link, end });
        }
    }

    fn fly(&mut self, link: u64, end: usize, wire: Wire) {
        let Some((from, to)) = self.way_hosts(link, end) else { return };
        let delay = self.paths.delay(from, to, &mut self.rng);
        let now = self.now;
        let Some(stream) = self.streams.all.get_mut(&link) else { return };
        let way = &mut stream.ways[end];
        way.last_arrival = way.last_arrival.max(now + delay);
        way.flying.push_back(wire);
        let at = way.last_arrival;
        self.push(at, Event::Arrive { link, end });
    }

    /// What was not acknowledged is sent again, with twice the wait; after 5 s its sender gives the stream up.
    pub(crate) fn retry(&mut self, link: u64, end: usize) {
        let Some((from, to)) = self.way_hosts(link, end) else { return };
        let Some(since) = self.streams.all.get(&link).and_then(|s| s.ways[end].unacknowledged) else {
            return;
        };
        if self.hosts[from].silent {
            return;
        }
        if self.now >= since + USER_TIMEOUT {
            if let Some(stream) = self.streams.all.get_mut(&link) {
                stream.ways[end].unacknowledged = None;
                stream.ways[end].stalled.clear();
            }
            return self.lose(link, 1 - end);
        }
        let lost = self.paths.blocked(from, to) || self.paths.lost(&mut self.rng);
        if !lost && !self.hosts[to].silent {
            let Some(stream) = self.streams.all.get_mut(&link) else { return };
            let stalled = std::mem::take(&mut stream.ways[end].stalled);
            for wire in stalled {
                self.fly(link, end, wire);
            }
            if !self.paths.blocked(to, from) {
                if let Some(stream) = self.streams.all.get_mut(&link) {
                    stream.ways[end].unacknowledged = None;
                }
                return;
            }
        }
        let now = self.now;
        let Some(stream) = self.streams.all.get_mut(&link) else { return };
        let way = &mut stream.ways[end];
        way.retry_after *= 2;
        let at = (now + way.retry_after).min(since + USER_TIMEOUT);
        self.push(at, Event::Retry { link, end });
    }

    /// A sender gives its end up.
    fn lose(&mut self, link: u64, end: usize) {
        let Some(stream) = self.streams.all.get_mut(&link) else { return };
        let (host, process, open) = (stream.ends[end].host, stream.ends[end].process, stream.ends[end].open);
        stream.ends[end].open = false;
        if open && self.hosts[host].number == process {
            self.link_event(host, LinkEvent::Down { link: LinkId(link), end: LinkEnd::Lost });
        }
        self.drop_if_over(link);
    }

    /// Nobody holds it any more, and nothing is on its way.
    fn drop_if_over(&mut self, link: u64) {
        let Some(stream) = self.streams.all.get(&link) else { return };
        let held = |end: &End| {
            let host = &self.hosts[end.host];
            let is_others =
                |other: &super::host::Replica| other.number == end.process && other.process.is_some();
            let is_its = host.number == end.process && host.process.is_some();
            end.open && (is_its || host.other.as_deref().is_some_and(is_others))
        };
        let moves = |way: &Way| !way.flying.is_empty() || !way.stalled.is_empty();
        if !stream.ends.iter().any(held) && !stream.ways.iter().any(moves) {
            self.streams.all.remove(&link);
        }
    }

    /// The next frame reaches an end.
    pub(crate) fn arrive(&mut self, link: u64, end: usize) {
        let Some(stream) = self.streams.all.get(&link) else { return };
        let (host, process) = (stream.ends[end].host, stream.ends[end].process);
        let holds =
            stream.ends[end].open && self.hosts[host].number == process && self.hosts[host].process.is_some();
        if holds && self.hosts[host].frozen {
            self.hosts[host].waiting.push_back(Event::Arrive { link, end });
            return self.missed(host);
        }
        let Some(stream) = self.streams.all.get_mut(&link) else { return };
        let Some(wire) = stream.ways[end].flying.pop_front() else { return };
        if self.hosts[host].silent {
            return;
        }
        match wire {
            Wire::Frame(_) if !holds => {
                // A host that lost the stream with its process resets it.
                if let Some(stream) = self.streams.all.get_mut(&link) {
                    stream.ends[end].open = false;
                }
                self.transmit(link, 1 - end, Wire::Close(None));
            }
            Wire::Frame(message) => {
                let message = Verified::first_hand(message);
                self.link_event(host, LinkEvent::Message { link: LinkId(link), message });
            }
            Wire::Close(code) => {
                if let Some(stream) = self.streams.all.get_mut(&link) {
                    stream.ends[end].open = false;
                    stream.ways[1 - end].stalled.clear();
                    stream.ways[1 - end].unacknowledged = None;
                }
                if holds {
                    let end = code.map_or(LinkEnd::Lost, LinkEnd::Closed);
                    self.link_event(host, LinkEvent::Down { link: LinkId(link), end });
                }
            }
        }
        self.drop_if_over(link);
    }

    pub(crate) fn link_event(&mut self, host: Host, event: LinkEvent) {
        self.wake(host);
        self.with_machine(host, |machine, now| machine.link_event(event, now));
    }

    /// Dials.
    pub(crate) fn connect(&mut self, from: Host, address: &PeerAddress) {
        let process = self.hosts[from].number;
        let address = address.to_string();
        let to = self.host_at(&address);
        let delay = match to {
            Some(to) => {
                // Both ask, so that both count as having struck.
                let blocked = self.paths.blocked(from, to) | self.paths.blocked(to, from);
                let unanswered = blocked || self.hosts[to].silent || self.hosts[to].frozen;
                if self.hosts[to].frozen {
                    self.missed(to);
                }
                let trip = 2 * self.paths.delay(from, to, &mut self.rng);
                let lost = self.paths.lost(&mut self.rng);
                match (unanswered, self.hosts[to].process.is_some() || self.hosts[to].other.is_some()) {
                    (true, _) => CONNECT_TIMEOUT,
                    (false, true) => 3 * trip / 2 + if lost { ms(1_000) } else { 0 },
                    (false, false) => trip + if lost { ms(1_000) } else { 0 },
                }
            }
            None => CONNECT_TIMEOUT,
        };
        let at = self.now + delay;
        self.push(at, Event::Connected { from, process, to, address });
    }

    pub(crate) fn connected(&mut self, from: Host, process: u64, to: Option<Host>, address: String) {
        if self.hosts[from].number != process || self.hosts[from].process.is_none() {
            return;
        }
        if self.hosts[from].frozen {
            // The kernel's answer waits until the process goes on.
            self.hosts[from].waiting.push_back(Event::Connected { from, process, to, address });
            return self.missed(from);
        }
        let picks_other = to.is_some_and(|to| self.picks_other(to));
        if let Some(to) = to.filter(|_| picks_other) {
            self.turn_over(to);
        }
        self.meet(from, process, to, &address);
        if let Some(to) = to.filter(|_| picks_other) {
            self.turn_over(to);
        }
    }

    /// Who dialled gets to the process there, or does not.
    fn meet(&mut self, from: Host, process: u64, to: Option<Host>, address: &str) {
        let dialled = PeerAddress::parse(address, 9990).expect("came from a PeerAddress");
        let failure = match to {
            None => Some(ConnectFailure::Unanswered),
            Some(to) => {
                let host = &self.hosts[to];
                let (silent, frozen, refuses) = (host.silent, host.frozen, host.process.is_none());
                let blocked = self.paths.blocked(from, to) | self.paths.blocked(to, from);
                if blocked || silent || frozen {
                    Some(ConnectFailure::Unanswered)
                } else {
                    match host.daemon.up && host.other.is_some() {
                        true => refuses.then_some(ConnectFailure::Rejected(CloseCode::Standby)),
                        false => refuses.then_some(ConnectFailure::Refused),
                    }
                }
            }
        };
        let (Some(to), None) = (to, failure) else {
            let failure = failure.unwrap_or(ConnectFailure::Unanswered);
            let reason = String::new();
            return self.link_event(from, LinkEvent::ConnectFailed { address: dialled, failure, reason });
        };
        self.streams.last += 1;
        let link = self.streams.last;
        let end = |host: Host, process| End { host, process, open: true };
        let ends = [end(from, process), end(to, self.hosts[to].number)];
        self.streams.all.insert(link, Stream { ends, ways: Default::default() });
        let names = [self.hosts[from].spec.name, self.hosts[to].spec.name];
        self.log(format_args!("{} has link {link} to {}", names[0], names[1]));
        for (host, peer, dialled) in [(from, to, Some(dialled)), (to, from, None)] {
            let Some(hello) = self.hosts[peer].machine().map(Machine::hello) else { continue };
            let hello = PeerHello {
                member: hello.member,
                epoch: hello.epoch,
                address: hello.address,
                view_hash: hello.view_hash,
                protocol: 2,
            };
            let hello = Verified::first_hand(hello);
            self.link_event(host, LinkEvent::Up { link: LinkId(link), hello, dialled });
        }
    }
}
