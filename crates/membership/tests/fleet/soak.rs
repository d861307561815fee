//! Random faults and random frames: whatever happened, the fleet is whole again after quiet.

use std::time::Duration;

use flagship_membership::{
    Accusation, Echo, Event, Evidence, Input, Message, Proof, Record, SelfState, Signed, State, Verdict,
};
use flagship_types::{Epoch, Incarnation};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::checks::shrinking_records;
use crate::network::{Net, Process, WALL_MS, address, metadata, ms, name};

struct Chance(Pcg64Mcg);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn member(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }

    fn time(&mut self, most: u64) -> Duration {
        ms(self.below(most))
    }
}

#[test]
fn after_random_faults_and_quiet_the_fleet_is_whole() {
    let mut faults = [0u32; 6];
    for seed in 0..100 {
        let mut chance = Chance(Pcg64Mcg::seed_from_u64(seed));
        let n = 2 + chance.member(4);
        let mut net = Net::settled(n, seed);
        net.lost_per_mille = chance.below(50);
        net.jitter = chance.time(50);
        let mut next_epoch = WALL_MS;
        for _ in 0..chance.below(12) {
            let (a, b) = (chance.member(n), chance.member(n));
            let kind = chance.below(6);
            faults[usize::try_from(kind).unwrap()] += 1;
            match kind {
                0 if a != b => net.cut_both(a, b),
                1 if a != b => net.cut(a, b),
                2 => net.heal(),
                3 if net.is_running(a) => net.freeze(a, chance.time(12_000)),
                4 if net.is_running(a) => {
                    net.kill(a, if chance.below(2) == 0 { Process::Killed } else { Process::Silent });
                }
                5 if !net.is_running(a) => {
                    next_epoch += 1_000;
                    net.restart(a, next_epoch, &[b]);
                }
                _ => {}
            }
            let pause = chance.time(8_000);
            net.run_for(pause);
        }
        net.heal();
        net.lost_per_mille = 0;
        net.run_for(ms(12_000));
        for i in 0..n {
            if !net.is_running(i) {
                next_epoch += 1_000;
                net.restart(i, next_epoch, &[0]);
            }
        }
        net.run_while(ms(15_000), |net| !net.complete());
        net.changes.clear();
        net.run_for(ms(30_000));
        assert!(net.complete(), "seed {seed}");
        let flaps: Vec<_> = net.changes.iter().filter(|c| c.state != State::Alive).collect();
        assert!(flaps.is_empty(), "seed {seed}: {flaps:#?}");
        let hashes: Vec<_> = (0..n).map(|i| net.core(i).view_hash()).collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: views differ");
        assert!(net.events.iter().all(|(_, _, e)| !matches!(e, Event::NameInUse { .. })), "seed {seed}");
        assert_eq!(shrinking_records(&net.changes), [], "seed {seed}");
    }
    assert!(faults.iter().all(|count| *count > 15), "{faults:?}");
}

fn number(chance: &mut Chance) -> u64 {
    match chance.below(5) {
        0 => chance.below(40),
        1 => u64::MAX - chance.below(3),
        2 => WALL_MS + chance.below(3),
        3 => WALL_MS + chance.below(200_000_000),
        _ => chance.0.next_u64(),
    }
}

fn duration(chance: &mut Chance) -> Duration {
    Duration::from_nanos(number(chance))
}

fn incarnation(chance: &mut Chance) -> Incarnation {
    Incarnation(u32::try_from(number(chance) & 0xffff_ffff).unwrap())
}

fn garbage(chance: &mut Chance) -> Message {
    let subject = name(chance.member(5));
    let evidence = if chance.below(2) == 0 { Evidence::Exit } else { Evidence::Silence };
    let echo = Echo { seq: number(chance), delay: duration(chance) };
    match chance.below(12) {
        0 => {
            let (echo, acked) =
                ((chance.below(2) == 0).then_some(echo), (chance.below(3) == 0).then_some(echo));
            Message::Beat { seq: number(chance), echo, acked, view_hash: 0 }
        }
        1 => Message::Ping { seq: number(chance) },
        2 => Message::Echo(echo),
        3 => {
            let (id, epoch) = (number(chance), Epoch(number(chance)));
            Message::Query { id, subject, epoch, deadline: duration(chance) }
        }
        4 => {
            let verdicts = [Verdict::Abstain, Verdict::Mute(evidence), Verdict::Heard(duration(chance))];
            Message::Answer { id: number(chance), subject, verdict: verdicts[chance.member(3)] }
        }
        5 => {
            let epoch = Epoch(number(chance));
            let incarnation = incarnation(chance);
            let accusation = Accusation { accuser: name(2), subject, epoch, incarnation, evidence };
            Message::Accuse(Signed::new(accusation, Proof::default()))
        }
        6 => Message::Record(Signed::unsigned(Record {
            member: subject,
            epoch: Epoch(number(chance)),
            incarnation: incarnation(chance),
            version: number(chance),
            status: [SelfState::Alive, SelfState::Away { grace: duration(chance) }, SelfState::Left]
                [chance.member(3)],
            metadata: metadata(2),
        })),
        8 => Message::Unobserve,
        9 => {
            let buckets = (0..chance.below(40)).map(|n| (u16::try_from(n * 7).unwrap(), 9)).collect();
            let bits = u8::try_from(chance.below(255)).unwrap();
            Message::Digest { bits, answer: chance.below(2) == 0, buckets }
        }
        10 => {
            let records = (0..3).filter_map(|_| match garbage(chance) {
                Message::Record(record) => Some(record),
                _ => None,
            });
            Message::Delta { records: records.collect(), accusations: Vec::new() }
        }
        7 => {
            let (epoch, state) = (Epoch(number(chance)), State::ALL[chance.member(5)]);
            Message::Known { epoch, incarnation: incarnation(chance), state }
        }
        _ => Message::Addresses(vec![(subject, address(chance.member(9)))]),
    }
}

#[test]
fn one_members_garbage_neither_panics_nor_touches_the_others() {
    for seed in 0..50 {
        let mut chance = Chance(Pcg64Mcg::seed_from_u64(seed));
        let mut net = Net::settled(4, seed);
        for _ in 0..500 {
            let message = garbage(&mut chance);
            net.inject(2, chance.member(2), message);
            let pause = chance.time(60);
            net.run_for(pause);
        }
        let touched: Vec<_> = net
            .changes
            .iter()
            .filter(|c| c.subject != 2 && c.observer != 2)
            .filter(|c| matches!(c.state, State::Down | State::Left | State::Away))
            .collect();
        assert!(touched.is_empty(), "seed {seed}: {touched:#?}");
        assert!(net.events.iter().all(|(_, _, e)| !matches!(e, Event::NameInUse { .. })), "seed {seed}");
        for (observer, subject) in [(0, 1), (1, 0), (0, 3), (1, 3)] {
            assert_eq!(net.state(observer, subject), Some(State::Alive), "seed {seed}");
        }
        // Nothing piles up either: the liar's own record aside, all is as before.
        net.tell(0, Input::SetSeeds(Vec::new()));
        assert!(net.core(0).members().count() <= 8);
    }
}
