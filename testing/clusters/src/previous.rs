//! The daemon of an earlier commit, for fleets in which two builds meet.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::daemon::{self, Flagship};
use crate::progress;

/// What the daemon is built from.
const SOURCES: [&str; 5] = ["src", "crates", "proto", "Cargo.toml", "Cargo.lock"];
/// The user's choice: a binary, with the `deploy` directory of its commit beside it.
const VARIABLE: &str = "FLAGSHIP_PREVIOUS_BIN";
/// A build that nobody has asked for in so long is not in use by a test that runs.
const KEEP: Duration = Duration::from_secs(24 * 3600);
const BINARY: &str = "flagship";
const MANIFESTS: &str = "deploy";

impl Flagship {
    /// The build before this one: `$FLAGSHIP_PREVIOUS_BIN`, else that of the newest commit whose daemon differs from
    /// this checkout's, which is `HEAD` if the daemon's sources have changes that are not committed. It is built once
    /// (two minutes on two cores, half a minute for each commit after the first) in directories of its own below
    /// `target/previous`, and kept with its manifests. Processes that need it at once build it once.
    ///
    /// # Errors
    /// If there is no such commit here, with what to do, or if its build fails.
    pub fn previous() -> Result<Self> {
        if let Some(path) = daemon::named_by(VARIABLE)? {
            let dir = path.parent().context("a file is in a directory")?;
            return released(dir, path.clone()).with_context(|| {
                format!("{VARIABLE}: put the {MANIFESTS} directory of that commit beside the binary")
            });
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let commit = predecessor(&root).with_context(|| {
            format!(
                "the previous build's daemon is needed beside this one: run from a clone with its history \
                 (git fetch --unshallow), or set {VARIABLE} to a {BINARY} of another build that has the \
                 {MANIFESTS} directory of its commit beside it"
            )
        })?;
        let dir = target_directory(&root)?.join("previous");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let lock = File::create(dir.join("lock")).context("create the lock of the previous build")?;
        lock.lock().context("lock the previous build")?;
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let kept = dir.join(format!("{commit}.{profile}"));
        if !kept.is_dir() {
            remove_old(&dir);
            build(&root, &commit, &dir, &kept).with_context(|| format!("the daemon of commit {commit}"))?;
        }
        let asked_for = File::open(&kept).and_then(|kept| kept.set_modified(SystemTime::now()));
        asked_for.with_context(|| format!("note the use of {}", kept.display()))?;
        released(&kept, kept.join(BINARY))
    }
}

/// A binary with the manifests in the directory.
fn released(dir: &Path, path: PathBuf) -> Result<Flagship> {
    let manifests = dir.join(MANIFESTS);
    if !manifests.join("install.yaml").is_file() {
        bail!("{} has no install.yaml", manifests.display());
    }
    Ok(Flagship::with_manifests(path, manifests))
}

/// The newest commit on the way back from the checkout whose daemon is not the checkout's. On that way a merge is one
/// step.
fn predecessor(root: &Path) -> Result<String> {
    let of_sources = |args: &[&str]| git(root, &[args, &["--"], &SOURCES].concat(), None);
    if !of_sources(&["status", "--porcelain"])?.is_empty() {
        return git(root, &["rev-parse", "HEAD"], None);
    }
    let newest = of_sources(&["rev-list", "--first-parent", "-1", "HEAD"])?;
    git(root, &["rev-parse", "--verify", &format!("{newest}^")], None)
}

/// Runs git and returns what it said, without the end of the line.
fn git(root: &Path, args: &[&str], index: Option<&Path>) -> Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(root).args(args).stdin(Stdio::null());
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    let output = command.output().context("run git")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git {} failed ({}): {}", args.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn target_directory(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(root);
    let output = command.stdin(Stdio::null()).output().context("run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo's metadata")?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo names no target directory")
}

/// Makes the directory `kept` with the binary and the manifests of a commit, at once or not at all.
fn build(root: &Path, commit: &str, dir: &Path, kept: &Path) -> Result<()> {
    let (source, half) = (dir.join("source"), dir.join("half"));
    // What a killed run left.
    for left in [&source, &half] {
        remove(left)?;
    }
    check_out(root, commit, dir, &source)?;
    progress::say(&format!("building the daemon of commit {commit} in {} (once)", dir.display()));
    let built = daemon::build_in(&source, |command| {
        let target = dir.join("build");
        command.args(["--locked", "--target-dir"]).arg(&target);
        // Not together with this checkout's: cargo takes a crate at the same place in both for the same one.
        command.env("CARGO_BUILD_BUILD_DIR", &target);
        // Nobody debugs it, and without it is done sooner.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
    })?;
    fs::create_dir(&half).with_context(|| format!("create {}", half.display()))?;
    fs::copy(built, half.join(BINARY)).context("keep the binary")?;
    fs::rename(source.join(MANIFESTS), half.join(MANIFESTS)).context("keep the manifests")?;
    fs::rename(&half, kept).with_context(|| format!("create {}", kept.display()))?;
    remove(&source)
}

/// Writes the files of a commit, without a trace in the repository. They are as old as now, so that cargo sees
/// whatever differs from the last ones here.
fn check_out(root: &Path, commit: &str, dir: &Path, to: &Path) -> Result<()> {
    let index = dir.join("index");
    git(root, &["read-tree", commit], Some(&index))?;
    let prefix = format!("--prefix={}/", to.to_str().context("the target directory's name is not UTF-8")?);
    git(root, &["checkout-index", "--all", "--force", &prefix], Some(&index))?;
    fs::remove_file(&index).context("remove the index")
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the builds of other commits that no test can still use.
fn remove_old(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let age = fs::metadata(&path).and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        if path.join(BINARY).is_file() && age.is_some_and(|age| age > KEEP) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with these commits; each writes the files it names. Returns their ids.
    fn repository(dir: &Path, commits: &[&[&str]]) -> Vec<String> {
        let me = ["-c", "user.name=me", "-c", "user.email=me@localhost", "-c", "commit.gpgsign=false"];
        let run = |args: &[&str]| git(dir, &[&me, args].concat(), None).unwrap();
        run(&["init", "--quiet"]);
        let write = |(number, files): (usize, &&[&str])| {
            for file in *files {
                let path = dir.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, number.to_string()).unwrap();
            }
            run(&["add", "--all"]);
            run(&["commit", "--quiet", "--message", "one more"]);
            run(&["rev-parse", "HEAD"])
        };
        commits.iter().enumerate().map(write).collect()
    }

    #[test]
    fn the_predecessor_is_the_newest_commit_with_another_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let all: [&[&str]; 4] = [&["src/main.rs"], &["README.md"], &["crates/a.rs"], &["docs/b.md"]];
        let commits = repository(dir.path(), &all);
        assert_eq!(predecessor(dir.path()).unwrap(), commits[1]);
        fs::write(dir.path().join("README.md"), "more").unwrap();
        assert_eq!(predecessor(dir.path()).unwrap(), commits[1], "that is not the daemon's");
        fs::write(dir.path().join("src/new.rs"), "more").unwrap();
        assert_eq!(predecessor(dir.path()).unwrap(), commits[3], "HEAD, as what is here differs from it");
    }

    #[test]
    fn without_an_earlier_commit_there_is_no_predecessor() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let all: [&[&str]; 2] = [&["src/main.rs"], &["crates/a.rs"]];
        let commits = repository(dir.path(), &all);
        assert_eq!(predecessor(dir.path()).unwrap(), commits[0]);
        let url = format!("file://{}", dir.path().display());
        let to = copy.path().to_str().unwrap();
        git(dir.path(), &["clone", "--quiet", "--depth=1", &url, to], None).unwrap();
        assert!(predecessor(copy.path()).is_err(), "a shallow clone");
        assert!(predecessor(&std::env::temp_dir()).is_err(), "no clone at all");
    }

    #[test]
    fn the_files_of_a_commit_are_written_and_the_repository_stays_as_it_is() {
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let commits = repository(dir.path(), &[&["src/main.rs"], &["src/main.rs", "src/other.rs"]]);
        let to = out.path().join("source");
        check_out(dir.path(), &commits[0], out.path(), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("src/main.rs")).unwrap(), "0");
        assert!(!to.join("src/other.rs").exists());
        assert_eq!(git(dir.path(), &["status", "--porcelain"], None).unwrap(), "");
        assert_eq!(git(dir.path(), &["rev-parse", "HEAD"], None).unwrap(), commits[1]);
    }

    #[test]
    fn a_binary_without_its_manifests_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join(BINARY);
        assert!(released(dir.path(), binary.clone()).is_err());
        fs::create_dir(dir.path().join(MANIFESTS)).unwrap();
        fs::write(dir.path().join(MANIFESTS).join("install.yaml"), "").unwrap();
        let found = released(dir.path(), binary).unwrap();
        assert_eq!(found.deploy(), dir.path().join(MANIFESTS));
    }
}
