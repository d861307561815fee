//! What is in certificates, for people.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use flagship_types::MemberIdentity;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::public_key::PublicKey;

use crate::PkiError;

/// Below this share of its life, in percent, a certificate should be renewed.
const RENEW_BELOW_PERCENT: i64 = 30;

/// The largest certificate file that is read: some hundred authorities.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateReport {
    /// Where it was found.
    pub path: PathBuf,
    /// Its subject.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its URI names; a member's identity among them.
    pub uris: Vec<String>,
    /// The member it is for, if it names one (the first, if several).
    pub identity: Option<MemberIdentity>,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate, as `AB:CD:…`.
    pub fingerprint: String,
    /// What to do about it; empty if all is well.
    pub warnings: Vec<String>,
}

/// Reads a file of certificates, or a directory as `flagship pki init` writes it or `--tls-dir` holds it.
pub fn show(path: &Path, now: Timestamp) -> Result<Vec<CertificateReport>, PkiError> {
    let files = if path.is_dir() { certificate_files(path)? } else { vec![path.to_owned()] };
    if files.is_empty() {
        let problem = "holds neither ca.crt nor tls.crt: make them with: flagship pki add-member --fleet CALLSIGN --member NAME --out DIR, for a new fleet: flagship pki init --fleet CALLSIGN --member NAME --out DIR";
        return Err(PkiError::Malformed { path: path.to_owned(), problem: problem.into() });
    }
    let mut reports = Vec::new();
    for file in files {
        reports.extend(read(&file, now)?);
    }
    Ok(reports)
}

/// `ca.crt` and `tls.crt` in the directory and up to two levels below.
fn certificate_files(dir: &Path) -> Result<Vec<PathBuf>, PkiError> {
    let mut found = Vec::new();
    let mut level = vec![dir.to_owned()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for dir in level {
            found.extend(
                ["ca.crt", "tls.crt"].map(|name| dir.join(name)).into_iter().filter(|file| file.is_file()),
            );
            for entry in fs::read_dir(&dir).map_err(PkiError::io(&dir))?.flatten() {
                // A mounted Secret keeps its versions in directories that begin with two dots.
                if entry.path().is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
                    below.push(entry.path());
                }
            }
        }
        below.sort();
        level = below;
    }
    Ok(found)
}

fn read(path: &Path, now: Timestamp) -> Result<Vec<CertificateReport>, PkiError> {
    let malformed = |problem: String| PkiError::Malformed { path: path.to_owned(), problem };
    if fs::metadata(path).map_err(PkiError::io(path))?.len() > MAX_FILE_BYTES {
        return Err(malformed(format!("is larger than {MAX_FILE_BYTES} bytes: not a certificate file")));
    }
    let text = fs::read_to_string(path).map_err(PkiError::io(path))?;
    let blocks: Vec<Pem> = Pem::iter_from_buffer(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| malformed(format!("is not PEM: {e}")))?;
    let mut reports = Vec::new();
    for block in blocks.iter().filter(|block| block.label == "CERTIFICATE") {
        let certificate =
            block.parse_x509().map_err(|e| malformed(format!("holds a broken certificate: {e}")))?;
        reports.push(report(path, &block.contents, &certificate, now));
    }
    if reports.is_empty() {
        return Err(malformed("holds no certificate".into()));
    }
    if let Some(leaf) = reports.first_mut().filter(|leaf| !leaf.is_authority) {
        leaf.warnings.extend(neighbour_warnings(path, &text));
    }
    Ok(reports)
}

fn report(path: &Path, der: &[u8], certificate: &X509Certificate<'_>, now: Timestamp) -> CertificateReport {
    let time = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let uris = uris(certificate);
    let mut report = CertificateReport {
        path: path.to_owned(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        identity: uris.iter().find_map(|uri| uri.parse().ok()),
        uris,
        is_authority: certificate.is_ca(),
        not_before: time(certificate.validity().not_before.timestamp()),
        not_after: time(certificate.validity().not_after.timestamp()),
        fingerprint: fingerprint(der),
        warnings: Vec::new(),
    };
    report.warnings = validity_warnings(&report, now);
    if !report.is_authority {
        report.warnings.extend(leaf_warnings(&report, certificate));
    }
    report
}

fn validity_warnings(report: &CertificateReport, now: Timestamp) -> Vec<String> {
    let (from, until) = (report.not_before.as_second(), report.not_after.as_second());
    let left = until - now.as_second();
    let what = if report.is_authority { "authority" } else { "certificate" };
    let mut warnings = Vec::new();
    if left <= 0 {
        warnings.push(format!("the {what} expired at {}: issue a new one", report.not_after));
    } else if left.saturating_mul(100) < (until - from).saturating_mul(RENEW_BELOW_PERCENT) {
        warnings.push(format!("the {what} expires in {} days: renew it", left / 86_400));
    }
    if report.not_before > now {
        warnings.push(format!(
            "the {what} is not valid before {}: check this machine's clock",
            report.not_before
        ));
    }
    warnings
}

fn leaf_warnings(report: &CertificateReport, certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.identity.is_none() {
        warnings.push(
            "no URI spiffe://<trust-domain>/fleet/<callsign>/member/<name>: no member can use it".into(),
        );
    }
    if matches!(certificate.public_key().parsed(), Ok(PublicKey::RSA(_))) {
        warnings.push(
            "RSA keys are refused: make an ECDSA P-256 key (cert-manager: privateKey.algorithm: ECDSA)"
                .into(),
        );
    }
    let usage = certificate.extended_key_usage().ok().flatten().map(|usage| usage.value.clone());
    if !usage.is_some_and(|usage| usage.any || usage.client_auth && usage.server_auth) {
        warnings.push("extended key usage must hold clientAuth and serverAuth".into());
    }
    warnings
}

/// What does not fit between a leaf and the files beside it.
fn neighbour_warnings(path: &Path, leaf: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let key_path = path.with_file_name("tls.key");
    if let Ok(key) = fs::read_to_string(&key_path)
        && !key_matches(leaf, &key)
    {
        warnings.push(format!("{} is not its key", key_path.display()));
    }
    let ca_path = path.with_file_name("ca.crt");
    if let Ok(authorities) = fs::read_to_string(&ca_path)
        && !split_pem(&authorities).any(|authority| signed_by(leaf, &authority))
    {
        warnings.push(format!("no authority in {} signed it", ca_path.display()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let open = fs::metadata(&key_path).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0);
        if open {
            warnings
                .push(format!("everybody on this machine can read {0}: chmod 600 {0}", key_path.display()));
        }
    }
    warnings
}

/// The certificates in a text, each on its own.
pub(crate) fn split_pem(text: &str) -> impl Iterator<Item = String> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END)
        .filter(|part| part.ends_with(END))
        .map(|part| format!("{}\n", part.trim_start()))
}

/// Whether the first certificate in a text has this key.
pub(crate) fn key_matches(certificate: &str, key: &str) -> bool {
    let Ok((_, pem)) = parse_x509_pem(certificate.as_bytes()) else { return false };
    let (Ok(certificate), Ok(key)) = (pem.parse_x509(), KeyPair::from_pem(key)) else { return false };
    certificate.public_key().raw == key.subject_public_key_info()
}

fn signed_by(leaf: &str, authority: &str) -> bool {
    let (Ok((_, leaf)), Ok((_, authority))) =
        (parse_x509_pem(leaf.as_bytes()), parse_x509_pem(authority.as_bytes()))
    else {
        return false;
    };
    let (Ok(leaf), Ok(authority)) = (leaf.parse_x509(), authority.parse_x509()) else { return false };
    leaf.verify_signature(Some(authority.public_key())).is_ok()
}

pub(crate) fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.iter().filter_map(uri).collect()
}

fn fingerprint(der: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(der) {
        if !text.is_empty() {
            text.push(':');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}
