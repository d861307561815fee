//! One line for each fault, and what is wrong about it.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};

use flagship_e2e::auditor::Report;

use crate::fault::Fault;
use crate::lab::Promise;
use crate::probe::Dialled;
use crate::tell;

/// What one fault did.
#[derive(Debug)]
pub(crate) struct Row {
    /// Who led while the fault lasted, as far as anybody could ask.
    pub(crate) leader: String,
    /// From the fault to the payload's Deployment on the other cluster's API server; `None`: it never came there.
    pub(crate) created: Option<Duration>,
    /// From the fault to the first HTTP answer of the other cluster's payload.
    pub(crate) answered: Option<Duration>,
    /// The longest time in which neither cluster's payload answered.
    pub(crate) interruption: Duration,
    /// For how long both clusters' payloads answered while the fault lasted.
    pub(crate) twice_during: Duration,
    /// The same from the fault's end on.
    pub(crate) twice_after: Duration,
    /// For how long both API servers had something of the payload, from the fault's end on.
    pub(crate) overlap_after: Duration,
    /// Which objects and pods were in two clusters at once, from the fault to the end.
    pub(crate) audit: Report,
    /// What a dial to the struck cluster's daemon met while the fault lasted.
    pub(crate) dialled: Dialled,
    /// Who led in the end.
    pub(crate) leader_after: String,
}

/// All lines, and the faults that did not go as they must.
#[derive(Debug)]
pub(crate) struct Table {
    promise: Promise,
    rows: Vec<(&'static str, Row)>,
    failures: Vec<String>,
}

impl Table {
    pub(crate) fn new(promise: Promise) -> Self {
        Self { promise, rows: Vec::new(), failures: Vec::new() }
    }

    /// Adds what a fault did, or why that is not known.
    pub(crate) fn add(&mut self, fault: Fault, row: Result<Row>) {
        let name = fault.name();
        match row {
            Ok(row) => {
                self.failures.extend(
                    fault.objections(self.promise, &row).into_iter().map(|what| format!("{name}: {what}")),
                );
                tell(&format!("{row:?}"));
                self.rows.push((name, row));
            }
            Err(error) => {
                tell(&format!("FAILED: {error:?}"));
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// An error with everything that did not go as it must.
    pub(crate) fn verdict(&self) -> Result<()> {
        if !self.failures.is_empty() {
            bail!("{}", self.failures.join("\n"));
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault on sheffield, which leads | leads meanwhile | payload created elsewhere | first answer there | nobody answered | both answered: during, after | both had pods after | objects, pods in two clusters | a dial to its daemon | leads in the end |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|")?;
        for (name, row) in &self.rows {
            writeln!(
                f,
                "| {name} | {} | {} | {} | {} | {}, {} | {} | {}, {} | {} | {} |",
                row.leader,
                seconds(row.created),
                seconds(row.answered),
                seconds(Some(row.interruption)),
                seconds(Some(row.twice_during)),
                seconds(Some(row.twice_after)),
                seconds(Some(row.overlap_after)),
                row.audit.objects,
                row.audit.pods,
                row.dialled,
                row.leader_after
            )?;
        }
        Ok(())
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}
