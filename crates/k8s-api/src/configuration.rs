//! The fleet configuration as a member's status keeps it across restarts.

use std::time::Duration;

use flagship_types::{ConfigVersion, FleetConfig, MemberName, Pause, format_duration, parse_duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::FieldError;
use crate::status::exact_duration;

/// The fleet configuration stored here. The highest version in the fleet is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Its version.
    pub version: i64,
    /// Availability or Quorum.
    pub mode: String,
    /// Mode Quorum: whose majority grants the lead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<String>,
    /// Mode Quorum: for how long a voter promises the lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_duration: Option<String>,
    /// Mode Quorum: how long a leader's cluster may take to stop the payload once the lease is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<String>,
    /// An operator stopped everything that moves the lead by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseStatus>,
    /// Automatic or Manual.
    pub failback: String,
    /// How long a better member must have been healthy before it takes the lead back.
    pub failback_delay: String,
    /// How long a leader whose daemon ended may take to restart.
    pub restart_grace: String,
}

/// An operator stopped everything that moves the lead by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseStatus {
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl From<&FleetConfig> for ConfigurationStatus {
    fn from(config: &FleetConfig) -> Self {
        let quorum = config.mode == flagship_types::Mode::Quorum;
        let failback = match config.failback {
            flagship_types::Failback::Automatic => "Automatic",
            flagship_types::Failback::Manual => "Manual",
        };
        Self {
            version: i64::try_from(config.version.0).unwrap_or(i64::MAX),
            mode: config.mode.as_str().into(),
            voters: config.voters.iter().map(|name| name.as_str().into()).collect(),
            lease_duration: quorum.then(|| exact_duration(config.lease)),
            stop_grace: quorum.then(|| exact_duration(config.stop_grace)),
            pause: config.pause.as_ref().map(|pause| PauseStatus {
                since_ms: i64::try_from(pause.since_ms).unwrap_or(i64::MAX),
                reason: pause.reason.clone(),
            }),
            failback: failback.into(),
            failback_delay: exact_duration(config.failback_delay),
            restart_grace: exact_duration(config.restart_grace),
        }
    }
}

impl ConfigurationStatus {
    /// The stored configuration.
    ///
    /// # Errors
    /// The first field that is not what a daemon of this version writes, below `path`: a person or a damaged backup wrote
    /// it, or a newer version. What it meant is not guessed.
    pub fn parse(&self, path: &str) -> Result<FleetConfig, FieldError> {
        let mode = match self.mode.as_str() {
            "Availability" => flagship_types::Mode::Availability,
            "Quorum" => flagship_types::Mode::Quorum,
            other => {
                let message = format!("{other:?} is no mode: Availability or Quorum is expected");
                return Err(FieldError::new(format!("{path}.mode"), message));
            }
        };
        let failback = match self.failback.as_str() {
            "Automatic" => flagship_types::Failback::Automatic,
            "Manual" => flagship_types::Failback::Manual,
            other => {
                let message = format!("{other:?} is unknown: Automatic or Manual is expected");
                return Err(FieldError::new(format!("{path}.failback"), message));
            }
        };
        let default = FleetConfig::default();
        let optional = |field: &str, text: Option<&String>, default: Duration| {
            text.map_or(Ok(default), |text| lasting(format!("{path}.{field}"), text))
        };
        Ok(FleetConfig {
            version: ConfigVersion(whole(format!("{path}.version"), self.version)?),
            mode,
            voters: self.parse_voters(mode, path)?,
            lease: optional("leaseDuration", self.lease_duration.as_ref(), default.lease)?,
            stop_grace: optional("stopGrace", self.stop_grace.as_ref(), default.stop_grace)?,
            pause: self.pause.as_ref().map(|pause| pause.parse(path)).transpose()?,
            failback,
            failback_delay: lasting(format!("{path}.failbackDelay"), &self.failback_delay)?,
            restart_grace: lasting(format!("{path}.restartGrace"), &self.restart_grace)?,
        })
    }

    fn parse_voters(&self, mode: flagship_types::Mode, path: &str) -> Result<Vec<MemberName>, FieldError> {
        let path = format!("{path}.voters");
        let (given, most) = (self.voters.len(), FleetConfig::MAX_VOTERS);
        let name = |(at, name): (usize, &String)| {
            MemberName::new(name).map_err(|error| FieldError::new(format!("{path}[{at}]"), error))
        };
        let mut voters = self.voters.iter().enumerate().map(name).collect::<Result<Vec<_>, _>>()?;
        voters.sort();
        voters.dedup();
        if given > most || (voters.is_empty() && mode == flagship_types::Mode::Quorum) {
            return Err(FieldError::new(
                path,
                format!("has {given} names: in mode Quorum 1 to {most} are expected"),
            ));
        }
        Ok(voters)
    }
}

impl PauseStatus {
    fn parse(&self, path: &str) -> Result<Pause, FieldError> {
        let most = self.reason.floor_char_boundary(Pause::MAX_REASON);
        let since_ms = whole(format!("{path}.pause.sinceMs"), self.since_ms)?;
        Ok(Pause { since_ms, reason: self.reason[..most].into() })
    }
}

fn whole(path: String, number: i64) -> Result<u64, FieldError> {
    u64::try_from(number)
        .map_err(|_| FieldError::new(path, format!("is {number}: a number from 0 is expected")))
}

fn lasting(path: String, text: &str) -> Result<Duration, FieldError> {
    match parse_duration(text) {
        Ok(time) if time <= FleetConfig::LONGEST => Ok(time),
        Ok(_) => {
            let most = format_duration(FleetConfig::LONGEST);
            Err(FieldError::new(path, format!("{text:?} is too long: at most {most} are expected")))
        }
        Err(error) => Err(FieldError::new(path, error)),
    }
}
