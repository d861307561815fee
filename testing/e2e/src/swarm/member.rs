//! One node of a swarm, and what a fleet of them shares.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use flagship_node::{
    Command, Directive, DurableRecord, ElectionSpec, LocalHello, MachineConfig, NodeHandle, NodeSpec,
    Restored, State, Store, StoreError, wall_ms,
};
use flagship_pki::{Authority, Validity};
use flagship_transport::{Attachment, Detach, Endpoint, FrameKind, Listen, Transport, TransportOptions};
use flagship_types::{
    Callsign, Epoch, FleetConfig, Health, MemberName, PeerAddress, Rank, Role, TrustDomain,
};
use tempfile::TempDir;

pub(super) use flagship_node::MembershipStats as Stats;

use super::report::Carried;
use super::watch::Log;

/// Everything is durable at once.
struct Memory;

#[async_trait::async_trait]
impl Store for Memory {
    async fn persist(&self, _: &DurableRecord) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A fleet's certificates. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fleet {
    callsign: Callsign,
    dir: Arc<TempDir>,
    epoch: Epoch,
}

impl Fleet {
    /// Makes the certificates of all members.
    pub(super) fn certify(members: usize) -> Result<Self> {
        let callsign: Callsign = "swarm".parse()?;
        let now = SystemTime::now();
        let authority =
            Authority::create(TrustDomain::default(), callsign.clone(), Validity::AUTHORITY, now)?;
        let dir = tempfile::tempdir().context("make a directory for certificates")?;
        for index in 0..members {
            let name = name(index)?;
            let issued = authority.issue(&name, Validity::MEMBER, now)?;
            let own = dir.path().join(callsign.as_str()).join(name.as_str());
            let files = [
                ("ca.crt", authority.certificate()),
                ("tls.crt", &issued.certificate),
                ("tls.key", &issued.key),
            ];
            write(&own, &files).with_context(|| format!("write the certificates of {name}"))?;
        }
        Ok(Self { callsign, dir: Arc::new(dir), epoch: Epoch(wall_ms()) })
    }

    /// A member's place on a port of its own, on the runtime that this is called on.
    pub(super) async fn attach(&self, index: usize) -> Result<Place> {
        let expired_certificate_grace = TransportOptions::DEFAULT_GRACE;
        let tls_dir = self.dir.path().to_owned();
        // One per member, as if each were a process: counters, handshakes and caches are not shared.
        let transport = Transport::new(TransportOptions { tls_dir, expired_certificate_grace });
        let (callsign, member, epoch) = (self.callsign.clone(), name(index)?, self.epoch);
        let hello = LocalHello { callsign, member, epoch, address: None, view_hash: 0 };
        let listen = Listen { address: Some([127, 0, 0, 1].into()), port: 0 };
        let attachment = transport.attach(Endpoint { hello, listen }).await?;
        let address = PeerAddress::parse(&attachment.local.to_string(), 1)?;
        Ok(Place { transport, attachment, address })
    }

    /// The same for another runtime.
    pub(super) async fn attach_owned(self, index: usize) -> Result<Place> {
        self.attach(index).await
    }

    /// What the member's object would say.
    pub(super) fn spec(
        &self,
        index: usize,
        electors: usize,
        address: &PeerAddress,
        seeds: &[PeerAddress],
    ) -> NodeSpec {
        let rank = Rank(i64::try_from(electors.saturating_sub(index)).unwrap_or_default());
        let (ready, candidate) = (index == 0, index < electors);
        let election = ElectionSpec {
            rank,
            ready,
            candidate,
            witness: false,
            fences: false,
            suspended: false,
            proposal: FleetConfig::default(),
            promote_timeout: None,
        };
        NodeSpec { election, address: Some(address.clone()), seeds: seeds.to_vec() }
    }
}

fn write(dir: &Path, files: &[(&str, &str)]) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    files.iter().try_for_each(|(file, content)| fs::write(dir.join(file), content))
}

fn name(index: usize) -> Result<MemberName> {
    Ok(format!("m{index:04}").parse()?)
}

/// A member's links, before its node runs.
pub(super) struct Place {
    transport: Transport,
    attachment: Attachment,
    pub(super) address: PeerAddress,
}

impl Place {
    /// Starts the node on the runtime that this is called on; `log` gets what it tells.
    pub(super) fn spawn(self, fleet: &Fleet, index: usize, spec: NodeSpec, log: &Log) -> Member {
        let name = self.transport_member();
        let candidate = spec.election.candidate;
        let config = MachineConfig {
            callsign: fleet.callsign.clone(),
            member: name.clone(),
            epoch: fleet.epoch,
            wall_ms: wall_ms(),
            spec,
            restored: Restored::default(),
            known: Vec::new(),
            beat_interval: Duration::from_secs(1),
            silence_floor: Duration::from_secs(3),
            seed: index as u64,
            votes_until: None,
        };
        let Attachment { links, signer, events, detach, .. } = self.attachment;
        let (node, told, _) = flagship_node::spawn(config, links, signer, events, Arc::new(Memory));
        tokio::spawn(log.clone().listen(name.clone(), told));
        if candidate {
            tokio::spawn(lead(node.clone()));
        }
        Member { name, node, transport: self.transport, _detach: detach }
    }

    fn transport_member(&self) -> MemberName {
        // Attached as exactly one member.
        self.transport.certificates().swap_remove(0).member
    }
}

/// What the controller does, with a payload that comes and goes at once.
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
        if let Directive::Run { term, .. } = now {
            node.tell(Command::Promoted(term)).await;
        }
        if let Directive::Stop { term, .. } = now {
            node.tell(Command::DeletionBegan(term)).await;
            node.tell(Command::PayloadStopped(term)).await;
        }
        if directive.changed().await.is_err() {
            return;
        }
    }
}

/// A running node.
pub(super) struct Member {
    pub(super) name: MemberName,
    node: NodeHandle,
    transport: Transport,
    _detach: Detach,
}

impl Member {
    /// How many members it holds Alive, itself included.
    pub(super) fn alive(&self) -> usize {
        self.node.snapshot().members.iter().filter(|member| member.state == State::Alive).count()
    }

    pub(super) fn state_of(&self, name: &MemberName) -> Option<State> {
        self.node.snapshot().members.iter().find(|member| member.name == *name).map(|member| member.state)
    }

    /// What its membership core counted.
    pub(super) fn stats(&self) -> Stats {
        self.node.snapshot().membership
    }

    pub(super) fn leads(&self) -> bool {
        self.node.snapshot().role == Role::Leader
    }

    /// Attempts to open a link: whether it dialled, what came of it, and how often.
    pub(super) fn attempts(&self) -> Vec<(bool, &'static str, u64)> {
        let attempts = self.transport.stats().handshakes;
        attempts.into_iter().map(|count| (count.dialled, count.result, count.count)).collect()
    }

    pub(super) fn carried(&self) -> Carried {
        let stats = self.transport.stats();
        let sent = || stats.frames.iter().filter(|count| count.sent);
        let of = |kind| sent().find(|count| count.kind == kind);
        let accepted = stats.handshakes.iter().filter(|count| !count.dialled && count.result == "ok");
        Carried {
            payload: sent().map(|count| count.bytes).sum(),
            election: of(FrameKind::Election).map_or(0, |count| count.bytes),
            beats: of(FrameKind::Beat).map_or(0, |count| count.frames),
            others: of(FrameKind::Membership).map_or(0, |count| count.frames),
            wire: stats.wire_sent,
            links: stats.links,
            statements: stats.statements_verified + stats.statements_refused,
            handshakes: accepted.map(|count| count.count).sum(),
            digests: self.node.snapshot().membership.digests_sent,
        }
    }
}
