//! The daemon's image, made without any registry: a static release binary in an image that holds nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

use super::engine::LABEL;
use super::tool::{LONG, output};
use crate::daemon::{executable, named_by_user, rendered};
use crate::install::deploy_dir;
use crate::progress::say;

/// A first release build takes some minutes; on a slow machine it may take many.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
/// Links the C library in: the image has none.
const STATIC: &str = "-C target-feature=+crt-static";

/// The static binary of this checkout: `$FLAGSHIP_BIN` (which must be static then), else built, which takes no time if nothing has changed.
pub(super) async fn static_binary() -> Result<PathBuf> {
    if let Some(path) = named_by_user()? {
        return Ok(path);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--locked", "--bin", "flagship", "--message-format=json", "--target"])
        .arg(&target)
        .env("RUSTFLAGS", STATIC)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().context("run cargo to build flagship (or set FLAGSHIP_BIN)")?;
    let built = timeout(BUILD_LIMIT, child.wait_with_output()).await.context("cargo does not end")?;
    let built = built.context("run cargo")?;
    let stdout = String::from_utf8_lossy(&built.stdout);
    if !built.status.success() {
        stdout.lines().filter_map(rendered).for_each(|text| say(&text));
        bail!("building flagship for {target} failed ({}): its messages are above", built.status);
    }
    stdout.lines().find_map(executable).context("cargo named no executable for flagship")
}

/// Builds the image under this name into the Docker engine, and returns the binary that is in it.
pub(super) async fn build(image: &str, dir: &Path) -> Result<PathBuf> {
    say(&format!("building the image {image} (the first time some minutes: a static release build)"));
    let binary = static_binary().await?;
    let context = dir.join("image");
    let built = build_in(&context, &binary, image).await;
    super::remove_dir(&context)?;
    built.map(|()| binary)
}

async fn build_in(context: &Path, binary: &Path, image: &str) -> Result<()> {
    fs::create_dir_all(context).with_context(|| format!("create {}", context.display()))?;
    let stage = |from: &Path, name: &str| {
        fs::copy(from, context.join(name)).with_context(|| format!("copy {}", from.display()))
    };
    stage(binary, "flagship")?;
    stage(&deploy_dir().join("Dockerfile.scratch"), "Dockerfile")?;
    let context = context.to_str().context("the state directory's name is not UTF-8")?;
    // The builder that every engine has: BuildKit is a plug-in that may be missing.
    let args = ["DOCKER_BUILDKIT=0", "docker", "build", "--quiet", "--tag", image, "--label", LABEL, context];
    output("env", &args, LONG).await.map(drop)
}

/// Puts the image into all nodes of a cluster.
pub(super) async fn load(image: &str, cluster: &str) -> Result<()> {
    say(&format!("{cluster}: loading the image"));
    output("kind", &["load", "docker-image", image, "--name", cluster], LONG).await.map(drop)
}
