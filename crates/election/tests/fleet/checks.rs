//! What must never happen, looked at on every output and every write.

use flagship_election::{Directive, Event, Message, Output, Record, ResignReason, Vote};
use flagship_types::{MemberName, Role, Term};

use super::{Fleet, ms, secs};

impl Fleet {
    fn violation(&mut self, what: String) {
        self.say(&format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    fn vote(&mut self, voter: &MemberName, term: Term, candidate: &MemberName) {
        let given = self.votes.entry((voter.clone(), term)).or_insert_with(|| candidate.clone()).clone();
        if given != *candidate {
            self.violation(format!("two grants: {voter} gave term {term} to {given} and to {candidate}"));
        }
    }

    pub(super) fn check_output(&mut self, node: &MemberName, output: &Output) {
        match output {
            Output::Send { to, message } => self.check_message(node, to, message),
            Output::Direct(directive) => self.check_directive(node, directive),
            Output::Event(Event::RoleChanged { to: Role::Stopping, .. }) => {
                let last_copy = self.is_last_copy(node);
                self.nodes.get_mut(node).unwrap().last_copy = last_copy;
            }
            Output::Persist(_) | Output::Publish(_) | Output::Event(_) => {}
        }
    }

    fn check_message(&mut self, node: &MemberName, to: &MemberName, message: &Message) {
        let durable = self.nodes[node].durable.clone();
        match message {
            Message::Grant { term, pre: false, .. } => {
                self.vote(node, *term, to);
                let vote = durable.and_then(|d| d.vote);
                let own = Vote { term: *term, candidate: to.clone() };
                if vote.as_ref().is_none_or(|v| v.term < *term || (v.term == *term && *v != own)) {
                    self.violation(format!(
                        "grant before it is durable: {node} to {to} for {term}, stored {vote:?}"
                    ));
                }
            }
            Message::Claim(claim) => {
                self.vote(node, claim.term, node);
                if durable.and_then(|d| d.vote).is_none_or(|v| v.term < claim.term) {
                    self.violation(format!("claim before the own vote is durable: {node} {}", claim.term));
                }
            }
            Message::Announce { term, .. } => {
                self.vote(node, *term, node);
                if durable.and_then(|d| d.held).is_none_or(|held| held < *term) {
                    self.violation(format!("announced before it is durable: {node} {term}"));
                }
            }
            Message::Release { term, .. }
                if durable.is_some_and(|d| d.held == Some(*term))
                    || self.nodes[node].payload.exists == Some(*term) =>
            {
                self.violation(format!("released before the stop: {node} {term}"));
            }
            _ => {}
        }
    }

    fn check_directive(&mut self, node: &MemberName, directive: &Directive) {
        let durable = self.nodes[node].durable.clone();
        match directive {
            Directive::Run { term, resumed } => {
                if durable.is_none_or(|d| d.held != Some(*term) || d.stopping.is_some()) {
                    self.violation(format!("run before it is durable: {node} {term}"));
                }
                if !*resumed && self.nodes[node].payload.exists.is_none() {
                    self.check_alone(node);
                }
            }
            Directive::Stop { term, reason } => {
                // A payload found without a record is stopped without one.
                if durable.is_some_and(|d| d.stopping != Some(*term) && d.held == Some(*term)) {
                    self.violation(format!("stop before it is durable: {node} {term}"));
                }
                if *reason == ResignReason::Superseded && self.nodes[node].last_copy {
                    self.violation(format!("last good copy given up by {node}"));
                }
            }
            Directive::Hold | Directive::Absent => {}
        }
    }

    /// Nobody that this member is in steady contact with runs the payload.
    fn check_alone(&mut self, node: &MemberName) {
        for other in self.others(node) {
            let is_steady = self.is_steady(node, &other);
            if is_steady && self.nodes[&other].payload.exists.is_some() {
                self.violation(format!("two payloads in one part: {node} starts while {other} runs"));
            }
        }
    }

    fn is_steady(&mut self, a: &MemberName, b: &MemberName) -> bool {
        let now = self.now;
        let alive = |n: &super::Node| n.core.is_some() && !n.frozen && now.since(n.started) > secs(2);
        let both = alive(&self.nodes[a]) && alive(&self.nodes[b]) && !self.is_cut(a, b);
        both && self.pair(a, b).up_since.is_some_and(|at| now.since(at) > secs(2))
    }

    /// An uninterrupted leader with a ready payload gives it up only to one whose payload is ready too.
    fn is_last_copy(&mut self, node: &MemberName) -> bool {
        let now = self.now;
        let me = &self.nodes[node];
        if !me.is_ready() || me.standing.as_ref().is_none_or(|s| s.interrupted) {
            return false;
        }
        let mut excused = false;
        for other in self.others(node) {
            let lost = now.since(self.pair(node, &other).lost) < ms(1500);
            let other = &self.nodes[&other];
            let leads = other.role() == Some(Role::Leader) && other.is_ready();
            excused |= leads || lost || now.since(other.payload.ready_until) < ms(1500);
        }
        !excused
    }

    /// A payload is deleted without a stop, as nobody leads here: then somebody else has a copy of it.
    pub(super) fn check_cleared(&mut self, node: &MemberName) {
        let others = self.others(node);
        let has_copy = others.iter().any(|other| self.nodes[other].payload.exists.is_some());
        if self.nodes[node].is_ready() && !has_copy {
            self.violation(format!("last good copy cleared away by {node}"));
        }
    }

    pub(super) fn check_stored(&mut self, node: &MemberName, record: &Record) {
        let highest = self.nodes[node].highest_stored;
        if record.term < highest {
            self.violation(format!("term went back: {node} {highest} -> {}", record.term));
        }
    }

    pub(super) fn check_write(&mut self, node: &MemberName, term: Term) {
        let durable = self.nodes[node].durable.as_ref();
        if durable.is_none_or(|d| d.held != Some(term) || d.stopping.is_some()) {
            self.violation(format!("write without a durable term: {node} {term}"));
        }
    }

    /// After quiet: one leader, one payload, everybody follows.
    pub fn check_quiet(&mut self) {
        let leaders: Vec<_> =
            self.leaders().iter().map(|n| (n.name.clone(), n.core.as_ref().unwrap().term())).collect();
        let [(leader, term)] = leaders.as_slice() else {
            return self.violation(format!("{} leaders after quiet: {leaders:?}", leaders.len()));
        };
        let running = self.running();
        if running != [leader.as_str()] {
            let what = format!("payload runs at {running:?}, leader is {leader}");
            return self.violation(what);
        }
        let bad: Vec<_> = self
            .nodes
            .values()
            .filter(|n| n.core.as_ref().is_some_and(|c| c.leader() != Some((leader.clone(), *term))))
            .map(|n| (n.name.clone(), n.core.as_ref().unwrap().leader()))
            .collect();
        if !bad.is_empty() {
            self.violation(format!("{leader} leads in {term}, but: {bad:?}"));
        }
    }
}
