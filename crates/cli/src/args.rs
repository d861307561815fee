//! Every command and flag. The reference page is made from this file.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::operator::args::{ExplainArgs, ForceLeadArgs, HistoryArgs, PauseArgs, ResumeArgs, SwitchoverArgs};
use crate::witness::WitnessArgs;

/// Keeps one workload running in exactly one of several Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(name = "flagship", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_long_help = crate::exit::HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: serve the MultiClusters of one cluster
    Run(Box<RunArgs>),
    /// Be a witness: a voter that never leads and needs no Kubernetes, for one fleet or many
    Witness(Box<WitnessArgs>),
    /// Show who leads, who is there and what is wrong
    Status(StatusArgs),
    /// Check that a failover would succeed: certificates, links, clocks, rights, agreement
    Check(CheckArgs),
    /// Explain why each member leads or not, and whether a failover would succeed right now
    Explain(ExplainArgs),
    /// Show what happened in a fleet: who came to lead, why, and how long it took
    History(HistoryArgs),
    /// Move the lead to another member: the payload stops first, then starts there
    Switchover(SwitchoverArgs),
    /// Stop everything that moves the lead by itself, in the whole fleet and through restarts
    Pause(PauseArgs),
    /// End a pause
    Resume(ResumeArgs),
    /// Print the CustomResourceDefinition as YAML
    Crd,
    /// Make and show the certificates of a fleet
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Tell the fleet what it cannot find out by itself
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Print a completion script
    Completion(CompletionArgs),
}

/// The daemon's settings.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Kubeconfig of the cluster to serve [default: the pod's own service account]
    #[arg(long, env = "FLAGSHIP_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Serve only this namespace [default: all]
    #[arg(long, env = "FLAGSHIP_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Namespace of the Leases that keep two replicas from serving one member [default: the object's]
    #[arg(long, env = "FLAGSHIP_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Let payloads hold objects of other namespaces than their MultiCluster's
    #[arg(long, env = "FLAGSHIP_ALLOW_CROSS_NAMESPACE", num_args = 0..=1, default_missing_value = "true", default_value_t = false, require_equals = true, value_name = "BOOL")]
    pub allow_cross_namespace: bool,
    /// Accepted for the sake of existing manifests; changes nothing
    #[arg(long, env = "FLAGSHIP_LEADER_ELECT", num_args = 0..=1, default_missing_value = "true", default_value_t = false, require_equals = true, value_name = "BOOL")]
    pub leader_elect: bool,
    /// What SIGTERM does while this cluster leads; in mode Quorum always as `handover`, unless another replica takes over
    #[arg(long, env = "FLAGSHIP_ON_SHUTDOWN", value_enum, default_value_t = OnShutdown::Hold)]
    pub on_shutdown: OnShutdown,
    /// What it shares with other processes.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What every process that takes part in fleets is told.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Directory with ca.crt, tls.crt and tls.key, or with CALLSIGN/MEMBER/ directories that hold them
    #[arg(long, env = "FLAGSHIP_TLS_DIR", value_name = "DIR", default_value = "/etc/flagship/tls")]
    pub tls_dir: PathBuf,
    /// Where /metrics is served; 0 switches it off
    #[arg(long, env = "FLAGSHIP_METRICS_BIND_ADDRESS", value_name = "ADDRESS", default_value = ":8080")]
    pub metrics_bind_address: BindAddress,
    /// Where /healthz, /readyz and /leader/CALLSIGN are served; 0 switches it off
    #[arg(long, env = "FLAGSHIP_HEALTH_PROBE_BIND_ADDRESS", value_name = "ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: BindAddress,
    /// How long after its expiry a member's certificate is still good for new links, whether or not that member was linked before; 0s: not at all. Links that are up stay up in any case
    #[arg(long, env = "FLAGSHIP_EXPIRED_CERTIFICATE_GRACE", value_name = "DURATION", default_value = "72h", value_parser = flagship_types::parse_duration)]
    pub expired_certificate_grace: Duration,
    /// How logs are written
    #[arg(long, env = "FLAGSHIP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives as in info,flagship_node=debug
    #[arg(long, env = "FLAGSHIP_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// What SIGTERM does while this cluster leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnShutdown {
    /// Announce a short absence; the payload runs on
    Hold,
    /// Move the lead to another cluster first
    Handover,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// Which clusters are asked.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// Kubeconfig to read [default: $KUBECONFIG, else ~/.kube/config, else the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of a cluster; give it once per cluster [default: the current context]
    #[arg(long = "context", value_name = "CONTEXT")]
    pub contexts: Vec<String>,
    /// Namespace of the MultiClusters [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `flagship status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which clusters.
    #[command(flatten)]
    pub clusters: ClusterArgs,
    /// Draw anew every second until q or Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For people with wide screens
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// `flagship check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which clusters.
    #[command(flatten)]
    pub clusters: ClusterArgs,
    /// Certificates to check, as `flagship pki init` writes them
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Secret with a member's certificates, looked for in each MultiCluster's namespace and in the daemon's
    #[arg(long, value_name = "NAME", default_value = "flagship-tls")]
    pub secret: String,
    /// The daemon's service account, as NAMESPACE:NAME
    #[arg(
        long,
        value_name = "NAMESPACE:NAME",
        default_value = "kube-vip-multi-cluster-system:kube-vip-multi-cluster-controller-manager"
    )]
    pub service_account: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = CheckOutput::Table)]
    pub output: CheckOutput,
}

/// How a check is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// For people
    Table,
    /// For programs
    Json,
}

/// `flagship pki`.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a new authority and a certificate for every member
    Init(PkiInitArgs),
    /// Make a certificate for one more member, with the authority that `init` made
    AddMember(PkiAddArgs),
    /// Show what certificates say: identity, authority, expiry
    Show(PkiShowArgs),
}

/// `flagship pki init`.
#[derive(Debug, Args)]
pub struct PkiInitArgs {
    /// Callsign of the fleet
    #[arg(long, value_name = "CALLSIGN")]
    pub fleet: flagship_types::Callsign,
    /// Name of a member (metadata.name of its MultiCluster); give it once per member
    #[arg(long = "member", value_name = "NAME", required = true)]
    pub members: Vec<flagship_types::MemberName>,
    /// SPIFFE trust domain of all certificates
    #[arg(long, value_name = "DOMAIN", default_value = flagship_types::TrustDomain::DEFAULT, value_parser = flagship_types::TrustDomain::new)]
    pub trust_domain: flagship_types::TrustDomain,
    /// Where to write; must not hold an authority yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Shared settings.
    #[command(flatten)]
    pub issue: IssueArgs,
}

/// `flagship pki add-member`.
#[derive(Debug, Args)]
pub struct PkiAddArgs {
    /// Callsign of the fleet
    #[arg(long, value_name = "CALLSIGN")]
    pub fleet: flagship_types::Callsign,
    /// Name of a member (metadata.name of its MultiCluster); give it once per member
    #[arg(long = "member", value_name = "NAME", required = true)]
    pub members: Vec<flagship_types::MemberName>,
    /// Directory that `flagship pki init` wrote
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Shared settings.
    #[command(flatten)]
    pub issue: IssueArgs,
}

/// How certificates are issued.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Namespace of the Secret manifests: where the daemon runs
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-vip-multi-cluster-system")]
    pub namespace: String,
    /// Name of the Secret manifests. Another one for each further fleet whose member the same daemon serves
    #[arg(long, value_name = "NAME", default_value = "flagship-tls")]
    pub secret_name: String,
    /// How many days the members' certificates are valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
}

/// `flagship pki show`.
#[derive(Debug, Args)]
pub struct PkiShowArgs {
    /// A certificate file, or a directory with certificates
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
}

/// `flagship fleet`.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Vouch for a member that lost its voter record, so that it may vote again
    Admit(FleetArgs),
    /// Say that a member will not come back, so that nobody waits for it
    Forget(FleetArgs),
    /// Have a member lead without the grants of those that cannot be asked: the last resort
    ForceLead(ForceLeadArgs),
}

/// A word to the fleet about one member.
#[derive(Debug, Args)]
pub struct FleetArgs {
    /// The member it is about
    #[arg(value_name = "MEMBER")]
    pub member: flagship_types::MemberName,
    /// Why; shown in Events and in the history
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    /// Callsign of the fleet; needed if the clusters hold more than one
    #[arg(long, value_name = "CALLSIGN")]
    pub fleet: Option<flagship_types::Callsign>,
    /// Which clusters.
    #[command(flatten)]
    pub clusters: ClusterArgs,
}

/// `flagship completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// For which shell
    pub shell: clap_complete::Shell,
}

/// The longest reason: it goes into an annotation, Events and the history.
const MAX_REASON_CHARS: usize = 512;

pub(crate) fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why: it is shown in Events and in the history".into()),
        text if text.chars().count() > MAX_REASON_CHARS => {
            Err(format!("at most {MAX_REASON_CHARS} characters: a sentence, not a report"))
        }
        text => Ok(text.into()),
    }
}

/// Where a server listens, as Go programs write it: `:8080`, `127.0.0.1:8080`, `[::1]:8080`; `0` switches it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

/// Why a listening address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write :PORT, IP:PORT or [IPv6]:PORT with a port from 1 to 65535, or 0 to switch it off")]
pub struct BindAddressError;

impl std::str::FromStr for BindAddress {
    type Err = BindAddressError;

    fn from_str(text: &str) -> Result<Self, BindAddressError> {
        if text == "0" {
            return Ok(Self(None));
        }
        let address = match text.strip_prefix(':') {
            Some(port) => SocketAddr::new(
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                port.parse().map_err(|_| BindAddressError)?,
            ),
            None => text.parse().map_err(|_| BindAddressError)?,
        };
        if address.port() == 0 { Err(BindAddressError) } else { Ok(Self(Some(address))) }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bind_addresses_read_as_in_go() {
        let table = [(":8080", "[::]:8080"), ("127.0.0.1:1", "127.0.0.1:1"), ("[::1]:9", "[::1]:9")];
        for (text, address) in table {
            assert_eq!(text.parse(), Ok(BindAddress(Some(address.parse().unwrap()))));
        }
        assert_eq!("0".parse(), Ok(BindAddress(None)));
        for bad in ["", ":", ":0", ":70000", "8080", "localhost:8080", "::1:80", ":x", "127.0.0.1"] {
            assert_eq!(bad.parse::<BindAddress>(), Err(BindAddressError), "{bad}");
        }
    }

    #[test]
    fn the_daemon_takes_the_flags_of_existing_manifests() {
        let args = [
            "flagship",
            "run",
            "--leader-elect",
            "--health-probe-bind-address=:8081",
            "--metrics-bind-address=0",
        ];
        let Command::Run(run) = Cli::try_parse_from(args).unwrap().command else { panic!("not run") };
        assert!(run.leader_elect && !run.allow_cross_namespace);
        assert_eq!(run.process.metrics_bind_address, BindAddress(None));
        assert_eq!(run.process.expired_certificate_grace, Duration::from_secs(72 * 3600));
        assert_eq!(run.on_shutdown, OnShutdown::Hold);
        let args = ["flagship", "run", "--leader-elect=false", "--allow-cross-namespace=true"];
        let Command::Run(run) = Cli::try_parse_from(args).unwrap().command else { panic!("not run") };
        assert!(!run.leader_elect && run.allow_cross_namespace);
    }

    #[test]
    fn wrong_usage_is_refused_with_a_reason() {
        for (args, said) in [
            (&["run", "--metrics-bind-address", "8080"][..], "write :PORT"),
            (&["run", "--expired-certificate-grace", "3d"], "is not a duration"),
            (&["run", "--on-shutdown", "explode"], "possible values: hold, handover"),
            (&["status", "-n", "a", "-A"], "cannot be used with"),
            (&["fleet", "forget", "newyork"], "--reason"),
            (&["fleet", "forget", "newyork", "--reason", " "], "say why"),
            (&["fleet", "forget", "New York", "--reason", "x"], "lower-case"),
            (&["pause"], "--reason"),
            (&["pause", "--reason", &"é".repeat(200)], "at most 256 bytes"),
            (&["switchover", "--to", "New York"], "lower-case"),
            (&["fleet", "force-lead", "--reason", "x", "--i-have-stopped", "a"], "--above-term"),
            (&["fleet", "force-lead", "--reason", "x", "--above-term", "3"], "--i-have-stopped"),
            (&["pki", "init", "--fleet", "a/b", "--member", "x", "--out", "d"], "not allowed"),
            (&["pki", "init", "--fleet", "f", "--member", "x", "--out", "d", "--days", "0"], "1..=3650"),
        ] {
            let error = Cli::try_parse_from([&["flagship"], args].concat()).unwrap_err().to_string();
            assert!(error.contains(said), "{args:?}: {error}");
        }
    }
}
