//! Which of two leaders stays when a partition heals and failback is Manual: the newer term, whoever is between them and
//! hears of whom first, and wherever the rule was edited. Under all checkers of the fleet simulator.

use std::time::Duration;

use flagship_types::Failback;
use sim::HostSpec;
use sim::fleet::Record;
use sim::fleet::fault::{Fault, Network, Plan, Timed};
use sim::fleet::run::run;

const SEEDS: u64 = 40;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn fleet(ranks: &[i64]) -> Vec<HostSpec> {
    let names = ["a", "b", "c", "d", "e"];
    let spec = |(i, rank): (usize, &i64)| {
        let seeds: Vec<_> = names[..ranks.len()].iter().copied().filter(|seed| *seed != names[i]).collect();
        HostSpec::new(names[i], *rank, i == 0, &seeds)
    };
    ranks.iter().enumerate().map(spec).collect()
}

/// A partition; whoever leads before it has to stop after it, and nobody else.
fn newer_stays(hosts: &[HostSpec], older: &str, side: &[usize], one_way: Duration, edit: Option<usize>) {
    let mut faults =
        vec![Timed { at: ms(0), lasts: ms(20_000), fault: Fault::Split { side: side.to_vec() } }];
    faults.extend(edit.map(|host| {
        let fault = Fault::Failback { host, failback: Failback::Manual };
        Timed { at: ms(5_000), lasts: ms(0), fault }
    }));
    let network = Network { one_way, jitter: one_way / 2, ..Network::default() };
    let plan = Plan { name: "heal", hosts: hosts.to_vec(), network, faults };
    for seed in 0..SEEDS {
        let outcome = run(&plan, seed, Record { timeline: true, ..Record::default() });
        let text = || format!("seed {seed}, edit {edit:?}, {one_way:?}\n{}", outcome.timeline.join("\n"));
        assert_eq!(outcome.violations, [], "{}", text());
        let healed = outcome.timeline.iter().position(|line| line.contains("ends   "));
        let healed = healed.expect("the partition ends");
        let stops: Vec<_> = outcome.timeline[healed..]
            .iter()
            .filter(|line| line.contains("directive Stop") && line.contains("Superseded"))
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(stops, [older], "{}", text());
    }
}

#[test]
fn the_newer_term_stays_whoever_is_between() {
    // With slow ways a member's word comes well before the news that it lives, and that before its link.
    for one_way in [ms(5), ms(120)] {
        for (members, side) in [(3, &[0][..]), (3, &[0, 1]), (4, &[0, 1]), (4, &[0, 1, 2]), (5, &[0, 1])] {
            let mut hosts = fleet(&[5, 4, 3, 2, 1][..members]);
            for host in &mut hosts {
                host.config.failback = Failback::Manual;
            }
            newer_stays(&hosts, "a", side, one_way, None);
        }
    }
}

#[test]
fn the_newest_settings_decide_also_if_others_bring_them() {
    // c leads by rank; beside it a takes over, which has Automatic in its object.
    for host in [0, 2] {
        for ranks in [&[4, 3, 5][..], &[4, 3, 5, 2], &[4, 3, 5, 2, 1]] {
            newer_stays(&fleet(ranks), "c", &[0, 1], ms(20), Some(host));
        }
    }
}
