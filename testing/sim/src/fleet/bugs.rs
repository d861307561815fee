//! Bugs that can be planted in the election core (feature `planted-bugs`), each with the invariant whose checker catches
//! it and the plan that brings it out. `sim bugs --model fleet` counts the seeds that takes.
//!
//! Each is one wrong line of the core. None changes anything while it is not planted.
//!
//! | bug | what the core does wrong | invariant | plan |
//! |---|---|---|---|
//! | `GrantsTwice` | a voter grants whatever it is asked for, a term again to another candidate, too | 1, 2 | claims |
//! | `GrantsUnrecorded` | a grant is told before it is durable | two leases | the model check (`tests/explore.rs`): no plan brings it out |
//! | `RunsUnrecorded` | the payload runs before the lead is durable | 5 | api |
//! | `ResumesStopping` | a process that finds an unfinished stop leads on | 6 | delete |
//! | `LeaderIgnored` | the lead is taken for free though its holder is there | 11 | restart |
//! | `LoserGoesOn` | the loser of two leaders that meet goes on | 9 | partition |
//! | `WorseCopyWins` | of two leaders that meet the worse payload wins | 8 | flap |
//! | `CandidacySupersedes` | a candidacy that came to nothing supersedes a leader that asks | 14 | api |
//! | `DownMustGrant` | who is Down has to grant as well | 7, 9 | parts |
//! | `TermForgotten` | terms that were seen are not stored | 13 | restart |
//! | `HashOrder` | peers are gone through in an order of chance | 12 | any |
//! | `LeaseOverstayed` | Quorum: a leader takes its lease for longer than the voters promised | 3 | partition |
//! | `SelfStopForgotten` | Quorum: a leader that lost its lease does not stop | 4 | partition |
//! | `GraceNotWaited` | Quorum: a successor does not wait until its predecessor has stopped | 4 | freeze |
//! | `PromiseForgotten` | Quorum: a voter that restarts votes for another at once | 3 | promise |
//! | `VotersAllAtOnce` | Quorum: all voters are changed at once | 10 | voters |
//! | `RenewsAtEveryStep` | Quorum: a leader that restarted asks for a renewal at every step | 16 | rolling |
//!
//! Others are there for one schedule of the protocol review each (`tests/review.rs`), which catches them: `GrantsForgotten`,
//! `RecordNotAwaited`, `PromiseShortened`, `ModeAtOnce`, `OwnHealRule`, `ReservedForEver`, `GraceNeverEnds`, and in the
//! membership core `NewcomerTakesName` and `EpochNotRaised`.

#[cfg(feature = "planted-bugs")]
pub use planted::{Caught, PLANTED, Planted, catch, survey};

#[cfg(feature = "planted-bugs")]
mod planted {
    use flagship_election::PlantedBug;

    use crate::fleet::plans;
    use crate::fleet::run::{run, run_twice};
    use crate::fleet::world::Record;

    /// A bug, and what is to catch it.
    #[derive(Debug, Clone, Copy)]
    pub struct Planted {
        /// Which.
        pub bug: PlantedBug,
        /// The invariants that it breaks, the one that it is there for first.
        pub invariants: &'static [u8],
        /// The plan that brings it out.
        pub plan: &'static str,
    }

    /// How a bug was caught.
    #[derive(Debug, Clone)]
    pub struct Caught {
        /// Seeds that it took.
        pub seeds: u64,
        /// The seed.
        pub seed: u64,
        /// The invariant that was violated.
        pub invariant: u8,
        /// How.
        pub text: String,
    }

    const fn bug(bug: PlantedBug, invariants: &'static [u8], plan: &'static str) -> Planted {
        Planted { bug, invariants, plan }
    }

    /// All of them.
    pub const PLANTED: [Planted; 17] = [
        bug(PlantedBug::GrantsTwice, &[1], "claims"),
        bug(PlantedBug::RunsUnrecorded, &[5], "api"),
        bug(PlantedBug::ResumesStopping, &[6], "delete"),
        bug(PlantedBug::LeaderIgnored, &[11], "restart"),
        bug(PlantedBug::LoserGoesOn, &[9], "partition"),
        bug(PlantedBug::WorseCopyWins, &[8], "flap"),
        bug(PlantedBug::CandidacySupersedes, &[14], "api"),
        bug(PlantedBug::DownMustGrant, &[7, 9], "parts"),
        bug(PlantedBug::TermForgotten, &[13], "restart"),
        bug(PlantedBug::HashOrder, &[12], "restart"),
        bug(PlantedBug::GrantsTwice, &[2], "claims"),
        bug(PlantedBug::LeaseOverstayed, &[3], "partition"),
        bug(PlantedBug::SelfStopForgotten, &[4], "partition"),
        bug(PlantedBug::GraceNotWaited, &[4], "freeze"),
        bug(PlantedBug::PromiseForgotten, &[3, 4], "promise"),
        bug(PlantedBug::VotersAllAtOnce, &[10], "voters"),
        bug(PlantedBug::RenewsAtEveryStep, &[16], "rolling"),
    ];

    /// Which plans bring a bug out within so many seeds: plan, invariant, seeds it took.
    pub fn survey(planted: &Planted, seeds: u64) -> Vec<String> {
        let mut found = Vec::new();
        for kind in plans::KINDS {
            let all = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16];
            let any = Planted { invariants: all, plan: kind.name, ..*planted };
            if let Some(caught) = catch(&any, 0..seeds) {
                found.push(format!("{} ({}) {}", kind.name, caught.invariant, caught.seeds));
            }
        }
        found
    }

    /// Runs seeds until the bug is caught by one of its invariants, in a run that is clean without it.
    pub fn catch(planted: &Planted, seeds: std::ops::Range<u64>) -> Option<Caught> {
        let kind = plans::by_name(planted.plan);
        let record = Record { planted: Some(planted.bug), ..Record::default() };
        let first = seeds.start;
        for seed in seeds {
            let plan = plans::draw(seed, kind, None);
            let violation = match planted.invariants {
                [12, ..] => run_twice(&plan, seed, record),
                _ => {
                    let mut found = run(&plan, seed, record).violations.into_iter();
                    found.find(|found| planted.invariants.contains(&found.invariant))
                }
            };
            let Some(violation) = violation else {
                continue;
            };
            if run(&plan, seed, Record::default()).violations.is_empty() {
                let (invariant, text) = (violation.invariant, violation.text);
                return Some(Caught { seeds: seed - first + 1, seed, invariant, text });
            }
        }
        None
    }
}
