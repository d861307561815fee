//! One line for each fault, and what is wrong about it.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};

use flagship_e2e::auditor::Report;

use crate::fault::Fault;
use crate::lab::Promise;
use crate::probe::Dialled;
use crate::tell;

/// What the leader's status said before a fault.
#[derive(Debug)]
pub(crate) struct Before {
    /// The condition `SplitBrainProtected`, with its reason.
    pub(crate) protected: String,
    /// How long a failover takes at the most.
    pub(crate) announced: Duration,
}

/// What one fault did.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was said of it in advance.
    pub(crate) before: Before,
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
        let columns = columns(self.promise);
        let heads: Vec<_> = columns.iter().map(|(head, _)| *head).collect();
        writeln!(f, "| fault on sheffield, which leads | {} |", heads.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(columns.len()))?;
        for (name, row) in &self.rows {
            let cells: Vec<_> = columns.iter().map(|(_, cell)| cell(row)).collect();
            writeln!(f, "| {name} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// A head, and what a row has under it.
type Column = (&'static str, fn(&Row) -> String);

fn columns(promise: Promise) -> Vec<Column> {
    let leader: Column = ("leads meanwhile", |row| row.leader.clone());
    let created: Column = ("payload created elsewhere", |row| seconds(row.created));
    let announced: Column = ("announced at most", |row| format!("{} s", row.before.announced.as_secs()));
    let answered: Column = ("first answer there", |row| seconds(row.answered));
    let silence: Column = ("nobody answered", |row| seconds(Some(row.interruption)));
    let twice: Column = ("both answered: during, after", |row| {
        format!("{}, {}", seconds(Some(row.twice_during)), seconds(Some(row.twice_after)))
    });
    let overlap: Column = ("both had pods after", |row| seconds(Some(row.overlap_after)));
    let objects: Column = ("objects in two clusters", |row| row.audit.objects.to_string());
    let pods: Column = ("pods in two clusters", |row| row.audit.pods.to_string());
    let protected: Column = ("`SplitBrainProtected` before", |row| row.before.protected.clone());
    let dialled: Column = ("a dial to its daemon", |row| row.dialled.to_string());
    let after: Column = ("leads in the end", |row| row.leader_after.clone());
    match promise {
        Promise::Availability => vec![leader, created, answered, silence, twice, overlap, dialled, after],
        Promise::Quorum => {
            vec![protected, leader, created, announced, answered, silence, twice, objects, pods, after]
        }
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}
