use super::*;
use crate::fixtures::snapshot;
use crate::status::tests::{Scene, running};
use flagship_node::Snapshot;

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
    let hook = |policy| flagship_k8s_api::HookSpec {
        url: "https://fence.example.com/off".into(),
        failure_policy: Some(policy),
        ..Default::default()
    };
    for (policy, fenced) in
        [(flagship_k8s_api::FailurePolicy::Ignore, false), (flagship_k8s_api::FailurePolicy::Fail, true)]
    {
        let mut spec = crate::fixtures::spec();
        spec.hooks.before_promote = Some(hook(policy));
        scene.settings = spec.settings().unwrap();
        assert_eq!(says(&scene).0, fenced, "a fence that may fail is none");
    }
    assert_eq!(says(&scene).1, "FencingHook");
    scene.second = Second::On { node: "n2".into() };
    scene.snapshot.as_mut().unwrap().other_leaders = vec!["sheffield".parse().unwrap()];
    assert_eq!(says(&scene).1, "SplitBrain", "whatever was promised");
    scene.snapshot = None;
    assert_eq!(says(&scene).1, "NotStarted");
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
        let config = flagship_types::FleetConfig { mode: Mode::Quorum, ..Default::default() };
        scene.settings.proposal = flagship_types::FleetConfig { voters: names(asked), ..config.clone() };
        let config = flagship_types::FleetConfig { voters: names(in_force), ..config };
        scene.snapshot.as_mut().unwrap().config = config;
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
