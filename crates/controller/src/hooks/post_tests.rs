//! Against a real server.

use super::*;
use crate::hooks::delivery::Occasion;
use crate::hooks::receiver::{Answer, Receiver};
use flagship_k8s_api::HookPoint;

fn delivery() -> Delivery {
    let occasion = Occasion {
        callsign: "federation".into(),
        member: "newyork".into(),
        event: "beforePromote",
        term: 8,
        reason: "Failover",
        predecessor: Some("sheffield".into()),
        successor: None,
        may_run_at: None,
        namespace: "default".into(),
        name: "newyork".into(),
    };
    Delivery::new(HookPoint::BeforePromote, &occasion)
}

async fn try_once(receiver: &Receiver, answer: Answer) -> Result<(), PostError> {
    receiver.answers([answer]);
    let hook = Hook { timeout: Duration::from_millis(500), ..receiver.hook() };
    post(&hook, &delivery(), None).await
}

#[tokio::test]
async fn a_delivery_is_a_signed_post_of_its_body() {
    let receiver = Receiver::start().await;
    let delivery = delivery();
    post(&receiver.hook(), &delivery, Some(b"topsecret")).await.unwrap();
    let received = &receiver.received()[0];
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/hook?token=hunter2"));
    assert_eq!(received.body, delivery.body);
    assert_eq!(received.header("content-type"), "application/json");
    assert_eq!(received.header("flagship-event"), "beforePromote");
    assert_eq!(received.header("flagship-delivery"), received.json()["deliveryId"]);
    // As a receiver checks it.
    let signature = received.header("flagship-signature");
    let time: i64 = signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0.parse().unwrap();
    assert!((Timestamp::now().as_second() - time).abs() <= 5);
    assert_eq!(signature, signature::sign(b"topsecret", time, &received.body));
    post(&receiver.hook(), &delivery, None).await.unwrap();
    assert!(!receiver.received()[1].headers.contains_key("flagship-signature"), "only with a key");
}

#[tokio::test]
async fn anything_but_success_is_a_failure_that_tells_no_secret() {
    let receiver = Receiver::start().await;
    let cases = [
        (Answer::Code(500), "answered 500 Internal Server Error: the node is still up"),
        (Answer::Code(404), "answered 404 Not Found"),
        (Answer::Elsewhere, "redirects are not followed"),
        (Answer::Never, "did not answer within 500ms"),
        (Answer::Endless(503), "answered 503"),
    ];
    for (at, (answer, says)) in cases.into_iter().enumerate() {
        let error = try_once(&receiver, answer).await.unwrap_err().to_string();
        assert!(error.contains(says), "{answer:?}: {error}");
        assert!(error.contains("http://localhost:") && !error.contains("hunter2"), "{error}");
        assert_eq!(receiver.received().len(), at + 1, "no second request, as after a redirect");
    }
    for answer in [Answer::Code(204), Answer::Endless(200)] {
        try_once(&receiver, answer).await.unwrap();
    }
}

#[tokio::test]
async fn who_does_not_listen_is_named() {
    let gone = Receiver::start().await;
    let hook = gone.hook();
    drop(gone);
    let error = post(&hook, &delivery(), None).await.unwrap_err();
    let PostError::Connection { server, error } = error else { panic!("{error}") };
    assert!(server.starts_with("http://localhost:") && error.contains("refused"), "{server} {error}");
}

#[tokio::test]
async fn a_server_is_believed_by_the_bundle_given_and_by_no_other() {
    let receiver = Receiver::start_tls().await;
    post(&receiver.hook(), &delivery(), None).await.unwrap();
    let other = Receiver::start_tls().await;
    for ca_bundle in [other.ca.clone(), None] {
        let error = post(&Hook { ca_bundle, ..receiver.hook() }, &delivery(), None).await.unwrap_err();
        // Without a bundle: either the system's authorities do not know it, or there are none.
        let told = error.to_string();
        assert!(told.contains("certificate"), "{told}");
    }
    assert_eq!(receiver.received().len(), 1, "nothing was sent to a stranger");
    let ca_bundle = Some("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----".into());
    let error = post(&Hook { ca_bundle, ..receiver.hook() }, &delivery(), None).await.unwrap_err();
    assert!(matches!(&error, PostError::Unusable(why) if why.starts_with("caBundle: ")), "{error}");
}
