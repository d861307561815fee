//! `flagship fleet`: an operator's word, written as an annotation on the objects, where each daemon reads it.

use flagship_k8s_api::{ADMIT_ANNOTATION, Command, FIELD_MANAGER, FORGET_ANNOTATION, MultiCluster};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::args::{FleetArgs, FleetCommand};
use crate::cluster::{Cluster, connect};
use crate::exit::{Exit, Stop};
use crate::out::print;

/// An object to write to.
struct Target {
    cluster: Cluster,
    object: MultiCluster,
}

impl Target {
    fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.object.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn callsign(&self) -> &str {
        self.object.spec.callsign.as_deref().unwrap_or_default()
    }
}

pub(crate) async fn run(command: &FleetCommand) -> Result<Exit, Stop> {
    let (args, annotation) = match command {
        FleetCommand::Admit(args) => (args, ADMIT_ANNOTATION),
        FleetCommand::Forget(args) => (args, FORGET_ANNOTATION),
        FleetCommand::ForceLead(args) => return crate::operator::force::run(args).await,
    };
    let (targets, unreachable) = gather(args).await;
    let targets = choose(args, targets, annotation == FORGET_ANNOTATION)?;
    let value = Command { member: args.member.to_string(), reason: args.reason.clone() }.to_value();
    let mut failed = false;
    for target in &targets {
        let (context, name) = (&target.cluster.context, target.name());
        let line = match annotate(target, annotation, &value).await {
            Ok(()) => format!("{context}: {}/{name} annotated with {annotation}\n", target.namespace()),
            Err(error) => {
                failed = true;
                format!("{context}: {}/{name} NOT annotated: {error}\n", target.namespace())
            }
        };
        print(&line)?;
    }
    for (context, error) in &unreachable {
        print(&format!("{context}: NOT ASKED: {error}\n"))?;
    }
    print("Watch it take effect with: flagship status -w\n")?;
    Ok(match (failed, unreachable.is_empty()) {
        (true, _) => Exit::Failure,
        (false, false) => Exit::Unreachable,
        (false, true) => Exit::Success,
    })
}

async fn gather(args: &FleetArgs) -> (Vec<Target>, Vec<(String, String)>) {
    let (mut targets, mut unreachable) = (Vec::new(), Vec::new());
    for (context, cluster) in connect(&args.clusters).await {
        let answer = match &cluster {
            Ok(cluster) => cluster.objects().await,
            Err(error) => Err(error.clone()),
        };
        match (cluster, answer) {
            (Ok(cluster), Ok(objects)) => {
                targets.extend(objects.into_iter().map(|object| Target { cluster: cluster.clone(), object }));
            }
            (_, Err(error)) | (Err(error), _) => unreachable.push((context, error.to_string())),
        }
    }
    (targets, unreachable)
}

/// The objects of the fleet that is meant. A member that is to be forgotten is not told.
fn choose(args: &FleetArgs, mut targets: Vec<Target>, forget: bool) -> Result<Vec<Target>, Stop> {
    let member = args.member.as_str();
    if let Some(fleet) = &args.fleet {
        targets.retain(|target| target.callsign() == fleet.as_str());
    }
    let knows = |target: &Target| {
        // One that was forgotten has no row any more.
        let known = target.object.status.iter().any(|status| {
            status.members.iter().map(|row| &row.name).chain(&status.forgotten).any(|known| known == member)
        });
        known || target.name() == member
    };
    let mut fleets: Vec<String> =
        targets.iter().filter(|target| knows(target)).map(|target| target.callsign().into()).collect();
    fleets.sort();
    fleets.dedup();
    match fleets.as_slice() {
        [] => {
            let message = format!(
                "no fleet in the clusters given knows a member {member}: see the names with flagship status -A, and give every cluster with --context"
            );
            Err(Stop::new(Exit::NotFound, message))
        }
        [fleet] => {
            targets.retain(|target| target.callsign() == *fleet && !(forget && target.name() == member));
            match targets.is_empty() {
                false => Ok(targets),
                true => Err(Stop::new(
                    Exit::NotFound,
                    format!("only {member} itself was found: give the contexts of the members that stay"),
                )),
            }
        }
        several => Err(Stop::new(
            Exit::Usage,
            format!("{member} is a member of several fleets: name one with --fleet: {}", several.join(", ")),
        )),
    }
}

async fn annotate(
    target: &Target,
    annotation: &str,
    value: &str,
) -> Result<(), crate::cluster::ClusterError> {
    let api: Api<MultiCluster> = Api::namespaced(target.cluster.client.clone(), target.namespace());
    let patch = json!({ "metadata": { "annotations": { annotation: value } } });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    target.cluster.call(api.patch_metadata(target.name(), &params, &Patch::Merge(&patch))).await.map(drop)
}
