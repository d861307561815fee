//! The `flagship` binary: reads the command line and joins the rooms. Everything that decides is in a crate.

mod joiner;
mod logging;
mod observer;
mod process;
mod run;
mod witness;

use std::process::ExitCode;

use flagship_cli::{Dispatched, Exit, Stop};

fn main() -> ExitCode {
    // One provider for all of rustls, chosen before anything can build a configuration. It can only be set
    // already if a library did so, and there is only one that is compiled in.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = flagship_cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flagship: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match flagship_cli::dispatch(cli.command).await {
            Ok(Dispatched::Done(exit)) => exit.into(),
            Ok(Dispatched::Run(args)) => ended(run::run(*args).await),
            Ok(Dispatched::Witness(args)) => match args.fleets() {
                Ok(fleets) => ended(witness::run(*args, fleets).await),
                Err(stop) => stopped(&stop),
            },
            Err(stop) => stopped(&stop),
        }
    })
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            eprintln!("flagship: {error:#}");
            Exit::Failure.into()
        }
    }
}

fn stopped(stop: &Stop) -> ExitCode {
    eprintln!("flagship: {stop}");
    stop.exit.into()
}
