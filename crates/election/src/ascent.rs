//! How a member came to lead: why the lead was free, and how long each step of the change took.

use flagship_types::MemberName;

use crate::core::Election;
use crate::io::{Ascent, AscentReason, Phases, ResignReason};
use crate::stage::Campaign;

impl Election {
    /// To be called when a campaign is won, before the lead is noted.
    pub(crate) fn note_ascent(&mut self, campaign: &Campaign, handed_over_by: Option<&MemberName>) -> Ascent {
        let predecessor =
            handed_over_by.or(self.former.as_ref()).filter(|former| **former != self.me).cloned();
        let reason = self.ascent_reason(campaign, predecessor.as_ref());
        let phases = self.phases(campaign, predecessor.as_ref(), handed_over_by);
        // The lead that an operator chose stays where it is until an operator or a failure moves it.
        self.record.chosen = reason == AscentReason::Switchover;
        let ascent = Ascent { term: campaign.term, predecessor, reason, phases };
        self.ascent = Some(ascent.clone());
        ascent
    }

    fn ascent_reason(&self, campaign: &Campaign, predecessor: Option<&MemberName>) -> AscentReason {
        if self.is_forcing(campaign.term) {
            return AscentReason::Forced;
        }
        if campaign.found.is_some() {
            return AscentReason::Found;
        }
        if campaign.failover {
            let former = predecessor.and_then(|former| self.peers.get(former));
            return match former.is_some_and(|former| former.exited_at.is_some()) {
                true => AscentReason::Crash,
                false => AscentReason::Silence,
            };
        }
        let released =
            self.reservation.as_ref().filter(|reservation| campaign.released == Some(reservation.term));
        match released.map(|reservation| reservation.reason) {
            Some(ResignReason::Handover) => AscentReason::Rank,
            Some(ResignReason::Switchover) => AscentReason::Switchover,
            Some(ResignReason::Unhealthy) => AscentReason::Unhealthy,
            Some(ResignReason::Removal) => AscentReason::Removal,
            Some(_) => AscentReason::Handover,
            None if predecessor.is_some() => AscentReason::Handover,
            None => AscentReason::Founding,
        }
    }

    /// The times count from the cause: the last sign of life of a leader that failed, or when it was seen to stop.
    fn phases(
        &self,
        campaign: &Campaign,
        predecessor: Option<&MemberName>,
        handed_over_by: Option<&MemberName>,
    ) -> Phases {
        let free = campaign.vacant_since;
        let former = predecessor.and_then(|former| self.peers.get(former));
        let (cause, is_stop) = match (former, campaign.failover) {
            (Some(former), true) => (former.heard, false),
            (Some(former), false) if handed_over_by.is_some() => (former.stopping_since, true),
            _ => (None, false),
        };
        let begun = cause.filter(|cause| *cause <= free).unwrap_or(free);
        Phases {
            detected: (cause.is_some() && !is_stop).then(|| free.since(begun)),
            predecessor_stopped: (cause.is_some() && is_stop).then(|| free.since(begun)),
            elected: self.now.since(begun),
        }
    }
}
