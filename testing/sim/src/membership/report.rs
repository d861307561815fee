//! The report of DESIGN section 11, its virtual-time part: our core and its peers side by side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::fault::Block;
use super::ours::Flagship;
use super::rows::{Case, PeerModel, Scenario};

/// What is to be measured for one line of the report.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What.
    pub scenario: Scenario,
    /// Size.
    pub members: usize,
    /// What ours must not exceed: the median, and the 99th percentile (of counts: the total).
    pub target: (Option<f64>, f64),
    /// Seeds by default.
    pub seeds: u64,
    /// Of ours so many in each fleet, as one of 10,000 takes minutes of real time to start.
    pub per_fleet: u64,
    /// Virtual time of a case.
    pub duration: Duration,
    /// Cases of a peer at most, and their virtual time: some take minutes of real time each.
    pub peer: (u64, Duration),
}

/// What one detector came to in a row.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// One per case, `None` where what was waited for did not come about.
    pub values: Vec<Option<f64>>,
    /// Virtual time of a case.
    pub duration: Duration,
}

/// A row with its figures.
#[derive(Debug, Clone)]
pub struct Line {
    /// The row.
    pub row: Row,
    /// Ours.
    pub ours: Figures,
    /// By peer.
    pub peers: BTreeMap<&'static str, Figures>,
}

/// What to report.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The first seed.
    pub first_seed: u64,
    /// Seeds per row, instead of the default.
    pub seeds: Option<u64>,
    /// Only rows whose name contains this.
    pub only: Option<String>,
    /// Only rows of at least so many members.
    pub least_members: Option<usize>,
    /// Only rows of at most so many members.
    pub most_members: Option<usize>,
    /// Threads.
    pub threads: usize,
}

const SECOND: Duration = Duration::from_secs(1);

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name, scenario, members, target, seeds: u64, duration: Duration| {
        let peer_seeds = match members {
            ..100 => 10,
            100..10_000 => 3,
            _ => 1,
        };
        let peer = match scenario {
            // What is told of them is per half hour.
            Scenario::SlowMembers { .. } => (3, duration),
            _ => (seeds.min(peer_seeds), duration.min(SECOND * 600)),
        };
        let per_fleet = if scenario == Scenario::SilentCrash && members >= 10_000 { 5 } else { 1 };
        rows.push(Row { name, scenario, members, target, seeds, per_fleet, duration, peer });
    };
    let minute = SECOND * 60;
    for members in [3, 8, 32, 100, 128] {
        add("silent crash", Scenario::SilentCrash, members, (Some(1.0), 1.5), 30, minute);
    }
    add("silent crash", Scenario::SilentCrash, 1_000, (Some(1.2), 1.6), 10, minute);
    add("silent crash", Scenario::SilentCrash, 10_000, (Some(1.4), 2.0), 10, minute);
    add("silent crash, two members", Scenario::SilentCrash, 2, (None, 4.6), 30, minute);
    add("silent crash, two and a witness", Scenario::CrashBesideWitness, 3, (None, 1.5), 30, minute);
    for members in [3, 8, 32, 128] {
        add("process exit", Scenario::ProcessExit, members, (Some(0.3), 0.5), 30, minute);
    }
    add("process exit, two members", Scenario::ProcessExit, 2, (Some(0.3), 0.5), 30, minute);
    for (loss_percent, most) in [(0, 0.0), (5, 0.0), (20, 1.0)] {
        for cold in [false, true] {
            let name = match (loss_percent, cold) {
                (0, false) => "false downs, no loss",
                (0, true) => "false downs, no loss, cold links",
                (5, false) => "false downs, 5 % loss",
                (5, true) => "false downs, 5 % loss, cold links",
                (_, false) => "false downs, 20 % loss",
                (_, true) => "false downs, 20 % loss, cold links",
            };
            // 30 seeds make 1,000 member-hours: 100 with 3 members, 400 with 8, 500 with 32.
            // Together at most what the target allows.
            for (members, hours, most) in [(3, 100, 0.0), (8, 400, 0.0), (32, 500, most)] {
                let each = Duration::from_secs(hours * 3_600 / 30 / members as u64);
                add(name, Scenario::FalseDowns { loss_percent, cold }, members, (None, most), 30, each);
            }
        }
    }
    for (name, block) in
        [("slow members, messages wait", Block::Messages), ("slow members, nothing runs", Block::Process)]
    {
        add(name, Scenario::SlowMembers { block }, 32, (None, 0.0), 30, minute * 30);
    }
    for members in [2, 8, 32, 128, 1_000, 10_000] {
        let seeds = if members >= 1_000 { 1 } else { 3 };
        add("steady payload", Scenario::SteadyPayload, members, (None, 100.0), seeds, minute);
    }
    add("boot", Scenario::Boot, 1_000, (None, 3.0), 10, minute);
    for (members, dead, most) in [(3, 2, 5.0), (32, 16, 3.0), (100, 10, 3.0)] {
        let name = match members {
            3 => "two of three at once",
            32 => "half of 32 at once",
            _ => "10 of 100 at once",
        };
        add(name, Scenario::SeveralAtOnce { dead }, members, (None, most), 30, minute);
    }
    // Those that take minutes come last.
    rows.sort_by_key(|row| (row.members >= 1_000, row.members >= 10_000));
    rows
}

impl Row {
    /// Whether its values are counts, to be summed, rather than samples.
    fn counts(&self) -> bool {
        matches!(self.scenario, Scenario::FalseDowns { .. } | Scenario::SlowMembers { .. })
    }

    fn unit(&self) -> &'static str {
        match self.scenario {
            Scenario::SteadyPayload => "B/s",
            Scenario::FalseDowns { .. } | Scenario::SlowMembers { .. } => "Downs",
            _ => "s",
        }
    }
}

impl Figures {
    /// Nearest-rank percentile; a case without a result is worse than any other. `None`: there, or no case.
    fn percentile(&self, percent: u64) -> Option<f64> {
        let mut values: Vec<f64> = self.values.iter().map(|v| v.unwrap_or(f64::INFINITY)).collect();
        values.sort_by(f64::total_cmp);
        let rank = (values.len() as u64 * percent).div_ceil(100).max(1) as usize;
        values.get(rank - 1).copied().filter(|value| value.is_finite())
    }

    fn total(&self) -> Option<f64> {
        self.values.iter().copied().sum()
    }

    fn member_hours(&self, members: usize) -> f64 {
        self.values.len() as f64 * members as f64 * self.duration.as_secs_f64() / 3_600.0
    }
}

impl Line {
    /// Median and 99th percentile; of counts the total twice.
    fn both(&self, figures: &Figures) -> (Option<f64>, Option<f64>) {
        match self.row.counts() {
            true => (figures.total(), figures.total()),
            false => (figures.percentile(50), figures.percentile(99)),
        }
    }

    /// Whether ours reaches the target.
    pub fn met(&self) -> bool {
        let within = |value: Option<f64>, target: f64| value.is_some_and(|value| value <= target);
        let (p50, p99) = self.both(&self.ours);
        self.row.target.0.is_none_or(|target| within(p50, target)) && within(p99, self.row.target.1)
    }

    /// One object.
    pub fn json(&self) -> Value {
        let (p50, p99) = self.both(&self.ours);
        let peer = |figures: &Figures| {
            let (p50, p99) = self.both(figures);
            let hours = figures.member_hours(self.row.members);
            json!({ "p50": p50, "p99": p99, "cases": figures.values.len(), "member_hours": hours })
        };
        let peers: BTreeMap<&str, Value> = self.peers.iter().map(|(name, f)| (*name, peer(f))).collect();
        json!({
            "row": self.row.name,
            "members": self.row.members,
            "unit": self.row.unit(),
            "ours_p50": p50,
            "ours_p99": p99,
            "target_p50": self.row.target.0,
            "target_p99": self.row.target.1,
            "cases": self.ours.values.len(),
            "member_hours": self.ours.member_hours(self.row.members),
            "peers": peers,
            "met": self.met(),
        })
    }

    /// One line of the table.
    pub fn text(&self) -> String {
        let number = |value: Option<f64>| match value {
            Some(value) if self.row.unit() == "s" => format!("{value:.2}"),
            Some(value) => format!("{value:.0}"),
            None => "never".into(),
        };
        let (p50, p99) = self.both(&self.ours);
        let target = match self.row.target.0 {
            Some(p50) => format!("{p50}/{}", self.row.target.1),
            None => format!("{}", self.row.target.1),
        };
        let ours = match self.row.counts() {
            true => format!("{} in {:.0} h", number(p99), self.ours.member_hours(self.row.members)),
            false => format!("{}/{}", number(p50), number(p99)),
        };
        let peer = |(name, figures): (&&str, &Figures)| {
            let (p50, p99) = self.both(figures);
            let cases = figures.values.len();
            match self.row.counts() {
                true => format!("{name} {} in {:.0} h", number(p99), figures.member_hours(self.row.members)),
                false if cases == self.ours.values.len() => format!("{name} {}/{}", number(p50), number(p99)),
                false if cases == 1 => format!("{name} {} (1 seed)", number(p99)),
                false => format!("{name} {}/{} ({cases} seeds)", number(p50), number(p99)),
            }
        };
        let peers: Vec<String> = self.peers.iter().map(peer).collect();
        format!(
            "{:<35} {:>6} {:>5}  {:>17}  {:>9}  {:<4}  {}",
            self.row.name,
            self.row.members,
            self.row.unit(),
            ours,
            target,
            if self.met() { "met" } else { "MISS" },
            peers.join(", ")
        )
    }
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:<35} {:>6} {:>5}  {:>17}  {:>9}  {:<4}  {}",
        "row", "N", "unit", "ours p50/p99", "target", "", "peers p50/p99"
    )
}

/// One measurement of one row.
struct Job<'a> {
    row: usize,
    model: &'a dyn PeerModel,
    case: Case,
    /// In one fleet.
    times: u64,
}

/// Measures all wanted rows on all threads; `show` is called with each in their order, as soon as it is ready.
pub fn report(wanted: &Wanted, peers: &[&dyn PeerModel], mut show: impl FnMut(&Line)) -> Vec<Line> {
    let fits = |row: &Row| {
        wanted.only.as_ref().is_none_or(|only| row.name.contains(only.as_str()))
            && wanted.least_members.is_none_or(|least| row.members >= least)
            && wanted.most_members.is_none_or(|most| row.members <= most)
    };
    let rows: Vec<Row> = rows().into_iter().filter(fits).collect();
    let jobs: Vec<Job> = rows.iter().enumerate().flat_map(|(i, row)| jobs(i, row, wanted, peers)).collect();
    let mut left: Vec<usize> =
        (0..rows.len()).map(|row| jobs.iter().filter(|job| job.row == row).count()).collect();
    let mut values = vec![Vec::new(); jobs.len()];
    let mut lines: Vec<Line> = Vec::new();
    in_parallel(&jobs, wanted.threads, |i, value| {
        values[i] = value;
        left[jobs[i].row] -= 1;
        while lines.len() < rows.len() && left[lines.len()] == 0 {
            let done = line(lines.len(), &rows[lines.len()], &jobs, &values);
            show(&done);
            lines.push(done);
        }
    });
    lines
}

fn jobs<'a>(i: usize, row: &Row, wanted: &Wanted, peers: &[&'a dyn PeerModel]) -> Vec<Job<'a>> {
    let seeds = wanted.seeds.unwrap_or(row.seeds);
    let job = |model: &'a dyn PeerModel, seed, times, duration| Job {
        row: i,
        model,
        case: Case { duration, ..Case::new(row.scenario, row.members, wanted.first_seed + seed) },
        times,
    };
    let firsts = (0..seeds).step_by(row.per_fleet as usize);
    let ours = firsts.map(|seed| job(&Flagship, seed, row.per_fleet.min(seeds - seed), row.duration));
    let mut jobs: Vec<Job> = ours.collect();
    for peer in peers.iter().filter(|peer| peer.supports(row.scenario, row.members)) {
        jobs.extend((0..row.peer.0.min(seeds)).map(|seed| job(*peer, seed, 1, row.peer.1)));
    }
    jobs
}

fn line(i: usize, row: &Row, jobs: &[Job], values: &[Vec<Option<f64>>]) -> Line {
    let mut ours = Figures { duration: row.duration, ..Figures::default() };
    let mut others: BTreeMap<&'static str, Figures> = BTreeMap::new();
    for (job, value) in jobs.iter().zip(values).filter(|(job, _)| job.row == i) {
        let figures = match job.model.name() {
            name if name == Flagship.name() => &mut ours,
            name => others.entry(name).or_default(),
        };
        figures.duration = job.case.duration;
        figures.values.extend(value);
    }
    Line { row: *row, ours, peers: others }
}

/// Does all jobs, each thread the next one that is left, and hands the results over as they come.
fn in_parallel(jobs: &[Job], threads: usize, mut done: impl FnMut(usize, Vec<Option<f64>>)) {
    let next = AtomicUsize::new(0);
    let (results, arriving) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(i) else { return };
                    // Nobody listens any more only if the report itself came to an end.
                    let _ = results.send((i, job.model.measure_often(&job.case, job.times)));
                }
            });
        }
        drop(results);
        for (i, value) in arriving {
            done(i, value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank_and_never_hides_nothing() {
        let figures = |values: &[Option<f64>]| Figures { values: values.to_vec(), duration: SECOND };
        let hundred: Vec<_> = (1..=100).map(|n| Some(f64::from(n))).collect();
        assert_eq!(figures(&hundred).percentile(50), Some(50.0));
        assert_eq!(figures(&hundred).percentile(99), Some(99.0));
        let some_never = figures(&[Some(1.0), None, Some(2.0)]);
        assert_eq!((some_never.percentile(50), some_never.percentile(99)), (Some(2.0), None));
        let row = rows()[0];
        let line = |values: &[Option<f64>]| Line { row, ours: figures(values), peers: BTreeMap::new() };
        assert!(line(&[Some(0.9), Some(0.9), Some(1.4)]).met());
        assert!(!line(&[Some(0.9), Some(0.9), Some(1.6)]).met());
        assert!(!line(&[Some(0.9), None]).met());
        assert!(!line(&[]).met());
    }

    #[test]
    fn false_alarm_rows_make_a_thousand_member_hours() {
        let mut hours: BTreeMap<&str, f64> = BTreeMap::new();
        for row in rows().into_iter().filter(|row| matches!(row.scenario, Scenario::FalseDowns { .. })) {
            let all = row.seeds as f64 * row.members as f64 * row.duration.as_secs_f64() / 3_600.0;
            *hours.entry(row.name).or_default() += all;
        }
        assert_eq!(hours.len(), 6);
        assert!(hours.values().all(|hours| *hours >= 1_000.0), "{hours:?}");
    }
}
