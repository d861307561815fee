//! A MultiCluster's spec as checked values.

use std::time::Duration;

use flagship_types::quorum::tolerated;
use flagship_types::{Callsign, FleetConfig, MemberName, PeerAddress, Rank, parse_duration};

use crate::health::HealthSettings;
use crate::hooks::HookSettings;
use crate::spec::DEFAULT_PORT;
use crate::{Failback, Fencing, KeyRef, Mode, MultiCluster, MultiClusterSpec};

/// A field of the spec that the schema let through and that cannot be used. Shown as a Stalled condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Which field, from the object's root: `spec.fleet[2]`.
    pub path: String,
    /// What was expected and what to do.
    pub message: String,
}

impl FieldError {
    /// For a field.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "takes errors and texts alike, straight from where they arise"
    )]
    pub fn new(path: impl Into<String>, message: impl ToString) -> Self {
        Self { path: path.into(), message: message.to_string() }
    }
}

/// What a MultiCluster asks for, checked, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The fleet.
    pub callsign: Callsign,
    /// Higher leads.
    pub rank: Rank,
    /// May found the fleet alone.
    pub ready: bool,
    /// May lead.
    pub candidate: bool,
    /// Is left alone.
    pub suspend: bool,
    /// Where to listen; `None`: on all addresses, at [`Self::port`].
    pub listen: Option<PeerAddress>,
    /// The port to listen on and to tell others.
    pub port: u16,
    /// Where others reach this member; `None`: nowhere, only it dials.
    pub advertised: Option<PeerAddress>,
    /// The Service that says where others reach this member; `None` also if `spec.serviceAddress` does.
    pub service: Option<ServiceKey>,
    /// Members to join through.
    pub seeds: Vec<PeerAddress>,
    /// The fleet configuration this object proposes; its version is 0.
    pub proposal: FleetConfig,
    /// Whether the API server refuses the writes of an old holder or term.
    pub fenced: bool,
    /// How often this member beats.
    pub beat_interval: Duration,
    /// The least silence before a member with one observer is suspected.
    pub silence_floor: Duration,
    /// How the payload is applied.
    pub apply: ApplySettings,
    /// Where the payload comes from, in this order.
    pub sources: Vec<PayloadSource>,
    /// When this member is well enough to lead.
    pub health: HealthSettings,
    /// Who is told when the lead comes and goes.
    pub hooks: HookSettings,
}

/// A Service of type LoadBalancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceKey {
    /// Its namespace; `None`: the object's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// How the payload is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplySettings {
    /// Delete what left the payload.
    pub prune: bool,
    /// Take over objects of others and fields of others.
    pub force: bool,
    /// How long an apply or delete may take before it counts as stuck.
    pub timeout: Duration,
}

/// A part of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayloadSource {
    /// `spec.payload`.
    Inline(String),
    /// A key of another object in the same namespace.
    Key {
        /// Of which kind of object.
        kind: SourceKind,
        /// Which object and key.
        key: KeyRef,
        /// The field that asks for it: `spec.payloadFrom[0].secretKeyRef`.
        path: String,
    },
}

/// What holds a part of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// The longest payload in bytes: with a larger one the object's status could not be written any more.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;

const DEFAULT_BEAT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_SILENCE_FLOOR: Duration = Duration::from_secs(3);
const DEFAULT_APPLY_TIMEOUT: Duration = Duration::from_secs(300);

impl Settings {
    /// What to say of an even number of voters: one of them is no more than one more to lose. It is allowed, and passed
    /// through whenever voters are changed one at a time; so this is about what the object asks for.
    pub fn warns_of_even_voters(&self) -> Option<String> {
        let FleetConfig { mode, voters, .. } = &self.proposal;
        let count = voters.len();
        if *mode != flagship_types::Mode::Quorum || count == 0 || count % 2 == 1 {
            return None;
        }
        let lost = match tolerated(count) {
            0 => "none".to_owned(),
            lost => lost.to_string(),
        };
        Some(format!(
            "spec.election.voters has {count} names: the fleet stands the loss of {lost} of them, no more than with {}. Add \
             another vote, for example a witness (docs/witness.md)",
            count - 1
        ))
    }
}

impl MultiCluster {
    /// [`MultiClusterSpec::settings`] as its daemon uses them: with the address that it found at `spec.serviceRef`, as
    /// the status has it. For whoever reads the object from outside.
    pub fn located_settings(&self) -> Result<Settings, Vec<FieldError>> {
        let mut settings = self.spec.settings()?;
        if settings.service.is_some() {
            let members = self.status.iter().flat_map(|status| &status.members);
            let own = members.into_iter().find(|member| Some(&member.name) == self.metadata.name.as_ref());
            let address = own.and_then(|own| own.address.as_deref());
            settings.advertised = address.and_then(|text| PeerAddress::parse(text, settings.port).ok());
        }
        Ok(settings)
    }
}

impl MultiClusterSpec {
    /// The checked values, or everything that is wrong.
    pub fn settings(&self) -> Result<Settings, Vec<FieldError>> {
        let mut wrong = Vec::new();
        let port = self.checked_port(&mut wrong);
        let callsign = self.checked_callsign(&mut wrong);
        let listen = address("spec.address", self.address.as_deref(), port, &mut wrong);
        let advertised = address("spec.serviceAddress", self.service_address.as_deref(), port, &mut wrong);
        let service = self.service(&mut wrong);
        let seeds = (self.fleet.iter().enumerate())
            .filter_map(|(at, seed)| match PeerAddress::parse(seed, port) {
                Ok(seed) => Some(seed),
                Err(error) => {
                    wrong.push(FieldError::new(format!("spec.fleet[{at}]"), error));
                    None
                }
            })
            .collect();
        let proposal = self.proposal(&mut wrong);
        let membership = &self.membership;
        let mut beat =
            |path, text: &Option<String>, default, range| duration(path, text, default, range, &mut wrong);
        let tenth = Duration::from_millis(100);
        let ten_minutes = Duration::from_secs(600);
        let beat_interval = beat(
            "spec.membership.beatInterval",
            &membership.beat_interval,
            DEFAULT_BEAT_INTERVAL,
            tenth..=Duration::from_secs(10),
        );
        let silence_floor = beat(
            "spec.membership.silenceFloor",
            &membership.silence_floor,
            DEFAULT_SILENCE_FLOOR,
            tenth..=ten_minutes,
        );
        let timeout = beat(
            "spec.apply.timeout",
            &self.apply.timeout,
            DEFAULT_APPLY_TIMEOUT,
            Duration::from_secs(1)..=Duration::from_secs(86_400),
        );
        let sources = self.sources(&mut wrong);
        let health = self.health.settings(&mut wrong);
        let hooks = self.hooks.settings(&mut wrong);
        let (Some(callsign), true) = (callsign, wrong.is_empty()) else {
            return Err(wrong);
        };
        let apply = ApplySettings { prune: self.apply.prune, force: self.apply.force, timeout };
        let (rank, ready) = (Rank(self.rank), self.ready);
        Ok(Settings {
            callsign,
            rank,
            ready,
            candidate: self.candidate.unwrap_or(true),
            suspend: self.suspend,
            listen,
            port,
            advertised,
            service,
            seeds,
            proposal,
            fenced: self.election.fencing == Some(Fencing::AdmissionPolicy),
            beat_interval,
            silence_floor,
            apply,
            sources,
            health,
            hooks,
        })
    }

    fn checked_port(&self, wrong: &mut Vec<FieldError>) -> u16 {
        u16::try_from(self.port).ok().filter(|port| *port > 0).unwrap_or_else(|| {
            wrong.push(FieldError::new("spec.port", format!("{} is not a port: 1 to 65535", self.port)));
            u16::try_from(DEFAULT_PORT).unwrap_or(1)
        })
    }

    fn service(&self, wrong: &mut Vec<FieldError>) -> Option<ServiceKey> {
        let given = self.service_address.as_deref().is_some_and(|address| !address.trim().is_empty());
        let reference = self.service_ref.as_ref().filter(|_| !given)?;
        if reference.name.is_empty() {
            wrong.push(FieldError::new("spec.serviceRef.name", "is empty: write the name of a Service"));
            return None;
        }
        let namespace = reference.namespace.clone().filter(|namespace| !namespace.is_empty());
        Some(ServiceKey { namespace, name: reference.name.clone() })
    }

    fn checked_callsign(&self, wrong: &mut Vec<FieldError>) -> Option<Callsign> {
        let callsign = self.callsign.as_deref().unwrap_or_default();
        if callsign.is_empty() {
            let message =
                "is empty: give all members of a fleet the same callsign, as in `callsign: federation`";
            wrong.push(FieldError::new("spec.callsign", message));
            return None;
        }
        Callsign::new(callsign).map_err(|error| wrong.push(FieldError::new("spec.callsign", error))).ok()
    }

    fn proposal(&self, wrong: &mut Vec<FieldError>) -> FleetConfig {
        let default = FleetConfig::default();
        let election = &self.election;
        let failback = match election.failback {
            None => default.failback,
            Some(Failback::Automatic) => flagship_types::Failback::Automatic,
            Some(Failback::Manual) => flagship_types::Failback::Manual,
        };
        let ten_minutes = Duration::from_secs(600);
        let grace_path = "spec.election.restartGrace";
        let delay_path = "spec.election.failbackDelay";
        let grace = (&election.restart_grace, default.restart_grace, Duration::ZERO..=ten_minutes);
        let delay = (&election.failback_delay, default.failback_delay, Duration::ZERO..=FleetConfig::LONGEST);
        let lease = (&election.lease_duration, default.lease, Duration::from_secs(1)..=ten_minutes);
        let stop =
            (&election.stop_grace, default.stop_grace, Duration::from_secs(3)..=Duration::from_secs(3600));
        let mode = match election.mode {
            Some(Mode::Quorum) => flagship_types::Mode::Quorum,
            Some(Mode::Availability) | None => flagship_types::Mode::Availability,
        };
        let lease = duration("spec.election.leaseDuration", lease.0, lease.1, lease.2, wrong);
        let stop_grace = duration("spec.election.stopGrace", stop.0, stop.1, stop.2, wrong);
        if mode == flagship_types::Mode::Quorum {
            wrong.extend(crate::replicas::check(lease, stop_grace).err());
        }
        FleetConfig {
            mode,
            voters: self.voters(mode, wrong),
            lease,
            stop_grace,
            failback,
            restart_grace: duration(grace_path, grace.0, grace.1, grace.2, wrong),
            failback_delay: duration(delay_path, delay.0, delay.1, delay.2, wrong),
            ..default
        }
    }

    fn voters(&self, mode: flagship_types::Mode, wrong: &mut Vec<FieldError>) -> Vec<MemberName> {
        let path = "spec.election.voters";
        let given = &self.election.voters;
        if mode == flagship_types::Mode::Availability {
            if !given.is_empty() {
                wrong.push(FieldError::new(
                    path,
                    "is for mode Quorum only: remove it, or set spec.election.mode",
                ));
            }
            return Vec::new();
        }
        if given.is_empty() || given.len() > FleetConfig::MAX_VOTERS {
            let most = FleetConfig::MAX_VOTERS;
            let message = format!("has {} names: mode Quorum needs 1 to {most}, an odd number", given.len());
            wrong.push(FieldError::new(path, message));
        }
        let mut voters: Vec<MemberName> = (given.iter().enumerate())
            .filter_map(|(at, name)| {
                let wrong_name = |error| wrong.push(FieldError::new(format!("{path}[{at}]"), error));
                MemberName::new(name).map_err(wrong_name).ok()
            })
            .collect();
        voters.sort();
        if voters.windows(2).any(|pair| pair[0] == pair[1]) {
            wrong.push(FieldError::new(path, "has a name twice"));
            voters.dedup();
        }
        voters
    }

    fn sources(&self, wrong: &mut Vec<FieldError>) -> Vec<PayloadSource> {
        let mut sources = Vec::new();
        let inline = self.payload.as_deref().unwrap_or_default();
        if inline.len() > MAX_PAYLOAD_BYTES {
            let message = format!(
                "has {} bytes, at most {MAX_PAYLOAD_BYTES} are possible: move parts of it to spec.payloadFrom",
                inline.len()
            );
            wrong.push(FieldError::new("spec.payload", message));
        } else if !inline.trim().is_empty() {
            sources.push(PayloadSource::Inline(inline.into()));
        }
        for (at, from) in self.payload_from.iter().enumerate() {
            let path = format!("spec.payloadFrom[{at}]");
            let (kind, key, field) = match (&from.secret_key_ref, &from.config_map_key_ref) {
                (Some(key), None) => (SourceKind::Secret, key, "secretKeyRef"),
                (None, Some(key)) => (SourceKind::ConfigMap, key, "configMapKeyRef"),
                _ => {
                    let message = "give exactly one of secretKeyRef and configMapKeyRef";
                    wrong.push(FieldError::new(path, message));
                    continue;
                }
            };
            sources.push(PayloadSource::Key { kind, key: key.clone(), path: format!("{path}.{field}") });
        }
        sources
    }
}

/// Empty is the same as absent: kubebuilder's samples write both.
fn address(path: &str, text: Option<&str>, port: u16, wrong: &mut Vec<FieldError>) -> Option<PeerAddress> {
    let text = text.map(str::trim).filter(|text| !text.is_empty())?;
    PeerAddress::parse(text, port).map_err(|error| wrong.push(FieldError::new(path, error))).ok()
}

pub(crate) fn duration(
    path: &str,
    text: &Option<String>,
    default: Duration,
    range: std::ops::RangeInclusive<Duration>,
    wrong: &mut Vec<FieldError>,
) -> Duration {
    let Some(text) = text else { return default };
    match parse_duration(text) {
        Ok(value) if range.contains(&value) => value,
        Ok(_) => {
            let [least, most] =
                [range.start(), range.end()].map(|edge| flagship_types::format_duration(*edge));
            wrong.push(FieldError::new(path, format!("{text:?} is not from {least} to {most}")));
            default
        }
        Err(error) => {
            wrong.push(FieldError::new(path, error));
            default
        }
    }
}
