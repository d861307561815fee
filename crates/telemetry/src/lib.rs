//! What the process shows of itself to machines: metrics, health, readiness and who leads, over HTTP. It reads
//! pictures of nodes and counts what others report; it decides nothing and knows neither Kubernetes nor links.

mod exposition;
mod fleets;
mod http;
mod member;
mod metric;
mod page;
mod process;
mod readiness;
mod reference;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use fleets::{Fleets, Running};
pub use member::{MemberRecorder, Outcome, Phase};
pub use metric::{Kind, METRICS, Metric};
pub use process::{FrameFigures, LinkFigures, Recorder};
pub use readiness::Readiness;
pub use reference::metrics_reference;
pub use server::ServeError;

/// Everything that is shown. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    fleets: Fleets,
    recorder: Recorder,
    readiness: Readiness,
}

/// Where to serve; `None` switches that server off. Both may be the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// `/healthz`, `/readyz` and `/leader/<callsign>`.
    pub health: Option<SocketAddr>,
}

/// Servers whose addresses are bound.
#[derive(Debug)]
pub struct Bound {
    telemetry: Telemetry,
    metrics: Option<TcpListener>,
    health: Option<TcpListener>,
    shared: bool,
}

impl Telemetry {
    /// Nothing runs yet, and nothing is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The members that run in this process.
    pub fn fleets(&self) -> &Fleets {
        &self.fleets
    }

    /// Counts for the whole process.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The parts that have to be ready. `/readyz` says no until at least one part is named and all named are ready.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// All metrics as OpenMetrics text.
    pub fn metrics(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(Metric::PREFIX);
        registry.register_collector(Box::new(self.clone()));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }

    /// Takes the addresses, so that an address in use is known before anything else starts.
    pub async fn bind(&self, addresses: Addresses) -> Result<Bound, ServeError> {
        let listen = async |what, flag, address: Option<SocketAddr>| match address {
            None => Ok(None),
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => Ok(Some(listener)),
                Err(source) => Err(ServeError::Bind { what, flag, address, source }),
            },
        };
        // Port 0 asks for any free port, so that two of them are not the same address.
        let shared = addresses.metrics.is_some_and(|metrics| metrics.port() != 0)
            && addresses.metrics == addresses.health;
        let metrics = listen("metrics", "--metrics-bind-address", addresses.metrics).await?;
        let health = if shared { None } else { addresses.health };
        let health = listen("health", "--health-probe-bind-address", health).await?;
        Ok(Bound { telemetry: self.clone(), metrics, health, shared })
    }
}

impl Bound {
    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// Where health is served.
    pub fn health_address(&self) -> Option<SocketAddr> {
        if self.shared { self.metrics_address() } else { self.health.as_ref()?.local_addr().ok() }
    }

    /// Serves until told to stop.
    pub async fn serve(self, stop: CancellationToken) {
        let metrics = http::metrics_router(self.telemetry.clone());
        let health = http::health_router(self.telemetry.clone());
        let (metrics, health) =
            if self.shared { (metrics.merge(health), axum::Router::new()) } else { (metrics, health) };
        let run = async |listener: Option<TcpListener>, router| {
            if let Some(listener) = listener {
                server::serve(listener, router, stop.clone()).await;
            }
        };
        tokio::join!(run(self.metrics, metrics), run(self.health, health));
    }
}

impl Collector for Telemetry {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = page::Page::default();
        page.put(metric::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], true);
        self.fleets.put(&mut page, Instant::now());
        self.recorder.put(&mut page);
        page.encode(encoder)
    }
}
