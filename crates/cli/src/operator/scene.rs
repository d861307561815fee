//! The fleet that is meant, as the clusters show it, and orders to one of its members.

use std::time::{Duration, Instant};

use flagship_k8s_api::{
    FIELD_MANAGER, MultiCluster, MultiClusterStatus, OperatorOrder, OrderAnswer, PAUSE_ANNOTATION,
    RESUME_ANNOTATION, SWITCHOVER_ANNOTATION,
};
use flagship_types::Callsign;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::args::ClusterArgs;
use crate::cluster::{Cluster, ClusterError, Connection, connect};
use crate::exit::{Exit, Stop};
use crate::status::ask;
use crate::status::view::{FleetView, StatusView};

/// How often a member's status is read while something is waited for.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// A member in a cluster that can be asked.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) cluster: Cluster,
    pub(super) status: MultiClusterStatus,
    pub(super) spec: flagship_k8s_api::MultiClusterSpec,
    /// Its daemon runs, as far as can be told.
    pub(super) alive: bool,
}

/// The fleet that is meant.
pub(super) struct Scene {
    pub(super) view: FleetView,
    pub(super) found: Vec<Found>,
    /// Clusters that could not be asked, with the reason.
    pub(super) unreachable: Vec<(String, String)>,
}

impl Scene {
    pub(super) async fn look(args: &ClusterArgs, fleet: Option<&Callsign>) -> Result<Self, Stop> {
        let connections = connect(args).await;
        let answers = ask(&connections).await;
        let StatusView { fleets, unreachable, .. } = StatusView::new(&answers, Timestamp::now());
        let unreachable: Vec<_> = unreachable.into_iter().map(|one| (one.context, one.reason)).collect();
        let view = choose(fleets, fleet, &unreachable)?;
        let mut found = Vec::new();
        for answer in &answers {
            let Some(cluster) = cluster_of(&connections, &answer.context) else { continue };
            for (object, _) in answer.objects.iter().flatten() {
                if object.spec.callsign.as_deref().unwrap_or_default() == view.callsign {
                    found.push(located(object, cluster, &view));
                }
            }
        }
        Ok(Self { view, found, unreachable })
    }

    /// The member of that name, if its cluster can be asked.
    pub(super) fn find(&self, name: &str) -> Option<&Found> {
        self.found.iter().find(|one| one.name == name)
    }

    /// Who leads, to be told something.
    pub(super) fn leader(&self) -> Result<&Found, Stop> {
        let view = &self.view;
        match view.leaders.as_slice() {
            [one] => self.find(&one.member).ok_or_else(|| self.elsewhere(&one.member)),
            [] => match &view.followed {
                Some(name) => Err(self.elsewhere(name)),
                None => Err(Stop::failure(format!(
                    "nobody leads fleet {}: see what it waits for with: flagship status -w",
                    view.callsign
                ))),
            },
            several => {
                let names: Vec<_> = several.iter().map(|leader| leader.member.as_str()).collect();
                Err(Stop::failure(format!(
                    "{} lead at once: restore the network between them first; they then settle it alone",
                    names.join(" and ")
                )))
            }
        }
    }

    fn elsewhere(&self, leader: &str) -> Stop {
        let mut message = format!(
            "{leader} leads, and its cluster is none of those that were asked: add it with --context"
        );
        for (context, reason) in &self.unreachable {
            message = format!("{message}\n{context}: {reason}");
        }
        let exit = if self.unreachable.is_empty() { Exit::NotFound } else { Exit::Unreachable };
        Stop::new(exit, message)
    }
}

fn cluster_of<'a>(connections: &'a [Connection], context: &str) -> Option<&'a Cluster> {
    connections.iter().find(|(name, _)| name == context).and_then(|(_, cluster)| cluster.as_ref().ok())
}

fn located(object: &MultiCluster, cluster: &Cluster, view: &FleetView) -> Found {
    let name = object.metadata.name.clone().unwrap_or_default();
    let is_it = |context: &Option<String>| context.as_deref() == Some(cluster.context.as_str());
    let row = view.members.iter().find(|row| row.member == name && is_it(&row.context));
    Found {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        cluster: cluster.clone(),
        alive: object.status.is_some() && row.is_some_and(|row| !row.daemon_down),
        status: object.status.clone().unwrap_or_default(),
        spec: object.spec.clone(),
        name,
    }
}

fn choose(
    mut fleets: Vec<FleetView>,
    wanted: Option<&Callsign>,
    unreachable: &[(String, String)],
) -> Result<FleetView, Stop> {
    if let Some(wanted) = wanted {
        fleets.retain(|fleet| fleet.callsign == wanted.as_str());
    }
    if fleets.len() > 1 {
        let names: Vec<_> = fleets.iter().map(|fleet| fleet.callsign.as_str()).collect();
        let message =
            format!("the clusters hold several fleets: name one with --fleet: {}", names.join(", "));
        return Err(Stop::new(Exit::Usage, message));
    }
    fleets.pop().ok_or_else(|| {
        let mut message = match wanted {
            Some(wanted) => format!("no MultiCluster of fleet {wanted} was found"),
            None => "no MultiCluster was found".to_owned(),
        };
        message.push_str(": give every cluster with --context, and look in all namespaces with -A");
        for (context, reason) in unreachable {
            message = format!("{message}\n{context}: {reason}");
        }
        let exit = if unreachable.is_empty() { Exit::NotFound } else { Exit::Unreachable };
        Stop::new(exit, message)
    })
}

impl Found {
    fn api(&self) -> Api<MultiCluster> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Its status now.
    pub(super) async fn read(&self) -> Result<MultiClusterStatus, ClusterError> {
        let object = self.cluster.call(self.api().get(&self.name)).await?;
        Ok(object.status.unwrap_or_default())
    }

    /// Gives an order and waits for the answer.
    pub(super) async fn give(&self, key: &str, order: &OperatorOrder) -> Result<OrderAnswer, Stop> {
        let patch = json!({ "metadata": { "annotations": { key: order.to_value() } } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let send = self.api();
        let written =
            self.cluster.call(send.patch_metadata(&self.name, &params, &Patch::Merge(&patch))).await;
        written
            .map_err(|error| Stop::new(Exit::Unreachable, format!("{}: {error}", self.cluster.context)))?;
        let until = Instant::now() + ANSWER_TIMEOUT;
        loop {
            // A cluster that does not answer for a moment does so in time, or not.
            if let Some(answer) = self.read().await.ok().and_then(|status| status.last_order)
                && answer.id == order.id
            {
                return Ok(answer);
            }
            if Instant::now() >= until {
                return Err(Stop::failure(format!(
                    "{} did not answer within {}s: the order stands in the annotation {key} of its object and is \
                     carried out when its daemon reads it. Take it back with: {} annotate mc -n {} {} {key}-",
                    self.name,
                    ANSWER_TIMEOUT.as_secs(),
                    self.cluster.kubectl,
                    self.namespace,
                    self.name
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// As [`Self::give`]; a refusal is an error.
    pub(super) async fn command(&self, key: &str, order: &OperatorOrder) -> Result<OrderAnswer, Stop> {
        let answer = self.give(key, order).await?;
        match answer.accepted {
            true => Ok(answer),
            false => Err(Stop::failure(format!(
                "{} refused {}: {}. Nothing was changed",
                self.name,
                refused_what(key),
                answer.message
            ))),
        }
    }
}

/// What was refused, after "refused".
fn refused_what(key: &str) -> &'static str {
    match key {
        PAUSE_ANNOTATION => "to pause",
        RESUME_ANNOTATION => "to resume",
        SWITCHOVER_ANNOTATION => "the switchover",
        _ => "to force the lead",
    }
}

/// A daemon that runs sees its object within moments; its status is collected for 300 ms.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An order with an id that nobody used before.
pub(super) fn order(reason: &str) -> OperatorOrder {
    let id = format!("{}-{}", Timestamp::now().as_nanosecond(), std::process::id());
    OperatorOrder { id, reason: reason.into(), ..OperatorOrder::default() }
}
