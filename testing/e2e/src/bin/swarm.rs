//! `swarm`: many real nodes in one process; what each costs, and how soon the others notice one that is gone.
#![allow(clippy::print_stdout, reason = "the report is its output")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flagship_e2e::swarm::{Options, run};

/// Runs many real nodes in one process: tokio, tonic and mutual TLS over loopback. Fails if not all come to know all,
/// if somebody is taken for gone who is not, or the other way round.
#[derive(Debug, Parser)]
#[command(name = "swarm")]
struct Arguments {
    /// Nodes
    #[arg(long, default_value_t = 100)]
    members: usize,
    /// How many of them may lead [default: 8, or all if there are fewer that stay]
    #[arg(long)]
    electors: Option<usize>,
    /// Seconds for which the fleet at rest is measured, before members are lost: less than 70, and observers still
    /// remember how late beats were while all booted at once, and wait longer for that
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    rest: u64,
    /// Members that end, and as many that fall silent, one after the other
    #[arg(long, default_value_t = 3)]
    losses: usize,
    /// Seconds until all must know all
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    boot_limit: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        let stay = self.members.saturating_sub(self.losses.saturating_mul(2));
        Options {
            members: self.members,
            electors: self.electors.unwrap_or_else(|| stay.clamp(1, 8)),
            rest: Duration::from_secs(self.rest),
            losses: self.losses,
            boot_limit: Duration::from_secs(self.boot_limit),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = arguments.options();
    if let Err(error) = options.check() {
        eprintln!("swarm: {error}");
        return ExitCode::from(2);
    }
    let found = run(&options, |step| eprintln!("swarm: {step}")).await;
    let report = match found {
        Ok(report) => report,
        Err(error) => {
            eprintln!("swarm: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match arguments.json {
        true => println!("{:#}", report.to_json()),
        false => print!("{report}"),
    }
    let failures = report.failures();
    for failure in &failures {
        eprintln!("swarm: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
