//! What a member must remember across restarts, as it stands in its object's status.

use std::time::Duration;

use flagship_k8s_api::{
    ConfigurationStatus, FailedLead, FieldError, MultiClusterStatus, VoteStatus, exact_duration,
};
use flagship_node::{DurableRecord, ElectionRecord, Lapse, Promise, Vote};
use flagship_types::{Callsign, Epoch, MemberName, Term, parse_duration};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Kubernetes numbers are signed; ours stay far below their end.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that somebody may have edited: nonsense counts as nothing.
fn unsigned(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok())
}

fn term(number: Option<i64>) -> Option<Term> {
    unsigned(number).filter(|number| *number > 0).map(Term)
}

/// The next epoch: above everything this member ever used, and near the wall clock so that others believe it.
pub(crate) fn next_epoch(status: &MultiClusterStatus, wall_ms: u64) -> Epoch {
    Epoch(wall_ms.max(unsigned(status.epoch).unwrap_or(0).saturating_add(1)))
}

/// The record an earlier process left, or `None` if there is none for this fleet. A record of another fleet says
/// nothing about this one, and its configuration must not get into it.
///
/// # Errors
/// A field of it is missing or is not what a daemon writes: a person or a damaged backup wrote it. Who went by a guess
/// might vote twice in one term, or lead without the lease that its fleet asks for.
pub(crate) fn restore(
    status: &MultiClusterStatus,
    callsign: &Callsign,
) -> Result<Option<ElectionRecord>, FieldError> {
    if status.callsign.as_deref().is_some_and(|stored| stored != callsign.as_str()) {
        return Ok(None);
    }
    let term = stored_term("status.term", status.term)?;
    let held = stored_term("status.heldTerm", status.held_term)?;
    let stopping = stored_term("status.stopping", status.stopping)?;
    let released = stored_term("status.releasedTerm", status.released_term)?;
    let vote = status.vote.as_ref();
    let Some(configuration) = &status.configuration else {
        if term.or(held).or(stopping).is_none() && vote.is_none() && status.replaced_configuration.is_none() {
            return Ok(None);
        }
        let message = "is missing, though the terms or the vote that are stored with it are there";
        return Err(FieldError::new("status.configuration", message));
    };
    let replaced = status.replaced_configuration.as_ref();
    let name = |name: &String| MemberName::new(name).ok();
    Ok(Some(ElectionRecord {
        version: 0,
        vote: vote.map(stored_vote).transpose()?,
        promise: vote.map(stored_promise).transpose()?.flatten(),
        held,
        stopping,
        released,
        term: term.unwrap_or(Term::NONE),
        // For people, too; who reads nonsense knows of no leader and asks.
        leader: status.leader.as_ref().and_then(name),
        config: configuration.parse("status.configuration")?,
        replaced: replaced.map(|old| old.parse("status.replacedConfiguration")).transpose()?.map(Box::new),
        // Nonsense was nobody: who is not forgotten is waited for.
        forgotten: status.forgotten.iter().filter_map(name).collect(),
        chosen: status.chosen,
    }))
}

fn stored_term(path: &str, number: Option<i64>) -> Result<Option<Term>, FieldError> {
    let Some(number) = number else { return Ok(None) };
    let number = u64::try_from(number).map_err(|_| {
        FieldError::new(path, format!("is {number}: a term from 1 is expected, or 0 for none"))
    })?;
    Ok((number > 0).then_some(Term(number)))
}

fn stored_vote(vote: &VoteStatus) -> Result<Vote, FieldError> {
    let term = stored_term("status.vote.term", Some(vote.term))?;
    let term = term.ok_or_else(|| FieldError::new("status.vote.term", "is 0: a term from 1 is expected"))?;
    let candidate = MemberName::new(&vote.candidate);
    let candidate = candidate.map_err(|error| FieldError::new("status.vote.candidate", error))?;
    Ok(Vote { term, candidate })
}

/// Only in mode Quorum a vote is a promise.
fn stored_promise(vote: &VoteStatus) -> Result<Option<Promise>, FieldError> {
    let lasting = |field: &str, text: &Option<String>| {
        let time = text.as_deref().map(parse_duration).transpose();
        let time = time.map_err(|error| FieldError::new(format!("status.vote.{field}"), error))?;
        Ok(time.map(|time| time.min(Promise::LONGEST)))
    };
    match (lasting("leaseDuration", &vote.lease_duration)?, lasting("stopGrace", &vote.stop_grace)?) {
        (Some(lease), Some(stop_grace)) => Ok(Some(Promise { lease, stop_grace })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(FieldError::new("status.vote.stopGrace", "is missing beside leaseDuration")),
        (None, Some(_)) => Err(FieldError::new("status.vote.leaseDuration", "is missing beside stopGrace")),
    }
}

/// What an earlier process wrote of its failures as a leader. Whoever edited it: the election bounds the time.
pub(crate) fn lapse(status: &MultiClusterStatus, wall: Timestamp) -> Option<Lapse> {
    let failed = status.failed_lead.as_ref()?;
    let times = u32::try_from(failed.times).ok().filter(|times| *times > 0)?;
    let left = failed.until.as_ref().map_or(Duration::ZERO, |until| {
        Duration::try_from(until.0.duration_since(wall)).unwrap_or(Duration::ZERO)
    });
    Some(Lapse { times, left })
}

/// The same for the status, in whole seconds. Of a member that did not fail: zero times, which clears what the status
/// has; while no node runs it keeps it.
pub(crate) fn failed_lead(lapse: Option<Lapse>, wall: Timestamp) -> FailedLead {
    let Some(lapse) = lapse else { return FailedLead::default() };
    let until = wall.checked_add(lapse.left).and_then(|at| Timestamp::from_second(at.as_second() + 1));
    let until = until.ok().filter(|_| !lapse.left.is_zero()).map(Time);
    FailedLead { times: i64::from(lapse.times), until }
}

/// Puts a record into the status, replacing the one before as a whole.
pub(crate) fn store(status: &mut MultiClusterStatus, record: &DurableRecord, callsign: &Callsign) {
    let ElectionRecord {
        version: _,
        vote,
        promise,
        held,
        stopping,
        released,
        term,
        leader: _,
        config,
        replaced,
        forgotten,
        chosen,
    } = &record.election;
    status.chosen = *chosen;
    status.epoch = Some(signed(record.epoch.0));
    status.callsign = Some(callsign.as_str().into());
    status.vote = vote.as_ref().map(|vote| VoteStatus {
        term: signed(vote.term.0),
        candidate: vote.candidate.as_str().into(),
        config_version: signed(config.version.0),
        lease_duration: promise.map(|promise| exact_duration(promise.lease)),
        stop_grace: promise.map(|promise| exact_duration(promise.stop_grace)),
    });
    status.held_term = held.map(|term| signed(term.0));
    status.stopping = stopping.map(|term| signed(term.0));
    status.released_term = released.map(|term| signed(term.0));
    status.term = Some(signed(term.0));
    status.configuration = Some(ConfigurationStatus::from(config));
    status.replaced_configuration = replaced.as_deref().map(ConfigurationStatus::from);
    status.forgotten = forgotten.iter().map(|name| name.as_str().into()).collect();
}

/// Forgets the record, when the member goes to another fleet. Its epoch stays: only its owner raises it.
pub(crate) fn forget(status: &mut MultiClusterStatus) {
    copy(
        &MultiClusterStatus { epoch: status.epoch, holder: status.holder.clone(), ..Default::default() },
        status,
    );
}

/// The term whose payload is, or may be, here.
pub(crate) fn held(status: &MultiClusterStatus) -> Option<Term> {
    term(status.held_term)
}

/// Whoever starts from this stops what runs under the term that is held, and does not go on with it.
pub(crate) fn begin_stop(status: &mut MultiClusterStatus) {
    status.stopping = status.stopping.or(status.held_term);
}

/// Copies everything durable, and nothing else.
pub(crate) fn copy(from: &MultiClusterStatus, to: &mut MultiClusterStatus) {
    to.epoch = from.epoch;
    to.callsign.clone_from(&from.callsign);
    to.vote.clone_from(&from.vote);
    to.held_term = from.held_term;
    to.chosen = from.chosen;
    to.stopping = from.stopping;
    to.released_term = from.released_term;
    to.term = from.term;
    to.holder.clone_from(&from.holder);
    to.configuration.clone_from(&from.configuration);
    to.replaced_configuration.clone_from(&from.replaced_configuration);
    to.forgotten.clone_from(&from.forgotten);
}

#[cfg(test)]
mod tests {
    use flagship_types::FleetConfig;

    use super::*;

    fn fleet(name: &str) -> Callsign {
        Callsign::new(name).unwrap()
    }

    fn member(name: &str) -> MemberName {
        MemberName::new(name).unwrap()
    }

    fn record() -> DurableRecord {
        let config = FleetConfig { version: flagship_types::ConfigVersion(3), ..Default::default() };
        let election = ElectionRecord {
            version: 9,
            vote: Some(Vote { term: Term(7), candidate: member("newyork") }),
            promise: Some(Promise {
                lease: Duration::from_secs(3),
                stop_grace: Duration::from_millis(10_500),
            }),
            held: Some(Term(7)),
            stopping: Some(Term(7)),
            released: Some(Term(5)),
            term: Term(8),
            leader: Some(member("newyork")),
            replaced: Some(Box::new(FleetConfig {
                version: flagship_types::ConfigVersion(2),
                ..config.clone()
            })),
            config,
            forgotten: vec![member("sheffield")],
            chosen: true,
        };
        DurableRecord { epoch: Epoch(123), election }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let mut status = MultiClusterStatus { leader: Some("newyork".into()), ..Default::default() };
        store(&mut status, &record(), &fleet("federation"));
        let back = restore(&status, &fleet("federation")).unwrap().unwrap();
        assert_eq!(back, ElectionRecord { version: 0, ..record().election });
    }

    #[test]
    fn a_fresh_object_has_no_record() {
        assert_eq!(restore(&MultiClusterStatus::default(), &fleet("f")), Ok(None));
    }

    #[test]
    fn a_record_of_another_fleet_is_not_believed() {
        let mut status = MultiClusterStatus::default();
        store(&mut status, &record(), &fleet("federation"));
        assert_eq!(restore(&status, &fleet("other")), Ok(None));
        forget(&mut status);
        assert_eq!((status.epoch, status.vote, status.term), (Some(123), None, None));
    }

    #[test]
    fn nothing_is_restored_from_a_guess() {
        let damaged = |damage: fn(&mut MultiClusterStatus)| {
            let mut status = MultiClusterStatus::default();
            store(&mut status, &record(), &fleet("federation"));
            damage(&mut status);
            restore(&status, &fleet("federation")).unwrap_err().path
        };
        type Damage = fn(&mut MultiClusterStatus);
        let table: [(&str, Damage); 12] = [
            ("term", |status| status.term = Some(-1)),
            ("heldTerm", |status| status.held_term = Some(-7)),
            ("stopping", |status| status.stopping = Some(i64::MIN)),
            ("releasedTerm", |status| status.released_term = Some(-1)),
            ("configuration", |status| status.configuration = None),
            ("configuration.mode", |status| status.configuration.as_mut().unwrap().mode = "quorum".into()),
            ("replacedConfiguration.failback", |status| {
                status.replaced_configuration.as_mut().unwrap().failback = String::new();
            }),
            ("vote.term", |status| status.vote.as_mut().unwrap().term = 0),
            ("vote.term", |status| status.vote.as_mut().unwrap().term = -3),
            ("vote.candidate", |status| status.vote.as_mut().unwrap().candidate = "new york".into()),
            ("vote.leaseDuration", |status| status.vote.as_mut().unwrap().lease_duration = Some("?".into())),
            ("vote.stopGrace", |status| status.vote.as_mut().unwrap().stop_grace = None),
        ];
        for (path, damage) in table {
            assert_eq!(damaged(damage), format!("status.{path}"));
        }
    }

    #[test]
    fn epochs_only_grow() {
        let status = MultiClusterStatus { epoch: Some(5_000), ..Default::default() };
        assert_eq!(next_epoch(&status, 9_000), Epoch(9_000));
        assert_eq!(next_epoch(&status, 10), Epoch(5_001));
        let edited = MultiClusterStatus { epoch: Some(-3), ..Default::default() };
        assert_eq!(next_epoch(&edited, 10), Epoch(10));
    }
}
