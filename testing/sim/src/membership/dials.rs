//! Dials: SYN, TLS and Hello, three round trips in all, and how they fail.

use flagship_membership::{ConnectFailure, Input, PeerHello};
use flagship_types::PeerAddress;
use rand::Rng;

use super::fault::Host;
use super::happening::{DialId, Happening};
use super::process::Process;
use super::streams::Wire;
use super::world::World;
use crate::clock::{Nanos, ms};

/// Without an answer to a SYN for this long the dial is given up.
const CONNECT_TIMEOUT: Nanos = ms(2_000);
/// A SYN without an answer is sent again after this, once within the timeout.
const SYN_RETRY: Nanos = ms(1_000);
/// TLS and Hello take no longer than this.
const HANDSHAKE_TIMEOUT: Nanos = ms(5_000);

/// An attempt to dial. Ends with a link or with one failure.
#[derive(Debug)]
pub(super) struct Dial {
    from: Host,
    /// The process that dials.
    number: u32,
    /// Nobody has that address: `None`.
    to: Option<Host>,
    address: PeerAddress,
    stage: Stage,
    deadline: Nanos,
    /// Wait before the next try of a handshake that was held up.
    retry_after: Nanos,
    /// Counts the uses of this place, so that an event of an earlier dial is known.
    generation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    Syn,
    Refusing,
    Handshake,
    /// The acceptor has its link; its Hello is on its way in this stream.
    Answering(u32),
}

impl World {
    pub(super) fn dial(&mut self, from: Host, address: PeerAddress) {
        let (now, number) = (self.now, self.members[from].number);
        let to = self.names.host_at(&address);
        let deadline = now + CONNECT_TIMEOUT;
        let mut dial =
            Dial { from, number, to, address, stage: Stage::Syn, deadline, retry_after: 0, generation: 0 };
        let slot = match self.free_dials.pop() {
            Some(slot) => {
                dial.generation = self.dials[slot as usize].generation + 1;
                self.dials[slot as usize] = dial;
                slot
            }
            None => {
                self.dials.push(dial);
                (self.dials.len() - 1) as u32
            }
        };
        let id = DialId { slot, generation: self.dials[slot as usize].generation };
        self.queue.push(deadline, Happening::DialOver(id));
        self.queue.push(now, Happening::Syn(id));
    }

    fn at_stage(&self, id: DialId, stage: Stage) -> bool {
        let dial = &self.dials[id.slot as usize];
        dial.generation == id.generation
            && dial.stage == stage
            && self.members[dial.from].number == dial.number
    }

    pub(super) fn syn(&mut self, id: DialId) {
        if !self.at_stage(id, Stage::Syn) {
            return;
        }
        let dial = &self.dials[id.slot as usize];
        let (from, to, deadline) = (dial.from, dial.to, dial.deadline);
        let Some(to) = to else { return };
        let passes = !self.paths.blocked(from, to)
            && !self.paths.blocked(to, from)
            && !self.paths.lost(&mut self.rng)
            && !self.paths.lost(&mut self.rng)
            && self.members[to].process != Process::Silent;
        if !passes {
            if self.now + SYN_RETRY < deadline {
                self.queue.push(self.now + SYN_RETRY, Happening::Syn(id));
            }
            return;
        }
        let there = self.paths.delay(from, to, &mut self.rng);
        let back = self.paths.delay(to, from, &mut self.rng);
        let answer = self.now + there + back;
        let dial = &mut self.dials[id.slot as usize];
        if matches!(self.members[to].process, Process::Killed | Process::Off) {
            dial.stage = Stage::Refusing;
            self.queue.push(answer, Happening::Refused(id));
            return;
        }
        dial.stage = Stage::Handshake;
        dial.deadline = answer + HANDSHAKE_TIMEOUT;
        dial.retry_after = ms(200).max(2 * (there + back));
        let deadline = dial.deadline;
        // TLS takes one round trip and the Hello half of one, each segment lost like any other.
        let mut stalls = 0;
        for _ in 0..3 {
            let mut wait = ms(200).max(2 * (there + back));
            while self.paths.lost(&mut self.rng) && stalls < HANDSHAKE_TIMEOUT {
                stalls += wait;
                wait *= 2;
            }
        }
        self.queue.push(answer + 2 * there + back + stalls, Happening::Hello(id));
        self.queue.push(deadline, Happening::DialOver(id));
    }

    /// The dialler's Hello reaches the acceptor, who answers with its own.
    pub(super) fn hello(&mut self, id: DialId) {
        if !self.at_stage(id, Stage::Handshake) {
            return;
        }
        let dial = &mut self.dials[id.slot as usize];
        let (from, Some(to)) = (dial.from, dial.to) else { return };
        let wait = dial.retry_after;
        if !self.lives(from) {
            return self.free_dial(id);
        }
        let held_up = self.members[to].process.is_held_up()
            || self.members[from].process.is_held_up()
            || self.members[to].process == Process::Silent
            || self.paths.blocked(from, to)
            || self.paths.blocked(to, from);
        if held_up {
            self.dials[id.slot as usize].retry_after = (wait * 2).min(ms(1_000));
            self.queue.push(self.now + wait, Happening::Hello(id));
            return;
        }
        if self.members[to].process != Process::Running {
            // The connection is reset: TLS did not complete.
            return self.dial_failed(id, ConnectFailure::Unanswered);
        }
        let (Some(dialler), Some(acceptor)) = (self.hello_of(from), self.hello_of(to)) else { return };
        let slot = self.open_stream(from, to);
        let dial = &mut self.dials[id.slot as usize];
        dial.stage = Stage::Answering(slot);
        let address = dial.address.clone();
        self.streams[slot as usize].ends[1].up = true;
        self.transmit(slot, 0, Wire::Hello(Box::new((acceptor, address))));
        let link = self.link_of(slot, 1);
        self.link_up(to, link, dialler, None);
    }

    fn hello_of(&self, host: Host) -> Option<PeerHello> {
        let core = self.core(host)?;
        Some(PeerHello {
            member: self.names.name(host).clone(),
            epoch: core.epoch(),
            address: Some(self.names.address(host).clone()),
            view_hash: core.view_hash(),
            protocol: 2,
        })
    }

    pub(super) fn dial_over(&mut self, id: DialId) {
        let dial = &self.dials[id.slot as usize];
        if dial.generation != id.generation || dial.stage == Stage::Free || self.now < dial.deadline {
            return;
        }
        if let Stage::Answering(slot) = dial.stage {
            let end = self.streams[slot as usize].ends[0];
            let ours = end.open && end.host == dial.from;
            if ours && !end.up {
                let from = dial.from;
                self.close_end(slot, 0);
                self.send_reset_of(slot, from);
                return self.dial_failed(id, ConnectFailure::Unanswered);
            }
            return self.free_dial(id);
        }
        self.dial_failed(id, ConnectFailure::Unanswered);
    }

    /// The dialler gives a stream up whose other end may still be held.
    fn send_reset_of(&mut self, slot: u32, from: Host) {
        let acceptor = self.streams[slot as usize].ends[1];
        if acceptor.open && self.streams[slot as usize].ends[0].host == from {
            self.send_reset(slot, 1);
        }
    }

    pub(super) fn dial_refused(&mut self, id: DialId) {
        if self.at_stage(id, Stage::Refusing) {
            self.dial_failed(id, ConnectFailure::Refused);
        }
    }

    /// The acceptor's Hello arrived: the dial led to a link, and the stream's place may be another's before its deadline.
    pub(super) fn dial_answered(&mut self, slot: u32, from: Host) {
        if let Some(id) = self.dial_of(slot, from) {
            self.free_dial(id);
        }
    }

    /// The stream that carries the acceptor's Hello was lost.
    pub(super) fn dial_lost(&mut self, slot: u32, from: Host) {
        if let Some(id) = self.dial_of(slot, from) {
            self.dial_failed(id, ConnectFailure::Unanswered);
        }
    }

    /// The dial of a running process whose answer is on its way in that stream.
    fn dial_of(&self, slot: u32, from: Host) -> Option<DialId> {
        let number = self.members[from].number;
        let waits =
            |dial: &Dial| dial.stage == Stage::Answering(slot) && dial.from == from && dial.number == number;
        let found = self.dials.iter().position(waits)?;
        Some(DialId { slot: found as u32, generation: self.dials[found].generation })
    }

    fn dial_failed(&mut self, id: DialId, failure: ConnectFailure) {
        let dial = &self.dials[id.slot as usize];
        let (from, number, address) = (dial.from, dial.number, dial.address.clone());
        self.free_dial(id);
        if self.members[from].number == number && self.lives(from) {
            // Not all learn of it in the same nanosecond.
            let _ = self.rng.next_u64();
            self.input(from, Input::ConnectFailed { address, failure });
        }
    }

    fn free_dial(&mut self, id: DialId) {
        self.dials[id.slot as usize].stage = Stage::Free;
        self.free_dials.push(id.slot);
    }
}
