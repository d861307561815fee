//! A member's certificates, ready for use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flagship_types::{Callsign, MemberName, TrustDomain, format_duration};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{CertificateError, ClientConfig, ServerConfig};

use super::certificate::{Leaf, LeafError};
use super::directory::{TlsError, TlsFiles, renewal};
use super::statement::{StatementKey, StatementVerifier};
use super::trust::{Trust, Usage};
use super::verifier::FleetVerifier;

/// Warnings begin when less than this share of a certificate's life is left, in percent.
const WARN_BELOW_PERCENT: u32 = 30;

/// A member's certificate, for status, metrics and people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The fleet.
    pub callsign: Callsign,
    /// The member.
    pub member: MemberName,
    /// Whose certificates these are.
    pub trust_domain: TrustDomain,
    /// The certificate's subject.
    pub subject: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// SHA-256 of the certificate, as `AB:CD:…`.
    pub fingerprint: String,
    /// How many authorities are trusted; two during a change.
    pub authorities: usize,
    /// Where the files are.
    pub dir: PathBuf,
}

impl CertificateInfo {
    /// The command that makes it anew, and where its files then go.
    pub(crate) fn renewal(&self) -> String {
        renewal(&self.callsign, &self.member, Some(&self.dir))
    }

    /// What to tell people about its age; `None` while more than 30 % of its life is left.
    pub fn expiry_warning(&self, now: SystemTime) -> Option<String> {
        let file = self.dir.join("tls.crt");
        let renew = format!("renew it with: {}", self.renewal());
        let Ok(left) = self.not_after.duration_since(now) else {
            return Some(format!(
                "{} has expired: peers let it in for a while only; {renew}",
                file.display()
            ));
        };
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let soon = left < life * WARN_BELOW_PERCENT / 100;
        soon.then(|| format!("{} expires in {}: {renew}", file.display(), format_duration(left)))
    }
}

/// A member's certificates, ready for use; replaced as a whole at a reload.
pub(crate) struct TlsMaterial {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) trust: Arc<Trust>,
    /// Signs what this member states.
    pub(crate) signer: StatementKey,
    /// Checks what others state. New with every reload, so that nothing is believed on the word of what was removed.
    pub(crate) statements: StatementVerifier,
    pub(crate) info: CertificateInfo,
    /// Set if our own certificate does not belong to our own authorities. At the start that is an error; later
    /// (an authority was removed) the removal counts and peers will say what they think of our certificate.
    pub(crate) unsigned: Option<TlsError>,
}

impl TlsMaterial {
    pub(crate) fn new(
        files: &TlsFiles,
        callsign: &Callsign,
        member: &MemberName,
        grace: Duration,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let chain = certificates(&files.dir.join("tls.crt"), &files.certificate)?;
        let authorities = certificates(&files.dir.join("ca.crt"), &files.authorities)?;
        let lists = revocation_lists(files)?;
        let leaf_file = files.dir.join("tls.crt");
        let leaf = Leaf::read(&chain[0]).map_err(|e| leaf_error(&leaf_file, &e))?;
        let trust_domain =
            leaf.trust_domain_for(callsign, member).ok_or_else(|| TlsError::WrongIdentity {
                file: leaf_file.clone(),
                found: leaf.identities.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", "),
                callsign: callsign.clone(),
                member: member.clone(),
            })?;
        let info = CertificateInfo {
            callsign: callsign.clone(),
            member: member.clone(),
            trust_domain: trust_domain.clone(),
            subject: leaf.subject.clone(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            fingerprint: leaf.fingerprint.clone(),
            authorities: authorities.len(),
            dir: files.dir.clone(),
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let trust = Trust::new(&authorities, &lists, provider.signature_verification_algorithms, grace)
            .map_err(|(file, problem)| TlsError::Malformed { file: files.dir.join(file), problem })?;
        let unsigned = own_chain_problem(&trust, &chain, &leaf, &leaf_file, now)?;
        let trust = Arc::new(trust);
        let key_file = files.dir.join("tls.key");
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|e| TlsError::Malformed {
            file: key_file.clone(),
            problem: format!("holds no private key in PEM: {e}"),
        })?;
        let (server, client) = configurations(&provider, &trust, &chain, &key).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch(key_file),
            other => TlsError::Malformed { file: key_file, problem: format!("cannot be used: {other}") },
        })?;
        let signing = provider.key_provider.load_private_key(key).map_err(|e| TlsError::Malformed {
            file: files.dir.join("tls.key"),
            problem: format!("cannot be used: {e}"),
        })?;
        let signer = StatementKey::new(signing, &chain, &leaf, callsign, grace);
        let statements = StatementVerifier::new(trust.clone(), trust_domain.clone(), callsign.clone());
        let (server, client) = (Arc::new(server), Arc::new(client));
        Ok(Self { server, client, trust, signer, statements, info, unsigned })
    }
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = |problem: String| TlsError::Malformed { file: file.to_owned(), problem };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| malformed(format!("is not a list of certificates in PEM: {e}")))?;
    if found.is_empty() { Err(malformed("holds no certificate in PEM".into())) } else { Ok(found) }
}

fn revocation_lists(files: &TlsFiles) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let Some(pem) = &files.revoked else { return Ok(Vec::new()) };
    CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| {
        TlsError::Malformed {
            file: files.dir.join("crl.pem"),
            problem: format!("is not a list of revocation lists in PEM: {e}"),
        }
    })
}

fn leaf_error(file: &Path, error: &LeafError) -> TlsError {
    TlsError::Malformed { file: file.to_owned(), problem: format!("cannot be used: {error}") }
}

/// Expiry aside (that is a warning). `Err`: unusable for everybody; `Ok(Some)`: not from our own authorities.
fn own_chain_problem(
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    leaf: &Leaf,
    file: &Path,
    now: SystemTime,
) -> Result<Option<TlsError>, TlsError> {
    let at = now.min(leaf.not_after).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let malformed = |problem: String| TlsError::Malformed { file: file.to_owned(), problem };
    for usage in [Usage::Client, Usage::Server] {
        match trust.verify_at(&chain[0], &chain[1..], usage, UnixTime::since_unix_epoch(at)) {
            Ok(()) => {}
            Err(CertificateError::UnknownIssuer) => return Ok(Some(TlsError::NotSigned(file.to_owned()))),
            Err(CertificateError::InvalidPurpose) => {
                let problem =
                    "must be good for both ends of a link: extended key usage clientAuth and serverAuth";
                return Err(malformed(problem.into()));
            }
            Err(CertificateError::NotValidYetContext { .. }) => {
                return Err(malformed("is not valid yet: check this machine's clock".into()));
            }
            Err(CertificateError::Revoked) => {
                return Err(malformed("was revoked by crl.pem beside it".into()));
            }
            Err(other) => return Err(malformed(format!("cannot be used: {other}"))),
        }
    }
    Ok(None)
}

fn configurations(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(ServerConfig, ClientConfig), rustls::Error> {
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(FleetVerifier { trust: trust.clone(), algorithms });
    // Both ends are flagship: nothing older than TLS 1.3 has to be spoken.
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    // A resumed session would skip the verifier, and with it expiry, revocation and removed authorities.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((server, client))
}
