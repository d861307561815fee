//! What peers say of themselves and of others: let through if it is signed as it must be, or the peer's own.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use flagship_node::Proof;
use flagship_types::MemberName;
use flagship_wire::{PeerMessage, StatementKind};

use crate::endpoint::EndpointState;
use crate::tls::Known;

/// Signatures that are checked at a stretch, a hundred microseconds each. Others on this thread wait for their beats, and
/// where a whole fleet starts on one machine every round of a handshake waits for all that are checked at the time.
const STRETCH: usize = 4;

/// A message without the statements that nothing good vouches for; `None` if nothing is left of it. Who sent them is
/// named, and so is whose they would have been.
pub(crate) async fn vouched(
    state: &EndpointState,
    peer: &MemberName,
    mut message: PeerMessage,
) -> Option<PeerMessage> {
    let mut good = 0;
    loop {
        let (mut seen, mut checked) = (0, 0);
        let before = good;
        // Those found good earlier come first, in the same order, and what is left for later is kept until then.
        message = message.keep_statements(|kind, owner, proof| {
            seen += 1;
            if seen <= before || checked >= STRETCH {
                return true;
            }
            let judged = is_vouched(state, peer, (kind, owner, proof), &mut checked);
            good += usize::from(judged);
            judged
        })?;
        if checked < STRETCH {
            return Some(message);
        }
        tokio::task::yield_now().await;
    }
}

/// Judges one statement, and counts those that took time.
fn is_vouched(
    state: &EndpointState,
    peer: &MemberName,
    (kind, owner, proof): (StatementKind, &MemberName, Option<&Proof>),
    checked: &mut usize,
) -> bool {
    let counters = &state.shared.counters;
    let judged = match proof {
        Some(proof) => state.tls.load().statements.verify(kind, owner, proof, SystemTime::now()),
        None if owner == peer => return true,
        None => Err("it is not signed".into()),
    };
    match judged {
        Ok(Known::Before) => true,
        Ok(Known::Now) => {
            *checked += 1;
            counters.statements_verified.fetch_add(1, Relaxed);
            true
        }
        Err(why) => {
            *checked += 1;
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
}
