//! The table of `flagship status`: who leads in the first line of each fleet, what is wrong right under its members.

use std::fmt::Write as _;
use std::time::Duration;

use flagship_types::format_duration;
use jiff::Timestamp;

use super::view::{FleetView, MemberView, StatusView};
use crate::style::{Cell, Style, Tone, printable, table};

/// The longest message in a line; the whole one is in `-o yaml` and in `kubectl describe`.
const MAX_MESSAGE_CHARS: usize = 160;

/// Writes the view for people.
pub(crate) fn render(view: &StatusView, now: Timestamp, wide: bool, style: Style) -> String {
    let blocks: Vec<String> = view.fleets.iter().map(|fleet| block(fleet, now, wide, style)).collect();
    let mut out = blocks.join("\n");
    if !view.unreachable.is_empty() || !view.empty.is_empty() {
        if !out.is_empty() {
            out.push('\n');
        }
        for cluster in &view.unreachable {
            let context = style.paint(Tone::Bad, &format!("{}: UNREACHABLE", printable(&cluster.context)));
            // Writing to a String does not fail.
            let _ = writeln!(out, "{context}  {}", printable(&cluster.reason));
        }
        for context in &view.empty {
            let _ = writeln!(
                out,
                "{}: no MultiClusters here (look in all namespaces with -A)",
                printable(context)
            );
        }
    }
    out
}

fn block(fleet: &FleetView, now: Timestamp, wide: bool, style: Style) -> String {
    let mut out = heading(fleet, now, style);
    for alarm in &fleet.alarms {
        let _ = writeln!(out, "{}", style.paint(Tone::Bad, &format!("!! {}", printable(alarm))));
    }
    let mut head =
        vec!["", "MEMBER", "CONTEXT", "ROLE", "RANK", "READY", "PAYLOAD", "SEEN", "API", "ADDRESS"];
    if wide {
        head.extend(["NAMESPACE", "TERM", "FOLLOWS", "HOLDER"]);
    }
    let rows: Vec<Vec<Cell>> = fleet.members.iter().map(|member| row(fleet, member, now, wide)).collect();
    out.push_str(&table(style, "", &head, &rows));
    for member in &fleet.members {
        for condition in &member.conditions {
            let tone = if condition.kind == "Reconciling" { Tone::Warning } else { Tone::Bad };
            let what =
                format!("{} {}={} {}", member.member, condition.kind, condition.status, condition.reason);
            let _ = writeln!(out, "  {}: {}", style.paint(tone, &printable(&what)), cut(&condition.message));
        }
    }
    if !fleet.history.is_empty() {
        let _ = writeln!(out, "  {}", style.paint(Tone::Faint, "lately:"));
    }
    for entry in &fleet.history {
        let clock = entry.time.strftime("%H:%M:%SZ");
        let line = format!("{clock}  {} ago", age(now, entry.time));
        let kind = printable(&entry.kind);
        let _ = writeln!(
            out,
            "  {}  {}  {}  {}",
            style.paint(Tone::Faint, &format!("{line:<20}")),
            printable(&entry.member),
            style.paint(Tone::Strong, &kind),
            cut(&entry.message)
        );
    }
    out
}

fn heading(fleet: &FleetView, now: Timestamp, style: Style) -> String {
    let name = style.paint(Tone::Strong, &format!("Fleet {}", printable(&fleet.callsign)));
    let leads = match (fleet.leaders.as_slice(), &fleet.followed) {
        ([], Some(followed)) => {
            let text = format!("leader {} (its cluster was not asked)", printable(followed));
            style.paint(Tone::Warning, &text)
        }
        ([], None) => style.paint(Tone::Bad, "NO LEADER"),
        ([leader], _) => {
            let since = leader.since.map(|since| format!(" for {}", age(now, since))).unwrap_or_default();
            style.paint(Tone::Good, &format!("leader {}{since}", printable(&leader.member)))
        }
        (several, _) => style.paint(Tone::Bad, &format!("{} LEADERS", several.len())),
    };
    let alive = fleet.members.iter().filter(|member| is_alive(member)).count();
    format!("{name}   {leads}   term {}   {alive}/{} members alive\n", fleet.term, fleet.members.len())
}

/// Alive as far as anybody can tell: others say so, or there are no others and it has a status.
fn is_alive(member: &MemberView) -> bool {
    match &member.seen {
        Some(seen) => seen.state == "Alive",
        None => member.role.is_some(),
    }
}

fn row(fleet: &FleetView, member: &MemberView, now: Timestamp, wide: bool) -> Vec<Cell> {
    let leads = fleet.leaders.iter().any(|leader| leader.member == member.member);
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
    let role_tone = match member.role.as_deref() {
        Some("Leader") => Tone::Good,
        Some("Stopping" | "Candidate" | "Joining") => Tone::Warning,
        _ => Tone::Plain,
    };
    let ready = match member.ready {
        Some(true) => Cell::new(Tone::Good, "yes"),
        Some(false) => Cell::new(Tone::Bad, "NO"),
        None => "-".into(),
    };
    let payload = match member.payload {
        Some(payload) if payload.ready < payload.total => {
            Cell::new(Tone::Warning, format!("{}/{}", payload.ready, payload.total))
        }
        Some(payload) => format!("{}/{}", payload.ready, payload.total).into(),
        None => "-".into(),
    };
    let seen = member.seen.as_ref().map_or_else(
        || Cell::from("-"),
        |seen| {
            let tone = match seen.state.as_str() {
                "Alive" => Tone::Plain,
                "Down" => Tone::Bad,
                _ => Tone::Warning,
            };
            let since = seen.since.map(|since| format!(" {}", age(now, since))).unwrap_or_default();
            Cell::new(tone, format!("{}{since}", seen.state))
        },
    );
    let api = match member.context {
        Some(_) => Cell::new(Tone::Plain, "ok"),
        None => Cell::new(Tone::Warning, "not asked"),
    };
    let mark = if leads { Cell::new(Tone::Good, "*") } else { " ".into() };
    let name_tone = if leads { Tone::Strong } else { Tone::Plain };
    let mut cells = vec![
        mark,
        Cell::new(name_tone, member.member.clone()),
        or_dash(member.context.clone()).into(),
        Cell::new(role_tone, or_dash(member.role.clone())),
        or_dash(member.rank.map(|rank| rank.to_string())).into(),
        ready,
        payload,
        seen,
        api,
        or_dash(member.address.clone()).into(),
    ];
    if wide {
        cells.push(or_dash(member.namespace.clone()).into());
        cells.push(or_dash(member.term.map(|term| term.to_string())).into());
        cells.push(or_dash(member.leader.clone()).into());
        cells.push(or_dash(member.holder.clone()).into());
    }
    cells
}

/// Whole seconds: in a table that is drawn anew every second, tenths only flicker.
fn age(now: Timestamp, since: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(since.as_second());
    match u64::try_from(seconds).unwrap_or_default() {
        0 => "0s".into(),
        seconds => format_duration(Duration::from_secs(seconds)),
    }
}

fn cut(message: &str) -> String {
    let message = printable(message);
    if message.chars().count() <= MAX_MESSAGE_CHARS {
        return message;
    }
    let kept: String = message.chars().take(MAX_MESSAGE_CHARS - 1).collect();
    format!("{kept}…")
}
