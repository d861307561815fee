//! Joins a member to its fleet: the transport gives it links, the node runs on them.

use std::net::IpAddr;

use async_trait::async_trait;
use flagship_controller::{JoinError, Joined, Joiner, MemberStart, Probe, Waiting};
use flagship_node::LocalHello;
use flagship_transport::{AttachError, Attachment, Endpoint, Listen, TlsError, Transport};
use flagship_types::{CloseCode, PeerAddress};

/// Gives members links over the process's transport.
pub(crate) struct TransportJoiner {
    transport: Transport,
}

impl TransportJoiner {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport }
    }
}

#[async_trait]
impl Joiner for TransportJoiner {
    async fn join(&self, start: MemberStart) -> Result<Joined, JoinError> {
        let machine = &start.machine;
        let hello = LocalHello {
            callsign: machine.callsign.clone(),
            member: machine.member.clone(),
            epoch: machine.epoch,
            address: machine.spec.address.clone(),
            view_hash: 0,
        };
        let listen = Listen { address: listen_address(start.listen.as_ref())?, port: start.port };
        let endpoint = Endpoint { hello, listen };
        let Attachment { links, signer, events, local, detach } =
            self.transport.attach(endpoint).await.map_err(|error| join_error(&error))?;
        tracing::info!(callsign = %machine.callsign, member = %machine.member, %local, "listening");
        let (node, told, task) = flagship_node::spawn(start.machine, links, signer, events, start.store);
        let ended = tokio::spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "the node ended badly");
            }
            detach.close(CloseCode::ShuttingDown).await;
        });
        Ok(Joined { node, events: told, ended })
    }

    async fn wait_at(&self, Probe { callsign, member, listen, port }: Probe) -> Result<Waiting, JoinError> {
        let address = listen_address(listen.as_ref())?;
        if address.is_some_and(|address| !address.is_unspecified()) {
            // One address is on one host: the replica that acts needs it, now or when its settings change.
            return Err(JoinError::Listen(
                "spec.address: a replica that waits leaves it to the one that acts".into(),
            ));
        }
        let waiting = self.transport.wait(callsign.clone(), member.clone(), Listen { address, port }).await;
        let waiting = waiting.map_err(|error| join_error(&error))?;
        tracing::info!(%callsign, %member, local = %waiting.local(), "answering for the replica that acts");
        Ok(Waiting::new(waiting))
    }

    async fn probe(&self, Probe { callsign, member, listen, port }: Probe) -> Result<(), JoinError> {
        let listen = Listen { address: listen_address(listen.as_ref())?, port };
        self.transport.probe(callsign, member, listen).await.map_err(|error| join_error(&error))
    }
}

/// A name would have to be resolved anew at every start and could then be another host's.
fn listen_address(listen: Option<&PeerAddress>) -> Result<Option<IpAddr>, JoinError> {
    let parse = |address: &PeerAddress| {
        address.host().parse().map_err(|_| {
            let host = address.host();
            JoinError::Listen(format!(
                "spec.address: {host:?} is not an IP address of this host; leave it empty to listen on all"
            ))
        })
    };
    listen.map(parse).transpose()
}

fn join_error(error: &AttachError) -> JoinError {
    let sentence = error.to_string();
    match error {
        AttachError::Tls(TlsError::Missing { .. }) => JoinError::NoCertificate(sentence),
        AttachError::Tls(_) => JoinError::BadCertificate(sentence),
        AttachError::Bind { .. } => JoinError::Listen(sentence),
        AttachError::CallsignTaken { .. } => JoinError::CallsignTaken(sentence),
    }
}
