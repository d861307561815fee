//! `sim`: hunts for violations of the membership's and the election's invariants, reports figures, tells one run as a
//! story.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]
#![allow(clippy::disallowed_methods, reason = "how long a hunt may take is real time; no run reads it")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, ValueEnum};
use sim::fleet::Fleet;
use sim::hunt::{self, Hunt};
use sim::membership::rows::PeerModel;
use sim::membership::{Cores, report};
use sim::model::Model;

/// Lines of a timeline that are printed with a violation.
const LINES: usize = 120;

/// Fleets in virtual time: membership cores alone, or whole members with election and payload.
#[derive(Debug, Parser)]
#[command(name = "sim", max_term_width = 110)]
enum Command {
    /// Runs fault plans over seeds; exits 1 with seed and shrunk trace on a violation.
    Hunt(HuntArgs),
    /// Measures the rows of DESIGN section 11 in virtual time, with the peers side by side.
    Report(ReportArgs),
    /// Tells one run as a timeline.
    Trace(TraceArgs),
    /// Plants bugs in the core and counts the seeds it takes to catch each.
    #[cfg(feature = "planted-bugs")]
    Bugs(BugsArgs),
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Membership cores alone, 2 to 10,000: the invariants of DESIGN section 4.
    Membership,
    /// Whole members, up to 7, with election, storage and payload: the invariants of DESIGN section 5.
    Fleet,
}

#[derive(Debug, Args)]
struct HuntArgs {
    /// What is simulated.
    #[arg(long, value_enum, default_value = "membership")]
    model: Which,
    /// Seeds, the last one not included.
    #[arg(long, value_name = "A..B", default_value = "0..1000", value_parser = seeds)]
    seeds: std::ops::Range<u64>,
    /// Ends after so many minutes, whatever is left.
    #[arg(long)]
    minutes: Option<f64>,
    /// Size of all fleets; without it sizes are mixed.
    #[arg(long)]
    members: Option<usize>,
    /// One plan; without it plans are mixed.
    #[arg(long)]
    plan: Option<String>,
    /// Goes on after a violation, and counts.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Seeds per row; by default 30, 10 with 1,000 members and more.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// One object per row, one per line.
    #[arg(long)]
    json: bool,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only rows of at least so many members.
    #[arg(long)]
    min_members: Option<usize>,
    /// Only rows of at most so many members.
    #[arg(long)]
    max_members: Option<usize>,
    /// Without the peers.
    #[arg(long)]
    no_peers: bool,
}

#[cfg(feature = "planted-bugs")]
#[derive(Debug, Args)]
struct BugsArgs {
    /// Whose bugs.
    #[arg(long, value_enum, default_value = "membership")]
    model: Which,
    /// Seeds to try for each.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Tries each bug with every plan, and shows what is violated first.
    #[arg(long)]
    all_plans: bool,
}

#[derive(Debug, Args)]
struct TraceArgs {
    /// What is simulated.
    #[arg(long, value_enum, default_value = "membership")]
    model: Which,
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// Size of the fleet.
    #[arg(long)]
    members: Option<usize>,
    /// Its plan.
    #[arg(long)]
    plan: Option<String>,
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let bad = || format!("{text:?} is no range of seeds: write it as 0..20000");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let (from, to) = (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
    if from < to { Ok(from..to) } else { Err(bad()) }
}

/// The plan of that name, or a sentence with the names there are.
fn plan(model: &impl Model, name: Option<&str>) -> Result<Option<&'static str>, String> {
    let Some(name) = name else { return Ok(None) };
    let names = model.plans();
    match names.iter().find(|known| **known == name) {
        Some(known) => Ok(Some(known)),
        None => Err(format!("there is no plan {name:?}: {}", names.join(", "))),
    }
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Hunt(args) => match args.model {
            Which::Membership => said(hunt(&Cores, &args)),
            Which::Fleet => said(hunt(&Fleet, &args)),
        },
        Command::Report(args) => measure(&args),
        Command::Trace(args) => match args.model {
            Which::Membership => said(tell(&Cores, &args)),
            Which::Fleet => said(tell(&Fleet, &args)),
        },
        #[cfg(feature = "planted-bugs")]
        Command::Bugs(args) => match args.model {
            Which::Membership => bugs(&Cores, &args),
            Which::Fleet => bugs(&Fleet, &args),
        },
    }
}

fn said(result: Result<ExitCode, String>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn measure(args: &ReportArgs) -> ExitCode {
    let wanted = report::Wanted {
        first_seed: args.first_seed,
        seeds: args.seeds,
        only: args.only.clone(),
        least_members: args.min_members,
        most_members: args.max_members,
        threads: threads(),
    };
    let (foca, chitchat) = (sim::peers::Foca, sim::peers::Chitchat);
    let peers: [&dyn PeerModel; 2] = [&foca, &chitchat];
    let peers = if args.no_peers { &peers[..0] } else { &peers[..] };
    if !args.json {
        println!("{}", report::head());
    }
    let mut last = Instant::now();
    let lines = report::report(&wanted, peers, |line| {
        match args.json {
            true => println!("{}", line.json()),
            false => println!("{}", line.text()),
        }
        // Not among the results, which are the same each time.
        eprintln!("    {:.1} s after the row before", last.elapsed().as_secs_f64());
        last = Instant::now();
    });
    if lines.iter().all(report::Line::met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(feature = "planted-bugs")]
fn bugs<M: sim::bugs::Buggy>(model: &M, args: &BugsArgs) -> ExitCode {
    use sim::bugs::{catch, survey};

    if args.all_plans {
        for planted in M::PLANTED {
            println!("{:?}: {}", planted.bug, survey(model, planted.bug, args.seeds).join(", "));
        }
        return ExitCode::SUCCESS;
    }
    println!("{:<26} {:>9} {:<10} {:>6}  found", "bug", "invariant", "plan", "seeds");
    let mut all = true;
    for planted in M::PLANTED {
        let caught = catch(model, planted, 0..args.seeds);
        all &= caught.is_some();
        let (name, plan) = (format!("{:?}", planted.bug), planted.plan);
        match caught {
            Some(caught) => {
                let (invariant, seeds) = (caught.invariant, caught.seeds);
                println!("{name:<26} {invariant:>9} {plan:<10} {seeds:>6}  {}", caught.text);
            }
            None => println!("{name:<26} {:>9} {plan:<10} {:>6}", "not caught", format!(">{}", args.seeds)),
        }
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn hunt<M: Model>(model: &M, args: &HuntArgs) -> Result<ExitCode, String> {
    let began = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let threads = threads();
    let job = Hunt {
        seeds: args.seeds.clone(),
        members: args.members,
        plan: plan(model, args.plan.as_deref())?,
        threads,
        stop_at_first: !args.keep_going,
    };
    let total = args.seeds.end - args.seeds.start;
    let bag = hunt::hunt(model, &job, |done| {
        if done.is_multiple_of(1_000) {
            println!("{done} of {total} seeds after {:.0} s", began.elapsed().as_secs_f64());
        }
        limit.is_none_or(|limit| began.elapsed() < limit)
    });
    println!("{}", bag.table());
    let (seconds, runs) = (began.elapsed().as_secs_f64(), bag.runs());
    let events: u64 = bag.plans.values().map(|sum| sum.happenings).sum();
    println!(
        "{runs} runs in {seconds:.1} s on {threads} threads, {:.2} million events a second",
        events as f64 / 1e6 / seconds
    );
    let Some(caught) = bag.catches.values().next() else {
        println!("no violation");
        return Ok(ExitCode::SUCCESS);
    };
    for other in bag.catches.values().take(40) {
        let (name, members) = model.label(&other.plan);
        let (invariant, text) = (other.violation.invariant, &other.violation.text);
        println!("seed {} {name} n={members}: ({invariant}) {text}", other.seed);
    }
    let shrunk = hunt::shrink_catch(model, caught);
    println!("{}", hunt::explain(model, caught, &shrunk, LINES));
    Ok(ExitCode::FAILURE)
}

fn tell<M: Model>(model: &M, args: &TraceArgs) -> Result<ExitCode, String> {
    let plan = model.draw(args.seed, plan(model, args.plan.as_deref())?, args.members);
    let outcome = model.run(&plan, args.seed, true);
    for line in model.tell(&plan) {
        println!("{line}");
    }
    for line in &outcome.timeline {
        println!("{line}");
    }
    // What is wrong at one member soon is at all: the first of each kind says it.
    let mut kinds: BTreeMap<u8, Vec<&str>> = BTreeMap::new();
    for violation in &outcome.violations {
        kinds.entry(violation.invariant).or_default().push(&violation.text);
    }
    for (invariant, texts) in kinds {
        let more = match texts.len() {
            1 => String::new(),
            some => format!(" (and {} more like it)", some - 1),
        };
        println!("invariant {invariant}: {}{more}", texts[0]);
    }
    Ok(if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
