//! The files under `--tls-dir`.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flagship_types::{Callsign, MemberName};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::Leaf;
use crate::limits::MAX_TLS_FILE_BYTES;

/// Why a member's certificates cannot be used. Nothing was changed: certificates in use stay in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is none.
    #[error("{} is missing. If the fleet exists, DIR being where its ca.key is kept: flagship pki add-member --fleet {callsign} --member {member} --out DIR; only for a new fleet, with one --member for each: flagship pki init --fleet {callsign} --member {member} --out DIR; then {}", file.display(), hand_over(member, file.parent()))]
    Missing {
        /// The file that was looked for.
        file: PathBuf,
        /// For which fleet.
        callsign: Callsign,
        /// For which member.
        member: MemberName,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what its name says.
    #[error("{} {problem}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The key is not that of the certificate.
    #[error("{} is not the key of the certificate beside it: copy tls.crt and tls.key from the same DIR/MEMBER/ that flagship pki add-member --out DIR wrote", .0.display())]
    KeyMismatch(PathBuf),
    /// The certificate is for somebody else.
    #[error("{} is for {found}, not for member {member} of fleet {callsign}: make one, DIR being where the fleet's ca.key is kept: flagship pki add-member --fleet {callsign} --member {member} --out DIR; then {}", file.display(), hand_over(member, file.parent()))]
    WrongIdentity {
        /// Which file.
        file: PathBuf,
        /// For whom it is.
        found: String,
        /// For which fleet one is needed.
        callsign: Callsign,
        /// For which member one is needed.
        member: MemberName,
    },
    /// The certificate was signed by an authority that is not in `ca.crt`.
    #[error("{} was not signed by an authority in ca.crt beside it: copy both from the same DIR/MEMBER/ that flagship pki add-member --out DIR wrote", .0.display())]
    NotSigned(PathBuf),
}

/// How a daemon gets the files that flagship pki wrote; `to` is where it reads them, unless it is another's. Every
/// command in these sentences ends with a semicolon or the sentence, so that it can be copied.
fn hand_over(member: &impl Display, to: Option<&Path>) -> String {
    let to =
        to.map_or("the directory that its daemon reads (--tls-dir)".into(), |to| to.display().to_string());
    format!(
        "copy DIR/{member}/* to {to}; for a pod instead: kubectl --context CONTEXT apply -f DIR/{member}/secret.yaml; if that pod is not in kube-vip-multi-cluster-system, the command before needs --namespace NAMESPACE, too. No restart is needed"
    )
}

/// The command that makes a member's certificate anew, and what to do with it; `to` as in [`hand_over`].
pub(crate) fn renewal(callsign: impl Display, member: impl Display, to: Option<&Path>) -> String {
    format!(
        "flagship pki add-member --fleet {callsign} --member {member} --out DIR --force; DIR is where the fleet's ca.key is kept. Then {}",
        hand_over(&member, to)
    )
}

/// The contents of a member's files; two that are equal need no reload.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) dir: PathBuf,
    pub(crate) authorities: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) revoked: Option<Vec<u8>>,
}

/// `--tls-dir`: one pair, or `<callsign>/<member>/` with one each.
#[derive(Debug, Clone)]
pub(crate) struct TlsDirectory(pub(crate) PathBuf);

impl TlsDirectory {
    /// Reads a member's files. Blocks.
    pub(crate) fn read(&self, callsign: &Callsign, member: &MemberName) -> Result<TlsFiles, TlsError> {
        let dir = self.dir_of(callsign, member);
        let file = |name: &str| {
            let file = dir.join(name);
            match read_bounded(&file) {
                Ok(content) => Ok(content),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    Err(TlsError::Missing { file, callsign: callsign.clone(), member: member.clone() })
                }
                Err(source) => Err(TlsError::Read { file, source }),
            }
        };
        let revoked = match file("crl.pem") {
            Ok(content) => Some(content),
            Err(TlsError::Missing { .. }) => None,
            Err(other) => return Err(other),
        };
        Ok(TlsFiles {
            certificate: file("tls.crt")?,
            key: file("tls.key")?,
            authorities: file("ca.crt")?,
            revoked,
            dir: dir.clone(),
        })
    }

    /// The members of a fleet that certificates are there for, by name: what its pair says, and what those in
    /// `<callsign>/<member>/` say of themselves. Blocks.
    pub(crate) fn members(&self, callsign: &Callsign) -> Result<Vec<MemberName>, TlsError> {
        let mut names = self.names_in(&self.0, callsign)?;
        if !callsign.as_str().starts_with('.') {
            let own = self.0.join(callsign.as_str());
            let entries = match std::fs::read_dir(&own) {
                Ok(entries) => entries.collect(),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    Vec::new()
                }
                Err(source) => return Err(TlsError::Read { file: own, source }),
            };
            for entry in entries {
                let dir = entry.map_err(|source| TlsError::Read { file: own.clone(), source })?.path();
                // What lies under another name than its own is never read for a member.
                let is_its_own = |name: &MemberName| dir.file_name().is_some_and(|dir| dir == name.as_str());
                names.extend(self.names_in(&dir, callsign)?.into_iter().filter(is_its_own));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Whom the certificate of one directory is for, in one fleet.
    fn names_in(&self, dir: &Path, callsign: &Callsign) -> Result<Vec<MemberName>, TlsError> {
        let file = dir.join("tls.crt");
        let content = match read_bounded(&file) {
            Ok(content) => content,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(source) => return Err(TlsError::Read { file, source }),
        };
        let malformed = |problem: String| TlsError::Malformed { file: file.clone(), problem };
        let first = CertificateDer::pem_slice_iter(&content).next();
        let first = first.ok_or_else(|| malformed("holds no certificate in PEM".into()))?;
        let first = first.map_err(|e| malformed(format!("is not a list of certificates in PEM: {e}")))?;
        let leaf = Leaf::read(&first).map_err(|e| malformed(format!("cannot be used: {e}")))?;
        let of_fleet = leaf.identities.into_iter().filter(|identity| identity.callsign == *callsign);
        Ok(of_fleet.map(|identity| identity.member).collect())
    }

    fn dir_of(&self, callsign: &Callsign, member: &MemberName) -> PathBuf {
        // A callsign holds no '/', but `..` would still lead out of the directory.
        if !callsign.as_str().starts_with('.') {
            let own = self.0.join(callsign.as_str()).join(member.as_str());
            if own.is_dir() {
                return own;
            }
        }
        self.0.clone()
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_TLS_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_TLS_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("is larger than {MAX_TLS_FILE_BYTES} bytes"),
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands in a sentence, as somebody copies them.
    fn commands(sentence: &str) -> Vec<&str> {
        let starts = ["flagship pki ", "kubectl "].iter().flat_map(|word| sentence.match_indices(word));
        let command = |(at, _): (usize, &str)| sentence[at..].split(';').next().unwrap_or_default();
        starts.map(command).filter(|command| command.contains(" -")).collect()
    }

    fn check(sentence: &str, count: usize) {
        let commands = commands(sentence);
        assert_eq!(commands.len(), count, "{sentence}");
        for command in commands {
            let clean = |word: &str| !word.ends_with([',', '.', ':']) && !word.contains(['(', ')', '*']);
            assert!(command.split(' ').all(clean), "{command:?} in {sentence}");
            let last = command.rsplit(' ').next().unwrap();
            assert!(["DIR", "--force"].contains(&last) || last.ends_with("/secret.yaml"), "{command:?}");
        }
    }

    #[test]
    fn commands_work_as_printed() {
        let (callsign, member): (Callsign, MemberName) =
            ("federation".parse().unwrap(), "newyork".parse().unwrap());
        let file: PathBuf = "/srv/tls/tls.crt".into();
        let missing =
            TlsError::Missing { file: file.clone(), callsign: callsign.clone(), member: member.clone() };
        check(&missing.to_string(), 3);
        let other = TlsError::WrongIdentity {
            file,
            found: "x".into(),
            callsign: callsign.clone(),
            member: member.clone(),
        };
        check(&other.to_string(), 2);
        let ours = renewal(&callsign, &member, Some(Path::new("/srv/tls")));
        check(&ours, 2);
        let theirs = renewal(&callsign, "ITS-NAME", None);
        check(&theirs, 2);
        for sentence in [missing.to_string(), other.to_string(), ours] {
            assert!(sentence.contains("copy DIR/newyork/* to /srv/tls; for a pod"), "{sentence}");
        }
        assert!(theirs.contains("copy DIR/ITS-NAME/* to the directory that its daemon reads"), "{theirs}");
        check(&super::super::certificate::LeafError::Rsa.to_string(), 1);
    }
}
