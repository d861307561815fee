//! The state directory: one process at a time, one file per fleet.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use flagship_types::Callsign;
use tracing::{info, warn};

use crate::error::StateError;
use crate::format::MAX_BYTES;

/// Held as long as the [`StateDir`]; the kernel lets it go with the process, however that ends.
const LOCK: &str = "flagship.lock";
/// What a write that was cut short leaves behind begins so.
const UNFINISHED: &str = ".flagship-unfinished-";

/// A directory that is this process's own.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    lock: File,
}

impl StateDir {
    /// Takes the directory, and removes what a crash in the middle of a write left in it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        if !path.is_dir() {
            return Err(StateError::NoDirectory(path.to_owned()));
        }
        let lock_file = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_file)
            .map_err(StateError::io("open", &lock_file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(StateError::io("lock", &lock_file)(source)),
        }
        let dir = Self { path: path.to_owned(), lock };
        dir.tidy().map_err(StateError::io("tidy", path))?;
        Ok(dir)
    }

    fn tidy(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                info!(file = %entry.path().display(), "removing what an earlier process did not finish writing");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Where a fleet's record is. A callsign holds neither `/` nor control characters, and is at most 128 bytes long.
    pub(crate) fn file_of(&self, callsign: &Callsign) -> PathBuf {
        self.path.join(format!("fleet-{callsign}.json"))
    }

    /// The content of a file, or a little more than the most that a record has; `None` if it is not there.
    pub(crate) fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, StateError> {
        let mut content = Vec::new();
        let most = MAX_BYTES as u64 + 1;
        match File::open(file).and_then(|open| open.take(most).read_to_end(&mut content)) {
            Ok(_) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::io("read", file)(error)),
        }
    }

    /// Replaces a file as a whole. When this returns `Ok`, the content survives the loss of the machine; after an
    /// error, or if the machine is lost meanwhile, the file has the content from before or the new one, nothing else.
    pub(crate) fn replace(&self, file: &Path, content: &[u8]) -> Result<(), StateError> {
        // In the same directory: only within one file system is a rename one step.
        let mut unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.path)
            .map_err(StateError::io("make a file in", &self.path))?;
        let write = unfinished.write_all(content).and_then(|()| unfinished.as_file().sync_all());
        write.map_err(StateError::io("write", unfinished.path()))?;
        unfinished.persist(file).map_err(|error| StateError::io("replace", file)(error.error))?;
        // The name is in the directory, which is written on its own.
        let sync = File::open(&self.path).and_then(|dir| dir.sync_all());
        sync.map_err(StateError::io("write", &self.path))
    }
}

impl Drop for StateDir {
    /// Closing alone would leave the lock with every child that another thread is just starting: it has a copy of the
    /// descriptor between fork and exec.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            warn!(%error, path = %self.path.display(), "the state directory's lock goes with this process only");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StateDir;

    /// A copy is what a child has between fork and exec: another test of this program may be starting one.
    #[test]
    fn the_lock_goes_with_the_directory_even_if_somebody_has_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        StateDir::open(dir.path()).unwrap();
        drop(copy);
    }
}
