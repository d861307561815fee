//! The step from candidate to leader: what a won campaign changes, and in Quorum the first lease.

use std::time::Duration;

use flagship_types::{Instant, MemberName, Term};

use crate::core::Election;
use crate::io::{Event, Promise};
use crate::stage::{Campaign, Lead};

impl Election {
    pub(crate) fn win(&mut self, campaign: Campaign) {
        self.stats.elected += 1;
        let handed_over_by = self.releaser(campaign.released);
        let ascent = self.note_ascent(&campaign, handed_over_by.as_ref());
        let waits_until = self.lease_from_grants(&campaign);
        if waits_until.is_none() {
            self.record.held = Some(campaign.term);
        }
        self.follow_self(campaign.term);
        // A fresh term stands above whatever happened before it.
        for peer in self.peers.values_mut() {
            peer.unconfirmed = false;
        }
        let after = self.persist();
        let took = self.now.since(campaign.vacant_since);
        let resumed = campaign.found.is_some();
        self.become_leader(Lead { resumed, waits_until, ..Lead::new(campaign.term, after, self.now) });
        self.event(match campaign.found {
            Some(_) => Event::Resumed { term: campaign.term },
            None => Event::Elected {
                term: campaign.term,
                took,
                failover: campaign.failover,
                handed_over_by,
                ascent,
            },
        });
    }

    /// Quorum: the grants are promises. Returns when the payloads of those before are gone, by the word of a majority.
    fn lease_from_grants(&mut self, campaign: &Campaign) -> Option<Instant> {
        let config = self.quorum()?;
        let promise = Promise { lease: config.lease, stop_grace: config.stop_grace };
        let voters = config.voters.clone();
        self.lease.begin(self.now);
        let own = if self.is_voter() { self.owed() } else { Duration::ZERO };
        let mut waits_until = self.now + own;
        for voter in voters {
            let ask = self.peers.get(&voter).map(|p| p.ask).filter(|ask| ask.round == campaign.round);
            let Some(ask) = ask.filter(|ask| ask.granted) else { continue };
            waits_until = waits_until.max(ask.owed_until.unwrap_or(self.now));
            self.lease.granted(voter, ask.since.unwrap_or(campaign.phase_since), promise, campaign.term);
        }
        Some(waits_until)
    }

    /// Notes that this member itself leads now.
    pub(crate) fn follow_self(&mut self, term: Term) {
        let me = self.me.clone();
        self.record.leader = Some(me.clone());
        self.leader = Some(me.clone());
        self.former = Some(me);
        self.leader_term = term;
        self.ceded_to = None;
        self.leader_met = true;
        self.forget_vacancy();
    }

    /// The lead is taken: what was remembered while it was free is over.
    pub(crate) fn forget_vacancy(&mut self) {
        self.vacancy = None;
        self.reservation = None;
        self.yielding = None;
        self.released = None;
        self.record.released = None;
        self.steady_since = None;
        self.handover_refused = None;
    }

    /// The living member that released the lead which a campaign rests on.
    fn releaser(&self, released: Option<Term>) -> Option<MemberName> {
        let term = released?;
        self.peers.values().find(|p| p.released == term && p.is_present()).map(|p| p.name().clone())
    }
}
