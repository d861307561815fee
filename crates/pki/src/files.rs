//! Files appear whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::PkiError;

/// A file to be written.
pub(crate) struct NewFile {
    pub(crate) path: PathBuf,
    pub(crate) content: String,
    /// Readable by its owner only.
    pub(crate) secret: bool,
}

/// Writes all files, or none if one of them exists and `force` is not given.
pub(crate) fn write_all(files: &[NewFile], force: bool) -> Result<(), PkiError> {
    if !force && let Some(present) = files.iter().find(|file| file.path.exists()) {
        return Err(PkiError::Exists(present.path.clone()));
    }
    for file in files {
        let parent = file.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(PkiError::io(parent))?;
        match write(file, force) {
            // Somebody else made it since the check above.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(PkiError::Exists(file.path.clone()));
            }
            other => other.map_err(PkiError::io(&file.path))?,
        }
    }
    Ok(())
}

fn write(file: &NewFile, replace: bool) -> io::Result<()> {
    let mut temporary = file.path.clone().into_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let result = write_temporary(&temporary, file).and_then(|()| {
        if replace {
            fs::rename(&temporary, &file.path)
        } else {
            // A hard link fails where a rename would replace what appeared meanwhile.
            fs::hard_link(&temporary, &file.path)
        }
    });
    // After a rename it is gone; after anything else it must go, and there is nobody to tell if it does not.
    let _ = fs::remove_file(&temporary);
    result
}

fn write_temporary(path: &Path, file: &NewFile) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if file.secret { 0o600 } else { 0o644 });
    }
    let mut open = options.open(path)?;
    open.write_all(file.content.as_bytes())?;
    open.sync_all()
}
