use super::*;
use crate::fixtures::{peer, snapshot};
use crate::status::tests::{Scene, running};
use flagship_k8s_api::HookSpec;
use flagship_types::FleetConfig;

#[test]
fn only_a_majority_with_a_second_replica_protects() {
    let mut scene = Scene::new(snapshot(), running());
    let says = |scene: &Scene| {
        let (status, reason, message) = scene.says(ConditionType::SplitBrainProtected);
        (status.unwrap(), reason, message)
    };
    scene.second = Second::On { node: "n2".into() };
    let (protected, reason, message) = says(&scene);
    assert_eq!((protected, reason.as_str()), (false, "Availability"));
    assert!(message.contains("spec.election.mode"), "it says what is missing: {message}");
    scene.snapshot.as_mut().unwrap().config.mode = Mode::Quorum;
    let (protected, reason, message) = says(&scene);
    assert_eq!((protected, reason.as_str()), (true, "SecondReplica"));
    assert!(message.contains("node n2"), "{message}");
    scene.second = Second::Missing { here: "n1".into() };
    let (protected, reason, message) = says(&scene);
    assert_eq!((protected, reason.as_str()), (false, "OneReplica"));
    assert!(message.contains("node n1") && message.contains("--replicas=2"), "{message}");
    scene.second = Second::Beside { here: Some("n1".into()) };
    let (protected, reason, message) = says(&scene);
    assert_eq!((protected, reason.as_str()), (false, "OneNode"), "it would be lost with the node");
    assert!(message.contains("both are on node n1") && message.contains("another node"), "{message}");
    assert!(!message.contains("only replica") && !message.contains("--replicas"), "there are two: {message}");
    scene.second = Second::Beside { here: None };
    let (protected, reason, message) = says(&scene);
    assert_eq!((protected, reason.as_str()), (false, "NodeUnknown"));
    assert!(
        message.contains("second replica of the daemon is ready, but") && message.contains("NODE_NAME"),
        "{message}"
    );
    scene.second = Second::Unknown;
    let (protected, reason, message) = says(&scene);
    assert_eq!((protected, reason.as_str()), (false, "NodeUnknown"));
    assert!(message.contains("NODE_NAME"), "{message}");
    scene.second = Second::On { node: "n2".into() };
    scene.snapshot.as_mut().unwrap().other_leaders = vec!["sheffield".parse().unwrap()];
    assert_eq!(says(&scene).1, "SplitBrain", "whatever was promised");
    scene.snapshot = None;
    assert_eq!(says(&scene).1, "NotStarted");
}

#[test]
fn a_hook_protects_whom_every_possible_successor_fences_off() {
    let of = |members: Vec<MemberSnapshot>| {
        let mut scene = Scene::new(snapshot(), running());
        let names = ["newyork", "sheffield", "witness"].map(|name| name.parse().unwrap());
        let config = FleetConfig { mode: Mode::Quorum, voters: names.to_vec(), ..Default::default() };
        scene.snapshot.as_mut().unwrap().config = config;
        scene.snapshot.as_mut().unwrap().members.extend(members);
        scene.second = Second::Missing { here: "n1".into() };
        // What is called before this member is promoted says nothing about who comes after it.
        let hook = HookSpec { url: "https://fence.example.com/off".into(), ..Default::default() };
        let mut spec = crate::fixtures::spec();
        spec.hooks.before_promote = Some(hook);
        scene.settings = spec.settings().unwrap();
        let (status, reason, message) = scene.says(ConditionType::SplitBrainProtected);
        (status.unwrap(), reason, message)
    };
    let member = |name, fences| MemberSnapshot { fences, ..peer(name, State::Alive) };
    let witness =
        || MemberSnapshot { candidate: false, role: Some(Role::Witness), ..peer("witness", State::Alive) };
    let (protected, reason, message) = of(vec![member("sheffield", true), witness()]);
    assert_eq!((protected, reason.as_str()), (true, "FencingHook"), "{message}");

    let unprotected = |members, lacking: &str| {
        let (protected, reason, message) = of(members);
        assert_eq!((protected, reason.as_str()), (false, "OneReplica"), "{lacking}: {message}");
        assert!(message.contains(lacking), "{lacking}: {message}");
    };
    unprotected(vec![member("sheffield", false), witness()], "of each other member)");
    let paris_would = ": paris would be promoted without";
    unprotected(vec![member("sheffield", true), witness(), member("paris", false)], paris_would);
    // As of one that ended: what it said last was that it gives the lead away.
    let down = MemberSnapshot { state: State::Down, candidate: false, ..member("paris", false) };
    unprotected(vec![member("sheffield", true), witness(), down], paris_would);
    let unheard = MemberSnapshot { candidate: false, role: None, ..member("paris", false) };
    unprotected(vec![member("sheffield", true), witness(), unheard], paris_would);
    for unheard in [vec![witness()], vec![member("sheffield", true)]] {
        assert_eq!(of(unheard).1, "NotStoredByAll", "a voter that was not heard yet");
    }

    let left = MemberSnapshot { state: State::Left, ..member("paris", false) };
    let observer = MemberSnapshot { candidate: false, ..member("oslo", false) };
    assert!(of(vec![member("sheffield", true), witness(), left, observer]).0, "neither will lead");
}

#[test]
fn nobody_is_protected_from_who_may_lead_without_a_majority() {
    let mut scene = Scene::new(snapshot(), running());
    scene.second = Second::On { node: "n2".into() };
    scene.snapshot.as_mut().unwrap().config.mode = Mode::Quorum;
    let other = |quorum, state| MemberSnapshot { quorum, ..peer("sheffield", state) };
    let mut with = |member: MemberSnapshot| {
        let members = &mut scene.snapshot.as_mut().unwrap().members;
        members.truncate(1);
        members.push(member);
        let (status, reason, message) = scene.says(ConditionType::SplitBrainProtected);
        (status.unwrap(), reason, message)
    };
    assert!(with(other(true, State::Alive)).0 && with(other(true, State::Down)).0);
    for state in [State::Alive, State::Down] {
        let (protected, reason, message) = with(other(false, state));
        assert_eq!((protected, reason.as_str()), (false, "NotStoredByAll"));
        assert!(message.contains("mode Quorum: sheffield."), "{message}");
    }
    let observer = MemberSnapshot { candidate: false, ..other(false, State::Alive) };
    assert!(with(observer).0 && with(other(false, State::Left)).0, "they will not lead");
}

#[test]
fn a_leader_says_which_of_its_settings_are_not_in_force_and_who_does_not_know_them() {
    let which = ConditionType::ConfigInForce;
    let of = |snapshot: Snapshot| Scene::new(snapshot, running()).says(which);
    let (status, reason, message) = of(snapshot());
    assert_eq!((status, reason.as_str()), (Some(true), "Equal"), "{message}");
    let refused = Some("adding ghost to the voters would leave no majority that answers".to_owned());
    let (status, reason, message) = of(Snapshot { voters_refused: refused, ..snapshot() });
    assert_eq!((status, reason.as_str()), (Some(false), "VotersRefused"));
    assert!(
        message.contains("adding ghost to the voters") && message.contains("mode Availability"),
        "{message}"
    );
    let missing = vec!["paris".parse().unwrap(), "witness".parse().unwrap()];
    let (status, reason, message) = of(Snapshot { config_missing: missing, ..snapshot() });
    assert_eq!((status, reason.as_str()), (Some(true), "NotStoredByAll"));
    assert!(message.ends_with("not stored yet by paris, witness"), "{message}");
}

#[test]
fn an_even_number_of_voters_is_warned_of_by_what_is_asked_for() {
    let with = |asked: &[&str], in_force: &[&str]| {
        let mut scene = Scene::new(snapshot(), running());
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let config = FleetConfig { mode: Mode::Quorum, ..Default::default() };
        scene.settings.proposal = FleetConfig { voters: names(asked), ..config.clone() };
        let config = FleetConfig { voters: names(in_force), ..config };
        let snapshot = scene.snapshot.as_mut().unwrap();
        snapshot.config = config;
        snapshot.members.push(peer("sheffield", State::Alive));
        scene
    };
    let which = ConditionType::ConfigInForce;
    let two = with(&["newyork", "sheffield"], &["newyork", "sheffield"]);
    let (status, reason, message) = two.says(which);
    assert_eq!((status, reason.as_str()), (Some(true), "EvenVoters"), "it is in force all the same");
    for part in [
        "spec.election.voters has 2 names",
        "the loss of none of them, no more than with 1.",
        "a witness (docs/witness.md)",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(two.says(ConditionType::SplitBrainProtected).1, "OneReplica", "that is another matter");
    let on_the_way = with(&["newyork", "sheffield", "witness"], &["newyork", "sheffield"]);
    assert_eq!(on_the_way.says(which).1, "Equal", "one voter at a time");
    let mut shrinks = with(&["newyork", "sheffield"], &["newyork", "sheffield", "witness"]);
    shrinks.snapshot.as_mut().unwrap().config_missing = vec!["sheffield".parse().unwrap()];
    let (_, reason, message) = shrinks.says(which);
    assert_eq!(reason, "NotStoredByAll");
    assert!(
        message.contains("not stored yet by sheffield. But spec.election.voters has 2 names"),
        "{message}"
    );
    assert_eq!(with(&["newyork"], &["newyork"]).says(which).1, "Equal");
}
