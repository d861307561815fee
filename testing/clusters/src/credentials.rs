//! Certificates, keys and tokens of one control plane.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::assets::hex;

/// The files that the components are started with.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// The CA of the API server's certificate, PEM.
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Signs the tokens of ServiceAccounts.
    pub(crate) service_account_key: PathBuf,
    /// Verifies them: the API server does not take the public half from a PKCS #8 file.
    pub(crate) service_account_public_key: PathBuf,
    /// Who may call the API server, by token.
    pub(crate) token_file: PathBuf,
    pub(crate) tokens: Tokens,
}

/// One token for each component that has an identity of its own.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(crate) admin: String,
    pub(crate) controller_manager: String,
    pub(crate) scheduler: String,
}

impl Credentials {
    /// Makes new ones in `dir`.
    pub(crate) fn create(dir: &Path, addresses: &[Ipv4Addr]) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let made = Self {
            ca: dir.join("ca.crt"),
            certificate: dir.join("apiserver.crt"),
            key: dir.join("apiserver.key"),
            service_account_key: dir.join("service-account.key"),
            service_account_public_key: dir.join("service-account.pub"),
            token_file: dir.join("tokens.csv"),
            tokens: Tokens { admin: token()?, controller_manager: token()?, scheduler: token()? },
        };
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "flagship test control plane");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let mut names = vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()];
        names.extend(addresses.iter().map(Ipv4Addr::to_string));
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;

        write_private(&made.ca, &authority.pem())?;
        write_private(&made.certificate, &certificate.pem())?;
        write_private(&made.key, &key.serialize_pem())?;
        let signer = KeyPair::generate()?;
        write_private(&made.service_account_key, &signer.serialize_pem())?;
        write_private(&made.service_account_public_key, &signer.public_key_pem())?;
        let Tokens { admin, controller_manager, scheduler } = &made.tokens;
        let users = format!(
            "{admin},admin,admin,\"system:masters\"\n\
             {controller_manager},system:kube-controller-manager,system:kube-controller-manager,\"system:masters\"\n\
             {scheduler},system:kube-scheduler,system:kube-scheduler,\n"
        );
        write_private(&made.token_file, &users)?;
        Ok(made)
    }
}

/// Writes a file that only its owner can read, in one step for whoever reads it meanwhile.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content.as_bytes())?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn token() -> Result<String> {
    let mut bytes = [0u8; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(hex(&bytes))
}
