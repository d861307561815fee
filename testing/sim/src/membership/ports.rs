//! The cores' inputs and outputs: what reaches them, and what becomes of what they say.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use flagship_membership::{Event, Input, LinkId, Membership, Message, Output, Statement, Verdict};
use flagship_types::{Instant, PeerAddress};

use super::checks::Seen;
use super::fault::Host;
use super::happening::Happening;
use super::process::Process;
use super::rings::MESH;
use super::signing::sign;
use super::streams::Wire;
use super::trace::What;
use super::world::World;
use crate::clock::{Nanos, ms};

/// A process that finds its name in use is ended and started anew by whoever runs it.
const STALLED_FOR: Nanos = ms(8_000);

impl World {
    /// Gives an input to a process, or keeps it for one that is held up.
    pub(super) fn input(&mut self, host: Host, input: Input) {
        self.give(host, None, input);
    }

    /// The same, for a frame of that sender's.
    pub(super) fn give(&mut self, host: Host, sender: Option<Host>, input: Input) {
        let member = &mut self.members[host];
        match member.process {
            Process::Running => {}
            Process::Frozen | Process::Blocked => return member.waiting.push_back((sender, input)),
            Process::Off | Process::Killed | Process::Silent => return,
        }
        let local = member.clock.read(self.now);
        let Some(core) = &mut member.core else { return };
        if let (Some(sender), Input::Message { link, message }, Some(checks)) =
            (sender, &input, &mut self.checks)
        {
            let in_use = core.peer_of(*link).is_some();
            checks.delivered(&self.names, (sender, host), in_use, message.get(), self.now);
        }
        core.handle(input, local);
        self.drain(host);
        if sender.is_some()
            && let Some(mut checks) = self.checks.take()
        {
            checks.handled(self, host);
            self.checks = Some(checks);
        }
    }

    /// Carries out what a core wants.
    pub(super) fn drain(&mut self, host: Host) {
        if let (Some(checks), Some(core)) = (&mut self.checks, &self.members[host].core) {
            checks.owner_is_at(host, core.epoch().0, core.incarnation().0);
        }
        while let Some(output) = self.members[host].core.as_mut().and_then(Membership::poll_output) {
            self.tally.outputs += 1;
            if let Some((hasher, text)) = &mut self.digest {
                text.clear();
                write!(text, "{} {host} {output:?}", self.now).expect("writing to a string");
                hasher.write(text.as_bytes());
            }
            if let Output::Send { link, message } = &output {
                self.said(host, *link, message);
            }
            let inside = matches!(output, Output::Event(_) | Output::Sign(_));
            match self.members[host].process {
                Process::Blocked if !inside => self.members[host].unsaid.push_back(output),
                _ => self.carry_out(host, output),
            }
        }
        self.arm(host);
    }

    /// Carries out one of a core's wishes.
    pub(super) fn carry_out(&mut self, host: Host, output: Output) {
        match output {
            Output::Connect { address } => self.connect(host, address),
            Output::Send { link, message } => self.send(host, link, message),
            Output::Disconnect { link, code } => self.disconnect(host, link, code),
            Output::Event(event) => self.event(host, event),
            Output::Sign(statement) => self.sign(host, *statement),
        }
    }

    /// Signs, and gives it back before anything else happens to that core.
    fn sign(&mut self, host: Host, statement: Statement) {
        if let Statement::Accusation(accusation) = &statement
            && let Some(mut checks) = self.checks.take()
        {
            checks.finding(self, host, accusation);
            self.checks = Some(checks);
        }
        let member = &mut self.members[host];
        let local = member.clock.read(self.now);
        if let Some(core) = &mut member.core {
            core.handle(Input::Signed(sign(host, statement)), local);
        }
    }

    fn send(&mut self, host: Host, link: LinkId, message: Message) {
        self.tally.count(&message);
        let message = match &mut self.members[host].liar {
            Some(liar) => liar.tamper(message, &mut self.rng),
            None => Some(message),
        };
        let Some(message) = message else { return };
        self.post(host, link, message);
    }

    /// A core says something, which its host may be too slow to send for a while.
    fn said(&mut self, host: Host, link: LinkId, message: &Message) {
        let Some((slot, end)) = self.end_of(host, link) else { return };
        let to = self.streams[slot as usize].ends[1 - usize::from(end)].host;
        let Some(checks) = &mut self.checks else { return };
        let honest = self.members[host].liar.is_none() && !checks.is_liar(host);
        if let Message::Answer { subject, verdict: Verdict::Mute(_), .. } = message
            && honest
            && self.plan.members <= MESH
            && let Some(about) = self.names.host(subject)
        {
            let view = self.members[host].core.as_ref().and_then(|core| core.member(subject));
            checks.answers_mute(host, about, view.map(|view| view.state), self.now);
        }
        checks.said(&self.names, (host, to), honest, message, self.now);
    }

    /// Puts a message of that host's on a stream.
    pub(super) fn post(&mut self, host: Host, link: LinkId, message: Message) {
        let Some((slot, end)) = self.end_of(host, link) else { return };
        let to = self.streams[slot as usize].ends[1 - usize::from(end)].host;
        self.note(host, || What::Sent { to, message: message.clone() });
        self.transmit(slot, 1 - end, Wire::Frame(message));
    }

    /// A member of the fleet put something into its view, or learnt something of itself.
    fn event(&mut self, host: Host, event: Event) {
        match event {
            Event::Changed(name) => self.changed(host, &name),
            Event::Heard { member, at } => self.heard(host, &member, at),
            Event::EpochRaised(epoch) => {
                self.members[host].stored_epoch = self.members[host].stored_epoch.max(epoch.0);
                self.note(host, || What::Event(Event::EpochRaised(epoch)));
            }
            Event::NameInUse { .. } => {
                self.tally.stalled += 1;
                let number = self.members[host].number;
                self.queue.push(self.now + STALLED_FOR / 8, Happening::Exit(host as u32, number));
                self.queue.push(self.now + STALLED_FOR, Happening::Start(host as u32));
                self.coming_back += 1;
                self.note(host, || What::Event(event.clone()));
            }
            Event::Querying(_) | Event::Refuted(_) | Event::Vouched { .. } => {
                self.note(host, || What::Event(event.clone()));
            }
        }
    }

    fn changed(&mut self, host: Host, name: &flagship_types::MemberName) {
        let subject = self.names.host(name);
        if let (Some(checks), None) = (&mut self.checks, subject) {
            checks.ghost(host, self.members[host].core.as_ref(), name);
        }
        let Some(subject) = subject else { return };
        let Some(view) = self.members[host].core.as_ref().and_then(|core| core.member(name)) else { return };
        let seen = Seen {
            at: self.now,
            viewer: host,
            subject,
            epoch: view.epoch.0,
            incarnation: view.incarnation.0,
            state: view.state,
            term: view.metadata.map(|metadata| metadata.term.0),
            evidence: view.evidence,
        };
        self.tally.seen(&seen);
        if let Some(mut checks) = self.checks.take() {
            checks.seen(self, seen);
            self.checks = Some(checks);
        }
        self.note(host, || What::Seen(seen));
    }

    fn heard(&mut self, host: Host, name: &flagship_types::MemberName, at: Instant) {
        let Some(checks) = &mut self.checks else { return };
        let Some(subject) = self.names.host(name) else { return };
        let when = self.members[host].clock.when(at);
        checks.heard(host, subject, when, self.now);
    }

    /// Adds to the timeline, if one is kept.
    pub(super) fn note(&mut self, host: Host, what: impl FnOnce() -> What) {
        if let Some(trace) = &mut self.trace {
            trace.add(self.now, host, what());
        }
    }

    pub(super) fn connect(&mut self, host: Host, address: PeerAddress) {
        self.tally.dials += 1;
        self.dial(host, address);
    }
}
