//! Certificates that change while links are up.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use flagship_node::LinkEvent;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::endpoint::EndpointState;
use crate::limits::RELOAD_INTERVAL;
use crate::tls::{TlsDirectory, TlsError, TlsFiles, TlsMaterial};

/// Looks at a member's files until the member is detached.
pub(crate) async fn watch(state: Weak<EndpointState>, closed: CancellationToken, mut files: TlsFiles) {
    let mut tick = interval(RELOAD_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(state) = state.upgrade() else { return };
        look(&state, &mut files).await;
        if let Some(sentence) = state.tls.load().info.expiry_warning(SystemTime::now()) {
            state.warn("own-expiry", None, sentence);
        }
    }
}

/// Files that have just changed are read again after this: one that is being written may be cut off where it still makes
/// sense, a ca.crt after the first of two authorities, and the links of the other one's members would go.
const SETTLE_TIME: Duration = Duration::from_millis(200);

async fn look(state: &Arc<EndpointState>, files: &mut TlsFiles) {
    match read(state).await {
        Ok(Ok(new)) if new == *files => {}
        Ok(Ok(new)) => {
            sleep(SETTLE_TIME).await;
            match read(state).await {
                Ok(Ok(again)) if again == new => {}
                // Still changing: the next look finds what comes of it.
                Ok(Ok(_)) | Err(_) => return,
                Ok(Err(e)) => return kept(state, &e),
            }
            match load(state, &new) {
                Ok(material) => {
                    *files = new;
                    adopt(state, material).await;
                }
                Err(e) => kept(state, &e),
            }
        }
        Ok(Err(e)) => kept(state, &e),
        // The runtime is shutting down.
        Err(_) => {}
    }
}

async fn read(state: &EndpointState) -> Result<Result<TlsFiles, TlsError>, JoinError> {
    let directory = TlsDirectory(state.shared.options.tls_dir.clone());
    let (callsign, member) = (state.callsign.clone(), state.member.clone());
    spawn_blocking(move || directory.read(&callsign, &member)).await
}

fn load(state: &EndpointState, files: &TlsFiles) -> Result<TlsMaterial, TlsError> {
    let grace = state.shared.options.expired_certificate_grace;
    TlsMaterial::new(files, &state.callsign, &state.member, grace, SystemTime::now())
}

async fn adopt(state: &EndpointState, material: TlsMaterial) {
    let renewed = material.info.fingerprint != state.tls.load().info.fingerprint;
    let fingerprint = &material.info.fingerprint;
    info!(callsign = %state.callsign, member = %state.member, fingerprint, authorities = material.info.authorities,
        "certificates reloaded");
    if let Some(problem) = &material.unsigned {
        state.warn("unsigned", None, format!("{problem}; peers may refuse this member"));
    }
    state.tls.store(Arc::new(material));
    state.drop_untrusted();
    if renewed {
        // If the node is gone nobody wants to know.
        let _ = state.events.send(LinkEvent::Renewed).await;
    }
}

/// Also met in the middle of a change of files; then the next look succeeds.
fn kept(state: &EndpointState, error: &TlsError) {
    state.warn("reload", None, format!("{error}; the certificates loaded earlier stay in use"));
}
