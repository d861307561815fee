//! Records and addresses: who joins, returns, leaves, and where the others are dialled (rules 6, 7, 9, 10).

use std::collections::BTreeSet;

use flagship_types::{CloseCode, Epoch, Instant, MemberName, PeerAddress};

use crate::config::{AWAY_CAP, MAX_ADDRESSES, MAX_INCARNATION_JUMP, QUERY_EXTRA};
use crate::members::Member;
use crate::{
    ConnectFailure, Event, LinkId, Membership, Message, PeerHello, Record, SelfState, Standing, State,
};

impl Membership {
    /// A member that was not known says Hello.
    pub(crate) fn admit(&mut self, hello: &PeerHello, now: Instant) {
        let address = self.dials.forget_hint(&hello.member);
        self.members.insert(hello.member.clone(), Member::new(hello.epoch, address, now));
    }

    /// A newer process of a member: it begins Alive, and nothing that was said by or held against the old one
    /// counts. Its own record follows on its link.
    pub(crate) fn enter_epoch(&mut self, name: &MemberName, epoch: Epoch, now: Instant) {
        let old: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer == *name && link.epoch < epoch)
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.disconnect(id, CloseCode::NameInUse);
            self.drop_link(id);
        }
        let Some(member) = self.members.get_mut(name) else { return };
        member.epoch = epoch;
        member.incarnation = flagship_types::Incarnation(0);
        member.version = 0;
        member.metadata = None;
        member.away_used = false;
        member.forgotten = false;
        member.lost = false;
        member.refused = None;
        member.replica_waits = false;
        member.clock = member.clock.max(now);
        self.become_state(name, State::Alive, None, now);
    }

    /// What a member says of itself. Only from itself, and only if it is newer than what is known.
    pub(crate) fn record(&mut self, id: LinkId, record: Record, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let (name, epoch) = (link.peer.clone(), link.epoch);
        if record.member != name || record.epoch < epoch || !self.plausible(record.epoch, now) {
            self.stats.refused_records += 1;
            return;
        }
        if let Some(contest) = self.links.get_mut(&id).and_then(|link| link.contested.as_mut()) {
            // Believed, and answered with what is known, when the contest is decided and not before.
            contest.record = Some(record);
            return;
        }
        let Some(member) = self.members.get(&name) else { return };
        if record.epoch > member.epoch {
            if !member.counts() && self.is_full() {
                self.stats.refused_full += 1;
                return self.disconnect(id, CloseCode::Full);
            }
            self.raise_link(id, &name, record.epoch, now);
        } else if record.epoch < member.epoch {
            return self.tell_known(&name, id);
        }
        let Some(member) = self.members.get_mut(&name) else { return };
        if (record.incarnation, record.version) < (member.incarnation, member.version) {
            // Older than what is known: only a held state needs an answer.
            return self.tell_known(&name, id);
        }
        if record.incarnation.0.saturating_sub(member.incarnation.0) > MAX_INCARNATION_JUMP {
            self.stats.refused_records += 1;
            return;
        }
        self.take(&name, record, now);
    }

    /// The process at the other end goes on under a newer epoch.
    fn raise_link(&mut self, id: LinkId, name: &MemberName, epoch: Epoch, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.epoch = epoch;
        }
        self.enter_epoch(name, epoch, now);
        if let Some(member) = self.members.get_mut(name) {
            member.link = Some(id);
        }
        self.restagger = true;
        self.ping(id, now);
    }

    fn take(&mut self, name: &MemberName, record: Record, now: Instant) {
        let Some(member) = self.members.get_mut(name) else { return };
        let refuted = record.incarnation > member.incarnation;
        let changed = refuted || member.metadata.as_ref() != Some(&record.metadata);
        member.incarnation = record.incarnation;
        member.version = record.version;
        let address = record.metadata.address.clone();
        let moved = address.filter(|address| member.address.as_ref() != Some(address));
        member.metadata = Some(record.metadata);
        let state = member.state;
        let (status, away_used) = (record.status, member.away_used);
        match status {
            SelfState::Left if state != State::Left => self.left(name, now),
            SelfState::Left => {}
            SelfState::Away { grace }
                if !away_used && (refuted || matches!(state, State::Alive | State::Suspect)) =>
            {
                self.become_state(name, State::Away, None, now);
                if let Some(member) = self.members.get_mut(name) {
                    member.away_used = true;
                    member.away_until = Some(now + grace.min(AWAY_CAP));
                }
            }
            SelfState::Alive if refuted => self.refuted(name, now),
            SelfState::Away { .. } | SelfState::Alive if changed => self.changed(name),
            SelfState::Away { .. } | SelfState::Alive => {}
        }
        if let Some(address) = moved {
            self.set_address(name, &address);
        }
    }

    /// A higher incarnation: whatever was held against the lower one is void.
    fn refuted(&mut self, name: &MemberName, now: Instant) {
        let Some(member) = self.members.get_mut(name) else { return };
        let (was, link) = (member.state, member.link);
        // It spoke just now, but that is no proof of age: time for a ping, then lateness counts as before.
        let patience = member.freshness.rtt() * 2 + QUERY_EXTRA;
        member.not_late_before = member.not_late_before.max(now + patience);
        member.accusers.clear();
        member.query = None;
        member.requery = None;
        if was == State::Suspect {
            self.stats.false_suspicions += 1;
            self.event(Event::Refuted(name.clone()));
        }
        match was {
            State::Alive => self.changed(name),
            _ => self.become_state(name, State::Alive, None, now),
        }
        if let Some(link) = link {
            self.ping(link, now);
        }
    }

    fn left(&mut self, name: &MemberName, now: Instant) {
        let links = self.links.iter().filter(|(_, link)| link.peer == *name).map(|(id, _)| *id);
        let links: Vec<LinkId> = links.collect();
        for id in links {
            self.disconnect(id, CloseCode::Leaving);
            self.drop_link(id);
        }
        self.become_state(name, State::Left, None, now);
    }

    /// An operator's word that a member will not come back. If it does, it joins anew under a higher epoch.
    pub(crate) fn forget(&mut self, name: &MemberName, now: Instant) {
        let Some(member) = self.members.get_mut(name) else { return };
        member.forgotten = true;
        self.left(name, now);
    }

    /// Where a member can be dialled; the others are told.
    pub(crate) fn set_address(&mut self, name: &MemberName, address: &PeerAddress) {
        let Some(member) = self.members.get_mut(name) else { return };
        member.address = Some(address.clone());
        let own = member.link;
        self.dials_dirty = true;
        let links: Vec<LinkId> =
            self.members.values().filter_map(|m| m.link).filter(|link| Some(*link) != own).collect();
        for link in links {
            self.send(link, Message::Addresses(vec![(name.clone(), address.clone())]));
        }
    }

    /// Hints where members may be found that are not known, or not with an address.
    pub(crate) fn addresses(&mut self, addresses: Vec<(MemberName, PeerAddress)>) {
        let full = self.is_full();
        for (name, address) in addresses.into_iter().take(MAX_ADDRESSES) {
            if name == self.config.name {
                continue;
            }
            match self.members.get_mut(&name) {
                Some(member) if member.address.is_none() => member.address = Some(address),
                Some(_) => continue,
                None if full => continue,
                None => {
                    self.dials.hint(name, address);
                }
            }
            self.dials_dirty = true;
        }
    }

    /// The addresses of a member: its own, and the seeds that led to it.
    fn addresses_of(&self, name: &MemberName) -> Vec<PeerAddress> {
        let own = self.members.get(name).and_then(|m| m.address.clone());
        let seeds = self.dials.seeds().filter(|(_, led_to)| *led_to == Some(name));
        own.into_iter().chain(seeds.map(|(address, _)| address.clone())).collect()
    }

    /// Its link is gone: dials it again, at once or after the backoff.
    pub(crate) fn redial(&mut self, name: &MemberName, immediate: bool) {
        for address in self.addresses_of(name) {
            self.dials.lost(&address, immediate);
        }
    }

    /// It refused us: dials it again after the longest wait.
    pub(crate) fn redial_late(&mut self, name: &MemberName, now: Instant) {
        for address in self.addresses_of(name) {
            self.dials.lost(&address, false);
            self.dials.rejected(&address, false, now);
        }
    }

    /// Dials whoever has no link: members that did not leave, seeds that led to nobody, hints.
    pub(crate) fn refresh_dials(&mut self, now: Instant) {
        self.dials_dirty = false;
        let mut wanted = BTreeSet::new();
        let mut kept = BTreeSet::new();
        if self.standing == Standing::Active {
            for (name, member) in &self.members {
                let addresses = self.addresses_of(name);
                if member.counts() && member.link.is_none() {
                    wanted.extend(addresses.iter().cloned());
                }
                kept.extend(addresses);
            }
            for (address, led_to) in self.dials.seeds() {
                let member = led_to.map(|name| self.members.get(name));
                let dial = match member {
                    None | Some(None) => true,
                    Some(Some(member)) => member.state == State::Left && !member.forgotten,
                };
                if dial {
                    wanted.insert(address.clone());
                }
            }
            if !self.is_full() {
                wanted.extend(self.dials.hints().cloned());
            }
            if let Some(own) = &self.metadata.address {
                wanted.remove(own);
            }
        }
        self.dials.refresh(&wanted, &kept, now);
    }

    /// An attempt failed.
    pub(crate) fn connect_failed(&mut self, address: &PeerAddress, failure: ConnectFailure, now: Instant) {
        self.dials_dirty = true;
        let here: Vec<MemberName> = self
            .members
            .iter()
            .filter(|(name, m)| m.counts() && m.link.is_none() && self.addresses_of(name).contains(address))
            .map(|(name, _)| name.clone())
            .collect();
        match failure {
            ConnectFailure::Rejected(CloseCode::Standby) => self.dials.standby(address, now),
            ConnectFailure::Rejected(code) => {
                // Of all that refuse without a link only we ourselves have our name and no place among the members.
                let own =
                    here.is_empty() && matches!(code, CloseCode::NameInUse | CloseCode::IdentityMismatch);
                self.dials.rejected(address, own, now);
            }
            ConnectFailure::Refused | ConnectFailure::Unanswered => self.dials.failed(address, now),
        }
        for name in here {
            let Some(member) = self.members.get_mut(&name) else { continue };
            if failure == ConnectFailure::Refused {
                let counts =
                    !member.replica_waits && member.lost_via.as_ref().is_none_or(|via| via == address);
                match &mut member.refused {
                    _ if !counts => continue,
                    Some((by, times)) if by == address => *times = times.saturating_add(1),
                    Some(_) => {}
                    None => member.refused = Some((address.clone(), 1)),
                }
                self.refused_dial(&name, now);
            } else {
                if member.refused.as_ref().is_some_and(|(by, _)| by == address) {
                    member.refused = None;
                }
                match failure {
                    ConnectFailure::Rejected(CloseCode::NameInUse) => {
                        self.refused_name(name, self.epoch, now);
                    }
                    ConnectFailure::Rejected(CloseCode::Standby) => {
                        member.refused = None;
                        if !std::mem::replace(&mut member.replica_waits, true) {
                            self.changed(&name);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
