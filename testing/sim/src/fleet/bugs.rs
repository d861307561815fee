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
//! | `UnconfirmedRunsOn` | Quorum: a replica that took over, and is not told that it leads, does not stop what runs | 4 | replicas |
//!
//! Others are there for one schedule of the protocol review each (`tests/review.rs`), which catches them: `GrantsForgotten`,
//! `RecordNotAwaited`, `PromiseShortened`, `ModeAtOnce`, `OwnHealRule`, `ReservedForEver`, `GraceNeverEnds`, and in the
//! membership core `NewcomerTakesName` and `EpochNotRaised`.

use flagship_election::PlantedBug;

use super::fault::Plan;
use super::model::Fleet;
use super::run::{run, run_twice};
use super::world::Record;
use crate::bugs::{Buggy, Planted};
use crate::model::Violation;

impl Buggy for Fleet {
    type Bug = PlantedBug;

    const PLANTED: &'static [Planted<PlantedBug>] = &[
        Planted::new(PlantedBug::GrantsTwice, &[1], "claims"),
        Planted::new(PlantedBug::RunsUnrecorded, &[5], "api"),
        Planted::new(PlantedBug::ResumesStopping, &[6], "delete"),
        Planted::new(PlantedBug::LeaderIgnored, &[11], "restart"),
        Planted::new(PlantedBug::LoserGoesOn, &[9], "partition"),
        Planted::new(PlantedBug::WorseCopyWins, &[8], "flap"),
        Planted::new(PlantedBug::CandidacySupersedes, &[14], "api"),
        Planted::new(PlantedBug::DownMustGrant, &[7, 9], "parts"),
        Planted::new(PlantedBug::TermForgotten, &[13], "restart"),
        Planted::new(PlantedBug::HashOrder, &[12], "restart"),
        Planted::new(PlantedBug::GrantsTwice, &[2], "claims"),
        Planted::new(PlantedBug::LeaseOverstayed, &[3], "partition"),
        Planted::new(PlantedBug::SelfStopForgotten, &[4], "partition"),
        Planted::new(PlantedBug::GraceNotWaited, &[4], "freeze"),
        Planted::new(PlantedBug::PromiseForgotten, &[3, 4], "promise"),
        Planted::new(PlantedBug::VotersAllAtOnce, &[10], "voters"),
        Planted::new(PlantedBug::RenewsAtEveryStep, &[16], "rolling"),
        Planted::new(PlantedBug::UnconfirmedRunsOn, &[4], "replicas"),
    ];

    fn run_with(&self, bug: PlantedBug, plan: &Plan, seed: u64) -> Vec<Violation> {
        run(plan, seed, Record { planted: Some(bug), ..Record::default() }).violations
    }

    fn run_twice_with(&self, bug: PlantedBug, plan: &Plan, seed: u64) -> Option<Violation> {
        run_twice(plan, seed, Record { planted: Some(bug), ..Record::default() })
    }
}
