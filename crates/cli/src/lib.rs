//! The verbs of the command line: they read and write MultiClusters through the kubeconfig, and files of
//! certificates. They run no daemon and decide nothing for the fleet; `run` and `witness` are only described here.

mod args;
mod check;
mod cluster;
mod exit;
mod fleet;
mod leases;
mod liveness;
mod operator;
mod out;
mod pki;
mod reference;
mod status;
mod style;
mod witness;

use clap::{CommandFactory as _, FromArgMatches as _};

pub use args::{BindAddress, BindAddressError, Cli, Command, LogFormat, OnShutdown, ProcessArgs, RunArgs};
pub use exit::{Exit, Stop};
pub use reference::cli_reference;
pub use witness::{WitnessArgs, WitnessFleet};

/// Reads the command line. Under the name `kubectl-vip_multicluster` help and usage speak of
/// `kubectl vip-multicluster`. Ends the process for `--help`, `--version` and wrong usage.
pub fn parse() -> Cli {
    let called = std::env::args_os().next().unwrap_or_default();
    let matches = command(&called.to_string_lossy()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn command(called: &str) -> clap::Command {
    let file = std::path::Path::new(called).file_stem().unwrap_or_default();
    if file == PLUGIN { Cli::command().bin_name("kubectl vip-multicluster") } else { Cli::command() }
}

/// The file name that makes this a kubectl plugin.
const PLUGIN: &str = "kubectl-vip_multicluster";

/// Carries out every command but `run` and `witness`, which are given back to the caller. Errors are for standard error: what
/// happened and what to do next.
pub async fn dispatch(command: Command) -> Result<Dispatched, Stop> {
    let exit = match command {
        Command::Run(args) => return Ok(Dispatched::Run(args)),
        Command::Witness(args) => return Ok(Dispatched::Witness(args)),
        Command::Status(args) => status::run(&args).await?,
        Command::Check(args) => check::run(&args).await?,
        Command::Explain(args) => operator::explain::run(&args).await?,
        Command::History(args) => operator::history::run(&args).await?,
        Command::Switchover(args) => operator::switchover::run(&args).await?,
        Command::Pause(args) => operator::pause::pause(&args).await?,
        Command::Resume(args) => operator::pause::resume(&args).await?,
        Command::Crd => crd()?,
        Command::Pki(command) => pki::run(&command)?,
        Command::Fleet(command) => fleet::run(&command).await?,
        Command::Completion(args) => completion(args.shell)?,
    };
    Ok(Dispatched::Done(exit))
}

/// What became of a command.
#[derive(Debug)]
pub enum Dispatched {
    /// It was carried out.
    Done(Exit),
    /// The daemon is to be run.
    Run(Box<RunArgs>),
    /// The witness is to be run.
    Witness(Box<WitnessArgs>),
}

fn crd() -> Result<Exit, Stop> {
    let yaml = flagship_k8s_api::crd_yaml();
    out::print(&yaml.map_err(|error| Stop::failure(format!("the definition cannot be written: {error}")))?)?;
    Ok(Exit::Success)
}

fn completion(shell: clap_complete::Shell) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flagship", &mut script);
    out::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
