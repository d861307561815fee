//! What is typed to move the lead, to stop it from moving, and to find out why it is where it is.

use std::time::Duration;

use clap::Args;
use flagship_types::{Callsign, MemberName};

use crate::args::{ClusterArgs, Output, reason};

/// Which fleet.
#[derive(Debug, Args)]
pub struct FleetChoice {
    /// Callsign of the fleet; needed if the clusters hold more than one
    #[arg(long, value_name = "CALLSIGN")]
    pub fleet: Option<Callsign>,
    /// Which clusters.
    #[command(flatten)]
    pub clusters: ClusterArgs,
}

/// `flagship pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Why; shown by every member for as long as the pause lasts
    #[arg(long, value_name = "TEXT", value_parser = short_reason)]
    pub reason: String,
    /// How long to wait until everybody has stored it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = flagship_types::parse_duration)]
    pub timeout: Duration,
    /// Which fleet.
    #[command(flatten)]
    pub fleet: FleetChoice,
}

/// `flagship resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Why; shown in Events and in the history
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// How long to wait until everybody has stored it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = flagship_types::parse_duration)]
    pub timeout: Duration,
    /// Which fleet.
    #[command(flatten)]
    pub fleet: FleetChoice,
}

/// `flagship switchover`.
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The member that is to lead [default: the best healthy one]
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<MemberName>,
    /// Ask the leader who would get the lead and whether that one is fit; nothing moves
    #[arg(long)]
    pub dry_run: bool,
    /// Why; shown in Events and in the history
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// Wait until the new leader's payload is ready, and show how far it is
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = true, require_equals = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = flagship_types::parse_duration)]
    pub timeout: Duration,
    /// Which fleet.
    #[command(flatten)]
    pub fleet: FleetChoice,
}

/// `flagship fleet force-lead`.
#[derive(Debug, Args)]
pub struct ForceLeadArgs {
    /// The member that is to lead [default: the only one of the clusters given whose daemon runs]
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<MemberName>,
    /// The highest term that anybody knows, as in flagship status; the new one is above it
    #[arg(long, value_name = "TERM")]
    pub above_term: u64,
    /// Members that you have stopped for good, payload and all: everybody that cannot be reached and might lead
    #[arg(long, value_name = "MEMBER[,MEMBER]", value_delimiter = ',', num_args = 0.., required = true)]
    pub i_have_stopped: Vec<MemberName>,
    /// Why; shown in Events and in the history
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    /// How long to wait until it leads
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = flagship_types::parse_duration)]
    pub timeout: Duration,
    /// Which fleet.
    #[command(flatten)]
    pub fleet: FleetChoice,
}

/// `flagship history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only how leads began
    #[arg(long)]
    pub leads: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Which fleet.
    #[command(flatten)]
    pub fleet: FleetChoice,
}

/// `flagship explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Which fleet.
    #[command(flatten)]
    pub fleet: FleetChoice,
}

/// It goes into the fleet configuration that every member stores.
fn short_reason(text: &str) -> Result<String, String> {
    let text = reason(text)?;
    let most = flagship_types::Pause::MAX_REASON;
    if text.len() > most {
        return Err(format!("at most {most} bytes: a sentence, not a report"));
    }
    Ok(text)
}
