//! Certificates, and members that are nodes of this process with a payload that comes and goes at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flagship_node::{
    Command, Directive, DurableRecord, ElectionSpec, LocalHello, MachineConfig, MemberSnapshot, NodeHandle,
    NodeSpec, Restored, Snapshot, Store, StoreError, wall_ms,
};
use flagship_pki::Validity;
use flagship_transport::{Attachment, Detach, Endpoint, Listen, Transport, TransportOptions};
use flagship_types::{Callsign, Epoch, FleetConfig, Health, MemberName, PeerAddress, Rank, TrustDomain};
use tokio::time::timeout;

use crate::process::PATIENCE;

/// A fleet's authority.
pub(crate) struct Authority {
    callsign: Callsign,
    authority: flagship_pki::Authority,
}

impl Authority {
    pub(crate) fn new(callsign: &str) -> Self {
        let callsign: Callsign = callsign.parse().unwrap();
        let (domain, now) = (TrustDomain::default(), SystemTime::now());
        let authority =
            flagship_pki::Authority::create(domain, callsign.clone(), Validity::AUTHORITY, now).unwrap();
        Self { callsign, authority }
    }

    /// Writes a member's certificate to `DIR/<callsign>-<member>`; gives that.
    pub(crate) fn certify(&self, dir: &Path, member: &str) -> PathBuf {
        let own = dir.join(format!("{}-{member}", self.callsign));
        self.certify_into(&own, member);
        own
    }

    pub(crate) fn certify_into(&self, dir: &Path, member: &str) {
        let name: MemberName = member.parse().unwrap();
        let issued = self.authority.issue(&name, Validity::MEMBER, SystemTime::now()).unwrap();
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("ca.crt"), self.authority.certificate()).unwrap();
        fs::write(dir.join("tls.crt"), &issued.certificate).unwrap();
        fs::write(dir.join("tls.key"), &issued.key).unwrap();
    }
}

/// Everything is durable at once.
struct Memory;

#[async_trait::async_trait]
impl Store for Memory {
    async fn persist(&self, _: &DurableRecord) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A member that may lead.
pub(crate) struct Member {
    node: NodeHandle,
    address: PeerAddress,
    _detach: Detach,
}

impl Member {
    /// Certifies and starts one on a port of its own. Without seeds it may found the fleet alone.
    pub(crate) async fn start(
        authority: &Authority,
        dir: &Path,
        member: &str,
        seeds: &[PeerAddress],
    ) -> Self {
        let tls_dir = authority.certify(dir, member);
        let expired_certificate_grace = TransportOptions::DEFAULT_GRACE;
        let transport = Transport::new(TransportOptions { tls_dir, expired_certificate_grace });
        let (callsign, member): (_, MemberName) = (authority.callsign.clone(), member.parse().unwrap());
        let epoch = Epoch(wall_ms());
        let hello = LocalHello {
            callsign: callsign.clone(),
            member: member.clone(),
            epoch,
            address: None,
            view_hash: 0,
        };
        let listen = Listen { address: Some([127, 0, 0, 1].into()), port: 0 };
        let Attachment { links, signer, events, local, detach } =
            transport.attach(Endpoint { hello, listen }).await.unwrap();
        let address = PeerAddress::parse(&local.to_string(), 1).unwrap();
        let election = ElectionSpec {
            suspended: false,
            fences: false,
            promote_timeout: None,
            rank: Rank(5),
            ready: true,
            candidate: true,
            witness: false,
            proposal: FleetConfig::default(),
        };
        let config = MachineConfig {
            callsign,
            member,
            epoch,
            wall_ms: wall_ms(),
            spec: NodeSpec { election, address: Some(address.clone()), seeds: seeds.to_vec() },
            restored: Restored::default(),
            known: Vec::new(),
            beat_interval: Duration::from_secs(1),
            silence_floor: Duration::from_secs(3),
            seed: 1,
            votes_until: None,
        };
        let (node, _, _) = flagship_node::spawn(config, links, signer, events, Arc::new(Memory));
        tokio::spawn(lead(node.clone()));
        Self { node, address, _detach: detach }
    }

    pub(crate) fn address(&self) -> PeerAddress {
        self.address.clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.node.snapshot().members.iter().map(|member| member.name.to_string()).collect()
    }

    /// Waits until its picture has this.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Snapshot) -> Option<T>) -> T {
        let mut changed = self.node.changed();
        let wait = async {
            loop {
                if let Some(found) = look(&self.node.snapshot()) {
                    return found;
                }
                changed.changed().await.expect("the node runs");
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}: {:#?}", self.node.snapshot()))
    }

    /// Waits until it sees a member like this.
    pub(crate) async fn sees(&self, name: &str, like: impl Fn(&MemberSnapshot) -> bool) -> MemberSnapshot {
        let find = |picture: &Snapshot| {
            picture.members.iter().find(|member| member.name.as_str() == name && like(member)).cloned()
        };
        self.until(name, find).await
    }
}

/// What the controller does.
async fn lead(node: NodeHandle) {
    node.tell(Command::Health(Health {
        api: true,
        payload_valid: true,
        payload_ready: true,
        gates: true,
        failed: false,
    }))
    .await;
    let mut directive = node.directive();
    loop {
        let now = directive.borrow_and_update().clone();
        if let Directive::Stop { term, .. } = now {
            node.tell(Command::DeletionBegan(term)).await;
            node.tell(Command::PayloadStopped(term)).await;
        }
        if directive.changed().await.is_err() {
            return;
        }
    }
}
