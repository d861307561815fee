//! `flagship pki`: files for people to look at and manifests to apply, and what to do with them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use flagship_pki::{Authority, CertificateReport, PkiError, SecretSettings, Validity, Written};
use flagship_types::Callsign;
use jiff::Timestamp;

use crate::args::{IssueArgs, PkiAddArgs, PkiCommand, PkiInitArgs, PkiShowArgs};
use crate::exit::{Exit, Stop};
use crate::out::print;
use crate::style::{Style, Tone, printable};

impl From<PkiError> for Stop {
    fn from(error: PkiError) -> Self {
        let exit = match error {
            PkiError::NoAuthority { .. } => Exit::NotFound,
            _ => Exit::Failure,
        };
        Self::new(exit, error.to_string())
    }
}

pub(crate) fn run(command: &PkiCommand) -> Result<Exit, Stop> {
    match command {
        PkiCommand::Init(args) => init(args),
        PkiCommand::AddMember(args) => add(args),
        PkiCommand::Show(args) => show(args),
    }
}

fn secret(args: &IssueArgs) -> SecretSettings {
    SecretSettings { namespace: args.namespace.clone(), name: args.secret_name.clone() }
}

fn init(args: &PkiInitArgs) -> Result<Exit, Stop> {
    let now = SystemTime::now();
    let authority =
        Authority::create(args.trust_domain.clone(), args.fleet.clone(), Validity::AUTHORITY, now)?;
    let validity = Validity::days(args.issue.days)?;
    let written = flagship_pki::init(
        &authority,
        &args.members,
        validity,
        &secret(&args.issue),
        &args.out,
        args.issue.force,
    )?;
    print(&next_steps(&written, &args.out, &args.issue, Some(&args.fleet)))?;
    Ok(Exit::Success)
}

fn add(args: &PkiAddArgs) -> Result<Exit, Stop> {
    belongs_to(args)?;
    let validity = Validity::days(args.issue.days)?;
    let mut written = Written { members: Vec::new(), files: Vec::new() };
    for member in &args.members {
        let one =
            flagship_pki::add_member(&args.out, member, validity, &secret(&args.issue), args.issue.force);
        let one = one.map_err(|error| without_authority(error, &args.fleet))?;
        written.members.extend(one.members);
        written.files.extend(one.files);
    }
    print(&next_steps(&written, &args.out, &args.issue, None))?;
    Ok(Exit::Success)
}

/// Says which command makes an authority for this very fleet, which the library does not know.
fn without_authority(error: PkiError, fleet: &Callsign) -> Stop {
    match error {
        PkiError::NoAuthority { file, dir, member } => {
            let message = format!(
                "{} is missing: give the --out DIR that flagship pki init wrote for fleet {fleet}; only for a new fleet: flagship pki init --fleet {fleet} --member {member} --out {}",
                file.display(),
                dir.display()
            );
            Stop::new(Exit::NotFound, message)
        }
        other => other.into(),
    }
}

/// A certificate of the wrong fleet would be made without a word, and be refused by every peer.
fn belongs_to(args: &PkiAddArgs) -> Result<(), Stop> {
    let file = args.out.join("ca.crt");
    if !file.exists() {
        // The library says so, with the command that helps.
        return Ok(());
    }
    let suffix = format!("/fleet/{}", args.fleet);
    let reports = flagship_pki::show(&file, Timestamp::now())?;
    let uris: Vec<&str> = reports.iter().flat_map(|report| &report.uris).map(String::as_str).collect();
    if uris.is_empty() || uris.iter().any(|uri| uri.ends_with(&suffix)) {
        return Ok(());
    }
    Err(Stop::failure(format!(
        "{} is the authority of {}, not of fleet {}: give the --fleet it was made for, or another --out",
        file.display(),
        uris.join(", "),
        args.fleet
    )))
}

/// `made`: the fleet whose authority has just been made.
fn next_steps(written: &Written, dir: &Path, issue: &IssueArgs, made: Option<&Callsign>) -> String {
    let mut out = String::new();
    for file in &written.files {
        // Writing to a String does not fail.
        let _ = writeln!(out, "wrote {}", file.display());
    }
    let dir = dir.display();
    let _ = writeln!(out, "\nNext, in the cluster of each member:");
    for member in &written.members {
        let _ = writeln!(out, "  kubectl --context {member} apply -f {dir}/{member}/secret.yaml");
    }
    let _ = writeln!(
        out,
        "(the contexts are guessed from the names; the Secret {} goes to namespace {}; for a further fleet in the same \
         daemon give another --secret-name)",
        issue.secret_name, issue.namespace
    );
    if let Some(fleet) = made {
        let _ = writeln!(
            out,
            "\nKeep {dir}/ca.key safe and out of every cluster: whoever has it can join the fleet. For another member:\n  flagship pki add-member --fleet {fleet} --member NAME --out {dir}"
        );
    }
    out
}

fn show(args: &PkiShowArgs) -> Result<Exit, Stop> {
    if !args.path.exists() {
        let message = format!(
            "{} does not exist: give a certificate file, or a directory that flagship pki init wrote",
            args.path.display()
        );
        return Err(Stop::new(Exit::NotFound, message));
    }
    let reports = flagship_pki::show(&args.path, Timestamp::now())?;
    let style = Style::detect();
    let texts: Vec<String> = reports.iter().map(|report| describe(report, Timestamp::now(), style)).collect();
    print(&texts.join("\n"))?;
    let troubled = reports.iter().any(|report| !report.warnings.is_empty());
    Ok(if troubled { Exit::Failure } else { Exit::Success })
}

fn describe(report: &CertificateReport, now: Timestamp, style: Style) -> String {
    let mut out = String::new();
    let what = match (&report.identity, report.is_authority) {
        (Some(identity), _) => format!("member {} of fleet {}", identity.member, identity.callsign),
        (None, true) => "authority".into(),
        (None, false) => "certificate".into(),
    };
    let _ = writeln!(
        out,
        "{}",
        style.paint(Tone::Strong, &format!("{}: {}", report.path.display(), printable(&what)))
    );
    let days = (report.not_after.as_second() - now.as_second()).div_euclid(86_400);
    let _ = writeln!(out, "  subject      {}", printable(&report.subject));
    let _ = writeln!(out, "  issuer       {}", printable(&report.issuer));
    for uri in &report.uris {
        let _ = writeln!(out, "  identity     {}", printable(uri));
    }
    let _ = writeln!(out, "  valid from   {}", report.not_before);
    let _ = writeln!(out, "  valid until  {} ({days} days left)", report.not_after);
    let _ = writeln!(out, "  SHA-256      {}", report.fingerprint);
    for warning in &report.warnings {
        let _ = writeln!(out, "  {}  {}", style.paint(Tone::Bad, "WARNING"), printable(warning));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_names_the_fleet() {
        let fleet: Callsign = "federation".parse().unwrap();
        let issue = IssueArgs {
            namespace: "kube-vip".into(),
            secret_name: "flagship-tls-blue".into(),
            days: 365,
            force: false,
        };
        let written = Written { members: Vec::new(), files: Vec::new() };
        let next = next_steps(&written, Path::new("pki"), &issue, Some(&fleet));
        assert!(
            next.contains("flagship pki add-member --fleet federation --member NAME --out pki"),
            "{next}"
        );
        let (file, dir, member) = ("pki/ca.crt".into(), "pki".into(), "paris".parse().unwrap());
        let stop = without_authority(PkiError::NoAuthority { file, dir, member }, &fleet);
        assert_eq!(stop.exit, Exit::NotFound);
        let init = "flagship pki init --fleet federation --member paris --out pki";
        assert!(stop.message.contains("the --out DIR") && stop.message.contains(init), "{}", stop.message);
    }
}
