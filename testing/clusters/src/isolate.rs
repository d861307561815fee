//! Runs a program again in user, network, process and mount namespaces of its own: it is root there over its own
//! network, meets no other run, and nothing of it survives, whoever started it and however it ends.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::assets::{Assets, user_dir};
use crate::daemon::Flagship;

/// How often a test that waits for its turn asks again: short against the seconds that a test takes.
const TURN_EVERY: Duration = Duration::from_millis(100);
/// Marks the inner program. Its value says what it was started for.
const MARKER: &str = "FLAGSHIP_ISOLATED";
/// The flags of `unshare`: user (we are root inside), network, processes (the first one's end ends all), mounts and
/// a `/proc` that shows them.
const FLAGS: [&str; 4] = ["-Urnpfm", "--kill-child", "--mount-proc", "--"];
/// The same without a user namespace, for root on a machine that refuses those.
const ROOT_FLAGS: [&str; 4] = ["-npfm", "--kill-child", "--mount-proc", "--"];

/// What came of asking for namespaces.
#[derive(Debug)]
pub enum Isolation {
    /// This process is inside them.
    Inside,
    /// The program ran inside them and has ended.
    Ran(ExitStatus),
    /// The machine refuses them, for this reason. Nothing was run.
    Refused(String),
}

/// Runs this program again with the same arguments inside of namespaces, unless it is inside already. Programs that
/// have to be built are built before, because there is no network inside.
///
/// # Errors
/// If something cannot be built or started.
pub async fn reexec_in_namespaces() -> Result<Isolation> {
    if std::env::var_os(MARKER).is_some() {
        die_with_standard_input();
        return Ok(Isolation::Inside);
    }
    let flags = match usable_flags() {
        Ok(flags) => flags,
        Err(reason) => return Ok(Isolation::Refused(reason)),
    };
    let daemon = prepare()?;
    let mut command = inner(flags, &daemon, "program")?;
    command.args(std::env::args_os().skip(1));
    let mut child = tokio::process::Command::from(command).spawn().context("start unshare")?;
    // Taken out, or waiting would close it. Closed when we end.
    let _lifeline = child.stdin.take();
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Isolation::Ran(status.context("wait for the inner program")?)),
            // A terminal sends Ctrl-C to the inner program, too, and that tidies up: it ends soon.
            _ = tokio::signal::ctrl_c() => {}
        }
    }
}

/// The body of a test that needs networks which can be cut. `name` is that of the test's function; the test is run again
/// inside of namespaces, and only there `body` runs.
///
/// # Panics
/// If `body` fails, and, with a sentence, if the machine refuses namespaces: such a test is never skipped.
pub fn test<F: Future<Output = Result<()>>>(name: &str, body: impl FnOnce() -> F) {
    match std::env::var(MARKER) {
        Ok(inside) => {
            assert_eq!(inside, name, "a test that was started for another one");
            die_with_standard_input();
            let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime can be made");
            if let Err(error) = runtime.block_on(body()) {
                panic!("{error:?}");
            }
        }
        Err(_) => {
            if let Err(error) = run_test_inside(name) {
                panic!("{error:?}");
            }
        }
    }
}

fn run_test_inside(name: &str) -> Result<()> {
    let flags = usable_flags().map_err(|reason| {
        anyhow::anyhow!(
            "this test cuts network paths and needs user and network namespaces, which this machine refuses: {reason}. \
             Allow them (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, or \
             kernel.apparmor_restrict_unprivileged_userns=0), or run as root outside of a container"
        )
    })?;
    let daemon = prepare()?;
    let _turn = take_turn()?;
    let path = path_of(name)?;
    let mut command = inner(flags, &daemon, name)?;
    command.args(["--exact", &path, "--nocapture", "--include-ignored", "--test-threads=1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start unshare")?;
    let (mut out, mut err) =
        (child.stdout.take().context("no output")?, child.stderr.take().context("no errors")?);
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        text
    });
    let mut said = String::new();
    let _ = out.read_to_string(&mut said);
    let status = child.wait().context("wait for the inner test")?;
    let errors = errors.join().unwrap_or_default();
    // A test that libtest did not find passes there, too.
    if !status.success() || !said.contains("1 passed") {
        bail!("{path}, inside of its namespaces ({status}):\n{said}\n{errors}");
    }
    // What it measured, for who asks with --nocapture.
    eprint!("{errors}");
    Ok(())
}

/// The full name by which this program knows a test: its function's, after those of the modules.
fn path_of(name: &str) -> Result<String> {
    let own = std::env::current_exe().context("find this program")?;
    let listed =
        Command::new(own).args(["--list", "--format", "terse"]).output().context("list the tests")?;
    let listed = String::from_utf8(listed.stdout).context("the list of the tests")?;
    let paths = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let found: Vec<_> = paths.filter(|path| path.rsplit("::").next() == Some(name)).collect();
    match found.as_slice() {
        [path] => Ok((*path).to_owned()),
        found => bail!("{name} has to be the name of one test function, and is that of {}", found.len()),
    }
}

/// Waits for one of the machine's places for such tests, over all processes of this user: each runs whole control
/// planes and measures times, so more than one for each processor would only measure each other.
fn take_turn() -> Result<File> {
    let places = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let dir = user_dir("XDG_CACHE_HOME", ".cache")?.join("flagship/turns");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    loop {
        for place in 0..places {
            let file =
                File::create(dir.join(format!("{place}.lock"))).context("create a place for a test")?;
            if file.try_lock().is_ok() {
                return Ok(file);
            }
        }
        std::thread::sleep(TURN_EVERY);
    }
}

/// Builds what is needed while there is a network, and returns the daemon's path for the inner program.
fn prepare() -> Result<Flagship> {
    Assets::prepare()?;
    Flagship::find()
}

fn inner(flags: &[&str], daemon: &Flagship, purpose: &str) -> Result<Command> {
    let own = std::env::current_exe().context("find this program")?;
    let mut command = Command::new("unshare");
    command.args(flags).arg(own).env(MARKER, purpose).env("FLAGSHIP_BIN", daemon.path());
    // Never written to: its end tells the inner program that we have died.
    command.stdin(Stdio::piped());
    Ok(command)
}

/// The first process of a process namespace gets no signal when its starter dies, but its standard input ends.
fn die_with_standard_input() {
    std::thread::spawn(|| {
        let mut sink = [0u8; 64];
        while matches!(std::io::stdin().read(&mut sink), Ok(read) if read > 0) {}
        std::process::exit(1);
    });
}

/// Tries what the machine allows, and says why if it does not.
fn usable_flags() -> Result<&'static [&'static str], String> {
    let mut reasons = Vec::new();
    for flags in [&FLAGS, &ROOT_FLAGS] {
        match Command::new("unshare").args(flags).arg("true").stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(flags),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let signal = output.status.signal().map(|signal| format!("signal {signal}"));
                reasons.push(format!("unshare {}: {}", flags[0], signal.unwrap_or(said)));
            }
            Err(error) => return Err(format!("`unshare` of util-linux cannot be run: {error}")),
        }
    }
    Err(reasons.join("; "))
}
