//! Lines that tell a person that a long build is alive.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

/// How often a build without a terminal says where it is: often enough for a CI log, rare enough to read it.
const LOG_EVERY: Duration = Duration::from_secs(15);
/// The last lines of a failed build that are worth repeating.
const TAIL_LINES: usize = 30;

/// Writes one line to standard error. A test's captured output would hide it until the test ends.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Reads the output of a build to its end, showing how many lines of `total` came, and returns its last lines.
pub(crate) fn follow(what: &str, total: usize, output: impl Read) -> String {
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut tail = std::collections::VecDeque::new();
    let mut done = 0usize;
    let mut said = Instant::now();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        done += 1;
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
        let seconds = started.elapsed().as_secs();
        if terminal {
            let _ = write!(
                std::io::stderr().lock(),
                "\r\x1b[K{what}: {done} of at most {total} packages, {seconds} s"
            );
        } else if said.elapsed() >= LOG_EVERY {
            said = Instant::now();
            say(&format!("{what}: {done} of at most {total} packages, {seconds} s"));
        }
    }
    if terminal {
        say("");
    }
    tail.into_iter().collect::<Vec<_>>().join("\n")
}
