//! The third vote: `flagship witness` in a container of its own beside the two clusters.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clusters::daemon::Flagship;
use clusters::fleet::CALLSIGN;

use crate::lab::run;

/// Its name as a member, in its certificate and in `spec.election.voters`.
pub(crate) const NAME: &str = "witness";
/// On the network `kind`, whose addresses below 172.18.100.0 the engine gives away.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 100, 240);
const CONTAINER: &str = "flagship-kind-witness";
/// The image that the harness has built for the clusters.
const IMAGE: &str = "flagship:0.1.0";

/// A witness that runs, or has been stopped and can run again with what it knew.
pub(crate) struct Witness;

impl Witness {
    /// Makes it anew, with a certificate of the authority in `pki` and without a record.
    pub(crate) async fn make(dir: &Path, pki: &Path, members: &[Ipv4Addr]) -> Result<Self> {
        remove().await?;
        let state = dir.join("witness-state");
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", state.display()));
            }
            _ => fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?,
        }
        let out = text(pki)?;
        Flagship::find()?.run(&[
            "pki",
            "add-member",
            "--fleet",
            CALLSIGN,
            "--member",
            NAME,
            "--out",
            out,
            "--force",
        ])?;
        let members: Vec<String> = members.iter().map(Ipv4Addr::to_string).collect();
        let (address, members) = (ADDRESS.to_string(), members.join(","));
        let (tls, state) =
            (format!("{}:/tls:ro", text(&pki.join(NAME))?), format!("{}:/state", text(&state)?));
        // The files belong to whoever runs the test.
        let container =
            ["run", "--detach", "--name", CONTAINER, "--user", "0", "--network", "kind", "--ip", &address];
        let witness = ["--volume", &tls, "--volume", &state, IMAGE, "witness", "--callsign", CALLSIGN];
        let flags = [
            "--tls-dir",
            "/tls",
            "--state-dir",
            "/state",
            "--fleet",
            &members,
            "--service-address",
            &address,
        ];
        run("docker", &[&container[..], &witness, &flags].concat()).await?;
        Ok(Self)
    }

    /// Without a grace period: as a machine that loses its power.
    pub(crate) async fn stop(&self) -> Result<()> {
        run("docker", &["stop", "--time", "0", CONTAINER]).await.map(drop)
    }

    /// Runs it again, if it does not run.
    pub(crate) async fn wake(&self) -> Result<()> {
        run("docker", &["start", CONTAINER]).await.map(drop)
    }
}

/// Removes it, if it is there.
pub(crate) async fn remove() -> Result<()> {
    run("docker", &["rm", "--force", CONTAINER]).await.map(drop)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", PathBuf::from(path).display()))
}
