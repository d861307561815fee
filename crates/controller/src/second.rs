//! A second replica: it says on which node it waits for the Lease, and the one that acts knows whether it is there.
//!
//! One on the same node takes over when the one that acts ends in order, but what is lost with a node is lost with both
//! replicas on it. So one on another node takes the place of one that is not.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::lease::{Holder, LocalLease, Timing, node_of};
use crate::request::{Caller, Verb};

/// Two renewals may be lost. Not as often as the Lease itself: nothing but a condition depends on it.
pub(crate) const TIMING: Timing =
    Timing { duration: Duration::from_secs(6), renewal: Duration::from_secs(2) };

/// Whether another replica is ready to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Second {
    /// None.
    Missing {
        /// Where this replica runs.
        here: String,
    },
    /// There is one on another node.
    On {
        /// Where.
        node: String,
    },
    /// There is one, on this node as far as is known: it relieves this one and is lost with it.
    Beside {
        /// Where this replica runs, if it knows.
        here: Option<String>,
    },
    /// None, and this replica does not know where it runs itself.
    Unknown,
}

/// Says, for as long as it is polled, that this replica waits, once another one is seen to act.
pub(crate) async fn wait_visibly(lease: LocalLease, mut active: watch::Receiver<Option<Holder>>) {
    let mut lease = lease.second_to(active.clone());
    if active.wait_for(Option::is_some).await.is_err() {
        // The Lease that is waited for has been taken, and this ends with the wait.
        return std::future::pending().await;
    }
    loop {
        lease.acquire().await;
        let (lost, mut taken) = watch::channel(None);
        let stop = CancellationToken::new();
        let over = async {
            // Fails only if the keeper ended.
            let _ = taken.wait_for(Option::is_some).await;
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
    /// The Lease's version when it was last looked at, empty if there was none. `None`: never looked.
    version: Option<String>,
    /// Whether another one holds it, and where that runs.
    other: Option<Option<String>>,
    /// When another one was last seen to write: what was written before the first look proves nothing.
    alive_at: Option<Instant>,
}

impl Sight {
    fn take(&mut self, lease: Option<&Lease>, own: &str, now: Instant) {
        let other = lease.filter(|lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| !holder.is_empty() && holder != own)
        });
        let version = lease.and_then(ResourceExt::resource_version).unwrap_or_default();
        let changed = self.version.replace(version.clone()).is_some_and(|before| before != version);
        self.other = other.map(node_of);
        if other.is_none() {
            self.alive_at = None;
        } else if changed {
            self.alive_at = Some(now);
        }
    }

    fn judge(&self, here: Option<&String>, now: Instant) -> Second {
        let alive = self.alive_at.is_some_and(|at| now.duration_since(at) < TIMING.duration);
        match (self.other.as_ref().filter(|_| alive), here) {
            (Some(Some(node)), Some(here)) if node != here => Second::On { node: node.clone() },
            (Some(_), here) => Second::Beside { here: here.cloned() },
            (None, here) => at_first(here),
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
        let now = sight.judge(here.as_ref(), Instant::now());
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

    fn active_on(node: &str) -> Option<Holder> {
        Some(Holder { name: "active".into(), node: Some(node.into()) })
    }

    /// A replica that waits on a node while another one acts.
    async fn waits(client: kube::Client, holder: &str, here: &str, active: watch::Receiver<Option<Holder>>) {
        let (api, caller) = (Api::namespaced(client, "default"), Caller::new(Arc::new(NoObserver)));
        let lease = LocalLease::new(api, caller, NAME.into(), holder.into());
        wait_visibly(lease.on(Some(here.to_owned())).timed(TIMING), active).await;
    }

    struct Bench {
        client: kube::Client,
        lease: Arc<Mutex<(u64, Value)>>,
        active: watch::Sender<Option<Holder>>,
        told: watch::Sender<Second>,
    }

    fn bench() -> Bench {
        let lease = Arc::new(Mutex::new((0, Value::Null)));
        Bench {
            client: lease_server(&lease),
            lease,
            active: watch::Sender::new(active_on("n1")),
            told: watch::Sender::new(missing("n1")),
        }
    }

    impl Bench {
        /// Looks as the active replica on n1.
        async fn look_out(&self) -> Infallible {
            let (api, caller) =
                (Api::namespaced(self.client.clone(), "default"), Caller::new(Arc::new(NoObserver)));
            look_out(api, caller, NAME.into(), "active".into(), Some("n1".into()), self.told.clone()).await
        }

        fn waits(&self, holder: &str, here: &str) -> impl Future<Output = ()> + use<> {
            let (client, active) = (self.client.clone(), self.active.subscribe());
            let (holder, here) = (holder.to_owned(), here.to_owned());
            async move { waits(client, &holder, &here, active).await }
        }

        fn holder(&self) -> Value {
            self.lease.lock().unwrap().1["spec"]["holderIdentity"].clone()
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

    fn missing(here: &str) -> Second {
        Second::Missing { here: here.into() }
    }

    fn beside(here: &str) -> Second {
        Second::Beside { here: Some(here.into()) }
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_another_node_is_seen_and_missed_when_it_is_gone() {
        let bench = bench();
        let took = bench.until(bench.waits("waiting", "n2"), |second| *second == on("n2")).await;
        assert!(took <= TIMING.renewal, "one look after it came: {took:?}");
        let nobody = std::future::pending();
        let took = bench.until(nobody, |second| *second == missing("n1")).await;
        assert!(took <= TIMING.duration + TIMING.renewal, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_the_same_node_is_seen_and_counts_less() {
        let bench = bench();
        bench.until(bench.waits("waiting", "n1"), |second| *second == beside("n1")).await;
        assert_eq!(bench.holder(), "waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_visibly_before_another_one_acts() {
        let bench = bench();
        bench.active.send_replace(None);
        let quiet = tokio::time::timeout(Duration::from_secs(60), bench.waits("waiting", "n2"));
        assert!(quiet.await.is_err());
        assert!(bench.lease.lock().unwrap().1.is_null());
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_another_node_takes_the_place_and_keeps_it() {
        let bench = bench();
        let same = bench.waits("same", "n1");
        let later = async {
            let mut told = bench.told.subscribe();
            told.wait_for(|second| *second == beside("n1")).await.unwrap();
            let others = async { tokio::join!(bench.waits("other", "n2"), bench.waits("third", "n3")) };
            let kept = async {
                let seen = told.wait_for(|second| matches!(second, Second::On { .. })).await.unwrap().clone();
                tokio::time::sleep(Duration::from_secs(60)).await;
                assert_eq!(*told.borrow(), seen);
            };
            tokio::select! { _ = others => {}, () = kept => {} }
        };
        tokio::select! {
            () = same => {}
            never = bench.look_out() => match never {},
            all = tokio::time::timeout(Duration::from_secs(120), later) => all.expect("in time"),
        }
        assert_ne!(bench.holder(), "same", "it waits on");
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_of_one_that_acts_by_now_is_free() {
        let bench = bench();
        let _ = tokio::time::timeout(Duration::from_secs(5), bench.waits("active", "n1")).await;
        assert_eq!(bench.holder(), "active", "from before it took over");
        let begin = Instant::now();
        let took = bench.until(bench.waits("next", "n1"), |second| *second == beside("n1")).await;
        assert!(took <= TIMING.renewal && begin.elapsed() < TIMING.duration, "{took:?}");
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
        let _ = tokio::time::timeout(Duration::from_secs(5), bench.waits("waiting", "n2")).await;
        assert_eq!(bench.lease.lock().unwrap().1["metadata"]["annotations"]["kube-vip.io/node"], "n2");
        let quiet = tokio::time::timeout(Duration::from_secs(60), bench.look_out());
        assert!(quiet.await.is_err());
        assert_eq!(*bench.told.borrow(), missing("n1"), "it was never seen to renew");
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
        let (now, n1, n2) = (Instant::now(), "n1".to_owned(), "n2".to_owned());
        let mut sight = Sight::default();
        for version in ["1", "2"] {
            sight.take(Some(&lease("active", version)), "active", now);
        }
        assert_eq!(sight.judge(Some(&n1), now), missing("n1"), "from before it took over");
        assert_eq!(sight.judge(None, now), Second::Unknown);
        sight.take(Some(&lease("other", "3")), "active", now);
        assert_eq!(sight.judge(Some(&n1), now), on("n2"), "it came while this one looked");
        assert_eq!(sight.judge(Some(&n2), now), beside("n2"));
        assert_eq!(sight.judge(None, now), Second::Beside { here: None }, "it relieves, wherever it is");
        assert_eq!(sight.judge(Some(&n1), now + TIMING.duration), missing("n1"), "not renewed");
        assert_eq!(at_first(None), Second::Unknown);
    }
}
