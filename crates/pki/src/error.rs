//! Why certificates could not be made, written or read.

use std::io;
use std::path::PathBuf;

use flagship_types::MemberName;

/// Why certificates could not be made, written or read. Unless a variant says otherwise nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key is there already.
    #[error("{} exists already: take another directory, or --force to replace it (certificates made with it stop working)", .0.display())]
    Exists(PathBuf),
    /// The same member twice.
    #[error("member {0} is named twice: every member of a fleet has its own name")]
    Twice(MemberName),
    /// No authority there.
    #[error("{} is missing: give the --out DIR that flagship pki init wrote for this fleet; only for a new fleet: flagship pki init --fleet CALLSIGN --member {member} --out {}", file.display(), dir.display())]
    NoAuthority {
        /// What was looked for.
        file: PathBuf,
        /// Where.
        dir: PathBuf,
        /// For whom a certificate was wanted.
        member: MemberName,
    },
    /// The authority's certificate does not name a fleet.
    #[error("{} does not say which fleet it is for (no URI spiffe://<trust-domain>/fleet/<callsign>): it was not made by flagship pki init; issue member certificates with the tool that made it", .0.display())]
    ForeignAuthority(PathBuf),
    /// A validity that ends before it begins or beyond the year 9999.
    #[error("a validity of {0} days is out of range: 1 to 36500 days")]
    Validity(u32),
    /// Not a certificate or key.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Reading or writing failed; with several files some may have been written, each of them whole.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

impl PkiError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
