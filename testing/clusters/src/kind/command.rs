//! `clusters --provider kind`: what its flags mean together, and what it tells its user.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::manifests::PORT;
use super::{Kind, Outcome, Wanted};
use crate::fleet::{CALLSIGN, Plan};
use crate::harness::Harness;
use crate::progress::say;

/// The flags.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Where the records and certificates are.
    pub state_dir: PathBuf,
    /// `--name`.
    pub name: Option<String>,
    /// `--svc-address`.
    pub svc_address: Option<Ipv4Addr>,
    /// `--node-image`; kind's own if absent.
    pub node_image: Option<String>,
    /// `--force-clean`.
    pub force_clean: bool,
    /// `--reload`.
    pub reload: bool,
    /// `--nodes`: the control plane's and workers.
    pub nodes: u8,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Start(Wanted),
    Reload(Option<String>),
    Remove(Option<String>),
}

impl Arguments {
    fn work(self) -> Result<Work> {
        match (self.force_clean, self.reload) {
            (true, true) => bail!("--force-clean and --reload exclude each other"),
            (true, false) => return Ok(Work::Remove(self.name)),
            (false, true) => return Ok(Work::Reload(self.name)),
            (false, false) => {}
        }
        Ok(Work::Start(Wanted {
            name: self
                .name
                .context("--name is needed: the name of the cluster to make, for example newyork")?,
            service_address: self.svc_address.context(
                "--svc-address is needed: the address of this cluster's daemon, for example 172.18.100.100",
            )?,
            node_image: self.node_image,
            nodes: self.nodes.max(1),
        }))
    }
}

/// Does what the flags say. Ctrl-C removes a cluster that is not whole yet.
///
/// # Errors
/// If Docker or kind are missing or fail, or the daemon does not come up. Nothing of a new cluster is left then.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let kind = Kind::open(&arguments.state_dir)?;
    let work = arguments.work()?;
    tokio::select! {
        done = perform(&kind, &work) => return done.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => {}
    }
    if let Work::Start(wanted) = &work
        && kind.remove_half_made(&wanted.name).await?
    {
        say("Interrupted: the half-made cluster was removed.");
    } else {
        say("Interrupted.");
    }
    Ok(ExitCode::from(130))
}

async fn perform(kind: &Kind, work: &Work) -> Result<()> {
    match work {
        Work::Start(wanted) => {
            let outcome = kind.start(wanted).await?;
            write!(std::io::stdout().lock(), "{}", explain(wanted, &outcome, &elsewhere(kind)))
                .context("print")
        }
        Work::Reload(only) => {
            let names = kind.reload(only.as_deref()).await?;
            for name in &names {
                say(&format!("{name}: runs the new image"));
            }
            Ok(())
        }
        Work::Remove(only) => remove(kind, only.as_deref()).await,
    }
}

async fn remove(kind: &Kind, only: Option<&str>) -> Result<()> {
    let names = match only {
        Some(name) => vec![name.to_owned()],
        None => kind.names()?,
    };
    for name in &names {
        match kind.remove(name).await? {
            true => say(&format!("Removed {name}.")),
            false => say(&format!("No kind cluster {name} was made here.")),
        }
    }
    if names.is_empty() {
        say("No kind clusters of this harness.");
    }
    Ok(())
}

/// ` --state-dir DIR` for commands to type, where it is not the default.
pub(super) fn elsewhere(kind: &Kind) -> String {
    let default = Harness::default_state_dir().ok().and_then(|dir| dir.canonicalize().ok());
    match kind.dir.parent() {
        Some(dir) if default.as_deref() != Some(dir) => format!(" --state-dir {}", dir.display()),
        _ => String::new(),
    }
}

fn explain(wanted: &Wanted, outcome: &Outcome, elsewhere: &str) -> String {
    let run = format!("  cargo run --release -p clusters -- --provider kind{elsewhere}");
    let Wanted { name, service_address: address, .. } = wanted;
    let mut out = String::new();
    let mut line = |text: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{text}");
    };
    match outcome {
        Outcome::Made => line(&format!("Cluster {name} is ready. Its daemon is at {address}:{PORT}.")),
        Outcome::Repaired(done) if done.is_empty() => {
            line(&format!("Cluster {name} runs already and is healthy. Its daemon is at {address}:{PORT}."));
        }
        Outcome::Repaired(done) => {
            line(&format!("Cluster {name} is healthy again. Its daemon is at {address}:{PORT}. Put back:"));
            for what in done {
                line(&format!("  {what}"));
            }
        }
    }
    match Plan::from_manifest(name) {
        Ok(plan) => {
            line(&format!("\n  kubectl --context kind-{name} apply -f testing/manifests/{name}.yaml"));
            line(&format!("  kubectl --context kind-{name} get multiclusters"));
            let written = plan.object["spec"]["serviceAddress"].as_str().unwrap_or_default();
            if written != address.to_string() {
                line(&format!("\nIn the manifest spec.serviceAddress is {written:?}: make it {address}."));
            }
        }
        Err(_) => line(&format!(
            "\nIts certificate is for a MultiCluster {name} with spec.callsign {CALLSIGN} and spec.serviceAddress {address}."
        )),
    }
    line(
        "\nThe same command again puts back whatever is missing, such as the address after a restart of the node.",
    );
    line("After a change of the code, for all clusters:\n");
    line(&format!("{run} --reload"));
    line("\nRemove it:\n");
    line(&format!("{run} --name {name} --force-clean"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 100, 100);

    fn given(name: Option<&str>, svc_address: Option<Ipv4Addr>) -> Arguments {
        Arguments { name: name.map(str::to_owned), svc_address, nodes: 1, ..Arguments::default() }
    }

    fn wanted(name: &str) -> Wanted {
        Wanted { name: name.to_owned(), service_address: ADDRESS, node_image: None, nodes: 1 }
    }

    #[test]
    fn flags_say_what_to_do() {
        let start = given(Some("newyork"), Some(ADDRESS)).work().unwrap();
        assert_eq!(start, Work::Start(wanted("newyork")));
        let two = Arguments { nodes: 2, ..given(Some("newyork"), Some(ADDRESS)) };
        assert_eq!(two.work().unwrap(), Work::Start(Wanted { nodes: 2, ..wanted("newyork") }));
        let clean = Arguments { force_clean: true, ..given(None, None) };
        assert_eq!(clean.work().unwrap(), Work::Remove(None));
        let reload = Arguments { reload: true, ..given(Some("newyork"), None) };
        assert_eq!(reload.work().unwrap(), Work::Reload(Some("newyork".to_owned())));
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused_by_name() {
        let refused = |arguments: Arguments| arguments.work().unwrap_err().to_string();
        assert!(refused(given(None, Some(ADDRESS))).starts_with("--name is needed"));
        assert!(refused(given(Some("newyork"), None)).starts_with("--svc-address is needed"));
        let both = Arguments { force_clean: true, reload: true, ..given(None, None) };
        assert!(refused(both).contains("exclude each other"));
    }

    #[test]
    fn the_user_is_told_what_to_type_next() {
        let made = explain(&wanted("newyork"), &Outcome::Made, "");
        assert!(
            made.contains("kubectl --context kind-newyork apply -f testing/manifests/newyork.yaml"),
            "{made}"
        );
        assert!(!made.contains("make it"), "{made}");
        let elsewhere =
            explain(&wanted("sheffield"), &Outcome::Repaired(Vec::new()), " --state-dir /tmp/mine");
        assert!(
            elsewhere.contains("runs already") && elsewhere.contains("make it 172.18.100.100"),
            "{elsewhere}"
        );
        let reload = "-- --provider kind --state-dir /tmp/mine --reload\n";
        assert!(elsewhere.contains(reload), "{elsewhere}");
        assert!(made.contains("-- --provider kind --name newyork --force-clean\n"), "{made}");
        let other = explain(&wanted("denver"), &Outcome::Repaired(vec!["the address".to_owned()]), "");
        assert!(other.contains("Put back:\n  the address\n"), "{other}");
        assert!(other.contains("a MultiCluster denver with spec.callsign federation"), "{other}");
    }
}
