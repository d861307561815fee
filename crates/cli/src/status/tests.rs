//! Made-up fleets, and the tables they give. The golden files are what a person sees.

use flagship_k8s_api::{
    ConditionType, HistoryEntry, InventoryEntry, MemberStatus, MultiCluster, MultiClusterSpec,
    MultiClusterStatus, ObjectState, WorstCaseStatus, conditions,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::table::render;
use super::view::{Answer, StatusView};
use crate::liveness::Renewal;
use crate::style::Style;

fn at(text: &str) -> Timestamp {
    format!("2026-03-01T{text}Z").parse().unwrap()
}

fn now() -> Timestamp {
    at("03:00:00")
}

fn entry(name: &str, state: ObjectState) -> InventoryEntry {
    InventoryEntry {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        namespace: "default".into(),
        name: name.into(),
        uid: "1".into(),
        generation: 1,
        state,
    }
}

fn sees(name: &str, state: &str, since: &str) -> MemberStatus {
    let address = Some("172.18.100.103:9990".into());
    MemberStatus {
        name: name.into(),
        state: state.into(),
        role: Some("Standby".into()),
        rank: Some(1),
        address,
        since: Some(Time(at(since))),
        ..MemberStatus::default()
    }
}

fn member(name: &str, rank: i64, role: &str, term: i64) -> MultiCluster {
    let leading = role == "Leader";
    let mut status = MultiClusterStatus {
        role: Some(role.into()),
        leading,
        term: Some(term),
        held_term: leading.then_some(term),
        lead_since: leading.then(|| Time(at("00:54:10"))),
        leader: Some(if leading { name.into() } else { "sheffield".into() }),
        holder: Some(format!("pod-{name}")),
        worst_case_failover_seconds: Some(WorstCaseStatus { crash: 11, announced_restart: 41 }),
        ..MultiClusterStatus::default()
    };
    let report = conditions::Report {
        status: Some(true),
        reason: "AsItShould",
        message: "",
        generation: None,
        now: now(),
    };
    conditions::set(&mut status.conditions, ConditionType::Ready, report);
    let spec = MultiClusterSpec {
        callsign: Some("federation".into()),
        rank,
        port: 9990,
        service_address: Some(format!("172.18.100.{}", 100 + rank)),
        ..MultiClusterSpec::default()
    };
    let mut object = MultiCluster::new(name, spec);
    object.metadata.namespace = Some("default".into());
    object.status = Some(status);
    object
}

fn answer(context: &str, objects: Vec<MultiCluster>) -> Answer {
    let objects = objects.into_iter().map(|object| (object, Renewal::Unknown)).collect();
    Answer { context: context.into(), kubectl: kubectl(context), objects: Ok(objects) }
}

fn one(context: &str, object: MultiCluster, renewal: Renewal) -> Answer {
    Answer { context: context.into(), kubectl: kubectl(context), objects: Ok(vec![(object, renewal)]) }
}

fn kubectl(context: &str) -> String {
    format!("kubectl --context {context}")
}

fn check_golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{} differs; if that is meant: UPDATE_DOCS=1 cargo test -p flagship-cli\n{text}",
        path.display()
    );
}

/// A witness has no object: it is known from the others, and that is how it should be.
#[test]
fn a_witness_is_a_member_and_no_trouble() {
    let mut leader = member("sheffield", 10, "Leader", 7);
    let mut standby = member("newyork", 5, "Standby", 7);
    for object in [&mut leader, &mut standby] {
        let witness = MemberStatus {
            role: Some("Witness".into()),
            rank: Some(0),
            ..sees("witness", "Alive", "00:00:00")
        };
        object.status.as_mut().unwrap().members.push(witness);
    }
    leader.status.as_mut().unwrap().members.push(sees("newyork", "Alive", "00:00:00"));
    standby.status.as_mut().unwrap().members.push(sees("sheffield", "Alive", "00:00:00"));
    let answers = [answer("sheffield", vec![leader]), answer("newyork", vec![standby])];
    let view = StatusView::new(&answers, now());
    let fleet = &view.fleets[0];
    assert_eq!(fleet.alarms, Vec::<String>::new());
    let witness = fleet.members.last().unwrap();
    assert_eq!((witness.member.as_str(), witness.role.as_deref()), ("witness", Some("Witness")));
    assert_eq!((witness.rank, witness.context.as_deref(), witness.daemon_down), (None, None, false));
    let text = render(&view, now(), false, Style::PLAIN);
    assert!(text.contains("3/3 members alive"), "{text}");
    let row = text.lines().find(|line| line.trim_start().starts_with("witness")).unwrap();
    assert!(row.contains("Witness") && row.contains("Alive"), "{text}");
}

/// Two members, one of them in trouble, a third one known from hearsay, and a cluster that does not answer.
fn night() -> StatusView {
    let mut sheffield = member("sheffield", 10, "Leader", 7);
    let status = sheffield.status.as_mut().unwrap();
    status.inventory = vec![entry("nginx", ObjectState::Ready), entry("db", ObjectState::Applied)];
    status.members = vec![sees("newyork", "Alive", "02:58:57"), sees("paris", "Down", "02:30:00")];
    let what = [
        ("02:59:10", "Elected", "took the lead under term 7: newyork was down"),
        ("02:59:11", "PayloadApplied", "2 objects applied"),
    ];
    for (time, kind, message) in what {
        status.record(HistoryEntry {
            time: Time(at(time)),
            kind: kind.into(),
            term: 7,
            message: message.into(),
            reason: None,
            phases: None,
        });
    }
    let mut newyork = member("newyork", 5, "Standby", 7);
    let status = newyork.status.as_mut().unwrap();
    status.members = vec![sees("sheffield", "Alive", "02:58:50")];
    status.conditions.clear();
    let report = |status, reason, message| conditions::Report {
        status: Some(status),
        reason,
        message,
        generation: None,
        now: now(),
    };
    conditions::set(
        &mut status.conditions,
        ConditionType::Ready,
        report(false, "Stalled", "the payload cannot be read"),
    );
    let message =
        "spec.payload, document 2, line 17, column 3: mapping values are not allowed here\nsee the manual";
    conditions::set(&mut status.conditions, ConditionType::Stalled, report(true, "InvalidPayload", message));
    conditions::set(
        &mut status.conditions,
        ConditionType::SplitBrainProtected,
        report(false, "Availability", "by design"),
    );
    StatusView::new(
        &[
            answer("sheffield", vec![sheffield]),
            answer("newyork", vec![newyork]),
            Answer {
                context: "paris".into(),
                kubectl: kubectl("paris"),
                objects: Err("no answer within 5s from https://172.18.100.3:6443".into()),
            },
            answer("spare", Vec::new()),
        ],
        now(),
    )
}

#[test]
fn a_night_reads_well() {
    let view = night();
    check_golden("status.txt", &render(&view, now(), false, Style::PLAIN));
    check_golden("status-wide.txt", &render(&view, now(), true, Style::PLAIN));
    check_golden("status.json", &(serde_json::to_string_pretty(&view).unwrap() + "\n"));
    check_golden("status.yaml", &serde_saphyr::to_string(&view).unwrap());
}

#[test]
fn colours_change_nothing_but_colours() {
    let coloured = render(&night(), now(), false, Style::COLOURED);
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    // Padding that ends a line stays when it stands before the end of a colour.
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert_eq!(trimmed(&plain), trimmed(&render(&night(), now(), false, Style::PLAIN)));
}

#[test]
fn two_leaders_are_shouted() {
    let view = StatusView::new(
        &[
            answer("newyork", vec![member("newyork", 5, "Leader", 6)]),
            answer("sheffield", vec![member("sheffield", 10, "Leader", 7)]),
        ],
        now(),
    );
    let text = render(&view, now(), false, Style::PLAIN);
    check_golden("status-split.txt", &text);
    assert!(text.contains("2 LEADERS") && text.contains("!! TWO LEADERS AT ONCE"));
}

#[test]
fn disagreement_and_doubles_are_named() {
    let mut newyork = member("newyork", 5, "Standby", 6);
    newyork.status.as_mut().unwrap().leader = Some("paris".into());
    let view = StatusView::new(
        &[
            answer("newyork", vec![newyork]),
            answer("sheffield", vec![member("sheffield", 10, "Leader", 7)]),
            answer("copy", vec![member("sheffield", 10, "Standby", 7)]),
        ],
        now(),
    );
    let alarms = view.fleets[0].alarms.join("\n");
    assert!(alarms.contains("newyork follows paris, not sheffield"), "{alarms}");
    assert!(alarms.contains("ONE NAME TWICE: sheffield in sheffield and in copy"), "{alarms}");
}

#[test]
fn a_leader_whose_cluster_was_not_asked_is_named_all_the_same() {
    let mut newyork = member("newyork", 5, "Standby", 7);
    newyork.status.as_mut().unwrap().members = vec![sees("sheffield", "Alive", "02:00:00")];
    let view = StatusView::new(&[answer("newyork", vec![newyork])], now());
    let text = render(&view, now(), false, Style::PLAIN);
    assert!(
        text.starts_with(
            "Fleet federation   leader sheffield (its cluster was not asked)   term 7   2/2 members alive\n"
        ),
        "{text}"
    );
    assert!(text.contains("not asked"));
}

#[test]
fn an_object_that_no_daemon_serves_says_so() {
    let mut lonely = member("lonely", 1, "Standby", 1);
    lonely.status = None;
    lonely.spec.callsign = None;
    let text = render(&StatusView::new(&[answer("here", vec![lonely])], now()), now(), false, Style::PLAIN);
    assert!(
        text.contains("NO LEADER") && text.contains("no callsign") && text.contains("is flagship running"),
        "{text}"
    );
}

/// sheffield led under term 7 when it last wrote; newyork leads under term 8 and holds it Down.
fn taken_over(renewal: Renewal) -> String {
    let mut sheffield = member("sheffield", 10, "Leader", 7);
    let status = sheffield.status.as_mut().unwrap();
    status.members = vec![sees("newyork", "Alive", "02:00:00")];
    status.inventory = vec![entry("nginx", ObjectState::Ready)];
    let mut newyork = member("newyork", 5, "Leader", 8);
    newyork.status.as_mut().unwrap().members = vec![sees("sheffield", "Down", "02:59:20")];
    let sheffield = one("sheffield", sheffield, renewal);
    let newyork = one("newyork", newyork, Renewal::Recent);
    render(&StatusView::new(&[newyork, sheffield], now()), now(), false, Style::PLAIN)
}

#[test]
fn a_dead_daemon_is_told_from_a_second_leader() {
    let killed = taken_over(Renewal::Old(Some(at("02:59:18"))));
    check_golden("status-killed.txt", &killed);
    assert!(!killed.contains("LEADERS") && killed.contains("MAY STILL LEAD"), "{killed}");
    // Without rights to read the Lease, what the members say of each other tells the same.
    let unknown = taken_over(Renewal::Unknown);
    assert!(unknown.contains("the daemon of sheffield is down, or cut off"), "{unknown}");
    assert!(unknown.contains("(last sign of life 40s") && !unknown.contains("LEADERS"), "{unknown}");
    let both = taken_over(Renewal::Recent);
    assert!(both.contains("!! TWO LEADERS AT ONCE: newyork (term 8) and sheffield (term 7)"), "{both}");
    assert!(!both.contains("is down"), "{both}");
    let stopped = taken_over(Renewal::Stopped(Some(at("02:59:18"))));
    assert!(stopped.contains("sheffield was stopped") && stopped.contains("was Leader"), "{stopped}");
    let replaced = taken_over(Renewal::TakenOver);
    assert!(replaced.contains("another process takes over") && !replaced.contains("LEADERS"), "{replaced}");
}

#[test]
fn a_leader_that_cannot_write_is_not_called_gone() {
    let mut sheffield = member("sheffield", 10, "Leader", 7);
    sheffield.status.as_mut().unwrap().inventory = vec![entry("nginx", ObjectState::Ready)];
    let view = StatusView::new(&[one("sheffield", sheffield, Renewal::Old(Some(at("02:59:18"))))], now());
    let text = render(&view, now(), false, Style::PLAIN);
    assert!(
        text.starts_with(
            "Fleet federation   NO LEADER KNOWN   sheffield led last and may still lead   term 7"
        ),
        "{text}"
    );
    assert!(text.contains("Leader?"), "{text}");
    assert_eq!(serde_json::to_value(&view).unwrap()["fleets"][0]["members"][0]["mayLead"], true);
}

#[test]
fn without_a_leader_the_last_one_is_named_with_its_payload() {
    let mut sheffield = member("sheffield", 10, "Joining", 7);
    let status = sheffield.status.as_mut().unwrap();
    (status.held_term, status.leader) = (Some(7), None);
    status.inventory = vec![entry("nginx", ObjectState::Ready)];
    let message = "the certificate is not there: put ca.crt, tls.crt and tls.key into /etc/flagship/tls; make them \
                   with: flagship pki add-member --fleet federation --member sheffield --out DIR";
    for (kind, status_) in [(ConditionType::Ready, false), (ConditionType::Stalled, true)] {
        let report = conditions::Report {
            status: Some(status_),
            reason: "NoCertificate",
            message,
            generation: None,
            now: now(),
        };
        conditions::set(&mut status.conditions, kind, report);
    }
    let again = HistoryEntry {
        time: Time(at("02:50:00")),
        kind: "Stalled".into(),
        term: 7,
        message: message.into(),
        reason: None,
        phases: None,
    };
    status.record(again);
    let view = StatusView::new(&[answer("sheffield", vec![sheffield])], now());
    let text = render(&view, now(), false, Style::PLAIN);
    check_golden("status-no-leader.txt", &text);
    assert!(
        text.starts_with(
            "Fleet federation   NO LEADER   sheffield led last, its payload still runs there (1 object)   term 7"
        ),
        "{text}"
    );
    assert_eq!(
        text.matches("flagship pki add-member --fleet federation --member sheffield --out DIR").count(),
        1
    );
}

/// newyork leads and forgot sheffield: it has no row of it any more.
fn forgetful() -> MultiCluster {
    let mut newyork = member("newyork", 5, "Leader", 7);
    let status = newyork.status.as_mut().unwrap();
    status.members = vec![sees("newyork", "Alive", "02:00:00")];
    status.forgotten = vec!["sheffield".into()];
    newyork
}

const GONE: Renewal = Renewal::Old(None);

#[test]
fn a_forgotten_member_does_not_count() {
    let mut sheffield = member("sheffield", 10, "Standby", 6);
    sheffield.status.as_mut().unwrap().members = vec![sees("newyork", "Alive", "02:00:00")];
    for renewal in [GONE, Renewal::Unknown] {
        let sheffield = one("sheffield", sheffield.clone(), renewal);
        let view = StatusView::new(&[answer("newyork", vec![forgetful()]), sheffield], now());
        let text = render(&view, now(), false, Style::PLAIN);
        assert!(
            text.starts_with("Fleet federation   leader newyork for 2h5m   term 7   1/1 members alive\n"),
            "{text}"
        );
        let row = text.lines().find(|line| line.contains("sheffield")).unwrap();
        assert!(
            row.contains("was Standby") && row.contains("forgotten  ok") && !text.contains("!!"),
            "{text}"
        );
    }
    let text =
        render(&StatusView::new(&[answer("newyork", vec![forgetful()])], now()), now(), false, Style::PLAIN);
    assert!(text.contains("1/1 members alive") && !text.contains("sheffield"), "{text}");
}

#[test]
fn what_a_forgotten_member_may_still_run_is_not_forgotten() {
    let shown = |role: &str, renewal: Renewal, runs: bool| {
        let mut sheffield = member("sheffield", 10, role, 6);
        let status = sheffield.status.as_mut().unwrap();
        status.members = vec![sees("newyork", "Alive", "02:00:00")];
        status.inventory = if runs { vec![entry("nginx", ObjectState::Ready)] } else { Vec::new() };
        let answers = [one("newyork", forgetful(), Renewal::Recent), one("sheffield", sheffield, renewal)];
        StatusView::new(&answers, now()).fleets[0].alarms.join("\n")
    };
    for alarm in [shown("Leader", GONE, true), shown("Leader", Renewal::Unknown, true)] {
        assert!(alarm.contains("MAY STILL LEAD: its payload (1 object) may run in both clusters"), "{alarm}");
        assert!(!alarm.contains("TWO LEADERS") && !alarm.contains("tart it"), "{alarm}");
        assert!(
            alarm.contains(
                "kubectl --context sheffield get all -A -l kube-vip.io/multicluster=default.sheffield"
            ),
            "{alarm}"
        );
    }
    assert!(shown("Leader", GONE, false).contains("MAY STILL LEAD"));
    let left = shown("Standby", GONE, true);
    assert!(left.contains("1 object of the payload may run there"), "{left}");
    assert_eq!(shown("Standby", GONE, false), "");
}

#[test]
fn a_forgotten_member_that_runs_is_told() {
    let alarms = |renewal| {
        let mut sheffield = member("sheffield", 10, "Standby", 6);
        let status = sheffield.status.as_mut().unwrap();
        status.members = Vec::new();
        status.forgotten = vec!["newyork".into()];
        let answers = [one("newyork", forgetful(), Renewal::Recent), one("sheffield", sheffield, renewal)];
        StatusView::new(&answers, now()).fleets[0].alarms.join("\n")
    };
    let told = "was forgotten by sheffield, and its daemon runs: it is a member again as soon as one of them reaches the other";
    let both = alarms(Renewal::Recent);
    assert!(both.contains(&format!("newyork {told}")), "{both}");
    assert!(both.contains("sheffield was forgotten by newyork, and its daemon runs"), "{both}");
    // The dead forget nobody, and are gone.
    let one = alarms(GONE);
    assert!(!one.contains("forgotten by"), "{one}");
}

#[test]
fn the_dead_forget_nobody() {
    let forgets = |renewal| {
        let sheffield = member("sheffield", 10, "Standby", 7);
        let mut newyork = forgetful();
        newyork.status.as_mut().unwrap().leading = false;
        let answers = [one("newyork", newyork, renewal), one("sheffield", sheffield, Renewal::Recent)];
        let view = StatusView::new(&answers, now());
        view.fleets[0].members.iter().any(|member| member.forgotten)
    };
    assert!(forgets(Renewal::Recent) && !forgets(GONE) && !forgets(Renewal::TakenOver));
}

#[test]
fn a_paused_fleet_is_said_first_and_once() {
    let mut objects = vec![member("newyork", 5, "Standby", 7), member("sheffield", 10, "Leader", 7)];
    for (version, object) in (3..).zip(&mut objects) {
        let pause = (version == 4).then(|| flagship_k8s_api::PauseStatus {
            since_ms: at("02:55:00").as_millisecond(),
            reason: "network work".into(),
        });
        let configuration = flagship_k8s_api::ConfigurationStatus { version, pause, ..Default::default() };
        object.status.as_mut().unwrap().configuration = Some(configuration);
    }
    let answer = |objects: &[MultiCluster]| Answer {
        context: "both".into(),
        kubectl: "kubectl".into(),
        objects: Ok(objects.iter().map(|object| (object.clone(), Renewal::Recent)).collect()),
    };
    let view = StatusView::new(&[answer(&objects)], now());
    let fleet = &view.fleets[0];
    assert_eq!(
        fleet.alarms[0],
        "PAUSED by an operator since 2026-03-01 02:55:00Z (5m ago): network work. No failure, rank or health moves the lead \
         until: flagship resume"
    );
    assert_eq!(fleet.alarms.iter().filter(|alarm| alarm.contains("PAUSED")).count(), 1);
    assert_eq!(fleet.pause.as_ref().unwrap().reason, "network work");
    // A newer configuration without it: one member has not stored the end yet.
    objects[0].status.as_mut().unwrap().configuration.as_mut().unwrap().version = 5;
    assert_eq!(StatusView::new(&[answer(&objects)], now()).fleets[0].pause, None);
}
