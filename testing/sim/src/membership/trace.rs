//! The timeline of one run, for a person: who, when, what.

use flagship_membership::{Event, Evidence, LinkEnd, Message, State, Verdict};
use flagship_types::CloseCode;

use super::checks::Seen;
use super::fault::{Block, Fault, Host};
use super::names::Names;
use crate::clock::Nanos;

/// What happened at a host.
#[derive(Debug, Clone)]
pub(super) enum What {
    Started { epoch: u64 },
    Died { reset: bool },
    HeldUp(Block),
    GoesOn,
    LinkUp { peer: Option<Host>, dialled: bool },
    LinkDown(LinkEnd),
    Closed(CloseCode),
    Sent { to: Host, message: Message },
    Seen(Seen),
    Event(Event),
    Said(String),
}

#[derive(Debug, Clone)]
enum Entry {
    At(Host, What),
    Fault(String),
}

/// A timeline.
#[derive(Debug, Default)]
pub struct Trace {
    entries: Vec<(Nanos, Entry)>,
}

impl Trace {
    pub(super) fn add(&mut self, at: Nanos, host: Host, what: What) {
        if !is_routine(&what) {
            self.entries.push((at, Entry::At(host, what)));
        }
    }

    pub(super) fn fault(&mut self, at: Nanos, fault: &Fault, begins: bool) {
        let text = match begins {
            true => format!("FAULT  {}", describe(fault)),
            false => format!("ends   {}", describe(fault)),
        };
        self.entries.push((at, Entry::Fault(text)));
    }

    /// The timeline from some time on, one line per happening. `from` counts as zero.
    pub fn lines(&self, names: &Names, from: Nanos) -> Vec<String> {
        let later = self.entries.iter().filter(|(at, _)| *at >= from);
        later.map(|(at, entry)| line(*at - from, entry, names)).collect()
    }
}

/// Beats and the like would bury everything else.
fn is_routine(what: &What) -> bool {
    matches!(
        what,
        What::Sent {
            message: Message::Beat { .. } | Message::Ping { .. } | Message::Echo(_) | Message::Addresses(_),
            ..
        }
    )
}

fn line(at: Nanos, entry: &Entry, names: &Names) -> String {
    let seconds = format!("{:>9.3}", at as f64 / 1e9);
    match entry {
        Entry::Fault(text) => format!("{seconds}  ######  {text}"),
        Entry::At(host, what) => format!("{seconds}  {:<6}  {}", format!("m{host}"), words(what, names)),
    }
}

fn member(host: Option<Host>) -> String {
    host.map_or("somebody unknown".into(), |host| format!("m{host}"))
}

fn words(what: &What, names: &Names) -> String {
    match what {
        What::Started { epoch } => format!("starts, epoch {epoch}"),
        What::Died { reset: true } => "its process dies; the host resets its streams".into(),
        What::Died { reset: false } => "dies with its host, without a word".into(),
        What::HeldUp(Block::Process) => "is blocked: it does not run".into(),
        What::HeldUp(Block::Messages) => "is blocked: it neither reads nor sends".into(),
        What::GoesOn => "goes on".into(),
        What::LinkUp { peer, dialled: true } => format!("link to {} is up (dialled)", member(*peer)),
        What::LinkUp { peer, dialled: false } => format!("link from {} is up", member(*peer)),
        What::LinkDown(LinkEnd::Lost) => "a link is lost without a word".into(),
        What::LinkDown(LinkEnd::Closed(code)) => format!("a peer closes a link: {}", code.as_str()),
        What::Closed(code) => format!("closes a link: {}", code.as_str()),
        What::Sent { to, message } => format!("-> m{to:<5} {}", message_words(message, names)),
        What::Seen(seen) => seen_words(seen),
        What::Event(event) => event_words(event, names),
        What::Said(text) => format!("is told: {text}"),
    }
}

fn seen_words(seen: &Seen) -> String {
    let mark = match seen.state {
        State::Down => "**",
        State::Suspect => "* ",
        State::Alive | State::Away | State::Left => "  ",
    };
    let evidence = match seen.evidence {
        Some(Evidence::Exit) => " (its host refuses connections)",
        Some(Evidence::Silence) => " (silence)",
        None => "",
    };
    format!(
        "{mark}holds m{} {}{evidence}, incarnation {}, epoch {}",
        seen.subject,
        seen.state.as_str(),
        seen.incarnation,
        seen.epoch
    )
}

fn event_words(event: &Event, names: &Names) -> String {
    let who = |name| member(names.host(name));
    match event {
        Event::Querying(name) => format!("a beat of {} is late: asks its co-observers", who(name)),
        Event::Refuted(name) => format!("{} refuted the suspicion", who(name)),
        Event::EpochRaised(epoch) => format!("goes on under epoch {}", epoch.0),
        Event::NameInUse { .. } => "stalls: another process has its name".into(),
        Event::Changed(name) => format!("its view of {} changed", who(name)),
        Event::Heard { member: name, .. } => format!("heard {}", who(name)),
        Event::Vouched { member: name, .. } => format!("was told that {} was heard", who(name)),
    }
}

fn message_words(message: &Message, names: &Names) -> String {
    let who = |name| member(names.host(name));
    match message {
        Message::Query { subject, deadline, .. } => {
            format!("do you hear {}? within {} ms", who(subject), deadline.as_millis())
        }
        Message::Answer { subject, verdict, .. } => match verdict {
            Verdict::Heard(age) => format!("I heard {} {} ms ago", who(subject), age.as_millis()),
            Verdict::Mute(Evidence::Exit) => format!("{} has exited", who(subject)),
            Verdict::Mute(Evidence::Silence) => format!("I do not hear {}", who(subject)),
            Verdict::Abstain => format!("I cannot tell about {}", who(subject)),
        },
        Message::Accuse(accusation) => {
            let evidence = if accusation.evidence == Evidence::Exit { "exit" } else { "silence" };
            let (accuser, subject) = (who(&accusation.accuser), who(&accusation.subject));
            format!("{accuser} accuses {subject} ({evidence}), incarnation {}", accusation.incarnation.0)
        }
        Message::Record(record) => format!(
            "record of {}: {:?}, incarnation {}, version {}, epoch {}",
            who(&record.member),
            record.status,
            record.incarnation.0,
            record.version,
            record.epoch.0
        ),
        Message::Delta { records, accusations } => {
            let names: Vec<String> = records.iter().take(6).map(|record| who(&record.member)).collect();
            format!("{} records ({}) and {} accusations", records.len(), names.join(" "), accusations.len())
        }
        Message::Digest { buckets, answer: false, .. } => format!("digest of {} buckets", buckets.len()),
        Message::Digest { buckets, answer: true, .. } => format!("{} buckets differ", buckets.len()),
        Message::Unobserve => "you do not observe me any more".into(),
        Message::Known { incarnation, state, .. } => {
            format!("I hold you {}, incarnation {}", state.as_str(), incarnation.0)
        }
        Message::Beat { seq, .. } => format!("beat {seq}"),
        Message::Ping { seq } => format!("ping {seq}"),
        Message::Echo(echo) => format!("echo of {}", echo.seq),
        Message::Addresses(addresses) => format!("{} addresses", addresses.len()),
    }
}

fn hosts(hosts: &[Host]) -> String {
    let shown: Vec<String> = hosts.iter().take(8).map(|host| format!("m{host}")).collect();
    let more = if hosts.len() > 8 { format!(" and {} more", hosts.len() - 8) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// A fault in words.
pub fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Crash { host, reset: true, .. } => format!("process of m{host} is killed, its host lives"),
        Fault::Crash { host, reset: false, .. } => format!("host of m{host} dies"),
        Fault::Freeze { host } => format!("m{host} is frozen"),
        Fault::Slow { host, block, blocked, period } => {
            let what = match block {
                Block::Process => "stands still",
                Block::Messages => "neither reads nor sends",
            };
            format!("m{host} {what} {blocked:?} of every {period:?}")
        }
        Fault::Cut { from, to } => format!("nothing gets from {} to {}", hosts(from), hosts(to)),
        Fault::Split { side } => format!("{} cut off from the others", hosts(side)),
        Fault::Flap { a, b, down, period } => format!("m{a} - m{b} cut for {down:?} of every {period:?}"),
        Fault::SlowLink { a, b, extra } => format!("m{a} - m{b} slower by {extra:?}"),
        Fault::HoldBack { from, to } => format!("what m{from} sends to m{to} is held back"),
        Fault::Loss { percent } => format!("{percent} % of all segments are lost"),
        Fault::Reset { a, b } => format!("streams between m{a} and m{b} are reset"),
        Fault::ColdLinks { every } => format!("each link is reset every {every:?} on average"),
        Fault::Liar { host, lies } => format!("m{host} lies: {lies:?}"),
        Fault::Drift { host, permille } => format!("clock of m{host} runs faster by {permille} in 1000"),
        Fault::WallJump { host, ms } => format!("wall clock of m{host} jumps by {ms} ms"),
        Fault::Leave { host } => format!("m{host} leaves"),
        Fault::Away { host, grace } => format!("m{host} announces a pause of {grace:?}"),
        Fault::Metadata { host } => format!("m{host} says something new of itself"),
        Fault::Required { host, peers } => format!("m{host} needs links to {}", hosts(peers)),
        Fault::Join { host } => format!("m{host} joins"),
    }
}
