//! The `flagship` binary: reads the command line and joins the rooms. Everything that decides is in a crate.

mod joiner;
mod logging;
mod observer;
mod run;

use std::process::ExitCode;

use clap::Parser;
use flagship_cli::{Cli, Command};

fn main() -> ExitCode {
    // One provider for all of rustls, chosen before anything can build a configuration.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flagship: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match cli.command {
        Command::Run(args) => runtime.block_on(run::run(*args)),
        command => runtime.block_on(flagship_cli::dispatch(command)),
    }
}
