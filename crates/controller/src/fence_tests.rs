use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{api_server, refusal};
use crate::ports::NoObserver;

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// What the API server has, and every request for it.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    requests: Vec<String>,
    /// Answers for everything of the group, instead of the right ones.
    refuses: Option<u16>,
}

type Shared = Arc<Mutex<Server>>;

/// A daemon whose token is of this pod.
fn fencing(server: &Shared, holder: &str, pod: Option<&str>) -> Fencing {
    let (server, pod) = (Arc::clone(server), pod.map(str::to_owned));
    let client = api_server(move |method, path, body| {
        if path == REVIEW {
            let extra = pod.iter().map(|pod| (POD_UID.to_owned(), json!([pod])));
            let extra: serde_json::Map<String, Value> = extra.collect();
            let user = json!({"username": "system:serviceaccount:a:b", "extra": extra});
            return (
                201,
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "status": {"userInfo": user}}),
            );
        }
        let mut server = server.lock().unwrap();
        let what = path.strip_prefix(GROUP).expect("nothing else is asked");
        server.requests.push(format!("{method} {what}"));
        if let Some(code) = server.refuses {
            return refusal(code, "Refused");
        }
        match method {
            "PATCH" => {
                server.objects.insert(what.into(), body.clone());
                (200, body)
            }
            "DELETE" => match server.objects.remove(what) {
                Some(_) => (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
                None => refusal(404, "NotFound"),
            },
            _ => server
                .objects
                .get(what)
                .map_or_else(|| refusal(404, "NotFound"), |object| (200, object.clone())),
        }
    });
    let identity = Identity {
        namespace: "default".into(),
        name: "newyork".into(),
        uid: "u".into(),
        member: "newyork".parse().unwrap(),
    };
    Fencing { client, caller: Caller::new(Arc::new(NoObserver)), identity, holder: holder.into() }
}

fn requests(server: &Shared) -> Vec<String> {
    std::mem::take(&mut server.lock().unwrap().requests)
}

const POLICY: &str = "/validatingadmissionpolicies/flagship.default.newyork";
const BINDING: &str = "/validatingadmissionpolicybindings/flagship.default.newyork";

#[tokio::test]
async fn policy_before_binding_and_the_other_way_round() {
    let server = Shared::default();
    let fencing = fencing(&server, "pod-1", Some("pod-1"));
    assert_eq!(fencing.put_up().await, Ok(Fence::Up { tells_processes: true }));
    assert_eq!(requests(&server), [format!("PATCH {POLICY}"), format!("PATCH {BINDING}")]);
    fencing.take_down().await.unwrap();
    let down = [format!("GET {BINDING}"), format!("DELETE {BINDING}"), format!("DELETE {POLICY}")];
    assert_eq!(requests(&server), down);
    assert!(server.lock().unwrap().objects.is_empty());
    fencing.take_down().await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_would_lock_itself_out_does_not() {
    let server = Shared::default();
    let outside = fencing(&server, "host/1", None).put_up().await;
    assert_eq!(outside, Ok(Fence::Up { tells_processes: false }));
    requests(&server);
    let misnamed = fencing(&server, "host/1", Some("pod-1")).put_up().await;
    assert!(
        matches!(&misnamed, Err(Fence::Missing { reason: "HolderUnknown", message }) if message.contains("POD_UID"))
    );
    assert!(requests(&server).is_empty(), "nothing was written");
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_do() {
    let server = Shared::default();
    let fencing = fencing(&server, "pod-1", Some("pod-1"));
    let says = async |code| {
        server.lock().unwrap().refuses = Some(code);
        match fencing.put_up().await {
            Err(Fence::Missing { reason, message }) => (reason, message),
            other => panic!("{other:?}"),
        }
    };
    let (reason, message) = says(403).await;
    assert_eq!(reason, "Forbidden");
    assert!(message.contains("kubectl apply -f deploy/extra/fencing.yaml"), "{message}");
    assert_eq!(says(404).await.0, "NotServed");
    assert_eq!(says(500).await.0, "NotYet");
    // Who may not know has none to take down, and an object that goes is not held up by it.
    server.lock().unwrap().refuses = Some(403);
    fencing.take_down().await.unwrap();
    server.lock().unwrap().refuses = Some(500);
    assert!(fencing.take_down().await.is_err(), "it may be there");
}

#[tokio::test(start_paused = true)]
async fn it_follows_the_wish_and_comes_up_when_the_rights_do() {
    let server = Shared::default();
    let fencing = fencing(&server, "pod-1", Some("pod-1"));
    let renewed = watch::Sender::new(Some(flagship_node::boot_now() + Duration::from_secs(3600)));
    let (wish, told) = (watch::Sender::new(true), watch::Sender::new(Fence::Pending));
    let (keep, mut seen) =
        (fencing.keep(LeaseWatch::of(&renewed), wish.subscribe(), told.clone()), told.subscribe());
    server.lock().unwrap().refuses = Some(403);
    let story = async {
        seen.wait_for(|state| matches!(state, Fence::Missing { reason: "Forbidden", .. })).await.unwrap();
        server.lock().unwrap().refuses = None;
        seen.wait_for(|state| matches!(state, Fence::Up { .. })).await.unwrap();
        wish.send_replace(false);
        seen.wait_for(|state| *state == Fence::Off).await.unwrap();
        assert!(server.lock().unwrap().objects.is_empty());
    };
    tokio::select! {
        () = keep => panic!("it goes on as long as it is wanted"),
        told = tokio::time::timeout(Duration::from_secs(120), story) => told.expect("in time"),
    }
}
