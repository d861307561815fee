//! What `flagship pki init` and `add-member` leave behind:
//! `DIR/{ca.crt,ca.key}` and `DIR/<member>/{ca.crt,tls.crt,tls.key,secret.yaml}`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flagship_types::MemberName;

use crate::files::{NewFile, write_all};
use crate::secret::manifest;
use crate::{Authority, Issued, PkiError, SecretSettings, Validity};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// For whom; in the order they were asked for.
    pub members: Vec<MemberName>,
    /// All files, each whole on disk.
    pub files: Vec<PathBuf>,
}

/// Writes a new authority and its members' certificates. Refuses to replace any file unless `force`.
pub fn init(
    authority: &Authority,
    members: &[MemberName],
    validity: Validity,
    secret: &SecretSettings,
    dir: &Path,
    force: bool,
) -> Result<Written, PkiError> {
    if let Some((_, twice)) = members.iter().enumerate().find(|(i, m)| members[..*i].contains(m)) {
        return Err(PkiError::Twice(twice.clone()));
    }
    let mut files = vec![
        NewFile { path: dir.join("ca.key"), content: authority.key(), secret: true },
        NewFile { path: dir.join("ca.crt"), content: authority.certificate().to_owned(), secret: false },
    ];
    for member in members {
        let issued = authority.issue(member, validity, SystemTime::now())?;
        files.extend(member_files(dir, member, authority.certificate(), &issued, secret));
    }
    finish(files, members.to_vec(), force)
}

/// Writes a certificate for one more member, signed by the authority in `dir`. Refuses to replace any file
/// unless `force`. Several authorities in `ca.crt` (a change under way) are passed on; the one that belongs to
/// `ca.key` signs.
pub fn add_member(
    dir: &Path,
    member: &MemberName,
    validity: Validity,
    secret: &SecretSettings,
    force: bool,
) -> Result<Written, PkiError> {
    let certificate = read_authority_file(dir, "ca.crt", member)?;
    let key = read_authority_file(dir, "ca.key", member)?;
    let ca_file = dir.join("ca.crt");
    let malformed = |e: PkiError| PkiError::Malformed { path: ca_file.clone(), problem: e.to_string() };
    let signer = signer_of(&certificate, &key, &ca_file)?;
    let authority = Authority::from_pem(&signer, &key).map_err(malformed)?;
    let authority = authority.ok_or_else(|| PkiError::ForeignAuthority(ca_file.clone()))?;
    let issued = authority.issue(member, validity, SystemTime::now())?;
    finish(member_files(dir, member, &certificate, &issued, secret).into(), vec![member.clone()], force)
}

fn signer_of(certificates: &str, key: &str, path: &Path) -> Result<String, PkiError> {
    let malformed = |problem: String| PkiError::Malformed { path: path.to_owned(), problem };
    crate::report::split_pem(certificates)
        .find(|pem| crate::report::key_matches(pem, key))
        .ok_or_else(|| malformed("no certificate in it belongs to ca.key beside it".into()))
}

fn read_authority_file(dir: &Path, name: &str, member: &MemberName) -> Result<String, PkiError> {
    let file = dir.join(name);
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(PkiError::NoAuthority { file, dir: dir.to_owned(), member: member.clone() })
        }
        Err(e) => Err(PkiError::io(file)(e)),
    }
}

fn member_files(
    dir: &Path,
    member: &MemberName,
    authority: &str,
    issued: &Issued,
    secret: &SecretSettings,
) -> [NewFile; 4] {
    let dir = dir.join(member.as_str());
    let file = |name: &str, content: String, secret| NewFile { path: dir.join(name), content, secret };
    [
        file("tls.key", issued.key.clone(), true),
        file("tls.crt", issued.certificate.clone(), false),
        file("ca.crt", authority.to_owned(), false),
        file("secret.yaml", manifest(secret, authority, issued), true),
    ]
}

fn finish(files: Vec<NewFile>, members: Vec<MemberName>, force: bool) -> Result<Written, PkiError> {
    write_all(&files, force)?;
    Ok(Written { members, files: files.into_iter().map(|file| file.path).collect() })
}
