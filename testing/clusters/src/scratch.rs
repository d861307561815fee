//! Directories for runs that leave nothing behind, not even after a kill: the next run removes what it finds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::assets::user_dir;

/// A directory of this run. Removed with this value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Held as long as the run lives; the kernel lets go of it at any end.
    _lock: File,
}

impl Scratch {
    /// Makes one below the user's cache directory, and removes those whose runs have ended.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create() -> Result<Self> {
        Self::create_in(&user_dir("XDG_CACHE_HOME", ".cache")?.join("flagship/runs"))
    }

    fn create_in(runs: &Path) -> Result<Self> {
        fs::create_dir_all(runs).with_context(|| format!("create {}", runs.display()))?;
        // One at a time, so that nobody takes a directory whose lock is not held yet for a dead one.
        let all = File::create(runs.join("lock")).context("create the lock of all runs")?;
        all.lock().context("lock all runs")?;
        remove_ended(runs);
        // Process ids repeat between namespaces, so the first free number is taken instead.
        for number in 0u32.. {
            let path = runs.join(number.to_string());
            match fs::create_dir(&path) {
                Ok(()) => {
                    let lock = lock_file(&path)?;
                    lock.lock().context("lock the run's directory")?;
                    return Ok(Self { path, _lock: lock });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
            }
        }
        anyhow::bail!("{} is full", runs.display())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(lock_path(&self.path));
    }
}

fn lock_path(run: &Path) -> PathBuf {
    run.with_extension("lock")
}

fn lock_file(run: &Path) -> Result<File> {
    let path = lock_path(run);
    File::create(&path).with_context(|| format!("create {}", path.display()))
}

fn remove_ended(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    for lock in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_lock = lock.extension().is_some_and(|extension| extension == "lock");
        if is_lock && File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(lock.with_extension(""));
            let _ = fs::remove_file(&lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_ended_runs_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let one = Scratch::create_in(dir.path()).unwrap();
        let other = Scratch::create_in(dir.path()).unwrap();
        assert_ne!(one.path(), other.path());
        fs::create_dir(dir.path().join("77")).unwrap();
        File::create(dir.path().join("77.lock")).unwrap();
        let third = Scratch::create_in(dir.path()).unwrap();
        assert!(!dir.path().join("77").exists(), "what a killed run left");
        assert!(one.path().exists() && other.path().exists() && third.path().exists());
        drop((one, other, third));
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }
}
