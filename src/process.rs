//! What the processes that take part in fleets have in common: signals, and the figures of their links.

use flagship_cli::ProcessArgs;
use flagship_telemetry::{Addresses, Bound, FrameFigures, LinkFigures, ServeError, Telemetry};
use flagship_transport::{Transport, TransportOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Takes the addresses of the HTTP servers.
pub(crate) async fn bind(telemetry: &Telemetry, args: &ProcessArgs) -> Result<Bound, ServeError> {
    let addresses =
        Addresses { metrics: args.metrics_bind_address.0, health: args.health_probe_bind_address.0 };
    telemetry.bind(addresses).await
}

/// The links of this process, with their figures in its metrics.
pub(crate) fn transport(telemetry: &Telemetry, args: &ProcessArgs) -> Transport {
    let transport = Transport::new(TransportOptions {
        tls_dir: args.tls_dir.clone(),
        expired_certificate_grace: args.expired_certificate_grace,
    });
    show_links(telemetry, &transport);
    transport
}

/// Ends `stop` at SIGTERM or SIGINT; a second signal ends the process at once.
pub(crate) fn stop_at_signals(stop: &CancellationToken) -> std::io::Result<()> {
    let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    tokio::spawn(watch_signals(signals, stop.clone()));
    Ok(())
}

/// The first signal asks for an end in order, the second ends at once.
async fn watch_signals([mut terminate, mut interrupt]: [Signal; 2], stop: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let name = next().await;
    info!(signal = name, "ending in order; the same signal again ends at once");
    stop.cancel();
    let name = next().await;
    tracing::warn!(signal = name, "ending at once");
    std::process::exit(130);
}

/// Lets every scrape read the transport's counters.
fn show_links(telemetry: &Telemetry, transport: &Transport) {
    let transport = transport.clone();
    telemetry.recorder().links_from(move || {
        let stats = transport.stats();
        let frame = |count: &flagship_transport::FrameCount| FrameFigures {
            sent: count.sent,
            kind: count.kind.as_str(),
            frames: count.frames,
            bytes: count.bytes,
        };
        LinkFigures {
            frames: stats.frames.iter().map(frame).collect(),
            refused: stats.handshakes.iter().filter(|h| h.result != "ok").fold(
                Vec::new(),
                |mut sums, handshake| {
                    match sums.iter_mut().find(|(result, _)| *result == handshake.result) {
                        Some((_, sum)) => *sum += handshake.count,
                        None => sums.push((handshake.result, handshake.count)),
                    }
                    sums
                },
            ),
            statements_verified: stats.statements_verified,
            statements_refused: stats.statements_refused,
        }
    });
}

/// Keeps the expiry of the certificates in use in the metrics, as often as the transport looks for new ones.
pub(crate) async fn show_certificates(telemetry: Telemetry, transport: Transport) {
    let mut tick = tokio::time::interval(flagship_transport::RELOAD_INTERVAL);
    loop {
        tick.tick().await;
        for certificate in transport.certificates() {
            if let Some(recorder) = telemetry.fleets().recorder(&certificate.callsign, &certificate.member) {
                recorder.certificate_expiry(Some(certificate.not_after));
            }
        }
    }
}
