//! Whether the lead is free, as seen from here. Candidates and voters judge by the same rules.

use std::time::Duration;

use flagship_types::{FleetConfig, Instant, MemberName, Rank, Term};

use crate::core::Election;
use crate::io::{Presence, ResignReason};
use crate::peer::Peer;
use crate::planted::PlantedBug;

/// The longest that repeated splits may stretch the restart grace.
const MAX_GRACE: Duration = Duration::from_secs(60);

/// How the lead looks from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// Somebody holds it, or may.
    Held(MemberName),
    /// Its holder's process ended and has until then to come back.
    Grace(Instant),
    /// It was released to this one, who has until then to announce itself.
    Reserved(MemberName, Instant),
    /// Free.
    Vacant,
}

/// Since when the lead is free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vacancy {
    /// Its holder is gone since then.
    pub(crate) since: Instant,
    /// Nobody has to wait any more since then.
    pub(crate) claimable: Option<Instant>,
    /// Its holder failed; else it was released, or there never was one.
    pub(crate) failover: bool,
    /// Keeps members with the same position apart.
    pub(crate) jitter: Duration,
}

/// A released lead waits for its successor.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) term: Term,
    pub(crate) successor: Option<MemberName>,
    /// Why it was released.
    pub(crate) reason: ResignReason,
    pub(crate) until: Instant,
}

/// Orders candidates: the better one is greater. Healthy before unhealthy, then rank, then the smaller name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Preference<'a> {
    healthy: bool,
    rank: Rank,
    name: std::cmp::Reverse<&'a MemberName>,
}

impl Election {
    /// How the lead looks; `claimant` asks for it, so its own hold on it does not count.
    pub(crate) fn outlook(&self, claimant: Option<&MemberName>) -> Outlook {
        if self.has(PlantedBug::LeaderIgnored) {
            return Outlook::Vacant;
        }
        let others = || self.peers.values().filter(|p| Some(p.name()) != claimant);
        let reckoned = |p: &&Peer| matches!(p.view.presence, Presence::Present | Presence::Away);
        if let Some(holder) = others().filter(reckoned).find(|p| p.holds_lead(self.followed_term(p))) {
            return Outlook::Held(holder.name().clone());
        }
        let grace = self.restart_grace();
        let returns =
            others().filter(|p| p.view.presence == Presence::Down && p.holds_lead(self.followed_term(p)));
        let ends = |exited| if self.has(PlantedBug::GraceNeverEnds) { self.now } else { exited } + grace;
        let until = returns.filter_map(|p| Some(ends(p.exited_at?))).filter(|until| *until > self.now).max();
        if let Some(until) = until {
            return Outlook::Grace(until);
        }
        let for_ever = self.has(PlantedBug::ReservedForEver);
        let reserved = self.reservation.as_ref().filter(|r| r.until > self.now || for_ever);
        if let Some((successor, until)) = reserved.and_then(|r| Some((r.successor.as_ref()?, r.until))) {
            let is_other = *successor != self.me && Some(successor) != claimant;
            if is_other && (for_ever || self.peers.get(successor).is_some_and(Peer::is_present)) {
                return Outlook::Reserved(successor.clone(), until);
            }
        }
        Outlook::Vacant
    }

    /// Under which term this member follows that peer, if it does.
    pub(crate) fn followed_term(&self, peer: &Peer) -> Option<Term> {
        (self.leader.as_ref() == Some(peer.name())).then_some(self.leader_term)
    }

    /// The restart grace in force: longer while splits recur.
    pub fn restart_grace(&self) -> Duration {
        let grace = self.fleet_config().restart_grace;
        grace.saturating_mul(self.caution()).min(MAX_GRACE.max(grace))
    }

    pub(crate) fn fleet_config(&self) -> &FleetConfig {
        &self.record.config
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.health.is_able() && !self.has_failed()
    }

    /// May ask for the lead at all.
    pub(crate) fn is_eligible(&self) -> bool {
        self.spec.may_lead() && self.retired.is_none()
    }

    pub(crate) fn own_preference(&self) -> Preference<'_> {
        Preference { healthy: self.is_healthy(), rank: self.spec.rank, name: std::cmp::Reverse(&self.me) }
    }

    /// How many present candidates are better than this member.
    pub(crate) fn position(&self) -> u32 {
        let own = self.own_preference();
        let better = |p: &&Peer| {
            let preference = preference_of(p, p.rank());
            p.is_present() && p.is_candidate() && preference > own
        };
        u32::try_from(self.peers.values().filter(better).count()).unwrap_or(u32::MAX)
    }
}

pub(crate) fn preference_of(peer: &Peer, rank: Rank) -> Preference<'_> {
    Preference { healthy: peer.is_healthy(), rank, name: std::cmp::Reverse(peer.name()) }
}
