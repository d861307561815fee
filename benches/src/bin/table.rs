//! One table of what a beat costs: time beside foca's in the same run, allocations, memory and instructions.
//!
//! `cargo run --release -p flagship-bench --bin table`. Memory and instructions are measured by programs of their own,
//! as one replaces the allocator and the other runs under valgrind. `--no-instructions` does without valgrind.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use flagship_bench::{Crew, DigestPair, FocaNode, Kind, Meter, SIZES, Stopwatch};

/// Cores that take turns: more than the nearest cache holds, less than the second.
const CORES: usize = 64;
/// Cores whose links together are more than the second cache holds: every beat finds its core cold.
const COLD_CORES: usize = 1_024;
const ROUNDS: usize = 200;
/// Probes that are timed together, and how often.
const PROBES: usize = 20;
const PROBE_BATCHES: usize = 5_000;
/// Targets of DESIGN.md section 11, in ns per beat: up to 1,000 members, and above.
const TARGETS: (f64, f64) = (100.0, 300.0);
const DIGESTS: usize = 21;

/// Nanoseconds.
struct Times {
    beat: f64,
    echo: f64,
    beat_out: f64,
    ping: f64,
    foca: f64,
}

fn main() -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "run it with --release: a debug build says nothing about speed");
    let instructions = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => true,
        [flag] if flag == "--no-instructions" => false,
        other => bail!("unknown arguments {other:?}; there is only --no-instructions"),
    };
    build_programs()?;
    println!(
        "Nanoseconds per message, bytes in to bytes out, {CORES} warm cores in turn; foca 2 in the same run."
    );
    let heads =
        ["members", "beat in", "foca probe", "foca/ours", "target", "met", "echo in", "beat out", "ping in"];
    println!("{}", heads.map(|head| format!("{head:>10}")).join(" "));
    for members in SIZES {
        print_times(members);
    }
    println!(
        "\nThe same with {COLD_CORES} cores of 1,000 members, so that each beat finds its core in no near cache:"
    );
    let cold = times(1_000, COLD_CORES, 10);
    println!("{:>10} {:>10.0}", 1_000, cold.beat);
    println!("\nDigest exchange: one member is missing on one side.");
    println!("{}", ["members", "bytes", "messages", "us"].map(|head| format!("{head:>10}")).join(" "));
    for members in [100, 1_000, 10_000] {
        print_digest(members);
    }
    println!("\nMemory of one core, its links included, and allocations per warm message.");
    print!("{}", output_of("memory", &[])?);
    if instructions {
        println!("\nInstructions per message.");
        print!("{}", output_of("instructions", &[])?);
    }
    Ok(())
}

/// They are found beside this one.
fn build_programs() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO")
        .context("run it by cargo: cargo run --release -p flagship-bench --bin table")?;
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "flagship-bench", "--bins"])
        .status()?;
    ensure!(built.success(), "the other programs do not build");
    Ok(())
}

fn output_of(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let path: PathBuf = std::env::current_exe()?.with_file_name(program);
    let output = Command::new(&path).args(arguments).output().with_context(|| path.display().to_string())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

fn times(members: usize, cores: usize, rounds: usize) -> Times {
    let mut crew = Crew::warm(members, cores);
    let (mut watch, before) = (Stopwatch::new(), crew.beats_sent());
    for _ in 0..rounds {
        crew.round(&mut watch);
    }
    crew.assert_calm();
    let timers_per_beat = watch.calls(Kind::Timer) as f64 / (crew.beats_sent() - before) as f64;
    Times {
        beat: watch.nanos(Kind::Beat),
        echo: watch.nanos(Kind::Echo),
        // Wake-ups that send nothing are a part of what beating costs.
        beat_out: watch.nanos(Kind::Timer) * timers_per_beat,
        ping: watch.nanos(Kind::Ping),
        foca: foca(members),
    }
}

fn foca(members: usize) -> f64 {
    let mut node = FocaNode::new(members);
    let mut watch = Stopwatch::new();
    for _ in 0..PROBE_BATCHES {
        watch.measure(Kind::Ping, PROBES, || (0..PROBES).for_each(|_| node.probe()));
    }
    watch.nanos(Kind::Ping)
}

fn print_times(members: usize) {
    let times = times(members, CORES, ROUNDS);
    let target = if members <= 1_000 { TARGETS.0 } else { TARGETS.1 };
    let met = if times.beat <= target { "yes" } else { "no" };
    // With two members the beats carry the echoes.
    let echo = if times.echo > 0.0 { format!("{:.0}", times.echo) } else { "-".into() };
    println!(
        "{members:>10} {:>10.0} {:>10.0} {:>10.2} {target:>10.0} {met:>10} {echo:>10} {:>10.0} {:>10.0}",
        times.beat,
        times.foca,
        times.foca / times.beat,
        times.beat_out,
        times.ping
    );
}

fn print_digest(members: usize) {
    let pair = DigestPair::new(members);
    let mut costs: Vec<_> = (0..DIGESTS).map(|_| pair.exchange()).collect();
    costs.sort_by_key(|cost| cost.spent);
    let cost = costs[DIGESTS / 2];
    let micros = cost.spent.as_secs_f64() * 1e6;
    println!("{members:>10} {:>10} {:>10} {micros:>10.0}", cost.bytes, cost.messages);
}
