//! Why the state directory cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use flagship_types::{Callsign, MemberName};

use crate::format::FormatError;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory is not there. Nothing was changed: one that is made anew would hide that a volume is not mounted.
    #[error("--state-dir {dir}: there is no such directory. For a new witness make it: mkdir -m 700 {dir}; if there was one, its volume is not mounted", dir = .0.display())]
    NoDirectory(PathBuf),
    /// Another process uses it. Nothing was changed.
    #[error("--state-dir {}: another flagship witness uses it. Two processes with one record could vote twice: end the other one, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    /// The system refused. The record in the file is the one from before, or the new one.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source, path))]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a record that cannot be believed. Nothing was changed.
    #[error("{name} {problem}. A witness that may have forgotten what it voted must not vote. Move the file away (mv {name} {name}.bad) and start again; then this witness votes when every other voter has told it what it knows, or when you vouch for it (--admit, docs/witness.md). Do not put back an older copy: it has forgotten the votes since", name = file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        problem: FormatError,
    },
    /// The record is that of another fleet. Nothing was changed.
    #[error("{} is the record of fleet {found}, not of {callsign}: files of the state directory must not be renamed; move it back", file.display())]
    OtherFleet {
        /// Which file.
        file: PathBuf,
        /// Whose it is.
        found: Callsign,
        /// Whose it should be.
        callsign: Callsign,
    },
    /// The record is that of another member of the fleet. Nothing was changed.
    #[error("{} is the record of member {found}, and this witness is {member}: a record stays with its member. Use the certificate of {found} (or --name {found}); if {found} is no voter any more, move the file away", file.display())]
    OtherMember {
        /// Which file.
        file: PathBuf,
        /// Whose it is.
        found: MemberName,
        /// Who asked.
        member: MemberName,
    },
}

impl StateError {
    /// For `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// What to do about an error of the system, as the rest of a sentence.
fn advice(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            ": {} and its directory must belong to the user that the witness runs as (systemd: StateDirectory=, Kubernetes: fsGroup)",
            path.display()
        ),
        io::ErrorKind::ReadOnlyFilesystem => ": the state directory must be writable".into(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space, a record takes a few KiB".into()
        }
        _ => String::new(),
    }
}
