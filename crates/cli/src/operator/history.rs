//! `flagship history`: what happened, from all objects that could be asked, in the order of time.

use jiff::Timestamp;
use serde::Serialize;

use flagship_k8s_api::LeadPhases;

use super::args::HistoryArgs;
use super::scene::Scene;
use crate::args::Output;
use crate::exit::{Exit, Stop};
use crate::liveness::age;
use crate::out::print;
use crate::style::{Cell, Style, table};

/// One thing that happened. The shape of `-o json` and `-o yaml`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// When.
    time: Timestamp,
    /// Who says so.
    member: String,
    /// What, in one word.
    #[serde(rename = "type")]
    kind: String,
    /// Under which term; 0 if under none.
    term: i64,
    /// Of a lead that began: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Of a lead that began: how long it took, counted from the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<LeadPhases>,
    /// A sentence.
    message: String,
}

pub(crate) async fn run(args: &HistoryArgs) -> Result<Exit, Stop> {
    let scene = Scene::look(&args.fleet.clusters, args.fleet.fleet.as_ref()).await?;
    let entries = entries(&scene, args.leads);
    let broken =
        |error: &dyn std::fmt::Display| Stop::failure(format!("the history cannot be written: {error}"));
    let now = Timestamp::now();
    let text = match args.output {
        Output::Table | Output::Wide => {
            render(&entries, now, args.output == Output::Wide || args.leads, Style::detect())
        }
        Output::Json => {
            serde_json::to_string_pretty(&entries).map(|text| text + "\n").map_err(|error| broken(&error))?
        }
        Output::Yaml => serde_saphyr::to_string(&entries).map_err(|error| broken(&error))?,
    };
    print(&text)?;
    for (context, reason) in &scene.unreachable {
        eprintln!("{context}: NOT ASKED: {reason}");
    }
    Ok(if scene.unreachable.is_empty() { Exit::Success } else { Exit::Unreachable })
}

fn entries(scene: &Scene, leads: bool) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for one in &scene.found {
        entries.extend(one.status.history.iter().filter(|entry| !leads || entry.phases.is_some()).map(
            |entry| Entry {
                time: entry.time.0,
                member: one.name.clone(),
                kind: entry.kind.clone(),
                term: entry.term,
                reason: entry.reason.clone(),
                phases: entry.phases,
                message: entry.message.clone(),
            },
        ));
    }
    entries.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.member.cmp(&b.member)));
    entries
}

fn render(entries: &[Entry], now: Timestamp, phases: bool, style: Style) -> String {
    if entries.is_empty() {
        return "nothing happened yet\n".into();
    }
    let mut head = vec!["TIME", "AGO", "MEMBER", "TERM", "WHAT", "WHY"];
    if phases {
        head.extend(["DETECTED", "STOPPED", "ELECTED", "CREATED", "READY"]);
    }
    head.push("MESSAGE");
    let rows: Vec<Vec<Cell>> = entries.iter().map(|entry| row(entry, now, phases)).collect();
    table(style, "", &head, &rows)
}

fn row(entry: &Entry, now: Timestamp, phases: bool) -> Vec<Cell> {
    let dash = || String::from("-");
    let mut cells: Vec<Cell> = vec![
        entry.time.strftime("%Y-%m-%d %H:%M:%SZ").to_string().into(),
        age(now, entry.time).into(),
        entry.member.clone().into(),
        if entry.term > 0 { entry.term.to_string() } else { dash() }.into(),
        entry.kind.clone().into(),
        entry.reason.clone().unwrap_or_else(dash).into(),
    ];
    if phases {
        let all = entry.phases.unwrap_or_default();
        let of = [
            all.detected_ms,
            all.predecessor_stopped_ms,
            all.elected_ms,
            all.payload_created_ms,
            all.payload_ready_ms,
        ];
        cells.extend(of.map(|ms| Cell::from(ms.map_or_else(dash, seconds))));
    }
    let message = match (phases, &entry.phases) {
        (true, Some(_)) => without_phases(&entry.message),
        _ => &entry.message,
    };
    cells.push(message.to_owned().into());
    cells
}

/// The sentence of a lead that began without its times, which have columns of their own.
fn without_phases(message: &str) -> &str {
    let starts = ["; detected after ", "; predecessor stopped after ", "; elected after "];
    let end = starts.iter().filter_map(|start| message.find(start)).min();
    end.map_or(message, |end| &message[..end])
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}s", ms / 1000, ms.unsigned_abs() % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_are_shown_with_their_phases() {
        let entry = |time: &str, kind: &str, reason: Option<&str>, phases| Entry {
            time: time.parse().unwrap(),
            member: "newyork".into(),
            kind: kind.into(),
            term: 7,
            reason: reason.map(Into::into),
            phases,
            message: "m".into(),
        };
        let phases = LeadPhases {
            detected_ms: Some(912),
            elected_ms: Some(1250),
            payload_created_ms: Some(1400),
            ..LeadPhases::default()
        };
        let entries = [
            entry("2026-03-01T02:59:00Z", "MemberDown", None, None),
            Entry {
                message: "newyork leads; detected after 912ms, elected after 1.2s".into(),
                ..entry("2026-03-01T02:59:01Z", "Elected", Some("Crash"), Some(phases))
            },
        ];
        let text = render(&entries, "2026-03-01T03:00:00Z".parse().unwrap(), true, Style::PLAIN);
        let expected = "\
TIME                  AGO  MEMBER   TERM  WHAT        WHY    DETECTED  STOPPED  ELECTED  CREATED  READY  MESSAGE
2026-03-01 02:59:00Z  1m   newyork  7     MemberDown  -      -         -        -        -        -      m
2026-03-01 02:59:01Z  59s  newyork  7     Elected     Crash  0.912s    -        1.250s   1.400s   -      newyork leads
";
        assert_eq!(text, expected);
        let json = serde_json::to_value(&entries).unwrap();
        assert_eq!(json[1]["phases"]["detectedMs"], 912);
        assert_eq!(json[0].get("phases"), None);
    }
}
