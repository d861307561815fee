//! A second replica: it says on which node it waits for the Lease, and the one that acts knows whether it is there.
//!
//! That counts only on another node than the one that acts. What is lost with a node is lost with both replicas on it.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::lease::{LocalLease, Timing, node_of};
use crate::request::{Caller, Verb};

/// Two renewals may be lost. Not as often as the Lease itself: nothing but a condition depends on it.
pub(crate) const TIMING: Timing =
    Timing { duration: Duration::from_secs(6), renewal: Duration::from_secs(2) };

/// Whether another replica is ready to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Second {
    /// None, on another node than this one.
    Missing {
        /// Where this replica runs.
        here: String,
    },
    /// There is one.
    On {
        /// Where.
        node: String,
    },
    /// This replica does not know where it runs itself.
    Unknown,
}

/// Says, for as long as it is polled, that this replica waits here, if the one that acts is `elsewhere`.
pub(crate) async fn wait_visibly(
    mut lease: LocalLease,
    here: Option<String>,
    mut elsewhere: watch::Receiver<Option<String>>,
) {
    let apart = |node: &Option<String>| here.is_some() && node.is_some() && *node != here;
    loop {
        if elsewhere.wait_for(apart).await.is_err() {
            // The Lease that is waited for has been taken, and this ends with the wait.
            return std::future::pending().await;
        }
        tokio::select! {
            () = lease.acquire() => {}
            _ = elsewhere.wait_for(|node| !apart(node)) => continue,
        }
        let (lost, mut taken) = watch::channel(None);
        let stop = CancellationToken::new();
        let over = async {
            tokio::select! {
                _ = taken.wait_for(Option::is_some) => {}
                _ = elsewhere.wait_for(|node| !apart(node)) => {}
            }
            stop.cancel();
        };
        (lease, ()) = tokio::join!(lease.keep(lost, stop.clone()), over);
    }
}

/// Leaves the place of who waits to another replica, now that this one acts. It would be kept free until it runs out, and
/// meanwhile nobody would know of the one that waits.
pub(crate) async fn make_room(mut lease: LocalLease) {
    lease.look().await;
    if lease.is_ours() {
        lease.release().await;
    }
}

/// Removes what a second replica said of itself: the member is no more.
pub(crate) async fn forget(mut lease: LocalLease) {
    lease.look().await;
    lease.remove().await;
}

/// What was seen of another replica.
#[derive(Default)]
struct Sight {
    version: Option<String>,
    node: Option<String>,
    /// When it was last seen to change: what was written once and is not renewed proves nothing.
    alive_at: Option<Instant>,
}

impl Sight {
    fn take(&mut self, lease: Option<&Lease>, own: &str, now: Instant) {
        let other = lease.filter(|lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| !holder.is_empty() && holder != own)
        });
        let version = other.and_then(ResourceExt::resource_version);
        let node = other.and_then(node_of);
        match (&version, &self.version) {
            (Some(new), Some(old)) if new != old => self.alive_at = Some(now),
            (Some(_), Some(_)) => {}
            (None, _) | (_, None) => self.alive_at = None,
        }
        (self.version, self.node) = (version, node);
    }

    fn judge(&self, here: &str, now: Instant) -> Second {
        let alive = self.alive_at.is_some_and(|at| now.duration_since(at) < TIMING.duration);
        match self.node.as_ref().filter(|node| alive && *node != here) {
            Some(node) => Second::On { node: node.clone() },
            None => Second::Missing { here: here.into() },
        }
    }
}

/// Looks for a second replica for as long as it is polled.
pub(crate) async fn look_out(
    api: Api<Lease>,
    caller: Caller,
    name: String,
    own: String,
    here: Option<String>,
    told: watch::Sender<Second>,
) -> Infallible {
    let Some(here) = here else { return std::future::pending().await };
    let mut sight = Sight::default();
    let mut due = tokio::time::interval(TIMING.renewal);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let get = async { api.get_opt(&name).await };
        // Not known is not gone; what was seen last grows old.
        if let Ok(lease) = caller.call_within(TIMING.renewal, Verb::Get, get).await {
            sight.take(lease.as_ref(), &own, Instant::now());
        }
        let now = sight.judge(&here, Instant::now());
        told.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
    }
}

/// What is known before anything was looked at.
pub(crate) fn at_first(here: Option<&String>) -> Second {
    here.map_or(Second::Unknown, |here| Second::Missing { here: here.clone() })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::lease::tests::lease_server;
    use crate::ports::NoObserver;

    const NAME: &str = "second.l";

    /// A replica that waits on a node while the active one is on another.
    async fn waits(client: kube::Client, holder: &str, here: &str, active: watch::Receiver<Option<String>>) {
        let (api, caller) = (Api::namespaced(client, "default"), Caller::new(Arc::new(NoObserver)));
        let lease = LocalLease::new(api, caller, NAME.into(), holder.into());
        let here = Some(here.to_owned());
        wait_visibly(lease.on(here.clone()).timed(TIMING), here, active).await;
    }

    struct Bench {
        client: kube::Client,
        lease: Arc<Mutex<(u64, Value)>>,
        active: watch::Sender<Option<String>>,
        told: watch::Sender<Second>,
    }

    fn bench() -> Bench {
        let lease = Arc::new(Mutex::new((0, Value::Null)));
        let missing = Second::Missing { here: "n1".into() };
        Bench {
            client: lease_server(&lease),
            lease,
            active: watch::Sender::new(Some("n1".into())),
            told: watch::Sender::new(missing),
        }
    }

    impl Bench {
        /// Looks as the active replica on n1.
        async fn look_out(&self) -> Infallible {
            let (api, caller) =
                (Api::namespaced(self.client.clone(), "default"), Caller::new(Arc::new(NoObserver)));
            look_out(api, caller, NAME.into(), "active".into(), Some("n1".into()), self.told.clone()).await
        }

        /// With the active one looking, and perhaps somebody waiting, until it is so. Virtual time passed.
        async fn until(&self, waits: impl Future<Output = ()>, so: impl Fn(&Second) -> bool) -> Duration {
            let begin = Instant::now();
            let mut told = self.told.subscribe();
            tokio::select! {
                never = self.look_out() => match never {},
                () = waits => {}
                seen = tokio::time::timeout(Duration::from_secs(60), told.wait_for(|second| so(second))) => {
                    seen.expect("in time").expect("told");
                }
            }
            begin.elapsed()
        }
    }

    fn on(node: &str) -> Second {
        Second::On { node: node.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_another_node_is_seen_and_missed_when_it_is_gone() {
        let bench = bench();
        let waiting = waits(bench.client.clone(), "waiting", "n2", bench.active.subscribe());
        bench.until(waiting, |second| *second == on("n2")).await;
        let nobody = std::future::pending();
        let took = bench.until(nobody, |second| *second == Second::Missing { here: "n1".into() }).await;
        assert!(took <= TIMING.duration + TIMING.renewal, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_the_same_node_does_not_count() {
        let bench = bench();
        let waiting = waits(bench.client.clone(), "waiting", "n1", bench.active.subscribe());
        let quiet = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::join!(waiting, bench.look_out());
        });
        assert!(quiet.await.is_err());
        assert_eq!(*bench.told.borrow(), Second::Missing { here: "n1".into() });
        assert!(bench.lease.lock().unwrap().1.is_null(), "it leaves the place to one on another node");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_acts_now_leaves_its_place_to_the_next() {
        let bench = bench();
        let lease = |holder: &str| {
            let (api, caller) =
                (Api::namespaced(bench.client.clone(), "default"), Caller::new(Arc::new(NoObserver)));
            LocalLease::new(api, caller, NAME.into(), holder.into()).timed(TIMING)
        };
        let waiting = waits(bench.client.clone(), "first", "n2", bench.active.subscribe());
        let _ = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        make_room(lease("other")).await;
        assert_eq!(bench.lease.lock().unwrap().1["spec"]["holderIdentity"], "first", "it is not the other's");
        make_room(lease("first")).await;
        let begin = Instant::now();
        lease("next").acquire().await;
        assert!(begin.elapsed() < TIMING.renewal, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_dead_one_left_does_not_count() {
        let bench = bench();
        let waiting = waits(bench.client.clone(), "waiting", "n2", bench.active.subscribe());
        let _ = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert_eq!(bench.lease.lock().unwrap().1["metadata"]["annotations"]["kube-vip.io/node"], "n2");
        let quiet = tokio::time::timeout(Duration::from_secs(60), bench.look_out());
        assert!(quiet.await.is_err());
        assert_eq!(*bench.told.borrow(), Second::Missing { here: "n1".into() }, "it was never seen to renew");
    }

    #[test]
    fn itself_is_no_second() {
        let lease = |holder: &str, version: &str| -> Lease {
            serde_json::from_value(serde_json::json!({
                "metadata": {"resourceVersion": version, "annotations": {"kube-vip.io/node": "n2"}},
                "spec": {"holderIdentity": holder},
            }))
            .unwrap()
        };
        let now = Instant::now();
        let mut sight = Sight::default();
        for version in ["1", "2"] {
            sight.take(Some(&lease("active", version)), "active", now);
        }
        assert_eq!(sight.judge("n1", now), Second::Missing { here: "n1".into() }, "from before it took over");
        for version in ["3", "4"] {
            sight.take(Some(&lease("other", version)), "active", now);
        }
        assert_eq!(sight.judge("n1", now), on("n2"));
        assert_eq!(sight.judge("n2", now), Second::Missing { here: "n2".into() });
        assert_eq!(at_first(None), Second::Unknown);
    }
}
