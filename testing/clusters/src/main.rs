//! `clusters`: makes local Kubernetes clusters, shows a failover between two, and measures many.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clusters::cluster::{Cluster, Options};
use clusters::daemon::Listening;
use clusters::harness::Harness;
use clusters::isolate::{Isolation, reexec_in_namespaces};
use clusters::network::Mode;
use clusters::{demo, kind, kubeconfig, measure};

/// Local Kubernetes clusters for Flagship: make one, remove it, watch a failover, or measure failovers.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct ClusterArgs {
    /// Name of the cluster to make, and of its context.
    #[arg(long)]
    name: Option<String>,
    /// The address at which other members reach this cluster's daemon, of 172.18.0.0/16.
    #[arg(long, value_name = "ADDRESS")]
    svc_address: Option<Ipv4Addr>,
    /// What makes the cluster.
    #[arg(long, value_enum, default_value_t = Provider::Local)]
    provider: Provider,
    /// The node image of a kind cluster [default: kind's own, from its registry].
    #[arg(long, value_name = "IMAGE")]
    node_image: Option<String>,
    /// Build the image anew, load it into the kind cluster with this --name or into all, apply deploy/install.yaml and
    /// roll the Deployments one after the other. MultiClusters and payload stay as they are: nothing is recreated.
    #[arg(long)]
    reload: bool,
    /// Remove the cluster with this --name, or all clusters, and whatever a crash left of them.
    #[arg(long)]
    force_clean: bool,
    /// Also add the context to your own kubeconfig.
    #[arg(long)]
    merge_kubeconfig: bool,
    /// Where the clusters' files are kept [default: ~/.cache/flagship/clusters].
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// How many nodes the cluster shows. A kind cluster has so many: that of the control plane, and workers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Provider {
    /// Real control-plane processes on this machine; you start the daemons.
    Local,
    /// Real kind clusters (needs docker and kind) with the daemon in a pod, its certificates and its Service.
    /// The same command again repairs a cluster. Records and the fleet's CA are in STATE_DIR/kind.
    Kind,
}

#[derive(Subcommand)]
enum Command {
    /// Two clusters, two daemons, a killed leader: what happens, and how long it takes.
    Demo,
    /// Repeats failovers and planned moves and prints the median and the worst time.
    Measure(measure::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Some(Command::Demo) => {
            let mode = match isolated(cli.cluster.state_dir.as_deref()).await? {
                Placement::Here(mode) => mode,
                Placement::Done(code) => return Ok(code),
            };
            interruptible(demo::run(mode)).await
        }
        Some(Command::Measure(arguments)) => {
            let mode = match isolated(cli.cluster.state_dir.as_deref()).await? {
                Placement::Here(Mode::Namespaces) => Mode::Namespaces,
                Placement::Here(Mode::Loopback) if arguments.needs_networks() => {
                    bail!(
                        "the scenarios cut, cut-three and switchover-quorum need network namespaces, which this machine refuses (see above)"
                    )
                }
                Placement::Here(Mode::Loopback) => Mode::Loopback,
                Placement::Done(code) => return Ok(code),
            };
            interruptible(measure::run(mode, arguments)).await
        }
        None => one_cluster(cli.cluster).await,
    }
}

enum Placement {
    Here(Mode),
    Done(ExitCode),
}

/// Moves this program into namespaces of its own, or says why not.
async fn isolated(state_dir: Option<&Path>) -> Result<Placement> {
    if state_dir.is_some() {
        bail!(
            "--state-dir is for clusters that stay: demo and measure keep their files in a temporary directory"
        );
    }
    Ok(match reexec_in_namespaces().await? {
        Isolation::Inside => Placement::Here(Mode::Namespaces),
        Isolation::Ran(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Placement::Done(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        Isolation::Refused(reason) => {
            note(&format!("This machine refuses network namespaces ({reason})."));
            note(
                "All clusters share 127.0.0.1 instead, on distinct ports; the manifests' addresses are replaced.",
            );
            Placement::Here(Mode::Loopback)
        }
    })
}

/// Ends early on Ctrl-C, so that everything that was started is dropped, and ended with that.
async fn interruptible(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    tokio::select! {
        result = work => result.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => {
            note("Interrupted: everything that was started is stopped.");
            Ok(ExitCode::from(130))
        }
    }
}

async fn one_cluster(args: ClusterArgs) -> Result<ExitCode> {
    if matches!(args.provider, Provider::Kind) {
        return kind_cluster(args).await;
    }
    if args.node_image.is_some() || args.reload {
        bail!("--node-image and --reload are for --provider kind");
    }
    let mode = if nix::unistd::geteuid().is_root() { Mode::Namespaces } else { Mode::Loopback };
    let state_dir = state_dir(args.state_dir)?;
    if args.force_clean {
        let harness = Harness::for_removal(&state_dir, mode)?;
        return clean(&harness, args.name, args.merge_kubeconfig).await;
    }
    let name = args.name.context("--name is needed: the name of the cluster to make, for example newyork")?;
    let address = match (args.svc_address, mode) {
        (Some(address), _) => address,
        (None, Mode::Loopback) => Ipv4Addr::LOCALHOST,
        (None, Mode::Namespaces) => {
            bail!("--svc-address is needed: the address of this cluster's daemon, for example 172.18.100.100")
        }
    };
    let harness = Harness::open(&state_dir, mode)?;
    let options = Options { nodes: args.nodes, ..Options::new(&name, address) };
    let mut cluster = match interrupted(harness.start(options)).await {
        Some(started) => started?,
        None => {
            note("Interrupted: the half-made cluster is removed.");
            harness.remove(&name).await?;
            harness.close_network()?;
            return Ok(ExitCode::from(130));
        }
    };
    if args.merge_kubeconfig {
        cluster.merge_kubeconfig(&kubeconfig::users_own()?)?;
    }
    cluster.detach().await?;
    explain(&harness, &cluster, args.merge_kubeconfig)?;
    Ok(ExitCode::SUCCESS)
}

async fn kind_cluster(args: ClusterArgs) -> Result<ExitCode> {
    // kind itself adds the context to the user's own kubeconfig, so that --merge-kubeconfig asks for what is so.
    kind::run(kind::Arguments {
        state_dir: state_dir(args.state_dir)?,
        name: args.name,
        svc_address: args.svc_address,
        node_image: args.node_image,
        force_clean: args.force_clean,
        reload: args.reload,
        nodes: args.nodes,
    })
    .await
}

fn state_dir(given: Option<PathBuf>) -> Result<PathBuf> {
    given.map_or_else(Harness::default_state_dir, Ok)
}

/// `None` if Ctrl-C came first.
async fn interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        result = work => Some(result),
        _ = tokio::signal::ctrl_c() => None,
    }
}

async fn clean(harness: &Harness, name: Option<String>, merged: bool) -> Result<ExitCode> {
    let names = match name {
        Some(name) => vec![name],
        None => harness.names()?,
    };
    for name in &names {
        harness.remove(name).await?;
        if merged {
            kubeconfig::remove(&kubeconfig::users_own()?, name)?;
        }
        note(&format!("Removed {name}."));
    }
    harness.close_network()?;
    if names.is_empty() {
        note(&format!("No clusters in {}.", harness.state_dir().display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(harness: &Harness, cluster: &Cluster, merged: bool) -> Result<()> {
    let name = cluster.name();
    let mut out = std::io::stdout().lock();
    if cluster.found_running() {
        writeln!(out, "Cluster {name} runs already and is healthy.")?;
    } else {
        writeln!(out, "Cluster {name} is ready.")?;
    }
    if merged {
        writeln!(out, "\n  kubectl --context {name} get nodes")?;
    } else {
        writeln!(out, "\n  export KUBECONFIG={}", harness.kubeconfig().display())?;
        writeln!(out, "  kubectl --context {name} get nodes")?;
    }
    let mut own_ports = String::new();
    let inside = if cluster.has_own_network() {
        writeln!(
            out,
            "\nIts daemon's address is {}. Start the daemon inside the cluster's network:",
            cluster.service_address()
        )?;
        format!("nsenter --net --target {} ", cluster.namespace_pid())
    } else {
        // The only daemon in its network has the default ports; of two on one address, each needs its own.
        own_ports = format!(" {}", Listening::of(cluster)?.flags().join(" "));
        writeln!(
            out,
            "\nWithout root all clusters share 127.0.0.1: --svc-address has no effect, and in the manifests"
        )?;
        writeln!(out, "serviceAddress must be 127.0.0.1, each with its own port. Start the daemon:")?;
        String::new()
    };
    writeln!(
        out,
        "\n  {inside}flagship run --kubeconfig {} --tls-dir CERTIFICATES/{name} --lease-namespace {}{own_ports}",
        cluster.daemon_kubeconfig().display(),
        cluster.lease_namespace()
    )?;
    writeln!(out, "\nLogs are in {}. Remove the cluster:", cluster.dir().join("logs").display())?;
    let merged = if merged { " --merge-kubeconfig" } else { "" };
    writeln!(out, "\n  {}{merged}", harness.removal_command(name))?;
    if !cluster.daemon_is_restricted() {
        note(
            "deploy/install.yaml is missing in this checkout: the daemon's kubeconfig is the administrator's.",
        );
    }
    Ok(())
}

fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
