//! Plans by name, drawn from a seed.

mod draft;
mod mixed;
mod network;
mod operator;
mod process;
mod replicas;

use std::time::Duration;

use flagship_types::{Failback, FleetConfig, Mode};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::draft::Draft;
use super::fault::{Network, Plan};
use super::host::HostSpec;

/// Draws the faults of a plan on a fleet.
type Generator = fn(&mut Draft);

/// A kind of plan.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name for `--plan`.
    pub name: &'static str,
    /// The smallest fleet it makes sense for.
    pub least: usize,
    /// Of all runs, so many in a hundred and something.
    pub weight: u32,
    /// In Quorum only; else in both modes.
    pub quorum: bool,
    /// Added when seeds had a meaning already: drawn apart from the others, which keep theirs.
    pub later: bool,
    draw: Generator,
}

/// The plan of several others at once: they may keep each other from striking.
pub const MIX: &str = "mix";

/// Plans whose faults may keep each other from striking, not all of them: nobody notices at an API server's outage that
/// all replicas are gone, nor can who ended be stopped.
pub const TANGLED: [&str; 2] = [MIX, "replicas"];

/// The largest fleet.
pub const MOST: usize = 6;

const NAMES: [&str; MOST + 1] = ["a", "b", "c", "d", "e", "f", "g"];

/// All plans.
pub const KINDS: [Kind; 33] = [
    kind("silence", 2, 5, process::silence),
    kind("exit", 2, 5, process::exit),
    kind("restart", 2, 6, process::restart),
    kind("rolling", 2, 4, process::rolling),
    kind("all", 2, 5, process::all_at_once),
    kind("lost", 2, 5, process::lost),
    kind("freeze", 2, 6, process::freeze),
    kind("renewed", 2, 5, process::freeze_after_write),
    kind("drift", 2, 4, process::drift),
    kind("jump", 2, 4, process::jump),
    kind("partition", 2, 6, network::partition),
    kind("parts", 3, 5, network::parts),
    kind("oneway", 2, 5, network::one_way),
    kind("ring", 3, 4, network::ring),
    kind("bridge", 3, 6, network::bridge),
    kind("flap", 2, 4, network::flap),
    kind("loss", 2, 4, network::loss),
    kind("api", 2, 6, process::api),
    kind("delete", 2, 6, operator::slow_delete),
    kind("stuck", 2, 6, operator::stuck_delete),
    kind("rank", 2, 6, operator::rank),
    kind("handover", 2, 6, operator::handover),
    kind("operator", 2, 8, operator::edits),
    kind("twin", 2, 3, operator::twin),
    kind("switchover", 2, 5, operator::switchover),
    kind("pause", 2, 5, operator::pause),
    kind("claims", 4, 3, network::claims),
    of_quorum("promise", 3, 4, process::promise),
    of_quorum("voters", 3, 8, operator::voters),
    of_quorum("lease", 3, 5, operator::lease),
    of_quorum("mode", 3, 4, operator::mode),
    kind(MIX, 2, 30, mixed::mix),
    later("replicas", 2, 5, replicas::replicas),
];

/// Whether a seed is for the plans that came later: one in eight, spread evenly, and none on which a hunt had found
/// something by then.
fn is_for_later(seed: u64) -> bool {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0
}

const fn kind(name: &'static str, least: usize, weight: u32, draw: Generator) -> Kind {
    Kind { name, least, weight, quorum: false, later: false, draw }
}

const fn later(name: &'static str, least: usize, weight: u32, draw: Generator) -> Kind {
    Kind { later: true, ..kind(name, least, weight, draw) }
}

const fn of_quorum(name: &'static str, least: usize, weight: u32, draw: Generator) -> Kind {
    Kind { quorum: true, ..kind(name, least, weight, draw) }
}

/// The plan of that name.
pub fn by_name(name: &str) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// The plan of a seed: of a given kind or of any, with a given size or of any that suits.
pub fn draw(seed: u64, kind: Option<Kind>, members: Option<usize>) -> Plan {
    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x666c_6565);
    let kind = kind.unwrap_or_else(|| {
        let first = any(&mut rng, members, false);
        if is_for_later(seed) { any(&mut Pcg64Mcg::seed_from_u64(seed), members, true) } else { first }
    });
    let size = members.unwrap_or_else(|| [2, 2, 2, 3, 3, 3, 4, 5, MOST][rng.random_range(0..9)]);
    let size = size.clamp(kind.least, MOST);
    let network = network(&mut rng);
    let quorum = size >= 3 && (kind.quorum || rng.random_range(0..2) == 0);
    let mut hosts = fleet(&mut rng, size);
    if quorum {
        vote(&mut rng, &mut hosts);
    }
    let plan = Plan { name: kind.name, hosts, network, faults: Vec::new() };
    let mut draft = Draft { plan, members: size, rng };
    (kind.draw)(&mut draft);
    draft.plan.faults.sort_by_key(|timed| timed.at);
    draft.plan
}

fn any(rng: &mut Pcg64Mcg, members: Option<usize>, later: bool) -> Kind {
    let fits = |kind: &&Kind| kind.later == later && members.is_none_or(|n| n >= kind.least);
    let fitting: Vec<&Kind> = KINDS.iter().filter(fits).collect();
    let total: u32 = fitting.iter().map(|kind| kind.weight).sum();
    let mut at = rng.random_range(0..total.max(1));
    for kind in &fitting {
        if at < kind.weight {
            return **kind;
        }
        at -= kind.weight;
    }
    KINDS[0]
}

fn fleet(rng: &mut Pcg64Mcg, size: usize) -> Vec<HostSpec> {
    let failback = if rng.random_range(0..4) == 0 { Failback::Manual } else { Failback::Automatic };
    let failback_delay = Duration::from_millis([0, 1_000, 1_000, 4_000][rng.random_range(0..4)]);
    let restart_grace = Duration::from_millis([0, 3_000, 3_000, 3_000][rng.random_range(0..4)]);
    let config = FleetConfig { failback, failback_delay, restart_grace, ..FleetConfig::default() };
    let knows_all = rng.random_range(0..2) == 0;
    let mut hosts = Vec::new();
    for (i, name) in NAMES.into_iter().enumerate().take(size) {
        let seeds: &[&'static str] = match (i, knows_all) {
            (0, _) => &[],
            (_, true) => &NAMES[..size],
            (_, false) => &NAMES[..1],
        };
        let ready = [200, 500, 1_500, 4_000][rng.random_range(0..4)];
        let gone = [100, 300, 1_000, 3_000][rng.random_range(0..4)];
        let payload = [20, ready, gone].map(Duration::from_millis);
        let rank = rng.random_range(1..5);
        let seeds: Vec<_> = seeds.iter().copied().filter(|seed| *seed != name).collect();
        let spec = HostSpec::new(NAMES[i], rank, i == 0, &seeds);
        hosts.push(HostSpec { payload, config: config.clone(), ..spec });
    }
    hosts
}

/// Puts a fleet into Quorum: two and a witness, or an odd number of voters.
fn vote(rng: &mut Pcg64Mcg, hosts: &mut [HostSpec]) {
    let count = hosts.len();
    if rng.random_range(0..2) == 0 {
        hosts[count - 1].witness = true;
    }
    let most = if count.is_multiple_of(2) { count - 1 } else { count };
    let mut voters: Vec<_> = hosts.iter().rev().take(most).map(HostSpec::member).collect();
    voters.sort();
    let lease = Duration::from_millis([3_000, 3_000, 5_000][rng.random_range(0..3)]);
    let stop_grace = Duration::from_millis([10_000, 10_000, 6_000][rng.random_range(0..3)]);
    for spec in hosts {
        spec.config.mode = Mode::Quorum;
        spec.config.voters.clone_from(&voters);
        (spec.config.lease, spec.config.stop_grace) = (lease, stop_grace);
    }
}

fn network(rng: &mut Pcg64Mcg) -> Network {
    let one_way = [1, 5, 20, 20, 20, 60, 120][rng.random_range(0..7)];
    let jitter = [1, 2, 10, 30][rng.random_range(0..4)];
    let lost_per_mille = [0, 0, 0, 0, 1, 10][rng.random_range(0..6)];
    Network { one_way: Duration::from_millis(one_way), jitter: Duration::from_millis(jitter), lost_per_mille }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_of_every_size_has_faults_and_repeats() {
        for kind in KINDS {
            for seed in 0..40 {
                let plan = draw(seed, Some(kind), None);
                assert!(!plan.faults.is_empty(), "{} {seed}", kind.name);
                assert_eq!(plan, draw(seed, Some(kind), None));
                assert!((kind.least..=MOST + 1).contains(&plan.hosts.len()));
            }
        }
    }
}
