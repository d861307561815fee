use super::*;

/// What a member says: its term, whether it leads, whom it sees how.
fn status(term: i64, sees: &[(&str, &str)]) -> MultiClusterStatus {
    let row = |(name, state): &(&str, &str)| MemberStatus {
        name: (*name).into(),
        state: (*state).into(),
        ..MemberStatus::default()
    };
    let members = sees.iter().map(row).collect();
    MultiClusterStatus { term: Some(term), leading: true, members, ..MultiClusterStatus::default() }
}

fn forgetting(mut status: MultiClusterStatus, name: &str) -> MultiClusterStatus {
    status.forgotten.push(name.into());
    status
}

const OLD: Renewal = Renewal::Old(None);
const STOPPED: Renewal = Renewal::Stopped(None);
const HEARD: Cause = Cause::Lost { unheard: false };
const UNHEARD: Cause = Cause::Lost { unheard: true };

/// Why the status of each is no news.
fn causes(fleet: &[(&str, MultiClusterStatus, Renewal)]) -> Vec<Option<Cause>> {
    let witnesses: Vec<_> = fleet
        .iter()
        .map(|(name, status, renewal)| Witness { name, status: Some(status), renewal: *renewal })
        .collect();
    witnesses.iter().map(|one| silence(one, &witnesses).map(|silence| silence.cause)).collect()
}

#[test]
fn the_dead_are_told_from_those_that_are_cut_off() {
    use Renewal::{Recent, Unknown};
    let killed = || status(7, &[("b", "Alive")]);
    let cut = || status(7, &[("b", "Down")]);
    let leader = || status(8, &[("a", "Down")]);
    let hears = || status(7, &[("a", "Alive")]);
    for (a, b, expected) in [
        ((killed(), OLD), (leader(), Recent), [Some(UNHEARD), None]),
        ((killed(), Unknown), (leader(), Unknown), [Some(UNHEARD), None]),
        ((cut(), Recent), (leader(), Recent), [None, None]),
        ((cut(), Unknown), (leader(), Unknown), [None, None]),
        // It renewed just before it was killed.
        ((killed(), Recent), (leader(), Recent), [None, None]),
        // It only cannot write: another one hears it.
        ((killed(), OLD), (hears(), Recent), [None, None]),
        // What a silent one says of another is no news.
        ((killed(), OLD), (hears(), OLD), [Some(HEARD), Some(HEARD)]),
        ((killed(), OLD), (hears(), Renewal::TakenOver), [Some(HEARD), Some(Cause::TakenOver)]),
        ((killed(), STOPPED), (leader(), Recent), [Some(Cause::Stopped), None]),
    ] {
        assert_eq!(causes(&[("a", a.0, a.1), ("b", b.0, b.1)]), expected);
    }
}

#[test]
fn one_that_is_alone_is_judged_by_its_lease() {
    let alone = |renewal| causes(&[("a", status(7, &[("b", "Alive")]), renewal)])[0];
    assert_eq!(alone(OLD), Some(HEARD));
    assert_eq!(alone(Renewal::Recent), None);
    assert_eq!(alone(Renewal::Unknown), None);
    // Nobody wrote a status yet: there is nothing that could be old.
    let silent = Witness { name: "a", status: None, renewal: OLD };
    assert_eq!(silence(&silent, &[silent]), None);
}

#[test]
fn one_of_three_that_hears_it_is_enough() {
    let fleet = |c: &str| {
        let sees = [("a", c)];
        causes(&[
            ("a", status(7, &[("b", "Alive"), ("c", "Alive")]), OLD),
            ("b", status(8, &[("a", "Down")]), Renewal::Recent),
            ("c", status(8, &sees), Renewal::Recent),
        ])
    };
    assert_eq!(fleet("Alive"), [None, None, None]);
    assert_eq!(fleet("Suspect"), [Some(UNHEARD), None, None]);
}

#[test]
fn the_forgotten_stay_dead() {
    // The others have no row of it any more.
    let fleet = |a: Renewal, b: MultiClusterStatus| {
        causes(&[("a", status(7, &[("b", "Alive")]), a), ("b", b, Renewal::Recent)])[0]
    };
    assert_eq!(fleet(Renewal::Unknown, status(8, &[])), None, "it may be new to the other");
    assert_eq!(fleet(Renewal::Unknown, forgetting(status(8, &[]), "a")), Some(UNHEARD));
    assert_eq!(fleet(OLD, forgetting(status(8, &[]), "a")), Some(UNHEARD));
    assert_eq!(fleet(Renewal::Unknown, forgetting(status(7, &[]), "a")), None, "it is not behind");
    // It came back, and the word is about to be taken back.
    assert_eq!(fleet(Renewal::Unknown, forgetting(status(8, &[("a", "Alive")]), "a")), None);
    // It leads on, cut off from those that forgot it.
    let cut = [
        ("a", status(7, &[("b", "Down")]), Renewal::Unknown),
        ("b", forgetting(status(8, &[]), "a"), Renewal::Recent),
    ];
    assert_eq!(causes(&cut)[0], None);
    // Whoever is dead has no say.
    let dead =
        [("a", status(7, &[("b", "Alive")]), Renewal::Unknown), ("b", forgetting(status(8, &[]), "a"), OLD)];
    assert_eq!(causes(&dead)[0], None);
}

fn reading(holder: &str, sign: Sign) -> Reading {
    Reading { namespace: "default".into(), holder: holder.into(), renewed: None, sign }
}

#[test]
fn leases_are_judged_by_who_renews_them() {
    use Sign::{Expired, Open, Renewed};
    let told = |leases: &[(&str, Sign)], holder: Option<&str>, everywhere| {
        let readings: Vec<Reading> = leases.iter().map(|(holder, sign)| reading(holder, *sign)).collect();
        judge(&readings, holder, everywhere)
    };
    let x = Some("x");
    assert_eq!(told(&[("x", Renewed)], x, false), Some(Renewal::Recent));
    assert_eq!(told(&[("x", Open)], x, true), None);
    assert_eq!(told(&[("x", Expired)], x, false), Some(OLD));
    assert_eq!(told(&[("x", Expired)], None, false), Some(Renewal::Unknown));
    // The active replica was killed, and the other one has not written yet.
    assert_eq!(told(&[("y", Renewed)], x, true), Some(Renewal::TakenOver));
    // Left behind in another namespace.
    assert_eq!(told(&[("w", Expired), ("x", Renewed)], x, true), Some(Renewal::Recent));
    assert_eq!(told(&[("w", Expired)], x, false), Some(Renewal::Unknown));
    assert_eq!(told(&[("w", Expired)], x, true), Some(OLD));
    // Given up in order.
    assert_eq!(told(&[("", Open)], x, true), Some(STOPPED));
    assert_eq!(told(&[("", Open)], x, false), Some(Renewal::Unknown));
    assert_eq!(told(&[], x, true), Some(Renewal::Unknown));
}

#[test]
fn what_nobody_knows_is_not_called_known() {
    let now: Timestamp = "2026-03-01T03:00:00Z".parse().unwrap();
    let says = |cause, leading| {
        let status = MultiClusterStatus { leading, ..MultiClusterStatus::default() };
        explain("a", &status, Silence { since: Some(now), cause }, now)
    };
    let lost = says(UNHEARD, true);
    assert!(
        lost.contains("is down, or cut off from its API server and from the others (last sign"),
        "{lost}"
    );
    assert!(lost.contains("MAY STILL LEAD: its payload may run in both clusters"), "{lost}");
    assert!(says(HEARD, true).contains("is down, or cut off from its API server (last"));
    assert!(!says(UNHEARD, false).contains("MAY"));
    assert!(
        says(Cause::Stopped, true).contains("was stopped") && !says(Cause::Stopped, true).contains("MAY")
    );
    assert!(says(Cause::TakenOver, true).contains("another process takes over"));
}
