//! The certificates of one fleet for all kind clusters of a state directory, made by `flagship pki`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::image;
use crate::daemon::Flagship;
use crate::fleet::CALLSIGN;
use crate::install::read_objects;
use crate::progress::say;

/// The Secret of a member. Its certificate is made if there is none yet, and before the first one the authority.
/// `built` is the program that makes it, if that has been built already.
pub(super) async fn secret(pki: &Path, member: &str, built: Option<PathBuf>) -> Result<Value> {
    let file = pki.join(member).join("secret.yaml");
    if !file.is_file() {
        let flagship = match built {
            Some(path) => path,
            None => image::static_binary().await?,
        };
        issue(&Flagship::at(flagship), pki, member)?;
    }
    read_objects(&file)?
        .pop()
        .with_context(|| format!("{} is empty: remove {}", file.display(), pki.display()))
}

fn issue(flagship: &Flagship, pki: &Path, member: &str) -> Result<()> {
    if !pki.join("ca.crt").is_file() {
        say(&format!("{member}: making the authority and the first certificate of fleet {CALLSIGN}"));
        return flagship.make_certificates(CALLSIGN, &[member], pki);
    }
    say(&format!("{member}: making a certificate of fleet {CALLSIGN}"));
    let dir = pki.to_str().context("the state directory's name is not UTF-8")?;
    // Files of an attempt that was cut short are replaced.
    let args = ["pki", "add-member", "--fleet", CALLSIGN, "--member", member, "--out", dir, "--force"];
    flagship.run(&args).map(drop)
}
