//! `flagship run`: composes the daemon from its rooms and ends it in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use flagship_cli::{OnShutdown, RunArgs};
use flagship_controller::{Controller, Options};
use flagship_telemetry::Telemetry;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::joiner::TransportJoiner;
use crate::observer::TelemetryObserver;
use crate::{logging, process};

/// How long a connection to the API server may take.
const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a watch may be silent before it is taken up anew: an API server sends a bookmark about every minute,
/// so more than that means that nobody is there. (Every other call has a much shorter timeout of its own.)
const API_READ_TIMEOUT: Duration = Duration::from_secs(90);
/// Runs until SIGTERM or SIGINT; a second signal ends the process at once.
pub(crate) async fn run(args: RunArgs) -> Result<()> {
    logging::init(args.process.log_format, &args.process.log_level).map_err(|error| anyhow!(error))?;
    let telemetry = Telemetry::new();
    let bound = process::bind(&telemetry, &args.process).await?;
    let client = client(&args).await?;
    let transport = process::transport(&telemetry, &args.process);
    let joiner = Arc::new(TransportJoiner::new(transport.clone()));
    let observer = Arc::new(TelemetryObserver::new(telemetry.clone()));
    let controller = Controller::new(client, options(&args), joiner, observer);
    telemetry.readiness().set("controller", Ok(()));

    let stop = CancellationToken::new();
    process::stop_at_signals(&stop)?;
    // The servers go on while the members end, so that a probe does not call an orderly end a failure.
    let serving = CancellationToken::new();
    let servers = tokio::spawn(bound.serve(serving.clone()));
    let certificates = tokio::spawn(process::show_certificates(telemetry, transport));
    info!(version = env!("CARGO_PKG_VERSION"), "flagship runs");
    controller.run(stop).await;
    certificates.abort();
    serving.cancel();
    servers.await.context("the HTTP servers")?;
    info!("flagship has ended in order");
    Ok(())
}

async fn client(args: &RunArgs) -> Result<Client> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            // The library's errors repeat their sources.
            let unusable = |error| {
                anyhow!("--kubeconfig {}: {error}; give the file of the cluster to serve", path.display())
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
        None => Config::incluster().map_err(|error| anyhow!("{}", no_cluster(&error)))?,
    };
    // Retries live in the controller's step loop alone, where leadership is checked before each.
    config.default_retry = false;
    config.connect_timeout = Some(API_CONNECT_TIMEOUT);
    config.read_timeout = Some(API_READ_TIMEOUT);
    Client::try_from(config).context("cannot set up the connection to the API server")
}

/// What to say where there is neither a kubeconfig nor a service account.
fn no_cluster(error: &dyn std::error::Error) -> String {
    format!(
        "no cluster to serve. Neither --kubeconfig nor FLAGSHIP_KUBECONFIG is set, and the service account of a pod, \
         in /var/run/secrets/kubernetes.io/serviceaccount, cannot be used ({error}). A daemon reads neither KUBECONFIG \
         nor ~/.kube/config unless it is told to. Outside of a cluster: flagship run --kubeconfig ~/.kube/config, with \
         its current-context set to the cluster to serve; in a pod: set automountServiceAccountToken: true"
    )
}

fn options(args: &RunArgs) -> Options {
    Options {
        namespace: args.namespace.clone(),
        lease_namespace: args.lease_namespace.clone(),
        allow_cross_namespace: args.allow_cross_namespace,
        holder: holder(args),
        node: std::env::var("NODE_NAME").ok().filter(|node| !node.is_empty()),
        on_shutdown: match args.on_shutdown {
            OnShutdown::Hold => flagship_controller::OnShutdown::Hold,
            OnShutdown::Handover => flagship_controller::OnShutdown::Handover,
        },
    }
}

/// The pod's uid, which a restarted container keeps and no other replica has. Outside of a pod the host and the
/// metrics address, which two daemons on one host cannot share.
fn holder(args: &RunArgs) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".into());
    match std::env::var("POD_UID") {
        Ok(uid) if !uid.is_empty() => uid,
        _ => match args.process.metrics_bind_address.0 {
            Some(address) => format!("{}/{address}", host().trim()),
            None => format!("{}/{}", host().trim(), std::process::id()),
        },
    }
}
