//! Instructions per message, counted by `valgrind --tool=callgrind`: the same on every run and on a busy machine.
//!
//! Run by `benches/instructions.sh`, which installs valgrind where it is missing. Prints a line for each fleet; exits 1
//! if two counts of the same work differ by more than 0.1 %.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use flagship_bench::{Crew, FocaNode, Kind, Meter, SIZES};

/// Cores that take turns. Caches do not count here, so a few give the mean over members.
const CORES: usize = 8;
const ROUNDS: usize = 20;
const PROBES: usize = 2_000;
/// By how much two counts of the same work may differ.
const TOLERANCE: f64 = 0.001;

/// What is counted: functions of this program, with all that they call. Equal ones would be merged into one, so each
/// names its kind.
const COUNTED: [&str; 5] =
    ["counted_beats", "counted_echoes", "counted_timers", "counted_pings", "counted_probes"];

#[inline(never)]
fn counted_beats(work: impl FnOnce()) {
    work();
    std::hint::black_box(Kind::Beat);
}

#[inline(never)]
fn counted_echoes(work: impl FnOnce()) {
    work();
    std::hint::black_box(Kind::Echo);
}

#[inline(never)]
fn counted_timers(work: impl FnOnce()) {
    work();
    std::hint::black_box(Kind::Timer);
}

#[inline(never)]
fn counted_pings(work: impl FnOnce()) {
    work();
    std::hint::black_box(Kind::Ping);
}

#[inline(never)]
fn counted_probes(node: &mut FocaNode) {
    (0..PROBES).for_each(|_| node.probe());
}

/// Makes the calls of each kind pass through its function.
#[derive(Default)]
struct Counter([usize; 5]);

impl Meter for Counter {
    fn measure(&mut self, kind: Kind, calls: usize, work: impl FnOnce()) {
        self.0[kind as usize] += calls;
        match kind {
            Kind::Beat => counted_beats(work),
            Kind::Echo => counted_echoes(work),
            Kind::Timer => counted_timers(work),
            Kind::Ping => counted_pings(work),
            Kind::Other => work(),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => count_all(),
        [work, members] if work == "work" => {
            work_on(members.parse().context("the second argument is a number of members")?);
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("usage: benches/instructions.sh"),
    }
}

/// What runs under valgrind. Prints how many of each there were; timers are counted by the beats that they sent.
fn work_on(members: usize) {
    let mut crew = Crew::warm(members, CORES.min(members));
    let (mut counter, before) = (Counter::default(), crew.beats_sent());
    for _ in 0..ROUNDS {
        crew.round(&mut counter);
    }
    crew.assert_calm();
    let calls = |kind: Kind| counter.0[kind as usize];
    let sent = crew.beats_sent() - before;
    counted_probes(&mut FocaNode::new(members));
    println!("{} {} {sent} {} {PROBES}", calls(Kind::Beat), calls(Kind::Echo), calls(Kind::Ping));
}

fn count_all() -> anyhow::Result<ExitCode> {
    let heads = ["members", "beat in", "echo in", "beat out", "ping in", "foca probe"];
    println!("{}", heads.map(|head| format!("{head:>10}")).join(" "));
    let mut steady = true;
    for members in SIZES {
        let (first, second) = (count(members)?, count(members)?);
        let cells = first.iter().zip(second).map(|(first, second)| {
            let same = (first - second).abs() <= first * TOLERANCE;
            steady &= same;
            match (same, *first > 0.0) {
                (true, true) => format!("{first:>10.1}"),
                (true, false) => format!("{:>10}", "-"),
                (false, _) => format!("{first:>10.1} is {second:.1} the second time"),
            }
        });
        println!("{members:>10} {}", cells.collect::<Vec<_>>().join(" "));
    }
    Ok(if steady { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Instructions per message: beat in, echo in, beat out, ping in, and foca's probe in.
fn count(members: usize) -> anyhow::Result<[f64; 5]> {
    let profile =
        std::env::temp_dir().join(format!("flagship-bench-{}-{members}.callgrind", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe()?)
        .args(["work", &members.to_string()])
        .output()
        .context("valgrind does not run: use benches/instructions.sh, which installs it")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the work under valgrind failed:\n{errors}");
    let printed = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let calls: [f64; 5] = numbers.try_into().ok().context("the work prints five numbers")?;
    let counted = read_profile(&profile)?;
    std::fs::remove_file(&profile)?;
    Ok(std::array::from_fn(|i| if calls[i] > 0.0 { counted[i] / calls[i] } else { 0.0 }))
}

/// Instructions in each counted function and what it calls: in callgrind's format its own lines, and those after
/// `calls=`, that follow its `fn=` line.
fn read_profile(profile: &Path) -> anyhow::Result<[f64; 5]> {
    let text = std::fs::read_to_string(profile).context("valgrind left no profile")?;
    let mut sums = [0.0; 5];
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            current = COUNTED.iter().position(|counted| name.contains(counted));
        } else if let Some(function) = current
            && line.starts_with(|first: char| first.is_ascii_digit())
        {
            let cost = line.split_whitespace().nth(1).context("a cost line has two numbers")?;
            sums[function] += cost.parse::<f64>()?;
        }
    }
    Ok(sums)
}
