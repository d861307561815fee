//! Every fault on every kind of fleet: who leads, for how long nobody did, and whether the payload was in two clusters
//! at once. What comes out is `docs/failure-matrix.md`; an outcome that differs from it fails the test.
//!
//! `UPDATE_MATRIX=1 cargo test -p flagship-e2e --features matrix --test matrix` writes the outcomes and the times of this run into it.
//! `MATRIX_ROWS=LeaderKilled,LeaderCut` runs only these rows, and then writes nothing.

mod document;
mod fault;
mod run;

use anyhow::{Context, Result};
use clusters::fleet::{Layout, three_members, two_members};
use clusters::witness::WitnessPlan;
use flagship_e2e::{Expect, World, e2e};

use document::Document;
use fault::Fault;
use run::Outcome;

/// The fleets of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Two,
    TwoAndWitness,
    Three,
    /// With two replicas of the daemon in the leader's cluster.
    TwoAndWitnessReplicas,
    /// With two replicas of the daemon in the leader's cluster.
    ThreeReplicas,
}

impl Kind {
    /// Names the section of the document.
    fn section(self) -> &'static str {
        match self {
            Self::Two => "two-availability",
            Self::TwoAndWitness => "two-and-witness-quorum",
            Self::Three => "three-quorum",
            Self::TwoAndWitnessReplicas => "two-and-witness-quorum-replicas",
            Self::ThreeReplicas => "three-quorum-replicas",
        }
    }

    pub(crate) fn quorum(self) -> bool {
        self != Self::Two
    }

    pub(crate) fn has_replicas(self) -> bool {
        matches!(self, Self::TwoAndWitnessReplicas | Self::ThreeReplicas)
    }

    /// Status and reason of the leader's condition `SplitBrainProtected` when all is well.
    pub(crate) fn protected(self) -> [&'static str; 2] {
        match (self.quorum(), self.has_replicas()) {
            (false, _) => ["False", "Availability"],
            (true, false) => ["False", "OneReplica"],
            (true, true) => ["True", "SecondReplica"],
        }
    }

    fn layout(self) -> Result<Layout> {
        let three = matches!(self, Self::Three | Self::ThreeReplicas);
        let mut plans = if three { three_members()? } else { two_members()? };
        if let Some(leader) = plans.last_mut().filter(|_| self.has_replicas()) {
            leader.replicas = 2;
        }
        let witness = (self.quorum() && !three).then(WitnessPlan::new);
        // Rows in which an API server restarts would have no answer otherwise.
        let layout = Layout { witness, exact_watches: true, ..Layout::from(plans) };
        let mut layout = if self.quorum() { layout.in_quorum() } else { layout };
        if self.has_replicas() {
            // The default lease: whether the second replica comes before the voters are free is what is asked here.
            for election in
                layout.plans.iter_mut().filter_map(|plan| plan.object["spec"]["election"].as_object_mut())
            {
                election.remove("leaseDuration");
                election.remove("stopGrace");
            }
        }
        Ok(layout)
    }
}

fn matrix(name: &str, kind: Kind) {
    e2e(name, kind.layout(), async |world| {
        world.expect(Expect::Either("each row says what it expects"));
        let chosen = std::env::var("MATRIX_ROWS").ok();
        let is_chosen = |fault: &Fault| {
            chosen.as_ref().is_none_or(|chosen| chosen.split(',').any(|one| one == format!("{fault:?}")))
        };
        run::found(world, kind).await?;
        let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
        for fault in Fault::of(kind).into_iter().filter(is_chosen) {
            match run::row(world, kind, fault).await {
                Ok(outcome) => {
                    eprintln!("{fault:?}: {outcome:?}");
                    failed.extend(outcome.wrong(kind, fault));
                    outcomes.push((fault, outcome));
                }
                Err(error) => {
                    eprintln!("{fault:?}: {error:?}");
                    failed.push(format!("{fault:?}: {error:#}"));
                    run::mend_everything(world, kind)
                        .await
                        .with_context(|| format!("after {fault:?} failed: {error:#}"))?;
                }
            }
        }
        if chosen.is_none() {
            failed.extend(hold(kind, &outcomes)?);
        }
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    });
}

/// Holds the outcomes against the document, or writes them.
fn hold(kind: Kind, outcomes: &[(Fault, Outcome)]) -> Result<Vec<String>> {
    let rows: Vec<_> = outcomes.iter().map(|(fault, outcome)| outcome.row(kind, *fault)).collect();
    let document = Document::open()?;
    if std::env::var_os("UPDATE_MATRIX").is_some() {
        document.write(kind.section(), &rows)?;
        return Ok(Vec::new());
    }
    Ok(document.drift(kind.section(), &rows))
}

#[test]
fn two_members_in_availability() {
    matrix("two_members_in_availability", Kind::Two);
}

#[test]
fn two_members_and_a_witness_in_quorum() {
    matrix("two_members_and_a_witness_in_quorum", Kind::TwoAndWitness);
}

#[test]
fn three_members_in_quorum() {
    matrix("three_members_in_quorum", Kind::Three);
}

#[test]
fn two_members_and_a_witness_in_quorum_with_two_replicas() {
    matrix("two_members_and_a_witness_in_quorum_with_two_replicas", Kind::TwoAndWitnessReplicas);
}

#[test]
fn three_members_in_quorum_with_two_replicas() {
    matrix("three_members_in_quorum_with_two_replicas", Kind::ThreeReplicas);
}

/// The best of a fleet, who leads when all is well, and the next best.
pub(crate) fn best_two(world: &World) -> (&str, &str) {
    let members = &world.fleet.members;
    // The plans are in the order of rank.
    (members[members.len() - 1].name(), members[members.len() - 2].name())
}
