//! Quorum, as a leader: asks the voters to renew the lease about every second, writes only while it runs, and stops for
//! good when a majority has not answered in time. After Gray and Cheriton, "Leases", SOSP 1989: the holder's lease is
//! shorter than what the voters promise, so that clocks 5 % apart do no harm.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use flagship_types::quorum::{held_for, reached, self_stop_after};
use flagship_types::{FleetConfig, Instant, MemberName, Mode, Term};

use crate::core::Election;
use crate::io::{Message, Promise, ResignReason};
use crate::peer::Peer;
use crate::planted::PlantedBug;
use crate::pledge::Renewal;
use crate::stage::{Lead, Stage};

/// How often the lease is renewed, unless it is too short for that.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Of a lease so many renewals can be lost before it is.
const RENEWALS_PER_LEASE: u32 = 4;
/// Renewals that may be under way: those of the longest time after which an answer still helps.
const MAX_UNDER_WAY: usize = 64;
/// How long a leader that paused waits for a fresh majority, of a lease: for all it knows its lease ran out meanwhile.
const AFTER_PAUSE: u32 = 3;

/// A voter's newest promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    /// When the renewal that it answers was sent.
    sent: Instant,
    lease: Duration,
    /// S, as the voter will have a successor wait.
    stop_grace: Duration,
    term: Term,
}

/// What a leader knows of its lease.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease {
    seq: u64,
    under_way: VecDeque<(u64, Acknowledged)>,
    promised: BTreeMap<MemberName, Acknowledged>,
    next: Option<Instant>,
    /// Since when a process that restarted asks whether it still leads, or paused; it stops if nobody says so in time.
    doubt: Option<Instant>,
    /// Only what was asked since then allows writes.
    fresh_from: Option<Instant>,
}

impl Lease {
    /// Notes what a voter has promised by its grant.
    pub(crate) fn granted(&mut self, by: MemberName, asked: Instant, promise: Promise, term: Term) {
        let Promise { lease, stop_grace } = promise;
        self.promised.insert(by, Acknowledged { sent: asked, lease, stop_grace, term });
    }

    /// Begins anew, for a lead that was just won. Its grants may be so old that they promise nothing any more, and then
    /// the voters have to say soon that they stand by them.
    pub(crate) fn begin(&mut self, now: Instant) {
        *self = Self { seq: self.seq, doubt: Some(now), ..Self::default() };
    }
}

impl Election {
    /// How late a timer may fire, or how far the clocks may drift apart at once, before this process has to reckon with
    /// having stood still while its lease ran out: a third of it, and never more than that of the default.
    pub fn pause_tolerance(&self) -> Duration {
        let default = FleetConfig::default().lease / AFTER_PAUSE;
        self.quorum().map_or(default, |config| default.min(config.lease / AFTER_PAUSE))
    }

    /// Until when this leader may write; `None`: it has no lease now. In Availability there is none to have.
    pub fn lease_until(&self) -> Option<Instant> {
        let fresh = |ack: &Acknowledged| self.lease.fresh_from.is_none_or(|from| ack.sent >= from);
        let lasts = if self.has(PlantedBug::LeaseOverstayed) { overstayed } else { held_for };
        self.majority_reached(lasts, fresh).filter(|until| *until > self.now)
    }

    /// Quorum: within this time after it lost its lease the payload has to be gone here, as that is how long a successor
    /// waits for it: what the voters have promised under, which an edit of S changes only with the next renewal.
    pub fn stop_grace(&self) -> Duration {
        let configured = self.fleet_config().stop_grace;
        let Some(config) = self.quorum() else { return configured };
        let by_voters = config.voters.iter().filter_map(|voter| self.lease.promised.get(voter));
        // A process that restarted was promised nothing yet; what it granted itself is on record.
        let on_record = self.record.promise.map(|promise| promise.stop_grace);
        let least = by_voters.map(|ack| ack.stop_grace).min().or(on_record);
        least.map_or(configured, |least| least.min(configured))
    }

    /// When this leader has to stop unless it is renewed before.
    fn stops_at(&self) -> Option<Instant> {
        let lasts = if self.has(PlantedBug::LeaseOverstayed) { overstayed } else { self_stop_after };
        let by_lease = self.majority_reached(lasts, |_| true);
        let doubt = self.lease.doubt.map(|since| since + self.doubt_lasts());
        match (by_lease, doubt) {
            (Some(by_lease), Some(doubt)) => Some(by_lease.min(doubt)),
            (by_lease, doubt) => by_lease.or(doubt),
        }
    }

    fn doubt_lasts(&self) -> Duration {
        match self.stage {
            Stage::Joining(_) | Stage::Stopping(_) => self_stop_after(self.fleet_config().lease),
            _ => self.fleet_config().lease / AFTER_PAUSE,
        }
    }

    /// Until when a majority of the voters has promised, of each promise what `lasts` leaves of it.
    fn majority_reached(
        &self,
        lasts: fn(Duration) -> Duration,
        counts: impl Fn(&Acknowledged) -> bool,
    ) -> Option<Instant> {
        let config = self.quorum()?;
        let own = |voter: &MemberName| *voter == self.me;
        let promised = |voter: &MemberName| {
            let ack = self.lease.promised.get(voter).filter(|ack| counts(ack))?;
            Some(ack.sent + lasts(ack.lease))
        };
        // The own promise to itself never runs out while it leads.
        let never = self.now + config.lease;
        let ends: Vec<_> =
            config.voters.iter().map(|v| if own(v) { Some(never) } else { promised(v) }).collect();
        reached(&ends)
    }

    /// Whether a majority of the voters has promised the lead under this very term.
    pub(crate) fn is_promised(&self, term: Term) -> bool {
        let counts = |ack: &Acknowledged| ack.term >= term;
        self.majority_reached(held_for, counts).is_some_and(|until| until > self.now)
    }

    /// Whether that voter, this one included, has promised lately and can be asked again.
    pub(crate) fn answers(&self, voter: &MemberName) -> bool {
        let promised = self.lease.promised.get(voter).is_some_and(|ack| ack.sent + ack.lease > self.now);
        *voter == self.me || (promised && self.peers.get(voter).is_some_and(Peer::is_linked))
    }

    /// Renews the lease, and stops when it is lost. Returns whether this member goes on as it is.
    pub(crate) fn keep_lease(&mut self, term: Term) -> bool {
        self.renew_lease(term);
        if self.quorum().is_none() {
            return true;
        }
        let leased = self.lease_until().is_some();
        if leased && self.lease.doubt.is_some() && self.is_promised(term) {
            self.lease.doubt = None;
        }
        match self.stops_at() {
            Some(at) if at > self.now => {
                self.wake(at);
                true
            }
            _ => self.has(PlantedBug::SelfStopForgotten),
        }
    }

    fn renew_lease(&mut self, term: Term) {
        let now = self.now;
        let Some(config) = self.quorum().or(self.quorum_to_be()) else { return };
        let (lease, stop_grace, version) = (config.lease, config.stop_grace, config.version);
        if let Some(next) = self.lease.next.filter(|next| *next > now) {
            return self.wake(next);
        }
        let every = RENEW_EVERY.min(lease / RENEWALS_PER_LEASE);
        self.lease.next = Some(now + every);
        self.wake(now + every);
        self.lease.seq += 1;
        let seq = self.lease.seq;
        self.lease.under_way.push_back((seq, Acknowledged { sent: now, lease, stop_grace, term }));
        if self.lease.under_way.len() > MAX_UNDER_WAY {
            self.lease.under_way.pop_front();
        }
        if self.is_voter() {
            self.pledge.until = self.pledge.until.max(now + lease);
        }
        for voter in self.names(|p| p.is_linked() && self.is_asked(p.name())) {
            self.send(&voter, Message::Renew { term, seq, config: version, lease, stop_grace });
        }
    }

    /// What a leader's own object would have in the place of Availability.
    fn quorum_to_be(&self) -> Option<&FleetConfig> {
        let leads = matches!(self.stage, Stage::Leader(_));
        Some(&self.spec.proposal).filter(|proposal| leads && proposal.mode == Mode::Quorum)
    }

    /// Whether that member is asked for the lease: a voter, and who is to become one. What that one promises counts only
    /// when it is; but that it does is asked for before.
    fn is_asked(&self, member: &MemberName) -> bool {
        let lists = [self.quorum(), self.quorum_to_be()].into_iter().flatten();
        lists.into_iter().any(|config| config.voters.contains(member))
    }

    /// A link to a voter came up: it is asked at once, not at the next turn.
    pub(crate) fn hasten_renewal(&mut self, voter: &MemberName) {
        if self.is_asked(voter) {
            self.lease.next = None;
        }
    }

    pub(crate) fn on_renewed(&mut self, from: &MemberName, term: Term, seq: u64) {
        let sent = self.lease.under_way.iter().find(|(s, sent)| *s == seq && sent.term == term);
        let Some((_, acknowledged)) = sent.copied() else {
            self.stats.messages_ignored += 1;
            return;
        };
        let is_asked = self.is_asked(from);
        let is_newer = self.lease.promised.get(from).is_none_or(|old| old.sent <= acknowledged.sent);
        if is_asked && is_newer {
            self.lease.promised.insert(from.clone(), acknowledged);
        }
    }

    /// Whatever was promised before may have run out while this process or its machine stood still.
    pub(crate) fn doubt_lease_since(&mut self, since: Instant) {
        if self.quorum().is_none() {
            return;
        }
        // Of two pauses the later one counts for what is fresh, and the earlier one for when this has to be known.
        self.lease.doubt.get_or_insert(since);
        let is_news = self.lease.fresh_from.is_none_or(|from| from < since);
        if is_news || self.has(PlantedBug::RenewsAtEveryStep) {
            self.lease.fresh_from = self.lease.fresh_from.max(Some(since));
            self.lease.next = None;
        }
    }

    /// A payload was found here, and this process has had the time of a lease to be granted the lead for it.
    pub(crate) fn is_unleased_too_long(&mut self) -> bool {
        let Some(config) = self.quorum() else { return false };
        let until = self.started + self_stop_after(config.lease);
        self.wake(until);
        self.now >= until
    }

    /// The lease is lost, and with it the lead: for good, whatever comes now.
    pub(crate) fn lose_lease(&mut self, lead: &Lead) {
        match self.is_idle(lead) {
            true => self.abandon(),
            false => self.stop_payload(lead.term, ResignReason::LeaseLost, None),
        }
    }
}

/// What a leader with the planted bug takes its lease for.
fn overstayed(lease: Duration) -> Duration {
    lease * 5
}

impl Renewal {
    pub(crate) fn new(term: Term, seq: u64, lease: Duration, stop_grace: Duration) -> Self {
        Self { term, seq, promise: Promise { lease, stop_grace } }
    }
}

impl Peer {
    /// Whether it says of itself that it could not stop its payload.
    pub(crate) fn cannot_stop(&self) -> bool {
        self.metadata().is_some_and(|metadata| !metadata.health.api)
    }
}
