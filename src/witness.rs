//! `flagship witness`: composes the witness from its rooms and ends it in order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use flagship_cli::{WitnessArgs, WitnessFleet};
use flagship_node::{LocalHello, MachineConfig, Store};
use flagship_telemetry::Telemetry;
use flagship_transport::{Attachment, Endpoint, Listen, Transport};
use flagship_types::{Callsign, CloseCode, MemberName};
use flagship_witness::{FleetSettings, Joined, Joiner, Settings, Witness};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{logging, process};

/// Runs until SIGTERM or SIGINT; a second signal ends the process at once.
pub(crate) async fn run(args: WitnessArgs, fleets: Vec<WitnessFleet>) -> Result<()> {
    logging::init(args.process.log_format, &args.process.log_level).map_err(|error| anyhow!(error))?;
    // First of all: a record that cannot be believed ends this before anybody can see it.
    let witness = Witness::open(settings(&args, fleets), &args.state_dir)?;
    let telemetry = Telemetry::new();
    let bound = process::bind(&telemetry, &args.process).await?;
    let transport = process::transport(&telemetry, &args.process);
    let listen = listen(args.listen);
    let joiner = Links { transport: transport.clone(), telemetry: telemetry.clone(), listen };
    telemetry.readiness().set("witness", Ok(()));

    let stop = CancellationToken::new();
    process::stop_at_signals(&stop)?;
    // The servers go on while the nodes end, so that a probe does not call an orderly end a failure.
    let serving = CancellationToken::new();
    let servers = tokio::spawn(bound.serve(serving.clone()));
    let certificates = tokio::spawn(process::show_certificates(telemetry, transport));
    info!(version = env!("CARGO_PKG_VERSION"), state_dir = %args.state_dir.display(), "flagship is a witness");
    let ended = witness.run(Arc::new(joiner), stop).await;
    certificates.abort();
    serving.cancel();
    servers.await.context("the HTTP servers")?;
    ended?;
    info!("flagship has ended in order");
    Ok(())
}

fn settings(args: &WitnessArgs, fleets: Vec<WitnessFleet>) -> Settings {
    let fleet = |WitnessFleet { callsign, name, seeds, admit }| FleetSettings {
        callsign,
        member: name,
        seeds,
        admit,
    };
    Settings {
        fleets: fleets.into_iter().map(fleet).collect(),
        address: args.service_address.clone(),
        beat_interval: args.beat_interval,
        silence_floor: args.silence_floor,
    }
}

/// All addresses of this host are what the transport takes without one, be there IPv6 or not.
fn listen(address: SocketAddr) -> Listen {
    let ip = match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => None,
        ip => Some(ip),
    };
    Listen { address: ip, port: address.port() }
}

/// Gives the witness's nodes links over the process's transport, all on one port, and shows them in the metrics.
struct Links {
    transport: Transport,
    telemetry: Telemetry,
    listen: Listen,
}

#[async_trait]
impl Joiner for Links {
    async fn names(&self, callsign: &Callsign) -> Result<Vec<MemberName>, String> {
        self.transport.members(callsign.clone()).await.map_err(|error| error.to_string())
    }

    async fn join(&self, machine: MachineConfig, store: Arc<dyn Store>) -> Result<Joined, String> {
        let hello = LocalHello {
            callsign: machine.callsign.clone(),
            member: machine.member.clone(),
            epoch: machine.epoch,
            address: machine.spec.address.clone(),
            view_hash: 0,
        };
        let attached = self.transport.attach(Endpoint { hello, listen: self.listen }).await;
        let Attachment { links, signer, events, local, detach } =
            attached.map_err(|error| error.to_string())?;
        info!(%local, "listening");
        let (node, events, task) = flagship_node::spawn(machine, links, signer, events, store);
        let shown = self.telemetry.fleets().add(node.clone());
        let ended = tokio::spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "the node ended badly");
            }
            detach.close(CloseCode::ShuttingDown).await;
        });
        Ok(Joined { node, events, ended, shown: Box::new(shown) })
    }
}
