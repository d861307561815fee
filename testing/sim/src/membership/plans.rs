//! Plans by name, drawn from a seed.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::fault::{Back, Fault, Host, Lie, Network, Plan, Timed};
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
    kind("silence", 2, 128, 6, silence),
    kind("exit", 2, 128, 5, exit),
    kind("many", 3, 128, 6, many),
    kind("ring", 9, 128, 4, ring),
    kind("restart", 2, 64, 6, restart),
    kind("oneway", 2, 48, 5, one_way),
    kind("bridge", 3, 32, 6, bridge),
    kind("partition", 2, 64, 6, partition),
    kind("pair", 2, 2, 5, pair),
    kind("freeze", 2, 64, 5, freeze),
    kind("slow", 3, 48, 4, slow),
    kind("liar", 3, 48, 8, liar),
    kind("drift", 2, 32, 4, drift),
    kind("loss", 2, 32, 4, loss),
    kind("churn", 4, 48, 5, churn),
    kind("flap", 2, 32, 4, flap),
    kind("slowlink", 3, 48, 4, slow_link),
    kind("late", 2, 32, 5, late),
    kind("cold", 3, 32, 3, cold),
    kind("away", 2, 48, 5, away),
    kind("resize", 6, 14, 5, resize),
    kind("newcomer", 3, 8, 4, newcomer),
    kind(MIX, 2, 48, 20, mix),
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
    let plan = Plan { name: kind.name, members, network, warm, faults: Vec::new() };
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

/// A plan in the making.
struct Draft {
    plan: Plan,
    /// Of the members' names in that run: faults of links hit links that are there.
    rings: Rings,
    rng: Pcg64Mcg,
}

impl Draft {
    fn n(&self) -> usize {
        self.plan.members
    }

    fn host(&mut self) -> Host {
        self.rng.random_range(0..self.n())
    }

    fn other(&mut self, than: Host) -> Host {
        (than + self.rng.random_range(1..self.n())) % self.n()
    }

    /// Who is linked with this one because one observes the other.
    fn linked(&self, host: Host) -> Vec<Host> {
        let members = |h: Host| h < self.n() && !self.plan.joins_later(h);
        let mut linked = self.rings.observers(host, members);
        let subjects =
            (0..self.n()).filter(|s| *s != host && self.rings.observers(*s, members).contains(&host));
        linked.extend(subjects);
        linked.sort_unstable();
        linked.dedup();
        linked
    }

    fn peer(&mut self, of: Host) -> Host {
        let linked = self.linked(of);
        linked[self.rng.random_range(0..linked.len())]
    }

    /// Hosts in a random order.
    fn shuffled(&mut self) -> Vec<Host> {
        let mut hosts: Vec<Host> = (0..self.n()).collect();
        hosts.shuffle(&mut self.rng);
        hosts
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..to))
    }

    fn add(&mut self, at: Duration, lasts: Duration, fault: Fault) {
        self.plan.faults.push(Timed { at, lasts, fault });
    }

    fn crash(&mut self, at: Duration, host: Host, reset: bool) {
        self.add(at, Duration::ZERO, Fault::Crash { host, reset, back: None });
    }
}

fn silence(draft: &mut Draft) {
    let (at, host) = (draft.ms(0, 1_000), draft.host());
    draft.crash(at, host, false);
}

fn exit(draft: &mut Draft) {
    let (at, host) = (draft.ms(0, 1_000), draft.host());
    draft.crash(at, host, true);
}

/// Many at once: from two of three to half of all, and down to one survivor.
fn many(draft: &mut Draft) {
    let n = draft.n();
    let dead = match draft.rng.random_range(0..4) {
        0 => n - 1,
        1 => n / 2,
        2 => (n / 10).max(1),
        _ => draft.rng.random_range(1..n),
    };
    let (at, reset) = (draft.ms(0, 500), draft.rng.random_range(0..3) == 0);
    for host in draft.shuffled().into_iter().take(dead) {
        let late = draft.ms(0, 3);
        draft.crash(at + late, host, reset);
    }
}

/// A subject's whole neighbourhood at once: its observers, and then or with them the subject.
fn ring(draft: &mut Draft) {
    let subject = draft.host();
    let mut dead = draft.rings.observers(subject, |_| true);
    if draft.rng.random() {
        // Their observers too: whoever would take their places.
        let more: Vec<Host> = dead.iter().flat_map(|host| draft.rings.observers(*host, |_| true)).collect();
        dead.extend(more);
    }
    dead.push(subject);
    dead.sort_unstable();
    dead.dedup();
    dead.shuffle(&mut draft.rng);
    dead.truncate(draft.n() - 1);
    let at = draft.ms(0, 500);
    let gap = [0, 300, 1_000][draft.rng.random_range(0..3)];
    for (i, host) in dead.into_iter().enumerate() {
        draft.crash(at + Duration::from_millis(gap * i as u64 / 2), host, false);
    }
}

fn restart(draft: &mut Draft) {
    for i in 0..draft.rng.random_range(1..=2.min(draft.n() as u64 - 1)) {
        let host = draft.host();
        let at = Duration::from_secs(40 * i) + draft.ms(0, 1_000);
        let reset = draft.rng.random();
        let back = if draft.rng.random_range(0..3) == 0 { Back::Lower } else { Back::Higher };
        let lasts = [30, 300, 1_000, 3_000, 9_000][draft.rng.random_range(0..5)];
        let lasts = Duration::from_millis(lasts) + draft.ms(0, 200);
        if draft.rng.random_range(0..3) == 0 {
            let ms = [-3_600_000, 3_600_000, 60_000][draft.rng.random_range(0..3)];
            draft.add(at / 2, Duration::ZERO, Fault::WallJump { host, ms });
        }
        draft.add(at, lasts, Fault::Crash { host, reset, back: Some(back) });
    }
}

/// What one sends reaches nobody; or nothing reaches one.
fn one_way(draft: &mut Draft) {
    let (host, at, lasts) = (draft.host(), draft.ms(0, 1_000), draft.ms(2_500, 20_000));
    let others: Vec<Host> = (0..draft.n()).filter(|other| *other != host).collect();
    let (from, to) = match draft.rng.random() {
        true => (vec![host], others),
        false => (others, vec![host]),
    };
    draft.add(at, lasts, Fault::Cut { from, to });
}

/// Two do not reach each other, in one direction or both; everybody else reaches both.
fn bridge(draft: &mut Draft) {
    for _ in 0..draft.rng.random_range(1..=2) {
        let a = draft.host();
        let b = draft.peer(a);
        let (at, lasts) = (draft.ms(0, 4_000), draft.ms(8_000, 25_000));
        // In a large fleet two are seldom linked: one is cut off from a few.
        let few: Vec<Host> = match draft.n() {
            0..=8 => vec![b],
            n => draft.shuffled().into_iter().filter(|host| *host != a).take(n * 2 / 3).collect(),
        };
        draft.add(at, lasts, Fault::Cut { from: vec![a], to: few.clone() });
        if draft.rng.random() {
            draft.add(at, lasts, Fault::Cut { from: few, to: vec![a] });
        }
    }
}

fn partition(draft: &mut Draft) {
    let mut at = draft.ms(0, 1_000);
    for _ in 0..draft.rng.random_range(1..=2) {
        let size = draft.rng.random_range(1..draft.n());
        let side = draft.shuffled().into_iter().take(size).collect();
        let lasts = [3_000, 8_000, 20_000, 60_000][draft.rng.random_range(0..4)];
        let lasts = Duration::from_millis(lasts) + draft.ms(0, 2_000);
        draft.add(at, lasts, Fault::Split { side });
        at += lasts + draft.ms(100, 15_000);
    }
}

/// Two members: everything rests on one observer.
fn pair(draft: &mut Draft) {
    let (host, at) = (draft.host(), draft.ms(0, 1_000));
    match draft.rng.random_range(0..5) {
        0 => draft.crash(at, host, false),
        1 => {
            let lasts = draft.ms(1_500, 30_000);
            draft.add(at, lasts, Fault::Split { side: vec![host] });
        }
        2 => {
            let lasts = draft.ms(1_500, 10_000);
            draft.add(at, lasts, Fault::Freeze { host });
        }
        3 => {
            let lasts = draft.ms(1_500, 10_000);
            draft.add(at, lasts, Fault::Cut { from: vec![host], to: vec![1 - host] });
        }
        _ => {
            let lasts = draft.ms(15_000, 30_000);
            draft.add(at, lasts, Fault::Loss { percent: 15 });
        }
    }
}

fn freeze(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for _ in 0..draft.rng.random_range(1..=3) {
        let (host, lasts) = (draft.host(), draft.ms(1_200, 14_000));
        at += draft.ms(0, 1_000);
        draft.add(at, lasts, Fault::Freeze { host });
        at += lasts + draft.ms(0, 1_000);
    }
}

/// Up to an eighth blocked 8.2 s of every 9.2 s.
fn slow(draft: &mut Draft) {
    let slow = (draft.n() / 8).max(1);
    for host in draft.shuffled().into_iter().take(slow) {
        let at = draft.ms(0, 9_200);
        let (blocked, period) = (Duration::from_millis(8_200), Duration::from_millis(9_200));
        draft.add(at, Duration::from_secs(45), Fault::Slow { host, blocked, period });
    }
}

fn liar(draft: &mut Draft) {
    let host = draft.host();
    let mut lies = Lie::ALL.to_vec();
    lies.shuffle(&mut draft.rng);
    let some = draft.rng.random_range(1..4);
    lies.truncate(some);
    // Not every fleet has somebody who asks; forging, accusing and holding strike always.
    let sure = [Lie::Accuse, Lie::Forge, Lie::Hold][draft.rng.random_range(0..3)];
    if !lies.contains(&sure) {
        lies.push(sure);
    }
    draft.add(Duration::ZERO, Duration::from_secs(40), Fault::Liar { host, lies });
    if draft.rng.random_range(0..2) == 0 && draft.n() > 4 {
        let victim = draft.other(host);
        let at = draft.ms(25_000, 30_000);
        let lasts = draft.ms(3_000, 8_000);
        draft.add(at, lasts, Fault::Crash { host: victim, reset: false, back: Some(Back::Higher) });
    }
}

fn drift(draft: &mut Draft) {
    for host in draft.shuffled().into_iter().take(3) {
        let permille = [-50, -20, 20, 50][draft.rng.random_range(0..4)];
        draft.add(Duration::ZERO, Duration::from_secs(40), Fault::Drift { host, permille });
    }
    if draft.rng.random() {
        let (at, host) = (draft.ms(30_000, 31_000), draft.host());
        draft.add(at, Duration::from_secs(5), Fault::Crash { host, reset: false, back: Some(Back::Higher) });
    }
}

fn loss(draft: &mut Draft) {
    let percent = [2, 5, 5, 20][draft.rng.random_range(0..4)];
    // Two members send two segments a second: 2 % of them need some time to be any.
    let lasts = draft.ms(20_000, 60_000) + Duration::from_secs(if draft.n() < 4 { 180 } else { 0 });
    draft.add(Duration::ZERO, lasts, Fault::Loss { percent });
}

fn churn(draft: &mut Draft) {
    let mut at = Duration::ZERO;
    for host in draft.shuffled().into_iter().cycle().take(10) {
        at += draft.ms(200, 5_000);
        let lasts = draft.ms(100, 4_000);
        let taken = draft.plan.faults.iter().any(|timed| {
            matches!(timed.fault, Fault::Crash { host: h, .. } if h == host)
                && timed.at + timed.lasts + Duration::from_secs(6) > at
        });
        if !taken {
            let reset = draft.rng.random();
            draft.add(at, lasts, Fault::Crash { host, reset, back: Some(Back::Higher) });
        }
        let host = draft.host();
        if draft
            .plan
            .faults
            .iter()
            .all(|timed| !matches!(timed.fault, Fault::Crash { host: h, .. } if h == host))
        {
            draft.add(at, Duration::ZERO, Fault::Metadata { host });
        }
    }
}

fn flap(draft: &mut Draft) {
    let a = draft.host();
    let b = draft.peer(a);
    let down = draft.ms(300, 4_000);
    let period = down + draft.ms(300, 4_000);
    let lasts = Duration::from_secs(40);
    if draft.rng.random() {
        return draft.add(Duration::ZERO, lasts, Fault::Flap { a, b, down, period });
    }
    // Or all links of a host.
    for b in draft.linked(a) {
        draft.add(Duration::ZERO, lasts, Fault::Flap { a, b, down, period });
    }
}

fn slow_link(draft: &mut Draft) {
    let a = draft.host();
    let extra = draft.ms(50, 1_200);
    let b = draft.peer(a);
    draft.add(Duration::ZERO, Duration::from_secs(40), Fault::SlowLink { a, b, extra });
    if draft.rng.random() {
        let (at, host) = (draft.ms(25_000, 26_000), draft.host());
        draft.add(at, Duration::from_secs(6), Fault::Crash { host, reset: false, back: Some(Back::Higher) });
    }
}

/// Beats wait on their way, and arrive when their sender is gone or blocked.
fn late(draft: &mut Draft) {
    let host = draft.host();
    let at = draft.ms(0, 1_000);
    let hold = draft.ms(2_500, 4_500);
    for to in draft.linked(host) {
        draft.add(at, hold, Fault::HoldBack { from: host, to });
    }
    let dies = at + draft.ms(1_200, 2_400);
    match draft.rng.random() {
        true => draft.crash(dies, host, false),
        false => {
            let lasts = draft.ms(3_000, 9_000);
            draft.add(dies, lasts, Fault::Freeze { host });
        }
    }
}

fn cold(draft: &mut Draft) {
    let every = draft.ms(3_000, 10_000);
    draft.add(Duration::ZERO, Duration::from_secs(40), Fault::ColdLinks { every });
}

fn away(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let (at, grace) = (draft.ms(0, 1_000), draft.ms(2_000, 20_000));
    // It comes back, or not: then its pause ends nobody knows how.
    let lasts = if draft.rng.random_range(0..3) == 0 { Duration::ZERO } else { draft.ms(1_000, 28_000) };
    draft.add(at, lasts, Fault::Away { host: hosts[0], grace });
    if draft.rng.random() && hosts.len() > 2 {
        let at = draft.ms(0, 5_000);
        draft.add(at, Duration::ZERO, Fault::Leave { host: hosts[1] });
    }
}

/// Across the limit between mesh and rings, in both directions.
fn resize(draft: &mut Draft) {
    let n = draft.n();
    let later = draft.rng.random_range(1..=(n - 2).min(6));
    let mut at = Duration::ZERO;
    for host in n - later..n {
        at += draft.ms(0, 2_000);
        draft.add(at, Duration::ZERO, Fault::Join { host });
    }
    at += Duration::from_secs(8);
    let leaving = draft.rng.random_range(1..=n - 2);
    for host in (1..n).rev().take(leaving) {
        at += draft.ms(0, 1_000);
        draft.add(at, Duration::ZERO, Fault::Leave { host });
    }
}

/// One starts anew while it cannot reach another, of whom it is asked: it cannot tell.
fn newcomer(draft: &mut Draft) {
    let hosts = draft.shuffled();
    let (newcomer, subject) = (hosts[0], hosts[1]);
    let cut = Duration::from_secs(40);
    draft.add(Duration::ZERO, cut, Fault::Cut { from: vec![newcomer], to: vec![subject] });
    draft.add(Duration::ZERO, cut, Fault::Cut { from: vec![subject], to: vec![newcomer] });
    let (at, lasts) = (draft.ms(2_000, 4_000), draft.ms(300, 3_000));
    draft.add(at, lasts, Fault::Crash { host: newcomer, reset: true, back: Some(Back::Higher) });
    // Of those that it sends beats or echoes to: to others it may say nothing for seconds.
    for asker in draft.linked(subject).into_iter().filter(|asker| *asker != newcomer) {
        let (at, hold) = (draft.ms(15_000, 16_000), draft.ms(1_600, 2_500));
        draft.add(at, hold, Fault::HoldBack { from: subject, to: asker });
    }
}

/// Several at a time.
fn mix(draft: &mut Draft) {
    let parts: [Generator; 14] = [
        silence, exit, restart, one_way, bridge, partition, freeze, slow, drift, loss, flap, slow_link, cold,
        metadata,
    ];
    for _ in 0..draft.rng.random_range(2..=4) {
        let part = parts[draft.rng.random_range(0..parts.len())];
        let before = draft.plan.faults.len();
        if draft.n() > 2 || !std::ptr::fn_addr_eq(part, bridge as Generator) {
            part(draft);
        }
        let shift = draft.ms(0, 20_000);
        for timed in &mut draft.plan.faults[before..] {
            timed.at += shift;
        }
    }
    untangle(&mut draft.plan);
    if draft.plan.faults.is_empty() {
        silence(draft);
    }
}

fn metadata(draft: &mut Draft) {
    for _ in 0..3 {
        let (at, host) = (draft.ms(0, 8_000), draft.host());
        draft.add(at, Duration::ZERO, Fault::Metadata { host });
    }
}

/// A member that is gone or blocked cannot be hit again meanwhile: such faults would never strike.
fn untangle(plan: &mut Plan) {
    plan.faults.sort_by_key(|timed| timed.at);
    let settle = Duration::from_secs(12);
    let mut taken: Vec<(Host, Duration, Duration)> = Vec::new();
    plan.faults.retain(|timed| {
        let host = match timed.fault {
            Fault::Crash { host, .. }
            | Fault::Freeze { host }
            | Fault::Slow { host, .. }
            | Fault::Drift { host, .. }
            | Fault::WallJump { host, .. }
            | Fault::Metadata { host } => Some(host),
            _ => None,
        };
        let Some(host) = host else { return true };
        let until = match (&timed.fault, timed.lasts) {
            (Fault::Crash { back: None, .. }, _) => Duration::MAX,
            (_, lasts) => timed.at + lasts + settle,
        };
        let jump = matches!(timed.fault, Fault::WallJump { .. });
        let free = taken.iter().all(|(h, from, to)| *h != host || *to <= timed.at || *from >= until);
        if free && !jump {
            taken.push((host, timed.at, until));
        }
        free
    });
    // A jump shows at a restart only.
    let restarts = plan.faults.clone();
    plan.faults.retain(|timed| match timed.fault {
        Fault::WallJump { host, .. } => restarts.iter().any(|other| {
            other.at >= timed.at
                && matches!(other.fault, Fault::Crash { host: h, back: Some(Back::Higher), .. } if h == host)
        }),
        _ => true,
    });
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
