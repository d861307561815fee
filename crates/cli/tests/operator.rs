//! The verbs of an operator: who is told, what is waited for, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use flagship_cli::{Exit, Stop};
use serde_json::{Value, json};
use support::{BOTH, Fleet, Shared, flagship, fleet};

async fn run(fleet: &Fleet, args: &[&str]) -> Result<Exit, Stop> {
    flagship(&[args, &["--kubeconfig", &fleet.kubeconfig], BOTH.as_slice()].concat()).await
}

fn order(api: &Shared, annotation: &str) -> Option<Value> {
    let patches = api.lock().unwrap().patches.clone();
    let found = patches.iter().find_map(|(_, patch)| patch["metadata"]["annotations"][annotation].as_str());
    found.map(|text| serde_json::from_str(text).unwrap())
}

fn answer(object: &mut Value, order: &Value, accepted: bool, message: &str, target: Option<&str>) {
    object["status"]["lastOrder"] = json!({
        "id": order["id"], "verb": "x", "accepted": accepted, "message": message, "target": target,
        "time": "2026-03-01T03:00:00Z"
    });
}

fn config(version: i64, paused: bool) -> Value {
    let pause = paused.then(|| json!({"sinceMs": 1_772_334_000_000_i64, "reason": "network work"}));
    json!({"version": version, "mode": "Availability", "failback": "Automatic", "failbackDelay": "1s",
        "restartGrace": "3s", "pause": pause})
}

fn writes_pause(object: &mut Value, key: &str, order: &Value) {
    object["status"]["configuration"] = config(771, key == "kube-vip.io/pause");
    answer(object, order, true, "done", None);
}

#[tokio::test]
async fn pause_is_told_to_the_leader_and_waits_until_everybody_has_stored_it() {
    let fleet = fleet().await;
    fleet.newyork.lock().unwrap().daemon = Some(writes_pause);
    fleet.sheffield.lock().unwrap().objects[0]["status"]["configuration"] = config(770, false);
    let args = ["pause", "--reason", "network work", "--timeout", "400ms"];
    // sheffield has not stored it in time: that is no success.
    assert_eq!(run(&fleet, &args).await.unwrap(), Exit::Failure);
    assert_eq!(order(&fleet.newyork, "kube-vip.io/pause").unwrap()["reason"], "network work");
    assert!(fleet.sheffield.lock().unwrap().patches.is_empty(), "only the leader is told");
    fleet.sheffield.lock().unwrap().objects[0]["status"]["configuration"] = config(771, true);
    assert_eq!(run(&fleet, &args).await.unwrap(), Exit::Success);
    // The leader knows of a member that cannot be asked from here.
    fleet.newyork.lock().unwrap().objects[0]["status"]["members"][1] =
        json!({"name": "paris", "state": "Alive"});
    fleet.newyork.lock().unwrap().objects[0]["status"]["configurationMissing"] = json!(["paris"]);
    assert_eq!(run(&fleet, &args).await.unwrap(), Exit::Failure);
}

#[tokio::test]
async fn a_refusal_is_an_error_with_the_leaders_reason() {
    let fleet = fleet().await;
    fleet.newyork.lock().unwrap().daemon =
        Some(|object, _, order| answer(object, order, false, "sheffield is Down", None));
    let error = run(&fleet, &["switchover", "--to", "sheffield"]).await.unwrap_err();
    assert_eq!(error.exit, Exit::Failure);
    assert_eq!(error.message, "newyork refused the switchover: sheffield is Down. Nothing was changed");
    let order = order(&fleet.newyork, "kube-vip.io/switchover").unwrap();
    assert_eq!((&order["to"], order.get("dryRun")), (&json!("sheffield"), None));
}

#[tokio::test]
async fn a_leader_elsewhere_has_to_be_given() {
    let fleet = fleet().await;
    let args = ["pause", "--reason", "x", "--kubeconfig", &fleet.kubeconfig, "--context", "sheffield"];
    let error = flagship(&args).await.unwrap_err();
    assert_eq!(error.exit, Exit::NotFound);
    assert!(
        error.message.contains("newyork leads") && error.message.contains("--context"),
        "{}",
        error.message
    );
    let args = [args.as_slice(), &["--context", "dead"]].concat();
    assert_eq!(flagship(&args).await.unwrap_err().exit, Exit::Unreachable);
}

#[tokio::test]
async fn without_a_leader_resume_is_told_to_everybody_and_waits_for_one() {
    let fleet = fleet().await;
    for (api, daemon) in [
        (
            &fleet.newyork,
            (|object: &mut Value, _: &str, order: &Value| {
                answer(object, order, true, "the fleet goes on", None);
                object["status"]["role"] = json!("Leader");
                object["status"]["leading"] = json!(true);
                object["status"]["configuration"] = config(772, false);
            }) as support::Daemon,
        ),
        (&fleet.sheffield, |object: &mut Value, _: &str, order: &Value| {
            answer(object, order, false, "nobody leads, and this member is no candidate", None);
        }),
    ] {
        let mut api = api.lock().unwrap();
        api.daemon = Some(daemon);
        let status = &mut api.objects[0]["status"];
        status["configuration"] = config(771, true);
        status["leading"] = json!(false);
        status["role"] = json!("Standby");
        status["leader"] = Value::Null;
    }
    let exit = run(&fleet, &["resume", "--timeout", "500ms"]).await.unwrap();
    assert_eq!(exit, Exit::Failure, "sheffield has not stored it");
    assert!(order(&fleet.newyork, "kube-vip.io/resume").is_some());
    assert!(order(&fleet.sheffield, "kube-vip.io/resume").is_some());
}

#[tokio::test]
async fn a_dry_run_says_so_to_the_leader_and_waits_for_nothing() {
    let fleet = fleet().await;
    fleet.newyork.lock().unwrap().daemon = Some(|object, _, order| {
        answer(object, order, true, "the lead would go to sheffield", Some("sheffield"));
    });
    assert_eq!(run(&fleet, &["switchover", "--dry-run"]).await.unwrap(), Exit::Success);
    assert_eq!(order(&fleet.newyork, "kube-vip.io/switchover").unwrap()["dryRun"], true);
}

#[tokio::test]
async fn switchover_waits_until_the_target_is_ready() {
    let fleet = fleet().await;
    fleet.newyork.lock().unwrap().daemon = Some(|object, _, order| {
        answer(object, order, true, "the lead goes to sheffield", Some("sheffield"));
        object["status"]["leading"] = json!(false);
        object["status"]["role"] = json!("Standby");
        object["status"]["leader"] = json!("sheffield");
    });
    let slow = ["switchover", "--to", "sheffield", "--timeout", "300ms"];
    let error = run(&fleet, &slow).await.unwrap_err();
    assert!(error.message.contains("sheffield is not ready as the leader yet"), "{}", error.message);
    {
        let mut api = fleet.newyork.lock().unwrap();
        api.objects[0]["status"]["leading"] = json!(true);
        api.objects[0]["status"]["role"] = json!("Leader");
        api.objects[0]["status"]["leader"] = json!("newyork");
    }
    // It gets ready while it is waited for.
    let sheffield = Shared::clone(&fleet.sheffield);
    let later = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let status = &mut sheffield.lock().unwrap().objects[0]["status"];
        status["leading"] = json!(true);
        status["role"] = json!("Leader");
        status["ready"] = json!(true);
    });
    assert_eq!(run(&fleet, &["switchover", "--to", "sheffield"]).await.unwrap(), Exit::Success);
    later.await.unwrap();
}

#[tokio::test]
async fn a_handover_that_is_called_off_is_a_failure_with_its_reason() {
    let fleet = fleet().await;
    fleet.newyork.lock().unwrap().daemon = Some(|object, _, order| {
        answer(object, order, true, "the lead goes to sheffield", Some("sheffield"));
        object["status"]["history"] = json!([{"time": "2026-03-01T03:00:00Z", "type": "HandoverFailed", "term": 3,
            "message": "handover did not happen: ConfigMap x does not go away"}]);
    });
    let error = run(&fleet, &["switchover"]).await.unwrap_err();
    assert!(error.message.contains("ConfigMap x"), "{}", error.message);
}

#[tokio::test]
async fn force_lead_is_not_sent_if_the_objects_speak_against_it() {
    let fleet = fleet().await;
    let force = |above, stopped| {
        [
            "fleet",
            "force-lead",
            "--to",
            "sheffield",
            "--above-term",
            above,
            "--i-have-stopped",
            stopped,
            "--reason",
            "burnt",
        ]
    };
    let error = run(&fleet, &force("2", "newyork")).await.unwrap_err();
    assert!(error.message.contains("newyork"), "{}", error.message);
    let error = run(&fleet, &force("9", "newyork")).await.unwrap_err();
    assert!(error.message.contains("newyork is not stopped"), "{}", error.message);
    assert!(fleet.sheffield.lock().unwrap().patches.is_empty());
    fleet.sheffield.lock().unwrap().daemon = Some(|object, _, order| {
        answer(object, order, true, "this member takes the lead under term 4", None);
        object["status"]["role"] = json!("Leader");
    });
    assert_eq!(run(&fleet, &force("3", "paris")).await.unwrap(), Exit::Success);
    let order = order(&fleet.sheffield, "kube-vip.io/force-lead").unwrap();
    assert_eq!((&order["aboveTerm"], &order["stopped"]), (&json!(3), &json!(["paris"])));
    let args = ["fleet", "force-lead", "--above-term", "3", "--i-have-stopped", "paris", "--reason", "x"];
    assert_eq!(
        run(&fleet, &args).await.unwrap_err().exit,
        Exit::Usage,
        "two could lead: one has to be named"
    );
}

#[tokio::test]
async fn history_and_explain_read_all_members() {
    let fleet = fleet().await;
    for output in ["table", "wide", "json", "yaml"] {
        assert_eq!(run(&fleet, &["history", "-o", output]).await.unwrap(), Exit::Success);
    }
    // paris is Down, and sheffield could take over.
    assert_eq!(run(&fleet, &["explain"]).await.unwrap(), Exit::Success);
    fleet.newyork.lock().unwrap().objects[0]["status"]["members"][0]["unfit"] =
        json!("sheffield is no candidate");
    assert_eq!(run(&fleet, &["explain"]).await.unwrap(), Exit::Failure);
}

#[tokio::test]
async fn of_several_fleets_one_has_to_be_named() {
    let fleet = fleet().await;
    let mut other = support::object("london", 3, false);
    other["spec"]["callsign"] = json!("second");
    fleet.newyork.lock().unwrap().objects.push(other);
    let error = run(&fleet, &["history"]).await.unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.contains("federation, second"), "{}", error.message);
    assert_eq!(run(&fleet, &["history", "--fleet", "second"]).await.unwrap(), Exit::Success);
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_leaves_an_order_that_can_be_taken_back() {
    let fleet = fleet().await;
    let error = run(&fleet, &["switchover", "--dry-run"]).await.unwrap_err();
    assert!(
        error.message.contains("annotate mc -n default newyork kube-vip.io/switchover-"),
        "{}",
        error.message
    );
}
