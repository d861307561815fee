//! Two processes with one name: the one that is linked and answers keeps it (docs/decisions/0010).

use flagship_types::{Instant, MemberName, PeerAddress};

use crate::config::{MAX_LINKS_PER_PEER, QUERY_EXTRA, STUBBORN_REFUSALS};
use crate::links::Link;
use crate::{CloseCode, LinkId, Membership, PeerHello, Record};

/// What a stream waits for whose name another process has.
#[derive(Debug)]
pub(crate) struct Contest {
    /// The other one has proven by then that it lives, or this one takes its place.
    pub(crate) until: Instant,
    /// The newest that this one said of itself meanwhile; read when it takes the place.
    pub(crate) record: Option<Record>,
}

impl Membership {
    /// A Hello with another epoch than that of the process that is linked: asks that one first. If it answers it
    /// keeps the name, as a second process must not be able to evict one that runs. It has until its beats are
    /// late, and a round trip at least: one lost segment must not cost it its name. A process that was killed ends
    /// its stream long before, which ends the contest.
    pub(crate) fn contest(
        &mut self,
        id: LinkId,
        old: LinkId,
        hello: &PeerHello,
        dialled: Option<PeerAddress>,
        now: Instant,
    ) {
        let name = &hello.member;
        if self.links_of(name) >= MAX_LINKS_PER_PEER
            && let Err(code) = self.make_room(old, hello)
        {
            return self.disconnect(id, code);
        }
        let h = self.config.beat_interval;
        let asked =
            self.members.get(name).map(|m| m.late_at(h).max(now + m.freshness.rtt() * 2 + QUERY_EXTRA));
        let until = asked.unwrap_or(now);
        let mut link = Link::new(hello, self.epoch, dialled, now);
        link.contested = Some(Contest { until, record: None });
        self.links.insert(id, link);
        self.ping(old, now);
    }

    /// Closes the second stream of a name for a third: a spare, or a process that waits and that started before
    /// this one. A process that is killed and started twice in a moment would else be refused for good.
    fn make_room(&mut self, in_use: LinkId, hello: &PeerHello) -> Result<(), CloseCode> {
        let second = self.links.iter().find(|(id, link)| link.peer == hello.member && **id != in_use);
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
    pub(crate) fn refuse_contested(&mut self, name: &MemberName, proof: Instant, now: Instant) {
        let contested = self.links.iter().find(|(_, l)| l.peer == *name && l.contested.is_some());
        let Some((&id, link)) = contested else { return };
        if proof < link.up_at {
            return;
        }
        let epoch = link.epoch;
        let Some(member) = self.members.get_mut(name) else { return };
        if epoch < member.epoch {
            let times = match member.refused_epoch {
                Some((refused, times)) if refused == epoch => times + 1,
                _ => 1,
            };
            member.refused_epoch = Some((epoch, times));
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
        let Some(link) = self.links.get_mut(&id) else { return };
        let record = link.contested.take().and_then(|contest| contest.record);
        let (name, epoch) = (link.peer.clone(), link.epoch);
        if let Some(old) = self.link_to(&name).filter(|old| *old != id) {
            self.disconnect(old, CloseCode::NameInUse);
            self.drop_link(old);
        }
        if self.members.get(&name).is_some_and(|member| epoch > member.epoch) {
            self.enter_epoch(&name, epoch, now);
        }
        if let Some(member) = self.members.get_mut(&name) {
            member.refused_epoch = None;
        }
        self.adopt(id, None, now);
        if let Some(record) = record {
            self.record(id, record, now);
        }
    }
}
