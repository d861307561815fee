//! How a member came to lead: why the lead was free, and how long each step of the change took.

use std::time::Duration;

use flagship_types::{Instant, MemberName};

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

    /// Somebody else heard a peer at that time, it says.
    pub(crate) fn note_vouched(&mut self, member: &MemberName, at: Instant) {
        let at = at.min(self.now);
        if let Some(peer) = self.peers.get_mut(member) {
            peer.vouched = peer.vouched.max(Some(at));
        }
    }

    /// A voter refused because it heard the leader that long ago: the one that this member holds to be gone, if the voter
    /// follows the same.
    pub(crate) fn note_heard_by_voter(&mut self, voter: &MemberName, beat_age: Duration) {
        let follows = self.peers.get(voter).and_then(|voter| voter.metadata()?.leader.clone());
        if let Some(former) = follows.filter(|leader| self.former.as_ref() == Some(leader)) {
            self.note_vouched(&former, self.now - beat_age);
        }
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
            None if self.former.as_ref() == Some(&self.me) => AscentReason::Regained,
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
            (Some(former), true) => (former.last_sign(), false),
            (Some(former), false) if handed_over_by.is_some() => (former.stopping_since, true),
            _ => (None, false),
        };
        // A leader that others heard after this member had given it up was right for as long: nobody knew that it failed
        // before nobody contradicted any more, which is when this member was elected.
        let contradicted = !is_stop && cause.is_some_and(|cause| cause > free);
        let free = if contradicted { self.now } else { free };
        let begun = cause.unwrap_or(free).min(free);
        Phases {
            detected: (cause.is_some() && !is_stop).then(|| free.since(begun)),
            predecessor_stopped: (cause.is_some() && is_stop).then(|| free.since(begun)),
            elected: self.now.since(begun),
        }
    }
}
