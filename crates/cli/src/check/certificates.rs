//! The certificates of the members: from a directory or from the Secrets that the daemons mount.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flagship_pki::{CertificateReport, show};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::objects::Located;
use super::report::{Finding, Topic};
use crate::cluster::{Cluster, ClusterError};
use crate::style::counted;

const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// As deep as `--tls-dir` may be: DIR, CALLSIGN, MEMBER.
const MAX_DEPTH: usize = 3;
/// Pairs read from one directory: far more members than a fleet in full mesh has.
const MAX_PAIRS: usize = 64;

/// One member's certificate, key and authorities.
pub(crate) struct Material {
    /// Where it comes from, for people.
    pub(crate) origin: String,
    /// The Secret it is in; `None`: from a directory.
    pub(crate) secret: Option<Place>,
    pub(crate) authorities: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) reports: Vec<CertificateReport>,
}

/// Where a Secret is.
pub(crate) struct Place {
    pub(crate) context: String,
    /// How a command for its cluster begins.
    pub(crate) kubectl: String,
    pub(crate) namespace: String,
}

impl Material {
    /// Whether one of its identities is this member's.
    pub(crate) fn is_for(&self, callsign: &str, member: &str) -> bool {
        let leaf = self.reports.iter().find(|report| !report.is_authority);
        let uris = leaf.map(|leaf| leaf.uris.as_slice()).unwrap_or_default();
        uris.iter()
            .filter_map(|uri| uri.parse::<flagship_types::MemberIdentity>().ok())
            .any(|identity| identity.callsign.as_str() == callsign && identity.member.as_str() == member)
    }

    fn fleet(&self) -> Option<&str> {
        let leaf = self.reports.iter().find(|report| !report.is_authority)?;
        Some(leaf.identity.as_ref()?.callsign.as_str())
    }

    fn authority_fingerprints(&self) -> BTreeSet<&str> {
        let authorities = self.reports.iter().filter(|report| report.is_authority);
        authorities.map(|report| report.fingerprint.as_str()).collect()
    }
}

/// Everything below a directory, as `flagship pki init` writes it or `--tls-dir` holds it.
pub(crate) fn from_directory(dir: &Path) -> (Vec<Material>, Vec<Finding>) {
    let (mut found, mut findings) = (Vec::new(), Vec::new());
    for dir in pair_directories(dir) {
        let origin = dir.display().to_string();
        let read = |name: &str| std::fs::read(dir.join(name));
        let loaded = (|| {
            let (authorities, certificate, key) = (read(CA)?, read(CERTIFICATE)?, read(KEY)?);
            Ok::<_, std::io::Error>((authorities, certificate, key))
        })();
        match (loaded, show(&dir, Timestamp::now())) {
            (Ok((authorities, certificate, key)), Ok(reports)) => {
                found.push(Material { origin, secret: None, authorities, certificate, key, reports });
            }
            (Err(error), _) => findings.push(unreadable(&origin, &error.to_string())),
            (_, Err(error)) => findings.push(unreadable(&origin, &error.to_string())),
        }
    }
    if found.is_empty() && findings.is_empty() {
        let message = format!("{}: no {CERTIFICATE} in it or below", dir.display());
        findings.push(Finding::fail(Topic::Certificates, message, MAKE));
    }
    (found, findings)
}

const MAKE: &str =
    "make certificates with: flagship pki init --fleet CALLSIGN --member A --member B --out DIR";

fn unreadable(origin: &str, why: &str) -> Finding {
    Finding::fail(
        Topic::Certificates,
        format!("{origin}: {why}"),
        format!("{CA}, {CERTIFICATE} and {KEY} belong there; {MAKE}"),
    )
}

fn pair_directories(root: &Path) -> Vec<PathBuf> {
    let mut level = vec![root.to_owned()];
    let mut found = Vec::new();
    for _ in 0..MAX_DEPTH {
        let mut below = Vec::new();
        for dir in level {
            if dir.join(CERTIFICATE).is_file() {
                found.push(dir.clone());
            }
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            below.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !is_hidden(path)));
        }
        below.sort();
        level = below;
    }
    found.truncate(MAX_PAIRS);
    found
}

/// A mounted Secret keeps its versions in directories that begin with dots.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// The Secret of one cluster, looked for in the namespaces given; `None` if it is in none of them.
pub(crate) async fn from_secret(
    cluster: &Cluster,
    namespaces: &BTreeSet<&str>,
    name: &str,
) -> Result<Option<Material>, Finding> {
    for namespace in namespaces {
        let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
        let secret = cluster
            .call(api.get_opt(name))
            .await
            .map_err(|error| not_allowed(cluster, namespace, name, &error))?;
        if let Some(secret) = secret {
            return read_secret(cluster, namespace, name, secret).map(Some);
        }
    }
    Ok(None)
}

fn not_allowed(cluster: &Cluster, namespace: &str, name: &str, error: &ClusterError) -> Finding {
    let message = format!("{}: Secret {namespace}/{name} could not be read: {error}", cluster.context);
    Finding::warn(Topic::Certificates, message, "give the certificates with --tls-dir DIR")
}

fn read_secret(cluster: &Cluster, namespace: &str, name: &str, secret: Secret) -> Result<Material, Finding> {
    let origin = format!("{}: Secret {namespace}/{name}", cluster.context);
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key: &str| {
        data.remove(key).map(|value| value.0).ok_or_else(|| unreadable(&origin, &format!("has no key {key}")))
    };
    let (authorities, certificate, key) = (take(CA)?, take(CERTIFICATE)?, take(KEY)?);
    let reports = describe(&authorities, &certificate).map_err(|error| unreadable(&origin, &error))?;
    let place = Place {
        context: cluster.context.clone(),
        kubectl: cluster.kubectl.clone(),
        namespace: namespace.into(),
    };
    Ok(Material { origin, secret: Some(place), authorities, certificate, key, reports })
}

/// The same report as for files. The key stays in memory; whether it fits is seen when it is used.
fn describe(authorities: &[u8], certificate: &[u8]) -> Result<Vec<CertificateReport>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    for (name, content) in [(CA, authorities), (CERTIFICATE, certificate)] {
        std::fs::write(dir.path().join(name), content).map_err(|error| error.to_string())?;
    }
    show(dir.path(), Timestamp::now()).map_err(|error| error.to_string())
}

/// Everything about all certificates found, and about members without one.
pub(crate) fn check(materials: &[Material], objects: &[Located], asked: bool) -> Vec<Finding> {
    let mut findings: Vec<Finding> = materials.iter().flat_map(judge).collect();
    for object in objects {
        let has = materials.iter().any(|material| {
            let near = material.secret.as_ref().is_none_or(|place| place.context == object.context);
            near && material.is_for(object.callsign(), &object.name)
        });
        if !has && asked {
            findings.push(missing(object));
        }
    }
    findings.extend(authorities(materials));
    findings
}

fn missing(object: &Located) -> Finding {
    let (member, callsign, context) = (&object.name, object.callsign(), &object.context);
    let message = format!("{context}: no certificate found for member {member} of fleet {callsign}");
    let hint = format!(
        "flagship pki add-member --fleet {callsign} --member {member} --out DIR && {} apply -f DIR/{member}/secret.yaml",
        object.cluster
    );
    Finding::fail(Topic::Certificates, message, hint)
}

fn judge(material: &Material) -> Vec<Finding> {
    let mut findings = Vec::new();
    let now = Timestamp::now();
    for report in &material.reports {
        for warning in &report.warnings {
            let message = format!("{}: {warning}", material.origin);
            let expires_later = warning.contains("expires in");
            let hint = renewal(material, report);
            findings.push(match expires_later {
                true => Finding::warn(Topic::Certificates, message, hint),
                false => Finding::fail(Topic::Certificates, message, hint),
            });
        }
    }
    if let Err(error) = super::links::key_fits(material) {
        let message = format!("{}: {KEY}: {error}", material.origin);
        findings.push(Finding::fail(Topic::Certificates, message, MAKE));
    }
    if findings.is_empty()
        && let Some(leaf) = material.reports.iter().find(|report| !report.is_authority)
    {
        let identity = leaf
            .identity
            .as_ref()
            .map(|id| format!("member {} of fleet {}", id.member, id.callsign))
            .unwrap_or_default();
        let left = leaf.not_after.as_second().saturating_sub(now.as_second());
        let days = usize::try_from(left / 86_400).unwrap_or_default();
        findings.push(Finding::ok(
            Topic::Certificates,
            format!("{}: {identity}, {} left", material.origin, counted(days, "day")),
        ));
    }
    findings
}

fn renewal(material: &Material, report: &CertificateReport) -> String {
    let identity = material.reports.iter().find_map(|report| report.identity.as_ref());
    let Some(identity) = identity.filter(|_| !report.is_authority) else { return MAKE.into() };
    let (fleet, member) = (&identity.callsign, &identity.member);
    let issue = format!("flagship pki add-member --fleet {fleet} --member {member} --out DIR --force");
    match &material.secret {
        Some(Place { kubectl, namespace, .. }) => {
            format!("{issue} --namespace {namespace} && {kubectl} apply -f DIR/{member}/secret.yaml")
        }
        None => format!("{issue}; copy DIR/{member}/* to {}, unless it is that", material.origin),
    }
}

/// Members of one fleet must share an authority, or neither takes the other's certificate.
fn authorities(materials: &[Material]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, one) in materials.iter().enumerate() {
        for other in &materials[..at] {
            let same_fleet = one.fleet().is_some() && one.fleet() == other.fleet();
            if same_fleet && one.authority_fingerprints().is_disjoint(&other.authority_fingerprints()) {
                let message = format!("{} and {} have no authority in common", other.origin, one.origin);
                let hint = "issue both from one directory: flagship pki add-member --fleet CALLSIGN --member NAME --out DIR";
                findings.push(Finding::fail(Topic::Certificates, message, hint));
            }
        }
    }
    findings
}
