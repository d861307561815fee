//! Moving the lead because the leader's own side wants it: an operator's switchover, or a payload that is not ready.

use flagship_types::{MemberName, Role};

use crate::core::Election;
use crate::handover::is_good_successor;
use crate::io::{Event, Presence, ResignReason};
use crate::outlook::preference_of;
use crate::peer::Peer;
use crate::stage::Stage;

/// Members named in one sentence: it goes into a status.
const MAX_NAMED: usize = 4;

impl Election {
    pub(crate) fn on_hand_over(&mut self, to: Option<MemberName>, reason: ResignReason) {
        let answer = self.hand_over_target(to.as_ref(), reason);
        match (answer, &self.stage) {
            (Ok(to), Stage::Leader(lead)) => {
                let term = lead.term;
                self.event(Event::HandOverAccepted { term, to: to.clone(), reason });
                self.stop_payload(term, reason, Some(to));
            }
            (Ok(_), _) => {}
            (Err(because), _) => self.event(Event::HandOverRefused { to, reason, because }),
        }
    }

    /// Who would get the lead if this member was asked now to hand it over, to `to` or to the best; else a sentence
    /// that says why nobody would. Changes nothing.
    pub fn hand_over_target(
        &self,
        to: Option<&MemberName>,
        reason: ResignReason,
    ) -> Result<MemberName, String> {
        if !matches!(reason, ResignReason::Switchover | ResignReason::Unhealthy | ResignReason::NotCandidate)
        {
            return Err(format!("the lead is not handed over for the reason {}", reason.as_str()));
        }
        let lead = match &self.stage {
            Stage::Leader(lead) => lead,
            Stage::Stopping(_) => return Err("this member is giving up the lead already".to_owned()),
            Stage::Joining(_) | Stage::Standby | Stage::Candidate(_) => {
                let leader =
                    self.leader.as_ref().map_or("nobody is known to".to_owned(), |l| format!("{l} does"));
                return Err(format!("this member does not lead; {leader}"));
            }
        };
        if self.retired.is_some() || !self.is_unhindered(lead) {
            return Err("this member is not sure of its own lead yet; try again in a moment".to_owned());
        }
        if !self.health.api {
            return Err("this member cannot reach its API server, so it cannot stop its payload".to_owned());
        }
        if self.spec.suspended {
            return Err(
                "this member's object is suspended (spec.suspend), so its payload is left alone".to_owned()
            );
        }
        if let Some(paused) = self.pause_says().filter(|_| reason != ResignReason::Switchover) {
            return Err(paused);
        }
        // An operator may try again at once.
        let wait = self.handover_not_before.filter(|at| *at > self.now && reason != ResignReason::Switchover);
        if wait.is_some() {
            return Err("the last handover failed, and the pause after it is not over".to_owned());
        }
        match to {
            Some(to) => self.judge_target(to, reason).map(|()| to.clone()),
            None => self.best_target(reason),
        }
    }

    pub(crate) fn judge_target(&self, to: &MemberName, reason: ResignReason) -> Result<(), String> {
        if *to == self.me {
            return Err(format!("{to} leads already"));
        }
        match self.peers.get(to) {
            Some(peer) => self.unready(peer, reason).map_or(Ok(()), Err),
            None => Err(format!("no member of this fleet is called {to}")),
        }
    }

    /// Why that peer does not get the lead now, as a sentence; `None`: it can.
    fn unready(&self, peer: &Peer, reason: ResignReason) -> Option<String> {
        unfit(peer, reason).or_else(|| self.lags(peer, reason)).or_else(|| {
            let (name, may_run_at) = (peer.name(), self.unfenced_by(peer)?);
            Some(format!(
                "{name} has no beforePromote hook that fences, and {may_run_at} could not stop its payload when it was last heard"
            ))
        })
    }

    /// An operator waits until the target knows what the fleet agreed on: it would lead under what was in force before.
    fn lags(&self, peer: &Peer, reason: ResignReason) -> Option<String> {
        let (own, metadata) = (self.record.config.version, peer.metadata()?);
        let lags = reason == ResignReason::Switchover && metadata.config.max(peer.config_stored) < own;
        lags.then(|| {
            format!("{} has not stored the fleet configuration {own} yet (that takes a moment)", peer.name())
        })
    }

    fn best_target(&self, reason: ResignReason) -> Result<MemberName, String> {
        let fit = self.peers.values().filter(|p| self.unready(p, reason).is_none());
        if let Some(best) = fit.max_by(|a, b| preference_of(a, a.rank()).cmp(&preference_of(b, b.rank()))) {
            return Ok(best.name().clone());
        }
        let candidates =
            self.peers.values().filter(|p| p.view.presence != Presence::Left && p.is_candidate());
        let unfit: Vec<_> = candidates.filter_map(|p| self.unready(p, reason)).take(MAX_NAMED).collect();
        Err(match unfit.is_empty() {
            true => "there is no other candidate".to_owned(),
            false => format!("there is no healthy standby: {}", unfit.join("; ")),
        })
    }
}

/// Why that peer cannot take the lead now, as a sentence; `None`: it can.
fn unfit(peer: &Peer, reason: ResignReason) -> Option<String> {
    if is_good_successor(peer, reason) {
        return None;
    }
    let name = peer.name();
    let presence = match peer.view.presence {
        Presence::Present => None,
        Presence::Away => Some("is away"),
        Presence::Down => Some("is Down"),
        Presence::Left => Some("left the fleet"),
    };
    if let Some(presence) = presence {
        return Some(format!("{name} {presence}"));
    }
    if !peer.is_linked() {
        return Some(format!("there is no link to {name}"));
    }
    let Some(metadata) = peer.metadata() else {
        return Some(format!("{name} has not said yet how it is"));
    };
    if metadata.role == Role::Witness {
        return Some(format!("{name} is a witness, and never leads"));
    }
    let why = match (metadata.candidate, metadata.health) {
        (false, _) => "is no candidate (spec.candidate or spec.suspend of its object)",
        (_, health) if !health.api => "cannot reach its API server",
        (_, health) if !health.payload_valid => {
            "has a payload that its API server refuses or has not tried yet"
        }
        (_, health) if !health.gates => "has a gate in spec.health.gates that does not hold",
        (_, health) if health.failed => "led lately, and its payload did not get ready",
        _ => "is not healthy",
    };
    Some(format!("{name} {why}"))
}
