//! What peers say of themselves and of others: let through if it is signed as it must be, or the peer's own.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use flagship_types::MemberName;
use flagship_wire::PeerMessage;

use crate::endpoint::EndpointState;
use crate::tls::Known;

/// A message without the statements that nothing good vouches for; `None` if nothing is left of it. Who sent them is
/// named, and so is whose they would have been.
pub(crate) async fn vouched(
    state: &EndpointState,
    peer: &MemberName,
    message: PeerMessage,
) -> Option<PeerMessage> {
    let tls = state.tls.load();
    let counters = &state.shared.counters;
    let mut checked = 0_u32;
    let kept = message.keep_statements(|kind, owner, proof| {
        let judged = match proof {
            Some(proof) => tls.statements.verify(kind, owner, proof, SystemTime::now()),
            None if owner == peer => return true,
            None => Err("it is not signed".into()),
        };
        match judged {
            Ok(Known::Before) => true,
            Ok(Known::Now) => {
                checked += 1;
                counters.statements_verified.fetch_add(1, Relaxed);
                true
            }
            Err(why) => {
                checked += 1;
                counters.statements_refused.fetch_add(1, Relaxed);
                let kind = kind.as_str();
                let sentence = format!(
                    "{peer} sent this member the {kind} of {owner}, which is not believed: {why}; both certificates, ca.crt and crl.pem of this member, and the clocks tell who is wrong"
                );
                // Once an hour for each peer: whose statements it sends is up to it.
                state.warn("statement", Some(peer.clone()), sentence);
                false
            }
        }
    });
    if checked > 1 {
        // A hundred microseconds each: others on this thread may be waiting for their beats.
        tokio::task::yield_now().await;
    }
    kept
}
