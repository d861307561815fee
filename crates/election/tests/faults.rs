//! Random faults over many seeds, and the proof that the checkers bite.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

mod fleet;

use flagship_election::{Claim, Input, Message, Permit, Refusal, ResignReason, Vote};
use flagship_types::{ConfigVersion, Failback, FleetConfig, Rank, Term};
use fleet::{Bug, Fleet, ms, secs};

const SEEDS: u64 = 400;

fn members(f: &mut Fleet) -> Vec<String> {
    let count = 2 + f.below(4);
    (0..count).map(|i| format!("m{i}")).collect()
}

/// One random history; afterwards everything is repaired and quiet.
fn history(seed: u64, bug: Bug) -> Fleet {
    let mut f = Fleet::new(seed, bug);
    let names = members(&mut f);
    for (i, n) in names.iter().enumerate() {
        let rank = i64::try_from(f.below(3)).unwrap();
        let ready = i == 0 || f.below(2) == 0;
        f.add(n, Fleet::spec(rank, ready));
        let pause = f.below(8000);
        f.run(ms(pause));
    }
    f.loss = [0, 0, 20][usize::try_from(seed % 3).unwrap()];
    for _ in 0..25 {
        fault(&mut f, &names);
        let pause = [100, 700, 3000, 12_000][usize::try_from(f.below(4)).unwrap()];
        let pause = 1 + f.below(pause);
        f.run(ms(pause));
    }
    repair(&mut f, &names);
    f.run(secs(150));
    f.check_quiet();
    f
}

fn fault(f: &mut Fleet, names: &[String]) {
    let pick = |f: &mut Fleet| names[usize::try_from(f.below(names.len() as u64)).unwrap()].clone();
    let (n, other) = (pick(f), pick(f));
    let name = fleet::name(&n);
    let (alive, frozen) = (f.nodes[&name].core.is_some(), f.nodes[&name].frozen);
    match f.below(18) {
        0..=2 if alive => f.crash(&n),
        0..=4 if !alive => {
            let loses = f.below(8) == 0;
            if loses {
                f.lose_status(&n);
            }
            f.start(&n);
            // While it asks and campaigns with what it found, its new record is written in several steps.
            if loses && f.below(2) == 0 {
                let pause = f.below(2000);
                f.run(ms(pause));
                f.crash(&n);
                f.start(&n);
            }
        }
        5 => f.isolate(&n),
        6 if n != other => f.cut(&n, &other),
        7 if n != other => f.cut_one_way(&n, &other),
        8 | 9 => f.heal_all(),
        10 => {
            let up = !f.nodes[&name].api;
            f.api(&n, up);
        }
        11 if alive && !frozen => f.freeze(&n),
        12 if frozen => f.thaw(&n),
        13 if alive && !frozen => {
            let rank = i64::try_from(f.below(4)).unwrap();
            f.change_spec(&n, |s| s.rank.0 = rank);
        }
        14 if alive && !frozen => {
            let delay = secs(f.below(3));
            let manual = f.below(4) == 0;
            f.change_spec(&n, |s| {
                s.proposal.failback_delay = delay;
                s.proposal.failback = if manual { Failback::Manual } else { Failback::Automatic };
            });
        }
        15 => {
            let stuck = f.below(3) == 0;
            f.nodes.get_mut(&name).unwrap().stuck = stuck;
        }
        16 | 17 => {
            let broken = !f.nodes[&name].broken;
            f.break_pods(&n, broken);
        }
        _ => {}
    }
}

fn repair(f: &mut Fleet, names: &[String]) {
    f.say("repair");
    f.loss = 0;
    f.heal_all();
    for n in names {
        let name = fleet::name(n);
        f.thaw(n);
        f.nodes.get_mut(&name).unwrap().stuck = false;
        f.break_pods(n, false);
        if !f.nodes[&name].api {
            f.api(n, true);
        }
        if f.nodes[&name].core.is_none() {
            f.start(n);
        }
    }
}

#[test]
fn random_faults_keep_every_promise() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let only = number("SEED");
    let seeds = only.map_or(0..number("SEEDS").unwrap_or(SEEDS), |s| s..s + 1);
    let (mut elections, mut heals, mut handovers) = (0, 0, 0);
    for seed in seeds {
        let f = history(seed, Bug::None);
        if !f.violations.is_empty() {
            f.fail(&format!("SEED={seed}"));
        }
        let has = |word: &str| f.log.iter().filter(|l| l.contains(word)).count();
        elections += has("Elected {");
        heals += has("SplitSeen {");
        handovers += has("reason: Handover");
        assert!(f.nodes.values().filter_map(|n| n.core.as_ref()).all(|c| c.stats().illegal_moves == 0));
    }
    if only.is_none() {
        assert!(elections > 500 && heals > 100 && handovers > 100, "{elections} {heals} {handovers}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 17] {
        assert_eq!(history(seed, Bug::None).log, history(seed, Bug::None).log);
    }
}

#[test]
fn every_checker_bites() {
    let bugs = [
        (Bug::ForgetsRecords, "durable"),
        (Bug::ReleasesBeforeStop, "two payloads in one part"),
        (Bug::ReleasesBeforeStop, "released before the stop"),
        (Bug::GrantsTwice, "two grants"),
        (Bug::NeverStops, "payload runs at"),
        (Bug::ClaimsReadiness, "last good copy given up"),
        (Bug::OverlooksPayload, "last good copy cleared away"),
        (Bug::RunsEarly, "write without a durable term"),
    ];
    for (bug, finds) in bugs {
        // The rarest shows in one history of about 150.
        let found = (0..400).any(|seed| history(seed, bug).violations.iter().any(|v| v.contains(finds)));
        assert!(found, "{bug:?} was not found as {finds:?}");
    }
}

#[test]
fn retiring_members_leave_one_leader() {
    for seed in 0..40 {
        let mut f = Fleet::new(seed, Bug::None);
        for (i, n) in ["m0", "m1", "m2"].iter().enumerate() {
            f.add(n, Fleet::spec(i64::try_from(i).unwrap(), true));
        }
        f.run(secs(15));
        let after = f.below(6000);
        f.change_spec("m0", |s| s.rank.0 = 9);
        f.run(ms(after));
        f.input(&fleet::name("m2"), Input::Retire(ResignReason::Removal));
        f.run(secs(30));
        f.check_quiet();
        if !f.violations.is_empty() || f.running() == ["m2"] {
            f.fail(&format!("SEED={seed}"));
        }
    }
}

/// A message that is well-formed and wrong.
fn garbage(f: &mut Fleet) -> Message {
    let term =
        Term([f.below(12), f.below(1 << 19), u64::MAX - f.below(3)][usize::try_from(f.below(3)).unwrap()]);
    let config = FleetConfig { version: ConfigVersion(f.below(9)), ..FleetConfig::default() };
    let claim = Claim { term, rank: Rank(99), config, released: Some(Term(f.below(9))) };
    let vote = Some(Vote {
        term,
        candidate: fleet::name(["m0", "m1", "ghost"][usize::try_from(f.below(3)).unwrap()]),
    });
    let config = FleetConfig { version: ConfigVersion(term.0), ..FleetConfig::default() };
    let pre = f.below(2) == 0;
    match f.below(12) {
        0 => Message::PreClaim(claim),
        1 => Message::Claim(claim),
        2 => Message::Grant { term, pre, owed: std::time::Duration::ZERO, config: ConfigVersion(0) },
        3 => Message::Refuse { term, pre, refusal: Refusal::Leading, highest: term, retry_after: secs(9999) },
        4 => Message::Announce { term, config },
        5 => Message::HandoverRequest { term: Term(f.below(9)) },
        6 => Message::HandoverRefused { term, reason: "x".repeat(5000), retry_after: secs(9999) },
        7 => Message::Release { term, successor: Some(fleet::name("ghost")), reason: ResignReason::Handover },
        8 => Message::ConfirmRequest { term },
        9 => Message::ConfirmReply { term, highest: vote },
        10 => Message::RecordReply { vote, term, config },
        _ => Message::ConfigStored { version: ConfigVersion(term.0) },
    }
}

#[test]
fn garbage_of_one_member_never_changes_who_leads() {
    for seed in 0..30 {
        let mut f = Fleet::new(seed, Bug::None);
        for (n, rank) in [("m0", 5), ("m1", 4), ("m2", 1)] {
            f.add(n, Fleet::spec(rank, true));
        }
        f.run(secs(15));
        let created = f.nodes[&fleet::name("m0")].payload.created;
        for _ in 0..400 {
            let message = garbage(&mut f);
            let to = fleet::name(["m0", "m1"][usize::try_from(f.below(2)).unwrap()]);
            f.transmit(&fleet::name("m2"), &to, message);
            // From somebody who is no member at all.
            let (from, message) = (fleet::name("ghost"), garbage(&mut f));
            f.input(&to, Input::Message { from, message });
            let pause = f.below(300);
            f.run(ms(pause));
            if f.running() != ["m0"] {
                f.fail(&format!("SEED={seed}: garbage moved the payload"));
            }
        }
        f.run(secs(30));
        f.check_quiet();
        let m0 = &f.nodes[&fleet::name("m0")];
        let may_write = matches!(m0.core.as_ref().unwrap().permit(f.now), Some(Permit::Apply { .. }));
        if !f.violations.is_empty() || m0.payload.created != created || !may_write {
            f.fail(&format!("SEED={seed}"));
        }
    }
}
