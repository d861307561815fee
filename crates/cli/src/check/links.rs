//! Whether members reach each other: by what each says of the others, and by dialling their addresses from here.

use std::sync::Arc;
use std::time::Duration;

use flagship_k8s_api::{MemberStatus, MultiClusterStatus};
use flagship_types::{MemberIdentity, PeerAddress, Role};
use futures::future::join_all;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificates::Material;
use super::objects::Located;
use super::report::{Finding, Topic};

/// As long as members themselves wait for a connection, and then some for the handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);
/// With TLS 1.3 a client learns that its certificate was refused only when it reads.
const VERDICT_TIMEOUT: Duration = Duration::from_millis(500);

/// What each member says of every other one. What is no news is left out, and so are members that were forgotten and are
/// not known to run all the same.
pub(crate) fn by_status(objects: &[Located]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let members: Vec<&Located> =
        objects.iter().filter(|one| one.runs() || !one.is_forgotten(objects)).collect();
    for from in members.iter().filter(|from| from.silence(objects).is_none()) {
        let status = from.object.status.as_ref();
        let lists_all = status.is_none_or(MultiClusterStatus::lists_all_members);
        let fleet = members.iter().filter(|to| to.callsign() == from.callsign());
        let (objects_there, mut unlisted) = (fleet.clone().count(), 0);
        for to in fleet.filter(|to| to.name != from.name) {
            let seen = status.and_then(|status| status.members.iter().find(|member| member.name == to.name));
            let message = match seen.map(|member| member.state.as_str()) {
                Some("Alive") => {
                    findings.push(Finding::ok(Topic::Links, format!("{} hears {}", from.name, to.name)));
                    continue;
                }
                Some(state) => format!("{} holds {} {state}", from.name, to.name),
                None if from.forgot(to) => {
                    findings.push(forgotten_and_alive(from, to));
                    continue;
                }
                None if !lists_all => {
                    unlisted += 1;
                    continue;
                }
                None => format!("{} has never heard {}", from.name, to.name),
            };
            let hint = match to.silence(objects) {
                Some(_) => {
                    format!("its status is no news: see the daemon of {} under objects, above", to.name)
                }
                None => trace(from, to),
            };
            findings.push(Finding::fail(Topic::Links, message, hint));
        }
        findings.extend(witnesses(from, objects));
        findings.extend(beyond(from, objects_there, unlisted));
    }
    findings
}

/// An operator's word that turns out to be wrong: it is taken back by itself, if nothing keeps the two apart.
fn forgotten_and_alive(from: &Located, to: &Located) -> Finding {
    Finding::fail(
        Topic::Links,
        format!("{} was told to forget {}, whose daemon runs", from.name, to.name),
        format!(
            "{} is a member for it again as soon as one of the two reaches the other, which is tried every few seconds. If it \
             does not come to that: {}. If {} is to be gone, delete its object: {} delete mc {}",
            to.name,
            trace(from, to),
            to.name,
            to.kubectl(),
            to.name
        ),
    )
}

/// About members that the status of a large fleet has no room for: what its counts say of them.
fn beyond(from: &Located, objects: usize, unlisted: usize) -> Option<Finding> {
    let status = from.object.status.as_ref()?;
    let counts = status.member_counts.as_ref().filter(|_| unlisted > 0)?;
    let message = format!(
        "{} counts {} members, {} of them alive; its list has room for {}, and {unlisted} with objects are not in it",
        from.name,
        counts.all(),
        counts.alive,
        MultiClusterStatus::MAX_MEMBERS
    );
    let hint = || {
        format!(
            "what the unlisted ones say of themselves: kubectl get mc -A in their clusters; what {} says: {} describe mc {}",
            from.name,
            from.kubectl(),
            from.name
        )
    };
    let is_well = |member: &&MemberStatus| ["Alive", "Left"].contains(&member.state.as_str());
    let listed_unwell = status.members.iter().filter(|member| !is_well(member)).count();
    let never_heard = i64::try_from(objects).is_ok_and(|objects| counts.all() < objects);
    let all_else_well =
        i64::try_from(listed_unwell).is_ok_and(|listed| counts.alive.saturating_add(listed) >= counts.all());
    Some(match (never_heard, all_else_well) {
        (true, _) => {
            Finding::fail(Topic::Links, format!("{message}: it has never heard some of these"), hint())
        }
        (false, false) => {
            Finding::warn(Topic::Links, format!("{message}: some of these are not alive for it"), hint())
        }
        (false, true) => Finding::ok(Topic::Links, message),
    })
}

/// What a member says of the witnesses, which have no objects that could say something themselves.
fn witnesses(from: &Located, objects: &[Located]) -> Vec<Finding> {
    let has_object =
        |name: &str| objects.iter().any(|object| object.callsign() == from.callsign() && object.name == name);
    let rows = from.object.status.iter().flat_map(|status| &status.members);
    let witnesses = rows.filter(|row| {
        let is_witness = row.role.as_deref() == Some(Role::Witness.as_str());
        is_witness && row.state != "Left" && !has_object(&row.name)
    });
    let judge = |row: &MemberStatus| match row.state.as_str() {
        "Alive" => Finding::ok(Topic::Links, format!("{} hears the witness {}", from.name, row.name)),
        state => Finding::fail(
            Topic::Links,
            format!("{} holds the witness {} {state}", from.name, row.name),
            format!(
                "where flagship witness runs: its log (journalctl -u flagship-witness) says what it is linked with; what {} \
                 says: {} describe mc {}",
                from.name,
                from.kubectl(),
                from.name
            ),
        ),
    };
    witnesses.map(judge).collect()
}

/// How to look at the network between two members. Only where the daemon runs is it known whether it gets through.
fn trace(from: &Located, to: &Located) -> String {
    let address = to.object.located_settings().ok().and_then(|settings| settings.advertised);
    match address {
        Some(address) => format!(
            "on the machine (or a node of {}) where the daemon of {} runs: nc -vz -w 3 {} {}; what that daemon \
             says: {} describe mc {}",
            from.context,
            from.name,
            address.host(),
            address.port(),
            from.kubectl(),
            from.name
        ),
        None => format!(
            "{} has no serviceAddress, so only it can dial; what it says: {} describe mc {}",
            to.name,
            to.kubectl(),
            to.name
        ),
    }
}

/// Dials every address from here, with a certificate of the same fleet if there is one.
pub(crate) async fn by_dialling(objects: &[Located], materials: &[Material]) -> Vec<Finding> {
    let findings = objects.iter().filter_map(|object| {
        let settings = object.object.located_settings().ok()?;
        Some((object, settings.advertised?))
    });
    let dials = findings.map(|(object, address)| async move {
        // Another member's certificate, so that the dialled one does not meet its own name.
        let same_fleet = |material: &&Material| {
            material
                .reports
                .iter()
                .filter_map(|report| report.identity.as_ref())
                .any(|id| id.callsign.as_str() == object.callsign())
        };
        let others = materials
            .iter()
            .filter(same_fleet)
            .filter(|material| !material.is_for(object.callsign(), &object.name));
        let material = others.chain(materials.iter().filter(same_fleet)).next();
        dial(object, &address, material).await
    });
    join_all(dials).await
}

async fn dial(object: &Located, address: &PeerAddress, material: Option<&Material>) -> Finding {
    let name = &object.name;
    let stream = match tokio::time::timeout(
        DIAL_TIMEOUT,
        TcpStream::connect((address.host(), address.port())),
    )
    .await
    {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return not_from_here(name, address, &error.to_string()),
        Err(_) => return not_from_here(name, address, "no answer"),
    };
    let Some(material) = material else {
        let message =
            format!("{name}: {address} answers from here (TCP only, there is no certificate to go on with)");
        return Finding::warn(Topic::Links, message, "give certificates with --tls-dir DIR");
    };
    let refused = |why: String| {
        let message = format!("{name}: {address} answers from here, but TLS fails: {why}");
        let hint = format!(
            "compare with: flagship pki show DIR; the other side says why in: {} describe mc {name}",
            object.kubectl()
        );
        Finding::fail(Topic::Links, message, hint)
    };
    match tokio::time::timeout(DIAL_TIMEOUT, handshake(stream, object, material)).await {
        Err(_) => refused("no handshake in time".into()),
        Ok(Err(why)) => refused(why),
        Ok(Ok(())) => Finding::ok(
            Topic::Links,
            format!("{name}: {address} answers from here as {name}, over mutual TLS"),
        ),
    }
}

/// Says nothing about the clusters themselves: their network may well reach what this machine does not.
fn not_from_here(name: &str, address: &PeerAddress, why: &str) -> Finding {
    let message = format!("{name}: {address} is not reached from this machine: {why}");
    Finding::warn(
        Topic::Links,
        message,
        format!("nc -vz -w 3 {} {}; only the members need to reach it", address.host(), address.port()),
    )
}

async fn handshake(stream: TcpStream, object: &Located, material: &Material) -> Result<(), String> {
    let config = client_config(object, material)?;
    let server = ServerName::try_from(server_name(object.callsign())).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(server, stream).await.map_err(|error| error.to_string())?;
    let mut byte = [0];
    match tokio::time::timeout(VERDICT_TIMEOUT, stream.read(&mut byte)).await {
        Ok(Err(error)) => Err(format!("our certificate ({}) was refused: {error}", material.origin)),
        _ => Ok(()),
    }
}

/// What a dialler sends as SNI, so that the acceptor finds the fleet's certificate.
fn server_name(callsign: &str) -> String {
    let digest = Sha256::digest(callsign.as_bytes());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("f-{hash}.flagship")
}

/// Whether the private key belongs to the certificate.
pub(crate) fn key_fits(material: &Material) -> Result<(), String> {
    let (chain, key) = identity(material)?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| error.to_string())?;
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err("is not the certificate's key".into())
        }
        _ => Ok(()),
    }
}

fn identity(material: &Material) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&material.certificate).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|error| error.to_string())?;
    Ok((chain, key))
}

fn client_config(object: &Located, material: &Material) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&material.authorities) {
        roots.add(authority.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let verifier = MemberVerifier {
        roots,
        provider: Arc::clone(&provider),
        callsign: object.callsign().into(),
        member: object.name.clone(),
    };
    let (chain, key) = identity(material)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Verifies the chain and the member's identity; host names play no part in a fleet.
#[derive(Debug)]
struct MemberVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    callsign: String,
    member: String,
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        let found = identities(end_entity);
        match found
            .iter()
            .any(|id| id.callsign.as_str() == self.callsign && id.member.as_str() == self.member)
        {
            true => Ok(ServerCertVerified::assertion()),
            false => {
                let names: Vec<String> = found.iter().map(ToString::to_string).collect();
                Err(rustls::Error::General(format!("it is not {} but [{}]", self.member, names.join(", "))))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn identities(certificate: &[u8]) -> Vec<MemberIdentity> {
    use x509_parser::extensions::GeneralName;
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.parse().ok(),
        _ => None,
    });
    uris.collect()
}
