//! Fleets with certificates on disk, members on loopback sockets, and peers that break the rules.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a helper's unwrap fails the test; not every test uses all"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flagship_membership::{Proof, Record, SelfState, Statement};
use flagship_node::{ConnectFailure, LinkEnd, LinkEvent, LinkId, LinkRefusal, LocalHello, PeerHello};
use flagship_pki::{Authority, Validity};
use flagship_transport::{Attachment, Endpoint, Listen, Transport, TransportOptions};
use flagship_types::{
    Callsign, ConfigVersion, Epoch, Health, Incarnation, MemberName, Metadata, PeerAddress, Rank, Role, Term,
    TrustDomain,
};
use flagship_wire::{Frame, Hello, Incoming, PeerMessage, decode, pb, signing_input, statement_bytes};
use futures::stream::BoxStream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Streaming;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

pub(crate) fn callsign(text: &str) -> Callsign {
    Callsign::new(text).unwrap()
}

/// A fleet's authority, and a directory for its members' certificates.
pub(crate) struct Fleet {
    pub(crate) callsign: Callsign,
    pub(crate) authority: Authority,
    pub(crate) dir: TempDir,
}

pub(crate) fn authority(fleet: &str) -> Authority {
    Authority::create(
        TrustDomain::default(),
        callsign(fleet),
        Validity::AUTHORITY,
        SystemTime::now() - 800 * 2 * DAY,
    )
    .unwrap()
}

impl Fleet {
    pub(crate) fn new(fleet: &str) -> Self {
        Self { callsign: callsign(fleet), authority: authority(fleet), dir: tempfile::tempdir().unwrap() }
    }

    /// Writes a certificate that was made so long ago and is valid for a year; gives its directory.
    pub(crate) fn certify_aged(&self, member: &str, age: Duration) -> PathBuf {
        let dir = self.dir.path().join(member);
        self.certify_into(&dir, member, age);
        dir
    }

    pub(crate) fn certify_into(&self, dir: &Path, member: &str, age: Duration) {
        let issued = self.authority.issue(&name(member), Validity::MEMBER, SystemTime::now() - age).unwrap();
        write(dir, self.authority.certificate(), &issued.certificate, &issued.key);
    }

    pub(crate) fn certify(&self, member: &str) -> PathBuf {
        self.certify_aged(member, Duration::ZERO)
    }

    /// Certifies and attaches a member in a process of its own.
    pub(crate) async fn start(&self, member: &str) -> Node {
        Node::start(&self.certify(member), self.callsign.as_str(), member).await
    }
}

pub(crate) fn write(dir: &Path, ca: &str, certificate: &str, key: &str) {
    fs::create_dir_all(dir).unwrap();
    for (file, content) in [("ca.crt", ca), ("tls.crt", certificate), ("tls.key", key)] {
        fs::write(dir.join(file), content).unwrap();
    }
}

pub(crate) fn transport(dir: &Path) -> Transport {
    let expired_certificate_grace = TransportOptions::DEFAULT_GRACE;
    Transport::new(TransportOptions { tls_dir: dir.to_owned(), expired_certificate_grace })
}

pub(crate) fn local_hello(fleet: &str, member: &str) -> LocalHello {
    LocalHello {
        callsign: callsign(fleet),
        member: name(member),
        epoch: Epoch(1000),
        address: Some(PeerAddress::parse("172.18.100.100", 9990).unwrap()),
        view_hash: 7,
    }
}

pub(crate) fn endpoint(fleet: &str, member: &str, port: u16) -> Endpoint {
    let listen = Listen { address: Some([127, 0, 0, 1].into()), port };
    Endpoint { hello: local_hello(fleet, member), listen }
}

/// A member on a loopback port.
pub(crate) struct Node {
    pub(crate) transport: Transport,
    pub(crate) attachment: Attachment,
}

impl Node {
    pub(crate) async fn start(dir: &Path, fleet: &str, member: &str) -> Self {
        let transport = transport(dir);
        let attachment = transport.attach(endpoint(fleet, member, 0)).await.unwrap();
        Self { transport, attachment }
    }

    pub(crate) fn address(&self) -> PeerAddress {
        PeerAddress::parse(&self.attachment.local.to_string(), 1).unwrap()
    }

    /// The next event, but for those of this member's own certificate, which go beside the links.
    pub(crate) async fn event(&mut self) -> LinkEvent {
        loop {
            match self.any_event().await {
                LinkEvent::Renewed => {}
                event => return event,
            }
        }
    }

    pub(crate) async fn any_event(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.attachment.events.recv()).await.expect("an event in time").expect("attached")
    }

    pub(crate) async fn up(&mut self) -> (LinkId, PeerHello, Option<PeerAddress>) {
        match self.event().await {
            LinkEvent::Up { link, hello, dialled } => (link, hello.into_inner(), dialled),
            other => panic!("no Up but {other:?}"),
        }
    }

    pub(crate) async fn down(&mut self) -> (LinkId, LinkEnd) {
        match self.event().await {
            LinkEvent::Down { link, end } => (link, end),
            other => panic!("no Down but {other:?}"),
        }
    }

    pub(crate) async fn message(&mut self) -> PeerMessage {
        match self.event().await {
            LinkEvent::Message { message, .. } => message.into_inner(),
            other => panic!("no Message but {other:?}"),
        }
    }

    pub(crate) async fn refused(&mut self) -> LinkRefusal {
        match self.event().await {
            LinkEvent::Refused(refusal) => refusal,
            other => panic!("no Refused but {other:?}"),
        }
    }

    pub(crate) async fn warning(&mut self) -> String {
        match self.event().await {
            LinkEvent::Warning(warning) => warning.sentence,
            other => panic!("no Warning but {other:?}"),
        }
    }

    pub(crate) async fn connect_failed(&mut self) -> (ConnectFailure, String) {
        match self.event().await {
            LinkEvent::ConnectFailed { failure, reason, .. } => (failure, reason),
            other => panic!("no ConnectFailed but {other:?}"),
        }
    }

    /// Dials, and gives both sides' link.
    pub(crate) async fn link_to(&mut self, other: &mut Self) -> (LinkId, LinkId) {
        self.attachment.links.connect(&other.address());
        let (ours, ..) = self.up().await;
        let (theirs, ..) = other.up().await;
        (ours, theirs)
    }

    pub(crate) async fn nothing_happens(&mut self) {
        let event = timeout(Duration::from_millis(300), self.attachment.events.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }

    pub(crate) fn handshakes(&self, dialled: bool, result: &str) -> u64 {
        let counts = self.transport.stats().handshakes;
        counts.iter().find(|c| c.dialled == dialled && c.result == result).map_or(0, |c| c.count)
    }
}

fn message_of(kind: pb::frame::Kind) -> PeerMessage {
    match decode(pb::Frame { kind: Some(kind) }.into()).unwrap() {
        Incoming::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

/// An election message that is told from others by its term.
pub(crate) fn election(term: u64) -> PeerMessage {
    election_of(pb::election_message::Kind::HandoverRequest(pb::HandoverRequest { term }))
}

pub(crate) fn election_of(kind: pb::election_message::Kind) -> PeerMessage {
    message_of(pb::frame::Kind::Election(pb::ElectionMessage { kind: Some(kind) }))
}

pub(crate) fn beat(seq: u64) -> PeerMessage {
    let kind = pb::membership_message::Kind::Beat(pb::Beat { seq, view_hash: 1, ..Default::default() });
    message_of(pb::frame::Kind::Membership(pb::MembershipMessage { kind: Some(kind) }))
}

pub(crate) fn hello(fleet: &str, member: &str) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        callsign: callsign(fleet),
        member: name(member),
        epoch: Epoch(5),
        address: None,
        view_hash: 0,
        instance: 99,
    }
}

/// A peer that believes any certificate and says what it likes.
pub(crate) struct RawPeer {
    pub(crate) inbound: Streaming<Frame>,
    _keep: Box<dyn std::any::Any + Send>,
}

impl RawPeer {
    /// Opens a stream with a certificate from `dir` that sends `frames`.
    pub(crate) async fn open(
        node: &Node,
        dir: &Path,
        sni: &str,
        frames: BoxStream<'static, Frame>,
    ) -> Result<Self, String> {
        let tls = raw_tls(node, dir, sni).await?;
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(tls);
        let (sender, connection) = hyper::client::conn::http2::Builder::new(executor)
            .handshake(io)
            .await
            .map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let origin = hyper::Uri::from_static("https://fleet.flagship/");
        let mut client = pb::fleet_client::FleetClient::with_origin(Sender(sender), origin);
        let inbound = client.link(frames).await.map_err(|e| e.to_string())?.into_inner();
        Ok(Self { inbound, _keep: Box::new((client, driver)) })
    }

    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        let frame = timeout(PATIENCE, self.inbound.message()).await.expect("an answer in time");
        frame.ok().flatten().map(|frame| decode(frame).unwrap())
    }
}

/// The TLS handshake alone.
pub(crate) async fn raw_tls(
    node: &Node,
    dir: &Path,
    sni: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let read = |file: &str| fs::read(dir.join(file)).unwrap();
    let chain = CertificateDer::pem_slice_iter(&read("tls.crt")).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAnything(provider)))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(node.attachment.local).await.unwrap();
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| e.to_string())
}

struct Sender(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl tower::Service<hyper::Request<tonic::body::Body>> for Sender {
    type Response = hyper::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: hyper::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[derive(Debug)]
struct BelievesAnything(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for BelievesAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a member says of itself, told apart by its name.
pub(crate) fn record_of(member: &str) -> Record {
    Record {
        member: name(member),
        epoch: Epoch(1000),
        incarnation: Incarnation(0),
        version: 1,
        status: SelfState::Alive,
        metadata: Metadata {
            address: None,
            rank: Rank(1),
            candidate: true,
            health: Health::default(),
            role: Role::Standby,
            term: Term::NONE,
            leader: None,
            config: ConfigVersion(0),
            interrupted: false,
            fences: false,
            quorum: false,
            promoted: Term::NONE,
        },
    }
}

/// Signs with the certificate in `dir`, as if it were that time.
pub(crate) fn sign_as(dir: &Path, fleet: &Callsign, statement: &Statement, at: SystemTime) -> Proof {
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis().try_into().unwrap();
    let (kind, bytes) = statement_bytes(statement, at);
    let key = PrivateKeyDer::from_pem_slice(&fs::read(dir.join("tls.key")).unwrap()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    let signer = key.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    let signature = signer.sign(&signing_input(kind, fleet, &bytes)).unwrap();
    let leaf = CertificateDer::from_pem_slice(&fs::read(dir.join("tls.crt")).unwrap()).unwrap();
    Proof { bytes: bytes.into(), signature: signature.into(), leaf: leaf.as_ref().into() }
}
