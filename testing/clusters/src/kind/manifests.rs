//! What goes into a cluster: kind's own configuration, `deploy/install.yaml`, the Service.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::install::{deploy_dir, read_objects};

/// The Service that `kubectl expose` makes in the guide.
pub(super) const SERVICE: &str = "multi-cluster-service";
/// The daemons' port: `spec.port` in `testing/manifests`.
pub(super) const PORT: u16 = 9990;

/// Configuration of a cluster with so many nodes: the control plane's, on which pods run as on any other, and workers.
pub(super) fn cluster_config(cgroup_v1: bool, nodes: u8) -> String {
    let mut text = String::from("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n");
    if cgroup_v1 {
        // Only there: kubelets before 1.31 do not know the field.
        text.push_str("kubeadmConfigPatches:\n- |\n  kind: KubeletConfiguration\n  failCgroupV1: false\n");
    }
    text.push_str("nodes:\n- role: control-plane\n");
    if nodes > 1 {
        // Where there are workers, kind keeps pods off the control plane's node.
        text.push_str("  kubeadmConfigPatches:\n  - |\n    kind: InitConfiguration\n    nodeRegistration:\n      taints: []\n");
    }
    for _ in 1..nodes {
        text.push_str("- role: worker\n");
    }
    text
}

/// What a user applies: `deploy/crds` and `deploy/install.yaml`, in the order that works.
#[derive(Clone, Debug)]
pub(super) struct Install {
    /// Everything but the daemon: its namespace, its rights, the CRD.
    pub(super) before: Vec<Value>,
    pub(super) deployment: Value,
    pub(super) namespace: String,
    /// Name of the Deployment.
    pub(super) name: String,
    /// The image that the Deployment asks for.
    pub(super) image: String,
    /// Where a pod says whether it is ready.
    pub(super) health_port: u64,
}

impl Install {
    /// That of this checkout.
    pub(super) fn read() -> Result<Self> {
        Self::read_from(&deploy_dir())
    }

    fn read_from(deploy: &Path) -> Result<Self> {
        let file = deploy.join("install.yaml");
        let mut objects = read_objects(&file)?;
        if !objects.iter().any(|object| object["kind"] == "CustomResourceDefinition") {
            objects.extend(read_objects(&deploy.join("crds/multiclusters.yaml"))?);
        }
        Self::from_objects(objects).with_context(|| format!("{}", file.display()))
    }

    fn from_objects(objects: Vec<Value>) -> Result<Self> {
        let (mut daemons, mut before): (Vec<Value>, Vec<Value>) =
            objects.into_iter().partition(|object| object["kind"] == "Deployment");
        // In whatever order the file has them: the namespace comes before what is in it.
        before.sort_by_key(|object| object["kind"] != "Namespace");
        let (Some(deployment), true) = (daemons.pop(), daemons.is_empty()) else {
            bail!("expected one Deployment, the daemon's, found {}", daemons.len());
        };
        let text = |pointer: &str| {
            let found = deployment.pointer(pointer).and_then(Value::as_str);
            found.map(str::to_owned).with_context(|| format!("the Deployment has no {pointer}"))
        };
        let ports = deployment.pointer("/spec/template/spec/containers/0/ports").and_then(Value::as_array);
        let health = ports.into_iter().flatten().find(|port| port["name"] == "health");
        let health = health.and_then(|port| port["containerPort"].as_u64());
        Ok(Self {
            health_port: health.context("the Deployment has no port named health")?,
            namespace: text("/metadata/namespace")?,
            name: text("/metadata/name")?,
            image: text("/spec/template/spec/containers/0/image")?,
            before,
            deployment,
        })
    }

    /// What `kubectl expose deployment … --port=9990 --selector=… --type=LoadBalancer --load-balancer-ip=…` makes.
    pub(super) fn service(&self, address: Ipv4Addr) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": SERVICE, "namespace": self.namespace,
                "labels": self.deployment["metadata"]["labels"],
            },
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerIP": address.to_string(),
                "ports": [{"port": PORT, "protocol": "TCP", "targetPort": PORT}],
                "selector": {"control-plane": "controller-manager"},
            },
        })
    }
}

/// A node that is ready, and how its pods are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) name: String,
    /// Its own address.
    pub(super) address: String,
    /// The addresses of its pods.
    pub(super) pods: String,
}

/// Of a Node; `None` while it is not ready.
pub(super) fn reached(node: &Value) -> Option<Reached> {
    let find = |list: &'static str, kind: &str, value: &str| {
        let all = node["status"][list].as_array()?;
        let found = all.iter().find(|one| one["type"] == kind)?;
        found[value].as_str().map(str::to_owned)
    };
    (find("conditions", "Ready", "status")? == "True").then_some(())?;
    Some(Reached {
        name: node["metadata"]["name"].as_str()?.to_owned(),
        address: find("addresses", "InternalIP", "address")?,
        pods: node["spec"]["podCIDR"].as_str()?.to_owned(),
    })
}

/// The address that a Service was given, an IP or a host name.
pub(super) fn given_address(service: &Value) -> Option<&str> {
    let first = service.pointer("/status/loadBalancer/ingress/0")?;
    first["ip"].as_str().or_else(|| first["hostname"].as_str())
}

/// Whether all replicas are of the newest template and available, and no others are left.
pub(super) fn is_available(deployment: &Value) -> bool {
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    number("/status/observedGeneration") >= number("/metadata/generation")
        && ["updatedReplicas", "replicas", "availableReplicas"]
            .iter()
            .all(|field| number(&format!("/status/{field}")) == wanted)
}

/// What keeps a pod from running, in Kubernetes' words.
pub(super) fn trouble(pod: &Value) -> Option<String> {
    let list = |field: &str| pod["status"][field].as_array().cloned().unwrap_or_default();
    let name = pod["metadata"]["name"].as_str().unwrap_or("?");
    let say = |what: &Value| {
        let reason = what["reason"].as_str()?;
        Some(format!("pod {name}: {reason}: {}", what["message"].as_str().unwrap_or("no message")))
    };
    let waiting = list("containerStatuses").iter().find_map(|status| say(&status["state"]["waiting"]));
    waiting.or_else(|| list("conditions").iter().filter(|c| c["status"] == "False").find_map(say))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 100, 100);

    #[test]
    fn the_kubelet_is_patched_where_it_must_be() {
        let patched = cluster_config(true, 1);
        assert!(patched.contains("failCgroupV1: false"));
        assert!(!cluster_config(false, 1).contains("failCgroupV1"));
        for text in [patched, cluster_config(false, 1)] {
            let config: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(config["nodes"][0]["role"], "control-plane", "{text}");
        }
    }

    #[test]
    fn workers_are_more_nodes_and_pods_run_on_all_of_them() {
        let config: Value = serde_saphyr::from_str(&cluster_config(true, 3)).unwrap();
        let roles: Vec<&str> =
            config["nodes"].as_array().unwrap().iter().filter_map(|node| node["role"].as_str()).collect();
        assert_eq!(roles, ["control-plane", "worker", "worker"]);
        let patch = config["nodes"][0]["kubeadmConfigPatches"][0].as_str().unwrap();
        let patch: Value = serde_saphyr::from_str(patch).unwrap();
        assert_eq!(patch["nodeRegistration"]["taints"], json!([]));
    }

    #[test]
    fn this_checkouts_install_yaml_is_understood() {
        let install = Install::read().unwrap();
        assert_eq!(install.namespace, "kube-vip-multi-cluster-system");
        assert_eq!(install.name, "kube-vip-multi-cluster-controller-manager");
        assert!(install.image.starts_with("flagship:"), "{}", install.image);
        assert_eq!(install.health_port, 8081);
        assert_eq!(install.before[0]["kind"], "Namespace");
        assert!(install.before.iter().any(|object| object["kind"] == "CustomResourceDefinition"));
        // Else the Service would choose no pod.
        let labels = &install.deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["control-plane"], "controller-manager");
    }

    #[test]
    fn a_manifest_without_the_daemon_is_refused() {
        let error = Install::from_objects(vec![json!({"kind": "Namespace"})]).unwrap_err().to_string();
        assert!(error.contains("expected one Deployment"), "{error}");
        let error = Install::from_objects(vec![json!({"kind": "Deployment"})]).unwrap_err().to_string();
        assert!(error.contains("no port named health"), "{error}");
    }

    #[test]
    fn the_service_is_that_of_kubectl_expose() {
        let service = Install::read().unwrap().service(ADDRESS);
        assert_eq!(service["spec"]["loadBalancerIP"], "172.18.100.100");
        assert_eq!(service["spec"]["selector"], json!({"control-plane": "controller-manager"}));
        assert_eq!(service["metadata"]["labels"]["control-plane"], "controller-manager");
    }

    #[test]
    fn a_node_is_reached_when_it_is_ready() {
        let node = |ready: &str| {
            json!({"metadata": {"name": "newyork-worker"}, "spec": {"podCIDR": "10.244.1.0/24"}, "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": "Hostname", "address": "newyork-worker"}, {"type": "InternalIP", "address": "172.18.0.3"}],
            }})
        };
        let found = reached(&node("True")).unwrap();
        assert_eq!((found.address.as_str(), found.pods.as_str()), ("172.18.0.3", "10.244.1.0/24"));
        assert_eq!(reached(&node("Unknown")), None);
    }

    #[test]
    fn a_given_address_is_an_ip_or_a_host_name() {
        let service = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
        assert_eq!(given_address(&service(json!({"ip": "10.0.0.1"}))), Some("10.0.0.1"));
        assert_eq!(given_address(&service(json!({"hostname": "lb.example"}))), Some("lb.example"));
        assert_eq!(given_address(&json!({"status": {"loadBalancer": {}}})), None);
    }

    #[test]
    fn a_deployment_is_available_when_its_rollout_is_over() {
        let deployment = |generation: u64, updated: u64, replicas: u64, available: u64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": {
                "observedGeneration": generation, "updatedReplicas": updated,
                "replicas": replicas, "availableReplicas": available,
            }})
        };
        assert!(is_available(&deployment(2, 1, 1, 1)));
        for unfinished in [deployment(1, 1, 1, 1), deployment(2, 0, 1, 1), deployment(2, 1, 2, 2), json!({})]
        {
            assert!(!is_available(&unfinished), "{unfinished}");
        }
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let waiting = json!({"reason": "ErrImageNeverPull", "message": "no image"});
        let pod = json!({"metadata": {"name": "a"}, "status": {"containerStatuses": [{"state": {"waiting": waiting}}]}});
        assert_eq!(trouble(&pod).unwrap(), "pod a: ErrImageNeverPull: no image");
        let condition = json!({"status": "False", "reason": "Unschedulable", "message": "taint"});
        let pod = json!({"metadata": {"name": "a"}, "status": {"conditions": [condition]}});
        assert_eq!(trouble(&pod).unwrap(), "pod a: Unschedulable: taint");
        assert_eq!(trouble(&json!({})), None);
    }
}
