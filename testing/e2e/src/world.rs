//! One test's fleet.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::daemon::Flagship;
use clusters::fleet::{Fleet, Layout, Member, Plan, two_members};
use clusters::harness::Harness;
use clusters::network::Mode;
use clusters::watch::State;
use serde_json::Value;
use tempfile::TempDir;

use crate::auditor::{Auditor, FleetOf, Report, Verdict};

/// Nothing in the protocol takes longer than this on a loaded machine, unless a test says so.
const SETTLE: Duration = Duration::from_secs(60);
/// The end of a daemon's log that a failed test shows.
const LOG_TAIL_LINES: usize = 60;

/// A fleet for one test, in namespaces of its own. Everything ends with it.
pub struct World {
    /// Members in the order of the plans.
    pub fleet: Fleet,
    /// When the test began.
    pub began: Instant,
    /// What was alive where.
    pub auditor: Auditor,
    expected: Mutex<(Expect, FleetOf)>,
    harness: Harness,
    // Last, so that the processes have ended before their files go.
    _dir: TempDir,
}

/// What must not change when nothing is to be disturbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of the payload's Deployment.
    pub uid: String,
    /// Of the payload's Deployment.
    pub generation: i64,
}

/// What a test expects of the time that two clusters have the payload at once, over the whole test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// None: no object and no pod. Every test, unless it says otherwise.
    NoOverlap,
    /// Some, for this reason: a test that says so without need fails, too.
    Overlap(&'static str),
    /// Depends on chance, for this reason.
    Either(&'static str),
}

/// Runs a test on a fleet of these members, inside of namespaces. `name` is the test's name. A failure shows the end
/// of each daemon's log.
pub fn e2e(name: &str, plans: Result<impl Into<Layout>>, body: impl AsyncFnOnce(&World) -> Result<()>) {
    run(name, Flagship::find, plans.map(Into::into), body);
}

/// As [`e2e`], on a fleet of the previous build's daemons in clusters with the previous build's manifests.
///
/// # Panics
/// If there is no previous build and none can be made: such a test is never skipped.
pub fn e2e_from_previous(name: &str, plans: Result<Vec<Plan>>, body: impl AsyncFnOnce(&World) -> Result<()>) {
    // Outside of the namespaces, where there is a network, this builds it; inside, it is there.
    let previous = Flagship::previous();
    if let Err(error) = &previous {
        panic!("{error:?}");
    }
    run(name, || previous, plans.map(Into::into), body);
}

fn run(
    name: &str,
    flagship: impl FnOnce() -> Result<Flagship>,
    layout: Result<Layout>,
    body: impl AsyncFnOnce(&World) -> Result<()>,
) {
    clusters::isolate::test(name, async move || {
        let world = World::start(&flagship()?, layout?).await?;
        let result = body(&world).await.and_then(|()| world.judge());
        let result = result.with_context(|| world.fleet.log_tails(LOG_TAIL_LINES));
        world.end().await?;
        result
    });
}

impl World {
    /// Starts clusters and daemons. No MultiCluster is applied yet.
    async fn start(flagship: &Flagship, layout: Layout) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("fs-").tempdir().context("make a directory for the test")?;
        let harness = Harness::open(dir.path(), Mode::Namespaces)?;
        let fleet = Fleet::start(&harness, flagship, layout).await?;
        let auditor = Auditor::start(fleet.members.iter().map(|member| &member.cluster)).await?;
        let expected = Mutex::new((Expect::NoOverlap, one_fleet as FleetOf));
        Ok(Self { fleet, began: Instant::now(), auditor, expected, harness, _dir: dir })
    }

    /// Says what the auditor has to find at the end of the test.
    pub fn expect(&self, expect: Expect) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).0 = expect;
    }

    /// Says that there are several fleets, and how the label of a payload object shows which one it is of.
    pub fn tell_fleets_apart(&self, fleet_of: FleetOf) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).1 = fleet_of;
    }

    /// Holds what was alive where against what the test expects.
    fn judge(&self) -> Result<()> {
        let (expect, fleet_of) = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let fleets = self.auditor.fleets(fleet_of);
        if let Expect::Overlap(why) = expect {
            ensure!(
                !fleets.is_empty(),
                "the auditor saw no payload at all, and should in two clusters ({why})"
            );
        }
        for fleet in fleets {
            let report = self.auditor.report_of(self.began, fleet_of, &fleet);
            eprintln!("auditor: {report}");
            match (expect, report.anything) {
                (Expect::NoOverlap, Verdict::Never)
                | (Expect::Overlap(_), Verdict::For(_))
                | (Expect::Either(_), _) => {}
                (Expect::NoOverlap, _) => {
                    anyhow::bail!("the payload must never be in two clusters at once; {report}")
                }
                (Expect::Overlap(why), _) => {
                    anyhow::bail!("the payload was expected in two clusters at once ({why}); {report}")
                }
            }
        }
        Ok(())
    }

    async fn end(self) -> Result<()> {
        self.fleet.remove(&self.harness).await
    }

    /// The plans of newyork and sheffield.
    pub fn two() -> Result<Vec<Plan>> {
        two_members()
    }

    /// The kubeconfig with a context for each cluster.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        self.harness.kubeconfig()
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> &Member {
        self.fleet.member(name).expect("the test planned this member")
    }

    /// Applies newyork and sheffield one after the other; sheffield has taken over by its rank when this returns.
    pub async fn settle(&self) -> Result<(&Member, &Member)> {
        let (newyork, sheffield) = (self.member("newyork"), self.member("sheffield"));
        newyork.apply().await?;
        newyork.wait_leading(SETTLE).await?;
        sheffield.apply().await?;
        sheffield.wait_leading(SETTLE).await?;
        newyork.wait_gone(SETTLE).await?;
        Ok((newyork, sheffield))
    }

    /// Waits until the auditor sees the payload in one cluster at most, and returns when: from then on nothing may
    /// overlap. Another watch may have seen the end of the other payload a moment before the auditor does.
    pub async fn alone(&self, limit: Duration) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            if self.auditor.clusters_with_payload() <= 1 {
                return Ok(Instant::now());
            }
            ensure!(Instant::now() < deadline, "two clusters still have the payload after {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What was alive where since `since`, in a world of one fleet.
    pub fn audit(&self, since: Instant) -> Report {
        self.auditor.report(since)
    }

    /// Fails if two clusters had anything of the payload at once since `since`, or if that is not known.
    pub fn no_overlap(&self, since: Instant) -> Result<()> {
        let report = self.audit(since);
        ensure!(report.anything == Verdict::Never, "two clusters had something of the payload: {report}");
        Ok(())
    }

    /// Uid and generation of the payload's Deployment at a member that has it.
    pub fn facts(&self, member: &str) -> Result<Facts> {
        let state = self.member(member).state();
        let (uid, deployment) = state.deployment().with_context(|| format!("{member} has no Deployment"))?;
        Ok(Facts { uid: uid.to_owned(), generation: deployment.generation })
    }

    /// Lets `duration` pass in which the payload must stay at `member` as it is, and come up nowhere else.
    pub async fn nothing_moves(&self, member: &str, facts: &Facts, duration: Duration) -> Result<()> {
        let since = Instant::now();
        self.nothing_moves_of(member, facts, duration).await?;
        for other in self.fleet.members.iter().filter(|other| other.name() != member) {
            let state = other.state();
            ensure!(!payload_since(&state, since), "the payload came up at {}", other.name());
        }
        Ok(())
    }

    /// Lets `duration` pass in which the payload must stay at `member` as it is.
    pub async fn nothing_moves_of(&self, member: &str, facts: &Facts, duration: Duration) -> Result<()> {
        // That nothing happens can only be seen by waiting.
        tokio::time::sleep(duration).await;
        ensure!(self.facts(member)? == *facts, "the payload at {member} changed: {:?}", self.facts(member));
        Ok(())
    }

    /// Waits until exactly one member has the payload and says that it leads; returns its name.
    pub async fn one_active(&self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let states: Vec<_> = self.fleet.members.iter().map(|member| (member, member.state())).collect();
            let active: Vec<_> =
                states.iter().filter(|(_, state)| state.present()).map(|(m, _)| m.name()).collect();
            let leading: Vec<_> = states
                .iter()
                .filter(|(m, state)| *state.status(m.name(), "leading") == Value::Bool(true))
                .map(|(m, _)| m.name())
                .collect();
            if active.len() == 1 && active == leading {
                return Ok(active[0].to_owned());
            }
            ensure!(Instant::now() < deadline, "active {active:?}, leading {leading:?} after {limit:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a condition of the member's status has this status and its message (or reason) holds this text.
    pub async fn condition(&self, member: &str, kind: &str, status: &str, text: &str) -> Result<()> {
        let what = format!("condition {kind}={status} with {text:?}");
        let holds = |state: &State| {
            let conditions = state.status(member, "conditions").as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| {
                let says = |field: &str| c[field].as_str().is_some_and(|said| said.contains(text));
                c["type"] == kind && c["status"] == status && (says("message") || says("reason"))
            })
        };
        self.member(member).watch.wait(&what, SETTLE, holds).await.map(drop)
    }
}

fn one_fleet(_: &str) -> &str {
    ""
}

/// Whether anything of the payload was there at or after that time.
pub fn payload_since(state: &State, since: Instant) -> bool {
    state.presences.iter().any(|presence| presence.to.is_none_or(|to| to >= since))
}
