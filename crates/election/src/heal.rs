//! The leader, and what happens when two of them meet after a partition.

use std::time::Duration;

use flagship_types::{Failback, FleetConfig, Health, Instant, MemberName, Rank, Role, Term};

use crate::core::Election;
use crate::io::{Directive, Event, Message, Presence, ResignReason, Vote};
use crate::outlook::Outlook;
use crate::peer::{Paced, Peer};
use crate::planted::PlantedBug;
use crate::stage::{Lead, Stage};

/// The lead is announced again to who does not show that it knows.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// How long a member that won waits until its lead is durable.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// Two leaders whose views differ for a moment would outbid each other: at most so often.
const RAISE_EVERY: Duration = Duration::from_millis(500);
/// A leader that meets a used-up higher term takes a fresh one, at most so often: a faulty peer may name many.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// How long an announcement is believed that the announcer's own metadata do not bear out.
const UNPROVEN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a leader is waited for that others follow, or that comes back itself: who lives dials at least every 5 s, and
/// announces itself within a second.
pub(crate) const MEETING_PATIENCE: Duration = Duration::from_secs(6);
/// Splits further apart than this have nothing to do with each other.
const RECURRENCE_WINDOW: Duration = Duration::from_secs(600);
/// One split is counted once, though it may take several steps to heal.
const SAME_HEAL: Duration = Duration::from_secs(3);
/// Splits remembered: 2^5 times the default silence floor and restart grace is past their limit of 60 s.
const MAX_HEALS: usize = 5;

/// How much a leader's copy of the payload is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PayloadCopy {
    NotReady,
    /// Ready, but nobody could repair it.
    Unattended,
    /// Ready, and its API server answers.
    Good,
}

impl From<Health> for PayloadCopy {
    fn from(health: Health) -> Self {
        match (health.payload_ready, health.api) {
            (false, _) => Self::NotReady,
            (true, false) => Self::Unattended,
            (true, true) => Self::Good,
        }
    }
}

/// One of two leaders that meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender<'a> {
    pub(crate) interrupted: bool,
    /// Its payload.
    pub(crate) copy: PayloadCopy,
    pub(crate) rank: Rank,
    pub(crate) term: Term,
    pub(crate) name: &'a MemberName,
}

/// Whether `a` goes on leading and `b` stops. Both sides compute the same.
pub(crate) fn wins(a: &Contender<'_>, b: &Contender<'_>, failback: Failback) -> bool {
    // Who paused or restarted gives way to any higher term.
    let gives_way = |x: &Contender<'_>, y: &Contender<'_>| x.interrupted && y.term > x.term;
    if gives_way(a, b) || gives_way(b, a) {
        return gives_way(b, a);
    }
    let by_copy = a.copy.cmp(&b.copy);
    let by_choice = match failback {
        Failback::Automatic => a.rank.cmp(&b.rank),
        Failback::Manual => a.term.cmp(&b.term),
    };
    by_copy.then(by_choice).then(b.name.cmp(a.name)).is_gt()
}

fn contender(peer: &Peer) -> Option<Contender<'_>> {
    let metadata = peer.metadata()?;
    let term = peer.announced.as_ref().map_or(metadata.term, |(term, _)| *term);
    let (interrupted, copy) = (metadata.interrupted, metadata.health.into());
    Some(Contender { interrupted, copy, rank: metadata.rank, term, name: peer.name() })
}

/// For a leader: somebody else who leads, too.
pub(crate) fn is_rival(peer: &Peer) -> bool {
    peer.is_linked() && peer.announced.is_some() && says_it_leads(peer)
}

/// By its metadata; it may be linked to others only.
pub(crate) fn says_it_leads(peer: &Peer) -> bool {
    peer.is_present() && peer.metadata().is_some_and(|m| m.role == Role::Leader)
}

impl Election {
    pub(crate) fn step_leader(&mut self, lead: Lead) {
        if let Some(reason) = self.retired {
            return match lead.waits_until {
                // Nothing runs under it, and what those before left may: nothing is released.
                Some(_) => self.abandon(),
                None => self.stop_payload(lead.term, reason, None),
            };
        }
        if !self.keep_lease(lead.raise.map_or(lead.term, |(term, _)| term)) {
            return self.lose_lease(&lead);
        }
        if !self.is_durable(lead.after) {
            return self.await_record(lead);
        }
        if let Some(until) = lead.waits_until {
            return self.await_predecessors(lead, until);
        }
        if !lead.begun {
            // Storing the lead may have taken long: nothing is started beside somebody who leads by now.
            if self.is_idle(&lead) && matches!(self.outlook(None), Outlook::Held(_)) {
                return self.abandon();
            }
            let begun = Lead { begun: true, ..lead };
            return self.update_lead(begun);
        }
        let raised = lead.raise.filter(|(term, after)| {
            self.is_durable(*after) && (self.quorum().is_none() || self.is_promised(*term))
        });
        if let Some((term, _)) = raised {
            return self.finish_raise(Lead { term, raise: None, resumed: true, unmet: None, ..lead });
        }
        self.ask_unconfirmed(lead.term);
        if lead.hold.is_some() && !self.hold_is_over(&lead) {
            return;
        }
        if lead.hold.is_some() {
            return self.update_lead(Lead { hold: None, resumed: true, ..lead });
        }
        if self.meet_rivals(lead) {
            return;
        }
        self.announce(lead.term);
        self.step_leader_gate(&lead);
        self.step_uncandidate();
    }

    /// Quorum: the payload of those before may run yet, or a majority has yet to renew the lease. Only then the lead is
    /// held, so that a process that restarts before cannot go on with what it never began.
    fn await_predecessors(&mut self, lead: Lead, until: Instant) {
        if until > self.now {
            return self.wake(until);
        }
        // The fleet may have left Quorum meanwhile: then there is no lease to wait for.
        if self.quorum().is_some() && self.lease_until().is_none() {
            return;
        }
        self.record.held = Some(lead.term);
        let (after, since) = (self.persist(), self.now);
        self.update_lead(Lead { after, since, waits_until: None, ..lead });
    }

    /// The lead is not durable yet, so nothing was done under it: if that takes too long, others may have it.
    fn await_record(&mut self, lead: Lead) {
        let until = lead.since + RECORD_PATIENCE;
        if self.is_idle(&lead) && self.now >= until {
            self.abandon();
        } else {
            self.wake(until);
        }
    }

    /// Won, and no object was touched yet: neither under this lead nor, after a stop that was called off, before.
    pub(crate) fn is_idle(&self, lead: &Lead) -> bool {
        !lead.begun && !lead.resumed && self.directive == Directive::Absent
    }

    /// The lead was never announced and nothing applied under it, so there is nothing to release.
    pub(crate) fn abandon(&mut self) {
        self.record.held = None;
        self.record.leader = None;
        self.persist();
        self.leader = None;
        self.step_back();
    }

    fn update_lead(&mut self, lead: Lead) {
        self.stage = Stage::Leader(lead);
        self.moves += 1;
    }

    fn finish_raise(&mut self, mut lead: Lead) {
        self.follow_self(lead.term);
        if self.record.held != Some(lead.term) {
            self.record.held = Some(lead.term);
            lead.after = self.persist();
        }
        self.update_lead(lead);
        for peer in self.peers.values_mut() {
            peer.hasten(Paced::Announce);
        }
        self.event(Event::LeaderChanged { leader: Some(self.me.clone()), term: lead.term });
    }

    /// Leads, its record is durable, and nothing casts doubt on it.
    pub(crate) fn is_unhindered(&self, lead: &Lead) -> bool {
        lead.begun && self.is_durable(lead.after) && lead.hold.is_none() && self.record.term <= lead.term
    }

    /// Compares itself with every other leader it is linked to. Returns whether it stopped leading.
    fn meet_rivals(&mut self, lead: Lead) -> bool {
        let rivals = self.names(is_rival);
        for rival in &rivals {
            if self.meet(lead, rival) {
                return true;
            }
        }
        if rivals.is_empty() && self.record.term > lead.term {
            self.outgrow(lead);
        } else {
            self.wait_for_unmet(None);
        }
        false
    }

    /// A higher term is known and nobody leads under it: a claim came to nothing, or its leader is gone.
    fn outgrow(&mut self, lead: Lead) {
        let any = |what: &dyn Fn(&Peer) -> bool| self.peers.values().any(|p| p.is_present() && what(p));
        if any(&Peer::says_it_holds) {
            return self.wait_for_unmet(None);
        }
        let Some((term, patience)) = self.patience_with_unmet(lead.term) else {
            self.wait_for_unmet(None);
            return self.raise(lead, REFRESH_EVERY);
        };
        // An older term than the one waited for is told by who lags behind.
        let (term, since) = lead.unmet.filter(|(known, _)| *known >= term).unwrap_or((term, self.now));
        self.wait_for_unmet(Some((term, since)));
        if self.now < since + patience {
            return self.wake(since + patience);
        }
        self.raise(lead, REFRESH_EVERY);
    }

    /// Each time that somebody is waited for has its own beginning: by that of an earlier one the patience would be over
    /// before it begins.
    fn wait_for_unmet(&mut self, unmet: Option<(Term, Instant)>) {
        if let Stage::Leader(lead) = &mut self.stage {
            lead.unmet = unmet;
        }
    }

    /// Somebody may lead under a higher term than this leader's: the highest such term, and how long he is waited for.
    /// Raised at once, the older lead would pass for the newer one.
    fn patience_with_unmet(&self, own: Term) -> Option<(Term, Duration)> {
        let followed = |p: &Peer| {
            let newer = p.metadata().filter(|metadata| metadata.term > own)?;
            newer.leader.as_ref().is_some_and(|leader| *leader != self.me).then_some(newer.term)
        };
        let announced = |p: &Peer| p.announced.as_ref().map(|(term, _)| *term);
        let told =
            |p: &Peer| announced(p).max(p.metadata().map(|metadata| metadata.term)).unwrap_or_default();
        let holds = |p: &Peer| announced(p).is_some_and(|term| term > p.released) || p.says_it_holds();
        // After a partition what a member says may arrive before the news that it lives, and through others first.
        let heard_of = |p: &Peer| match p.view.presence {
            Presence::Present => followed(p),
            Presence::Down => followed(p).or_else(|| (p.view.linked && holds(p)).then(|| told(p))),
            Presence::Away | Presence::Left => None,
        };
        // Its metadata that bear an announcement out may be on their way.
        let unproven = |p: &Peer| (p.is_present() && p.holds_lead(None)).then(|| told(p));
        if let Some(term) = self.peers.values().filter_map(heard_of).max() {
            return Some((term, MEETING_PATIENCE));
        }
        self.peers.values().filter_map(unproven).max().map(|term| (term, UNPROVEN_PATIENCE))
    }

    fn meet(&mut self, lead: Lead, rival: &MemberName) -> bool {
        let Some((term, config)) = self.peers.get(rival).and_then(|p| p.announced.clone()) else {
            return false;
        };
        if self.split_seen.as_ref().is_none_or(|(name, _)| name != rival) {
            self.split_seen = Some((rival.clone(), term));
            self.event(Event::SplitSeen { other: rival.clone(), term });
        }
        if self.quorum().is_some() {
            // A majority gave the higher term away, and waited for the lower one to stop.
            let is_over = term > lead.term;
            if is_over {
                self.supersede(lead.term, &Vote { term, candidate: rival.clone() });
            }
            return is_over;
        }
        if self.wins_against(&lead, rival, &config) {
            if self.record.term > lead.term || term >= lead.term {
                self.raise(lead, RAISE_EVERY);
            } else {
                self.note_heal();
            }
            return false;
        }
        // Losing is not enough: the winner has to have claimed its victory, so that never both stop.
        if term <= lead.term || self.has(PlantedBug::LoserGoesOn) {
            return false;
        }
        if !self.is_interrupted() {
            self.note_heal();
        }
        self.supersede(lead.term, &Vote { term, candidate: rival.clone() });
        true
    }

    fn wins_against(&self, lead: &Lead, rival: &MemberName, config: &FleetConfig) -> bool {
        let Some(other) = self.peers.get(rival).and_then(contender) else {
            return true;
        };
        let mut own = self.own_contender(lead.term);
        let mut other = other;
        if self.has(PlantedBug::WorseCopyWins) {
            std::mem::swap(&mut own.copy, &mut other.copy);
        }
        wins(&own, &other, self.heal_failback(rival, config))
    }

    fn own_contender(&self, term: Term) -> Contender<'_> {
        let (interrupted, copy) = (self.is_interrupted(), self.health.into());
        Contender { interrupted, copy, rank: self.spec.rank, term, name: &self.me }
    }

    /// Whether that peer, whose payload was found running too, is to keep it rather than this member.
    pub(crate) fn found_is_worse(&self, found: Term, peer: &Peer) -> bool {
        let also_found = peer.metadata().is_some_and(|m| m.leader.as_ref() == Some(peer.name()));
        let loses = |other| wins(&other, &self.own_contender(found), self.fleet_config().failback);
        also_found && contender(peer).is_some_and(loses)
    }

    /// The newer configuration decides; of two with one version that of the smaller name.
    fn heal_failback(&self, rival: &MemberName, other: &FleetConfig) -> Failback {
        let own = self.fleet_config();
        if self.has(PlantedBug::OwnHealRule) {
            return own.failback;
        }
        let takes_other = other.version > own.version || (other.version == own.version && *rival < self.me);
        if takes_other { other.failback } else { own.failback }
    }

    /// Takes a fresh term without disturbing the payload.
    fn raise(&mut self, lead: Lead, every: Duration) {
        if lead.raise.is_some() {
            return;
        }
        if let Some(next) = lead.raised_at.map(|at| at + every).filter(|next| *next > self.now) {
            return self.wake(next);
        }
        let term = self.record.term.next();
        self.record.term = term;
        // In Quorum it is held once a majority has promised it: `finish_raise`.
        if self.quorum().is_none() {
            self.record.held = Some(term);
        }
        self.record.vote = Some(Vote { term, candidate: self.me.clone() });
        let after = self.persist();
        let (raise, raised_at) = (Some((term, after)), Some(self.now));
        self.update_lead(Lead { raise, raised_at, unmet: None, ..lead });
    }

    /// Tells everybody who does not show that it knows.
    fn announce(&mut self, term: Term) {
        // What waits to be durable is not announced.
        let told = |member: &MemberName| match self.leaving() {
            Some(_) => self.config_told_to(member),
            None => &self.stored_config,
        };
        let me = &self.me;
        let knows = |p: &Peer| {
            let metadata = p.metadata().filter(|m| m.leader.as_ref() == Some(me) && m.term == term);
            metadata.is_some_and(|m| m.config == told(p.name()).version)
        };
        let unaware = self.names(|p| p.is_linked() && !knows(p));
        let unaware: Vec<_> = unaware.into_iter().map(|peer| (told(&peer).clone(), peer)).collect();
        for (config, peer) in unaware {
            self.send_paced(&peer, Paced::Announce, ANNOUNCE_EVERY, Message::Announce { term, config });
        }
    }

    /// Gives way to a leader, or a grant, that stands higher.
    pub(crate) fn supersede(&mut self, held: Term, by: &Vote) {
        self.stop_payload(held, ResignReason::Superseded, None);
        let leads = self
            .peers
            .get(&by.candidate)
            .is_some_and(|p| p.announced.as_ref().is_some_and(|(term, _)| *term == by.term));
        if leads {
            self.follow(&by.candidate, by.term);
        }
    }

    fn note_heal(&mut self) {
        let now = self.now;
        let is_new = self.heals.back().is_none_or(|last| now.since(*last) >= SAME_HEAL);
        if is_new {
            self.stats.heals += 1;
            self.heals.push_back(now);
            if self.heals.len() > MAX_HEALS {
                self.heals.pop_front();
            }
        } else if let Some(last) = self.heals.back_mut() {
            *last = now;
        }
    }

    /// By how much to stretch the silence floor and the restart grace, as splits recur: 1, 2, 4 …
    pub fn caution(&self) -> u32 {
        let recent = self.heals.iter().filter(|at| self.now.since(**at) < RECURRENCE_WINDOW).count();
        1 << recent.min(MAX_HEALS)
    }

    /// Caution ends by itself.
    pub(crate) fn wake_for_caution(&mut self) {
        let next: Option<Instant> =
            self.heals.iter().map(|at| *at + RECURRENCE_WINDOW).filter(|at| *at > self.now).min();
        if let Some(next) = next {
            self.wake(next);
        }
    }

    /// Whether any higher term supersedes this leader.
    pub(crate) fn is_interrupted(&self) -> bool {
        match &self.stage {
            Stage::Joining(joining) => joining.held.is_some(),
            Stage::Leader(lead) if lead.hold.is_some() => true,
            Stage::Leader(_) => {
                self.peers.values().any(|p| p.unconfirmed && p.view.presence != Presence::Left)
            }
            Stage::Candidate(campaign) => campaign.found.is_some(),
            Stage::Standby | Stage::Stopping(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_two_leaders_wins() {
        let names = [MemberName::new("a").unwrap(), MemberName::new("b").unwrap()];
        let sides = |name: usize| {
            let names = &names;
            (0..54u64).map(move |code| Contender {
                interrupted: code % 2 == 1,
                copy: [PayloadCopy::NotReady, PayloadCopy::Unattended, PayloadCopy::Good]
                    [usize::try_from(code / 2 % 3).unwrap()],
                rank: Rank(i64::try_from(code / 6 % 3).unwrap()),
                term: Term(1 + code / 18 % 3),
                name: &names[name],
            })
        };
        for failback in [Failback::Automatic, Failback::Manual] {
            for a in sides(0) {
                for b in sides(1) {
                    assert_ne!(wins(&a, &b, failback), wins(&b, &a, failback), "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn a_ready_payload_beats_rank_and_rank_beats_name() {
        let (x, y) = (MemberName::new("x").unwrap(), MemberName::new("y").unwrap());
        let of = |name, ready, rank, term| {
            let copy = if ready { PayloadCopy::Good } else { PayloadCopy::NotReady };
            Contender { interrupted: false, copy, rank: Rank(rank), term: Term(term), name }
        };
        assert!(wins(&of(&y, true, 1, 1), &of(&x, false, 9, 9), Failback::Automatic));
        assert!(wins(&of(&y, true, 2, 1), &of(&x, true, 1, 9), Failback::Automatic));
        assert!(wins(&of(&y, true, 1, 9), &of(&x, true, 2, 1), Failback::Manual));
        assert!(wins(&of(&x, true, 1, 5), &of(&y, true, 1, 5), Failback::Automatic));
        let paused = Contender { interrupted: true, ..of(&x, true, 9, 5) };
        assert!(wins(&of(&y, false, 1, 6), &paused, Failback::Automatic));
        assert!(wins(&paused, &of(&y, true, 1, 4), Failback::Automatic));
    }
}
