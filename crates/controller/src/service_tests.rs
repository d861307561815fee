use serde_json::{Value, json};

use super::*;
use crate::fixtures::{Services, put, refusal, service, service_api};

fn followed() -> Followed {
    Followed::new(&ServiceKey { namespace: Some("system".into()), name: "front".into() }, "default", 9990)
}

fn parsed(value: Value) -> Service {
    serde_json::from_value(value).unwrap()
}

/// What is known after this Service was seen, with nothing known before.
fn fresh(value: Value) -> Sight {
    read(&followed(), Some(&parsed(value)), &Sight::default())
}

fn found(ports: Value, ingress: Value) -> Option<String> {
    fresh(service("LoadBalancer", ports, ingress)).address.map(|address| address.to_string())
}

fn trouble(sight: &Sight) -> (bool, &'static str, &str) {
    let trouble = sight.trouble.as_ref().expect("trouble");
    (trouble.stalled, trouble.reason, &trouble.message)
}

#[test]
fn addresses_are_ipv4_ipv6_or_names() {
    let ports = || json!([{"port": 9990}]);
    let of = |ingress| found(ports(), ingress).unwrap();
    assert_eq!(of(json!([{"ip": "172.18.100.100"}])), "172.18.100.100:9990");
    assert_eq!(of(json!([{"ip": "2001:db8::1"}])), "[2001:db8::1]:9990");
    assert_eq!(of(json!([{"hostname": "lb-1.example.com"}])), "lb-1.example.com:9990");
    assert_eq!(of(json!([{"ip": "", "hostname": "lb-1.example.com"}])), "lb-1.example.com:9990");
    assert_eq!(of(json!([{"ip": "10.0.0.1", "hostname": "lb-1.example.com"}])), "10.0.0.1:9990");
    assert_eq!(of(json!([{}, {"ip": "10.0.0.2"}])), "10.0.0.2:9990", "an empty entry says nothing");
    assert_eq!(found(ports(), json!([{"hostname": "not a name"}])), None);
}

#[test]
fn of_several_addresses_the_one_in_use_stays() {
    let with = |ips: [&str; 2]| {
        let ingress = json!([{"ip": ips[0]}, {"ip": ips[1]}]);
        parsed(service("LoadBalancer", json!([{"port": 9990}]), ingress))
    };
    let first = read(&followed(), Some(&with(["10.0.0.1", "10.0.0.2"])), &Sight::default());
    assert_eq!(first.address.as_ref().unwrap().host(), "10.0.0.1");
    assert_eq!(read(&followed(), Some(&with(["10.0.0.2", "10.0.0.1"])), &first), first);
    let moved = read(&followed(), Some(&with(["10.0.0.2", "10.0.0.3"])), &first);
    assert_eq!(moved.address.unwrap().host(), "10.0.0.2");
}

#[test]
fn the_port_that_leads_to_the_daemon_is_found() {
    let of = |ports| found(ports, json!([{"ip": "10.0.0.1"}]));
    let is = |port: u16| Some(format!("10.0.0.1:{port}"));
    let web = || json!({"name": "web", "port": 80, "targetPort": 8080});
    assert_eq!(of(json!([web(), {"port": 443, "targetPort": 9990}])), is(443));
    assert_eq!(of(json!([web(), {"port": 443, "targetPort": "fleet"}])), is(443));
    assert_eq!(of(json!([web(), {"name": "fleet", "port": 443, "targetPort": "f"}])), is(443));
    assert_eq!(of(json!([web(), {"port": 9990, "targetPort": "f"}])), is(9990));
    assert_eq!(of(json!([{"port": 9990, "targetPort": 1}, {"port": 443, "targetPort": 9990}])), is(443));
    assert_eq!(of(json!([{"port": 443, "targetPort": "x"}])), is(443), "the only one");
    for elsewhere in [
        json!({"port": 443, "targetPort": 8443}),
        json!({"port": 443}),
        json!({"port": 9991, "targetPort": 9991}),
    ] {
        assert_eq!(
            of(json!([elsewhere])),
            None,
            "it says in numbers that it leads to somebody else: {elsewhere}"
        );
    }
    let udp = json!({"port": 9990, "targetPort": 9990, "protocol": "UDP"});
    assert_eq!(of(json!([udp, {"port": 443, "targetPort": "x", "protocol": "TCP"}])), is(443));
}

#[test]
fn ports_that_say_nothing_are_named() {
    let ports = json!([{"name": "web", "port": 80, "targetPort": 8080}, {"port": 9990, "targetPort": 1}]);
    let sight = fresh(service("LoadBalancer", ports, json!([{"ip": "10.0.0.1"}])));
    let (stalled, reason, message) = trouble(&sight);
    assert_eq!((stalled, reason, &sight.address), (true, "ServicePorts", &None));
    assert!(
        message.contains("web 80/TCP to 8080, 9990/TCP to 1") && message.contains("targetPort 9990"),
        "{message}"
    );
    let none = fresh(service("LoadBalancer", json!([]), json!([])));
    assert!(trouble(&none).2.contains("no ports"));
    let many: Vec<_> = (1..20).map(|n| json!({"port": n, "targetPort": 1})).collect();
    assert!(trouble(&fresh(service("LoadBalancer", json!(many), json!([])))).2.contains("and 14 more"));
}

#[test]
fn only_load_balancers_have_an_address_for_others() {
    for kind in ["ClusterIP", "NodePort", "ExternalName"] {
        let mut value = service(kind, json!([{"port": 9990}]), json!([]));
        value["spec"]["externalIPs"] = json!(["172.18.100.100"]);
        let sight = fresh(value);
        let (stalled, reason, message) = trouble(&sight);
        assert_eq!((stalled, reason, &sight.address), (true, "ServiceType", &None));
        assert!(
            message.contains(kind) && message.contains("externalIPs") && message.contains("system/front")
        );
    }
}

#[test]
fn a_pending_one_is_waited_for_and_a_lost_address_is_kept() {
    let pending = || service("LoadBalancer", json!([{"port": 9990}]), json!([]));
    let waiting = fresh(pending());
    let (stalled, reason, message) = trouble(&waiting);
    assert_eq!((stalled, reason), (false, "NoServiceAddress"));
    assert_eq!(
        message,
        "Service system/front has no LoadBalancer address yet; other members cannot dial this one, it dials them"
    );
    let known = fresh(service("LoadBalancer", json!([{"port": 9990}]), json!([{"ip": "10.0.0.1"}])));
    assert_eq!(known.trouble, None);
    let missing = read(&followed(), None, &known);
    let lost = read(&followed(), Some(&parsed(pending())), &missing);
    for (sight, stalled, reason) in [(&missing, true, "ServiceMissing"), (&lost, false, "NoServiceAddress")] {
        assert_eq!(sight.address, known.address);
        let said = trouble(sight);
        assert_eq!((said.0, said.1), (stalled, reason));
        assert!(
            said.2.ends_with("other members are still told its last address, 10.0.0.1:9990"),
            "{}",
            said.2
        );
    }
    assert!(trouble(&lost).2.contains("has lost its LoadBalancer address"));
}

#[test]
fn the_objects_own_namespace_is_the_default() {
    let key = ServiceKey { namespace: None, name: "front".into() };
    assert_eq!(Followed::new(&key, "default", 9990).to_string(), "Service default/front");
}

/// The next thing that is known.
async fn next(watch: &mut ServiceWatch) -> Sight {
    watch.changed().await;
    watch.read().1
}

#[tokio::test(start_paused = true)]
async fn a_service_is_followed_from_before_it_exists_until_after_it_is_gone() {
    let services = Services::new((1, None));
    let mut watch = ServiceWatch::start(service_api(&services), followed());
    watch.first_look().await;
    let missing = watch.read().1;
    assert_eq!((missing.address, watch.trouble().unwrap().reason), (None, "ServiceMissing"));
    let with = |ingress| Some(service("LoadBalancer", json!([{"port": 9990}]), ingress));
    put(&services, with(json!([])));
    assert_eq!(trouble(&next(&mut watch).await).1, "NoServiceAddress");
    put(&services, with(json!([{"ip": "10.0.0.1"}])));
    let first = next(&mut watch).await;
    assert_eq!((first.address.unwrap().host(), first.trouble), ("10.0.0.1", None));
    put(&services, with(json!([{"ip": "10.0.0.2"}])));
    assert_eq!(next(&mut watch).await.address.unwrap().host(), "10.0.0.2");
    put(&services, None);
    let gone = next(&mut watch).await;
    assert_eq!((gone.address.as_ref().unwrap().host(), trouble(&gone).1), ("10.0.0.2", "ServiceMissing"));
}

#[tokio::test(start_paused = true)]
async fn missing_rights_are_named_and_a_mute_server_is_not_waited_for() {
    let client = crate::fixtures::api_server(|_, _, _| refusal(403, "Forbidden"));
    let mut watch = ServiceWatch::start(client, followed());
    watch.first_look().await;
    let sight = watch.read().1;
    let (stalled, reason, message) = trouble(&sight);
    assert_eq!((stalled, reason), (true, "ServiceForbidden"));
    assert!(message.contains("because Forbidden") && message.contains("get, list and watch on services"));

    let client = crate::fixtures::api_server(|_, _, _| refusal(503, "Unavailable"));
    let mut watch = ServiceWatch::start(client, followed());
    let begin = tokio::time::Instant::now();
    watch.first_look().await;
    assert_eq!((begin.elapsed(), watch.read().1), (FIRST_LOOK, Sight::default()));
}
