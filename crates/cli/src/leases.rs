//! The Leases that daemons renew, and whether they still do: by looking at them again, not by comparing clocks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flagship_k8s_api::{MultiCluster, lease_name};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ObjectList;
use kube::client::Body;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::liveness::{Reading, Renewal, Sign, judge};

/// Where `deploy/install.yaml` runs the daemon and keeps its Leases.
pub(crate) const HOME: &str = "kube-vip-multi-cluster-system";
/// Leases asked for per cluster, one request each: more members than that are judged by what others say of them.
pub(crate) const MAX_LEASES: usize = 32;
/// A daemon renews its Lease every 0.5 s, and others may take it when it was not renewed for 2 s.
const EXPIRED_AFTER: Duration = Duration::from_secs(2);
/// Between two looks at a Lease that seems old.
const LOOK_AGAIN: Duration = Duration::from_millis(1200);
/// Looks at one Lease: the last is more than [`EXPIRED_AFTER`] after the first.
const MAX_LOOKS: usize = 3;
/// Between these ages a Lease is taken as renewed without a second look. Below zero, as a Date has whole seconds.
const FRESH_SECONDS: std::ops::RangeInclusive<f64> = -1.0..=1.5;

/// By namespace and name: a version, and when it was seen first.
type Versions = BTreeMap<(String, String), (String, Instant)>;

/// Which Leases were seen so far, in which version; between the pictures of `status -w` nothing has to be waited for.
#[derive(Clone, Default)]
pub(crate) struct Sightings(Arc<Mutex<Versions>>);

impl Sightings {
    /// What this reading, asked for at `asked` and there now, tells beside those before it.
    fn sign(&self, lease: (String, String), version: &str, asked: Instant, fresh: bool) -> Sign {
        // What a panicking thread may have left is still a sighting.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(&lease) {
            Some((before, since)) if before == version => {
                let expired = asked.saturating_duration_since(*since) >= EXPIRED_AFTER;
                return if expired { Sign::Expired } else { known(fresh) };
            }
            Some(_) => {
                seen.insert(lease, (version.into(), Instant::now()));
                return Sign::Renewed;
            }
            None => {}
        }
        // One cluster's members, at most as many as are asked about; stale ones of other namespaces beside them.
        if seen.len() < MAX_LEASES * MAX_LEASES {
            seen.insert(lease, (version.into(), Instant::now()));
        }
        known(fresh)
    }
}

fn known(fresh: bool) -> Sign {
    if fresh { Sign::Renewed } else { Sign::Open }
}

/// What the Leases of one member tell.
pub(crate) struct Told {
    pub(crate) renewal: Renewal,
    /// Where its daemon keeps its Lease; `None`: not known.
    pub(crate) namespace: Option<String>,
}

impl Told {
    pub(crate) fn nothing() -> Self {
        Self { renewal: Renewal::Unknown, namespace: None }
    }
}

/// Looks at a member's Lease until it is clear whether it is renewed: at once, or after 2.4 s.
pub(crate) async fn look(cluster: &Cluster, object: &MultiCluster) -> Told {
    let holder = object.status.as_ref().and_then(|status| status.holder.as_deref());
    let mut told = Told::nothing();
    for look in 0..MAX_LOOKS {
        if look > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let (readings, everywhere) = read(cluster, object).await;
        let newest =
            readings.iter().max_by_key(|reading| (Some(reading.holder.as_str()) == holder, reading.renewed));
        told.namespace = newest.map(|reading| reading.namespace.clone());
        if let Some(renewal) = judge(&readings, holder, everywhere) {
            told.renewal = renewal;
            break;
        }
    }
    told
}

/// The Leases of a member, and whether that is all of them: `run --lease-namespace` may have put it anywhere, and not
/// everybody may look everywhere.
async fn read(cluster: &Cluster, object: &MultiCluster) -> (Vec<Reading>, bool) {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = lease_name(namespace, object.metadata.name.as_deref().unwrap_or_default());
    if let Some(readings) = list(cluster, "", &name).await {
        return (readings, true);
    }
    let mut readings = Vec::new();
    let own = (namespace != HOME).then_some(namespace);
    for namespace in own.into_iter().chain([HOME]) {
        let there = list(cluster, &format!("namespaces/{namespace}/"), &name).await;
        readings.extend(there.unwrap_or_default());
    }
    (readings, false)
}

/// `None`: they may not be read there.
async fn list(cluster: &Cluster, place: &str, name: &str) -> Option<Vec<Reading>> {
    let path = format!(
        "/apis/coordination.k8s.io/v1/{place}leases?fieldSelector=metadata.name%3D{name}&limit={MAX_LEASES}"
    );
    let request = http::Request::get(path).body(Body::empty()).ok()?;
    let asked = Instant::now();
    let read = async {
        let response = cluster.client.send(request).await?;
        let answered = response.status().is_success();
        let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        let body = response.into_body().collect_bytes().await?;
        Ok((answered, date, body))
    };
    let (answered, date, body) = cluster.call(read).await.ok()?;
    let leases: ObjectList<Lease> = answered.then(|| serde_json::from_slice(&body).ok()).flatten()?;
    let now = date.unwrap_or_else(Timestamp::now);
    let readings = leases.items.into_iter().filter_map(|lease| {
        let spec = lease.spec?;
        let renewed = spec.renew_time.map(|time| time.0);
        let fresh =
            renewed.is_some_and(|renewed| FRESH_SECONDS.contains(&now.duration_since(renewed).as_secs_f64()));
        let namespace = lease.metadata.namespace.unwrap_or_default();
        let version = lease.metadata.resource_version?;
        let sign = cluster.sightings.sign((namespace.clone(), name.into()), &version, asked, fresh);
        Some(Reading { namespace, holder: spec.holder_identity.unwrap_or_default(), renewed, sign })
    });
    Some(readings.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::Json;
    use axum::extract::RawQuery;
    use axum::http::StatusCode;
    use axum::routing::get;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::testing::cluster_at;

    /// An API server at 03:00:00 with one MultiCluster, written to by `x`, and this Lease in the places given. The Lease
    /// is renewed once for every `every` times that it is read; 0: not any more.
    async fn served(places: &[&str], lease: Value, every: u64) -> (Renewal, Option<String>) {
        let reads = Arc::new(AtomicU64::new(0));
        let object = json!({"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiCluster",
            "metadata": {"name": "newyork", "namespace": "default"}, "spec": {"port": 9990, "rank": 5},
            "status": {"holder": "x"}});
        let objects = json!({"apiVersion": "kube-vip.io/v1alpha1", "kind": "MultiClusterList", "metadata": {}, "items": [object]});
        let mut router = axum::Router::new()
            .route(
                "/apis/kube-vip.io/v1alpha1/namespaces/default/multiclusters",
                get(async move || Json(objects)),
            )
            .fallback(async || StatusCode::FORBIDDEN);
        for place in places {
            let (reads, lease) = (Arc::clone(&reads), lease.clone());
            let list = move |RawQuery(query): RawQuery| {
                let query = query.unwrap_or_default();
                assert!(
                    query.starts_with("fieldSelector=metadata.name%3Dflagship.default.newyork&"),
                    "{query}"
                );
                let mut lease = lease.clone();
                let version = reads.fetch_add(1, Ordering::Relaxed).checked_div(every).unwrap_or_default();
                lease["metadata"]["resourceVersion"] = json!(version.to_string());
                let leases = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {}, "items": [lease]});
                async move { ([("date", "Sun, 01 Mar 2026 03:00:00 GMT")], Json(leases)) }
            };
            router = router.route(&format!("/apis/coordination.k8s.io/v1/{place}leases"), get(list));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut members = cluster_at(&format!("http://{address}")).members().await.unwrap();
        assert_eq!(members.len(), 1);
        let told = members.remove(0).lease;
        (told.renewal, told.namespace)
    }

    fn lease(namespace: &str, holder: &str, renewed: &str) -> Value {
        json!({"metadata": {"name": "flagship.default.newyork", "namespace": namespace},
            "spec": {"holderIdentity": holder, "renewTime": format!("2026-03-01T{renewed}Z")}})
    }

    fn old(renewed: &str) -> Renewal {
        Renewal::Old(Some(format!("2026-03-01T{renewed}Z").parse().unwrap()))
    }

    const EVERYWHERE: &[&str] = &[""];
    const OWN: &[&str] = &["namespaces/default/"];
    const INSTALLED: &[&str] = &["namespaces/kube-vip-multi-cluster-system/"];

    #[tokio::test]
    async fn a_lease_is_found_where_it_is() {
        for (places, namespace) in [(EVERYWHERE, "default"), (OWN, "default"), (INSTALLED, HOME)] {
            let (renewal, found) = served(places, lease(namespace, "x", "02:59:59.500000"), 0).await;
            assert_eq!((renewal, found.as_deref()), (Renewal::Recent, Some(namespace)));
        }
        let (renewal, found) = served(EVERYWHERE, json!("garbage"), 0).await;
        assert_eq!((renewal, found), (Renewal::Unknown, None));
        let (renewal, _) = served(&[], Value::Null, 0).await;
        assert_eq!(renewal, Renewal::Unknown);
    }

    #[tokio::test]
    async fn clocks_that_differ_kill_nobody_and_raise_nobody() {
        // Behind by 4 s, ahead by 60 s; renewed in time, and slowly as by a slow API server; not renewed.
        let behind = || lease("default", "x", "02:59:56.000000");
        let ahead = || lease("default", "x", "03:01:00.000000");
        let all = tokio::join!(
            served(EVERYWHERE, behind(), 1),
            served(EVERYWHERE, behind(), 2),
            served(EVERYWHERE, ahead(), 1),
            served(EVERYWHERE, behind(), 0),
            served(EVERYWHERE, ahead(), 0),
            served(OWN, ahead(), 0),
        );
        assert_eq!((all.0.0, all.1.0, all.2.0), (Renewal::Recent, Renewal::Recent, Renewal::Recent));
        assert_eq!((all.3.0, all.4.0, all.5.0), (old("02:59:56"), old("03:01:00"), old("03:01:00")));
    }

    #[tokio::test]
    async fn a_lease_of_another_holder_tells_nothing_of_this_one() {
        // Left behind by a daemon of long ago, while the one that runs keeps its own where nobody may look.
        let stale = || lease("default", "w", "02:30:00.000000");
        let all = tokio::join!(
            served(OWN, stale(), 0),
            served(EVERYWHERE, stale(), 0),
            served(OWN, lease("default", "y", "02:59:59.500000"), 1),
            served(EVERYWHERE, lease("default", "", "02:30:00.000000"), 0),
            served(OWN, lease("default", "", "02:30:00.000000"), 0),
        );
        assert_eq!((all.0.0, all.1.0), (Renewal::Unknown, old("02:30:00")));
        assert_eq!(all.2.0, Renewal::TakenOver);
        let Renewal::Stopped(Some(_)) = all.3.0 else { panic!("{:?}", all.3.0) };
        assert_eq!(all.4.0, Renewal::Unknown, "the daemon may keep its Lease elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn from_the_second_picture_on_nothing_is_waited_for() {
        let seen = Sightings::default();
        let lease = || (String::from("default"), String::from("l"));
        assert_eq!(seen.sign(lease(), "1", Instant::now(), false), Sign::Open);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(seen.sign(lease(), "2", Instant::now(), false), Sign::Renewed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(seen.sign(lease(), "2", Instant::now(), true), Sign::Renewed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Whatever the clocks say.
        assert_eq!(seen.sign(lease(), "2", Instant::now(), true), Sign::Expired);
    }
}
