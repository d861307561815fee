//! When hooks are called, over a payload worker with a real node and a real HTTP server.

use std::sync::atomic::{AtomicBool, Ordering};

use flagship_k8s_api::HookSettings;
use flagship_node::Directive;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::receiver::{Answer, Receiver};
use super::*;
use crate::payload_worker::Next;
use crate::payload_worker::tests::{Bench, GOOD, bench, target, until};

fn hooks(at: impl Fn(HookPoint) -> Option<Hook>) -> Target {
    let mut target = target(GOOD);
    target.settings.hooks = HookSettings {
        before_promote: at(HookPoint::BeforePromote),
        after_promote: at(HookPoint::AfterPromote),
        before_demote: at(HookPoint::BeforeDemote),
        after_demote: at(HookPoint::AfterDemote),
    };
    target
}

fn term(bench: &Bench) -> Term {
    match bench.worker.node.directive().borrow().clone() {
        Directive::Run { term, .. } => term,
        other => panic!("leads: {other:?}"),
    }
}

/// Runs the payload until `is_so`.
async fn run(bench: &Bench, resumed: bool, target: &Target, is_so: impl Fn() -> bool) {
    let over = CancellationToken::new();
    let mut drift = None;
    let running = async {
        while !over.is_cancelled() {
            bench.worker.be_running(term(bench), resumed, target, &over, &mut drift).await;
        }
    };
    tokio::join!(running, async {
        until("the payload runs as wanted", is_so).await;
        over.cancel();
    });
}

fn written(bench: &Bench) -> bool {
    bench.maps.lock().unwrap().contains_key("one")
}

fn ready(bench: &Bench) -> bool {
    bench.worker.progress.borrow().ready
}

#[tokio::test]
async fn a_before_promote_that_fails_blocks_every_write_and_says_so() {
    let bench = bench(true).await;
    let receiver = Receiver::start().await;
    receiver.answers([Answer::Code(503), Answer::Code(503), Answer::Code(503)]);
    let target = hooks(|point| (point == HookPoint::BeforePromote).then(|| receiver.hook()));
    let over = CancellationToken::new();
    for attempt in 1..=3 {
        let next = bench.worker.be_running(term(&bench), false, &target, &over, &mut None).await;
        assert_eq!(next, Next::Retry);
        assert!(!written(&bench), "attempt {attempt}");
        let told = bench.worker.progress.borrow().hooks[&HookPoint::BeforePromote].clone();
        assert!(told.contains("spec.hooks.beforePromote") && told.contains("answered 503"), "{told}");
    }
    // It succeeds: the payload is written, and the hook is not called again for this lead.
    run(&bench, false, &target, || ready(&bench)).await;
    run(&bench, false, &target, || ready(&bench)).await;
    assert!(written(&bench) && bench.worker.progress.borrow().hooks.is_empty());
    let received = receiver.received();
    assert_eq!(received.len(), 4, "{:?}", receiver.events());
    let body = received[3].json();
    assert_eq!((&body["event"], &body["term"]), (&json!("beforePromote"), &json!(term(&bench).0)));
    assert_eq!((&body["callsign"], &body["member"]), (&json!("federation"), &json!("newyork")));
    assert_eq!((&body["namespace"], &body["name"]), (&json!("default"), &json!("newyork")));
    assert_eq!(body["mayRunAt"], json!([]), "nobody else is known");
    assert_ne!(received[2].json()["deliveryId"], body["deliveryId"], "each round is a delivery");
}

#[tokio::test]
async fn ignored_failures_block_nothing() {
    let bench = bench(true).await;
    let receiver = Receiver::start().await;
    receiver.answers([Answer::Code(500), Answer::Code(500)]);
    let hook = Hook { must_succeed: false, ..receiver.hook() };
    let target = hooks(|_| Some(hook.clone()));
    run(&bench, false, &target, || receiver.received().len() == 2).await;
    assert!(written(&bench) && bench.worker.progress.borrow().hooks.is_empty());
    assert_eq!(receiver.events(), ["beforePromote", "afterPromote"]);
}

#[tokio::test]
async fn attempts_of_one_delivery_are_alike_but_for_the_signature() {
    let mut bench = bench(true).await;
    let key = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "k"}, "data": {"hmac": "aHVudGVyMg=="}});
    bench.maps.lock().unwrap().insert("secret:k".into(), key);
    let receiver = Receiver::start().await;
    receiver.answers([Answer::Code(500), Answer::Code(500)]);
    let secret = Some(KeyRef { name: "k".into(), key: "hmac".into() });
    let hook = Hook { retries: 2, secret, ..receiver.hook() };
    let target = hooks(|point| (point == HookPoint::BeforePromote).then(|| hook.clone()));
    run(&bench, false, &target, || written(&bench)).await;
    let received = receiver.received();
    assert_eq!(received.len(), 3);
    assert!(received.windows(2).all(|pair| pair[0].body == pair[1].body));
    for one in &received {
        let signature = one.header("flagship-signature");
        let time = signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0.parse().unwrap();
        assert_eq!(signature, signature::sign(b"hunter2", time, &one.body));
    }
    while let Ok(happening) = bench.heard.try_recv() {
        assert!(!happening.notice.note.contains("hunter2"), "{}", happening.notice.note);
    }
}

#[tokio::test]
async fn a_key_that_is_not_there_is_named_and_nothing_is_sent() {
    let bench = bench(true).await;
    let receiver = Receiver::start().await;
    let secret = Some(KeyRef { name: "k".into(), key: "hmac".into() });
    let hook = Hook { secret, ..receiver.hook() };
    let target = hooks(|point| (point == HookPoint::BeforePromote).then(|| hook.clone()));
    let over = CancellationToken::new();
    bench.worker.be_running(term(&bench), false, &target, &over, &mut None).await;
    let told = bench.worker.progress.borrow().hooks[&HookPoint::BeforePromote].clone();
    assert!(told.contains("Secret default/k does not exist"), "{told}");
    assert!(receiver.received().is_empty() && !written(&bench));
}

#[tokio::test]
async fn a_payload_that_runs_already_is_not_promoted_again() {
    let bench = bench(true).await;
    let receiver = Receiver::start().await;
    run(&bench, false, &target(GOOD), || ready(&bench)).await;
    // As after a restart: another process, the same cluster.
    bench.worker.note_told(|told| *told = Told::default());
    let target = hooks(|_| Some(receiver.hook()));
    run(&bench, true, &target, || ready(&bench)).await;
    assert_eq!(receiver.events(), [""; 0]);
    // A lead that was blocked before its restart has nothing here yet, and asks.
    bench.worker.note_told(|told| *told = Told::default());
    bench.worker.tracker.send_modify(|progress| progress.inventory = flagship_payload::Inventory::default());
    run(&bench, true, &target, || !receiver.events().is_empty()).await;
    assert_eq!(receiver.received()[0].json()["event"], "beforePromote");
}

#[tokio::test]
async fn what_an_earlier_lead_left_here_is_no_promotion() {
    let bench = bench(true).await;
    run(&bench, false, &target(GOOD), || ready(&bench)).await;
    // As in a later lead with some of that still here; the hook fails, and then the term is raised.
    bench.worker.note_told(|told| *told = Told::default());
    let receiver = Receiver::start().await;
    receiver.answers([Answer::Code(503), Answer::Code(503)]);
    let target = hooks(|point| (point == HookPoint::BeforePromote).then(|| receiver.hook()));
    let over = CancellationToken::new();
    for resumed in [false, true] {
        let next = bench.worker.be_running(term(&bench), resumed, &target, &over, &mut None).await;
        assert_eq!(next, Next::Retry, "resumed: {resumed}");
        assert!(!bench.worker.told().through);
    }
    run(&bench, true, &target, || bench.worker.told().through).await;
    assert_eq!(receiver.events(), ["beforePromote"; 3]);
}

#[tokio::test]
async fn a_promotion_is_through_once_its_fence_succeeded_or_its_payload_runs() {
    let receiver = Receiver::start().await;
    for must_succeed in [true, false] {
        let bench = bench(true).await;
        let hook = Hook { must_succeed, ..receiver.hook() };
        let target = hooks(|point| (point == HookPoint::BeforePromote).then(|| hook.clone()));
        bench.worker.before_promote(term(&bench), false, &target).await.unwrap();
        assert_eq!(bench.worker.told().through, must_succeed, "what may fail fences nobody off");
        run(&bench, false, &target, || bench.worker.told().through).await;
    }
}

/// A leader whose node gives the lead away, as nobody else is there, for the object's removal.
async fn retiring(target: &Target) -> (Bench, Term) {
    let bench = bench(true).await;
    let term = term(&bench);
    run(&bench, false, target, || ready(&bench)).await;
    bench.worker.node.tell(Command::Retire(ResignReason::Removal)).await;
    let mut directive = bench.worker.node.directive();
    directive.wait_for(|directive| matches!(directive, Directive::Stop { .. })).await.unwrap();
    (bench, term)
}

#[tokio::test]
async fn a_demotion_is_told_before_and_after_and_a_removal_is_not_blocked() {
    let receiver = Receiver::start().await;
    let target = hooks(|_| Some(receiver.hook()));
    let (bench, term) = retiring(&target).await;
    receiver.wait(2).await;
    receiver.answers([Answer::Code(500)]);
    let over = CancellationToken::new();
    bench.worker.stop(term, ResignReason::Removal, &target, &over).await;
    assert!(!written(&bench), "the removal goes on though the hook failed");
    let received = receiver.wait(4).await;
    assert_eq!(receiver.events(), ["beforePromote", "afterPromote", "beforeDemote", "afterDemote"]);
    assert_eq!(received[3].json()["reason"], "Removal");
    assert_eq!(received[3].json()["term"], term.0);
}

#[tokio::test]
async fn a_planned_move_waits_for_the_hook_and_is_refused_by_it() {
    let receiver = Receiver::start().await;
    let target = hooks(|point| (point == HookPoint::BeforeDemote).then(|| receiver.hook()));
    let (bench, term) = retiring(&target).await;
    receiver.answers([Answer::Code(500)]);
    assert!(!bench.worker.before_demote(term, ResignReason::Handover, &target).await);
    assert!(written(&bench));
    // Asked once: a node that cannot call the stop off is not held up again.
    assert!(bench.worker.before_demote(term, ResignReason::Handover, &target).await);
    assert_eq!(receiver.events(), ["beforeDemote"]);
}

#[tokio::test]
async fn a_superseded_leader_never_waits_for_a_hook() {
    let receiver = Receiver::start().await;
    let target = hooks(|point| (point == HookPoint::BeforeDemote).then(|| receiver.hook()));
    let (bench, term) = retiring(&target).await;
    receiver.answers([Answer::Never]);
    let over = CancellationToken::new();
    let began = Instant::now();
    bench.worker.stop(term, ResignReason::Superseded, &target, &over).await;
    assert!(!written(&bench));
    // The hook's own timeout is 5 s.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    receiver.wait(1).await;
}

#[tokio::test]
async fn a_promotion_that_was_blocked_is_not_demoted() {
    let bench = bench(true).await;
    let receiver = Receiver::start().await;
    receiver.answers([Answer::Code(500)]);
    let target = hooks(|_| Some(receiver.hook()));
    let over = CancellationToken::new();
    bench.worker.be_running(term(&bench), false, &target, &over, &mut None).await;
    assert!(bench.worker.before_demote(term(&bench), ResignReason::Unhealthy, &target).await);
    bench.worker.after_demote(term(&bench), ResignReason::Unhealthy, &target, false);
    // What is sent from here on comes after what would have been sent by now.
    bench.worker.note_told(|told| told.promoting = true);
    bench.worker.after_promote(term(&bench), &target);
    receiver.wait(2).await;
    assert_eq!(receiver.events(), ["beforePromote", "afterPromote"]);
}

#[tokio::test]
async fn an_after_hook_that_fails_is_shown_and_ends_with_what_it_was_about() {
    let bench = bench(true).await;
    let receiver = Receiver::start().await;
    receiver.answers([Answer::Code(500)]);
    let target = hooks(|point| {
        matches!(point, HookPoint::AfterPromote | HookPoint::AfterDemote).then(|| receiver.hook())
    });
    let shown = AtomicBool::new(false);
    run(&bench, false, &target, || {
        shown.fetch_or(
            bench.worker.progress.borrow().hooks.contains_key(&HookPoint::AfterPromote),
            Ordering::Relaxed,
        )
    })
    .await;
    assert!(ready(&bench), "the payload runs all the same");
    bench.worker.after_demote(term(&bench), ResignReason::Handover, &target, true);
    receiver.wait(2).await;
    assert_eq!(receiver.events(), ["afterPromote", "afterDemote"]);
    until("nothing is shown any more", || bench.worker.progress.borrow().hooks.is_empty()).await;
}

#[tokio::test]
async fn a_hook_that_does_not_answer_holds_up_no_other_directive() {
    let receiver = Receiver::start().await;
    let target = hooks(|point| (point == HookPoint::BeforeDemote).then(|| receiver.hook()));
    let (bench, term) = retiring(&target).await;
    receiver.answers([Answer::Never]);
    let over = CancellationToken::new();
    let began = Instant::now();
    // The hook's own timeout is 5 s; the lease is lost meanwhile.
    tokio::join!(bench.worker.stop(term, ResignReason::Removal, &target, &over), async {
        receiver.wait(1).await;
        over.cancel();
    });
    assert!(written(&bench) && began.elapsed() < Duration::from_secs(4));
    bench.worker.stop(term, ResignReason::LeaseLost, &target, &CancellationToken::new()).await;
    assert!(!written(&bench) && began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
