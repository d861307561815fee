//! Commands from the command line to the exit code: files in a temporary directory, and a made-up API server.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use flagship_cli::Exit;
use serde_json::json;
use support::{BOTH, flagship, fleet, object, text};

fn make_certificates(out: &str) -> [&str; 10] {
    ["pki", "init", "--fleet", "federation", "--member", "newyork", "--member", "sheffield", "--out", out]
}

#[tokio::test]
async fn certificates_from_nothing_to_shown() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("certs");
    let make = make_certificates(text(&out));
    assert_eq!(flagship(&make).await.unwrap(), Exit::Success);
    for file in
        ["ca.crt", "ca.key", "newyork/tls.crt", "newyork/tls.key", "newyork/ca.crt", "sheffield/secret.yaml"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    let manifest = std::fs::read_to_string(out.join("newyork/secret.yaml")).unwrap();
    assert!(
        manifest.contains("name: flagship-tls")
            && manifest.contains("namespace: kube-vip-multi-cluster-system")
    );
    let again = flagship(&make).await.unwrap_err();
    assert_eq!(again.exit, Exit::Failure);
    assert!(again.message.contains("exists already"), "{}", again.message);
    assert_eq!(flagship(&["pki", "show", text(&out)]).await.unwrap(), Exit::Success);

    let add = |fleet| ["pki", "add-member", "--fleet", fleet, "--member", "paris", "--out", text(&out)];
    let wrong = flagship(&add("other")).await.unwrap_err();
    assert!(wrong.message.contains("not of fleet other"), "{}", wrong.message);
    assert!(!out.join("paris").exists());
    assert_eq!(flagship(&add("federation")).await.unwrap(), Exit::Success);
    assert!(out.join("paris/secret.yaml").is_file());
}

#[tokio::test]
async fn certificate_commands_that_cannot_work_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("nothing");
    let add = ["pki", "add-member", "--fleet", "f", "--member", "paris", "--out", text(&nothing)];
    let error = flagship(&add).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    assert!(error.message.contains("flagship pki init"), "{}", error.message);
    let error = flagship(&["pki", "show", text(&nothing)]).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    let twice = ["pki", "init", "--fleet", "f", "--member", "a", "--member", "a", "--out", text(&nothing)];
    assert!(flagship(&twice).await.unwrap_err().message.contains("named twice"));
    let garbage = dir.path().join("x.crt");
    std::fs::write(&garbage, [0xff, 0, 1]).unwrap();
    assert_eq!(flagship(&["pki", "show", text(&garbage)]).await.unwrap_err().exit, Exit::Failure);
}

#[tokio::test]
async fn definitions_and_completions_are_printed() {
    assert_eq!(flagship(&["crd"]).await.unwrap(), Exit::Success);
    assert_eq!(flagship(&["completion", "bash"]).await.unwrap(), Exit::Success);
}

#[tokio::test]
async fn status_exit_codes() {
    let fleet = fleet().await;
    let run = async |args: &[&str]| {
        flagship(&[&["status", "--kubeconfig", &fleet.kubeconfig], args].concat()).await.unwrap()
    };
    assert_eq!(run(&BOTH).await, Exit::Success);
    for output in ["wide", "json", "yaml"] {
        assert_eq!(run(&["-o", output]).await, Exit::Success);
    }
    assert_eq!(run(&["--context", "newyork", "--context", "dead"]).await, Exit::Unreachable);
    assert_eq!(run(&["--context", "nobody"]).await, Exit::Unreachable);
    // No such namespace in the made-up server is answered as by a cluster without the definition.
    assert_eq!(run(&["-n", "elsewhere"]).await, Exit::Unreachable);
    fleet.newyork.lock().unwrap().objects.clear();
    assert_eq!(run(&["--context", "newyork"]).await, Exit::NotFound);
}

#[tokio::test]
async fn a_missing_kubeconfig_is_said_and_no_panic() {
    let exit = flagship(&["status", "--kubeconfig", "/nonexistent/kubeconfig"]).await.unwrap();
    assert_eq!(exit, Exit::Unreachable);
}

#[tokio::test]
async fn check_passes_on_a_sound_fleet_and_fails_on_missing_rights() {
    let fleet = fleet().await;
    let certs = tempfile::tempdir().unwrap();
    let out = text(certs.path());
    flagship(&make_certificates(out)).await.unwrap();
    let args = [&["check", "--kubeconfig", &fleet.kubeconfig, "--tls-dir", out], BOTH.as_slice()].concat();
    assert_eq!(flagship(&args).await.unwrap(), Exit::Success);
    fleet.sheffield.lock().unwrap().forbidden.push("deployments");
    assert_eq!(flagship(&args).await.unwrap(), Exit::Failure);
    fleet.sheffield.lock().unwrap().forbidden.clear();
    assert_eq!(flagship(&[args.as_slice(), &["-o", "json"]].concat()).await.unwrap(), Exit::Success);
    let dead = [args.as_slice(), &["--context", "dead"]].concat();
    assert_eq!(flagship(&dead).await.unwrap(), Exit::Failure);
}

#[tokio::test]
async fn forget_tells_all_members_but_the_one_that_is_gone() {
    let fleet = fleet().await;
    let args = [
        &["fleet", "forget", "paris", "--reason", "burnt \"down\"", "--kubeconfig", &fleet.kubeconfig],
        BOTH.as_slice(),
    ]
    .concat();
    assert_eq!(flagship(&args).await.unwrap(), Exit::Success);
    for (api, name) in [(&fleet.newyork, "newyork"), (&fleet.sheffield, "sheffield")] {
        let patches = api.lock().unwrap().patches.clone();
        let [(patched, patch)] = patches.as_slice() else { panic!("{patches:?}") };
        assert_eq!(patched, name);
        let value = patch["metadata"]["annotations"]["kube-vip.io/forget"].as_str().unwrap();
        let command = flagship_k8s_api::Command::parse(value).unwrap();
        assert_eq!((command.member.as_str(), command.reason.as_str()), ("paris", "burnt \"down\""));
    }
    let args = ["fleet", "forget", "newyork", "--reason", "sold", "--kubeconfig", &fleet.kubeconfig];
    let error = flagship(&args).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    assert!(error.message.contains("only newyork itself was found"), "{}", error.message);
    let args = ["fleet", "admit", "atlantis", "--reason", "found", "--kubeconfig", &fleet.kubeconfig];
    let error = flagship(&args).await.unwrap_err();
    assert!(error.message.contains("flagship status"), "{}", error.message);
}

#[tokio::test]
async fn a_forgotten_member_can_be_admitted_and_forgotten_again() {
    let fleet = fleet().await;
    // As the survivor writes it: no row any more.
    fleet.newyork.lock().unwrap().objects[0]["status"]["members"] = json!([]);
    fleet.newyork.lock().unwrap().objects[0]["status"]["forgotten"] = json!(["sheffield"]);
    for verb in ["admit", "forget"] {
        let args = ["fleet", verb, "sheffield", "--reason", "x", "--kubeconfig", &fleet.kubeconfig];
        assert_eq!(flagship(&args).await.unwrap(), Exit::Success, "{verb}");
    }
    assert_eq!(fleet.newyork.lock().unwrap().patches.len(), 2);
}

#[tokio::test]
async fn a_member_of_two_fleets_has_to_be_named_with_its_fleet() {
    let fleet = fleet().await;
    let mut other = object("london", 3, false);
    other["spec"]["callsign"] = json!("second");
    fleet.newyork.lock().unwrap().objects.push(other);
    let args = ["fleet", "admit", "paris", "--reason", "back", "--kubeconfig", &fleet.kubeconfig];
    let error = flagship(&args).await.unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.contains("federation, second"), "{}", error.message);
    assert_eq!(flagship(&[args.as_slice(), &["--fleet", "second"]].concat()).await.unwrap(), Exit::Success);
    assert_eq!(fleet.newyork.lock().unwrap().patches[0].0, "london");
}
