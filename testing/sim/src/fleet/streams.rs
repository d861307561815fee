//! What happens on the world's streams.

use flagship_node::{ConnectFailure, LinkEnd, LinkEvent, LinkId, Machine, PeerHello};
use flagship_types::{CloseCode, PeerAddress, Verified};
use flagship_wire::PeerMessage;
use rand::RngExt;
use std::time::Duration;

use super::network::{CONNECT_TIMEOUT, HostId, USER_TIMEOUT};
use super::world::{Event, World};

impl World {
    /// Closes one end; the other learns of it if the path is open.
    pub(crate) fn close_end(&mut self, stream: u64, end: usize, code: Option<CloseCode>) {
        let Some(s) = self.network.streams.get_mut(&stream) else { return };
        if !std::mem::replace(&mut s.ends[end].open, false) {
            return;
        }
        let (from, to) = (s.ends[end].host, s.ends[1 - end].host);
        let arrival = s.ends[1 - end].last_arrival;
        if self.network.open(from, to) {
            let delay = self.delay().max(arrival.since(self.now));
            self.at(delay, Event::CloseSeen { stream, end: 1 - end, code });
        }
    }

    /// Hands an event to the process of that end, later if it is frozen.
    pub(crate) fn receiver(&mut self, stream: u64, end: usize, again: Event) -> Option<HostId> {
        let s = self.network.streams.get(&stream)?;
        let (host, process, open) = (s.ends[end].host, s.ends[end].process, s.ends[end].open);
        if !open || self.hosts[host].process != process || self.hosts[host].machine.is_none() {
            return None;
        }
        if self.hosts[host].frozen {
            self.at(Duration::from_millis(50), again);
            return None;
        }
        Some(host)
    }

    pub(crate) fn deliver(&mut self, stream: u64, end: usize) {
        let Some(host) = self.receiver(stream, end, Event::Deliver { stream, end }) else { return };
        self.wake(host);
        let Some(waiting) = self.in_flight.get_mut(&(stream, end)) else { return };
        while waiting.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, message)) = waiting.pop_front() else { break };
            let event = LinkEvent::Message { link: LinkId(stream), message: Verified::first_hand(message) };
            if let Some(machine) = self.hosts[host].machine.as_mut() {
                machine.link_event(event, self.now);
            }
        }
        self.perform(host);
    }

    pub(crate) fn close_seen(&mut self, stream: u64, end: usize, code: Option<CloseCode>) {
        let Some(host) = self.receiver(stream, end, Event::CloseSeen { stream, end, code }) else { return };
        if let Some(s) = self.network.streams.get_mut(&stream) {
            s.ends[end].open = false;
        }
        let end = code.map_or(LinkEnd::Lost, LinkEnd::Closed);
        self.link_event(host, LinkEvent::Down { link: LinkId(stream), end });
    }

    pub(crate) fn user_timeout(&mut self, stream: u64, end: usize) {
        let now = self.now;
        let Some(s) = self.network.streams.get_mut(&stream) else { return };
        let e = &mut s.ends[end];
        if !e.open || e.unacked_since.is_none_or(|since| now.since(since) < USER_TIMEOUT) {
            return;
        }
        let (host, process) = (e.host, e.process);
        self.close_end(stream, end, None);
        if self.hosts[host].process == process {
            self.link_event(host, LinkEvent::Down { link: LinkId(stream), end: LinkEnd::Lost });
        }
    }

    pub(crate) fn link_event(&mut self, host: HostId, event: LinkEvent) {
        self.wake(host);
        let now = self.now;
        if let Some(machine) = self.hosts[host].machine.as_mut() {
            machine.link_event(event, now);
        }
        self.perform(host);
    }

    pub(crate) fn connected(&mut self, from: HostId, process: u64, to: HostId, address: &str) {
        if self.hosts[from].process != process || self.hosts[from].machine.is_none() {
            return;
        }
        if self.hosts[from].frozen {
            // The kernel's answer waits until the process goes on.
            let address = address.to_owned();
            return self.at(Duration::from_millis(50), Event::ConnectDone { from, process, to, address });
        }
        let address = PeerAddress::parse(address, 9990).expect("came from a PeerAddress");
        let failure = if !self.network.both_open(from, to) || self.hosts[to].frozen {
            Some(ConnectFailure::Unanswered)
        } else if self.hosts[to].machine.is_none() {
            Some(ConnectFailure::Refused)
        } else {
            None
        };
        if let Some(failure) = failure {
            let reason = String::new();
            return self.link_event(from, LinkEvent::ConnectFailed { address, failure, reason });
        }
        let processes = [(from, process), (to, self.hosts[to].process)];
        let stream = self.network.connect(processes);
        for (host, peer, dialled) in [(from, to, Some(address)), (to, from, None)] {
            let Some(hello) = self.hosts[peer].machine.as_ref().map(Machine::hello) else { continue };
            let hello = PeerHello {
                member: hello.member,
                epoch: hello.epoch,
                address: hello.address,
                view_hash: hello.view_hash,
                protocol: 2,
            };
            let event = LinkEvent::Up { link: LinkId(stream), hello: Verified::first_hand(hello), dialled };
            self.link_event(host, event);
        }
    }

    pub(crate) fn connect(&mut self, from: HostId, address: &PeerAddress) {
        let process = self.hosts[from].process;
        let target = self.host_named(address.host()).unwrap_or(from);
        let answered = self.network.both_open(from, target) && !self.hosts[target].frozen;
        let delay = if answered { self.delay() * 2 } else { CONNECT_TIMEOUT };
        self.at(delay, Event::ConnectDone { from, process, to: target, address: address.to_string() });
    }

    pub(crate) fn send(&mut self, from: HostId, link: LinkId, message: PeerMessage) {
        let process = self.hosts[from].process;
        let delay = self.delay();
        let now = self.now;
        let Some(stream) = self.network.streams.get(&link.0) else { return };
        let Some(end) = stream.end_of(from, process).filter(|end| stream.ends[*end].open) else { return };
        let to = stream.ends[1 - end].host;
        let (forward, both) = (self.network.open(from, to), self.network.both_open(from, to));
        let Some(stream) = self.network.streams.get_mut(&link.0) else { return };
        let own = &mut stream.ends[end];
        let begins = !both && own.unacked_since.is_none();
        if begins {
            own.unacked_since = Some(now);
        }
        if !forward || !own.stalled.is_empty() {
            own.stalled.push_back(message);
        } else {
            self.fly(link.0, 1 - end, delay, message);
        }
        if begins {
            self.at(USER_TIMEOUT, Event::Unacked { stream: link.0, end });
        }
    }

    pub(crate) fn fly(&mut self, stream: u64, end: usize, delay: Duration, message: PeerMessage) {
        let Some(s) = self.network.streams.get_mut(&stream) else { return };
        let arrival = (self.now + delay).max(s.ends[end].last_arrival);
        s.ends[end].last_arrival = arrival;
        self.in_flight.entry((stream, end)).or_default().push_back((arrival, message));
        self.at(arrival.since(self.now), Event::Deliver { stream, end });
    }

    /// After a heal: what still waits is retransmitted.
    pub(crate) fn resume_streams(&mut self) {
        let numbers: Vec<_> = self.network.streams.keys().copied().collect();
        for stream in numbers {
            for end in 0..2 {
                let Some(s) = self.network.streams.get_mut(&stream) else { continue };
                let (from, to) = (s.ends[end].host, s.ends[1 - end].host);
                if !self.network.both_open(from, to) {
                    continue;
                }
                let Some(s) = self.network.streams.get_mut(&stream) else { continue };
                s.ends[end].unacked_since = None;
                let stalled = std::mem::take(&mut s.ends[end].stalled);
                let fraction = self.rng.random_range(0.0..1.0);
                let wait = self.network.retransmission(fraction);
                for message in stalled {
                    self.fly(stream, 1 - end, wait, message);
                }
            }
        }
    }
}
