//! The table of `flagship status`: who leads in the first line of each fleet, what is wrong right under its members.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::view::{ConditionView, FleetView, HistoryView, LedLastView, MILD, MemberView, StatusView};
use crate::liveness::age;
use crate::style::{Cell, Style, Tone, counted, printable, table, wrap};

/// Where long messages are broken: what most terminals have, and a little less than the table often takes.
const WIDTH: usize = 110;
/// Where a broken message goes on.
const INDENT: usize = 6;

/// Writes the view for people.
pub(crate) fn render(view: &StatusView, now: Timestamp, wide: bool, style: Style) -> String {
    let blocks: Vec<String> = view.fleets.iter().map(|fleet| block(fleet, now, wide, style)).collect();
    let mut out = blocks.join("\n");
    if !view.unreachable.is_empty() || !view.empty.is_empty() {
        if !out.is_empty() {
            out.push('\n');
        }
        for cluster in &view.unreachable {
            let context = format!("{}: UNREACHABLE", printable(&cluster.context));
            let reason = wrap(&cluster.reason, context.chars().count() + 2, INDENT, WIDTH);
            // Writing to a String does not fail.
            let _ = writeln!(out, "{}  {reason}", style.paint(Tone::Bad, &context));
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
        let _ = writeln!(out, "{}", style.paint(Tone::Bad, &format!("!! {}", wrap(alarm, 3, 3, WIDTH))));
    }
    let mut head =
        vec!["", "MEMBER", "CONTEXT", "ROLE", "RANK", "READY", "PAYLOAD", "SEEN", "API", "ADDRESS"];
    if wide {
        head.extend(["NAMESPACE", "TERM", "FOLLOWS", "HOLDER", "WORST FAILOVER"]);
    }
    let rows: Vec<Vec<Cell>> = fleet.members.iter().map(|member| row(fleet, member, now, wide)).collect();
    out.push_str(&table(style, "", &head, &rows));
    let mut said = BTreeSet::new();
    for member in fleet.members.iter().filter(|member| !member.daemon_down) {
        conditions(&mut out, member, &mut said, style);
    }
    lately(&mut out, fleet, &mut said, now, style);
    out
}

/// What is wrong with a member. Several conditions often say one thing: it is printed once, under all their names.
fn conditions<'a>(out: &mut String, member: &'a MemberView, said: &mut BTreeSet<&'a str>, style: Style) {
    for (at, condition) in member.conditions.iter().enumerate() {
        let same = |other: &&ConditionView| other.message == condition.message;
        if member.conditions[..at].iter().any(|other| same(&other)) {
            continue;
        }
        let alike: Vec<&ConditionView> = member.conditions[at..].iter().filter(same).collect();
        let names: Vec<String> = alike.iter().map(|one| format!("{}={}", one.kind, one.status)).collect();
        let mut reasons: Vec<&str> = alike.iter().map(|one| one.reason.as_str()).collect();
        reasons.dedup();
        let milder = alike.iter().any(|one| one.kind == "Reconciling" || MILD.contains(&one.reason.as_str()));
        let tone = if milder { Tone::Warning } else { Tone::Bad };
        let what = printable(&format!("{} {} {}", member.member, names.join(" "), reasons.join(" ")));
        let message = match said.insert(&condition.message) {
            true => wrap(&condition.message, what.chars().count() + 4, INDENT, WIDTH),
            false => "(as above)".into(),
        };
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {}: {message}", style.paint(tone, &what));
    }
}

/// The history, in columns.
fn lately<'a>(
    out: &mut String,
    fleet: &'a FleetView,
    said: &mut BTreeSet<&'a str>,
    now: Timestamp,
    style: Style,
) {
    if fleet.history.is_empty() {
        return;
    }
    // Writing to a String does not fail.
    let _ = writeln!(out, "  {}", style.paint(Tone::Faint, "lately:"));
    let widest = |text: fn(&HistoryView) -> &str| {
        fleet.history.iter().map(|entry| printable(text(entry)).chars().count()).max().unwrap_or_default()
    };
    let (names, kinds) = (widest(|entry| &entry.member), widest(|entry| &entry.kind));
    for entry in &fleet.history {
        let clock = entry.time.strftime("%H:%M:%SZ");
        let line = format!("{clock}  {} ago", age(now, entry.time));
        let line = style.paint(Tone::Faint, &format!("{line:<20}"));
        let name = printable(&entry.member);
        let kind = printable(&entry.kind);
        let padding = kinds - kind.chars().count();
        let kind = style.paint(Tone::Strong, &kind);
        let message = match said.insert(&entry.message) || entry.message.is_empty() {
            true => wrap(&entry.message, 28 + names + kinds, 2 * INDENT, WIDTH),
            false => "(as above)".into(),
        };
        let text = format!("  {line}  {name:<names$}  {kind}{:padding$}  {message}", "");
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

fn heading(fleet: &FleetView, now: Timestamp, style: Style) -> String {
    let name = style.paint(Tone::Strong, &format!("Fleet {}", printable(&fleet.callsign)));
    let leads = match (fleet.leaders.as_slice(), &fleet.followed) {
        ([], Some(followed)) => {
            let text = format!("leader {} (its cluster was not asked)", printable(followed));
            style.paint(Tone::Warning, &text)
        }
        ([], None) => {
            let may_lead = |last: &LedLastView| {
                fleet.members.iter().any(|member| member.may_lead && member.member == last.member)
            };
            match &fleet.led_last {
                None => style.paint(Tone::Bad, "NO LEADER"),
                Some(last) if may_lead(last) => style.paint(
                    Tone::Bad,
                    &format!("NO LEADER KNOWN   {} led last and may still lead", printable(&last.member)),
                ),
                Some(last) => format!("{}   {}", style.paint(Tone::Bad, "NO LEADER"), led_last(last)),
            }
        }
        ([leader], _) => {
            let since = leader.since.map(|since| format!(" for {}", age(now, since))).unwrap_or_default();
            style.paint(Tone::Good, &format!("leader {}{since}", printable(&leader.member)))
        }
        (several, _) => style.paint(Tone::Bad, &format!("{} LEADERS", several.len())),
    };
    let counted: Vec<&MemberView> = fleet.members.iter().filter(|member| counts(member)).collect();
    let alive = counted.iter().filter(|member| is_alive(member)).count();
    format!("{name}   {leads}   term {}   {alive}/{} members alive\n", fleet.term, counted.len())
}

/// What became of the last leader: without a daemon nobody touches its payload.
fn led_last(last: &LedLastView) -> String {
    let member = printable(&last.member);
    match last.payload_objects {
        0 => format!("{member} led last"),
        objects => {
            format!("{member} led last, its payload still runs there ({})", counted(objects, "object"))
        }
    }
}

/// Whether it is a member still: not once it left or an operator said that it will not come back.
fn counts(member: &MemberView) -> bool {
    !member.forgotten && member.seen.as_ref().is_none_or(|seen| seen.state != "Left")
}

/// Alive as far as anybody can tell: others say so, or there are no others and it has a status.
fn is_alive(member: &MemberView) -> bool {
    !member.daemon_down && member.seen.as_ref().map_or(member.role.is_some(), |seen| seen.state == "Alive")
}

fn row(fleet: &FleetView, member: &MemberView, now: Timestamp, wide: bool) -> Vec<Cell> {
    let leads = fleet.leaders.iter().any(|leader| leader.member == member.member);
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
    let role = or_dash(member.role.clone());
    let role = match member.role.as_deref() {
        Some(_) if member.may_lead => Cell::new(Tone::Bad, format!("{role}?")),
        Some(_) if member.daemon_down => Cell::new(Tone::Warning, format!("was {role}")),
        Some("Leader") => Cell::new(Tone::Good, role),
        Some("Stopping" | "Candidate" | "Joining") => Cell::new(Tone::Warning, role),
        _ => role.into(),
    };
    let ready = match member.ready.filter(|_| !member.daemon_down) {
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
        role,
        or_dash(member.rank.map(|rank| rank.to_string())).into(),
        ready,
        payload,
        seen(member, now),
        api,
        or_dash(member.address.clone()).into(),
    ];
    if wide {
        cells.push(or_dash(member.namespace.clone()).into());
        cells.push(or_dash(member.term.map(|term| term.to_string())).into());
        cells.push(or_dash(member.leader.clone()).into());
        cells.push(or_dash(member.holder.clone()).into());
        let worst = member
            .worst_case_failover
            .map(|worst| format!("{}s, after a restart {}s", worst.crash, worst.announced_restart));
        cells.push(or_dash(worst).into());
    }
    cells
}

/// How others see it, and since when.
fn seen(member: &MemberView, now: Timestamp) -> Cell {
    let Some(seen) = &member.seen else {
        // Those who forgot it have no row of it any more.
        return if member.forgotten { Cell::new(Tone::Warning, "forgotten") } else { "-".into() };
    };
    let tone = match seen.state.as_str() {
        "Alive" => Tone::Plain,
        "Down" => Tone::Bad,
        _ => Tone::Warning,
    };
    let since = seen.since.map(|since| format!(" {}", age(now, since))).unwrap_or_default();
    let state = if member.forgotten { "forgotten" } else { seen.state.as_str() };
    Cell::new(tone, format!("{state}{since}"))
}
