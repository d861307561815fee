//! What a check found, and how it is shown.

use std::fmt::Write as _;

use serde::Serialize;

use crate::exit::Exit;
use crate::style::{Style, Tone, counted, printable};

/// How a check came out. The order is the order of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should know.
    Warn,
    /// A failover would go wrong, or already does.
    Fail,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Topic {
    /// Whether the clusters can be asked.
    Clusters,
    /// Whether the objects of a fleet agree.
    Objects,
    /// Chain, identity, expiry.
    Certificates,
    /// Whether members reach each other.
    Links,
    /// Whether a majority is there.
    Voters,
    /// How far clocks are apart.
    Clocks,
    /// Whether the daemon may do what the payload needs.
    Rights,
}

impl Topic {
    fn as_str(self) -> &'static str {
        match self {
            Self::Clusters => "clusters",
            Self::Objects => "objects",
            Self::Certificates => "certificates",
            Self::Links => "links",
            Self::Voters => "voters",
            Self::Clocks => "clocks",
            Self::Rights => "rights",
        }
    }
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) topic: Topic,
    /// How it came out.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) message: String,
    /// What to do; there is one for every failure.
    pub(crate) hint: Option<String>,
}

impl Finding {
    pub(crate) fn ok(topic: Topic, message: impl Into<String>) -> Self {
        Self { topic, level: Level::Ok, message: message.into(), hint: None }
    }

    pub(crate) fn warn(topic: Topic, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { topic, level: Level::Warn, message: message.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn fail(topic: Topic, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { topic, level: Level::Fail, message: message.into(), hint: Some(hint.into()) }
    }
}

/// Everything that was found. The shape of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The results, by topic, in the order in which they were found.
    pub(crate) findings: Vec<Finding>,
    /// How many are as they should be.
    pub(crate) ok: usize,
    /// How many somebody should know.
    pub(crate) warnings: usize,
    /// How many are wrong.
    pub(crate) failures: usize,
}

impl Report {
    pub(crate) fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.topic);
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (ok, warnings, failures) = (count(Level::Ok), count(Level::Warn), count(Level::Fail));
        Self { findings, ok, warnings, failures }
    }

    pub(crate) fn exit(&self) -> Exit {
        if self.failures > 0 { Exit::Failure } else { Exit::Success }
    }

    pub(crate) fn render(&self, style: Style) -> String {
        let mut out = String::new();
        let mut topic = None;
        for finding in &self.findings {
            if topic != Some(finding.topic) {
                topic = Some(finding.topic);
                // Writing to a String does not fail.
                let _ = writeln!(out, "{}", style.paint(Tone::Strong, finding.topic.as_str()));
            }
            let mark = match finding.level {
                Level::Ok => style.paint(Tone::Good, "ok  "),
                Level::Warn => style.paint(Tone::Warning, "warn"),
                Level::Fail => style.paint(Tone::Bad, "FAIL"),
            };
            let _ = writeln!(out, "  {mark}  {}", printable(&finding.message));
            if let Some(hint) = &finding.hint {
                let _ = writeln!(out, "        -> {}", printable(hint));
            }
        }
        let (tone, verdict) = match (self.failures, self.warnings) {
            (0, 0) => (Tone::Good, "all is well"),
            (0, _) => (Tone::Warning, "a failover should succeed; read the warnings"),
            _ => (Tone::Bad, "a failover may go wrong"),
        };
        let counts =
            format!("{} ok, {}, {} failed: ", self.ok, counted(self.warnings, "warning"), self.failures);
        let _ = writeln!(out, "{counts}{}", style.paint(tone, verdict));
        out
    }
}
