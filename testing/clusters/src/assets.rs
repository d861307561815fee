//! Finds the programs of a control plane, or builds them once from `testing/controlplane`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::progress;

/// The version that the control plane reports, of the modules named in `testing/controlplane/go.mod`.
const KUBERNETES_VERSION: &str = "v1.36.3";

/// A program, with the argument that picks it out of a multi-call binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    applet: Option<&'static str>,
}

impl Program {
    /// The words of the command line before the program's own arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![self.path.display().to_string()];
        argv.extend(self.applet.map(str::to_owned));
        argv
    }
}

/// All programs that a cluster needs.
#[derive(Clone, Debug)]
pub struct Assets {
    /// The key-value store.
    pub etcd: Program,
    /// The API server.
    pub api_server: Program,
    /// The controllers: Deployments, ReplicaSets, garbage collection.
    pub controller_manager: Program,
    /// The scheduler.
    pub scheduler: Program,
    /// Plays nodes and pods, and prints its stage files. Absent where `$KUBEBUILDER_ASSETS` has none.
    pub kwok: Option<(Program, Program)>,
    /// Parent of a cluster's processes and hand on its network.
    pub supervisor: PathBuf,
}

impl Assets {
    /// Takes the programs from `$KUBEBUILDER_ASSETS`, else from the cache, else builds them (about 5 minutes on two
    /// cores, with progress on standard error). Two processes that need them at once build once.
    ///
    /// # Errors
    /// If Go is missing or the build fails, with the compiler's last lines.
    pub fn prepare() -> Result<Self> {
        let cache = Cache::open()?;
        let supervisor = cache.build("supervisor", "./cmd/supervisor")?;
        if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
            return Self::from_directory(Path::new(&dir), supervisor);
        }
        let path = cache.build("controlplane", ".")?;
        let applet = |applet| Program { path: path.clone(), applet: Some(applet) };
        Ok(Self {
            etcd: applet("etcd"),
            api_server: applet("kube-apiserver"),
            controller_manager: applet("kube-controller-manager"),
            scheduler: applet("kube-scheduler"),
            kwok: Some((applet("kwok"), applet("kwok-stages"))),
            supervisor,
        })
    }

    fn from_directory(dir: &Path, supervisor: PathBuf) -> Result<Self> {
        let program = |name: &str| {
            let path = dir.join(name);
            if !path.is_file() {
                bail!(
                    "KUBEBUILDER_ASSETS={} has no {name}: put it there, or unset the variable to build all from Go modules",
                    dir.display()
                );
            }
            Ok(Program { path, applet: None })
        };
        let kwok = program("kwok").ok().zip(program("kwok-stages").ok());
        Ok(Self {
            etcd: program("etcd")?,
            api_server: program("kube-apiserver")?,
            controller_manager: program("kube-controller-manager")?,
            scheduler: program("kube-scheduler")?,
            kwok,
            supervisor,
        })
    }
}

/// Where the built programs are kept, by a hash of what they are built from.
struct Cache {
    dir: PathBuf,
    sources: PathBuf,
}

impl Cache {
    fn open() -> Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../controlplane");
        let sources = sources
            .canonicalize()
            .with_context(|| format!("{} is missing: run from a complete checkout", sources.display()))?;
        let dir = user_dir("XDG_CACHE_HOME", ".cache")?.join("flagship/controlplane").join(key(&sources)?);
        fs::create_dir_all(&dir).with_context(|| format!("create the cache {}", dir.display()))?;
        Ok(Self { dir, sources })
    }

    /// Returns the program, after building it if it is not there.
    fn build(&self, name: &str, package: &str) -> Result<PathBuf> {
        let program = self.dir.join(name);
        if program.is_file() {
            return Ok(program);
        }
        let lock = File::create(self.dir.join(format!("{name}.lock"))).context("create the build lock")?;
        if lock.try_lock().is_err() {
            progress::say(&format!("{name}: another process builds it, waiting"));
            lock.lock().context("wait for the build lock")?;
        }
        if !program.is_file() {
            let new = self.dir.join(format!("{name}.new"));
            self.go_build(name, package, &new)?;
            fs::rename(&new, &program).context("put the built program into the cache")?;
        }
        Ok(program)
    }

    fn go_build(&self, name: &str, package: &str, output: &Path) -> Result<()> {
        let started = Instant::now();
        progress::say(&format!(
            "{name}: building it with Go from {} (once: kept in {})",
            self.sources.display(),
            self.dir.display()
        ));
        let total = self.count_packages(package)?;
        let mut child = self
            .go(&["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags"])
            .arg(linker_flags())
            .arg("-o")
            .arg(output)
            .arg(package)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start `go build`")?;
        let stderr = child.stderr.take().context("`go build` has no standard error")?;
        let tail = progress::follow(name, total, stderr);
        let status = child.wait().context("wait for `go build`")?;
        if !status.success() {
            bail!("building {name} failed ({status}):\n{tail}");
        }
        progress::say(&format!("{name}: built in {} s", started.elapsed().as_secs()));
        Ok(())
    }

    /// How many packages the build has at most. Go downloads their modules for that, which is the first long wait.
    fn count_packages(&self, package: &str) -> Result<usize> {
        let output = self.go(&["list", "-deps", package]).stderr(Stdio::inherit()).output().context(
            "run `go`: install Go 1.26 or newer from https://go.dev/dl, or set KUBEBUILDER_ASSETS",
        )?;
        if !output.status.success() {
            bail!("`go list` failed ({}) in {}: its message is above", output.status, self.sources.display());
        }
        Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count())
    }

    fn go(&self, args: &[&str]) -> Command {
        let mut command = Command::new("go");
        command.args(args).current_dir(&self.sources).env("CGO_ENABLED", "0").stdin(Stdio::null());
        command
    }
}

fn linker_flags() -> String {
    let mut flags = String::from("-s -w");
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for setting in [&format!("gitVersion={KUBERNETES_VERSION}"), "gitMajor=1", "gitMinor=36"] {
            flags.push_str(&format!(" -X {package}.{setting}"));
        }
    }
    flags
}

/// The cache key: what is built, of which version, for which machine.
fn key(sources: &Path) -> Result<String> {
    let mut files = vec![sources.join("go.mod"), sources.join("go.sum")];
    for dir in [sources.to_owned(), sources.join("cmd/supervisor")] {
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "go") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    hash.update(linker_flags());
    hash.update(std::env::consts::OS);
    hash.update(std::env::consts::ARCH);
    for file in files {
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        hash.update(file.file_name().map(OsString::from).unwrap_or_default().as_encoded_bytes());
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    Ok(hex(&hash.finalize()[..8]))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A directory of the XDG base directory specification.
pub(crate) fn user_dir(variable: &str, in_home: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable).filter(|dir| Path::new(dir).is_absolute()) {
        return Ok(dir.into());
    }
    Ok(home()?.join(in_home))
}

/// The user's home directory.
pub(crate) fn home() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from).context("$HOME is not set: set it to your home directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("cmd/supervisor")).unwrap();
        for file in ["go.mod", "go.sum", "main.go", "cmd/supervisor/main.go"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        dir
    }

    #[test]
    fn the_cache_key_follows_the_sources_and_nothing_else() {
        let dir = sources();
        let before = key(dir.path()).unwrap();
        fs::write(dir.path().join("README.md"), "words").unwrap();
        assert_eq!(key(dir.path()).unwrap(), before);
        for file in ["go.sum", "cmd/supervisor/main.go"] {
            let unchanged = fs::read(dir.path().join(file)).unwrap();
            fs::write(dir.path().join(file), "changed").unwrap();
            assert_ne!(key(dir.path()).unwrap(), before, "{file}");
            fs::write(dir.path().join(file), unchanged).unwrap();
        }
        assert_eq!(key(dir.path()).unwrap(), before);
    }

    #[test]
    fn assets_of_a_directory_name_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("etcd"), "").unwrap();
        let error = Assets::from_directory(dir.path(), PathBuf::new()).unwrap_err().to_string();
        assert!(error.contains("has no kube-apiserver"), "{error}");
    }
}
