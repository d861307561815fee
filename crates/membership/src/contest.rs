//! Two processes with one name: the one that is linked and answers keeps it (docs/decisions/0010).

use flagship_types::{Instant, PeerAddress};

use crate::config::{MAX_LINKS_PER_PEER, QUERY_EXTRA, STUBBORN_REFUSALS};
use crate::links::Link;
use crate::rings::Slot;
use crate::{CloseCode, LinkId, Membership, PeerHello, PlantedBug, Record, Signed};

/// What a stream waits for whose name another process has.
#[derive(Debug)]
pub(crate) struct Contest {
    /// The other one has proven by then that it lives, or this one takes its place.
    pub(crate) until: Instant,
    /// The newest that this one said of itself meanwhile; read when it takes the place.
    pub(crate) record: Option<Signed<Record>>,
}

impl Membership {
    /// A Hello with another epoch than that of the process that is linked: asks that one first. If it answers it
    /// keeps the name, as a second process must not be able to evict one that runs. It has until its beats are
    /// late, and a round trip at least: one lost segment must not cost it its name. A process that was killed ends
    /// its stream long before, which ends the contest.
    pub(crate) fn contest(
        &mut self,
        id: LinkId,
        slot: Slot,
        old: LinkId,
        hello: &PeerHello,
        dialled: Option<PeerAddress>,
        now: Instant,
    ) {
        if self.links_of(slot) >= MAX_LINKS_PER_PEER
            && let Err(code) = self.make_room(slot, old, hello)
        {
            return self.disconnect(id, code);
        }
        let h = self.config.beat_interval;
        let watched = self.table.get(slot).filter(|m| m.is_watched()).map(|m| m.late_at(h));
        let rtt = self.table.get(slot).map_or(crate::config::RTT_PRIOR, |m| m.freshness.rtt());
        let until = (now + rtt * 2 + QUERY_EXTRA).max(watched.unwrap_or(now));
        let mut link = Link::new(slot, hello, self.epoch, dialled, now);
        link.contested = Some(Contest { until, record: None });
        self.links.insert(id, Box::new(link));
        self.link_mut(id);
        self.contests += 1;
        if self.has(PlantedBug::NewcomerTakesName) {
            return self.win_contest(id, now);
        }
        self.ping(old, now);
    }

    /// Closes the second stream of a name for a third: a spare, or a process that waits and that started before
    /// this one. A process that is killed and started twice in a moment would else be refused for good.
    fn make_room(&mut self, slot: Slot, in_use: LinkId, hello: &PeerHello) -> Result<(), CloseCode> {
        let second = self.links.iter().find(|(id, link)| link.peer == slot && **id != in_use);
        let Some((&second, link)) = second else { return Ok(()) };
        let code = match &link.contested {
            Some(_) if link.epoch > hello.epoch => return Err(CloseCode::NameInUse),
            Some(_) if link.epoch == hello.epoch => return Err(CloseCode::Duplicate),
            Some(_) => CloseCode::NameInUse,
            None => CloseCode::Duplicate,
        };
        self.disconnect(second, code);
        self.drop_link(second);
        Ok(())
    }

    /// The other process proved that it lives: the contested stream is refused.
    pub(crate) fn refuse_contested(&mut self, slot: Slot, proof: Instant, now: Instant) {
        let contested = self.links.iter().find(|(_, l)| l.peer == slot && l.contested.is_some());
        let Some((&id, link)) = contested else { return };
        if proof + crate::freshness::ROUNDING < link.up_at {
            return;
        }
        let epoch = link.epoch;
        let known = self.table.record(slot).epoch;
        let Some(member) = self.table.get_mut(slot) else { return };
        if epoch < known {
            let times = match member.refused_epoch.as_deref() {
                Some((refused, times)) if *refused == epoch => *times + 1,
                _ => 1,
            };
            member.refused_epoch = Some(Box::new((epoch, times)));
            if times >= STUBBORN_REFUSALS {
                return self.win_contest(id, now);
            }
        }
        self.disconnect(id, CloseCode::NameInUse);
        self.drop_link(id);
    }

    /// The other process did not answer, or its stream ended: this one takes its place. If its epoch is the older
    /// one, it is told the known one and goes on from there.
    pub(crate) fn win_contest(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.link_mut(id) else { return };
        let record = link.contested.take().and_then(|contest| contest.record);
        let (slot, epoch) = (link.peer, link.epoch);
        self.contests = self.contests.saturating_sub(1);
        if let Some(old) = self.table.get(slot).and_then(|m| m.link).filter(|old| *old != id) {
            self.disconnect(old, CloseCode::NameInUse);
            self.drop_link(old);
        }
        if epoch > self.table.record(slot).epoch {
            self.enter_epoch(slot, epoch, now);
        }
        if let Some(member) = self.table.get_mut(slot) {
            member.refused_epoch = None;
        }
        self.adopt(id, None, None, now);
        if let Some(record) = record {
            self.record(id, record, now);
        }
    }
}
