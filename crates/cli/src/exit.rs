//! Exit codes. Scripts rely on them: a number keeps its meaning for ever.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done, and nothing to complain about.
    Success,
    /// A check failed, or the command could not be carried out.
    Failure,
    /// The command line was wrong. Nothing was done.
    Usage,
    /// At least one of the clusters could not be asked; what could be is printed.
    Unreachable,
    /// What the command is about does not exist.
    NotFound,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Shown under `flagship --help` and on the reference page.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done, and nothing to complain about
  1  a check failed, or the command could not be carried out
  2  the command line was wrong; nothing was done
  3  at least one of the clusters could not be asked; what could be is printed
  4  what the command is about does not exist";

/// Why a command stopped, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Stop {
    /// How the process ends.
    pub exit: Exit,
    /// What happened and what to do next.
    pub message: String,
}

impl Stop {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }
}
