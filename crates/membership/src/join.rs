//! Records and addresses: who joins, returns, leaves, and where the others are dialled (rules 6, 7, 9, 10).

use std::collections::{BTreeMap, BTreeSet};

use flagship_types::{CloseCode, Epoch, Instant, MemberName, PeerAddress};

use crate::config::{
    AWAY_CAP, FORGOTTEN_PACE, FORGOTTEN_PACE_ON_RINGS, MAX_ADDRESSES, MAX_INCARNATION_JUMP, MAX_LEFT,
    QUERY_EXTRA,
};
use crate::dial::Wanted;
use crate::members::{Member, is_said, placeholder};
use crate::rings::Slot;
use crate::table::SELF;
use crate::{
    ConnectFailure, Event, LinkId, Membership, Message, PeerHello, PlantedBug, Record, SelfState, Signed,
    Standing, State,
};

impl Membership {
    /// A member that was not known says Hello.
    pub(crate) fn admit(&mut self, hello: &PeerHello, now: Instant) -> Slot {
        let address = self.dials.forget_hint(&hello.member);
        let slot = self.table.insert(placeholder(hello.member.clone(), hello.epoch, address), State::Alive);
        self.table.attend(slot, now);
        self.view_grew(now);
        self.duties_dirty = true;
        slot
    }

    /// A newer process of a member: it begins Alive, and nothing that was said by or held against the old one
    /// counts. Its own record follows.
    pub(crate) fn enter_epoch(&mut self, slot: Slot, epoch: Epoch, now: Instant) {
        let old: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer == slot && link.epoch < epoch)
            .map(|(id, _)| *id)
            .collect();
        // Perhaps the same process, which went on under a newer epoch: it is not told that its name is in use. If it is
        // another it dials again and finds out.
        for id in old {
            self.disconnect(id, CloseCode::Duplicate);
            self.drop_link(id);
        }
        let address = self.address_of(slot).cloned();
        let record = placeholder(self.table.name(slot).clone(), epoch, address);
        self.table.set_record(slot, record);
        let member = self.table.attend(slot, now);
        member.away_used = false;
        member.forgotten = false;
        member.lost = false;
        member.refused = None;
        member.replica_waits = false;
        member.clock = member.clock.max(now);
        member.accusers.clear();
        self.become_state(slot, State::Alive, None, now);
    }

    /// What a member says of itself: heard from itself, or signed and passed on. Only what is newer than what is known
    /// counts, and only first-hand does it begin or end anything on a link.
    pub(crate) fn record(&mut self, id: LinkId, record: Signed<Record>, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let (slot, epoch) = (link.peer, link.epoch);
        let contested = link.contested.is_some();
        if record.member != *self.table.name(slot) {
            // Of ourselves we know more; who holds a later epoch of ours says so as `Known`.
            if record.member != self.config.name && !contested {
                self.second_hand(id, record, now);
            }
            return;
        }
        if record.epoch < epoch || !self.plausible(record.epoch, now) {
            self.stats.refused_records += 1;
            return;
        }
        let known = self.table.record(slot).epoch;
        if contested && record.epoch == known && record.proof().is_some() {
            // Of the process that is known already, as if it had been passed on.
            self.take_if_newer(slot, record.clone(), id, now);
        }
        if let Some(contest) = self.links.get_mut(&id).and_then(|link| link.contested.as_mut()) {
            // Believed, and answered with what is known, when the contest is decided and not before.
            contest.record = Some(record);
            return;
        }
        let known = self.table.record(slot).epoch;
        if record.epoch > known {
            if self.table.state(slot) == State::Left && self.is_full() {
                self.stats.refused_full += 1;
                return self.disconnect(id, CloseCode::Full);
            }
            self.raise_link(id, slot, record.epoch, now);
        } else if record.epoch < known {
            return self.tell_known(slot, id);
        }
        if !self.take_if_newer(slot, record, id, now) {
            // Older than what is known: only a held state needs an answer.
            self.tell_known(slot, id);
        }
    }

    /// A signed record that another member passed on.
    fn second_hand(&mut self, id: LinkId, record: Signed<Record>, now: Instant) {
        let unproven = record.proof().is_none() && !self.has(PlantedBug::ForeignRecordBelieved);
        if unproven || !self.plausible(record.epoch, now) {
            self.stats.refused_records += 1;
            return;
        }
        let slot = match self.table.slot(&record.member) {
            Some(slot) => slot,
            None if self.is_full() || (record.status == SelfState::Left && self.left() >= MAX_LEFT) => {
                self.stats.refused_full += u64::from(record.status != SelfState::Left);
                return;
            }
            None => {
                let name = record.member.clone();
                self.dials.forget_hint(&name);
                self.duties_dirty = true;
                self.dials_dirty = true;
                let slot = self.table.insert(placeholder(name, record.epoch, None), State::Alive);
                self.view_grew(now);
                slot
            }
        };
        let known = self.table.record(slot).epoch;
        let speaks_itself = self.table.get(slot).and_then(|m| m.link).and_then(|link| self.links.get(&link));
        if speaks_itself.is_some_and(|link| link.epoch != record.epoch) || record.epoch < known {
            // Two processes of one name are told apart on their own links, not by what passes by.
            return;
        }
        if record.epoch > known {
            self.enter_epoch(slot, record.epoch, now);
        }
        self.take_if_newer(slot, record, id, now);
    }

    /// Takes a record of the current epoch if it is newer. False if it is older than what is known, or the same.
    fn take_if_newer(&mut self, slot: Slot, record: Signed<Record>, from: LinkId, now: Instant) -> bool {
        let known = self.table.record(slot);
        let (new, old) = ((record.incarnation, record.version), (known.incarnation, known.version));
        if new < old && !self.has(PlantedBug::OldRecordAccepted) {
            return false;
        }
        // Said again; but a copy that can be passed on is worth more than one that cannot.
        if new == old && (record.proof().is_none() || known.proof().is_some()) {
            self.told_again(slot, from);
            return true;
        }
        let jump = record.incarnation.0.saturating_sub(known.incarnation.0) > MAX_INCARNATION_JUMP;
        // What its owner signed goes for all alike, or views would differ for good; whoever leaps harms itself alone.
        if jump && is_said(known) && record.proof().is_none() {
            self.stats.refused_records += 1;
            return true;
        }
        self.take(slot, record, from, now);
        true
    }

    /// The process at the other end goes on under a newer epoch.
    fn raise_link(&mut self, id: LinkId, slot: Slot, epoch: Epoch, now: Instant) {
        if let Some(link) = self.link_mut(id) {
            link.epoch = epoch;
        }
        self.enter_epoch(slot, epoch, now);
        if let Some(member) = self.table.get_mut(slot) {
            member.link = Some(id);
        }
        self.restagger = true;
        self.ping(id, now);
    }

    fn take(&mut self, slot: Slot, record: Signed<Record>, from: LinkId, now: Instant) {
        let known = self.table.record(slot);
        let refuted = record.incarnation > known.incarnation;
        let changed = refuted || known.version == 0 || known.metadata != record.metadata;
        let before = self.address_of(slot).cloned();
        let address = record.metadata.address.clone();
        let moved = address.filter(|address| before.as_ref() != Some(address));
        let status = record.status;
        self.table.set_record(slot, record);
        if let (Some(_), Some(member)) = (&moved, self.table.get_mut(slot)) {
            member.address = None;
        }
        let state = self.table.state(slot);
        let away_used = self.table.get(slot).is_some_and(|m| m.away_used);
        match status {
            SelfState::Left if state != State::Left => self.leave_of(slot, now),
            SelfState::Away { grace }
                if !away_used && (refuted || matches!(state, State::Alive | State::Suspect)) =>
            {
                self.become_state(slot, State::Away, None, now);
                let member = self.table.attend(slot, now);
                member.away_used = true;
                member.away_until = Some(now + grace.min(AWAY_CAP));
                if self.has(PlantedBug::AwayNeverEnds)
                    && let Some(member) = self.table.get_mut(slot)
                {
                    member.away_until = None;
                }
            }
            // Who left is back only as a new process.
            SelfState::Alive if refuted && state != State::Left => self.refuted(slot, now),
            SelfState::Away { .. } | SelfState::Alive if changed => self.changed(slot),
            SelfState::Left | SelfState::Away { .. } | SelfState::Alive => {}
        }
        self.forward_record(slot, from, refuted, now);
        if let Some(address) = moved {
            self.set_address(slot, &address);
        }
    }

    /// A higher incarnation: whatever was held against the lower one is void.
    fn refuted(&mut self, slot: Slot, now: Instant) {
        let was = self.table.state(slot);
        if was == State::Suspect && self.has(PlantedBug::LateRefutationLoses) {
            return;
        }
        let rtt = self.typical_rtt();
        let mut link = None;
        let bug = self.has(PlantedBug::WindowNotRestarted);
        if let Some(member) = self.table.get_mut(slot) {
            // It spoke just now, but that is no proof of age: time for a ping, then lateness counts as before.
            let patience = member.freshness.measured_rtt().unwrap_or(rtt) * 2 + QUERY_EXTRA;
            member.not_late_before = member.not_late_before.max(now + patience);
            if was == State::Suspect {
                // It has heard of the suspicion, so it lived after that began.
                member.clock = member.clock.max(member.since);
            }
            if !bug {
                member.accusers.clear();
            }
            member.query = None;
            member.requery = None;
            link = member.link;
        }
        if was == State::Suspect {
            self.stats.false_suspicions += 1;
            let name = self.table.name(slot).clone();
            self.event(Event::Refuted(name));
        }
        match was {
            State::Alive => self.changed(slot),
            _ => self.become_state(slot, State::Alive, None, now),
        }
        if let Some(link) = link {
            self.ping(link, now);
        }
    }

    fn leave_of(&mut self, slot: Slot, now: Instant) {
        let links = self.links.iter().filter(|(_, link)| link.peer == slot).map(|(id, _)| *id);
        let links: Vec<LinkId> = links.collect();
        for id in links {
            self.disconnect(id, CloseCode::Leaving);
            self.drop_link(id);
        }
        self.become_state(slot, State::Left, None, now);
    }

    fn left(&self) -> usize {
        self.table.details().filter(|(slot, _)| self.table.state(*slot) == State::Left).count()
    }

    /// Of those that left, the longest gone is forgotten.
    pub(crate) fn forget_oldest_left(&mut self) {
        if self.left() <= MAX_LEFT {
            return;
        }
        let left = self.table.details().filter(|(slot, _)| self.table.state(*slot) == State::Left);
        let Some(slot) = left.min_by_key(|(_, m)| m.since).map(|(slot, _)| slot) else { return };
        self.changed(slot);
        // The slot will be another member's: nothing may point to it.
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.peer == slot).map(|(id, _)| *id).collect();
        for id in links {
            self.disconnect(id, CloseCode::Leaving);
            self.drop_link(id);
        }
        for (_, member) in self.table.details_mut() {
            member.forget(slot);
        }
        self.batch.forget(slot);
        self.table.remove(slot);
    }

    /// An operator's word that a member will not come back. If it does, it joins anew under a higher epoch. Who it was
    /// may live behind a cut and have been told the same of us: then only a dial of ours or its brings the two together.
    pub(crate) fn forget(&mut self, name: &MemberName, now: Instant) {
        let Some(slot) = self.table.slot(name).filter(|slot| *slot != SELF) else { return };
        self.leave_of(slot, now);
        if let Some(member) = self.table.get_mut(slot) {
            member.forgotten = true;
        }
        self.dials_dirty = true;
    }

    /// Where a member can be dialled; in a mesh the others are told.
    pub(crate) fn set_address(&mut self, slot: Slot, address: &PeerAddress) {
        self.dials_dirty = true;
        if self.table.record(slot).metadata.address.as_ref() != Some(address)
            && let Some(member) = self.table.get_mut(slot)
        {
            member.address = Some(address.clone());
        }
        if self.mesh {
            let name = self.table.name(slot).clone();
            let own = self.table.get(slot).and_then(|m| m.link);
            let links: Vec<LinkId> =
                self.table.details().filter_map(|(_, m)| m.link).filter(|link| Some(*link) != own).collect();
            for link in links {
                self.send(link, Message::Addresses(vec![(name.clone(), address.clone())]));
            }
        }
    }

    /// Hints where members may be found that are not known, or not with an address.
    pub(crate) fn addresses(&mut self, addresses: Vec<(MemberName, PeerAddress)>) {
        let full = self.is_full();
        for (name, address) in addresses.into_iter().take(MAX_ADDRESSES) {
            if name == self.config.name {
                continue;
            }
            match self.table.slot(&name) {
                Some(slot) if self.address_of(slot).is_none() => {
                    if let Some(member) = self.table.get_mut(slot) {
                        member.address = Some(address);
                    }
                }
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
    fn addresses_of(&self, slot: Slot) -> Vec<PeerAddress> {
        let own = self.address_of(slot).cloned();
        let name = self.table.name(slot);
        let seeds = self.dials.seeds().filter(|(_, led_to)| *led_to == Some(name));
        own.into_iter().chain(seeds.map(|(address, _)| address.clone())).collect()
    }

    /// Its link is gone: dials it again, at once or after the backoff.
    pub(crate) fn redial(&mut self, slot: Slot, immediate: bool) {
        for address in self.addresses_of(slot) {
            self.dials.lost(&address, immediate);
        }
    }

    /// It refused us: dials it again after the longest wait.
    pub(crate) fn redial_late(&mut self, slot: Slot, now: Instant) {
        for address in self.addresses_of(slot) {
            self.dials.lost(&address, false);
            self.dials.rejected(&address, false, now);
        }
    }

    /// Dials whoever has no link and should: who is observed or observes and the like, seeds that led to nobody, hints.
    pub(crate) fn refresh_dials(&mut self, now: Instant) {
        self.dials_dirty = false;
        let mut wanted: BTreeMap<PeerAddress, Wanted> = BTreeMap::new();
        let mut want = |address: &PeerAddress, when: Wanted| {
            let earliest = wanted.entry(address.clone()).or_insert(when);
            *earliest = when.min(*earliest);
        };
        let mut kept = BTreeSet::new();
        if self.standing == Standing::Active {
            for (slot, member) in self.table.details() {
                if !member.duty.linked && member.link.is_none() {
                    if self.is_believed_gone(slot, member) {
                        let addresses = self.addresses_of(slot).into_iter().filter(|at| !self.lives_at(at));
                        addresses.for_each(|address| want(&address, self.dial_of_forgotten(now)));
                    }
                    continue;
                }
                let addresses = self.addresses_of(slot);
                let given_up =
                    self.has(PlantedBug::DownIsNotDialled) && self.table.state(slot) == State::Down;
                if self.table.state(slot) != State::Left && member.link.is_none() && !given_up {
                    let at = self.dial_of(slot, member, now);
                    addresses.iter().for_each(|address| want(address, at));
                }
                kept.extend(addresses);
            }
            let linked = !self.nobody_is_linked();
            if let Some(own) = &self.table.record(SELF).metadata.address {
                self.dials.skip(own);
            }
            for (address, led_to, turn) in self.dials.seeds_in_turn(self.started) {
                let slot = led_to.and_then(|name| self.table.slot(name));
                let member = slot.and_then(|slot| self.table.get(slot));
                let dial = match slot {
                    // Whoever lives there according to others is found already.
                    None => !(linked && self.lives_at(address)),
                    Some(slot) => {
                        self.table.state(slot) == State::Left && !member.is_some_and(|m| m.forgotten)
                    }
                };
                if dial || !linked {
                    want(address, self.seed_dial_of(turn, linked));
                }
                kept.insert(address.clone());
            }
            if !self.is_full() {
                self.dials
                    .hints()
                    .for_each(|(name, address)| want(address, self.first_dial_of(name, Instant::ZERO, now)));
            }
            if let Some(own) = &self.table.record(SELF).metadata.address {
                wanted.remove(own);
            }
        }
        self.dials.refresh(&wanted, &kept, now);
    }

    /// Whether only an operator's word says that it is gone, and not its own.
    fn is_believed_gone(&self, slot: Slot, member: &Member) -> bool {
        member.forgotten && self.table.record(slot).status != SelfState::Left
    }

    /// When a member is dialled that was declared gone.
    fn dial_of_forgotten(&self, now: Instant) -> Wanted {
        Wanted::at_pace(if self.mesh { FORGOTTEN_PACE } else { FORGOTTEN_PACE_ON_RINGS }, now)
    }

    /// Whether a member that is not Down says that it is found there.
    fn lives_at(&self, address: &PeerAddress) -> bool {
        let alive = self.table.slots().filter(|slot| *slot != SELF && self.table.is_live(*slot));
        alive.map(|slot| &self.table.record(slot).metadata.address).any(|its| its.as_ref() == Some(address))
    }

    fn nobody_is_linked(&self) -> bool {
        self.table.details().all(|(_, m)| m.link.is_none())
    }

    /// An attempt failed.
    pub(crate) fn connect_failed(&mut self, address: &PeerAddress, failure: ConnectFailure, now: Instant) {
        self.dials_dirty = true;
        let dialled = |(slot, m): &(Slot, &Member)| {
            let counts = self.table.state(*slot) != State::Left && m.link.is_none();
            counts && self.addresses_of(*slot).contains(address)
        };
        let here: Vec<Slot> = self.table.details().filter(dialled).map(|(slot, _)| slot).collect();
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
        for slot in here {
            let Some(member) = self.table.get_mut(slot) else { continue };
            if failure == ConnectFailure::Refused {
                let counts =
                    !member.replica_waits && member.lost_via.as_deref().is_none_or(|via| via == address);
                match member.refused.as_deref_mut() {
                    _ if !counts => continue,
                    Some((by, times)) if by == address => *times = times.saturating_add(1),
                    Some(_) => {}
                    None => member.refused = Some(Box::new((address.clone(), 1))),
                }
                self.refused_dial(slot, now);
            } else {
                if member.refused.as_deref().is_some_and(|(by, _)| by == address) {
                    member.refused = None;
                }
                match failure {
                    ConnectFailure::Rejected(CloseCode::NameInUse) => {
                        self.refused_name(slot, self.epoch, now);
                    }
                    ConnectFailure::Rejected(CloseCode::Standby) => {
                        member.refused = None;
                        if !std::mem::replace(&mut member.replica_waits, true) {
                            self.changed(slot);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
