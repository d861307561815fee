//! dev only
use flagship_controller::*;
use flagship_node::*;
use flagship_types::*;
use std::sync::Arc;
struct NoLinks;
impl Links for NoLinks {
    fn connect(&self, _: &PeerAddress) {}
    fn send(&self, _: LinkId, _: flagship_wire::PeerMessage) {}
    fn close(&self, _: LinkId, _: CloseCode) {}
    fn set_hello(&self, _: LocalHello) {}
}
struct J;
#[async_trait::async_trait]
impl Joiner for J {
    async fn join(&self, start: MemberStart) -> Result<Joined, JoinError> {
        eprintln!("JOIN epoch {} restored {:?}", start.machine.epoch, start.machine.restored);
        if std::env::var("NOCERT").is_ok() {
            return Err(JoinError::NoCertificate("no certificates in /x: run `flagship pki init`".into()));
        }
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        let (node, task) = flagship_node::spawn(start.machine, Arc::new(NoLinks), rx, start.store);
        let ended = tokio::spawn(async move {
            let _ = task.await;
            drop(tx);
        });
        Ok(Joined { node, ended })
    }
}
struct O;
impl Observer for O {
    fn api_request(&self, _: &'static str, _: u16) {}
    fn payload_applied(&self, _: &Callsign, _: &MemberName, r: PayloadResult, t: std::time::Duration) {
        eprintln!("APPLIED {r:?} {t:?}");
    }
    fn payload_deleted(&self, _: &Callsign, _: &MemberName, r: PayloadResult, t: std::time::Duration) {
        eprintln!("DELETED {r:?} {t:?}");
    }
    fn payload_objects(&self, _: &Callsign, _: &MemberName, n: usize) {
        eprintln!("OBJECTS {n}");
    }
    fn reconcile_error(&self, _: &Callsign, _: &MemberName) {}
    fn member_gone(&self, _: &Callsign, _: &MemberName) {
        eprintln!("GONE");
    }
    fn member_joined(&self, _: &Callsign, _: &MemberName, _: &NodeHandle) {}
}
#[tokio::main]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or("info".into()))
        .with_writer(std::io::stderr)
        .init();
    let mut config = kube::Config::from_kubeconfig(&Default::default()).await.unwrap();
    config.default_retry = false;
    config.read_timeout = Some(std::time::Duration::from_secs(300));
    let client = kube::Client::try_from(config).unwrap();
    let options = Options {
        namespace: None,
        lease_namespace: None,
        allow_cross_namespace: false,
        holder: std::env::var("HOLDER").unwrap_or("solo".into()),
        on_shutdown: OnShutdown::Hold,
    };
    let token = tokio_util::sync::CancellationToken::new();
    let t = token.clone();
    tokio::spawn(async move {
        let mut s = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        s.recv().await;
        t.cancel();
    });
    Controller::new(client, options, Arc::new(J), Arc::new(O)).run(token).await;
    eprintln!("ENDED");
}
