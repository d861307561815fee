//! `flagship check`: would a failover succeed? Reads and asks, and changes nothing.

mod certificates;
mod clocks;
mod links;
mod objects;
mod report;
mod rights;
#[cfg(test)]
mod tests;
mod voters;

use std::collections::BTreeSet;

use flagship_k8s_api::{MultiCluster, PayloadSource, SourceKind};
use flagship_payload::{Manifest, SourceText, parse};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;

use crate::args::{CheckArgs, CheckOutput};
use crate::cluster::{Cluster, ClusterError, Member, connect};
use crate::exit::{Exit, Stop};
use crate::out::print;
use crate::style::{Style, counted};
use objects::Located;
use report::{Finding, Report, Topic};

pub(crate) async fn run(args: &CheckArgs) -> Result<Exit, Stop> {
    let report = Report::new(findings(args).await);
    let text = match args.output {
        CheckOutput::Table => report.render(Style::detect()),
        CheckOutput::Json => {
            let json = serde_json::to_string_pretty(&report);
            json.map_err(|error| Stop::failure(format!("the report cannot be written: {error}")))? + "\n"
        }
    };
    print(&text)?;
    Ok(report.exit())
}

async fn findings(args: &CheckArgs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut clusters = Vec::new();
    for (context, cluster) in connect(&args.clusters).await {
        match cluster {
            Ok(cluster) => clusters.push(cluster),
            Err(error) => findings.push(unreachable(&context, error)),
        }
    }
    let found = join_all(clusters.iter().map(async |cluster| (cluster, read(cluster).await))).await;
    let mut objects = Vec::new();
    let mut reachable = Vec::new();
    for (cluster, result) in found {
        match result {
            Ok(found) => {
                let count = counted(found.len(), "MultiCluster");
                let message = format!("{}: {} answers, {count}", cluster.context, cluster.server);
                findings.push(match found.is_empty() {
                    false => Finding::ok(Topic::Clusters, message),
                    true => Finding::warn(
                        Topic::Clusters,
                        message,
                        "look in all namespaces with -A, or give another --namespace",
                    ),
                });
                objects.extend(found);
                reachable.push(cluster);
            }
            Err(error) => findings.push(unreachable(&cluster.context, error)),
        }
    }
    findings.extend(objects::check(&objects));
    findings.extend(voters::check(&objects));
    findings.extend(certificates_and_links(args, &reachable, &objects).await);
    findings.extend(measure_clocks(&reachable).await);
    let rights = reachable.iter().map(|cluster| {
        let own: Vec<&Located> = objects.iter().filter(|object| object.context == cluster.context).collect();
        async move { rights::check(cluster, &own, &args.service_account).await }
    });
    findings.extend(join_all(rights).await.into_iter().flatten());
    findings
}

fn unreachable(context: &str, error: ClusterError) -> Finding {
    Finding::fail(Topic::Clusters, format!("{context}: {}", error.what), error.next)
}

async fn read(cluster: &Cluster) -> Result<Vec<Located>, ClusterError> {
    let members = cluster.members().await?;
    Ok(join_all(members.into_iter().map(async |Member { object, lease }| {
        let name = object.metadata.name.clone().unwrap_or_default();
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let payload = payload(cluster, &namespace, &object).await;
        Located {
            context: cluster.context.clone(),
            name,
            namespace,
            object,
            payload,
            renewal: lease.renewal,
            lease_namespace: lease.namespace,
            cluster: cluster.kubectl.clone(),
        }
    }))
    .await)
}

/// The payload, with what Secrets and ConfigMaps add to it.
async fn payload(cluster: &Cluster, namespace: &str, object: &MultiCluster) -> Result<Vec<Manifest>, String> {
    // Wrong fields are reported for themselves.
    let Ok(settings) = object.spec.settings() else { return Ok(Vec::new()) };
    let mut texts = Vec::new();
    for source in settings.sources {
        let (origin, text) = match source {
            PayloadSource::Inline(text) => ("spec.payload".to_string(), text),
            PayloadSource::Key { kind, key, path } => {
                let text = value(cluster, namespace, kind, &key.name, &key.key).await;
                (path.clone(), text.map_err(|error| format!("{path}: {error}"))?)
            }
        };
        texts.push(SourceText { origin, text });
    }
    parse(&texts).map_err(|error| error.to_string())
}

async fn value(
    cluster: &Cluster,
    namespace: &str,
    kind: SourceKind,
    name: &str,
    key: &str,
) -> Result<String, String> {
    let missing = |what: &str| {
        format!("{what} {namespace}/{name} has no key {key}: create it, or correct the reference")
    };
    match kind {
        SourceKind::Secret => {
            let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
            let secret = cluster.call(api.get(name)).await.map_err(|error| error.to_string())?;
            let value = secret.data.unwrap_or_default().remove(key).ok_or_else(|| missing("Secret"))?;
            String::from_utf8(value.0)
                .map_err(|_| format!("key {key} of Secret {namespace}/{name} is not UTF-8 text"))
        }
        SourceKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
            let map = cluster.call(api.get(name)).await.map_err(|error| error.to_string())?;
            map.data.unwrap_or_default().remove(key).ok_or_else(|| missing("ConfigMap"))
        }
    }
}

async fn certificates_and_links(
    args: &CheckArgs,
    clusters: &[&Cluster],
    objects: &[Located],
) -> Vec<Finding> {
    let (mut materials, mut findings) = match &args.tls_dir {
        Some(dir) => certificates::from_directory(dir),
        None => (Vec::new(), Vec::new()),
    };
    let daemon = args.service_account.split(':').next().unwrap_or_default();
    // With a directory given, Secrets add to it but need not be there.
    let mut could_ask = true;
    for cluster in clusters {
        let own = objects.iter().filter(|object| object.context == cluster.context);
        let namespaces: BTreeSet<&str> =
            own.map(|object| object.namespace.as_str()).chain([daemon]).collect();
        match certificates::from_secret(cluster, &namespaces, &args.secret).await {
            Ok(material) => materials.extend(material),
            Err(finding) => {
                could_ask = false;
                findings.push(finding);
            }
        }
    }
    findings.extend(certificates::check(&materials, objects, could_ask || args.tls_dir.is_some()));
    findings.extend(links::by_status(objects));
    findings.extend(links::by_dialling(objects, &materials).await);
    findings
}

async fn measure_clocks(clusters: &[&Cluster]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut offsets = Vec::new();
    for measured in join_all(clusters.iter().map(|cluster| clocks::measure(cluster))).await {
        match measured {
            Ok(offset) => offsets.push(offset),
            Err(finding) => findings.push(finding),
        }
    }
    findings.extend(clocks::compare(&offsets));
    findings
}
