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

#[cfg(feature = "planted-bugs")]
pub use planted::{Caught, PLANTED, Planted, catch, survey};

#[cfg(feature = "planted-bugs")]
mod planted {
    use flagship_membership::PlantedBug;

    use crate::membership::plans;
    use crate::membership::run::{run, run_twice};
    use crate::membership::world::Record;

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
    pub const PLANTED: [Planted; 18] = [
        bug(PlantedBug::AccuserRaisesIncarnation, &[1], "silence"),
        bug(PlantedBug::OldRecordAccepted, &[2], "liar"),
        bug(PlantedBug::OwnWordSuffices, &[3], "bridge"),
        bug(PlantedBug::OthersAnswerMute, &[3, 4], "newcomer"),
        bug(PlantedBug::DeadObserversCount, &[5], "many"),
        bug(PlantedBug::DigestIgnored, &[6, 8], "churn"),
        bug(PlantedBug::LateRefutationLoses, &[7, 3], "bridge"),
        bug(PlantedBug::DownIsNotDialled, &[8], "partition"),
        bug(PlantedBug::LinksPileUp, &[9], "cold"),
        bug(PlantedBug::ReceiptProvesLife, &[10], "late"),
        bug(PlantedBug::PauseForgotten, &[11], "slow"),
        bug(PlantedBug::HashOrder, &[12], "silence"),
        bug(PlantedBug::ForeignRecordBelieved, &[13, 1], "liar"),
        bug(PlantedBug::LoneWordBelieved, &[13, 3], "liar"),
        bug(PlantedBug::SilenceFloorIgnored, &[3], "pair"),
        bug(PlantedBug::WindowNotRestarted, &[7, 3], "bridge"),
        bug(PlantedBug::AwayNeverEnds, &[5], "away"),
        bug(PlantedBug::EchoDelayIgnored, &[10], "late"),
    ];

    /// Which plans bring a bug out within so many seeds: plan, invariant, seeds it took.
    pub fn survey(planted: &Planted, seeds: u64) -> Vec<String> {
        let mut found = Vec::new();
        for kind in plans::KINDS {
            let any =
                Planted { invariants: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13], plan: kind.name, ..*planted };
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
                _ => run(&plan, seed, record).violations.into_iter().next(),
            };
            let Some(violation) = violation.filter(|found| planted.invariants.contains(&found.invariant))
            else {
                continue;
            };
            let clean = run(&plan, seed, Record::default()).violations.is_empty();
            if clean {
                let (invariant, text) = (violation.invariant, violation.text);
                return Some(Caught { seeds: seed - first + 1, seed, invariant, text });
            }
        }
        None
    }
}
