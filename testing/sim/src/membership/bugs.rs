//! Bugs that can be planted in the core (feature `planted-bugs`), each with the invariant whose checker catches it
//! and the plan that brings it out. `sim bugs` counts the seeds that takes.
//!
//! Each is one wrong line of the core. None changes anything while it is not planted.
//!
//! | bug | what the core does wrong | invariant | plan |
//! |---|---|---|---|
//! | `AccuserRaisesIncarnation` | who begins a suspicion raises the subject's incarnation in its own view (and so in what it forwards or accuses) by one | 1 | silence |
//! | `OldRecordAccepted` | a record with a lower (incarnation, version) than the known one of the same epoch is taken | 2 | metadata |
//! | `OwnWordSuffices` | a late beat is Suspect at once, without waiting for or counting the co-observers' answers | 3 | bridge |
//! | `OthersAnswerMute` | a query about a member that the asked one does not observe, or has never heard, is answered Mute instead of Abstain | 3 | newcomer |
//! | `DeadObserversCount` | observers that are Down are neither replaced nor abstain: they count as hearing the subject | 5 | many |
//! | `DigestIgnored` | a view hash that differs is never acted upon, and deltas are not forwarded on | 6 | churn |
//! | `LateRefutationLoses` | a refutation does not end a suspicion whose window runs | 7 | bridge |
//! | `DownIsNotDialled` | a Down member's address is not dialled any more | 8 | partition |
//! | `LinksPileUp` | a second stream to the same peer (or a link that is no longer needed) is never closed | 9 | cold |
//! | `ReceiptProvesLife` | a beat proves life at the time of its receipt, whatever it echoes | 10 | late |
//! | `PauseForgotten` | own timers that fire late change nothing (rule 8) | 11 | slow |
//! | `HashOrder` | something that is sent to several goes out in the order of a `HashMap` with its random keys | 12 | any |
//! | `ForeignRecordBelieved` | an unsigned record is believed although it is not the sender's own | 13 | liar |
//! | `LoneWordBelieved` | one accusation makes a member Down after its window, whoever else hears it | 13, 4 | liar |
//! | `SilenceFloorIgnored` | a lone observer (N = 2) waits for slack only, not for the floor | 3 | pair |
//! | `WindowNotRestarted` | an accusation of an incarnation that was refuted counts against the new one | 7, 3 | bridge |
//! | `AwayNeverEnds` | an announced pause is not ended by its grace | 5 | away |
//! | `EchoDelayIgnored` | the age of a beat is taken from the last beat sent, not from the one that it echoes | 10 | late |

use flagship_membership::PlantedBug;

use super::fault::Plan;
use super::model::Cores;
use super::run::{run, run_twice};
use super::world::Record;
use crate::bugs::{Buggy, Planted};
use crate::model::Violation;

impl Buggy for Cores {
    type Bug = PlantedBug;

    const PLANTED: &'static [Planted<PlantedBug>] = &[
        Planted::new(PlantedBug::AccuserRaisesIncarnation, &[1], "silence"),
        Planted::new(PlantedBug::OldRecordAccepted, &[2], "liar"),
        Planted::new(PlantedBug::OwnWordSuffices, &[3], "bridge"),
        Planted::new(PlantedBug::OthersAnswerMute, &[3, 4], "newcomer"),
        Planted::new(PlantedBug::DeadObserversCount, &[5], "many"),
        Planted::new(PlantedBug::DigestIgnored, &[6, 8], "churn"),
        Planted::new(PlantedBug::LateRefutationLoses, &[7, 3], "bridge"),
        Planted::new(PlantedBug::DownIsNotDialled, &[8], "partition"),
        Planted::new(PlantedBug::LinksPileUp, &[9], "cold"),
        Planted::new(PlantedBug::ReceiptProvesLife, &[10], "late"),
        Planted::new(PlantedBug::PauseForgotten, &[11], "slow"),
        Planted::new(PlantedBug::HashOrder, &[12], "silence"),
        Planted::new(PlantedBug::ForeignRecordBelieved, &[13, 1], "liar"),
        Planted::new(PlantedBug::LoneWordBelieved, &[13, 3], "liar"),
        Planted::new(PlantedBug::SilenceFloorIgnored, &[3], "pair"),
        Planted::new(PlantedBug::WindowNotRestarted, &[7, 3], "bridge"),
        Planted::new(PlantedBug::AwayNeverEnds, &[5], "away"),
        Planted::new(PlantedBug::EchoDelayIgnored, &[10], "late"),
    ];

    fn run_with(&self, bug: PlantedBug, plan: &Plan, seed: u64) -> Vec<Violation> {
        run(plan, seed, Record { planted: Some(bug), ..Record::default() }).violations
    }

    fn run_twice_with(&self, bug: PlantedBug, plan: &Plan, seed: u64) -> Option<Violation> {
        run_twice(plan, seed, Record { planted: Some(bug), ..Record::default() })
    }
}
