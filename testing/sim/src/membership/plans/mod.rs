//! Plans by name, drawn from a seed.

mod draft;
mod members;
mod mixed;
mod network;

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::draft::Draft;
use super::fault::{Network, Plan};
use super::names::Names;
use super::rings::Rings;

/// Draws the faults of a plan on so many members.
type Generator = fn(&mut Draft);

/// A kind of plan.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name for `--plan`.
    pub name: &'static str,
    /// The smallest fleet it makes sense for, and the largest it is tried with by default.
    pub members: (usize, usize),
    /// Of all runs, so many in a hundred and something.
    pub weight: u32,
    draw: Generator,
}

/// The plan of several others at once: they may keep each other from striking.
pub const MIX: &str = "mix";

/// All plans.
pub const KINDS: [Kind; 23] = [
    kind("silence", 2, 128, 6, members::silence),
    kind("exit", 2, 128, 5, members::exit),
    kind("many", 3, 128, 6, members::many),
    kind("ring", 9, 128, 4, members::ring),
    kind("restart", 2, 64, 6, members::restart),
    kind("oneway", 2, 48, 5, network::one_way),
    kind("bridge", 3, 32, 6, network::bridge),
    kind("partition", 2, 64, 6, network::partition),
    kind("pair", 2, 2, 5, network::pair),
    kind("freeze", 2, 64, 5, members::freeze),
    kind("slow", 3, 48, 4, members::slow),
    kind("liar", 3, 48, 8, members::liar),
    kind("drift", 2, 32, 4, members::drift),
    kind("loss", 2, 32, 4, network::loss),
    kind("churn", 4, 48, 5, members::churn),
    kind("flap", 2, 32, 4, network::flap),
    kind("slowlink", 3, 48, 4, network::slow_link),
    kind("late", 2, 32, 5, network::late),
    kind("cold", 3, 32, 3, network::cold),
    kind("away", 2, 48, 5, members::away),
    kind("resize", 6, 14, 5, members::resize),
    kind("newcomer", 3, 8, 4, network::newcomer),
    kind(MIX, 2, 48, 20, mixed::mix),
];

const fn kind(name: &'static str, least: usize, most: usize, weight: u32, draw: Generator) -> Kind {
    Kind { name, members: (least, most), weight, draw }
}

/// The plan of that name.
pub fn by_name(name: &str) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// The plan of a seed: of a given kind or of any, with a given size or of any that suits.
pub fn draw(seed: u64, kind: Option<Kind>, members: Option<usize>) -> Plan {
    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x706c_616e);
    let kind = kind.unwrap_or_else(|| any(&mut rng, members));
    let (least, most) = kind.members;
    let members = members.map_or_else(|| size(&mut rng, least, most), |n| n.max(least));
    let network = network(&mut rng);
    let warm = members > 24 || rng.random_range(0..3) > 0;
    let starts_within = Duration::from_secs(1);
    let plan = Plan { name: kind.name, members, network, warm, starts_within, faults: Vec::new() };
    let rings = Rings::new(&Names::of_run(members, seed));
    let mut draft = Draft { plan, rings, rng };
    (kind.draw)(&mut draft);
    draft.plan.faults.sort_by_key(|timed| timed.at);
    draft.plan
}

fn any(rng: &mut Pcg64Mcg, members: Option<usize>) -> Kind {
    let fits = |kind: &&Kind| members.is_none_or(|n| n >= kind.members.0 && (n <= kind.members.1 || n > 128));
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

/// Mostly small: they run fast, and most of what can go wrong does so among few.
fn size(rng: &mut Pcg64Mcg, least: usize, most: usize) -> usize {
    let bound = match rng.random_range(0..10) {
        0..5 => 8,
        5..8 => 16,
        8 => 32,
        _ => 128,
    };
    rng.random_range(least..=most.min(bound).max(least))
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
                assert!((kind.members.0..=kind.members.1).contains(&plan.members));
            }
        }
    }
}
