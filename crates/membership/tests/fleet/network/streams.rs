//! Streams that behave as TCP does, and the dials that lead to them.

use std::time::Duration;

use flagship_membership::{ConnectFailure, Input, LinkEnd, LinkId};
use flagship_types::{Instant, PeerAddress, Verified};
use rand::Rng;

use super::{Happening, Net, Process, Stream, Wire, ms};

/// Unacknowledged for this long: the stream is reset (TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Net {
    pub(super) fn dial(&mut self, from: usize, address: PeerAddress) {
        let to = (0..self.nodes.len()).find(|i| super::address(*i) == address);
        let instead = to.and_then(|to| self.in_front.as_mut().and_then(|answers| answers(to)));
        let cut = |to| self.cuts.contains_key(&(from, to)) || self.cuts.contains_key(&(to, from));
        let unanswered = (CONNECT_TIMEOUT, Err(ConnectFailure::Unanswered));
        let (after, answer) = match to {
            None => unanswered,
            Some(to) if cut(to) => unanswered,
            Some(to) => match self.nodes[to].process {
                _ if instead.is_some() => (self.one_way * 3, instead.map_or(Ok(to), Err)),
                Process::Silent => unanswered,
                Process::Killed => (self.one_way * 2, Err(ConnectFailure::Refused)),
                Process::Frozen(_) => (CONNECT_TIMEOUT, Err(ConnectFailure::Unanswered)),
                Process::Running => (self.one_way * 3, Ok(to)),
            },
        };
        let wait = after + self.draw(self.jitter);
        self.schedule(self.now + wait, Happening::Dial { from, address, answer });
    }

    pub(super) fn dialled(
        &mut self,
        from: usize,
        address: PeerAddress,
        answer: Result<usize, ConnectFailure>,
    ) {
        match answer {
            Ok(to)
                if self.nodes[to].process == Process::Running
                    && self.nodes[from].process == Process::Running =>
            {
                self.next_link += 2;
                let ends = [(from, LinkId(self.next_link)), (to, LinkId(self.next_link + 1))];
                let stream = self.streams.len();
                let last_arrival = [self.now + self.one_way * 2; 2];
                self.streams.push(Stream { ends, open: [true; 2], last_arrival, held: Default::default() });
                let epochs = [self.core(from).epoch().0, self.core(to).epoch().0];
                self.schedule(self.now, Happening::Accepted { stream, epochs });
                self.schedule(self.now + self.one_way, Happening::Dialled { stream, address, epochs });
            }
            Ok(_) => self.input(from, Input::ConnectFailed { address, failure: ConnectFailure::Unanswered }),
            Err(failure) => self.input(from, Input::ConnectFailed { address, failure }),
        }
    }

    pub(super) fn find(&self, i: usize, link: LinkId) -> Option<(usize, usize)> {
        let stream = self.streams.iter().rposition(|s| s.ends.contains(&(i, link)))?;
        let end = usize::from(self.streams[stream].ends[1] == (i, link));
        Some((stream, end))
    }

    pub(super) fn send(&mut self, from: usize, link: LinkId, wire: Wire) {
        let Some((stream, end)) = self.find(from, link) else { return };
        if !self.streams[stream].open[end] {
            return;
        }
        let mut wire = wire;
        if let (Wire::Frame(message), Some(tamper)) = (&mut wire, &mut self.tamper) {
            tamper(from, self.streams[stream].ends[1 - end].0, message);
        }
        self.transmit(stream, 1 - end, wire);
    }

    pub(super) fn transmit(&mut self, stream: usize, to: usize, wire: Wire) {
        let (sender, receiver) = (self.streams[stream].ends[1 - to].0, self.streams[stream].ends[to].0);
        let cut = self.cuts.get(&(sender, receiver)).copied();
        let unacknowledged = cut.or(self.cuts.get(&(receiver, sender)).copied());
        let dead = self.nodes[receiver].process == Process::Silent;
        if unacknowledged.is_some() || dead {
            let cut_at = unacknowledged.unwrap_or_default();
            self.schedule(self.now + USER_TIMEOUT, Happening::UserTimeout { stream, end: 1 - to, cut_at });
        }
        if cut.is_some() {
            self.streams[stream].held[to].push_back(wire);
        } else if !dead {
            let mut wait = self.draw(self.jitter);
            // A lost segment is sent again after 200 ms, 400 ms, …
            let mut again = ms(200);
            while self.rng.next_u64() % 1000 < self.lost_per_mille {
                self.retransmitted += 1;
                wait += again;
                again *= 2;
            }
            self.deliver(stream, to, wire, self.now + self.one_way + wait);
        }
    }

    /// In order: nothing overtakes what was sent before.
    pub(super) fn deliver(&mut self, stream: usize, to: usize, wire: Wire, at: Instant) {
        let at = at.max(self.streams[stream].last_arrival[to]);
        self.streams[stream].last_arrival[to] = at;
        self.schedule(at, Happening::Deliver { stream, to, wire });
    }

    pub(super) fn arrive(&mut self, stream: usize, to: usize, wire: Wire) {
        let (me, link) = self.streams[stream].ends[to];
        if !self.streams[stream].open[to] {
            // Nobody holds this end any more: the host resets the other, unless it is gone too.
            let alive = self.nodes[me].process != Process::Silent;
            if alive && !matches!(wire, Wire::Reset) && self.streams[stream].open[1 - to] {
                self.transmit(stream, 1 - to, Wire::Reset);
            }
            return;
        }
        let input = match wire {
            Wire::Frame(message) => Input::Message { link, message: Verified::first_hand(message) },
            Wire::Close(code) => {
                self.streams[stream].open = [false; 2];
                Input::LinkDown { link, end: LinkEnd::Closed(code) }
            }
            Wire::Reset => {
                self.streams[stream].open = [false; 2];
                Input::LinkDown { link, end: LinkEnd::Lost }
            }
        };
        self.input(me, input);
    }
}
