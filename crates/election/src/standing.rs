//! How things stand, for the worker, the driver and people.

use std::time::Duration;

use flagship_types::{FleetConfig, Instant, MemberName, Mode, Role, Term, format_duration};

use crate::core::{Election, FOUNDING_WAIT};
use crate::handover::RESERVATION;
use crate::io::{Ascent, Directive, Permit, Presence, Record, ResignReason, Standing};
use crate::outlook::Outlook;
use crate::stage::{Campaign, Phase, Stage};

impl Election {
    /// What the payload worker has to do.
    pub fn directive(&self) -> &Directive {
        &self.directive
    }

    /// The role.
    pub fn role(&self) -> Role {
        match self.stage {
            Stage::Standby if self.spec.witness => Role::Witness,
            ref stage => stage.role(),
        }
    }

    /// The own term as a leader, else that of the last known lead.
    pub fn term(&self) -> Term {
        match &self.stage {
            Stage::Joining(joining) => joining.held.map_or(self.leader_term, |h| h.term),
            Stage::Leader(lead) => lead.term,
            Stage::Stopping(stopping) => stopping.term.max(self.leader_term),
            Stage::Standby | Stage::Candidate(_) => self.leader_term,
        }
    }

    /// Who leads, as far as is known here (maybe this member), and under which term.
    pub fn leader(&self) -> Option<(MemberName, Term)> {
        let leader = self.leader.clone().filter(|_| !self.is_left_alone())?;
        Some((leader, self.leader_term))
    }

    /// How this member came to lead; `None`: it does not, or did before this process started.
    pub fn ascent(&self) -> Option<&Ascent> {
        self.ascent.as_ref().filter(|_| matches!(self.stage, Stage::Leader(_) | Stage::Stopping(_)))
    }

    /// Who gets the lead, or has it already, while this member gives it up; `None`: it does not, or nobody is named.
    pub fn successor(&self) -> Option<&MemberName> {
        let Stage::Stopping(stopping) = &self.stage else {
            return None;
        };
        stopping.successor.as_ref().or(self.leader.as_ref().filter(|leader| **leader != self.me))
    }

    /// The fleet configuration in force here.
    pub fn config(&self) -> &FleetConfig {
        self.fleet_config()
    }

    /// Why this member gives its lead away for good, if it does.
    pub fn retired(&self) -> Option<ResignReason> {
        self.retired
    }

    /// Whether this member still may lead: its object says so, and it was not retired.
    pub fn candidate(&self) -> bool {
        self.is_eligible()
    }

    /// The same without its counters, which change nothing: for a model check that tells states apart.
    #[doc(hidden)]
    pub fn without_counters(&self) -> Self {
        let mut same = self.clone();
        same.stats = crate::io::Stats::default();
        same
    }

    /// The record as it is or is about to become durable.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Which payload writes the election allows now.
    pub fn permit(&self, _now: Instant) -> Option<Permit> {
        match (&self.stage, &self.directive) {
            (Stage::Leader(lead), Directive::Run { term, .. }) => {
                let is_leased = self.quorum().is_none() || self.lease_until().is_some();
                let may =
                    is_leased && self.is_unhindered(lead) && lead.term == *term && self.retired.is_none();
                may.then_some(Permit::Apply { term: *term })
            }
            (Stage::Stopping(stopping), Directive::Stop { term, .. }) => {
                (stopping.directed && !stopping.stopped).then_some(Permit::Delete { term: *term })
            }
            (Stage::Standby | Stage::Candidate(_), Directive::Absent) => {
                Some(Permit::Delete { term: self.term() })
            }
            _ => None,
        }
    }

    pub(crate) fn wanted_directive(&self) -> Directive {
        match &self.stage {
            Stage::Joining(_) | Stage::Candidate(Campaign { found: Some(_), .. }) => Directive::Hold,
            Stage::Standby | Stage::Candidate(_) => Directive::Absent,
            Stage::Leader(lead) if lead.hold.is_some() => Directive::Hold,
            Stage::Leader(lead) if lead.begun => Directive::Run { term: lead.term, resumed: lead.resumed },
            // Not durable yet. A stop that was called off must not go on meanwhile.
            Stage::Leader(_) if matches!(self.directive, Directive::Stop { .. }) => Directive::Hold,
            Stage::Stopping(stopping) if stopping.directed => {
                Directive::Stop { term: stopping.term, reason: stopping.reason }
            }
            Stage::Leader(_) | Stage::Stopping(_) => self.directive.clone(),
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        // A lead counts, for others too, once it is durable.
        let role = match &self.stage {
            Stage::Leader(lead) if !lead.begun => Role::Candidate,
            _ => self.role(),
        };
        let leader = self.leader.clone();
        let (term, config, interrupted) = (self.term(), self.stored_config.version, self.is_interrupted());
        let (failed, promoted) = (self.has_failed(), self.told_promoted());
        let quorum = self.stored_config.mode == Mode::Quorum;
        Standing { role, term, leader, config, quorum, interrupted, failed, promoted }
    }

    /// Who has to answer, or become Down, before the election goes on here.
    pub fn blocking(&self) -> Vec<MemberName> {
        match &self.stage {
            Stage::Joining(joining) if joining.held.is_some() => {
                self.names(|p| p.is_present() && (p.unconfirmed || (!self.may_vote && !p.told)))
            }
            Stage::Joining(_) => self.names(|p| p.is_present() && !p.told),
            Stage::Standby => match self.outlook(None) {
                Outlook::Held(holder) if self.leader.as_ref() != Some(&holder) => vec![holder],
                Outlook::Reserved(successor, _) => vec![successor],
                Outlook::Held(_) | Outlook::Grace(_) | Outlook::Vacant => Vec::new(),
            },
            Stage::Candidate(campaign) => {
                let waits = |e: &MemberName| {
                    self.peers.get(e).is_some_and(|p| p.ask.round != campaign.round || !p.ask.granted)
                };
                self.electors().into_iter().filter(waits).collect()
            }
            Stage::Leader(lead) if lead.hold.is_some() => {
                self.names(|p| p.unconfirmed && p.view.presence == Presence::Present)
            }
            Stage::Leader(_) | Stage::Stopping(_) => Vec::new(),
        }
    }

    /// What is waited for, as a sentence for the status; `None`: nothing. It does not count seconds down: each
    /// difference is a write.
    pub fn waiting_for(&self, now: Instant) -> Option<String> {
        let blocking: Vec<_> = self.blocking().iter().map(ToString::to_string).collect();
        let names = blocking.join(", ");
        match &self.stage {
            Stage::Joining(joining) if joining.held.is_some() => Some(match names.as_str() {
                "" => {
                    "this member led before its restart and listens whether anybody else leads now".to_owned()
                }
                names => {
                    format!(
                        "this member led before its restart and asks whether it still does: {names} must answer or become Down"
                    )
                }
            }),
            Stage::Joining(_) if !self.untold_voters().is_empty() => {
                let voters = self.untold_voters();
                let voters: Vec<_> = voters.iter().map(MemberName::as_str).collect();
                Some(format!(
                    "this member has no record of its votes: it votes once {} told theirs, or an operator admits it",
                    voters.join(", ")
                ))
            }
            Stage::Joining(_) => Some(match names.as_str() {
                "" => self.waiting_to_found(),
                names => format!("asking for the voter records of {names}: each must answer or become Down"),
            }),
            Stage::Standby => self.standby_waits_for(now, &names),
            Stage::Candidate(Campaign { phase: Phase::Claim { after }, .. }) if !self.is_durable(*after) => {
                Some("this member's own vote is not stored yet: its API server has to answer".to_owned())
            }
            Stage::Candidate(_) if self.quorum().is_some() => {
                let voters = self.quorum().map_or(0, |config| config.voters.len());
                let needed = flagship_types::quorum::majority(voters);
                Some(format!(
                    "asking for the lead: {needed} of {voters} voters must grant it, and {names} did not yet"
                ))
            }
            Stage::Candidate(_) => Some(match names.as_str() {
                "" => "asking for the lead".to_owned(),
                names => format!("asking for the lead: {names} must grant or become Down"),
            }),
            Stage::Leader(lead) if lead.hold.is_some() => Some(match names.as_str() {
                "" => {
                    "this member paused, and writes nothing until its view of the others is fresh".to_owned()
                }
                names => {
                    format!(
                        "this member paused, and writes nothing until these say that it still leads: {names}"
                    )
                }
            }),
            Stage::Leader(lead) if lead.waits_until.is_some_and(|until| until > now) => Some(
                "elected: the payload of the leader before may run until its stop grace is over".to_owned(),
            ),
            Stage::Leader(lead) if lead.waits_until.is_some() => {
                Some("elected: a majority of the voters has to renew the lease".to_owned())
            }
            Stage::Leader(lead) if !lead.begun => {
                Some("this member's lead is not stored yet: its API server has to answer".to_owned())
            }
            Stage::Leader(_) => self.leader_gate_waits().or_else(|| self.uncandidate_waits()),
            Stage::Stopping(stopping) => Some(match (&stopping.stuck, stopping.directed) {
                (Some(object), _) => format!("{object} does not go away: remove what holds it"),
                (None, false) => {
                    "this member's stop is not stored yet: its API server has to answer".to_owned()
                }
                (None, true) => format!("deleting this member's payload ({})", stopping.reason.as_str()),
            }),
        }
    }

    fn waiting_to_found(&self) -> String {
        if !self.spec.ready {
            let hint = "set spec.ready: true on the member that may found the fleet, or check the addresses in spec.fleet";
            return format!("no member of the fleet answered, and spec.ready is false here; {hint}");
        }
        let wait = format_duration(FOUNDING_WAIT);
        format!("nobody answered yet: after listening for {wait} this member founds the fleet alone")
    }

    fn standby_waits_for(&self, now: Instant, names: &str) -> Option<String> {
        match self.outlook(None) {
            Outlook::Held(holder) if self.leader.as_ref() == Some(&holder) => {
                let (until, reason) = self.handover_refused.as_ref().filter(|(until, _)| *until > now)?;
                let again = about(until.since(now));
                Some(format!(
                    "{holder} was asked for the lead and refused: {reason}; it is asked again {again}"
                ))
            }
            Outlook::Held(_) => {
                Some(format!("{names} holds the lead, or may: it must say so or become Down"))
            }
            Outlook::Grace(_) => {
                let grace = format_duration(self.restart_grace());
                Some(format!(
                    "the leader's process ended while its cluster lives: it has {grace} to come back"
                ))
            }
            Outlook::Reserved(successor, _) => {
                let time = format_duration(RESERVATION);
                Some(format!("the lead was released to {successor}, which has {time} to announce itself"))
            }
            Outlook::Vacant if self.founding_is_others() => {
                Some("a member with spec.ready: true has to found the fleet".to_owned())
            }
            Outlook::Vacant if self.unfenced().is_some() => {
                let former = self.unfenced().map_or("the former leader", MemberName::as_str);
                Some(format!(
                    "{former} could not stop its payload when it was last heard (its API server did not answer): nobody takes over before a beforePromote hook has fenced it, or an operator forces the lead"
                ))
            }
            Outlook::Vacant if self.is_held_back() => self.pause_says().map(|paused| {
                format!("nobody leads, and {paused}: nobody takes the lead before flagship resume")
            }),
            Outlook::Vacant if !self.is_eligible() => {
                Some("nobody leads, and this member is no candidate".to_owned())
            }
            Outlook::Vacant => Some("nobody leads: this member waits for its turn to ask".to_owned()),
        }
    }
}

/// When something comes, told so that it changes at most once a minute.
fn about(left: Duration) -> String {
    match left.as_secs() / 60 {
        0 => "within a minute".to_owned(),
        minutes => format!("in about {} minutes", minutes + 1),
    }
}
