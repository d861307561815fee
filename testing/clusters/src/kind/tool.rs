//! Runs `docker` and `kind`, each command with a deadline and its own words in the error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::kubeconfig;
use crate::progress::say;

/// Docker answers in well under a second; its builds and deletions on a busy machine take longer.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// Loading an image or deleting a cluster: seconds, or some tens of them on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(180);
/// A cluster takes 40 s, or minutes when its node image has to be pulled.
const CREATE: Duration = Duration::from_secs(900);
/// How long kind itself waits for the node to be ready.
const NODE_READY: &str = "180s";
/// The end of what a program said that is worth repeating.
const TAIL_LINES: usize = 30;

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// If it fails or takes longer than `limit`: with what it said.
pub async fn output<S: AsRef<OsStr>>(program: &str, args: &[S], limit: Duration) -> Result<String> {
    let mut command = command(program, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| not_started(program, error))?;
    let Ok(ended) = timeout(limit, child.wait_with_output()).await else {
        bail!("`{}` did not end within {} s", line(program, args), limit.as_secs());
    };
    let ended = ended.with_context(|| format!("run {program}"))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("`{}` failed ({}): {}", line(program, args), ended.status, tail(&said));
    }
    String::from_utf8(ended.stdout).with_context(|| format!("{program} printed something that is not text"))
}

/// `docker` with these arguments.
pub(super) async fn docker(args: &[&str]) -> Result<String> {
    output("docker", args, SHORT).await
}

/// Makes a cluster, and says which step it is at.
pub(super) async fn create_cluster(name: &str, config: &Path, node_image: Option<&str>) -> Result<()> {
    say(&format!("{name}: making the kind cluster (about a minute, longer if its node image is pulled)"));
    let mut args = vec!["create", "cluster", "--name", name, "--wait", NODE_READY, "--config"];
    args.push(config.to_str().context("the state directory's name is not UTF-8")?);
    if let Some(image) = node_image {
        args.extend(["--image", image]);
    }
    let mut command = command("kind", &args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started("kind", error))?;
    let stderr = child.stderr.take().context("kind has no standard error")?;
    let follow = async {
        let mut said = Vec::new();
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(step) = step(&line) {
                say(&format!("{name}: {step}"));
            }
            said.push(line);
        }
        let status = child.wait().await?;
        std::io::Result::Ok((status, said.join("\n")))
    };
    let Ok(ended) = timeout(CREATE, follow).await else {
        bail!("`{}` did not end within {} s", line("kind", &args), CREATE.as_secs());
    };
    let (status, said) = ended.context("run kind")?;
    if !status.success() {
        bail!("`{}` failed ({status}): {}", line("kind", &args), tail(&said));
    }
    Ok(())
}

/// Deletes a cluster with its context. It need not be whole.
pub(super) async fn delete_cluster(name: &str) -> Result<()> {
    say(&format!("{name}: deleting the kind cluster"));
    output("kind", &["delete", "cluster", "--name", name], LONG).await.map(drop)
}

/// The administrator's kubeconfig of a cluster.
pub(super) async fn cluster_kubeconfig(name: &str) -> Result<String> {
    output("kind", &["get", "kubeconfig", "--name", name], SHORT).await
}

/// Puts the context `kind-NAME` back into the user's kubeconfig, if it has gone there. Whether it had.
pub(super) async fn restore_context(name: &str) -> Result<bool> {
    let context = format!("kind-{name}");
    if kubeconfig::all_of_user()?.iter().any(|path| kubeconfig::has_context(path, &context)) {
        return Ok(false);
    }
    output("kind", &["export", "kubeconfig", "--name", name], SHORT).await?;
    Ok(true)
}

fn command<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Command {
    let mut command = Command::new(program);
    // Ctrl-C is for this program alone, which then ends the other one and cleans up after it.
    command.args(args).stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    command
}

fn not_started(program: &str, error: std::io::Error) -> Error {
    let how = match program {
        "docker" => "install Docker Engine: https://docs.docker.com/engine/install",
        "kind" => {
            "install it with `go install sigs.k8s.io/kind@v0.33.0` or from https://kind.sigs.k8s.io/docs/user/quick-start"
        }
        _ => "install it",
    };
    if error.kind() == std::io::ErrorKind::NotFound {
        return anyhow::anyhow!("`{program}` is not in $PATH, and --provider kind needs it: {how}");
    }
    Error::new(error).context(format!("run {program}"))
}

fn line<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let words = args.iter().map(|word| word.as_ref().to_string_lossy());
    std::iter::once(program.into()).chain(words).collect::<Vec<_>>().join(" ")
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.trim().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A step that kind begins, out of a line like ` • Starting control-plane 🕹️  ...`.
fn step(line: &str) -> Option<String> {
    let words = line.trim().strip_prefix('•')?.trim().trim_end_matches('.');
    let plain: String = words.chars().filter(char::is_ascii).collect();
    Some(format!("kind: {}", plain.trim()))
}

/// The only element of a JSON list, as Docker's `inspect` prints.
pub(super) fn only(json: &str) -> Result<Value> {
    let list: Vec<Value> = serde_json::from_str(json).context("docker printed something that is not JSON")?;
    list.into_iter().next().context("docker inspected nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_kind_are_told_and_its_farewell_is_not() {
        assert_eq!(step(" • Starting control-plane 🕹️  ...").unwrap(), "kind: Starting control-plane");
        assert_eq!(
            step(" • Ensuring node image (kindlab/node:v1.36.3) 🖼  ...").unwrap(),
            "kind: Ensuring node image (kindlab/node:v1.36.3)"
        );
        for other in [" ✓ Starting control-plane 🕹️", "Have a nice day! 👋", "Creating cluster \"x\" ...", ""]
        {
            assert_eq!(step(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_how_to_get_it() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = not_started("kind", missing).to_string();
        assert!(error.contains("`kind` is not in $PATH") && error.contains("go install"), "{error}");
        let none: [&str; 0] = [];
        let error = output("flagship-no-such-program", &none, SHORT).await.unwrap_err().to_string();
        assert!(error.contains("`flagship-no-such-program` is not in $PATH"), "{error}");
    }

    #[tokio::test]
    async fn what_a_failed_program_said_is_repeated_and_a_slow_one_is_ended() {
        let error = output("sh", &["-c", "echo why >&2; exit 3"], SHORT).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
        let error = output("sleep", &["60"], Duration::from_millis(50)).await.unwrap_err().to_string();
        assert!(error.contains("`sleep 60` did not end"), "{error}");
    }

    #[test]
    fn only_the_end_of_long_output_is_repeated() {
        let long = (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        assert_eq!(tail(&long).lines().count(), TAIL_LINES);
        assert!(tail(&long).ends_with("99"));
        assert_eq!(tail(""), "");
    }
}
