//! What is said of voters: who is lost, who may be, and of whom it is not known.

use flagship_k8s_api::{ConfigurationStatus, MemberCounts, MemberStatus, MultiClusterStatus};

use super::super::report::{Finding, Level};
use super::super::tests::{fleet, worst};
use super::check;

#[test]
fn in_quorum_it_is_said_how_many_voters_may_be_lost() {
    let with = |voters: &[&str], change: fn(&mut MultiClusterStatus)| {
        let mut fleet = fleet();
        for object in &mut fleet {
            let status = object.object.status.as_mut().unwrap();
            let configuration = ConfigurationStatus {
                version: if status.leading { 2 } else { 1 },
                mode: "Quorum".into(),
                voters: voters.iter().map(|voter| (*voter).to_owned()).collect(),
                ..ConfigurationStatus::from(&flagship_types::FleetConfig::default())
            };
            status.configuration = Some(configuration);
            if status.leading {
                change(status);
            }
        }
        check(&fleet)
    };
    let heard = |status: &mut MultiClusterStatus| {
        let witness =
            MemberStatus { name: "witness".into(), state: "Alive".into(), ..MemberStatus::default() };
        status.members.push(witness);
    };
    let three = ["newyork", "sheffield", "witness"];
    let sound = with(&three, heard);
    assert_eq!(worst(&sound), []);
    assert_eq!(sound[0].message, "federation: all 3 voters answer; 1 may be lost");
    let less = "federation: 2 of 3 voters answer sheffield (missing: witness): with one less nobody can lead";
    assert_eq!(worst(&with(&three, |_| {})), [(Level::Warn, less)]);
    let none =
        "federation: 1 of 3 voters answer sheffield (missing: newyork, witness): nobody can lead without 2";
    assert_eq!(worst(&with(&three, |status| status.members.clear())), [(Level::Fail, none)]);
    let five = ["newyork", "sheffield", "witness", "leeds", "denver"];
    let spare =
        "federation: 3 of 5 voters answer sheffield (missing: leeds, denver): with one less nobody can lead";
    assert_eq!(worst(&with(&five, heard)), [(Level::Warn, spare)]);
    let unstored = with(&three, |status| {
        status.members.push(MemberStatus {
            name: "witness".into(),
            state: "Alive".into(),
            ..MemberStatus::default()
        });
        status.configuration_missing = vec!["newyork".into()];
    });
    let said = "federation: newyork did not store the configuration in force yet";
    assert_eq!(worst(&unstored), [(Level::Warn, said)]);
    let mut availability = fleet();
    availability[1].object.status.as_mut().unwrap().configuration = None;
    assert_eq!(check(&availability), []);
}

/// What is said of the voters newyork, sheffield and witness by sheffield, which hears newyork.
fn of_three_voters(change: fn(&mut MultiClusterStatus)) -> Vec<Finding> {
    let mut fleet = fleet();
    fleet.remove(0);
    let status = fleet[0].object.status.as_mut().unwrap();
    status.configuration = Some(ConfigurationStatus {
        mode: "Quorum".into(),
        voters: ["newyork", "sheffield", "witness"].map(String::from).into(),
        ..ConfigurationStatus::from(&flagship_types::FleetConfig::default())
    });
    change(status);
    check(&fleet)
}

fn row(name: &str, state: &str) -> MemberStatus {
    MemberStatus { name: name.into(), state: state.into(), ..MemberStatus::default() }
}

#[test]
fn a_suspect_voter_is_not_lost() {
    let one = of_three_voters(|status| status.members.push(row("witness", "Suspect")));
    let said = "federation: 2 of 3 voters answer sheffield (Suspect: witness): with one less nobody can lead";
    assert_eq!(worst(&one), [(Level::Warn, said)]);
    assert!(one[0].hint.as_ref().unwrap().contains("run the check again"), "{one:?}");
    let both = of_three_voters(|status| {
        status.members = vec![row("newyork", "Suspect"), row("witness", "Suspect")];
    });
    let said = "federation: 1 of 3 voters answer sheffield (Suspect: newyork, witness): nobody can lead without 2, and it \
                is not certain that they are there";
    assert_eq!(worst(&both), [(Level::Warn, said)]);
    let worse = of_three_voters(|status| {
        status.members = vec![row("newyork", "Suspect"), row("witness", "Down")];
    });
    let said = "federation: 1 of 3 voters answer sheffield (missing: witness; Suspect: newyork): nobody can lead without \
                2, and it is not certain that they are there";
    assert_eq!(worst(&worse), [(Level::Warn, said)]);
    let lost =
        of_three_voters(|status| status.members = vec![row("newyork", "Down"), row("witness", "Away")]);
    assert_eq!(worst(&lost)[0].0, Level::Fail);
}

#[test]
fn a_voter_that_a_full_list_has_no_room_for_is_not_missing() {
    fn fill(status: &mut MultiClusterStatus) {
        let others =
            (0..MultiClusterStatus::MAX_MEMBERS - 1).map(|number| row(&format!("m{number}"), "Alive"));
        status.members.extend(others);
    }
    let cut = of_three_voters(|status| {
        fill(status);
        status.member_counts = Some(MemberCounts::new(40, 0, 0, 0));
    });
    let said =
        "federation: 2 of 3 voters answer sheffield (not known: witness): with one less nobody can lead";
    assert_eq!(worst(&cut), [(Level::Warn, said)]);
    assert!(cut[0].hint.as_ref().unwrap().contains("update it"), "{cut:?}");
    let uncounted = of_three_voters(fill);
    assert_eq!(worst(&uncounted), [(Level::Warn, said)]);
    let none = of_three_voters(|status| {
        status.members.clear();
        fill(status);
        status.member_counts = Some(MemberCounts::new(40, 0, 0, 0));
    });
    assert_eq!(worst(&none)[0].0, Level::Warn, "nobody is known to be lost: {none:?}");
    let whole = of_three_voters(|status| {
        fill(status);
        status.members.push(row("gone", "Left"));
        status.member_counts =
            Some(MemberCounts::new(i64::try_from(MultiClusterStatus::MAX_MEMBERS).unwrap(), 0, 0, 0));
    });
    let said = "federation: 2 of 3 voters answer sheffield (missing: witness): with one less nobody can lead";
    assert_eq!(worst(&whole), [(Level::Warn, said)]);
}
