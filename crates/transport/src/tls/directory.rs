//! The files under `--tls-dir`.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flagship_types::{Callsign, MemberName};

use crate::limits::MAX_TLS_FILE_BYTES;

/// Why a member's certificates cannot be used. Nothing was changed: certificates in use stay in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is none.
    #[error("{} is missing. If the fleet exists, DIR being where its ca.key is kept: flagship pki add-member --fleet {callsign} --member {member} --out DIR; only for a new fleet: flagship pki init --fleet {callsign} --member {member} --out DIR, with one --member for each. Then, {}. No restart is needed", file.display(), hand_over(member))]
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
    #[error("{} is for {found}, not for member {member} of fleet {callsign}: make one with: flagship pki add-member --fleet {callsign} --member {member} --out DIR, DIR being where the fleet's ca.key is kept; then, {}", file.display(), hand_over(member))]
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

/// How a daemon gets the files that flagship pki wrote.
fn hand_over(member: &MemberName) -> String {
    format!(
        "in a cluster: kubectl --context CONTEXT apply -f DIR/{member}/secret.yaml, else: flagship run --tls-dir DIR/{member}"
    )
}

/// The command that makes a member's certificate anew, and what to do with it.
pub(crate) fn renewal(callsign: impl Display, member: impl Display) -> String {
    format!(
        "flagship pki add-member --fleet {callsign} --member {member} --out DIR --force, then kubectl --context CONTEXT apply -f DIR/{member}/secret.yaml; DIR is where the fleet's ca.key is kept, and no restart is needed"
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
