//! From an object's settings to what its node is started with and told, and what an edit means for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use flagship_k8s_api::{MultiClusterStatus, Settings};
use flagship_node::{
    Directive, ElectionRecord, ElectionSpec, KnownMember, MachineConfig, NodeSpec, Restored, Snapshot, State,
};
use flagship_types::{Epoch, MemberName, PeerAddress, Term};

use crate::memory;
use crate::status_writer::Start;

/// What the node reads of the object.
pub(crate) fn node_spec(settings: &Settings) -> NodeSpec {
    NodeSpec {
        election: ElectionSpec {
            witness: false,
            fences: settings.hooks.before_promote.as_ref().is_some_and(|hook| hook.must_succeed),
            rank: settings.rank,
            ready: settings.ready,
            candidate: settings.candidate,
            suspended: settings.suspend,
            proposal: settings.proposal.clone(),
            promote_timeout: settings.health.promote_timeout,
        },
        address: settings.advertised.clone(),
        seeds: settings.seeds.clone(),
    }
}

/// Mode Quorum: whether the node has, or may have, a payload here that needs the fleet's lease.
pub(crate) fn runs_under_a_lease(snapshot: &Snapshot) -> bool {
    snapshot.quorum && snapshot.directive != Directive::Absent
}

/// What an edit of the object means for its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing it reads changed.
    Nothing,
    /// It is told.
    Tell,
    /// It ends and a new one joins the same fleet; a payload that runs is not touched.
    Rejoin,
    /// It gives up the lead, if it has it, leaves its fleet and joins another.
    OtherFleet,
}

/// Compares the settings a node runs with to the edited ones.
pub(crate) fn change(running: &Settings, edited: &Settings) -> Change {
    let fixed = |settings: &Settings| {
        (settings.port, settings.listen.clone(), settings.beat_interval, settings.silence_floor)
    };
    if running.callsign != edited.callsign {
        Change::OtherFleet
    } else if fixed(running) != fixed(edited) {
        Change::Rejoin
    } else if node_spec(running) != node_spec(edited) {
        Change::Tell
    } else {
        Change::Nothing
    }
}

/// Members that an earlier process knew, the own one and those that left aside.
pub(crate) fn known_members(status: &MultiClusterStatus, own: &MemberName) -> Vec<KnownMember> {
    let known = status.members.iter().filter_map(|member| {
        let name = MemberName::new(&member.name).ok().filter(|name| name != own)?;
        if member.state == State::Left.as_str() {
            return None;
        }
        let epoch = Epoch(member.epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0));
        // An address in the status always carries its port.
        let address = member.address.as_deref().and_then(|address| PeerAddress::parse(address, 9990).ok());
        Some(KnownMember { name, epoch, address, record: None })
    });
    known.take(MultiClusterStatus::MAX_MEMBERS).collect()
}

/// What a node starts with.
pub(crate) fn machine_config(
    settings: &Settings,
    member: &MemberName,
    start: &Start,
    record: Option<ElectionRecord>,
    found_running: Option<Term>,
) -> MachineConfig {
    let Start { epoch, status } = start;
    // Whom another fleet knew is nobody here.
    let same_fleet = status.callsign.as_deref().is_none_or(|stored| stored == settings.callsign.as_str());
    let known = if same_fleet { known_members(status, member) } else { Vec::new() };
    let known_peers = known.iter().map(|known| known.name.clone()).collect();
    let mut seed = DefaultHasher::new();
    (member.as_str(), epoch.0).hash(&mut seed);
    MachineConfig {
        callsign: settings.callsign.clone(),
        member: member.clone(),
        epoch: *epoch,
        wall_ms: flagship_node::wall_ms(),
        spec: node_spec(settings),
        restored: Restored {
            record,
            found_running,
            known_peers,
            lapse: memory::lapse(status, jiff::Timestamp::now()),
        },
        known,
        beat_interval: settings.beat_interval,
        silence_floor: settings.silence_floor,
        seed: seed.finish(),
        // Known when it joins.
        votes_until: None,
    }
}

/// Where this member listens, for people.
pub(crate) fn listening(settings: &Settings) -> String {
    match &settings.listen {
        Some(address) => address.to_string(),
        None => SocketAddr::from(([0; 16], settings.port)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixtures::settings;

    #[test]
    fn what_an_edit_means() {
        let running = settings();
        let edited = |edit: fn(&mut Settings)| {
            let mut edited = running.clone();
            edit(&mut edited);
            change(&running, &edited)
        };
        assert_eq!(edited(|_| {}), Change::Nothing);
        assert_eq!(edited(|s| s.sources.clear()), Change::Nothing);
        assert_eq!(edited(|s| s.rank = flagship_types::Rank(99)), Change::Tell);
        assert_eq!(edited(|s| s.seeds.clear()), Change::Tell);
        assert_eq!(edited(|s| s.advertised = None), Change::Tell);
        assert_eq!(edited(|s| s.proposal.restart_grace = Duration::ZERO), Change::Tell);
        assert_eq!(edited(|s| s.candidate = false), Change::Tell);
        assert_eq!(edited(|s| s.suspend = true), Change::Tell);
        assert_eq!(edited(|s| s.port = 9991), Change::Rejoin);
        assert_eq!(edited(|s| s.silence_floor = Duration::from_secs(9)), Change::Rejoin);
        assert_eq!(edited(|s| s.callsign = "other".parse().unwrap()), Change::OtherFleet);
    }

    #[test]
    fn the_node_reads_the_object() {
        let spec = node_spec(&settings());
        assert_eq!(spec.election.rank, flagship_types::Rank(5));
        assert!(spec.election.ready && spec.election.candidate);
        assert_eq!(spec.address.unwrap().to_string(), "172.18.100.100:9990");
        assert_eq!(spec.seeds[0].to_string(), "172.18.100.200:9990");
    }

    #[test]
    fn peers_of_an_earlier_process_are_known_again() {
        let member = |name: &str, state: &str, address: Option<&str>| flagship_k8s_api::MemberStatus {
            name: name.into(),
            state: state.into(),
            address: address.map(Into::into),
            epoch: Some(9),
            ..Default::default()
        };
        let members = vec![
            member("newyork", "Alive", Some("172.18.100.100:9990")),
            member("sheffield", "Down", Some("172.18.100.200:9990")),
            member("left", "Left", Some("172.18.100.201:9990")),
            member("dials-only", "Alive", None),
            member("BAD", "Alive", Some("x")),
        ];
        let status = MultiClusterStatus { members, ..Default::default() };
        let known = known_members(&status, &"newyork".parse().unwrap());
        let known: Vec<_> = known.iter().map(|k| (k.name.as_str(), k.address.is_some(), k.epoch.0)).collect();
        assert_eq!(known, [("sheffield", true, 9), ("dials-only", false, 9)]);
    }
}
