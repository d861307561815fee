//! The reference page of the command line, made from the definitions that clap parses with.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::args::Cli;

/// `docs/reference/cli.md`, checked for drift by a test.
pub fn cli_reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut page = String::from(
        "# Command line\n\n\
         <!-- Generated from crates/cli/src/args.rs: UPDATE_DOCS=1 cargo test -p flagship-cli -->\n\n\
         Installed as `kubectl-vip_multicluster`, every command is also `kubectl vip-multicluster …`.\n\n",
    );
    // Writing to a String does not fail.
    let _ = writeln!(page, "```text\n{}\n```", crate::exit::HELP);
    for command in root.get_subcommands() {
        describe(&mut page, command, "flagship");
    }
    page
}

fn describe(page: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(page, "\n## {name}\n\n{about}.");
    let args: Vec<&Arg> =
        command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")).collect();
    if !args.is_empty() {
        page.push_str("\n| argument | environment | default | meaning |\n|---|---|---|---|\n");
    }
    for arg in args {
        let environment =
            arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if arg.get_action().takes_values() {
            let values: Vec<String> =
                arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
            if !values.is_empty() {
                let _ = write!(meaning, ": {}", values.join(", "));
            }
        }
        let _ = writeln!(
            page,
            "| {} | {environment} | {} | {} |",
            spelling(arg),
            default(arg),
            meaning.replace('|', "\\|")
        );
    }
    for sub in command.get_subcommands() {
        describe(page, sub, &name);
    }
}

fn default(arg: &Arg) -> String {
    let takes = arg.get_action().takes_values();
    let values = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy()));
    if takes { values.collect::<Vec<_>>().join(", ") } else { String::new() }
}

fn spelling(arg: &Arg) -> String {
    let names: Vec<String> = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(|name| name.as_str().replace('|', "\\|"))
        .collect();
    let value = names.join(" ");
    if arg.is_positional() {
        return format!("`{value}`");
    }
    let mut spelling = String::new();
    if let Some(short) = arg.get_short() {
        let _ = write!(spelling, "`-{short}`, ");
    }
    let long = arg.get_long().unwrap_or_default();
    let value = if arg.get_action().takes_values() && !value.is_empty() {
        format!(" {value}")
    } else {
        String::new()
    };
    let required = if arg.is_required_set() { " (required)" } else { "" };
    let again = if matches!(arg.get_action(), ArgAction::Append) { " (repeatable)" } else { "" };
    let _ = write!(spelling, "`--{long}{value}`{required}{again}");
    spelling
}
