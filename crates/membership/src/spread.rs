//! Spreading: what is new goes once over every link, and views that differ are compared (rule 10).

use flagship_types::Instant;

use crate::config::{
    BATCH_INTERVAL, DIGEST_BITS, DIGEST_INTERVAL, DIGEST_INTERVAL_CAP, MAX_DELTA, MAX_DELTA_BYTES,
    QUERY_EXTRA,
};
use crate::links::Link;
use crate::members::is_said;
use crate::rings::Slot;
use crate::table::{SELF, bucket};
use crate::{Accusation, LinkId, Membership, Message, PlantedBug, Record, SelfState, Signed, State};

/// Records that wait to be passed on.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// One per member, the newest, and the links that it came on: who told it needs not be told.
    records: std::collections::BTreeMap<Slot, (Vec<LinkId>, Signed<Record>)>,
    pub(crate) due: Option<Instant>,
}

/// Statements for one message.
#[derive(Debug, Default)]
struct Delta {
    records: Vec<Signed<Record>>,
    accusations: Vec<Signed<Accusation>>,
    bytes: usize,
}

impl Delta {
    fn len(&self) -> usize {
        self.records.len() + self.accusations.len()
    }
}

impl Batch {
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.records.remove(&slot);
    }
}

impl Membership {
    /// Sends to every peer in use.
    pub(crate) fn send_all(&mut self, message: &Message) {
        self.send_on(|_, _| true, message);
    }

    fn send_on(&mut self, which: impl Fn(LinkId, &Link) -> bool, message: &Message) {
        let mut links: Vec<LinkId> =
            self.links_in_use().filter(|(id, link)| which(*id, link)).map(|(id, _)| id).collect();
        if self.has(PlantedBug::HashOrder) {
            #[allow(clippy::disallowed_types, reason = "the disorder is the bug")]
            let random: std::collections::HashSet<LinkId> = links.into_iter().collect();
            links = random.into_iter().collect();
        }
        for link in links {
            self.send(link, message.clone());
        }
    }

    fn links_in_use(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let in_use =
            |id: LinkId, link: &Link| self.table.get(link.peer).is_some_and(|member| member.link == Some(id));
        self.links.iter().map(|(id, link)| (*id, link.as_ref())).filter(move |(id, link)| in_use(*id, link))
    }

    /// Passes on what another member said of itself: at once if somebody may wait for it, else with the next batch.
    pub(crate) fn forward_record(&mut self, slot: Slot, from: LinkId, urgent: bool, now: Instant) {
        let record = self.table.record(slot).clone();
        if record.proof().is_none() || self.has(PlantedBug::DigestIgnored) {
            return;
        }
        if urgent || record.status != SelfState::Alive {
            let onward = |id, link: &Link| id != from && link.peer != slot && link.speaks_rings();
            return self.send_on(onward, &Message::Record(record));
        }
        self.batch.records.insert(slot, (vec![from], record));
        if self.batch.due.is_none() {
            // Neighbours that all were told at the same time do not tell each other at the same time.
            let pause = BATCH_INTERVAL / 2 + self.dials.draw(BATCH_INTERVAL);
            self.batch.due = Some(now + pause);
        }
    }

    /// Another one told what is known already: it needs not be told.
    pub(crate) fn told_again(&mut self, slot: Slot, from: LinkId) {
        if let Some((tellers, _)) = self.batch.records.get_mut(&slot)
            && !tellers.contains(&from)
        {
            tellers.push(from);
        }
    }

    /// The batch's time has come.
    pub(crate) fn flush_batch(&mut self) {
        self.batch.due = None;
        let records = std::mem::take(&mut self.batch.records);
        let links: Vec<(LinkId, Slot)> = self
            .links_in_use()
            .filter(|(_, link)| link.speaks_rings())
            .map(|(id, link)| (id, link.peer))
            .collect();
        for (id, peer) in links {
            let news = records.iter().filter(|(slot, (tellers, _))| **slot != peer && !tellers.contains(&id));
            let news = news.map(|(_, (_, record))| record.clone()).collect();
            self.send_delta(id, news, Vec::new());
        }
    }

    /// Passes on an accusation; an unsigned one is its accuser's own affair.
    pub(crate) fn forward_accusation(&mut self, statement: &Signed<Accusation>, from: Option<LinkId>) {
        if statement.proof().is_none() && statement.accuser != self.config.name {
            return;
        }
        let own = statement.accuser == self.config.name;
        let onward = |id, link: &Link| Some(id) != from && (own || link.speaks_rings());
        self.send_on(onward, &Message::Accuse(statement.clone()));
    }

    /// Sends statements in as many messages as they need: records first.
    fn send_delta(&mut self, id: LinkId, records: Vec<Signed<Record>>, accusations: Vec<Signed<Accusation>>) {
        let mut delta = Delta::default();
        for record in records {
            self.make_room_in(&mut delta, id, record.size_hint());
            delta.records.push(record);
        }
        for accusation in accusations {
            self.make_room_in(&mut delta, id, accusation.size_hint());
            delta.accusations.push(accusation);
        }
        self.send_if_any(delta, id);
    }

    /// Sends what was gathered if a statement of that size would be too much for one message.
    fn make_room_in(&mut self, delta: &mut Delta, id: LinkId, bytes: usize) {
        if delta.len() >= MAX_DELTA || delta.bytes + bytes > MAX_DELTA_BYTES {
            self.send_if_any(std::mem::take(delta), id);
        }
        delta.bytes += bytes;
    }

    fn send_if_any(&mut self, delta: Delta, id: LinkId) {
        if delta.len() > 0 {
            let Delta { records, accusations, bytes: _ } = delta;
            self.send(id, Message::Delta { records, accusations });
        }
    }

    /// A beat told the peer's view hash. News may be on its way; what differs for longer is looked for.
    pub(crate) fn compare_views(&mut self, id: LinkId, view_hash: u32, now: Instant) {
        let same = view_hash == self.table.view_hash();
        let Some(link) = self.links.get(&id).filter(|link| link.speaks_rings()) else { return };
        if same != link.differs_since.is_none() {
            if let Some(link) = self.links.get_mut(&id) {
                link.differs_since = (!same).then_some(now);
                if let Some(digests) = &mut link.digests {
                    digests.pause = DIGEST_INTERVAL;
                }
            }
            return;
        }
        let Some(since) = link.differs_since else { return };
        if now.since(since) > self.typical_rtt() * 2 + BATCH_INTERVAL + QUERY_EXTRA {
            self.send_digest(id, now);
        }
    }

    /// Sends the hashes of the view's buckets, unless that was done a moment ago.
    pub(crate) fn send_digest(&mut self, id: LinkId, now: Instant) {
        let ignored = self.has(PlantedBug::DigestIgnored);
        let Some(link) = self.links.get_mut(&id).filter(|link| link.speaks_rings() && !ignored) else {
            return;
        };
        let digests = link.digests.get_or_insert_default();
        if digests.sent_at.is_some_and(|at| now < at + digests.pause) {
            return;
        }
        digests.sent_at = Some(now);
        digests.pause = (digests.pause * 2).min(DIGEST_INTERVAL_CAP);
        let members = u32::try_from(self.table.counted() / 4).unwrap_or(u32::MAX).max(1);
        let bits = u8::try_from(members.ilog2()).unwrap_or(u8::MAX);
        let bits = bits.clamp(*DIGEST_BITS.start(), *DIGEST_BITS.end());
        digests.waits = Some(bits);
        let buckets = (0_u16..).zip(self.table.buckets(bits)).collect();
        self.stats.digests_sent += 1;
        self.send(id, Message::Digest { bits, answer: false, buckets });
    }

    /// A peer's hashes: what differs goes to it, and its own half is asked for.
    pub(crate) fn digest(
        &mut self,
        id: LinkId,
        bits: u8,
        answer: bool,
        buckets: &[(u16, u32)],
        now: Instant,
    ) {
        let size = 1_usize.checked_shl(u32::from(bits)).unwrap_or(usize::MAX);
        let sound = DIGEST_BITS.contains(&bits) && buckets.len() <= size;
        let Some(link) = self.links.get_mut(&id).filter(|_| sound) else {
            self.stats.frames_ignored += 1;
            return;
        };
        let digests = link.digests.get_or_insert_default();
        // A digest costs the most of all: one is worked out a moment, and one answer to each that we sent.
        let expected = match answer {
            true => digests.waits.take() == Some(bits),
            false => digests.seen_at.is_none_or(|at| now >= at + DIGEST_INTERVAL / 2),
        };
        if !expected {
            self.stats.frames_ignored += 1;
            return;
        }
        if !answer {
            digests.seen_at = Some(now);
        }
        let peer = link.peer;
        let own = self.table.buckets(bits);
        let differ: Vec<u16> = buckets
            .iter()
            .filter(|(number, hash)| own.get(usize::from(*number)).is_some_and(|own| own != hash))
            .map(|(number, _)| *number)
            .collect();
        if differ.is_empty() {
            return;
        }
        if !answer {
            let buckets = differ.iter().map(|number| (*number, own[usize::from(*number)])).collect();
            self.send(id, Message::Digest { bits, answer: true, buckets });
        }
        self.send_buckets(id, peer, bits, &differ);
    }

    fn send_buckets(&mut self, id: LinkId, peer: Slot, bits: u8, differ: &[u16]) {
        let (mut records, mut accusations) = (Vec::new(), Vec::new());
        for slot in self.table.slots().filter(|slot| *slot != peer) {
            if differ.binary_search(&bucket(self.table.name(slot), bits)).is_err() {
                continue;
            }
            let record = self.table.record(slot);
            if is_said(record) && record.proof().is_some() && slot != SELF {
                records.push(record.clone());
            }
            if matches!(self.table.state(slot), State::Suspect | State::Down)
                && let Some(member) = self.table.get(slot)
            {
                let signed = member.accusers.values().map(|a| &a.statement).filter(|s| s.proof().is_some());
                accusations.extend(signed.cloned());
            }
        }
        let own = self.table.record(SELF);
        if own.proof().is_some() && differ.binary_search(&bucket(&own.member, bits)).is_ok() {
            records.push(own.clone());
        }
        self.send_delta(id, records, accusations);
    }
}
